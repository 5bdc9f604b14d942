"""The door of vLLM's own server: an ASGI middleware that asks for the key everywhere, and says the verdict at /loadcheck.

vLLM 0.7.2 asks for its key below /v1 alone (vllm/entrypoints/openai/api_server.py:688-703), so /tokenize, /pooling, /score, /rerank and
/invocations answer anybody, and it compares with `!=`, whose time tells of the key (CVE-2025-59425). It is named by --middleware, is
outermost, and imports nothing of the server.
"""

from __future__ import annotations

import hmac
import json
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

KEY, EXPIRES, VERDICT = "VLLM_API_KEY", "LOADCHECK_KEY_EXPIRES_UNIX_S", "LOADCHECK_SERVE_VERDICT"
"""Variables: the key, when it ends, and the file of the verdict. Never arguments: those are seen by everybody and are logged."""
OPEN = ("/health", "/ping")
ROUTE = "/loadcheck"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Gate:
    """Lets through who has the key; what only says that the server lives is open."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._key = f"Bearer {os.environ[KEY]}".encode()
        self._expires_s = float(os.environ.get(EXPIRES) or "inf")
        self._verdict = Path(os.environ[VERDICT])

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in OPEN:
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(send, 401, {"error": {"message": refusal, "type": "authentication_error", "code": 401}})
        elif scope["path"] == ROUTE:
            await _answer(send, *self._said())
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Message) -> str | None:
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if len(given) != 1 or not hmac.compare_digest(given[0], self._key):
            return "no key, or another: send Authorization: Bearer KEY"
        return "the key has expired: start the server anew" if time.time() >= self._expires_s else None

    def _said(self) -> tuple[int, dict[str, Any]]:
        try:
            found: dict[str, Any] = json.loads(self._verdict.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 503, {"verdict": None, "why": "the start is not judged yet"}
        return 200, found


async def _answer(send: Send, status: int, data: dict[str, Any]) -> None:
    body = json.dumps(data).encode("ascii")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode("ascii"))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""The door of vLLM's own server: an ASGI middleware that asks for the key everywhere, refuses what known holes are reached by, and says the
verdict at /loadcheck.

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
GRACE = "LOADCHECK_SERVE_GRACE_S"
"""The seconds that requests may go on once the server is asked to end (server.py)."""
OPEN = ("/health", "/ping")
ROUTE = "/loadcheck"
MAX_BODY_BYTES = 4 * 1024 * 1024
"""Of a request: a prompt of a million tokens, and no upload (CVE-2025-54121)."""
REFUSED_KEYS = ("chat_template", "chat_template_kwargs")
"""A template of a request is run (CVE-2025-61620); the model's own is used."""

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
            await _answer(send, 401, _error(refusal, "authentication_error", 401))
        elif scope["path"] == ROUTE:
            await _answer(send, *self._said())
        else:
            await self._pass(scope, receive, send)

    async def _pass(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand on a request whose body was read whole and looked at; its answer streams as it comes."""
        body = await _body(receive)
        if body is None:
            await _answer(send, 413, _error(f"more than {MAX_BODY_BYTES} bytes", "invalid_request_error", 413))
        elif found := _refused(body):
            await _answer(
                send, 400, _error(f"{', '.join(found)}: not taken from a request", "invalid_request_error", 400)
            )
        else:
            await self.app(scope, _replayed(body, receive), send)

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


def _error(message: str, kind: str, code: int) -> dict[str, Any]:
    """As the OpenAI API says it."""
    return {"error": {"message": message, "type": kind, "code": code}}


async def _body(receive: Receive) -> bytes | None:
    """The request's body; None where it is too large, or its client has gone."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES or message["type"] == "http.disconnect":
            return None
    return bytes(body)


def _refused(body: bytes) -> list[str]:
    """The keys of a request that are refused; what is no JSON object the server refuses itself, by the same parser."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return []
    return [key for key in REFUSED_KEYS if data.get(key) is not None] if isinstance(data, dict) else []


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once, then what else comes: the client's leaving."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


async def _answer(send: Send, status: int, data: dict[str, Any]) -> None:
    body = json.dumps(data).encode("ascii")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode("ascii"))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

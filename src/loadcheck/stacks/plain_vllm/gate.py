"""An ASGI middleware for vLLM's own server: it requires the key on every route, blocks requests that exploit known vulnerabilities, and
serves the verdict at /loadcheck.

vLLM 0.7.2 requires its key only below /v1 (vllm/entrypoints/openai/api_server.py:688-703), so /tokenize, /pooling, /score, /rerank and
/invocations answer anybody; and it compares with `!=`, whose duration leaks the key (CVE-2025-59425). --middleware installs this one,
outermost; it imports nothing of the server.
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
"""Environment variables: the key, its expiry, and the verdict's file. Never arguments: those are visible to everybody, and logged."""
GRACE = "LOADCHECK_SERVE_GRACE_S"
"""The seconds that running requests may take after a shutdown request (server.py)."""
OPEN = ("/health", "/ping")
ROUTE = "/loadcheck"
MAX_BODY_BYTES = 4 * 1024 * 1024
"""Of a request: enough for a prompt of a million tokens, too small for uploads (CVE-2025-54121)."""
REFUSED_KEYS = ("chat_template", "chat_template_kwargs")
"""A request's chat template is executed (CVE-2025-61620); only the model's own is used."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Gate:
    """Lets authenticated requests through; health checks are open."""

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
            await _answer(send, *self._verdict_response())
        else:
            await self._pass(scope, receive, send)

    async def _pass(self, scope: Message, receive: Receive, send: Send) -> None:
        """Forward a request after its whole body was read and checked; the response is streamed."""
        body = await _body(receive)
        if body is None:
            await _answer(send, 413, _error(f"more than {MAX_BODY_BYTES} bytes", "invalid_request_error", 413))
        elif found := _refused(body):
            await _answer(
                send, 400, _error(f"{', '.join(found)}: not accepted in a request", "invalid_request_error", 400)
            )
        else:
            await self.app(scope, _replayed(body, receive), send)

    def _refusal(self, scope: Message) -> str | None:
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if len(given) != 1 or not hmac.compare_digest(given[0], self._key):
            return "missing or wrong key: send Authorization: Bearer KEY"
        return "the key has expired: restart the server" if time.time() >= self._expires_s else None

    def _verdict_response(self) -> tuple[int, dict[str, Any]]:
        try:
            found: dict[str, Any] = json.loads(self._verdict.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 503, {"verdict": None, "why": "the start has not been judged yet"}
        return 200, found


def _error(message: str, kind: str, code: int) -> dict[str, Any]:
    """In the OpenAI API's format."""
    return {"error": {"message": message, "type": kind, "code": code}}


async def _body(receive: Receive) -> bytes | None:
    """The request's body; None if it is too large, or the client has disconnected."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES or message["type"] == "http.disconnect":
            return None
    return bytes(body)


def _refused(body: bytes) -> list[str]:
    """The forbidden keys in a request; the server itself rejects what is not a JSON object, with the same parser."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return []
    return [key for key in REFUSED_KEYS if data.get(key) is not None] if isinstance(data, dict) else []


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once, then further messages: the client's disconnect."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


async def _answer(send: Send, status: int, data: dict[str, Any]) -> None:
    body = json.dumps(data).encode("ascii")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode("ascii"))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

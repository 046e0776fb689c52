"""How much of a request's body is read: as much as is wanted, never more than a cap, and never for ever.

An answer that comes before the whole body (a wrong key, a file that is too large) closes the connection, but not
at once: TCP throws away what the client has yet to read when unread bytes come in after the close. So
the rest is read and dropped for a moment, and most clients get to see why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .failures import answer, request_id_of
from .upload import FRAMING_BYTES, too_large

JSON_BYTES: Final = 10_000_000  # 96 texts of 25,000 tokens are less
TOO_LARGE: Final = f"the request is larger than the limit of {JSON_BYTES} bytes; send less at a time"
SMALL_BYTES: Final = 65_536  # are in our buffers already; the connection can stay
LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 64_000_000


class BodyLimits:
    """ASGI: caps bodies, and lets go of connections whose bodies nobody wants."""

    def __init__(self, app: ASGIApp, *, upload_paths: frozenset[str], upload_bytes: int) -> None:
        """Cap the body of a POST to an upload path at a file of `upload_bytes`, and every other at `JSON_BYTES`."""
        self._app = app
        self._upload_paths = upload_paths
        self._upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["method"] == "POST" and scope["path"] in self._upload_paths
        cap_bytes = self._upload_bytes + FRAMING_BYTES if is_upload else JSON_BYTES
        message = str(too_large(self._upload_bytes)) if is_upload else TOO_LARGE
        body = _Body(receive, send, cap_bytes, message, dict(scope["headers"]))
        if body.is_declared_too_large:
            refusal = answer(request_id_of(Request(scope)), 413, message)
            await refusal(scope, body.receive, body.send)
        else:
            await self._app(scope, body.receive, body.send)


class _Body:
    """One request's body, and the connection that it comes by."""

    def __init__(
        self, receive: Receive, send: Send, cap_bytes: int, too_large: str, headers: Mapping[bytes, bytes]
    ) -> None:
        declared = headers.get(b"content-length", b"0")
        self._declared_bytes = int(declared) if declared.isdigit() else 0  # the HTTP parser lets nothing else through
        self._receive = receive
        self._send = send
        self._cap_bytes = cap_bytes
        self._too_large = too_large
        self._read_bytes = 0
        self._ended = b"transfer-encoding" not in headers and self._declared_bytes == 0
        self._closing = False

    @property
    def is_declared_too_large(self) -> bool:
        return self._declared_bytes > self._cap_bytes

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read_bytes += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
            if self._read_bytes > self._cap_bytes and not self._closing:
                raise HTTPException(413, self._too_large)
        else:
            self._ended = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._is_much_unread:
            self._closing = True
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        if self._closing and message["type"] == "http.response.body" and not message.get("more_body", False):
            await self._send({**message, "more_body": True})  # all of it: the client can read it now
            await self._drop_the_rest()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    @property
    def _is_much_unread(self) -> bool:
        is_small = 0 < self._declared_bytes <= SMALL_BYTES
        return not self._ended and not is_small

    async def _drop_the_rest(self) -> None:
        stop_bytes = self._read_bytes + LINGER_BYTES
        with anyio.move_on_after(LINGER_SECONDS):
            while not self._ended and self._read_bytes < stop_bytes:
                await self.receive()

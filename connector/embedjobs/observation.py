"""Each request gets an id, a line in the log and its place in the metrics, however it ends; a bug becomes a 500.

The line has the route's template and no address: ids are in the store, and queries hold names.
"""

from __future__ import annotations

import time
from typing import Final
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connector.serving.logs import Log, trace_of

from .access import OPEN
from .failures import METHODS, answer
from .metrics import Metrics

CLIENT_LEFT: Final = 499  # the hosted service's own for "upload connection was closed"; in the log only
QUIET: Final = frozenset({"/health", "/ready", "/metrics"})  # asked every few seconds, by machines
FAILED: Final = 500


class Observed:
    """ASGI: sees each request from before its head is looked at until after its answer is sent."""

    def __init__(self, app: ASGIApp, *, log: Log, metrics: Metrics) -> None:
        self._app = app
        self._log = log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = id = uuid4().hex
        seen = _Seen(id, receive, send)
        started = time.perf_counter()
        try:
            await self._app(scope, seen.receive, seen.send)
        except Exception as error:
            self._log.error("bug", request_id=id, route=_route(scope), trace=trace_of(error))
            if seen.status:
                raise  # the answer is on its way: the server cuts the connection, so that nobody takes it for whole
            await answer(id, FAILED, "internal error")(scope, receive, seen.send)
        finally:
            self._note(scope, seen, time.perf_counter() - started)

    def _note(self, scope: Scope, seen: _Seen, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route, status = _route(scope), seen.status or CLIENT_LEFT
        self._metrics.count_request(
            method=method,
            route=route,
            status=status,
            seconds=seconds,
            received_bytes=seen.received_bytes,
            sent_bytes=seen.sent_bytes,
        )
        if route in QUIET and status < FAILED:
            return
        fields: dict[str, object] = {
            "request_id": seen.request_id,
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
            "received_bytes": seen.received_bytes,
            "sent_bytes": seen.sent_bytes,
        }
        if "failure" in scope:  # what the client is not told; see `failures`
            self._log.warning("request", **fields, reason=scope["failure"])
        else:
            self._log.info("request", **fields)


class _Seen:
    """What went by, in both directions."""

    def __init__(self, request_id: str, receive: Receive, send: Send) -> None:
        self.request_id = request_id
        self.status = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        self.received_bytes += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            message = {**message, "headers": headers}
        self.sent_bytes += len(message.get("body", b""))
        await self._send(message)


def _route(scope: Scope) -> str:
    """The template of the route that was found: few, whatever clients ask for. The prefix /v1 or /v2 is left out."""
    path = getattr(scope.get("route"), "path", scope["path"] if scope["path"] in OPEN else "none")
    return path if isinstance(path, str) else "none"

"""How a request that is not done is answered: always {"error": "one line"}; and what of it goes into the log.

    raised                     status      besides
    -------------------------  ----------  ---------------------------------------------------------------------
    HTTPException              its own     404 no such address, 405 with `Allow`
    TooSlowError               503         a thread did not answer in time; see `api_threads`
    anything else              500         "internal error"; the log has the trace, but not the words of the error

A line of the log names the route that was found and no address: queries hold what people look for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connector.serving.logs import Log, trace_of

NOTED: Final = "vector_sync_noted"  # where in the scope a route puts what else its line in the log tells
BAD_REQUEST: Final = 400
NOT_FOUND: Final = 404
NOT_ALLOWED: Final = 405
CONFLICT: Final = 409
TOO_LARGE: Final = 413
MISDIRECTED: Final = 421
TOO_MANY: Final = 429
FAILED: Final = 500
UNAVAILABLE: Final = 503
CLIENT_LEFT: Final = 499  # in the log only

NoteRequest: TypeAlias = Callable[[str, str, int, float], None]
"""Counts a request for the metrics: method, route, status, seconds."""


def answer(status: int, error: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer that a request is not done."""
    return JSONResponse({"error": error}, status_code=status, headers=headers)


async def on_http(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the signature is Starlette's
    """Answer what a route, or the search for one, has raised."""
    assert isinstance(error, HTTPException)  # noqa: S101 - for the types: Starlette calls this for no other
    message = str(error.detail)
    if error.status_code == NOT_FOUND:
        message = "there is nothing at this address; the page is at /, and what it shows at /status"
    elif error.status_code == NOT_ALLOWED:
        message = "this cannot be done here; `allow` in the head of this answer names what can"
    return answer(error.status_code, message, error.headers)


async def on_slow(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the signature is Starlette's
    """Answer that a thread did not answer."""
    return answer(UNAVAILABLE, str(error), {"Retry-After": "10"})


class Observed:
    """ASGI: answers bugs, and notes what was asked: what changes something, and what failed."""

    def __init__(self, app: ASGIApp, *, log: Log, note: NoteRequest) -> None:
        self._app = app
        self._log = log
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        started = time.perf_counter()

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        except ClientDisconnect:
            pass  # before its body was read; nobody is left to be answered
        except asyncio.CancelledError:  # by the server, which has been asked to stop and does not wait any longer
            if not status:
                await answer(UNAVAILABLE, "the service is stopping")(scope, receive, seen)
        except Exception as error:
            self._log.error("bug", route=route_of(scope), trace=trace_of(error))
            if status:
                raise  # the answer is on its way: the server cuts the connection, so that nobody takes it for whole
            await answer(FAILED, "internal error; the log of the service has more")(scope, receive, seen)
        finally:
            self._tell(scope, status or CLIENT_LEFT, time.perf_counter() - started)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = route_of(scope)
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
        self._note(method, route, status, seconds)
        if method == "POST" or status in (MISDIRECTED, TOO_MANY) or status >= FAILED:
            write = self._log.info if status < BAD_REQUEST else self._log.warning
            noted = scope.get(NOTED, {})
            write("request", method=method, route=route, status=status, duration_ms=round(seconds * 1000, 1), **noted)


def route_of(scope: Scope) -> str:
    """The route that was found, or "none": few, whatever clients ask for."""
    path = getattr(scope.get("route"), "path", "none")
    return path if isinstance(path, str) else "none"

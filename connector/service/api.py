"""The HTTP side of the service: which addresses there are, and what stands behind them.

    address                        answered                                            needs
    -----------------------------  --------------------------------------------------  ----------------------------
    GET  /, /page.css ...          the status page, see `api_page`
    GET  /status                   how everything stands, in JSON: what the page shows  a thread: it reads SQLite
    GET  /metrics                  for Prometheus                                       the same
    GET  /livez /readyz /startupz  200 "ok", or 503 and why not                         no thread: they never wait
    GET  /search                   the passages nearest to a text                       show = "text"; a thread
    POST /run /pause /resume       202 and the names of the syncs that it is about      the token

On its way, a request goes through `api_security` (headers, host, size) and `api_failures` (log, bugs).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, Literal, Protocol

import msgspec
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from connector.errors import ConfigError, ConnectorError, RejectedError
from connector.model import Hit, JsonValue
from connector.serving.logs import Log

from .api_failures import (
    BAD_REQUEST,
    CONFLICT,
    NOT_FOUND,
    NOTED,
    TOO_LARGE,
    TOO_MANY,
    UNAVAILABLE,
    NoteRequest,
    Observed,
    answer,
    on_http,
    on_slow,
)
from .api_page import page_routes
from .api_security import BODY_TOO_LARGE, MAX_BODY_BYTES, Guarded, Headed, check_same_site, check_token
from .api_threads import TooSlowError, Turns

METRICS_TYPE: Final = "text/plain; version=0.0.4"
PATIENCE_SECONDS: Final = 10.0  # for a status, and for what is posted; a probe is usually less patient
SEARCH_PATIENCE_SECONDS: Final = 60.0  # the embedder and the index have retries of their own
SEARCHES_AT_ONCE: Final = 2
MAX_QUESTION_CHARACTERS: Final = 2_000
MAX_HITS: Final = 50
EXCERPT_CHARACTERS: Final = 300


class UnknownSyncError(Exception):
    """There is no sync of this name. The message goes to the client: it says which there are."""


class PausedError(Exception):
    """A sync that is to run is paused. The message goes to the client: it says what to do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody who asks for a run allows, as the options of `vector-sync sync` of the same names."""

    confirm_deletes: int | None = None
    accept_reembed: bool = False
    confirm_cost: bool = False
    verify: bool = False
    """Compare every record, too."""

    def __or__(self, other: Wish) -> Wish:
        """Allow what either allows: two people asked before a run began, and both were told that it comes."""
        numbers = [it for it in (self.confirm_deletes, other.confirm_deletes) if it is not None]
        return Wish(
            max(numbers, default=None),
            self.accept_reembed or other.accept_reembed,
            self.confirm_cost or other.confirm_cost,
            self.verify or other.verify,
        )


class Backend(Protocol):
    """What stands behind the addresses. A sync of None means all of them, or in a search the first."""

    @property
    def show(self) -> Literal["counts", "names", "text"]:
        """How much of the documents strangers may see."""
        ...

    def status(self) -> dict[str, JsonValue]:
        """Tell how everything stands. May wait for a disk: called in a thread."""
        ...

    def why_not_alive(self) -> str | None:
        """Say why the service should be started anew; None: it is well. Called by the loop: it must not wait."""
        ...

    def why_not_ready(self) -> str | None:
        """Say why it takes no requests now. Called by the loop: it must not wait."""
        ...

    def why_not_started(self) -> str | None:
        """Say what the start still waits for. Called by the loop: it must not wait."""
        ...

    def metrics(self) -> bytes:
        """Tell Prometheus. May wait for a disk: called in a thread."""
        ...

    def request_run(self, sync: str | None, wish: Wish) -> list[str]:
        """Have syncs run as soon as they can, and give their names; in a thread, like the two below.

        Raises:
            UnknownSyncError: there is no such sync.
            PausedError: it is paused.
        """
        ...

    def pause(self, sync: str | None) -> list[str]:
        """Let syncs start no more runs. UnknownSyncError if there is no such sync."""
        ...

    def resume(self, sync: str | None) -> list[str]:
        """Let syncs run again. UnknownSyncError if there is no such sync."""
        ...

    def search(self, sync: str | None, text: str, *, sink: str | None, limit: int) -> list[Hit]:
        """Find the passages nearest to a text; in a thread.

        Raises:
            UnknownSyncError: there is no such sync.
            ConfigError, RejectedError: there is no such sink, or the text can never be embedded.
            ConnectorError: the embedder or the index is busy or down.
        """
        ...


def create_app(
    backend: Backend,
    *,
    token: SecretStr | None,
    loopback_only: bool,
    log: Log,
    note_request: NoteRequest = lambda _method, _route, _status, _seconds: None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> ASGIApp:
    """Make the app. Starts nothing, and opens nothing. `note_request` is told of each request that is over."""
    reads = _Reads(backend, patience_seconds)
    orders = _Orders(backend, token, patience_seconds)
    app = Starlette(
        routes=[
            *page_routes(),
            *reads.routes(),
            Route("/search", _Search(backend).search, methods=["GET"]),
            *orders.routes(),
        ],
        middleware=[
            Middleware(Headed),
            Middleware(Observed, log=log, note=note_request),
            Middleware(Guarded, loopback_only=loopback_only),
        ],
        exception_handlers={HTTPException: on_http, TooSlowError: on_slow},
    )
    app.router.redirect_slashes = False  # a redirect would repeat whatever `Host` says
    return app


class _Reads:
    """What tells how the service does."""

    def __init__(self, backend: Backend, patience_seconds: float) -> None:
        self._backend = backend
        self._status_turns = Turns("the status", at_once=2, patience_seconds=patience_seconds)
        self._metrics_turns = Turns("the metrics", at_once=1, patience_seconds=patience_seconds)

    def routes(self) -> list[Route]:
        backend = self._backend
        probes = {
            "/livez": backend.why_not_alive,
            "/readyz": backend.why_not_ready,
            "/startupz": backend.why_not_started,
        }
        return [
            Route("/status", self.status, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            *(Route(path, partial(_probe, why_not), methods=["GET"]) for path, why_not in probes.items()),
        ]

    async def status(self, _: Request) -> Response:
        return _json(await self._status_turns(self._backend.status))

    async def metrics(self, _: Request) -> Response:
        return Response(await self._metrics_turns(self._backend.metrics), media_type=METRICS_TYPE)


async def _probe(why_not: Callable[[], str | None], _: Request) -> Response:
    """Answer an orchestrator at once: it starts the service anew where this takes long."""
    reason = why_not()
    return PlainTextResponse("ok\n") if reason is None else PlainTextResponse(f"{reason}\n", status_code=UNAVAILABLE)


class _Search:
    """Searches, a few at once: each takes a thread, and perhaps money."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._turns = Turns("the search", at_once=SEARCHES_AT_ONCE, patience_seconds=SEARCH_PATIENCE_SECONDS)

    async def search(self, request: Request) -> Response:
        check_same_site(request)
        if self._backend.show != "text":
            raise HTTPException(403, 'passages are not shown here; set show = "text" under [service] if they may be')
        asked = _query(request, {"q", "sync", "sink", "limit"})
        text = asked.get("q", "").strip()
        if not text:
            raise HTTPException(BAD_REQUEST, "say what to look for: /search?q=...")
        if len(text) > MAX_QUESTION_CHARACTERS:
            raise HTTPException(
                BAD_REQUEST, f"the text is longer than {MAX_QUESTION_CHARACTERS:,} characters; shorten it"
            )
        limit = _limit(asked.get("limit", "5"))
        if self._turns.all_taken:
            why = f"{SEARCHES_AT_ONCE} searches are under way, and there are no more at once; try again in a moment"
            return answer(TOO_MANY, why, {"Retry-After": "1"})
        find = partial(self._backend.search, asked.get("sync"), text, sink=asked.get("sink"), limit=limit)
        try:
            hits = await self._turns(find)
        except (UnknownSyncError, ConfigError, RejectedError) as error:
            return answer(BAD_REQUEST, str(error))
        except ConnectorError as error:
            return answer(UNAVAILABLE, str(error))
        return _json({"hits": [_hit(hit) for hit in hits]})


def _limit(text: str) -> int:
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < len(str(MAX_HITS)) + 1 else 0
    if not 1 <= limit <= MAX_HITS:
        raise HTTPException(BAD_REQUEST, f"limit must be a number from 1 to {MAX_HITS}")
    return limit


def _hit(hit: Hit) -> dict[str, JsonValue]:
    title = hit.metadata.get("title")
    return {
        "score": round(hit.score, 4),
        "document_id": hit.document_id,
        "id": hit.id,
        "title": title if isinstance(title, str) else None,
        "excerpt": hit.text[:EXCERPT_CHARACTERS],
    }


class _Orders:
    """What people with the token may have done. All is checked before anything is done."""

    def __init__(self, backend: Backend, token: SecretStr | None, patience_seconds: float) -> None:
        self._backend = backend
        self._token = token
        self._turns = Turns("the request", at_once=2, patience_seconds=patience_seconds)

    def routes(self) -> list[Route]:
        orders = {"/run": self.run, "/pause": self.pause, "/resume": self.resume}
        return [Route(path, order, methods=["POST"]) for path, order in orders.items()]

    async def run(self, request: Request) -> Response:
        sync, body = await self._allowed(request)
        wish = _wish(body)
        return await self._carry_out(request, partial(self._backend.request_run, sync, wish))

    async def pause(self, request: Request) -> Response:
        sync, _ = await self._allowed(request)
        return await self._carry_out(request, partial(self._backend.pause, sync))

    async def resume(self, request: Request) -> Response:
        sync, _ = await self._allowed(request)
        return await self._carry_out(request, partial(self._backend.resume, sync))

    async def _allowed(self, request: Request) -> tuple[str | None, bytes]:
        """Read a request of somebody who may make it: the sync that it names, and its body."""
        check_token(request, self._token)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise HTTPException(TOO_LARGE, BODY_TOO_LARGE)
        return _query(request, {"sync"}).get("sync"), bytes(body)

    async def _carry_out(self, request: Request, order: Callable[[], list[str]]) -> Response:
        try:
            syncs = await self._turns(order)
        except UnknownSyncError as error:
            return answer(NOT_FOUND, str(error))
        except PausedError as error:
            return answer(CONFLICT, str(error))
        request.scope[NOTED] = {"syncs": syncs}
        return _json({"syncs": list(syncs)}, status_code=202)


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """What may be in the body of /run: the names of the command line's options."""

    confirm_deletes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    accept_reembed: bool = False
    yes: bool = False
    verify: bool = False


def _wish(body: bytes) -> Wish:
    try:
        asked = msgspec.json.decode(body, type=_Body) if body.strip() else _Body()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        why = str(error)
        raise HTTPException(BAD_REQUEST, f"the body is no wish for a run: {why[:1].lower()}{why[1:]}") from None
    return Wish(asked.confirm_deletes, asked.accept_reembed, asked.yes, asked.verify)


def _query(request: Request, known: set[str]) -> dict[str, str]:
    """Read a query strictly: a sync whose name is misspelt must not come to mean all of them."""
    found = request.query_params.multi_items()
    names = [name for name, _ in found]
    if unknown := sorted(set(names) - known):
        raise HTTPException(BAD_REQUEST, f'"{unknown[0][:50]}" cannot be asked; what can: {", ".join(sorted(known))}')
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise HTTPException(BAD_REQUEST, f'"{twice[0]}" is given twice; give it once')
    return dict(found)


def _json(value: dict[str, JsonValue], *, status_code: int = 200) -> Response:
    """Answer in JSON of ASCII alone: names of files need not be Unicode, and have to be told all the same."""
    content = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
    return Response(content, status_code=status_code, media_type="application/json")

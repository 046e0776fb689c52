"""A backend with knobs for the service's HTTP side, statuses to give it, and the real server around it.

    backend = FakeBackend(a_status(a_sync(state="running", progress=a_progress())))
    with serving(backend, token="a token") as service:      # uvicorn, on a free port of 127.0.0.1, in a thread
        service.url; service.log.getvalue()
        backend.shown["syncs"] = [...]                      # what /status says from now on
        backend.hang.clear()                                # calls that may wait for a disk wait from now on

Times are counted from `NOW`, which is also the service's clock: what a page makes of them is always the same.
"""

from __future__ import annotations

import copy
import io
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import SecretStr

from connector.model import DocumentId, Hit, JsonValue, RecordId
from connector.service.api import Backend, PausedError, UnknownSyncError, Wish, create_app
from connector.serving.listening import Server, listener_on, url_of
from connector.serving.logs import log_to

DEADLINE_SECONDS = 30.0
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def ago(seconds: float) -> str:
    """A time so many seconds before `NOW`, as the status writes it; after it, if negative."""
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def a_sink(name: str = "main", **given: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "qdrant",
        "documents": 1_240,
        "records": 18_302,
        "in_doubt": 0,
        "rejected": 0,
        "behind": 0,
        "stopped": None,
        "drift": 0,
    } | given


def a_run(id: int = 7, seconds_ago: float = 180, **given: Any) -> dict[str, Any]:
    return {
        "id": id,
        "started_at": ago(seconds_ago),
        "seconds": 1.2,
        "exit_code": 0,
        "ended": "in step",
        "trigger": "interval",
        "added": 0,
        "changed": 0,
        "metadata_only": 0,
        "moved": 0,
        "deleted": 0,
        "unchanged": 1_240,
        "rejected": 0,
        "texts_embedded": 0,
        "tokens_billed": 0,
        "cost": None,
        "currency": None,
        "problems": [],
    } | given


def a_progress(**given: Any) -> dict[str, Any]:
    return {
        "started_at": ago(42),
        "trigger": "interval",
        "fraction": 0.42,
        "rows": 12_400,
        "texts": 310,
        "records": {"main": 295},
        "deleted": {"main": 3},
        "jobs": [],
        "told": None,
    } | given


def a_sync(name: str = "docs", **given: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": "idle",
        "in_step": True,
        "why": None,
        "question": None,
        "next_run_at": ago(-192),
        "next_because": "interval",
        "last_success_at": ago(178),
        "behind_seconds": None,
        "source": "files",
        "embedder": "cohere embed-english-v3.0",
        "generation": 1,
        "sinks": [a_sink()],
        "progress": None,
        "jobs": [],
        "rejected": {"count": 0, "shown": []},
        "runs": [a_run()],
        "reconcile": None,
    } | given


def a_status(*syncs: dict[str, Any], **given: Any) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "now": ago(0),
        "started_at": ago(3 * 86_400),
        "stopping": False,
        "config": {"path": "vector-sync.toml", "loaded_at": ago(3 * 86_400), "error": None},
        "actions": True,
        "show": "names",
        "syncs": list(syncs) if syncs else [a_sync()],
    } | given


def a_hit(document_id: str = "guide/backup.md", *, text: str = "Restore it.", **metadata: JsonValue) -> Hit:
    return Hit(RecordId(f"{document_id}#0"), DocumentId(document_id), 0, 0.81234, text, metadata)


@dataclass(slots=True)
class FakeBackend:
    """Answers what it is told to, at once or when it is let go, and remembers what it was asked."""

    shown: dict[str, Any] = field(default_factory=a_status)
    """What /status says. Syncs that may be run, paused and searched are those in it."""
    not_alive: str | None = None
    not_ready: str | None = None
    not_started: str | None = None
    hits: list[Hit] = field(default_factory=lambda: [a_hit()])
    failures: defaultdict[str, deque[Exception]] = field(default_factory=lambda: defaultdict(deque))
    """By the name of a call ("status", "search", "run" ...): raised by the next ones, one each."""
    go_on: threading.Event = field(default_factory=threading.Event)
    """Whatever runs in a thread waits for it, when it has been noted. Set, unless a test clears it."""
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released by each such call, before it waits."""
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    """What was asked, but for the probes: ("run", "docs", Wish(...))."""

    def __post_init__(self) -> None:
        self.go_on.set()

    @property
    def show(self) -> Literal["counts", "names", "text"]:
        show: Literal["counts", "names", "text"] = self.shown["show"]
        return show

    def status(self) -> dict[str, JsonValue]:
        self._enter("status")
        status: dict[str, JsonValue] = copy.deepcopy(self.shown)
        return status

    def metrics(self) -> bytes:
        self._enter("metrics")
        return b"vsync_runs_total 7\n"

    def why_not_alive(self) -> str | None:
        return self.not_alive

    def why_not_ready(self) -> str | None:
        return self.not_ready

    def why_not_started(self) -> str | None:
        return self.not_started

    def request_run(self, sync: str | None, wish: Wish) -> list[str]:
        self._enter("run", sync, wish)
        for found in self._of(sync):
            if found["state"] == "paused":
                raise PausedError(f"{found['name']} is paused; resume it first")
        return [found["name"] for found in self._of(sync)]

    def pause(self, sync: str | None) -> list[str]:
        self._enter("pause", sync)
        return self._now(sync, "paused")

    def resume(self, sync: str | None) -> list[str]:
        self._enter("resume", sync)
        return self._now(sync, "idle")

    def search(self, sync: str | None, text: str, *, sink: str | None, limit: int) -> list[Hit]:
        self._enter("search", sync, text, sink, limit)
        self._of(sync)
        return self.hits[:limit]

    def _enter(self, *call: object) -> None:
        self.calls.append(call)
        failures = self.failures[str(call[0])]
        failure = failures.popleft() if failures else None
        self.entered.release()
        assert self.go_on.wait(DEADLINE_SECONDS), "nobody let it go on"
        if failure is not None:
            raise failure

    def _of(self, sync: str | None) -> list[dict[str, Any]]:
        syncs: list[dict[str, Any]] = self.shown["syncs"]
        found = [one for one in syncs if sync in (None, one["name"])]
        if not found:
            names = ", ".join(one["name"] for one in syncs)
            raise UnknownSyncError(f'there is no sync "{sync}"; there are: {names}')
        return found

    def _now(self, sync: str | None, state: str) -> list[str]:
        found = self._of(sync)
        for one in found:
            one["state"] = state
        return [one["name"] for one in found]


@dataclass(frozen=True, slots=True)
class Serving:
    """A served backend."""

    url: str
    log: io.StringIO
    stop: Callable[[], None]


@contextmanager
def serving(backend: Backend, *, token: str | None = None, port: int = 0) -> Iterator[Serving]:
    """Serve a backend as the service does. Leaving the block stops it, unless it was stopped already."""
    log = io.StringIO()
    secret = None if token is None else SecretStr(token)
    with listener_on("127.0.0.1", port) as listener:
        server = Server(create_app(backend, token=secret, loopback_only=True, log=log_to(log)), grace_seconds=1)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="service")
        thread.start()

        def stop() -> None:
            server.stop()
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive(), "the server did not stop"

        try:
            yield Serving(url_of(listener), log, stop)
        finally:
            stop()

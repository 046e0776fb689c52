"""The Embed Jobs service as a whole. Start reading here.

    settings -> port taken -> models found -> store opened, its folder locked -> workers started -> requests answered

    what stops it     what happens
    ----------------  -----------------------------------------------------------------------------------------
    SIGTERM, SIGINT   no new connections; requests are finished, for `GRACE_SECONDS` at most; the workers stop
                      after the call to the model that they are in; the store is closed
    a second signal   the requests are cut off
    SIGKILL, a crash  nothing that was acknowledged is lost: see `store`. Jobs go on where they were

What is served is in `api`, and what works in the background in `workers`.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Final, TextIO
from urllib.parse import urlsplit

import msgspec

from connector.errors import ConfigError
from connector.serving.listening import Server, listener_on, url_of
from connector.serving.logs import Log, libraries_in, log_to

from .access import check_exposure
from .api import Backend, create_app
from .events import BlockEmbedded, BugFound, Event, Postponed
from .links import Links
from .metrics import Metrics
from .models import Catalogue, local_catalogue
from .store import Store
from .upload import STALL_SECONDS
from .workers import Workers

if TYPE_CHECKING:
    import socket

    from connector.sections import EmbedJobsSettings

GRACE_SECONDS: Final = 10  # Kubernetes and docker kill after 30 and 10 by default; the workers need some of it


def serve(
    settings: EmbedJobsSettings,
    *,
    catalogue: Catalogue | None = None,
    listening: Callable[[str], object] = lambda _url: None,
) -> None:
    """Serve until SIGTERM or SIGINT. `listening` is told the URL when requests are taken; the log goes to stderr.

    Raises:
        ConfigError: the settings cannot work, or the port is in use.
        LeaseError: another service has the folder.
        TransientError: the disk is full.
    """
    with Service.open(settings, catalogue=catalogue) as service, _stopped_by_signals(service):
        listening(service.url)
        service.run()


class Service:
    """An opened service: its port is taken, its workers work; `run` answers requests."""

    def __init__(
        self, server: Server, listener: socket.socket, store: Store, workers: Workers, stopping: threading.Event
    ) -> None:
        self.store = store
        self.workers = workers
        self.url = url_of(listener)
        self._server = server
        self._listener = listener
        self._stopping = stopping

    @classmethod
    @contextmanager
    def open(
        cls,
        settings: EmbedJobsSettings,
        *,
        catalogue: Catalogue | None = None,
        log_stream: TextIO | None = None,
        stall_seconds: float = STALL_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Iterator[Service]:
        """Open all parts, and close them in the reverse order. Errors are those of `serve`."""
        _check(settings)
        log = log_to(log_stream or sys.stderr)
        with ExitStack() as parts:
            parts.enter_context(libraries_in(log))
            listener = parts.enter_context(listener_on(settings.host, settings.port))
            catalogue = catalogue or local_catalogue(settings.aliases, threads=settings.threads)
            store = _open_store(settings, now)
            metrics = Metrics(store)
            workers = Workers(store, catalogue, emit=partial(_note, log, metrics))
            parts.callback(_close, workers, store, log)
            stopping = threading.Event()
            backend = Backend(
                store=store,
                catalogue=catalogue,
                links=Links(store.url_key, now=now),
                metrics=metrics,
                log=log,
                wake=workers.wake,
                is_alive=lambda: workers.is_alive,
                is_stopping=stopping.is_set,
            )
            server = Server(create_app(settings, backend, stall_seconds=stall_seconds), grace_seconds=GRACE_SECONDS)
            workers.start()
            service = cls(server, listener, store, workers, stopping)
            log.info("started", url=service.url, models=sorted(catalogue.models), aliases=dict(catalogue.aliases))
            yield service
        log.info("stopped")

    def run(self) -> None:
        """Answer requests until `stop`."""
        self._server.run(sockets=[self._listener])

    def stop(self) -> None:
        """Have `run` end when the requests are finished; when called again, at once. From any thread, or a signal."""
        self._stopping.set()
        self._server.stop()


def _close(workers: Workers, store: Store, log: Log) -> None:
    """Stop the workers, and then close the store, which a worker that does not stop still writes to."""
    if workers.stop():
        store.close()
    else:
        log.error("a worker did not stop in time; what it has not saved is done again after the next start")


def _open_store(settings: EmbedJobsSettings, now: Callable[[], datetime]) -> Store:
    return Store.open(
        settings.path,
        now=now,
        retention_days=settings.retention_days,
        max_storage_bytes=settings.max_storage_bytes,
        max_open_jobs=settings.max_open_jobs,
        max_queued_datasets=settings.max_queued_datasets,
    )


def _check(settings: EmbedJobsSettings) -> None:
    check_exposure(settings.host, settings.api_key)
    if settings.public_url is not None:
        parts = urlsplit(settings.public_url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                f'public_url "{settings.public_url}" is no address; write it as in "https://embed.example.com"'
            )


@contextmanager
def _stopped_by_signals(service: Service) -> Iterator[None]:
    """Have SIGTERM and SIGINT stop a service, where signals can be had: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature is Python's
        service.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _note(log: Log, metrics: Metrics, event: Event) -> None:
    """Write what the workers report into the log, and count it."""
    if isinstance(event, BlockEmbedded):
        metrics.count_embedded(rows=event.rows, tokens=event.tokens)
    fields = msgspec.to_builtins(event)
    name = fields.pop("type")
    write = log.error if isinstance(event, BugFound) else log.warning if isinstance(event, Postponed) else log.info
    write(name, **fields)

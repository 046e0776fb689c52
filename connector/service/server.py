"""The sync service as a whole. Start reading here.

    settings read -> port taken -> each state claimed -> runners started -> requests answered

    what comes        what happens
    ----------------  -----------------------------------------------------------------------------------------
    SIGTERM, SIGINT   no new runs and requests; a run under way begins nothing more, and commits what it has begun.
                      After `GRACE_SHARE` of grace_seconds it makes no more calls. The process ends within
                      grace_seconds, with exit code 0; an embed job goes on at its service, and is taken in later
    a second one      the same, with no time left
    SIGHUP            the settings are read again: valid ones count from each sync's next run, of others the log and
                      /status say what is wrong, and the old ones stay
    SIGUSR1           the status is written into the log
    SIGKILL, a crash  nothing is lost: the next start goes on, as any next run does

What a sync does when is in `runner`, what is served in `api`, how a sync stands in `standing`.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, Literal, TextIO

import connector
from connector import inspection
from connector.composition import build_context
from connector.errors import ConfigError, ConnectorError, LeaseError
from connector.lease import os_lock
from connector.ports import WatchableSource
from connector.service_config import NamedSync, ServiceConfig, load_service
from connector.serving.listening import Server, is_this_machine, listener_on, url_of
from connector.serving.logs import libraries_in, log_to
from connector.stopping import Stop

from .api import PausedError, UnknownSyncError, Wish, create_app
from .memory import FOLDER
from .metrics import Metrics
from .report import Reporter
from .runner import Runner, timetable
from .tracing import open_tracing
from .watching import Watch, watch
from .work import Surroundings

if TYPE_CHECKING:
    import socket

    from connector.config import Settings
    from connector.model import Hit, JsonValue

REQUESTS_GRACE_SECONDS: Final = 3
GRACE_SHARE: Final = 0.6
RESTART_FOR: Final = ("host", "port", "token", "log_level")
RUNS_AT_ONCE: Final = 1


def serve(path: Path, *, listening: Callable[[str], object] = lambda _url: None, stream: TextIO | None = None) -> bool:
    """Serve a settings file, or a folder of them, until SIGTERM or SIGINT; tell whether all threads have ended.

    `listening` is told the URL when requests are taken; the log goes to stderr, or a stream.

    Raises:
        ConfigError: the settings cannot work, or the port is in use.
        LeaseError: another service has one of the syncs.
    """
    with _signals() as reach, Service.open(path, stream=stream) as service:
        reach(service)
        listening(service.url)
        service.run()
    return service.ended_in_order


class Service:
    """An opened service: its port is taken, its syncs run; `run` answers requests. Stands behind `api`."""

    def __init__(self, config: ServiceConfig, listener: socket.socket, around: Surroundings, claims: ExitStack) -> None:
        self.config = config
        self.url = url_of(listener)
        self.ended_in_order = True
        self._listener = listener
        self._around = around
        self._claims = claims
        self._lock = threading.RLock()
        self.runners: dict[str, Runner] = {}
        self._claimed: dict[str, ExitStack] = {}
        self.watches: dict[str, Watch] = {}
        self._leaving: list[Runner] = []  # of syncs that the settings have no more, until they have ended
        self._reporter = Reporter(config, around.now)
        self._stopping = Stop()
        self._stop_at: float | None = None
        service = config.service
        app = create_app(
            self,
            token=service.token,
            loopback_only=is_this_machine(service.host),
            log=around.log,
            note_request=around.metrics.note_request,
        )
        self._server = Server(app, grace_seconds=REQUESTS_GRACE_SECONDS)

    @classmethod
    @contextmanager
    def open(
        cls, path: Path, *, stream: TextIO | None = None, now: Callable[[], float] = time.time
    ) -> Iterator[Service]:
        """Open all parts, and close them in the reverse order. Errors are those of `serve`."""
        config = load_service(path)
        log = log_to(stream or sys.stderr, config.service.log_level)
        with ExitStack() as parts:
            parts.enter_context(libraries_in(log))
            listener = parts.enter_context(listener_on(config.service.host, config.service.port))
            tracing = open_tracing(version=connector.__version__, tell=log.warning)
            parts.callback(tracing.close)
            metrics = Metrics(version=connector.__version__, now=now)
            around = Surroundings(log, metrics, tracing, threading.Semaphore(RUNS_AT_ONCE), now)
            service = cls(config, listener, around, parts.enter_context(ExitStack()))
            for sync in config.syncs:
                service._claim(sync)
            parts.callback(service._end)
            for sync in config.syncs:
                service._begin(sync)
            names = [sync.name for sync in config.syncs]
            log.info("started", url=service.url, syncs=names, version=connector.__version__)
            yield service
        log.info("stopped", in_order=service.ended_in_order)

    def run(self) -> None:
        """Answer requests until `stop`."""
        self._server.run(sockets=[self._listener])

    def stop(self) -> None:
        """Have all end in order; when called again, at once. From any thread, or a signal."""
        again, self._stop_at = self._stop_at is not None, self._stop_at or time.monotonic()
        self._stopping.ask()
        self._server.stop()
        for runner in [*self.runners.values(), *self._leaving]:
            (runner.hurry if again else runner.stop)()

    def reload(self) -> None:
        """Read the settings again; what is wrong with them is logged, and changes nothing."""
        with self._lock:
            if self._stopping.is_asked:
                return
            try:
                found = load_service(self.config.path)
                self._check_claims(found)
            except ConnectorError as error:
                self._reporter.config_error = str(error)
                self._around.log.error("reload_refused", error=str(error))  # noqa: TRY400 - its words are all
                return
            self._change_to(found)

    def tell(self) -> None:
        """Write the status into the log."""
        self._around.log.info("status", **self.status())

    # --- what `api` asks ------------------------------------------------------------------------------

    @property
    def show(self) -> Literal["counts", "names", "text"]:
        """How much of the documents may be seen."""
        return self.config.service.show

    def status(self) -> dict[str, JsonValue]:
        """Tell how everything stands."""
        return self._reporter.status(self._there(), is_stopping=self._stopping.is_asked)

    def why_not_alive(self) -> str | None:
        """A thread that has ended is a bug, which a restart mends for now."""
        dead = [name for name, runner in self._there().items() if not runner.is_alive]
        return None if not dead or self._stopping.is_asked else f"the thread of the sync {dead[0]} has ended"

    def why_not_ready(self) -> str | None:
        """Not for a sink or an embedder that is down: a restart would not help."""
        if self._stopping.is_asked:
            return "stopping"
        return self.why_not_started() or self._reporter.why_not_ready(self._there())

    def why_not_started(self) -> str | None:
        """Each state has to be brought up to date, and read once."""
        return self._reporter.why_not_started(self._there())

    def metrics(self) -> bytes:
        """Tell Prometheus."""
        return self._around.metrics.text()

    def request_run(self, sync: str | None, wish: Wish) -> list[str]:
        """Have syncs run as soon as they can."""
        chosen = self._chosen(sync)
        if paused := [name for name, runner in chosen.items() if runner.is_paused]:
            raise PausedError(f"{paused[0]} is paused; resume it first")
        for runner in chosen.values():
            runner.ask(wish)
        return list(chosen)

    def pause(self, sync: str | None) -> list[str]:
        """Let syncs start no more runs."""
        return self._set_paused(sync, is_paused=True)

    def resume(self, sync: str | None) -> list[str]:
        """Let syncs run again."""
        return self._set_paused(sync, is_paused=False)

    def search(self, sync: str | None, text: str, *, sink: str | None, limit: int) -> list[Hit]:
        """Find the passages nearest to a text."""
        runner = next(iter(self._chosen(sync).values()))
        return inspection.search(runner.settings, text, limit=limit, sink=sink)

    def _set_paused(self, sync: str | None, *, is_paused: bool) -> list[str]:
        chosen = self._chosen(sync)
        for runner in chosen.values():
            runner.pause(is_paused=is_paused)
        return list(chosen)

    def _there(self) -> Mapping[str, Runner]:
        return dict(self.runners)  # copied in one step, while a reload may go on

    def _chosen(self, name: str | None) -> dict[str, Runner]:
        there = dict(self._there())
        if name is None:
            return there
        if name not in there:
            raise UnknownSyncError(f'there is no sync "{name}"; there are: {", ".join(there)}')
        return {name: there[name]}

    # --- syncs come and go ----------------------------------------------------------------------------

    def _claim(self, sync: NamedSync) -> None:
        """Keep other services away from a sync, for as long as it is ours."""
        claimed = self._claims.enter_context(ExitStack())
        folder = sync.settings.state_path / FOLDER
        try:
            claimed.enter_context(os_lock(folder))
        except LeaseError:
            raise LeaseError(f"another service has the sync {sync.name} ({sync.settings.state_path})") from None
        self._claimed[sync.name] = claimed

    def _begin(self, sync: NamedSync) -> None:
        runner = Runner(sync.name, sync.settings, sync.service, self._around)
        self._tell_metrics(sync)
        self.runners[sync.name] = runner
        runner.start()
        if self._stopping.is_asked:  # while the settings were read again
            runner.stop()
        self._watch(sync, runner)

    def _tell_metrics(self, sync: NamedSync) -> None:
        longest = timetable(sync.service).longest_wait_seconds(self._around.now())
        self._around.metrics.add(sync.name, state_path=sync.settings.state_path, longest_wait_seconds=longest)

    def _watch(self, sync: NamedSync, runner: Runner) -> None:
        """Watch the files of a sync, where it is made of files and that is wanted."""
        if before := self.watches.pop(sync.name, None):
            before.stop()
        if not sync.service.watch:
            return
        with suppress(ConnectorError):  # the run says what is wrong with the source
            source = sync.settings.source.build(build_context(sync.settings, read_only=True))
            if isinstance(source, WatchableSource):
                self.watches[sync.name] = watch(
                    source.watched_paths,
                    runner.wake,
                    may_list=source.may_list,
                    left_out=_ours(sync.settings),
                    tell=lambda line: self._around.log.info("watching", sync=sync.name, told=line),
                )

    def _check_claims(self, found: ServiceConfig) -> None:
        """Claim the syncs that are new; ConfigError if one has got another state, which only a restart changes."""
        states = {sync.name: sync.settings.state_path for sync in self.config.syncs}
        for sync in found.syncs:
            if states.get(sync.name, sync.settings.state_path) != sync.settings.state_path:
                raise ConfigError(f"{sync.path}: [state] path has changed; restart the service for that")
        new = [sync for sync in found.syncs if sync.name not in self.runners]
        ours = {it.settings.state_path: it.name for it in [*self._leaving, *self.runners.values()]}
        for sync in new:
            if other := ours.get(sync.settings.state_path):
                until = "the service is restarted" if other in self.runners else "its run has ended"
                raise ConfigError(f'{sync.path}: [state] path is that of the sync "{other}" until {until}')
        claimed: list[str] = []
        try:
            for sync in new:
                self._claim(sync)
                claimed.append(sync.name)
        except ConnectorError:
            for name in claimed:  # so that the next try can have them
                self._claimed.pop(name).close()
            raise

    def _change_to(self, found: ServiceConfig) -> None:
        before, self.config = self.config, found
        self._reporter.take(found)
        waits = [name for name in RESTART_FOR if getattr(before.service, name) != getattr(found.service, name)]
        if waits:
            self._around.log.warning("restart_needed", settings=waits)
        names = {sync.name for sync in found.syncs}
        for name in [name for name in self.runners if name not in names]:
            self._leave(name)
        for sync in found.syncs:
            if sync.name in self.runners:
                self.runners[sync.name].configure(sync.settings, sync.service)
                self._tell_metrics(sync)
                self._watch(sync, self.runners[sync.name])
            else:
                self._begin(sync)
        self._around.log.info("reloaded", syncs=sorted(names))

    def _leave(self, name: str) -> None:
        """Let go of a sync that the settings have no more; its run, if there is one, ends in order."""
        runner = self.runners.pop(name)
        if watching := self.watches.pop(name, None):
            watching.stop()
        runner.stop()
        self._leaving.append(runner)
        claimed = self._claimed.pop(name)

        def let_go() -> None:
            while not runner.join(1.0):
                pass
            self._around.metrics.remove(name)  # before another of this name may come
            claimed.close()
            with suppress(ValueError):
                self._leaving.remove(runner)
            self._around.log.info("left", sync=name)

        threading.Thread(target=let_go, name=f"leaving {name}", daemon=True).start()

    def _end(self) -> None:
        """End all runs: in order for a while, then at once; what does not end by itself ends with the process."""
        if self._stop_at is None:
            self.stop()
        began, grace = self._stop_at or time.monotonic(), self.config.service.grace_seconds
        with self._lock:  # a reload under way changes both
            watches, runners = list(self.watches.values()), [*self.runners.values(), *self._leaving]
        for watching in watches:
            watching.stop(1.0)
        if not _joined(runners, until=began + GRACE_SHARE * grace):
            for runner in runners:
                runner.hurry()
            self.ended_in_order = _joined(runners, until=began + grace - 1.0)
        if not self.ended_in_order:
            self._around.log.warning("a run did not end in time; the next start goes on from there")


def _joined(runners: list[Runner], *, until: float) -> bool:
    return all(runner.join(max(0.0, until - time.monotonic())) for runner in runners)


def _ours(settings: Settings) -> list[Path]:
    """Name what the sync itself writes: no change of it is one of the source."""
    context = build_context(settings, read_only=True)
    folders = [getattr(sink, "path", None) for sink in settings.sinks.values()]
    return [settings.state_path, *(context.resolve(path) for path in folders if isinstance(path, Path))]


@contextmanager
def _signals() -> Iterator[Callable[[Service], None]]:
    """Give what has signals reach a service, until it is closed; where they can be had: in the main thread.

    Before, SIGHUP and SIGUSR1 come to nothing, as there is nothing to read again; the others end the start.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda _service: None
        return

    def in_a_thread(act: Callable[[], object]) -> Callable[[int, FrameType | None], None]:
        """A signal may come while its thread holds a lock: so what takes locks, or long, has a thread of its own."""
        return lambda _number, _frame: threading.Thread(target=act, daemon=True).start()

    def reach(service: Service) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: service.stop())
        signal.signal(signal.SIGHUP, in_a_thread(service.reload))
        signal.signal(signal.SIGUSR1, in_a_thread(service.tell))

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before |= {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGUSR1)}
    try:
        yield reach
    finally:
        for number, action in before.items():
            signal.signal(number, action)

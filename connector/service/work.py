"""What a runner does for a sync: a run, a look at open jobs, a comparison; each with all that looks on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from connector import composition, index_control, job_control
from connector.errors import BUG, ConnectorError, ExitCode
from connector.index_control import Looking
from connector.report import Counts
from connector.scratch import Scratch
from connector.serving.logs import trace_of

from .progress import Progress
from .run_log import RunLog
from .schedule import has_failed

if TYPE_CHECKING:
    from connector.config import Settings
    from connector.drift import Verified
    from connector.events import Emit, Event
    from connector.jobs import Outcome
    from connector.report import Report
    from connector.serving.logs import Log
    from connector.stopping import Stop

    from .api import Wish
    from .metrics import Metrics
    from .tracing import RunTrace, Tracing


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the runners of a service share."""

    log: Log
    metrics: Metrics
    tracing: Tracing
    turns: threading.Semaphore
    now: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True)
class Done:
    """How a run ended, be it by a report or by an error."""

    exit_code: int
    began_at: float  # seconds since 1970, as all times here
    ended_at: float
    problems: tuple[str, ...] = ()
    report: Report | None = None
    run_id: int = 0

    @property
    def open_jobs(self) -> int:
        """How many embed jobs it left running."""
        return self.report.open_jobs if self.report else 0

    @property
    def found_nothing_to_do(self) -> bool:
        """Whether all was in step before, so that the ledgers are as they were."""
        report = self.report
        if report is None or report.exit_code != ExitCode.IN_STEP or report.others:
            return False
        counts = report.counts
        is_quiet = counts == Counts(unchanged=counts.unchanged)
        return is_quiet and not any(sink.upserted or sink.deleted for sink in report.sinks.values())

    @property
    def has_failed(self) -> bool:
        """Whether it is to be made again soon; not if it only waits for jobs."""
        return has_failed(self.exit_code) and not self.waits_for_jobs

    @property
    def waits_for_jobs(self) -> bool:
        """Whether all that it left undone is in embed jobs that run."""
        sinks = self.report.sinks.values() if self.report else ()
        return bool(self.open_jobs) and self.exit_code == ExitCode.BEHIND and not any(sink.stopped for sink in sinks)


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison found."""

    exit_code: int
    began_at: float
    told: str
    done: Done | None  # of the sync that mended it, if there was one


@dataclass(frozen=True, slots=True)
class Work:
    """Works for one sync, with its settings as they are now."""

    name: str
    settings: Settings
    around: Surroundings
    stop: Stop

    def sync(self, trigger: str, wish: Wish, watch: Callable[[Progress], None], *, plan_jobs: bool) -> Done:
        """Run once; embed jobs are left running. `watch` is given what tells how far it is."""
        onlookers = _Onlookers.of(self, trigger)
        watch(onlookers.progress)
        return onlookers.end(
            lambda: composition.sync(
                self.settings,
                confirm_deletes=wish.confirm_deletes,
                accept_reembed=wish.accept_reembed,
                confirm_cost=wish.confirm_cost,
                wait_for_jobs=False,
                plan_jobs=plan_jobs,
                emit=onlookers.emit,
                stop=self.stop,
            )
        )

    def look_at_jobs(self) -> Outcome | None:
        """Advance the open jobs as far as they go, and store what is there; None if that could not be done."""
        log = RunLog(self.around.log, sync=self.name, trigger="jobs")

        def emit(event: Event) -> None:
            self.around.metrics.count(self.name, event)
            log.note(event)

        try:
            return job_control.look(self.settings, emit=emit, stop=self.stop)
        except ConnectorError as error:
            self.around.log.warning("jobs_not_seen", sync=self.name, error=str(error))
        except Exception as error:  # noqa: BLE001 - a bug costs one look, as it costs one run
            self.around.log.error("bug", sync=self.name, trace=trace_of(error))  # noqa: TRY400 - no words of the error
        return None

    def reconcile(self, trigger: str, wish: Wish, watch: Callable[[Progress], None], *, repair: bool) -> Compared:
        """Compare every record with its ledger, and mend what is found if that is wanted."""
        onlookers = _Onlookers.of(self, trigger)
        watch(onlookers.progress)
        told: list[str] = []
        done = onlookers.end(lambda: self._compare(wish, onlookers, told, repair=repair), is_run=False)
        line = told[0] if told else (done.problems[0] if done.problems else "")
        if not told or done.exit_code == ExitCode.BUSY:
            return Compared(done.exit_code, done.began_at, line, None)
        self.around.log.info("compared", sync=self.name, exit_code=done.exit_code, told=line)
        return Compared(done.exit_code, done.began_at, line, done if done.report else None)

    def _compare(self, wish: Wish, onlookers: _Onlookers, told: list[str], *, repair: bool) -> Report | int:
        progress, looking = onlookers.progress, Looking()
        with Scratch.open(self.settings.state_path) as scratch:
            if not repair:
                found = index_control.verify(self.settings, scratch, looking, show=progress.show)
                told.append(self._told(found))
                return int(found.exit_code)
            mended = index_control.repair(
                self.settings,
                scratch,
                looking,
                confirm_deletes=wish.confirm_deletes,
                wait_for_jobs=False,
                stop=self.stop,
                showing=lambda: nullcontext(progress.show),
                telling=lambda: nullcontext(onlookers.emit),
            )
        told.append(self._told(mended.found, mended.left if mended.synced else None))
        return mended.synced or int(mended.exit_code)

    def _told(self, found: Verified, left: Verified | None = None) -> str:
        self.around.metrics.note_verified(self.name, found)
        unread = [f"{found.name(sink)} could not be read: {sink.error}" for sink in found.sinks if sink.error]
        told = (
            f"{found.drifted:,} records were not as written" if found.drifted else "every record is as it was written"
        )
        if left is not None and found.drifted:
            told += f", {left.drifted:,} are left" if left.drifted else ", and are mended"
        return "; ".join([told, *unread])


@dataclass(slots=True)
class _Onlookers:
    """All that is told of one run: its progress, the metrics, the log and the trace."""

    work: Work
    progress: Progress
    emit: Emit = field(init=False)
    _log: RunLog = field(init=False)
    _trace: RunTrace = field(init=False)

    @classmethod
    def of(cls, work: Work, trigger: str) -> _Onlookers:
        return cls(work, Progress(trigger, work.around.now()))

    def __post_init__(self) -> None:
        around, name, progress = self.work.around, self.work.name, self.progress
        trace = around.tracing.run(name, progress.trigger)
        self._log = log = RunLog(around.log, sync=name, trigger=progress.trigger, trace_id=trace.trace_id)
        self._trace = trace

        def emit(event: Event) -> None:
            progress.add(event)
            around.metrics.count(name, event)
            log.note(event)
            trace.note(event)

        self.emit = emit

    def end(self, call: Callable[[], Report | int], *, is_run: bool = True) -> Done:
        """Make the call, and tell all of them how it ended. A bug costs one run, not the service.

        What is no run, a comparison, is one as soon as it gives a report: it has synced what it found.
        """
        report: Report | None = None
        problems: tuple[str, ...] = ()
        try:
            result = call()
            report, code = (None, result) if isinstance(result, int) else (result, int(result.exit_code))
            problems = report.problems if report else ()
        except ConnectorError as error:
            code, problems = int(error.exit_code), tuple(str(error).splitlines()) or (type(error).__name__,)
            self._log.failed(code, str(error))
        except Exception as error:  # noqa: BLE001
            code, problems = BUG, (f"a bug in vector-sync ({type(error).__name__}); the log has the trace",)
            self._log.failed(code, type(error).__name__, trace=trace_of(error))
        around, began, now = self.work.around, self.progress.started_at, self.work.around.now()
        if report is not None:
            self._log.end(code, report.as_json())
        self._trace.end(code, report)
        is_run = is_run or report is not None
        if is_run and not self.work.stop.is_asked:  # one that was stopped says nothing about the sync
            around.metrics.note_run(self.work.name, report, code, now - began, now)
        return Done(code, began, now, problems, report, self.progress.run_id or (report.run_id if report else 0))

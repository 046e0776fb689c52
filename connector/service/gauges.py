"""What Prometheus is told of how things stand now: kept as runs end, and asked of the file system at a scrape.

A sync's series go with it when it is removed, and a sink's or a generation's when the state knows it no more; so a
dropped generation leaves no line that stands still for ever.
"""

from __future__ import annotations

import platform
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from connector.errors import ExitCode
from connector.generations import SEPARATOR
from connector.job_steps import ENDED, State

from .schedule import ENDED_WELL

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from connector.inspection import Status
    from connector.report import Report, SinkReport

STATE_FILES: Final = ("checkpoint.db", "vectors.db")
LIVE: Final = "live"
OPEN_STATES: Final = tuple(state for state in State if state not in ENDED)


@dataclass(slots=True)
class OpenJob:
    """An embed job that is under way, by the events of this process."""

    state: str
    planned_at: float
    tokens: int = 0


@dataclass(slots=True)
class Sync:
    """What is known of one sync."""

    state_path: Path
    longest_wait_seconds: float
    since: float
    is_paused: bool = False
    last_run_at: float | None = None
    exit_code: int | None = None
    last_success_at: float | None = None
    verified_at: float | None = None
    report: Report | None = None  # the latest there is
    status: Status | None = None
    oldest_job_planned_at: float | None = None  # by the status
    in_step_at: dict[str, float] = field(default_factory=dict)  # by sink: when a run last left it so
    lagging: set[str] = field(default_factory=set)
    jobs: dict[str, OpenJob] = field(default_factory=dict)  # by token

    def remember(self, status: Status) -> None:
        """Take over how the runs of processes before this one ended."""
        ended = [run for run in status.runs if run.ended_at is not None]
        well = [run.ended_at for run in ended if run.exit_code in ENDED_WELL]
        sinks = {ledger.sink for ledger in status.sinks if SEPARATOR not in ledger.sink}
        if well and well[0] is not None:
            self.last_success_at = well[0]
            self.in_step_at = dict.fromkeys(sinks, well[0])
        self.lagging = set() if ended and ended[0].exit_code in ENDED_WELL else sinks


class Gauges(Collector):
    """How all syncs stand. Its methods may be called from any thread."""

    def __init__(self, *, version: str, now: Callable[[], float]) -> None:
        self._version = version
        self._now = now
        self._lock = threading.Lock()
        self._syncs: dict[str, Sync] = {}

    def add(self, name: str, *, state_path: Path, longest_wait_seconds: float) -> None:
        """Begin to tell of a sync; of one that is told of already, change what may have changed."""
        with self._lock:
            if (known := self._syncs.get(name)) is not None:
                known.state_path, known.longest_wait_seconds = state_path, longest_wait_seconds
            else:
                self._syncs[name] = Sync(state_path, longest_wait_seconds, since=self._now())

    def remove(self, name: str) -> None:
        """Tell nothing more of a sync."""
        with self._lock:
            self._syncs.pop(name, None)

    def set_paused(self, name: str, *, is_paused: bool) -> None:
        """Note that people have paused a sync, or let it go on."""
        with self._lock:
            if sync := self._syncs.get(name):
                sync.is_paused = is_paused

    def note_run(self, name: str, report: Report | None, exit_code: int, at: float) -> None:
        """Note how a run ended.

        the run                                     then a sink
        ------------------------------------------  --------------------------------------
        ended in step, or with rejected documents   is in step
        ended behind; the sink had no part in that  is in step, as far as the source was read
        otherwise                                   lags, since it was in step last
        was busy                                    stands as it did: nothing was tried
        """
        with self._lock:
            sync = self._syncs.get(name)
            if sync is None or exit_code == ExitCode.BUSY:
                return
            sync.last_run_at, sync.exit_code = at, exit_code
            if exit_code in ENDED_WELL:
                sync.last_success_at = at
            sinks = dict(report.sinks) if report else {}
            lagging = {sink for sink, its in sinks.items() if its.behind or its.stopped}
            if exit_code not in ENDED_WELL and not (exit_code == ExitCode.BEHIND and lagging):
                lagging = {*sinks, *sync.in_step_at, *sync.lagging}
            sync.in_step_at |= dict.fromkeys(sinks.keys() - lagging, at)
            sync.lagging = lagging
            sync.report = report or sync.report

    def note_status(self, name: str, status: Status) -> None:
        """Note what a sync's memory says, and what it says of the time before this process."""
        with self._lock:
            if (sync := self._syncs.get(name)) is None:
                return
            sync.status = status
            oldest = status.oldest_open_job_seconds
            sync.oldest_job_planned_at = None if oldest is None else self._now() - oldest
            if not status.open_jobs:
                sync.jobs.clear()
            if sync.last_run_at is None:
                sync.remember(status)

    def note_verified(self, name: str) -> None:
        """Note that a sync's sinks were compared with its ledgers just now."""
        with self._lock:
            if sync := self._syncs.get(name):
                sync.verified_at = self._now()

    def note_job(self, name: str, token: str, state: str, *, age_seconds: float = 0.0, tokens: int = 0) -> None:
        """Note how far an embed job is."""
        with self._lock:
            if sync := self._syncs.get(name):
                known = sync.jobs.setdefault(token, OpenJob(state, self._now() - age_seconds))
                known.state, known.tokens = state, tokens or known.tokens
                if age_seconds:
                    known.planned_at = self._now() - age_seconds

    def forget_job(self, name: str, token: str) -> int:
        """Note that an embed job is not under way any more; give its tokens, as far as they are known."""
        with self._lock:
            if (sync := self._syncs.get(name)) is None:
                return 0
            sync.oldest_job_planned_at = None  # it was of this one, or is known by its events
            job = sync.jobs.pop(token, None)
            return job.tokens if job else 0

    def describe(self) -> Iterator[Metric]:
        """Name nothing: what there is to tell is known at a scrape, not at the start."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            runs = [*self._of_all(), *self._of_runs(), *self._of_jobs()]
            sinks = [*self._of_ledgers(), *self._of_reports(), *self._of_lag()]
            return iter([*runs, *sinks, *self._of_stores()])

    def _of_all(self) -> Iterator[Metric]:
        labels = ("version", "sqlite", "python")
        told = GaugeMetricFamily("vsync_build_info", "What runs here; always 1", labels=labels)
        told.add_metric((self._version, sqlite3.sqlite_version, platform.python_version()), 1)
        yield told

    def _of_runs(self) -> Iterator[Metric]:
        yield self._each(
            "vsync_last_success_timestamp_seconds",
            "When a run last ended with all in step that can be; 0 if that is not known of any",
            lambda sync: sync.last_success_at or 0,
        )
        yield self._each(
            "vsync_last_run_timestamp_seconds",
            "When a run last ended, however it did; none if this process has seen no end",
            lambda sync: sync.last_run_at,
        )
        yield self._each("vsync_last_run_exit_code", "How it ended, as `sync` exits", lambda sync: sync.exit_code)
        yield self._each(
            "vsync_run_interval_seconds",
            "How long it takes at most, if all is well, from the end of a run to the start of the next",
            lambda sync: sync.longest_wait_seconds,
        )
        yield self._each("vsync_paused", "1 while people have paused a sync", lambda sync: int(sync.is_paused))
        yield self._each(
            "vsync_guard_blocked",
            "1 if the last run stopped to ask before it deletes or pays",
            lambda sync: int(sync.exit_code == ExitCode.SAFETY),
        )
        yield self._each(
            "vsync_last_verification_timestamp_seconds",
            "When this process last compared the sinks with what was written to them",
            lambda sync: sync.verified_at,
        )

    def _of_ledgers(self) -> Iterator[Metric]:
        each = ("sync", "sink", "generation")
        documents = GaugeMetricFamily(
            "vsync_documents", "Documents that a sink's ledger knows", labels=(*each, "state")
        )
        points = GaugeMetricFamily("vsync_stored_points", "Records in a sink, by its ledger", labels=each)
        quarantine = GaugeMetricFamily(
            "vsync_quarantine_documents", "Documents that are not in a sink, for their own reasons", labels=each
        )
        for name, sync in self._syncs.items():
            for ledger in sync.status.sinks if sync.status else ():
                sink, _, number = ledger.sink.partition(SEPARATOR)
                labels = (name, sink, number or LIVE)
                in_step = ledger.documents - ledger.in_doubt - ledger.rejected
                documents.add_metric((*labels, "in_step"), in_step)
                documents.add_metric((*labels, "in_doubt"), ledger.in_doubt)
                documents.add_metric((*labels, "rejected"), ledger.rejected)
                points.add_metric(labels, ledger.records)
                quarantine.add_metric(labels, ledger.rejected)
        yield from (documents, points, quarantine)

    def _of_reports(self) -> Iterator[Metric]:
        each = ("sync", "sink")
        pending = GaugeMetricFamily(
            "vsync_sink_pending_documents", "Documents that the last run left out of step", labels=each
        )
        up = GaugeMetricFamily("vsync_sink_up", "0 if the last run gave the sink up", labels=each)
        drift = GaugeMetricFamily(
            "vsync_drift_points",
            "Records that a sink had more (or, below 0, fewer) at the end of the last run than were written",
            labels=each,
        )
        for name, sync in self._syncs.items():
            for sink, reports in _by_sink(sync.report).items():
                pending.add_metric((name, sink), sum(report.behind for report in reports))
                up.add_metric((name, sink), int(not any(report.stopped for report in reports)))
                if reports[0].drift is not None:
                    drift.add_metric((name, sink), reports[0].drift)
        yield from (pending, up, drift)

    def _of_lag(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "vsync_sink_lag_seconds", "Since when a sink is not in step; 0 if it is", labels=("sync", "sink")
        )
        for name, sync in self._syncs.items():
            for sink in sorted(sync.lagging | sync.in_step_at.keys()):
                since = sync.in_step_at.get(sink, sync.last_success_at or sync.since)
                lag.add_metric((name, sink), max(0.0, self._now() - since) if sink in sync.lagging else 0)
        yield lag

    def _of_jobs(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily(
            "vsync_embed_jobs", "Embed jobs under way, as far as this process has seen them", labels=("sync", "state")
        )
        for name, sync in self._syncs.items():
            states = [job.state for job in sync.jobs.values()]
            for state in OPEN_STATES:
                jobs.add_metric((name, str(state)), states.count(state))
        yield jobs
        yield self._each(
            "vsync_embed_job_age_seconds",
            "Since the oldest embed job under way was planned; 0 if there is none",
            self._oldest_job_seconds,
        )

    def _oldest_job_seconds(self, sync: Sync) -> float:
        planned = [job.planned_at for job in sync.jobs.values()]
        if sync.oldest_job_planned_at is not None:
            planned.append(sync.oldest_job_planned_at)
        return max(0.0, self._now() - min(planned)) if planned else 0

    def _of_stores(self) -> Iterator[Metric]:
        sizes = GaugeMetricFamily("vsync_state_bytes", "Of the files of the state", labels=("sync", "file"))
        logs = GaugeMetricFamily("vsync_wal_bytes", "Of their write-ahead logs", labels=("sync", "file"))
        for name, sync in self._syncs.items():
            for file in STATE_FILES:
                sizes.add_metric((name, file), _size_bytes(sync.state_path / file))
                logs.add_metric((name, file), _size_bytes(sync.state_path / f"{file}-wal"))
        yield from (sizes, logs)
        yield self._each(
            "vsync_vectors", "Vectors in the vector store", lambda sync: sync.status.vectors if sync.status else None
        )

    def _each(self, name: str, documentation: str, value: Callable[[Sync], float | None]) -> GaugeMetricFamily:
        """Tell one number of each sync; nothing of those where it is not known."""
        family = GaugeMetricFamily(name, documentation, labels=("sync",))
        values: Mapping[str, float | None] = {sync: value(its) for sync, its in self._syncs.items()}
        for sync, its in values.items():
            if its is not None:
                family.add_metric((sync,), its)
        return family


def _by_sink(report: Report | None) -> dict[str, list[SinkReport]]:
    """Give what is told of each sink: by the generation that the settings ask for, then by the others."""
    if report is None:
        return {}
    others = [other.sinks for other in report.others]
    return {name: [sink, *(its[name] for its in others if name in its)] for name, sink in report.sinks.items()}


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

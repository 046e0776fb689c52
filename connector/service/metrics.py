"""What Prometheus is told: counted as it happens, and how things stand after each run (`gauges`).

Names begin with vsync_, units are base units, and labels are few: the names of syncs, sinks and generations, and words
of ours. A document's id, a reason or an error is never a label. Counts begin at 0 with the process.

    counted                           of                          when
    --------------------------------  --------------------------  ---------------------------------------------
    what is written, embedded, tried  events                      as it happens: what a run does for hours shows
    what changed in the source        the report                  when a run ends
    records deleted, tokens billed    the report                  when a run ends, if it does not end by an error
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.registry import Collector

from connector.drift import OURS
from connector.events import (
    CallRetried,
    DatasetsCleaned,
    DocumentAltered,
    DocumentRejected,
    DocumentsCommitted,
    DocumentsDeleted,
    Event,
    JobDropped,
    JobDuplicated,
    JobFailed,
    JobInDoubt,
    JobPlanned,
    JobProgress,
    JobStarted,
    JobStored,
    LedgerVoided,
    PlaceUnreadable,
    RowsListed,
    RunStarted,
    SinkFellBehind,
    SinkStopped,
    TextsEmbedded,
)
from connector.generations import sink_and_number
from connector.job_steps import State
from connector.report import Report

from .gauges import Gauges
from .words import OTHER, call_of, outcome_of

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from connector.drift import Verified
    from connector.inspection import Status

METHODS: Final = frozenset({"GET", "HEAD", "POST"})
RUN_SECONDS: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
REQUEST_SECONDS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 10, 60)
CREATED: Final = "_created"


class Metrics:
    """The metrics of one service; two services in a process do not mix. Its methods may be called from any thread."""

    def __init__(self, *, version: str, now: Callable[[], float] = time.time) -> None:
        self._gauges = Gauges(version=version, now=now)
        self._registry = CollectorRegistry()
        self._registry.register(self._gauges)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}  # listed by the run that is under way
        self._of_syncs: list[Counter | Histogram] = []
        self._unparted: list[Counter] = []  # those with no other label than the sync
        self._make_run_counters()
        self._make_sink_counters()
        self._make_embedding_counters()
        self._requests = Counter(
            "vsync_http_requests", "Requests that were answered", ("method", "route", "status"), registry=self._registry
        )
        self._request_durations = Histogram(
            "vsync_http_request_duration_seconds",
            "From a request's head to the end of its answer",
            ("method", "route"),
            buckets=REQUEST_SECONDS,
            registry=self._registry,
        )

    # --- which syncs there are ------------------------------------------------------------------

    def add(self, sync: str, *, state_path: Path, longest_wait_seconds: float) -> None:
        """Tell of a sync from now on; when called again, with what has changed in its settings.

        `longest_wait_seconds` is `Timetable.longest_wait_seconds`: what the alert for too few successes goes by.
        """
        self._gauges.add(sync, state_path=state_path, longest_wait_seconds=longest_wait_seconds)
        for counter in self._unparted:
            counter.labels(sync)  # one that begins at 1 looks to Prometheus as if nothing had happened

    def remove(self, sync: str) -> None:
        """Tell nothing more of a sync: the settings have it no more."""
        self._gauges.remove(sync)
        for metric in self._of_syncs:
            metric.remove_by_labels({"sync": sync})
        with self._lock:
            self._rows.pop(sync, None)

    def set_paused(self, sync: str, *, is_paused: bool) -> None:
        """Note that people have paused a sync, or let it go on."""
        self._gauges.set_paused(sync, is_paused=is_paused)

    # --- what has happened ----------------------------------------------------------------------

    def count(self, sync: str, event: Event) -> None:
        """Count what a run of a sync has just done."""
        self._count_listing(sync, event)
        self._count_delivery(sync, event)
        self._count_embedding(sync, event)
        self._count_trouble(sync, event)
        self._follow_job(sync, event)

    def note_run(self, sync: str, report: Report | None, exit_code: int, seconds: float, at: float) -> None:
        """Count a run when it has ended, at a time since 1970; without a report if it ended by an error."""
        outcome = outcome_of(exit_code)
        self._runs.labels(sync, outcome).inc()
        self._run_durations.labels(sync, outcome).observe(seconds)
        self._gauges.note_run(sync, report, exit_code, at)
        if report is None:
            return
        for change in report.counts.__dataclass_fields__:
            self._changes.labels(sync, change).inc(getattr(report.counts, change))
        for each in (report, *report.others):
            self._count_report(sync, each)

    def note_standing(self, sync: str, status: Status) -> None:
        """Note how a sync stands: after each run, and once before the first."""
        self._gauges.note_status(sync, status)

    def note_verified(self, sync: str, found: Verified) -> None:
        """Count what a comparison of the sinks with the ledgers has found."""
        self._gauges.note_verified(sync)
        for its in found.sinks:
            for kind in OURS:
                self._drift.labels(sync, _sink(its.sink), str(kind)).inc(its.counts[kind])

    def note_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request when it is over. `route` is one of ours, whatever the client wrote."""
        known = method if method in METHODS else OTHER
        self._requests.labels(known, route, str(status)).inc()
        self._request_durations.labels(known, route).observe(seconds)

    def text(self) -> bytes:
        """Write all of it in Prometheus's text format, version 0.0.4. Reads nothing but the sizes of files."""
        return generate_latest(_WithoutCreated(self._registry))

    # --- how it is counted ----------------------------------------------------------------------

    def _make_run_counters(self) -> None:
        self._runs = self._counter("vsync_runs", "Runs that have ended", "outcome")
        self._run_durations = Histogram(
            "vsync_run_duration_seconds",
            "Of runs that have ended",
            ("sync", "outcome"),
            buckets=RUN_SECONDS,
            registry=self._registry,
        )
        self._of_syncs.append(self._run_durations)
        self._listed = self._counter("vsync_scanned_rows", "Rows of the source that were compared with the ledgers")
        self._changes = self._counter("vsync_scan_documents", "Documents, by what a run found of each", "change")
        self._unreadable = self._counter("vsync_unreadable_places", "Places of the source that could not be read")
        self._retries = self._counter("vsync_retries", "Calls that failed and were made again", "call")
        self._waits = self._counter("vsync_retry_wait_seconds", "Time spent waiting before calls that were made again")

    def _make_sink_counters(self) -> None:
        self._points = self._counter("vsync_sink_points", "Records that a sink has taken, or deleted", "sink", "op")
        self._documents = self._counter(
            "vsync_sink_documents", "Documents that a sink has taken, deleted, refused, or altered", "sink", "op"
        )
        self._calls = self._counter("vsync_sink_requests", "Calls to a sink", "sink", "op")
        self._stops = self._counter("vsync_sink_stops", "Runs that gave a sink up", "sink")
        self._slow = self._counter("vsync_sink_fell_behind", "Runs in which a sink did not keep up", "sink")
        self._voided = self._counter("vsync_ledgers_voided", "Collections that turned out to be made anew", "sink")
        self._drift = self._counter(
            "vsync_verified_drift_points", "Records that were not as they were written", "sink", "kind"
        )

    def _make_embedding_counters(self) -> None:
        self._chunks = self._counter("vsync_embed_chunks", "Texts, by where their vectors came from", "outcome")
        self._tokens = self._counter("vsync_embed_tokens", "Tokens that were embedded, as they were counted")
        self._billed = self._counter("vsync_embed_billed_units", "Tokens that the service said it bills")
        self._cost = self._counter("vsync_embed_cost", "Of those, at the price that is known", "currency")
        self._started = self._counter("vsync_embed_jobs_started", "Embed jobs that were started")
        self._adopted = self._counter("vsync_embed_jobs_adopted", "Embed jobs that were found running, and taken over")
        self._resubmitted = self._counter("vsync_embed_jobs_resubmitted", "Embed jobs that were started once more")
        self._duplicates = self._counter("vsync_duplicate_jobs", "Second jobs on the same texts, found and cancelled")
        self._doubts = self._counter("vsync_embed_jobs_in_doubt", "Calls to start a job whose answer was lost")
        self._stored = self._counter("vsync_embed_jobs_stored", "Embed jobs whose vectors are stored")
        self._failed = self._counter("vsync_embed_jobs_failed", "Embed jobs that were given up")
        self._dropped = self._counter("vsync_embed_jobs_dropped", "Embed jobs whose texts are to be planned anew")
        self._cleaned = self._counter("vsync_embed_datasets_cleaned", "Datasets that no job needed, and were deleted")

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        made = Counter(name, documentation, ("sync", *labels), registry=self._registry)
        self._of_syncs.append(made)
        self._unparted += [] if labels else [made]
        return made

    def _count_listing(self, sync: str, event: Event) -> None:
        match event:
            case RunStarted():
                with self._lock:
                    self._rows[sync] = 0
            case RowsListed(rows=rows):
                with self._lock:
                    before, self._rows[sync] = self._rows.get(sync, 0), rows
                self._listed.labels(sync).inc(max(0, rows - before))
            case PlaceUnreadable():
                self._unreadable.labels(sync).inc()
            case LedgerVoided(sink=sink):
                self._voided.labels(sync, _sink(sink)).inc()
            case _:
                pass

    def _count_delivery(self, sync: str, event: Event) -> None:
        match event:
            case DocumentsCommitted(sink=sink, documents=documents, records=records):
                self._documents.labels(sync, _sink(sink), "upsert").inc(documents)
                self._points.labels(sync, _sink(sink), "upsert").inc(records)
            case DocumentsDeleted(sink=sink, documents=documents):
                self._documents.labels(sync, _sink(sink), "delete").inc(documents)
            case DocumentRejected(sink=sink):
                self._documents.labels(sync, _sink(sink), "reject").inc()
            case DocumentAltered(sink=sink):
                self._documents.labels(sync, _sink(sink), "alter").inc()
            case _:
                pass

    def _count_trouble(self, sync: str, event: Event) -> None:
        match event:
            case CallRetried(what=what, wait_seconds=wait_seconds):
                self._retries.labels(sync, call_of(what)).inc()
                self._waits.labels(sync).inc(max(0.0, wait_seconds))
            case SinkStopped(sink=sink):
                self._stops.labels(sync, _sink(sink)).inc()
            case SinkFellBehind(sink=sink):
                self._slow.labels(sync, _sink(sink)).inc()
            case _:
                pass

    def _count_embedding(self, sync: str, event: Event) -> None:
        match event:
            case TextsEmbedded(texts=texts, tokens=tokens, reused=reused):
                self._chunks.labels(sync, "embedded").inc(texts)
                self._chunks.labels(sync, "cached").inc(reused)  # those that a job has just stored included
                self._tokens.labels(sync).inc(tokens)
            case JobStored(token=token, texts=texts, missing=missing):
                self._stored.labels(sync).inc()
                self._chunks.labels(sync, "embedded_by_job").inc(texts)
                self._chunks.labels(sync, "missing_in_job").inc(missing)
                self._tokens.labels(sync).inc(self._gauges.forget_job(sync, token))
            case JobFailed(token=token):
                self._failed.labels(sync).inc()
                self._gauges.forget_job(sync, token)
            case JobDropped(token=token):
                self._dropped.labels(sync).inc()
                self._gauges.forget_job(sync, token)
            case DatasetsCleaned(datasets=datasets):
                self._cleaned.labels(sync).inc(datasets)
            case _:
                pass

    def _follow_job(self, sync: str, event: Event) -> None:
        match event:
            case JobPlanned(token=token, tokens=tokens):
                self._gauges.note_job(sync, token, State.PLANNED, tokens=tokens)
            case JobInDoubt(token=token):
                self._doubts.labels(sync).inc()
                self._gauges.note_job(sync, token, State.SUBMITTING)
            case JobStarted(token=token, attempt=attempt, tokens=tokens, adopted=adopted):
                started = self._adopted if adopted else self._started if attempt == 1 else self._resubmitted
                started.labels(sync).inc()
                self._gauges.note_job(sync, token, State.RUNNING, tokens=tokens)
            case JobProgress(token=token, state=state, age_seconds=age_seconds):
                self._gauges.note_job(sync, token, state, age_seconds=age_seconds)
            case JobDuplicated():
                self._duplicates.labels(sync).inc()
            case _:
                pass

    def _count_report(self, sync: str, report: Report) -> None:
        for sink, its in report.sinks.items():
            self._points.labels(sync, sink, "delete").inc(its.deleted)
            self._calls.labels(sync, sink, "upsert").inc(its.upsert_calls)
            self._calls.labels(sync, sink, "delete").inc(its.delete_calls)
        self._billed.labels(sync).inc(report.tokens_billed or 0)
        if report.cost is not None and report.currency is not None:
            self._cost.labels(sync, report.currency).inc(max(0.0, report.cost))


class _WithoutCreated(Collector):
    """A registry without the times at which counters were made: nobody asks, and they double the lines."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith(CREATED)]
            yield family


def _sink(ledger: str) -> str:
    """Give the plain name of a sink: generations come and go, and each would leave its lines behind."""
    return sink_and_number(ledger)[0]

"""One trace of each run, by OpenTelemetry: where its time went. Only if OpenTelemetry's own variables ask for it.

    span             from                              until
    ---------------  --------------------------------  -----------------------------------------------------------
    vsync.run        the run is begun                  it has ended; all others are in it
    vsync.scan       the listing begins                the first thing is done about what it found, or foreseen
    vsync.embed      then                              the last vectors were stored that no job made
    vsync.apply      then, for each sink               its last documents were committed or deleted
    vsync.embed_job  a job was started, or taken over  its vectors were stored, it failed, or the run does not wait

Spans are made of events, which come after each thing is durable: so `embed` and `apply` are the times in which that
went on, side by side, and not the time that it took alone. A sync of several generations has these for each of them.

Attributes are names of ours and counts. A document's id, its text, a reason or an error is in none of them.
Traces go by OTLP over HTTP, to where OTEL_EXPORTER_OTLP_ENDPOINT says; all else that OpenTelemetry reads (headers, the
sampler, OTEL_SERVICE_NAME, ...) holds, too. While nobody asks, not even the library is imported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from connector.config import tracing_is_asked
from connector.events import (
    CallRetried,
    DocumentRejected,
    DocumentsCommitted,
    DocumentsDeleted,
    EmbeddingForeseen,
    Event,
    JobAttemptLost,
    JobDropped,
    JobDuplicated,
    JobFailed,
    JobInDoubt,
    JobPlanned,
    JobProgress,
    JobStarted,
    JobStored,
    LedgerVoided,
    RowsListed,
    RunStarted,
    SinkFellBehind,
    SinkStopped,
    TextsEmbedded,
)
from connector.generations import sink_and_number

from .schedule import ENDED_WELL
from .words import call_of, outcome_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

    from connector.report import Report

SERVICE_NAME: Final = "vector-sync"
UNKNOWN_SERVICE: Final = "unknown_service"  # how OpenTelemetry calls one that the environment gives no name
CLOSE_SECONDS: Final = 5.0
_END_OF_SCAN: Final = (
    EmbeddingForeseen,
    TextsEmbedded,
    JobPlanned,
    JobStarted,
    JobProgress,
    JobStored,
    DocumentsCommitted,
    DocumentsDeleted,
)


class RunTrace(Protocol):
    """The trace of one run. Called by one thread at a time."""

    @property
    def trace_id(self) -> str | None:
        """By which the trace is found, in hexadecimal digits; None: there is none."""
        ...

    def note(self, event: Event) -> None:
        """Note what the run has just done."""
        ...

    def end(self, exit_code: int, report: Report | None = None) -> None:
        """End the trace, however the run ended. Once."""
        ...


class Tracing(Protocol):
    """Where traces go."""

    def run(self, sync: str, trigger: str) -> RunTrace:
        """Begin the trace of a run."""
        ...

    def close(self) -> None:
        """Send what is not sent yet, for a few seconds at most."""
        ...


def open_tracing(
    *,
    version: str,
    tell: Callable[[str], object],
    is_asked: Callable[[], bool] = tracing_is_asked,
    exporter: SpanExporter | None = None,
    clock: Callable[[], int] = time.time_ns,
) -> Tracing:
    """Open tracing if the environment asks for it; if that cannot be, `tell` why, and go on without."""
    if not is_asked():
        return NoTracing()
    try:
        return _OpenTelemetry(_provider(version, exporter), clock)
    except ImportError:
        tell('runs are not traced, though the environment asks for it: pip install "vector-sync[otel]"')
    except Exception as error:  # noqa: BLE001 - an address or number that the library cannot read; the syncs go on
        tell(f"runs are not traced: what OpenTelemetry's variables say cannot work: {error}")
    return NoTracing()


class NoTracing:
    """Nobody has asked for traces."""

    trace_id = None

    def run(self, sync: str, trigger: str) -> RunTrace:  # noqa: ARG002 - as `Tracing`
        return self

    def note(self, event: Event) -> None:
        """Note nothing."""

    def end(self, exit_code: int, report: Report | None = None) -> None:
        """End nothing."""

    def close(self) -> None:
        """Send nothing."""


def _provider(version: str, exporter: SpanExporter | None) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create({"service.version": version})
    if str(resource.attributes.get("service.name", UNKNOWN_SERVICE)).startswith(UNKNOWN_SERVICE):
        resource = resource.merge(Resource({"service.name": SERVICE_NAME}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    return provider


class _OpenTelemetry:
    """Sends traces by OTLP."""

    def __init__(self, provider: TracerProvider, clock: Callable[[], int]) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE_NAME)
        self._clock = clock

    def run(self, sync: str, trigger: str) -> RunTrace:
        return _Run(self._tracer, self._clock, sync, trigger)

    def close(self) -> None:
        # The library's own limit is half a minute, and the service has less left than that.
        closing = threading.Thread(target=self._provider.shutdown, name="close tracing", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


@dataclass(slots=True)
class _Stretch:
    """The time in which something went on, and how much of it."""

    started_at: int
    ended_at: int
    counts: dict[str, int] = field(default_factory=dict)
    is_well: bool = True

    def add(self, now: int, **counts: int) -> None:
        self.ended_at = now
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count


class _Run:
    """One run's spans."""

    def __init__(self, tracer: Tracer, clock: Callable[[], int], sync: str, trigger: str) -> None:
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - an extra

        self._tracer, self._clock = tracer, clock
        self._names: dict[str, str | int] = {"vsync.sync": sync}
        self._root = tracer.start_span(
            "vsync.run", start_time=clock(), attributes={**self._names, "vsync.trigger": trigger}
        )
        self._context = set_span_in_context(self._root)
        self._scan: _Stretch | None = None
        self._acting_since: int | None = None  # the scan is over
        self._embed: _Stretch | None = None
        self._sinks: dict[str, _Stretch] = {}
        self._jobs: dict[str, Span] = {}

    @property
    def trace_id(self) -> str | None:
        context = self._root.get_span_context()
        return f"{context.trace_id:032x}" if context.trace_flags.sampled else None

    def note(self, event: Event) -> None:
        now = self._clock()
        if isinstance(event, _END_OF_SCAN) and self._scan is not None:
            self._end_scan(now)
        self._note_scan(event, now)
        self._note_work(event, now)
        self._note_job(event, now)
        self._note_trouble(event, now)

    def end(self, exit_code: int, report: Report | None = None) -> None:
        now = self._clock()
        self._end_stretches(now)
        for token in [*self._jobs]:
            self._end_job(token, now, "open")
        told: dict[str, str | int] = {"vsync.exit_code": int(exit_code), "vsync.outcome": outcome_of(exit_code)}
        if report is not None:
            told["vsync.run_id"] = report.run_id
            told["vsync.generation"] = report.generation
            told |= {f"vsync.documents.{change}": count for change, count in asdict(report.counts).items()}
            told |= {
                "vsync.texts_embedded": report.texts_embedded,
                "vsync.texts_reused": report.texts_reused,
                "vsync.tokens_embedded": report.tokens_embedded,
            }
            if report.tokens_billed is not None:
                told["vsync.tokens_billed"] = report.tokens_billed
        self._root.set_attributes(told)
        if exit_code not in ENDED_WELL:
            _mark_failed(self._root, outcome_of(exit_code))
        self._root.end(end_time=now)

    # --- what events tell -------------------------------------------------------------------------

    def _note_scan(self, event: Event, now: int) -> None:
        match event:
            case RunStarted(run_id=run_id):  # of each generation
                self._end_stretches(now)
                self._names["vsync.run_id"] = run_id
                self._scan = _Stretch(now, now)
            case RowsListed(rows=rows, unchanged=unchanged) if self._scan is not None:
                self._scan.counts = {"rows": rows, "unchanged": unchanged}
            case EmbeddingForeseen(texts=texts, tokens=tokens, way=way):
                foreseen: dict[str, str | int] = {"vsync.texts": texts, "vsync.tokens": tokens, "vsync.way": way}
                self._root.add_event("embedding foreseen", foreseen, timestamp=now)
            case _:
                pass

    def _note_work(self, event: Event, now: int) -> None:
        match event:
            case TextsEmbedded(texts=texts, tokens=tokens, reused=reused):
                if self._embed is None:
                    self._embed = _Stretch(self._acting_since or now, now)
                self._embed.add(now, texts=texts, tokens=tokens, reused=reused, calls=1 if texts else 0)
            case DocumentsCommitted(sink=sink, documents=documents, records=records):
                self._sink(sink, now).add(now, documents=documents, records=records)
            case DocumentsDeleted(sink=sink, documents=documents):
                self._sink(sink, now).add(now, deleted=documents)
            case DocumentRejected(sink=sink) if sink:
                self._sink(sink, now).add(now, rejected=1)
            case SinkStopped(sink=sink):
                stretch = self._sink(sink, now)
                stretch.add(now)
                stretch.is_well = False
            case _:
                pass

    def _note_job(self, event: Event, now: int) -> None:
        match event:
            case JobStarted(token=token, job_id=id, attempt=attempt, texts=texts, tokens=tokens, adopted=adopted):
                self._end_job(token, now, "lost")
                self._jobs[token] = self._start(
                    "vsync.embed_job",
                    now,
                    {
                        "vsync.job.id": id,
                        "vsync.job.token": token,
                        "vsync.job.attempt": attempt,
                        "vsync.job.adopted": adopted,
                        "vsync.texts": texts,
                        "vsync.tokens": tokens,
                    },
                )
            case JobStored(token=token, missing=missing, left_out=left_out, billed_tokens=billed):
                counts = {"vsync.missing": missing, "vsync.left_out": left_out}
                self._end_job(
                    token, now, "stored", counts | ({} if billed is None else {"vsync.tokens_billed": billed})
                )
            case JobAttemptLost(token=token):
                self._end_job(token, now, "lost")
            case JobFailed(token=token):
                self._end_job(token, now, "failed")
            case JobDropped(token=token):
                self._end_job(token, now, "dropped")
            case _:
                pass

    def _note_trouble(self, event: Event, now: int) -> None:
        match event:
            case CallRetried(what=what, wait_seconds=wait_seconds):
                told: dict[str, str | float] = {"vsync.call": call_of(what), "vsync.wait_seconds": wait_seconds}
                self._root.add_event("call retried", told, timestamp=now)
            case SinkStopped(sink=sink) | SinkFellBehind(sink=sink) | LedgerVoided(sink=sink):
                name = {SinkStopped: "sink stopped", SinkFellBehind: "sink fell behind", LedgerVoided: "ledger voided"}
                self._root.add_event(name[type(event)], {"vsync.sink": sink_and_number(sink)[0]}, timestamp=now)
            case JobInDoubt(token=token):
                self._root.add_event("job in doubt", {"vsync.job.token": token}, timestamp=now)
            case JobDuplicated(token=token, job_id=id):
                told_of = {"vsync.job.token": token, "vsync.job.id": id}
                self._root.add_event("job duplicated", told_of, timestamp=now)
            case _:
                pass

    # --- spans ------------------------------------------------------------------------------------

    def _sink(self, ledger: str, now: int) -> _Stretch:
        return self._sinks.setdefault(ledger, _Stretch(self._acting_since or now, now))

    def _end_scan(self, now: int) -> None:
        if self._scan is not None:
            self._scan.ended_at = self._acting_since = now
            self._keep("vsync.scan", self._scan)
            self._scan = None

    def _end_stretches(self, now: int) -> None:
        """End what is told of one generation."""
        self._end_scan(now)
        if self._embed is not None:
            self._keep("vsync.embed", self._embed)
        for ledger, stretch in self._sinks.items():
            sink, generation = sink_and_number(ledger)
            self._keep("vsync.apply", stretch, {"vsync.sink": sink, "vsync.generation": generation})
        self._acting_since, self._embed, self._sinks = None, None, {}

    def _keep(self, name: str, stretch: _Stretch, attributes: dict[str, str | int] | None = None) -> None:
        counts = {f"vsync.{name}": count for name, count in stretch.counts.items()}
        span = self._start(name, stretch.started_at, {**(attributes or {}), **counts})
        if not stretch.is_well:
            _mark_failed(span, "stopped")
        span.end(end_time=stretch.ended_at)

    def _start(self, name: str, at: int, attributes: dict[str, str | int]) -> Span:
        return self._tracer.start_span(name, self._context, start_time=at, attributes={**self._names, **attributes})

    def _end_job(self, token: str, now: int, outcome: str, counts: dict[str, int] | None = None) -> None:
        if (span := self._jobs.pop(token, None)) is None:
            return  # it was started by an earlier run, and nobody knows when
        span.set_attributes({"vsync.job.outcome": outcome, **(counts or {})})
        if outcome not in ("stored", "open"):
            _mark_failed(span, outcome)
        span.end(end_time=now)


def _mark_failed(span: Span, why: str) -> None:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - an extra

    span.set_status(Status(StatusCode.ERROR, why))

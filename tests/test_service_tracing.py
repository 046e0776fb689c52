"""Traces of runs: what they tell, what they never tell, and that nothing is there that nobody asked for."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from rig import Rig

from connector import events
from connector.config import tracing_is_asked
from connector.errors import ExitCode
from connector.model import DocumentId
from connector.report import Counts, Report, SinkReport
from connector.service import tracing
from connector.service.tracing import NoTracing, RunTrace, Tracing, open_tracing

SECOND = 1_000_000_000
PATIENCE_SECONDS = 30.0
SECRET = "of a document"


@dataclass
class Traced:
    """A service whose traces stay in memory; each look at its clock is a second after the one before."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    ticks: Iterator[int] = field(default_factory=count)
    lines: list[str] = field(default_factory=list)
    tracing: Tracing = field(init=False)

    def __post_init__(self) -> None:
        self.tracing = open_tracing(
            version="1.2.3",
            tell=self.lines.append,
            is_asked=lambda: True,
            exporter=self.exporter,
            clock=lambda: next(self.ticks) * SECOND,
        )

    def spans(self) -> list[ReadableSpan]:
        self.tracing.close()
        assert self.lines == []
        return sorted(self.exporter.get_finished_spans(), key=lambda span: (span.start_time or 0, span.name))


def run(told: Sequence[events.Event], exit_code: int = 0, report: Report | None = None) -> list[ReadableSpan]:
    """The spans of one run. It begins at second 0, and each event comes a second after the one before."""
    traced = Traced()
    trace = traced.tracing.run("docs", "interval")
    for event in told:
        trace.note(event)
    trace.end(exit_code, report)
    return traced.spans()


def only(spans: Sequence[ReadableSpan], name: str, **attributes: object) -> ReadableSpan:
    (found,) = [
        span
        for span in spans
        if span.name == name
        and all((span.attributes or {}).get(f"vsync.{key}") == value for key, value in attributes.items())
    ]
    return found


def seconds(span: ReadableSpan) -> tuple[float, float]:
    return (span.start_time or 0) / SECOND, (span.end_time or 0) / SECOND


def told_of(span: ReadableSpan) -> dict[str, object]:
    return {name.removeprefix("vsync."): value for name, value in (span.attributes or {}).items()}


REPORT = Report(
    Counts(added=2, unchanged=7, rejected=1),
    texts_embedded=5,
    texts_reused=1,
    tokens_embedded=500,
    sinks={"main": SinkReport(upserted=4)},
    seconds=1.5,
    exit_code=ExitCode.REJECTED,
    run_id=7,
    tokens_billed=510,
)


# --- what a trace tells -----------------------------------------------------------------------------


def test_a_run_is_one_trace_with_a_span_for_each_thing_that_it_did() -> None:
    spans = run(
        [
            events.RunStarted(7, {"main": 10}),  # 1
            events.RowsListed(5, 4, 0.5),
            events.TextsEmbedded(3, 300, 1),  # 3
            events.DocumentsCommitted("main", 1, 4),  # 4
            events.RowsListed(10, 9, 1.0),
            events.TextsEmbedded(0, 0, 2),  # 6
            events.DocumentsCommitted("cloud", 1, 4),
            events.DocumentsCommitted("main", 1, 5),
            events.DocumentRejected("main", DocumentId(f"id {SECRET}"), f"reason {SECRET}"),
            events.DocumentsDeleted("main", 2),  # 10
        ],
        ExitCode.REJECTED,
        REPORT,
    )
    root, scan, embed = only(spans, "vsync.run"), only(spans, "vsync.scan"), only(spans, "vsync.embed")
    main, cloud = only(spans, "vsync.apply", sink="main"), only(spans, "vsync.apply", sink="cloud")
    assert len(spans) == 5
    assert [seconds(span) for span in (root, scan, embed, main, cloud)] == [(0, 11), (1, 3), (3, 6), (3, 10), (3, 7)]
    assert len({span.context.trace_id for span in spans if span.context}) == 1
    assert {span.parent and span.parent.span_id for span in spans} == {None, root.context and root.context.span_id}
    assert told_of(scan) == {"sync": "docs", "run_id": 7, "rows": 5, "unchanged": 4}
    assert told_of(embed) == {"sync": "docs", "run_id": 7, "texts": 3, "tokens": 300, "reused": 3, "calls": 1}
    counts = {"documents": 2, "records": 9, "rejected": 1, "deleted": 2}
    assert told_of(main) == {"sync": "docs", "run_id": 7, "sink": "main", "generation": 1, **counts}
    assert told_of(root) == {
        "sync": "docs",
        "trigger": "interval",
        "run_id": 7,
        "generation": 1,
        "exit_code": 1,
        "outcome": "rejected",
        "documents.added": 2,
        "documents.changed": 0,
        "documents.metadata_only": 0,
        "documents.moved": 0,
        "documents.deleted": 0,
        "documents.unchanged": 7,
        "documents.rejected": 1,
        "texts_embedded": 5,
        "texts_reused": 1,
        "tokens_embedded": 500,
        "tokens_billed": 510,
    }
    assert root.status.status_code is StatusCode.UNSET


def test_a_run_that_finds_nothing_to_do_has_a_scan_until_its_end() -> None:
    spans = run([events.RunStarted(7, {}), events.RowsListed(9, 9, 1.0)])
    assert [(span.name, seconds(span)) for span in spans] == [("vsync.run", (0, 3)), ("vsync.scan", (1, 3))]


def test_a_run_that_ends_by_an_error_before_it_began_is_a_trace_too() -> None:
    (root,) = run([], ExitCode.CONFIG)
    assert (root.status.status_code, root.status.description) == (StatusCode.ERROR, "config")
    assert told_of(root) == {"sync": "docs", "trigger": "interval", "exit_code": 2, "outcome": "config"}


def test_a_scan_ends_when_it_is_foreseen_what_is_to_be_embedded() -> None:
    spans = run([events.RunStarted(7, {}), events.EmbeddingForeseen(9, 900, "jobs", f"because {SECRET}")])
    assert seconds(only(spans, "vsync.scan")) == (1, 2)
    (foreseen,) = only(spans, "vsync.run").events
    assert (foreseen.name, foreseen.timestamp) == ("embedding foreseen", 2 * SECOND)
    assert dict(foreseen.attributes or {}) == {"vsync.texts": 9, "vsync.tokens": 900, "vsync.way": "jobs"}


def test_embed_jobs_have_spans_from_their_start_to_their_end() -> None:
    spans = run(
        [
            events.RunStarted(7, {}),
            events.JobPlanned("a", 100, 9000),
            events.JobInDoubt("a", f"error {SECRET}"),
            events.JobStarted("a", "job-1", 1, 100, 9000, adopted=False),  # 4
            events.JobStarted("b", "job-2", 1, 50, 4500, adopted=True),
            events.JobStarted("c", "job-3", 1, 5, 450, adopted=False),
            events.JobAttemptLost("a", 1, f"reason {SECRET}"),  # 7
            events.JobStarted("a", "job-4", 2, 100, 9000, adopted=False),  # 8
            events.JobProgress("c", "running", "job-3", 0.5, 60.0),
            events.JobDuplicated("a", "job-5"),
            events.JobStored("a", 99, 1, 2, 9100),  # 11
            events.JobFailed("b", 50, f"reason {SECRET}"),  # 12
            events.JobStored("unknown", 1, 0, 0, None),  # started by a run before this one
        ],
        ExitCode.BEHIND,
    )
    jobs = [span for span in spans if span.name == "vsync.embed_job"]
    assert [(told_of(job)["job.id"], told_of(job)["job.outcome"], seconds(job)) for job in jobs] == [
        ("job-1", "lost", (4, 7)),
        ("job-2", "failed", (5, 12)),
        ("job-3", "open", (6, 14)),
        ("job-4", "stored", (8, 11)),
    ]
    assert [job.status.status_code is StatusCode.ERROR for job in jobs] == [True, True, False, False]
    assert told_of(jobs[3]) == {
        "sync": "docs",
        "run_id": 7,
        "job.id": "job-4",
        "job.token": "a",
        "job.attempt": 2,
        "job.adopted": False,
        "job.outcome": "stored",
        "texts": 100,
        "tokens": 9000,
        "missing": 1,
        "left_out": 2,
        "tokens_billed": 9100,
    }
    assert [event.name for event in only(spans, "vsync.run").events] == ["job in doubt", "job duplicated"]
    assert only(spans, "vsync.run").status.description == "behind"


def test_a_sync_of_several_generations_has_spans_for_each() -> None:
    spans = run(
        [
            events.RunStarted(7, {}),
            events.DocumentsCommitted("main", 1, 4),
            events.RunStarted(8, {}),  # 3
            events.TextsEmbedded(1, 10, 0),
            events.DocumentsCommitted("main@2", 1, 5),
        ]
    )
    assert seconds(only(spans, "vsync.scan", run_id=7)) == (1, 2)
    assert seconds(only(spans, "vsync.scan", run_id=8)) == (3, 4)
    assert told_of(only(spans, "vsync.apply", run_id=7))["generation"] == 1
    second = told_of(only(spans, "vsync.apply", run_id=8))
    assert (second["sink"], second["generation"], second["records"]) == ("main", 2, 5)


def test_trouble_is_told_where_it_happened_and_without_its_words() -> None:
    spans = run(
        [
            events.RunStarted(7, {}),
            events.CallRetried(f"upsert 9 records {SECRET}", f"error {SECRET}", 0.5),
            events.SinkFellBehind("main"),
            events.LedgerVoided("main@2", 9),
            events.SinkStopped("main", f"error {SECRET}"),
        ],
        ExitCode.BEHIND,
    )
    apply = only(spans, "vsync.apply")
    assert (apply.status.status_code, apply.status.description) == (StatusCode.ERROR, "stopped")
    assert [(event.name, dict(event.attributes or {})) for event in only(spans, "vsync.run").events] == [
        ("call retried", {"vsync.call": "upsert", "vsync.wait_seconds": 0.5}),
        ("sink fell behind", {"vsync.sink": "main"}),
        ("ledger voided", {"vsync.sink": "main"}),
        ("sink stopped", {"vsync.sink": "main"}),
    ]
    assert SECRET not in "".join(span.to_json() for span in spans)


def test_a_trace_is_found_by_the_id_that_the_log_has() -> None:
    traced = Traced()
    trace = traced.tracing.run("docs", "request")
    trace.end(0)
    (root,) = traced.spans()
    assert root.context
    assert trace.trace_id == f"{root.context.trace_id:032x}"
    assert dict(root.resource.attributes) | {"service.name": "vector-sync", "service.version": "1.2.3"} == dict(
        root.resource.attributes
    )


def test_a_real_run_has_its_spans_within_it(tmp_path: Path) -> None:
    traced = Traced()
    trace = traced.tracing.run("docs", "start")
    report = Rig(tmp_path, emit=trace.note).sync({f"{number}": f"{SECRET} {number}" for number in range(30)})
    trace.end(report.exit_code, report)
    spans = traced.spans()
    assert [span.name for span in spans] == ["vsync.run", "vsync.scan", "vsync.apply", "vsync.embed"]
    (began, ended), *others = map(seconds, spans)
    assert all(began < start <= end < ended for start, end in others)
    assert told_of(only(spans, "vsync.apply"))["documents"] == 30
    assert told_of(only(spans, "vsync.embed"))["texts"] == report.texts_embedded
    assert SECRET not in "".join(span.to_json() for span in spans)


# --- whether there is any ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables, asked",
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console, OTLP"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"OTEL_SDK_DISABLED": "True", "OTEL_TRACES_EXPORTER": "otlp"}, False),
        ({"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_SERVICE_NAME": "mine"}, False),
    ],
)
def test_the_standard_variables_ask_for_traces(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], asked: bool
) -> None:
    for name in ("SDK_DISABLED", "TRACES_EXPORTER", "EXPORTER_OTLP_ENDPOINT", "EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tracing_is_asked() == asked


def test_nothing_is_imported_that_nobody_asked_for() -> None:
    program = (
        "import sys; from connector.service.tracing import open_tracing\n"
        "trace = open_tracing(version='1', tell=print, is_asked=lambda: False).run('docs', 'start')\n"
        "trace.end(0); assert trace.trace_id is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize(
    "missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"]
)
def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    lines: list[str] = []
    opened = open_tracing(version="1", tell=lines.append, is_asked=lambda: True)
    assert isinstance(opened, NoTracing)
    assert lines == ['runs are not traced, though the environment asks for it: pip install "vector-sync[otel]"']


def test_variables_that_cannot_work_do_not_end_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0")
    lines: list[str] = []
    opened = open_tracing(version="1", tell=lines.append, is_asked=lambda: True)
    assert isinstance(opened, NoTracing)
    assert "what OpenTelemetry's variables say cannot work" in lines[0]


def test_no_tracing_keeps_the_same_promises() -> None:
    traces: Tracing = NoTracing()
    trace: RunTrace = traces.run("docs", "start")
    trace.note(events.RunStarted(1, {}))
    trace.end(0)
    traces.close()


def test_a_collector_that_never_answers_holds_the_end_of_the_service_up_for_seconds_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_over = threading.Event()

    class Stuck(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            is_over.wait(PATIENCE_SECONDS)
            return SpanExportResult.FAILURE

    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.05)
    opened = open_tracing(version="1", tell=print, is_asked=lambda: True, exporter=Stuck())
    opened.run("docs", "start").end(0)
    opened.close()  # comes back
    is_over.set()


# --- over the wire ----------------------------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[tuple[str, Callable[[], ExportTraceServiceRequest]]]:
    """A server that takes OTLP over HTTP: its address, and what waits for the first request."""
    received: list[ExportTraceServiceRequest] = []
    has_come = threading.Event()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            assert self.headers["content-type"] == "application/x-protobuf"
            assert self.headers["x-tenant"] == "ours"
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            has_come.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    def first() -> ExportTraceServiceRequest:
        assert has_come.wait(PATIENCE_SECONDS)
        return received[0]

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}", first
        server.shutdown()
        serving.join(PATIENCE_SECONDS)


def test_a_collector_gets_the_trace_by_otlp_over_http(
    monkeypatch: pytest.MonkeyPatch, collector: tuple[str, Callable[[], ExportTraceServiceRequest]]
) -> None:
    url, first_request = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=ours")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "our-syncs")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    lines: list[str] = []
    opened = open_tracing(version="1.2.3", tell=lines.append)
    trace = opened.run("docs", "cron")
    for event in (events.RunStarted(7, {}), events.TextsEmbedded(3, 300, 0), events.DocumentsCommitted("main", 1, 4)):
        trace.note(event)
    trace.end(0, REPORT)
    opened.close()
    (resource_spans,) = first_request().resource_spans
    told = {pair.key: pair.value.string_value for pair in resource_spans.resource.attributes}
    assert (told["service.name"], told["service.version"]) == ("our-syncs", "1.2.3")
    (scope,) = resource_spans.scope_spans
    spans = {span.name: span for span in scope.spans}
    assert set(spans) == {"vsync.run", "vsync.scan", "vsync.embed", "vsync.apply"}
    root = spans["vsync.run"]
    assert root.trace_id.hex() == trace.trace_id
    assert {span.parent_span_id for span in spans.values()} == {b"", root.span_id}
    attributes = {pair.key: pair.value for pair in root.attributes}
    assert attributes["vsync.trigger"].string_value == "cron"
    assert attributes["vsync.documents.added"].int_value == 2
    assert lines == []

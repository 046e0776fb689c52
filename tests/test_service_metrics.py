"""What Prometheus is told: that it can read it, that it is right, and that it does not grow with the documents."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rig import Rig

from connector import __version__, events
from connector.checkpoint import LedgerStatus, Run
from connector.drift import Drift, Finding, SinkFindings, Verified
from connector.engine import Options
from connector.errors import BUG, ExitCode
from connector.inspection import Status
from connector.model import DocumentId
from connector.report import Counts, Report, SinkReport
from connector.service.metrics import Metrics

ROOT = Path(__file__).parent.parent
ALERTS, ALERT_TESTS = ROOT / "docs" / "alerts.yml", ROOT / "tests" / "alerts_test.yml"
START = 1_800_000_000.0


@dataclass
class Clock:
    """A wall clock that stands still until it is moved."""

    time: float = START

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock, tmp_path: Path) -> Metrics:
    made = Metrics(version=__version__, now=clock)
    made.add("docs", state_path=tmp_path, longest_wait_seconds=330)
    return made


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All that is told, as Prometheus' own parser reads it."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, sync: str = "docs", **labels: str) -> float | None:
    return samples(metrics).get((name, tuple(sorted({"sync": sync, **labels}.items()))))


def report(sinks: dict[str, SinkReport] | None = None) -> Report:
    return Report(Counts(added=2, unchanged=7), 5, 1, 500, sinks or {"main": SinkReport()}, 1.5, ExitCode.IN_STEP)


def status(*sinks: LedgerStatus, runs: tuple[Run, ...] = (), jobs: int = 0, oldest: int | None = None) -> Status:
    return Status(
        sinks, runs, vectors=40, vectors_bytes=1000, running=None, open_jobs=jobs, oldest_open_job_seconds=oldest
    )


def of_every_kind(number: int, *, sink: str = "main") -> Iterator[events.Event]:
    """One event of each kind, of documents and jobs that no other number has."""
    id, token = DocumentId(f"document-{number}"), f"token-{number}"
    yield events.RunStarted(number, {sink: number})
    yield events.RowsListed(10, 9, 0.5)
    yield events.TextsEmbedded(3, 300, 2)
    yield events.DocumentsCommitted(sink, 1, 4)
    yield events.DocumentsDeleted(sink, 1)
    yield events.DocumentRejected(sink, id, f"reason-{number}")
    yield events.DocumentAltered(sink, id, (f"alteration-{number}",))
    yield events.PlaceUnreadable(f"place-{number}", "why")
    yield events.CallRetried(f"upsert {number} records into {sink}", f"error-{number}", 0.5)
    yield events.CallRetried(f"frobnicate-{number}", "error", 0.25)
    yield events.SinkStopped(sink, f"error-{number}")
    yield events.SinkFellBehind(sink)
    yield events.LedgerVoided(sink, number)
    yield events.EmbeddingForeseen(3, 300, "jobs", f"reason-{number}")
    yield events.JobPlanned(token, 100, 9000)
    yield events.JobInDoubt(token, f"error-{number}")
    yield events.JobStarted(token, f"job-{number}", 1, 100, 9000, adopted=False)
    yield events.JobStarted(token, f"job-{number}", 2, 100, 9000, adopted=False)
    yield events.JobStarted(token, f"job-{number}", 2, 100, 9000, adopted=True)
    yield events.JobProgress(token, "running", f"job-{number}", 0.5, 60.0)
    yield events.JobAttemptLost(token, 1, f"reason-{number}")
    yield events.JobUrgent(token, 26.0)
    yield events.JobDuplicated(token, f"job-{number}b")
    yield events.JobStored(token, 99, 1, 0, 9100)
    yield events.JobFailed(f"{token}-failed", 5, "why")
    yield events.JobDropped(f"{token}-dropped", 5, "why")
    yield events.DatasetsCleaned(2)


# --- what Prometheus reads --------------------------------------------------------------------------


def feed(metrics: Metrics, number: int) -> None:
    """Let everything happen that can, with names that no other number has."""
    for event in of_every_kind(number, sink="main" if number % 2 else f"main@{number}"):
        metrics.count("docs", event)
    metrics.note_run(
        "docs", report({"main": SinkReport(upserted=4, behind=1, drift=2)}), ExitCode.BEHIND, 1.5, START + number
    )
    metrics.note_standing("docs", status(LedgerStatus("main", 10, 40, 1, 2), jobs=1, oldest=60))
    findings = SinkFindings(f"main@{number + 2}")
    findings.add(Finding(Drift.MISSING, f"record-{number}", DocumentId(f"document-{number}")))
    metrics.note_verified("docs", Verified((findings,)))
    metrics.note_request("GET", "/status", 200, 0.01)
    metrics.note_request(f"WEIRD{number}", "none", 404, 0.01)


def test_every_kind_of_event_is_fed_to_these_tests() -> None:
    assert {type(event) for event in of_every_kind(1)} == set(get_args(events.Event))


def test_no_label_and_no_number_of_lines_depends_on_the_documents(metrics: Metrics) -> None:
    feed(metrics, 1)
    feed(metrics, 2)
    before = set(samples(metrics))
    for number in range(3, 300):
        feed(metrics, number)
    after = set(samples(metrics))
    assert after == before
    told = " ".join(label for _, labels in after for _, label in labels)
    assert not re.search(r"(document|token|reason|error|place|job|record|alteration|frobnicate|WEIRD)-?\d", told)


def test_labels_are_few_and_known(metrics: Metrics) -> None:
    feed(metrics, 1)
    of_things = {"sync", "sink", "generation", "state", "op", "change", "outcome", "call", "currency", "kind", "file"}
    ours = {label for name, labels in samples(metrics) if name.startswith("vsync_") for label, _ in labels}
    assert ours <= of_things | {"le", "method", "route", "status", "version", "sqlite", "python"}


def test_names_have_their_prefix_and_counters_their_suffix(metrics: Metrics) -> None:
    feed(metrics, 1)
    for family in text_string_to_metric_families(metrics.text().decode()):
        assert family.name.startswith(("vsync_", "process_", "python_")), family.name
        assert family.documentation
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        assert not family.name.endswith("_created")


def test_the_process_and_the_files_of_the_state_are_told(metrics: Metrics, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.db").write_bytes(b"x" * 100)
    (tmp_path / "vectors.db-wal").write_bytes(b"x" * 7)
    names = {name for name, _ in samples(metrics)}
    assert {"process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds", "python_info"} <= names
    assert value(metrics, "vsync_state_bytes", file="checkpoint.db") == 100
    assert value(metrics, "vsync_state_bytes", file="vectors.db") == 0
    assert value(metrics, "vsync_wal_bytes", file="vectors.db") == 7


def promtool(*arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[str]:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed, so Prometheus' own word is missing: apt-get install prometheus")
    return subprocess.run([found, *arguments], input=text.decode(), capture_output=True, text=True, check=False)


def test_promtool_has_no_objection_to_the_metrics(metrics: Metrics) -> None:
    feed(metrics, 1)
    checked = promtool("check", "metrics", text=metrics.text())
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_promtool_accepts_the_alerts_and_they_fire_when_they_should() -> None:
    checked = promtool("check", "rules", str(ALERTS))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", str(ALERT_TESTS))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_alerts_ask_for_metrics_that_there_are_from_the_start(metrics: Metrics) -> None:
    metrics.note_standing("docs", status(LedgerStatus("main", 0, 0, 0, 0)))
    expressions = re.findall(r"expr: (?s:.*?)\n {8}\w", ALERTS.read_text())
    asked = {name for expression in expressions for name in re.findall(r"(?:vsync|process)_\w+", expression)}
    assert len(expressions) == 5
    assert asked <= {name for name, _ in samples(metrics)}


# --- that it is right -------------------------------------------------------------------------------


def test_what_events_tell_is_counted_as_it_happens(metrics: Metrics) -> None:
    for number in (1, 2):
        for event in of_every_kind(number):
            metrics.count("docs", event)
    expected: dict[tuple[str, *tuple[tuple[str, str], ...]], float] = {
        ("vsync_scanned_rows_total",): 20,
        ("vsync_unreadable_places_total",): 2,
        ("vsync_sink_points_total", ("sink", "main"), ("op", "upsert")): 8,
        ("vsync_sink_documents_total", ("sink", "main"), ("op", "upsert")): 2,
        ("vsync_sink_documents_total", ("sink", "main"), ("op", "delete")): 2,
        ("vsync_sink_documents_total", ("sink", "main"), ("op", "reject")): 2,
        ("vsync_sink_documents_total", ("sink", "main"), ("op", "alter")): 2,
        ("vsync_sink_stops_total", ("sink", "main")): 2,
        ("vsync_sink_fell_behind_total", ("sink", "main")): 2,
        ("vsync_ledgers_voided_total", ("sink", "main")): 2,
        ("vsync_retries_total", ("call", "upsert")): 2,
        ("vsync_retries_total", ("call", "other")): 2,
        ("vsync_retry_wait_seconds_total",): 1.5,
        ("vsync_embed_chunks_total", ("outcome", "embedded")): 6,
        ("vsync_embed_chunks_total", ("outcome", "cached")): 4,
        ("vsync_embed_chunks_total", ("outcome", "embedded_by_job")): 198,
        ("vsync_embed_chunks_total", ("outcome", "missing_in_job")): 2,
        ("vsync_embed_tokens_total",): 600 + 18_000,
        ("vsync_embed_jobs_started_total",): 2,
        ("vsync_embed_jobs_resubmitted_total",): 2,
        ("vsync_embed_jobs_adopted_total",): 2,
        ("vsync_embed_jobs_in_doubt_total",): 2,
        ("vsync_embed_jobs_stored_total",): 2,
        ("vsync_embed_jobs_failed_total",): 2,
        ("vsync_embed_jobs_dropped_total",): 2,
        ("vsync_duplicate_jobs_total",): 2,
        ("vsync_embed_datasets_cleaned_total",): 4,
    }
    for (name, *labels), count in expected.items():
        assert value(metrics, name, **dict(labels)) == count, (name, labels)


def test_a_real_run_is_told_as_its_report_has_it(metrics: Metrics, tmp_path: Path) -> None:
    rig = Rig(tmp_path / "rig", emit=lambda event: metrics.count("docs", event))
    whole = rig.sync({f"{number}": f"the text of number {number}" for number in range(30)})
    metrics.note_run("docs", whole, whole.exit_code, whole.seconds, START)
    changed = rig.sync({"1": "another text", "2": "the text of number 2"}, Options(threads=False, confirm_deletes=28))
    metrics.note_run("docs", changed, changed.exit_code, changed.seconds, START + 1)
    assert (whole.counts.added, changed.counts.changed, changed.counts.deleted) == (30, 1, 28)
    assert value(metrics, "vsync_scanned_rows_total") == 32
    assert value(metrics, "vsync_scan_documents_total", change="deleted") == 28
    records = whole.sinks["main"].upserted + changed.sinks["main"].upserted
    assert value(metrics, "vsync_sink_points_total", sink="main", op="upsert") == records
    assert value(metrics, "vsync_sink_documents_total", sink="main", op="delete") == 28
    embedded = whole.texts_embedded + changed.texts_embedded
    assert value(metrics, "vsync_embed_chunks_total", outcome="embedded") == embedded > 30
    assert value(metrics, "vsync_embed_tokens_total") == whole.tokens_embedded + changed.tokens_embedded
    assert value(metrics, "vsync_runs_total", outcome="in_step") == 2


def test_rows_are_counted_across_the_walks_and_generations_of_a_run(metrics: Metrics) -> None:
    for event in (
        events.RunStarted(1, {}),
        events.RowsListed(100, 0, 0.5),
        events.RowsListed(150, 0, 1.0),
        events.RunStarted(2, {}),
        events.RowsListed(150, 0, 1.0),
    ):
        metrics.count("docs", event)
    assert value(metrics, "vsync_scanned_rows_total") == 300


def test_a_run_is_counted_by_how_it_ended(metrics: Metrics) -> None:
    sinks = {"main": SinkReport(deleted=3, upsert_calls=2, delete_calls=1)}
    whole = replace(report(sinks), tokens_billed=1000, cost=0.1, currency="USD")
    metrics.note_run("docs", replace(whole, others=(whole,)), ExitCode.IN_STEP, 2.0, START + 2)
    metrics.note_run("docs", None, BUG, 0.1, START + 3)
    metrics.note_run("docs", None, 99, 0.1, START + 3)
    assert value(metrics, "vsync_runs_total", outcome="in_step") == 1
    assert value(metrics, "vsync_runs_total", outcome="bug") == 1
    assert value(metrics, "vsync_runs_total", outcome="other") == 1
    assert value(metrics, "vsync_run_duration_seconds_sum", outcome="in_step") == 2.0
    assert value(metrics, "vsync_scan_documents_total", change="added") == 2
    assert value(metrics, "vsync_sink_points_total", sink="main", op="delete") == 6  # with the other generation's
    assert value(metrics, "vsync_sink_requests_total", sink="main", op="upsert") == 4
    assert value(metrics, "vsync_embed_billed_units_total") == 2000
    assert value(metrics, "vsync_embed_cost_total", currency="USD") == pytest.approx(0.2)


def test_the_last_success_is_the_last_run_that_left_all_in_step_that_can_be(metrics: Metrics) -> None:
    assert value(metrics, "vsync_last_success_timestamp_seconds") == 0
    assert value(metrics, "vsync_last_run_timestamp_seconds") is None
    metrics.note_run("docs", report(), ExitCode.REJECTED, 1, START + 10)
    metrics.note_run("docs", None, ExitCode.SAFETY, 1, START + 20)
    assert value(metrics, "vsync_last_success_timestamp_seconds") == START + 10
    assert value(metrics, "vsync_last_run_timestamp_seconds") == START + 20
    assert value(metrics, "vsync_last_run_exit_code") == 4
    assert value(metrics, "vsync_guard_blocked") == 1
    metrics.note_run("docs", None, ExitCode.BUSY, 1, START + 30)  # nothing was tried
    assert value(metrics, "vsync_last_run_timestamp_seconds") == START + 20
    assert value(metrics, "vsync_guard_blocked") == 1
    metrics.note_run("docs", report(), ExitCode.IN_STEP, 1, START + 40)
    assert value(metrics, "vsync_guard_blocked") == 0


def test_the_last_success_of_an_earlier_process_is_known_from_the_state(metrics: Metrics, clock: Clock) -> None:
    runs = (
        Run(4, START - 10, None, None, {}),
        Run(3, START - 100, START - 90, 3, {}),
        Run(2, START - 200, START - 190, 1, {}),
        Run(1, START - 300, START - 290, 0, {}),
    )
    metrics.note_standing(
        "docs", status(LedgerStatus("main", 5, 9, 0, 0), LedgerStatus("main@2", 1, 1, 0, 0), runs=runs)
    )
    assert value(metrics, "vsync_last_success_timestamp_seconds") == START - 190
    assert value(metrics, "vsync_sink_lag_seconds", sink="main") == 190
    assert value(metrics, "vsync_sink_lag_seconds", sink="main@2") is None


def test_a_sink_lags_since_a_run_last_left_it_in_step(metrics: Metrics, clock: Clock) -> None:
    both = {"main": SinkReport(), "cloud": SinkReport()}
    metrics.note_run("docs", report(both), ExitCode.IN_STEP, 1, START)
    clock.time = START + 100
    one_down = {"main": SinkReport(), "cloud": SinkReport(behind=7, stopped="refuses the key")}
    metrics.note_run("docs", report(one_down), ExitCode.BEHIND, 1, START + 100)
    clock.time = START + 150
    assert value(metrics, "vsync_sink_lag_seconds", sink="main") == 0
    assert value(metrics, "vsync_sink_lag_seconds", sink="cloud") == 150
    assert value(metrics, "vsync_sink_up", sink="main") == 1
    assert value(metrics, "vsync_sink_up", sink="cloud") == 0
    assert value(metrics, "vsync_sink_pending_documents", sink="cloud") == 7
    metrics.note_run("docs", None, ExitCode.CONFIG, 1, START + 150)
    assert value(metrics, "vsync_sink_lag_seconds", sink="main") == 50
    metrics.note_run("docs", report(both), ExitCode.IN_STEP, 1, START + 150)
    assert value(metrics, "vsync_sink_lag_seconds", sink="cloud") == 0
    assert value(metrics, "vsync_sink_up", sink="cloud") == 1


def test_a_source_that_was_not_read_leaves_every_sink_behind(metrics: Metrics, clock: Clock) -> None:
    metrics.note_run("docs", report(), ExitCode.IN_STEP, 1, START)
    clock.time = START + 60
    metrics.note_run("docs", report(), ExitCode.BEHIND, 1, START + 60)
    assert value(metrics, "vsync_sink_lag_seconds", sink="main") == 60


def test_how_the_ledgers_stand_is_told_by_generation(metrics: Metrics) -> None:
    metrics.note_standing("docs", status(LedgerStatus("main", 10, 40, 1, 2), LedgerStatus("main@2", 5, 20, 0, 0)))
    live, built = {"sink": "main", "generation": "live"}, {"sink": "main", "generation": "2"}
    assert value(metrics, "vsync_documents", state="in_step", **live) == 7
    assert value(metrics, "vsync_documents", state="in_doubt", **live) == 1
    assert value(metrics, "vsync_documents", state="rejected", **live) == 2
    assert value(metrics, "vsync_quarantine_documents", **live) == 2
    assert value(metrics, "vsync_stored_points", **built) == 20
    assert value(metrics, "vsync_vectors") == 40
    metrics.note_standing("docs", status(LedgerStatus("main", 10, 40, 1, 2)))
    assert value(metrics, "vsync_stored_points", **built) is None  # it was dropped


def test_an_embed_job_is_as_old_as_it_was_planned_while_it_runs(metrics: Metrics, clock: Clock) -> None:
    metrics.note_standing("docs", status(jobs=1, oldest=500))
    clock.time += 100
    assert value(metrics, "vsync_embed_job_age_seconds") == 600
    metrics.count("docs", events.JobProgress("a", "running", "id", None, 7200.0))
    metrics.count("docs", events.JobPlanned("b", 5, 50))
    clock.time += 100
    assert value(metrics, "vsync_embed_job_age_seconds") == 7300
    assert value(metrics, "vsync_embed_jobs", state="running") == 1
    assert value(metrics, "vsync_embed_jobs", state="planned") == 1
    metrics.count("docs", events.JobStored("a", 5, 0, 0, None))
    assert value(metrics, "vsync_embed_job_age_seconds") == 100
    metrics.count("docs", events.JobDropped("b", 5, "its file is gone"))
    assert value(metrics, "vsync_embed_job_age_seconds") == 0
    assert value(metrics, "vsync_embed_jobs", state="running") == 0


def test_jobs_that_ended_unseen_are_forgotten_when_the_state_has_none(metrics: Metrics) -> None:
    metrics.count("docs", events.JobProgress("a", "running", "id", None, 60.0))
    metrics.note_standing("docs", status())
    assert value(metrics, "vsync_embed_jobs", state="running") == 0
    assert value(metrics, "vsync_embed_job_age_seconds") == 0


def test_what_a_verification_found_is_counted_by_its_kind(metrics: Metrics) -> None:
    findings = SinkFindings("main@3")
    findings.add(Finding(Drift.STRAY, "x"))
    findings.add(Finding(Drift.MISSING, "y"))
    findings.add(Finding(Drift.FOREIGN, "z"))
    metrics.note_verified("docs", Verified((findings,)))
    assert value(metrics, "vsync_verified_drift_points_total", sink="main", kind="stray") == 1
    assert value(metrics, "vsync_verified_drift_points_total", sink="main", kind="stale") == 0
    assert value(metrics, "vsync_verified_drift_points_total", sink="main", kind="foreign") is None
    assert value(metrics, "vsync_last_verification_timestamp_seconds") == START


def test_counters_begin_at_zero_so_that_the_first_of_anything_is_seen(metrics: Metrics) -> None:
    assert value(metrics, "vsync_duplicate_jobs_total") == 0
    assert value(metrics, "vsync_embed_jobs_resubmitted_total") == 0


def test_a_sync_that_is_removed_leaves_no_line_behind(metrics: Metrics, tmp_path: Path) -> None:
    metrics.add("notes", state_path=tmp_path, longest_wait_seconds=60)
    for event in of_every_kind(1):
        metrics.count("notes", event)
    metrics.note_run("notes", report(), ExitCode.IN_STEP, 1, START)
    metrics.note_standing("notes", status(LedgerStatus("main", 1, 1, 0, 0)))
    assert b'"notes"' in metrics.text()
    metrics.remove("notes")
    assert b'"notes"' not in metrics.text()
    assert value(metrics, "vsync_run_interval_seconds") == 330


def test_settings_that_changed_keep_what_was_counted(metrics: Metrics, tmp_path: Path) -> None:
    metrics.note_run("docs", report(), ExitCode.IN_STEP, 1, START)
    metrics.add("docs", state_path=tmp_path, longest_wait_seconds=60)
    assert value(metrics, "vsync_run_interval_seconds") == 60
    assert value(metrics, "vsync_last_success_timestamp_seconds") == START
    assert value(metrics, "vsync_runs_total", outcome="in_step") == 1


def test_a_pause_is_told(metrics: Metrics) -> None:
    assert value(metrics, "vsync_paused") == 0
    metrics.set_paused("docs", is_paused=True)
    assert value(metrics, "vsync_paused") == 1
    metrics.set_paused("docs", is_paused=False)
    assert value(metrics, "vsync_paused") == 0


def test_two_services_in_a_process_do_not_mix(metrics: Metrics, tmp_path: Path) -> None:
    other = Metrics(version=__version__)
    other.add("docs", state_path=tmp_path, longest_wait_seconds=60)
    other.count("docs", events.PlaceUnreadable("x", "y"))
    assert value(metrics, "vsync_unreadable_places_total") == 0


def test_what_comes_late_of_a_sync_that_was_removed_does_no_harm(metrics: Metrics) -> None:
    metrics.remove("docs")
    for event in of_every_kind(1):
        metrics.count("docs", event)
    metrics.note_run("docs", report(), ExitCode.IN_STEP, 1, START)
    metrics.note_standing("docs", status())
    metrics.set_paused("docs", is_paused=True)
    metrics.note_verified("docs", Verified(()))
    assert value(metrics, "vsync_last_success_timestamp_seconds") is None

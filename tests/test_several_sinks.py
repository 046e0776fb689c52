"""Several sinks at once: one that is down, slow or refuses holds none of the others up, and catches up for nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from rig import FlakySink, Rig

from connector import survey
from connector.checkpoint import Checkpoints
from connector.engine import Options
from connector.errors import BusyError, ConfigError, ExitCode, RejectedError, SinkError, TransientError
from connector.events import RowsListed, SinkFellBehind, SinkStopped
from connector.lanes import MAX_LOAD, Lanes
from connector.model import EmbeddedRecord
from connector.ports import Limits
from connector.report import Counts
from connector.survey import DOCUMENTS_PER_GROUP


def many(count: int) -> dict[str, str]:
    return {f"doc-{n:05}": f"text number {n}" for n in range(count)}


class DownSink(FlakySink):
    """A sink that may not answer when it is looked at or opened."""

    def __init__(self, name: str, check_fails: Exception | None = None, prepare_fails: Exception | None = None) -> None:
        super().__init__(name)
        self.check_fails, self.prepare_fails = check_fails, prepare_fails
        self.counted = 0
        self.counts: Callable[[], int | None] = super().count

    def check(self, dimension: int) -> str | None:
        if self.check_fails:
            raise self.check_fails
        return super().check(dimension)

    def prepare(self, dimension: int) -> str:
        if self.prepare_fails:
            raise self.prepare_fails
        return super().prepare(dimension)

    def count(self) -> int | None:  # type: ignore[override]
        self.counted += 1
        return self.counts()

    def recovers(self) -> None:
        self.check_fails = self.prepare_fails = None


def two(rig: Rig, **fails: Exception) -> tuple[DownSink, DownSink]:
    down, well = DownSink("down", **fails), DownSink("well")
    rig.sinks = [down, well]
    return down, well


# --- down from the start --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TransientError("no answer"), SinkError("key revoked"), BusyError("open elsewhere")])
@pytest.mark.parametrize("call", ["check_fails", "prepare_fails"])
def test_a_sink_that_is_down_at_the_start_holds_nobody_up_and_catches_up_for_nothing(
    rig: Rig, error: Exception, call: str
) -> None:
    down, _ = two(rig, **{call: error})
    report = rig.sync(many(30))
    assert report.exit_code is ExitCode.BEHIND
    assert rig.held(1) == rig.expected()
    assert (report.sinks["down"].stopped, report.sinks["down"].behind) == (str(error), 30)
    assert (report.counts, report.sinks["well"].behind) == (Counts(added=30), 0)
    assert [event.error for event in rig.events if isinstance(event, SinkStopped)] == [str(error)]
    assert any(
        f"sink down stopped, 30 documents behind; run again when this is mended: {error}" in problem
        for problem in report.problems
    )
    down.recovers()
    report = rig.sync()
    assert (report.exit_code, report.texts_embedded) == (ExitCode.IN_STEP, 0)
    assert rig.in_step()


def test_a_check_that_fails_for_a_moment_is_made_again(rig: Rig) -> None:
    down, _ = two(rig, check_fails=TransientError("429", retry_after_seconds=7))
    rig.while_asleep = lambda _seconds: down.recovers()
    assert rig.sync(many(3)).exit_code is ExitCode.IN_STEP
    assert rig.waits_seconds == [7]
    assert rig.in_step()


def test_an_index_that_a_search_has_open_for_a_moment_is_waited_for(rig: Rig) -> None:
    down, _ = two(rig)
    rig.sync(many(5))
    down.prepare_fails = BusyError("the index is open in another process")
    rig.while_asleep = lambda _seconds: down.recovers()
    assert rig.sync(many(8)).exit_code is ExitCode.IN_STEP
    assert len(rig.waits_seconds) == 1
    assert rig.in_step()


def test_the_ledger_of_a_sink_that_is_down_is_left_alone_and_tells_how_far_it_is_behind(rig: Rig) -> None:
    down, _ = two(rig)
    rig.sync(many(30))
    before = ledger(rig, "down")
    down.check_fails = SinkError("503")
    edited = many(30)
    del edited["doc-00007"], edited["doc-00008"]
    report = rig.sync({**edited, "doc-00001": "edited", "new": "a new one"})
    assert report.counts == Counts(added=1, changed=1, deleted=2, unchanged=27)
    assert report.sinks["down"].behind in (2, 3, 4), "told without reading a document for it: at least"
    assert ledger(rig, "down") == before
    assert rig.held(1) == rig.expected()
    down.recovers()
    assert rig.sync().texts_embedded == 0
    assert rig.in_step()


def test_documents_are_not_read_for_a_sink_that_is_down(rig: Rig) -> None:
    rig.sync(many(30))
    rig.source.fetched.clear()
    rig.sinks.append(DownSink("new", check_fails=TransientError("no answer")))
    report = rig.sync()
    assert (report.exit_code, report.sinks["new"].behind) == (ExitCode.BEHIND, 30)
    assert rig.source.fetched == []


def test_nothing_is_read_or_embedded_when_every_sink_is_down(rig: Rig) -> None:
    rig.sinks = [DownSink("one", SinkError("503")), DownSink("two", SinkError("503"))]
    report = rig.sync(many(5))
    assert report.exit_code is ExitCode.BEHIND
    assert (rig.source.fetched, rig.embedder.calls) == ([], 0)
    assert len([problem for problem in report.problems if "stopped" in problem]) == 2


def test_wrong_settings_of_one_sink_end_the_run_though_another_is_down(rig: Rig) -> None:
    two(rig, check_fails=TransientError("no answer"))
    rig.sinks[1].prepare(99)
    with pytest.raises(ConfigError, match="99"):
        rig.sync(many(3))
    assert (rig.source.fetched, rig.embedder.calls) == ([], 0)


def test_a_plan_names_the_sink_that_is_down_and_plans_the_rest(rig: Rig) -> None:
    two(rig, check_fails=SinkError("key revoked"))
    rig.source.set(dict(many(3)))
    planned = rig.plan()
    assert planned.exit_code is ExitCode.BEHIND
    assert planned.counts == Counts(added=3)
    assert (planned.sinks["well"].upserts, planned.sinks["down"].stopped) == (3, "key revoked")
    assert "sink down cannot be planned for: key revoked" in planned.problems


def test_a_plan_of_nothing_but_sinks_that_are_down_reads_nothing(rig: Rig) -> None:
    rig.sinks = [DownSink("one", SinkError("503"))]
    rig.source.set(dict(many(3)))
    planned = rig.plan()
    assert (planned.exit_code, planned.counts, rig.source.fetched) == (ExitCode.BEHIND, Counts(), [])


def test_an_index_that_is_open_elsewhere_at_its_first_write_stops_its_sink_only(rig: Rig) -> None:
    down, _ = two(rig)
    rig.sync(many(5))
    down.prepare_fails = BusyError("the index is open in another process")
    report = rig.sync(many(8))
    assert (report.exit_code, report.sinks["down"].behind) == (ExitCode.BEHIND, 3)
    assert rig.held(1) == rig.expected()
    down.recovers()
    assert rig.sync().texts_embedded == 0
    assert rig.in_step()


def test_a_sink_that_stops_on_the_way_costs_the_others_no_reading_from_then_on(rig: Rig) -> None:
    rig.sync(many(3500))
    rig.source.fetched.clear()
    broken = DownSink("new")
    rig.sinks.append(broken)
    broken.before_upsert = stop
    report = rig.sync()
    assert len(rig.source.fetched) < DOCUMENTS_PER_GROUP + rig.source.rows_per_batch
    assert (report.exit_code, report.sinks["new"].stopped) == (ExitCode.BEHIND, "the disk is full")
    assert 0 < report.sinks["new"].behind <= 3500
    assert report.counts == Counts(unchanged=3500)


def stop(_records: object) -> None:
    raise SinkError("the disk is full")


# --- slow -----------------------------------------------------------------------------------------

GROUPS = MAX_LOAD + 4
GROUP = 40
IMPATIENT = Options(threads=True, patience_seconds=0.0, max_delete_fraction=1.0, confirm_deletes=10_000)


@pytest.fixture
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "DOCUMENTS_PER_GROUP", GROUP)


def slow_and_quick(rig: Rig) -> tuple[DownSink, DownSink, threading.Event]:
    """Two sinks, of which one ends its first call only when the other has all that is to be had."""
    slow, quick = DownSink("slow"), DownSink("quick")
    rig.sinks = [slow, quick]
    has_all = threading.Event()

    def note(_records: object) -> None:
        if len(quick.records) >= (GROUPS - 1) * GROUP:
            has_all.set()

    quick.before_upsert = note
    slow.before_upsert = lambda _records: assert_that(has_all.wait(timeout=60))
    return slow, quick, has_all


def assert_that(is_so: bool) -> None:
    assert is_so


@pytest.mark.usefixtures("_small_groups")
def test_a_sink_that_is_much_slower_is_brought_up_when_the_others_are_done(rig: Rig) -> None:
    slow_and_quick(rig)
    documents = many(GROUPS * GROUP)
    report = rig.sync(documents, IMPATIENT)
    assert [event.sink for event in rig.events if isinstance(event, SinkFellBehind)] == ["slow"]
    assert (report.exit_code, report.counts) == (ExitCode.IN_STEP, Counts(added=len(documents)))
    assert len(rig.embedder.texts_seen) == report.texts_embedded == len(documents)
    assert rig.in_step()
    fractions = [event.fraction for event in rig.events if isinstance(event, RowsListed)]
    assert fractions == sorted(fractions)
    rig.source.fetched.clear()
    calls = [sink.calls for sink in rig.sinks]
    again = rig.sync()
    assert (again.exit_code, again.counts) == (ExitCode.IN_STEP, Counts(unchanged=len(documents)))
    assert ([sink.calls for sink in rig.sinks], rig.source.fetched) == (calls, [])


@pytest.mark.usefixtures("_small_groups")
def test_what_a_slow_sink_refuses_later_is_counted_as_if_it_had_kept_up(rig: Rig) -> None:
    slow, _, _ = slow_and_quick(rig)
    wait = slow.before_upsert

    def wait_and_refuse(records: list[EmbeddedRecord]) -> None:
        wait(records)
        if any("poison" in record.text for record in records):
            raise RejectedError("400: no poison")

    slow.before_upsert = wait_and_refuse  # type: ignore[assignment]
    documents = many(GROUPS * GROUP)
    ids = list(documents)
    early, late = ids[10], ids[-10]
    poisoned = {**documents, early: "poison early", late: "poison late"}
    report = rig.sync(poisoned, IMPATIENT)
    assert [event.sink for event in rig.events if isinstance(event, SinkFellBehind)] == ["slow"]
    assert (report.exit_code, report.counts) == (ExitCode.REJECTED, Counts(added=len(documents) - 2, rejected=2))
    assert set(rig.held(1)) - set(rig.held(0)) == {f"{early}#0", f"{late}#0"}


@pytest.mark.usefixtures("_small_groups")
def test_documents_that_are_gone_leave_a_slow_sink_too(rig: Rig) -> None:
    rig.sinks = [FlakySink("slow"), FlakySink("quick")]
    old = {f"old-{n}": f"old text {n}" for n in range(50)}
    rig.sync(old)
    slow, _, _ = slow_and_quick_again(rig)
    report = rig.sync(many(GROUPS * GROUP), IMPATIENT)
    assert [event.sink for event in rig.events if isinstance(event, SinkFellBehind)] == ["slow"]
    assert (report.exit_code, report.counts.deleted) == (ExitCode.IN_STEP, 50)
    assert slow.deletes
    assert rig.in_step()


def slow_and_quick_again(rig: Rig) -> tuple[FlakySink, FlakySink, threading.Event]:
    slow, quick = rig.sinks
    has_all = threading.Event()

    def note(_records: object) -> None:
        if len(quick.records) >= (GROUPS - 1) * GROUP:
            has_all.set()

    quick.before_upsert = note
    slow.before_upsert = lambda _records: assert_that(has_all.wait(timeout=60))
    return slow, quick, has_all


@pytest.mark.usefixtures("_small_groups")
def test_the_guard_withholds_deletions_from_a_slow_sink_too(rig: Rig) -> None:
    rig.sinks = [FlakySink("slow"), FlakySink("quick")]
    rig.sync({f"old-{n}": f"old text {n}" for n in range(50)})
    slow_and_quick_again(rig)
    options = Options(threads=True, patience_seconds=0.0)
    report = rig.sync(many(GROUPS * GROUP), options)
    assert report.exit_code is ExitCode.SAFETY
    assert len([problem for problem in report.problems if "would be deleted" in problem]) == 1
    assert all("old-7#0" in rig.held(number) for number in (0, 1))
    assert set(rig.expected()) <= set(rig.held(0))


@pytest.mark.usefixtures("_small_groups")
def test_a_sink_alone_is_waited_for(rig: Rig) -> None:
    report = rig.sync(many(GROUPS * GROUP), IMPATIENT)
    assert report.exit_code is ExitCode.IN_STEP
    assert not [event for event in rig.events if isinstance(event, SinkFellBehind)]


def test_a_lane_that_is_full_is_given_up_only_while_another_is_idle() -> None:
    gates = {name: threading.Event() for name in ("slow", "quick")}
    with Lanes({"slow": True, "quick": True}, patience_seconds=0.0) as lanes:
        for _ in range(MAX_LOAD):
            lanes.put("slow", lambda: assert_that(gates["slow"].wait(timeout=30)))
        assert lanes.make_room(lambda: ["quick", "slow"]) == {"slow"}
        assert lanes.make_room(lambda: ["quick"]) == set()
        gates["slow"].set()
        assert lanes.make_room(lambda: ["slow"]) == set(), "alone, it is waited for"


def test_patience_is_for_all_waits_together() -> None:
    gate = threading.Event()
    with Lanes({"slow": True, "quick": True}, patience_seconds=3600.0) as lanes:
        for _ in range(MAX_LOAD):
            lanes.put("slow", lambda: assert_that(gate.wait(timeout=30)))
        threading.Thread(target=gate.set).start()
        assert lanes.make_room(lambda: ["quick", "slow"]) == set(), "it had room before patience was at its end"


# --- calls beside each other ----------------------------------------------------------------------


class WideSink(DownSink):
    """A sink that takes several small calls at a time."""

    limits = Limits(records_per_call=10, concurrent_calls=4)


def wide(rig: Rig) -> WideSink:
    sink = WideSink("wide")
    rig.sinks = [sink]
    return sink


THREADS = Options(threads=True, max_delete_fraction=1.0, confirm_deletes=10_000)


def test_as_many_calls_are_under_way_as_the_sink_takes(rig: Rig) -> None:
    sink = wide(rig)
    together = threading.Barrier(4)
    sink.before_upsert = lambda _records: assert_that(together.wait(timeout=30) >= 0)
    assert rig.sync(many(80), THREADS).sinks["wide"].upsert_calls == 8
    assert rig.in_step()
    sink.before_delete = lambda _ids: assert_that(together.wait(timeout=30) >= 0)
    report = rig.sync(many(40), THREADS)
    assert (report.sinks["wide"].deleted, report.sinks["wide"].delete_calls) == (40, 4)
    assert rig.in_step()


@pytest.mark.parametrize("options", [Options(threads=False), THREADS])
def test_a_poisoned_record_among_calls_beside_each_other_costs_its_document_only(rig: Rig, options: Options) -> None:
    sink = wide(rig)
    sink.before_upsert = refuse_poison
    report = rig.sync({**many(200), "bad": "poison"}, options)
    assert (report.exit_code, report.counts) == (ExitCode.REJECTED, Counts(added=200, rejected=1))
    assert report.sinks["wide"].upserted == len(sink.records) == 200
    assert set(rig.held()) == set(rig.expected()) - {"bad#0"}


def refuse_poison(records: object) -> None:
    if any("poison" in record.text for record in records):  # type: ignore[attr-defined]
        raise RejectedError("400: no poison")


def test_the_first_stop_ends_the_group_and_nothing_of_it_is_committed(rig: Rig) -> None:
    sink = wide(rig)
    sink.before_upsert = stop
    report = rig.sync(many(400), THREADS)
    assert (report.sinks["wide"].behind, report.sinks["wide"].stopped) == (400, "the disk is full")
    assert report.sinks["wide"].upsert_calls <= 8, "those that had not begun were dropped"
    assert len([event for event in rig.events if isinstance(event, SinkStopped)]) == 1
    sink.before_upsert = lambda _records: None
    assert rig.sync(options=THREADS).texts_embedded == 0
    assert rig.in_step()


def test_calls_that_wait_to_be_made_again_are_not_when_the_sink_has_stopped(rig: Rig) -> None:
    sink = wide(rig)
    stopped = threading.Event()
    after: list[object] = []

    def fail(records: list[EmbeddedRecord]) -> None:
        if stopped.is_set():
            after.append(records)
        if records[0].id == "doc-00000#0":
            raise SinkError("key revoked")
        raise TransientError("429", retry_after_seconds=60)

    sink.before_upsert = fail  # type: ignore[assignment]

    def sleep(_seconds: float) -> None:
        while not any(isinstance(event, SinkStopped) for event in rig.events):
            threading.Event().wait(0.001)
        stopped.set()

    rig.while_asleep = sleep
    assert rig.sync(many(40), THREADS).sinks["wide"].stopped == "key revoked"
    assert after == []


def test_a_bug_in_one_of_several_calls_ends_the_run(rig: Rig) -> None:
    sink = wide(rig)

    def bug(records: list[EmbeddedRecord]) -> None:
        if records[0].id == "doc-00020#0":
            raise ZeroDivisionError

    sink.before_upsert = bug  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        rig.sync(many(100), THREADS)
    sink.before_upsert = lambda _records: None
    assert rig.sync(options=THREADS).texts_embedded == 0
    assert rig.in_step()


def test_many_refusals_in_a_row_mean_that_it_is_the_sink_also_beside_each_other(rig: Rig) -> None:
    sink = wide(rig)
    sink.before_upsert = refuse_all
    report = rig.sync(many(300), THREADS)
    assert "records in a row were refused" in (report.sinks["wide"].stopped or "")
    assert (report.exit_code, report.sinks["wide"].behind) == (ExitCode.BEHIND, 300)


def refuse_all(_records: object) -> None:
    raise RejectedError("400: unknown field")


def test_one_call_at_a_time_makes_no_thread(rig: Rig) -> None:
    rig.sinks = [WideSink("wide")]
    before: set[str] = set()
    rig.sinks[0].before_upsert = lambda _records: before.update(thread.name for thread in threading.enumerate())
    rig.sync(many(100), Options(threads=False))
    assert not [name for name in before if name.startswith(("call", "lane"))]


# --- counted after the run --------------------------------------------------------------------------


def test_a_sink_that_lost_records_behind_our_back_has_drifted(rig: Rig) -> None:
    _, well = two(rig)
    rig.sync(many(30))
    for id in list(well.records)[:3]:
        del well.records[id]
    report = rig.sync()
    assert report.exit_code is ExitCode.DRIFT
    assert (report.sinks["well"].drift, report.sinks["down"].drift) == (-3, 0)
    assert any("sink well holds 27 records of this sync, and 30 were written" in problem for problem in report.problems)
    assert any("vector-sync verify" in problem for problem in report.problems)


def test_a_sink_that_cannot_tell_how_many_records_it_has_is_not_asked_further(rig: Rig) -> None:
    one, other = two(rig)
    one.counts = lambda: None
    other.counts = fail_to_count
    report = rig.sync(many(3))
    assert (report.exit_code, one.counted, other.counted) == (ExitCode.IN_STEP, 1, 1)
    assert {sink.drift for sink in report.sinks.values()} == {None}


def fail_to_count() -> int:
    raise TransientError("503")


def test_a_sink_that_is_not_in_step_is_not_counted(rig: Rig) -> None:
    down, well = two(rig)
    rig.sync(many(3))
    down.before_upsert = stop
    report = rig.sync(many(4))
    assert (report.exit_code, down.counted, well.counted) == (ExitCode.BEHIND, 1, 2)


def test_an_index_in_this_process_is_not_opened_only_to_be_counted(rig: Rig) -> None:
    class Embedded(DownSink):
        limits = Limits(in_process=True)

    sink = Embedded("embedded")
    rig.sinks = [sink]
    rig.sync(many(3))
    assert sink.counted == 1
    rig.sync()
    assert sink.counted == 1


def test_a_document_in_doubt_is_no_drift(rig: Rig) -> None:
    two(rig)
    rig.sync(many(3))
    with closing(Checkpoints.open(rig.folder)) as checkpoints:
        assert checkpoints.records("well") == 3


def test_a_drifted_sink_can_still_be_mended_from_the_vectors(rig: Rig) -> None:
    _, well = two(rig)
    options = Options(threads=False, keep_vectors="undelivered")
    rig.sync(many(30))
    well.records.pop("doc-00003#0")
    assert rig.sync({**many(30), "new": "one more"}, options).exit_code is ExitCode.DRIFT
    rig.sinks = [FlakySink("third")]
    assert rig.sync(options=options).texts_embedded == 0, "what may be needed to mend it is kept"


# --- how a run ended --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error,exit_code,told",
    [
        (KeyboardInterrupt(), 130, "KeyboardInterrupt"),
        (ConfigError("wrong key"), 2, "wrong key"),
        (ZeroDivisionError("bug"), 70, "bug"),
    ],
)
def test_a_run_that_ends_by_an_error_is_noted_with_its_exit_code(
    rig: Rig, error: BaseException, exit_code: int, told: str
) -> None:
    def fail(_records: object) -> None:
        raise error

    rig.sinks[0].before_upsert = fail
    with pytest.raises(type(error)):
        rig.sync(many(3))
    with closing(Checkpoints.open(rig.folder, read_only=True)) as checkpoints:
        (run,) = checkpoints.last_runs(5)
    assert (run.exit_code, run.report["problems"]) == (exit_code, [told])
    assert run.ended_at is not None


def ledger(rig: Rig, sink: str) -> object:
    with closing(Checkpoints.open(rig.folder, read_only=True)) as checkpoints:
        status = next(status for status in checkpoints.ledger_status() if status.sink == sink)
        return status, checkpoints.recipe(sink), checkpoints.incarnation(sink)


def test_a_sink_that_refuses_to_delete_is_stopped_and_the_others_go_on(rig: Rig) -> None:
    rig.sinks = [FlakySink("picky"), FlakySink("well")]
    rig.sync(many(3))

    def refuse(ids: object) -> None:
        raise RejectedError("400: no deletions here")

    rig.sinks[0].before_delete = refuse
    report = rig.sync(many(2))
    assert (report.exit_code, report.sinks["picky"].stopped) == (ExitCode.BEHIND, "400: no deletions here")
    assert rig.held(1) == rig.expected()

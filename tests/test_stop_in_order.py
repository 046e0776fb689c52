"""A run that is asked to end begins nothing more, commits what it has begun, and the next run goes on for nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from rig import FlakySink, Rig
from test_sync_spending import TEN, job_rig

from connector import survey
from connector.checkpoint import Checkpoints
from connector.engine import Options, sync
from connector.errors import ExitCode, StoppedError, TransientError
from connector.events import CallRetried, Event, JobStarted
from connector.model import EmbeddedRecord
from connector.retry import Retry
from connector.stopping import Stop

GROUP = 4
MANY = {f"doc-{n:05}": f"text number {n}" for n in range(2 * GROUP + 1)}
LONG_SECONDS = 30.0  # that a test waits at most; one that is right does not wait


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "DOCUMENTS_PER_GROUP", GROUP)


class StopsAt:
    """Asks for the stop at the n-th event."""

    def __init__(self, number: int, *, hurry: bool) -> None:
        self.left, self.hurry, self.stop = number, hurry, Stop()

    def __call__(self, event: Event) -> None:
        self.left -= 1
        if self.left == 0:
            (self.stop.hurry if self.hurry else self.stop.ask)()


@pytest.mark.parametrize("hurry", [False, True], ids=["in order", "in a hurry"])
@pytest.mark.parametrize("threads", [False, True], ids=["one thread", "a lane a sink"])
def test_wherever_it_is_stopped_the_next_run_ends_in_step_and_no_text_is_embedded_twice(
    folder: Path, hurry: bool, threads: bool
) -> None:
    whole = Rig(folder / "whole", sinks=[FlakySink("one"), FlakySink("two")])
    whole.sync(MANY)
    for number in range(1, len(whole.events) + 1):
        rig = Rig(folder / str(number), sinks=[FlakySink("one"), FlakySink("two")])
        stopping = StopsAt(number, hurry=hurry)
        rig.emit, rig.stop = stopping, stopping.stop
        report = rig.sync(MANY, Options(threads=threads))
        assert report.exit_code in {ExitCode.BEHIND, ExitCode.IN_STEP}
        rig.emit, rig.stop = lambda _event: None, None
        assert rig.sync().exit_code is ExitCode.IN_STEP
        assert rig.in_step()
        assert len(rig.embedder.texts_seen) == len(MANY)


def test_a_stop_before_the_run_reads_and_embeds_nothing_and_deletes_nothing(rig: Rig) -> None:
    rig.sync({"a": "one", "b": "two"})
    rig.source.fetched.clear()
    rig.stop = Stop()
    rig.stop.ask()
    report = rig.sync({"c": "three"})
    assert (report.exit_code, rig.source.fetched, len(rig.held())) == (ExitCode.BEHIND, [], 2)
    assert "stopped as asked; nothing is lost, and the next run goes on from here" in report.problems


def test_what_is_queued_is_committed_before_the_run_ends(rig: Rig) -> None:
    stop = rig.stop = Stop()

    def ask_at_the_second_group(text: str) -> bool:
        if text == f"text number {GROUP}":
            stop.ask()
        return False

    rig.embedder.reject = ask_at_the_second_group
    report = rig.sync(MANY, Options(threads=True))
    assert report.exit_code is ExitCode.BEHIND
    held = len(rig.held())
    assert held % GROUP == 0
    assert held >= GROUP
    rig.stop = None
    report = rig.sync()
    assert report.sinks["main"].upserted == len(MANY) - held, "what was committed is not written again"


def test_no_call_to_the_embedder_is_begun_after_the_stop(rig: Rig) -> None:
    stop = rig.stop = Stop()

    def ask(text: str) -> bool:
        stop.ask()
        return False

    rig.embedder.texts_per_call = GROUP // 2
    rig.embedder.reject = ask
    assert rig.sync(MANY).exit_code is ExitCode.BEHIND
    assert rig.embedder.calls == 1


def test_in_a_hurry_a_call_that_hangs_is_the_last_one(rig: Rig) -> None:
    (sink,) = rig.sinks
    called, hurried = threading.Event(), threading.Event()
    calls: list[int] = []

    def hang(records: Sequence[EmbeddedRecord]) -> None:
        calls.append(len(records))
        called.set()
        assert hurried.wait(LONG_SECONDS)

    sink.before_upsert = hang
    rig.stop = stop = Stop()

    def hurry() -> None:
        assert called.wait(LONG_SECONDS)
        stop.hurry()
        hurried.set()

    thread = threading.Thread(target=hurry)
    thread.start()
    report = rig.sync(MANY, Options(threads=True))
    thread.join()
    assert (report.exit_code, len(calls)) == (ExitCode.BEHIND, 1)
    rig.stop = None
    sink.before_upsert = lambda _records: None
    assert rig.sync().exit_code is ExitCode.IN_STEP
    assert rig.in_step()


def test_a_service_that_asks_to_wait_is_not_waited_for(rig: Rig) -> None:
    stop = rig.stop = Stop()
    rig.sinks[0].before_upsert = busy
    rig.emit = lambda event: stop.ask() if isinstance(event, CallRetried) else None
    with closing(Checkpoints.open(rig.folder)) as checkpoints, closing(rig._vectors()) as vectors:
        rig.source.set({"a": "one"})
        report = sync(rig._parts(checkpoints, vectors), rig.options, retry=Retry(), emit=rig.emit, stop=stop)
    assert report.exit_code is ExitCode.BEHIND
    assert report.seconds < LONG_SECONDS


def busy(records: Sequence[EmbeddedRecord]) -> None:
    raise TransientError("busy", retry_after_seconds=LONG_SECONDS)


def test_a_stop_cancels_no_embed_job_and_the_next_run_takes_it_in(folder: Path) -> None:
    rig, service = job_rig(folder)
    stop = rig.stop = Stop()
    rig.emit = lambda event: stop.ask() if isinstance(event, JobStarted) else None
    report = rig.sync(TEN)
    assert (report.exit_code, report.counts.added) == (ExitCode.BEHIND, 0)
    assert service.running
    rig.stop = None
    assert rig.sync().exit_code is ExitCode.IN_STEP
    assert rig.in_step()
    assert sorted(service.billed.values()) == [1] * len(TEN)
    assert service.texts_seen == []


def test_a_stop_that_was_asked_is_told_to_whoever_begins_to_heed_it() -> None:
    stop, told = Stop(), list[str]()
    stop.hurry()
    with stop.heeded(lambda: told.append("in order"), lambda: told.append("at once")):
        assert told == ["in order", "at once"]
    stop.ask()
    assert told == ["in order", "at once"], "who has left is told nothing"
    with pytest.raises(StoppedError):
        stop.demand()


# --- jobs that are not waited for --------------------------------------------------------------------


def leaving(rig: Rig, *, plan_jobs: bool = True) -> Options:
    return replace(rig.options, wait_for_jobs=False, plan_jobs=plan_jobs)


def test_jobs_that_run_are_left_and_a_later_run_takes_in_what_they_have(folder: Path) -> None:
    rig, service = job_rig(folder)
    report = rig.sync(TEN, leaving(rig))
    assert (report.exit_code, report.open_jobs, report.counts.added) == (ExitCode.BEHIND, 3, 0)
    assert any("10 documents wait for embed jobs" in problem for problem in report.problems)
    assert report.sinks["main"].behind == 10
    while service.running:
        service.sleep(60)
        report = rig.sync(options=leaving(rig))
    while report.open_jobs:
        report = rig.sync(options=leaving(rig))
    assert (report.exit_code, report.texts_embedded) == (ExitCode.IN_STEP, report.texts_by_jobs)
    assert rig.in_step()
    assert sorted(service.billed.values()) == [1] * len(TEN)
    assert service.texts_seen == []


def test_while_a_job_runs_small_changes_go_their_own_way_and_what_it_has_is_not_embedded_again(folder: Path) -> None:
    rig, service = job_rig(folder, texts_per_job=20)
    rig.sync(TEN, leaving(rig))
    assert service.running == 1
    report = rig.sync(TEN | {"small": "a small change"}, leaving(rig))
    assert (report.exit_code, report.counts.added, report.open_jobs) == (ExitCode.BEHIND, 1, 1)
    assert [text for text, _ in rig.held().values()] == ["a small change"]
    assert rig.sync().exit_code is ExitCode.IN_STEP
    assert rig.in_step()
    assert sorted(service.billed.values()) == [1] * (len(TEN) + 1)
    assert service.texts_seen == ["a small change"]


def test_what_is_gone_is_deleted_though_jobs_run(folder: Path) -> None:
    rig, _ = job_rig(folder, texts_per_job=20)
    rig.sync({"old": "an old text"})
    report = rig.sync(TEN, leaving(rig))
    assert (report.counts.deleted, report.open_jobs, rig.held()) == (1, 1, {})


def test_without_new_jobs_what_is_much_is_embedded_at_once(folder: Path) -> None:
    rig, service = job_rig(folder)
    report = rig.sync(TEN, leaving(rig, plan_jobs=False))
    assert (report.exit_code, report.texts_by_jobs, service.running) == (ExitCode.IN_STEP, 0, 0)
    assert rig.in_step()

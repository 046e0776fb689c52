"""Embed jobs: the tables, and one misfortune each, through the real book, spool and vector store."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crashes import Crash
from job_rig import JobRig, hash_of

from connector.checkpoint import APPLICATION_ID, MIGRATIONS, Checkpoints
from connector.errors import ConfigError, LeaseError, TransientError, UnknownOutcomeError
from connector.events import (
    CallRetried,
    DatasetsCleaned,
    JobAttemptLost,
    JobDropped,
    JobDuplicated,
    JobFailed,
    JobInDoubt,
    JobProgress,
    JobStarted,
    JobStored,
    JobUrgent,
)
from connector.job_book import Job, JobBook
from connector.job_intake import Intake
from connector.job_spool import line_of
from connector.job_steps import MAX_ATTEMPTS, Facts, State, Step, after_loss, in_order, next_step, why_lost
from connector.job_sweep import Remote, compare, mark_of, name_of, token_of
from connector.model import DocumentId, Entry, InputType
from connector.ports import RemoteDataset, RemoteJob, RemotePhase
from connector.sqlite_file import open_file
from connector.testing.fake_jobs import SMALL, FakeJobEmbedder, Fate, Fault
from connector.vectors import SqliteVectors

PENDING, READY, FAILED = RemotePhase.PENDING, RemotePhase.READY, RemotePhase.FAILED
TEXTS = ["alpha", "beta", "gamma", "delta", "epsilon"]
DAY_SECONDS = 24 * 3600.0
SETTLE_SECONDS = 120.0


def dataset(phase: RemotePhase = READY, *, id: str = "d", name: str = "n", reason: str = "") -> RemoteDataset:
    return RemoteDataset(id, name, phase, reason, 0.0)


def job(
    phase: RemotePhase = PENDING,
    *,
    id: str = "j",
    name: str = "n",
    dataset_id: str = "d",
    output: str | None = None,
    at: float = 0.0,
) -> RemoteJob:
    return RemoteJob(id, name, dataset_id, phase, output, "", None, at)


@pytest.fixture
def rig(folder: Path) -> JobRig:
    return JobRig(folder)


@pytest.fixture
def book(folder: Path) -> Iterator[JobBook]:
    with closing(Checkpoints.open(folder)) as checkpoints:
        yield JobBook(checkpoints)


def planned(token: str = "a" * 24, **changes: object) -> Job:
    made = Job(token, f"vs-{token}-a1", State.PLANNED, "e", 1, False, 2, 6, 1.0, 1.0)
    return replace(made, **changes)  # type: ignore[arg-type]


# --- the tables -----------------------------------------------------------------------------------

LONG, SHORT = SETTLE_SECONDS, SETTLE_SECONDS - 1


@pytest.mark.parametrize(
    "state,facts,step",
    [
        (State.PLANNED, Facts(dataset=dataset()), Step.TAKE_DATASET),
        (State.PLANNED, Facts(dataset=dataset(), spooled=True), Step.TAKE_DATASET),
        (State.PLANNED, Facts(spooled=True), Step.UPLOAD),
        (State.PLANNED, Facts(), Step.DROP),
        (State.UPLOADED, Facts(dataset=dataset(PENDING)), Step.WAIT),
        (State.UPLOADED, Facts(dataset=dataset(READY)), Step.START),
        (State.UPLOADED, Facts(dataset=dataset(FAILED)), Step.LOSE),
        (State.UPLOADED, Facts(unseen_seconds=SHORT), Step.WAIT),
        (State.UPLOADED, Facts(unseen_seconds=LONG), Step.LOSE),
        (State.SUBMITTING, Facts(jobs_on_dataset=(job(),)), Step.ADOPT),
        (State.SUBMITTING, Facts(jobs_on_dataset=(job(FAILED),), unseen_seconds=LONG), Step.ADOPT),
        (State.SUBMITTING, Facts(unseen_seconds=SHORT), Step.WAIT),
        (State.SUBMITTING, Facts(unseen_seconds=LONG), Step.LOSE),
        (State.RUNNING, Facts(job=job(PENDING)), Step.WAIT),
        (State.RUNNING, Facts(job=job(READY, output="o"), output=dataset()), Step.TAKE_IN),
        (State.RUNNING, Facts(job=job(READY, output="o"), unseen_seconds=SHORT), Step.WAIT),
        (State.RUNNING, Facts(job=job(READY, output="o"), unseen_seconds=LONG), Step.LOSE),
        (State.RUNNING, Facts(job=job(READY)), Step.LOSE),
        (State.RUNNING, Facts(job=job(FAILED)), Step.LOSE),
        (State.RUNNING, Facts(unseen_seconds=SHORT), Step.WAIT),
        (State.RUNNING, Facts(unseen_seconds=LONG), Step.LOSE),
        (State.STORED, Facts(), Step.CLEAN),
    ],
)
def test_each_state_and_what_is_found_has_its_step(state: State, facts: Facts, step: Step) -> None:
    assert next_step(state, facts, SETTLE_SECONDS) is step
    if step is Step.LOSE:
        assert why_lost(state, facts)


@pytest.mark.parametrize("state", [State.CLOSED, State.FAILED, State.DROPPED])
def test_a_job_that_has_ended_has_no_next_step(state: State) -> None:
    with pytest.raises(ValueError, match="has no next step"):
        next_step(state, Facts(), SETTLE_SECONDS)


@pytest.mark.parametrize(
    "attempt,spooled,all_stored,state",
    [
        (1, True, True, State.STORED),
        (MAX_ATTEMPTS, False, True, State.STORED),
        (1, True, False, State.PLANNED),
        (MAX_ATTEMPTS - 1, True, False, State.PLANNED),
        (1, False, False, State.DROPPED),
        (MAX_ATTEMPTS, True, False, State.FAILED),
        (MAX_ATTEMPTS, False, False, State.FAILED),
    ],
)
def test_a_lost_attempt_leads_on(attempt: int, spooled: bool, all_stored: bool, state: State) -> None:
    assert after_loss(attempt, spooled=spooled, all_stored=all_stored) is state


def test_the_oldest_job_that_has_not_failed_is_adopted() -> None:
    jobs = [job(id="c", at=3), job(FAILED, id="a", at=1), job(READY, id="b", at=2)]
    assert [one.id for one in in_order(jobs)] == ["b", "c", "a"]


PREFIX = "vs-01234567-"
TOKEN = mark_of("e") + "0" * 16
NAME = name_of(PREFIX, TOKEN, 1)


def test_names_are_short_enough_and_give_their_token() -> None:
    assert len(name_of(PREFIX, TOKEN, 99)) < 50
    assert token_of(PREFIX, NAME) == TOKEN
    assert token_of("vs-89abcdef-", NAME) is None
    assert token_of(PREFIX, NAME + "-output") is None


@pytest.mark.parametrize(
    "row,remote,what",
    [
        (planned(TOKEN), job(PENDING, name=NAME), "adopt"),
        (planned(TOKEN, state=State.UPLOADED), job(READY, name=NAME), "adopt"),
        (planned(TOKEN, state=State.SUBMITTING, dataset_id="d"), job(READY, name="?"), "adopt"),
        (planned(TOKEN, embedder="other"), job(PENDING, name=NAME), "nothing"),
        (planned(TOKEN, state=State.RUNNING, job_id="first"), job(PENDING, name=NAME), "cancel"),
        (planned(TOKEN, state=State.RUNNING, job_id="first"), job(READY, name=NAME), "nothing"),
        (planned(TOKEN, state=State.RUNNING, job_id="j"), job(PENDING, name=NAME), "nothing"),
        (planned(TOKEN, state=State.STORED), job(PENDING, name=NAME), "cancel"),
        (planned(TOKEN, state=State.CLOSED), job(PENDING, name=NAME), "cancel"),
        (planned(TOKEN, state=State.CLOSED), job(READY, name=NAME), "nothing"),
        (planned(TOKEN, state=State.FAILED), job(READY, name=NAME), "found"),
        (planned(TOKEN, state=State.DROPPED), job(PENDING, name=NAME), "found"),
        (None, job(PENDING, name=NAME), "found"),
        (None, job(READY, name=NAME), "found"),
        (None, job(FAILED, name=NAME), "nothing"),
        (None, job(READY, name=name_of(PREFIX, mark_of("other") + "0" * 16, 1)), "nothing"),
        (None, job(READY, name="vs-89abcdef-" + NAME[12:]), "nothing"),
        (None, job(READY, name="somebody else's"), "nothing"),
    ],
)
def test_a_job_that_the_book_does_not_know_has_its_treatment(row: Job | None, remote: RemoteJob, what: str) -> None:
    book = {row.token: row} if row else {}
    known = {row.job_id for row in book.values() if row.job_id}
    told = compare(PREFIX, "e", book, Remote([], [remote]), known_job_ids=known, now=0.0)
    assert (list(told.adopt), [t for t, _ in told.found], [t for t, _ in told.cancel]) == (
        [TOKEN] if what == "adopt" else [],
        [TOKEN] if what == "found" else [],
        [TOKEN] if what == "cancel" else [],
    )


def test_only_old_datasets_of_ours_that_no_job_needs_are_orphans() -> None:
    row = planned(TOKEN, state=State.RUNNING, dataset_id="input", output_dataset_id="output", job_id="j")
    waiting = planned(mark_of("e") + "1" * 16, name=name_of(PREFIX, mark_of("e") + "1" * 16, 1))
    remote = Remote(
        [
            dataset(id="input", name=NAME),
            dataset(id="output", name=NAME),
            dataset(id="awaited", name=waiting.name),
            dataset(id="fresh", name=NAME),
            dataset(id="photos", name="photos"),
            dataset(id="others", name="vs-89abcdef-" + NAME[12:]),
            dataset(id="orphan", name=NAME),
        ],
        [],
    )
    remote.datasets[3:4] = [replace(remote.datasets[3], created_at=2 * DAY_SECONDS)]  # type: ignore[index]
    book = {one.token: one for one in (row, waiting)}
    told = compare(PREFIX, "e", book, remote, known_job_ids={"j"}, now=2 * DAY_SECONDS)
    assert told.orphans == ["orphan"]


# --- the book -------------------------------------------------------------------------------------


def test_a_text_is_in_one_open_job_at_most(book: JobBook) -> None:
    book.add(planned("a" * 24), [bytes(16)])
    with pytest.raises(sqlite3.IntegrityError):
        book.add(planned("b" * 24), [bytes([1] * 16), bytes(16)])
    assert [row.token for row in book.latest(9)] == ["a" * 24]
    assert book.open_texts("e", [bytes([1] * 16)]) == set()
    book.add(planned("c" * 24, embedder="another"), [bytes(16)])


def test_a_job_reads_back_as_it_was_saved(book: JobBook) -> None:
    made = planned(found=True, intent_at=2.0, dataset_id="d", job_id="j", billed_tokens=3, problem="p")
    book.add(made, [])
    assert book.find(made.token) == made
    changed = replace(made, state=State.RUNNING, attempt=2, output_dataset_id="o")
    book.save(changed)
    assert book.open_jobs() == book.open_jobs("e") == book.latest(1) == [changed]
    assert book.open_jobs("another") == []
    assert book.known_job_ids() == {"j"}


@pytest.mark.parametrize("state", list(State))
def test_texts_are_kept_until_a_job_is_stored_or_ended(book: JobBook, state: State) -> None:
    hashes = [bytes([n] * 16) for n in range(3)]
    book.add(planned(), hashes)
    book.save(planned(state=state))
    kept = state in (State.PLANNED, State.UPLOADED, State.SUBMITTING, State.RUNNING)
    assert book.texts_of("a" * 24) == book.open_texts("e", hashes) == (set(hashes) if kept else set())
    assert bool(book.open_jobs()) == (kept or state is State.STORED)
    assert book.latest(9)


def test_a_process_that_was_taken_over_writes_nothing(folder: Path, book: JobBook) -> None:
    book.add(planned(), [])
    with closing(sqlite3.connect(folder / "checkpoint.db")) as other, other:
        other.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
    with pytest.raises(LeaseError):
        book.save(planned(state=State.SUBMITTING))
    with pytest.raises(LeaseError):
        book.add(planned("b" * 24), [])
    assert [row.state for row in book.latest(9)] == [State.PLANNED]


def test_a_book_can_be_read_while_a_run_holds_the_lease(folder: Path, book: JobBook) -> None:
    book.add(planned(), [])
    with closing(Checkpoints.open(folder, read_only=True)) as reader:
        assert JobBook(reader).latest(9) == [planned()]


def test_the_first_schema_is_as_it_was_released() -> None:
    digest = hashlib.sha256(MIGRATIONS[0].encode()).hexdigest()
    assert digest == RELEASED_SCHEMA, "files of version 1 are out there: add a migration, do not change this one"


RELEASED_SCHEMA = "edc40af2123ee9541cd308e61b684a264f5bd048b4dd2636af1ebf6f8161865b"


def test_a_file_of_version_1_is_brought_up_and_keeps_what_it_has(folder: Path) -> None:
    path = folder / "checkpoint.db"
    with (
        closing(open_file(path, application_id=APPLICATION_ID, migrations=MIGRATIONS[:1], read_only=False)) as old,
        old,
    ):
        old.execute("INSERT INTO meta VALUES ('uuid', 'abc'), ('seed', 7), ('epoch', 3)")
        old.execute("INSERT INTO ledger (sink, incarnation) VALUES ('main', 'first')")
        old.execute("INSERT INTO entry VALUES (1, 'doc', ?, ?, ?, NULL)", [bytes(16), bytes(16), bytes(32)])
        old.execute("INSERT INTO run (started_at) VALUES (1.0)")
    with pytest.raises(ConfigError, match="run `vector-sync sync` once"):
        Checkpoints.open(folder, read_only=True)
    with closing(Checkpoints.open(folder)) as checkpoints:
        assert checkpoints.entry("main", DocumentId("doc")) == Entry(
            DocumentId("doc"), bytes(16), bytes(16), (bytes(16), bytes(16))
        )
        assert (checkpoints.seed, checkpoints.uuid, len(checkpoints.last_runs(9))) == (7, "abc", 1)
        JobBook(checkpoints).add(planned(), [bytes(16)])
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


# --- planning -------------------------------------------------------------------------------------


def plan(rig: JobRig, texts: list[str]) -> tuple[list[Job], object]:
    with closing(Checkpoints.open(rig.folder)) as checkpoints, closing(rig._vectors()) as vectors:
        told = rig.jobs(checkpoints, vectors).plan((hash_of(text), text, 3) for text in texts)
        return JobBook(checkpoints).latest(99), told


def test_texts_are_put_into_files_as_they_are_uploaded(rig: JobRig) -> None:
    rows, told = plan(rig, ["ä b", "beta", "gamma"])
    assert [row.texts for row in rows] == [1, 2]
    first = (rig.folder / "jobs" / f"{rows[1].token}.jsonl").read_bytes()
    assert [json.loads(line) for line in first.splitlines()] == [
        {"text": text, "hash": hash_of(text).hex()} for text in ("ä b", "beta")
    ]
    assert "ä".encode() in first
    assert first.endswith(b"\n")
    assert (told.jobs, told.texts, told.tokens, told.left_out) == (2, 3, 9, 0)  # type: ignore[attr-defined]


def test_files_are_bounded_by_bytes_too(rig: JobRig) -> None:
    rig.service.limits_of_jobs = replace(SMALL, texts_per_job=100, bytes_per_job=250)
    rows, told = plan(rig, ["a" * 50, "b" * 50, "c" * 50, "d" * 500])
    assert [row.texts for row in rows] == [1, 2]
    for path in (rig.folder / "jobs").iterdir():
        assert path.stat().st_size <= 250
    assert told.left_out == 1  # type: ignore[attr-defined]


def test_a_text_that_comes_twice_is_planned_once(rig: JobRig) -> None:
    plan(rig, ["a", "b", "a", "c", "a", "b", "b", "d", "c"])
    rows, _ = plan(rig, ["d", "a", "e"])
    assert sum(row.texts for row in rows) == 5


def test_a_text_that_would_have_its_dataset_refused_is_left_out(rig: JobRig) -> None:
    rows, told = plan(rig, ["", " \n", "good"])
    assert [row.texts for row in rows] == [1]
    assert told.left_out == 2  # type: ignore[attr-defined]
    assert line_of(bytes(16), "\ud800") is None


def test_planning_that_breaks_off_leaves_whole_jobs_only(rig: JobRig) -> None:
    def texts() -> Iterator[tuple[bytes, str, int]]:
        for number in range(2500):
            yield hash_of(str(number)), str(number), 3
        raise TransientError("the source is gone")

    rig.service.limits_of_jobs = replace(SMALL, texts_per_job=800, bytes_per_job=10**6)
    with closing(Checkpoints.open(rig.folder)) as checkpoints, closing(rig._vectors()) as vectors:
        jobs = rig.jobs(checkpoints, vectors)
        with pytest.raises(TransientError):
            jobs.plan(texts())
        assert not jobs.open_texts([hash_of("1700")])
    assert [row.texts for row in rig.book()] == [800, 800]
    assert not [name for name in rig.files() if name.endswith(".part")]


# --- driving --------------------------------------------------------------------------------------


def assert_all_stored_and_paid_once(rig: JobRig, texts: list[str] = TEXTS) -> None:
    assert rig.stored(texts)
    assert rig.billed(texts) == [1] * len(texts)
    assert rig.count_texts_in_open_jobs() == 0
    assert rig.files() == []


def test_all_texts_go_through_jobs_and_nothing_is_left_over(rig: JobRig) -> None:
    outcome = rig.run(TEXTS)
    assert_all_stored_and_paid_once(rig)
    assert (outcome.stored_texts, outcome.stored_tokens, outcome.billed_tokens) == (5, 15, 15)
    assert outcome.open_jobs == 0
    assert rig.service.dataset_names == []
    assert rig.service.texts_seen == []
    assert [row.state for row in rig.book()] == [State.CLOSED] * 3
    assert {type(event) for event in rig.events} >= {JobStarted, JobProgress, JobStored}


def test_no_more_jobs_are_open_than_allowed(rig: JobRig) -> None:
    rig.service.limits_of_jobs = replace(SMALL, texts_per_job=1)
    rig.run(TEXTS)
    assert rig.service.most_running == 2
    assert_all_stored_and_paid_once(rig)


def test_looks_come_less_often_with_time(rig: JobRig) -> None:
    rig.service.job_looks, rig.service.validation_looks = 8, 0
    rig.run(["a"])
    assert rig.sleeps == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]


def test_a_job_whose_start_got_no_answer_is_found_and_adopted(rig: JobRig) -> None:
    rig.service.faults["start_job"].append(Fault.LOST)
    rig.service.list_lag_seconds = 100.0
    rig.run(TEXTS)
    assert_all_stored_and_paid_once(rig)
    assert len(rig.seen(JobInDoubt)) == 1
    assert [event.adopted for event in rig.seen(JobStarted)].count(True) == 1


def test_a_job_on_another_dataset_is_never_adopted(rig: JobRig) -> None:
    rig.run(["a"])
    rig.service.faults["start_job"].append(Fault.LOST)
    rig.service.list_lag_seconds = 100.0
    rig.run(["a", "b"])
    assert_all_stored_and_paid_once(rig, ["a", "b"])
    assert [row.job_id for row in rig.book()] == ["job-2", "job-1"]


def test_a_job_that_is_in_no_list_is_started_anew_only_after_its_dataset_is_gone(rig: JobRig) -> None:
    rig.service.faults["start_job"].append(Fault.STUCK)
    rig.run(["a"])
    assert_all_stored_and_paid_once(rig, ["a"])
    assert rig.book()[0].attempt == 2
    assert "never started" in rig.seen(JobAttemptLost)[0].reason
    rig.service.sleep(1000.0)
    assert rig.billed(["a"]) == [1]


def test_the_time_to_settle_counts_from_the_first_look_and_not_from_the_intent(rig: JobRig) -> None:
    rig.service.faults["start_job"].append(Fault.STUCK)
    rig.stop_after_sleeps(3)
    rig.run(["a"])
    assert rig.book()[0].state is State.SUBMITTING
    rig.service._stuck[0] = (rig.service.now + 10_050.0, *rig.service._stuck[0][1:])
    rig.service.sleep(10_000.0)  # the process was stopped for hours, and the call with it
    rig.stop = lambda: False
    rig.run(["a"])
    assert_all_stored_and_paid_once(rig, ["a"])
    assert rig.book()[0].attempt == 1


def test_a_start_that_was_surely_refused_is_made_again_after_the_wait_that_was_named(rig: JobRig) -> None:
    rig.service.validation_looks = 0
    rig.service.faults["start_job"].append(Fault.NAMED_WAIT)
    rig.run(["a"])
    assert rig.sleeps[0] == 7.0
    assert rig.service.called["start_job"] == 2
    assert [event.what for event in rig.seen(CallRetried)] == ["start a job"]
    assert rig.book()[0].attempt == 1
    assert_all_stored_and_paid_once(rig, ["a"])


def test_a_start_that_is_refused_again_and_again_ends_the_run_and_not_the_job(rig: JobRig) -> None:
    rig.service.faults["start_job"].extend([Fault.BUSY] * 3)
    with pytest.raises(TransientError):
        rig.run(["a"])
    assert rig.book()[0].state is State.UPLOADED
    rig.run(["a"])
    assert_all_stored_and_paid_once(rig, ["a"])


def test_an_upload_whose_answers_are_all_lost_ends_the_run_and_not_the_job(rig: JobRig) -> None:
    rig.service.faults["create_dataset"].extend([Fault.UNSURE] * 3)
    with pytest.raises(UnknownOutcomeError):
        rig.run(["a"])
    rig.run(["a"])
    assert_all_stored_and_paid_once(rig, ["a"])


def test_an_upload_that_got_no_answer_is_found_by_its_name(rig: JobRig) -> None:
    rig.service.faults["create_dataset"].append(Fault.LOST)
    rig.run(["a"])
    assert rig.service.made_datasets == 2  # with the result's
    assert_all_stored_and_paid_once(rig, ["a"])


@pytest.mark.parametrize("method", ["create_dataset", "start_job", "job", "jobs"])
def test_a_wrong_key_ends_the_run_and_everything_goes_on_later(rig: JobRig, method: str) -> None:
    rig.service.faults[method].append(Fault.NO_ACCESS)
    with pytest.raises(ConfigError):
        rig.run(TEXTS)
    assert State.SUBMITTING not in {row.state for row in rig.book()}
    rig.run(TEXTS)
    assert_all_stored_and_paid_once(rig)


@pytest.mark.parametrize("fate", [Fate.FAILED, Fate.VANISHED, Fate.RESULT_VANISHED])
def test_a_job_that_came_to_nothing_is_tried_again_with_a_new_dataset(rig: JobRig, fate: Fate) -> None:
    rig.service.fates.append(fate)
    rig.run(["a"])
    assert rig.stored(["a"])
    assert rig.book()[0].attempt == 2
    assert rig.book()[0].name.endswith("-a2")
    assert rig.seen(JobAttemptLost)[0].attempt == 1
    assert rig.service.dataset_names == []


def test_a_job_that_fails_always_is_given_up_with_the_words_of_the_service(rig: JobRig) -> None:
    rig.service.fates.extend([Fate.FAILED] * MAX_ATTEMPTS)
    outcome = rig.run(["a"])
    row = rig.book()[0]
    assert (row.state, row.attempt, row.problem) == (State.FAILED, MAX_ATTEMPTS, "the job failed: out of memory")
    assert rig.seen(JobFailed)[0].reason == row.problem
    assert (outcome.failed_jobs, outcome.failed_texts) == (1, 1)
    assert rig.service.texts_seen == ["a"]
    assert_all_stored_and_paid_once(rig, ["a"])


def test_a_dataset_that_is_refused_always_is_given_up_with_the_words_of_the_service(rig: JobRig) -> None:
    rig.service.refused_datasets = MAX_ATTEMPTS
    rig.run(["a"])
    assert "line 1 is malformed" in str(rig.book()[0].problem)
    assert rig.service.dataset_names == []
    assert_all_stored_and_paid_once(rig, ["a"])


def test_a_job_whose_texts_are_not_at_hand_any_more_is_dropped_after_a_loss(rig: JobRig) -> None:
    rig.service.fates.append(Fate.FAILED)
    rig.stop_after_sleeps(2)
    rig.run(["a"])
    for name in rig.files():
        (rig.folder / "jobs" / name).unlink()
    rig.stop = lambda: False
    outcome = rig.run(["a"])
    assert outcome.dropped_texts == 1
    assert rig.seen(JobDropped)
    assert_all_stored_and_paid_once(rig, ["a"])


def test_the_second_of_two_jobs_on_one_dataset_is_cancelled(rig: JobRig) -> None:
    rig.service.fates.append(Fate.TWICE)
    rig.service.faults["start_job"].append(Fault.LOST)
    outcome = rig.run(["a"])
    assert rig.service.cancelled == ["job-1-again"]
    assert outcome.duplicate_jobs == len(rig.seen(JobDuplicated)) == 1
    assert rig.book()[0].job_id == "job-1"


def test_a_second_job_that_shows_later_is_cancelled_by_the_next_run(rig: JobRig) -> None:
    rig.service.fates.append(Fate.TWICE)
    rig.run(["a"])
    assert rig.service.cancelled == []
    rig.run(["a"])
    assert rig.service.cancelled == ["job-1-again"]


def test_a_row_that_is_missing_is_noted_and_embedded_without_a_job(rig: JobRig) -> None:
    rig.service.fates.append(Fate.MISSING)
    outcome = rig.run(["a", "b"])
    assert (outcome.stored_texts, outcome.missing_texts) == (1, 1)
    assert "1 texts" in str(rig.book()[0].problem)
    assert rig.service.texts_seen == ["a"]
    assert rig.stored(["a", "b"])


@pytest.mark.parametrize("fate,left_out", [(Fate.REORDERED, 0), (Fate.FOREIGN, 2), (Fate.UNSOUND, 2), (Fate.CUT, 0)])
def test_rows_are_taken_by_their_hash_and_only_if_they_are_sound(rig: JobRig, fate: Fate, left_out: int) -> None:
    rig.service.fates.append(fate)
    rig.run(["a", "b"])
    assert rig.seen(JobStored)[0].left_out == left_out
    assert_all_stored_and_paid_once(rig, ["a", "b"])
    with closing(SqliteVectors.open(rig.folder, embedder_identity="?", dimension=8)) as vectors:
        assert vectors.count() == 2


def test_a_result_is_read_in_bounded_memory_and_each_vector_stored_once(folder: Path) -> None:
    class Counting(SqliteVectors):
        puts: list[int]

        def put(self, hashes: object, vectors: object) -> None:
            self.puts.append(len(hashes))  # type: ignore[arg-type]
            super().put(hashes, vectors)  # type: ignore[arg-type]

    hashes = [n.to_bytes(16, "big") for n in range(5000)]
    rows = np.ones((1000, 4), dtype=np.float32)
    with closing(Counting.open(folder, embedder_identity="e", dimension=4)) as vectors:
        vectors.puts = []  # type: ignore[attr-defined]
        intake = Intake(vectors, 4, set(hashes))
        intake.take((hashes[start : start + 1000], rows) for start in range(0, 5000, 1000))
        intake.take((hashes[start : start + 1000], rows) for start in range(0, 5000, 1000))
        assert vectors.puts == [2000, 2000, 1000]  # type: ignore[attr-defined]


def test_datasets_that_cannot_be_deleted_keep_nobody_from_the_vectors(rig: JobRig) -> None:
    rig.service.faults["delete_dataset"].extend([Fault.BUSY] * 3)
    outcome = rig.run(["a"])
    assert rig.stored(["a"])
    assert outcome.open_jobs == 1
    assert rig.book()[0].state is State.STORED
    rig.run(["a"])
    assert rig.service.dataset_names == []
    assert_all_stored_and_paid_once(rig, ["a"])


def test_a_run_that_is_stopped_leaves_its_jobs_running(rig: JobRig) -> None:
    rig.service.job_looks = 50
    rig.stop_after_sleeps(3)
    outcome = rig.run(TEXTS)
    assert (outcome.open_jobs, rig.service.cancelled) == (3, [])
    assert rig.service.running == 2
    rig.stop = lambda: False
    rig.run(TEXTS)
    assert_all_stored_and_paid_once(rig)


def test_an_interrupt_leaves_the_jobs_running(rig: JobRig) -> None:
    def interrupt() -> bool:
        if len(rig.sleeps) > 2:
            raise KeyboardInterrupt
        return False

    rig.stop = interrupt
    with pytest.raises(KeyboardInterrupt):
        rig.run(TEXTS)
    assert rig.service.cancelled == []
    rig.stop = lambda: False
    rig.run(TEXTS)
    assert_all_stored_and_paid_once(rig)


# --- the start of a run ---------------------------------------------------------------------------


def test_a_planned_job_without_a_file_is_planned_anew(rig: JobRig) -> None:
    plan(rig, ["a", "b"])
    for name in rig.files():
        (rig.folder / "jobs" / name).unlink()
    rig.run(["a", "b"])
    assert [row.state for row in rig.book()] == [State.CLOSED, State.DROPPED]
    assert_all_stored_and_paid_once(rig, ["a", "b"])


def test_files_without_a_job_are_removed_and_others_left(rig: JobRig) -> None:
    (rig.folder / "jobs").mkdir()
    for name in (f"{'0' * 24}.jsonl", f"{'1' * 24}.jsonl.part", "notes.txt"):
        (rig.folder / "jobs" / name).touch()
    rig.run(["a"])
    assert rig.files() == ["notes.txt"]


def own_name(rig: JobRig, number: int = 0) -> str:
    rig.run([])
    with closing(Checkpoints.open(rig.folder, read_only=True)) as checkpoints:
        return name_of(JobBook(checkpoints).prefix, mark_of(rig.service.identity) + f"{number:016x}", 1)


def test_old_datasets_of_ours_are_deleted_and_nobody_elses(rig: JobRig) -> None:
    ours = own_name(rig)
    others = name_of("vs-ffffffff-", mark_of(rig.service.identity) + "0" * 16, 1)
    rig.service.leave(ours, {}, age_seconds=1.1 * DAY_SECONDS)
    rig.service.leave(others, {}, age_seconds=100 * DAY_SECONDS)
    rig.service.leave("photos", {}, age_seconds=100 * DAY_SECONDS)
    rig.service.leave(own_name(rig, 1), {}, age_seconds=0.9 * DAY_SECONDS)
    rig.run(["a"])
    assert rig.service.dataset_names == [others, "photos", own_name(rig, 1)]
    assert DatasetsCleaned(1) in rig.events


@pytest.mark.parametrize("complete", [True, False])
def test_a_job_that_only_the_service_remembers_is_taken_in_and_not_paid_again(rig: JobRig, complete: bool) -> None:
    name = own_name(rig)
    id = rig.service.leave(name, {hash_of(text): text for text in TEXTS}, age_seconds=2 * DAY_SECONDS)
    started = rig.service.start_behind(id, name)
    while complete and rig.service.running:
        rig.service.job(started)
    rig.run(TEXTS)
    assert_all_stored_and_paid_once(rig)
    assert rig.service.dataset_names == []
    assert [(row.state, row.found, row.texts) for row in rig.book()] == [(State.CLOSED, True, 5)]
    called = rig.service.called.copy()
    rig.run(TEXTS)
    assert rig.service.called - called == {"datasets": 1, "jobs": 1}


def test_a_job_of_another_embedder_is_not_taken_in(rig: JobRig) -> None:
    name = own_name(rig)
    id = rig.service.leave(name, {hash_of("a"): "a"})
    rig.service.start_behind(id, name)
    rig.service.identity = "another model"
    rig.run(["a"])
    assert rig.stored(["a"])
    assert rig.service.billed[hash_of("a")] == 2  # once for each model


def test_a_job_whose_result_is_gone_is_asked_about_once(rig: JobRig) -> None:
    name = own_name(rig)
    id = rig.service.leave(name, {hash_of("a"): "a"})
    started = rig.service.start_behind(id, name)
    while rig.service.running:
        rig.service.job(started)
    rig.service.remove("dataset-2")
    rig.run([])
    looks = rig.service.called["dataset"]
    rig.run([])
    assert rig.service.called["dataset"] == looks
    assert [row.state for row in rig.book()] == [State.DROPPED]


@pytest.mark.parametrize("backup_after", range(1, 24))
def test_a_state_that_was_restored_from_a_backup_pays_nothing_again(folder: Path, backup_after: int) -> None:
    rig = JobRig(folder)
    rig.world.crash_at = backup_after
    try:
        rig.run(["a", "b"])
    except Crash:
        backup = {path: path.read_bytes() for path in folder.glob("checkpoint.db*")}
        rig.run(["a", "b"])
        for path in folder.glob("checkpoint.db*"):
            path.unlink()
        for path, content in backup.items():
            path.write_bytes(content)
    rig.run(["a", "b"])
    assert_all_stored_and_paid_once(rig, ["a", "b"])


def test_an_old_job_is_reported_before_the_service_forgets_it(rig: JobRig) -> None:
    rig.service.job_looks = 50
    rig.stop_after_sleeps(3)
    rig.run(["a"])
    rig.service.sleep(26 * DAY_SECONDS)
    rig.stop = lambda: False
    rig.run(["a"])
    assert [round(event.age_days) for event in rig.seen(JobUrgent)] == [26]


def test_the_fake_gives_in_a_job_what_it_gives_at_once(folder: Path) -> None:
    rig = JobRig(folder, FakeJobEmbedder(dimension=4))
    rig.run(["a"])
    at_once = rig.service.embed(["a"], InputType.SEARCH_DOCUMENT)
    with closing(rig._vectors()) as vectors:
        assert (vectors.get([hash_of("a")])[hash_of("a")] == at_once[0]).all()

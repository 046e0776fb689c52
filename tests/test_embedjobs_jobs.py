"""Jobs and validation as they run in the background: turns, troubles, cancelling, restarts, threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from embedjobs_bench import Bench, Clock, files_of_at_most, jsonl, read_parts
from embedjobs_fakes import CountingModel

from connector.embedjobs.events import (
    BlockEmbedded,
    BugFound,
    DatasetFailed,
    DatasetsExpired,
    DatasetValidated,
    Event,
    JobEnded,
    JobStarted,
    Postponed,
    trace_of,
)
from connector.embedjobs.jobs import CHARACTERS_PER_CALL, calls
from connector.embedjobs.models import Catalogue
from connector.embedjobs.rotation import INTERNAL_ERROR, LONGEST_WAIT_SECONDS, OPEN_RUNS
from connector.embedjobs.store import Store
from connector.embedjobs.values import (
    DatasetOptions,
    EmbeddingType,
    InputType,
    JobOptions,
    JobStatus,
    Progress,
    ValidationStatus,
)
from connector.embedjobs.workers import Embedded, Workers
from connector.errors import ConfigError, RejectedError, TransientError

BLOCK = 512


def texts(name: str, count: int) -> list[str]:
    return [f"{name} {n}" for n in range(count)]


def turns(bench: Bench) -> list[str]:
    """Which job each block was of, in order."""
    return [event.job_id for event in bench.events if isinstance(event, BlockEmbedded)]


def kinds(bench: Bench) -> list[str]:
    return [type(event).__name__ for event in bench.events]


# --- one job ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_a_job_embeds_every_row_once_and_in_order(folder: Path, rows: int) -> None:
    with Bench(folder) as bench:
        words = texts("a", rows)
        job = bench.job(words, input_type=InputType.CLUSTERING)
        bench.work()
        ended = bench.store.job(job.id)
        assert ended.status is JobStatus.COMPLETE
        assert (ended.progress.rows, ended.progress.blocks) == (rows, -(-rows // BLOCK))
        found = bench.rows(job.output_dataset_id)
        assert [(row["text"], row["n"]) for row in found] == [(text, n) for n, text in enumerate(words)]
        assert sorted(bench.model.texts_seen) == sorted(words)
        right = CountingModel().embed(words, input_type=InputType.CLUSTERING, truncate=ended.options.truncate)
        assert np.array_equal(np.array([row["embeddings"]["float"] for row in found], dtype=np.float32), right.vectors)
        assert ended.progress.tokens == right.tokens


def test_a_result_has_the_types_that_were_asked_for(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(["one"], embedding_types=(EmbeddingType.INT8, EmbeddingType.UBINARY))
        bench.work()
        (row,) = bench.rows(job.output_dataset_id)
        assert {name for name, value in row["embeddings"].items() if value is not None} == {"int8", "ubinary"}


def test_a_job_tells_what_it_does_without_a_text(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(texts("secret", BLOCK + 1))
        bench.work()
        assert kinds(bench) == ["DatasetValidated", "JobStarted", "BlockEmbedded", "BlockEmbedded", "JobEnded"]
        validated, started, first, second, ended = bench.events
        assert isinstance(validated, DatasetValidated)
        assert (validated.rows, validated.parts) == (BLOCK + 1, 1)
        assert isinstance(started, JobStarted)
        assert (started.rows, started.rows_done, started.model) == (BLOCK + 1, 0, "hash")
        assert isinstance(first, BlockEmbedded)
        assert isinstance(second, BlockEmbedded)
        assert (first.rows, first.rows_done, second.rows, second.rows_done) == (BLOCK, BLOCK, 1, BLOCK + 1)
        assert isinstance(ended, JobEnded)
        assert (ended.job_id, ended.status, ended.rows) == (job.id, JobStatus.COMPLETE, BLOCK + 1)
        assert ended.tokens == first.tokens + second.tokens
        assert "secret" not in repr(bench.events)


@pytest.mark.parametrize(
    "lengths,expected",
    [
        ([], []),
        ([5], [[0]]),
        ([1, 3, 2], [[1, 2, 0]]),
        ([CHARACTERS_PER_CALL] * 2, [[0], [1]]),
        ([CHARACTERS_PER_CALL // 2 + 1, CHARACTERS_PER_CALL // 2, 1], [[0], [1, 2]]),
    ],
)
def test_a_block_is_cut_into_calls_of_like_length(lengths: Sequence[int], expected: list[list[int]]) -> None:
    assert list(calls(lengths, 1_000_000)) == expected


def test_a_text_counts_for_a_call_with_no_more_than_the_model_reads_of_it() -> None:
    assert list(calls([10**9] * 4, CHARACTERS_PER_CALL // 8)) == [[0, 1], [2, 3]]


def test_long_texts_are_embedded_in_several_calls_and_each_gets_its_own_vector(folder: Path) -> None:
    with Bench(folder, CountingModel(tokens_per_text=4096)) as bench:
        words = [f"{n} " + "x" * (n % 7) * 1000 for n in range(60)]
        job = bench.job(words)
        bench.work()
        assert len(bench.model.calls) > 5
        assert all(sum(map(len, call)) <= CHARACTERS_PER_CALL for call in bench.model.calls)
        right = bench.model.embed(words, input_type=job.options.input_type, truncate=job.options.truncate).vectors
        found = [row["embeddings"]["float"] for row in bench.rows(job.output_dataset_id)]
        assert np.array_equal(np.array(found, dtype=np.float32), right)


# --- turns ------------------------------------------------------------------------------------------


def test_two_jobs_take_turns_and_a_third_that_comes_late_waits_for_one_block_of_each(folder: Path) -> None:
    with Bench(folder) as bench:
        a, b = (bench.job(texts(name, 5 * BLOCK)).id for name in "ab")
        for _ in range(4):
            bench.rotation.turn()
        c = bench.job(texts("c", 2 * BLOCK)).id
        bench.work()
        assert turns(bench) == [a, b, a, b, a, b, c, a, b, c, a, b]


def test_more_jobs_than_may_have_their_files_open_take_turns_all_the_same(folder: Path) -> None:
    with Bench(folder) as bench:
        count = OPEN_RUNS + 3
        jobs = [bench.job(texts(str(n), 2 * BLOCK + 1)) for n in range(count)]
        bench.work()
        assert turns(bench) == [job.id for job in jobs] * 3
        for n, job in enumerate(jobs):
            assert [row["text"] for row in bench.rows(job.output_dataset_id)] == texts(str(n), 2 * BLOCK + 1)
        assert len(bench.model.texts_seen) == count * (2 * BLOCK + 1)


def test_a_job_that_waits_does_not_hold_up_the_others(folder: Path) -> None:
    with Bench(folder) as bench:
        a, b = (bench.job(texts(name, 2 * BLOCK)).id for name in "ab")
        bench.model.failures.append(TransientError("busy"))
        bench.work()
        assert turns(bench) == [b, b]
        bench.clock.pass_(1)
        bench.work()
        assert turns(bench) == [b, b, a, a]


def test_with_nothing_to_do_a_turn_says_when_to_come_back(folder: Path) -> None:
    with Bench(folder) as bench:
        assert bench.rotation.turn() is None
        assert bench.validator.turn() is None
        bench.job(["one"])
        bench.model.failures.append(TransientError("busy", retry_after_seconds=7))
        assert bench.rotation.turn() == 0.0
        assert bench.rotation.turn() == 7.0
        bench.clock.pass_(3)
        assert bench.rotation.turn() == 4.0


# --- troubles ---------------------------------------------------------------------------------------


def test_waits_become_longer_up_to_a_limit_and_short_again_after_a_success(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(texts("a", 2 * BLOCK))
        waits = []
        for _ in range(9):
            bench.model.failures.append(TransientError("busy"))
            bench.rotation.turn()
            waits.append(bench.rotation.turn())
            bench.clock.pass_(waits[-1] or 0)
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert LONGEST_WAIT_SECONDS == 60
        bench.rotation.turn()
        assert bench.store.job(job.id).progress.blocks == 1
        bench.model.failures.append(TransientError("busy"))
        bench.rotation.turn()
        assert bench.rotation.turn() == 1
        postponed = [event for event in bench.events if isinstance(event, Postponed)]
        assert (postponed[0].what, postponed[0].error) == (f"job {job.id}", "TransientError: busy")


def test_a_full_disk_delays_a_job_and_nothing_is_embedded_twice_for_it(folder: Path) -> None:
    with Bench(folder, CountingModel(dimension=384)) as bench:
        job = bench.job(texts("a", 2 * BLOCK))
        with files_of_at_most(500_000):
            for _ in range(4):
                bench.rotation.turn()
                bench.clock.pass_(60)
        assert bench.store.job(job.id).progress == Progress()
        assert kinds(bench).count("Postponed") == 4
        bench.work()
        assert bench.store.job(job.id).status is JobStatus.COMPLETE
        assert [row["text"] for row in bench.rows(job.output_dataset_id)] == texts("a", 2 * BLOCK)
        assert sorted(bench.model.texts_seen) == sorted(texts("a", 2 * BLOCK))


def test_a_disk_that_fills_up_in_the_database_delays_a_job_and_nothing_is_embedded_twice(folder: Path) -> None:
    with Bench(folder) as bench:
        dataset = bench.dataset(texts("a", 2 * BLOCK))
        jobs = [bench.job(dataset) for _ in range(20)]
        log_bytes = (folder / "embed-jobs.sqlite-wal").stat().st_size
        assert log_bytes > 100_000, "more than a result will have"
        with files_of_at_most(log_bytes):
            for _ in range(3):
                bench.work()
                bench.clock.pass_(60)
            assert {job.progress for job in bench.store.open_jobs()} == {Progress()}
        assert kinds(bench).count("Postponed") == 3 * len(jobs)
        assert "BugFound" not in kinds(bench)
        bench.work()
        for job in jobs:
            assert bench.store.job(job.id).status is JobStatus.COMPLETE
            assert [row["text"] for row in bench.rows(job.output_dataset_id)] == texts("a", 2 * BLOCK)
        assert len(bench.model.texts_seen) == len(jobs) * 2 * BLOCK


def test_a_job_whose_model_cannot_work_fails_with_the_reason_and_the_others_go_on(folder: Path) -> None:
    with Bench(folder) as bench:
        a, b = bench.job(["a"]), bench.job(["b"])
        bench.model.failures.append(ConfigError("the weights are damaged; install them again"))
        bench.work()
        failed = bench.store.job(a.id)
        assert failed.status is JobStatus.FAILED
        assert failed.error == "model 'hash' does not work: the weights are damaged; install them again"
        assert bench.store.job(b.id).status is JobStatus.COMPLETE


def test_a_refused_text_fails_its_job_and_is_not_quoted(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(["secret"])
        bench.model.failures.append(RejectedError("text 1 is refused: 'secret'"))
        bench.work()
        assert bench.store.job(job.id).error == f"model 'hash' refuses a text of the {BLOCK} rows after 0"
        assert "secret" not in repr(bench.events)


def test_a_job_whose_model_is_not_served_any_more_fails(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(texts("a", 2 * BLOCK))
        bench.rotation.turn()
        bench.models = (CountingModel(name="another"),)
        bench.restart()
        bench.work()
        assert bench.store.job(job.id).status is JobStatus.FAILED
        assert "hash" in bench.store.job(job.id).error
        assert bench.files().keys() == {job.input_dataset_id}


def test_vectors_of_two_models_never_come_into_one_result(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(texts("a", 2 * BLOCK))
        bench.rotation.turn()
        bench.models = (CountingModel(identity="hash, of another precision"),)
        bench.restart()
        bench.work()
        assert bench.store.job(job.id).status is JobStatus.FAILED
        assert "model_identity; start the job again" in bench.store.job(job.id).error
        assert bench.files().keys() == {job.input_dataset_id}


@pytest.mark.parametrize("damage", ["gone", "short", "scrambled"])
def test_a_damaged_input_fails_the_job_and_says_which_part(folder: Path, damage: str) -> None:
    with Bench(folder) as bench:
        job = bench.job(texts("a", 2 * BLOCK))
        part = bench.store.folder_of(job.input_dataset_id) / "000_data.avro"
        content = part.read_bytes()
        if damage == "gone":
            part.unlink()
        else:
            part.write_bytes(content[:-100] if damage == "short" else content[:-16] + bytes(16))
        bench.work()
        failed = bench.store.job(job.id)
        assert failed.status is JobStatus.FAILED
        assert failed.error.startswith(f"dataset {job.input_dataset_id} is damaged: the part 000_data.avro ")
        assert failed.error.endswith("; upload it again")
        assert job.output_dataset_id not in bench.files()


def test_a_job_that_read_other_rows_than_were_counted_is_not_complete(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(["one", "two"])
        with bench.store._tables.writing():
            bench.store._tables.write("UPDATE job SET rows = 3")
        bench.work()
        assert bench.store.job(job.id).status is JobStatus.FAILED
        assert "it had 3 rows, and has 2; upload it again" in bench.store.job(job.id).error


def test_a_damaged_result_so_far_fails_the_job(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(texts("a", 2 * BLOCK))
        bench.rotation.turn()
        bench.restart()
        (bench.store.result_folder(job) / "001_embeded-sample.avro").unlink()
        bench.work()
        assert bench.store.job(job.id).status is JobStatus.FAILED
        assert "the part 001_embeded-sample.avro is gone; start the job again" in bench.store.job(job.id).error


def test_a_bug_costs_one_job_and_is_logged_without_its_words(folder: Path) -> None:
    with Bench(folder) as bench:
        a, b = bench.job(["a"]), bench.job(["b"])
        bench.model.failures.append(KeyError("secret"))
        bench.work()
        assert (bench.store.job(a.id).status, bench.store.job(a.id).error) == (JobStatus.FAILED, INTERNAL_ERROR)
        assert bench.store.job(b.id).status is JobStatus.COMPLETE
        (bug,) = [event for event in bench.events if isinstance(event, BugFound)]
        assert bug.what == f"job {a.id}"
        assert "in embed" in bug.trace
        assert "KeyError" in bug.trace
        assert "secret" not in bug.trace


def test_a_trace_has_the_causes_and_only_words_of_ours() -> None:
    error = TransientError("cannot write")
    error.__cause__ = OSError(28, "No space left on device", "secret")
    error.__cause__.__context__ = RejectedError("secret")
    assert trace_of(error).split("\ncaused ") == [
        "TransientError: cannot write",
        "OSError: No space left on device",
        "RejectedError",
    ]


# --- cancelling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
def test_a_job_that_is_cancelled_between_two_blocks_ends_at_the_next_turn(folder: Path, blocks: int) -> None:
    with Bench(folder) as bench:
        job = bench.job(texts("a", 3 * BLOCK))
        for _ in range(blocks):
            bench.rotation.turn()
        assert bench.store.cancel(job.id).status is JobStatus.CANCELLING
        bench.rotation.turn()
        ended = bench.store.job(job.id)
        assert (ended.status, ended.progress.rows) == (JobStatus.CANCELLED, blocks * BLOCK)
        assert bench.files().keys() == {job.input_dataset_id}
        assert len(bench.model.calls) == blocks
        assert isinstance(bench.events[-1], JobEnded)
        assert bench.rotation.turn() is None


def test_cancelled_jobs_are_ended_before_another_block_is_embedded(folder: Path) -> None:
    with Bench(folder) as bench:
        jobs = [bench.job(texts(str(n), 2 * BLOCK)) for n in range(3)]
        bench.rotation.turn()
        bench.store.cancel(jobs[0].id)
        bench.rotation.turn()
        assert bench.store.job(jobs[0].id).status is JobStatus.CANCELLED
        assert turns(bench) == [jobs[0].id]


class Meddling(CountingModel):
    """A model in the middle of whose n-th call something else happens."""

    def meddle(self, call: int, act: Callable[[], object]) -> None:
        self.call, self.act = call, act

    def embed(self, *arguments: object, **named: object) -> object:  # type: ignore[override]
        made = super().embed(*arguments, **named)  # type: ignore[arg-type]
        if len(self.calls) == self.call:
            self.act()
        return made


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_job_that_is_cancelled_in_the_middle_of_a_block_drops_it(folder: Path, call: int) -> None:
    model = Meddling(tokens_per_text=4096)
    with Bench(folder, model) as bench:
        job = bench.job(["x" * (CHARACTERS_PER_CALL // 2)] * 5)  # a block of three calls
        model.meddle(call, lambda: bench.store.cancel(job.id))
        bench.rotation.turn()
        assert len(model.calls) == call
        assert bench.store.job(job.id).status is JobStatus.CANCELLING
        bench.rotation.turn()
        assert bench.store.job(job.id).status is JobStatus.CANCELLED
        assert bench.files().keys() == {job.input_dataset_id}


@pytest.mark.parametrize("act", ["save_progress", "complete"])
@pytest.mark.parametrize("late", [False, True])
def test_a_job_that_is_cancelled_around_a_commit_is_cancelled_or_complete(
    folder: Path, monkeypatch: pytest.MonkeyPatch, act: str, late: bool
) -> None:
    with Bench(folder) as bench:
        job = bench.job(["one"])
        real = getattr(bench.store, act)

        def meddled(*arguments: object, **named: object) -> None:
            if not late:
                bench.store.cancel(job.id)
            real(*arguments, **named)
            if late:
                bench.store.cancel(job.id)

        monkeypatch.setattr(bench.store, act, meddled)
        bench.work()
        is_complete = act == "complete" and late
        assert bench.store.job(job.id).status is (JobStatus.COMPLETE if is_complete else JobStatus.CANCELLED)
        assert bench.files().keys() == ({job.input_dataset_id} | ({job.output_dataset_id} if is_complete else set()))
        assert kinds(bench).count("JobEnded") == 1
        assert "BugFound" not in kinds(bench)


def test_a_job_that_is_cancelled_while_it_waits_ends_at_once(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(["one"])
        bench.model.failures.append(TransientError("busy"))
        bench.rotation.turn()
        bench.store.cancel(job.id)
        bench.work()
        assert bench.store.job(job.id).status is JobStatus.CANCELLED


def test_a_cancelled_job_whose_model_then_fails_is_cancelled(folder: Path) -> None:
    model = Meddling()
    with Bench(folder, model) as bench:
        job = bench.job(["one"])

        def cancel_and_fail() -> None:
            bench.store.cancel(job.id)
            raise ConfigError("broken")

        model.meddle(1, cancel_and_fail)
        bench.work()
        assert bench.store.job(job.id).status is JobStatus.CANCELLED


def test_to_cancel_a_job_that_is_over_changes_nothing(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(["one"])
        bench.work()
        assert bench.store.cancel(job.id).status is JobStatus.COMPLETE
        bench.work()
        assert len(bench.rows(job.output_dataset_id)) == 1


# --- restarts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
def test_a_job_goes_on_after_a_restart_and_embeds_no_saved_block_again(folder: Path, blocks: int) -> None:
    with Bench(folder) as bench:
        words = texts("a", 3 * BLOCK)
        job = bench.job(words)
        for _ in range(blocks):
            bench.rotation.turn()
        bench.restart()
        assert bench.store.job(job.id).status is JobStatus.PROCESSING
        bench.work()
        assert [row["text"] for row in bench.rows(job.output_dataset_id)] == words
        assert sorted(bench.model.texts_seen) == sorted(words)
        assert isinstance(bench.events[-1], JobEnded)


@pytest.mark.parametrize("status", list(JobStatus))
def test_a_restart_in_any_status_goes_on_or_stays(folder: Path, status: JobStatus) -> None:
    with Bench(folder) as bench:
        job = bench.job(texts("a", 2 * BLOCK))
        bench.rotation.turn()
        if status is JobStatus.COMPLETE:
            bench.work()
        elif status is JobStatus.FAILED:
            bench.store.failed(job.id, "for a test")
        elif status is not JobStatus.PROCESSING:
            bench.store.cancel(job.id)
            if status is JobStatus.CANCELLED:
                bench.rotation.turn()
        assert bench.store.job(job.id).status is status
        bench.restart()
        assert bench.store.job(job.id).status is status
        bench.work()
        expected = {JobStatus.PROCESSING: JobStatus.COMPLETE, JobStatus.CANCELLING: JobStatus.CANCELLED}
        assert bench.store.job(job.id).status is expected.get(status, status)
        has_result = expected.get(status, status) is JobStatus.COMPLETE
        assert (job.output_dataset_id in bench.files()) == has_result
        assert bench.bytes_on_disk() == bench.store.stored_bytes()


def test_what_was_appended_and_not_saved_is_cut_off(folder: Path) -> None:
    with Bench(folder) as bench:
        words = texts("a", 3 * BLOCK)
        job = bench.job(words)
        bench.rotation.turn()
        with (bench.store.result_folder(job) / "001_embeded-sample.avro").open("ab") as file:
            file.write(b"half of a block")
        bench.restart()
        bench.work()
        assert [row["text"] for row in bench.rows(job.output_dataset_id)] == words


def test_a_stop_drops_the_block_at_hand_and_the_next_start_does_it(folder: Path) -> None:
    model = Meddling()
    with Bench(folder, model) as bench:
        job = bench.job(texts("a", BLOCK))

        def stop() -> None:
            bench.is_stopping = True

        model.meddle(1, stop)
        bench.rotation.turn()
        assert bench.store.job(job.id).progress == Progress()
        bench.is_stopping = False
        bench.restart()
        bench.work()
        assert bench.store.job(job.id).status is JobStatus.COMPLETE


# --- datasets ---------------------------------------------------------------------------------------


def test_a_dataset_is_deleted_in_the_middle_of_its_validation(folder: Path) -> None:
    with Bench(folder) as bench:
        bench.queued(content=jsonl(texts("x" * 1000, 3000)))
        real = bench.store.has_dataset
        asked: list[str] = []

        def deleting(id: str) -> bool:
            asked.append(id)
            if len(asked) == 3:
                bench.store.delete_dataset(id)
            return real(id)

        bench.store.has_dataset = deleting  # type: ignore[method-assign]
        bench.work()
        assert len(asked) > 3
        assert bench.files() == {}
        assert bench.store.datasets() == []
        assert bench.events == []


def test_a_stop_breaks_a_validation_off_and_the_next_start_does_it_all(folder: Path) -> None:
    with Bench(folder) as bench:
        dataset = bench.queued(content=jsonl(texts("x" * 1000, 3000)))
        bench.is_stopping = True
        bench.validator.turn()
        assert bench.store.dataset(dataset.id).status is ValidationStatus.QUEUED
        assert bench.files() == {dataset.id: {"original.jsonl"}}
        bench.is_stopping = False
        bench.restart()
        bench.work()
        assert bench.store.dataset(dataset.id).rows == 3000


def test_a_full_disk_delays_a_validation_and_the_others_go_on(folder: Path) -> None:
    with Bench(folder) as bench:
        large = bench.queued(texts("x" * 1000, 3000))
        small = bench.queued(["one"])
        with files_of_at_most(2_000_000):
            bench.work()
            assert bench.files()[large.id] == {"original.jsonl"}, "what was written is given back"
        assert bench.store.dataset(large.id).status is ValidationStatus.PROCESSING
        assert bench.store.dataset(small.id).status is ValidationStatus.VALIDATED
        assert [type(event) for event in bench.events] == [Postponed, DatasetValidated]
        bench.clock.pass_(60)
        bench.work()
        assert bench.store.dataset(large.id).rows == 3000


def test_a_dataset_that_is_deleted_while_its_validation_waits_leaves_no_file(folder: Path) -> None:
    with Bench(folder) as bench:
        large = bench.queued(texts("x" * 1000, 3000))
        with files_of_at_most(2_000_000):
            bench.work()
        bench.store.delete_dataset(large.id)
        bench.clock.pass_(60)
        bench.work()
        assert bench.files() == {}
        assert bench.validator.turn() is None


def test_a_bug_costs_one_dataset(folder: Path) -> None:
    with Bench(folder) as bench:
        lost, good = bench.queued(), bench.queued()
        (bench.store.folder_of(lost.id) / "original.jsonl").unlink()
        bench.work()
        assert bench.store.dataset(lost.id).error == INTERNAL_ERROR
        assert bench.store.dataset(good.id).status is ValidationStatus.VALIDATED
        assert [type(event) for event in bench.events] == [BugFound, DatasetFailed, DatasetValidated]


def test_a_dataset_that_is_none_fails_and_is_told_so_without_its_text(folder: Path) -> None:
    with Bench(folder) as bench:
        dataset = bench.dataset(content=b'{"text": "good", "n": 1}\n{"secret": 1}\n')
        assert dataset.status is ValidationStatus.FAILED
        assert "line: 2" in dataset.error
        assert "secret" not in repr(bench.events)
        assert bench.files() == {}


# --- the threads ------------------------------------------------------------------------------------


class Threads:
    """A store with its real threads."""

    def __init__(self, folder: Path, model: CountingModel, **limits: int) -> None:
        self.clock = Clock()
        self.model = model
        self.events: list[Event] = []
        self.store = Store.open(folder, now=self.clock.now, **limits)
        self.workers = Workers(self.store, Catalogue([model], {}), emit=self.events.append)

    def __enter__(self) -> Threads:  # noqa: PYI034 - nobody inherits from it
        self.workers.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.model.gate is not None:
            self.model.gate.set()
        assert self.workers.stop()
        self.store.close()

    def dataset(self, words: Sequence[str]) -> str:
        upload = self.store.new_upload()
        upload.write_bytes(jsonl(words))
        options = DatasetOptions(keep_fields=("n",))
        id = self.store.add_dataset(upload, name="sample", file_name="data.jsonl", options=options).id
        self.workers.wake()
        until(lambda: self.store.dataset(id).status is ValidationStatus.VALIDATED)
        return id

    def job(self, words: Sequence[str]) -> str:
        job = self.store.add_job(self.dataset(words), JobOptions(model="hash", requested_model="hash"))
        self.workers.wake()
        return job.id

    def ended(self, id: str) -> JobStatus:
        until(lambda: not self.store.job(id).status.is_open)
        return self.store.job(id).status


def until(is_so: Callable[[], bool], *, deadline_seconds: float = 30) -> None:
    """Wait for another thread's work."""
    deadline = time.monotonic() + deadline_seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.002)


def test_the_threads_do_what_they_are_woken_for(folder: Path) -> None:
    with Threads(folder, CountingModel()) as threads:
        assert threads.workers.is_alive
        id = threads.job(texts("a", BLOCK + 1))
        assert threads.ended(id) is JobStatus.COMPLETE
        output = threads.store.dataset(threads.store.job(id).output_dataset_id)
        found = read_parts(threads.store.folder_of(output.id), output.parts)
        assert [row["text"] for row in found] == texts("a", BLOCK + 1)
        tokens = threads.store.job(id).progress.tokens
        assert threads.workers.embedded == Embedded(blocks=2, rows=BLOCK + 1, tokens=tokens)
    assert not threads.workers.is_alive


def test_what_was_left_is_taken_up_at_the_start_without_being_woken(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(texts("a", 2 * BLOCK))
        bench.rotation.turn()
        queued = bench.queued()
    with Threads(folder, CountingModel()) as threads:
        assert threads.ended(job.id) is JobStatus.COMPLETE
        until(lambda: threads.store.dataset(queued.id).status is ValidationStatus.VALIDATED)


def test_a_job_in_the_threads_is_cancelled_while_the_model_is_slow(folder: Path) -> None:
    model = CountingModel(gate=threading.Event())
    with Threads(folder, model) as threads:
        assert model.gate is not None
        id = threads.job(["one"])
        assert model.entered.wait(30)
        threads.store.cancel(id)
        threads.workers.wake()
        model.gate.set()
        assert threads.ended(id) is JobStatus.CANCELLED


def test_a_stop_that_takes_too_long_says_so(folder: Path) -> None:
    model = CountingModel(gate=threading.Event())
    with Threads(folder, model) as threads:
        threads.job(["one"])
        assert model.entered.wait(30)
        assert not threads.workers.stop(timeout_seconds=0.01)


def test_a_subscriber_that_fails_harms_nobody(folder: Path) -> None:
    with Threads(folder, CountingModel()) as threads:

        def fail(event: Event) -> None:
            raise ValueError("no log")

        threads.workers._emit = fail
        assert threads.ended(threads.job(["one"])) is JobStatus.COMPLETE


def test_the_threads_outlive_a_bug_in_the_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Threads(folder, CountingModel()) as threads:
        with monkeypatch.context() as broken:

            def fail() -> None:
                raise ValueError

            broken.setattr(threads.store, "open_jobs", fail)
            broken.setattr(threads.store, "next_to_validate", fail)
            threads.workers.wake()
            until(lambda: sum(isinstance(event, BugFound) for event in threads.events) >= 2)
        assert threads.workers.is_alive
        threads.workers.wake()
        assert threads.ended(threads.job(["one"])) is JobStatus.COMPLETE


def test_old_datasets_expire_at_the_start_and_every_hour(folder: Path) -> None:
    with Bench(folder, retention_days=1) as bench:
        first, later = bench.dataset(), bench.dataset()
        clock, store = bench.clock, bench.store
        workers = Workers(store, Catalogue([CountingModel()], {}), emit=bench.events.append, monotonic=clock.monotonic)
        bench.events.clear()
        assert workers.validation_turn() == 3600
        assert bench.events == []
        clock.pass_(23.5 * 3600)
        young = bench.queued()
        assert workers.validation_turn() == 0.0
        clock.pass_(0.5 * 3600 + 1)
        assert workers.validation_turn() == 0.5 * 3600 - 1, "not looked for again before the hour is over"
        clock.pass_(0.5 * 3600)
        assert workers.validation_turn() == 3600
        assert [event for event in bench.events if isinstance(event, DatasetsExpired)] == [
            DatasetsExpired((first.id, later.id))
        ]
        assert bench.files().keys() == {young.id}


def test_an_expiry_that_fails_is_tried_again_soon_and_holds_nobody_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(folder, retention_days=1) as bench:
        dataset = bench.queued()
        workers = Workers(
            bench.store, Catalogue([CountingModel()], {}), emit=bench.events.append, monotonic=bench.clock.monotonic
        )
        with monkeypatch.context() as broken:

            def fail() -> list[str]:
                raise TransientError("the disk is full")

            broken.setattr(bench.store, "expire", fail)
            with pytest.raises(TransientError):
                workers.validation_turn()
            assert workers.validation_turn() == 0.0
        assert bench.store.dataset(dataset.id).status is ValidationStatus.VALIDATED
        bench.clock.pass_(25 * 3600)
        workers.validation_turn()
        assert bench.files() == {}

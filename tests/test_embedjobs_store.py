"""What the store promises: what a method has returned is there after a restart, and nothing else is."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from embedjobs_bench import Bench, files_of_at_most, jsonl
from embedjobs_fakes import CountingModel

from connector.embedjobs.ids import new_dataset_id, result_name, slug
from connector.embedjobs.layout import original_name
from connector.embedjobs.refusals import BadRequestError, BusyError, NotFoundError
from connector.embedjobs.store import Store
from connector.embedjobs.values import DatasetOptions, DatasetType, JobStatus, Part, Progress, ValidationStatus
from connector.errors import ConfigError, LeaseError, TransientError

PARTS = (Part("000_data.avro", 0, 5, 2, ('{"text":"one"}',)),)


def take(bench: Bench, **how: Any) -> str:
    """Have a dataset that is being validated, its part in its folder."""
    dataset = bench.queued(**how)
    taken = bench.store.next_to_validate()
    assert taken is not None
    assert taken.id == dataset.id
    (bench.store.folder_of(dataset.id) / "000_data.avro").write_bytes(b"12345")
    return dataset.id


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name,expected",
    [
        ("sample_file", "sample-file"),
        ("Sample File.2", "sample-file-2"),
        ("  __x__  ", "x"),
        ("Übergröße", "ubergroe"),
        ("日本語", "dataset"),
        ("", "dataset"),
        ("../../etc/passwd", "etc-passwd"),
        ("a" * 39 + "-b", "a" * 39),
        ("x" * 100, "x" * 40),
    ],
)
def test_a_name_becomes_a_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_ids_have_the_hosted_form() -> None:
    assert new_dataset_id("sample_file", choose=lambda letters: letters[-1]) == "sample-file-999999"
    assert re.fullmatch(r"sample-file-[a-z0-9]{6}", new_dataset_id("sample_file"))
    assert result_name("sample_file") == "embeded-sample-file"


@pytest.mark.parametrize(
    "file_name,expected",
    [
        ("data.jsonl", "original.jsonl"),
        ("DATA.CSV", "original.csv"),
        ("upload", "original"),
        ("x.y/../z", "original"),
        ("data.json lines", "original"),
    ],
)
def test_an_upload_keeps_its_ending_and_nothing_else_of_its_name(file_name: str, expected: str) -> None:
    assert original_name(file_name) == expected


# --- uploads ----------------------------------------------------------------------------------------


def test_an_acknowledged_dataset_is_queued_and_survives_a_restart(folder: Path) -> None:
    with Bench(folder) as bench:
        added = bench.queued(name="sample_file", optional_fields=("langs",), csv_delimiter=";")
        bench.restart()
        assert bench.store.dataset(added.id) == added
        assert added.type is DatasetType.EMBED_INPUT
        assert added.status is ValidationStatus.QUEUED
        assert added.options == DatasetOptions(("n",), ("langs",), csv_delimiter=";")
        assert added.file_name == "data.jsonl"
        assert added.created_at == bench.clock.now()
        assert bench.files() == {added.id: {"original.jsonl"}}
        assert (bench.store.folder_of(added.id) / added.original).read_bytes() == jsonl(["one", "two"])
        assert not list((folder / "uploads").iterdir())


def test_two_datasets_of_one_name_are_two(folder: Path) -> None:
    with Bench(folder) as bench:
        assert len({bench.queued().id for _ in range(3)}) == 3


def test_an_upload_that_was_not_acknowledged_is_swept(folder: Path) -> None:
    with Bench(folder) as bench:
        bench.store.new_upload().write_bytes(b"half of")
        bench.restart()
        assert bench.bytes_on_disk() == 0


def test_too_many_waiting_datasets_are_refused_with_a_wait(folder: Path) -> None:
    with Bench(folder, max_queued_datasets=2) as bench:
        bench.queued()
        bench.queued()
        with pytest.raises(BusyError, match="2 datasets wait for validation") as refused:
            bench.store.new_upload()
        assert 1 <= refused.value.retry_after_seconds <= 60
        bench.work()
        bench.queued()


def test_a_dataset_beyond_the_capacity_is_refused_and_leaves_nothing(folder: Path) -> None:
    with Bench(folder, max_storage_bytes=100) as bench:
        bench.queued(content=b"x" * 60)
        before = bench.files()
        with pytest.raises(BadRequestError, match="exceeded capacity: 100 bytes"):
            bench.queued(content=b"x" * 41)
        assert bench.files() == before
        assert bench.bytes_on_disk() == bench.store.stored_bytes() == 60
        exact = bench.queued(content=b"x" * 40)
        bench.store.delete_dataset(exact.id)
        bench.queued(content=b"y" * 40)


def test_capacity_counts_unfinished_results_and_uploads_under_way(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job([f"text {n}" for n in range(600)])
        bench.rotation.turn()
        assert bench.store.job(job.id).progress.blocks == 1
        upload = bench.store.new_upload()
        upload.write_bytes(b"x" * 1000)
        assert bench.store.stored_bytes() == bench.bytes_on_disk() > 20_000
        upload.unlink()
        bench.store.cancel(job.id)
        bench.rotation.turn()
        assert (
            bench.store.stored_bytes()
            == bench.bytes_on_disk()
            == bench.store.dataset(job.input_dataset_id).parts[0].size_bytes
        )


def test_what_is_stored_is_what_is_on_the_disk_at_every_stage(folder: Path) -> None:
    with Bench(folder) as bench:

        def check() -> None:
            assert bench.store.stored_bytes() == bench.bytes_on_disk()

        check()
        for kept in (False, True):
            bench.queued(keep_original_file=kept)
            check()
        bench.queued(content=b"no json\n")
        bench.work()
        check()
        datasets = [it for it in bench.store.datasets() if it.status is ValidationStatus.VALIDATED]
        for dataset in datasets:
            bench.job(dataset)
        while bench.rotation.turn() == 0.0:
            check()
        bench.restart()
        check()
        for dataset in bench.store.datasets():
            bench.store.delete_dataset(dataset.id)
            check()
        assert bench.files() == {}
        assert bench.store.stored_bytes() == 0


def test_a_full_disk_loses_nothing_that_was_acknowledged(folder: Path) -> None:
    with Bench(folder) as bench:
        first = bench.queued()
        (pages,) = bench.store._tables.one("PRAGMA page_count")
        bench.store._tables.write(f"PRAGMA max_page_count = {pages}")
        acknowledged = [first.id]

        def add_for_ever() -> None:
            while True:
                acknowledged.append(bench.queued(name="x" * 40, optional_fields=("y" * 1000,)).id)

        with pytest.raises(TransientError, match="free some space"):
            add_for_ever()
        assert {it.id for it in bench.store.datasets()} == set(acknowledged) == set(bench.files())
        assert not list((folder / "uploads").iterdir())
        bench.restart()
        bench.work()
        assert {it.status for it in bench.store.datasets()} == {ValidationStatus.VALIDATED}
        assert len(bench.store.datasets()) == len(acknowledged)


def test_an_upload_that_the_disk_cannot_keep_is_a_passing_trouble(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(folder) as bench:
        upload = bench.store.new_upload()
        upload.write_bytes(jsonl(["one"]))

        def fail(descriptor: int) -> None:
            raise OSError(28, os.strerror(28))

        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", fail)
            with pytest.raises(TransientError, match="No space left"):
                bench.store.add_dataset(upload, name="x", file_name="data.jsonl", options=DatasetOptions())
        assert bench.files() == {}
        assert bench.store.stored_bytes() == bench.bytes_on_disk() == 0
        assert bench.store.datasets() == []


def test_many_threads_add_at_once_and_all_are_there(folder: Path) -> None:
    with Bench(folder) as bench:
        added: list[str] = []
        threads = [
            threading.Thread(target=lambda: added.extend(bench.queued().id for _ in range(10))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bench.restart()
        assert {it.id for it in bench.store.datasets()} == set(added) == set(bench.files())
        assert len(added) == 80


# --- looking up -------------------------------------------------------------------------------------


def test_what_is_not_there_is_refused_in_the_hosted_words(folder: Path) -> None:
    with Bench(folder) as bench:
        absent: list[tuple[Callable[[], object], str]] = [
            (lambda: bench.store.dataset("x-000000"), "dataset with the id 'x-000000' not found"),
            (lambda: bench.store.delete_dataset("x-000000"), "dataset with the id 'x-000000' not found"),
            (lambda: bench.store.folder_of("../../etc"), "dataset with the id '../../etc' not found"),
            (
                lambda: bench.store.add_job("x-000000", bench.job(bench.dataset()).options),
                "dataset with id x-000000 not found",
            ),
            (lambda: bench.store.job("7"), "resource not found: could not find embed job with the ID: 7"),
            (lambda: bench.store.cancel("7"), "resource not found: could not find embed job with the ID: 7"),
        ]
        for ask, words in absent:
            with pytest.raises(NotFoundError) as refused:
                ask()
            assert str(refused.value) == words


def test_datasets_are_listed_newest_first_and_filtered(folder: Path) -> None:
    with Bench(folder) as bench:
        ids = []
        times = []
        for _ in range(5):
            times.append(bench.clock.now())
            ids.append(bench.queued().id)
            bench.clock.pass_(0.000001)
        ids.reverse()
        times.reverse()

        def listed(**filters: Any) -> list[str]:
            return [it.id for it in bench.store.datasets(**filters)]

        assert listed() == ids
        assert listed(limit=2) == ids[:2]
        assert listed(offset=1, limit=2) == ids[1:3]
        assert listed(offset=9) == []
        assert listed(limit=0) == []
        assert listed(before=times[2]) == ids[3:]
        assert listed(after=times[2]) == ids[:2]
        assert listed(before=times[0], after=times[3]) == ids[1:3]
        bench.store.next_to_validate()
        assert listed(status="processing") == ids[-1:]
        assert listed(status="queued") == ids[:-1]
        assert listed(type="embed-result") == []
        assert listed(type="embed-input", status="queued", limit=1) == ids[:1]


def test_counts_are_those_of_the_lists(folder: Path) -> None:
    with Bench(folder) as bench:
        bench.job(["one"])
        bench.work()
        bench.job(["two"])
        bench.queued()
        assert bench.store.dataset_counts() == {
            (DatasetType.EMBED_INPUT, ValidationStatus.VALIDATED): 2,
            (DatasetType.EMBED_INPUT, ValidationStatus.QUEUED): 1,
            (DatasetType.EMBED_RESULT, ValidationStatus.VALIDATED): 1,
        }
        assert bench.store.job_counts() == {JobStatus.COMPLETE: 1, JobStatus.PROCESSING: 1}


# --- validation -------------------------------------------------------------------------------------


def test_datasets_are_validated_oldest_first_and_each_once(folder: Path) -> None:
    with Bench(folder) as bench:
        ids = [bench.queued().id for _ in range(3)]
        taken = [bench.store.next_to_validate() for _ in range(4)]
        assert [it.id if it else None for it in taken] == [*ids, None]
        assert {it.status for it in bench.store.datasets()} == {ValidationStatus.PROCESSING}


@pytest.mark.parametrize("kept", [False, True])
def test_a_validated_dataset_has_its_parts_and_its_upload_only_if_it_is_to_be_kept(folder: Path, kept: bool) -> None:
    with Bench(folder) as bench:
        id = take(bench, keep_original_file=kept)
        (bench.store.folder_of(id) / "rubbish.tmp").write_bytes(b"x")
        bench.clock.pass_(1)
        bench.store.validated(id, parts=PARTS, schema='"schema"', warnings=["one row was left out"])
        bench.restart()
        found = bench.store.dataset(id)
        assert found.status is ValidationStatus.VALIDATED
        assert found.parts == PARTS
        assert found.rows == 2
        assert found.schema == '"schema"'
        assert found.warnings == ("one row was left out",)
        assert found.updated_at - found.created_at == timedelta(seconds=1)
        assert found.original == ("original.jsonl" if kept else "")
        assert bench.files() == {id: {"000_data.avro"} | ({"original.jsonl"} if kept else set())}


def test_a_failed_dataset_says_why_and_has_no_files(folder: Path) -> None:
    with Bench(folder) as bench:
        id = take(bench, keep_original_file=True)
        bench.store.invalid(id, error="row 1 is bad", warnings=["row 2 is bad"])
        assert bench.files() == {}
        bench.restart()
        found = bench.store.dataset(id)
        assert (found.status, found.error, found.warnings) == (
            ValidationStatus.FAILED,
            "row 1 is bad",
            ("row 2 is bad",),
        )
        assert found.original == ""
        bench.store.delete_dataset(id)


def test_a_dataset_that_was_being_validated_is_queued_again_at_the_start_at_its_old_place(folder: Path) -> None:
    with Bench(folder) as bench:
        id = take(bench)
        later = bench.queued()
        bench.restart()
        assert bench.files()[id] == {"original.jsonl"}
        assert [it.status for it in bench.store.datasets()] == [ValidationStatus.QUEUED] * 2
        taken = [bench.store.next_to_validate() for _ in range(2)]
        assert [it.id for it in taken if it] == [id, later.id]


def test_a_validation_that_was_broken_off_is_queued_again(folder: Path) -> None:
    with Bench(folder) as bench:
        id = take(bench)
        bench.store.requeue(id)
        assert bench.files() == {id: {"original.jsonl"}}
        assert bench.store.dataset(id).status is ValidationStatus.QUEUED


@pytest.mark.parametrize("end", ["validated", "invalid", "requeue"])
def test_a_dataset_that_is_deleted_while_it_is_validated_stays_deleted_and_its_files_go(folder: Path, end: str) -> None:
    with Bench(folder) as bench:
        id = take(bench)
        bench.store.delete_dataset(id)
        assert "000_data.avro" in bench.files()[id], "the validator may still write there"
        assert bench.store.stored_bytes() == bench.bytes_on_disk()
        if end == "validated":
            bench.store.validated(id, parts=PARTS, schema="", warnings=[])
        elif end == "invalid":
            bench.store.invalid(id, error="x", warnings=[])
        else:
            bench.store.requeue(id)
        assert bench.files() == {}
        assert bench.store.datasets() == []
        assert bench.store.next_to_validate() is None
        with pytest.raises(NotFoundError):
            bench.store.dataset(id)


# --- jobs -------------------------------------------------------------------------------------------


def test_a_job_needs_a_validated_input(folder: Path) -> None:
    with Bench(folder) as bench:
        queued = bench.queued()
        with pytest.raises(BadRequestError, match="has validation status queued"):
            bench.job(queued)
        failed = bench.dataset(content=b"no json\n")
        with pytest.raises(BadRequestError, match="has validation status failed"):
            bench.job(failed)
        done = bench.job(["one"])
        bench.work()
        with pytest.raises(BadRequestError, match="is of type embed-result"):
            bench.job(bench.store.dataset(done.output_dataset_id))


def test_too_many_open_jobs_are_refused_with_a_wait(folder: Path) -> None:
    with Bench(folder, max_open_jobs=1) as bench:
        first = bench.job(["one"])
        with pytest.raises(BusyError, match="1 embed jobs are open") as refused:
            bench.job(["two"])
        assert 1 <= refused.value.retry_after_seconds <= 60
        bench.store.cancel(first.id)
        with pytest.raises(BusyError):
            bench.job(["two"])
        bench.work()
        bench.job(["two"])


def test_an_acknowledged_job_survives_a_restart(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(["one", "two"], name="mine")
        bench.restart()
        assert bench.store.job(job.id) == job
        assert (job.status, job.rows, job.progress) == (JobStatus.PROCESSING, 2, Progress())
        assert re.fullmatch(r"embeded-sample-[a-z0-9]{6}", job.output_dataset_id)
        with pytest.raises(NotFoundError):
            bench.store.dataset(job.output_dataset_id)


def test_jobs_are_listed_newest_first_and_open_ones_oldest_first(folder: Path) -> None:
    with Bench(folder) as bench:
        ids = [bench.job(["one"]).id for _ in range(4)]
        bench.store.failed(ids[1], "for a test")
        bench.store.cancel(ids[2])
        assert [job.id for job in bench.store.jobs()] == ids[::-1]
        assert [job.id for job in bench.store.open_jobs()] == [ids[0], ids[2], ids[3]]


def test_progress_is_saved_with_parts_that_grow_at_the_end(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(["one", "two"])
        parts = tuple(Part(f"{n + 1:03d}_x.avro", n, 100 + n, 7, ("{}",)) for n in range(4))
        for count in (1, 1, 2, 4):
            grown = (*parts[: count - 1], Part(parts[count - 1].name, count - 1, 1, 1))
            for saved in (grown, parts[:count]):
                progress = Progress(blocks=count, rows=7 * count, tokens=9 * count, parts=saved)
                bench.store.save_progress(job.id, progress)
                assert bench.store.job(job.id).progress == progress
        assert bench.store.open_jobs()[0].progress.parts == parts
        for part in parts:
            (bench.store.result_folder(job) / part.name).write_bytes(b"x")
        (bench.store.result_folder(job) / "005_x.avro").write_bytes(b"not saved")
        bench.restart()
        assert bench.store.job(job.id).progress.parts == parts
        assert bench.files()[job.output_dataset_id] == {part.name for part in parts}


def test_a_complete_job_has_a_dataset_of_its_parts(folder: Path) -> None:
    with Bench(folder) as bench:
        input = bench.dataset(name="sample_file", optional_fields=("langs",), keep_original_file=True)
        job = bench.job(input)
        bench.clock.pass_(60)
        bench.work()
        bench.restart()
        done = bench.store.job(job.id)
        made = bench.store.dataset(job.output_dataset_id)
        assert done.status is JobStatus.COMPLETE
        assert made.type is DatasetType.EMBED_RESULT
        assert made.status is ValidationStatus.VALIDATED
        assert made.name == "embeded-sample-file"
        assert made.id.startswith("embeded-sample-file-")
        assert made.parts == done.progress.parts
        assert [part.name for part in made.parts] == ["001_embeded-sample-file.avro"]
        assert made.options == DatasetOptions(keep_fields=("n",), optional_fields=("langs",))
        assert made.created_at == bench.clock.now()
        assert '"embeddings"' in made.schema


TRANSITIONS = {
    "complete": {JobStatus.PROCESSING: JobStatus.COMPLETE},
    "cancel": {JobStatus.PROCESSING: JobStatus.CANCELLING},
    "cancelled": {JobStatus.CANCELLING: JobStatus.CANCELLED},
    "failed": {JobStatus.PROCESSING: JobStatus.FAILED},
}
"""What changes a status, and which; all others stay as they are."""


def bring_to(store: Store, job_id: str, status: JobStatus) -> None:
    if status in (JobStatus.CANCELLING, JobStatus.CANCELLED):
        store.cancel(job_id)
    if status is JobStatus.CANCELLED:
        store.cancelled(job_id)
    if status is JobStatus.COMPLETE:
        store.complete(job_id, schema="{}")
    if status is JobStatus.FAILED:
        store.failed(job_id, "the first reason")


@pytest.mark.parametrize("before", list(JobStatus))
@pytest.mark.parametrize("act", list(TRANSITIONS))
def test_a_job_goes_its_way_and_no_other(folder: Path, before: JobStatus, act: str) -> None:
    with Bench(folder) as bench:
        job = bench.job(["one"])
        bring_to(bench.store, job.id, before)
        assert bench.store.job(job.id).status is before
        bench.clock.pass_(1)
        untouched = bench.store.job(job.id)
        acts: dict[str, Callable[[], object]] = {
            "complete": lambda: bench.store.complete(job.id, schema="{}"),
            "cancel": lambda: bench.store.cancel(job.id),
            "cancelled": lambda: bench.store.cancelled(job.id),
            "failed": lambda: bench.store.failed(job.id, "the second reason"),
        }
        given = acts[act]()
        bench.restart()
        found = bench.store.job(job.id)
        assert given in (None, found)
        if before in TRANSITIONS[act]:
            assert found.status is TRANSITIONS[act][before]
            assert found.updated_at == bench.clock.now()
            assert found.error == ("the second reason" if act == "failed" else "")
        else:
            assert found == untouched
        assert bench.store.has_dataset(job.output_dataset_id) == (found.status is JobStatus.COMPLETE)


@pytest.mark.parametrize("status", [JobStatus.CANCELLED, JobStatus.FAILED])
def test_a_job_that_ends_without_a_result_leaves_no_file_but_its_counts(folder: Path, status: JobStatus) -> None:
    with Bench(folder) as bench:
        job = bench.job([f"text {n}" for n in range(600)])
        bench.rotation.turn()
        assert job.output_dataset_id in bench.files()
        bring_to(bench.store, job.id, status)
        assert job.output_dataset_id not in bench.files()
        progress = bench.store.job(job.id).progress
        assert (progress.rows, progress.parts) == (512, ())
        assert progress.tokens > 512


def test_progress_of_a_job_that_has_ended_is_not_saved(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(["one"])
        bench.store.failed(job.id, "for a test")
        bench.store.save_progress(job.id, Progress(1, 1, 1, PARTS))
        assert bench.store.job(job.id).progress == Progress()


# --- deletion and retention -------------------------------------------------------------------------


@pytest.mark.parametrize("cancelling", [False, True])
def test_a_dataset_is_not_deleted_while_an_open_job_reads_it(folder: Path, cancelling: bool) -> None:
    with Bench(folder) as bench:
        job = bench.job(["one"])
        if cancelling:
            bench.store.cancel(job.id)
        with pytest.raises(BadRequestError, match=f"is being read by embed job {job.id}"):
            bench.store.delete_dataset(job.input_dataset_id)
        bench.work()
        bench.store.delete_dataset(job.input_dataset_id)
        assert job.input_dataset_id not in bench.files()
        assert not bench.store.job(job.id).status.is_open


def test_a_result_may_be_deleted_and_its_job_is_remembered(folder: Path) -> None:
    with Bench(folder) as bench:
        job = bench.job(["one"])
        bench.work()
        bench.store.delete_dataset(job.output_dataset_id)
        bench.restart()
        assert bench.files().keys() == {job.input_dataset_id}
        assert bench.store.job(job.id).status is JobStatus.COMPLETE
        assert bench.store.job(job.id).progress.parts == ()


def test_old_datasets_expire_but_for_those_that_an_open_job_reads(folder: Path) -> None:
    days = 24 * 3600
    with Bench(folder, retention_days=2) as bench:
        read = bench.job(["one"])
        old = [bench.dataset().id, bench.queued().id]
        bench.clock.pass_(1 * days)
        young = bench.queued()
        bench.clock.pass_(1 * days)
        assert bench.store.expire() == [], "exactly two days old is not older"
        bench.clock.pass_(0.001)
        assert bench.store.expire() == old
        assert bench.files().keys() == {read.input_dataset_id, young.id}
        bench.work()
        assert bench.store.expire() == [read.input_dataset_id]
        bench.clock.pass_(1 * days)
        assert bench.store.expire() == [young.id]
        assert [it.id for it in bench.store.datasets()] == [read.output_dataset_id], "a result counts from its own day"
        bench.clock.pass_(1 * days + 1)
        assert bench.store.expire() == [read.output_dataset_id]
        assert bench.files() == {}


def test_a_dataset_that_expires_while_it_is_validated_leaves_no_file(folder: Path) -> None:
    with Bench(folder, retention_days=1) as bench:
        id = take(bench)
        bench.clock.pass_(25 * 3600)
        assert bench.store.expire() == [id]
        bench.store.validated(id, parts=PARTS, schema="", warnings=[])
        assert bench.files() == {}


# --- the folder -------------------------------------------------------------------------------------


def test_what_nothing_names_is_swept_at_the_start(folder: Path) -> None:
    with Bench(folder) as bench:
        kept = bench.dataset(keep_original_file=True)
        job = bench.job(kept)
        bench.store.result_folder(job)
        for path in ("datasets/unnamed-000000/001_x.avro", f"datasets/{kept.id}/x", "uploads/deep/x", "datasets/file"):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(b"rubbish")
        bench.restart()
        assert bench.files() == {kept.id: {"000_data.avro", "original.jsonl"}, job.output_dataset_id: set()}
        assert not list((folder / "uploads").iterdir())
        bench.work()
        assert len(bench.rows(job.output_dataset_id)) == 2


def test_the_url_key_is_made_once_and_nobody_else_may_read_it(folder: Path) -> None:
    with Bench(folder) as bench:
        key = bench.store.url_key
        assert len(key) == 32
        assert stat.S_IMODE((folder / "url-key").stat().st_mode) == 0o600
        bench.restart()
        assert bench.store.url_key == key
    with Bench(folder / "other") as other:
        assert other.store.url_key != key


def test_a_damaged_url_key_is_told(folder: Path) -> None:
    with Bench(folder):
        pass
    (folder / "url-key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="url-key is damaged; remove it"):
        Bench(folder)
    (folder / "url-key").unlink()
    with Bench(folder):
        pass


def test_one_service_at_a_time(folder: Path) -> None:
    with Bench(folder), pytest.raises(LeaseError, match="another service has"):
        Bench(folder)
    with Bench(folder):
        pass


def test_a_foreign_database_is_left_alone(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "embed-jobs.sqlite")) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(ConfigError, match="is not a file of vector-sync"):
        Bench(folder)


def test_a_database_that_another_process_has_locked_is_a_passing_trouble(folder: Path) -> None:
    with Bench(folder) as bench, closing(sqlite3.connect(folder / "embed-jobs.sqlite")) as other:
        bench.store._tables.write("PRAGMA busy_timeout = 1")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransientError, match="another process, a backup perhaps"):
            bench.queued()
        other.execute("ROLLBACK")
        assert bench.files() == {}
        bench.queued()


# --- durability -------------------------------------------------------------------------------------


class Syncs:
    """Notes which files and folders were synced, and how long they were then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = os.fsync
        self._synced: dict[int, tuple[int, int]] = {}
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        self._real(descriptor)
        there = os.fstat(descriptor)
        self._synced[there.st_ino] = (there.st_size, there.st_mtime_ns)

    def covers(self, path: Path) -> bool:
        """Tell whether nothing was written to a file, or no name added to a folder, since it was synced."""
        there = path.stat()
        return self._synced.get(there.st_ino) == (there.st_size, there.st_mtime_ns)


def test_the_database_never_names_a_file_that_is_not_synced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = Syncs(monkeypatch)
    seen: set[str] = set()
    unsynced: list[Path] = []  # SQLite swallows what is raised in a callback
    with Bench(folder) as bench:

        def look(statement: str) -> None:
            """At the moment of a commit, look at what is about to be named."""
            if statement != "COMMIT":
                return
            there = [folder / "datasets", *(folder / "datasets").rglob("*")]
            seen.update(path.name for path in there if path.is_file())
            unsynced.extend(path for path in there if not syncs.covers(path))

        bench.store._tables._db.set_trace_callback(look)
        first = bench.dataset([f"text {n}" for n in range(600)], keep_original_file=True)
        bench.job(first)
        bench.work()
        bench.store._tables._db.set_trace_callback(None)
    assert unsynced == []
    assert seen == {"original.jsonl", "000_data.avro", "001_embeded-sample.avro"}


def test_files_that_the_kernel_cuts_short_cost_nothing(folder: Path) -> None:
    with Bench(folder, CountingModel(dimension=384)) as bench:
        dataset = bench.dataset([f"text {n}" for n in range(600)])
        job = bench.job(dataset)
        with files_of_at_most(400_000):
            assert bench.rotation.turn() == 0.0
            assert bench.store.job(job.id).status is JobStatus.PROCESSING
            assert bench.store.job(job.id).progress == Progress()
        bench.clock.pass_(60)
        bench.work()
        assert bench.store.job(job.id).status is JobStatus.COMPLETE
        assert [row["n"] for row in bench.rows(job.output_dataset_id)] == list(range(600))
        assert sorted(bench.model.texts_seen) == sorted(f"text {n}" for n in range(600)), "none was embedded twice"

"""What the service has, in one SQLite file and a folder for each dataset. What a method has returned survives a kill.

    DATA/
      lock                            one service at a time
      embed-jobs.sqlite
      url-key                         signs the links to parts
      uploads/                        not acknowledged yet; emptied at the start
      datasets/<id>/000_data.avro     a dataset's parts
      datasets/<id>/original.jsonl    the upload; until it is validated, or for good if it is to be kept

A file is whole and synced before the database names it, and the database forgets it before it is removed; so what is
not named is rubbish, and is swept at the start.

    who                      writes in a dataset's folder         and removes it
    -----------------------  -----------------------------------  ---------------------------------------------
    add_dataset              the upload                           when the dataset is refused
    the validator            the parts, between `next_to_validate` and `validated`, `invalid` or `requeue`; these
                             also remove it, if the dataset was deleted meanwhile
    the worker of the jobs   a result, until its job ends         `cancelled`, `failed`
    delete_dataset, expire                                        at once, unless the validator has it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from connector.errors import LeaseError
from connector.lease import os_lock
from connector.sqlite_file import translated

from .datasets import OPEN, Datasets
from .ids import new_job_id, result_name
from .layout import Layout, disk_trouble, remove
from .refusals import BadRequestError, BusyError, NotFoundError
from .tables import INSERT_DATASET, INSERT_JOB, JOB_COLUMNS, OUTPUT_COLUMN, Tables, as_job, dataset_row, job_row
from .values import (
    Dataset,
    DatasetOptions,
    DatasetType,
    Job,
    JobOptions,
    JobStatus,
    Progress,
    ValidationStatus,
)

RETRY_JOB_SECONDS = 60


class Store(Datasets):
    """All datasets and jobs. May be used from several threads."""

    def __init__(
        self,
        folder: Path,
        *,
        now: Callable[[], datetime],
        retention: timedelta,
        max_storage_bytes: int,
        max_open_jobs: int,
        max_queued_datasets: int,
    ) -> None:
        self._max_open_jobs = max_open_jobs
        layout = Layout(folder)
        with ExitStack() as undo:
            undo.enter_context(_sole_service(folder))
            tables = Tables(layout.database)
            undo.callback(tables.close)
            super().__init__(
                layout,
                tables,
                now=now,
                retention=retention,
                max_storage_bytes=max_storage_bytes,
                max_queued_datasets=max_queued_datasets,
            )
            with translated(folder), disk_trouble(f"open {folder}"):
                layout.prepare()
                self._url_key = layout.url_key()
                self._recover()
            self._undo = undo.pop_all()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        now: Callable[[], datetime],
        retention_days: int = 30,
        max_storage_bytes: int = 10_000_000_000,
        max_open_jobs: int = 100,
        max_queued_datasets: int = 100,
    ) -> Self:
        """Take the folder, and sweep what a kill left.

        Datasets that were being validated are queued again. Jobs that were running stay as they are.

        Raises:
            LeaseError: another service has the folder.
            ConfigError, TransientError: see `sqlite_file.open_file`.
        """
        return cls(
            folder,
            now=now,
            retention=timedelta(days=retention_days),
            max_storage_bytes=max_storage_bytes,
            max_open_jobs=max_open_jobs,
            max_queued_datasets=max_queued_datasets,
        )

    def close(self) -> None:
        """Let the folder go; nothing may use the store any more."""
        self._undo.close()

    def _recover(self) -> None:
        with self._tables.writing():
            self._tables.write("UPDATE dataset SET status = 'queued' WHERE status = 'processing'")
        named: dict[str, set[str]] = {}
        for id, original in self._tables.all("SELECT id, original FROM dataset"):
            named[id] = {original}
        for (output,) in self._tables.all(f"SELECT output FROM job WHERE status IN {OPEN}"):  # noqa: S608 - a constant
            named[output] = set()
        for owner, name in self._tables.all("SELECT owner, name FROM part"):
            if owner in named:
                named[owner].add(name)
        self._layout.sweep(named)

    @property
    def url_key(self) -> bytes:
        """32 random bytes, made at the first start and kept; mode 0600."""
        return self._url_key

    # --- jobs ---

    def add_job(self, dataset_id: str, options: JobOptions) -> Job:
        """Acknowledge a job.

        NotFoundError "dataset with id X not found"; BadRequestError unless it is a validated `embed-input`;
        BusyError if too many jobs are open.
        """
        with self._tables.writing():
            if not self.has_dataset(dataset_id):
                raise NotFoundError(f"dataset with id {dataset_id} not found")
            dataset = self.dataset(dataset_id)
            if dataset.type is not DatasetType.EMBED_INPUT:
                raise BadRequestError(f"dataset {dataset_id} is of type {dataset.type}; an embed job takes embed-input")
            if dataset.status is not ValidationStatus.VALIDATED:
                raise BadRequestError(
                    f"dataset {dataset_id} has validation status {dataset.status}; an embed job takes a validated one"
                )
            (open_jobs,) = self._tables.one(f"SELECT count(*) FROM job WHERE status IN {OPEN}")  # noqa: S608
            if open_jobs >= self._max_open_jobs:
                raise BusyError(
                    f"{open_jobs} embed jobs are open already; start this one again later",
                    retry_after_seconds=RETRY_JOB_SECONDS,
                )
            now = self._now()
            job = Job(
                id=new_job_id(),
                options=options,
                status=JobStatus.PROCESSING,
                created_at=now,
                updated_at=now,
                input_dataset_id=dataset_id,
                output_dataset_id=self._unused_id(result_name(dataset.name)),
                rows=dataset.rows,
            )
            self._tables.write(INSERT_JOB, job_row(job))
        return job

    def job(self, id: str) -> Job:
        """Look a job up; NotFoundError in the hosted service's words."""
        found = self._jobs("WHERE id = ?", (id,))
        if not found:
            raise NotFoundError(f"resource not found: could not find embed job with the ID: {id}")
        return found[0]

    def jobs(self) -> list[Job]:
        """List all jobs, newest first."""
        return self._jobs("ORDER BY created_at DESC, number DESC")

    def open_jobs(self) -> list[Job]:
        """List the jobs that are processing or cancelling, oldest first."""
        return self._jobs(f"WHERE status IN {OPEN} ORDER BY number")

    def _jobs(self, which: str, values: Sequence[object] = ()) -> list[Job]:
        with self._tables.lock:
            rows = self._tables.all(f"SELECT {JOB_COLUMNS} FROM job {which}", values)  # noqa: S608 - constants
            parts = self._tables.parts([row[OUTPUT_COLUMN] for row in rows])
        return [as_job(row, parts) for row in rows]

    def job_status(self, id: str) -> JobStatus:
        """Look up how far a job is; quicker than `job`."""
        (status,) = self._tables.one("SELECT status FROM job WHERE id = ?", (id,))
        return JobStatus(status)

    def job_counts(self) -> Counter[JobStatus]:
        """How many jobs there are of each status; quicker than to list them."""
        counted = self._tables.all("SELECT status, count(*) FROM job GROUP BY status")
        return Counter({JobStatus(status): count for status, count in counted})

    def result_folder(self, job: Job) -> Path:
        """Name the folder of a job's result, made if need be; to be called before anything is written there."""
        with disk_trouble("make the folder of a result"):
            return self._layout.make_dataset(job.output_dataset_id, exist_ok=True)

    def save_progress(self, job_id: str, progress: Progress) -> None:
        """Note what is finished for good; its files are synced up to the sizes in `progress`."""
        with self._tables.writing():
            saved = self._tables.write(
                f"UPDATE job SET blocks_done = ?, rows_done = ?, tokens = ?, updated_at = ? WHERE id = ?"  # noqa: S608
                f" AND status IN {OPEN} RETURNING output, (SELECT count(*) FROM part WHERE owner = output)",
                (progress.blocks, progress.rows, progress.tokens, self._time(), job_id),
            )
            for output, known in saved:  # of the parts that are known, only the last can have grown
                self._tables.put_parts(output, progress.parts[max(0, known - 1) :])

    def complete(self, job_id: str, *, schema: str) -> None:
        """End a job well, and make its result a dataset (`embeded-<name>`, validated), in one transaction.

        The result's parts are those of the job's progress. A job that is no longer `processing` stays as it is.
        """
        with self._tables.writing():
            job = self.job(job_id)
            if not self._end(job, JobStatus.PROCESSING, JobStatus.COMPLETE, ""):
                return
            read = self.dataset(job.input_dataset_id)  # it could not be deleted while the job was open
            now = self._now()
            result = Dataset(
                id=job.output_dataset_id,
                name=result_name(read.name),
                type=DatasetType.EMBED_RESULT,
                created_at=now,
                updated_at=now,
                status=ValidationStatus.VALIDATED,
                options=DatasetOptions(
                    keep_fields=read.options.keep_fields, optional_fields=read.options.optional_fields
                ),
                schema=schema,
            )
            taken_bytes = sum(part.size_bytes for part in job.progress.parts)
            self._tables.write(INSERT_DATASET, dataset_row(result, taken_bytes))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop: `processing` becomes `cancelling`, any other status stays as it is."""
        with self._tables.writing():
            self._tables.write(
                "UPDATE job SET status = 'cancelling', updated_at = ? WHERE id = ? AND status = 'processing'",
                (self._time(), job_id),
            )
            return self.job(job_id)

    def cancelled(self, job_id: str) -> None:
        """Note that a cancelling job has stopped; its unfinished result is removed."""
        self._drop(job_id, JobStatus.CANCELLING, JobStatus.CANCELLED, "")

    def failed(self, job_id: str, error: str) -> None:
        """Note why a job cannot go on; its unfinished result is removed.

        A job that is no longer `processing` stays as it is: one that was asked to stop ends as `cancelled`.
        """
        self._drop(job_id, JobStatus.PROCESSING, JobStatus.FAILED, error)

    def _drop(self, job_id: str, before: JobStatus, after: JobStatus, error: str) -> None:
        with self._tables.writing():
            job = self.job(job_id)
            if not self._end(job, before, after, error):
                return
            self._tables.write("DELETE FROM part WHERE owner = ?", (job.output_dataset_id,))
        remove(self._layout.dataset(job.output_dataset_id))

    def _end(self, job: Job, before: JobStatus, after: JobStatus, error: str) -> bool:
        ended = self._tables.write(
            "UPDATE job SET status = ?, error = ?, updated_at = ? WHERE id = ? AND status = ? RETURNING id",
            (after, error, self._time(), job.id, before),
        )
        return bool(ended)


@contextmanager
def _sole_service(folder: Path) -> Iterator[None]:
    with ExitStack() as undo:
        try:
            undo.enter_context(os_lock(folder))
        except LeaseError:
            raise LeaseError(
                f"another service has {folder}; stop that one, or name another folder under [embed_jobs] path"
            ) from None
        yield

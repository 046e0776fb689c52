"""The half of the store that keeps datasets: uploads, validation, deletion, capacity. See `store` for its promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

from .ids import is_id, new_dataset_id
from .layout import Layout, disk_trouble, keep_only, original_name, remove, size_bytes, sync
from .refusals import BadRequestError, BusyError, NotFoundError
from .tables import DATASET_COLUMNS, INSERT_DATASET, Tables, as_dataset, as_json, dataset_row, microseconds
from .values import Dataset, DatasetOptions, DatasetType, Part, ValidationStatus

RETRY_VALIDATION_SECONDS = 10  # a dataset waits for seconds, a job for minutes
OPEN = "('processing', 'cancelling')"  # as JobStatus.is_open


class Datasets:
    """All datasets."""

    def __init__(
        self,
        layout: Layout,
        tables: Tables,
        *,
        now: Callable[[], datetime],
        retention: timedelta,
        max_storage_bytes: int,
        max_queued_datasets: int,
    ) -> None:
        self._layout = layout
        self._tables = tables
        self._now = now
        self._retention = retention
        self._max_storage_bytes = max_storage_bytes
        self._max_queued_datasets = max_queued_datasets
        self._validating: set[str] = set()  # ids of datasets whose folders the validator writes in

    def new_upload(self) -> Path:
        """Name a file that an upload may be streamed to; whoever does not add it removes it.

        BusyError if too many datasets wait for validation; BadRequestError if the storage is full already.
        """
        waiting = self.dataset_counts()[DatasetType.EMBED_INPUT, ValidationStatus.QUEUED]
        if waiting >= self._max_queued_datasets:
            raise BusyError(
                f"{waiting} datasets wait for validation already; send this one again later",
                retry_after_seconds=RETRY_VALIDATION_SECONDS,
            )
        self._check_capacity(self.stored_bytes())
        return self._layout.new_upload()

    def add_dataset(self, upload: Path, *, name: str, file_name: str, options: DatasetOptions) -> Dataset:
        """Sync an upload, move it into place, and acknowledge it: an `embed-input` dataset, queued.

        However it fails, the upload is gone.

        Raises:
            BadRequestError: "exceeded capacity ...", as the storage cap would be passed.
            TransientError: the disk is full.
        """
        with ExitStack() as undo:
            undo.callback(remove, upload)
            with disk_trouble("keep an upload"):
                sync(upload)
                id, folder = self._new_folder(name)
                undo.callback(remove, folder)
                original = folder / original_name(file_name)
                upload.rename(original)
                sync(folder)
                upload_bytes = original.stat().st_size
            now = self._now()
            dataset = Dataset(
                id=id,
                name=name,
                type=DatasetType.EMBED_INPUT,
                created_at=now,
                updated_at=now,
                status=ValidationStatus.QUEUED,
                options=options,
                file_name=file_name,
                original=original.name,
            )
            with self._tables.writing():
                self._check_capacity(self._bytes_of_datasets() + upload_bytes)
                self._tables.write(INSERT_DATASET, dataset_row(dataset, upload_bytes))
            undo.pop_all()
        return dataset

    def _new_folder(self, name: str) -> tuple[str, Path]:
        while True:
            id = self._unused_id(name)
            try:
                return id, self._layout.make_dataset(id)
            except FileExistsError:
                continue

    def _unused_id(self, name: str) -> str:
        while True:
            id = new_dataset_id(name)
            if not self._tables.one(
                "SELECT 1 FROM dataset WHERE id = :id UNION ALL SELECT 1 FROM job WHERE :id IN (input, output)",
                {"id": id},
            ):
                return id

    def dataset(self, id: str) -> Dataset:
        """Look a dataset up; NotFoundError in the hosted service's words."""
        with self._tables.lock:  # one moment for the row and its parts
            row = self._tables.one(f"SELECT {DATASET_COLUMNS} FROM dataset WHERE id = ?", (id,))  # noqa: S608 - constants
            if row is None:
                raise NotFoundError(_no_dataset(id))
            return as_dataset(row, self._tables.parts([id]))

    def has_dataset(self, id: str) -> bool:
        """Tell whether a dataset is there; quicker than to look it up."""
        return self._tables.one("SELECT 1 FROM dataset WHERE id = ?", (id,)) is not None

    def datasets(
        self,
        *,
        type: str | None = None,
        status: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Dataset]:
        """List datasets, newest first; `before` and `after` are of their creation, exclusive."""
        with self._tables.lock:
            rows = self._tables.all(
                f"SELECT {DATASET_COLUMNS} FROM dataset WHERE"  # noqa: S608 - constants
                " (:type IS NULL OR type = :type) AND (:status IS NULL OR status = :status)"
                " AND (:before IS NULL OR created_at < :before) AND (:after IS NULL OR created_at > :after)"
                " ORDER BY created_at DESC, number DESC LIMIT :limit OFFSET :offset",
                {
                    "type": type,
                    "status": status,
                    "before": None if before is None else microseconds(before),
                    "after": None if after is None else microseconds(after),
                    "limit": -1 if limit is None else limit,
                    "offset": offset,
                },
            )
            parts = self._tables.parts([row[0] for row in rows])
        return [as_dataset(row, parts) for row in rows]

    def delete_dataset(self, id: str) -> None:
        """Forget a dataset and remove its files. BadRequestError while an open job reads it; NotFoundError."""
        with self._tables.writing():
            if not self.has_dataset(id):
                raise NotFoundError(_no_dataset(id))
            reader = self._tables.one(f"SELECT id FROM job WHERE input = ? AND status IN {OPEN}", (id,))  # noqa: S608
            if reader:
                raise BadRequestError(
                    f"dataset with the id '{id}' is being read by embed job {reader[0]}; cancel the job, or wait for it"
                )
            self._forget([id])
        self._remove_unless_validating([id])

    def _forget(self, ids: Sequence[str]) -> None:
        self._tables.write_all("DELETE FROM dataset WHERE id = ?", [(id,) for id in ids])
        self._tables.write_all("DELETE FROM part WHERE owner = ?", [(id,) for id in ids])

    def _remove_unless_validating(self, ids: Sequence[str]) -> None:
        with self._tables.lock:
            free = [id for id in ids if id not in self._validating]
        for id in free:
            remove(self._layout.dataset(id))

    def stored_bytes(self) -> int:
        """How much is on the disk: datasets, uploads under way, unfinished results."""
        return self._bytes_of_datasets() + size_bytes(self._layout.uploads)

    def _bytes_of_datasets(self) -> int:
        with self._tables.lock:
            (settled,) = self._tables.one(
                "SELECT coalesce(sum(size_bytes), 0) FROM dataset WHERE status <> 'processing'"
            )
            written = {row[0] for row in self._tables.all(f"SELECT output FROM job WHERE status IN {OPEN}")}  # noqa: S608
            written |= self._validating
        return int(settled) + sum(size_bytes(self._layout.dataset(id)) for id in written)

    def _check_capacity(self, stored_bytes: int) -> None:
        if stored_bytes > self._max_storage_bytes:
            raise BadRequestError(
                f"exceeded capacity: {self._max_storage_bytes} bytes may be stored; delete datasets that are not needed"
            )

    def folder_of(self, dataset_id: str) -> Path:
        """Where a dataset's files are; whether it is there or not. NotFoundError for what can be no id."""
        if not is_id(dataset_id):
            raise NotFoundError(_no_dataset(dataset_id))
        return self._layout.dataset(dataset_id)

    def dataset_counts(self) -> Counter[tuple[DatasetType, ValidationStatus]]:
        """How many datasets there are of each type and status; quicker than to list them."""
        return Counter(
            {
                (DatasetType(type), ValidationStatus(status)): count
                for type, status, count in self._tables.all(
                    "SELECT type, status, count(*) FROM dataset GROUP BY type, status"
                )
            }
        )

    # --- validation ---

    def next_to_validate(self) -> Dataset | None:
        """Take the oldest queued dataset: it is `processing` now."""
        with self._tables.lock:
            row = self._tables.one("SELECT id FROM dataset WHERE status = 'queued' ORDER BY number LIMIT 1")
            if row is None:
                return None
            with self._tables.writing():
                self._tables.write(
                    "UPDATE dataset SET status = 'processing', updated_at = ? WHERE id = ?", (self._time(), row[0])
                )
                dataset = self.dataset(row[0])
            self._validating.add(dataset.id)
        return dataset

    def validated(self, id: str, *, parts: Sequence[Part], schema: str, warnings: Sequence[str]) -> None:
        """Note that a dataset's parts are in its folder, synced; remove the upload unless it is to be kept.

        A dataset that was deleted meanwhile stays deleted, and its files go.
        """
        folder = self._layout.dataset(id)
        kept = {part.name for part in parts}
        with disk_trouble("keep a dataset"):
            sync(folder)
        with self._tables.writing():
            if self.has_dataset(id):
                dataset = self.dataset(id)
                original = dataset.original if dataset.options.keep_original_file else ""
                kept.add(original)
                taken_bytes = sum((folder / name).stat().st_size for name in kept if name)
                self._tables.write(
                    "UPDATE dataset SET status = 'validated', updated_at = ?, original = ?, schema = ?, warnings = ?,"
                    " size_bytes = ? WHERE id = ?",
                    (self._time(), original, schema, as_json(tuple(warnings)), taken_bytes, id),
                )
                self._tables.put_parts(id, parts)
        self._let_go(id, kept)

    def invalid(self, id: str, *, error: str, warnings: Sequence[str]) -> None:
        """Note why a dataset failed; remove its files."""
        with self._tables.writing():
            self._tables.write(
                "UPDATE dataset SET status = 'failed', updated_at = ?, original = '', error = ?, warnings = ?,"
                " size_bytes = 0 WHERE id = ?",
                (self._time(), error, as_json(tuple(warnings)), id),
            )
        self._let_go(id, ())

    def requeue(self, id: str) -> None:
        """Note that a validation was broken off: it begins anew later, at its old place in the queue.

        If the dataset was deleted meanwhile, its files go.
        """
        with self._tables.writing():
            self._tables.write("UPDATE dataset SET status = 'queued' WHERE id = ? AND status = 'processing'", (id,))
            found = self._tables.one("SELECT original FROM dataset WHERE id = ?", (id,))
        self._let_go(id, found or ())

    def _let_go(self, id: str, kept: Collection[str]) -> None:
        """End the validator's hold on a folder, with only these files left in it; none, if the dataset was deleted."""
        folder = self._layout.dataset(id)
        keep_only(folder, kept)
        with self._tables.lock:
            self._validating.discard(id)
            is_named = bool(kept) and self.has_dataset(id)
        if not is_named:
            remove(folder)

    # --- retention ---

    def expire(self) -> list[str]:
        """Delete the datasets older than the retention, but for those that an open job reads. Gives their ids."""
        with self._tables.writing():
            ids = [
                str(row[0])
                for row in self._tables.all(
                    "SELECT id FROM dataset WHERE created_at < ?"  # noqa: S608 - a constant
                    f" AND NOT EXISTS (SELECT 1 FROM job WHERE input = dataset.id AND job.status IN {OPEN})"
                    " ORDER BY number",
                    (microseconds(self._now() - self._retention),),
                )
            ]
            self._forget(ids)
        self._remove_unless_validating(ids)
        return ids

    def _time(self) -> int:
        return microseconds(self._now())


def _no_dataset(id: str) -> str:
    return f"dataset with the id '{id}' not found"

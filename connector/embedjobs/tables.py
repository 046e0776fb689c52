"""The tables of the service's database, how they are read and written, and how their rows become values."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from connector.errors import TransientError
from connector.sqlite_file import open_file, transaction, translated

from .values import (
    Dataset,
    DatasetOptions,
    DatasetType,
    Job,
    JobOptions,
    JobStatus,
    Part,
    Progress,
    ValidationStatus,
)

APPLICATION_ID: Final = 0x56530003

MIGRATIONS: Final = (
    """
    CREATE TABLE dataset (
        number      INTEGER NOT NULL PRIMARY KEY,  -- rises with every new one
        id          TEXT NOT NULL UNIQUE,
        name        TEXT NOT NULL,
        type        TEXT NOT NULL,
        status      TEXT NOT NULL,
        created_at  INTEGER NOT NULL,  -- microseconds since 1970, UTC, as all times here
        updated_at  INTEGER NOT NULL,
        size_bytes  INTEGER NOT NULL,  -- of its files, while none of them is being written
        options     TEXT NOT NULL,     -- JSON
        file_name   TEXT NOT NULL,
        original    TEXT NOT NULL,     -- file in its folder; '': none
        error       TEXT NOT NULL,
        warnings    TEXT NOT NULL,     -- JSON, a list of strings
        schema      TEXT NOT NULL      -- Avro's, JSON
    ) STRICT;
    CREATE INDEX dataset_by_status ON dataset (status, number);
    CREATE INDEX dataset_by_time ON dataset (created_at, number);
    CREATE TABLE part (
        owner       TEXT NOT NULL,     -- id of a dataset, or the one that is reserved for an open job's result
        number      INTEGER NOT NULL,
        name        TEXT NOT NULL,     -- file in the owner's folder
        size_bytes  INTEGER NOT NULL,
        rows        INTEGER NOT NULL,
        samples     TEXT NOT NULL,     -- JSON, a list of strings
        PRIMARY KEY (owner, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE job (
        number      INTEGER NOT NULL PRIMARY KEY,
        id          TEXT NOT NULL UNIQUE,
        input       TEXT NOT NULL,
        output      TEXT NOT NULL UNIQUE,
        status      TEXT NOT NULL,
        created_at  INTEGER NOT NULL,
        updated_at  INTEGER NOT NULL,
        options     TEXT NOT NULL,     -- JSON
        rows        INTEGER NOT NULL,  -- of the input
        blocks_done INTEGER NOT NULL,
        rows_done   INTEGER NOT NULL,
        tokens      INTEGER NOT NULL,
        error       TEXT NOT NULL
    ) STRICT;
    CREATE INDEX job_by_status ON job (status, number);
    CREATE INDEX job_by_input ON job (input, status);
    """,
)

DATASET_COLUMNS: Final = (
    "id, name, type, status, created_at, updated_at, options, file_name, original, error, warnings, schema"
)
JOB_COLUMNS: Final = (
    "id, options, status, created_at, updated_at, input, output, rows, blocks_done, rows_done, tokens, error"
)

OUTPUT_COLUMN: Final = 6  # of those

Row: TypeAlias = "tuple[Any, ...]"  # typed as sqlite3 does
Values: TypeAlias = "Sequence[object] | Mapping[str, object]"
Parts: TypeAlias = "Mapping[str, tuple[Part, ...]]"
"""By the id of their owner."""

BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
# Made here, by whoever imports this: msgspec 0.22 crashes the process (SIGSEGV, one time in five where it was tried) if
# two threads are the first to decode the same type with enums.
_STRINGS: Final = msgspec.json.Decoder(tuple[str, ...])
_DATASET_OPTIONS: Final = msgspec.json.Decoder(DatasetOptions)
_JOB_OPTIONS: Final = msgspec.json.Decoder(JobOptions)

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


class Tables:
    """The open database: one connection, one lock. May be used from several threads."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()  # held by whoever needs several reads of one moment
        self._path = path
        self._db = open_file(path, application_id=APPLICATION_ID, migrations=MIGRATIONS, read_only=False)

    def close(self) -> None:
        with self.lock:
            self._db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Do all of the body's statements durably, or none; reads of the body see what it wrote."""
        with self._translated(), self.lock, transaction(self._db):
            yield

    def write(self, statement: str, values: Values = ()) -> list[Row]:
        """Run one statement of a `writing`; gives what its RETURNING names."""
        return self._db.execute(statement, values).fetchall()

    def write_all(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        self._db.executemany(statement, rows)

    def one(self, statement: str, values: Values = ()) -> Any:  # a row, typed as sqlite3 does
        with self._translated(), self.lock:
            return self._db.execute(statement, values).fetchone()

    def all(self, statement: str, values: Values = ()) -> list[Row]:
        with self._translated(), self.lock:
            return self._db.execute(statement, values).fetchall()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(self._path):
                yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in BUSY:  # the extended code is in the higher bytes
                raise
            raise TransientError(f"another process, a backup perhaps, has {self._path} locked: {error}") from error

    def parts(self, owners: Sequence[str]) -> Parts:
        return as_parts(
            self.all(
                "SELECT * FROM part WHERE owner IN (SELECT value FROM json_each(?)) ORDER BY owner, number",
                (as_json(owners),),
            )
        )

    def put_parts(self, owner: str, parts: Sequence[Part]) -> None:
        self.write_all("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?)", (part_row(owner, it) for it in parts))


def microseconds(time: datetime) -> int:
    """Turn a time into what the tables hold."""
    return (time - EPOCH) // MICROSECOND


def as_time(count: int) -> datetime:
    """Turn it back."""
    return EPOCH + count * MICROSECOND


def as_json(value: object) -> str:
    """Write a value for a column that holds JSON."""
    return msgspec.json.encode(value).decode()


def part_row(owner: str, part: Part) -> tuple[str, int, str, int, int, str]:
    """Give the values of a row of `part`."""
    return owner, part.index, part.name, part.size_bytes, part.rows, as_json(part.samples)


def as_parts(rows: Iterable[Row]) -> dict[str, tuple[Part, ...]]:
    """Group rows of `part`, which are in order, by their owners."""
    return {
        owner: tuple(
            Part(name, number, size_bytes, count, _STRINGS.decode(samples))
            for _, number, name, size_bytes, count, samples in group
        )
        for owner, group in groupby(rows, key=lambda row: str(row[0]))
    }


def as_dataset(row: Row, parts: Parts) -> Dataset:
    """Make a dataset of its `DATASET_COLUMNS`."""
    id, name, type, status, created_at, updated_at, options, file_name, original, error, warnings, schema = row
    return Dataset(
        id=id,
        name=name,
        type=DatasetType(type),
        created_at=as_time(created_at),
        updated_at=as_time(updated_at),
        status=ValidationStatus(status),
        options=_DATASET_OPTIONS.decode(options),
        file_name=file_name,
        original=original,
        error=error,
        warnings=_STRINGS.decode(warnings),
        schema=schema,
        parts=parts.get(id, ()),
    )


def as_job(row: Row, parts: Parts) -> Job:
    """Make a job of its `JOB_COLUMNS`."""
    id, options, status, created_at, updated_at, input, output, count, blocks, done, tokens, error = row
    return Job(
        id=id,
        options=_JOB_OPTIONS.decode(options),
        status=JobStatus(status),
        created_at=as_time(created_at),
        updated_at=as_time(updated_at),
        input_dataset_id=input,
        output_dataset_id=output,
        rows=count,
        progress=Progress(blocks, done, tokens, parts.get(output, ())),
        error=error,
    )


def dataset_row(dataset: Dataset, size_bytes: int) -> Sequence[object]:
    """Give the values of a new row, in the order of `INSERT_DATASET`."""
    return (
        dataset.id,
        dataset.name,
        dataset.type,
        dataset.status,
        microseconds(dataset.created_at),
        microseconds(dataset.updated_at),
        as_json(dataset.options),
        dataset.file_name,
        dataset.original,
        dataset.error,
        as_json(dataset.warnings),
        dataset.schema,
        size_bytes,
    )


INSERT_DATASET: Final = (
    f"INSERT INTO dataset ({DATASET_COLUMNS}, size_bytes) "  # noqa: S608 - constants of this file
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def job_row(job: Job) -> Sequence[object]:
    """Give the values of a new row, in the order of `INSERT_JOB`."""
    return (
        job.id,
        as_json(job.options),
        job.status,
        microseconds(job.created_at),
        microseconds(job.updated_at),
        job.input_dataset_id,
        job.output_dataset_id,
        job.rows,
    )


INSERT_JOB: Final = (
    "INSERT INTO job (id, options, status, created_at, updated_at, input, output, rows, blocks_done, rows_done,"
    " tokens, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, '')"
)

"""The jobs of a sync and the texts they are of, in the checkpoint's file.

Every write is one durable transaction that checks the epoch, so a process that was taken over writes nothing.
The texts of a job are noted while it is open, and each is in one open job at most: that is the table's key.
Ended jobs stay, without their texts, for those who ask what was paid for and what went wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from .checkpoint import Checkpoints
from .job_steps import ENDED, State

MAX_LOOKUPS = 500  # hashes a statement


@dataclass(frozen=True, slots=True)
class Job:
    """One job, as it is remembered. Its times are in seconds since 1970."""

    token: str  # names it for ever, through all attempts
    name: str  # of its dataset and of its job at the service, another one for each attempt
    state: State
    embedder: str  # identity
    attempt: int
    found: bool  # found at the service; which texts it has is not known
    texts: int
    tokens: int
    created_at: float
    changed_at: float
    intent_at: float | None = None
    dataset_id: str | None = None
    job_id: str | None = None
    output_dataset_id: str | None = None
    billed_tokens: int | None = None  # of all attempts, where the service told
    problem: str | None = None

    @property
    def is_open(self) -> bool:
        return self.state not in ENDED


COLUMNS = ", ".join(field.name for field in fields(Job))
SELECT = f"SELECT {COLUMNS.replace('embedder', 'identity')} FROM job JOIN job_embedder ON job_embedder.id = embedder"  # noqa: S608  # our own names
IS_OPEN = "state NOT IN ('closed', 'failed', 'dropped')"  # as in the index


class JobBook:
    """The jobs in one checkpoint. One that is open to be read only answers, and cannot write."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    @property
    def prefix(self) -> str:
        """How all names of this store's datasets and jobs begin, and no others."""
        return f"vs-{self._checkpoints.uuid[:8]}-"

    # --- writing ------------------------------------------------------------------------------

    def add(self, job: Job, hashes: Iterable[bytes]) -> None:
        """Note a job and its texts, all or nothing; an IntegrityError if a text is in an open job already."""
        with self._checkpoints.writing() as db:
            db.execute("INSERT OR IGNORE INTO job_embedder (identity) VALUES (?)", [job.embedder])
            embedder = _number(db, job.embedder)
            marks = ", ".join("?" * len(fields(Job)))
            id = db.execute(f"INSERT INTO job ({COLUMNS}) VALUES ({marks})", _row(job, embedder)).lastrowid  # noqa: S608  # our own names
            # In the order of the key, which a B-tree takes at half the price.
            db.executemany("INSERT INTO job_text VALUES (?, ?, ?)", [(embedder, hash, id) for hash in sorted(hashes)])

    def save(self, job: Job) -> None:
        """Note what has become of a job. One that is stored, or has ended, has no texts any more."""
        with self._checkpoints.writing() as db:
            id, embedder = db.execute("SELECT id, embedder FROM job WHERE token = ?", [job.token]).fetchone()
            settings = ", ".join(f"{field.name} = ?" for field in fields(Job))
            db.execute(f"UPDATE job SET {settings} WHERE id = ?", [*_row(job, embedder), id])  # noqa: S608  # our own names
            if job.state is State.STORED or not job.is_open:
                db.execute("DELETE FROM job_text WHERE job = ?", [id])

    # --- reading ------------------------------------------------------------------------------

    def open_jobs(self, embedder: str | None = None) -> list[Job]:
        """List the jobs that have not ended, oldest first; of one embedder, or of all."""
        mine = " AND identity = ?" if embedder is not None else ""
        return self._jobs(f"{SELECT} WHERE {IS_OPEN}{mine} ORDER BY job.id", [embedder] if mine else [])

    def latest(self, limit: int) -> list[Job]:
        """List open and ended jobs, latest first."""
        return self._jobs(f"{SELECT} ORDER BY job.id DESC LIMIT ?", [limit])

    def find(self, token: str) -> Job | None:
        """Look up one job."""
        found = self._jobs(f"{SELECT} WHERE token = ?", [token])
        return found[0] if found else None

    def known_job_ids(self) -> set[str]:
        """Every id of a job at the service that is in the book, also of ended ones."""
        with self._checkpoints.reading() as db:
            return {row[0] for row in db.execute("SELECT job_id FROM job WHERE job_id IS NOT NULL")}

    def open_texts(self, embedder: str, hashes: Sequence[bytes]) -> set[bytes]:
        """Tell which of some texts are in an open job of an embedder."""
        found: set[bytes] = set()
        with self._checkpoints.reading() as db:
            number = _number(db, embedder)
            for start in range(0, len(hashes), MAX_LOOKUPS):
                some = hashes[start : start + MAX_LOOKUPS]
                marks = ",".join("?" * len(some))
                found.update(
                    row[0]
                    for row in db.execute(
                        f"SELECT text_hash FROM job_text WHERE embedder = ? AND text_hash IN ({marks})",  # noqa: S608  # marks only
                        [number, *some],
                    )
                )
        return found

    def texts_of(self, token: str) -> set[bytes]:
        """Give the hashes of all texts of a job; none of one that has ended."""
        with self._checkpoints.reading() as db:
            rows = db.execute(
                "SELECT text_hash FROM job_text WHERE job = (SELECT id FROM job WHERE token = ?)", [token]
            )
            return {row[0] for row in rows}

    def _jobs(self, statement: str, values: Sequence[object]) -> list[Job]:
        with self._checkpoints.reading() as db:
            return [_job(row) for row in db.execute(statement, values)]


def _number(db: sqlite3.Connection, identity: str) -> int:
    """An embedder's number; 0, which none has, if it never had a job."""
    found = db.execute("SELECT id FROM job_embedder WHERE identity = ?", [identity]).fetchone()
    return int(found[0]) if found else 0


def _row(job: Job, embedder: int) -> list[object]:
    return [embedder if field.name == "embedder" else getattr(job, field.name) for field in fields(Job)]


def _job(row: Sequence[Any]) -> Job:
    token, name, state, embedder, attempt, found, *rest = row
    return Job(token, name, State(state), embedder, attempt, bool(found), *rest)

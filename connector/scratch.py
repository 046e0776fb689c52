"""Room on the disk for what a scan gives, to be had again in the order of its documents.

A scan comes in the database's own order, and is longer than memory. It is written to a SQLite file without an index,
and read through SQLite's external sorter: a million records take about 6 CPU seconds and 130 MB of disk, and a fixed
amount of memory (measured 2026-11). Both files have lost their names by the time they are open, so they are gone with
the process, however it ends.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path

import msgspec

from .drift import Drift, Finding, Mark, Reason
from .model import DocumentId
from .sqlite_file import transaction, translated

MEMORY_KIB = 16_384  # of each of the two files, before they are written to the disk
PAGE_BYTES = 16_384
RECORDS_PER_WRITE = 1000


class Scratch:
    """The marks of one scan at a time, and findings that are too many to be held. For one thread."""

    def __init__(self, db: sqlite3.Connection, place: Path) -> None:
        self._db, self._place = db, place
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute(f"PRAGMA cache_size = -{MEMORY_KIB}")
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("CREATE TABLE finding (sink TEXT, kind TEXT, name BLOB, document_id TEXT, owner BLOB, reason TEXT)")
        self._clear()

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Scratch]:
        """Make room in a folder; if it is not there, or not to be written to, where the system keeps such files."""
        place = folder if folder.is_dir() and os.access(folder, os.W_OK) else Path()
        with translated(place), closing(sqlite3.connect("", isolation_level=None)) as db:  # "": a file without a name
            _keep_temporary_files_in(db, str(place.absolute()) if place is folder else "")
            try:
                yield cls(db, place)
            finally:
                _keep_temporary_files_in(db, "")

    def write(self, marks: Iterable[Mark]) -> None:
        """Forget the scan before, and take in this one."""
        with translated(self._place):
            self._clear()
            rows = map(msgspec.structs.astuple, marks)
            while some := list(islice(rows, RECORDS_PER_WRITE)):
                with transaction(self._db):
                    self._db.executemany("INSERT INTO mark VALUES (?, ?, ?, ?, ?)", some)
            self._db.execute("CREATE INDEX set_aside_by_name ON set_aside (name)")

    def _clear(self) -> None:
        self._db.execute("DROP TABLE IF EXISTS mark")
        self._db.execute("CREATE TABLE mark (document_id TEXT, number INT, digest BLOB, text_hash BLOB, altered TEXT)")
        self._db.execute("DROP TABLE IF EXISTS set_aside")
        self._db.execute("CREATE TABLE set_aside (kind TEXT, name BLOB, owner BLOB)")
        self._is_any_set_aside = False

    def set_aside(self, finding: Finding) -> None:
        """Keep what a scan found by the database's name for it, while the scan is written."""
        with translated(self._place):
            row = [str(finding.kind), _as_bytes(finding.name), _as_bytes(finding.owner)]
            self._db.execute("INSERT INTO set_aside VALUES (?, ?, ?)", row)
            self._is_any_set_aside = True

    def claim(self, name: str) -> bool:
        """Take back what was set aside by a name, once the scan is written; False if nothing was."""
        if not self._is_any_set_aside:
            return False
        with translated(self._place):
            return self._db.execute("DELETE FROM set_aside WHERE name = ?", [_as_bytes(name)]).rowcount > 0

    def still_set_aside(self) -> Iterator[Finding]:
        """Give what nobody has claimed, as the scan gave it."""
        for kind, name, owner in self._db.execute("SELECT kind, name, owner FROM set_aside ORDER BY rowid"):
            yield Finding(Drift(kind), _as_text(name) or "", owner=_as_text(owner))

    def documents(self) -> Iterator[tuple[DocumentId, list[Mark]]]:
        """Give the marks of each document, by their index; documents in the order of their ids as UTF-8."""
        with translated(self._place):
            rows = self._db.execute("SELECT * FROM mark ORDER BY document_id, number")
            marks = (
                Mark(DocumentId(id), number, digest, text_hash, altered and Reason(altered))
                for id, number, digest, text_hash, altered in rows
            )
            for id, some in groupby(marks, attrgetter("document_id")):
                yield id, list(some)

    def note(self, sink: str, findings: Iterable[Finding]) -> None:
        """Keep findings until they are read."""
        with translated(self._place):
            self._db.executemany(
                "INSERT INTO finding VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (sink, str(it.kind), _as_bytes(it.name), it.document_id, _as_bytes(it.owner), it.reason)
                    for it in findings
                ),
            )

    def forget(self, sink: str) -> None:
        """Forget a sink's findings."""
        with translated(self._place):
            self._db.execute("DELETE FROM finding WHERE sink = ?", [sink])

    def findings(self, sink: str) -> Iterator[Finding]:
        """Give a sink's findings, in the order in which they were noted."""
        rows = self._db.execute(
            "SELECT kind, name, document_id, owner, reason FROM finding WHERE sink = ? ORDER BY rowid", [sink]
        )
        for kind, name, document_id, owner, reason in rows:
            yield Finding(Drift(kind), _as_text(name) or "", document_id, _as_text(owner), reason and Reason(reason))


def _as_bytes(name: str | None) -> bytes | None:
    """Write a name that is not ours, in which half of a surrogate pair may stand; SQLite takes no such text."""
    return None if name is None else name.encode("utf-8", "surrogatepass")


def _as_text(name: bytes | None) -> str | None:
    return None if name is None else name.decode("utf-8", "surrogatepass")


def _keep_temporary_files_in(db: sqlite3.Connection, folder: str) -> None:
    """Say where SQLite's files without a name are, for the whole process. "": where the system keeps such files."""
    escaped = folder.replace("'", "''")
    db.execute(f"PRAGMA temp_store_directory = '{escaped}'")

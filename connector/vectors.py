"""The vector store: (embedder identity, hash of the text) -> vector, in one SQLite file.

Everything that embeds writes here first, and everything that delivers reads from here. So an edit
of metadata, a moved document, a second sink, a repair and a crash cost no tokens. Losing the file
costs money, never correctness.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from .sqlite_file import open_file, transaction, translated

if TYPE_CHECKING:
    from .model import Vectors

APPLICATION_ID = 0x56530002
FILE_NAME = "vectors.db"
PAGE_BYTES = 16_384  # a third cheaper to write than 4,096, and a fifth smaller (384 dimensions, measured 2026-11)
MAX_LOOKUPS = 500  # hashes a statement

# Rows with a vector in them are too long for a table without rowid (sqlite.org/withoutrowid.html,
# section 4), and the rowid gives the age.
MIGRATIONS = (
    """
    CREATE TABLE embedder (
        id        INTEGER NOT NULL PRIMARY KEY,
        identity  TEXT NOT NULL UNIQUE
    ) STRICT;
    CREATE TABLE vector (
        id         INTEGER NOT NULL PRIMARY KEY,  -- grows with age
        embedder   INTEGER NOT NULL,
        text_hash  BLOB NOT NULL,                 -- 16 bytes of sha256
        vector     BLOB NOT NULL                  -- float32, little endian
    ) STRICT;
    CREATE UNIQUE INDEX vector_of_text ON vector (embedder, text_hash);
    """,
)

Keep: TypeAlias = Literal["all", "undelivered"]


class SqliteVectors:
    """The vectors of one embedder, among others in the same file. Safe to use from several threads."""

    def __init__(self, folder: Path, *, embedder_identity: str, dimension: int, read_only: bool) -> None:
        self._path = folder / FILE_NAME
        self._lock = threading.RLock()
        self._dimension = dimension
        self._read_only = read_only
        self._db = open_file(
            self._path,
            application_id=APPLICATION_ID,
            migrations=MIGRATIONS,
            read_only=read_only,
            page_bytes=PAGE_BYTES,
        )
        self._embedder = self._number(embedder_identity)

    @classmethod
    def open(cls, folder: Path, *, embedder_identity: str, dimension: int, read_only: bool = False) -> SqliteVectors:
        """Open `folder/vectors.db`; a read-only one that does not exist is an empty one.

        The errors are those of `sqlite_file.open_file`. Whoever opens it for writing holds the lease.
        """
        return cls(folder, embedder_identity=embedder_identity, dimension=dimension, read_only=read_only)

    def _number(self, identity: str) -> int:
        with translated(self._path):
            if not self._read_only:
                self._db.execute("INSERT OR IGNORE INTO embedder (identity) VALUES (?)", [identity])
            found = self._db.execute("SELECT id FROM embedder WHERE identity = ?", [identity]).fetchone()
        return int(found[0]) if found else 0

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def get(self, hashes: Sequence[bytes]) -> dict[bytes, Vectors]:
        found: dict[bytes, Vectors] = {}
        size_bytes = 4 * self._dimension
        for text_hash, blob in self._lookup("text_hash, vector", hashes):
            if len(blob) == size_bytes:
                vector = np.frombuffer(blob, dtype="<f4")
                if np.isfinite(vector).all():
                    found[text_hash] = vector
        return found

    def missing(self, hashes: Sequence[bytes]) -> set[bytes]:
        return set(hashes) - {row[0] for row in self._lookup("text_hash", hashes)}

    def put(self, hashes: Sequence[bytes], vectors: Vectors) -> None:
        rows = [
            (self._embedder, text_hash, vector.tobytes())
            for text_hash, vector in zip(hashes, vectors.astype("<f4", copy=False), strict=True)
        ]
        with translated(self._path), self._lock, transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO vector (embedder, text_hash, vector) VALUES (?, ?, ?)", rows)

    def forget(self, hashes: Sequence[bytes]) -> None:
        """Forget the vectors of some texts; they are embedded again when they are needed."""
        with translated(self._path), self._lock, transaction(self._db):
            self._db.executemany(
                "DELETE FROM vector WHERE embedder = ? AND text_hash = ?", [(self._embedder, it) for it in hashes]
            )

    def count(self) -> int:
        """How many vectors there are, of all embedders."""
        with translated(self._path), self._lock:
            return int(self._db.execute("SELECT count(*) FROM vector").fetchone()[0])

    def size_bytes(self) -> int:
        """How large the file is, what is free in it left out."""
        with translated(self._path), self._lock:
            pages, free, page_bytes = (
                int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * page_bytes

    def prune(self, *, keep: Keep, max_bytes: int | None) -> int:
        """Forget what the settings do not pay storage for, oldest first; return how many vectors.

        Called only after a run that left every sink in step, so no sink waits for a vector.
        """
        with translated(self._path), self._lock, transaction(self._db):
            if keep == "undelivered":
                return self._db.execute("DELETE FROM vector").rowcount
            if max_bytes is None or (size_bytes := self.size_bytes()) <= max_bytes:
                return 0
            rows = self.count()
            surplus = rows - int(rows * max_bytes / size_bytes)
            return self._db.execute(
                "DELETE FROM vector WHERE id IN (SELECT id FROM vector ORDER BY id LIMIT ?)", [surplus]
            ).rowcount

    def _lookup(self, columns: str, hashes: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        rows: list[tuple[bytes, bytes]] = []
        with translated(self._path), self._lock:
            for start in range(0, len(hashes), MAX_LOOKUPS):
                some = hashes[start : start + MAX_LOOKUPS]
                marks = ",".join("?" * len(some))
                rows += self._db.execute(
                    f"SELECT {columns} FROM vector WHERE embedder = ? AND text_hash IN ({marks})",  # noqa: S608  # marks only
                    [self._embedder, *some],
                )
        return rows

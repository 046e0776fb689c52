"""A ledger from its beginning to its end, in the order of its document ids and in bounded memory.

It is read a page at a time, so no transaction stays open, and nobody who writes has to wait.
"""

from __future__ import annotations

from collections.abc import Iterator

from .checkpoint import COLUMNS, Checkpoints
from .drift import Expected
from .model import HASH_BYTES, UNKNOWN, DocumentId, Entry

ENTRIES_PER_PAGE = 1000


def walk(checkpoints: Checkpoints, sink: str) -> Iterator[Entry]:
    """Read every entry of a sink's ledger, in the order of their ids as UTF-8, which is that of Python's strings.

    Lines that are written behind the reader's back, before the place where it stands, are not seen.
    """
    after = None
    while True:
        with checkpoints.reading() as db:
            rows = db.execute(
                f"SELECT {COLUMNS} FROM entry WHERE ledger = (SELECT id FROM ledger WHERE sink = ?)"  # noqa: S608
                + (" AND document_id > ?" if after is not None else "")
                + " ORDER BY document_id LIMIT ?",
                [sink, *([after] if after is not None else []), ENTRIES_PER_PAGE],
            ).fetchall()
        for id, fingerprint, content, joined, problem in rows:
            passages = tuple([joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES)])
            yield Entry(DocumentId(id), fingerprint, content, passages, problem)
        if len(rows) < ENTRIES_PER_PAGE:
            return
        after = rows[-1][0]


def version(checkpoints: Checkpoints, sink: str) -> tuple[object, ...] | None:
    """What changes with every write to a sink's ledger; None if it has none."""
    with checkpoints.reading() as db:
        found: tuple[object, ...] | None = db.execute(
            "SELECT version, incarnation FROM ledger WHERE sink = ?", [sink]
        ).fetchone()
    return found


def expected(checkpoints: Checkpoints, sink: str) -> Expected:
    """How many records a sink should hold; reads its whole ledger, inside SQLite."""
    with checkpoints.reading() as db:
        (size_bytes,) = db.execute(
            "SELECT coalesce(sum(length(passages)), 0) FROM entry JOIN ledger ON ledger.id = ledger WHERE sink = ?",
            [sink],
        ).fetchone()
    return Expected(
        size_bytes // HASH_BYTES, all(UNKNOWN not in entry.passages for entry in checkpoints.in_doubt(sink))
    )

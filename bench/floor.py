"""The floor, which is no peer: the least that a correct incremental sync does in plain Python.

Read the JSONL, hash text and metadata apart (blake2b-128), compare with an SQLite table that is loaded
once into a dictionary, embed the rows whose text changed, write in batches of 1000, delete what
disappeared, and commit after each acknowledged batch.

It has no lease, no vector store, no limits, no quarantine and no progress, and its memory grows with the
source. It shows what is possible, and is no promise.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing

from common import Job, Row, point_id, read_rows
from stub import PointCollection, open_collection

BATCH = 1000


def hashed(content: str) -> bytes:
    return hashlib.blake2b(content.encode(), digest_size=16).digest()


def sync(job: Job, db: sqlite3.Connection, collection: PointCollection) -> None:
    """Bring the collection in step with the file."""
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("CREATE TABLE IF NOT EXISTS synced (id TEXT PRIMARY KEY, text BLOB, metadata BLOB) WITHOUT ROWID")
    known = {id: (text, metadata) for id, text, metadata in db.execute("SELECT id, text, metadata FROM synced")}
    texts: list[tuple[Row, bytes, bytes]] = []  # rows whose text is new
    payloads: list[tuple[Row, bytes, bytes]] = []  # rows whose metadata alone is

    def flush() -> None:
        if texts:
            vectors = job.meter.embed_lists([row["text"] for row, _, _ in texts])
            collection.upsert(
                [(point_id(row["id"]), vector, row) for (row, _, _), vector in zip(texts, vectors, strict=True)]
            )
        for row, _, _ in payloads:
            collection.set_payload(point_id(row["id"]), row)
        synced = [(row["id"], text, metadata) for row, text, metadata in texts + payloads]
        db.executemany("INSERT OR REPLACE INTO synced VALUES (?, ?, ?)", synced)
        db.commit()
        texts.clear()
        payloads.clear()

    for row in read_rows(job.rows_file):
        text = hashed(row["text"])
        metadata = hashed(json.dumps({name: value for name, value in row.items() if name != "text"}, sort_keys=True))
        before = known.pop(row["id"], None)
        if before is None or before[0] != text:
            texts.append((row, text, metadata))
        elif before[1] != metadata:
            payloads.append((row, text, metadata))
        if len(texts) + len(payloads) >= (job.batch or BATCH):
            flush()
    if texts or payloads:
        flush()
    if known:
        collection.delete([point_id(id) for id in known])
        db.executemany("DELETE FROM synced WHERE id = ?", [(id,) for id in known])
        db.commit()


def main() -> None:
    job = Job.from_command_line()
    collection = open_collection(job)
    with job.measured(collection.points_kept), closing(sqlite3.connect(job.state / "floor.db")) as db:
        sync(job, db, collection)


if __name__ == "__main__":
    main()

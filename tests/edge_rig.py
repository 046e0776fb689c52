"""Reads what an embedded collection holds with the engine alone, from a copy: the original can be opened only once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import qdrant_edge

from connector.model import DocumentId, EmbeddedRecord, RecordId, record_id


def points_in(shard: Path, copy: Path) -> list[qdrant_edge.Record]:
    """Read all points of a shard, which may be open, from a copy of it."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(shard, copy, copy_function=copy_sparse)
    opened = qdrant_edge.EdgeShard.load(str(copy))
    points, _ = opened.scroll(qdrant_edge.ScrollRequest(limit=100_000, with_payload=True, with_vector=True))
    opened.close()
    return points


def decoded(points: Iterable[qdrant_edge.Record], owner: str) -> dict[RecordId, EmbeddedRecord]:
    """Read an owner's records, without the code that wrote them."""
    ours = [_decoded(dict(each.payload), each.vector) for each in points if each.payload["_vs_source"] == owner]
    assert len({each.id for each in ours}) == len(ours)
    return {each.id: each for each in ours}


def _decoded(payload: dict[str, object], parts: list[float]) -> EmbeddedRecord:
    del payload["_vs_source"]
    document, index = DocumentId(payload.pop("_vs_document")), payload.pop("_vs_index")
    digest, text = bytes.fromhex(payload.pop("_vs_digest")), payload.pop("text")
    vector = np.array(parts, dtype=np.float32)
    return EmbeddedRecord(record_id(document, index), document, index, vector, text, payload, digest)


def copy_sparse(source: str, target: str) -> str:
    """Copy a file without its holes: the engine's files are 32 MiB of which a few pages are written."""
    with Path(source).open("rb") as reading, Path(target).open("wb") as writing:
        size = reading.seek(0, os.SEEK_END)
        writing.truncate(size)
        start = 0
        while start < size:
            try:
                start = os.lseek(reading.fileno(), start, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            end = os.lseek(reading.fileno(), start, os.SEEK_HOLE)
            os.pwrite(writing.fileno(), os.pread(reading.fileno(), end - start, start), start)
            start = end
    return target

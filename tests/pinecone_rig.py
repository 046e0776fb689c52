"""The sink for Pinecone against the emulator: how tests build it, and how they read records without it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from connector.model import DocumentId, EmbeddedRecord, RecordId, record_id
from connector.plugins import BuildContext
from connector.testing.pinecone_server import PineconeServer
from sinks.pinecone import PineconeSettings
from sinks.pinecone_sink import PineconeSink

KEY = "pc-canary-51c2"
INDEX = "passages"
NAMESPACE = "docs"


def build(
    server: PineconeServer,
    folder: Path,
    *,
    owner: str = "docs sync",
    generation: int = 1,
    read_only: bool = False,
    **settings: Any,
) -> PineconeSink:
    """Build a sink as the next run does: it may make indexes."""
    given = {
        "api_key": KEY,
        "index": INDEX,
        "namespace": NAMESPACE,
        "controller_host": server.url,
        "cloud": "aws",
        "region": "us-east-1",
        **settings,
    }
    context = BuildContext(folder, folder, "main", owner, generation=generation, read_only=read_only)
    sink = PineconeSettings(**given).build(context)
    assert isinstance(sink, PineconeSink)
    return sink


def stored_in(
    server: PineconeServer, namespace: str = NAMESPACE, *, index: str = INDEX, owner: str = "docs sync"
) -> dict[RecordId, EmbeddedRecord]:
    """Read an owner's records by what is said of them in the docs, and not through the sink."""
    if index not in server.indexes:
        return {}
    found = [
        decoded(each.values, dict(each.metadata))
        for each in server.records(index, namespace).values()
        if each.metadata.get("_vs_source") == owner
    ]
    by_id = {each.id: each for each in found}
    assert len(by_id) == len(found)
    return by_id


def decoded(values: Sequence[float], metadata: dict[str, Any]) -> EmbeddedRecord:
    metadata.pop("_vs_source")
    document, index = DocumentId(metadata.pop("_vs_document")), int(metadata.pop("_vs_index"))
    digest, text = bytes.fromhex(metadata.pop("_vs_digest")), metadata.pop("text")
    kept: Mapping[str, Any] = json.loads(metadata.pop("_vs_json", "{}"))
    for mark in ("_vs_json_fields", "_vs_cut", "_vs_dropped"):
        metadata.pop(mark, None)
    assert not [name for name in metadata if name.startswith("_vs_")]
    assert not any(isinstance(value, float) and math.isnan(value) for value in metadata.values())
    vector = np.array(values, dtype=np.float32)
    return EmbeddedRecord(record_id(document, index), document, index, vector, text, {**metadata, **kept}, digest)

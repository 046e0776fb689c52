"""Qdrant or Pinecone for a benchmark, in a process of its own: the emulators, but what is written is dropped.

Prints its address, and serves until its standard input ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec


class _Sent(msgspec.Struct):
    vectors: list[msgspec.Raw]  # counted, not read


def serve_qdrant() -> None:
    from connector.testing.qdrant_server import QdrantServer

    with QdrantServer() as server:
        server.points.upsert = _drop  # type: ignore[method-assign]
        _until_input_ends(server.url)


def _drop(collection: Any, body: Any) -> None:
    del collection, body


def serve_pinecone() -> None:
    from connector.testing import pinecone_server_records as records
    from connector.testing.pinecone_server_wire import Answer

    keep = records.RECORD_CALLS["upsert"]

    def count(index: Any, call: Any) -> Answer:
        sent = len(msgspec.json.decode(call.body, type=_Sent).vectors)
        return Answer({"upsertedCount": sent}) if sent > 1 else keep(index, call)  # the mark of a collection is kept

    records.RECORD_CALLS["upsert"] = count  # before the server takes the table
    from connector.testing.pinecone_server import PineconeServer

    with PineconeServer() as server:
        _until_input_ends(server.url)


def _until_input_ends(url: str) -> None:
    print(url, flush=True)
    sys.stdin.read()


@contextmanager
def null_server(kind: str) -> Iterator[str]:
    """Have a server of a kind in another process; gives its address."""
    command = [sys.executable, Path(__file__), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


if __name__ == "__main__":
    {"qdrant": serve_qdrant, "pinecone": serve_pinecone}[sys.argv[1]]()

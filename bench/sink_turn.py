"""One turn of `sink_speed.py`, in a process of its own: some records to one sink, by one way, and what CPU that took.

| way | what it is |
|---|---|
| bare | what a careful user would write: plain loops over the SDK, each call waited for |
| bulk | what the SDK has for bulk loads, where it has something |
| delivery | `connector.delivery` with a checkpoint on disk, as a sync uses it, and the sink |

All make calls of the same records, which have the same id, text, metadata and marks. They, and their vectors as float32
arrays, are there before the clock starts; the collection is, too, and one document was written to it.
"""

from __future__ import annotations

import argparse
import json
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from common import DIMENSION, RESULT_MARK, WORDS

from connector.checkpoint import Checkpoints
from connector.delivery import Delivery
from connector.events import ignore
from connector.model import Document, DocumentId, EmbeddedRecord, Passage
from connector.parcels import pack, parcels
from connector.plan import Change, Recipe, compare, want
from connector.plugins import BuildContext, SinkSettings
from connector.ports import Sink
from connector.retry import Retry
from connector.survey import CHARACTERS_PER_GROUP, DOCUMENTS_PER_GROUP

if TYPE_CHECKING:
    from connector.model import Vectors

COLLECTION = "bench"
CHARACTERS = 500
SINKS = ("memory", "qdrant-edge", "qdrant", "pinecone")
BULK = ("qdrant", "pinecone")
TIMEOUT_SECONDS = 60

Call: TypeAlias = Sequence[EmbeddedRecord]
Write: TypeAlias = Callable[[Sequence[Call]], None]
Changes: TypeAlias = list[Change]


@dataclass(frozen=True, slots=True)
class Turn:
    """What the command line says."""

    sink: str
    way: str
    records: int
    passages: int  # of a document
    folder: Path
    url: str

    @classmethod
    def from_command_line(cls) -> Turn:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--sink", choices=SINKS, required=True)
        parser.add_argument("--way", choices=("bare", "bulk", "delivery"), required=True)
        parser.add_argument("--records", type=int, required=True)
        parser.add_argument("--passages", type=int, required=True)
        parser.add_argument("--folder", type=Path, required=True)
        parser.add_argument("--url", default="")
        return cls(**vars(parser.parse_args()))

    def open_sink(self) -> Sink:
        settings: SinkSettings
        match self.sink:
            case "memory":
                from sinks.memory import MemorySettings

                settings = MemorySettings()
            case "qdrant-edge":
                from sinks.qdrant_edge import QdrantEdgeSettings

                settings = QdrantEdgeSettings(path=self.folder / "index", collection=COLLECTION)
            case "qdrant":
                from sinks.qdrant import QdrantSettings

                settings = QdrantSettings(url=self.url, collection=COLLECTION)
            case _:
                from sinks.pinecone import PineconeSettings

                settings = PineconeSettings(controller_host=self.url, index=COLLECTION, cloud="aws", region="us-east-1")
        return settings.build(BuildContext(self.folder, self.folder, name=self.sink))


# --- the records ------------------------------------------------------------------------------------


def changes_of(turn: Turn) -> tuple[list[Changes], dict[bytes, Vectors]]:
    """Make new documents, one to warm up with and then groups as the engine would, and the vectors of their texts."""
    rng = np.random.default_rng(7)
    recipe = Recipe(embedder="bench", splitter="bench", source="bench")
    hash = recipe.hash()
    changes, vectors = [], {}
    for number in range(1 + turn.records // turn.passages):
        id = DocumentId(f"doc-{number:07d}")
        words = [WORDS[place] for place in rng.integers(len(WORDS), size=CHARACTERS // 6)]
        passages = [Passage(id, index, f"{number} {index} " + " ".join(words)) for index in range(turn.passages)]
        metadata = {"title": f"Title {number}", "views": rng.random() * 1e4, "url": f"https://example.com/{number}"}
        version = uuid.uuid5(uuid.NAMESPACE_URL, id).bytes
        wanted = want(Document(id, version, "", metadata), passages, [100] * len(passages), recipe, hash)
        for text_hash in wanted.text_hashes:
            vector = rng.standard_normal(DIMENSION, dtype=np.float32)
            vectors[text_hash] = vector / np.linalg.norm(vector)
        changes.append(compare(wanted, None))
    per_group = min(DOCUMENTS_PER_GROUP, CHARACTERS_PER_GROUP // (CHARACTERS * turn.passages))
    rest = iter(changes[1:])
    return [changes[:1], *iter(lambda: list(islice(rest, per_group)), [])], vectors


# --- the ways ---------------------------------------------------------------------------------------


def payload(record: EmbeddedRecord) -> dict[str, Any]:
    return {
        **record.metadata,
        "text": record.text,
        "document": record.document_id,
        "index": record.index,
        "digest": record.digest.hex(),
    }


def point_id(record: EmbeddedRecord) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, record.id))


def bare_memory(turn: Turn) -> Write:
    del turn
    store: dict[str, EmbeddedRecord] = {}

    def write(calls: Sequence[Call]) -> None:
        for call in calls:
            store.update({record.id: record for record in call})

    return write


def bare_edge(turn: Turn) -> Write:
    import qdrant_edge as edge

    vectors = edge.EdgeVectorParams(size=DIMENSION, distance=edge.Distance.Cosine)
    (turn.folder / "bare").mkdir()
    shard = edge.EdgeShard.create(str(turn.folder / "bare"), edge.EdgeConfig(vectors=vectors))

    def write(calls: Sequence[Call]) -> None:
        for call in calls:
            points = [edge.Point(point_id(record), record.vector.tolist(), payload(record)) for record in call]
            shard.update(edge.UpdateOperation.upsert_points(points))
            shard.flush()

    return write


def qdrant_client(turn: Turn) -> Any:
    """Make a client that keeps its connections, as it does to any server but one on this machine."""
    import httpx
    from qdrant_client import QdrantClient, models

    limits = httpx.Limits(max_connections=4, max_keepalive_connections=4)
    client = QdrantClient(url=turn.url, timeout=TIMEOUT_SECONDS, check_compatibility=False, limits=limits)
    client.create_collection(turn.way, models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE))
    return client


def bare_qdrant(turn: Turn) -> Write:
    from qdrant_client.models import PointStruct

    client = qdrant_client(turn)

    def write(calls: Sequence[Call]) -> None:
        for call in calls:
            points = [
                PointStruct(id=point_id(record), vector=record.vector.tolist(), payload=payload(record))
                for record in call
            ]
            client.upsert(turn.way, points, wait=True)

    return write


def bulk_qdrant(turn: Turn) -> Write:
    from qdrant_client.models import PointStruct

    client = qdrant_client(turn)

    def write(calls: Sequence[Call]) -> None:
        points = (
            PointStruct(id=point_id(record), vector=record.vector.tolist(), payload=payload(record))
            for call in calls
            for record in call
        )
        client.upload_points(turn.way, points, batch_size=len(calls[0]), wait=True)

    return write


def pinecone_index(turn: Turn) -> Any:
    from pinecone import Pinecone, ServerlessSpec

    client = Pinecone(api_key="any", host=turn.url)
    spec = ServerlessSpec(cloud="aws", region="us-east-1")
    client.create_index(turn.way, dimension=DIMENSION, metric="cosine", spec=spec)
    return client.index(turn.way)


def pinecone_vector(record: EmbeddedRecord) -> dict[str, Any]:
    return {"id": record.id, "values": record.vector.tolist(), "metadata": payload(record)}


def bare_pinecone(turn: Turn) -> Write:
    index = pinecone_index(turn)

    def write(calls: Sequence[Call]) -> None:
        for call in calls:
            index.upsert(vectors=[pinecone_vector(record) for record in call], namespace="docs")

    return write


def bulk_pinecone(turn: Turn) -> Write:
    index = pinecone_index(turn)

    def write(calls: Sequence[Call]) -> None:
        vectors = [pinecone_vector(record) for call in calls for record in call]
        done = index.upsert(vectors=vectors, namespace="docs", batch_size=len(calls[0]), show_progress=False)
        assert not done.has_errors

    return write


WAYS: dict[tuple[str, str], Callable[[Turn], Write]] = {
    ("memory", "bare"): bare_memory,
    ("qdrant-edge", "bare"): bare_edge,
    ("qdrant", "bare"): bare_qdrant,
    ("qdrant", "bulk"): bulk_qdrant,
    ("pinecone", "bare"): bare_pinecone,
    ("pinecone", "bulk"): bulk_pinecone,
}


# --- one turn ---------------------------------------------------------------------------------------


def take(turn: Turn) -> Iterator[Callable[[], int]]:
    """Make ready, and give first what warms up, then what is timed; each says how many calls it has made."""
    groups, vectors = changes_of(turn)
    with closing(turn.open_sink()) as sink:
        if turn.way == "delivery":
            with closing(Checkpoints.open(turn.folder / "state")) as checkpoints:
                delivery = Delivery(sink, DIMENSION, checkpoints, Retry(), ignore)
                delivery.check()
                delivery.open_ledger()

                def deliver(groups: Sequence[Changes]) -> int:
                    before = delivery.upsert_calls
                    for group in groups:
                        delivery.write(group, vectors)
                    assert not delivery.stopped, delivery.stopped
                    return delivery.upsert_calls - before

                yield lambda: deliver(groups[:1])
                yield lambda: deliver(groups[1:])
                assert delivery.upserted == turn.passages + turn.passages * (turn.records // turn.passages)
        else:
            write = WAYS[turn.sink, turn.way](turn)
            warm, *timed = [list(pack(parcels(group, vectors), sink.limits)) for group in groups]
            calls = [call for group in timed for call in group]
            yield lambda: write(warm) or 1
            yield lambda: write(calls) or len(calls)


def main() -> None:
    turn = Turn.from_command_line()
    warnings.simplefilter("ignore")  # that keys go over plain HTTP, to this machine
    steps = take(turn)
    next(steps)()
    timed = next(steps)
    started, cpu_started = time.perf_counter(), time.process_time()
    calls = timed()
    cpu_seconds, seconds = time.process_time() - cpu_started, time.perf_counter() - started
    for _ in steps:
        raise AssertionError("a turn has two steps")
    numbers = {"cpu_seconds": round(cpu_seconds, 4), "seconds": round(seconds, 4), "calls": calls}
    print(RESULT_MARK + json.dumps(numbers), flush=True)


if __name__ == "__main__":
    main()

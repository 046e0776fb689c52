"""vector-sync in this process: its engine, table source, checkpoint and vector store, as `vector-sync sync` uses them.

Two parts are stand-ins. The embedder costs what the floor's does and takes 96 texts a call, as Cohere's.
The sink takes calls as large as Qdrant's, and does with each record what the floor does with a point:
a UUID for its id, a list of its vector, a payload of its text and metadata; the collection drops it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from common import COLLECTION, DIMENSION, METADATA_FIELDS, Job, point_id
from stub import PointCollection, open_collection

from connector.checkpoint import Checkpoints
from connector.config import canonical
from connector.engine import Parts, sync
from connector.model import (
    FITS,
    Draft,
    EmbeddedRecord,
    Fit,
    ForeignRecord,
    Hit,
    InputType,
    RecordId,
    StoredRecord,
)
from connector.passages import PassageSplitter
from connector.plugins import BuildContext
from connector.ports import EmbedLimits, Limits, Sink
from connector.report import Report
from connector.sources.tables import TableSettings
from connector.vectors import SqliteVectors
from sinks.qdrant_edge import QdrantEdgeSettings, QdrantEdgeSink

if TYPE_CHECKING:
    from connector.model import Vectors

CHARACTERS_PER_TOKEN = 4
EMBED_LIMITS = EmbedLimits(texts_per_call=96, tokens_per_text=512)
CALL_LIMITS = Limits(records_per_call=256, bytes_per_call=4_000_000, in_process=True)  # as the collection is


@dataclass(frozen=True, slots=True)
class CountedEmbedder:
    """The floor's embedding behind the contract: arrays instead of lists."""

    job: Job
    identity: str = "bench"
    dimension: int = DIMENSION
    limits: EmbedLimits = EMBED_LIMITS

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) // CHARACTERS_PER_TOKEN for text in texts]

    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        del input_type
        return np.stack(self.job.meter.embed(texts))

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class CollectionSink:
    """Writes to the collection that the floor writes to."""

    collection: PointCollection
    name: str = "bench"
    limits: Limits = CALL_LIMITS

    def check(self, dimension: int) -> str:
        return self.prepare(dimension)

    def prepare(self, dimension: int) -> str:
        return f"bench/{dimension}"

    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        self.collection.upsert([(point_id(record.id), record.vector.tolist(), _payload(record)) for record in records])

    def delete(self, ids: Sequence[RecordId]) -> None:
        self.collection.delete([point_id(id) for id in ids])

    def fit(self, draft: Draft) -> Fit:
        del draft
        return FITS

    def scan(self) -> Iterator[StoredRecord]:
        return iter(())

    def count(self) -> int | None:
        return None

    def search(self, vector: Vectors, limit: int) -> list[Hit]:
        del vector, limit
        return []

    def close(self) -> None:
        pass


def _payload(record: EmbeddedRecord) -> dict[str, object]:
    return {
        **record.metadata,
        "text": record.text,
        "_vs_document": record.document_id,
        "_vs_index": record.index,
        "_vs_digest": record.digest.hex(),
    }


@dataclass(frozen=True, slots=True)
class CountedSink:
    """A real sink, whose calls are counted when it has acknowledged them."""

    sink: Sink
    job: Job

    @property
    def name(self) -> str:
        return self.sink.name

    @property
    def limits(self) -> Limits:
        return self.sink.limits

    def check(self, dimension: int) -> str | None:
        return self.sink.check(dimension)

    def prepare(self, dimension: int) -> str:
        return self.sink.prepare(dimension)

    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        self.sink.upsert(records)
        self.job.acknowledged(len(records))

    def delete(self, ids: Sequence[RecordId]) -> None:
        self.sink.delete(ids)
        self.job.deleted(len(ids))

    def fit(self, draft: Draft) -> Fit:
        return self.sink.fit(draft)

    def scan(self) -> Iterator[StoredRecord | ForeignRecord]:
        return self.sink.scan()

    def count(self) -> int | None:
        return self.sink.count()

    def search(self, vector: Vectors, limit: int) -> list[Hit]:
        return self.sink.search(vector, limit)

    def close(self) -> None:
        self.sink.close()


def open_edge(job: Job) -> QdrantEdgeSink:
    """Open the embedded index of this job."""
    settings = QdrantEdgeSettings(path=job.state / "index", collection=COLLECTION)
    return settings.build(BuildContext(job.state, job.state, name=COLLECTION))


def count_edge(job: Job) -> int:
    """Count the records in the embedded index."""
    with closing(open_edge(job)) as sink:
        return sum(1 for _ in sink.scan())


def run(job: Job, sink: Sink) -> Report:
    """Sync once."""
    with closing(sink), closing(Checkpoints.open(job.state)) as checkpoints:
        settings = TableSettings(path=job.rows_file, keep_fields=METADATA_FIELDS)
        context = BuildContext(job.rows_file.parent, job.state, seed=checkpoints.seed)
        embedder = CountedEmbedder(job)
        with closing(
            SqliteVectors.open(job.state, embedder_identity=embedder.identity, dimension=DIMENSION)
        ) as vectors:
            return sync(
                Parts(
                    source=settings.build(context),
                    embedder=embedder,
                    splitter=PassageSplitter(embedder.limits.tokens_per_text, embedder.count_tokens),
                    sinks=[sink],
                    checkpoints=checkpoints,
                    vectors=vectors,
                    source_settings=canonical(settings),
                )
            )


def main() -> None:
    job = Job.from_command_line()
    if job.sink == "embedded":
        sink: Sink = CountedSink(open_edge(job), job)
        points_kept: Callable[[], int | None] = partial(count_edge, job)
    else:
        collection = open_collection(job)
        sink, points_kept = CollectionSink(collection), collection.points_kept
    with job.measured(points_kept):
        report = run(job, sink)
    if report.exit_code:
        raise SystemExit("\n".join(report.problems))


if __name__ == "__main__":
    main()

"""A sink in memory: the reference for the contract, for tests and dry runs. Gone when the process is."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import numpy as np
from pydantic import Field

from connector.errors import ConfigError, RejectedError
from connector.filters import Condition, matches
from connector.model import FITS, Detail, Draft, EmbeddedRecord, Fit, Hit, RecordId, StoredRecord
from connector.plugins import BuildContext, SinkSettings
from connector.ports import Limits

if TYPE_CHECKING:
    from connector.model import Vectors


class MemorySettings(SinkSettings):
    """Keep the records in memory, for a dry run."""

    kind: Literal["memory"] = Field(default="memory", description="a sink that ends with the process")

    def build(self, context: BuildContext) -> MemorySink:
        return MemorySink(context.name)


class MemorySink:
    """A dictionary that keeps the contract. Its dimension is that of the first `prepare`."""

    limits = Limits(in_process=True)

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.records: dict[RecordId, EmbeddedRecord] = {}
        self._dimension: int | None = None
        self._incarnation = uuid4().hex
        self._lock = threading.Lock()

    def check(self, dimension: int) -> str | None:
        if self._dimension not in (None, dimension):
            raise ConfigError(
                f'the sink "{self.name}" holds vectors of {self._dimension} dimensions, the embedder makes {dimension}'
            )
        return None if self._dimension is None else self._incarnation

    def prepare(self, dimension: int) -> str:
        self.check(dimension)
        self._dimension = dimension
        return self._incarnation

    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        for record in records:
            if record.vector.shape != (self._dimension,) or not np.isfinite(record.vector).all():
                raise RejectedError(
                    f'document "{record.document_id}", passage {record.index}: '
                    f"its vector is not {self._dimension} finite numbers"
                )
        with self._lock:
            self.records.update({record.id: record for record in records})

    def delete(self, ids: Sequence[RecordId]) -> None:
        with self._lock:
            for id in ids:
                self.records.pop(id, None)

    def fit(self, draft: Draft) -> Fit:  # noqa: ARG002 - a dictionary takes everything
        return FITS

    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord]:
        for record in self._snapshot():
            text, metadata = (record.text, record.metadata) if detail >= Detail.CONTENTS else (None, None)
            vector = record.vector if detail >= Detail.VECTORS else None
            yield StoredRecord(record.id, record.document_id, record.index, record.digest, text, metadata, vector)

    def count(self) -> int:
        return len(self.records)

    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        """Find by cosine; a vector of length zero is near to nothing."""
        records = [record for record in self._snapshot() if matches(record.metadata, where)]
        if not records:
            return []
        matrix = np.stack([record.vector for record in records])
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
        scores = (matrix @ vector) / np.where(lengths == 0, 1, lengths)
        return [
            Hit(found.id, found.document_id, found.index, float(scores[place]), found.text, found.metadata)
            for place in np.argsort(-scores, kind="stable")[:limit]
            for found in (records[place],)
        ]

    def close(self) -> None:
        pass

    def _snapshot(self) -> list[EmbeddedRecord]:
        with self._lock:
            return list(self.records.values())

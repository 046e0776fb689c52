"""A qdrant-client whose writes are counted, and dropped if they are not to be kept. For the peers and the floor."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from common import COLLECTION, DIMENSION, Job, Point
from qdrant_client import QdrantClient, models

DONE = models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


class CountedClient(QdrantClient):
    """Counts `upsert`, `upload_points` and `delete`, which are what the peers write with."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.drops = job.sink != "embedded"
        super().__init__(":memory:") if self.drops else super().__init__(path=str(job.state / "qdrant"))
        if not self.collection_exists(COLLECTION):
            vectors = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
            self.create_collection(COLLECTION, vectors_config=vectors)

    def upsert(self, collection_name: str, points: Any, **options: Any) -> models.UpdateResult:
        """Write points in one call."""
        points = points if hasattr(points, "ids") else list(points)
        result = DONE if self.drops else super().upsert(collection_name, points, **options)
        self.job.acknowledged(len(points.ids if hasattr(points, "ids") else points))
        return result

    def upload_points(self, collection_name: str, points: Any, batch_size: int = 64, **options: Any) -> None:
        """Write points in as many calls as it takes, as LlamaIndex does."""
        points = list(points)
        for start in range(0, len(points), batch_size):
            some = points[start : start + batch_size]
            if not self.drops:
                super().upload_points(collection_name, some, batch_size=batch_size, **options)
            self.job.acknowledged(len(some))

    def delete(self, collection_name: str, points_selector: Any, **options: Any) -> models.UpdateResult:
        """Delete by ids or by a filter; a filter counts as one."""
        named = getattr(points_selector, "points", points_selector)
        self.job.deleted(len(named) if isinstance(named, list | tuple) else 1)
        return DONE if self.drops else super().delete(collection_name, points_selector, **options)

    def points_kept(self) -> int | None:
        """How many points the index holds; None if they are dropped."""
        return None if self.drops else self.count(COLLECTION).count


class QdrantCollection:
    """What `floor.py` writes to, with the types of qdrant-client."""

    def __init__(self, job: Job) -> None:
        self.client = CountedClient(job)

    def upsert(self, points: Sequence[Point]) -> None:
        """Write whole points in one call."""
        self.client.upsert(
            COLLECTION, [models.PointStruct(id=id, vector=vector, payload=payload) for id, vector, payload in points]
        )

    def set_payload(self, id: str, payload: dict[str, Any]) -> None:
        """Write one point's metadata, and leave its vector."""
        self.client.job.meter.payload_updates += 1
        if not self.client.drops:
            self.client.overwrite_payload(COLLECTION, payload, [id])

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points in one call."""
        self.client.delete(COLLECTION, models.PointIdsList(points=list(ids)))

    def points_kept(self) -> int | None:
        """How many points the index holds; None if they are dropped."""
        return self.client.points_kept()


warnings.filterwarnings("ignore", module="qdrant_client")  # local mode warns above 20,000 points

"""Where points end that are only counted. What is built for each of them is the same for the floor and for us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from common import Job, Point, Row


class PointCollection(Protocol):
    """As much of a vector database as a floor needs."""

    def upsert(self, points: Sequence[Point]) -> None:
        """Write whole points in one call."""
        ...

    def set_payload(self, id: str, payload: Row) -> None:
        """Write one point's metadata, and leave its vector."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points in one call."""
        ...

    def points_kept(self) -> int | None:
        """How many points the index holds; None if they are dropped."""
        ...


class StubCollection:
    """Builds of each point the dictionary that a client would write as JSON; counts it, and drops it."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def upsert(self, points: Sequence[Point]) -> None:
        body = [{"id": id, "vector": vector, "payload": payload} for id, vector, payload in points]
        self._job.acknowledged(len(body))

    def set_payload(self, id: str, payload: Row) -> None:
        body = {"points": [id], "payload": payload}
        self._job.meter.payload_updates += len(body["points"])

    def delete(self, ids: Sequence[str]) -> None:
        self._job.deleted(len(ids))

    def points_kept(self) -> None:
        return None


def open_collection(job: Job) -> PointCollection:
    """Open what the command line asks for."""
    if job.sink == "stub":
        return StubCollection(job)
    from qdrant_counted import QdrantCollection

    return QdrantCollection(job)

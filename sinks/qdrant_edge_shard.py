"""The one file that calls the qdrant-edge engine: a shard, and what its errors mean.

The engine says `Exception("text")` whatever happened, and panics over some damaged files. So an
error is sorted by the call that it came out of: while opening it is the directory's (ConfigError, or
BusyError if another process has it), later it is the sink's (SinkError). Exceptions of any
other type are bugs and pass through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias, cast
from uuid import UUID

import numpy as np
import qdrant_edge as engine

from connector.errors import BusyError, ConfigError, SinkError
from connector.model import Detail

from .qdrant_payload import MARKS, SOURCE, Payload, PointId
from .qdrant_search import Is, OneOf, Question, Within

if TYPE_CHECKING:
    from connector.model import Vectors

Distance: TypeAlias = Literal["cosine", "dot", "euclid"]
Point: TypeAlias = tuple[PointId, Payload, object]
"""Its id, its payload, and its vector as the engine gives it."""

DISTANCES: Final = {
    "cosine": engine.Distance.Cosine,
    "dot": engine.Distance.Dot,
    "euclid": engine.Distance.Euclid,
}


class Shard:
    """An open shard. Not thread-safe, and not to be used after a fork."""

    engine_version: ClassVar[str] = version("qdrant-edge-py")

    def __init__(self, opened: engine.EdgeShard) -> None:
        self._opened = opened

    @classmethod
    def create(cls, path: Path, dimension: int, distance: Distance) -> Shard:
        """Make an empty shard, indexed by owner."""
        vectors = engine.EdgeVectorParams(size=dimension, distance=DISTANCES[distance])
        with _refused(f"{path} cannot be created"):
            made = engine.EdgeShard.create(str(path), engine.EdgeConfig(vectors=vectors))
            made.update(engine.UpdateOperation.create_field_index(SOURCE, engine.PayloadSchemaType.Keyword))
        return cls(made)

    @classmethod
    def load(cls, path: Path) -> Shard:
        """Open a shard. After a kill this replays the log: seconds, not minutes.

        Never call this on a shard that may be open: the engine (0.9.0) repairs the segments before it
        asks for its lock, so the other one's next flush fails ("tracker journal is shorter than expected").
        """
        try:
            return cls(engine.EdgeShard.load(str(path)))
        except BaseException as error:
            # A panic of the engine is a BaseException of a type that cannot be imported.
            if type(error) is not Exception and type(error).__name__ != "PanicException":
                raise
            if "WouldBlock" in str(error):
                raise BusyError(f"the index {path.parent} is open in another process; try again later") from error
            raise ConfigError(
                f"the index {path.parent} cannot be opened by qdrant-edge-py {cls.engine_version}: {_one_line(error)}; "
                "restore the folder from a backup, or remove it to have it filled anew"
            ) from error

    def upsert(self, ids: Sequence[UUID], vectors: Vectors, payloads: Iterable[Payload]) -> None:
        """Write points. If this raises, some of them may be there, whole or without their vectors."""
        # The stub knows lists alone. Of 384 numbers a memory view takes 11 us, a list 14, an array of NumPy's 26.
        rows = cast("Iterable[list[float]]", map(memoryview, vectors))
        points = [engine.Point(*point) for point in zip(ids, rows, payloads, strict=True)]
        with _refused("the index refused an upsert"):
            self._opened.update(engine.UpdateOperation.upsert_points(points))

    def delete(self, ids: Sequence[UUID]) -> None:
        """Remove points; those that are not there do not matter."""
        with _refused("the index refused a deletion"):
            self._opened.update(engine.UpdateOperation.delete_points(list(ids)))

    def flush(self) -> None:
        """Make everything so far outlast a power cut; until then it outlasts only a kill."""
        with _refused("the index could not be written to disk"):
            self._opened.flush()

    def page(self, start: PointId | None, limit: int, detail: Detail) -> tuple[list[Point], PointId | None]:
        """Read some of the points, whosever they are, and where the next page starts."""
        request = engine.ScrollRequest(
            offset=start,
            limit=limit,
            with_payload=list(MARKS) if detail == Detail.MARKS else True,
            with_vector=detail == Detail.VECTORS,
        )
        with _refused("the index could not be read"):
            records, next_start = self._opened.scroll(request)
        return [(record.id, record.payload or {}, record.vector) for record in records], next_start

    def count(self, owner: str) -> int:
        """Count an owner's points, exactly."""
        with _refused("the index could not be counted"):
            return self._opened.count(engine.CountRequest(exact=True, filter=_filter(owner, ())))

    def nearest(
        self, owner: str, asked: Sequence[Sequence[Question]], vector: Vectors, limit: int
    ) -> list[tuple[float, PointId, Payload]]:
        """Find an owner's points nearest to a vector, with the engine's own scores, nearest first.

        Of each of the lists in `asked`, one question has to be answered with yes.
        """
        request = engine.QueryRequest(
            limit=limit,
            query=engine.Query.Nearest(vector.tolist()),
            filter=_filter(owner, asked),
            with_payload=True,
        )
        with _refused("the index could not be searched"):
            return [(point.score, point.id, point.payload or {}) for point in self._opened.query(request)]

    def close(self) -> None:
        """Flush, and let another process open it."""
        with _refused("the index could not be closed"):
            self._opened.close()


def _filter(owner: str, asked: Sequence[Sequence[Question]]) -> engine.Filter:
    owned = engine.FieldCondition(SOURCE, match=engine.MatchValue(owner))
    return engine.Filter(
        must=[owned, *(engine.Filter(should=[_condition(question) for question in any_of]) for any_of in asked)]
    )


def _condition(question: Question) -> engine.FieldCondition:
    match question:
        case OneOf():
            return engine.FieldCondition(question.key, match=engine.MatchAny(list(question.texts)))
        case Is():
            # The engine (0.9.0, seen 2026-11) takes Python's booleans for 1 and 0, but NumPy's for what they are.
            return engine.FieldCondition(question.key, match=engine.MatchValue(cast("bool", np.bool_(question.value))))
        case Within():
            bounds = engine.RangeFloat(
                gte=question.at_least, gt=question.above, lte=question.at_most, lt=question.below
            )
            return engine.FieldCondition(question.key, range=bounds)


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise SinkError(f"{what}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    """Cut an error of the engine down to what fits a report."""
    return " ".join(str(error).removeprefix("Service runtime error: ").split())[:300]

"""A database of generations in memory: real sinks on it, readers beside them, and failures at every step.

    database = GenerationsInMemory()
    old, new = database.sink(1), database.sink(2)
    database.fail_next("make_live", TransientError("503"), after=True)   # done, but the answer is lost

Nothing here imports pytest, so it also works in a benchmark and in a process of its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias
from uuid import uuid4

import numpy as np

from connector.errors import ConfigError, RejectedError, SinkError
from connector.filters import Condition, matches
from connector.model import FITS, Detail, Draft, EmbeddedRecord, Fit, ForeignRecord, Hit, RecordId, StoredRecord
from connector.ports import Limits

if TYPE_CHECKING:
    from connector.model import Vectors

Effect: TypeAlias = Literal[
    "prepare", "upsert", "delete", "make_live", "drop", "check", "scan", "count", "search", "live"
]


@dataclass(slots=True)
class Generation:
    """One of the collections beside each other."""

    dimension: int
    incarnation: str = field(default_factory=lambda: uuid4().hex)
    records: dict[RecordId, EmbeddedRecord] = field(default_factory=dict)


@dataclass(slots=True)
class GenerationsInMemory:
    """What outlives the sinks: the generations of one collection, and which of them readers get."""

    one_dimension: bool = False  # as where generations share an index: another dimension could not be made live
    limits: Limits = field(default_factory=Limits)

    generations: dict[int, Generation] = field(default_factory=dict, init=False)
    live: int | None = field(default=None, init=False)
    calls: list[tuple[Effect, int]] = field(default_factory=list, init=False)
    """What was asked of the database and of which generation, in order, failed calls included."""
    _failures: dict[Effect, deque[tuple[BaseException, bool]]] = field(default_factory=dict, init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False)

    def sink(self, generation: int, name: str = "main") -> GenerationInMemory:
        """Build the sink of one generation, as each run does."""
        return GenerationInMemory(self, generation, name)

    def fail_next(self, effect: Effect, error: BaseException, *, after: bool = False) -> None:
        """Let a call fail: instead of being done, or, `after`, when it was done. Several fail one after the other."""
        self._failures.setdefault(effect, deque()).append((error, after))

    def held(self, generation: int) -> dict[RecordId, EmbeddedRecord]:
        """Read what a generation holds, not through a sink; KeyError if it is not there."""
        with self._lock:
            return dict(self.generations[generation].records)

    def read(self, vector: Vectors, limit: int) -> tuple[int, list[Hit]]:
        """Search as a reader does, in whatever is live, and tell which that is; LookupError if nothing is."""
        with self._lock:
            if self.live is None:
                raise LookupError("nothing is live")
            return self.live, nearest(list(self.generations[self.live].records.values()), vector, limit)

    @contextmanager
    def asked(self, effect: Effect, generation: int) -> Iterator[None]:
        """Do something while nobody else does; fail if that was ordered."""
        with self._lock:
            self.calls.append((effect, generation))
            failures = self._failures.get(effect)
            error, after = failures.popleft() if failures else (None, False)
            if error and not after:
                raise error
            yield
            if error:
                raise error


class GenerationInMemory:
    """The sink of one generation."""

    def __init__(self, database: GenerationsInMemory, generation: int, name: str = "main") -> None:
        self.name = name
        self.generation = generation
        self._database = database

    @property
    def limits(self) -> Limits:
        return self._database.limits

    # --- as any sink -----------------------------------------------------------------------------------

    def check(self, dimension: int) -> str | None:
        with self._database.asked("check", self.generation):
            return self._check(dimension)

    def prepare(self, dimension: int) -> str:
        with self._database.asked("prepare", self.generation):
            self._check(dimension)
            made = self._database.generations.setdefault(self.generation, Generation(dimension))
            if self._database.live is None:
                self._database.live = self.generation
            return made.incarnation

    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        with self._database.asked("upsert", self.generation):
            made = self._made()
            for each in records:
                if each.vector.shape != (made.dimension,) or not np.isfinite(each.vector).all():
                    raise RejectedError(f'record "{each.id}": its vector is not {made.dimension} finite numbers')
            made.records.update({each.id: each for each in records})

    def delete(self, ids: Sequence[RecordId]) -> None:
        with self._database.asked("delete", self.generation):
            made = self._made()
            for id in ids:
                made.records.pop(id, None)

    def fit(self, draft: Draft) -> Fit:  # noqa: ARG002 - a dictionary takes everything
        return FITS

    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        with self._database.asked("scan", self.generation):
            records = self._records()
        for each in records:
            text, metadata = (each.text, each.metadata) if detail >= Detail.CONTENTS else (None, None)
            vector = each.vector if detail >= Detail.VECTORS else None
            yield StoredRecord(each.id, each.document_id, each.index, each.digest, text, metadata, vector)

    def count(self) -> int:
        with self._database.asked("count", self.generation):
            return len(self._records())

    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        with self._database.asked("search", self.generation):
            return nearest([each for each in self._records() if matches(each.metadata, where)], vector, limit)

    def close(self) -> None:
        pass

    # --- as one of several -----------------------------------------------------------------------------

    def live(self) -> int | None:
        with self._database.asked("live", self.generation):
            return self._database.live

    def make_live(self) -> None:
        with self._database.asked("make_live", self.generation):
            self._made()
            self._database.live = self.generation

    def drop(self) -> None:
        with self._database.asked("drop", self.generation):
            if self._database.live == self.generation:
                raise ConfigError(f"generation {self.generation} is live, and is not dropped; make another one live")
            self._database.generations.pop(self.generation, None)

    def _check(self, dimension: int) -> str | None:
        made = self._database.generations.get(self.generation)
        if made is not None and made.dimension != dimension:
            raise ConfigError(
                f"generation {self.generation} holds vectors of {made.dimension} dimensions, "
                f"the embedder makes {dimension}"
            )
        live = self._database.live
        if self._database.one_dimension and live is not None:
            of_live = self._database.generations[live].dimension
            if of_live != dimension:
                raise ConfigError(
                    f"generation {self.generation} could not be made live: all generations share one index, "
                    f"of {of_live} dimensions, and the embedder makes {dimension}"
                )
        return made.incarnation if made else None

    def _made(self) -> Generation:
        made = self._database.generations.get(self.generation)
        if made is None:
            raise SinkError(f"there is no generation {self.generation}; it was dropped, or never prepared")
        return made

    def _records(self) -> list[EmbeddedRecord]:
        made = self._database.generations.get(self.generation)
        return list(made.records.values()) if made else []


def nearest(records: Sequence[EmbeddedRecord], vector: Vectors, limit: int) -> list[Hit]:
    """Rank records by their cosine to a vector; one of length zero is near to nothing."""
    if not records:
        return []
    matrix = np.stack([each.vector for each in records])
    lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
    scores = (matrix @ vector) / np.where(lengths == 0, 1, lengths)
    return [
        Hit(found.id, found.document_id, found.index, float(scores[place]), found.text, found.metadata)
        for place in np.argsort(-scores, kind="stable")[:limit]
        for found in (records[place],)
    ]

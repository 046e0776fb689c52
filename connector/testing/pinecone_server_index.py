"""What an emulated index holds: namespaces, records and aliases; and how late readers see what was written."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from .pinecone_server_rules import StoredMetadata

if TYPE_CHECKING:
    from connector.model import Vectors

View: TypeAlias = Literal["fetch", "list", "query", "stats"]


@dataclass(slots=True)
class Lag:
    """How many reads of each kind do not yet see a write that is done. The next one does."""

    fetch: int = 0
    list: int = 0
    query: int = 0  # by metadata, too
    stats: int = 0  # and how many records a namespace is said to have


@dataclass(frozen=True, slots=True, eq=False)
class PineconeRecord:
    """A record as the service keeps it."""

    values: Vectors  # float32
    metadata: StoredMetadata


@dataclass(slots=True)
class _Unseen:
    """A write that one kind of reader does not see yet: what was there before it."""

    reads_left: int
    lsn: int
    before: dict[str, PineconeRecord | None]


@dataclass(slots=True)
class Namespace:
    """Some records. Readers see `records` with what is `unseen` undone, the latest write first."""

    records: dict[str, PineconeRecord] = field(default_factory=dict)
    lsn: int = 0  # of the last write; each namespace counts its own
    schema: Any = None
    unseen: dict[View, deque[_Unseen]] = field(
        default_factory=lambda: {"fetch": deque(), "list": deque(), "query": deque(), "stats": deque()}
    )
    _sorted: list[str] | None = None
    _matrix: tuple[list[str], Vectors] | None = None

    def write(self, changes: Mapping[str, PineconeRecord | None], lag: Lag) -> int:
        """Store records, or remove those that are None; give the write's LSN."""
        self.lsn += 1
        for view in fields(lag):
            if reads := getattr(lag, view.name):
                before = {id: self.records.get(id) for id in changes}
                self.unseen[view.name].append(_Unseen(reads, self.lsn, before))  # type: ignore[index]
        for id, record in changes.items():
            if record is not None:
                self.records[id] = record
            else:
                self.records.pop(id, None)
        self._sorted = self._matrix = None
        return self.lsn

    def settle(self) -> None:
        """Let everybody see everything."""
        for waiting in self.unseen.values():
            waiting.clear()

    def read(self, view: View) -> Mapping[str, PineconeRecord]:
        """Give what one read sees; the reads after it see more."""
        waiting = self.unseen[view]
        while waiting and waiting[0].reads_left <= 0:
            waiting.popleft()
        seen = self._seen(view)
        for write in waiting:
            write.reads_left -= 1
        return seen

    def reconciled_lsn(self) -> int:
        """Give the LSN up to which queries see all writes."""
        waiting = self.unseen["query"]
        return waiting[0].lsn - 1 if waiting else self.lsn

    def ids(self, prefix: str, after: str, most: int) -> list[str]:
        """List ids in order, as one read sees them."""
        seen = self.read("list")
        if seen is self.records:
            self._sorted = self._sorted or sorted(seen)
        in_order = self._sorted if seen is self.records and self._sorted else sorted(seen)
        start = bisect_left(in_order, max(prefix, after + "\0" if after else ""))
        return [id for id in in_order[start : start + most] if id.startswith(prefix)]

    def nearest(
        self, vector: Vectors, metric: str, most: int, is_wanted: Callable[[StoredMetadata], bool] | None
    ) -> Iterator[tuple[str, PineconeRecord, float]]:
        """Find the nearest records, nearest first, each with its score; as one read sees them."""
        seen = self.read("query")
        if is_wanted is not None:
            seen = {id: record for id, record in seen.items() if is_wanted(record.metadata)}
        if not seen:
            return
        ids, matrix = self._stacked(seen)
        scores = _scores(matrix, vector, metric)
        order = np.lexsort((np.array(ids), scores if metric == "euclidean" else -scores))
        for position in order[:most]:
            yield ids[position], seen[ids[position]], float(scores[position])

    def _stacked(self, seen: Mapping[str, PineconeRecord]) -> tuple[list[str], Vectors]:
        if seen is self.records and self._matrix is not None:
            return self._matrix
        made = list(seen), np.stack([record.values for record in seen.values()])
        if seen is self.records:
            self._matrix = made
        return made

    def _seen(self, view: View) -> Mapping[str, PineconeRecord]:
        waiting = self.unseen[view]
        if not waiting:
            return self.records
        seen = dict(self.records)
        for write in reversed(waiting):
            for id, record in write.before.items():
                if record is not None:
                    seen[id] = record
                else:
                    seen.pop(id, None)
        return seen


@dataclass(slots=True)
class Alias:
    """A name that readers may use for a namespace."""

    target: str
    created: int  # ticks of the index's clock
    updated: int


@dataclass(slots=True)
class PineconeIndex:
    """An index. The default namespace is there always, under the empty name."""

    name: str
    dimension: int
    metric: str
    schema: dict[str, Any]
    deployment: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)
    deletion_protection: str = "disabled"
    polls_until_ready: int = 0
    namespaces: dict[str, Namespace] = field(default_factory=lambda: {"": Namespace()})
    aliases: dict[str, Alias] = field(default_factory=dict)
    ticks: int = 0

    def tick(self) -> int:
        """Let time pass: nothing here happens twice at one time."""
        self.ticks += 1
        return self.ticks

    def resolved(self, name: str) -> str:
        """Give the namespace that a reader means."""
        return self.aliases[name].target if name in self.aliases else name

    def read(self, name: str) -> Namespace:
        """Give the namespace that a reader means; an empty one if it is not there."""
        return self.namespaces.get(self.resolved(name)) or Namespace()

    def targeting(self, name: str) -> Sequence[str]:
        """Give the aliases of a namespace."""
        return [alias for alias, one in self.aliases.items() if one.target == name]


def _scores(matrix: Vectors, vector: Vectors, metric: str) -> Vectors:
    scores: Vectors
    if metric == "euclidean":  # squared, as Pinecone gives it
        scores = np.square(matrix - vector).sum(axis=1)
        return scores
    scores = matrix @ vector
    if metric == "cosine":
        scores /= np.maximum(np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector), np.float32(1e-30))
    return scores

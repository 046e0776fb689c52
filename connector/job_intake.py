"""From the rows of a job's result to the vector store: only what is of the job, and sound."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .model import HASH_BYTES
from .ports import VectorStore

if TYPE_CHECKING:
    from .model import Vectors

ROWS_PER_PUT = 2_000  # a put is durable, which costs as much for one row as for hundreds


@dataclass(slots=True)
class Intake:
    """Takes in one job's result; after a failure, asked again from the beginning, it goes on where it was.

    A row is left out if its hash is not of the job, or its vector not of the right dimension or not finite. Rows that
    come twice are taken once, the first.
    """

    vectors: VectorStore
    dimension: int
    wanted: Collection[bytes] | None  # None: any hash, of a job whose texts are not known
    stored: set[bytes] = field(default_factory=set, init=False)
    left_out: int = field(default=0, init=False)

    def take(self, batches: Iterable[tuple[list[bytes], Vectors]]) -> None:
        """Store all rows; when it returns, they are durable."""
        self.left_out = 0
        waiting: dict[bytes, Vectors] = {}
        for hashes, vectors in batches:
            self._choose(hashes, vectors, waiting)
            if len(waiting) >= ROWS_PER_PUT:
                self._put(waiting)
        self._put(waiting)

    def _choose(self, hashes: list[bytes], vectors: Vectors, waiting: dict[bytes, Vectors]) -> None:
        if vectors.ndim != 2 or vectors.shape != (len(hashes), self.dimension):  # noqa: PLR2004  # a row a text
            self.left_out += len(hashes)
            return
        sound = np.asarray(np.isfinite(vectors).all(axis=1)).tolist()
        for position, hash in enumerate(hashes):
            if not sound[position] or not self._is_of_the_job(hash):
                self.left_out += 1
            elif hash not in self.stored:
                waiting.setdefault(hash, vectors[position])

    def _is_of_the_job(self, hash: bytes) -> bool:
        return len(hash) == HASH_BYTES if self.wanted is None else hash in self.wanted

    def _put(self, waiting: dict[bytes, Vectors]) -> None:
        if waiting:
            self.vectors.put(list(waiting), np.stack(list(waiting.values())))
            self.stored |= waiting.keys()
            waiting.clear()

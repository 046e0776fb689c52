"""Read a namespace: by pages of ids, whole records by their ids, and the nearest to a vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pinecone import Index, Vector, errors

from .pinecone_records import decimals

if TYPE_CHECKING:
    from connector.model import Vectors

IDS_PER_PAGE: Final = 100
"""Of a list, at most. A fetch takes 1,000, but all of them in the address of a GET, which is kept short."""
ADDRESS_BYTES: Final = 8000
TOP_K: Final = 10_000
WITH_METADATA: Final = 50
"""So many matches are asked for with their metadata: an answer has at most 4 MB, a record's metadata 40 KB."""


@dataclass(frozen=True, slots=True)
class Match:
    """One record that is near to a vector."""

    id: str
    score: float
    stored: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """Reads one namespace; what is not there is empty. Raises what the SDK raises."""

    client: Index
    namespace: str
    timeout_seconds: float

    def page(self, token: str | None, prefix: str | None = None) -> tuple[list[str], str | None]:
        """Read one page of ids, and the token of the next; None if there is none."""
        try:
            page = self.client.list_paginated(
                prefix=prefix,
                namespace=self.namespace,
                limit=IDS_PER_PAGE,
                pagination_token=token,
                timeout=self.timeout_seconds,
            )
        except errors.NotFoundError:
            return [], None
        following = page.pagination.next if page.pagination is not None else None
        return [each.id for each in page.vectors if each.id is not None], following or None

    def records(self, ids: Sequence[str]) -> Iterator[Vector]:
        """Read records whole; those that are gone by now are left out."""
        for few in addressable(ids):
            try:
                answer = self.client.fetch(ids=few, namespace=self.namespace, timeout=self.timeout_seconds)
            except errors.NotFoundError:
                continue
            yield from (answer.vectors[id] for id in few if id in answer.vectors)

    def nearest(self, vector: Vectors, top_k: int, asked: dict[str, Any]) -> list[Match]:
        """Find the nearest that a filter lets through, nearest first."""
        [values] = decimals(vector.reshape(1, -1))
        is_whole = top_k <= WITH_METADATA
        try:
            answer = self.client.query(
                vector=values,
                top_k=top_k,
                namespace=self.namespace,
                filter=asked,
                include_metadata=is_whole,
                timeout=self.timeout_seconds,
            )
        except errors.NotFoundError:
            return []
        stored = {match.id: match.metadata for match in answer.matches}
        if not is_whole:
            stored = {each.id: each.metadata for each in self.records(list(stored))}
        return [Match(match.id, float(match.score), stored.get(match.id) or {}) for match in answer.matches]


def addressable(ids: Sequence[str]) -> Iterator[list[str]]:
    """Group ids so that each group fits into an address."""
    group: list[str] = []
    size_bytes = 0
    for id in ids:
        # Percent-encoded, each character of ours that is not a letter or a digit takes three bytes.
        id_bytes = len("ids=&") + len(id) + 2 * sum(not character.isalnum() for character in id)
        if group and (len(group) == IDS_PER_PAGE or size_bytes + id_bytes > ADDRESS_BYTES):
            yield group
            group, size_bytes = [], 0
        group.append(id)
        size_bytes += id_bytes
    if group:
        yield group

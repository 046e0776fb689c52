"""Which index and namespace a generation is in, and which generation readers get.

    generation                                    index      namespace
    --------------------------------------------  ---------  ------------
    1                                             INDEX      NAMESPACE
    N, of vectors such as those in INDEX          INDEX      NAMESPACE@N
    N, of another dimension or metric             INDEX-N    NAMESPACE@N

An index INDEX-N is ours if it bears our tags; another one is never written to, nor deleted.

Readers get a generation by one of two pointers; each is in Pinecone, so it outlives our checkpoint, and is moved in
one step:

    alias = "docs-live"   a namespace alias of Pinecone's (API 2026-07). Readers query the alias and never change. It
                          reaches the namespaces of one index, so no generation of another dimension.
    no alias              a record of ours in the namespace NAMESPACE@live of INDEX. Readers ask `vector-sync
                          query-config`, or read what we publish in the state folder: live/SINK.json. Until there is
                          such a record, the first generation is live if it is there.

Beside the records of a generation stands a marker, a record of its own, whose random name is the generation's
incarnation: when the namespace is deleted, or emptied, the marker is gone too, and the next run notices. A marker has
no `_vs_source`, so no search that asks for a sync's own records finds it, and its vector is like no text's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final, Protocol
from uuid import uuid4

from pinecone import Index, Vector, errors

from connector.errors import ConfigError, SinkError, TransientError
from connector.model import RESERVED_PREFIX
from connector.retry import Retry

from .pinecone_index import IndexFacts, NamespaceAliases
from .pinecone_records import MARKER, RecordFormat

INCARNATION: Final = f"{RESERVED_PREFIX}incarnation"
GENERATION: Final = f"{RESERVED_PREFIX}generation"
FIRST: Final = 1
INDEX_NAME_CHARACTERS: Final = 45
UNTIL_SEEN: Final = Retry(attempts=9, first_wait_seconds=0.5, longest_wait_seconds=8.0)
"""What was written may be read only after some seconds: Pinecone is eventually consistent."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the records of a generation are."""

    index: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one collection's generations."""

    index: str
    namespace: str
    owner: str

    def namespace_of(self, generation: int) -> str:
        return self.namespace if generation == FIRST else f"{self.namespace}@{generation}"

    def generation_of(self, namespace: str) -> int | None:
        """Tell which generation a namespace is of; None if it is not ours."""
        if namespace == self.namespace:
            return FIRST
        head, _, number = namespace.rpartition("@")
        return int(number) if head == self.namespace and number.isascii() and number.isdigit() else None

    def own_index(self, generation: int) -> str:
        """Name the index of a generation whose vectors do not go into the first one's."""
        return f"{self.index}-{generation}"

    @property
    def tags(self) -> dict[str, str]:
        """What tells an index of ours from others'."""
        return {"made_by": "vector-sync", "sync": blake2b(self.owner.encode(), digest_size=8).hexdigest()}

    def is_ours(self, facts: IndexFacts) -> bool:
        return all(facts.tags.get(name) == value for name, value in self.tags.items())


# --- records of our own -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Notes:
    """Records of our own in one namespace, which are no passages."""

    client: Index
    namespace: str
    owner: str
    timeout_seconds: float

    def read(self, id: str) -> Mapping[str, object] | None:
        """Read a note; None if there is none."""
        try:
            found = self.client.fetch(ids=[id], namespace=self.namespace, timeout=self.timeout_seconds)
        except errors.NotFoundError:
            return None
        there = found.vectors.get(id)
        return (there.metadata or {}) if there is not None else None

    def put(self, id: str, fields: Mapping[str, str | int], facts: IndexFacts) -> dict[str, str | int]:
        """Write a note, and give what it will be read as."""
        noted = {MARKER: self.owner, **fields}
        vector = Vector(id, far_away(facts), None, noted)
        self.client.upsert(vectors=[vector], namespace=self.namespace, timeout=self.timeout_seconds)
        return noted

    def write(self, id: str, fields: Mapping[str, str | int], facts: IndexFacts, until_seen: Retry) -> None:
        """Write a note, and return when it can be read; TransientError if that takes too long."""
        noted = self.put(id, fields, facts)

        def see() -> None:
            if (self.read(id) or {}) != noted:
                raise TransientError("what was written to Pinecone cannot be read yet; the next run goes on")

        until_seen(f"read what was written to the namespace {self.namespace}", see)

    def delete(self, id: str) -> None:
        with suppress(errors.NotFoundError):
            self.client.delete(ids=[id], namespace=self.namespace, timeout=self.timeout_seconds)


def far_away(facts: IndexFacts) -> list[float]:
    """Make a vector that is like no text's: at right angles to most, short where length counts, far where distance."""
    size = {"dotproduct": 1e-3, "euclidean": 1e3}.get(facts.metric or "", 1.0)
    return [size if place % 2 else -size for place in range(facts.dimension or 1)]


def incarnation(notes: Notes, format: RecordFormat) -> str | None:
    """Read the marker of a namespace; None if it is not there, or damaged."""
    found = (notes.read(format.marker_id) or {}).get(INCARNATION)
    return found if isinstance(found, str) and found else None


def mark(notes: Notes, format: RecordFormat, facts: IndexFacts, until_seen: Retry) -> str:
    """Write the marker of a namespace that is new."""
    made = uuid4().hex
    notes.write(format.marker_id, {INCARNATION: made}, facts, until_seen)
    return made


# --- the pointers -------------------------------------------------------------------------------------


class Pointer(Protocol):
    """Leads readers to one generation."""

    def read(self) -> int | None: ...

    def point(self, generation: int, place: Place) -> None: ...


@dataclass(frozen=True, slots=True)
class AliasPointer:
    """A namespace alias."""

    names: Names
    alias: str
    aliases: Callable[[], NamespaceAliases]

    def read(self) -> int | None:
        target = self.aliases().target(self.alias)
        if target is None:
            return None
        generation = self.names.generation_of(target)
        if generation is None:
            raise SinkError(f'the alias "{self.alias}" leads to the namespace "{target}", which is not ours')
        return generation

    def point(self, generation: int, place: Place) -> None:
        if place.index != self.names.index:
            raise ConfigError(
                f'the alias "{self.alias}" of the index "{self.names.index}" cannot lead to another index, and '
                f'generation {generation} is in "{place.index}"'
            )
        self.aliases().point(self.alias, place.namespace)


@dataclass(frozen=True, slots=True)
class NotePointer:
    """A record of ours, published in a file."""

    names: Names
    format: RecordFormat
    notes: Callable[[], tuple[Notes, IndexFacts]]  # of the namespace NAMESPACE@live
    first_is_there: Callable[[], bool]
    file: Path | None  # None: nothing is to be written
    until_seen: Retry

    def read(self) -> int | None:
        notes, _ = self.notes()
        noted = notes.read(self.format.pointer_id) if self.names.namespace else None
        generation = (noted or {}).get(GENERATION)
        if isinstance(generation, int | float) and generation >= FIRST:
            return int(generation)
        return FIRST if self.first_is_there() else None

    def point(self, generation: int, place: Place) -> None:
        if generation != FIRST or self.read() != FIRST:
            notes, facts = self.notes()
            notes.write(self.format.pointer_id, {GENERATION: generation}, facts, self.until_seen)
        self.publish(generation, place)

    def publish(self, generation: int, place: Place) -> None:
        """Write down for readers where the live generation is, durably and in one step."""
        if self.file is None:
            return
        told = {"generation": generation, "index": place.index, "namespace": place.namespace}
        text = json.dumps(told, indent=2) + "\n"
        try:
            if self.file.exists() and self.file.read_text(encoding="utf-8") == text:
                return
            self.file.parent.mkdir(parents=True, exist_ok=True)
            new = self.file.with_suffix(".new")
            with new.open("w", encoding="utf-8") as writing:
                writing.write(text)
                writing.flush()
                os.fsync(writing.fileno())
            new.replace(self.file)
            folder = os.open(self.file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise SinkError(f"{self.file} cannot be written: {error.strerror}") from error

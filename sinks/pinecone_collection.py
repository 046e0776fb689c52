"""Make the place of a generation, find it again, take it away, and lead readers to it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Final

from pinecone import errors

from connector.errors import ConfigError, SinkError
from connector.retry import Retry

from .pinecone_index import IndexFacts, NamespaceAliases, Service
from .pinecone_places import (
    FIRST,
    INDEX_NAME_CHARACTERS,
    AliasPointer,
    Names,
    NotePointer,
    Notes,
    Place,
    incarnation,
    mark,
)
from .pinecone_records import RecordFormat
from .pinecone_removal import clear, remove_if_empty

LIVE: Final = "live"
"""The namespace NAMESPACE@live has the record that leads to the live generation."""


class Collection:
    """The place of one generation. Its methods raise what the SDK raises, and errors of our own."""

    def __init__(
        self,
        service: Service,
        format: RecordFormat,
        *,
        index: str,
        namespace: str,
        generation: int,
        alias: str | None,
        metric: str,
        region: tuple[str, str] | None,
        file: Path | None,
        timeout_seconds: float,
        until_seen: Retry,
    ) -> None:
        self.generation = generation
        self._service = service
        self._format = format
        self._names = Names(index, namespace, format.owner)
        self._alias = alias
        self._metric = metric
        self._region = region
        self._timeout_seconds = timeout_seconds
        self._until_seen = until_seen
        self._lock = threading.RLock()
        self._found: tuple[Place, IndexFacts] | None = None
        self._note_pointer = NotePointer(self._names, format, self._live_notes, self._first_is_there, file, until_seen)
        self._pointer = AliasPointer(self._names, alias, self._aliases) if alias is not None else self._note_pointer

    # --- where it is ----------------------------------------------------------------------------------

    def for_reading(self) -> tuple[Place, IndexFacts] | None:
        """Find this generation's index and namespace; None if there is no index yet."""
        with self._lock:
            if self._found is None:
                self._found = self._find()
            return self._found

    def for_writing(self) -> tuple[Place, IndexFacts]:
        found = self.for_reading()
        if found is None:
            raise SinkError(f'there is no index "{self._names.index}" to write to; it was removed, or never prepared')
        return found

    def address(self) -> Place:
        """Say where this generation is, or is to be. Only of a later one is the service asked."""
        found = self.for_reading() if self.generation != FIRST else self._found
        return found[0] if found is not None else Place(self._names.index, self._names.namespace_of(self.generation))

    def _find(self) -> tuple[Place, IndexFacts] | None:
        """Look for it where a generation may be; its dimension need not be known."""
        namespace = self._names.namespace_of(self.generation)
        if self.generation != FIRST and self._service.has_control_plane:
            own = self._names.own_index(self.generation)
            facts = self._service.describe(own) if len(own) <= INDEX_NAME_CHARACTERS else None
            if facts is not None and self._names.is_ours(facts):
                return Place(own, namespace), facts
        facts = self._service.describe(self._names.index)
        return (Place(self._names.index, namespace), facts) if facts is not None else None

    def _plan(self, dimension: int) -> tuple[Place, IndexFacts | None]:
        """Say where it is to be, and what is there; ConfigError if it cannot be anywhere."""
        self._check_generation()
        namespace = self._names.namespace_of(self.generation)
        first = self._service.describe(self._names.index)
        if self.generation == FIRST or first is None or self._fits(first, dimension):
            return Place(self._names.index, namespace), first
        own = self._names.own_index(self.generation)
        self._check_own_index(own, first, dimension)
        facts = self._service.describe(own)
        if facts is not None and not self._names.is_ours(facts):
            raise ConfigError(
                f'generation {self.generation} takes an index "{own}", and there is one that vector-sync did not make; '
                "rename the index"
            )
        return Place(own, namespace), facts

    def _fits(self, facts: IndexFacts, dimension: int) -> bool:
        return facts.dimension in (None, dimension) and facts.metric in (None, self._metric)

    def _check_generation(self) -> None:
        if self.generation == FIRST:
            return
        if not self._names.namespace:
            raise ConfigError(
                f'generation {self.generation} takes a namespace of its own, and namespace = "" has no name to go by; '
                "set a namespace"
            )

    def _check_own_index(self, own: str, first: IndexFacts, dimension: int) -> None:
        """Raise ConfigError if a generation cannot have an index of its own, or readers could not be led to it."""
        why = (
            f'generation {self.generation} has vectors of {dimension} dimensions by "{self._metric}", the index '
            f'"{self._names.index}" {first.dimension} by "{first.metric}", so it takes another index'
        )
        if self._alias is not None:
            raise ConfigError(f'{why}, to which the namespace alias "{self._alias}" cannot lead; leave out alias')
        if not self._service.has_control_plane:
            raise ConfigError(f"{why}, and the settings name the host of one; leave out host")
        if self._region is None:
            raise ConfigError(f"{why}, which is not made without cloud and region, or with create = false")
        if len(own) > INDEX_NAME_CHARACTERS:
            raise ConfigError(f'{why}, and "{own}" is longer than the {INDEX_NAME_CHARACTERS} characters of a name')

    # --- making it ------------------------------------------------------------------------------------

    def check(self, dimension: int) -> str | None:
        with self._lock:
            self._forget()
            place, facts = self._plan(dimension)
            if facts is None:
                if self._region is None or not self._service.has_control_plane:
                    raise ConfigError(
                        f'there is no index "{place.index}"; make it, or set cloud and region, and it is made'
                    )
                return None
            self._check_fits(place, facts, dimension)
            if not facts.is_ready:
                return None
            if self._alias is not None:
                self._check_alias(self._alias)
            return incarnation(self._notes(place), self._format)

    def prepare(self, dimension: int) -> str:
        with self._lock:
            place, facts = self._plan(dimension)
            if facts is None or not facts.is_ready:
                facts = self._make_index(place, dimension)
            self._check_fits(place, facts, dimension)
            facts = replace(facts, dimension=dimension)  # not every emulator tells
            self._found = place, facts
            live = self._pointer.read()
            made = self._marked(place, facts, is_live=live == self.generation)
            if live is None:
                self._pointer.point(self.generation, place)
            elif live == self.generation and self._alias is None:
                self._note_pointer.publish(self.generation, place)
            return made

    def _marked(self, place: Place, facts: IndexFacts, *, is_live: bool) -> str:
        """Give the incarnation of what is there; what is there without one is what a killed `drop` has left."""
        notes = self._notes(place)
        if (found := incarnation(notes, self._format)) is not None:
            return found
        if self.generation != FIRST and not is_live:
            clear(notes, self._format)
        return mark(notes, self._format, facts, self._until_seen)

    def _make_index(self, place: Place, dimension: int) -> IndexFacts:
        if self._region is None or not self._service.has_control_plane:
            raise SinkError(f'there is no index "{place.index}" that is ready')
        cloud, region = self._region
        self._service.create(
            place.index,
            dimension=dimension,
            metric=self._metric,
            cloud=cloud,
            region=region,
            tags=self._names.tags,
        )
        facts = self._service.describe(place.index)
        if facts is None or not facts.is_ready:
            raise errors.PineconeTimeoutError(f'the index "{place.index}" is not ready yet')
        return facts

    def _check_fits(self, place: Place, facts: IndexFacts, dimension: int) -> None:
        if facts.dimension is None and self._service.has_control_plane:
            raise ConfigError(f'the index "{place.index}" has no dense vectors; choose another')
        if facts.dimension not in (None, dimension):
            raise ConfigError(
                f'the index "{place.index}" holds vectors of {facts.dimension} dimensions, the embedder makes '
                f"{dimension}; choose another index"
            )
        if facts.metric not in (None, self._metric):
            raise ConfigError(
                f'the index "{place.index}" was made for the metric "{facts.metric}", the settings say '
                f'"{self._metric}"; choose another index, or set metric'
            )

    def _check_alias(self, alias: str) -> None:
        if self._names.generation_of(alias) is not None:
            raise ConfigError(f'the alias "{alias}" has the name of a namespace of ours; choose another')
        if not self._aliases().are_offered():
            raise ConfigError(f'the index "{self._names.index}" has no namespace aliases; leave out alias')
        try:
            is_there = self._pointer.read() is not None
        except SinkError as error:
            raise ConfigError(f"{error}; choose another alias") from None
        if not is_there and self._service.has_namespace(self._names.index, alias):
            raise ConfigError(
                f'the alias "{alias}" cannot be made, the index "{self._names.index}" has a namespace of that name; '
                "choose another alias"
            )

    # --- which one is live ----------------------------------------------------------------------------

    def live(self) -> int | None:
        with self._lock:
            if self._service.describe(self._names.index) is None:
                return None
            return self._pointer.read()

    def make_live(self) -> None:
        with self._lock:
            place, _ = self.for_writing()
            if incarnation(self._notes(place), self._format) is None:
                raise SinkError(
                    f"there is no generation {self.generation} to make live; it was removed, or never prepared"
                )
            if self._pointer.read() != self.generation:
                self._pointer.point(self.generation, place)
            elif self._alias is None:
                self._note_pointer.publish(self.generation, place)

    def _aliases(self) -> NamespaceAliases:
        return self._service.aliases(self._names.index)

    def _live_notes(self) -> tuple[Notes, IndexFacts]:
        facts = self._service.describe(self._names.index)
        if facts is None:
            raise SinkError(f'there is no index "{self._names.index}", which has the record of what is live')
        return self._notes(Place(self._names.index, f"{self._names.namespace}@{LIVE}")), facts

    def _first_is_there(self) -> bool:
        return incarnation(self._notes(Place(self._names.index, self._names.namespace)), self._format) is not None

    def _notes(self, place: Place) -> Notes:
        return Notes(self._service.open(place.index), place.namespace, self._format.owner, self._timeout_seconds)

    # --- taking it away -------------------------------------------------------------------------------

    def drop(self) -> None:
        with self._lock:
            if self.live() == self.generation:
                raise ConfigError(f"generation {self.generation} is live; make another one live first")
            namespace = self._names.namespace_of(self.generation)
            facts = self._service.describe(self._names.index)
            if facts is not None:
                self._drop_records(Place(self._names.index, namespace), facts)
            if self.generation != FIRST and self._service.has_control_plane:
                self._drop_own_index(self._names.own_index(self.generation), namespace)
            self._forget()

    def _drop_records(self, place: Place, facts: IndexFacts) -> bool:
        """Delete what is ours, and the namespace if it is of our making; tell whether that is gone."""
        notes = self._notes(place)
        if not clear(notes, self._format):
            return True
        return self.generation != FIRST and remove_if_empty(notes, self._format, facts, self._until_seen)

    def _drop_own_index(self, index: str, namespace: str) -> None:
        """Delete the index of a generation, unless something else is kept in it."""
        facts = self._service.describe(index) if len(index) <= INDEX_NAME_CHARACTERS else None
        if facts is None or not self._names.is_ours(facts):
            return
        if facts.is_ready:
            if not self._drop_records(Place(index, namespace), facts):
                return
            kept = self._service.open(index).describe_index_stats(timeout=self._timeout_seconds).namespaces
            if any(name != namespace and summary.vector_count for name, summary in kept.items()):
                return
        self._service.remove(index)

    def _forget(self) -> None:
        self._found = None
        self._service.forget()

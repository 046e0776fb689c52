"""The generations of a Qdrant collection: how they are named, and which one readers get.

    settings          in the database                            readers
    ----------------  -----------------------------------------  ----------------------------------------
    collection docs   collections docs@1, docs@2, ...            ask for "docs", which is an alias of one
    the same, but "docs" was there before, as a collection       ask for "docs", which is generation 1

An alias cannot have the name of a collection, and a collection cannot be renamed. So one that was there before is used
as it is, and can have no other generation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from connector.errors import ConfigError, SinkError

if TYPE_CHECKING:
    from .qdrant_server import QdrantServer


def generation_name(collection: str, generation: int) -> str:
    """Name the collection that holds one generation."""
    return f"{collection}@{generation}"


def generation_of(collection: str, name: str) -> int | None:
    """Say which generation a collection holds; None if we have not named it."""
    found = re.fullmatch(re.escape(collection) + r"@([1-9][0-9]*)", name)
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Place:
    """What one generation is called, there or not."""

    name: str
    target: str | None  # the collection that readers get, if any

    @property
    def is_live(self) -> bool:
        """Whether readers get this one."""
        return self.name == self.target


@dataclass(frozen=True, slots=True)
class Generations:
    """The collections of one name on one server."""

    server: QdrantServer
    collection: str  # the name by which readers ask

    def place(self, generation: int) -> Place:
        """Find one; ConfigError if the name that readers ask for is taken by what cannot be replaced."""
        target = self.target()
        if target != self.collection:
            return Place(generation_name(self.collection, generation), target)
        if generation == 1:
            return Place(self.collection, target)
        raise ConfigError(
            f"{self.server.place(self.collection)} is not behind an alias, so a new generation could not take its "
            "place; set `collection` to a name that is free, which is filled from the vectors that are kept, and let "
            "readers ask for that"
        )

    def target(self) -> str | None:
        """Say which collection readers get; ConfigError if it is not one of ours."""
        target = self.server.aliases().get(self.collection)
        if target is None:
            return self.collection if self.server.exists(self.collection) else None
        if generation_of(self.collection, target) is None:
            raise ConfigError(
                f'"{self.collection}" {self.server.url} is an alias of the collection "{target}", which vector-sync '
                "did not name; set `collection` to that, or to a name that is free"
            )
        return target

    def live(self) -> int | None:
        """Say which generation readers get."""
        target = self.target()
        return 1 if target == self.collection else None if target is None else generation_of(self.collection, target)

    def make_live(self, generation: int) -> None:
        """Let readers get this one, in one step. SinkError if it is not there."""
        place = self.place(generation)
        if place.is_live:
            return
        if not self.server.exists(place.name):
            raise SinkError(f"{self.server.place(place.name)} is to be made live, and is not there")
        self.server.point_alias(self.collection, place.name, replace=place.target is not None)

    def drop(self, generation: int, owner: str) -> None:
        """Delete a generation that is not live. ConfigError if it is, or if others keep records in it."""
        if self.live() == generation:
            raise ConfigError(
                f'generation {generation} of "{self.collection}" {self.server.url} is the one that readers get; '
                "make another one live first"
            )
        name = generation_name(self.collection, generation)
        others = self.server.count_others(name, owner)
        if others:
            raise ConfigError(
                f'{self.server.place(name)} holds {others:,} points that are not of the sync "{owner}"; '
                "move them, and delete it by hand"
            )
        self.server.drop(name)

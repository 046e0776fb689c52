"""The embedded sink: a collection in a folder, held by the Qdrant engine inside this process.

The engine is fast and trusting. A call that fails is half applied, and applied again from its log; a vector
that is not a number is stored; a full disk kills the process without a word; and whoever tries to
open a shard that is open damages it, though he is refused (qdrant-edge 0.9.0, seen 2026-11). So each
call is examined before the engine sees it, one that fails all the same is taken back, and a lock of
our own on the folder is held before the engine is asked to open anything.

    qdrant_edge_shard        the engine, and what its errors mean
    qdrant_edge_folder       one generation's folder: made, claimed and removed, each in one step
    qdrant_edge_generations  which folders there are, and the pointer to the one that is read
    qdrant_edge_opened       one that is open: calls that are made whole or taken back
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID, uuid4

from pydantic import Field

from connector.errors import ConfigError, RejectedError, SinkError
from connector.filters import Condition, matches
from connector.model import Detail, Draft, EmbeddedRecord, Fit, ForeignRecord, Hit, JsonValue, RecordId, StoredRecord
from connector.plugins import BuildContext, SinkSettings
from connector.ports import Limits

from .qdrant_edge_folder import (
    FORMAT,
    Marker,
    check_writable,
    claim,
    create,
    disk_errors,
    make_durably,
    read_marker,
    remove,
)
from .qdrant_edge_generations import Generations
from .qdrant_edge_opened import MIB, OpenCollection, Room
from .qdrant_payload import Payload, PointFormat, PointId, checked_bytes, checked_vectors, fit, is_unicode
from .qdrant_search import questions, search_until_enough

if TYPE_CHECKING:
    from connector.model import Vectors

    from .qdrant_edge_shard import Distance, Shard

RECORDS_PER_PAGE: Final = 1000
"""The engine holds the interpreter for the whole of a call: a page of 1000 stalls other threads for 8 ms."""


class QdrantEdgeSettings(SinkSettings):
    """Keep the records in a folder, searchable by this process, with no server."""

    kind: Literal["qdrant-edge"] = Field(default="qdrant-edge", description="Qdrant's engine, embedded")
    path: Path = Field(default=Path("state/index"), description="folder of the collections; on a local disk")
    collection: str = Field(
        default="docs",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="name of the collection, and of its folder",
    )
    distance: Literal["cosine", "dot", "euclid"] = Field(default="cosine", description="how nearness is measured")
    min_free_bytes: int = Field(
        default=256 * MIB,
        ge=0,
        description="stop before the disk has less than this left; a full one would kill the run",
    )

    def build(self, context: BuildContext) -> QdrantEdgeSink:
        try:
            from .qdrant_edge_shard import Shard  # noqa: PLC0415 - the client is an extra
        except ImportError as error:
            raise ConfigError(
                f'the sink "{context.name}" needs the Qdrant engine ({error}): pip install "vector-sync[edge]"'
            ) from error
        return QdrantEdgeSink(
            context.name,
            context.resolve(self.path) / self.collection,
            owner=context.owner,
            generation=context.generation,
            distance=self.distance,
            min_free_bytes=self.min_free_bytes,
            engine=Shard,
        )


class QdrantEdgeSink:
    """One generation of a collection, in a folder that this sink alone has open from its first use until `close`."""

    limits = Limits(records_per_call=500, bytes_per_call=8_000_000, in_process=True)

    def __init__(
        self,
        name: str,
        folder: Path,  # of generation 1
        *,
        owner: str,
        generation: int = 1,
        distance: Distance,
        min_free_bytes: int,
        engine: type[Shard],
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self.name = name
        self._generation = generation
        self._generations = Generations(folder, owner)
        self._folder = self._generations.folder(generation)
        self._format = PointFormat.of(owner)
        self._distance: Distance = distance
        self._room = Room(min_free_bytes, free_bytes)
        self._engine = engine
        self._lock = threading.RLock()
        self._collection: OpenCollection | None = None
        self._tainted: list[UUID] = []

    def check(self, dimension: int) -> str | None:
        with self._lock:
            marker = read_marker(self._folder)
            check_writable(self._folder)
            self._generations.live()  # a pointer that is not ours could not be moved
            if marker is None:
                return None
            self._check_fits(marker, dimension)
            if self._collection is None:
                os.close(claim(self._folder))
            return marker.incarnation

    def prepare(self, dimension: int) -> str:
        with self._lock, disk_errors(f"the index {self._folder} cannot be made ready"):
            if self._collection is None:
                self._generations.clean(self._generation)
            live = self._generations.live()
            marker = read_marker(self._folder) or self._create(dimension)
            self._check_fits(marker, dimension)
            incarnation = self._for_writing().marker.incarnation
            if live is None and self._generations.live() != self._generation:
                self._generations.make_live(self._generation)
            return incarnation

    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        if not records:
            return
        with self._lock:
            collection = self._for_writing()
            directed = collection.marker.distance == "cosine"
            vectors = checked_vectors(records, collection.marker.dimension, directed=directed)
            sent_bytes = checked_bytes(records) + vectors.nbytes
            ids = [self._format.point_id(record.id) for record in records]
            payloads = [self._format.payload(record) for record in records]
            with collection.all_or_none(ids, sent_bytes):
                collection.shard.upsert(ids, vectors, payloads)

    def delete(self, ids: Sequence[RecordId]) -> None:
        points = [self._format.point_id(id) for id in ids if is_unicode(id)]  # others were never accepted
        if not points:
            return
        with self._lock:
            collection = self._for_writing()
            with collection.all_or_none(points, sent_bytes=16 * len(points)):
                collection.shard.delete(points)

    def fit(self, draft: Draft) -> Fit:
        return fit(draft)

    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        """Read all points, in the order of their ids."""
        start = None
        while True:
            with self._lock:
                collection = self._open()
                if collection is None:
                    return
                page, start = collection.shard.page(start, RECORDS_PER_PAGE, detail)
            for point, payload, vector in page:
                yield self._format.read(point, payload, detail, vector)
            if start is None:
                return

    @property
    def owner(self) -> str:
        return self._format.owner

    def record_name(self, id: RecordId) -> str | None:
        return str(self._format.point_id(id)) if is_unicode(id) else None

    def count(self) -> int:
        with self._lock:
            collection = self._open()
            return 0 if collection is None else collection.shard.count(self._format.owner)

    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        """Find by exact comparison with every vector: 28 ms with 100,000 of them (384 dimensions, 2026-11)."""
        # The engine gives a distance for "euclid", and a likeness for the others.
        sign = -1 if self._distance == "euclid" else 1

        def accept(found: tuple[float, PointId, Payload]) -> Hit | None:
            score, point, payload = found
            hit = self._format.read_hit(point, payload, sign * score)
            return hit if hit and matches(hit.metadata, where) else None

        with self._lock:
            collection, asked = self._open(), questions(where)
            if collection is None:
                return []
            if vector.shape != (collection.marker.dimension,):
                raise RejectedError(
                    f"a vector of shape {vector.shape} was asked about, "
                    f"the index {self._folder} has {collection.marker.dimension} dimensions"
                )
            if asked is None:
                return []
            nearest = partial(collection.shard.nearest, self._format.owner, asked, vector)
            return search_until_enough(nearest, accept, limit)

    def close(self) -> None:
        with self._lock:
            collection = self._collection
            if collection is not None and collection.pid == os.getpid():
                self._collection = None
                collection.close()

    # --- generations -----------------------------------------------------------------------------------

    def live(self) -> int | None:
        return self._generations.live()

    def make_live(self) -> None:
        with self._lock, disk_errors(f"the index {self._folder} cannot be made live"):
            if read_marker(self._folder) is None:
                raise SinkError(f"there is no index {self._folder} to make live; it was removed, or never prepared")
            if self._generations.live() != self._generation:
                self._generations.make_live(self._generation)

    def drop(self) -> None:
        with self._lock, disk_errors(f"the index {self._folder} cannot be removed"):
            if self._generations.live() == self._generation:
                raise ConfigError(f"the index {self._folder} is the one that is read; make another one live first")
            self.close()
            self._generations.clean(self._generation)
            marker = read_marker(self._folder)
            if marker is not None:
                self._generations.check_owner(marker, self._folder)
                remove(self._folder)

    def address(self) -> dict[str, JsonValue]:
        """Say where a client of the engine finds this generation, and where it reads which one is live."""
        return {
            "collection": self._folder.name,
            "folder": str(self._folder),
            "live": str(self._generations.pointer),
        }

    # --- opening ---------------------------------------------------------------------------------------

    def _open(self) -> OpenCollection | None:
        """Give the open collection, healed; open it if it is not. None if there is none yet."""
        collection = self._collection
        if collection is None:
            marker = read_marker(self._folder)
            if marker is None:
                return None
            self._check_fits(marker, marker.dimension)
            collection = OpenCollection.open(self._folder, marker, self._engine, self._room, self._tainted)
            self._collection = collection
        collection.check_usable()
        collection.take_back()
        return collection

    def _for_writing(self) -> OpenCollection:
        collection = self._open()
        if collection is None:
            raise SinkError(f"there is no index {self._folder} to write to; it was removed, or never prepared")
        return collection

    def _create(self, dimension: int) -> Marker:
        make_durably(self._folder.parent)
        self._room.check(self._folder)
        incarnation, version = uuid4().hex, self._engine.engine_version
        marker = Marker(FORMAT, incarnation, self._format.owner, dimension, self._distance, version)
        create(
            self._folder,
            marker,
            make_shard=lambda path: self._engine.create(path, dimension, self._distance).close(),
        )
        return marker

    def _check_fits(self, marker: Marker, dimension: int) -> None:
        self._generations.check_owner(marker, self._folder)
        if marker.dimension != dimension:
            raise ConfigError(
                f"the index {self._folder} holds vectors of {marker.dimension} dimensions, the embedder makes "
                f"{dimension}; choose another collection"
            )
        if marker.distance != self._distance:
            raise ConfigError(
                f'the index {self._folder} was made for the distance "{marker.distance}", the settings say '
                f'"{self._distance}"; choose another collection'
            )

"""The embedded sink: a collection in a folder, held by the Qdrant engine inside this process.

The engine is fast and trusting. A call that fails is half applied, and applied again from its log; a vector
that is not a number is stored; a full disk kills the process without a word; and whoever tries to
open a shard that is open damages it, though he is refused (qdrant-edge 0.9.0, seen 2026-11). So each
call is examined before the engine sees it, one that fails all the same is taken back, and a lock of
our own on the folder is held before the engine is asked to open anything.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID, uuid4

from pydantic import Field

from connector.errors import ConfigError, RejectedError, SinkError
from connector.model import EmbeddedRecord, Hit, RecordId, StoredRecord
from connector.plugins import BuildContext, SinkSettings
from connector.ports import Limits

from .qdrant_edge_folder import (
    FORMAT,
    MARKER,
    SHARD,
    Marker,
    check_writable,
    claim,
    create,
    disk_errors,
    make_durably,
    read_marker,
    remove_unfinished,
)
from .qdrant_payload import PointFormat, checked_bytes, checked_vectors, is_unicode, read_hit, read_stored

if TYPE_CHECKING:
    from connector.model import Vectors

    from .qdrant_edge_shard import Distance, Shard

MIB: Final = 1024 * 1024
LOG_BYTES: Final = 64 * MIB
"""The engine's log comes in segments of 32 MiB, two at a time (qdrant-edge 0.9.0, seen 2026-11)."""
WRITTEN_PER_BYTE: Final = 4
"""A byte sent is written to the log, the payload, the vectors and their indexes."""
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
            distance=self.distance,
            min_free_bytes=self.min_free_bytes,
            engine=Shard,
        )


@dataclass(frozen=True, slots=True)
class _Collection:
    """The collection while it is open."""

    shard: Shard
    marker: Marker
    inode: int  # of the marker; another one, or none, means that the folder was taken away
    lock: int  # descriptor that holds the folder's lock
    pid: int


class QdrantEdgeSink:
    """One collection in one folder, which this sink alone has open from its first use until `close`."""

    limits = Limits(records_per_call=500, bytes_per_call=8_000_000, in_process=True)

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        owner: str,
        distance: Distance,
        min_free_bytes: int,
        engine: type[Shard],
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self.name = name
        self._folder = folder
        self._format = PointFormat.of(owner)
        self._distance: Distance = distance
        self._min_free_bytes = min_free_bytes
        self._engine = engine
        self._free_bytes = free_bytes
        self._lock = threading.RLock()
        self._collection: _Collection | None = None
        self._tainted: Sequence[UUID] = ()  # points of a call of which nobody knows what was applied

    def check(self, dimension: int) -> str | None:
        with self._lock:
            marker = read_marker(self._folder)
            check_writable(self._folder)
            if marker is None:
                return None
            self._check_fits(marker, dimension)
            if self._collection is None:
                os.close(claim(self._folder))
            return marker.incarnation

    def prepare(self, dimension: int) -> str:
        with self._lock, disk_errors(f"the index {self._folder} cannot be made ready"):
            if self._collection is None:
                remove_unfinished(self._folder)
            marker = read_marker(self._folder) or self._create(dimension)
            self._check_fits(marker, dimension)
            return self._for_writing().marker.incarnation

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
            with self._all_or_none(collection, ids, sent_bytes):
                collection.shard.upsert(ids, vectors, payloads)

    def delete(self, ids: Sequence[RecordId]) -> None:
        points = [self._format.point_id(id) for id in ids if is_unicode(id)]  # others were never accepted
        if not points:
            return
        with self._lock:
            collection = self._for_writing()
            with self._all_or_none(collection, points, sent_bytes=16 * len(points)):
                collection.shard.delete(points)

    def scan(self) -> Iterator[StoredRecord]:
        """Read all of our own records, in the order of their point ids; none if there is no collection yet."""
        start = None
        while True:
            with self._lock:
                collection = self._open()
                if collection is None:
                    return
                page, start = collection.shard.page(self._format.owner, start, RECORDS_PER_PAGE)
            yield from map(read_stored, page)
            if start is None:
                return

    def search(self, vector: Vectors, limit: int) -> list[Hit]:
        """Find by exact comparison with every vector: 28 ms with 100,000 of them (384 dimensions, 2026-11)."""
        with self._lock:
            collection = self._open()
            if collection is None:
                return []
            if vector.shape != (collection.marker.dimension,):
                raise RejectedError(
                    f"a vector of shape {vector.shape} was asked about, "
                    f"the index {self._folder} has {collection.marker.dimension} dimensions"
                )
            found = collection.shard.nearest(self._format.owner, vector, limit)
        # The engine gives a distance for "euclid", and a likeness for the others.
        sign = -1 if self._distance == "euclid" else 1
        return [read_hit(payload, sign * score) for score, payload in found]

    def close(self) -> None:
        """Let others open the folder. In a forked child it does nothing: the parent still has it open."""
        with self._lock:
            collection = self._collection
            if collection is None or collection.pid != os.getpid():
                return
            self._collection = None
            with ExitStack() as closing:
                closing.callback(os.close, collection.lock)
                closing.callback(collection.shard.close)
                self._take_back(collection.shard)

    # --- opening ---------------------------------------------------------------------------------------

    def _open(self) -> _Collection | None:
        """Give the open collection, healed; open it if it is not. None if there is none yet."""
        collection = self._collection
        if collection is None:
            marker = read_marker(self._folder)
            if marker is None:
                return None
            self._check_fits(marker, marker.dimension)
            self._check_room(sent_bytes=0)  # replaying the log writes, too
            collection = self._collection = self._load(marker)
        elif collection.pid != os.getpid():
            raise SinkError(
                f"the index {self._folder} was opened before this process was forked from its parent; "
                'start processes by "spawn"'
            )
        else:
            self._check_still_there(collection)
        self._take_back(collection.shard)
        return collection

    def _load(self, marker: Marker) -> _Collection:
        with disk_errors(f"the index {self._folder} cannot be opened"), ExitStack() as failing:
            lock = claim(self._folder)
            failing.callback(os.close, lock)
            inode = (self._folder / MARKER).stat().st_ino
            shard = self._engine.load(self._folder / SHARD)
            failing.pop_all()  # it has not failed: the lock is held until `close`
        return _Collection(shard, marker, inode, lock, os.getpid())

    def _for_writing(self) -> _Collection:
        collection = self._open()
        if collection is None:
            raise SinkError(f"there is no index {self._folder} to write to; it was removed, or never prepared")
        return collection

    def _create(self, dimension: int) -> Marker:
        make_durably(self._folder.parent)
        self._check_room(sent_bytes=0)
        incarnation, version = uuid4().hex, self._engine.engine_version
        marker = Marker(FORMAT, incarnation, self._format.owner, dimension, self._distance, version)
        create(
            self._folder,
            marker,
            make_shard=lambda path: self._engine.create(path, dimension, self._distance).close(),
        )
        return marker

    def _check_fits(self, marker: Marker, dimension: int) -> None:
        if marker.owner != self._format.owner:
            raise ConfigError(
                f'the index {self._folder} belongs to the sync "{marker.owner}", this one is "{self._format.owner}"; '
                "choose another collection"
            )
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

    # --- writing ---------------------------------------------------------------------------------------

    def _check_room(self, sent_bytes: int) -> None:
        """Raise SinkError before the disk is full: a write to a mapped file would then end the process (SIGBUS)."""
        needed = LOG_BYTES + WRITTEN_PER_BYTE * sent_bytes + self._min_free_bytes
        folder = self._folder if self._folder.exists() else self._folder.parent
        free = self._free_bytes(folder)
        if free < needed:
            raise SinkError(
                f"the disk of {folder} has {free / MIB:,.0f} MiB free, and {needed / MIB:,.0f} MiB are needed; "
                "make room, or lower min_free_bytes"
            )

    @contextmanager
    def _all_or_none(self, collection: _Collection, ids: Sequence[UUID], sent_bytes: int) -> Iterator[None]:
        """Make a call durable, or leave none of its points: the ledger knows that they may be missing.

        A failed call stays in the engine's log and is applied once more when that is replayed, so it is
        undone by a later entry of the same log. Until it is, every operation tries that first.
        """
        self._check_room(sent_bytes)
        self._tainted = ids
        try:
            yield
            collection.shard.flush()
        except Exception:
            self._take_back(collection.shard)
            raise
        self._tainted = ()
        self._check_still_there(collection)

    def _take_back(self, shard: Shard) -> None:
        if self._tainted:
            try:
                self._check_room(sent_bytes=0)
                shard.delete(self._tainted)
                shard.flush()
            except SinkError as error:
                raise SinkError(f"a failed call to the index {self._folder} cannot be undone: {error}") from error
            self._tainted = ()

    def _check_still_there(self, collection: _Collection) -> None:
        """Refuse to vouch for files that somebody has removed, which an open process would go on writing."""
        try:
            inode = (self._folder / MARKER).stat().st_ino
        except OSError:
            inode = None
        if inode != collection.inode:
            raise SinkError(f"the index {self._folder} was removed or replaced while it was open")

"""The sink for a Qdrant server: a collection behind an alias, written and read through the official client.

It only translates. Calls go straight to the collection of one generation; applications ask for the alias. Everything is
filtered by our mark, so other syncs, and other programs, may keep records in the same collection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from connector.errors import ConfigError, RejectedError, SinkError
from connector.filters import Condition, matches
from connector.model import Detail, Draft, EmbeddedRecord, Fit, ForeignRecord, Hit, JsonValue, RecordId, StoredRecord
from connector.plugins import BuildContext, SinkSettings
from connector.ports import Limits

from .qdrant_generations import Generations
from .qdrant_payload import (
    Payload,
    PointFormat,
    PointId,
    checked_bytes,
    checked_vectors,
    fit,
    is_unicode,
)
from .qdrant_search import path, questions, search_until_enough

if TYPE_CHECKING:
    from connector.model import Vectors

    from .qdrant_collection import Collection
    from .qdrant_server import QdrantServer

FORBIDDEN: Final = r'<>:"/\\|?*\x00-\x1f\x7f'
"""What Qdrant forbids in the names of collections and vectors (1.19, read 2026-11-22)."""
POINTS_PER_PAGE: Final = 1000
VECTORS_PER_PAGE: Final = 250


class QdrantSettings(SinkSettings):
    """Keep the records in a collection of a Qdrant server."""

    kind: Literal["qdrant"] = Field(default="qdrant", description="a Qdrant server, 1.16 or newer")
    url: str = Field(
        default="http://localhost:6333",
        description='where the server is; without a port, 6333 is meant; ":memory:" is a dry run in this process',
    )
    api_key: SecretStr | None = Field(default=None, description="the key; a server of your own may need none")
    collection: str = Field(
        default="docs",
        pattern=rf"^[^.@{FORBIDDEN}][^@{FORBIDDEN}]{{0,199}}$",
        description="what readers ask for: an alias that is made, or a collection that is there",
    )
    vector: str = Field(
        default="",
        pattern=rf"^[^{FORBIDDEN}]{{0,200}}$",
        description="name of the vector in each point; by default, the unnamed one",
    )
    distance: Literal["cosine", "dot", "euclid"] = Field(default="cosine", description="how nearness is measured")
    datatype: Literal["float32", "float16", "uint8"] = Field(
        default="float32", description="how a new collection keeps numbers; uint8 is for whole numbers from 0 to 255"
    )
    quantization: Literal["none", "scalar", "binary"] = Field(
        default="none", description="small copies of the vectors in a new collection, to search faster"
    )
    quantization_in_ram: bool = Field(default=False, description="whether those stay in memory")
    on_disk: bool = Field(
        default=False, description="whether a new collection reads its vectors from disk, to save memory"
    )
    shard_number: int | None = Field(default=None, ge=1, description="shards of a new collection; the server's default")
    replication_factor: int | None = Field(default=None, ge=1, description="copies of each of its shards; the same")
    write_consistency_factor: int | None = Field(
        default=None, ge=1, description="how many copies have to have a write; the same"
    )
    index_fields: dict[str, Literal["keyword", "integer", "float", "bool", "datetime", "text"]] = Field(
        default_factory=dict, description="metadata that searches filter by, and its type: a payload index for each"
    )
    timeout_seconds: int = Field(default=60, ge=1, description="how long one call may take")
    concurrent_calls: int = Field(default=3, ge=1, description="calls at one time")
    records_per_call: int = Field(default=256, ge=1, description="records in one call; strict mode may allow fewer")
    bytes_per_call: int = Field(
        default=4_000_000, ge=1, description="about how large one call may be; servers take 32 MiB"
    )

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            good = parts.scheme in {"http", "https"} and parts.port != 0 and not re.search(r"\s", url)
            good = good and re.fullmatch(r"[\w.-]+|[0-9a-f:.]+", parts.hostname or "") is not None
        except ValueError:
            good = False
        if url != ":memory:" and not good:
            raise ValueError(
                'should be like "http://localhost:6333" or "https://qdrant.example.com:443/prefix", or ":memory:"'
            )
        if url != ":memory:" and (parts.username is not None or parts.query or parts.fragment):
            raise ValueError("should not hold a user, a password or a query; a key goes into `api_key`")
        return url.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _is_sent_as_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        text = "" if key is None else key.get_secret_value()
        if key is not None and not (text.isascii() and text.isprintable() and text.strip() == text != ""):
            raise ValueError(
                "is empty, or holds characters that cannot be sent: spaces around it, a line break, non-ASCII"
            )
        return key

    @field_validator("index_fields")
    @classmethod
    def _can_be_indexed(cls, fields: Mapping[str, str]) -> Mapping[str, str]:
        for field in fields:
            if path(field) is None or not field:
                raise ValueError("Qdrant cannot index a field without a name, or with a quote or a backslash in it")
        return fields

    def build(self, context: BuildContext) -> QdrantSink:
        try:
            from .qdrant_collection import Layout  # noqa: PLC0415 - the client is an extra, and takes a second to import
            from .qdrant_server import QdrantServer, connect  # noqa: PLC0415 - the same
        except ImportError as error:
            raise ConfigError(
                f'the sink "{context.name}" needs the Qdrant client ({error}): pip install "vector-sync[qdrant]"'
            ) from error
        layout = Layout(
            vector=self.vector,
            distance=self.distance,
            datatype=self.datatype,
            quantization=self.quantization,
            quantization_in_ram=self.quantization_in_ram,
            on_disk=self.on_disk,
            shard_number=self.shard_number,
            replication_factor=self.replication_factor,
            write_consistency_factor=self.write_consistency_factor,
            index_fields=self.index_fields,
        )
        client = partial(
            connect,
            self.url,
            None if self.api_key is None else self.api_key.get_secret_value(),
            timeout_seconds=self.timeout_seconds,
            connections=self.concurrent_calls,
        )
        server = QdrantServer(self.url, layout, self.timeout_seconds, client)
        limits = Limits(
            records_per_call=self.records_per_call,
            bytes_per_call=self.bytes_per_call,
            concurrent_calls=1 if server.in_process else self.concurrent_calls,
            in_process=server.in_process,
        )
        return QdrantSink(
            context.name,
            server,
            collection=self.collection,
            generation=context.generation,
            owner=context.owner,
            distance=self.distance,
            limits=limits,
        )


class QdrantSink:
    """One generation of one collection. Reads and writes nothing else but the alias."""

    def __init__(
        self,
        name: str,
        server: QdrantServer,
        *,
        collection: str,
        generation: int,
        owner: str,
        distance: str,
        limits: Limits,
    ) -> None:
        self.name = name
        self._server = server
        self._alias = collection
        self._generation = generation
        self._generations = Generations(server, collection)
        self._format = PointFormat.of(owner)
        self._distance = distance
        self._wanted_limits = self._limits = limits
        self._collection: Collection | None = None  # what was last read about it

    @property
    def limits(self) -> Limits:
        """As the settings say, and within those of the collection once `check` or `prepare` has read them."""
        return self._limits

    # --- making ready ----------------------------------------------------------------------------------

    def check(self, dimension: int) -> str | None:
        found = self._look()
        if found is None:
            return None
        found.check_fits(dimension, self._distance, self._server.place(found.name))
        return found.incarnation

    def prepare(self, dimension: int) -> str:
        """Make what is missing, in this order: collection, mark, indexes, alias. Killed anywhere, the next goes on."""
        place = self._generations.place(self._generation)
        found = self._read(place.name)
        if found is None:
            found = self._created(place.name, dimension)
        found.check_fits(dimension, self._distance, self._server.place(place.name))
        if found.incarnation is None:
            self._server.name_incarnation(place.name)
            found = self._read_again(place.name)
        if found.incarnation is None:
            raise ConfigError(
                f"the Qdrant server {self._server.url} keeps no metadata of collections; vector-sync needs Qdrant 1.16"
            )
        self._server.create_indexes(found)
        if place.target is None:
            self._generations.make_live(self._generation)
        return found.incarnation

    # --- writing ---------------------------------------------------------------------------------------

    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        if not records:
            return
        collection = self._for_writing()
        vectors = checked_vectors(records, collection.dimension, directed=collection.directed)
        collection.check_range(vectors)
        checked_bytes(records)
        ids = [self._format.point_id(record.id) for record in records]
        self._server.upsert(collection, ids, vectors, [self._format.payload(record) for record in records])

    def delete(self, ids: Sequence[RecordId]) -> None:
        points = [self._format.point_id(id) for id in ids if is_unicode(id)]  # others were never accepted
        if points:
            self._server.delete(self._for_writing(), points)

    def fit(self, draft: Draft) -> Fit:
        """Refuse what cannot be kept, or sent. Nothing is altered."""
        said = fit(draft)
        if said.refusal is None and not self._server.takes(draft.document_id, draft.texts, draft.metadata):
            return Fit(refusal=f'document "{draft.document_id}": a record of it is larger than a request may be')
        return said

    # --- reading ---------------------------------------------------------------------------------------

    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        """Read all points, in the order of their ids."""
        collection = self._open()
        start: PointId | None = None
        limit = VECTORS_PER_PAGE if detail == Detail.VECTORS else POINTS_PER_PAGE
        while collection is not None:
            page, start = self._server.page(collection, start, limit, detail)
            for point, payload, vector in page:
                yield self._format.read(point, payload, detail, vector)
            if start is None:
                return

    @property
    def owner(self) -> str:
        return self._format.owner

    def record_name(self, id: RecordId) -> str | None:
        return str(self._format.point_id(id)) if is_unicode(id) else None

    def count(self) -> int | None:
        """Count the points with our mark; also those whose other marks are damaged."""
        collection = self._open()
        if collection is None:
            return 0
        return self._server.count(collection, self._format.owner) if collection.counts_exactly else None

    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        # The server gives a distance for "euclid", and a likeness for the others.
        sign = -1 if self._distance == "euclid" else 1

        def accept(found: tuple[float, PointId, Payload]) -> Hit | None:
            score, point, payload = found
            hit = self._format.read_hit(point, payload, sign * score)
            return hit if hit and matches(hit.metadata, where) else None

        collection, asked = self._open(), questions(where)
        if collection is None:
            return []
        if vector.shape != (collection.dimension,):
            raise RejectedError(
                f"a vector of shape {vector.shape} was asked about, "
                f"{self._server.place(collection.name)} has {collection.dimension} dimensions"
            )
        if asked is None:
            return []
        nearest = partial(self._server.nearest, collection, self._format.owner, asked, vector)
        return search_until_enough(nearest, accept, limit)

    # --- generations -----------------------------------------------------------------------------------

    def live(self) -> int | None:
        return self._generations.live()

    def make_live(self) -> None:
        self._generations.make_live(self._generation)

    def drop(self) -> None:
        self._generations.drop(self._generation, self._format.owner)
        self._collection = None

    def address(self) -> dict[str, JsonValue]:
        """Name the collection of this generation, and the alias that leads to the live one, where there is one.

        A client that has the model of this generation asks this very collection: the alias may have moved meanwhile.
        """
        name = self._generations.place(self._generation).name
        return {"collection": name} if name == self._alias else {"collection": name, "alias": self._alias}

    def close(self) -> None:
        self._collection = None
        self._server.close()

    # --- finding it ------------------------------------------------------------------------------------

    def _look(self) -> Collection | None:
        """Read about our collection, and its limits; None if it is yet to be made."""
        self._collection = None
        place = self._generations.place(self._generation)
        return self._read(place.name)

    def _read(self, name: str) -> Collection | None:
        self._collection = found = self._server.collection(name)
        if found is not None and found.records_per_upsert is not None:
            allowed = max(1, min(self._wanted_limits.records_per_call, found.records_per_upsert))
            self._limits = replace(self._wanted_limits, records_per_call=allowed)
        else:
            self._limits = self._wanted_limits
        return found

    def _created(self, name: str, dimension: int) -> Collection:
        """Make our collection; or take the one that another process has just made."""
        try:
            self._server.create(name, dimension)
        except SinkError:
            if not self._server.exists(name):
                raise
        return self._read_again(name)

    def _read_again(self, name: str) -> Collection:
        found = self._read(name)
        if found is None:
            raise SinkError(f"{self._server.place(name)} was removed while it was made ready")
        return found

    def _open(self) -> Collection | None:
        return self._collection or self._look()

    def _for_writing(self) -> Collection:
        collection = self._open()
        if collection is None:
            raise SinkError(
                f'"{self._alias}" {self._server.url} is not there to write to; it was removed, or never prepared'
            )
        return collection

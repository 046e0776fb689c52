"""The one file that calls qdrant-client: each call, with its failures explained.

Calls return when what they do is durable and to be read back: `wait` is always on, and any status but "completed"
inside an answer is a TransientError. Each has a timeout, which the server is told as well.

An upsert's body is written by orjson from the array of the vectors, with the shortest decimals that are read back as
the same float32, and not by the client's models: 256 records of 384 numbers take 6 ms of CPU instead of 22, and 1.4 MB
instead of 2.2 (2026-11-22). The client then sends it, as it would its own.

In process (":memory:") the client has no lock of its own and says ValueError whatever happened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from uuid import UUID

import httpx
import orjson
from qdrant_client import QdrantClient, models

from connector.errors import RejectedError, SinkError, TransientError
from connector.model import Detail, DocumentId, Metadata

from .qdrant_collection import Collection, Layout, new_incarnation
from .qdrant_failures import explained, refused
from .qdrant_filters import asked_filter, owned_by
from .qdrant_payload import MARKS, TEXT, Payload, PointId, metadata_bytes
from .qdrant_search import Question

if TYPE_CHECKING:
    from connector.model import Vectors

IN_PROCESS: Final = ":memory:"
REQUEST_BYTES: Final = 32 * 1024 * 1024
"""What a server takes by default (`service.max_request_size_mb` of Qdrant 1.19, read 2026-11-22); it does not tell."""
PAYLOAD_BYTES: Final = REQUEST_BYTES - 1024 * 1024
"""What of it a record's text and metadata may take; the rest is for its vector, of 65,536 numbers at most."""
LONGEST_CHARACTER: Final = 6
"""Bytes of JSON that a character may take, if it has to be written as \\u0000; no value takes more for its length."""
IDLE_SECONDS: Final = 2.0
"""How long an unused connection is kept: less than servers and proxies keep it, so that no call meets its end."""

Point: TypeAlias = tuple[PointId, Payload, object]
"""Its id, its payload, and its vector as the client gives it."""


class _Encoded:
    """The body of a request, which is asked for its JSON as the client's own models are."""

    def __init__(self, json: bytes) -> None:
        self._json = json

    def model_dump_json(self, **_: object) -> bytes:
        return self._json


def connect(url: str, api_key: str | None, *, timeout_seconds: int, connections: int) -> QdrantClient:
    """Make a client. It asks nothing yet, and never shows the key."""
    if url == IN_PROCESS:
        return QdrantClient(url)
    return QdrantClient(
        url=url,
        headers=None if api_key is None else {"api-key": api_key},  # as `api_key=`, without a warning about http
        timeout=timeout_seconds,
        check_compatibility=False,
        # The client's own default is to close each connection to this machine after one call.
        limits=httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE_SECONDS
        ),
    )


class QdrantServer:
    """A server, or its stand-in in this process. Thread-safe."""

    def __init__(self, url: str, layout: Layout, timeout_seconds: int, connect: Callable[[], QdrantClient]) -> None:
        self.in_process = url == IN_PROCESS
        self.url = "in this process" if self.in_process else f"at {url}"
        self._layout = layout
        self._timeout_seconds = timeout_seconds
        self._connect = connect
        self._client: QdrantClient | None = None
        self._connecting = threading.Lock()
        self._lock = threading.RLock() if self.in_process else nullcontext()

    def close(self) -> None:
        with self._connecting:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    # --- collections -----------------------------------------------------------------------------------

    def aliases(self) -> dict[str, str]:
        """Say which collection each alias stands for."""
        with self._asking("did not tell its aliases") as client:
            return {alias.alias_name: alias.collection_name for alias in client.get_aliases().aliases}

    def exists(self, name: str) -> bool:
        """Tell whether there is a collection, or an alias, of that name."""
        with self._asking(f'did not tell whether there is a collection "{name}"') as client:
            return client.collection_exists(name)

    def collection(self, name: str) -> Collection | None:
        """Read about a collection; None if there is none, ConfigError if it does not have our vector."""
        if not self.exists(name):
            return None
        with self._asking(f'did not tell about the collection "{name}"') as client:
            info = client.get_collection(name)
        return Collection.read(name, info, self._layout, self.place(name))

    def place(self, name: str) -> str:
        """Name a collection for people."""
        return f'the collection "{name}" {self.url}'

    def create(self, name: str, dimension: int) -> None:
        """Make a collection. SinkError if it is there, as another process may just have made it."""
        with self._asking(f'did not make the collection "{name}"') as client:
            client.create_collection(name, timeout=self._timeout_seconds, **self._layout.making(dimension))

    def name_incarnation(self, name: str) -> None:
        """Mark a collection that somebody else has made, so that it is told from another of its name."""
        with self._asking(f'did not mark the collection "{name}"') as client:
            client.update_collection(name, metadata=new_incarnation(), timeout=self._timeout_seconds)

    def create_indexes(self, collection: Collection) -> None:
        """Make the payload indexes that are missing; without one, a filter reads every payload."""
        if self.in_process:
            return  # it has none
        for key, type in self._layout.indexes().items():
            if key.strip('"') not in collection.indexed:
                with self._asking(f'did not index the field {key} of the collection "{collection.name}"') as client:
                    made = client.create_payload_index(
                        collection.name, key, type, wait=True, timeout=self._timeout(collection)
                    )
                self._check_done(made, f'has not yet indexed the field {key} of the collection "{collection.name}"')

    def point_alias(self, alias: str, name: str, *, replace: bool) -> None:
        """Let an alias stand for a collection, in one step."""
        changes: list[models.AliasOperations] = []
        if replace:
            changes.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
        created = models.CreateAlias(collection_name=name, alias_name=alias)
        changes.append(models.CreateAliasOperation(create_alias=created))
        with self._asking(f'did not let "{alias}" stand for the collection "{name}"') as client:
            client.update_collection_aliases(changes, timeout=self._timeout_seconds)

    def drop(self, name: str) -> None:
        """Delete a collection; one that is not there is no error."""
        with self._asking(f'did not delete the collection "{name}"') as client:
            client.delete_collection(name, timeout=self._timeout_seconds)

    # --- points ----------------------------------------------------------------------------------------

    def upsert(
        self, collection: Collection, ids: Sequence[UUID], vectors: Vectors, payloads: Sequence[Payload]
    ) -> None:
        """Write points whole. RejectedError if one of them can never be."""
        refusal = f"{self.place(collection.name)} did not take an upsert"
        if self.in_process:
            self._upsert_in_process(collection, ids, vectors, payloads, refusal)
            return
        rows = ({self._layout.vector: row} for row in vectors) if self._layout.vector else iter(vectors)
        points = [
            {"id": id, "vector": row, "payload": payload} for id, row, payload in zip(ids, rows, payloads, strict=True)
        ]
        body = orjson.dumps({"points": points}, option=orjson.OPT_SERIALIZE_NUMPY)
        if len(body) > PAYLOAD_BYTES and (len(points) > 1 or not _is_sendable(payloads[0])):
            raise RejectedError(f"a request of {len(body):,} bytes is too large for {self.place(collection.name)}")
        with self._asking("", refusal) as client:
            answer = client.http.points_api.upsert_points(
                collection_name=collection.name,
                wait=True,
                timeout=self._timeout(collection),
                point_insert_operations=cast("models.PointsList", _Encoded(body)),
            )
        self._check_done(answer.result, f"has not yet applied an upsert to the collection {collection.name}")

    def takes(self, document: DocumentId, texts: Sequence[str], metadata: Metadata) -> bool:
        """Tell whether each record of a document fits into a request, whatever its vector."""
        if self.in_process:
            return True
        longest = max(map(len, texts), default=0)
        if LONGEST_CHARACTER * (longest + metadata_bytes(document, metadata)) <= PAYLOAD_BYTES:
            return True
        return all(_is_sendable({**metadata, TEXT: text}) for text in texts)

    def delete(self, collection: Collection, ids: Sequence[UUID]) -> None:
        """Remove points; those that are not there do not matter."""
        selector = models.PointIdsList(points=[str(id) for id in ids])
        with self._asking(f'refused a deletion from the collection "{collection.name}"') as client:
            done = client.delete(collection.name, selector, wait=True, timeout=self._timeout(collection))
        self._check_done(done, f'has not yet applied a deletion from the collection "{collection.name}"')

    def page(
        self, collection: Collection, start: PointId | None, limit: int, detail: Detail
    ) -> tuple[list[Point], PointId | None]:
        """Read some of the points, whosever they are, and where the next page starts."""
        vector = self._layout.vector
        with self._asking(f'did not let the collection "{collection.name}" be read') as client:
            records, next_start = client.scroll(
                collection.name,
                limit=_at_most(limit, collection.points_per_query),
                offset=start,
                with_payload=list(MARKS) if detail == Detail.MARKS else True,
                with_vectors=([vector] if vector else True) if detail == Detail.VECTORS else False,
                timeout=self._timeout(collection),
            )
        return [(record.id, record.payload or {}, _one_vector(record.vector, vector)) for record in records], cast(
            "PointId | None", next_start
        )

    def count(self, collection: Collection, owner: str) -> int:
        """Count an owner's points, exactly."""
        with self._asking(f'did not count the collection "{collection.name}"') as client:
            counted = client.count(
                collection.name, count_filter=asked_filter(owner, ()), exact=True, timeout=self._timeout(collection)
            )
        return counted.count

    def count_others(self, name: str, owner: str) -> int:
        """Count the points that are not an owner's; none if there is no such collection."""
        if not self.exists(name):
            return 0
        with self._asking(f'did not count the collection "{name}"') as client:
            others = models.Filter(must_not=[owned_by(owner)])
            return client.count(name, count_filter=others, exact=True, timeout=self._timeout_seconds).count

    def nearest(
        self,
        collection: Collection,
        owner: str,
        asked: Sequence[Sequence[Question]],
        vector: Vectors,
        limit: int,
    ) -> list[tuple[float, PointId, Payload]]:
        """Find an owner's points nearest to a vector, with the server's own scores, nearest first.

        Of each of the lists in `asked`, one question has to be answered with yes.
        """
        with self._asking(f'did not search the collection "{collection.name}"') as client:
            found = client.query_points(
                collection.name,
                query=vector.tolist(),
                using=self._layout.vector or None,
                query_filter=asked_filter(owner, asked),
                limit=_at_most(limit, collection.points_per_query),
                with_payload=True,
                timeout=self._timeout(collection),
            )
        return [(point.score, point.id, point.payload or {}) for point in found.points]

    # --- how -------------------------------------------------------------------------------------------

    def _upsert_in_process(
        self,
        collection: Collection,
        ids: Sequence[UUID],
        vectors: Vectors,
        payloads: Sequence[Payload],
        refusal: str,
    ) -> None:
        name = self._layout.vector
        points = [
            models.PointStruct(id=str(id), vector={name: row} if name else row, payload=payload)
            for id, row, payload in zip(ids, vectors.tolist(), payloads, strict=True)
        ]
        with self._asking("", refusal) as client:
            done = client.upsert(collection.name, points, wait=True)
        self._check_done(done, "has not applied an upsert")

    def _timeout(self, collection: Collection) -> int:
        return _at_most(self._timeout_seconds, collection.timeout_seconds)

    def _check_done(self, result: models.UpdateResult | None, what: str) -> None:
        if result is None:
            raise SinkError(f"the Qdrant server {self.url} {what}: its answer has no result")
        if result.status != models.UpdateStatus.COMPLETED:
            raise TransientError(f"the Qdrant server {self.url} {what}: {result.status.value}")

    @contextmanager
    def _asking(self, what: str, refused_upsert: str = "") -> Iterator[QdrantClient]:
        """Ask the server, and explain its failures; `what` completes "the Qdrant server at ... ".

        `refused_upsert` is the whole message instead, where records are sent.
        """
        said, upserts = refused_upsert or f"the Qdrant server {self.url} {what}", bool(refused_upsert)
        with self._lock:
            try:
                yield self._connected()
            except ValueError as error:
                explanation = explained(error, said, upserts=upserts)
                if explanation is None and self.in_process:
                    explanation = refused(_status(str(error)), str(error), said, upserts=upserts)
                if explanation is None:
                    raise
                raise explanation from error
            except Exception as error:
                explanation = explained(error, said, upserts=upserts)
                if explanation is None:
                    raise
                raise explanation from error

    def _connected(self) -> QdrantClient:
        with self._connecting:
            if self._client is None:
                self._client = self._connect()
            return self._client


def _status(words: str) -> int:
    """Tell which status a server would answer with, where the client in process has words alone."""
    return 404 if "not found" in words else 409 if "already exists" in words else 400


def _is_sendable(payload: Payload) -> bool:
    """Tell whether a record fits into a request; its marks and its vector have their own room."""
    return len(orjson.dumps({name: value for name, value in payload.items() if name not in MARKS})) <= PAYLOAD_BYTES


def _at_most(number: int, limit: int | None) -> int:
    return number if limit is None else max(1, min(number, limit))


def _one_vector(vector: Any, name: str) -> object:
    return vector.get(name) if isinstance(vector, Mapping) else vector

"""The sink for Pinecone: one generation of a collection, in one namespace.

    module                     what it knows
    -------------------------  ---------------------------------------------------------------
    sinks.pinecone             the settings
    sinks.pinecone_metadata    what becomes of values and sizes that Pinecone does not take
    sinks.pinecone_values      which values those are
    sinks.pinecone_records     ids, marks, vectors
    sinks.pinecone_filters     conditions of a search
    sinks.pinecone_reading     lists, fetches, queries
    sinks.pinecone_failures    whose error it is
    sinks.pinecone_index       the wire: control plane, indexes, aliases
    sinks.pinecone_places      which index and namespace a generation is in, and which one is live
    sinks.pinecone_collection  making a generation's place, and finding it again
    sinks.pinecone_removal     taking it away, and nothing that is another's

Pinecone is eventually consistent. What `upsert` wrote is durable when it returns, and is read, listed and found after
some seconds; so is what `delete` removed. A scan so soon after a run may tell of less than there is, or more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pinecone import UpsertResponse, Vector, errors

from connector.errors import RejectedError, TransientError
from connector.filters import Condition, matches
from connector.model import (
    FITS,
    HASH_BYTES,
    Detail,
    Draft,
    EmbeddedRecord,
    Fit,
    ForeignRecord,
    Hit,
    JsonValue,
    Metadata,
    RecordId,
    StoredRecord,
)
from connector.plugins import BuildContext
from connector.ports import Limits
from connector.retry import Retry

from .pinecone_collection import Collection
from .pinecone_failures import Failures
from .pinecone_filters import matching
from .pinecone_index import Service
from .pinecone_metadata import (
    Alteration,
    Policies,
    Translation,
    alteration_lines,
    fitted,
    translate,
)
from .pinecone_places import UNTIL_SEEN, Place
from .pinecone_reading import TOP_K, Match, Reading
from .pinecone_records import RecordFormat, check_text, checked_vectors, decimals, written

if TYPE_CHECKING:
    from connector.model import Vectors

MORE: Final = 4
"""How many times as many matches are asked for when some of those found were not what was meant."""
NO_DIGEST: Final = bytes(HASH_BYTES)


class PineconeSink:
    """One generation of one collection. Calls may come from several threads."""

    def __init__(
        self,
        context: BuildContext,
        service: Service,
        *,
        key: str,
        index: str,
        namespace: str,
        alias: str | None,
        metric: str,
        region: tuple[str, str] | None,
        policies: Policies,
        timeout_seconds: float,
        limits: Limits,
        until_seen: Retry = UNTIL_SEEN,
    ) -> None:
        self.name = context.name
        self.limits = limits
        self._format = RecordFormat.of(context.owner)
        self._policies = policies
        self._service = service
        self._failures = Failures(key)
        self._timeout_seconds = timeout_seconds
        self._metric = metric
        self._collection = Collection(
            service,
            self._format,
            index=index,
            namespace=namespace,
            generation=context.generation,
            alias=alias,
            metric=metric,
            region=region,
            file=None if context.read_only else context.state_path / "live" / f"{context.name}.json",
            timeout_seconds=timeout_seconds,
            until_seen=until_seen,
        )
        self._what = f'the index "{index}", namespace "{namespace}"'

    # --- the collection -------------------------------------------------------------------------------

    def check(self, dimension: int) -> str | None:
        with self._failures.of_check(f"{self._what} cannot be used"):
            return self._collection.check(dimension)

    def prepare(self, dimension: int) -> str:
        with self._failures.of_call(f"{self._what} cannot be made ready"):
            return self._collection.prepare(dimension)

    def live(self) -> int | None:
        with self._failures.of_call(f"{self._what}: it cannot be read which generation is live"):
            return self._collection.live()

    def make_live(self) -> None:
        with self._failures.of_call(f"{self._what}: generation {self._collection.generation} cannot be made live"):
            self._collection.make_live()

    def drop(self) -> None:
        with self._failures.of_call(f"{self._what}: generation {self._collection.generation} cannot be removed"):
            self._collection.drop()

    def address(self) -> Mapping[str, JsonValue]:
        """Name where this generation is, as a client of Pinecone does."""
        with self._failures.of_call(f"{self._what} cannot be found"):
            place = self._collection.address()
        return {"index": place.index, "namespace": place.namespace}

    def close(self) -> None:
        self._service.close()

    # --- writing --------------------------------------------------------------------------------------

    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        if not records:
            return
        payloads = list(self._payloads(records))
        with self._failures.of_call(f"{self._what} cannot be written to"):
            place, facts = self._collection.for_writing()
        vectors = checked_vectors(records, facts.dimension or len(records[0].vector))
        with self._failures.of_upsert(f"{self._what} did not take {len(records)} records"):
            try:
                answer = self._send(place, payloads, written(vectors))
            except errors.PineconeTypeError:  # nothing was sent: another version of the SDK, with another encoder
                answer = self._send(place, payloads, decimals(vectors))
        if answer.upserted_count != len(records):
            raise TransientError(
                f"{self._what} took {answer.upserted_count} of {len(records)} records, without saying which"
            )

    def _send(
        self, place: Place, payloads: Sequence[tuple[str, dict[str, Any]]], values: Sequence[list[float]]
    ) -> UpsertResponse:
        sent = [Vector(id, vector, None, payload) for (id, payload), vector in zip(payloads, values, strict=True)]
        return self._service.open(place.index).upsert(
            vectors=sent, namespace=place.namespace, show_progress=False, timeout=self._timeout_seconds
        )

    def delete(self, ids: Sequence[RecordId]) -> None:
        named = [id for id in map(self._format.vector_id, ids) if id is not None]  # others were never accepted
        if not named:
            return
        with self._failures.of_call(f"{self._what}: {len(named)} records cannot be deleted"):
            place, _ = self._collection.for_writing()
            with suppress(errors.NotFoundError):  # no namespace, so nothing in it
                self._service.open(place.index).delete(
                    ids=named, namespace=place.namespace, timeout=self._timeout_seconds
                )

    def fit(self, draft: Draft) -> Fit:
        altered: dict[int, Alteration] = {}
        try:
            check_text(draft.document_id, draft.texts)
            translation = translate(draft.document_id, draft.metadata, self._policies)
            for index, text in enumerate(draft.texts):
                marks = self._format.marks(draft.document_id, index, NO_DIGEST)
                _, alteration = fitted(draft.document_id, translation, marks, text, self._policies)
                if alteration is not None:
                    altered[index] = alteration
        except RejectedError as error:
            return Fit(refusal=str(error))
        lines = tuple(alteration_lines(translation, altered, len(draft.texts)))
        return Fit(alterations=lines) if lines else FITS

    def _payloads(self, records: Sequence[EmbeddedRecord]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give what is stored of each record, save its vector; RejectedError if one cannot be."""
        of: Metadata | None = None
        translation: Translation | None = None
        for record in records:
            id = self._format.vector_id_of(record)
            if translation is None or record.metadata is not of:  # all passages of a document share one mapping
                of, translation = record.metadata, translate(record.document_id, record.metadata, self._policies)
            marks = self._format.marks(record.document_id, record.index, record.digest)
            stored, _ = fitted(record.document_id, translation, marks, record.text, self._policies)
            yield id, stored

    # --- reading --------------------------------------------------------------------------------------

    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        """Read the lists of ids, and each page of them by fetches: so records that are not ours are seen as well.

        Costs a read unit a page and one for each ten records (docs.pinecone.io, "Understand cost", read 2026-11).
        """
        own, last = (self._format.marker_id, self._format.pointer_id), self._format.last_id("")  # of a killed `drop`
        token: str | None = None
        while True:
            with self._failures.of_call(f"{self._what} cannot be read"):
                reading = self._reading()
                if reading is None:
                    return
                ids, token = reading.page(token)
                found = list(reading.records([id for id in ids if id not in own and not id.startswith(last)]))
            for each in found:
                yield self._format.read(each.id, each.metadata or {}, each.values, detail)
            if token is None:
                return

    @property
    def owner(self) -> str:
        return self._format.owner

    def record_name(self, id: RecordId) -> str | None:
        return self._format.vector_id(id)

    def count(self) -> int | None:
        """Pinecone counts all records of a namespace, others' too, and late; so it cannot tell."""
        return None

    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        """Find by the index's approximate search, among the nearest 10,000 that may match."""
        asked = matching(self._format.owner, where)
        if asked is None or limit < 1:
            return []
        with self._failures.of_call(f"{self._what} cannot be searched"):
            reading = self._reading()
            if reading is None:
                return []
            self._check_question(vector)
            top_k = min(limit, TOP_K)
            while True:
                found = reading.nearest(vector, top_k, asked)
                hits = [hit for match in found if (hit := self._hit(match, where)) is not None]
                if len(hits) >= limit or len(found) < top_k or top_k == TOP_K:
                    return hits[:limit]
                top_k = min(top_k * MORE, TOP_K)

    def _hit(self, match: Match, where: Sequence[Condition]) -> Hit | None:
        """Read what was found; None if it is not what was meant."""
        found = self._format.read_as_stored(match.id, match.stored, (), Detail.CONTENTS)
        if not isinstance(found, StoredRecord) or found.metadata is None or not matches(found.metadata, where):
            return None
        # Pinecone gives a squared distance for "euclidean", and a likeness for the others.
        score = -match.score if self._metric == "euclidean" else match.score
        return Hit(found.id, found.document_id, found.index, score, found.text or "", found.metadata)

    def _check_question(self, vector: Vectors) -> None:
        _, facts = self._collection.for_writing()
        if vector.shape != (facts.dimension or len(vector),):
            raise RejectedError(
                f"a vector of shape {vector.shape} was asked about, {self._what} has {facts.dimension} dimensions"
            )

    def _reading(self) -> Reading | None:
        """Read where the generation is; None if there is no index yet."""
        found = self._collection.for_reading()
        if found is None:
            return None
        place, _ = found
        return Reading(self._service.open(place.index), place.namespace, self._timeout_seconds)

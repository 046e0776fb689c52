"""The sink contract kit, tested: a right sink keeps every rule, and each broken one is caught by the rule it breaks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from msgspec.structs import replace

from connector.errors import ConfigError, RejectedError, SinkError, TransientError
from connector.filters import Between, Condition, Equals, matches
from connector.model import (
    FITS,
    Detail,
    Draft,
    EmbeddedRecord,
    Fit,
    ForeignRecord,
    Hit,
    Metadata,
    RecordId,
    StoredRecord,
)
from connector.ports import Limits
from connector.testing.sinks import DIMENSION, VECTORS, SinkContract, record, stored
from sinks.memory import MemorySink

if TYPE_CHECKING:
    from connector.model import Vectors

LONGEST_TEXT = 1000


@dataclass
class Server:
    """What outlives the sinks that talk to it: one collection, if there is one, and the next failure."""

    records: dict[RecordId, EmbeddedRecord] = field(default_factory=dict)
    foreign: dict[RecordId, EmbeddedRecord] = field(default_factory=dict)
    damaged: set[RecordId] = field(default_factory=set)
    dimension: int | None = None
    incarnation: str = ""
    failure: Exception | None = None


class Service(MemorySink):
    """A right sink: the reference, on a server that can fail, and that refuses long texts."""

    limits = Limits(records_per_call=5)

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.records = server.records
        self._dimension = server.dimension

    def prepare(self, dimension: int) -> str:
        super().prepare(dimension)
        if self.server.dimension is None:
            self.server.dimension, self.server.incarnation = dimension, uuid4().hex
        return self.server.incarnation

    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        if records:
            self.meet_failure()
            if any(len(each.text) > LONGEST_TEXT for each in records):
                raise RejectedError("400: text too long")
            self.write(records)

    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().upsert(records)
        self.server.damaged -= {each.id for each in records}

    def fit(self, draft: Draft) -> Fit:
        return Fit(refusal="text too long") if any(len(text) > LONGEST_TEXT for text in draft.texts) else FITS

    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        for each in super().scan(detail):
            yield ForeignRecord(each.id, "main") if each.id in self.server.damaged else each
        yield from (ForeignRecord(id) for id in self.server.foreign)

    owner = "main"

    def record_name(self, id: RecordId) -> str | None:
        return id

    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        hits = super().search(vector, len(self.records), where)
        return [hit for hit in hits if hit.id not in self.server.damaged][:limit]

    def delete(self, ids: Sequence[RecordId]) -> None:
        if ids:
            self.meet_failure()
            super().delete(ids)

    def meet_failure(self) -> None:
        failure, self.server.failure = self.server.failure, None
        if failure:
            raise failure


class ServiceHarness:
    def __init__(self, made: type[Service] = Service) -> None:
        self._made = made
        self.server = Server()
        self.sink = made(self.server)
        self.sink.prepare(DIMENSION)

    def stored(self) -> Mapping[RecordId, EmbeddedRecord]:
        return dict(self.server.records)

    def exists(self) -> bool:
        return self.server.dimension is not None

    def reopen(self) -> Service:
        self.sink.close()
        self.sink = self._made(self.server)
        return self.sink

    def remove(self) -> None:
        self.sink.close()
        self.server = Server()

    def unacceptable(self) -> EmbeddedRecord:
        return record("bad", text="x" * (LONGEST_TEXT + 1))

    def fail_next_call(self, *, passing: bool, retry_after_seconds: float | None = None) -> None:
        self.server.failure = (
            TransientError("429: slow down", retry_after_seconds=retry_after_seconds)
            if passing
            else SinkError("401: no such key")
        )

    def plant_foreign(self, vector: Vectors) -> None:
        foreign = record("foreign", vector=vector)
        self.server.foreign[foreign.id] = foreign

    def foreign_is_intact(self) -> bool:
        return list(self.server.foreign) == [record("foreign").id]

    def damage(self, id: RecordId) -> None:
        self.server.damaged.add(id)


class TestService(SinkContract):
    @pytest.fixture
    def harness(self) -> ServiceHarness:
        return ServiceHarness()


# --- saboteurs: each breaks one rule ----------------------------------------------------------------------


class WritesNothing(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        pass


class RoundsVectors(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().write([replace(each, vector=each.vector.round()) for each in records])


class TakesHalf(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().write(records[: self.limits.records_per_call // 2])


class FlattensMetadata(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().write(
            [
                replace(
                    each, metadata={name: str(v) if isinstance(v, dict) else v for name, v in each.metadata.items()}
                )
                for each in records
            ]
        )


class DropsNulls(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().write(
            [
                replace(each, metadata={name: value for name, value in each.metadata.items() if value is not None})
                for each in records
            ]
        )


class CountsInDoubles(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().write(
            [
                replace(each, metadata={n: int(float(v)) if type(v) is int else v for n, v in each.metadata.items()})
                for each in records
            ]
        )


class ScansWithoutDigests(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        return (replace(each, digest=b"") for each in super().scan(detail) if isinstance(each, StoredRecord))


class ScansOnePage(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        return itertools.islice(super().scan(detail), self.limits.records_per_call)


class RepeatsBetweenPages(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        for number, each in enumerate(super().scan(detail)):
            yield from [each] * (2 if number == self.limits.records_per_call else 1)


class KeepsTheFirstDigest(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        for each in super().scan(detail):
            yield each if isinstance(each, ForeignRecord) else replace(each, digest=record(each.document_id).digest)


class IgnoresTheQuestion(Service):
    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        return super().search(VECTORS[0], limit, where)


class FindsTheFarthest(Service):
    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        return super().search(-vector, limit, where)


class ScoresDistances(Service):
    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        return [replace(hit, score=1 - hit.score) for hit in super().search(vector, limit, where)]


class FindsWithoutText(Service):
    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        return [replace(hit, text="") for hit in super().search(vector, limit, where)]


class MergesMetadata(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().write(
            [
                replace(
                    each,
                    metadata={**(self.records[each.id].metadata if each.id in self.records else {}), **each.metadata},
                )
                for each in records
            ]
        )


class InsertsOnly(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().write([each for each in records if each.id not in self.records])


class AddsTwice(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().write(
            [replace(each, id=RecordId(f"{each.id}'")) if each.id in self.records else each for each in records]
        )


class ClearsFirst(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        self.records.clear()
        super().write(records)


class ReplacesDocuments(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        documents = {each.document_id for each in records}
        for id in [id for id, each in self.records.items() if each.document_id in documents]:
            del self.records[id]
        super().write(records)


class DeletesDocuments(Service):
    def delete(self, ids: Sequence[RecordId]) -> None:
        documents = {self.records[id].document_id for id in ids if id in self.records}
        super().delete([id for id, each in self.records.items() if each.document_id in documents])


class ScansEverybodys(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        foreign = (StoredRecord(e.id, e.document_id, e.index, e.digest) for e in self.server.foreign.values())
        return itertools.chain(super().scan(detail), foreign)


class FindsEverybodys(Service):
    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        foreign = [Hit(e.id, e.document_id, 0, 1.0, e.text, e.metadata) for e in self.server.foreign.values()]
        return (foreign + super().search(vector, limit, where))[:limit]


class EmptiesWhenPrepared(Service):
    def prepare(self, dimension: int) -> str:
        self.server.foreign.clear()
        return super().prepare(dimension)


class StopsAtABadRecord(Service):
    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        try:
            super().upsert(records)
        except RejectedError as error:
            raise SinkError(str(error)) from error


class RetriesABadRecord(Service):
    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        try:
            super().upsert(records)
        except RejectedError as error:
            raise TransientError(str(error)) from error


class DropsABadRecord(Service):
    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        super().upsert([each for each in records if len(each.text) <= LONGEST_TEXT])


class KeepsABadRecord(Service):
    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        try:
            super().upsert(records)
        except RejectedError:
            self.write(records)
            raise


class RejectsWithoutAWord(Service):
    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        try:
            super().upsert(records)
        except RejectedError:
            raise RejectedError from None


class DeletesTheFirst(Service):
    def delete(self, ids: Sequence[RecordId]) -> None:
        super().delete(ids[:1])


class DeletesUntilClosed(Service):
    """Forgets its deletions, as a log that was not flushed."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.deleted: dict[RecordId, EmbeddedRecord] = {}

    def delete(self, ids: Sequence[RecordId]) -> None:
        self.deleted |= {id: self.records[id] for id in ids if id in self.records}
        super().delete(ids)

    def close(self) -> None:
        self.records.update(self.deleted)


class MissesWhatIsNotThere(Service):
    def delete(self, ids: Sequence[RecordId]) -> None:
        if any(id not in self.records for id in ids):
            raise SinkError("404: no such record")
        super().delete(ids)


class SwallowsPassing(Service):
    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        with suppress(TransientError):
            super().upsert(records)


class SwallowsLasting(Service):
    def delete(self, ids: Sequence[RecordId]) -> None:
        with suppress(SinkError):
            super().delete(ids)


class ForgetsTheWait(Service):
    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        try:
            super().upsert(records)
        except TransientError as error:
            raise TransientError(str(error)) from error


class HopesForever(Service):
    def delete(self, ids: Sequence[RecordId]) -> None:
        try:
            super().delete(ids)
        except SinkError as error:
            raise TransientError(str(error)) from error


class BreaksForGood(Service):
    """Stays broken when the reason has gone."""

    def meet_failure(self) -> None:
        failure = self.server.failure
        if failure:
            raise failure


class ChecksNothing(Service):
    def check(self, dimension: int) -> None:
        pass


class ChecksWithoutNumbers(Service):
    def check(self, dimension: int) -> None:
        try:
            super().check(dimension)
        except ConfigError:
            raise ConfigError("wrong dimension") from None


class ChecksByCreating(Service):
    def check(self, dimension: int) -> None:
        super().check(dimension)
        self.server.dimension = dimension


class ChecksByClearing(Service):
    def check(self, dimension: int) -> None:
        super().check(dimension)
        self.records.clear()


class RefusesEmptyCalls(Service):
    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        if not records:
            raise SinkError("400: empty request")
        super().upsert(records)


class DeletesAllForNone(Service):
    def delete(self, ids: Sequence[RecordId]) -> None:
        super().delete(ids or list(self.records))


class LowersIds(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().write([replace(each, id=RecordId(each.id.lower())) for each in records])


class CutsIds(Service):
    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().write([replace(each, id=RecordId(each.id[:64])) for each in records])


class ScansHashedIds(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        for each in super().scan(detail):
            yield each if isinstance(each, ForeignRecord) else replace(each, id=RecordId(each.id.replace("/", "%2F")))


class FitsEverything(Service):
    def fit(self, draft: Draft) -> Fit:
        return FITS


class FitsLongTexts(Service):
    """Has another limit than the service."""

    def fit(self, draft: Draft) -> Fit:
        return Fit(refusal="text too long") if any(len(text) > 10**6 for text in draft.texts) else FITS


class FitsNothing(Service):
    def fit(self, draft: Draft) -> Fit:
        return Fit(refusal="not today")


class DropsNullsInSilence(DropsNulls):
    """Keeps less than it was sent, and says nothing."""


class AltersByWordAlone(Service):
    def fit(self, draft: Draft) -> Fit:
        fit = super().fit(draft)
        return fit if fit.refusal else Fit(alterations=tuple(name for name, it in draft.metadata.items() if it is None))


class FitsByTheFirstText(Service):
    def fit(self, draft: Draft) -> Fit:
        return super().fit(replace(draft, texts=draft.texts[:1]))


class FitsByAsking(Service):
    def fit(self, draft: Draft) -> Fit:
        self.meet_failure()
        return super().fit(draft)


class ScansMarksAlone(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        return super().scan(Detail.MARKS)


class ScansForgetfully(Service):
    """Asks for vectors, and then no more for contents."""

    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        for each in super().scan(detail):
            if isinstance(each, StoredRecord) and detail == Detail.VECTORS:
                yield replace(each, text=None, metadata=None)
            else:
                yield each


class ScansOwnAlone(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        return (each for each in super().scan(detail) if isinstance(each, StoredRecord))


class StumblesOverDamage(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        for each in super().scan(detail):
            if each == ForeignRecord(record("damaged").id, "main"):
                raise SinkError("a record bears our mark, but was altered")
            yield each


class TrustsDamage(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        for each in super().scan(detail):
            yield stored(record("damaged")) if each == ForeignRecord(record("damaged").id, "main") else each


class FindsNothingForDamage(Service):
    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        if self.server.damaged:
            raise SinkError("a record bears our mark, but was altered")
        return super().search(vector, limit, where)


class ScansByCreating(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        self.prepare(DIMENSION)
        return super().scan(detail)


class MissesTheCollection(Service):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        if self.server.dimension is None:
            raise SinkError("404: no such collection")
        return super().scan(detail)


class CountsWrites(Service):
    def count(self) -> int:
        return self.written

    written = 0

    def write(self, records: Sequence[EmbeddedRecord]) -> None:
        super().write(records)
        self.written += len(records)


class NeverCounts(Service):
    def count(self) -> int | None:  # type: ignore[override]  # as the contract has it
        return None


class CountsEverybodys(Service):
    def count(self) -> int:
        return super().count() + len(self.server.foreign)


class IgnoresConditions(Service):
    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        return super().search(vector, limit)


class FiltersWhatItFound(Service):
    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        return [hit for hit in super().search(vector, limit) if matches(hit.metadata, where)]


class Misunderstands(Service):
    """Has its own idea of which metadata holds a condition."""

    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        hits = super().search(vector, len(self.records))
        return [hit for hit in hits if self.understood(hit.metadata, where)][:limit]

    def understood(self, metadata: Metadata, where: Sequence[Condition]) -> bool:
        return matches(metadata, where)


class AnyOfThemWillDo(Misunderstands):
    def understood(self, metadata: Metadata, where: Sequence[Condition]) -> bool:
        return not where or any(matches(metadata, [each]) for each in where)


class TheLastOneWins(Misunderstands):
    def understood(self, metadata: Metadata, where: Sequence[Condition]) -> bool:
        return matches(metadata, where[-1:])


class ComparesAsText(Misunderstands):
    def understood(self, metadata: Metadata, where: Sequence[Condition]) -> bool:
        return all(
            str(metadata.get(each.field)) == str(each.value) if isinstance(each, Equals) else matches(metadata, [each])
            for each in where
        )


class ComparesAsPython(Misunderstands):
    """Holds true for 1."""

    def understood(self, metadata: Metadata, where: Sequence[Condition]) -> bool:
        return all(
            metadata.get(each.field) == each.value or matches(metadata, [each])
            if isinstance(each, Equals)
            else matches(metadata, [each])
            for each in where
        )


class LooksIntoNoList(Misunderstands):
    def understood(self, metadata: Metadata, where: Sequence[Condition]) -> bool:
        return matches({name: it for name, it in metadata.items() if not isinstance(it, list)}, where)


class FollowsDots(Misunderstands):
    def understood(self, metadata: Metadata, where: Sequence[Condition]) -> bool:
        inner = {f"{name}.{n}": v for name, it in metadata.items() if isinstance(it, dict) for n, v in it.items()}
        return matches({**metadata, **inner}, where)


class IgnoresWhatItCannotName(Misunderstands):
    def understood(self, metadata: Metadata, where: Sequence[Condition]) -> bool:
        return matches(metadata, [each for each in where if '"' not in each.field])


class CountsBoundsIn(Misunderstands):
    def understood(self, metadata: Metadata, where: Sequence[Condition]) -> bool:
        return matches(
            metadata,
            [
                replace(each, at_least=each.above, above=None) if isinstance(each, Between) and each.above else each
                for each in where
            ],
        )


class NamesOtherwise(Service):
    def record_name(self, id: RecordId) -> str | None:
        return id.upper()


class NamesDocuments(Service):
    def record_name(self, id: RecordId) -> str | None:
        return id.rpartition("#")[0]


class NamesNothing(Service):
    def record_name(self, id: RecordId) -> str | None:
        return None


class IsNobody(Service):
    owner = None  # type: ignore[assignment]  # as of what bears no mark


class IncarnatesEachTime(Service):
    def prepare(self, dimension: int) -> str:
        super().prepare(dimension)
        return uuid4().hex


class NeverIncarnates(Service):
    def prepare(self, dimension: int) -> str:
        super().prepare(dimension)
        return "docs"


SABOTEURS: Mapping[type[Service], str] = {
    WritesNothing: "S1_what_is_written_can_be_read_back",
    RoundsVectors: "S1_what_is_written_can_be_read_back",
    TakesHalf: "S1_a_full_call_fits",
    FlattensMetadata: "S1_rich_metadata_can_be_read_back",
    DropsNulls: "S1_rich_metadata_can_be_read_back",
    CountsInDoubles: "S1_rich_metadata_can_be_read_back",
    ScansWithoutDigests: "S1_a_scan_gives_every_record_once",
    ScansOnePage: "S1_a_scan_gives_every_record_once",
    RepeatsBetweenPages: "S1_a_scan_gives_every_record_once",
    KeepsTheFirstDigest: "S1_a_scan_gives_the_latest_digest",
    IgnoresTheQuestion: "S1_a_search_finds_the_nearest_first",
    FindsTheFarthest: "S1_a_search_finds_the_nearest_first",
    ScoresDistances: "S1_a_search_finds_the_nearest_first",
    FindsWithoutText: "S1_a_search_finds_the_nearest_first",
    MergesMetadata: "S2_an_upsert_replaces_the_whole_record",
    InsertsOnly: "S2_an_upsert_replaces_the_whole_record",
    AddsTwice: "S3_the_same_call_twice_leaves_what_once_leaves",
    ClearsFirst: "S4_other_records_are_left_alone",
    ReplacesDocuments: "S4_other_records_are_left_alone",
    DeletesDocuments: "S4_other_records_are_left_alone",
    ScansEverybodys: "S4_foreign_records_are_left_alone_and_never_found",
    FindsEverybodys: "S4_foreign_records_are_left_alone_and_never_found",
    EmptiesWhenPrepared: "S4_foreign_records_are_left_alone_and_never_found",
    StopsAtABadRecord: "S5_an_unacceptable_record_is_rejected",
    RetriesABadRecord: "S5_an_unacceptable_record_is_rejected",
    DropsABadRecord: "S5_an_unacceptable_record_is_rejected",
    KeepsABadRecord: "S5_an_unacceptable_record_is_rejected",
    RejectsWithoutAWord: "S5_an_unacceptable_record_is_rejected",
    DeletesTheFirst: "S6_what_is_deleted_is_gone",
    DeletesUntilClosed: "S6_a_deletion_outlives_the_sink",
    MissesWhatIsNotThere: "S6_deleting_what_is_not_there_is_no_error",
    SwallowsPassing: "S7_a_passing_failure_is_transient",
    ForgetsTheWait: "S7_a_passing_failure_is_transient",
    SwallowsLasting: "S7_a_lasting_failure_is_a_sink_error",
    HopesForever: "S7_a_lasting_failure_is_a_sink_error",
    BreaksForGood: "S7_a_lasting_failure_is_a_sink_error",
    ChecksNothing: "S8_check_refuses_a_collection_of_another_dimension",
    ChecksWithoutNumbers: "S8_check_refuses_a_collection_of_another_dimension",
    ChecksByCreating: "S8_check_writes_nothing",
    ChecksByClearing: "S8_check_writes_nothing",
    RefusesEmptyCalls: "S9_an_empty_call_does_nothing",
    DeletesAllForNone: "S9_an_empty_call_does_nothing",
    LowersIds: "S10_ids_are_kept_apart",
    CutsIds: "S10_ids_are_kept_apart",
    ScansHashedIds: "S10_ids_are_kept_apart",
    IncarnatesEachTime: "S11_the_incarnation_lasts_as_long_as_the_collection",
    NeverIncarnates: "S11_a_collection_made_anew_has_another_incarnation",
    FitsNothing: "S12_what_is_plain_fits",
    FitsLongTexts: "S12_fit_says_beforehand_what_upsert_does",
    DropsNullsInSilence: "S12_fit_says_beforehand_what_upsert_does",
    AltersByWordAlone: "S12_fit_says_beforehand_what_upsert_does",
    FitsEverything: "S12_fit_refuses_what_is_unacceptable_whatever_its_vector",
    FitsByTheFirstText: "S12_fit_looks_at_every_text",
    FitsByAsking: "S12_fit_asks_no_service",
    ScansMarksAlone: "S13_a_scan_tells_as_much_as_is_asked_for",
    ScansForgetfully: "S13_a_scan_tells_as_much_as_is_asked_for",
    ScansOwnAlone: "S13_a_scan_gives_each_foreign_record_as_foreign",
    StumblesOverDamage: "S13_a_damaged_record_ends_no_scan_and_no_search",
    TrustsDamage: "S13_a_damaged_record_ends_no_scan_and_no_search",
    FindsNothingForDamage: "S13_a_damaged_record_ends_no_scan_and_no_search",
    ScansByCreating: "S13_where_there_is_no_collection_there_is_nothing_to_read",
    MissesTheCollection: "S13_where_there_is_no_collection_there_is_nothing_to_read",
    CountsWrites: "S14_records_are_counted",
    NeverCounts: "S14_records_are_counted",
    CountsEverybodys: "S14_foreign_records_are_not_counted",
    IgnoresConditions: "S15_a_search_finds_only_and_all_that_matches",
    AnyOfThemWillDo: "S15_a_search_finds_only_and_all_that_matches",
    TheLastOneWins: "S15_a_search_finds_only_and_all_that_matches",
    ComparesAsText: "S15_a_search_finds_only_and_all_that_matches",
    ComparesAsPython: "S15_a_search_finds_only_and_all_that_matches",
    LooksIntoNoList: "S15_a_search_finds_only_and_all_that_matches",
    FollowsDots: "S15_a_search_finds_only_and_all_that_matches",
    IgnoresWhatItCannotName: "S15_a_search_finds_only_and_all_that_matches",
    CountsBoundsIn: "S15_a_search_finds_only_and_all_that_matches",
    FiltersWhatItFound: "S15_the_limit_counts_what_matches",
    NamesOtherwise: "S16_a_damaged_record_is_named_as_a_scan_names_it",
    NamesDocuments: "S16_no_two_records_share_a_name",
    NamesNothing: "S16_no_two_records_share_a_name",
    IsNobody: "S16_what_is_foreign_bears_no_mark_and_no_name_of_ours",
}


@pytest.mark.parametrize("saboteur", SABOTEURS, ids=lambda saboteur: saboteur.__name__)
def test_a_saboteur_is_caught_by_the_rule_it_breaks(saboteur: type[Service]) -> None:
    assert not keeps(saboteur, SABOTEURS[saboteur])


def test_every_rule_has_a_saboteur() -> None:
    assert set(SABOTEURS.values()) == {
        name.removeprefix("test_") for name in dir(SinkContract) if name.startswith("test_")
    }


def test_a_rule_cannot_be_redefined() -> None:
    def test_S9_an_empty_call_does_nothing(self: object, harness: object) -> None: ...  # noqa: N802 - as in the kit

    with pytest.raises(TypeError, match="redefines"):
        type("TestMine", (SinkContract,), {"test_S9_an_empty_call_does_nothing": test_S9_an_empty_call_does_nothing})


def test_only_rules_of_the_contract_can_be_waived() -> None:
    type("TestMine", (SinkContract,), {"waived": {"S7": "it never fails", "S8_check_writes_nothing": "it must"}})
    with pytest.raises(TypeError, match=r"waives \['S99'\]"):
        type("TestMine", (SinkContract,), {"waived": {"S99": "there is none"}})


def keeps(made: type[Service], rule: str) -> bool:
    """Run one test of the kit, once with each of its parameters."""
    test = getattr(SinkContract(), f"test_{rule}")
    for given in parameters_of(test):
        try:
            test(ServiceHarness(made), **given)
        except (AssertionError, SinkError, TransientError, RejectedError, pytest.fail.Exception):
            return False
    return True


def parameters_of(test: object) -> list[dict[str, object]]:
    marks = getattr(test, "pytestmark", [])
    [(name, values)] = [mark.args for mark in marks if mark.name == "parametrize"] or [("", [None])]
    return [{name: value} if name else {} for value in values]

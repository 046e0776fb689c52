"""The generation kit, tested: the fake keeps every rule, and each broken sink is caught by the rule it breaks."""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from connector.errors import ConfigError, ConnectorError, SinkError, TransientError
from connector.filters import Condition
from connector.model import Detail, EmbeddedRecord, ForeignRecord, Hit, RecordId, StoredRecord
from connector.ports import GenerationSink, Sink
from connector.testing.generations import GenerationContract
from connector.testing.generations_in_memory import Effect, Generation, GenerationInMemory, GenerationsInMemory
from connector.testing.sinks import DIMENSION, VECTORS, SinkContract, record


@dataclass(slots=True)
class Database(GenerationsInMemory):
    """The fake, with what saboteurs need to do their work."""

    looked: threading.Event = field(default_factory=threading.Event)
    backup: dict[int, Generation] = field(default_factory=dict)


class Harness:
    """A generation whose records may be gone half-way: `drop` removes them before it removes the generation."""

    def __init__(self, made: type[GenerationInMemory] = GenerationInMemory) -> None:
        self._made = made
        self.database = Database(one_dimension=True)

    def build(self, generation: int) -> GenerationInMemory:
        return self._made(self.database, generation)

    def stored(self, generation: int) -> Mapping[RecordId, EmbeddedRecord] | None:
        return self.database.held(generation) if generation in self.database.generations else None

    def live(self) -> int | None:
        live = self.database.live
        self.database.looked.set()
        return live

    def leave_half_dropped(self, generation: int) -> None:
        self.database.generations[generation].records.clear()

    def never_live(self) -> tuple[GenerationInMemory, int]:
        self.build(1).prepare(DIMENSION)
        return self.build(2), DIMENSION + 1


class TestGenerationsInMemory(GenerationContract):
    @pytest.fixture
    def harness(self) -> Harness:
        return Harness()


class InMemoryHarness:
    """The fake as one sink among others."""

    def __init__(self) -> None:
        self.remove()
        self.sink.prepare(DIMENSION)

    def stored(self) -> Mapping[RecordId, EmbeddedRecord]:
        return self.database.held(1)

    def exists(self) -> bool:
        return bool(self.database.generations)

    def reopen(self) -> GenerationInMemory:
        self.sink = self.database.sink(1)
        return self.sink

    def remove(self) -> None:
        self.database = GenerationsInMemory()
        self.sink = self.database.sink(1)

    def unacceptable(self) -> EmbeddedRecord:
        return record("bad", vector=VECTORS[0][:2])

    def fail_next_call(self, *, passing: bool, retry_after_seconds: float | None = None) -> None:
        error = TransientError("429", retry_after_seconds=retry_after_seconds) if passing else SinkError("401")
        for effect in ("upsert", "delete"):
            self.database._failures.clear()
            self.database.fail_next(effect, error)
        self.database._failures["upsert"] = self.database._failures["delete"]

    def plant_foreign(self, vector: object) -> None:
        raise AssertionError("waived")

    def foreign_is_intact(self) -> bool:
        raise AssertionError("waived")

    def damage(self, id: RecordId) -> None:
        raise AssertionError("waived")


class TestGenerationInMemoryAsASink(SinkContract):
    waived = dict.fromkeys(
        (
            "S4_foreign_records_are_left_alone_and_never_found",
            "S13_a_scan_gives_each_foreign_record_as_foreign",
            "S13_a_damaged_record_ends_no_scan_and_no_search",
            "S14_foreign_records_are_not_counted",
        ),
        "nobody else can write to it",
    )

    @pytest.fixture
    def harness(self) -> InMemoryHarness:
        return InMemoryHarness()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("effect", ["prepare", "upsert", "delete", "make_live", "drop"])
def test_the_fake_fails_before_or_after_each_effect_once(effect: Effect, after: bool) -> None:
    database = GenerationsInMemory()
    database.sink(1).prepare(DIMENSION)
    sink = database.sink(2)
    if effect != "prepare":
        sink.prepare(DIMENSION)
    if effect == "delete":
        sink.upsert([record()])
    act, done = {
        "prepare": (lambda: sink.prepare(DIMENSION), lambda: 2 in database.generations),
        "upsert": (lambda: sink.upsert([record()]), lambda: bool(database.held(2))),
        "delete": (lambda: sink.delete([record().id]), lambda: not database.held(2)),
        "make_live": (sink.make_live, lambda: database.live == 2),
        "drop": (sink.drop, lambda: 2 not in database.generations),
    }[effect]
    database.fail_next(effect, TransientError("503"), after=after)
    with pytest.raises(TransientError):
        act()
    assert done() == after
    act()
    assert done()
    assert database.calls[-2:] == [(effect, 2)] * 2


def test_a_reader_of_the_fake_gets_what_is_live() -> None:
    database = GenerationsInMemory()
    with pytest.raises(LookupError):
        database.read(VECTORS[0], 1)
    for generation, text in ((1, "old"), (2, "new")):
        database.sink(generation).prepare(DIMENSION)
        database.sink(generation).upsert([record(text=text)])
    assert [(n, hit.text) for n, hits in [database.read(VECTORS[0], 1)] for hit in hits] == [(1, "old")]
    database.sink(2).make_live()
    assert [(n, hit.text) for n, hits in [database.read(VECTORS[0], 1)] for hit in hits] == [(2, "new")]


def test_only_a_sink_with_generations_is_one() -> None:
    assert isinstance(GenerationsInMemory().sink(1), GenerationSink)
    assert not hasattr(Sink, "make_live")


# --- saboteurs: each breaks one rule ----------------------------------------------------------------------


class WritesToAll(GenerationInMemory):
    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        for each in self._database.generations.values():
            each.records.update({it.id: it for it in records})


class DeletesFromAll(GenerationInMemory):
    def delete(self, ids: Sequence[RecordId]) -> None:
        for each in self._database.generations.values():
            for id in ids:
                each.records.pop(id, None)


class SearchesWhatIsLive(GenerationInMemory):
    def search(self, vector: object, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        live = self._database.sink(self._database.live)
        return GenerationInMemory.search(live, vector, limit, where)


class ScansAll(GenerationInMemory):
    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        every = [self._database.sink(number).scan(detail) for number in self._database.generations]
        return itertools.chain.from_iterable(every)


class CountsAll(GenerationInMemory):
    def count(self) -> int:
        return sum(len(each.records) for each in self._database.generations.values())


class SharesTheIncarnation(GenerationInMemory):
    def prepare(self, dimension: int) -> str:
        super().prepare(dimension)
        return "docs"


class ChecksWhatIsLive(GenerationInMemory):
    def check(self, dimension: int) -> str | None:
        live = self._database.live
        return super().check(dimension) or (self._database.generations[live].incarnation if live else None)


class SaysOne(GenerationInMemory):
    def live(self) -> int:
        return super().live() or 1


class WaitsToBeMadeLive(GenerationInMemory):
    def prepare(self, dimension: int) -> str:
        before = self._database.live
        incarnation = super().prepare(dimension)
        self._database.live = before
        return incarnation


class OnlyOneGoesLive(GenerationInMemory):
    """Takes the first generation for number 1."""

    def prepare(self, dimension: int) -> str:
        before = self._database.live
        incarnation = super().prepare(dimension)
        self._database.live = 1 if self.generation == 1 else before
        return incarnation


class LiveWhenPrepared(GenerationInMemory):
    def prepare(self, dimension: int) -> str:
        incarnation = super().prepare(dimension)
        self._database.live = self.generation
        return incarnation


class RemembersWhatIsLive(GenerationInMemory):
    _live: int | None = None

    def live(self) -> int | None:
        self._live = self._live or super().live()
        return self._live


class OnlyForward(GenerationInMemory):
    def make_live(self) -> None:
        if self.generation > (self._database.live or 0):
            super().make_live()


class ClearsTheOldOne(GenerationInMemory):
    def make_live(self) -> None:
        before = self._database.live
        super().make_live()
        if before not in (None, self.generation):
            self._database.generations[before].records.clear()


class RefusesTwice(GenerationInMemory):
    def make_live(self) -> None:
        if self._database.live == self.generation:
            raise SinkError("409: alias exists")
        super().make_live()


class LiveInMemoryOnly(GenerationInMemory):
    """Moves back when somebody else comes."""

    def __init__(self, database: GenerationsInMemory, generation: int, name: str = "main") -> None:
        super().__init__(database, generation, name)
        if 1 in database.generations:
            database.live = 1


class MakesNothingLive(GenerationInMemory):
    def make_live(self) -> None:
        self._database.live = self.generation


class TwoSteps(GenerationInMemory):
    """Deletes the alias, and then creates it."""

    def make_live(self) -> None:
        self._made()
        self._database.live = None
        self._database.looked.clear()
        self._database.looked.wait(timeout=10)  # a service takes its time
        self._database.live = self.generation


class DropsAll(GenerationInMemory):
    def drop(self) -> None:
        super().drop()
        for number in [it for it in self._database.generations if it != self._database.live]:
            del self._database.generations[number]


class DropsNothing(GenerationInMemory):
    def drop(self) -> None:
        pass


class EmptiesInsteadOfDropping(GenerationInMemory):
    def drop(self) -> None:
        if self._database.live == self.generation:
            super().drop()
        if self.generation in self._database.generations:
            self._database.generations[self.generation].records.clear()


class DropsTheLiveOne(GenerationInMemory):
    def drop(self) -> None:
        self._database.generations.pop(self.generation, None)
        self._database.live = min(self._database.generations, default=None)


class MissesWhatIsNotThere(GenerationInMemory):
    def drop(self) -> None:
        self._made()
        super().drop()


class KeepsABackup(GenerationInMemory):
    """Brings back what was dropped."""

    def drop(self) -> None:
        if self.generation in self._database.generations:
            self._database.backup[self.generation] = self._database.generations[self.generation]
        super().drop()

    def prepare(self, dimension: int) -> str:
        if self.generation in self._database.backup:
            self._database.generations[self.generation] = self._database.backup[self.generation]
        return super().prepare(dimension)


class StopsAtRuins(GenerationInMemory):
    def drop(self) -> None:
        self._refuse_ruins()
        super().drop()

    def prepare(self, dimension: int) -> str:
        self._refuse_ruins()
        return super().prepare(dimension)

    def _refuse_ruins(self) -> None:
        made = self._database.generations.get(self.generation)
        if made is not None and not made.records and self.generation == 2:
            raise ConfigError("generation 2 is damaged")


class ChecksNothing(GenerationInMemory):
    def check(self, dimension: int) -> str | None:
        made: Generation | None = self._database.generations.get(self.generation)
        return made.incarnation if made else None


SABOTEURS: Mapping[type[GenerationInMemory], str] = {
    WritesToAll: "G1_generations_hold_their_own_records",
    DeletesFromAll: "G1_generations_hold_their_own_records",
    SearchesWhatIsLive: "G1_generations_read_their_own_records",
    ScansAll: "G1_generations_read_their_own_records",
    CountsAll: "G1_generations_read_their_own_records",
    SharesTheIncarnation: "G1_generations_have_their_own_incarnations",
    ChecksWhatIsLive: "G1_generations_have_their_own_incarnations",
    SaysOne: "G2_at_first_nothing_is_live",
    WaitsToBeMadeLive: "G2_the_first_that_is_prepared_is_live_at_once",
    OnlyOneGoesLive: "G2_the_first_that_is_prepared_is_live_at_once",
    LiveWhenPrepared: "G2_later_ones_are_not_live_by_themselves",
    RemembersWhatIsLive: "G2_what_is_live_is_asked_of_the_database",
    OnlyForward: "G3_make_live_changes_what_readers_get_and_back",
    ClearsTheOldOne: "G3_make_live_changes_what_readers_get_and_back",
    RefusesTwice: "G3_make_live_changes_what_readers_get_and_back",
    LiveInMemoryOnly: "G3_make_live_outlives_the_sink",
    MakesNothingLive: "G3_what_is_not_there_is_not_made_live",
    TwoSteps: "G3_a_reader_gets_the_one_or_the_other",
    DropsAll: "G4_drop_removes_this_generation_and_nothing_else",
    EmptiesInsteadOfDropping: "G4_drop_removes_this_generation_and_nothing_else",
    DropsTheLiveOne: "G4_the_live_one_is_not_dropped",
    MissesWhatIsNotThere: "G4_dropping_what_is_not_there_is_no_error",
    KeepsABackup: "G4_what_was_dropped_is_made_anew_and_empty",
    StopsAtRuins: "G4_a_drop_that_was_killed_is_finished_by_the_next_run",
    DropsNothing: "G4_a_drop_that_was_killed_is_finished_by_the_next_run",
    ChecksNothing: "G5_check_refuses_what_could_not_be_made_live",
}


@pytest.mark.parametrize("saboteur", SABOTEURS, ids=lambda saboteur: saboteur.__name__)
def test_a_saboteur_is_caught_by_the_rule_it_breaks(saboteur: type[GenerationInMemory]) -> None:
    assert not keeps(saboteur, SABOTEURS[saboteur])


def test_every_rule_has_a_saboteur() -> None:
    assert set(SABOTEURS.values()) == {
        name.removeprefix("test_") for name in dir(GenerationContract) if name.startswith("test_")
    }


def keeps(made: type[GenerationInMemory], rule: str) -> bool:
    """Run one test of the kit, once with each of its parameters."""
    test = getattr(GenerationContract(), f"test_{rule}")
    marks = [mark.args for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
    assert set(inspect.signature(test).parameters) == {"harness", *(name for name, _ in marks)}
    for given in [{name: value} for name, values in marks for value in values] or [{}]:
        try:
            test(Harness(made), **given)
        except (AssertionError, ConnectorError, pytest.fail.Exception):
            return False
    return True

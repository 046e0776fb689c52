"""The contract of generations as a pytest class, to which anyone's sink can be held that has several.

    from connector.testing.generations import GenerationContract

    class TestMyGenerations(GenerationContract):
        @pytest.fixture
        def harness(self):
            yield MyHarness()

Such a sink is held to `SinkContract` as well. A rule is waived as there, by name and with a reason.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

import pytest

from connector.errors import ConfigError, SinkError
from connector.model import EmbeddedRecord, RecordId
from connector.ports import GenerationSink
from connector.testing.contract import Contract
from connector.testing.sink_records import DIMENSION, VECTORS, ours, record, stored

SWITCHES = 20
"""How often a reader is shown another generation while it looks."""


class GenerationHarness(Protocol):
    """What the contract needs, besides the sinks, of whoever wrote them. At first there is no generation."""

    def build(self, generation: int) -> GenerationSink:
        """Build the sink of a generation, as the next run does, after closing the one built for it before, if any."""
        ...

    def stored(self, generation: int) -> Mapping[RecordId, EmbeddedRecord] | None:
        """Read the connector's records of a generation, not through a sink; None if it is not there."""
        ...

    def live(self) -> int | None:
        """Tell which generation readers get, not through a sink. Called from another thread, too."""
        ...

    def leave_half_dropped(self, generation: int) -> None:
        """Leave of a generation, which is there and not live, what a `drop` leaves that was killed half-way."""
        ...

    def never_live(self) -> tuple[GenerationSink, int]:
        """Give a sink, and a dimension to check it for, whose generation is not there and could not be made live."""
        ...


class GenerationContract(Contract):
    """The rules G1 to G5 of `connector.ports.GenerationSink`."""

    @pytest.fixture
    def harness(self) -> GenerationHarness:
        raise NotImplementedError("give the contract a harness: see GenerationHarness")

    def test_G1_generations_hold_their_own_records(self, harness: GenerationHarness) -> None:
        old, new = prepared(harness, 1), prepared(harness, 2)
        shared, gone, of_old, of_new = record("shared"), record("gone"), record("old"), record("new")
        old.upsert([shared, gone, of_old])
        new.upsert([record("shared", text="new"), gone, of_new])
        new.delete([gone.id, of_old.id])
        assert harness.stored(1) == {each.id: each for each in (shared, gone, of_old)}
        assert harness.stored(2) == {each.id: each for each in (record("shared", text="new"), of_new)}

    def test_G1_generations_read_their_own_records(self, harness: GenerationHarness) -> None:
        old, new = prepared(harness, 1), prepared(harness, 2)
        old.upsert([record("shared"), record("old")])
        assert (list(new.scan()), new.count() or 0, new.search(VECTORS[0], 5)) == ([], 0, [])
        new.upsert([record("shared", digest=bytes(16))])
        assert list(new.scan()) == [stored(record("shared", digest=bytes(16)))]
        assert [hit.id for hit in new.search(VECTORS[0], 5)] == [record("shared").id]
        assert (new.count() or 1, old.count() or 2) == (1, 2)
        assert ours(old.scan()) == [stored(record("old")), stored(record("shared"))]

    def test_G1_generations_have_their_own_incarnations(self, harness: GenerationHarness) -> None:
        old, new = harness.build(1), harness.build(2)
        first = old.prepare(DIMENSION)
        assert new.check(DIMENSION) is None
        second = new.prepare(DIMENSION)
        assert first != second
        assert (old.check(DIMENSION), new.check(DIMENSION)) == (first, second)
        assert (harness.build(1).prepare(DIMENSION), harness.build(2).prepare(DIMENSION)) == (first, second)

    def test_G2_at_first_nothing_is_live(self, harness: GenerationHarness) -> None:
        sink = harness.build(1)
        sink.check(DIMENSION)
        assert sink.live() is None
        assert harness.live() is None

    @pytest.mark.parametrize("first", [1, 3])
    def test_G2_the_first_that_is_prepared_is_live_at_once(self, harness: GenerationHarness, first: int) -> None:
        assert prepared(harness, first).live() == first
        assert harness.live() == first

    def test_G2_later_ones_are_not_live_by_themselves(self, harness: GenerationHarness) -> None:
        prepared(harness, 1)
        new = prepared(harness, 2)
        new.upsert([record()])
        assert new.live() == 1
        assert harness.live() == 1
        prepared(harness, 2)
        assert harness.live() == 1

    def test_G2_what_is_live_is_asked_of_the_database(self, harness: GenerationHarness) -> None:
        old, new = prepared(harness, 1), prepared(harness, 2)
        assert (old.live(), new.live()) == (1, 1)
        new.make_live()
        assert (old.live(), new.live()) == (2, 2)
        assert harness.build(1).live() == 2

    def test_G3_make_live_changes_what_readers_get_and_back(self, harness: GenerationHarness) -> None:
        old, new = prepared(harness, 1), prepared(harness, 2)
        old.upsert([record("old")])
        new.upsert([record("new")])
        for sink, generation in ((new, 2), (new, 2), (old, 1), (new, 2)):
            sink.make_live()
            assert harness.live() == generation
        assert [set(harness.stored(generation) or ()) for generation in (1, 2)] == [
            {record("old").id},
            {record("new").id},
        ]

    def test_G3_make_live_outlives_the_sink(self, harness: GenerationHarness) -> None:
        prepared(harness, 1)
        prepared(harness, 2).make_live()
        for generation in (1, 2):
            assert prepared(harness, generation).live() == 2
        assert harness.live() == 2

    def test_G3_what_is_not_there_is_not_made_live(self, harness: GenerationHarness) -> None:
        prepared(harness, 1)
        with pytest.raises((ConfigError, SinkError)) as caught:
            harness.build(2).make_live()
        assert str(caught.value)
        assert harness.live() == 1

    def test_G3_a_reader_gets_the_one_or_the_other(self, harness: GenerationHarness) -> None:
        sinks = [prepared(harness, 1), prepared(harness, 2)]
        seen: set[int | None] = set()
        done, looked = threading.Event(), threading.Event()

        def look() -> None:
            while not done.is_set():
                try:
                    seen.add(harness.live())
                except BaseException:
                    seen.add(None)
                    raise
                finally:
                    looked.set()

        reader = threading.Thread(target=look)
        reader.start()
        try:
            for number in range(SWITCHES):
                looked.clear()
                looked.wait()
                sinks[number % 2].make_live()
        finally:
            done.set()
            reader.join()
        assert seen <= {1, 2}

    def test_G4_drop_removes_this_generation_and_nothing_else(self, harness: GenerationHarness) -> None:
        sinks = [prepared(harness, generation) for generation in (1, 2, 3)]
        for sink in sinks:
            sink.upsert([record()])
        sinks[1].make_live()
        sinks[0].drop()
        assert [harness.stored(generation) for generation in (1, 2, 3)] == [None, *[{record().id: record()}] * 2]
        assert harness.live() == 2
        assert harness.build(1).check(DIMENSION) is None

    def test_G4_the_live_one_is_not_dropped(self, harness: GenerationHarness) -> None:
        prepared(harness, 1).upsert([record()])
        with pytest.raises(ConfigError) as caught:
            harness.build(1).drop()
        assert str(caught.value)
        assert harness.stored(1) == {record().id: record()}
        assert harness.live() == 1

    def test_G4_dropping_what_is_not_there_is_no_error(self, harness: GenerationHarness) -> None:
        prepared(harness, 1)
        harness.build(2).drop()
        prepared(harness, 2).drop()
        harness.build(2).drop()
        assert harness.stored(2) is None
        assert harness.live() == 1

    def test_G4_what_was_dropped_is_made_anew_and_empty(self, harness: GenerationHarness) -> None:
        prepared(harness, 1)
        new = harness.build(2)
        first = new.prepare(DIMENSION)
        new.upsert([record()])
        new.drop()
        again = harness.build(2)
        assert again.prepare(DIMENSION) != first
        assert list(again.scan()) == []
        again.upsert([record("again")])
        assert harness.stored(2) == {record("again").id: record("again")}

    @pytest.mark.parametrize("next_run", ["drop", "prepare"])
    def test_G4_a_drop_that_was_killed_is_finished_by_the_next_run(
        self, harness: GenerationHarness, next_run: str
    ) -> None:
        prepared(harness, 1).upsert([record()])
        prepared(harness, 2).upsert([record()])
        harness.leave_half_dropped(2)
        sink = harness.build(2)
        if next_run == "drop":
            sink.drop()
            assert harness.stored(2) is None
        else:
            sink.prepare(DIMENSION)
            assert harness.stored(2) == {each.id: record() for each in ours(sink.scan())}
        assert harness.stored(1) == {record().id: record()}
        assert harness.live() == 1

    def test_G5_check_refuses_what_could_not_be_made_live(self, harness: GenerationHarness) -> None:
        sink, dimension = harness.never_live()
        with pytest.raises(ConfigError) as caught:
            sink.check(dimension)
        assert str(caught.value)


def prepared(harness: GenerationHarness, generation: int) -> GenerationSink:
    """Build the sink of a generation, ready to be written to."""
    sink = harness.build(generation)
    sink.prepare(DIMENSION)
    return sink

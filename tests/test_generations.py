"""What a run does about generations, decided from rows and settings alone: every line of the table."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from connector.generations import (
    Decision,
    Generation,
    Made,
    State,
    Step,
    before_live,
    believe,
    decide,
    ledger_name,
    names_for_people,
    sink_and_number,
    with_live,
)

OLD, NEW, OTHER = Made("old", "s"), Made("new", "s"), Made("other", "s")


def row(number: int, state: State, made: Made, switched_at: float | None = None) -> Generation:
    return Generation(number, state, made, "{}", created_at=0.0, switched_at=switched_at)


LIVE = row(1, State.LIVE, OLD)


def decided(
    rows: Sequence[Generation],
    asked: Made = NEW,
    *,
    accepted: bool = False,
    beside: bool = True,
    holding: Collection[int] | None = None,
    prepared: Collection[int] | None = None,
) -> Decision:
    numbers = {it.number for it in rows}
    return decide(
        rows,
        asked,
        accepted=accepted,
        beside=beside,
        next_number=max(numbers, default=0) + 1,
        holding=numbers if holding is None else holding,
        prepared=numbers if prepared is None else prepared,
    )


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_what_is_asked_for_for_the_first_time_is_started(*, accepted: bool, beside: bool) -> None:
    assert decided([], accepted=accepted, beside=beside) == Decision(Step.START, 1)
    assert decided([LIVE], accepted=accepted, beside=beside, prepared=()) == Decision(Step.START, 1)


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_a_live_one_that_fits_is_kept_with_the_retained_ones(*, accepted: bool, beside: bool) -> None:
    rows = [row(1, State.RETAINED, OTHER), row(2, State.LIVE, NEW), row(3, State.BUILDING, OTHER)]
    wanted = Decision(Step.KEEP, 2, 2, others=(1,), abandoned=(3,))
    assert decided(rows, accepted=accepted, beside=beside) == wanted


@pytest.mark.parametrize("state", [State.BUILDING, State.SWITCHING])
def test_one_that_is_being_built_goes_on_and_asks_nobody(state: State) -> None:
    rows = [LIVE, row(2, state, NEW), row(3, State.RETAINED, OTHER)]
    assert decided(rows) == Decision(Step.BUILD, 2, 1, others=(1, 3))


def test_a_retained_one_that_fits_is_a_roll_back_and_nothing_is_switched() -> None:
    assert decided([LIVE, row(2, State.RETAINED, NEW)]) == Decision(Step.HOLD, 2, 1, others=(1,))


def test_a_new_one_is_asked_about_and_begun_when_it_is_accepted() -> None:
    assert decided([LIVE]) == Decision(Step.ASK, 2, 1, others=(1,))
    assert decided([LIVE], accepted=True) == Decision(Step.BEGIN, 2, 1, others=(1,))


def test_where_nothing_is_at_stake_nobody_is_asked_and_the_empty_one_receives_nothing() -> None:
    assert decided([LIVE], holding=()) == Decision(Step.BEGIN, 2, 1)


@pytest.mark.parametrize("accepted", [True, False])
def test_where_a_sink_has_one_collection_only_it_is_replaced_in_place(*, accepted: bool) -> None:
    assert decided([LIVE], accepted=accepted, beside=False) == Decision(Step.REPLACE, 1, 1)


def test_one_that_was_built_for_other_settings_is_abandoned_and_one_that_is_being_dropped_is_nothing() -> None:
    rows = [LIVE, row(2, State.BUILDING, OTHER), row(3, State.DROPPING, NEW)]
    assert decided(rows, accepted=True) == Decision(Step.BEGIN, 4, 1, others=(1,), abandoned=(2,))


def test_another_splitter_is_another_recipe() -> None:
    assert decided([LIVE], Made("old", "t")).step is Step.ASK
    assert Made("old", "t").difference(OLD) == "the splitter changed from s to t"
    assert (
        Made("new", "t").difference(OLD) == "the embedder changed from old to new and the splitter changed from s to t"
    )


@pytest.mark.parametrize(
    "words, live",
    [
        ({}, 1),
        ({"a": None}, 1),
        ({"a": 1, "b": 2}, 1),
        ({"a": 2, "b": None}, 2),
        ({"a": 2, "b": 2}, 2),
        ({"a": 2, "b": 3}, 1),
        ({"a": 9}, 1),
        ({"a": 4}, 1),
    ],
)
def test_the_sinks_are_believed_about_what_is_live(words: dict[str, int | None], live: int) -> None:
    rows = [LIVE, row(2, State.RETAINED, NEW), row(3, State.BUILDING, OTHER), row(4, State.DROPPING, OTHER)]
    assert believe(rows, words) == live
    assert believe([], words) is None


def test_one_is_live_and_the_one_before_it_is_retained() -> None:
    rows = [LIVE, row(2, State.SWITCHING, NEW)]
    after = with_live(rows, 2, now=5.0)
    assert [(it.state, it.switched_at) for it in after] == [(State.RETAINED, None), (State.LIVE, 5.0)]
    assert with_live(after, 2, now=6.0) == after


def test_roll_back_is_to_the_one_that_was_live_last() -> None:
    rows = [row(1, State.RETAINED, OLD, 1.0), row(2, State.RETAINED, NEW, 3.0), row(3, State.LIVE, OTHER, 2.0)]
    assert before_live(rows) == rows[1]
    assert before_live([LIVE, row(2, State.BUILDING, NEW)]) is None


def test_ledgers_are_named_for_the_database_and_for_people() -> None:
    assert [ledger_name("main", number) for number in (1, 2)] == ["main", "main@2"]
    assert [sink_and_number(name) for name in ("main", "main@12")] == [("main", 1), ("main", 12)]
    assert names_for_people(["main", "main@2", "plain"], 2) == {"main": "main@1", "main@2": "main", "plain": "plain"}
    assert names_for_people(["main", "main@2"], None) == {"main": "main", "main@2": "main@2"}

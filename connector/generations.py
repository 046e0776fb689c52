"""Decide which generations of an index a run works on. Pure: the same rows and settings always give the same decision.

A generation is all that one recipe made: one collection in each sink, beside those of the other generations. Only the
embedder and the splitter make another one; a changed source part of the recipe is a refresh in place. A generation

    building    is being filled, and nobody reads it
    switching   is full and verified: readers are being sent to it, and a run that finds it so goes on with that
    live        is read
    retained    was live before; it receives changes, so that roll-back costs nothing
    dropping    is being removed, and nothing else is done with it

The decision (`decide`); "fits" means that embedder and splitter are those that the settings ask for:

    live            another one            accepted  all sinks can  step     which one, and what else receives changes
    --------------  ---------------------  --------  -------------  -------  -----------------------------------------
    there is none   any                    any       any            start    a new one, live at once
    was never made  any                    any       any            start    the same number, as if new
    fits            any                    any       any            keep     the live one; the retained
    does not        a building one fits    any       any            build    that one; the live and the retained
    does not        a retained one fits    any       any            hold     that one; the live and the retained
    does not        none fits              no        yes            ask      nothing; a new one would be built
    does not        none fits              yes       yes            begin    a new one; the live and the retained
    holds nothing   none fits              any       yes            begin    a new one; nothing is at stake
    does not        none fits              any       no             replace  the live one, in place: the engine asks

"hold" is a roll-back: readers stay where the operator sent them, whatever the settings say. A building generation that
does not fit the settings is abandoned: it is left as it is, for settings that fit it again or for `generations drop`.
One that holds nothing and is not the one that the settings ask for receives nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

SEPARATOR: Final = "@"
"""Stands between a sink's name and the number of a generation; no sink's name has it."""
FIRST: Final = 1


class State(StrEnum):
    """What a generation is there for."""

    BUILDING = "building"
    SWITCHING = "switching"
    LIVE = "live"
    RETAINED = "retained"
    DROPPING = "dropping"


@dataclass(frozen=True, slots=True)
class Made:
    """The part of a recipe that a generation is made by."""

    embedder: str  # identity
    splitter: str  # identity

    def difference(self, before: Made) -> str:
        """Say what changed since `before`; empty if nothing did."""
        changes = [
            f"the {part} changed from {old} to {new}"
            for part, old, new in (
                ("embedder", before.embedder, self.embedder),
                ("splitter", before.splitter, self.splitter),
            )
            if old != new
        ]
        return " and ".join(changes)


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation, as it is remembered. Times are in seconds since 1970."""

    number: int
    state: State
    made: Made
    embedder_settings: str | None  # as `config.canonical` writes them, so without secrets; None: not known
    created_at: float
    accepted_at: float | None = None  # when its price was accepted
    switched_at: float | None = None  # when it became live, the last time
    in_step: bool = False  # how its last run ended

    @property
    def is_building(self) -> bool:
        return self.state in (State.BUILDING, State.SWITCHING)


class Step(StrEnum):
    """What a run does about generations; see the table of the module."""

    START = "start"
    KEEP = "keep"
    BUILD = "build"
    HOLD = "hold"
    ASK = "ask"
    BEGIN = "begin"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a run does: the number of the generation that the settings ask for, and the others it keeps in step."""

    step: Step
    target: int
    live: int | None = None
    others: tuple[int, ...] = ()  # in the order in which they are brought up to date
    abandoned: tuple[int, ...] = ()  # half built for other settings

    @property
    def is_new(self) -> bool:
        """Whether the target is still to be noted."""
        return self.step in (Step.START, Step.ASK, Step.BEGIN)


def decide(
    generations: Sequence[Generation],
    asked: Made,
    *,
    accepted: bool,
    beside: bool,
    next_number: int,
    holding: Collection[int],
    prepared: Collection[int],
) -> Decision:
    """Decide by the table of the module.

    `beside` tells that every sink can build a generation beside another; `holding` are the generations with
    documents in some ledger, `prepared` those with a collection in some sink.
    """
    live = live_of(generations)
    if live is None or live.number not in prepared:
        return Decision(Step.START, next_number if live is None else live.number)
    kept = [live.number, *(it.number for it in generations if it.state is State.RETAINED)]
    building = [it for it in generations if it.is_building]
    fitting = next((it for it in building if it.made == asked), None)
    fitting = fitting or next((it for it in generations if it.state is State.RETAINED and it.made == asked), None)
    if live.made == asked:
        step, target = Step.KEEP, live.number
    elif fitting is not None:
        step, target = Step.BUILD if fitting.is_building else Step.HOLD, fitting.number
    elif not beside:
        step, target = Step.REPLACE, live.number
    else:
        step, target = Step.BEGIN if accepted or live.number not in holding else Step.ASK, next_number
    return Decision(
        step,
        target,
        live.number,
        others=tuple(number for number in kept if number != target and number in holding),
        abandoned=tuple(it.number for it in building if it.number != target),
    )


def live_of(generations: Sequence[Generation]) -> Generation | None:
    """Find the one that is read."""
    return next((it for it in generations if it.state is State.LIVE), None)


def before_live(generations: Sequence[Generation]) -> Generation | None:
    """Find the one to roll back to: that was live most recently, before the live one."""
    retained = [it for it in generations if it.state is State.RETAINED]
    return max(retained, key=lambda it: it.switched_at or 0.0, default=None)


def believe(generations: Sequence[Generation], words: Mapping[str, int | None]) -> int | None:
    """Say which generation is live, by the words of the databases and not by our memory.

    the sinks that know say                       live is
    --------------------------------------------  ---------------------------------------------
    nothing                                       the remembered one
    also the remembered one                       that; the other sinks have yet to follow
    all the same one, which is in the book        that: somebody has switched behind our back
    different ones, or one that is not            the remembered one
    """
    live = live_of(generations)
    said = {word for word in words.values() if word is not None}
    if live is None or not said or live.number in said or len(said) > 1:
        return live.number if live else None
    (word,) = said
    known = {it.number for it in generations if it.state is not State.DROPPING}
    return word if word in known else live.number


def with_live(generations: Sequence[Generation], number: int | None, now: float) -> list[Generation]:
    """Give the generations as they are when readers get `number`; the one they got before is retained."""

    def after(it: Generation) -> Generation:
        if it.number == number:
            return it if it.state is State.LIVE else replace(it, state=State.LIVE, switched_at=now)
        return replace(it, state=State.RETAINED) if it.state is State.LIVE else it

    return [after(it) for it in generations]


def ledger_name(sink: str, number: int) -> str:
    """Name a sink's ledger of a generation; that of the first is as it was before there were generations."""
    return sink if number == FIRST else f"{sink}{SEPARATOR}{number}"


def sink_and_number(ledger: str) -> tuple[str, int]:
    """Tell whose ledger it is, and of which generation."""
    sink, _, number = ledger.partition(SEPARATOR)
    return sink, int(number) if number else FIRST


def names_for_people(ledgers: Collection[str], live: int | None) -> dict[str, str]:
    """Name ledgers so that the live generation has the sink's plain name: "main", and beside it "main@1".

    A sink that cannot have generations has one ledger, whose name is plain whichever generation is live.
    """
    live = live or FIRST
    told: dict[str, str] = {}
    for ledger in ledgers:
        sink, number = sink_and_number(ledger)
        is_live = number == live or (number == FIRST and ledger_name(sink, live) not in ledgers)
        told[ledger] = sink if is_live else f"{sink}{SEPARATOR}{number}"
    return told

"""Look at the generations of a sync, send readers to another one, and remove one.

All of it is outside of a run, and embeds nothing. All but the list hold the lease.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .errors import ConfigError, SafetyError
from .events import Emit, ignore
from .generation_parts import OpenSync, open_sync
from .generation_switch import settle, switch, verify
from .generations import Generation, State, before_live, live_of, sink_and_number
from .retry import Retry

if TYPE_CHECKING:
    from .config import Settings
    from .model import JsonValue


@dataclass(frozen=True, slots=True)
class SinkOfGeneration:
    """One generation in one sink."""

    documents: int  # by its ledger
    is_live: bool  # readers get it, by the sink's own word


@dataclass(frozen=True, slots=True)
class SeenGeneration:
    """One generation, as it stands."""

    number: int
    state: State
    embedder: str  # identity
    splitter: str
    in_step: bool  # how its last run ended
    created_at: float | None  # seconds since 1970; None: before this was noted
    switched_at: float | None
    sinks: dict[str, SinkOfGeneration]

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values; times are ISO 8601 in UTC."""
        return {
            "number": self.number,
            "state": str(self.state),
            "embedder": self.embedder,
            "splitter": self.splitter,
            "in_step": self.in_step,
            "created_at": _iso(self.created_at),
            "switched_at": _iso(self.switched_at),
            "sinks": {name: asdict(sink) for name, sink in self.sinks.items()},
        }


@dataclass(frozen=True, slots=True)
class Switched:
    """Which generation readers get, and which they got before."""

    live: int
    before: int | None
    notes: tuple[str, ...] = ()  # what to know of it, one line each

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return {"live": self.live, "before": self.before, "notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class Dropped:
    """A generation that is gone, and what of it could not be reached."""

    number: int
    sinks: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return {"dropped": self.number, "sinks": list(self.sinks), "notes": list(self.notes)}


def generations(settings: Settings) -> list[SeenGeneration]:
    """List the generations; each sink is asked which one its readers get. Nothing is written."""
    with open_sync(settings, read_only=True) as opened:
        words = opened.words()
        found = opened.generations(words)
        live = live_of(found)
        return [
            SeenGeneration(
                number=it.number,
                state=it.state,
                embedder=it.made.embedder,
                splitter=it.made.splitter,
                in_step=it.in_step,
                created_at=it.created_at or None,
                switched_at=it.switched_at or None,
                sinks={
                    name: SinkOfGeneration(
                        opened.checkpoints.count(opened.ledger(name, it.number)),
                        words.get(name, live.number if live else None) == it.number,
                    )
                    for name in settings.sinks
                    if opened.checkpoints.incarnation(opened.ledger(name, it.number)) is not None
                    and (opened.generation_sink(name) or it.state is State.LIVE)
                },
            )
            for it in found
        ]


def switch_to(settings: Settings, number: int | None = None, *, emit: Emit = ignore) -> Switched:
    """Send readers to a generation: the one named, or the one that was built and waits for it.

    Raises:
        ConfigError: there is no such generation, or none waits.
        SafetyError: it is not whole, so readers would miss documents.
        TransientError, SinkError: a sink is out of reach; run it again, or the next sync finishes it.
        LeaseError: a run has the state.
    """
    with open_sync(settings) as opened:
        before = live_of(opened.book.all())
        known = settle(opened, now=time.time(), retry=Retry(), emit=emit).generations
        chosen = _waiting(known) if number is None else _find(known, number)
        return _switch(opened, before, chosen, emit)


def roll_back(settings: Settings, *, emit: Emit = ignore) -> Switched:
    """Send readers back to the generation that they got before. Nothing is embedded.

    Raises:
        ConfigError: no generation was live before this one, or it was dropped.
        TransientError, SinkError, LeaseError: as of `switch_to`.
    """
    with open_sync(settings) as opened:
        before = opened.book.all()
        known = settle(opened, now=time.time(), retry=Retry(), emit=emit).generations
        # One that was cut off is finished by now, or is to be: to go back from there would undo it.
        cut_off = next((it for it in before if it.state is State.SWITCHING and it.switched_at is not None), None)
        chosen = _find(known, cut_off.number) if cut_off else before_live(known)
        if chosen is None:
            raise ConfigError("there is no generation to go back to: none was live before, or it was dropped")
        return _switch(opened, live_of(before), chosen, emit)


def _switch(opened: OpenSync, before: Generation | None, chosen: Generation, emit: Emit) -> Switched:
    retry, notes = Retry(), []
    if chosen.state is State.DROPPING:
        raise ConfigError(
            f"generation {chosen.number} is half removed; `generations drop {chosen.number}` finishes that"
        )
    if chosen.is_building and chosen.switched_at is None:
        if not chosen.in_step:
            raise SafetyError(
                f"generation {chosen.number} is not in step, so readers would miss documents; "
                "run `vector-sync sync` first"
            )
        if objection := verify(opened, chosen.number, retry=retry, emit=emit):
            raise SafetyError(objection)
    elif not chosen.in_step and chosen.state is not State.LIVE:
        notes.append(
            f"generation {chosen.number} did not receive the latest changes; the next sync tries to bring them"
        )
    for name in opened.settings.sinks:
        ledger = opened.ledger(name, chosen.number)
        if opened.generation_sink(name) and opened.checkpoints.incarnation(ledger) is None:
            notes.append(f"sink {name} has no generation {chosen.number}, so its readers get what they got before")
    switch(opened, chosen.number, now=time.time(), retry=retry, emit=emit)
    return Switched(chosen.number, before.number if before else None, tuple(notes))


def drop(settings: Settings, number: int, *, emit: Emit = ignore) -> Dropped:
    """Remove a generation from every sink, then from the state; readers can never be sent to it again.

    A kill in between leaves it half removed; the same call finishes that.

    Raises:
        SafetyError: readers get it, or are being sent to it.
        ConfigError: there is no such generation.
        TransientError, SinkError: a sink is out of reach; run it again.
        LeaseError: a run has the state.
    """
    retry = Retry()
    with open_sync(settings) as opened:
        settled = settle(opened, now=time.time(), retry=retry, emit=emit)
        chosen = _find(settled.generations, number)
        readers = [name for name, word in settled.words.items() if word == number]
        if chosen.state in (State.LIVE, State.SWITCHING) or readers:
            raise SafetyError(
                f"generation {number} is live in {', '.join(readers) or 'this state'}, so it cannot be dropped; "
                "`vector-sync generations switch N` sends readers elsewhere"
            )
        opened.book.set_state(number, State.DROPPING)
        dropped = []
        for name in settings.sinks:
            if sink := opened.generation_sink(name, number):
                retry(f"drop generation {number} of {name}", sink.drop, emit)
                dropped.append(name)
        notes = []
        for ledger in opened.checkpoints.ledger_names():
            name, its_number = sink_and_number(ledger)
            if its_number == number and name in dropped:
                opened.checkpoints.forget_ledger(ledger)
            elif its_number == number and name not in settings.sinks:
                notes.append(f"sink {name} is not in the settings, so what it has of generation {number} stays there")
        opened.book.forget(number)
        return Dropped(number, tuple(dropped), tuple(notes))


def _find(known: list[Generation], number: int) -> Generation:
    found = next((it for it in known if it.number == number), None)
    if found is None:
        there_are = ", ".join(str(it.number) for it in known) or "none"
        raise ConfigError(f"there is no generation {number}; there are: {there_are}")
    return found


def _waiting(known: list[Generation]) -> Generation:
    """Find the generation that was built and that no reader gets yet."""
    waiting = [it for it in known if it.is_building]
    whole = [it for it in waiting if it.in_step] or waiting
    if len(whole) != 1:
        which = f"{len(whole)} are: name one" if whole else "none is"
        raise ConfigError(
            f"no single generation waits to be switched to, {which}; `vector-sync generations` lists them"
        )
    return whole[0]


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

"""Send readers from one generation to another. A switch that was cut off is finished by the next run.

    verify     each sink holds exactly what its ledger says: every mark is read
    intent     the generation is "switching", durably
    make live  sink by sink, each in one step of its database
    record     it is "live", the one before it "retained"

A kill in between leaves "switching". What a sink says of itself then counts: those that were switched are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from .errors import SinkError, TransientError
from .events import Emit, ignore
from .generations import Generation, State, live_of
from .ledger_walk import expected
from .model import StoredRecord
from .parcels import chunks
from .retry import Retry

if TYPE_CHECKING:
    from .generation_parts import OpenSync
    from .ports import Sink

RECORDS_PER_LOOK: Final = 1000


@dataclass(slots=True)
class Settled:
    """The generations as they are when a run begins."""

    generations: list[Generation]
    words: dict[str, int | None]
    problems: list[str] = field(default_factory=list)


def settle(opened: OpenSync, *, now: float, retry: Retry, emit: Emit = ignore) -> Settled:
    """Finish a switch that was cut off, and believe the sinks about which generation is live.

    What cannot be finished now is a problem, and no error: readers get one whole generation or the other.
    """
    known = opened.book.all()
    problems = []
    if cut_off := next((it for it in known if it.state is State.SWITCHING), None):
        try:
            switch(opened, cut_off.number, now=now, retry=retry, emit=emit)
        except (TransientError, SinkError) as error:
            problems.append(f"generation {cut_off.number} is live in some sinks only; the next run goes on: {error}")
    words = opened.words()
    generations = opened.generations(words)
    live, remembered = live_of(generations), live_of(opened.book.all())
    if live and remembered and live.number != remembered.number:
        opened.book.set_live(live.number, now)
        generations = opened.book.all()
        problems.append(
            f"generation {live.number} is live by the word of the sinks, where this state had {remembered.number}; "
            "the sinks are believed"
        )
    problems += _strange(words, generations)
    return Settled(generations, words, problems)


def _strange(words: Mapping[str, int | None], generations: Sequence[Generation]) -> Iterator[str]:
    numbers = {it.number for it in generations}
    for name, word in words.items():
        if word is not None and generations and word not in numbers:
            yield (
                f"generation {word} is live in sink {name}, and this state does not know it, so readers get no "
                "changes; `vector-sync generations switch N` gives them one that it knows"
            )


def switch(opened: OpenSync, number: int, *, now: float, retry: Retry, emit: Emit = ignore) -> None:
    """Send readers to a generation, in every sink that has it. May be called again after any failure.

    Raises:
        TransientError, SinkError: a sink is out of reach, or refuses; the switch stays noted, to be finished.
    """
    live = live_of(opened.book.all())
    if live is None or live.number != number:  # else some sink has yet to follow
        opened.book.set_state(number, State.SWITCHING)
    for name in opened.settings.sinks:
        follow(opened, name, number, retry=retry, emit=emit)
    opened.book.set_live(number, now)


def follow(opened: OpenSync, name: str, number: int, *, retry: Retry, emit: Emit = ignore) -> None:
    """Send the readers of one sink to a generation, if it has that one and they do not get it yet."""
    sink = opened.generation_sink(name, number)
    if sink is None or opened.checkpoints.incarnation(opened.ledger(name, number)) is None:
        return
    if retry(f"ask {name} which generation is live", sink.live, emit) != number:
        retry(f"make generation {number} of {name} live", sink.make_live, emit)


def verify(opened: OpenSync, number: int, *, retry: Retry, emit: Emit = ignore) -> str | None:
    """Compare every record of a generation with its ledgers; say what is wrong with it, None if nothing is."""
    for name in opened.settings.sinks:
        ledger = opened.ledger(name, number)
        if opened.generation_sink(name) and opened.checkpoints.incarnation(ledger) is not None:
            look = partial(_look, opened, opened.sink(name, number), ledger)
            try:
                objection = retry(f"verify generation {number} of {name}", look, emit)
            except _PerhapsLateError as error:
                objection = str(error)
            if objection:
                return f"generation {number} is not as its ledger says, so readers stay where they are: {objection}"
    return None


def _look(opened: OpenSync, sink: Sink, ledger: str) -> str | None:
    """Verify a sink; where the service cannot tell exactly what it has, what is written may only be late [S14]."""
    objection = verify_sink(opened, sink, ledger)
    if objection and sink.count() is None:
        raise _PerhapsLateError(objection)
    return objection


class _PerhapsLateError(TransientError):
    """An objection of which time may dispose."""


def verify_sink(opened: OpenSync, sink: Sink, ledger: str) -> str | None:
    """Read the mark of every record, in constant memory; each comes once [S13], so what is missing can be counted."""
    right = wrong = 0
    for page in chunks((record for record in sink.scan() if isinstance(record, StoredRecord)), RECORDS_PER_LOOK):
        entries = opened.checkpoints.entries(ledger, [record.document_id for record in page])
        for record in page:
            entry = entries.get(record.document_id)
            is_right = entry is not None and entry.passages[record.index : record.index + 1] == (record.digest,)
            right, wrong = right + is_right, wrong + (not is_right)
    missing = expected(opened.checkpoints, ledger).records - right
    if missing or wrong:
        return f"{missing:,} of its records are missing or another version, {wrong:,} should not be there as they are"
    return None

"""The generations of a sync, in the checkpoint's file.

Every write is one durable transaction that checks the epoch, so a process that was taken over writes nothing.
Numbers are never given twice, not even after a drop: what a killed drop left in a database is never met again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from .checkpoint import Checkpoints
from .generations import FIRST, Generation, Made, State, with_live

COLUMNS: Final = "number, state, embedder, splitter, embedder_settings, created_at, accepted_at, switched_at, in_step"


class GenerationBook:
    """The generations in one checkpoint. One that is open to be read only answers, and cannot write."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def all(self) -> list[Generation]:
        """List them, by their numbers."""
        with self._checkpoints.reading() as db:
            return [_generation(row) for row in db.execute(f"SELECT {COLUMNS} FROM generation ORDER BY number")]  # noqa: S608  # our own names

    def next_number(self) -> int:
        """The number of the one to be begun next."""
        with self._checkpoints.reading() as db:
            found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'generation'").fetchone()
        return int(found[0]) + 1 if found else FIRST

    def save(self, generation: Generation) -> None:
        """Note a generation, or what has become of one."""
        with self._checkpoints.writing() as db:
            marks = ", ".join("?" * len(COLUMNS.split(", ")))
            db.execute(f"INSERT OR REPLACE INTO generation ({COLUMNS}) VALUES ({marks})", _row(generation))  # noqa: S608  # our own names

    def set_state(self, number: int, state: State) -> None:
        """Note what a generation is there for from now on."""
        with self._checkpoints.writing() as db:
            db.execute("UPDATE generation SET state = ? WHERE number = ?", [state, number])

    def set_in_step(self, number: int, *, in_step: bool) -> None:
        """Note how a generation's run ended."""
        with self._checkpoints.writing() as db:
            db.execute(
                "UPDATE generation SET in_step = ? WHERE number = ? AND in_step != ?", [in_step, number, in_step]
            )

    def set_live(self, number: int, now: float) -> None:
        """Note that readers get a generation, and that the one they got before is retained."""
        after = with_live(self.all(), number, now)
        with self._checkpoints.writing() as db:
            db.executemany(
                "UPDATE generation SET state = ?, switched_at = ? WHERE number = ?",
                [(it.state, it.switched_at, it.number) for it in after],
            )

    def forget(self, number: int) -> None:
        """Forget a generation that is gone from every sink."""
        with self._checkpoints.writing() as db:
            db.execute("DELETE FROM generation WHERE number = ?", [number])


def _row(it: Generation) -> list[object]:
    return [
        it.number,
        it.state,
        it.made.embedder,
        it.made.splitter,
        it.embedder_settings,
        it.created_at,
        it.accepted_at,
        it.switched_at,
        int(it.in_step),
    ]


def _generation(row: Sequence[Any]) -> Generation:
    number, state, embedder, splitter, settings, created_at, accepted_at, switched_at, in_step = row
    made = Made(embedder, splitter)
    return Generation(number, State(state), made, settings, created_at, accepted_at, switched_at, bool(in_step))

"""How far the run under way is, by its events, for whoever asks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from connector.events import Event, RunStarted
from connector.generations import sink_and_number
from connector.model import JsonValue
from connector.terminal import SoFar, printable

from .words import iso


@dataclass(slots=True)
class Progress:
    """One run. Told by the run's threads, asked by others."""

    trigger: str
    started_at: float  # seconds since 1970
    stage: str | None = None  # of a comparison; see `verification.Show`
    run_id: int | None = None
    told: str | None = None  # the latest event that is worth a line
    _so_far: SoFar = field(default_factory=SoFar)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, event: Event) -> None:
        """Be told what has happened."""
        with self._lock:
            if isinstance(event, RunStarted):
                self.run_id = event.run_id
            if told := self._so_far.add(event):
                self.told = printable(told)

    def show(self, stage: str, told: str, fraction: float | None) -> None:
        """Be told how far a stage of a comparison is."""
        with self._lock:
            self.stage, self.told = stage, printable(f"{stage} {told}".strip())
            self._so_far.fraction = fraction or 0.0

    def as_json(self, *, names: bool) -> dict[str, JsonValue]:
        """Plain JSON values; without `names`, no line that could name a document."""
        with self._lock:
            so_far = self._so_far
            return {
                "started_at": iso(self.started_at),
                "trigger": self.trigger,
                "fraction": round(so_far.fraction, 4),
                "rows": so_far.rows,
                "texts": so_far.texts,
                "records": {**_by_sink(so_far.records)},
                "deleted": {**_by_sink(so_far.deleted)},
                "jobs": list(so_far.jobs.values()),
                "told": self.told if names else None,
            }


def _by_sink(counts: dict[str, int]) -> dict[str, int]:
    """Add up what the generations of a sink were given."""
    summed: dict[str, int] = {}
    for ledger, count in counts.items():
        name = sink_and_number(ledger)[0]
        summed[name] = summed.get(name, 0) + count
    return summed

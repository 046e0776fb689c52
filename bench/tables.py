"""From measurements to what people read: Markdown tables, and the goals that were set, reached or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

Measurement: TypeAlias = dict[str, Any]  # one process: "contestant", "phase", and the numbers that it printed
Measurements: TypeAlias = Sequence[Measurement]


def of(measurements: Measurements, contestant: str, phase: str) -> list[Measurement]:
    """Pick the repeats of one phase of one contestant."""
    return [m for m in measurements if m["contestant"] == contestant and m["phase"] == phase]


def cpu(measurements: Measurements, contestant: str, phase: str) -> float:
    """The median of the repeats, in seconds."""
    return float(median(m["cpu_seconds"] for m in of(measurements, contestant, phase)))


def cpu_table(measurements: Measurements) -> Iterator[str]:
    """CPU seconds, and how many times the floor's they are."""
    contestants, phases = _names(measurements)
    yield "| | " + " | ".join(phases) + " | peak RSS, MB | state, MB |"
    yield "|---|" + "---:|" * (len(phases) + 2)
    for contestant in contestants:
        mine = [m for m in measurements if m["contestant"] == contestant]
        cells = [_cpu_cell(measurements, contestant, phase) for phase in phases]
        peaks = [f"{max(m['rss_mb'] for m in mine):.0f}", f"{max(m['state_mb'] for m in mine):.0f}"]
        yield "| " + " | ".join([contestant, *cells, *peaks]) + " |"


def _cpu_cell(measurements: Measurements, contestant: str, phase: str) -> str:
    if not of(measurements, contestant, phase):
        return "failed"
    seconds = cpu(measurements, contestant, phase)
    if contestant == "floor" or not of(measurements, "floor", phase):
        return f"{seconds:.3f}"
    return f"{seconds:.3f} ({seconds / cpu(measurements, 'floor', phase):.2g}x)"


def count_table(measurements: Measurements) -> Iterator[str]:
    """What was asked of the embedder and of the sink, in the last repeat."""
    contestants, phases = _names(measurements)
    yield "| | " + " | ".join(phases) + " |"
    yield "|---|" + "---|" * len(phases)
    for contestant in contestants:
        repeats = [of(measurements, contestant, phase) for phase in phases]
        yield "| " + " | ".join([contestant, *[_count_cell(some[-1]) if some else "failed" for some in repeats]]) + " |"


def _count_cell(numbers: Measurement) -> str:
    """Things, and in brackets in how many calls."""
    counted = [
        ("embedded", numbers["texts"], numbers["embed_calls"]),
        ("upserted", numbers["upserts"], numbers["upsert_calls"]),
        ("metadata", numbers["payload_updates"], numbers["payload_updates"]),
        ("deleted", numbers["deletes"], numbers["delete_calls"]),
    ]
    return ", ".join(f"{what} {things} ({calls})" for what, things, calls in counted if things) or "nothing"


def _names(measurements: Measurements) -> tuple[list[str], list[str]]:
    return (
        list(dict.fromkeys(m["contestant"] for m in measurements)),
        list(dict.fromkeys(m["phase"] for m in measurements)),
    )


@dataclass(frozen=True, slots=True)
class Goal:
    """What vector-sync is to reach in one phase."""

    what: str
    phase: str
    limit: float
    number: Callable[[Measurements], float]
    rows: int | None = None  # only for so many rows

    def applies(self, rows: int, measurements: Measurements) -> bool:
        """Whether it was measured."""
        return self.rows in (None, rows) and bool(of(measurements, OURS, self.phase))


OURS = "vector-sync"


def _cpu_of(phase: str) -> Callable[[Measurements], float]:
    return lambda measurements: cpu(measurements, OURS, phase)


def _worst(name: str, phase: str) -> Callable[[Measurements], float]:
    return lambda measurements: max(m[name] for m in of(measurements, OURS, phase))


def _ratio(phase: str) -> Callable[[Measurements], float]:
    return lambda measurements: cpu(measurements, OURS, phase) / cpu(measurements, "floor", phase)


MILLION = 1_000_000
GOALS = (
    Goal("CPU seconds, nothing changed", "noop", 0.5, _cpu_of("noop"), MILLION),
    Goal("CPU seconds, same rows written again", "touched", 1.2, _cpu_of("touched"), MILLION),
    Goal("CPU seconds, written again with one row edited", "onerow", 1.2, _cpu_of("onerow"), MILLION),
    Goal("MB of memory, nothing changed", "noop", 300, _worst("rss_mb", "noop"), MILLION),
    Goal("MB of memory, same rows written again", "touched", 300, _worst("rss_mb", "touched"), MILLION),
    Goal("MB of memory, written again with one row edited", "onerow", 300, _worst("rss_mb", "onerow"), MILLION),
    Goal("times the floor's CPU, first sync", "initial", 1.6, _ratio("initial"), 10_000),
    Goal("upsert calls, 1 % of the texts edited", "text1pct", 1, _worst("upsert_calls", "text1pct"), 10_000),
    Goal("embed calls, 1 % of the texts edited", "text1pct", 2, _worst("embed_calls", "text1pct"), 10_000),
    Goal("texts embedded, nothing changed", "noop", 0, _worst("texts", "noop")),
    Goal("texts embedded, metadata edited", "meta1pct", 0, _worst("texts", "meta1pct")),
)


def goal_table(rows: int, measurements: Measurements) -> Iterator[str]:
    """The goals that were measured; only those of vector-sync, and of this number of rows."""
    goals = [goal for goal in GOALS if goal.applies(rows, measurements)]
    if not goals or not of(measurements, "floor", "initial"):
        return
    yield "| goal | at most | measured | |"
    yield "|---|---:|---:|---|"
    for goal in goals:
        number = goal.number(measurements)
        yield f"| {goal.what} | {goal.limit:g} | {number:.3g} | {'reached' if number <= goal.limit else 'MISSED'} |"

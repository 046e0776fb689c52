"""What came of a soak: how long edits took, what was paid twice, whether the service stayed flat; and its tables."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from soak_servers import PaidCall
from soak_service import Sample
from soak_world import Edit, Outage, longest_calm

KILL_LOSES_SECONDS = 15.0  # a call that came so long before a kill may have been under way
WARM_UP_SECONDS = 60.0
FLAT = {"rss_mb": 1.10, "files": 1.10, "threads": 1.10}
"""How much more the last quarter of a life may hold than the first one after the warm-up, of each median."""
LONG_LIFE_SECONDS = 240.0  # of shorter ones the numbers are told, and prove nothing


# --- how long edits took --------------------------------------------------------------------------------


def spread(numbers: Sequence[float]) -> dict[str, float | int]:
    """Give the median, the 95th percentile and the maximum."""
    if not numbers:
        return {"count": 0}
    ordered = sorted(numbers)
    at_95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {
        "count": len(ordered),
        "median": round(statistics.median(ordered), 3),
        "p95": round(at_95, 3),
        "max": round(ordered[-1], 3),
    }


def lags(
    edits: Sequence[Edit], outages: Sequence[Outage], sinks: Sequence[str], interval: float
) -> Iterator[tuple[str, list[float]]]:
    """Give the delays, in intervals, by sink, watch, and whether something was wrong meanwhile."""
    found: dict[str, list[float]] = {}
    by_themselves = [outage.by_itself() for outage in outages]
    for edit in edits:
        for sink in sinks:
            if (seen := edit.seen.get(sink)) is None:
                continue
            calm, troubled = longest_calm(edit.at, seen, outages)
            kind = "by trouble" if troubled else f"calm, watch {'on' if edit.watched else 'off'}"
            found.setdefault(f"{sink}: {kind}", []).append(calm / interval)
            if troubled:
                alone, _ = longest_calm(edit.at, seen, by_themselves)
                found.setdefault(f"{sink}: by trouble, whose consequences are calm", []).append(alone / interval)
            found.setdefault(f"{sink}: all, from the edit, faults included", []).append((seen - edit.at) / interval)
    yield from sorted(found.items())


# --- whether it is flat ---------------------------------------------------------------------------------


def flatness(samples: Sequence[Sample]) -> dict[str, Any]:
    """Compare the first quarter after the warm-up of the longest life with the last one, by samples at rest."""
    by_life: dict[int, list[Sample]] = {}
    for sample in samples:
        by_life.setdefault(sample.life, []).append(sample)
    if not by_life:
        return {"seconds": 0.0, "samples": 0}
    life = max(by_life.values(), key=lambda it: it[-1].at - it[0].at)
    seconds = life[-1].at - life[0].at
    warm = [it for it in life if it.at - life[0].at >= min(WARM_UP_SECONDS, seconds / 4) and it.at_rest] or life
    quarter = max(1, len(warm) // 4)
    told: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "samples": len(life),
        "at rest": len(warm),
        "life": life[0].life,
    }
    for name in FLAT:
        first = statistics.median(getattr(it, name) for it in warm[:quarter])
        last = statistics.median(getattr(it, name) for it in warm[-quarter:])
        told[name] = {
            "first": round(first, 1),
            "last": round(last, 1),
            "ratio": round(last / first, 3),
            "max": round(max(getattr(it, name) for it in life), 1),
        }
    return told


# --- what was paid ---------------------------------------------------------------------------------------


def paid_twice(paid: Sequence[PaidCall], kills: Sequence[float], wrong: Callable[[str], object]) -> dict[str, int]:
    """Count the texts that were paid for again; only for a lost answer or a kill, a call each, is that right."""
    calls_by_text: defaultdict[bytes, list[int]] = defaultdict(list)
    for number, call in enumerate(paid):
        for digest in call.digests:
            calls_by_text[digest].append(number)
    lost = Counter(number for numbers in calls_by_text.values() for number in numbers[:-1])
    by_kill: Counter[float] = Counter()
    for number in lost:
        call = paid[number]
        kill = next((at for at in kills if 0 <= at - call.at < KILL_LOSES_SECONDS), None)
        if call.answered and kill is None:
            wrong(f"{lost[number]} texts of a call were embedded again, {call.at:.1f} s by the clock")
        elif call.answered and kill is not None:
            by_kill[kill] += 1
    for count in by_kill.values():
        if count > 1:
            wrong(f"a kill has cost {count} calls")
    return {
        "calls": len(paid),
        "texts": sum(len(call.digests) for call in paid),
        "different texts": len(calls_by_text),
        "answers lost on purpose": sum(not call.answered for call in paid),
        "kills": len(kills),
        "calls lost by kills": sum(by_kill.values()),
        "texts embedded again": sum(lost.values()),
    }


# --- for people -----------------------------------------------------------------------------------------


def tables(report: dict[str, Any]) -> Iterator[str]:
    """Tell it for people."""
    yield f"{report['seconds'] / 60:.1f} minutes; {report['machine']}\n"
    yield "| until an edit is seen, in intervals | edits | median | p95 | max |\n|---|---:|---:|---:|---:|"
    for name, told in report["intervals until seen"].items():
        yield f"| {name} | {told['count']:,} | {told['median']:.2f} | {told['p95']:.2f} | {told['max']:.2f} |"
    flat = report["flat"]
    if flat["samples"]:
        yield f"\n| longest life, {flat['seconds']:.0f} s | first quarter | last quarter | ratio | max |"
        yield "|---|---:|---:|---:|---:|"
        for name in FLAT:
            told = flat[name]
            yield f"| {name} | {told['first']} | {told['last']} | {told['ratio']} | {told['max']} |"
    for name in ("edits", "outages", "orders", "texts", "answers", "ms until a probe was answered", "notes"):
        yield f"\n{name}: " + ", ".join(f"{what}: {count:,}" for what, count in report[name].items())
    yield f"\nwrong: {len(report['wrong'])}"
    yield from report["wrong"]

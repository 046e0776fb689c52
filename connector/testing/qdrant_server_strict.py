"""Strict mode, and the limits of calls a minute, as Qdrant 1.19 enforces them: its source, read 2026-11-22."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from qdrant_client.http import models as wire

SECONDS_PER_MINUTE = 60


@dataclass(slots=True)
class RateLimit:
    """A bucket of tokens that is full at first, and fills again within a minute."""

    per_minute: int
    clock: Callable[[], float]
    _tokens: float = field(init=False)
    _filled_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._tokens = float(self.per_minute)
        self._filled_at = self.clock()

    def take(self, cost: int) -> tuple[str, int | None]:
        """Pay for a call: no words if it may go on, else why it may not, and for how many seconds."""
        if cost > self.per_minute:
            return ", request larger than rate limiter capacity, please try to split your request", None
        now = self.clock()
        per_second = self.per_minute / SECONDS_PER_MINUTE
        self._tokens = min(float(self.per_minute), self._tokens + per_second * (now - self._filled_at))
        self._filled_at = now
        if self._tokens >= cost:
            self._tokens -= cost
            return "", None
        wait_seconds = math.ceil((cost - self._tokens) / per_second)
        words = f": Operation requires {cost} tokens but only {self._tokens:.1f} were available."
        return f"{words} Retry after {wait_seconds}s", wait_seconds


@dataclass(frozen=True, slots=True)
class StrictMode:
    """What a collection refuses. Each method gives the words of the refusal, or None."""

    settings: Mapping[str, Any]
    indexes: Mapping[str, Mapping[str, Any]]

    def over(self, setting: str, value: int | None, name: str) -> str | None:
        """Say whether a number is more than a setting allows."""
        limit = self.settings.get(setting)
        if limit is None or value is None or value <= limit:
            return None
        return _refused(
            f'Limit exceeded {value} > {limit} for "{name}"', f'Reduce the "{name}" parameter to or below {limit}.'
        )

    def exact(self, exact: bool | None) -> str | None:
        if self.settings.get("search_allow_exact") is not False or not exact:
            return None
        return _refused("Exact search disabled!", "Set exact=false.")

    def filter(self, setting: str, given: wire.Filter | None) -> str | None:
        """Say whether a filter asks for a field that has no index, or is too large."""
        if given is None:
            return None
        asked = list(conditions(given))
        if self.settings.get(setting) is False:
            for key, kinds in asked:
                if kinds and self.indexes.get(key, {}).get("data_type") not in kinds:
                    words = f'Index required but not found for "{key}" of one of the following types: '
                    help = "Create an index for this key or use a different filter."
                    return _refused(f"{words}[{', '.join(sorted(kinds))}]", help)
        most = self.settings.get("filter_max_conditions")
        if most is not None and len(asked) > most:
            return _refused(
                f"Filter condition limit reached ({len(asked)} > {most})",
                "Reduce the amount of conditions of your filter.",
            )
        return None


def _refused(words: str, help: str) -> str:
    return f"Bad request: {words}. Help: {help}"


EVERY_KIND = {str(kind) for kind in wire.PayloadSchemaType}


def conditions(given: wire.Filter) -> Iterator[tuple[str, set[str]]]:
    """Give the field of each condition, and the kinds of index that would serve it; no kinds: it needs none."""
    parts = (given.must, given.must_not, given.should, given.min_should and given.min_should.conditions)
    for part in parts:
        for one in part if isinstance(part, list) else [part] if part else []:
            yield from _of_condition(one)


def _of_condition(condition: Any) -> Iterator[tuple[str, set[str]]]:
    if isinstance(condition, wire.Filter):
        yield from conditions(condition)
    elif isinstance(condition, wire.NestedCondition):
        for key, kinds in conditions(condition.nested.filter):
            yield f"{condition.nested.key}[].{key}", kinds
    elif isinstance(condition, wire.FieldCondition):
        yield condition.key, _kinds(condition)
    elif isinstance(condition, wire.IsEmptyCondition):
        yield condition.is_empty.key, EVERY_KIND
    elif isinstance(condition, wire.IsNullCondition):
        yield condition.is_null.key, EVERY_KIND
    else:
        yield "", set()


def _kinds(condition: wire.FieldCondition) -> set[str]:
    if condition.match is not None:
        match = condition.match
        if isinstance(match, wire.MatchValue):
            return _kinds_of_value(match.value)
        if isinstance(match, wire.MatchAny | wire.MatchExcept):
            values = match.any if isinstance(match, wire.MatchAny) else match.except_
            return _kinds_of_value(values[0]) if values else {"keyword", "integer", "uuid"}
        return {"text"}
    if condition.range is not None:
        bounds = (condition.range.gte, condition.range.gt, condition.range.lte, condition.range.lt)
        dates = isinstance(condition.range, wire.DatetimeRange) or any(isinstance(one, datetime) for one in bounds)
        return {"datetime"} if dates else {"float", "integer"}
    if condition.geo_bounding_box or condition.geo_radius or condition.geo_polygon:
        return {"geo"}
    return EVERY_KIND


def _kinds_of_value(value: Any) -> set[str]:
    if isinstance(value, bool):
        return {"bool"}
    if isinstance(value, int):
        return {"integer"}
    try:
        UUID(value)
    except ValueError:
        return {"keyword"}
    return {"keyword", "uuid"}

"""What a search asks of Qdrant, alike for the embedded engine and for a server.

Qdrant's conditions are not quite ours: it compares numbers as doubles, looks into lists of lists, and cannot name a
field with a quote or a backslash in it. So the conditions it is given let through at least what ours do, mostly
nothing else, and `filters.matches` has the last word on what it finds. What that takes away is asked for anew.

    condition                   questions, one with the answer yes
    --------------------------  ----------------------------------------------
    Equals, AnyOf of texts      OneOf(key, texts)
    ... of booleans             Is(key, true) or Is(key, false)
    ... of numbers              Within(key, number, number), one for each
    Between                     Within(key, ...)

Read from qdrant-edge 0.9.0 and qdrant-client 1.20, 2026-11.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias, TypeVar

import msgspec

from connector.filters import AnyOf, Between, Condition, Equals, Scalar
from connector.model import RESERVED_NAMES, RESERVED_PREFIX, Hit

from .qdrant_payload import is_unicode

LARGEST: Final = 1.7976931348623157e308
EXACT_INTEGERS: Final = 2.0**53
"""Above this, two integers may be one double."""
MORE: Final = 4
"""How many times as many points are asked for when some of those found were not what was meant."""

Found = TypeVar("Found")


class OneOf(msgspec.Struct, frozen=True):
    """The field is one of these texts."""

    key: str  # as Qdrant writes it: see `path`
    texts: tuple[str, ...]


class Is(msgspec.Struct, frozen=True):
    """The field is this boolean."""

    key: str
    value: bool


class Within(msgspec.Struct, frozen=True):
    """The field is a number within these bounds, all of them finite; one at least is there."""

    key: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None


Question: TypeAlias = OneOf | Is | Within


def questions(where: Sequence[Condition]) -> list[list[Question]] | None:
    """Give, for each condition that Qdrant can be asked about, questions of which one has to be answered with yes.

    None if nothing can match, so that nothing need be asked.
    """
    asked: list[list[Question]] = []
    for condition in where:
        if _is_never_kept(condition.field):
            return None
        key = path(condition.field)
        alternatives = list(_alternatives(key or "", condition))
        if not alternatives:
            return None
        if key is not None:
            asked.append(alternatives)
    return asked


def path(field: str) -> str | None:
    """Write the name of a field at the top level as Qdrant reads it; None if it has no way to.

    In quotes, a name may hold anything but a quote or a backslash; there is no way to escape those.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]+", field):
        return field
    return None if '"' in field or "\\" in field else f'"{field}"'


def search_until_enough(
    ask: Callable[[int], Sequence[Found]], accept: Callable[[Found], Hit | None], limit: int
) -> list[Hit]:
    """Ask for `limit` points, and for more of them as long as too few of those found are accepted."""
    asked = limit
    while True:
        found = ask(asked)
        hits = [hit for each in found if (hit := accept(each)) is not None]
        if len(hits) >= limit or len(found) < asked:
            return hits[:limit]
        asked *= MORE


def _is_never_kept(field: str) -> bool:
    """Tell whether no record of ours can have such a field."""
    return field in RESERVED_NAMES or field.startswith(RESERVED_PREFIX) or not is_unicode(field)


def _alternatives(key: str, condition: Condition) -> Iterator[Question]:
    match condition:
        case Equals():
            yield from _equal(key, (condition.value,))
        case AnyOf():
            yield from _equal(key, condition.values)
        case Between():
            bounds = (condition.at_least, condition.above, condition.at_most, condition.below)
            if not any(bound is not None and _is_nan(bound) for bound in bounds):
                yield _between(key, condition)


def _equal(key: str, values: Sequence[Scalar]) -> Iterator[Question]:
    texts = tuple(value for value in values if isinstance(value, str) and is_unicode(value))
    if texts:
        yield OneOf(key, texts)
    for value in values:
        if isinstance(value, bool):
            yield Is(key, value)
        elif not isinstance(value, str) and not _is_nan(value):
            yield Within(key, at_least=_lower(value), at_most=_upper(value))


def _between(key: str, condition: Between) -> Within:
    """Keep a bound strict where doubles tell it from its neighbours; else let those through."""
    at_least, above, at_most, below = condition.at_least, condition.above, condition.at_most, condition.below
    if above is not None and abs(above) >= EXACT_INTEGERS:
        at_least, above = max(above, -math.inf if at_least is None else at_least), None
    if below is not None and abs(below) >= EXACT_INTEGERS:
        at_most, below = min(below, math.inf if at_most is None else at_most), None
    if at_least is None and above is None:
        at_least = -math.inf  # any number, and no text
    return Within(
        key,
        at_least=None if at_least is None else _lower(at_least),
        above=None if above is None else float(above),
        at_most=None if at_most is None else _upper(at_most),
        below=None if below is None else float(below),
    )


def _lower(number: float) -> float:
    return (
        _finite(number) if abs(number) < EXACT_INTEGERS else max(-LARGEST, math.nextafter(_finite(number), -math.inf))
    )


def _upper(number: float) -> float:
    return _finite(number) if abs(number) < EXACT_INTEGERS else min(LARGEST, math.nextafter(_finite(number), math.inf))


def _is_nan(number: float) -> bool:
    return isinstance(number, float) and math.isnan(number)


def _finite(number: float) -> float:
    """Make a double of a number that may be an integer of any size, or infinite."""
    return float(max(-LARGEST, min(LARGEST, number)))

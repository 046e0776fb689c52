"""What a search may ask of metadata: conditions, all of which have to hold.

    condition  written            holds for a field that is
    ---------  -----------------  ----------------------------------------------------------
    Equals     lang=en            this value
    AnyOf      lang in en,de      one of these values
    Between    2019<=year<2024    a number within these bounds, each of which may be left out

A field is a name at the top level of the metadata. One that holds a list matches if a member does; one that is
missing or null matches nothing. Text and numbers never equal each other, and neither is a boolean equal to 1 or 0;
2 and 2.0 are the same number. All sinks answer alike [S15]; `matches` says what they answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from .model import JsonValue, Metadata

Scalar: TypeAlias = "str | int | float | bool"


class Equals(msgspec.Struct, frozen=True):
    """The field is this value."""

    field: str
    value: Scalar


class AnyOf(msgspec.Struct, frozen=True):
    """The field is one of these values."""

    field: str
    values: tuple[Scalar, ...]  # none: nothing matches


class Between(msgspec.Struct, frozen=True):
    """The field is a number within these bounds."""

    field: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None


Condition: TypeAlias = Equals | AnyOf | Between


def matches(metadata: Metadata, where: Iterable[Condition]) -> bool:
    """Tell whether all conditions hold."""
    return all(any(_holds(condition, value) for value in _values(metadata.get(condition.field))) for condition in where)


def _values(value: JsonValue) -> Sequence[JsonValue]:
    return value if isinstance(value, list) else (value,)


def _holds(condition: Condition, value: JsonValue) -> bool:
    match condition:
        case Equals():
            return _same(condition.value, value)
        case AnyOf():
            return any(_same(wanted, value) for wanted in condition.values)
        case Between():
            return (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and (condition.at_least is None or value >= condition.at_least)
                and (condition.above is None or value > condition.above)
                and (condition.at_most is None or value <= condition.at_most)
                and (condition.below is None or value < condition.below)
            )


def _same(wanted: Scalar, value: JsonValue) -> bool:
    if isinstance(wanted, str | bool) or isinstance(value, str | bool):
        return type(wanted) is type(value) and wanted == value
    return wanted == value

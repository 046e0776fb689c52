"""What a search asks of Pinecone, so that it finds what `filters.matches` says [S15].

    condition                  asked of Pinecone
    -------------------------  ------------------------------------------------------
    Equals, AnyOf of texts     {"$in": [...]}; of a list, a member is enough
    ... of numbers             {"$in": [...]}, as doubles
    ... of booleans            {"$eq": true}
    Between                    {"$gte": ..., "$lt": ...}
    a value kept in `_vs_json` {"_vs_json_fields": {"$in": [field]}}: any record that has such a value in that field

What is asked lets through at least what the conditions do; `filters.matches` has the last word on what is found.
That is how the rest is told apart: lists of numbers, integers beyond 2^53, true and 1 where a server mixes them up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from connector.filters import AnyOf, Between, Condition, Equals, Scalar
from connector.model import RESERVED_NAMES, RESERVED_PREFIX

from .pinecone_metadata import JSON_FIELDS
from .pinecone_records import MARKER, SOURCE
from .pinecone_values import EXACT_INTEGERS, is_unicode

Filter: TypeAlias = dict[str, Any]

LARGEST: Final = 1.7976931348623157e308
VALUES: Final = 10_000
"""Values of one `$in` (docs.pinecone.io, "Filter by metadata", read 2026-11)."""


def ours(owner: str) -> Filter:
    """Ask for the records of one owner."""
    return {SOURCE: {"$eq": owner}}


def all_of(owner: str) -> Filter:
    """Ask for the records of one owner, and for those that are no passages."""
    return {"$or": [ours(owner), {MARKER: {"$eq": owner}}]}


def matching(owner: str, where: Sequence[Condition]) -> Filter | None:
    """Ask for an owner's records that may match all conditions; None if none can, so that nothing need be asked."""
    asked = [ours(owner)]
    for condition in where:
        field = condition.field
        if field in RESERVED_NAMES or field.startswith(RESERVED_PREFIX) or not is_unicode(field):
            return None
        questions = list(_questions(condition))
        if not questions:
            return None
        alternatives: list[Filter] = [{JSON_FIELDS: {"$in": [field]}}]
        if not field.startswith("$"):
            alternatives += [{field: question} for question in questions]
        asked.append({"$or": alternatives})
    return asked[0] if len(asked) == 1 else {"$and": asked}


def _questions(condition: Condition) -> Iterator[Filter]:
    match condition:
        case Equals():
            yield from _one_of((condition.value,))
        case AnyOf():
            yield from _one_of(condition.values)
        case Between():
            bounds = (condition.at_least, condition.above, condition.at_most, condition.below)
            if not any(_is_nan(bound) for bound in bounds if bound is not None):
                yield _between(condition)


def _one_of(values: Sequence[Scalar]) -> Iterator[Filter]:
    texts = [value for value in values if isinstance(value, str) and is_unicode(value)]
    numbers = [_double(value) for value in values if not isinstance(value, str | bool) and not _is_nan(value)]
    for of_one_type in (texts, numbers):
        for start in range(0, len(of_one_type), VALUES):
            yield {"$in": of_one_type[start : start + VALUES]}
    for value in values:
        if isinstance(value, bool):
            yield {"$eq": value}


def _between(condition: Between) -> Filter:
    """Keep a bound strict where doubles tell it from its neighbours; else let those through."""
    asked: Filter = {}
    for operator, loose, bound in (
        ("$gte", "$gte", condition.at_least),
        ("$gt", "$gte", condition.above),
        ("$lte", "$lte", condition.at_most),
        ("$lt", "$lte", condition.below),
    ):
        if bound is not None:
            is_exact = abs(bound) <= EXACT_INTEGERS
            asked[operator if is_exact else loose] = _double(bound)
    return asked or {"$gte": -LARGEST}  # any number, and no text


def _is_nan(number: float) -> bool:
    return isinstance(number, float) and math.isnan(number)


def _double(number: float) -> float:
    """Make a double of a number that may be an integer of any size, or infinite."""
    return float(max(-LARGEST, min(LARGEST, number)))

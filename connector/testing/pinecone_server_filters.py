"""Pinecone's metadata filters, as docs.pinecone.io/guides/search/filter-by-metadata describes them (read 2026-11).

| operator | holds if | its operand |
|---|---|---|
| none, `$eq` | the value is that; of a list, one of its strings | string, number, boolean |
| `$ne`, `$nin` | `$eq`, `$in` do not, so also where the field is missing | as theirs |
| `$in` | `$eq` holds with one of them | strings or numbers, at most 10,000 |
| `$gt` `$gte` `$lt` `$lte` | the value is a number, and so placed | number |
| `$exists` | the field is there, or is not | boolean |
| `$and`, `$or` | all, or one, of the filters hold | a list of filters |
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from .pinecone_server_rules import PineconeLimits, RefusedError

Predicate: TypeAlias = Callable[[Mapping[str, Any]], bool]

_ORDERS: Final[dict[str, Callable[[float, float], bool]]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def compiled(filter: object, limits: PineconeLimits) -> Predicate:
    """Make a filter ready to be asked; RefusedError if it is none."""
    if not isinstance(filter, dict):
        raise RefusedError(400, f"Invalid filter: must be an object, got {filter!r}")
    parts = [_clause(key, operand, limits) for key, operand in filter.items()]
    return lambda metadata: all(part(metadata) for part in parts)


def _clause(key: str, operand: Any, limits: PineconeLimits) -> Predicate:
    if key in ("$and", "$or"):
        if not isinstance(operand, list) or not operand:
            raise RefusedError(400, f"Invalid filter: the {key} operator must be followed by a list of filters")
        parts = [compiled(part, limits) for part in operand]
        holds = all if key == "$and" else any
        return lambda metadata: holds(part(metadata) for part in parts)
    if key.startswith("$"):
        raise RefusedError(400, f"Invalid filter: {key} is not a valid operator")
    conditions = operand if isinstance(operand, dict) else {"$eq": operand}
    if not conditions:
        raise RefusedError(400, f"Invalid filter: no operator for field {key}")
    tests = [_test(name, value, limits) for name, value in conditions.items()]
    return lambda metadata: all(test(metadata.get(key)) for test in tests)


def _test(name: str, operand: Any, limits: PineconeLimits) -> Callable[[Any], bool]:
    match name:
        case "$eq" | "$ne":
            if not isinstance(operand, (str, float, int)):
                raise _wrong(name, "a string, boolean or number", operand)
            return _negated(lambda found: _is(found, operand), name == "$ne")
        case "$in" | "$nin":
            if not isinstance(operand, list) or not all(isinstance(one, (str, float, int)) for one in operand):
                raise _wrong(name, "a list of strings or a list of numbers", operand)
            if len(operand) > limits.values_per_filter:
                most = f"at most {limits.values_per_filter} values"
                raise RefusedError(400, f"Invalid filter: the {name} operator takes {most}, got {len(operand)}")
            return _negated(lambda found: any(_is(found, one) for one in operand), name == "$nin")
        case "$exists":
            if not isinstance(operand, bool):
                raise _wrong(name, "a boolean", operand)
            return lambda found: (found is not None) is operand
        case _ if name in _ORDERS:
            if isinstance(operand, bool) or not isinstance(operand, (float, int)):
                raise _wrong(name, "a number", operand)
            order, bound = _ORDERS[name], float(operand)
            return lambda found: isinstance(found, float) and order(found, bound)
        case _:
            raise RefusedError(400, f"Invalid filter: {name} is not a valid operator")


def _is(found: Any, wanted: str | float) -> bool:
    if isinstance(found, list):
        return wanted in found
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    return bool(found == (wanted if isinstance(wanted, str) else float(wanted)))


def _negated(test: Callable[[Any], bool], is_negated: bool) -> Callable[[Any], bool]:
    return (lambda found: not test(found)) if is_negated else test


def _wrong(name: str, kinds: str, operand: object) -> RefusedError:
    return RefusedError(
        400, f"Invalid filter: the {name} operator must be followed by {kinds}, got {operand!r} instead"
    )

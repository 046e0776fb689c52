"""Which metadata values Pinecone has, and which can be kept at all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from connector.model import RESERVED_NAMES, RESERVED_PREFIX, JsonValue

EXACT_INTEGERS: Final = 2**53
"""Up to here, a double is one integer only."""
NESTING: Final = 64
"""How deep metadata may nest: as deep as in our other sinks."""


class NotKeptError(Exception):
    """A value would not read back as it was sent; the message completes "the field ... "."""


def is_plain(name: str, value: JsonValue) -> bool:
    """Tell quickly that a field is kept as it is; False if it takes a closer look."""
    of = type(value)
    if of is str:
        fits = value.isascii()  # type: ignore[union-attr]  # it is text
    elif of is float:
        fits = math.isfinite(value)  # type: ignore[arg-type]  # it is a number
    elif of is int:
        fits = -EXACT_INTEGERS <= value <= EXACT_INTEGERS  # type: ignore[operator]  # the same
    else:
        fits = of is bool
    return fits and _is_plain_name(name)


@lru_cache(maxsize=4096)
def _is_plain_name(name: str) -> bool:
    """Tell whether a name can be kept, and is none that a text needs a closer look for."""
    try:
        check_name(name)
    except NotKeptError:
        return False
    return not name.startswith("$")


def is_native(name: str, value: JsonValue) -> bool:
    """Tell whether Pinecone has such a value, under such a name."""
    if name.startswith("$"):
        return False  # reserved for the operators of filters
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= EXACT_INTEGERS
    if isinstance(value, list):
        return bool(value) and all(isinstance(member, str) for member in value)
    return isinstance(value, str | float | bool)


def may_match(value: JsonValue) -> bool:
    """Tell whether a condition can hold for a value: null and nested ones match nothing."""
    return any(
        isinstance(member, str | int | float | bool) for member in (value if isinstance(value, list) else (value,))
    )


def kind(name: str, value: JsonValue) -> str:
    """Say why a value is none that Pinecone has; completes "the field ... "."""
    if value is None:
        return "is null"
    if isinstance(value, dict):
        return "is an object"
    if isinstance(value, list):
        return "is an empty list" if not value else "is a list that is not all text"
    if name.startswith("$"):
        return 'has a name that begins with "$"'
    return f"is {value}, an integer beyond 2^53"


def check_name(name: object) -> None:
    """Raise NotKeptError for a name that a field of ours cannot have."""
    if not isinstance(name, str):
        raise NotKeptError("has a name that is not text")
    if name in RESERVED_NAMES or name.startswith(RESERVED_PREFIX):
        raise NotKeptError("has a name that is reserved; rename it, or do not keep it")
    check_value(name)


def check_value(value: object, nesting: int = 0) -> None:
    """Raise NotKeptError for what does not come back from JSON as it went in."""
    match value:
        case None | bool():
            return
        case str():
            _check_unicode(value)
        case int() | float():
            _check_number(value)
        case list() | dict():
            _check_members(value, nesting)
        case _:
            raise NotKeptError(f"holds a {type(value).__name__}, which is not a JSON value; keep it as text")


def _check_unicode(text: str) -> None:
    if not is_unicode(text):
        raise NotKeptError("is not valid Unicode")


def _check_number(number: float) -> None:
    if isinstance(number, float) and not math.isfinite(number):
        raise NotKeptError(f"holds {number}, which is not a JSON number")
    if isinstance(number, int) and not -(2**63) <= number < 2**64:
        raise NotKeptError("holds an integer of more than 64 bits; keep it as text")


def _check_members(value: list[object] | dict[object, object], nesting: int) -> None:
    if nesting == NESTING:
        raise NotKeptError(f"is nested deeper than {NESTING} levels")
    members: Iterable[object] = value
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise NotKeptError("holds a name that is not text")
        members = (each for pair in value.items() for each in pair)
    for member in members:
        check_value(member, nesting + 1)


def read_number(value: float) -> float:
    """Read a number that Pinecone gives back as a double: an integer if it is whole, save minus zero."""
    is_whole = value.is_integer() and abs(value) <= EXACT_INTEGERS
    return int(value) if is_whole and math.copysign(1, value) == (-1 if value < 0 else 1) else value


def is_unicode(text: str) -> bool:
    """Tell whether UTF-8 can carry a text; it cannot carry half of a surrogate pair, as odd file names have."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """Make a text printable that may not be."""
    return text.encode(errors="backslashreplace").decode()

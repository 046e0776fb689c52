"""What a search may ask of metadata: conditions, all of which have to hold.

    condition  written            holds for a field that is
    ---------  -----------------  ----------------------------------------------------------
    Equals     lang=en            this value
    AnyOf      lang in en,de      one of these values
    Between    2019<=year<2024    a number within these bounds, each of which may be left out

A field is a name at the top level of the metadata. One that holds a list matches if a member does; one that is
missing or null matches nothing. Text and numbers never equal each other, and neither is a boolean equal to 1 or 0;
2 and 2.0 are the same number. All sinks answer alike [S15]; `matches` says what they answer.

What is written: values are JSON's numbers, true and false, and else text. Text that looks like those, or holds a comma
in a list, stands in double quotes, as in JSON: year="2020". So does a name that holds an operator: "a<b"=1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from .errors import ConfigError

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


# --- what is written --------------------------------------------------------------------------------

_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_FIELD: Final = rf'\s*(?P<field>{_QUOTED}|[^"<>=]*[^"<>=\s])\s*'
_LISTED: Final = re.compile(rf'\s*(?P<field>{_QUOTED}|[^"<>=]*?[^"<>=\s])\s+in(?:\s+(?P<values>.*))?', re.DOTALL)
_COMPARED: Final = re.compile(rf"{_FIELD}(?P<operator><=|>=|<|>|=)\s*(?P<rest>.*)", re.DOTALL)
_BOUNDED: Final = re.compile(rf"{_FIELD}(?:(?P<operator><=|>=|<|>)\s*(?P<rest>.*))?", re.DOTALL)
_ELEMENT: Final = re.compile(rf'\s*({_QUOTED}|[^,"\s][^,]*|)\s*,', re.DOTALL)
_ELEMENTS: Final = re.compile(rf"(?:{_ELEMENT.pattern})+", re.DOTALL)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][+-]?[0-9]+)?")
_BOUNDS: Final = {">=": "at_least", ">": "above", "<=": "at_most", "<": "below"}
_MIRRORED: Final = {">=": "<=", ">": "<", "<=": ">=", "<": ">"}


class _NotUnderstoodError(Exception):
    """Why a condition cannot be read."""


def parse(text: str) -> Condition:
    """Read one condition as it is written on a command line; ConfigError says what is not understood."""
    try:
        return _listed(text) or _compared(text)
    except _NotUnderstoodError as error:
        raise ConfigError(
            f"the condition {json.dumps(text, ensure_ascii=False)} is not understood: {error}; write, for example, "
            "lang=en, year>=2019, 2019<=year<2024 or lang in en,de"
        ) from None


def _listed(text: str) -> AnyOf | None:
    found = _LISTED.fullmatch(text)
    if found is None:
        return None
    listed = (found["values"] or "").strip()
    if re.search(r"[<>=]", re.sub(_QUOTED, "", listed)):
        raise _NotUnderstoodError('it has both "in" and an operator; put the field\'s name or the value in quotes')
    if not _ELEMENTS.fullmatch(f"{listed},"):
        raise _NotUnderstoodError("text in double quotes has to end where the value does")
    return AnyOf(_name(found["field"]), tuple(_scalar(element[1]) for element in _ELEMENT.finditer(f"{listed},")))


def _compared(text: str) -> Equals | Between:
    found = _COMPARED.fullmatch(text)
    if found is None:
        raise _NotUnderstoodError("it is no field, operator and value")
    field, operator, rest = found["field"], found["operator"], found["rest"]
    if operator == "=":
        if field.endswith("!"):
            raise _NotUnderstoodError('there is no operator "!="')
        return Equals(_name(field), _scalar(rest))
    if not _NUMBER.fullmatch(field):
        return Between(_name(field), **{_BOUNDS[operator]: _number(rest)})
    lower = _MIRRORED[operator]  # 2019<=year is year>=2019
    bounded = _BOUNDED.fullmatch(rest)
    if bounded is None:
        raise _NotUnderstoodError(f"after {_shown(text[: found.start('rest')])} there is no field")
    bounds = {_BOUNDS[lower]: _number(field)}
    if bounded["operator"]:
        if bounded["operator"][0] != operator[0]:
            raise _NotUnderstoodError("its two bounds do not point in one direction")
        bounds[_BOUNDS[bounded["operator"]]] = _number(bounded["rest"])
    return Between(_name(bounded["field"]), **bounds)


def _name(written: str) -> str:
    return _unquoted(written) if written.startswith('"') else written


def _scalar(written: str) -> Scalar:
    written = written.strip()
    if written.startswith('"'):
        return _unquoted(written)
    if _NUMBER.fullmatch(written):
        return _number(written)
    if written in {"true", "false"}:
        return written == "true"
    if written == "null":
        raise _NotUnderstoodError('nothing equals null; the word is written "null"')
    if not written:
        raise _NotUnderstoodError('a value is missing; the empty text is written ""')
    if written[0] in "<>=":
        raise _NotUnderstoodError(f"{_shown(written)} is no value; text that begins with an operator stands in quotes")
    return written


def _number(written: str) -> float:
    found = _NUMBER.fullmatch(written.strip())
    if found is None:
        raise _NotUnderstoodError(f"{_shown(written)} is not a number")
    number = float(found[0])
    if not math.isfinite(number):
        raise _NotUnderstoodError(f"{_shown(written)} is too large a number")
    return number if found["fraction"] or found["exponent"] else int(found[0])


def _unquoted(written: str) -> str:
    try:
        return msgspec.json.decode(written, type=str)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise _NotUnderstoodError(f"{_shown(written)} is not text in double quotes, as JSON has it") from None


def _shown(written: str) -> str:
    return json.dumps(written, ensure_ascii=False)

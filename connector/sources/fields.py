"""Turn what a source offers for one document into its id, its text and its metadata, or say why not.

`keep_fields` and `optional_fields` mean what they mean in Cohere's Embed Jobs:

    field is in      present      missing or null
    ---------------  -----------  -----------------------------
    keep_fields      metadata     the document is rejected
    optional_fields  metadata     left out
    neither          dropped      nothing ("*" in optional_fields makes it optional)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

from pydantic import Field, model_validator

from connector.errors import ConfigError
from connector.model import RESERVED_NAMES, RESERVED_PREFIX, DocumentId, JsonValue
from connector.plugins import SourceSettings

Fields: TypeAlias = Mapping[str, object]
"""All that a source offers for one document, by name."""

EVERYTHING = "*"
MAX_ID_BYTES = 1024
MAX_DEPTH = 64  # of nested metadata; no sink is asked to hold more
LEAST_INTEGER, GREATEST_INTEGER = -(2**63), 2**63 - 1  # what JSON readers and sinks keep exactly


class UnusableError(ValueError):
    """What was read cannot become a document. Its message becomes a reason for people."""


class FieldSettings(SourceSettings):
    """The settings that choose a document's metadata."""

    keep_fields: tuple[str, ...] = Field(
        default=(),
        description="metadata that every document must have; one that lacks it, or has null there, is rejected by name",
    )
    optional_fields: tuple[str, ...] = Field(
        default=(),
        description='metadata that is kept where a document has it; "*" keeps every field that is not named elsewhere',
    )

    @model_validator(mode="after")
    def _names_can_be_metadata(self) -> FieldSettings:
        both = sorted(set(self.keep_fields) & set(self.optional_fields))
        if both:
            raise ConfigError(f"{_quoted(both)} is in keep_fields and in optional_fields; name it in one of them")
        if EVERYTHING in self.keep_fields:
            raise ConfigError('"*" stands in keep_fields; only optional_fields can keep every field')
        reserved = sorted(name for name in (*self.keep_fields, *self.optional_fields) if is_reserved(name))
        if reserved:
            raise ConfigError(f"{_quoted(reserved)} cannot be metadata: the connector uses the name in every sink")
        return self

    def metadata_fields(self) -> MetadataFields:
        """Make the choice into something that can be applied."""
        return MetadataFields(self.keep_fields, self.optional_fields)


@dataclass(frozen=True, slots=True)
class MetadataFields:
    """Which of the fields that a document has become its metadata."""

    keep: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether fields that nobody named are kept too."""
        return EVERYTHING in self.optional

    def choose(self, offered: Mapping[Any, object], apart: Iterable[str] = ()) -> dict[str, JsonValue]:
        """Pick the metadata out of all fields; those `apart` are not part of "everything".

        Raises UnusableError if a kept field is missing, or a chosen one has a value that is no JSON.
        """
        chosen: dict[str, JsonValue] = {}
        for kept in self.keep:
            value = offered.get(kept)
            if value is None:
                raise UnusableError(f'keep_fields needs "{kept}", which is {"null" if kept in offered else "missing"}')
            chosen[kept] = as_json(value, kept)
        names: Iterable[object] = self.optional
        if self.everything:
            skipped = {*self.keep, *(name for name in apart if name not in self.optional)}
            names = [name for name in offered if name not in skipped]
        for name in names:  # of a front matter, they can be anything
            if not isinstance(name, str):
                raise UnusableError(f"field {name!r} has a name that is not a string")
            value = offered.get(name)
            if value is None:
                continue
            if is_reserved(name):
                raise UnusableError(f'field "{name}" cannot be metadata: the connector uses the name in every sink')
            chosen[name] = as_json(value, name)
        return chosen


def is_reserved(name: str) -> bool:
    """Whether sinks store something of the connector's under this name."""
    return name in RESERVED_NAMES or name.startswith(RESERVED_PREFIX)


def as_document_id(value: object) -> DocumentId:
    """Check an id: a string, or an integer, which becomes its decimal string."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UnusableError(f"the id is {_kind(value)}; it must be a string or an integer")
    name = str(value)
    if not name:
        raise UnusableError("the id is empty")
    if "\0" in name:
        raise UnusableError("the id has a NUL character in it")
    _demand_unicode(name)
    size = len(name.encode())
    if size > MAX_ID_BYTES:
        raise UnusableError(f"the id has {size:,} bytes; {MAX_ID_BYTES:,} are the limit")
    return DocumentId(name)


def as_text(value: object, field: str) -> str:
    """Check the text of a document: a string with something in it to embed."""
    if value is None:
        raise UnusableError(f'no text: "{field}" is null or missing')
    if not isinstance(value, str):
        raise UnusableError(f'no text: "{field}" is {_kind(value)}, not a string')
    if not value or value.isspace():
        raise UnusableError(f'no text: "{field}" is {"white space only" if value else "empty"}')
    _demand_unicode(value, field)
    return value


def as_json(value: object, field: str, depth: int = 0) -> JsonValue:  # noqa: PLR0911 - one for each kind of value
    """Turn a value into the JSON that stands for it exactly; UnusableError if there is none."""
    if depth > MAX_DEPTH:
        raise UnusableError(f'"{field}" is nested more than {MAX_DEPTH} levels deep')
    match value:
        case None | bool():
            return value
        case int() | float():
            return _as_number(value, field)
        case str():
            _demand_unicode(value, field)
            return value
        case Mapping():
            return {_key(key, field): as_json(part, field, depth + 1) for key, part in value.items()}
        case list() | tuple():
            return [as_json(part, field, depth + 1) for part in value]
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal() | UUID():
            return str(value)
        case _:
            raise UnusableError(f'"{field}" holds {_kind(value)}, which cannot be metadata')


def _as_number(value: float, field: str) -> float:
    if not math.isfinite(value):
        raise UnusableError(f'"{field}" holds {value}, which JSON does not have')
    if isinstance(value, int) and not LEAST_INTEGER <= value <= GREATEST_INTEGER:
        raise UnusableError(f'"{field}" holds an integer of more than 64 bits')
    return value


def _key(key: object, field: str) -> str:
    if not isinstance(key, str):
        raise UnusableError(f'"{field}" has the key {key!r}, which is not a string')
    _demand_unicode(key, field)
    return key


def _demand_unicode(text: str, field: str = "") -> None:
    """Refuse a string that no UTF-8 stands for: a field's, or without one the id."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            what = f'"{field}"' if field else "the id"
            raise UnusableError(f"{what} has half a surrogate pair at character {error.start + 1}") from error


_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number with a fraction",
    list: "a list",
    dict: "an object",
    bytes: "bytes",
}


def _kind(value: object) -> str:
    if value is None:
        return "null or missing"
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)

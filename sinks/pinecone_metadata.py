"""What Pinecone holds of a record's metadata and text, and what becomes of the rest.

A value is kept under its own name where Pinecone has the type: text, a boolean, a number that a double holds exactly,
a list of texts that is not empty, all under a name that does not begin with "$". Of the others, the settings decide:

    unsupported   null, nested values, other lists, integers beyond 2^53, names that begin with "$"
    -----------   ------------------------------------------------------------------------------------------------
    "json"        kept as JSON text in one field, `_vs_json`, and read back from there as they were: no alteration
    "drop"        left out, and said so
    "fail"        the document is rejected

    oversized     a record of more than 40,960 bytes: metadata, text and marks together, as compact JSON in UTF-8
    ---------     --------------------------------------------------------------------------------------------------
    "fail"        the document is rejected
    "truncate"    the text is cut at a character's end, and said so; its vector is of all of it
    "drop"        the largest fields are left out until the rest fits, of two as large that which is first by name;
                  the text and the marks never are

A record of which something was left out or cut says so in a mark, `_vs_dropped` or `_vs_cut`: what is read of it is
not what its digest was made of.

Limits and types: docs.pinecone.io, "Operation limits" and "Filter by metadata", read 2026-11; the size as the service
counts it: "metadata size is 114146 bytes, which exceeds the limit of 40960 bytes per vector" (seen in public reports).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from connector.errors import RejectedError
from connector.model import RESERVED_NAMES, RESERVED_PREFIX, DocumentId, JsonValue, Metadata

from .pinecone_values import (
    NotKeptError,
    check_name,
    check_value,
    is_native,
    is_plain,
    kind,
    may_match,
    read_number,
    shown,
)

Unsupported: TypeAlias = Literal["json", "fail", "drop"]
Oversized: TypeAlias = Literal["fail", "truncate", "drop"]
Stored: TypeAlias = dict[str, "str | int | float | bool | list[str]"]
"""Metadata as Pinecone has it."""

METADATA_BYTES: Final = 40_960

TEXT: Final = "text"
JSON: Final = f"{RESERVED_PREFIX}json"
JSON_FIELDS: Final = f"{RESERVED_PREFIX}json_fields"
"""The fields in `_vs_json` that a condition of a search may hold for, so that a filter can ask for their records."""
DROPPED: Final = f"{RESERVED_PREFIX}dropped"
CUT: Final = f"{RESERVED_PREFIX}cut"


class Policies(msgspec.Struct, frozen=True):
    """What the settings say of values and records that Pinecone does not take as they are."""

    unsupported: Unsupported = "json"
    oversized: Oversized = "fail"


class Translation(msgspec.Struct, frozen=True, gc=False):
    """A document's metadata, ready to be joined by the text and the marks of each of its records."""

    native: Metadata
    other: Metadata  # kept in `_vs_json`
    dropped: tuple[str, ...]  # for want of a type, or of room
    stored: Stored
    stored_bytes: int


class Alteration(msgspec.Struct, frozen=True):
    """How one record is not stored as it is."""

    dropped: tuple[str, ...] = ()
    cut_to_bytes: int | None = None  # of the text


def translate(document: DocumentId, metadata: Metadata, policies: Policies) -> Translation:
    """Sort a document's metadata by how it is kept; RejectedError names the field that cannot be."""
    native_fields: dict[str, JsonValue] = {}
    other: dict[str, JsonValue] = {}
    dropped: list[str] = []
    for name, value in metadata.items():
        if is_plain(name, value):  # most are, and are known for it at a tenth of the cost
            native_fields[name] = value
            continue
        try:
            check_name(name)
            check_value(value)
        except NotKeptError as error:
            raise _rejected(document, name, str(error)) from None
        native = is_native(name, value)
        if not native and policies.unsupported == "fail":
            raise _rejected(document, name, f'{kind(name, value)}, which Pinecone cannot hold (unsupported = "fail")')
        if native:
            native_fields[name] = value
        elif policies.unsupported == "json":
            other[name] = value
        else:
            dropped.append(name)
    return _translation(native_fields, other, tuple(dropped))


def fitted(
    document: DocumentId, translation: Translation, marks: Stored, text: str, policies: Policies
) -> tuple[Stored, Alteration | None]:
    """Join what is stored of one record, within the limit; RejectedError if it cannot be.

    `marks` are all that we add, save the text.
    """
    own_bytes = encoded_bytes({TEXT: text, **marks})
    over = own_bytes + translation.stored_bytes - METADATA_BYTES
    if over <= 0:
        return {**translation.stored, TEXT: text, **marks}, None
    match policies.oversized:
        case "truncate":
            cut: Stored = {**marks, CUT: True}
            more = encoded_bytes(cut) - encoded_bytes(marks)
            shortened = _shortened(text, encoded_bytes(text) - over - more)
            if shortened:
                return {**translation.stored, TEXT: shortened, **cut}, Alteration(cut_to_bytes=len(shortened.encode()))
            why = "it would be too large even without its text"
        case "drop":
            for dropped, rest in _smaller(translation):
                if own_bytes + rest.stored_bytes <= METADATA_BYTES:
                    return {**rest.stored, TEXT: text, **marks}, Alteration(dropped=dropped)
            why = "it would be too large even without its metadata"
        case "fail":
            why = 'the settings allow "truncate" and "drop" for that (oversized = "fail")'
    raise RejectedError(
        f'document "{shown(document)}": a record with {own_bytes + translation.stored_bytes:,} bytes of text and '
        f"metadata is more than the {METADATA_BYTES:,} that Pinecone takes; {why}"
    )


def alteration_lines(translation: Translation, altered: Mapping[int, Alteration], passages: int) -> Iterator[str]:
    """Say, a line each, what of a document is not stored as it is; `altered` are its records, by their index."""
    for name in translation.dropped:
        yield f'the metadata field "{shown(name)}" is left out: Pinecone cannot hold it (unsupported = "drop")'
    by_field: dict[str, int] = {}
    for alteration in altered.values():
        for name in alteration.dropped:
            by_field[name] = by_field.get(name, 0) + 1
    for name, count in by_field.items():
        yield (
            f'the metadata field "{shown(name)}" is left out of {count} of {passages} records, '
            f'which would be too large (oversized = "drop")'
        )
    for index, alteration in altered.items():
        if alteration.cut_to_bytes is not None:
            yield (
                f'the field "{TEXT}" of passage {index} is cut to {alteration.cut_to_bytes:,} bytes, '
                f'the record would be too large (oversized = "truncate"); its vector is of the whole text'
            )


def read_metadata(stored: Mapping[str, object]) -> Metadata:
    """Read metadata back as it was sent; ValueError if what we wrote was damaged.

    Pinecone keeps all numbers as doubles: one without a fraction comes back as an integer.
    """
    found: dict[str, JsonValue] = {
        name: read_number(value) if isinstance(value, float) else value  # type: ignore[misc]  # it came as JSON
        for name, value in stored.items()
        if name not in RESERVED_NAMES and not name.startswith(RESERVED_PREFIX)
    }
    if JSON in stored:
        kept = stored[JSON]
        values = json.loads(kept) if isinstance(kept, str) else None
        if not isinstance(values, dict):
            raise ValueError(f"the field {JSON} is not as it was written")
        found |= values
    return found


def encoded_bytes(value: object) -> int:
    """Count the bytes of compact JSON in UTF-8."""
    return len(msgspec.json.encode(value))


# --- what is kept, and how -----------------------------------------------------------------------------


def _rejected(document: DocumentId, name: object, why: str) -> RejectedError:
    return RejectedError(f'document "{shown(document)}": the metadata field "{shown(str(name))}" {why}')


def _translation(native: Metadata, other: Metadata, dropped: tuple[str, ...]) -> Translation:
    stored: Stored = {**native}  # type: ignore[dict-item]  # they are
    if other:
        stored[JSON] = json.dumps(other, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if names := [name for name, value in other.items() if may_match(value)]:
            stored[JSON_FIELDS] = names
    if dropped:
        stored[DROPPED] = True
    # The braces are counted with the text and the marks; what joins both is a comma.
    return Translation(native, other, dropped, stored, encoded_bytes(stored) - 1 if stored else 0)


# --- what fits -----------------------------------------------------------------------------------------


def _shortened(text: str, room_bytes: int) -> str:
    """Cut a text to at most so many bytes of JSON, its quotes included, at a character's end."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if encoded_bytes(text[:middle]) <= room_bytes:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def _smaller(translation: Translation) -> Iterator[tuple[tuple[str, ...], Translation]]:
    """Leave out the largest field, the two largest, and so on: the names of those left out, and what is left."""
    native, other = {**translation.native}, {**translation.other}
    sizes = {name: _translation({name: value}, {}, ()).stored_bytes for name, value in native.items()}
    sizes |= {name: _translation({}, {name: value}, ()).stored_bytes for name, value in other.items()}
    by_size = sorted(sizes, key=lambda name: (-sizes[name], name))
    for count, name in enumerate(by_size, start=1):
        (native if name in native else other).pop(name)
        dropped = tuple(by_size[:count])
        yield dropped, _translation({**native}, {**other}, translation.dropped + dropped)

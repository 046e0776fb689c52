"""Records on their way to a sink, packed into calls that it accepts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from .model import EmbeddedRecord, record_id
from .plan import Change
from .ports import Limits

if TYPE_CHECKING:
    from .model import Vectors

T = TypeVar("T")

BYTES_PER_NUMBER: Final = 13
"""Of a float32 as its shortest decimal in JSON, comma included. Vectors of length 1 take 11.8 (64 dimensions) to 12.7
(3,072) on the average (measured 2026-11). If others are longer, the service refuses the call, and halving mends it."""
BYTES_PER_RECORD: Final = 512
"""Ids, marks, names and punctuation."""
BYTES_PER_CHARACTER: Final = 6
"""At most, as in "\\u0000"."""


class Parcel(msgspec.Struct, frozen=True, gc=False):
    """One record on its way, and about how many bytes it takes in a request."""

    record: EmbeddedRecord
    weight_bytes: int


def parcels(changes: Iterable[Change], vectors: Mapping[bytes, Vectors]) -> Iterator[Parcel]:
    """Make the records that changes ask for."""
    for change in changes:
        wanted = change.wanted
        for index in change.upserts:
            text, vector = wanted.texts[index], vectors[wanted.text_hashes[index]]
            yield Parcel(
                EmbeddedRecord(
                    id=record_id(wanted.document_id, index),
                    document_id=wanted.document_id,
                    index=index,
                    vector=vector,
                    text=text,
                    metadata=wanted.metadata,
                    digest=wanted.digests[index],
                ),
                BYTES_PER_NUMBER * len(vector) + _json_bytes(text) + wanted.metadata_bytes + BYTES_PER_RECORD,
            )


def _json_bytes(text: str) -> int:
    """How long a text is in JSON, quotes and backslashes and all."""
    try:
        return len(msgspec.json.encode(text))
    except UnicodeEncodeError:  # half a character, which a sink is about to refuse
        return BYTES_PER_CHARACTER * len(text)


def pack(parcels: Iterable[Parcel], limits: Limits) -> Iterator[list[EmbeddedRecord]]:
    """Group records into calls that a sink accepts; a record that is too large has a call to itself."""
    call: list[EmbeddedRecord] = []
    size_bytes = 0
    for parcel in parcels:
        if call and (len(call) == limits.records_per_call or size_bytes + parcel.weight_bytes > limits.bytes_per_call):
            yield call
            call, size_bytes = [], 0
        call.append(parcel.record)
        size_bytes += parcel.weight_bytes
    if call:
        yield call


def chunks(members: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a sequence into lists of at most `size`."""
    rest = iter(members)
    while chunk := list(islice(rest, size)):
        yield chunk

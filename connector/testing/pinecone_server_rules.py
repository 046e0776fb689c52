"""What Pinecone refuses, and in which words: the limits of the emulator, and the form of its errors.

Where from: "OpenAPI" is the data plane's description of API 2026-07 (github.com/pinecone-io/pinecone-api), "docs" are
docs.pinecone.io/reference/api/database-limits, both read 2026-11; "seen" is what public bug reports of 2023 to 2025
show. Where those leave room, the emulator takes the stricter reading: what passes here should pass there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import numpy as np

if TYPE_CHECKING:
    from connector.model import Vectors

ALIASES_SINCE: Final = "2026-07"
DEFAULT_NAMESPACE: Final = "__default__"
SMALLEST_MAGNITUDE: Final = 1e-8  # of the largest part of a dense vector (OpenAPI)
_ALIAS_NAME: Final = re.compile(
    r"[\x21\x22\x24\x27-\x2A\x2C-\x2E\x30-\x3A\x3C\x3E\x40-\x5B\x5D-\x7E]{1,512}"
)  # OpenAPI
_INDEX_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,43}[a-z0-9])?")  # docs: at most 45
_DIMENSIONS: Final = range(1, 20_001)  # docs
_METRICS: Final = ("cosine", "dotproduct", "euclidean")
_RPC_CODES: Final = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    409: 6,
    412: 9,
    413: 11,
    429: 8,
    500: 13,
    501: 12,
    503: 14,
    504: 4,
}
_WORDS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "PAYMENT_REQUIRED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

StoredMetadata: TypeAlias = dict[str, "str | float | bool | list[str]"]


@dataclass(slots=True)
class PineconeLimits:
    """What one call may carry. Tests may lower them, to reach them with little."""

    records_per_upsert: int = 1_000  # OpenAPI
    upsert_bytes: int = 2_000_000  # docs: "2 MB", read as the smaller one
    message_bytes: int = 4_194_304  # of any call; seen
    metadata_bytes: int = 40_960  # of a record, as JSON; docs: "40 KB", seen: this number
    name_characters: int = 512  # of ids, namespaces, prefixes; OpenAPI
    ids_per_call: int = 1_000  # fetch and delete; OpenAPI
    page: int = 100  # list, namespaces, aliases; OpenAPI
    top_k: int = 10_000  # OpenAPI
    result_bytes: int = 4_194_304  # of a query; docs: "4 MB"
    values_per_filter: int = 10_000  # of $in and $nin; docs
    url_bytes: int = 16_384  # not documented: what common gateways take


class RefusedError(Exception):
    """A request that is not done, and what its answer says."""

    def __init__(
        self, status: int, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None, code: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.code = code


def data_plane_error(refused: RefusedError) -> dict[str, Any]:
    """Say it as index hosts do: a google.rpc.Status, with the reason where there is one."""
    details = []
    if refused.reason:
        kind = "type.googleapis.com/google.rpc.ErrorInfo"
        details = [{"@type": kind, "reason": refused.reason, "domain": "pinecone.io", "metadata": refused.metadata}]
    code = refused.code or _RPC_CODES.get(refused.status, 2)
    return {"code": code, "message": refused.message, "details": details}


def control_plane_error(refused: RefusedError) -> dict[str, Any]:
    """Say it as the controller does."""
    word = _WORDS.get(refused.status, "UNKNOWN")
    return {"error": {"code": word, "message": refused.message}, "status": refused.status}


def namespace_name(name: str, limits: PineconeLimits) -> str:
    """Check the name of a namespace; the default one has two, and gets the empty one here."""
    if name in ("", DEFAULT_NAMESPACE):
        return ""
    _check_characters(name, "Namespace", limits)
    return name


def alias_name(name: str) -> str:
    """Check the name of a namespace alias."""
    if not _ALIAS_NAME.fullmatch(name) or name in (DEFAULT_NAMESPACE, ".", ".."):
        raise RefusedError(400, f"Invalid alias name '{name}'", reason="ALIAS_NAME_INVALID")
    return name


def check_id(id: str, limits: PineconeLimits) -> None:
    """Refuse ids that no record can have."""
    _check_characters(id, "Vector ID", limits)


def check_prefix(prefix: str, limits: PineconeLimits) -> None:
    """Refuse prefixes that no name can have."""
    if prefix:
        _check_characters(prefix, "Prefix", limits)


def check_ids(ids: Sequence[str], limits: PineconeLimits) -> None:
    """Refuse too many ids, or none, or wrong ones."""
    if not 1 <= len(ids) <= limits.ids_per_call:
        raise RefusedError(400, f"The number of ids must be between 1 and {limits.ids_per_call}, got {len(ids)}")
    for id in ids:
        check_id(id, limits)


def check_dimension(length: int, dimension: int) -> None:
    """Refuse vectors that no record of the index can have."""
    if length != dimension:
        words = f"Vector dimension {length} does not match the dimension of the index {dimension}"
        raise RefusedError(400, words)  # seen


def dense_vector(id: str, values: Sequence[float], dimension: int) -> Vectors:
    """Check a vector, and make of it what the service stores: parts of 32 bits."""
    check_dimension(len(values), dimension)
    with np.errstate(over="ignore"):
        vector = np.array(values, dtype=np.float32)
    if not np.isfinite(vector).all():
        raise RefusedError(400, f"Vector ID '{id}' contains values that are not finite")
    if not (np.abs(vector) >= SMALLEST_MAGNITUDE).any():
        only = f"Vector ID '{id}' contains only zeros"
        raise RefusedError(400, f"Dense vectors must contain at least one non-zero value. {only}")  # seen
    return vector


def stored_metadata(id: str, metadata: Mapping[str, Any], limits: PineconeLimits) -> StoredMetadata:
    """Check metadata, and make of it what the service stores: numbers of 64-bit floating point, and no nulls."""
    size = len(msgspec.json.encode(metadata))
    if size > limits.metadata_bytes:
        most = f"which exceeds the limit of {limits.metadata_bytes} bytes per vector"
        raise RefusedError(400, f"metadata size is {size} bytes, {most}")  # seen
    stored: StoredMetadata = {}
    for field, value in metadata.items():
        if field.startswith("$"):
            raise RefusedError(400, f"Metadata field names may not begin with '$', got '{field}' for vector '{id}'")
        match value:
            case None:
                continue
            case bool() | str():
                stored[field] = value
            case int() | float():
                stored[field] = float(value)
            case list() if all(isinstance(part, str) for part in value):
                stored[field] = list(value)
            case _:
                kinds = "a string, number, boolean or list of strings"
                got = msgspec.json.encode(value).decode()
                raise RefusedError(400, f"Metadata value must be {kinds}, got '{got}' for field '{field}'")  # OpenAPI
    return stored


def check_index(name: object, dimension: object, metric: object) -> None:
    """Refuse an index that cannot be made."""
    if not isinstance(name, str) or not _INDEX_NAME.fullmatch(name):
        shape = "1 to 45 lowercase alphanumeric characters or hyphens, and must not begin or end with a hyphen"
        raise RefusedError(400, f"Index name must be {shape}")
    if not isinstance(dimension, int) or dimension not in _DIMENSIONS:
        raise RefusedError(400, f"Dimension must be between 1 and {_DIMENSIONS[-1]}")
    if metric not in _METRICS:
        raise RefusedError(400, f"Metric must be one of {', '.join(_METRICS)}")


def page_size(given: str | None, limits: PineconeLimits) -> int:
    """Check the `limit` of a listing."""
    if given is None:
        return limits.page
    if not given.isdecimal() or not 1 <= int(given) <= limits.page:
        raise RefusedError(400, f"Limit must be between 1 and {limits.page}, got {given}", reason="LIST_INVALID_LIMIT")
    return int(given)


def _check_characters(name: str, what: str, limits: PineconeLimits) -> None:
    if not name:
        raise RefusedError(400, f"{what} must not be empty")
    if len(name) > limits.name_characters:
        raise RefusedError(400, f"{what} must be at most {limits.name_characters} characters, got {len(name)}")
    if not name.isascii():
        raise RefusedError(400, f"{what} must be ASCII, but got '{name}'")
    if "\0" in name:
        raise RefusedError(400, f"{what} must not contain the NUL character")

"""Ids, payloads and vectors as Qdrant's JSON reads them, keeps them and writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError
from qdrant_client.http import models as wire

from .qdrant_server_state import Refusal, Settings

T = TypeVar("T")

LARGEST_ID = 2**64 - 1
SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**64 - 1  # others become floats, as serde_json reads them
DEEPEST = 127  # levels of a body; serde_json's limit

INSERT: TypeAdapter[wire.PointInsertOperations] = TypeAdapter(wire.PointInsertOperations)
SELECTOR: TypeAdapter[wire.PointsSelector] = TypeAdapter(wire.PointsSelector)
NOT_AN_ID = "is not a valid point ID, valid values are either an unsigned integer or a UUID"


def parsed(kind: type[T] | TypeAdapter[T], body: Any) -> T:
    """Read a body; a Refusal if it is not what the route takes."""
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        return adapter.validate_python(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refusal(400, f"Format error in JSON body: {where}: {first['msg']}") from error


def check_id(id: Any) -> Any:
    """Refuse what is neither a uint64 nor a UUID."""
    if isinstance(id, UUID):
        return str(id)
    if isinstance(id, int) and 0 <= id <= LARGEST_ID:
        return id
    try:
        return str(UUID(id))
    except (ValueError, AttributeError, TypeError):
        raise Refusal(400, f"Format error in JSON body: value {id} {NOT_AN_ID}") from None


def as_read(value: Any, depth: int = 4) -> Any:
    """Give a payload as the server reads it."""
    if isinstance(value, dict | list) and depth > DEEPEST:
        raise Refusal(400, "Format error in JSON body: recursion limit exceeded at line 1 column 1")
    if isinstance(value, dict):
        return {key: as_read(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list):
        return [as_read(one, depth + 1) for one in value]
    if isinstance(value, int) and not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
        return float(value)
    return value


def as_kept(vector: Any, params: Mapping[str, Any]) -> Any:
    """Give a dense vector as its type keeps it; other vectors as they are."""
    datatype = params.get("datatype")
    if datatype not in ("float16", "uint8") or not isinstance(vector, list):
        return vector
    numbers = np.asarray(vector, dtype=np.float32)
    if datatype == "uint8":
        return np.clip(np.trunc(numbers), 0, 255).tolist()
    length = math.sqrt(float(np.sum(numbers * numbers)))
    if params["distance"] == "Cosine" and length > 0:
        numbers /= np.float32(length)
    return numbers.astype(np.float16).astype(np.float32).tolist()


def points_of(asked: wire.PointInsertOperations) -> Sequence[wire.PointStruct]:
    """Give the points of an upsert, however it names them."""
    if isinstance(asked, wire.PointsList):
        return asked.points
    batch = asked.batch
    vectors: Any = batch.vectors
    if isinstance(vectors, dict):
        vectors = [{name: column[place] for name, column in vectors.items()} for place in range(len(batch.ids))]
    payloads: Sequence[Any] = batch.payloads or [None] * len(batch.ids)
    if not len(batch.ids) == len(vectors) == len(payloads):
        raise Refusal(422, "Validation error in JSON body: [batch: numbers of ids, vectors and payloads differ]")
    return [
        wire.PointStruct.model_construct(id=id, vector=vector, payload=payload)
        for id, vector, payload in zip(batch.ids, vectors, payloads, strict=True)
    ]


def shown(point: Any, vectors: Mapping[str, Settings]) -> Settings:
    """Give a point as the server writes it, vectors as they are kept."""
    shown: Settings = {"id": point.id}
    if point.payload is not None:
        shown["payload"] = point.payload
    if point.vector is not None:
        shown["vector"] = _shown_vector(point.vector, vectors)
    if hasattr(point, "score"):
        shown |= {"version": point.version, "score": float(point.score)}
    if point.order_value is not None:
        shown["order_value"] = point.order_value
    return shown


def _shown_vector(vector: Any, vectors: Mapping[str, Settings]) -> Any:
    if isinstance(vector, dict):
        return {
            name: one.model_dump() if isinstance(one, BaseModel) else as_kept(one, vectors.get(name, {}))
            for name, one in vector.items()
        }
    return as_kept(vector, vectors.get("", {}))

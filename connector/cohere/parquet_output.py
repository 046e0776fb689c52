"""Records as a Parquet file. Needs the extra `parquet`.

    Avro, in the result                           Parquet
    --------------------------------------------  ---------------------------------------
    string, boolean, int, long, float, double     string, bool, int32, int64, float, double
    array, map, record of these                   list, map, struct
    a union of null and one of these              the same; any column may hold nulls
    anything else: a union of several, say        string, which holds JSON

Vectors are lists of one length, of float32, int8 or uint8. A row group has about `GROUP_RECORDS` records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from connector.errors import RejectedError

if TYPE_CHECKING:
    from .avro import Schema
    from .results import Record

    ArrowType: TypeAlias = pa.DataType
    ArrowArray: TypeAlias = pa.Array[Any]

GROUP_RECORDS: Final = 8192
NOT_METADATA: Final = frozenset({"text", "embeddings", "embedding"})


class ParquetOutput:
    """A column for the text, for each embedding type, and for each field that was kept."""

    def __init__(self, file: BinaryIO, schema: Schema) -> None:
        kept = {field["name"]: field["type"] for field in schema["fields"] if field["name"] not in NOT_METADATA}
        self._file = file
        self._kept = {name: arrow_type(type) for name, type in kept.items()}
        self._schema: pa.Schema | None = None
        self._writer: pq.ParquetWriter | None = None
        self._batches: list[pa.RecordBatch] = []
        self._waiting = 0  # records in these

    def write(self, records: Sequence[Record]) -> None:
        vectors = {f"embeddings.{name}": _vectors(records, name) for name in records[0].embeddings}
        kept = {name: _column(records, name, type) for name, type in self._kept.items()}
        columns = {"text": pa.array([record.text for record in records], pa.string()), **vectors, **kept}
        batch = pa.RecordBatch.from_pydict(columns)
        self._schema = self._schema or batch.schema
        if batch.schema != self._schema:
            raise RejectedError("the records have not all vectors of the same types and lengths, which Parquet needs")
        self._batches.append(batch)
        self._waiting += len(records)
        if self._waiting >= GROUP_RECORDS:
            self._write_group()

    def end(self) -> None:
        if self._writer is None and not self._batches:
            empty = {name: pa.array([], type or pa.string()) for name, type in self._kept.items()}
            self._batches.append(pa.RecordBatch.from_pydict({"text": pa.array([], pa.string()), **empty}))
        self._write_group()
        if self._writer is not None:
            self._writer.close()

    def _write_group(self) -> None:
        if not self._batches:
            return
        table = pa.Table.from_batches(self._batches)
        if self._writer is None:
            plain = [name for name in table.column_names if not name.startswith("embeddings.")]
            self._writer = pq.ParquetWriter(self._file, table.schema, use_dictionary=plain)  # type: ignore[arg-type] # stubs
        self._writer.write_table(table)
        self._batches.clear()
        self._waiting = 0


def arrow_type(avro: object) -> ArrowType | None:
    """Translate an Avro type; None if it is one that has to be written as JSON."""
    match avro:
        case str():
            return _SCALARS.get(avro)
        case [other] | ["null", other] | [other, "null"]:
            return arrow_type(other)
        case dict():
            return _nested(avro)
    return None


def _nested(avro: Mapping[str, Any]) -> ArrowType | None:
    match avro:
        case {"type": "array", "items": items}:
            found = arrow_type(items)
            return None if found is None else pa.list_(found)
        case {"type": "map", "values": values}:
            found = arrow_type(values)
            return None if found is None else pa.map_(pa.string(), found)
        case {"type": "record", "fields": fields}:
            members = {field["name"]: arrow_type(field["type"]) for field in fields}
            known = {name: type for name, type in members.items() if type is not None}
            return pa.struct(known) if known and len(known) == len(members) else None
    return None if "logicalType" in avro else _SCALARS.get(avro["type"])


_SCALARS: Final[Mapping[str, ArrowType]] = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
}


def _vectors(records: Sequence[Record], name: str) -> ArrowArray:
    try:
        matrix = np.stack([record.embeddings[name] for record in records])
    except (KeyError, ValueError):
        raise RejectedError(f"the records have not all {name} vectors of one length, which Parquet needs") from None
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def _column(records: Sequence[Record], name: str, type: ArrowType | None) -> ArrowArray:
    values = [record.metadata.get(name) for record in records]
    if type is None:
        return pa.array(
            [None if value is None else msgspec.json.encode(value).decode() for value in values], pa.string()
        )
    return pa.array(values, type)

"""The Avro schemas of parts: what was seen in the rows, no wider and no narrower; values come back as they were.

    in the rows                                Avro
    -----------------------------------------  ---------------------------------------------------------
    one kind of value                          its type: "boolean", "long", "double", "string"
    arrays, objects                            array, map; of what was seen in all of them together
    several kinds                              a union, in the order null, boolean, long, double, string, array, map
    null, or the field is optional             a union that begins with null; null is the default
    nothing: empty arrays or objects; nulls    "string", as some readers cannot do with a type of nothing

Each of the types accepts exactly one of Python's, but for "double", which accepts an int and comes after "long"; so a
writer that takes the first branch that fits takes the right one. That is what fastavro does.

Names are as they were given. Those that are not Avro names (`wiki-id`) are refused by strict readers, as of Java;
fastavro 1.13, which Cohere's SDK reads with, takes them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from .rows import fields_of
from .values import DatasetOptions, EmbeddingType

if TYPE_CHECKING:
    from connector.model import JsonValue

    from .rows import Fields

    Avro: TypeAlias = "str | list[Avro] | dict[str, Avro | None]"

MAX_SHAPES = 1_000  # ours: bounds the schema; each array and object whose place is new counts
SCALARS = {type(None): "null", bool: "boolean", int: "long", float: "double", str: "string"}


class TooVariedError(Exception):
    """The rows' fields are of too many shapes for one schema."""


class _Shape:
    """What was seen at one place of the rows."""

    __slots__ = ("_elements", "_numbers", "_values", "kinds")

    def __init__(self, numbers: Iterator[int]) -> None:
        if next(numbers) > MAX_SHAPES:
            raise TooVariedError(
                f"the fields to keep have arrays and objects of more than {MAX_SHAPES:,} shapes, too many for one "
                "schema; write them as strings"
            )
        self._numbers = numbers
        self.kinds: set[type] = set()
        self._elements: _Shape | None = None  # of the arrays here
        self._values: _Shape | None = None  # of the objects here

    def see(self, values: Collection[JsonValue]) -> None:
        kinds = set(map(type, values))
        self.kinds |= kinds
        if list in kinds:
            self._elements = self._elements or _Shape(self._numbers)
            for value in values:
                if isinstance(value, list):
                    self._elements.see(value)
        if dict in kinds:
            self._values = self._values or _Shape(self._numbers)
            for value in values:
                if isinstance(value, dict):
                    self._values.see(value.values())

    def avro(self, *, is_optional: bool = False) -> Avro:
        seen = self.kinds | {type(None)} if is_optional else self.kinds
        branches: list[Avro] = [name for kind, name in SCALARS.items() if kind in seen]
        if self._elements:
            branches.append({"type": "array", "items": self._elements.avro()})
        if self._values:
            branches.append({"type": "map", "values": self._values.avro()})
        if branches in ([], ["null"]):
            branches.append("string")
        return branches[0] if len(branches) == 1 else branches


class Inference:
    """Finds the schema that rows need, in one pass over them."""

    def __init__(self, options: DatasetOptions) -> None:
        keep, optional = fields_of(options)
        numbers = count(1 - len(keep) - len(optional))
        self._shapes = {name: _Shape(numbers) for name in (*keep, *optional)}
        self._optional = frozenset(optional)

    def see(self, fields: Fields) -> None:
        """Note a row that is to have a place in the schema. TooVariedError if there is none for it."""
        for name, shape in self._shapes.items():
            if name in fields:
                value = fields[name]
                if type(value) in SCALARS:
                    shape.kinds.add(type(value))
                else:
                    shape.see((value,))

    def input_schema(self) -> str:
        """Describe rows of `text`, the kept fields and the optional ones, as JSON."""
        return _record(
            _field("text", "string"),
            *(_field(name, shape.avro(is_optional=name in self._optional)) for name, shape in self._shapes.items()),
        )


def result_schema(input_schema: str) -> str:
    """Describe the same rows with `embeddings` after `text`: a record of all five types, null where not asked for."""
    text, *others = json.loads(input_schema)["fields"]
    kinds = [
        _field(type, ["null", {"type": "array", "items": "float" if type is EmbeddingType.FLOAT else "int"}])
        for type in EmbeddingType
    ]
    embeddings: Avro = {"type": "record", "name": "embeddings", "fields": list(kinds)}
    return _record(text, _field("embeddings", embeddings), *others)


def _record(*fields: Avro) -> str:
    return json.dumps({"type": "record", "name": "row", "fields": fields})


def _field(name: str, type: Avro) -> dict[str, Avro | None]:
    field: dict[str, Avro | None] = {"name": name, "type": type}
    if isinstance(type, list) and type[0] == "null":
        field["default"] = None
    return field

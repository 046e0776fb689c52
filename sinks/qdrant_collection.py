"""What a collection of a Qdrant server is made with, and what of one that is there is read and has to be so.

differs from the settings                          is
-------------------------------------------------  ------------------------------------------
dimension, distance; no such vector                ConfigError: the vectors could not be kept
several vectors a point (multivector)              the same
sharded by keys                                    the same: we would not know the key
datatype, quantization, shards, replicas, on_disk  left: it is the operator's, who may change it
a payload index that is missing                    made by `prepare`
one of another type                                left
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from uuid import uuid4

from qdrant_client import models

from connector.errors import ConfigError, RejectedError

from .qdrant_payload import SOURCE
from .qdrant_search import path

if TYPE_CHECKING:
    from connector.model import Vectors

Distance: TypeAlias = Literal["cosine", "dot", "euclid"]
Datatype: TypeAlias = Literal["float32", "float16", "uint8"]
IndexType: TypeAlias = Literal["keyword", "integer", "float", "bool", "datetime", "text"]

DISTANCES: Final[Mapping[Distance, models.Distance]] = {
    "cosine": models.Distance.COSINE,
    "dot": models.Distance.DOT,
    "euclid": models.Distance.EUCLID,
}
METADATA: Final = "vector_sync"
"""Where in a collection's own metadata we keep which collection it is; servers have metadata from 1.16 on."""
INCARNATION: Final = "incarnation"
LARGEST_FLOAT16: Final = 65_504.0
LARGEST_UINT8: Final = 255


@dataclass(frozen=True, slots=True)
class Layout:
    """How a collection is to be, by the settings."""

    vector: str = ""  # its name; the unnamed one
    distance: Distance = "cosine"
    datatype: Datatype = "float32"
    quantization: Literal["none", "scalar", "binary"] = "none"
    quantization_in_ram: bool = False
    on_disk: bool = False
    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    index_fields: Mapping[str, IndexType] | None = None

    def making(self, dimension: int) -> dict[str, Any]:
        """Give the arguments of `create_collection`, but for the name."""
        params = models.VectorParams(
            size=dimension,
            distance=DISTANCES[self.distance],
            on_disk=self.on_disk or None,
            datatype=None if self.datatype == "float32" else models.Datatype(self.datatype),
        )
        return {
            "vectors_config": {self.vector: params} if self.vector else params,
            "quantization_config": self._quantization(),
            "shard_number": self.shard_number,
            "replication_factor": self.replication_factor,
            "write_consistency_factor": self.write_consistency_factor,
            "metadata": new_incarnation(),
        }

    def indexes(self) -> dict[str, models.PayloadSchemaType]:
        """Say which payload indexes there have to be, by key as Qdrant writes it."""
        wanted = {SOURCE: models.PayloadSchemaType.KEYWORD}
        for field, type in (self.index_fields or {}).items():
            wanted[path(field) or field] = models.PayloadSchemaType(type)
        return wanted

    def _quantization(self) -> models.ScalarQuantization | models.BinaryQuantization | None:
        in_ram = self.quantization_in_ram or None
        match self.quantization:
            case "scalar":
                return models.ScalarQuantization(
                    scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=in_ram)
                )
            case "binary":
                return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=in_ram))
            case "none":
                return None


@dataclass(frozen=True, slots=True)
class Collection:
    """What is known of a collection that is there."""

    name: str
    dimension: int
    distance: str
    datatype: str
    incarnation: str | None
    indexed: frozenset[str]  # keys without quotes
    records_per_upsert: int | None  # this and the following: strict mode's limits
    points_per_query: int | None
    timeout_seconds: int | None
    counts_exactly: bool

    @classmethod
    def read(cls, name: str, info: models.CollectionInfo, layout: Layout, place: str) -> Collection:
        """Read what a server says of a collection; ConfigError if it does not have our vector."""
        params = _vector(info, layout.vector, place)
        strict = info.config.strict_mode_config
        strict = strict if strict is not None and strict.enabled else models.StrictModeConfigOutput()
        return cls(
            name=name,
            dimension=params.size,
            distance=params.distance.value.lower(),
            datatype="float32" if params.datatype is None else params.datatype.value,
            incarnation=_incarnation(info),
            indexed=frozenset(key.strip('"') for key in info.payload_schema or ()),
            records_per_upsert=strict.upsert_max_batchsize,
            points_per_query=strict.max_query_limit,
            timeout_seconds=strict.max_timeout,
            counts_exactly=strict.search_allow_exact is not False,
        )

    @property
    def directed(self) -> bool:
        """Whether only the direction of a vector counts."""
        return self.distance == "cosine"

    def check_fits(self, dimension: int, distance: str, place: str) -> None:
        """Raise ConfigError if it cannot hold such vectors."""
        if self.dimension != dimension:
            raise ConfigError(
                f"{place} holds vectors of {self.dimension} dimensions, the embedder makes {dimension}; "
                "choose another collection"
            )
        if self.distance != distance:
            raise ConfigError(
                f'{place} was made for the distance "{self.distance}", the settings say "{distance}"; '
                "choose another collection"
            )

    def check_range(self, vectors: Vectors) -> None:
        """Raise RejectedError for numbers that the datatype would change beyond recognition."""
        if self.datatype == "float16" and (abs(vectors) > LARGEST_FLOAT16).any():
            raise RejectedError(f"a vector holds a number above {LARGEST_FLOAT16:,.0f}, the most that float16 can be")
        if self.datatype == "uint8" and ((vectors % 1 != 0) | (vectors < 0) | (vectors > LARGEST_UINT8)).any():
            raise RejectedError(
                "a vector is not of whole numbers from 0 to 255, which is all that the datatype uint8 keeps; "
                'choose another collection, with datatype = "float32" or "float16"'
            )


def new_incarnation() -> dict[str, Any]:
    """Make the metadata that tells a collection from any other of its name."""
    return {METADATA: {INCARNATION: uuid4().hex}}


def _incarnation(info: models.CollectionInfo) -> str | None:
    ours = (info.config.metadata or {}).get(METADATA)
    found = ours.get(INCARNATION) if isinstance(ours, dict) else None
    return found if isinstance(found, str) and found else None


def _vector(info: models.CollectionInfo, name: str, place: str) -> models.VectorParams:
    """Find our vector among those of a collection."""
    params = info.config.params
    vectors = params.vectors or {}
    named = vectors if isinstance(vectors, dict) else {"": vectors}
    if params.sharding_method == models.ShardingMethod.CUSTOM:
        raise ConfigError(
            f"{place} is sharded by keys of its owner's, which vector-sync has not; choose another collection"
        )
    found = named.get(name)
    if found is None:
        there = ", ".join(f'"{each}"' for each in sorted(named)) or "none"
        raise ConfigError(
            f'{place} has no vector "{name}"; it has: {there}; set `vector`, or choose another collection'
        )
    if found.multivector_config is not None:
        raise ConfigError(f'{place} keeps several vectors a point under "{name}"; choose another collection')
    return found

"""The collections and aliases of the Qdrant emulator: their settings as the server echoes them, and their names.

The points are in Qdrant's own local mode, which filters and searches as the server does. What it ignores is here:
settings, payload indexes, and the rules for names. The words of errors are those of Qdrant 1.19's source,
read 2026-11-22.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qdrant_client.http import models as wire
from qdrant_client.local.qdrant_local import QdrantLocal

from .qdrant_server_strict import RateLimit, StrictMode

Settings = dict[str, Any]

HNSW = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000, "max_indexing_threads": 0, "on_disk": False}
OPTIMIZER = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "max_segment_size": None,
    "memmap_threshold": None,
    "indexing_threshold": 10_000,
    "flush_interval_sec": 5,
    "max_optimization_threads": None,
}
WAL = {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1}


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of this program
    """An answer other than 200: its status, its words, and the wait it names."""

    def __init__(self, status: int, words: str, *, wait_seconds: int | None = None) -> None:
        super().__init__(words)
        self.status = status
        self.wait_seconds = wait_seconds


def envelope(result: Any = None, error: str | None = None) -> Settings:
    """Wrap an answer as Qdrant does."""
    return {"result": result, "status": "ok" if error is None else {"error": error}, "time": 0.0}


def dumped(model: Any) -> Any:
    """Give a value of the wire as JSON, without what is not set."""
    return model.model_dump(mode="json", exclude_none=True) if hasattr(model, "model_dump") else model


def changed(settings: Mapping[str, Any], model: Any) -> Settings:
    """Give settings with what a request sets of them."""
    return {**settings, **(dumped(model) or {})}


@dataclass(slots=True)
class Collection:
    """One collection: its settings, the indexes of its payload, its write limit."""

    name: str
    config: Settings
    clock: Callable[[], float]
    indexes: dict[str, Settings] = field(default_factory=dict)
    _limits: dict[str, RateLimit] = field(default_factory=dict)

    @property
    def strict(self) -> StrictMode | None:
        """The limits that are enforced; None if strict mode is off."""
        settings = self.config.get("strict_mode_config") or {}
        return StrictMode(settings, self.indexes) if settings.get("enabled") else None

    def rate(self, kind: str, cost: int) -> None:
        """Count a call against `read_rate_limit` or `write_rate_limit`."""
        per_minute = (self.config.get("strict_mode_config") or {}).get(f"{kind}_rate_limit")
        if per_minute is None or not self.config["strict_mode_config"].get("enabled"):
            self._limits.pop(kind, None)
            return
        limit = self._limits.get(kind)
        if limit is None or limit.per_minute != per_minute:
            limit = self._limits[kind] = RateLimit(per_minute, self.clock)
        problem, wait_seconds = limit.take(max(1, cost))
        if problem:
            raise Refusal(
                429, f"Rate limiting exceeded: {kind.title()} rate limit exceeded{problem}", wait_seconds=wait_seconds
            )

    def vectors(self) -> dict[str, Settings]:
        """The dense vectors by name; the one without a name is ""."""
        vectors: Settings = self.config["params"].get("vectors") or {}
        return {"": vectors} if "size" in vectors else vectors


class State:
    """All that a server keeps. Whoever calls holds `lock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.lock = threading.RLock()
        self.local = QdrantLocal(":memory:")
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        self._clock = clock
        self._operations = itertools.count(1)

    def next_operation(self) -> int:
        return next(self._operations)

    def find(self, name: str) -> Collection:
        """Find a collection by its name or an alias."""
        found = self.collections.get(self.aliases.get(name, name))
        if found is None:
            raise Refusal(404, f"Not found: Collection `{name}` doesn't exist!")
        return found

    def create(self, name: str, asked: wire.CreateCollection) -> bool:
        if name in self.collections:
            raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
        if name in self.aliases:
            raise Refusal(
                400,
                f"Wrong input: Can't create collection with name {name}. Alias with the same name already exists",
            )
        try:
            self.local.create_collection(name, vectors_config=asked.vectors, sparse_vectors_config=asked.sparse_vectors)
        except ValueError as error:
            raise Refusal(422, f"Validation error in JSON body: [{error}]") from error
        self.local.collections[name].LARGE_DATA_THRESHOLD = sys.maxsize  # no warning that local mode is slow
        self.collections[name] = Collection(name, _config(asked), self._clock)
        return True

    def update(self, name: str, asked: wire.UpdateCollection) -> bool:
        collection = self.find(name)
        config, params = collection.config, collection.config["params"]
        vectors = collection.vectors()
        for vector in asked.vectors or {}:
            if vector not in vectors:
                raise Refusal(400, f"Wrong input: Not existing vector name error: {vector}")
        for vector, diff in (asked.vectors or {}).items():
            hnsw = changed(vectors[vector].get("hnsw_config", {}), diff.hnsw_config)
            vectors[vector].update(changed({}, diff), **({"hnsw_config": hnsw} if hnsw else {}))
        params.update(changed({}, asked.params))
        config["hnsw_config"] = changed(config["hnsw_config"], asked.hnsw_config)
        config["optimizer_config"] = changed(config["optimizer_config"], asked.optimizers_config)
        if asked.quantization_config is not None:
            settings = dumped(asked.quantization_config)
            config["quantization_config"] = settings if isinstance(settings, dict) else None
        if asked.strict_mode_config is not None:
            config["strict_mode_config"] = changed(config.get("strict_mode_config") or {}, asked.strict_mode_config)
        if asked.metadata is not None:
            merged = {**(config.get("metadata") or {}), **asked.metadata}
            config["metadata"] = {key: value for key, value in merged.items() if value is not None}
        return True

    def delete(self, name: str) -> bool:
        """Delete a collection, by its own name alone, and the aliases of it."""
        if self.collections.pop(name, None) is None:
            return False
        self.aliases = {alias: target for alias, target in self.aliases.items() if target != name}
        self.local.delete_collection(name)
        return True

    def change_aliases(self, actions: wire.ChangeAliasesOperation) -> bool:
        """Change aliases in one step for readers. A change that fails leaves those before it, as the server does."""
        for action in actions.actions:
            if isinstance(action, wire.CreateAliasOperation):
                wanted = action.create_alias
                if wanted.collection_name not in self.collections:
                    raise Refusal(404, f"Not found: Collection `{wanted.collection_name}` doesn't exist!")
                if wanted.alias_name in self.collections:
                    raise Refusal(409, f"Wrong input: Collection `{wanted.alias_name}` already exists!")
                self.aliases[wanted.alias_name] = wanted.collection_name
            elif isinstance(action, wire.DeleteAliasOperation):
                self.aliases.pop(action.delete_alias.alias_name, None)
            else:
                names = action.rename_alias
                if names.old_alias_name not in self.aliases:
                    raise Refusal(404, f"Not found: Alias {names.old_alias_name} does not exists!")
                self.aliases[names.new_alias_name] = self.aliases.pop(names.old_alias_name)
        return True

    def listed_aliases(self, of: str | None = None) -> Settings:
        return {
            "aliases": [
                {"alias_name": alias, "collection_name": target}
                for alias, target in sorted(self.aliases.items())
                if of in (None, target)
            ]
        }

    def info(self, collection: Collection) -> Settings:
        """What `GET /collections/{name}` says."""
        count = self.local.count(collection.name).count
        return {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": 0,
            "points_count": count,
            "segments_count": 2,
            "config": collection.config,
            "payload_schema": {
                field: {**index, "points": self._having(collection.name, field)}
                for field, index in collection.indexes.items()
            },
            "update_queue": {"length": 0},
        }

    def _having(self, name: str, field: str) -> int:
        empty = wire.IsEmptyCondition(is_empty=wire.PayloadField(key=field))
        return self.local.count(name, count_filter=wire.Filter(must_not=[empty])).count


def _config(asked: wire.CreateCollection) -> Settings:
    """The settings of a new collection, with the server's defaults."""
    vectors = asked.vectors or {}
    params: Settings = {
        "vectors": {name: dumped(one) for name, one in vectors.items()}
        if isinstance(vectors, dict)
        else dumped(vectors),
        "shard_number": asked.shard_number or 1,
        "replication_factor": asked.replication_factor or 1,
        "write_consistency_factor": asked.write_consistency_factor or 1,
        "on_disk_payload": True if asked.on_disk_payload is None else asked.on_disk_payload,
    }
    if asked.sparse_vectors is not None:
        params["sparse_vectors"] = {name: dumped(one) for name, one in asked.sparse_vectors.items()}
    config: Settings = {
        "params": params,
        "hnsw_config": changed(HNSW, asked.hnsw_config),
        "optimizer_config": changed(OPTIMIZER, asked.optimizers_config),
        "wal_config": changed(WAL, asked.wal_config),
        "quantization_config": dumped(asked.quantization_config),
    }
    if asked.strict_mode_config is not None:
        config["strict_mode_config"] = dumped(asked.strict_mode_config)
    if asked.metadata is not None:
        config["metadata"] = dict(asked.metadata)
    return config

"""The calls to the emulated controller: indexes, as API 2026-07 has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .pinecone_server_index import PineconeIndex
from .pinecone_server_rules import RefusedError, check_index
from .pinecone_server_wire import Answer, Answering, Call

DENSE_FIELD: Final = "_values"
PROJECT: Final = "0e0e0e0"
"""What the hosts of a project have in common. As at Pinecone, an index made again has the host of the one before."""
_DEPLOYMENT: Final = {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}


class _Create(msgspec.Struct):
    schema: dict[str, Any]
    name: str
    deployment: dict[str, Any] | None = None
    deletion_protection: str = "disabled"
    tags: dict[str, str] | None = None


class _Configure(msgspec.Struct):
    deletion_protection: str | None = None
    tags: dict[str, str] | None = None
    deployment: Any = None
    read_capacity: Any = None
    schema: Any = None


Indexes = dict[str, PineconeIndex]


def _list_indexes(indexes: Indexes, call: Call) -> Answer:
    return Answer({"indexes": [_described(index, call) for index in indexes.values()]})


def create_index(indexes: Indexes, call: Call) -> Answer:
    """Make an index, for the API and for tests."""
    asked = call.decoded(_Create)
    fields = asked.schema.get("fields")
    dense = fields.get(DENSE_FIELD) if isinstance(fields, dict) and len(fields) == 1 else None
    if not isinstance(dense, dict) or dense.get("type") != "dense_vector":
        raise RefusedError(400, f"This emulator has indexes of dense vectors only, in the field {DENSE_FIELD}")
    metric = dense.get("metric", "cosine")
    check_index(asked.name, dense.get("dimension"), metric)
    if asked.name in indexes:
        raise RefusedError(409, "Resource already exists")
    indexes[asked.name] = PineconeIndex(
        asked.name,
        dense["dimension"],
        metric,
        schema={"fields": {DENSE_FIELD: {"type": "dense_vector", "dimension": dense["dimension"], "metric": metric}}},
        deployment=asked.deployment or dict(_DEPLOYMENT),
        tags=dict(asked.tags or {}),
        deletion_protection=asked.deletion_protection,
        polls_until_ready=call.terms.polls_until_ready,
    )
    return Answer(_described(indexes[asked.name], call), 201)


def _describe_index(indexes: Indexes, call: Call) -> Answer:
    index = _existing(indexes, call)
    answer = Answer(_described(index, call))
    index.polls_until_ready = max(0, index.polls_until_ready - 1)
    return answer


def _configure_index(indexes: Indexes, call: Call) -> Answer:
    index, asked = _existing(indexes, call), call.decoded(_Configure)
    index.deletion_protection = asked.deletion_protection or index.deletion_protection
    tags = index.tags | (asked.tags or {})
    index.tags = {name: value for name, value in tags.items() if value}
    return Answer(_described(index, call))


def _delete_index(indexes: Indexes, call: Call) -> Answer:
    index = _existing(indexes, call)
    if index.deletion_protection == "enabled":
        words = f"Deletion protection is enabled for index {index.name}. Disable it before deleting the index."
        raise RefusedError(403, words)
    del indexes[index.name]
    return Answer(None, 202)


CONTROL_CALLS: Final[Mapping[str, Answering]] = {
    "list_indexes": _list_indexes,
    "create_index": create_index,
    "describe_index": _describe_index,
    "configure_index": _configure_index,
    "delete_index": _delete_index,
}


def host_path(name: str) -> str:
    """Give the path under which an index is served; at Pinecone it is a host of its own."""
    return f"/hosts/{name}-{PROJECT}"


def _described(index: PineconeIndex, call: Call) -> dict[str, Any]:
    is_ready = index.polls_until_ready == 0
    return {
        "name": index.name,
        "host": call.host + host_path(index.name),
        "schema": index.schema,
        "deployment": index.deployment,
        "status": {"ready": is_ready, "state": "Ready" if is_ready else "Initializing"},
        "deletion_protection": index.deletion_protection,
        "tags": index.tags or None,
        "read_capacity": {"mode": "OnDemand", "status": {"state": "Ready"}},
    }


def _existing(indexes: Indexes, call: Call) -> PineconeIndex:
    if call.name not in indexes:
        raise RefusedError(404, f"Resource {call.name} not found")
    return indexes[call.name]

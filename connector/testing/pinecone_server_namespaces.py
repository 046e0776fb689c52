"""The calls to an emulated index host that are about namespaces, and their aliases."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from .pinecone_server_index import Alias, Namespace, PineconeIndex
from .pinecone_server_rules import (
    ALIASES_SINCE,
    DEFAULT_NAMESPACE,
    RefusedError,
    alias_name,
    check_prefix,
    namespace_name,
    page_size,
)
from .pinecone_server_wire import Answer, Answering, Call, page, with_page

_EPOCH: Final = datetime(2026, 9, 1, tzinfo=UTC)  # of the emulated clock


class _CreateNamespace(msgspec.Struct):
    name: str
    schema: Any = None


class _CreateAlias(msgspec.Struct):
    name: str = ""
    target_namespace: str = ""


def _list_namespaces(index: PineconeIndex, call: Call) -> Answer:
    prefix = call.one("prefix") or ""
    check_prefix(prefix, call.terms.limits)
    size = page_size(call.one("limit"), call.terms.limits)
    there = {name or DEFAULT_NAMESPACE for name, one in index.namespaces.items() if name or one.records}
    names = sorted(name for name in there if name.startswith(prefix))
    shown, pagination = page(names, size, call.one("paginationToken"))
    body = {"namespaces": [_described(index, name) for name in shown], "total_count": len(names)}
    return Answer(with_page(body, pagination))


def _create_namespace(index: PineconeIndex, call: Call) -> Answer:
    asked = call.decoded(_CreateNamespace)
    name = namespace_name(asked.name, call.terms.limits)
    if name in index.aliases:
        words = f"The name '{name}' is in use by a namespace alias"
        raise RefusedError(409, words, reason="NAME_IN_USE_BY_ALIAS")
    if name in index.namespaces:
        raise RefusedError(409, f"Namespace '{asked.name}' already exists")
    index.namespaces[name] = Namespace(schema=asked.schema)
    return Answer(_described(index, name))


def _describe_namespace(index: PineconeIndex, call: Call) -> Answer:
    return Answer(_described(index, _existing(index, call)))


def _delete_namespace(index: PineconeIndex, call: Call) -> Answer:
    name = _existing(index, call)
    if aliases := index.targeting(name):
        words = f"Namespace '{call.name}' is the target of the aliases {', '.join(sorted(aliases))}"
        raise RefusedError(400, words, reason="NAMESPACE_TARGETED_BY_ALIAS")
    call.records = len(index.namespaces.pop(name).records)
    index.namespaces.setdefault("", Namespace())
    return Answer({})


def _list_aliases(index: PineconeIndex, call: Call) -> Answer:
    _check_version(call)
    prefix = call.one("prefix") or ""
    check_prefix(prefix, call.terms.limits)
    size = page_size(call.one("limit"), call.terms.limits)
    target = call.one("target_namespace")
    if target == "":
        raise RefusedError(400, "target_namespace must not be empty", reason="TARGET_FILTER_EMPTY")
    wanted = None if target is None else namespace_name(target, call.terms.limits)
    names = sorted(
        name for name, one in index.aliases.items() if name.startswith(prefix) and wanted in (None, one.target)
    )
    shown, pagination = page(names, size, call.one("paginationToken"))
    body = {"namespace_aliases": [_alias_described(index, name) for name in shown], "total_count": len(names)}
    return Answer(with_page(body, pagination))


def _create_alias(index: PineconeIndex, call: Call) -> Answer:
    _check_version(call)
    asked = call.decoded(_CreateAlias)
    name = alias_name(asked.name)
    if name in index.aliases:
        current = {"target_namespace": index.aliases[name].target or DEFAULT_NAMESPACE}
        words = f"Namespace alias '{name}' already exists"
        raise RefusedError(409, words, reason="ALIAS_ALREADY_EXISTS", metadata=current)
    if name in index.namespaces:
        raise RefusedError(409, f"The name '{name}' is in use by a namespace", reason="NAME_IN_USE_BY_NAMESPACE")
    target = _target(index, asked.target_namespace, call)
    now = index.tick()
    index.aliases[name] = Alias(target, now, now)
    return Answer(_alias_described(index, name))


def _describe_alias(index: PineconeIndex, call: Call) -> Answer:
    return Answer(_alias_described(index, _existing_alias(index, call)))


def _repoint_alias(index: PineconeIndex, call: Call) -> Answer:
    name = _existing_alias(index, call)
    target = _target(index, call.decoded(_CreateAlias).target_namespace, call)
    index.aliases[name].target = target
    index.aliases[name].updated = index.tick()
    return Answer(_alias_described(index, name))


def _delete_alias(index: PineconeIndex, call: Call) -> Answer:
    del index.aliases[_existing_alias(index, call)]
    return Answer({})


NAMESPACE_CALLS: Final[Mapping[str, Answering]] = {
    "list_namespaces": _list_namespaces,
    "create_namespace": _create_namespace,
    "describe_namespace": _describe_namespace,
    "delete_namespace": _delete_namespace,
}
ALIAS_CALLS: Final[Mapping[str, Answering]] = {
    "list_aliases": _list_aliases,
    "create_alias": _create_alias,
    "describe_alias": _describe_alias,
    "repoint_alias": _repoint_alias,
    "delete_alias": _delete_alias,
}


def _existing(index: PineconeIndex, call: Call) -> str:
    name = namespace_name(call.name, call.terms.limits)
    if name in index.aliases:
        words = f"'{name}' is a namespace alias, not a namespace"
        raise RefusedError(400, words, reason="NAMESPACE_OPERATION_ON_ALIAS")
    if name not in index.namespaces:
        raise RefusedError(404, "Namespace not found")
    return name


def _existing_alias(index: PineconeIndex, call: Call) -> str:
    _check_version(call)
    name = alias_name(call.name)
    if name not in index.aliases:
        raise RefusedError(404, f"Namespace alias '{name}' not found", reason="ALIAS_NOT_FOUND")
    return name


def _target(index: PineconeIndex, name: str, call: Call) -> str:
    if not name:
        raise RefusedError(400, "target_namespace is required", reason="TARGET_NAMESPACE_REQUIRED")
    if name in index.aliases:
        raise RefusedError(400, f"The target '{name}' is itself an alias", reason="TARGET_IS_ALIAS")
    target = namespace_name(name, call.terms.limits)
    if target not in index.namespaces:
        words = f"The target namespace '{name}' does not exist"
        raise RefusedError(400, words, reason="TARGET_NAMESPACE_NOT_FOUND")
    return target


def _described(index: PineconeIndex, name: str) -> dict[str, Any]:
    namespace = index.namespaces["" if name == DEFAULT_NAMESPACE else name]
    count = len(namespace.read("stats"))
    shown = {"name": name or DEFAULT_NAMESPACE, "record_count": str(count), "size_bytes": "0"}
    return shown | ({"schema": namespace.schema} if namespace.schema is not None else {})


def _alias_described(index: PineconeIndex, name: str) -> dict[str, Any]:
    alias = index.aliases[name]
    return {
        "name": name,
        "target_namespace": alias.target or DEFAULT_NAMESPACE,
        "created_at": _time(alias.created),
        "updated_at": _time(alias.updated),
    }


def _time(ticks: int) -> str:
    return (_EPOCH + timedelta(seconds=ticks)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _check_version(call: Call) -> None:
    if call.api_version < ALIASES_SINCE:
        words = f"Namespace aliases need X-Pinecone-Api-Version {ALIASES_SINCE} or later"
        raise RefusedError(400, words, reason="API_VERSION_TOO_OLD")

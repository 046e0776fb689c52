"""The calls to an emulated index host that read and write records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np

from .pinecone_server_filters import Predicate, compiled
from .pinecone_server_index import Namespace, PineconeIndex, PineconeRecord
from .pinecone_server_rules import (
    DEFAULT_NAMESPACE,
    RefusedError,
    check_dimension,
    check_id,
    check_ids,
    check_prefix,
    dense_vector,
    namespace_name,
    page_size,
    stored_metadata,
)
from .pinecone_server_wire import Answer, Answering, Call, last_of, next_page, page, with_page

_FETCHED_BY_METADATA: Final = range(1, 10_001)  # records a page


class _Camel(msgspec.Struct, rename="camel"):
    pass


class _Vector(_Camel):
    id: str
    values: list[float] = []
    sparse_values: Any = None
    metadata: dict[str, Any] | None = None


class _Upsert(_Camel):
    vectors: list[_Vector]
    namespace: str = ""


class _Query(_Camel):
    top_k: int
    vector: list[float] | None = None
    id: str | None = None
    namespace: str = ""
    filter: dict[str, Any] | None = None
    include_values: bool = False
    include_metadata: bool = False
    sparse_vector: Any = None


class _FetchByMetadata(_Camel):
    filter: dict[str, Any]
    namespace: str = ""
    limit: int = 100
    pagination_token: str | None = None


class _Update(_Camel):
    id: str | None = None
    values: list[float] | None = None
    sparse_values: Any = None
    set_metadata: dict[str, Any] | None = None
    namespace: str = ""
    filter: dict[str, Any] | None = None
    dry_run: bool = False


class _Delete(_Camel):
    ids: list[str] | None = None
    delete_all: bool = False
    filter: dict[str, Any] | None = None
    namespace: str = ""


class _Stats(_Camel):
    filter: dict[str, Any] | None = None


def _upsert(index: PineconeIndex, call: Call) -> Answer:
    terms = call.terms
    if len(call.body) > terms.limits.upsert_bytes:
        words = "Your request is larger than the maximum supported size - 2MB. Please try to reduce your batch size."
        raise RefusedError(413, words)  # seen
    sent = call.decoded(_Upsert)
    if not 1 <= len(sent.vectors) <= terms.limits.records_per_upsert:
        most = f"between 1 and {terms.limits.records_per_upsert}"
        raise RefusedError(400, f"The number of vectors must be {most}, got {len(sent.vectors)}")
    name = namespace_name(sent.namespace, terms.limits)
    if name in index.aliases:
        words = f"Namespace '{name}' does not exist and its name is in use by a namespace alias"
        raise RefusedError(409, words, reason="NAME_IN_USE_BY_ALIAS", metadata={"alias": name})
    records = call.cut({vector.id: _record(vector, index, call) for vector in sent.vectors})
    lsn = index.namespaces.setdefault(name, Namespace()).write(records, terms.lag)
    call.records = len(records)
    return _written(lsn, {"upsertedCount": len(sent.vectors) if call.share >= 1 else len(records)})


def _query(index: PineconeIndex, call: Call) -> Answer:
    asked, limits = call.decoded(_Query), call.terms.limits
    _refuse_sparse(asked.sparse_vector)
    if not 1 <= asked.top_k <= limits.top_k:
        raise RefusedError(400, f"topK must be between 1 and {limits.top_k}, got {asked.top_k}")
    if (asked.vector is None) == (asked.id is None):
        raise RefusedError(400, "Exactly one of vector and id must be given")
    namespace, named = _reading(index, asked.namespace, call)
    is_wanted = compiled(asked.filter, limits) if asked.filter else None
    if asked.id is not None:
        check_id(asked.id, limits)
        found = namespace.records.get(asked.id)
        vector = found.values if found else np.empty(0, dtype=np.float32)
    else:
        vector = np.array(asked.vector, dtype=np.float32)
        check_dimension(len(vector), index.dimension)
    top = namespace.nearest(vector, index.metric, asked.top_k, is_wanted) if len(vector) else ()
    matches = []
    for id, record, score in top:
        shown = {"id": id, "score": score, "values": record.values.tolist() if asked.include_values else []}
        matches.append(shown | ({"metadata": record.metadata} if asked.include_metadata else {}))
    body = msgspec.json.encode({"matches": matches, "namespace": named, "usage": {"readUnits": 1}})
    if len(body) > limits.result_bytes:
        raise RefusedError(400, f"The result of the query has {len(body)} bytes, more than {limits.result_bytes}")
    seen = str(namespace.reconciled_lsn())
    return Answer(body, headers={"x-pinecone-max-indexed-lsn": seen, "x-pinecone-lsn-reconciled": seen})


def _fetch(index: PineconeIndex, call: Call) -> Answer:
    ids = call.query.get("ids", [])
    check_ids(ids, call.terms.limits)
    namespace, named = _reading(index, call.one("namespace") or "", call)
    seen = namespace.read("fetch")
    return Answer(_fetched({id: seen[id] for id in ids if id in seen}, named))


def _fetch_by_metadata(index: PineconeIndex, call: Call) -> Answer:
    asked = call.decoded(_FetchByMetadata)
    if asked.limit not in _FETCHED_BY_METADATA:
        raise RefusedError(400, f"Limit must be between 1 and {_FETCHED_BY_METADATA[-1]}, got {asked.limit}")
    namespace, named = _reading(index, asked.namespace, call)
    is_wanted = _required(asked.filter, call)
    seen = {id: record for id, record in namespace.read("query").items() if is_wanted(record.metadata)}
    ids, pagination = page(sorted(seen), asked.limit, asked.pagination_token)
    return Answer(with_page(_fetched({id: seen[id] for id in ids}, named), pagination))


def _list_ids(index: PineconeIndex, call: Call) -> Answer:
    limits, prefix = call.terms.limits, call.one("prefix") or ""
    check_prefix(prefix, limits)
    size = page_size(call.one("limit"), limits)
    namespace, named = _reading(index, call.one("namespace") or "", call)
    found = namespace.ids(prefix, last_of(call.one("paginationToken")), size + 1)
    body = {"vectors": [{"id": id} for id in found[:size]], "namespace": named, "usage": {"readUnits": 1}}
    return Answer(with_page(body, next_page(found, size)))


def _update(index: PineconeIndex, call: Call) -> Answer:
    asked, terms = call.decoded(_Update), call.terms
    _refuse_sparse(asked.sparse_values)
    if (asked.id is None) == (asked.filter is None):
        raise RefusedError(400, "Exactly one of id and filter must be given")
    namespace = _writing(index, asked.namespace, call)
    if asked.id is not None:
        check_id(asked.id, terms.limits)
        wanted = [asked.id] if asked.id in namespace.records else []
    else:
        if asked.values is not None:
            raise RefusedError(400, "Values cannot be updated by filter")
        wanted = _matching(namespace, _required(asked.filter, call))
    answer = {} if asked.filter is None else {"matchedRecords": len(wanted)}
    if asked.dry_run or not wanted:
        return Answer(answer)
    changes = {}
    for id in wanted:
        record = namespace.records[id]
        if asked.values is not None:
            record = replace(record, values=dense_vector(id, asked.values, index.dimension))
        merged = record.metadata | (asked.set_metadata or {})
        changes[id] = replace(record, metadata=stored_metadata(id, merged, terms.limits))
    call.records = len(changes)
    return _written(namespace.write(changes, terms.lag), answer)


def _delete(index: PineconeIndex, call: Call) -> Answer:
    asked, terms = call.decoded(_Delete), call.terms
    if (asked.ids is not None) + asked.delete_all + (asked.filter is not None) != 1:
        raise RefusedError(400, "Exactly one of ids, deleteAll and filter must be given")
    if asked.ids is not None:
        check_ids(asked.ids, terms.limits)
    namespace = _writing(index, asked.namespace, call)
    if asked.ids is not None:
        gone = call.cut(dict.fromkeys(asked.ids))
    elif asked.filter is not None:
        gone = dict.fromkeys(_matching(namespace, _required(asked.filter, call)))
    else:
        gone = dict.fromkeys(namespace.records)
    call.records = len(gone.keys() & namespace.records.keys())
    lsn = namespace.write(gone, terms.lag)
    name = namespace_name(asked.namespace, terms.limits)
    if asked.delete_all and name and not index.targeting(name):
        del index.namespaces[name]
    return _written(lsn, {})


def _stats(index: PineconeIndex, call: Call) -> Answer:
    if call.decoded(_Stats).filter:
        words = "Serverless and Starter indexes do not support describing index stats with metadata filtering"
        raise RefusedError(400, words)
    counts = {name or DEFAULT_NAMESPACE: len(one.read("stats")) for name, one in index.namespaces.items()}
    if not counts[DEFAULT_NAMESPACE]:
        del counts[DEFAULT_NAMESPACE]
    body = {
        "namespaces": {name: {"vectorCount": count} for name, count in counts.items()},
        "dimension": index.dimension,
        "indexFullness": 0.0,
        "totalVectorCount": sum(counts.values()),
        "metric": index.metric,
        "vectorType": "dense",
    }
    return Answer(body)


RECORD_CALLS: Final[Mapping[str, Answering]] = {
    "upsert": _upsert,
    "query": _query,
    "fetch": _fetch,
    "fetch_by_metadata": _fetch_by_metadata,
    "list": _list_ids,
    "update": _update,
    "delete": _delete,
    "stats": _stats,
}


def _record(vector: _Vector, index: PineconeIndex, call: Call) -> PineconeRecord:
    limits, poisoned = call.terms.limits, call.terms.poisoned
    check_id(vector.id, limits)
    _refuse_sparse(vector.sparse_values)
    if poisoned:
        for text in (vector.id, *(vector.metadata or {}).values()):
            if isinstance(text, str) and text in poisoned:
                raise RefusedError(400, poisoned[text])
    values = dense_vector(vector.id, vector.values, index.dimension)
    return PineconeRecord(values, stored_metadata(vector.id, vector.metadata or {}, limits))


def _reading(index: PineconeIndex, name: str, call: Call) -> tuple[Namespace, str]:
    named = index.resolved(namespace_name(name, call.terms.limits))
    return index.read(named), named


def _writing(index: PineconeIndex, name: str, call: Call) -> Namespace:
    named = namespace_name(name, call.terms.limits)
    if named in index.aliases:
        words = f"'{named}' is a namespace alias; writes must address a namespace directly"
        raise RefusedError(400, words, reason="WRITE_TO_ALIAS", metadata={"alias": named})
    if named not in index.namespaces:
        raise RefusedError(404, "Namespace not found")  # seen, of deletions
    return index.namespaces[named]


def _required(filter: dict[str, Any] | None, call: Call) -> Predicate:
    if not filter:
        raise RefusedError(400, "The filter must not be empty")
    return compiled(filter, call.terms.limits)


def _matching(namespace: Namespace, is_wanted: Predicate) -> list[str]:
    return [id for id, record in namespace.records.items() if is_wanted(record.metadata)]


def _fetched(records: Mapping[str, PineconeRecord], named: str) -> dict[str, Any]:
    vectors = {}
    for id, record in records.items():
        shown = {"id": id, "values": record.values.tolist()}
        vectors[id] = shown | ({"metadata": record.metadata} if record.metadata else {})
    return {"vectors": vectors, "namespace": named, "usage": {"readUnits": 1}}


def _written(lsn: int, body: dict[str, Any]) -> Answer:
    return Answer(body, headers={"x-pinecone-request-lsn": str(lsn), "x-pinecone-lsn-committed": str(lsn)})


def _refuse_sparse(values: Iterable[Any] | None) -> None:
    if values:
        raise RefusedError(400, "This emulator has dense vectors only")

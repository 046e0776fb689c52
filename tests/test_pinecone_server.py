"""The emulated Pinecone, driven by the official SDK: indexes and records."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest
from pinecone import AsyncPinecone, Index, Pinecone
from pinecone.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnauthorizedError,
)
from pinecone_server_rig import BASIS, SERVERLESS, E, client, index, listed, refused, server, waits

from connector.testing.pinecone_sdk import without_waiting
from connector.testing.pinecone_server import PineconeServer, Status

__all__ = ["client", "index", "server", "waits"]

# --- indexes ----------------------------------------------------------------------------------------


def test_an_index_made_with_the_old_arguments_is_described_and_found(client: Pinecone) -> None:
    assert not client.has_index("docs")
    client.create_index("docs", dimension=3, metric="euclidean", spec=SERVERLESS, tags={"team": "search"})
    model = client.describe_index("docs")
    assert (model.dimension, model.metric, model.status.ready) == (3, "euclidean", True)
    assert model.tags == {"team": "search"}
    assert client.has_index("docs")
    assert client.list_indexes().names() == ["docs"]


def test_an_index_made_with_a_schema_is_the_same_kind_of_index(client: Pinecone) -> None:
    field = {"type": "dense_vector", "dimension": 3, "metric": "cosine"}
    deployment = {"deployment_type": "managed", "cloud": "gcp", "region": "us-central1"}
    client.indexes.create(name="docs", schema={"fields": {"_values": field}}, deployment=deployment)
    with client.index("docs") as index:
        index.upsert(vectors=[("a", E)])
        assert index.describe_index_stats().dimension == 3


def test_an_index_becomes_ready_after_so_many_looks(server: PineconeServer, client: Pinecone) -> None:
    server.terms.polls_until_ready = 2
    client.create_index("docs", dimension=3, spec=SERVERLESS, timeout=-1)
    looks = [client.describe_index("docs").status for _ in range(3)]
    assert [look.ready for look in looks] == [False, False, True]
    assert looks[0].state == "Initializing"
    client.create_index("other", dimension=3, spec=SERVERLESS)  # the SDK looks until it is ready
    assert server.calls["describe_index"] == 6


def test_tags_are_merged_and_emptied_ones_go(client: Pinecone) -> None:
    client.create_index("docs", dimension=3, spec=SERVERLESS, tags={"a": "1", "b": "2"})
    client.configure_index("docs", tags={"b": "", "c": "3"})
    assert client.describe_index("docs").tags == {"a": "1", "c": "3"}


def test_a_protected_index_is_not_deleted(client: Pinecone) -> None:
    client.create_index("docs", dimension=3, spec=SERVERLESS, deletion_protection="enabled")
    refused(lambda: client.delete_index("docs"), "Deletion protection", kind=ForbiddenError, status=403)
    client.configure_index("docs", deletion_protection="disabled")
    client.delete_index("docs")
    assert not client.has_index("docs")


def test_an_index_made_again_is_empty_and_has_the_same_host(client: Pinecone) -> None:
    client.create_index("docs", dimension=3, spec=SERVERLESS)
    host = client.describe_index("docs").host
    with client.index("docs") as index:
        index.upsert(vectors=[("a", E)])
        client.delete_index("docs")
        refused(lambda: index.fetch(ids=["a"]), kind=NotFoundError, status=404)
        client.create_index("docs", dimension=3, spec=SERVERLESS)
        assert client.describe_index("docs").host == host
        assert not index.fetch(ids=["a"]).vectors


def test_the_controller_says_no_in_its_own_form(client: Pinecone) -> None:
    client.create_index("docs", dimension=3, spec=SERVERLESS)
    error = refused(
        lambda: client.create_index("docs", dimension=3, spec=SERVERLESS),
        "already exists",
        kind=ConflictError,
        status=409,
    )
    assert error.error_code == "ALREADY_EXISTS"
    refused(lambda: client.create_index("other", dimension=20_001, spec=SERVERLESS), "20000")
    refused(lambda: client.describe_index("missing"), kind=NotFoundError, status=404)


def test_only_its_key_opens_a_server_that_has_one() -> None:
    with without_waiting(), PineconeServer(api_key="right") as server:
        host = server.create("docs", 3)
        with Pinecone(api_key="wrong", host=server.url) as client, Index(host=host, api_key="wrong") as index:
            refused(client.list_indexes, "Invalid API key", kind=UnauthorizedError, status=401)
            refused(lambda: index.upsert(vectors=[("a", E)]), kind=UnauthorizedError, status=401)
        assert server.records("docs") == {}
        with Index(host=host, api_key="right") as index:
            index.upsert(vectors=[("a", E)])
        assert all("api-key" not in seen.headers for seen in server.requests)


# --- records ----------------------------------------------------------------------------------------


def test_a_record_reads_back_as_the_service_would_store_it(index: Index) -> None:
    metadata = {"text": "Größe", "n": 7, "big": 2**53 + 1, "x": 0.1, "is": False, "tags": ["a", "b"], "none": None}
    vector = np.array([0.1, -0.2, 1e30], dtype=np.float32)
    index.upsert(vectors=[{"id": "a#1", "values": vector.tolist(), "metadata": metadata}], namespace="n")
    found = index.fetch(ids=["a#1", "missing"], namespace="n")
    assert list(found.vectors) == ["a#1"]
    assert np.array_equal(np.array(found.vectors["a#1"].values, dtype=np.float32), vector)
    expected = {"text": "Größe", "n": 7.0, "big": 2.0**53, "x": 0.1, "is": False, "tags": ["a", "b"]}
    assert found.vectors["a#1"].metadata == expected
    assert isinstance((found.vectors["a#1"].metadata or {})["n"], float)
    assert found.namespace == "n"


def test_vectors_are_kept_in_32_bits(server: PineconeServer, index: Index) -> None:
    index.upsert(vectors=[("a", [0.1, 1 / 3, 1.0])])
    assert index.fetch(ids=["a"]).vectors["a"].values == np.array([0.1, 1 / 3, 1.0], dtype=np.float32).tolist()
    assert server.records("docs")["a"].values.dtype == np.float32


def test_an_upsert_replaces_all_of_a_record(index: Index) -> None:
    index.upsert(vectors=[("a", E, {"old": 1, "both": 1})])
    index.upsert(vectors=[("a", [0.0, 1.0, 0.0], {"both": 2})])
    found = index.fetch(ids=["a"]).vectors["a"]
    assert found.metadata == {"both": 2}
    assert found.values == [0.0, 1.0, 0.0]


def test_namespaces_do_not_see_each_other_and_the_default_one_has_two_names(index: Index) -> None:
    for namespace in ("", "a", "b"):
        index.upsert(vectors=[(f"in {namespace}", E)], namespace=namespace)
    assert listed(index, namespace="a") == ["in a"]
    assert listed(index, namespace="__default__") == listed(index, namespace="") == ["in "]
    counts = {name: one.vector_count for name, one in index.describe_index_stats().namespaces.items()}
    assert counts == {"__default__": 1, "a": 1, "b": 1}


def test_reading_a_namespace_that_is_not_there_finds_nothing(index: Index) -> None:
    assert not index.fetch(ids=["a"], namespace="no").vectors
    assert listed(index, namespace="no") == []
    assert index.query(vector=E, top_k=1, namespace="no").matches == []
    refused(lambda: index.delete(ids=["a"], namespace="no"), "Namespace not found", kind=NotFoundError, status=404)


def test_ids_come_in_order_by_prefix_and_in_pages(server: PineconeServer, index: Index) -> None:
    ids = [f"v{number:04d}" for number in range(250)]
    index.upsert(vectors=[(id, E) for id in [*reversed(ids), "a", "w"]], namespace="n")
    pages = [len(one_page.vectors) for one_page in index.list(prefix="v", namespace="n")]
    assert pages == [100, 100, 50]
    assert listed(index, prefix="v", namespace="n") == ids
    assert listed(index, namespace="n", limit=7) == ["a", *ids, "w"]
    assert index.list_paginated(prefix="v", namespace="n").pagination is not None
    assert index.list_paginated(prefix="w", namespace="n").pagination is None
    answer = httpx.get(f"{index.host}/vectors/list", params={"limit": 101}, headers={"api-key": "key"})
    assert (answer.status_code, "Limit must be between 1 and 100" in answer.text) == (400, True)


def test_ids_are_in_the_order_of_their_bytes(index: Index) -> None:
    index.upsert(vectors=[(id, E) for id in ("b", "B", "a#10", "a#2", "~", "!")])
    assert listed(index) == ["!", "B", "a#10", "a#2", "b", "~"]


@pytest.mark.parametrize(
    "metric,scores", [("cosine", [1.0, 0.6, 0.0]), ("dotproduct", [2.0, 0.6, 0.0]), ("euclidean", [1.0, 0.8, 2.0])]
)
def test_a_query_finds_the_nearest_by_the_metric(server: PineconeServer, metric: str, scores: list[float]) -> None:
    vectors = [("long", [2.0, 0.0, 0.0]), ("slant", [0.6, 0.8, 0.0]), ("across", [0.0, 1.0, 0.0])]
    with Index(host=server.create(metric, 3, metric), api_key="key") as index:
        index.upsert(vectors=vectors)
        by_id = {id: score for (id, _), score in zip(vectors, scores, strict=True)}
        found = index.query(vector=E, top_k=3, include_values=True)
    assert {match.id: pytest.approx(match.score, abs=1e-6) for match in found.matches} == by_id
    ranked = sorted(by_id, key=by_id.__getitem__, reverse=metric != "euclidean")
    assert [match.id for match in found.matches] == ranked
    assert all(len(match.values) == 3 for match in found.matches)


def test_a_query_tells_only_what_it_is_asked_for(index: Index) -> None:
    index.upsert(vectors=[(id, vector, {"axis": id}) for id, vector in BASIS.items()])
    bare = index.query(vector=E, top_k=1).matches[0]
    assert (bare.id, bare.values, bare.metadata) == ("x", [], None)
    full = index.query(id="y", top_k=1, include_metadata=True).matches[0]
    assert (full.id, full.metadata) == ("y", {"axis": "y"})


FILTERED = {
    "a": {"genre": "drama", "year": 2019, "seen": True, "tags": ["x", "y"]},
    "b": {"genre": "comedy", "year": 2020, "seen": False, "tags": ["y"]},
    "c": {"genre": "1", "year": 1, "tags": []},
    "d": {},
}


@pytest.mark.parametrize(
    "filter,found",
    [
        ({"genre": "drama"}, "a"),
        ({"genre": {"$eq": "drama"}}, "a"),
        ({"genre": {"$ne": "drama"}}, "bcd"),
        ({"genre": {"$in": ["drama", "comedy"]}}, "ab"),
        ({"genre": {"$nin": ["drama", "comedy"]}}, "cd"),
        ({"year": {"$in": [1, 2020]}}, "bc"),
        ({"year": {"$gt": 2019}}, "b"),
        ({"year": {"$gte": 2019}}, "ab"),
        ({"year": {"$lt": 2019}}, "c"),
        ({"year": {"$lte": 2019, "$gt": 1}}, "a"),
        ({"seen": True}, "a"),
        ({"seen": {"$eq": False}}, "b"),
        ({"seen": 1}, ""),
        ({"year": True}, ""),
        ({"genre": 1}, ""),
        ({"tags": "y"}, "ab"),
        ({"tags": {"$in": ["x"]}}, "a"),
        ({"year": {"$exists": True}}, "abc"),
        ({"year": {"$exists": False}}, "d"),
        ({"genre": "drama", "seen": False}, ""),
        ({"$and": [{"year": {"$gt": 1}}, {"tags": "y"}]}, "ab"),
        ({"$or": [{"genre": "1"}, {"seen": {"$eq": True}}]}, "ac"),
    ],
)
def test_filters_hold_as_documented(index: Index, filter: dict[str, Any], found: str) -> None:
    index.upsert(vectors=[(id, E, metadata) for id, metadata in FILTERED.items()])
    assert {match.id for match in index.query(vector=E, top_k=9, filter=filter).matches} == set(found)
    assert set(index.fetch_by_metadata(filter=filter).vectors) == set(found)
    index.delete(filter=filter)
    assert set(listed(index)) == set("abcd") - set(found)


@pytest.mark.parametrize(
    "filter",
    [
        {"a": {"$like": "x"}},
        {"$not": [{"a": 1}]},
        {"a": {"$gt": "1"}},
        {"a": {"$lt": True}},
        {"a": {"$in": "abc"}},
        {"a": {"$in": [["b"]]}},
        {"a": {"$exists": 1}},
        {"a": {}},
        {"a": ["b"]},
        {"$and": []},
        {"$or": {"a": 1}},
    ],
)
def test_what_is_no_filter_is_refused(index: Index, filter: dict[str, Any]) -> None:
    refused(lambda: index.query(vector=E, top_k=1, filter=filter), "Invalid filter")


def test_records_are_fetched_by_metadata_in_pages(index: Index) -> None:
    index.upsert(vectors=[(f"{number}", E, {"kind": "even" if number % 2 == 0 else "odd"}) for number in range(10)])
    first = index.fetch_by_metadata(filter={"kind": "even"}, limit=3)
    assert first.pagination is not None
    second = index.fetch_by_metadata(filter={"kind": "even"}, limit=3, pagination_token=first.pagination.next)
    assert second.pagination is None
    assert sorted([*first.vectors, *second.vectors]) == ["0", "2", "4", "6", "8"]


def test_an_update_changes_what_it_names_and_leaves_the_rest(index: Index) -> None:
    index.upsert(vectors=[("a", E, {"kept": 1, "changed": 1}), ("b", E, {"kept": 1})])
    index.update(id="a", set_metadata={"changed": 2, "new": "n"})
    index.update(id="b", values=[0.0, 0.0, 2.0])
    index.update(id="missing", set_metadata={"x": 1})
    found = index.fetch(ids=["a", "b", "missing"]).vectors
    assert found["a"].metadata == {"kept": 1, "changed": 2, "new": "n"}
    assert (found["b"].values, found["b"].metadata) == ([0.0, 0.0, 2.0], {"kept": 1})
    assert len(found) == 2


def test_an_update_by_filter_counts_and_can_be_tried_first(index: Index) -> None:
    index.upsert(vectors=[(id, E, {"kind": kind}) for id, kind in ("ax", "bx", "cy")])
    tried = index.update(filter={"kind": "x"}, set_metadata={"done": True}, dry_run=True)
    assert tried.matched_records == 2
    assert "done" not in (index.fetch(ids=["a"]).vectors["a"].metadata or {})
    index.update(filter={"kind": "x"}, set_metadata={"done": True})
    assert set(index.fetch_by_metadata(filter={"done": True}).vectors) == {"a", "b"}


def test_deleting_takes_the_named_and_minds_no_others(server: PineconeServer, index: Index) -> None:
    index.upsert(vectors=[(id, E) for id in "abc"], namespace="n")
    index.delete(ids=["a", "not there"], namespace="n")
    index.delete(ids=["a"], namespace="n")
    assert listed(index, namespace="n") == ["b", "c"]
    assert server.records_removed == 1


def test_deleting_all_takes_the_namespace_with_it(index: Index) -> None:
    index.upsert(vectors=[(id, E) for id in "abc"], namespace="n")
    index.delete(delete_all=True, namespace="n")
    assert "n" not in index.describe_index_stats().namespaces
    refused(lambda: index.delete(delete_all=True, namespace="n"), kind=NotFoundError, status=404)


# --- the SDK's other ways -----------------------------------------------------------------------------


def test_the_async_sdk_is_served_as_well(server: PineconeServer, waits: list[float]) -> None:
    async def story() -> None:
        async with AsyncPinecone(api_key="key", host=server.url) as client:
            await client.create_index("docs", dimension=3, metric="cosine", spec=SERVERLESS)
            async with await client.index(name="docs") as index:
                vectors = [(f"{number:03d}", E) for number in range(120)]
                done = await index.upsert(vectors=vectors, batch_size=50, show_progress=False, namespace="n")
                assert (done.upserted_count, done.has_errors) == (120, False)
                assert [len(page.vectors) async for page in index.list(namespace="n")] == [100, 20]
                server.on("query", Status(503), times=2)
                assert len((await index.query(vector=E, top_k=2, namespace="n")).matches) == 2
                await index.delete(ids=["000"], namespace="n")
                assert (await index.describe_index_stats()).total_vector_count == 119

    asyncio.run(story())
    assert len(waits) == 2


def test_many_threads_write_at_once(server: PineconeServer, index: Index) -> None:
    vectors = [(f"{number:04d}", E) for number in range(1000)]
    index.upsert(vectors=vectors, batch_size=50, max_concurrency=8, show_progress=False)
    assert sorted(server.records("docs")) == [id for id, _ in vectors]
    assert server.calls["upsert"] == 20

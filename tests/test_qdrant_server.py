"""The Qdrant emulator through Qdrant's own client, and the same rules at a real server where one is given."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import re
import subprocess
import sys
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import httpx
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from real_servers import RealServer, real_qdrant, unique, why_no_qdrant

from connector.testing.qdrant_server import Fault, Kind, QdrantServer

__all__ = ["real_qdrant"]

PAGE = Path(__file__).parent.parent / "docs" / "testing.md"
POINTS = r"/collections/[^/]+/points"
UPSERT = "PUT /collections/{name}/points"
FOUR = models.VectorParams(size=4, distance=models.Distance.COSINE)


def id_of(number: int) -> str:
    return str(uuid5(UUID(int=0), str(number)))


def point(number: int, **payload: Any) -> models.PointStruct:
    return models.PointStruct(id=id_of(number), vector=[1.0, number, 0.0, 0.0], payload={"n": number} | payload)


def is_field(key: str, value: Any) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))])


def connect(url: str, **more: Any) -> QdrantClient:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a key goes over plain HTTP
        return QdrantClient(url=url, check_compatibility=False, verify=False, **{"timeout": 10} | more)


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with QdrantServer() as server:
        yield server


@dataclass
class Place:
    """A server, the emulator or a real one, and a collection of our own at it."""

    client: QdrantClient
    name: str

    def make(self, **more: Any) -> Place:
        self.client.create_collection(self.name, **{"vectors_config": FOUR} | more)
        return self

    def put(self, *points: models.PointStruct) -> models.UpdateResult:
        return self.client.upsert(self.name, list(points), wait=True)

    def ids(self) -> set[Any]:
        return {record.id for record in self.client.scroll(self.name, limit=1000)[0]}

    def payload(self, number: int) -> dict[str, Any] | None:
        return self.client.retrieve(self.name, [id_of(number)])[0].payload


@pytest.fixture(params=["emulator"] if why_no_qdrant() else ["emulator", "real"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "real":
        real: RealServer = request.getfixturevalue("real_qdrant")
        url, key = real.url, real.api_key
    else:
        url, key = request.getfixturevalue("server").url, None
    client = connect(url, api_key=key)
    name = unique("vector-sync-test")
    yield Place(client, name)
    for alias in client.get_aliases().aliases:
        if alias.alias_name.startswith(name):
            client.update_collection_aliases(
                [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias.alias_name))]
            )
    for collection in client.get_collections().collections:
        if collection.name.startswith(name):
            client.delete_collection(collection.name)
    client.close()


def refused(work: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(UnexpectedResponse) as caught:
        work()
    try:
        words = json.loads(caught.value.content)["status"]["error"]
    except ValueError:
        words = caught.value.content.decode()
    assert caught.value.status_code is not None
    return caught.value.status_code, words


def test_the_rules_below_are_a_real_servers_too(real_qdrant: RealServer) -> None:
    client = connect(real_qdrant.url, api_key=real_qdrant.api_key)
    assert "qdrant" in client.info().title  # "real" is among the parameters of those tests


# --- collections and aliases ------------------------------------------------------------------------


def test_a_collection_is_made_once_and_found_until_it_is_deleted(place: Place) -> None:
    assert not place.client.collection_exists(place.name)
    assert refused(lambda: place.client.get_collection(place.name)) == (
        404,
        f"Not found: Collection `{place.name}` doesn't exist!",
    )
    place.make()
    assert place.client.collection_exists(place.name)
    assert place.name in {one.name for one in place.client.get_collections().collections}
    assert refused(place.make) == (409, f"Wrong input: Collection `{place.name}` already exists!")
    assert place.client.delete_collection(place.name) is True
    assert place.client.delete_collection(place.name) is False
    assert not place.client.collection_exists(place.name)


def test_settings_are_read_back_as_they_were_given(place: Place) -> None:
    place.make(
        vectors_config={
            "text": models.VectorParams(
                size=4,
                distance=models.Distance.DOT,
                datatype=models.Datatype.FLOAT16,
                on_disk=True,
                hnsw_config=models.HnswConfigDiff(m=8),
                quantization_config=models.ScalarQuantization(
                    scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
                ),
            )
        },
        hnsw_config=models.HnswConfigDiff(m=0, payload_m=16),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
        strict_mode_config=models.StrictModeConfig(enabled=True, upsert_max_batchsize=100),
        metadata={"made_by": "a test", "generation": 3, "nested": {"a": [1, None]}},
    )
    config = place.client.get_collection(place.name).config
    assert isinstance(config.params.vectors, dict)
    text = config.params.vectors["text"]
    assert (text.size, text.distance, text.datatype, text.on_disk) == (4, "Dot", "float16", True)
    assert text.hnsw_config is not None
    assert text.hnsw_config.m == 8
    assert isinstance(text.quantization_config, models.ScalarQuantization)
    assert (config.hnsw_config.m, config.hnsw_config.payload_m, config.hnsw_config.ef_construct) == (0, 16, 100)
    assert config.optimizer_config.indexing_threshold == 0
    assert config.strict_mode_config is not None
    assert config.strict_mode_config.upsert_max_batchsize == 100
    assert config.metadata == {"made_by": "a test", "generation": 3, "nested": {"a": [1, None]}}


def test_settings_change_and_the_others_stay(place: Place) -> None:
    place.make(metadata={"a": 1, "b": 2}, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0))
    place.client.update_collection(
        place.name,
        metadata={"b": 3, "c": 4},
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=20_000),
        hnsw_config=models.HnswConfigDiff(m=32),
        strict_mode_config=models.StrictModeConfig(enabled=True, max_query_limit=5),
        vectors_config={"": models.VectorParamsDiff(on_disk=True)},
    )
    config = place.client.get_collection(place.name).config
    assert config.metadata == {"a": 1, "b": 3, "c": 4}
    assert (config.optimizer_config.indexing_threshold, config.hnsw_config.m, config.hnsw_config.ef_construct) == (
        20_000,
        32,
        100,
    )
    assert isinstance(config.params.vectors, models.VectorParams)
    assert config.params.vectors.on_disk is True
    assert config.strict_mode_config is not None
    assert config.strict_mode_config.max_query_limit == 5


def to(alias: str, name: str) -> models.CreateAliasOperation:
    return models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=alias))


def gone(alias: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))


def test_an_alias_stands_for_its_collection_and_is_switched_in_one_call(place: Place) -> None:
    old, new, alias = place.name, f"{place.name}-2", f"{place.name}-live"
    place.make()
    Place(place.client, new).make()
    place.put(point(1))
    place.client.update_collection_aliases([to(alias, old)])
    assert place.client.count(alias).count == 1
    place.client.update_collection_aliases([gone(alias), to(alias, new)])
    assert place.client.count(alias).count == 0
    place.client.upsert(alias, [point(2), point(3)], wait=True)
    assert place.client.count(new).count == 2
    assert place.client.collection_exists(alias)
    assert [(one.alias_name, one.collection_name) for one in place.client.get_collection_aliases(new).aliases] == [
        (alias, new)
    ]
    place.client.update_collection_aliases([to(alias, old)])  # an alias that is there is pointed elsewhere
    assert place.client.count(alias).count == 1
    renamed = models.RenameAliasOperation(
        rename_alias=models.RenameAlias(old_alias_name=alias, new_alias_name=f"{alias}-b")
    )
    place.client.update_collection_aliases([renamed])
    assert f"{alias}-b" in {one.alias_name for one in place.client.get_aliases().aliases}
    place.client.delete_collection(old)
    assert not {one.alias_name for one in place.client.get_aliases().aliases} & {alias, f"{alias}-b"}


def test_a_collection_and_an_alias_never_have_one_name(place: Place) -> None:
    other, alias = f"{place.name}-2", f"{place.name}-live"
    place.make()
    Place(place.client, other).make()
    place.client.update_collection_aliases([to(alias, other)])
    status, words = refused(Place(place.client, alias).make)
    assert (status, "Alias with the same name already exists" in words) == (400, True)
    status, words = refused(lambda: place.client.update_collection_aliases([to(place.name, other)]))
    assert (status, "already exists" in words) == (409, True)
    assert refused(lambda: place.client.update_collection_aliases([to(alias, "nobody")]))[0] == 404
    place.client.update_collection_aliases([gone(f"{alias}-never")])


def test_a_change_of_aliases_that_fails_keeps_what_came_before_it(place: Place) -> None:
    alias = f"{place.name}-live"
    place.make()
    place.client.update_collection_aliases([to(alias, place.name)])
    assert refused(lambda: place.client.update_collection_aliases([gone(alias), to(alias, "nobody")]))[0] == 404
    assert alias not in {one.alias_name for one in place.client.get_aliases().aliases}


# --- points -----------------------------------------------------------------------------------------


def test_points_are_written_replaced_read_and_deleted(place: Place) -> None:
    place.make()
    result = place.put(*(point(number, text=f"text {number}") for number in range(10)))
    assert result.status == models.UpdateStatus.COMPLETED
    place.put(point(3))  # replaces all of it
    assert place.payload(3) == {"n": 3}
    assert place.client.count(place.name, exact=True).count == 10
    place.client.delete(place.name, [id_of(1), id_of(99)], wait=True)
    place.client.delete(place.name, models.FilterSelector(filter=is_field("text", "text 2")), wait=True)
    assert place.ids() == {id_of(number) for number in range(10)} - {id_of(1), id_of(2)}


def test_who_does_not_wait_gets_no_more_than_an_acknowledgement(place: Place) -> None:
    place.make()
    assert place.client.upsert(place.name, [point(1)], wait=False).status == models.UpdateStatus.ACKNOWLEDGED


def test_payloads_come_back_as_they_went(place: Place) -> None:
    place.make()
    payload = {
        "null": None,
        "nested": {"list": [1, None, {"x": "ß \u2028 🜁"}], "empty": {}},
        "big": 2**63 + 1,
        "negative": -(2**63),
        "float": 0.1,
        "yes": True,
        "a.b": "dotted",
    }
    place.put(point(1, **payload))
    assert place.payload(1) == payload | {"n": 1}


def test_integers_beyond_64_bits_become_floats(place: Place) -> None:
    place.make()
    place.put(point(1, big=2**64))
    found = place.payload(1)
    assert found is not None
    assert isinstance(found["big"], float)


def test_a_scroll_pages_through_all_in_the_order_of_ids(place: Place) -> None:
    place.make()
    place.put(*(point(number) for number in range(25)))
    found, offset = [], None
    while True:
        page, offset = place.client.scroll(place.name, limit=10, offset=offset, with_payload=["n"], with_vectors=True)
        found += page
        if offset is None:
            break
    assert [record.id for record in found] == sorted(id_of(number) for number in range(25))
    assert found[0].payload is not None
    assert set(found[0].payload) == {"n"}
    assert found[0].vector is not None


def test_cosine_vectors_are_kept_with_length_one(place: Place) -> None:
    place.make()
    place.client.upsert(place.name, [models.PointStruct(id=7, vector=[3.0, 4.0, 0.0, 0.0])], wait=True)
    (record,) = place.client.retrieve(place.name, [7], with_vectors=True)
    assert record.vector == pytest.approx([0.6, 0.8, 0.0, 0.0])


def test_float16_vectors_lose_what_float16_loses(place: Place) -> None:
    place.make(
        vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16)
    )
    place.client.upsert(place.name, [models.PointStruct(id=7, vector=[0.1, 2049.0, 1.0, 0.0])], wait=True)
    (record,) = place.client.retrieve(place.name, [7], with_vectors=True)
    assert record.vector == [0.0999755859375, 2048.0, 1.0, 0.0]


def test_named_vectors_go_by_their_names(place: Place) -> None:
    place.make(vectors_config={"text": FOUR, "title": models.VectorParams(size=2, distance=models.Distance.DOT)})
    place.put(models.PointStruct(id=1, vector={"text": [1, 0, 0, 0.0], "title": [5.0, 5.0]}))
    (record,) = place.client.retrieve(place.name, [1], with_vectors=["title"])
    assert record.vector == {"title": [5.0, 5.0]}
    (hit,) = place.client.query_points(place.name, query=[1.0, 0.0, 0.0, 0.0], using="text").points
    assert hit.score == pytest.approx(1.0)
    status, words = refused(lambda: place.put(models.PointStruct(id=1, vector={"other": [1.0]})))
    assert (status, words) == (400, "Wrong input: Not existing vector name error: other")


def test_a_query_finds_the_nearest_that_fit_its_filter(place: Place) -> None:
    place.make(vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT))
    place.put(*(point(number, even=number % 2 == 0, tags=[f"t{number}"], year=2000 + number) for number in range(10)))
    found = place.client.query_points(
        place.name, query=[0.0, 1.0, 0.0, 0.0], query_filter=is_field("even", True), limit=2, with_payload=True
    ).points
    assert [(hit.payload or {})["n"] for hit in found] == [8, 6]
    assert [hit.score for hit in found] == [8, 6]
    between = models.Filter(must=[models.FieldCondition(key="year", range=models.Range(gte=2003, lt=2005))])
    assert place.client.count(place.name, count_filter=between).count == 2
    any_of = models.Filter(must=[models.FieldCondition(key="tags", match=models.MatchAny(any=["t1", "t9"]))])
    assert place.client.count(place.name, count_filter=any_of).count == 2
    requests = [models.QueryRequest(query=[0.0, 1.0, 0.0, 0.0], limit=1), models.QueryRequest(query=id_of(5), limit=1)]
    batch = place.client.query_batch_points(place.name, requests)
    assert [len(one.points) for one in batch] == [1, 1]


def test_payloads_are_set_overwritten_and_cleared(place: Place) -> None:
    place.make()
    place.put(point(1, a=1), point(2, a=1))
    place.client.set_payload(place.name, {"b": 2}, [id_of(1)], wait=True)
    assert place.payload(1) == {"n": 1, "a": 1, "b": 2}
    place.client.overwrite_payload(place.name, {"c": 3}, [id_of(1)], wait=True)
    assert place.payload(1) == {"c": 3}
    place.client.delete_payload(place.name, ["a"], models.FilterSelector(filter=is_field("n", 2)), wait=True)
    assert place.payload(2) == {"n": 2}
    place.client.clear_payload(place.name, [id_of(2)], wait=True)
    assert place.payload(2) == {}
    place.client.update_vectors(place.name, [models.PointVectors(id=id_of(2), vector=[0.0, 0.0, 1.0, 0.0])], wait=True)
    assert place.client.retrieve(place.name, [id_of(2)], with_vectors=True)[0].vector == [0.0, 0.0, 1.0, 0.0]


def test_a_batch_of_operations_is_done_in_its_order(place: Place) -> None:
    place.make()
    results = place.client.batch_update_points(
        place.name,
        [
            models.UpsertOperation(upsert=models.PointsList(points=[point(1), point(2)])),
            models.DeleteOperation(delete=models.PointIdsList(points=[id_of(1)])),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload={"seen": True}, points=[id_of(2)])),
        ],
        wait=True,
    )
    assert [result.status for result in results] == [models.UpdateStatus.COMPLETED] * 3
    assert place.ids() == {id_of(2)}
    assert place.payload(2) == {"n": 2, "seen": True}


def test_a_write_can_be_bound_to_what_is_there(place: Place) -> None:
    place.make()
    place.put(point(1, version=5))
    older = models.Filter(must=[models.FieldCondition(key="version", range=models.Range(lt=3))])
    place.client.upsert(place.name, [point(1, version=3), point(2, version=3)], update_filter=older, wait=True)
    assert place.payload(1) == {"n": 1, "version": 5}
    assert place.payload(2) == {"n": 2, "version": 3}


def test_columns_of_points_are_points(place: Place) -> None:
    place.make()
    batch = models.Batch(ids=[1, 2], vectors=[[1.0, 0, 0, 0], [0, 1.0, 0, 0]], payloads=[{"a": 1}, {"a": 2}])
    place.client.upsert(place.name, batch, wait=True)
    assert place.ids() == {1, 2}


def test_payload_indexes_are_listed_with_their_settings(place: Place) -> None:
    place.make()
    place.put(point(1, tenant="a"), point(2))
    place.client.create_payload_index(
        place.name, "tenant", models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True), wait=True
    )
    place.client.create_payload_index(place.name, "n", models.PayloadSchemaType.INTEGER, wait=True)
    schema = place.client.get_collection(place.name).payload_schema
    assert {field: index.data_type for field, index in schema.items()} == {"tenant": "keyword", "n": "integer"}
    assert schema["tenant"].points == 1
    assert isinstance(schema["tenant"].params, models.KeywordIndexParams)
    assert schema["tenant"].params.is_tenant is True
    assert [hit.value for hit in place.client.facet(place.name, "tenant").hits] == ["a"]
    ordered, _ = place.client.scroll(place.name, order_by=models.OrderBy(key="n", direction=models.Direction.DESC))
    assert [(record.payload or {})["n"] for record in ordered] == [2, 1]
    place.client.delete_payload_index(place.name, "tenant", wait=True)
    assert set(place.client.get_collection(place.name).payload_schema) == {"n"}


# --- what the server refuses ------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["not-a-uuid", "", "doc#1"])
def test_an_id_is_a_number_or_a_uuid(place: Place, id: str) -> None:
    place.make()
    status, words = refused(lambda: place.put(models.PointStruct(id=id, vector=[1.0, 0, 0, 0])))
    assert status == 400
    assert "is not a valid point ID, valid values are either an unsigned integer or a UUID" in words


def test_a_batch_with_a_vector_of_another_dimension_writes_nothing(place: Place) -> None:
    place.make()
    status, words = refused(lambda: place.put(point(1), models.PointStruct(id=2, vector=[1.0, 2.0, 3.0])))
    assert status == 400
    assert words.startswith("Wrong input: Vector dimension error: expected dim: 4, got 3")
    assert place.ids() == set()


def test_what_is_not_a_number_is_not_json(place: Place) -> None:
    place.make()
    status, words = refused(lambda: place.put(models.PointStruct(id=1, vector=[math.nan, 0, 0, 0])))
    assert (status, words.startswith("Format error in JSON body")) == (400, True)


def test_a_limit_of_nothing_is_not_valid(place: Place) -> None:
    place.make()
    status, words = refused(lambda: place.client.scroll(place.name, limit=0))
    assert (status, words.startswith("Validation error in JSON body")) == (422, True)


@pytest.mark.parametrize(
    "work",
    [
        lambda place: place.put(point(1)),
        lambda place: place.client.scroll(place.name),
        lambda place: place.client.delete(place.name, [1]),
        lambda place: place.client.create_payload_index(place.name, "a", models.PayloadSchemaType.KEYWORD),
    ],
)
def test_a_collection_that_is_not_there_is_404(place: Place, work: Callable[[Place], Any]) -> None:
    assert refused(lambda: work(place)) == (404, f"Not found: Collection `{place.name}` doesn't exist!")


def test_a_point_that_is_not_there_is_told_after_the_others_are_written(place: Place) -> None:
    place.make()
    place.put(point(1))
    status, _ = refused(lambda: place.client.set_payload(place.name, {"a": 1}, [id_of(9), id_of(1)], wait=True))
    assert status == 404
    assert place.payload(1) == {"n": 1, "a": 1}


def strictly(place: Place, **settings: Any) -> Place:
    return place.make(strict_mode_config=models.StrictModeConfig(enabled=True, **settings))


def test_strict_mode_limits_the_points_of_a_call(place: Place) -> None:
    strictly(place, upsert_max_batchsize=2)
    place.put(point(1), point(2))
    status, words = refused(lambda: place.put(point(1), point(2), point(3)))
    assert status == 400
    assert 'Limit exceeded 3 > 2 for "upsert limit"' in words


def test_strict_mode_limits_what_is_asked_for_at_once(place: Place) -> None:
    strictly(place, max_query_limit=5, max_timeout=20)
    place.client.scroll(place.name, limit=5)
    assert refused(lambda: place.client.scroll(place.name, limit=6))[0] == 400
    assert refused(lambda: place.client.query_points(place.name, query=[1.0, 0, 0, 0], limit=6))[0] == 400
    assert refused(lambda: place.client.upsert(place.name, [point(1)], timeout=21))[0] == 400


def test_strict_mode_wants_an_index_for_each_field_of_a_filter(place: Place) -> None:
    strictly(place, unindexed_filtering_retrieve=False, unindexed_filtering_update=False)
    place.put(point(1, tenant="a"))
    for work in (
        lambda: place.client.scroll(place.name, scroll_filter=is_field("tenant", "a")),
        lambda: place.client.count(place.name, count_filter=is_field("tenant", "a")),
        lambda: place.client.delete(place.name, models.FilterSelector(filter=is_field("tenant", "a"))),
    ):
        status, words = refused(work)
        assert status == 400
        assert 'Index required but not found for "tenant" of one of the following types: [' in words
    place.client.create_payload_index(place.name, "tenant", models.PayloadSchemaType.KEYWORD, wait=True)
    assert place.client.count(place.name, count_filter=is_field("tenant", "a")).count == 1


def test_strict_mode_limits_the_writes_of_a_minute() -> None:
    now = 0.0
    with QdrantServer(clock=lambda: now) as server:
        place = strictly(Place(connect(server.url), "docs"), write_rate_limit=6)
        place.put(*(point(number) for number in range(4)))
        with pytest.raises(ResourceExhaustedResponse) as caught:
            place.put(*(point(number) for number in range(4)))
        assert caught.value.retry_after_s == 20
        status, words = refused(lambda: place.put(*(point(number) for number in range(7))))
        assert (status, "please try to split your request" in words) == (429, True)  # waiting would not help
        now = 20.0
        place.put(*(point(number) for number in range(4)))


def test_a_request_may_be_so_large_and_no_larger() -> None:
    with QdrantServer(max_request_bytes=2000) as server:
        place = Place(connect(server.url), "docs").make()
        place.put(point(1))
        status, words = refused(lambda: place.put(point(2, text="x" * 2000)))
        assert status == 400
        assert "is larger than allowed (limit: 2000 bytes)" in words


def test_a_key_is_asked_for_and_one_may_only_read() -> None:
    with QdrantServer(api_key="secret", read_only_api_key="reader") as server:
        Place(connect(server.url, api_key="secret"), "docs").make()
        assert refused(lambda: connect(server.url).get_collections())[0] == 401
        assert refused(lambda: connect(server.url, api_key="wrong").get_collections()) == (
            401,
            "Invalid API key or JWT",
        )
        reader = Place(connect(server.url, api_key="reader"), "docs")
        assert reader.ids() == set()
        assert refused(lambda: reader.put(point(1))) == (403, "Forbidden: Global manage access is required")
        assert connect(server.url).info().version == server.version


# --- faults on demand -------------------------------------------------------------------------------


@pytest.fixture
def docs(server: QdrantServer) -> Place:
    return Place(connect(server.url), "docs").make()


@pytest.mark.parametrize("status", [400, 408, 413, 500, 502, 503, 504])
def test_a_status_is_answered_so_many_times_and_nothing_is_done(server: QdrantServer, docs: Place, status: int) -> None:
    server.faults.answer(status, "broken", times=2)
    for _ in range(2):
        assert refused(lambda: docs.put(point(1))) == (status, "broken")
    assert server.points_written == 0
    docs.put(point(1))
    assert server.calls[UPSERT] == 3


def test_a_wait_is_named_in_whole_seconds_or_in_a_way_the_client_cannot_read(server: QdrantServer, docs: Place) -> None:
    server.faults.answer(429, retry_after="7")
    with pytest.raises(ResourceExhaustedResponse) as caught:
        docs.put(point(1))
    assert caught.value.retry_after_s == 7
    server.faults.answer(429, retry_after="1.5")
    with pytest.raises(QdrantException, match="Retry-After"):
        docs.put(point(1))
    server.faults.answer(429)
    assert refused(lambda: docs.put(point(1)))[0] == 429


def test_a_reset_does_nothing_and_a_lost_answer_has_done_it(server: QdrantServer, docs: Place) -> None:
    server.faults.reset(path=POINTS)
    with pytest.raises(ResponseHandlingException):
        docs.put(point(1))
    assert docs.ids() == set()
    server.faults.lose(path=POINTS, method="PUT")
    with pytest.raises(ResponseHandlingException):
        docs.put(point(1))
    assert docs.ids() == {id_of(1)}


@pytest.mark.parametrize("done", [False, True])
def test_a_call_hangs_until_it_is_let_go(server: QdrantServer, docs: Place, done: bool) -> None:
    server.faults.hang(path=POINTS, method="PUT", done=done)
    with ThreadPoolExecutor() as pool:
        result = pool.submit(docs.put, point(1))
        assert server.faults.reached.wait(10)
        assert server.points_written == (1 if done else 0)
        assert not result.done()
        server.faults.release()
        assert result.result().status == models.UpdateStatus.COMPLETED
    assert docs.ids() == {id_of(1)}


def test_a_client_that_does_not_wait_so_long_gives_up(server: QdrantServer, docs: Place) -> None:
    server.faults.hang(path=POINTS, done=True)
    impatient = httpx.Client(base_url=server.url, timeout=0.1)
    with pytest.raises(httpx.ReadTimeout):
        impatient.put("/collections/docs/points", json={"points": [point(1).model_dump()]})
    server.faults.release()
    assert server.points_written == 1


@pytest.mark.parametrize("status", [models.UpdateStatus.WAIT_TIMEOUT, models.UpdateStatus.ACKNOWLEDGED])
def test_an_update_may_say_with_200_that_it_is_not_complete(
    server: QdrantServer, docs: Place, status: models.UpdateStatus
) -> None:
    server.faults.say(str(status))
    assert docs.put(point(1)).status == status
    assert docs.put(point(1)).status == models.UpdateStatus.COMPLETED


def test_half_of_a_call_is_applied_and_the_answer_is_500(server: QdrantServer, docs: Place) -> None:
    server.faults.tear(0.5)
    assert refused(lambda: docs.put(*(point(number) for number in range(4))))[0] == 500
    assert docs.ids() == {id_of(0), id_of(1)}


def test_one_record_of_many_is_refused_wherever_it_comes(server: QdrantServer, docs: Place) -> None:
    server.faults.poison("doc-7", words="Wrong input: no sevens")
    server.faults.poison(lambda one: one["payload"]["n"] == 8)
    server.faults.poison(id_of(9))
    docs.put(*(point(number, doc=f"doc-{number}") for number in range(7)))
    for number in (7, 8, 9):
        assert refused(lambda number=number: docs.put(point(1), point(number, doc=f"doc-{number}")))[0] == 400
    operation = models.UpsertOperation(
        upsert=models.PointsBatch(
            batch=models.Batch(ids=[5], vectors=[[1.0, 0, 0, 0]], payloads=[{"doc": "doc-7", "n": 0}])
        )
    )
    assert refused(lambda: docs.client.batch_update_points("docs", [operation])) == (400, "Wrong input: no sevens")
    assert docs.ids() == {id_of(number) for number in range(7)}
    server.faults.clear()
    docs.put(point(7, doc="doc-7"))


def test_faults_fit_by_size_and_wait_for_their_turn(server: QdrantServer, docs: Place) -> None:
    server.faults.answer(413, over_bytes=1000, times=None)
    server.faults.answer(503, after=1, method="PUT")
    docs.put(point(1))
    assert refused(lambda: docs.put(point(1)))[0] == 503
    assert refused(lambda: docs.put(point(1, text="x" * 1000)))[0] == 413
    docs.put(point(1))
    assert server.faults.pending == [Fault(status=413, over_bytes=1000, times=None)]


def test_a_restart_breaks_connections_and_keeps_the_data(server: QdrantServer, docs: Place) -> None:
    docs.put(point(1))
    url = server.url
    kept_alive = http.client.HTTPConnection(url.removeprefix("http://"))
    kept_alive.request("GET", "/collections")
    kept_alive.getresponse().read()
    server.restart()
    assert server.url == url
    kept_alive.request("GET", "/collections")
    with pytest.raises(ConnectionError):
        kept_alive.getresponse()
    assert docs.ids() == {id_of(1)}
    server.stop()
    with pytest.raises(ResponseHandlingException):
        docs.put(point(2))
    server.start()
    docs.put(point(2))
    assert docs.ids() == {id_of(1), id_of(2)}


def test_what_is_asked_for_is_counted_by_route(server: QdrantServer, docs: Place) -> None:
    docs.put(point(1), point(2))
    docs.put(point(2))
    docs.client.delete("docs", [id_of(1), id_of(5)])
    docs.client.retrieve("docs", [id_of(2)])
    assert server.calls == {
        "PUT /collections/{name}": 1,
        UPSERT: 2,
        "POST /collections/{name}/points/delete": 1,
        "POST /collections/{name}/points": 1,
    }
    assert (server.points_written, server.points_deleted) == (3, 1)
    assert server.seen[1].query == {"wait": "true"}


def test_eight_threads_write_at_one_time(server: QdrantServer, docs: Place) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: docs.put(point(number)), range(80)))
    assert docs.client.count("docs").count == 80


def test_the_asynchronous_client_is_served_too(server: QdrantServer) -> None:
    async def work() -> tuple[int, int]:
        client = AsyncQdrantClient(url=server.url, check_compatibility=False, verify=False)
        await client.create_collection("docs", vectors_config=FOUR)
        await asyncio.gather(*(client.upsert("docs", [point(number)], wait=True) for number in range(5)))
        found = await client.query_points("docs", query=[1.0, 0.0, 0.0, 0.0], limit=3)
        count = await client.count("docs")
        await client.close()
        return count.count, len(found.points)

    assert asyncio.run(work()) == (5, 3)


def test_another_process_serves_it_and_takes_its_faults_over_http() -> None:
    def ask(method: str, url: str, body: object = None) -> Any:
        request = urllib.request.Request(url, json.dumps(body).encode() if body is not None else None, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["result"]

    command = [sys.executable, "-m", "connector.testing.qdrant_server", "--port", "0", "--api-key", "secret"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            place = Place(connect(url, api_key="secret"), "docs").make()
            waiting = ask("POST", f"{url}/_faults", [{"status": 503, "method": "PUT"}, {"kind": "reset", "times": 2}])
            assert [fault["kind"] for fault in waiting] == ["answer", "reset"]
            assert refused(lambda: place.put(point(1)))[0] == 503
            with pytest.raises(ResponseHandlingException):
                place.put(point(1))
            assert ask("DELETE", f"{url}/_faults") == []
            place.put(point(1))
            assert ask("GET", f"{url}/_calls")["points_written"] == 1
        finally:
            process.terminate()


def test_a_fault_that_nobody_knows_is_not_taken_silently(server: QdrantServer) -> None:
    answer = httpx.post(f"{server.url}/_faults", json={"kind": "answer", "sttaus": 503})
    assert answer.status_code == 400
    assert "sttaus" in answer.text
    assert server.faults.pending == []


def test_what_hangs_is_let_go_when_the_server_stops(docs: Place, server: QdrantServer) -> None:
    server.faults.add(Fault(kind=Kind.HANG))
    ended = threading.Event()

    def ask() -> None:
        with pytest.raises(ResponseHandlingException):
            docs.put(point(1))
        ended.set()

    threading.Thread(target=ask, daemon=True).start()
    assert server.faults.reached.wait(10)
    server.stop()
    assert ended.wait(10)


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
def test_what_the_page_about_testing_shows_runs(program: str) -> None:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr

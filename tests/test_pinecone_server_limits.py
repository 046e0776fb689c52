"""The emulated Pinecone refuses what the service refuses."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pinecone import Index, Pinecone
from pinecone.errors import (
    PayloadTooLargeError,
)
from pinecone_server_rig import E, index, refused, server, waits
from real_servers import RealIndex, real_pinecone, unique

from connector.testing.pinecone_server import PineconeServer

__all__ = ["index", "real_pinecone", "server", "waits"]

# --- limits -----------------------------------------------------------------------------------------


def test_a_call_of_1000_records_is_taken_and_one_more_refused(server: PineconeServer, index: Index) -> None:
    vectors = [(f"{number}", E) for number in range(1001)]
    assert index.upsert(vectors=vectors[:1000]).upserted_count == 1000
    refused(lambda: index.upsert(vectors=vectors, namespace="n"), "1000")
    assert server.records("docs", "n") == {}


def test_two_megabytes_are_too_large(server: PineconeServer, index: Index) -> None:
    vectors = [(f"{number}", E, {"text": "x" * 40_000}) for number in range(50)]
    refused(lambda: index.upsert(vectors=vectors), "2MB", kind=PayloadTooLargeError, status=413)
    assert server.records("docs") == {}
    assert server.requests[-1].request_bytes > 2_000_000
    assert index.upsert(vectors=vectors[:49]).upserted_count == 49


def test_limits_can_be_lowered_to_reach_them_with_little(server: PineconeServer, index: Index) -> None:
    server.terms.limits.upsert_bytes = 100
    vectors = [(f"{number}", E) for number in range(5)]
    refused(lambda: index.upsert(vectors=vectors), kind=PayloadTooLargeError, status=413)
    index.upsert(vectors=vectors[:1])


def test_four_megabytes_are_refused_as_the_gateway_refuses_them(server: PineconeServer, index: Index) -> None:
    server.terms.limits.message_bytes = 1000
    error = refused(lambda: index.upsert(vectors=[("a", E, {"x": "y" * 1000})]), "message length too large")
    assert isinstance(error.body, dict)
    assert error.body["code"] == 11


def test_metadata_of_40_kilobytes_is_taken_and_a_byte_more_refused(index: Index) -> None:
    most = 40_960 - len('{"t":""}')
    index.upsert(vectors=[("a", E, {"t": "x" * most})])
    refused(lambda: index.upsert(vectors=[("a", E, {"t": "x" * (most + 1)})]), "40961", "40960")
    refused(lambda: index.update(id="a", set_metadata={"u": 1}), "40960")
    refused(lambda: index.upsert(vectors=[("b", E, {"t": "ä" * 20_480})]), "40960")  # bytes, not characters


@pytest.mark.parametrize(
    "value",
    [{"nested": 1}, [1, 2], ["a", 1], ["a", None], [["a"]]],
    ids=["object", "numbers", "mixed", "null", "lists"],
)
def test_metadata_of_other_types_is_refused(server: PineconeServer, index: Index, value: object) -> None:
    body = {"vectors": [{"id": "ok", "values": E}, {"id": "a", "values": E, "metadata": {"field": value}}]}
    answer = httpx.post(f"{index.host}/vectors/upsert", json=body, headers={"api-key": "key"})
    assert answer.status_code == 400
    assert answer.json()["code"] == 3
    assert "must be a string, number, boolean or list of strings" in answer.json()["message"]
    assert "'field'" in answer.json()["message"]
    assert server.records("docs") == {}


def test_names_of_metadata_may_be_anything_but_operators(index: Index) -> None:
    names = {"": 1.0, "ä b": 2.0, "_vs_x": 3.0, "a.b": 4.0}
    index.upsert(vectors=[("a", E, names)])
    assert index.fetch(ids=["a"]).vectors["a"].metadata == names
    refused(lambda: index.upsert(vectors=[("a", E, {"$eq": 1})]), "'$'")


@pytest.mark.parametrize("id", ["ä", "x" * 513, "", "a\0b"])
def test_ids_that_no_record_can_have_are_refused(index: Index, id: str) -> None:
    body = {"vectors": [{"id": id, "values": E}]}
    answer = httpx.post(f"{index.host}/vectors/upsert", json=body, headers={"api-key": "key"})
    assert (answer.status_code, "Vector ID must" in answer.text) == (400, True)
    index.upsert(vectors=[("x" * 512, E)])


@pytest.mark.parametrize("namespace", ["ä", "x" * 513, "a\0b"])
def test_namespaces_that_cannot_be_are_refused(index: Index, namespace: str) -> None:
    refused(lambda: index.upsert(vectors=[("a", E)], namespace=namespace), "Namespace must")


def test_a_vector_of_another_dimension_is_refused_with_all_of_its_call(server: PineconeServer, index: Index) -> None:
    words = "Vector dimension 2 does not match the dimension of the index 3"
    refused(lambda: index.upsert(vectors=[("ok", E), ("a", [1.0, 2.0])]), words)
    refused(lambda: index.query(vector=[1.0, 2.0], top_k=1), words)
    assert server.records("docs") == {}


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [9e-9, -9e-9, 0.0]])
def test_a_vector_of_zeros_is_refused_in_the_words_of_the_service(index: Index, values: list[float]) -> None:
    words = "Dense vectors must contain at least one non-zero value. Vector ID 'a' contains only zeros"
    refused(lambda: index.upsert(vectors=[("a", values)]), words)
    index.upsert(vectors=[("a", [1.1e-8, 0.0, 0.0])])


@pytest.mark.parametrize("value", [float("nan"), 1e39])
def test_a_vector_that_is_not_finite_is_refused(index: Index, value: float) -> None:
    refused(lambda: index.upsert(vectors=[("a", [value, 1.0, 0.0])]))


def test_a_fetch_with_too_long_a_url_is_refused(index: Index) -> None:
    ids = [f"{number:0200d}" for number in range(100)]
    refused(lambda: index.fetch(ids=ids), "URI too long", status=414)
    assert not index.fetch(ids=ids[:50]).vectors


def test_1000_ids_go_in_one_call_and_no_more(index: Index) -> None:
    index.upsert(vectors=[("0", E)])
    ids = [f"{number}" for number in range(1001)]
    index.delete(ids=ids[:1000])
    refused(lambda: index.delete(ids=ids), "1000")


def test_a_result_has_its_limit_too(server: PineconeServer, index: Index) -> None:
    server.terms.limits.result_bytes = 500
    index.upsert(vectors=[("a", E, {"t": "x" * 500})])
    assert index.query(vector=E, top_k=1).matches
    refused(lambda: index.query(vector=E, top_k=1, include_metadata=True), "more than 500")


def test_stats_take_no_filter(index: Index) -> None:
    refused(lambda: index.describe_index_stats(filter={"a": 1}), "do not support")


# --- what the emulator claims of the service ----------------------------------------------------------

CLAIMS: dict[str, tuple[dict[str, Any], int, str]] = {
    "zeros": ({"values": [0.0, 0.0, 0.0]}, 400, "contain at least one non-zero value"),
    "dimension": ({"values": [1.0]}, 400, "does not match the dimension of the index"),
    "nested": ({"metadata": {"a": {"b": 1}}}, 400, "string, number, boolean or list of strings"),
    "numbers": ({"metadata": {"a": [1, 2]}}, 400, "string, number, boolean or list of strings"),
    "metadata": ({"metadata": {"a": "x" * 41_000}}, 400, "40960"),
    "dollar": ({"metadata": {"$a": 1}}, 400, ""),
    "long id": ({"id": "x" * 513}, 400, ""),
    "id": ({"id": "ä"}, 400, "ASCII"),
    "no id": ({"id": ""}, 400, ""),
}


@pytest.mark.parametrize("where", ["emulator", "service"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_the_service_refuses_what_the_emulator_refuses(
    request: pytest.FixtureRequest, waits: list[float], where: str, claim: str
) -> None:
    if where == "service":
        real: RealIndex = request.getfixturevalue("real_pinecone")
        with Pinecone(api_key=real.key) as client:
            host, key = client.describe_index(real.name).host or "", real.key
    else:
        server: PineconeServer = request.getfixturevalue("server")
        host, key = server.create("docs", 3), "key"
    with Index(host=host, api_key=key) as index:
        dimension = index.describe_index_stats().dimension or 3
        base = index.host
    changed, status, words = CLAIMS[claim]
    vector = {"id": "a", "values": [1.0] * dimension, **changed}
    if claim == "zeros":
        vector["values"] = [0.0] * dimension
    body = {"vectors": [vector], "namespace": unique("claims")}
    answer = httpx.post(f"{base}/vectors/upsert", json=body, headers={"api-key": key})
    assert (answer.status_code, words in answer.text) == (status, True)

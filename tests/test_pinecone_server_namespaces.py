"""The emulated Pinecone, driven by the official SDK: namespaces, their aliases, and what readers see when."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from pinecone import Index
from pinecone.errors import (
    ConflictError,
    NotFoundError,
)
from pinecone_server_rig import E, index, listed, reason, refused, server, waits

from connector.testing.pinecone_server import PineconeServer

__all__ = ["index", "server", "waits"]

# --- namespaces and aliases -------------------------------------------------------------------------


def test_namespaces_are_made_listed_described_and_deleted(index: Index) -> None:
    index.create_namespace(name="empty")
    index.upsert(vectors=[("a", E)], namespace="full")
    refused(lambda: index.create_namespace(name="full"), kind=ConflictError, status=409)
    names = [(one.name, one.record_count) for one_page in index.list_namespaces() for one in one_page.namespaces]
    assert names == [("empty", 0), ("full", 1)]
    assert index.describe_namespace(name="full").record_count == 1
    index.delete_namespace(name="full")
    refused(lambda: index.describe_namespace(name="full"), kind=NotFoundError, status=404)
    refused(lambda: index.delete_namespace(name="full"), kind=NotFoundError, status=404)


class Aliases:
    """The REST calls that the SDK does not have."""

    def __init__(self, host: str, version: str = "2026-07") -> None:
        headers = {"Api-Key": "key", "X-Pinecone-Api-Version": version}
        self.http = httpx.Client(base_url=host, headers=headers)

    def create(self, name: str, target: str) -> httpx.Response:
        return self.http.post("/namespace-aliases", json={"name": name, "target_namespace": target})

    def repoint(self, name: str, target: str) -> httpx.Response:
        return self.http.patch(f"/namespace-aliases/{name}", json={"target_namespace": target})


@pytest.fixture
def aliases(index: Index) -> Iterator[Aliases]:
    aliases = Aliases(index.host)
    with aliases.http:
        yield aliases


def test_an_alias_reads_from_its_target_and_can_be_repointed(index: Index, aliases: Aliases) -> None:
    for namespace in ("v1", "v2"):
        index.upsert(vectors=[(f"of {namespace}", E)], namespace=namespace)
    made = aliases.create("live", "v1").json()
    assert (made["name"], made["target_namespace"]) == ("live", "v1")
    assert listed(index, namespace="live") == ["of v1"]
    again = aliases.repoint("live", "v2").json()
    assert again["created_at"] == made["created_at"] < again["updated_at"]
    found = index.query(vector=E, top_k=9, namespace="live")
    assert ([match.id for match in found.matches], found.namespace) == (["of v2"], "v2")
    assert list(index.fetch(ids=["of v2"], namespace="live").vectors) == ["of v2"]
    assert aliases.http.get("/namespace-aliases/live").json() == again
    assert aliases.http.delete("/namespace-aliases/live").status_code == 200
    assert aliases.http.delete("/namespace-aliases/live").status_code == 404
    assert listed(index, namespace="live") == []


def test_creating_an_alias_again_tells_its_target(index: Index, aliases: Aliases) -> None:
    index.create_namespace(name="v1")
    aliases.create("live", "v1")
    answer = aliases.create("live", "v1")
    assert answer.status_code == 409
    detail = answer.json()["details"][0]
    assert (detail["reason"], detail["metadata"]) == ("ALIAS_ALREADY_EXISTS", {"target_namespace": "v1"})


@pytest.mark.parametrize(
    "name,target,status,why",
    [
        ("live", "missing", 400, "TARGET_NAMESPACE_NOT_FOUND"),
        ("live", "alias", 400, "TARGET_IS_ALIAS"),
        ("live", "", 400, "TARGET_NAMESPACE_REQUIRED"),
        ("v1", "v1", 409, "NAME_IN_USE_BY_NAMESPACE"),
        ("a b", "v1", 400, "ALIAS_NAME_INVALID"),
        ("__default__", "v1", 400, "ALIAS_NAME_INVALID"),
    ],
)
def test_an_alias_that_cannot_be_is_refused_with_the_reason(
    index: Index, aliases: Aliases, name: str, target: str, status: int, why: str
) -> None:
    index.create_namespace(name="v1")
    assert aliases.create("alias", "v1").status_code == 200
    answer = aliases.create(name, target)
    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (status, why)


def test_an_alias_cannot_be_repointed_at_what_is_not_there(index: Index, aliases: Aliases) -> None:
    index.create_namespace(name="v1")
    aliases.create("live", "v1")
    assert aliases.repoint("live", "v2").status_code == 400
    assert aliases.http.get("/namespace-aliases/live").json()["target_namespace"] == "v1"
    assert aliases.repoint("missing", "v1").status_code == 404


def test_aliases_are_listed_in_pages_and_by_their_target(index: Index, aliases: Aliases) -> None:
    for namespace in ("v1", "__default__"):
        if namespace == "v1":
            index.create_namespace(name="v1")
        for number in range(2):
            aliases.create(f"to-{namespace}-{number}", namespace)
    first = aliases.http.get("/namespace-aliases", params={"limit": 3}).json()
    rest = aliases.http.get(
        "/namespace-aliases", params={"limit": 3, "paginationToken": first["pagination"]["next"]}
    ).json()
    assert (first["total_count"], len(first["namespace_aliases"]), len(rest["namespace_aliases"])) == (4, 3, 1)
    assert "pagination" not in rest
    mine = aliases.http.get("/namespace-aliases", params={"target_namespace": "__default__"}).json()[
        "namespace_aliases"
    ]
    assert [one["target_namespace"] for one in mine] == ["__default__", "__default__"]


def test_nothing_is_written_under_the_name_of_an_alias(server: PineconeServer, index: Index, aliases: Aliases) -> None:
    index.upsert(vectors=[("a", E)], namespace="v1")
    aliases.create("live", "v1")
    error = refused(lambda: index.upsert(vectors=[("b", E)], namespace="live"), kind=ConflictError, status=409)
    assert reason(error) == "NAME_IN_USE_BY_ALIAS"
    for write in (
        lambda: index.delete(ids=["a"], namespace="live"),
        lambda: index.update(id="a", set_metadata={"x": 1}, namespace="live"),
    ):
        assert reason(refused(write)) == "WRITE_TO_ALIAS"
    assert reason(refused(lambda: index.delete_namespace(name="live"))) == "NAMESPACE_OPERATION_ON_ALIAS"
    assert reason(refused(lambda: index.delete_namespace(name="v1"))) == "NAMESPACE_TARGETED_BY_ALIAS"
    refused(lambda: index.create_namespace(name="live"), kind=ConflictError, status=409)
    assert list(server.records("docs", "v1")) == ["a"]


def test_a_target_that_is_emptied_stays(index: Index, aliases: Aliases) -> None:
    index.upsert(vectors=[("a", E)], namespace="v1")
    aliases.create("live", "v1")
    index.delete(delete_all=True, namespace="v1")
    assert index.describe_namespace(name="v1").record_count == 0


def test_a_service_of_before_has_no_aliases(server: PineconeServer, index: Index, aliases: Aliases) -> None:
    index.create_namespace(name="v1")
    server.terms.has_aliases = False
    assert aliases.create("live", "v1").status_code == 404
    assert aliases.http.get("/namespace-aliases").status_code == 404


def test_a_client_of_before_is_told_so(index: Index) -> None:
    index.create_namespace(name="v1")
    old = Aliases(index.host, version="2025-10")
    with old.http:
        answer = old.create("live", "v1")
    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (400, "API_VERSION_TOO_OLD")


# --- what readers see -------------------------------------------------------------------------------


def test_each_kind_of_reader_lags_by_its_own_number_of_reads(server: PineconeServer, index: Index) -> None:
    index.upsert(vectors=[("old", E)])
    server.terms.lag.fetch, server.terms.lag.list, server.terms.lag.query, server.terms.lag.stats = 1, 2, 3, 1
    index.upsert(vectors=[("new", E)])
    assert [len(index.fetch(ids=["old", "new"]).vectors) for _ in range(3)] == [1, 2, 2]
    assert [len(listed(index)) for _ in range(4)] == [1, 1, 2, 2]
    assert [len(index.query(vector=E, top_k=9).matches) for _ in range(5)] == [1, 1, 1, 2, 2]
    assert [index.describe_index_stats().total_vector_count for _ in range(2)] == [1, 2]


def test_deletions_and_replacements_lag_as_well_and_in_their_order(server: PineconeServer, index: Index) -> None:
    index.upsert(vectors=[("a", E, {"v": 1}), ("gone", E)])
    server.terms.lag.fetch = 2
    index.upsert(vectors=[("a", E, {"v": 2})])
    index.fetch(ids=["a"])
    index.upsert(vectors=[("a", E, {"v": 3})])
    index.delete(ids=["gone"])
    seen = [index.fetch(ids=["a", "gone"]).vectors for _ in range(3)]
    assert [(one["a"].metadata or {})["v"] for one in seen] == [1, 2, 3]
    assert ["gone" in one for one in seen] == [True, True, False]


def test_what_is_settled_is_seen_by_all(server: PineconeServer, index: Index) -> None:
    server.terms.lag.list = 5
    index.upsert(vectors=[("a", E)], namespace="n")
    server.settle()
    assert listed(index, namespace="n") == ["a"]


def test_writes_are_numbered_and_a_query_tells_how_far_it_sees(server: PineconeServer, index: Index) -> None:
    server.terms.lag.query = 1
    numbers = []
    for id in "ab":
        info = index.upsert(vectors=[(id, E)], namespace="n").response_info
        assert info is not None
        numbers.append(info.lsn_committed)
    assert numbers == [1, 2]
    reconciled = []
    for _ in range(2):
        info = index.query(vector=E, top_k=1, namespace="n").response_info
        assert info is not None
        reconciled.append(info.is_reconciled(2))
    assert reconciled == [False, True]

"""The emulated Pinecone goes wrong where it is told to, and counts."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest
from pinecone import Index, Pinecone
from pinecone.errors import (
    PineconeConnectionError,
    PineconeTimeoutError,
    RateLimitError,
    ServiceError,
)
from pinecone_server_rig import E, index, listed, refused, server, waits

from connector.testing.pinecone_sdk import without_waiting
from connector.testing.pinecone_server import Hang, Partial, PineconeServer, Reset, Status

__all__ = ["index", "server", "waits"]

# --- what goes wrong --------------------------------------------------------------------------------


def test_the_sdk_gets_over_three_failures_without_waiting_and_not_over_four(
    server: PineconeServer, index: Index, waits: list[float]
) -> None:
    server.on("upsert", Status(503), times=3)
    index.upsert(vectors=[("a", E)])
    assert len(waits) == 3
    assert server.calls["upsert"] == 4
    server.on("upsert", Status(503, "overloaded"), times=4)
    refused(lambda: index.upsert(vectors=[("b", E)]), "overloaded", kind=ServiceError, status=503)
    assert list(server.records("docs")) == ["a"]


def test_a_named_wait_reaches_the_client(server: PineconeServer, index: Index, waits: list[float]) -> None:
    server.on("upsert", Status(429, retry_after=7), times=4)
    with pytest.raises(RateLimitError) as caught:
        index.upsert(vectors=[("a", E)])
    assert caught.value.retry_after == 7.0
    assert all(7 <= wait <= 10.5 for wait in waits)


def test_a_test_with_many_failures_costs_the_next_one_no_retry(waits: list[float]) -> None:
    with PineconeServer() as server, Index(host=server.create("docs", 3), api_key="key") as index:
        server.on("upsert", Status(503), times=None)
        for _ in range(30):
            with pytest.raises(ServiceError):
                index.upsert(vectors=[("a", E)])
        assert server.calls["upsert"] < 4 * 30  # the SDK has given up retrying
        server.clear()
        with without_waiting():
            server.on("upsert", Status(503), times=3)
            index.upsert(vectors=[("a", E)])


@pytest.mark.parametrize("after", [False, True])
def test_a_reset_comes_before_the_work_or_after_it(server: PineconeServer, index: Index, after: bool) -> None:
    server.on("upsert", Reset(after=after), times=4)
    with pytest.raises(PineconeConnectionError):
        index.upsert(vectors=[("a", E)])
    assert list(server.records("docs")) == (["a"] if after else [])
    assert server.requests[-1].status == 0


def test_an_error_after_the_work_is_no_loss(server: PineconeServer, index: Index) -> None:
    server.on("delete", Status(500, after=True))
    index.upsert(vectors=[("a", E)])
    index.delete(ids=["a"])
    assert server.records("docs") == {}
    assert server.calls["delete"] == 2


def test_a_gateway_speaks_another_language(server: PineconeServer, index: Index) -> None:
    server.on("stats", Status(502, body="<html>Bad Gateway</html>"), times=4)
    refused(index.describe_index_stats, "<html>", kind=ServiceError, status=502)


@pytest.mark.parametrize("work,stored", [("first", True), ("late", False), ("never", False)])
def test_a_call_hangs_until_it_is_let_go(server: PineconeServer, index: Index, work: Any, stored: bool) -> None:
    rule = server.on("upsert", Hang(work), times=4)
    with pytest.raises(PineconeTimeoutError):
        index.upsert(vectors=[("a", E)], timeout=0.02)
    assert rule.reached.is_set()
    assert ("a" in server.records("docs")) is stored
    rule.release()


def test_what_was_stuck_arrives_late(server: PineconeServer, index: Index) -> None:
    rule = server.on("upsert", Hang("late"))
    caller = threading.Thread(target=lambda: index.upsert(vectors=[("a", E, {"v": 1})]))
    caller.start()
    assert rule.reached.wait(30)
    index.upsert(vectors=[("a", E, {"v": 2})])
    rule.release()
    caller.join()
    assert server.records("docs")["a"].metadata == {"v": 1.0}


def test_a_server_that_ends_lets_go_what_hangs() -> None:
    with without_waiting(), PineconeServer() as server:
        index = Index(host=server.create("docs", 3), api_key="key")
        rule = server.on("*", Hang("never"), times=None)
        failed: list[Exception] = []

        def call() -> None:
            try:
                index.describe_index_stats()
            except Exception as error:  # noqa: BLE001 - whichever it is, it ends
                failed.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        assert rule.reached.wait(30)
    caller.join(30)
    index.close()
    assert not caller.is_alive()
    assert failed


def test_half_a_call_is_done_and_then_it_fails(server: PineconeServer, index: Index) -> None:
    server.on("upsert", Partial(), times=4)
    refused(lambda: index.upsert(vectors=[(id, E) for id in "abcd"]), kind=ServiceError, status=500)
    assert list(server.records("docs")) == ["a", "b"]


def test_half_a_call_is_done_and_the_count_says_so(server: PineconeServer, index: Index) -> None:
    server.on("upsert", Partial(fraction=0.75, status=200))
    assert index.upsert(vectors=[(id, E) for id in "abcd"]).upserted_count == 3
    assert list(server.records("docs")) == ["a", "b", "c"]
    server.on("delete", Partial(status=200))
    index.delete(ids=["a", "b"])
    assert list(server.records("docs")) == ["b", "c"]


def test_a_poisoned_record_spoils_its_call_and_no_other(server: PineconeServer, index: Index) -> None:
    server.poison("doc-7", "the service does not like this one")
    vectors = [(f"{n}", E, {"document": f"doc-{n}"}) for n in (6, 7, 70)]
    refused(lambda: index.upsert(vectors=vectors), "does not like")
    index.upsert(vectors=[vectors[0], vectors[2]])
    assert sorted(server.records("docs")) == ["6", "70"]
    server.cure("doc-7")
    index.upsert(vectors=vectors)
    server.poison("6")
    refused(lambda: index.upsert(vectors=vectors[:1]))


def test_faults_choose_their_calls(server: PineconeServer, index: Index) -> None:
    server.on("upsert", Status(400, "second"), after=1)
    server.on("*", Status(400, "any"), after=2)
    index.upsert(vectors=[("a", E)])
    refused(lambda: index.upsert(vectors=[("a", E)]), "second")
    index.describe_index_stats()
    refused(index.describe_index_stats, "any")
    index.describe_index_stats()
    with pytest.raises(ValueError, match="no route 'upserts'"):
        server.on("upserts", Status(400))


# --- what is counted, and done behind the API ---------------------------------------------------------


def test_calls_records_and_requests_are_counted(server: PineconeServer, index: Index) -> None:
    index.upsert(vectors=[(id, E) for id in "abc"])
    index.delete(ids=["a", "x"])
    assert dict(server.calls) == {"upsert": 1, "delete": 1}
    assert (server.records_written, server.records_removed) == (3, 1)
    upsert = server.requests[0]
    assert (upsert.route, upsert.status, upsert.records) == ("upsert", 200, 3)
    assert upsert.request_bytes > 50
    assert upsert.headers["x-pinecone-api-version"] == "2026-07"


def test_records_are_put_and_removed_behind_the_api(server: PineconeServer, index: Index) -> None:
    index.upsert(vectors=[("a", E)], namespace="n")
    server.terms.lag.fetch = 1
    server.put("docs", "n", {"foreign": (E, {"x": 1})})
    server.remove("docs", "n", ["a"])
    assert list(index.fetch(ids=["a", "foreign"], namespace="n").vectors) == ["foreign"]
    assert server.records_written == 1
    assert server.records("docs", "nowhere") == {}


def order(server: PineconeServer, request: str, body: object = None) -> tuple[int, Any]:
    method, path = request.split()
    sent = urllib.request.Request(
        f"{server.url}/emulator/{path}", method=method, data=None if body is None else json.dumps(body).encode()
    )
    try:
        with urllib.request.urlopen(sent) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_other_processes_give_the_same_orders_over_http(server: PineconeServer, index: Index) -> None:
    fault = {"type": "status", "status": 400, "message": "by order"}
    assert order(server, "POST faults", {"route": "upsert", "fault": fault, "times": 1}) == (200, {})
    refused(lambda: index.upsert(vectors=[("a", E)]), "by order")
    order(server, "POST poison", {"text": "b"})
    refused(lambda: index.upsert(vectors=[("b", E)]))
    order(server, "DELETE poison")
    order(server, "PATCH terms", {"lag": {"list": 1}, "limits": {"records_per_upsert": 2}, "has_aliases": False})
    refused(lambda: index.upsert(vectors=[(id, E) for id in "abc"]), "between 1 and 2")
    index.upsert(vectors=[("b", E)])
    assert [listed(index), listed(index)] == [[], ["b"]]
    _, counts = order(server, "GET counts")
    assert counts["calls"] == {"upsert": 4, "list": 2}
    assert (counts["records_written"], counts["indexes"]) == (1, {"docs": {"__default__": 1}})
    _, requests = order(server, "GET requests")
    assert [one["status"] for one in requests] == [400, 400, 400, 200, 200, 200]
    order(server, "POST clear")
    assert order(server, "GET requests") == (200, [])


@pytest.mark.parametrize(
    "request_line,body",
    [
        ("POST faults", {"route": "upserts", "fault": {"type": "reset"}}),
        ("POST faults", {"route": "upsert", "fault": {"type": "explode"}}),
        ("PATCH terms", {"limits": {"sockets": 1}}),
        ("POST poison", {}),
    ],
)
def test_an_order_that_is_none_is_refused(server: PineconeServer, request_line: str, body: object) -> None:
    assert order(server, request_line, body)[0] == 400
    assert order(server, "POST nothing")[0] == 404


def test_it_runs_from_a_shell() -> None:
    command = [sys.executable, "-m", "connector.testing.pinecone_server", "--port", "0", "--index", "docs:3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with Pinecone(api_key="key", host=url) as client, client.index("docs") as index:
                assert index.upsert(vectors=[("a", E)]).upserted_count == 1
        finally:
            process.kill()

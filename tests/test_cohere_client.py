"""The client of Cohere's wire: what it sends, and what it makes of answers and of the lack of one. Real sockets."""

from __future__ import annotations

import email.parser
import gzip
import io
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedjobs_service import ROWS, in_thread
from fault_proxy import Answer, Cut, Drop, FaultProxy, Hold, Seen
from msgspec.structs import replace
from pydantic import SecretStr

from connector.cohere import (
    Cohere,
    DatasetFailedError,
    JobFailedError,
    NotFoundError,
    StillWaitingError,
    Timeouts,
)
from connector.cohere.failures import retry_after_seconds
from connector.cohere.values import moment
from connector.cohere.waiting import Patience, wait_for_dataset, wait_for_job
from connector.errors import ConfigError, ConnectorError, RejectedError, TransientError, UnknownOutcomeError
from connector.events import CallRetried, Event

CANARY = "canary-7be1f0"
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
QUICK = Timeouts(connect_seconds=5, read_seconds=0.2, write_seconds=5, made_seconds=0.2)
DATASETS, JOBS = "/v1/datasets", "/v1/embed-jobs"


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[FaultProxy, Cohere]]:
    """A server and a client: to make either takes longer than most tests."""
    with FaultProxy() as proxy, Cohere(proxy.url, SecretStr(CANARY), now=lambda: NOW) as client:
        yield proxy, client


@pytest.fixture
def proxy(shared: tuple[FaultProxy, Cohere]) -> FaultProxy:
    shared[0].clear()
    return shared[0]


@pytest.fixture
def client(shared: tuple[FaultProxy, Cohere]) -> Cohere:
    return shared[1]


Call = Callable[[Cohere], object]


def list_jobs(client: Cohere) -> object:
    return client.jobs()


def create_job(client: Cohere) -> object:
    return client.create_job(dataset_id="d", model="m", input_type="search_document")


def create_dataset(client: Cohere) -> object:
    return client.create_dataset(io.BytesIO(ROWS), name="n", file_name="data.jsonl")


def embed(client: Cohere) -> object:
    return client.embed(["a"], model="m", input_type="search_query")


CALLS: Mapping[Call, tuple[str, str]] = {
    list_jobs: ("GET", JOBS),
    create_job: ("POST", JOBS),
    create_dataset: ("POST", DATASETS),
    embed: ("POST", "/v2/embed"),
}
CREATING = (create_job, create_dataset)


def failure(proxy: FaultProxy, client: Cohere, call: Call, answer: Answer) -> ConnectorError:
    """What becomes of an answer to a call."""
    proxy.on(*CALLS[call], answer)
    with pytest.raises(ConnectorError) as raised:
        call(client)
    return raised.value


# --- address and key --------------------------------------------------------------------------------


@pytest.mark.parametrize("path, sent", [("", JOBS), ("/v1", JOBS), ("/v1/", JOBS), ("/a/b/", "/a/b/v1/embed-jobs")])
def test_the_address_is_given_with_or_without_its_version(proxy: FaultProxy, path: str, sent: str) -> None:
    proxy.serve("GET", sent, Answer.of({"embed_jobs": []}))
    with Cohere(proxy.url + path, None) as client:
        assert client.jobs() == ()
    assert proxy.seen[0].path == sent


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8080", "ftp://a", "http://", "http://a?b", "http://user:canary-7be1f0@a", "http://a:b", "//a"],
)
def test_an_address_that_cannot_work_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigError, match=r"URL|web address") as raised:
        Cohere(url, None)
    assert CANARY not in str(raised.value)


@pytest.mark.parametrize(
    "key", ["", f"{CANARY}\n", f" {CANARY}", f"{CANARY}\r\nX: y", f"{CANARY}\0", f"{CANARY}é", "\n"]
)
def test_a_key_that_no_header_can_carry_is_refused_in_one_line_that_does_not_show_it(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Cohere("http://a", SecretStr(key))
    assert "\n" not in str(raised.value)
    assert CANARY not in f"{raised.value!s}{raised.value!r}"


def test_the_key_is_sent_as_a_bearer_and_none_is_sent_where_there_is_none(proxy: FaultProxy, client: Cohere) -> None:
    proxy.serve("GET", JOBS, Answer.of({}))
    client.jobs()
    with Cohere(proxy.url, None) as without:
        without.jobs()
    assert [seen.headers.get("authorization") for seen in proxy.seen] == [f"Bearer {CANARY}", None]
    assert proxy.seen[0].headers["x-client-name"] == "vector-sync"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_but_named(proxy: FaultProxy, client: Cohere, status: int) -> None:
    answer = Answer(status, headers={"Location": f"https://elsewhere.example/v1/x?{CANARY}"})
    for call in CALLS:
        error = failure(proxy, client, call, answer)
        assert isinstance(error, ConfigError)
        assert "https://elsewhere.example/v1/x;" in str(error)
    assert len(proxy.seen) == len(CALLS)


# --- uploads ----------------------------------------------------------------------------------------


def upload_of(seen: Seen) -> tuple[str, str, bytes]:
    """The file name, content type and content of the one part of an upload."""
    head = f"Content-Type: {seen.headers['content-type']}\r\n\r\n".encode()
    part: Any
    (part,) = email.parser.BytesParser().parsebytes(head + seen.body).get_payload()
    assert part.get_param("name", header="content-disposition") == "data"
    return part.get_filename(), part.get_content_type(), part.get_payload(decode=True)


def test_an_upload_has_its_options_in_the_query_and_the_file_alone_in_the_body(
    proxy: FaultProxy, client: Cohere, tmp_path: Path
) -> None:
    proxy.serve("POST", DATASETS, Answer.of({"id": "sample-1"}))
    file = tmp_path / "data.csv"
    file.write_bytes(b"text,a\r\nx,1\r\n")
    sent: list[tuple[int, int | None]] = []
    id = client.create_dataset(
        file,
        name="sample",
        keep_fields=["a", "b c&d"],
        optional_fields=["é"],
        skip_malformed_input=True,
        keep_original_file=True,
        csv_delimiter=";",
        on_sent=lambda done, of: sent.append((done, of)),
    )
    assert id == "sample-1"
    (seen,) = proxy.seen
    assert seen.query == [
        ("name", "sample"),
        ("type", "embed-input"),
        ("keep_fields", "a"),
        ("keep_fields", "b c&d"),
        ("optional_fields", "é"),
        ("skip_malformed_input", "true"),
        ("keep_original_file", "true"),
        ("csv_delimiter", ";"),
    ]
    assert upload_of(seen) == ("data.csv", "text/csv", file.read_bytes())
    assert int(seen.headers["content-length"]) == len(seen.body)
    assert sent == [(13, 13)]


class Unseekable(io.RawIOBase):
    """A stream such as a pipe's: read once, of a length that nobody knows."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)


def streams() -> Iterator[Any]:
    content = ROWS * 100_000  # several pieces
    packed = io.BytesIO(gzip.compress(content))
    begun = io.BytesIO(b"skipped" + content)
    begun.seek(7)
    for id, stream in (
        ("bytes", io.BytesIO(content)),
        ("begun", begun),
        ("gzip", gzip.GzipFile(fileobj=packed)),
        ("pipe", Unseekable(content)),
    ):
        yield pytest.param(stream, content, id=id)


@pytest.mark.parametrize("stream, content", list(streams()))
def test_any_stream_of_bytes_arrives_whole(proxy: FaultProxy, client: Cohere, stream: Any, content: bytes) -> None:
    proxy.serve("POST", DATASETS, Answer.of({"id": "d"}))
    client.create_dataset(stream, name="n", file_name='a "b"é.jsonl')
    (seen,) = proxy.seen
    name, kind, arrived = upload_of(seen)
    assert (kind, arrived) == ("application/octet-stream", content)
    assert "%22b%22" in name


def test_an_upload_that_failed_can_be_made_again_with_the_same_stream(proxy: FaultProxy, client: Cohere) -> None:
    proxy.on("POST", DATASETS, Answer(429))
    proxy.serve("POST", DATASETS, Answer.of({"id": "d"}))
    stream = io.BytesIO(ROWS)
    for expected in (TransientError, None):
        if expected:
            with pytest.raises(expected):
                client.create_dataset(stream, name="n", file_name="a.jsonl")
        else:
            client.create_dataset(stream, name="n", file_name="a.jsonl")
    assert [upload_of(seen)[2] for seen in proxy.seen] == [ROWS, ROWS]


class Changing(io.BytesIO):
    """A file that is written to after its size was told."""

    def __init__(self, content: bytes, then: bytes) -> None:
        super().__init__(content)
        self._then = io.BytesIO(then)

    def read(self, size: int | None = -1, /) -> bytes:
        return self._then.read(size)


@pytest.mark.parametrize("then", [b"", ROWS[:-1], ROWS + b"x"])
def test_a_file_that_changes_during_its_upload_is_told_and_never_accepted(
    proxy: FaultProxy, client: Cohere, then: bytes
) -> None:
    with pytest.raises(TransientError, match=r"data\.jsonl changed while it was uploaded"):
        client.create_dataset(Changing(ROWS, then), name="n", file_name="data.jsonl")
    assert proxy.seen == []


@pytest.mark.parametrize("name", ["data", "data.txt", "", ".json"])
def test_a_file_name_that_does_not_tell_what_is_in_it_is_refused(client: Cohere, proxy: FaultProxy, name: str) -> None:
    with pytest.raises(ConfigError, match=r"\.jsonl or \.csv"):
        client.create_dataset(io.BytesIO(ROWS), name="n", file_name=name)
    assert proxy.seen == []


def test_the_name_of_a_dataset_has_to_fit(client: Cohere, proxy: FaultProxy, tmp_path: Path) -> None:
    for name in ("", "x" * 50):
        with pytest.raises(ConfigError, match="1 to 49 are allowed"):
            client.create_dataset(io.BytesIO(ROWS), name=name, file_name="a.jsonl")
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.jsonl"):
        client.create_dataset(tmp_path / "nowhere.jsonl", name="n")
    assert proxy.seen == []


# --- what is asked and answered ---------------------------------------------------------------------


def test_a_job_is_asked_for_in_the_words_of_the_wire(proxy: FaultProxy, client: Cohere) -> None:
    proxy.serve("POST", JOBS, Answer.of({"job_id": "j", "meta": {}}))
    assert create_job(client) == "j"
    client.create_job(
        dataset_id="d", model="m", input_type="classification", embedding_types=["int8"], truncate="START", name="n"
    )
    plain = {"model": "m", "dataset_id": "d", "input_type": "search_document", "embedding_types": ["float"]}
    more = {"input_type": "classification", "embedding_types": ["int8"], "truncate": "START", "name": "n"}
    assert [seen.json for seen in proxy.seen] == [plain, plain | more]


def test_filters_are_camel_case_and_times_are_utc(proxy: FaultProxy, client: Cohere) -> None:
    proxy.serve("GET", DATASETS, Answer.of({"datasets": []}))
    before = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))
    client.datasets(type="embed-input", status="failed", before=before, after=before, limit=3, offset=6)
    time = "2026-01-02T02:04:05Z"
    assert proxy.seen[0].query == [
        ("datasetType", "embed-input"),
        ("validationStatus", "failed"),
        ("before", time),
        ("after", time),
        ("limit", "3"),
        ("offset", "6"),
    ]


@pytest.mark.parametrize("longest", [2, 7, 1000])
def test_all_datasets_are_listed_once_however_the_service_pages(
    proxy: FaultProxy, client: Cohere, longest: int
) -> None:
    stored = [{"id": f"d{number}"} for number in range(20)]

    def page(seen: Seen) -> Answer:
        query = dict(seen.query)
        start, size = int(query["offset"]), min(longest, int(query["limit"]))
        return Answer.of({"datasets": stored if longest == 1000 else stored[start : start + size]})

    proxy.serve("GET", DATASETS, page)
    assert [dataset.id for dataset in client.all_datasets(page=5)] == [it["id"] for it in stored]


def test_ids_are_escaped_in_paths(proxy: FaultProxy, client: Cohere) -> None:
    for call in (client.dataset, client.delete_dataset, client.job, client.cancel_job):
        with pytest.raises(ConnectorError):
            call("../a b/c?d")
    assert {seen.path for seen in proxy.seen} == {
        f"{DATASETS}/..%2Fa%20b%2Fc%3Fd",
        f"{JOBS}/..%2Fa%20b%2Fc%3Fd",
        f"{JOBS}/..%2Fa%20b%2Fc%3Fd/cancel",
    }


def test_what_the_hosted_service_sends_is_understood(proxy: FaultProxy, client: Cohere) -> None:
    job = {
        "job_id": "6d691fbe",
        "name": None,
        "status": "complete",
        "created_at": "2024-01-13T02:53:31.879719Z",
        "input_dataset_id": "a",
        "output_dataset_id": "b",
        "model": "embed-english-v3.0",
        "truncate": "RIGHT",
        "percent_complete": "100",
        "meta": {"billed_units": {"input_tokens": 12.0}, "api_version": None},
        "output": {"id": "b"},
        "output_urls": ["x"],
    }
    proxy.serve("GET", f"{JOBS}/j", Answer.of(job))
    found = client.job("j")
    assert (found.id, found.name, found.truncate, found.percent_complete) == ("6d691fbe", "", "RIGHT", 100.0)
    assert (found.is_complete, found.is_open, found.billed_tokens) == (True, False, 12)
    assert moment(found.created_at) == datetime(2024, 1, 13, 2, 53, 31, 879719, tzinfo=UTC)
    dataset: dict[str, Any] = {
        "id": "d",
        "name": "n",
        "dataset_type": "a-new-type",
        "validation_status": "Validated",
        "validation_warnings": None,
        "schema": "{}",
        "dataset_parts": [
            {"id": "2", "name": "b", "url": "u2", "index": 1, "num_rows": "7", "samples": [1]},
            {"id": "1", "name": "a", "url": "u1", "size_bytes": 5},
            {"id": "2", "name": "b", "url": "u2", "index": 1},
        ],
        "metrics": {},
    }
    proxy.serve("GET", f"{DATASETS}/d", Answer.of({"dataset": dataset}))
    read = client.dataset("d")
    assert (read.type, read.is_validated, read.warnings) == ("a-new-type", True, ())
    assert [part.url for part in read.ordered_parts] == ["u1", "u2"]
    assert "u1" not in repr(read)


@pytest.mark.parametrize("usage, told", [("12345", 12345), (678, 678), (None, 0)])
def test_the_usage_may_be_a_string(proxy: FaultProxy, client: Cohere, usage: object, told: int) -> None:
    proxy.serve("GET", f"{DATASETS}/usage", Answer.of({"organization_usage": usage}))
    assert client.usage_bytes() == told


def test_lists_may_be_missing_and_statuses_unknown(proxy: FaultProxy, client: Cohere) -> None:
    proxy.serve("GET", DATASETS, Answer.of({"datasets": None}))
    proxy.serve("GET", JOBS, Answer.of({"embed_jobs": [{"job_id": "j", "status": "PAUSED"}]}))
    proxy.serve("GET", "/v1/models", Answer.of({"models": [{"name": "a"}, {"name": "b", "endpoints": ["chat"]}]}))
    assert client.datasets() == ()
    (job,) = client.jobs()
    assert (job.status, job.is_open, job.billed_tokens) == ("PAUSED", True, None)
    assert client.models() == ("a",)
    assert proxy.seen[-1].query == [("endpoint", "embed")]


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b'{"id": null, "job_id": null}', b'{"id": 7, "job_id": 7}', b"[]"]
)
def test_an_answer_without_an_id_is_no_answer(proxy: FaultProxy, client: Cohere, body: bytes) -> None:
    answer = Answer(200, body, {"Content-Type": "application/json"})
    for call in CREATING:
        assert isinstance(failure(proxy, client, call, answer), UnknownOutcomeError)
    proxy.serve("GET", f"{JOBS}/x", answer)
    with pytest.raises(ConfigError, match="not of Cohere's API"):
        client.job("x")
    proxy.serve("GET", f"{DATASETS}/x", Answer.of({"dataset": {"name": "n"}}))
    with pytest.raises(ConfigError, match="id"):
        client.dataset("x")


def test_an_empty_answer_to_a_cancellation_is_a_success(proxy: FaultProxy, client: Cohere) -> None:
    proxy.on("POST", f"{JOBS}/j/cancel", Answer(200))
    proxy.on("POST", f"{JOBS}/j/cancel", Answer(204))
    client.cancel_job("j")
    client.cancel_job("j")


@pytest.mark.parametrize("version", [1, 2])
def test_vectors_come_in_the_number_type_of_their_form(proxy: FaultProxy, client: Cohere, version: Any) -> None:
    vectors = {"float": [[0.5, 1], [0, -1]], "int8": [[-128, 127], [0, 1]], "ubinary": [[255], [0]], "uint8": None}
    meta = {"billed_units": {"input_tokens": 7}}
    proxy.serve("POST", f"/v{version}/embed", Answer.of({"id": "e", "embeddings": vectors, "meta": meta}))
    types = ["float", "int8", "ubinary"]
    found = client.embed(["a", "b"], model="m", input_type="x", embedding_types=types, truncate="NONE", version=version)
    assert found.billed_tokens == 7
    assert {name: vector.dtype.name for name, vector in found.vectors.items()} == {
        "float": "float32",
        "int8": "int8",
        "ubinary": "uint8",
    }
    np.testing.assert_array_equal(found.vectors["float"], [[0.5, 1], [0, -1]])
    assert proxy.seen[0].json == {
        "model": "m",
        "texts": ["a", "b"],
        "input_type": "x",
        "embedding_types": types,
        "truncate": "NONE",
    }


def test_plain_floats_of_v1_are_understood(proxy: FaultProxy, client: Cohere) -> None:
    proxy.serve("POST", "/v1/embed", Answer.of({"id": "e", "embeddings": [[0.25, 0.5]]}))
    found = client.embed(["a"], model="m", input_type="x", version=1)
    np.testing.assert_array_equal(found.vectors["float"], np.array([[0.25, 0.5]], np.float32))
    assert found.billed_tokens is None


@pytest.mark.parametrize(
    "embeddings",
    [{}, {"float": None}, {"float": []}, {"float": [[1.0], [2.0]]}, {"float": [["x"]]}, {"float": "AAAA"}, [], None],
)
def test_vectors_that_are_not_one_a_text_are_refused(proxy: FaultProxy, client: Cohere, embeddings: object) -> None:
    proxy.serve("POST", "/v2/embed", Answer.of({"embeddings": embeddings}))
    with pytest.raises(ConfigError):
        embed(client)


def test_more_texts_than_one_call_takes_are_a_bug_of_the_caller(client: Cohere) -> None:
    for texts in ([], ["x"] * 97):
        with pytest.raises(ValueError, match="1 to 96"):
            client.embed(texts, model="m", input_type="x")


def test_what_the_service_says_beside_its_answer_is_passed_on(proxy: FaultProxy) -> None:
    told: list[str] = []
    proxy.serve("POST", JOBS, Answer.of({"job_id": "j"}, X_API_Warning=f"old model, {CANARY}"))
    with Cohere(proxy.url, SecretStr(CANARY), on_warning=told.append) as client:
        create_job(client)
    assert told == ["old model, **********"]


# --- failures ---------------------------------------------------------------------------------------

REFUSED: list[tuple[int, type[ConnectorError]]] = [
    (status, RejectedError) for status in (400, 405, 411, 413, 422, 431, 498)
]
WRONG: list[tuple[int, type[ConnectorError]]] = [(status, ConfigError) for status in (401, 402, 403, 407)]
NOT_NOW: list[tuple[int, type[ConnectorError]]] = [(status, TransientError) for status in (425, 429, 499)]
IN_DOUBT = [408, 409, 500, 501, 502, 503, 504, 520, 529]


@pytest.mark.parametrize("status, kind", REFUSED + WRONG + NOT_NOW)
@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_refuses_says_so_for_every_call(
    proxy: FaultProxy, client: Cohere, call: Call, status: int, kind: type[ConnectorError]
) -> None:
    error = failure(proxy, client, call, Answer.of({"message": "the words\n of it", "id": "req-1"}, status))
    assert type(error) is kind
    method, path = CALLS[call]
    assert str(error).startswith(f"{method} {proxy.url}{path}: HTTP {status}, the words of it (request req-1)")


@pytest.mark.parametrize("status", IN_DOUBT)
@pytest.mark.parametrize("call", CALLS)
def test_a_failure_leaves_in_doubt_what_creates_and_nothing_else(
    proxy: FaultProxy, client: Cohere, call: Call, status: int
) -> None:
    error = failure(proxy, client, call, Answer.of({"message": "the words"}, status))
    assert type(error) is (UnknownOutcomeError if call in CREATING else TransientError)
    assert "the words" in str(error)


def test_what_is_in_doubt_is_never_retried_by_the_retry_that_all_calls_go_through() -> None:
    assert not issubclass(UnknownOutcomeError, TransientError)


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"Retry-After": "Sun, 22 Nov 2026 11:59:00 GMT"}, 0.0),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:30 -0000"}, 30.0),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25),
    ],
)
def test_a_wait_that_the_service_names_is_passed_on(
    proxy: FaultProxy, client: Cohere, headers: Mapping[str, str], seconds: float | None
) -> None:
    error = failure(proxy, client, create_job, Answer(429, headers=headers))
    assert isinstance(error, TransientError)
    assert error.retry_after_seconds == seconds


def test_a_date_in_another_zone_is_a_date() -> None:
    assert retry_after_seconds({"retry-after": "Sun, 22 Nov 2026 14:00:10 +0200"}, now=NOW) == 10.0


@pytest.mark.parametrize(
    "message, kind",
    [
        ("dataset with id X not found", NotFoundError),
        ("resource not found: could not find embed job with the ID: X", NotFoundError),
        ("model 'xyz' not found, make sure the correct model ID was used", ConfigError),
        ("model 'packed-embed-english-light-v3.0-bulkjob' not found", ConfigError),
        ("404 page not found", ConfigError),
    ],
)
def test_of_the_ways_not_to_be_found_only_a_dataset_or_a_job_is_data(
    proxy: FaultProxy, client: Cohere, message: str, kind: type[ConnectorError]
) -> None:
    assert type(failure(proxy, client, create_job, Answer.of({"message": message}, 404))) is kind


HTML = Answer(200, b"<html><title>Welcome</title></html>", {"Content-Type": "text/html; charset=utf-8"})


@pytest.mark.parametrize("call", CALLS)
def test_a_web_page_is_a_wrong_address(proxy: FaultProxy, client: Cohere, call: Call) -> None:
    error = failure(proxy, client, call, HTML)
    assert type(error) is (UnknownOutcomeError if call in CREATING else ConfigError)  # perhaps after the deed
    assert "text/html, not JSON" in str(error)
    missing = failure(proxy, client, call, Answer(404, HTML.body, HTML.headers))
    assert isinstance(missing, ConfigError)
    assert "is the URL right?" in str(missing)
    too_large = failure(proxy, client, call, Answer(413, HTML.body, HTML.headers))
    assert isinstance(too_large, RejectedError)
    assert "<" not in str(too_large)


def test_json_that_does_not_call_itself_so_is_taken(proxy: FaultProxy, client: Cohere) -> None:
    proxy.on("GET", JOBS, Answer(200, b' {"embed_jobs": []}', {"Content-Type": "text/plain"}))
    assert client.jobs() == ()


def test_words_without_end_are_cut(proxy: FaultProxy, client: Cohere) -> None:
    error = failure(proxy, client, create_job, Answer.of({"message": "x" * 10_000}, 400))
    assert len(str(error)) < 700


@pytest.mark.parametrize("call", CALLS)
def test_where_nobody_listens_nothing_was_accepted(call: Call) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with Cohere(f"http://127.0.0.1:{taken.getsockname()[1]}", None) as client, pytest.raises(TransientError):
            call(client)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", [Drop(after=False), Cut(3)], ids=["dropped", "cut"])
def test_a_lost_answer_leaves_in_doubt_what_creates_and_nothing_else(
    proxy: FaultProxy, client: Cohere, call: Call, fault: Drop | Cut
) -> None:
    proxy.on(*CALLS[call], fault)
    with pytest.raises(ConnectorError) as raised:
        call(client)
    assert type(raised.value) is (UnknownOutcomeError if call in CREATING else TransientError)


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_does_not_come_is_given_up(proxy: FaultProxy, call: Call) -> None:
    release = threading.Event()
    proxy.on(*CALLS[call], Hold(release))
    with Cohere(proxy.url, None, timeouts=QUICK) as client, pytest.raises(ConnectorError) as raised:
        call(client)
    release.set()
    assert type(raised.value) is (UnknownOutcomeError if call in CREATING else TransientError)


def test_a_refusal_in_the_middle_of_an_upload_is_heard(tmp_path: Path) -> None:
    with in_thread(tmp_path, max_dataset_bytes=100_000) as service, Cohere(service.url, None) as client:
        with pytest.raises(RejectedError, match="HTTP 413, the file is larger than the limit"):
            client.create_dataset(io.BytesIO(ROWS * 200_000), name="n", file_name="a.jsonl")
        assert client.datasets() == ()


def test_a_certificate_that_nobody_vouches_for_is_the_operators(proxy: FaultProxy) -> None:
    import ssl

    import httpx

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(str(ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")))

    client = Cohere("https://a", None, transport=httpx.MockTransport(refuse))
    with client, pytest.raises(ConfigError, match="certificate"):
        client.jobs()


# --- the key ----------------------------------------------------------------------------------------


def test_the_key_is_in_no_error_log_or_repr_even_if_the_service_repeats_it(
    proxy: FaultProxy, client: Cohere, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = [repr(client), str(client)]
    for status in (400, 401, 403, 404, 409, 413, 429, 500):
        for call in CALLS:
            body = {"message": f"the key {CANARY} is wrong, dataset {CANARY}", "id": CANARY}
            error: BaseException = failure(proxy, client, call, Answer.of(body, status))
            texts += [str(error), repr(error)]
            while before := error.__cause__ or error.__context__:
                texts.append(repr(before))
                error = before
    assert caplog.records
    texts += [caplog.text]
    assert CANARY not in "\n".join(texts)
    assert all(CANARY in seen.headers["authorization"] for seen in proxy.seen)


# --- waiting ----------------------------------------------------------------------------------------


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def patience(self, **options: Any) -> Patience:
        return Patience(clock=lambda: self.now, sleep=self.sleep, random=lambda: 0.5, **options)


def in_turn(*answers: Answer) -> Callable[[Seen], Answer]:
    """One answer after the other, and the last again and again."""
    left = list(answers)
    return lambda _seen: left.pop(0) if len(left) > 1 else left[0]


def job(status: str, **more: object) -> Answer:
    return Answer.of({"job_id": "j", "status": status, **more})


def dataset(status: str, **more: object) -> Answer:
    return Answer.of({"dataset": {"id": "d", "validation_status": status, **more}})


def test_a_job_is_asked_for_at_once_and_then_less_and_less_often(proxy: FaultProxy, client: Cohere) -> None:
    clock = Clock()
    pending = [job("processing", percent_complete=10 * number) for number in range(5)]
    proxy.serve("GET", f"{JOBS}/j", in_turn(*pending, job("Cancelling"), job(""), job("Complete")))
    percents: list[float | None] = []
    done = wait_for_job(client, "j", clock.patience(), on_answer=lambda job: percents.append(job.percent_complete))
    assert done.is_complete
    assert clock.slept == pytest.approx([2.1, 4.2, 8.4, 15.75, 31.5, 31.5, 31.5])
    assert percents[:5] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("status", ["failed", "cancelled", "Canceled", "unknown", "skipped"])
def test_what_will_come_to_nothing_is_a_failure_with_the_services_words(
    proxy: FaultProxy, client: Cohere, status: str
) -> None:
    proxy.serve("GET", f"{JOBS}/j", job(status, error="the model burst"))
    with pytest.raises(JobFailedError, match=f"job j is {status.lower()}") as of_job:
        wait_for_job(client, "j", Clock().patience())
    assert of_job.value.job.status == status
    assert ("the model burst" in str(of_job.value)) == (status == "failed")
    proxy.serve("GET", f"{DATASETS}/d", dataset(status, validation_error="line 3", validation_warnings=["and 4"]))
    with pytest.raises(DatasetFailedError, match=f"dataset d is {status.lower()}: line 3; and 4") as of_dataset:
        wait_for_dataset(client, "d", Clock().patience())
    assert of_dataset.value.dataset.warnings == ("and 4",)


def test_passing_failures_are_survived_and_named_waits_kept(proxy: FaultProxy, client: Cohere) -> None:
    clock = Clock()
    events: list[Event] = []
    answers = [Answer(503), Answer(429, headers={"Retry-After": "50"}), dataset("queued"), dataset("validated")]
    proxy.on("GET", f"{DATASETS}/d", Drop(after=False))
    proxy.serve("GET", f"{DATASETS}/d", in_turn(*answers))
    assert wait_for_dataset(client, "d", clock.patience(), emit=events.append).is_validated
    assert clock.slept == pytest.approx([2.1, 4.2, 50.0, 15.75])
    assert [type(event) for event in events] == [CallRetried] * 3


def test_an_outage_without_end_is_told(proxy: FaultProxy, client: Cohere) -> None:
    clock = Clock()
    proxy.serve("GET", f"{JOBS}/j", in_turn(job("processing"), Answer(503)))
    with pytest.raises(TransientError, match="503"):
        wait_for_job(client, "j", clock.patience(outage_seconds=100))
    assert 100 <= clock.now < 140


def test_an_outage_begins_where_the_service_was_last_heard(proxy: FaultProxy, client: Cohere) -> None:
    clock = Clock()
    proxy.serve("GET", f"{JOBS}/j", in_turn(*[job("processing")] * 10, Answer(503), job("complete")))
    assert wait_for_job(client, "j", clock.patience(outage_seconds=100)).is_complete
    assert clock.now > 200


def test_a_wait_ends_at_its_deadline_and_what_it_waited_for_goes_on(proxy: FaultProxy, client: Cohere) -> None:
    clock = Clock()
    proxy.serve("GET", f"{JOBS}/j", job("processing"))
    with pytest.raises(StillWaitingError, match="job j is still processing after 20 s; it goes on"):
        wait_for_job(client, "j", clock.patience(deadline_seconds=20))
    assert clock.now <= 20


def test_a_lasting_failure_ends_a_wait_at_once(proxy: FaultProxy, client: Cohere) -> None:
    proxy.serve("GET", f"{JOBS}/j", Answer(401))
    with pytest.raises(ConfigError):
        wait_for_job(client, "j", Clock().patience())
    assert len(proxy.seen) == 1


# --- with the service itself ------------------------------------------------------------------------


def test_the_self_hosted_service_and_the_client_understand_each_other(tmp_path: Path) -> None:
    waits = Patience(waits_seconds=(0.01,))
    with in_thread(tmp_path, api_key=CANARY) as service, Cohere(service.url, SecretStr(CANARY)) as client:
        client.check()
        assert client.models() == ("hash", "hash-wide")
        id = client.create_dataset(io.BytesIO(ROWS), name="sample", file_name="data.jsonl", keep_fields=["id"])
        found = wait_for_dataset(client, id, waits)
        assert [part.rows for part in found.parts] == [3]
        assert [it.id for it in client.datasets(type="embed-input", status="validated", limit=1)] == [id]
        assert client.datasets(status="failed") == ()
        job_id = client.create_job(dataset_id=id, model="hash", input_type="search_document", name="mine")
        done = wait_for_job(client, job_id, waits)
        assert done.billed_tokens
        assert [(job.id, job.name, job.input_dataset_id) for job in client.jobs()] == [(job_id, "mine", id)]
        client.cancel_job(job_id)
        assert client.job(job_id).is_complete
        assert client.usage_bytes() > 0
        for version in (1, 2):
            vectors = client.embed(["a", "b"], model="hash", input_type="search_query", version=version).vectors
            assert vectors["float"].shape == (2, 8)
        for gone in (id, done.output_dataset_id):
            client.delete_dataset(gone)
            with pytest.raises(NotFoundError):
                client.delete_dataset(gone)
            with pytest.raises(NotFoundError):
                client.dataset(gone)
        with pytest.raises(NotFoundError):
            client.job("6d691fbe-5a5e-4d2c-8d5d-8f1a3c1f0e11")
        with pytest.raises(ConfigError, match="model"):
            client.create_job(dataset_id=id, model="nothing", input_type="search_document")
        with Cohere(service.url, SecretStr("wrong")) as stranger, pytest.raises(ConfigError, match="check the API key"):
            stranger.check()


def test_many_threads_may_use_one_client(tmp_path: Path) -> None:
    with in_thread(tmp_path) as service, Cohere(service.url, None) as client, ThreadPoolExecutor(8) as threads:

        def one(number: int) -> tuple[str, float]:
            text = f"text {number}"
            vectors = client.embed([text], model="hash", input_type="search_query").vectors["float"]
            again = client.embed([text], model="hash", input_type="search_query").vectors["float"]
            return text, float(np.abs(vectors - again).max())

        assert dict(threads.map(one, range(64))) == {f"text {number}": 0.0 for number in range(64)}


def test_the_answers_of_the_fault_proxy_are_those_of_the_service(tmp_path: Path) -> None:
    with (
        in_thread(tmp_path) as service,
        FaultProxy(service.url) as proxy,
        Cohere(service.url, None) as straight,
        Cohere(proxy.url, None) as through,
    ):
        id = through.create_dataset(io.BytesIO(ROWS), name="sample", file_name="data.jsonl")
        wait_for_dataset(through, id, Patience(waits_seconds=(0.01,)))
        ours, theirs = through.dataset(id), straight.dataset(id)
    assert ours.parts[0].url.startswith(proxy.url)  # as the service builds links by what it was called
    assert replace(ours, parts=()) == replace(theirs, parts=())
    assert all(seen.reached for seen in proxy.seen)

"""The service answers as `embed-jobs` of api.cohere.com does, row by row of what is known of it.

The ids begin with the section of the wire contract that the row stands in: 2.1 creating a dataset, 2.2 the other calls
on datasets, 3.1 jobs, 3.2 embedding, 4 statuses, 5 results and downloads, 6 validation, 7 limits, 8 errors.
"""

from __future__ import annotations

import base64
import io
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Event
from typing import Any, Final, TypeAlias
from urllib.parse import quote, urlsplit

import fastavro
import httpx
import numpy as np
import pytest
from embedjobs_fakes import CountingModel
from embedjobs_service import InThread, eventually, in_thread, settings
from starlette.testclient import TestClient

from connector.embedjobs.api import Backend, create_app
from connector.embedjobs.links import Links
from connector.embedjobs.metrics import Metrics
from connector.embedjobs.models import Catalogue
from connector.embedjobs.parts import PartWriter
from connector.embedjobs.store import Store
from connector.serving.logs import log_to

KEY: Final = "the-key-of-the-tests"
MODEL: Final = "embed-english-v3.0"
TYPES: Final = ("float", "int8", "uint8", "binary", "ubinary")
JOB: Final = {"model": MODEL, "input_type": "search_document"}
ROWS: Final = b'{"text": "one", "a": 1, "b": "x"}\n{"text": "two", "a": 2, "b": "y", "c": 0.5}\n'
DATASET_ID: Final = re.compile(r"[a-z0-9-]+-[a-z0-9]{6}")
HOSTED_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

Query: TypeAlias = "Sequence[tuple[str, str]]"
Json: TypeAlias = "dict[str, Any]"
NAMED: Final[Query] = (("name", "sample_file"), ("type", "embed-input"))


class Api:
    """The service, spoken to by hand."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http  # sends the key

    def create(
        self, query: Query = NAMED, *, field: str = "data", file: str = "data.jsonl", content: bytes = ROWS
    ) -> httpx.Response:
        return self.http.post("/v1/datasets", params=list(query), files={field: (file, content)})

    def upload(self, query: Query = (), *, file: str = "data.jsonl", content: bytes = ROWS) -> str:
        """Upload a file under the usual name; its dataset's id."""
        return str(right(self.create([*NAMED, *query], file=file, content=content))["id"])

    def dataset(self, id: str) -> Json:
        return dict(right(self.http.get(f"/v1/datasets/{id}"))["dataset"])

    def settled(self, id: str, seen: set[str] | None = None) -> Json:
        """Wait until a dataset is validated, or has failed, and note the statuses on the way."""
        return self._until(lambda: self.dataset(id), "validation_status", {"queued", "processing"}, seen)

    def start(self, dataset_id: str, **more: Any) -> str:
        return str(right(self.http.post("/v1/embed-jobs", json={**JOB, "dataset_id": dataset_id, **more}))["job_id"])

    def job(self, id: str) -> Json:
        return right(self.http.get(f"/v1/embed-jobs/{id}"))

    def ended(self, id: str, seen: set[str] | None = None) -> Json:
        """Wait until a job is over, and note the statuses on the way."""
        return self._until(lambda: self.job(id), "status", {"processing", "cancelling"}, seen)

    def records(self, dataset: Json) -> list[Json]:
        """Download a dataset as SDKs do: without a key, part after part."""
        return [record for part in dataset["dataset_parts"] for record in avro(download(part["url"]))]

    @staticmethod
    def _until(ask: Callable[[], Json], field: str, pending: set[str], seen: set[str] | None) -> Json:
        def find() -> Json | None:
            found = ask()
            if seen is not None:
                seen.add(found[field])
            return None if found[field] in pending else found

        ended: Json = eventually(find)
        return ended


def right(response: httpx.Response) -> Json:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert isinstance(body, dict)
    return body


def wrong(response: httpx.Response, *statuses: int) -> str:
    """Check the shape of a refusal; its message."""
    assert response.status_code in statuses, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"message", "id"}
    assert all(isinstance(value, str) and value for value in body.values())
    return str(body["message"])


def visit(method: str, url: httpx.URL | str, **more: Any) -> httpx.Response:
    """Send one request without a key. To read the certificates that http does not need would take most of its time."""
    return httpx.request(method, url, verify=False, **more)


def download(url: str) -> bytes:
    response = visit("GET", url, headers={"Accept-Encoding": "gzip, deflate"})
    assert response.status_code == 200, response.text
    return response.content


def avro(content: bytes) -> list[Json]:
    return list(fastavro.reader(io.BytesIO(content)))


def avro_words(schema: Any) -> Iterator[str]:
    """Every type that a schema is made of."""
    if isinstance(schema, str):
        yield schema
    elif isinstance(schema, list):
        for branch in schema:
            yield from avro_words(branch)
    else:
        assert "logicalType" not in schema
        if isinstance(schema["type"], str):
            yield schema["type"]
        else:
            yield from avro_words(schema["type"])
        for field in schema.get("fields", ()):
            yield from avro_words(field["type"])
        for child in ("items", "values"):
            if child in schema:
                yield from avro_words(schema[child])


@dataclass(frozen=True, slots=True)
class Held:
    """A service of two open jobs at most, whose model waits at a gate."""

    api: Api
    model: CountingModel
    gate: Event


@dataclass(frozen=True, slots=True)
class Idle:
    """A service whose workers do not work, so that what is queued stays queued; three datasets at most."""

    api: Api
    store: Store


@dataclass(frozen=True, slots=True)
class Shelf:
    """A service that holds four datasets: two validated ones, a failed one and a result, one after another."""

    api: Api
    names: Mapping[str, str]  # by id
    times: Mapping[str, str]  # of their creation, by name; to be put into a query string

    def list(self, query: str) -> list[str]:
        """The names of what a query finds."""
        return [self.names[one["id"]] for one in right(self.api.http.get(f"/v1/datasets?{query}"))["datasets"]]


@contextmanager
def served(folder: Path, **given: Any) -> Iterator[tuple[Api, InThread]]:
    with in_thread(folder, **({"aliases": {MODEL: "hash"}} | given)) as service:
        yield Api(service.client()), service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, InThread]]:
    with served(tmp_path_factory.mktemp("service"), api_key=KEY) as both:
        yield both


@pytest.fixture(scope="module")
def api(service: tuple[Api, InThread]) -> Api:
    """A service that many tests share: they ask for what is theirs alone."""
    return service[0]


@pytest.fixture
def fresh(folder: Path) -> Iterator[Api]:
    """A service of one test's own, and without a key; small, too."""
    with served(folder, max_dataset_bytes=20_000, max_storage_bytes=60_000) as (api, _):
        yield api


@pytest.fixture
def held(folder: Path) -> Iterator[Held]:
    gate = Event()
    model = CountingModel(gate=gate)
    with served(folder, models=[model], max_open_jobs=2) as (api, _):
        try:
            yield Held(api, model, gate)
        finally:
            gate.set()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with served(tmp_path_factory.mktemp("shelf")) as (api, _):
        ids = {}
        for name, content in (("first", ROWS), ("second", ROWS), ("third", b"not json\n")):
            ids[name] = api.settled(api.upload(content=content))["id"]
        ids["result"] = api.ended(api.start(ids["second"]))["output_dataset_id"]
        times = {name: datetime.fromisoformat(api.dataset(id)["created_at"]) for name, id in ids.items()}
        written = {name: time.isoformat().replace("+00:00", "Z") for name, time in times.items()}
        zone = timezone(timedelta(hours=5, minutes=30))
        written |= {f"{name}_elsewhere": quote(time.astimezone(zone).isoformat()) for name, time in times.items()}
        yield Shelf(api, {id: name for name, id in ids.items()}, written)


@pytest.fixture
def idle(folder: Path) -> Iterator[Idle]:
    made = settings(folder)
    with closing(Store.open(folder, now=lambda: datetime.now(UTC), max_queued_datasets=3)) as store:
        backend = Backend(
            store=store,
            catalogue=Catalogue([CountingModel()], {MODEL: "hash"}),
            links=Links(store.url_key, now=lambda: datetime.now(UTC)),
            metrics=Metrics(store),
            log=log_to(io.StringIO()),
            wake=lambda: None,
            is_alive=lambda: True,
            is_stopping=lambda: False,
        )
        with TestClient(create_app(made, backend)) as http:
            yield Idle(Api(http), store)


# --- 1: transport ---


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"], ids=lambda scheme: f"1-auth-{scheme}")
def test_a_key_is_accepted_in_any_case_of_its_scheme(api: Api, scheme: str) -> None:
    right(api.http.get("/v1/datasets", headers={"Authorization": f"{scheme} {KEY}"}))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param("Bearer wrong", id="1-auth-wrong-key"),
        pytest.param(f"Basic {KEY}", id="1-auth-another-scheme"),
        pytest.param("Bearer", id="1-auth-no-key"),
        pytest.param("", id="1-auth-nothing"),
        pytest.param(f"Bearer {KEY}x", id="1-auth-one-character-more"),
    ],
)
def test_whoever_does_not_know_the_key_is_refused_and_not_told_it(api: Api, sent: str) -> None:
    for method, path in (("GET", "/v1/datasets"), ("POST", "/v1/embed"), ("DELETE", "/v1/datasets/x")):
        answer = visit(method, api.http.base_url.join(path), headers={"Authorization": sent} if sent else {})
        assert KEY not in wrong(answer, 401)


def test_a_service_without_a_key_takes_requests_with_any_and_with_none(shelf: Shelf) -> None:
    for headers in ({}, {"Authorization": "Bearer whatever"}):
        right(shelf.api.http.get("/v1/datasets", headers=headers))


def test_headers_that_sdks_add_do_no_harm(api: Api) -> None:
    right(
        api.http.get(
            "/v1/models",
            headers={"X-Client-Name": "me", "Request-Source": "python-sdk-4.57", "X-Fern-Language": "Python"},
        )
    )


# --- 2.1: POST /v1/datasets ---

ONE: Final = b'{"text": "one", "a": 1, "b": "x"}\n'


@pytest.mark.parametrize(
    "query, file, content, rows",
    [
        pytest.param("", "data.jsonl", ONE, [{"text": "one"}], id="2.1-no-options"),
        pytest.param("keep_fields=a", "data.jsonl", ONE, [{"text": "one", "a": 1}], id="2.1-keep_fields-one"),
        pytest.param(
            "keep_fields=b&keep_fields=a",
            "data.jsonl",
            ONE,
            [{"text": "one", "b": "x", "a": 1}],
            id="2.1-keep_fields-repeated",
        ),
        pytest.param(
            "keep_fields=a+b&keep_fields=c%26d&keep_fields=e%20f",
            "data.jsonl",
            b'{"text": "one", "a b": 1, "c&d": 2, "e f": 3}\n',
            [{"text": "one", "a b": 1, "c&d": 2, "e f": 3}],
            id="2.1-keep_fields-encoded",
        ),
        pytest.param(
            "keep_fields=wiki-id&keep_fields=a.b&keep_fields=%E6%97%A5%E6%9C%AC",
            "data.jsonl",
            '{"text": "one", "wiki-id": 1, "a.b": 2, "日本": "日"}\n'.encode(),
            [{"text": "one", "wiki-id": 1, "a.b": 2, "日本": "日"}],
            id="2.1-keep_fields-beyond-avro-names",
        ),
        pytest.param("keep_fields=text", "data.jsonl", ONE, [{"text": "one"}], id="2.1-keep_fields-text-itself"),
        pytest.param(
            "optional_fields=b&optional_fields=c",
            "data.jsonl",
            ROWS,
            [{"text": "one", "b": "x", "c": None}, {"text": "two", "b": "y", "c": 0.5}],
            id="2.1-optional_fields-missing-pass",
        ),
        pytest.param(
            "keep_fields=a&optional_fields=c",
            "data.jsonl",
            ROWS,
            [{"text": "one", "a": 1, "c": None}, {"text": "two", "a": 2, "c": 0.5}],
            id="2.1-both-lists",
        ),
        pytest.param(
            "skip_malformed_input=true",
            "data.jsonl",
            b'{"text": "one"}\nnot json\n{"text": "two"}\n',
            [{"text": "one"}, {"text": "two"}],
            id="2.1-skip_malformed_input-true",
        ),
        pytest.param("skip_malformed_input=false", "data.jsonl", ONE, [{"text": "one"}], id="2.1-skip-false"),
        pytest.param("text_separator=%0A", "data.jsonl", ONE, [{"text": "one"}], id="2.1-text_separator-ignored"),
        pytest.param("csv_delimiter=%3B", "data.jsonl", ONE, [{"text": "one"}], id="2.1-csv_delimiter-for-jsonl"),
        pytest.param("dry_run=false", "data.jsonl", ONE, [{"text": "one"}], id="2.1-dry_run-false"),
        pytest.param("something_new=1", "data.jsonl", ONE, [{"text": "one"}], id="2.1-unknown-option-ignored"),
        pytest.param("", "data.csv", b"text,a\none,1\n", [{"text": "one"}], id="2.1-csv"),
        pytest.param(
            "csv_delimiter=%3B&keep_fields=a",
            "data.csv",
            b"a;text\nx,y;one\n",
            [{"text": "one", "a": "x,y"}],
            id="2.1-csv_delimiter-semicolon",
        ),
        pytest.param(
            "csv_delimiter=%09&keep_fields=a",
            "data.csv",
            b"text\ta\r\none\tx\r\n",
            [{"text": "one", "a": "x"}],
            id="2.1-csv_delimiter-tab",
        ),
        pytest.param("", "data.jsonl", b"\xef\xbb\xbf" + ONE, [{"text": "one"}], id="6-byte-order-mark"),
        pytest.param("", "data.jsonl", b'{"text": "one"}', [{"text": "one"}], id="6-no-line-break-at-the-end"),
    ],
)
def test_an_upload_is_read_as_its_options_say(
    api: Api, query: str, file: str, content: bytes, rows: list[Json]
) -> None:
    answer = api.http.post(f"/v1/datasets?name=sample_file&type=embed-input&{query}", files={"data": (file, content)})
    dataset = api.settled(right(answer)["id"])
    assert dataset["validation_status"] == "validated", dataset
    found = api.records(dataset)
    assert found == rows
    assert [list(map(type, row.values())) for row in found] == [list(map(type, row.values())) for row in rows]


def test_a_dry_run_is_acknowledged_as_an_upload_is(api: Api) -> None:
    assert DATASET_ID.fullmatch(api.upload([("dry_run", "true")]))


def test_the_answer_to_an_upload_is_an_id_made_of_the_name_which_need_not_be_unique(api: Api) -> None:
    answers = [right(api.create([("name", "Sample_File 2"), ("type", "embed-input")])) for _ in range(2)]
    assert all(answer.keys() == {"id"} for answer in answers)
    ids = [answer["id"] for answer in answers]
    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"sample-file-2-[a-z0-9]{6}", id, re.IGNORECASE) for id in ids)
    assert [api.dataset(id)["name"] for id in ids] == ["Sample_File 2"] * 2


@pytest.mark.parametrize(
    "name, slug",
    [
        pytest.param("n" * 49, "n", id="2.1-name-49-characters"),
        pytest.param("日本語", "[a-z0-9-]+", id="2.1-name-without-latin-letters"),
        pytest.param("../../etc", "[a-z0-9-]+", id="2.1-name-with-slashes"),
        pytest.param("a&b=c d", "[a-z0-9-]+", id="2.1-name-encoded"),
    ],
)
def test_a_name_is_kept_whatever_it_is_made_of(api: Api, name: str, slug: str) -> None:
    id = right(api.create([("name", name), ("type", "embed-input")]))["id"]
    assert re.match(slug, id)
    assert DATASET_ID.fullmatch(id)
    assert api.dataset(id)["name"] == name


@pytest.mark.parametrize("field", ["data", "file"], ids=["2.1-part-data", "2.1-part-file-of-older-clients"])
def test_the_file_may_be_called_by_its_old_name(api: Api, field: str) -> None:
    dataset = api.settled(right(api.create(field=field))["id"])
    assert [row["text"] for row in api.records(dataset)] == ["one", "two"]


@pytest.mark.parametrize(
    "field", ["eval_data", "eval_file"], ids=["2.1-part-eval_data", "2.1-part-eval_file-of-older-clients"]
)
def test_a_file_for_evaluation_is_taken_and_left_out(api: Api, field: str) -> None:
    for order in (("data", field), (field, "data")):
        contents = {"data": ("data.jsonl", ROWS), field: ("eval.jsonl", b'{"text": "evaluation"}\n')}
        answer = api.http.post("/v1/datasets", params=list(NAMED), files=[(name, contents[name]) for name in order])
        dataset = api.settled(right(answer)["id"])
        assert [row["text"] for row in api.records(dataset)] == ["one", "two"]


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param(b"", id="2.1-part-without-a-type-as-sdk-4"),
        pytest.param(b"Content-Type: application/octet-stream\r\n", id="2.1-part-octet-stream"),
        pytest.param(b"Content-Type: text/csv\r\n", id="2.1-part-type-and-name-differ"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["of-known-length", "in-chunks"])
def test_a_multipart_body_is_read_in_the_forms_that_sdks_send(api: Api, content_type: bytes, chunked: bool) -> None:
    body = (
        b'--x-y\r\nContent-Disposition: form-data; name="data"; filename="data.jsonl"\r\n'
        + content_type
        + b"\r\n"
        + ROWS
        + b"\r\n--x-y--\r\n"
    )
    content = (body[at : at + 7] for at in range(0, len(body), 7)) if chunked else body
    answer = api.http.post(
        "/v1/datasets",
        params=list(NAMED),
        content=content,
        headers={"Content-Type": "multipart/form-data; boundary=x-y"},
    )
    assert ("transfer-encoding" in answer.request.headers) is chunked
    dataset = api.settled(right(answer)["id"])
    assert [row["text"] for row in api.records(dataset)] == ["one", "two"]
    assert re.fullmatch(r"000_data(\.jsonl)?\.avro", dataset["dataset_parts"][0]["name"])


@pytest.mark.parametrize(
    "query, message",
    [
        pytest.param("type=embed-input", "name must be set", id="6-name-must-be-set"),
        pytest.param("type=embed-input&name=", "name must be set", id="6-name-empty"),
        pytest.param("name=n", "type must be set", id="6-type-must-be-set"),
        pytest.param("name=n&type=", "type", id="6-type-empty"),
        pytest.param("name=n&type=nonsense", "dataset type is invalid", id="6-type-is-invalid"),
        pytest.param("name=n&type=Embed-Input", "dataset type is invalid", id="4-type-in-another-case"),
        pytest.param(
            "name=n&type=embed-result",
            "^output dataset types are not supported for upload$",
            id="6-output-types-are-not-for-upload",
        ),
        pytest.param("name=n&type=chat-finetune-input", "type", id="4-type-of-another-product"),
        pytest.param("name=n&type=batch-embed-v2-input", "type", id="4-type-of-batches"),
        pytest.param("name=" + "n" * 50 + "&type=embed-input", "name", id="6-name-of-50-characters"),
        pytest.param("name=n&type=embed-input&csv_delimiter=ab", "invalid csv delimiter", id="6-delimiter-of-two"),
        pytest.param("name=n&type=embed-input&csv_delimiter=", "invalid csv delimiter", id="6-delimiter-empty"),
    ],
)
def test_an_upload_with_wrong_options_is_refused_before_it_is_kept(api: Api, query: str, message: str) -> None:
    before = api.http.get("/v1/datasets").json()["datasets"][:1]
    answer = api.http.post(f"/v1/datasets?{query}", files={"data": ("data.csv", b"text\none\n")})
    assert re.search(message, wrong(answer, 400))
    after = api.http.get("/v1/datasets").json()["datasets"][:1]
    assert [one["id"] for one in after] == [one["id"] for one in before]


@pytest.mark.parametrize(
    "request_, message",
    [
        pytest.param(
            {"files": {"training": ("data.jsonl", ROWS)}},
            "^You used an invalid parameter for part: training use file or an evaluation file$",
            id="2.1-part-of-another-name",
        ),
        pytest.param({"files": {"eval_data": ("data.jsonl", ROWS)}}, "data", id="2.1-evaluation-alone"),
        pytest.param({"json": {"data": "x"}}, "multipart", id="2.1-json-instead-of-multipart"),
        pytest.param({}, "multipart", id="2.1-no-body"),
        pytest.param(
            {"content": b"--x\r\nbroken", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            "upload",
            id="2.1-multipart-that-breaks-off",
        ),
    ],
)
def test_an_upload_that_is_no_file_is_refused(api: Api, request_: Json, message: str) -> None:
    assert re.search(message, wrong(api.http.post("/v1/datasets", params=list(NAMED), **request_), 400))


@pytest.mark.parametrize(
    "file, content",
    [
        pytest.param("upload", ROWS, id="2.1-bytes-without-a-name"),
        pytest.param("upload", b"data.jsonl", id="2.1-a-path-as-a-string"),
        pytest.param("data.txt", b"one\n\ntwo\n", id="6-txt-is-not-supported"),
        pytest.param("data.avro", b"Obj\x01", id="6-avro-is-not-supported"),
    ],
)
def test_a_file_of_another_kind_is_refused_at_once_or_fails(api: Api, file: str, content: bytes) -> None:
    answer = api.create(file=file, content=content)
    if answer.status_code == 200:
        dataset = api.settled(answer.json()["id"])
        assert dataset["validation_status"] == "failed"
        message = dataset["validation_error"]
    else:
        message = wrong(answer, 400)
    assert ".jsonl" in message
    assert ".csv" in message


# --- 2.2: the other calls on datasets ---


def used(api: Api) -> int:
    """Bytes; the hosted service sends them as a string, and SDKs pass on either."""
    body = right(api.http.get("/v1/datasets/usage"))
    assert body.keys() == {"organization_usage"}
    return int(body["organization_usage"])


def test_usage_is_a_route_before_that_of_an_id_and_counts_what_is_stored(fresh: Api) -> None:
    before = used(fresh)
    id = fresh.upload()
    fresh.settled(id)
    assert used(fresh) > before
    right(fresh.http.delete(f"/v1/datasets/{id}"))
    assert used(fresh) == before


def test_a_deleted_dataset_is_answered_with_an_empty_object_and_is_gone(api: Api) -> None:
    dataset = api.settled(api.upload())
    answer = api.http.delete(f"/v1/datasets/{dataset['id']}")
    assert right(answer) == {}
    message = f"dataset with the id '{dataset['id']}' not found"
    assert wrong(api.http.get(f"/v1/datasets/{dataset['id']}"), 404) == message
    assert wrong(api.http.delete(f"/v1/datasets/{dataset['id']}"), 404) == message
    assert visit("GET", dataset["dataset_parts"][0]["url"]).status_code == 404
    ids = [one["id"] for one in right(api.http.get("/v1/datasets"))["datasets"]]
    assert dataset["id"] not in ids


@pytest.mark.parametrize(
    "id",
    ["nope-123456", "..", "%2e%2e", "a%2Fb", "'", "%00", "n" * 2000, "日本"],
    ids=lambda name: f"6-dataset-404-{name[:8]}",
)
def test_a_dataset_that_is_not_there_is_not_found_by_any_name(api: Api, id: str) -> None:
    for method in ("GET", "DELETE"):
        answer = api.http.request(method, f"/v1/datasets/{id}")
        if id not in {"..", "%2e%2e"}:  # which lead to another address
            wrong(answer, 404)
        assert answer.status_code in {404, 405}


@pytest.mark.parametrize(
    "query, expected",
    [
        pytest.param("", ["first", "second", "third", "result"], id="2.2-no-filter"),
        pytest.param("datasetType=embed-input", ["first", "second", "third"], id="2.2-datasetType"),
        pytest.param("dataset_type=embed-input", ["first", "second", "third"], id="2.2-dataset_type-of-sdk-4"),
        pytest.param("datasetType=embed-result", ["result"], id="2.2-datasetType-result"),
        pytest.param("datasetType=chat-finetune-input", [], id="2.2-datasetType-of-another-product"),
        pytest.param("datasetType=nonsense", [], id="2.2-datasetType-unknown"),
        pytest.param("validationStatus=failed", ["third"], id="2.2-validationStatus"),
        pytest.param("validation_status=failed", ["third"], id="2.2-validation_status"),
        pytest.param("validationStatus=skipped", [], id="2.2-validationStatus-that-is-never"),
        pytest.param("datasetType=embed-input&validationStatus=validated", ["first", "second"], id="2.2-both"),
        pytest.param("before={second}", ["first"], id="2.2-before"),
        pytest.param("after={second}", ["third", "result"], id="2.2-after"),
        pytest.param("after={first}&before={third}", ["second"], id="2.2-between"),
        pytest.param("before={second_elsewhere}", ["first"], id="2.2-before-in-another-zone"),
        pytest.param("limit=10", ["first", "second", "third", "result"], id="2.2-limit-10"),
        pytest.param("limit=10.0&offset=0.0", ["first", "second", "third", "result"], id="2.2-limit-10.0"),
    ],
)
def test_datasets_are_listed_by_filter(shelf: Shelf, query: str, expected: list[str]) -> None:
    found = shelf.list(query.format(**shelf.times))
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("limit", ["1", "1.0"], ids=["2.2-paging-1", "2.2-paging-1.0"])
def test_pages_of_a_list_hold_each_dataset_once(shelf: Shelf, limit: str) -> None:
    whole = shelf.list("")
    pages = [shelf.list(f"limit={limit}&offset={offset}") for offset in ("0", "1.0", "2", "3.0", "4")]
    assert [len(page) for page in pages] == [1, 1, 1, 1, 0]
    assert [name for page in pages for name in page] == whole
    assert shelf.list("limit=2&offset=1") == whole[1:3]
    assert shelf.list("offset=3") == whole[3:]


@pytest.mark.parametrize(
    "query",
    ["limit=-1", "limit=x", "limit=nan", "limit=inf", "limit=1e400", "offset=-1", "offset=nan", "before=yesterday"],
    ids=lambda query: f"2.2-{query}",
)
def test_a_filter_that_cannot_be_is_refused(api: Api, query: str) -> None:
    wrong(api.http.get(f"/v1/datasets?{query}"), 400, 422)


def check_dataset(dataset: Json) -> None:
    """What every dataset has, in whatever state."""
    assert {
        "id",
        "name",
        "created_at",
        "updated_at",
        "dataset_type",
        "validation_status",
        "validation_warnings",
    } <= dataset.keys()
    for name in ("created_at", "updated_at"):
        assert HOSTED_TIME.fullmatch(dataset[name])
    assert datetime.fromisoformat(dataset["created_at"]) <= datetime.fromisoformat(dataset["updated_at"])
    assert isinstance(dataset["validation_warnings"], list)
    assert None not in dataset.values()


def test_a_dataset_that_waits_has_no_parts_and_no_schema(idle: Idle) -> None:
    dataset = idle.api.dataset(idle.api.upload([("keep_fields", "a")]))
    check_dataset(dataset)
    assert dataset["validation_status"] == "queued"
    assert dataset["dataset_type"] == "embed-input"
    assert not {"dataset_parts", "schema", "validation_error"} & dataset.keys()


def test_a_validated_dataset_has_all_that_sdks_read(api: Api) -> None:
    dataset = api.settled(api.upload([("keep_fields", "a"), ("optional_fields", "c"), ("keep_fields", "b")]))
    check_dataset(dataset)
    assert dataset["validation_status"] == "validated"
    assert "validation_error" not in dataset
    assert dataset["validation_warnings"] == []
    assert dataset["required_fields"] == ["text"]
    assert dataset["preserve_fields"] == ["a", "b", "c"]
    assert isinstance(dataset["schema"], str)
    (part,) = dataset["dataset_parts"]
    content = download(part["url"])
    assert isinstance(part["id"], str)
    assert (part["index"], part["size_bytes"], part["num_rows"]) == (0, len(content), 2)
    assert [json.loads(sample)["text"] for sample in part["samples"]] == ["one", "two"]
    assert "original_url" not in part or part["original_url"] is None
    fastavro.writer(io.BytesIO(), fastavro.parse_schema(json.loads(dataset["schema"])), avro(content))


def test_a_failed_dataset_says_why_and_has_no_parts(api: Api) -> None:
    dataset = api.settled(api.upload(content=b"not json\n"))
    check_dataset(dataset)
    assert dataset["validation_status"] == "failed"
    assert dataset["validation_error"]
    assert not {"dataset_parts", "schema"} & dataset.keys()


def test_the_uploaded_file_is_linked_when_it_is_to_be_kept(api: Api) -> None:
    dataset = api.settled(api.upload([("keep_original_file", "true")]))
    assert download(dataset["dataset_parts"][0]["original_url"]) == ROWS
    without = api.settled(api.upload([("keep_original_file", "false")]))
    assert not without["dataset_parts"][0].get("original_url")


def test_rows_that_were_left_out_are_told_in_the_warnings(api: Api) -> None:
    content = b'{"text": "one", "a": 1}\n{"text": "two"}\nnot json\n{"text": "", "a": 2}\n{"text": "five", "a": 5}\n'
    dataset = api.settled(api.upload([("skip_malformed_input", "true"), ("keep_fields", "a")], content=content))
    assert [row["text"] for row in api.records(dataset)] == ["one", "five"]
    assert [re.search(r"line: (\d)", warning)[1] for warning in dataset["validation_warnings"]] == ["2", "3", "4"]


def test_further_errors_of_a_failed_dataset_are_told_in_the_warnings(api: Api) -> None:
    dataset = api.settled(api.upload(content=b'{"text": "one"}\nnot json\n{"text": 3}\n'))
    assert "(line: 2)" in dataset["validation_error"]
    assert any("(line: 3)" in warning for warning in dataset["validation_warnings"])


# --- 3.1: jobs ---


@pytest.mark.parametrize(
    "more, truncate, types",
    [
        pytest.param({}, "END", ["float"], id="3.1-defaults"),
        pytest.param({"embedding_types": ["float"], "truncate": "END"}, "END", ["float"], id="3.1-as-sdks-send-it"),
        pytest.param({"truncate": "START"}, "START", ["float"], id="3.1-truncate-START"),
        pytest.param({"embedding_types": ["int8", "ubinary"]}, "END", ["int8", "ubinary"], id="3.1-other-types"),
        pytest.param({"embedding_types": list(TYPES)}, "END", list(TYPES), id="3.1-all-types"),
        pytest.param({"embedding_types": []}, "END", ["float"], id="3.1-no-types"),
        pytest.param({"name": "a name"}, "END", ["float"], id="3.1-name"),
        pytest.param(
            dict.fromkeys(("name", "embedding_types", "truncate")), "END", ["float"], id="3.1-nulls-as-sdks-send-none"
        ),
        pytest.param({"something_new": 1}, "END", ["float"], id="3.1-unknown-field-ignored"),
        pytest.param({"input_type": "search_query"}, "END", ["float"], id="4-input_type-search_query"),
        pytest.param({"input_type": "classification"}, "END", ["float"], id="4-input_type-classification"),
        pytest.param({"input_type": "clustering"}, "END", ["float"], id="4-input_type-clustering"),
    ],
)
def test_a_job_is_done_as_it_was_asked_for(api: Api, more: Json, truncate: str, types: list[str]) -> None:
    given = api.settled(api.upload())
    job = api.ended(api.start(given["id"], **more))
    assert job["status"] == "complete", job
    assert job["truncate"] == truncate
    assert job.get("name") == more.get("name")
    for record in api.records(api.dataset(job["output_dataset_id"])):
        assert [name for name, vector in record["embeddings"].items() if vector is not None] == types


def test_a_job_has_all_that_sdks_read(api: Api) -> None:
    given = api.settled(api.upload())
    created = right(api.http.post("/v1/embed-jobs", json={**JOB, "dataset_id": given["id"]}))
    assert str(uuid.UUID(created["job_id"])) == created["job_id"]
    assert isinstance(created.get("meta", {}), dict)
    job = api.ended(created["job_id"])
    assert {
        "job_id",
        "status",
        "created_at",
        "input_dataset_id",
        "output_dataset_id",
        "model",
        "truncate",
    } <= job.keys()
    assert (job["job_id"], job["status"]) == (created["job_id"], "complete")
    assert job["input_dataset_id"] == given["id"]
    assert HOSTED_TIME.fullmatch(job["created_at"])
    assert job.get("percent_complete", 100) == 100
    assert None not in job.values()
    assert job in right(api.http.get("/v1/embed-jobs"))["embed_jobs"]


def test_a_result_is_a_dataset_named_as_the_hosted_service_names_it(api: Api) -> None:
    given = api.settled(api.upload([("keep_fields", "a"), ("optional_fields", "c")]))
    result = api.dataset(api.ended(api.start(given["id"]))["output_dataset_id"])
    check_dataset(result)
    assert (result["dataset_type"], result["validation_status"]) == ("embed-result", "validated")
    assert result["name"] == "embeded-sample-file"
    assert re.fullmatch(r"embeded-sample-file-[a-z0-9]{6}", result["id"])
    assert result["preserve_fields"] == ["a", "c"]
    (part,) = result["dataset_parts"]
    assert part["name"] == "001_embeded-sample-file.avro"
    assert (part["size_bytes"], part["num_rows"]) == (len(download(part["url"])), 2)
    assert all(json.loads(sample) for sample in part["samples"] if sample.endswith("}"))


@pytest.mark.parametrize(
    "change, statuses, message",
    [
        pytest.param(
            {"model": None}, {400}, r"^a model parameter is required for this endpoint\.$", id="6-model-is-required"
        ),
        pytest.param({"model": ""}, {400}, r"^a model parameter is required for this endpoint\.$", id="6-model-empty"),
        pytest.param(
            {"model": "xyz"},
            {404},
            r"^model 'xyz' not found, make sure the correct model ID was used and that you have access to the model\.",
            id="6-model-not-found",
        ),
        pytest.param(
            {"input_type": None},
            {400},
            "^valid input_type must be provided with the provided model$",
            id="6-input_type-is-required",
        ),
        pytest.param(
            {"input_type": "nonsense"},
            {400},
            "^valid input_type must be provided with the provided model$",
            id="6-input_type-is-not-valid",
        ),
        pytest.param({"input_type": "image"}, {400}, "input_type", id="4-input_type-image-for-a-text-model"),
        pytest.param({"dataset_id": None}, {400, 422}, "dataset_id", id="3.1-dataset_id-is-required"),
        pytest.param(
            {"dataset_id": "nope-123456"}, {404}, "^dataset with id nope-123456 not found$", id="6-dataset-not-found"
        ),
        pytest.param({"truncate": "NONE"}, {400, 422}, "truncate", id="3.1-truncate-NONE-is-not-for-jobs"),
        pytest.param({"truncate": "MIDDLE"}, {400, 422}, "truncate", id="3.1-truncate-unknown"),
        pytest.param({"embedding_types": ["float64"]}, {400, 422}, "embedding_types", id="4-embedding-type-unknown"),
        pytest.param({"embedding_types": ["base64"]}, {400, 422}, "embedding_types", id="4-base64-is-not-for-jobs"),
        pytest.param({"embedding_types": "float"}, {400, 422}, "embedding_types", id="3.1-embedding_types-no-list"),
    ],
)
def test_a_job_that_cannot_be_is_refused(api: Api, change: Json, statuses: set[int], message: str) -> None:
    body = {**JOB, "dataset_id": api.settled(api.upload())["id"], **change}
    body = {name: value for name, value in body.items() if value is not None}
    assert re.search(message, wrong(api.http.post("/v1/embed-jobs", json=body), *statuses))


def test_a_job_takes_only_a_validated_input(api: Api, idle: Idle) -> None:
    failed = api.settled(api.upload(content=b"not json\n"))["id"]
    result = api.ended(api.start(api.settled(api.upload())["id"]))["output_dataset_id"]
    for service, id in ((idle.api, idle.api.upload()), (api, failed), (api, result)):
        assert id in wrong(service.http.post("/v1/embed-jobs", json={**JOB, "dataset_id": id}), 400)


@pytest.mark.parametrize("call", ["get", "cancel"], ids=["6-job-get-404", "6-job-cancel-404"])
def test_a_job_that_is_not_there_is_not_found(api: Api, call: str) -> None:
    for id in (str(uuid.uuid4()), "nope"):
        path = f"/v1/embed-jobs/{id}"
        answer = api.http.get(path) if call == "get" else api.http.post(f"{path}/cancel")
        assert wrong(answer, 404) == f"resource not found: could not find embed job with the ID: {id}"


def test_a_job_is_cancelled_once_however_often_it_is_asked(held: Held) -> None:
    api = held.api
    job = api.start(api.settled(api.upload())["id"])
    assert held.model.entered.wait(60)
    seen = {api.job(job)["status"]}
    assert seen == {"processing"}
    assert "output_dataset_id" not in api.job(job)
    for _ in range(2):
        assert api.http.post(f"/v1/embed-jobs/{job}/cancel").status_code in {200, 204}
        seen.add(api.job(job)["status"])
    held.gate.set()
    ended = api.ended(job, seen)
    assert ended["status"] == "cancelled"
    assert "output_dataset_id" not in ended
    assert api.http.post(f"/v1/embed-jobs/{job}/cancel").status_code in {200, 204}
    assert api.job(job)["status"] == "cancelled"
    assert seen <= {"processing", "cancelling", "cancelled"}
    assert right(api.http.get("/v1/datasets?datasetType=embed-result"))["datasets"] == []


def test_cancelling_a_finished_job_does_no_harm(api: Api) -> None:
    job = api.ended(api.start(api.settled(api.upload())["id"]))
    assert api.http.post(f"/v1/embed-jobs/{job['job_id']}/cancel").status_code in {200, 204}
    assert api.job(job["job_id"]) == job
    assert len(api.records(api.dataset(job["output_dataset_id"]))) == 2


# --- 3.2: embed ---

V1: Final = {"texts": ["one", "two"], "model": MODEL, "input_type": "search_query"}
V2: Final = {**V1, "embedding_types": ["float"]}
V2_OPTIONS: Final = ("embedding_types", "images", "inputs", "max_tokens", "output_dimension", "priority", "truncate")
INPUTS: Final = {"inputs": [{"content": [{"type": "text", "text": text}]} for text in ("one", "two")]}


def without(body: Json, *names: str) -> Json:
    return {name: value for name, value in body.items() if name not in names}


def check_embedding(answer: Json, version: str) -> None:
    assert isinstance(answer["id"], str)
    assert answer["id"]
    assert answer["meta"]["api_version"]["version"] == version
    assert answer["meta"]["billed_units"]["input_tokens"] > 0
    if version == "2":
        assert answer.get("response_type", "embeddings_by_type") == "embeddings_by_type"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(V1, id="3.2-v1-no-types"),
        pytest.param({**V1, "truncate": "NONE"}, id="3.2-v1-truncate-NONE"),
        pytest.param({**V1, "truncate": "START"}, id="3.2-v1-truncate-START"),
        pytest.param({**V1, "truncate": "END"}, id="3.2-v1-truncate-END"),
        pytest.param({**V1, "input_type": "clustering"}, id="3.2-v1-input_type"),
        pytest.param({**V1, "something_new": 1}, id="3.2-v1-unknown-field-ignored"),
        pytest.param({**V1, **dict.fromkeys(("images", "embedding_types", "truncate"))}, id="3.2-v1-nulls"),
    ],
)
def test_v1_answers_with_plain_vectors_when_no_types_are_asked_for(api: Api, body: Json) -> None:
    answer = right(api.http.post("/v1/embed", json=body))
    check_embedding(answer, "1")
    assert answer["response_type"] == "embeddings_floats"
    assert answer["texts"] == ["one", "two"]
    assert np.linalg.norm(answer["embeddings"], axis=1) == pytest.approx([1, 1], abs=1e-3)


@pytest.mark.parametrize(
    "types", [["float"], ["int8", "float"], list(TYPES)], ids=lambda types: "3.2-v1-" + "-".join(types)
)
def test_v1_answers_by_type_when_types_are_asked_for(api: Api, types: list[str]) -> None:
    answer = right(api.http.post("/v1/embed", json={**V1, "embedding_types": types}))
    check_embedding(answer, "1")
    assert answer["response_type"] == "embeddings_by_type"
    assert answer["texts"] == ["one", "two"]
    assert {name for name, vectors in answer["embeddings"].items() if vectors is not None} == set(types)
    assert all(len(answer["embeddings"][name]) == 2 for name in types)


@pytest.mark.parametrize(
    "body, types",
    [
        pytest.param(V2, ["float"], id="3.2-v2-float"),
        pytest.param(without(V2, "embedding_types"), ["float"], id="3.2-v2-types-default-to-float"),
        pytest.param({**V2, "embedding_types": [*TYPES, "base64"]}, [*TYPES, "base64"], id="3.2-v2-all-types"),
        pytest.param({**without(V2, "texts"), **INPUTS}, ["float"], id="3.2-v2-inputs"),
        pytest.param({**V2, "truncate": "NONE"}, ["float"], id="3.2-v2-truncate-NONE"),
        pytest.param({**V2, "truncate": "START"}, ["float"], id="3.2-v2-truncate-START"),
        pytest.param({**V2, "priority": 0}, ["float"], id="3.2-v2-priority-0"),
        pytest.param({**V2, "priority": 999}, ["float"], id="3.2-v2-priority-999"),
        pytest.param({**V2, "max_tokens": 100}, ["float"], id="3.2-v2-max_tokens"),
        pytest.param({**V1, **dict.fromkeys(V2_OPTIONS)}, ["float"], id="3.2-v2-nulls"),
    ],
)
def test_v2_answers_by_type(api: Api, body: Json, types: list[str]) -> None:
    answer = right(api.http.post("/v2/embed", json=body))
    check_embedding(answer, "2")
    assert {name for name, vectors in answer["embeddings"].items() if vectors is not None} == set(types)
    plain = right(api.http.post("/v1/embed", json=V1))["embeddings"]
    if "float" in types:
        assert answer["embeddings"]["float"] == plain


def test_the_forms_of_a_vector_fit_each_other(api: Api) -> None:
    types = [*TYPES, "base64"]
    forms = right(api.http.post("/v2/embed", json={**V2, "embedding_types": types}))["embeddings"]
    vectors = np.asarray(forms["float"], dtype="<f4")
    assert [base64.b64decode(text) for text in forms["base64"]] == [vector.tobytes() for vector in vectors]
    bits = np.packbits(vectors > 0, axis=1)
    assert forms["ubinary"] == bits.tolist()
    assert forms["binary"] == (bits.astype(int) - 128).tolist()
    for name, low, high in (("int8", -128, 127), ("uint8", 0, 255)):
        numbers = np.asarray(forms[name])
        assert numbers.dtype.kind == "i"
        assert numbers.shape == vectors.shape
        assert low <= numbers.min() <= numbers.max() <= high


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed"], ids=["7-v1", "7-v2"])
def test_96_texts_are_taken_and_one_more_is_refused_in_the_hosted_words(api: Api, path: str) -> None:
    texts = [f"text {number}" for number in range(104)]
    right(api.http.post(path, json={**V1, "texts": texts[:96]}))
    for count in (97, 104):
        message = wrong(api.http.post(path, json={**V1, "texts": texts[:count]}), 400)
        assert message == f"invalid request: total number of texts must be at most 96 - received {count}"
    if path == "/v2/embed":
        inputs = [{"content": [{"type": "text", "text": text}]} for text in texts]
        assert "96" in wrong(api.http.post(path, json={**without(V1, "texts"), "inputs": inputs}), 400)


IMAGE: Final = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    "version, change, statuses, message",
    [
        pytest.param("v1", {"texts": []}, {400, 422}, "", id="3.2-v1-no-texts"),
        pytest.param("v1", {"texts": None}, {400, 422}, "", id="3.2-v1-texts-missing"),
        pytest.param(
            "v1",
            {"texts": ["", "two"]},
            {400},
            "inputs contains an element that is the empty string at index 0",
            id="3.2-v1-empty-text",
        ),
        pytest.param(
            "v2",
            {"texts": ["one", ""]},
            {400},
            "inputs contains an element that is the empty string at index 1",
            id="3.2-v2-empty-text",
        ),
        pytest.param("v1", {"texts": [1]}, {400, 422}, "texts", id="3.2-v1-text-that-is-none"),
        pytest.param("v1", {"texts": "one"}, {400, 422}, "texts", id="3.2-v1-texts-no-list"),
        pytest.param("v1", {"images": [IMAGE], "texts": None}, {400}, "image", id="3.2-v1-images"),
        pytest.param("v2", {"images": [IMAGE], "texts": None}, {400}, "image", id="3.2-v2-images"),
        pytest.param(
            "v2",
            {"inputs": [{"content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}], "texts": None},
            {400},
            "image",
            id="3.2-v2-inputs-image",
        ),
        pytest.param("v1", {"input_type": "image"}, {400}, "input_type", id="4-v1-input_type-image"),
        pytest.param(
            "v2", {"model": None}, {400}, r"^a model parameter is required for this endpoint\.$", id="3.2-v2-model"
        ),
        pytest.param("v1", {"model": "xyz"}, {404}, "^model 'xyz' not found, make sure", id="6-v1-model-not-found"),
        pytest.param("v2", {"model": "xyz"}, {404}, "^model 'xyz' not found, make sure", id="6-v2-model-not-found"),
        pytest.param(
            "v1",
            {"input_type": None},
            {400},
            "^valid input_type must be provided with the provided model$",
            id="3.2-v1-input_type-is-required-for-v3",
        ),
        pytest.param(
            "v2",
            {"input_type": None},
            {400},
            "^valid input_type must be provided with the provided model$",
            id="3.2-v2-input_type",
        ),
        pytest.param("v1", {"embedding_types": ["nonsense"]}, {400, 422}, "embedding_types", id="4-v1-type-unknown"),
        pytest.param("v2", {"embedding_types": ["nonsense"]}, {400, 422}, "embedding_types", id="4-v2-type-unknown"),
        pytest.param("v1", {"truncate": "RIGHT"}, {400, 422}, "truncate", id="3.2-v1-truncate-unknown"),
        pytest.param("v2", {"truncate": "end"}, {400, 422}, "truncate", id="3.2-v2-truncate-in-lower-case"),
        pytest.param("v2", {"priority": 1000}, {400, 422}, "priority", id="3.2-v2-priority-1000"),
        pytest.param("v2", {"priority": -1}, {400, 422}, "priority", id="3.2-v2-priority-negative"),
        pytest.param(
            "v2", {"output_dimension": 256}, {400}, "output_dimension", id="3.2-v2-output_dimension-is-for-v4"
        ),
        pytest.param("v2", {"output_dimension": 7}, {400, 422}, "output_dimension", id="3.2-v2-output_dimension-7"),
    ],
)
def test_texts_that_cannot_be_embedded_are_refused(
    api: Api, version: str, change: Json, statuses: set[int], message: str
) -> None:
    body = {**(V1 if version == "v1" else V2), **change}
    body = {name: value for name, value in body.items() if value is not None}
    assert re.search(message, wrong(api.http.post(f"/{version}/embed", json=body), *statuses))


def test_an_overlong_text_is_cut_or_refused_as_truncate_says(api: Api) -> None:
    long = "word " * 1000
    for path in ("/v1/embed", "/v2/embed"):
        for truncate in ("START", "END", None):
            body = {**V1, "texts": [long]} | ({"truncate": truncate} if truncate else {})
            right(api.http.post(path, json=body))
        assert "long" in wrong(api.http.post(path, json={**V1, "texts": [long], "truncate": "NONE"}), 400)


# --- 4: statuses ---


def test_no_poll_ever_sees_a_status_that_sdks_take_for_another(api: Api) -> None:
    datasets: set[str] = set()
    jobs: set[str] = set()
    content = b"".join(b'{"text": "row %d"}\n' % number for number in range(20_000))
    given = api.settled(api.upload(content=content), datasets)
    api.settled(api.upload(content=content + b"broken\n"), datasets)
    api.ended(api.start(given["id"]), jobs)
    assert datasets <= {"queued", "processing", "validated", "failed"}
    assert {"validated", "failed"} <= datasets
    assert jobs <= {"processing", "complete"}


# --- 5: results and downloads ---


def test_a_link_is_absolute_and_needs_no_key(api: Api) -> None:
    part = api.settled(api.upload())["dataset_parts"][0]
    address = urlsplit(part["url"])
    assert (address.scheme, address.netloc) == ("http", api.http.base_url.netloc.decode())
    response = visit("GET", part["url"], headers={"User-Agent": "python-requests/2"})
    assert response.status_code == 200
    assert KEY not in part["url"]


def test_a_link_leads_to_where_the_client_found_the_service(api: Api) -> None:
    id = api.settled(api.upload())["id"]
    answer = api.http.get(f"/v1/datasets/{id}", headers={"Host": "embed.example:1234"})
    assert right(answer)["dataset"]["dataset_parts"][0]["url"].startswith("http://embed.example:1234/")


@pytest.mark.parametrize("accepted", ["gzip, deflate, br, zstd", "gzip;q=1.0, identity;q=0", "*"])
def test_a_part_is_never_compressed_on_the_way(api: Api, accepted: str) -> None:
    content = b"".join(b'{"text": "the same text"}\n' for _ in range(1000))
    part = api.settled(api.upload(content=content))["dataset_parts"][0]
    with httpx.stream("GET", part["url"], headers={"Accept-Encoding": accepted}, verify=False) as response:
        raw = b"".join(response.iter_raw())
    assert "content-encoding" not in response.headers
    assert raw.startswith(b"Obj\x01")
    assert int(response.headers["content-length"]) == len(raw) == part["size_bytes"]


def test_a_link_that_was_altered_is_refused(api: Api) -> None:
    first, second = (api.settled(api.upload([("keep_original_file", "true")]))["dataset_parts"][0] for _ in range(2))
    path, query = first["url"].split("?")
    other_path, other_query = second["url"].split("?")
    original_path, _ = first["original_url"].split("?")
    later = re.sub(r"(\D|^)(\d{10})(?!\d)", lambda found: f"{found[1]}{int(found[2]) + 60}", query)
    assert later != query
    for forged in (
        path,
        f"{path}?",
        f"{path}?{query[:-1]}",
        f"{path}?{query[:-1]}{'0' if query[-1] != '0' else '1'}",
        f"{path}?{later}",
        f"{other_path}?{query}",
        f"{path}?{other_query}",
        f"{original_path}?{query}",
        f"{path}x?{query}",
        f"{path}/../embed-jobs.sqlite?{query}",
    ):
        response = visit("GET", forged)
        assert response.status_code in {403, 404}, forged
        assert "id" in response.json()


def test_a_link_ends_after_the_hosted_services_four_hours(service: tuple[Api, InThread]) -> None:
    api, behind = service
    dataset = api.settled(api.upload())
    file = dataset["dataset_parts"][0]["name"]
    for age_seconds, status in ((14_390, 200), (14_400, 403)):
        earlier = datetime.now(UTC) - timedelta(seconds=age_seconds)
        links = Links(behind.store.url_key, now=lambda time=earlier: time)
        assert visit("GET", links.make(behind.url, dataset["id"], file)).status_code == status
    assert visit("GET", api.dataset(dataset["id"])["dataset_parts"][0]["url"]).status_code == 200


def test_parts_are_avro_files_of_the_few_types_that_sdks_can_save(api: Api) -> None:
    rows = [
        {"text": "one", "s": "x", "i": 2**62, "f": 0.1, "b": True, "n": None, "l": [1, 2], "o": {"k": {"d": "v"}}},
        {"text": "two", "s": "", "i": -1, "f": 1e300, "b": False, "n": None, "l": [], "o": {"other": [None, 1.5]}},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    given = api.settled(api.upload([("keep_fields", name) for name in "sifbnlo"], content=content))
    assert given["validation_status"] == "validated", given
    result = api.dataset(api.ended(api.start(given["id"], embedding_types=list(TYPES)))["output_dataset_id"])
    for dataset in (given, result):
        raw = download(dataset["dataset_parts"][0]["url"])
        reader = fastavro.reader(io.BytesIO(raw))
        records = [dict(record) for record in reader]
        assert reader.metadata.get("avro.codec", "null") in {"null", "deflate"}
        for schema in (reader.writer_schema, json.loads(dataset["schema"])):
            words = set(avro_words(schema))
            assert words <= {"string", "long", "int", "double", "float", "boolean", "array", "map", "record", "null"}
        json.dumps(records)
        found = [without(record, "embeddings") for record in records]
        assert [json.dumps(row, sort_keys=True) for row in found] == [json.dumps(row, sort_keys=True) for row in rows]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([1, 2.5], id="5-integers-and-floats"),
        pytest.param([1, "one"], id="5-numbers-and-strings"),
        pytest.param([True, 1], id="5-booleans-and-numbers"),
        pytest.param([None, "one"], id="5-null-and-strings"),
        pytest.param([{"a": 1}, {"b": "c"}], id="5-objects-of-different-fields"),
        pytest.param([[1], ["one"]], id="5-arrays-of-different-kinds"),
        pytest.param([[1], {"a": 1}], id="5-arrays-and-objects"),
    ],
)
def test_metadata_of_changing_types_comes_out_with_the_same_values(api: Api, values: list[Any]) -> None:
    content = "".join(json.dumps({"text": "t", "m": value}) + "\n" for value in values).encode()
    dataset = api.settled(api.upload([("keep_fields", "m")], content=content))
    assert dataset["validation_status"] == "validated", dataset
    assert [row["m"] for row in api.records(dataset)] == values


def test_every_record_has_all_five_forms_and_null_where_none_was_asked_for(api: Api) -> None:
    given = api.settled(api.upload([("keep_fields", "a"), ("optional_fields", "c")]))
    result = api.dataset(api.ended(api.start(given["id"], embedding_types=["float"]))["output_dataset_id"])
    records = api.records(result)
    plain = right(api.http.post("/v1/embed", json={**V1, "input_type": "search_document"}))["embeddings"]
    assert [list(record) for record in records] == [["text", "embeddings", "a", "c"]] * 2
    assert [record["embeddings"].keys() for record in records] == [dict.fromkeys(TYPES).keys()] * 2
    np.testing.assert_allclose([record["embeddings"]["float"] for record in records], plain, rtol=0, atol=1e-6)
    assert [[record["embeddings"][name] for name in TYPES[1:]] for record in records] == [[None] * 4] * 2
    assert [(record["a"], record["c"]) for record in records] == [(1, None), (2, 0.5)]


def test_rows_come_out_in_the_order_of_the_upload_part_after_part(api: Api) -> None:
    count = 5000
    content = b"".join(b'{"text": "%s", "id": %d}\n' % (b"x" * (number % 97 + 1), number) for number in range(count))
    given = api.settled(api.upload([("keep_fields", "id")], content=content))
    result = api.dataset(api.ended(api.start(given["id"]))["output_dataset_id"])
    for dataset in (given, result):
        assert [record["id"] for record in api.records(dataset)] == list(range(count))
        parts = dataset["dataset_parts"]
        assert [part["index"] for part in parts] == list(range(len(parts)))
        assert sum(part["num_rows"] for part in parts) == count


def test_a_dataset_of_many_parts_lists_them_in_the_order_of_its_rows(idle: Idle) -> None:
    id = idle.api.upload()
    queued = idle.store.next_to_validate()
    assert queued is not None
    assert queued.id == id
    schema = json.dumps({"type": "record", "name": "row", "fields": [{"name": "text", "type": "string"}]})
    texts = [f"row {number}" for number in range(6000)]
    with PartWriter(idle.store.folder_of(id), "data", schema, part_bytes=1) as writer:  # a part for each block
        for text in texts:
            writer.append({"text": text})
        idle.store.validated(id, parts=writer.close(), schema=schema, warnings=())
    listed = right(idle.api.http.get("/v1/datasets"))["datasets"][0]
    for dataset in (idle.api.dataset(id), listed):
        parts = dataset["dataset_parts"]
        assert len(parts) > 10
        assert [part["index"] for part in parts] == list(range(len(parts)))
        assert len({part["id"] for part in parts}) == len({part["name"] for part in parts}) == len(parts)
        found = [row["text"] for part in parts for row in avro(idle.api.http.get(part["url"]).content)]
        assert found == texts


# --- 6: validation ---


@pytest.mark.parametrize(
    "query, file, content, message",
    [
        pytest.param(
            "keep_fields=c",
            "data.jsonl",
            ROWS,
            r"required field c was not f\w+ in the dataset \(line: 1\)",
            id="6-kept-field-missing",
        ),
        pytest.param(
            "",
            "data.jsonl",
            b'{"text": "one"}\n{"other": 1}\n',
            r"required field text was not f\w+ in the dataset \(line: 2\)",
            id="6-text-missing",
        ),
        pytest.param(
            "keep_fields=title",
            "data.csv",
            b"text,other\none,1\n",
            r"csv files must have a header with the required fields: \[text, title\]",
            id="6-csv-header",
        ),
        pytest.param(
            "", "data.csv", b"a,b\none,1\n", r"must have a header with the required fields: \[text\]", id="6-csv-text"
        ),
        pytest.param(
            "", "data.jsonl", b'{"text": ""}\n', "None of the rows in the file can be empty", id="6-empty-text"
        ),
        pytest.param("", "data.csv", b"text,a\n,1\n", "None of the rows in the file can be empty", id="6-csv-empty"),
        pytest.param("", "data.jsonl", b"", "None of the rows in the file can be empty", id="6-empty-file"),
        pytest.param("", "data.csv", b"text\n", "rows", id="6-csv-header-alone"),
        pytest.param("", "data.jsonl", b'{"text": 3}\n', r"text.*\(line: 1\)", id="6-text-no-string"),
        pytest.param("", "data.jsonl", b'["one"]\n', r"object.*\(line: 1\)|JSON", id="6-no-object"),
        pytest.param("", "data.jsonl", b'{"text": "one"\n', r"JSON.*\(line: 1\)", id="6-broken-json"),
        pytest.param("", "data.jsonl", b'{"text": "\xff"}\n', r"UTF-8.*\(line: 1\)", id="6-no-utf-8"),
        pytest.param("", "data.jsonl", b"text,a\none,1\n", "file contents have to match", id="6-csv-called-jsonl"),
        pytest.param("", "data.csv", ROWS, "file contents have to match", id="6-jsonl-called-csv"),
    ],
)
def test_a_file_that_is_not_right_fails_with_the_reason(
    api: Api, query: str, file: str, content: bytes, message: str
) -> None:
    answer = api.http.post(f"/v1/datasets?name=n&type=embed-input&{query}", files={"data": (file, content)})
    dataset = api.settled(right(answer)["id"])
    assert dataset["validation_status"] == "failed"
    assert re.search(message, dataset["validation_error"]), dataset["validation_error"]


# --- 7: limits ---


def test_an_upload_beyond_the_cap_is_too_large(fresh: Api) -> None:
    right(fresh.create(content=ROWS))
    assert re.search("limit|larger", wrong(fresh.create(content=ROWS * 400), 413))
    form = b'--x\r\nContent-Disposition: form-data; name="data"; filename="data.jsonl"\r\n\r\n'
    answer = fresh.http.post(
        "/v1/datasets",
        params=list(NAMED),
        content=iter([form, *[ROWS] * 400]),  # of a length that is not told beforehand
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert re.search("limit|larger", wrong(answer, 413))
    assert len(right(fresh.http.get("/v1/datasets"))["datasets"]) == 1


def test_a_full_store_has_exceeded_its_capacity_until_something_is_deleted(fresh: Api) -> None:
    content = b"".join(b'{"text": "%d %s"}\n' % (number, b"x" * 60) for number in range(200))
    ids = []
    for _ in range(20):
        answer = fresh.create(content=content)
        if answer.status_code != 200:
            break
        ids.append(fresh.settled(answer.json()["id"])["id"])
    assert wrong(answer, 400).startswith("exceeded capacity")
    assert ids
    for id in ids:
        right(fresh.http.delete(f"/v1/datasets/{id}"))
    right(fresh.create(content=content))


def check_wait(response: httpx.Response) -> None:
    wrong(response, 429)
    assert re.fullmatch("[0-9]+", response.headers["retry-after"])
    assert 1 <= int(response.headers["retry-after"]) <= 60


def test_a_full_queue_of_jobs_says_when_to_come_back(held: Held) -> None:
    api = held.api
    id = api.settled(api.upload())["id"]
    for _ in range(2):
        api.start(id)
    check_wait(api.http.post("/v1/embed-jobs", json={**JOB, "dataset_id": id}))
    held.gate.set()


def test_a_full_queue_of_datasets_says_when_to_come_back(idle: Idle) -> None:
    for _ in range(3):
        right(idle.api.create())
    check_wait(idle.api.create())


# --- 8: errors ---


@pytest.mark.parametrize(
    "method, path, statuses",
    [
        pytest.param("GET", "/", {404}, id="8-404-root"),
        pytest.param("GET", "/v1/nothing", {404}, id="8-404-path"),
        pytest.param("GET", "/v1/v1/datasets", {404}, id="1-404-v1-twice"),
        pytest.param("PUT", "/v1/datasets", {405}, id="8-405-put"),
        pytest.param("POST", "/v1/datasets/x", {405}, id="8-405-post"),
        pytest.param("DELETE", "/v1/embed-jobs/x", {405}, id="8-405-delete"),
        pytest.param("GET", "/v1/embed", {405}, id="8-405-get"),
        pytest.param("GET", "/v1/models/xyz", {404}, id="8-404-model"),
        pytest.param("POST", "/v1/chat", {404}, id="8-404-another-product"),
    ],
)
def test_every_refusal_has_a_message_and_an_id(api: Api, method: str, path: str, statuses: set[int]) -> None:
    first, second = (api.http.request(method, path) for _ in range(2))
    wrong(first, *statuses)
    assert first.json()["id"] != second.json()["id"]


@pytest.mark.parametrize("path", ["/v1/embed-jobs", "/v1/embed", "/v2/embed"], ids=lambda path: f"8-{path}")
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff", b'{"texts": "' + b"[" * 100_000],
    ids=["empty", "broken", "array", "null", "string", "no-utf-8", "deep"],
)
def test_a_body_that_is_no_json_object_is_refused(api: Api, path: str, content: bytes) -> None:
    wrong(api.http.post(path, content=content, headers={"Content-Type": "application/json"}), 400, 422)


# --- aliases ---


@pytest.mark.parametrize("prefix", ["", "/v1", "/v2"], ids=["1-no-prefix-of-sdk-5.0", "1-v1", "1-v2-of-the-guide"])
def test_datasets_and_jobs_are_there_under_every_prefix(api: Api, prefix: str) -> None:
    http = api.http
    id = right(http.post(f"{prefix}/datasets", params=list(NAMED), files={"data": ("data.jsonl", ROWS)}))["id"]
    api.settled(id)
    assert right(http.get(f"{prefix}/datasets/{id}"))["dataset"]["id"] == id
    assert id in [one["id"] for one in right(http.get(f"{prefix}/datasets"))["datasets"]]
    assert right(http.get(f"{prefix}/datasets/usage")).keys() == {"organization_usage"}
    job = right(http.post(f"{prefix}/embed-jobs", json={**JOB, "dataset_id": id}))["job_id"]
    assert api.ended(job)["status"] == "complete"
    assert right(http.get(f"{prefix}/embed-jobs/{job}"))["job_id"] == job
    assert job in [one["job_id"] for one in right(http.get(f"{prefix}/embed-jobs"))["embed_jobs"]]
    assert http.post(f"{prefix}/embed-jobs/{job}/cancel").status_code in {200, 204}
    assert right(http.delete(f"{prefix}/datasets/{id}")) == {}

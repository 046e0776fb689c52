"""The calls on datasets, jobs and parts, and how each is refused: real sockets, the whole service, fake models."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fastavro
import httpx
import pytest
from embedjobs_fakes import CountingModel
from embedjobs_service import ROWS, InThread, eventually, in_thread, right

from connector.embedjobs.bodies import JSON_BYTES
from connector.embedjobs.links import LIFE_SECONDS

NAMED = {"name": "sample", "type": "embed-input"}
JOB = {"model": "hash", "input_type": "search_document"}
ALIAS = "embed-english-v3.0"
KEY = "the key of the tests"
NO_MODEL = "a model parameter is required for this endpoint."
BAD_INPUT_TYPE = "valid input_type must be provided with the provided model"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InThread]:
    """A service for tests that do not mind what else is in it."""
    with in_thread(tmp_path_factory.mktemp("shared"), api_key=KEY, aliases={ALIAS: "hash"}) as service:
        yield service


@pytest.fixture(scope="module")
def http(shared: InThread) -> httpx.Client:
    return shared.client()


@pytest.fixture(scope="module")
def ready(shared: InThread) -> str:
    """The id of a dataset that is validated."""
    id = shared.upload(keep_fields="id")
    assert shared.settled(id)["validation_status"] == "validated"
    return id


@pytest.fixture(scope="module")
def result(shared: InThread, ready: str) -> dict[str, Any]:
    """The result of a job on it."""
    return shared.settled(shared.ended(shared.start(ready))["output_dataset_id"])


def refused(answer: httpx.Response, status: int, message: str) -> None:
    """Check a refusal: its status, all of its message, and that the id is the request's."""
    assert (answer.status_code, answer.json()["message"]) == (status, message)
    assert answer.json() == {"message": message, "id": answer.headers["x-request-id"]}
    assert answer.headers["content-type"] == "application/json"


# --- datasets ---------------------------------------------------------------------------------------


def test_a_dataset_is_told_in_full_when_it_is_validated(shared: InThread) -> None:
    id = shared.upload(
        b'{"text": "one", "a": 1}\n', name="Sample_File", keep_fields=["a"], optional_fields=["b"], text_separator="\n"
    )
    assert re.fullmatch(r"sample-file-[a-z0-9]{6}", id)
    dataset = shared.settled(id)
    (part,) = dataset["dataset_parts"]
    assert {name: dataset[name] for name in dataset if name not in ("created_at", "updated_at", "schema")} == {
        "id": id,
        "name": "Sample_File",
        "dataset_type": "embed-input",
        "validation_status": "validated",
        "validation_warnings": [],
        "required_fields": ["text"],
        "preserve_fields": ["a", "b"],
        "dataset_parts": [part],
    }
    assert TIME.fullmatch(dataset["created_at"])
    assert TIME.fullmatch(dataset["updated_at"])
    assert [field["name"] for field in json.loads(dataset["schema"])["fields"]][:1] == ["text"]
    assert part["url"].startswith(f"{shared.url}/parts/{id}/{part['name']}?exp=")
    assert (part["index"], part["num_rows"]) == (0, 1)
    assert part["size_bytes"] == len(httpx.get(part["url"]).content)
    assert [json.loads(sample)["text"] for sample in part["samples"]] == ["one"]
    assert "original_url" not in part


def test_a_dataset_has_no_parts_and_no_schema_before_it_is_validated(shared: InThread) -> None:
    id = shared.upload(b"no json\n")
    assert shared.client().get(f"/v1/datasets/{id}").json()["dataset"]["validation_status"] in (
        "queued",
        "processing",
        "failed",
    )
    dataset = shared.settled(id)
    assert dataset["validation_status"] == "failed"
    assert "line: 1" in dataset["validation_error"]
    assert not {"dataset_parts", "schema"} & dataset.keys()


def test_the_result_of_a_job_is_a_dataset_like_others(shared: InThread, result: Mapping[str, Any]) -> None:
    assert result["dataset_type"] == "embed-result"
    assert result["name"] == "embeded-sample"
    assert re.fullmatch(r"embeded-sample-[a-z0-9]{6}", result["id"])
    assert (result["required_fields"], result["preserve_fields"]) == (["text"], ["id"])
    content = b"".join(httpx.get(part["url"]).content for part in result["dataset_parts"])
    rows: list[Any] = list(fastavro.reader(io.BytesIO(content)))
    assert [(row["text"], row["id"]) for row in rows] == [("one", 1), ("two", 2), ("three", 3)]


@pytest.mark.parametrize(
    "options, status, message",
    [
        ({"name": None}, 400, "name must be set"),
        ({"name": ""}, 400, "name must be set"),
        ({"name": "n" * 50}, 400, "name must be less than 50 characters"),
        ({"type": None}, 400, "type must be set"),
        ({"name": None, "type": None}, 400, "name must be set; type must be set"),
        ({"type": "nonsense"}, 400, "dataset type is invalid: this service takes embed-input"),
        ({"type": "embed-result"}, 400, "output dataset types are not supported for upload"),
        ({"csv_delimiter": ""}, 400, "invalid csv delimiter: it must be exactly one character, and no quote"),
        ({"csv_delimiter": ";;"}, 400, "invalid csv delimiter: it must be exactly one character, and no quote"),
        ({"csv_delimiter": '"'}, 400, "invalid csv delimiter: it must be exactly one character, and no quote"),
        ({"csv_delimiter": "\n"}, 400, "invalid csv delimiter: it must be exactly one character, and no quote"),
        (
            {"skip_malformed_input": "perhaps"},
            422,
            "skip_malformed_input: input should be a valid boolean, unable to interpret input",
        ),
    ],
)
def test_an_upload_with_wrong_options_is_refused(
    http: httpx.Client, options: Mapping[str, str | None], status: int, message: str
) -> None:
    params = {name: value for name, value in (NAMED | dict(options)).items() if value is not None}
    refused(http.post("/v1/datasets", params=params, files={"data": ("data.jsonl", ROWS)}), status, message)


def test_a_field_that_a_result_has_itself_cannot_be_kept(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/datasets", params=NAMED | {"keep_fields": "embeddings"}, files={"data": ("data.jsonl", ROWS)}
    )
    assert answer.status_code == 400
    assert "embeddings" in answer.json()["message"]


def test_a_name_of_49_characters_and_a_dry_run_are_taken(shared: InThread) -> None:
    id = shared.upload(name="ü" * 49, dry_run=True, csv_delimiter="\t")
    assert shared.settled(id)["name"] == "ü" * 49


def test_the_original_can_be_had_when_it_is_kept(shared: InThread) -> None:
    content = b"title;text\nA;one\n"
    id = shared.upload(content, file="rows.csv", csv_delimiter=";", keep_original_file=True)
    (part,) = shared.settled(id)["dataset_parts"]
    assert httpx.get(part["original_url"]).content == content


@pytest.mark.parametrize("prefix", ["", "/v2"])
def test_old_and_new_addresses_lead_to_the_same(
    http: httpx.Client, ready: str, result: Mapping[str, Any], prefix: str
) -> None:
    created = right(http.post(f"{prefix}/datasets", params=NAMED, files={"file": ("data.jsonl", ROWS)}))
    for address in (f"/datasets/{ready}", "/datasets/usage", "/embed-jobs", f"/datasets/{created['id']}"):
        old, new = http.get(prefix + address), http.get(f"/v1{address}")
        assert set(right(old)) == set(right(new))
    assert right(http.delete(f"{prefix}/datasets/{created['id']}")) == {}
    job = right(http.post(f"{prefix}/embed-jobs", json=JOB | {"dataset_id": ready}))
    assert right(http.post(f"{prefix}/embed-jobs/{job['job_id']}/cancel")) == {}


def test_datasets_are_listed_newest_first_and_by_what_is_asked(tmp_path: Path) -> None:
    times = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=days) for days in range(10_000))
    lock = threading.Lock()

    def now() -> datetime:
        with lock:
            return next(times)

    with in_thread(tmp_path, now=now, retention_days=36_500) as service:
        ids = [service.upload(name=f"n{number}") for number in range(4)]
        failed = service.upload(b"no json\n")
        made = [service.settled(id)["created_at"] for id in ids]
        service.settled(failed)
        http = service.client()

        def listed(query: str) -> list[str]:
            return [dataset["id"] for dataset in right(http.get(f"/v1/datasets?{query}"))["datasets"]]

        everything = [failed, *reversed(ids)]
        assert listed("") == everything
        for query, expected in {
            "datasetType=embed-input": everything,
            "datasetType=embed-result": [],
            "dataset_type=embed-result": [],
            "datasetType=nonsense": [],
            "validationStatus=failed": [failed],
            "validation_status=failed": [failed],
            "validationStatus=validated&limit=2": everything[1:3],
            "limit=2": everything[:2],
            "limit=2.0&offset=1.0": everything[1:3],
            "limit=0": [],
            "offset=4": everything[4:],
            "offset=999999999999999999999999": [],
            "limit=1e300": everything,
            f"after={made[1]}": [failed, ids[3], ids[2]],
            f"before={made[1]}": [ids[0]],
            f"before={made[1].replace('Z', '%2B00:00')}": [ids[0]],
            f"before={made[1].replace('Z', '')}": [ids[0]],
            f"after={made[0]}&before={made[3]}": [ids[2], ids[1]],
            "before=0001-01-01T00:00:00Z": [],
            "before=9999-12-31T23:59:59.999999Z": everything,
        }.items():
            assert listed(query) == expected, query


@pytest.mark.parametrize(
    "query, message",
    [
        ("limit=-1", "limit: input should be greater than or equal to 0"),
        ("limit=1.5", "limit: should be a whole number"),
        ("offset=1e-42", "offset: should be a whole number"),
        ("limit=nan", "limit: input should be a finite number"),
        ("limit=inf", "limit: input should be a finite number"),
        ("limit=1e999", "limit: input should be a finite number"),
        ("offset=x", "offset: input should be a valid number, unable to parse string as a number"),
        ("before=0.5", "before: should be a time as in 2026-11-22T18:54:00Z"),
        ("after=1768272487", "after: should be a time as in 2026-11-22T18:54:00Z"),
        ("after=", "after: should be a time as in 2026-11-22T18:54:00Z"),
        ("before=0001-01-01T00:00:00%2B23:59", "before: should be a time between the years 1 and 9999, in UTC"),
        ("after=9999-12-31T23:59:59-23:59", "after: should be a time between the years 1 and 9999, in UTC"),
        (
            "limit=-1&offset=-1",
            "limit: input should be greater than or equal to 0; offset: input should be greater than or equal to 0",
        ),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_in_a_line(http: httpx.Client, query: str, message: str) -> None:
    refused(http.get(f"/v1/datasets?{query}"), 422, message)


def test_what_is_stored_is_counted(tmp_path: Path) -> None:
    with in_thread(tmp_path) as service:
        http = service.client()
        assert right(http.get("/v1/datasets/usage")) == {"organization_usage": 0}
        dataset = service.settled(service.upload())
        size_bytes = dataset["dataset_parts"][0]["size_bytes"]
        assert right(http.get("/v1/datasets/usage")) == {"organization_usage": size_bytes}


def test_a_dataset_is_deleted_with_its_files_and_links(shared: InThread, http: httpx.Client) -> None:
    id = shared.upload()
    (part,) = shared.settled(id)["dataset_parts"]
    answer = http.delete(f"/v1/datasets/{id}")
    assert (answer.status_code, answer.content) == (200, b"{}")
    for gone in (http.get(f"/v1/datasets/{id}"), http.delete(f"/v1/datasets/{id}"), httpx.get(part["url"])):
        refused(gone, 404, f"dataset with the id '{id}' not found")
    assert not (shared.folder / "datasets" / id).exists()


@pytest.mark.parametrize("id", ["nope", "%00", "..", "a%2Fb", "%F0%9F%98%80", "x" * 5000, "%FF"])
def test_a_dataset_that_is_not_there_is_not_found(http: httpx.Client, id: str) -> None:
    for method in ("GET", "DELETE"):
        assert http.request(method, f"/v1/datasets/{id}").status_code in (404, 405)


def test_a_full_store_refuses_in_the_hosted_services_words(tmp_path: Path) -> None:
    with in_thread(tmp_path, max_storage_bytes=10) as service:
        answer = service.client().post("/v1/datasets", params=NAMED, files={"data": ("data.jsonl", ROWS)})
        assert answer.status_code == 400
        assert answer.json()["message"].startswith("exceeded capacity")
        assert list((service.folder / "uploads").iterdir()) == []


def test_a_full_queue_of_uploads_asks_to_come_back_before_the_file_is_read(tmp_path: Path) -> None:
    with in_thread(tmp_path, max_queued_datasets=1) as service:
        service.service.workers.stop()
        service.upload()
        answer = service.client().post("/v1/datasets", params=NAMED, files={"data": ("data.jsonl", b"x" * 1_000_000)})
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert answer.headers["connection"] == "close"


# --- jobs -------------------------------------------------------------------------------------------


def test_a_job_is_told_in_full(shared: InThread, ready: str) -> None:
    id = shared.start(ready, name="mine", truncate="START", embedding_types=["int8", "float", "int8"])
    job = shared.ended(id)
    assert TIME.fullmatch(job.pop("created_at"))
    output = job.pop("output_dataset_id")
    tokens = job["meta"]["billed_units"]["input_tokens"]
    assert tokens > 0
    assert job == {
        "job_id": id,
        "name": "mine",
        "status": "complete",
        "input_dataset_id": ready,
        "model": "hash",
        "requested_model": "hash",
        "truncate": "START",
        "percent_complete": 100,
        "meta": {"api_version": {"version": "1"}, "billed_units": {"input_tokens": tokens}},
    }
    rows: list[Any] = list(
        fastavro.reader(io.BytesIO(httpx.get(shared.settled(output)["dataset_parts"][0]["url"]).content))
    )
    assert [name for name, vector in rows[0]["embeddings"].items() if vector] == ["float", "int8"]


def test_an_alias_is_said_to_be_one_wherever_it_could_mislead(shared: InThread, http: httpx.Client, ready: str) -> None:
    warning = f"{ALIAS} is an alias of this service: the vectors are those of hash, and fit no others"
    created = http.post("/v1/embed-jobs", json=JOB | {"model": ALIAS, "dataset_id": ready})
    assert created.headers["X-API-Warning"] == warning
    assert right(created)["meta"]["warnings"] == [warning]
    found = http.get(f"/v1/embed-jobs/{created.json()['job_id']}")
    assert found.headers["X-API-Warning"] == warning
    job = right(found)
    assert (job["model"], job["requested_model"], job["meta"]["warnings"]) == ("hash", ALIAS, [warning])
    plain = http.post("/v1/embed-jobs", json=JOB | {"dataset_id": ready})
    assert "X-API-Warning" not in plain.headers
    assert "warnings" not in right(plain)["meta"]


def test_a_job_that_is_under_way_has_no_result_and_is_cancelled_once_and_again(tmp_path: Path) -> None:
    gate = threading.Event()
    model = CountingModel(gate=gate)
    with in_thread(tmp_path, models=[model]) as service:
        dataset = service.upload()
        service.settled(dataset)
        id = service.start(dataset)
        http = service.client()
        assert model.entered.wait(30)
        job = right(http.get(f"/v1/embed-jobs/{id}"))
        assert (job["status"], job["percent_complete"]) == ("processing", 0)
        assert "output_dataset_id" not in job
        assert "error" not in job
        refusal = http.delete(f"/v1/datasets/{dataset}")
        assert refusal.status_code == 400
        assert id in refusal.json()["message"]
        for _ in range(2):
            assert right(http.post(f"/v1/embed-jobs/{id}/cancel")) == {}
        assert right(http.get(f"/v1/embed-jobs/{id}"))["status"] == "cancelling"
        gate.set()
        assert service.ended(id)["status"] == "cancelled"
        assert right(http.post(f"/v1/embed-jobs/{id}/cancel")) == {}
        assert "output_dataset_id" not in right(http.get(f"/v1/embed-jobs/{id}"))


def test_a_job_that_is_complete_stays_so_when_it_is_cancelled(shared: InThread, ready: str) -> None:
    id = shared.start(ready)
    shared.ended(id)
    assert right(shared.client().post(f"/v1/embed-jobs/{id}/cancel")) == {}
    assert shared.ended(id)["status"] == "complete"


def test_a_job_that_fails_says_why(tmp_path: Path) -> None:
    model = CountingModel()
    model.failures.append(RuntimeError("a bug of the model"))
    with in_thread(tmp_path, models=[model]) as service:
        dataset = service.upload()
        service.settled(dataset)
        job = service.ended(service.start(dataset))
        assert job["status"] == "failed"
        assert job["error"]
        assert "a bug of the model" not in json.dumps(job)


def test_jobs_are_listed_newest_first(shared: InThread, http: httpx.Client, ready: str) -> None:
    ids = [shared.start(ready) for _ in range(3)]
    listed = [job["job_id"] for job in right(http.get("/v1/embed-jobs"))["embed_jobs"]]
    assert listed[:3] == ids[::-1]


def test_old_clients_name_the_dataset_otherwise(http: httpx.Client, ready: str) -> None:
    right(http.post("/v1/embed-jobs", json=JOB | {"input_dataset_id": ready}))


def test_what_is_null_or_unknown_in_a_job_is_as_if_it_were_not_there(
    shared: InThread, http: httpx.Client, ready: str
) -> None:
    asked = JOB | {"dataset_id": ready, "name": None, "truncate": None, "embedding_types": None, "priority": 1}
    job = shared.ended(right(http.post("/v1/embed-jobs", json=asked))["job_id"])
    assert job["truncate"] == "END"
    assert "name" not in job


@pytest.mark.parametrize(
    "changes, status, message",
    [
        ({"model": None}, 400, NO_MODEL),
        ({"model": ""}, 400, NO_MODEL),
        ({"input_type": None}, 400, BAD_INPUT_TYPE),
        ({"input_type": "image"}, 400, BAD_INPUT_TYPE),
        ({"input_type": 7}, 400, BAD_INPUT_TYPE),
        ({"dataset_id": None}, 422, "dataset_id: is missing"),
        ({"dataset_id": 7}, 422, "dataset_id: input should be a valid string"),
        ({"dataset_id": "nope"}, 404, "dataset with id nope not found"),
        ({"dataset_id": "\x00"}, 404, "dataset with id \x00 not found"),
        ({"truncate": "NONE"}, 422, "truncate: input should be 'START' or 'END'"),
        ({"truncate": "start"}, 422, "truncate: input should be 'START' or 'END'"),
        (
            {"embedding_types": ["float", "base64"]},
            422,
            "embedding_types.1: input should be 'float', 'int8', 'uint8', 'binary' or 'ubinary'",
        ),
        ({"embedding_types": "float"}, 422, "embedding_types: input should be a valid list"),
        ({"name": "n" * 256}, 422, "name: string should have at most 255 characters"),
        (
            {"model": None, "input_type": None},
            400,
            f"{NO_MODEL.removesuffix('.')}; {BAD_INPUT_TYPE}",
        ),
    ],
)
def test_a_job_with_wrong_options_is_refused(
    http: httpx.Client, ready: str, changes: Mapping[str, Any], status: int, message: str
) -> None:
    asked = {name: value for name, value in (JOB | {"dataset_id": ready} | dict(changes)).items() if value is not None}
    refused(http.post("/v1/embed-jobs", json=asked), status, message)


def test_a_model_that_is_not_there_is_not_found(http: httpx.Client, ready: str) -> None:
    answer = http.post("/v1/embed-jobs", json=JOB | {"model": "xyz", "dataset_id": ready})
    assert answer.status_code == 404
    assert answer.json()["message"].startswith(
        "model 'xyz' not found, make sure the correct model ID was used and that you have access to the model."
    )


def test_a_dataset_that_is_not_validated_or_a_result_gets_no_job(
    shared: InThread, http: httpx.Client, result: Mapping[str, Any]
) -> None:
    failed = shared.upload(b"no json\n")
    shared.settled(failed)
    answer = http.post("/v1/embed-jobs", json=JOB | {"dataset_id": failed})
    refused(answer, 400, f"dataset {failed} has validation status failed; an embed job takes a validated one")
    answer = http.post("/v1/embed-jobs", json=JOB | {"dataset_id": result["id"]})
    assert answer.status_code == 400


@pytest.mark.parametrize("call", ["", "/cancel"])
@pytest.mark.parametrize("id", ["nope", "%00"])
def test_a_job_that_is_not_there_is_not_found(http: httpx.Client, call: str, id: str) -> None:
    answer = http.request("POST" if call else "GET", f"/v1/embed-jobs/{id}{call}")
    shown = id.replace("%00", "\x00")
    refused(answer, 404, f"resource not found: could not find embed job with the ID: {shown}")


def test_a_full_queue_of_jobs_asks_to_come_back(tmp_path: Path) -> None:
    gate = threading.Event()
    with in_thread(tmp_path, models=[CountingModel(gate=gate)], max_open_jobs=1) as service:
        dataset = service.upload()
        service.settled(dataset)
        service.start(dataset)
        answer = service.client().post("/v1/embed-jobs", json=JOB | {"dataset_id": dataset})
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert answer.json()["id"] == answer.headers["X-Request-Id"]
        gate.set()


# --- links ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def link(result: Mapping[str, Any]) -> str:
    return str(result["dataset_parts"][0]["url"])


@pytest.fixture(scope="module")
def whole(link: str) -> bytes:
    return httpx.get(link).content


def test_a_part_is_sent_as_it_is_to_whoever_has_the_link(link: str, whole: bytes) -> None:
    answer = httpx.get(link, headers={"Accept-Encoding": "gzip, deflate"})
    assert answer.status_code == 200
    assert whole.startswith(b"Obj\x01")
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["cache-control"] == "private, no-transform"
    assert answer.headers["accept-ranges"] == "bytes"
    assert int(answer.headers["content-length"]) == len(whole)
    head = httpx.head(link)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(whole)


@pytest.mark.parametrize(
    "header, start, end",
    [
        ("bytes=0-9", 0, 10),
        ("bytes=5-", 5, None),
        ("bytes=-7", -7, None),
        ("bytes=0-0", 0, 1),
        ("bytes=3-999999999999999999", 3, None),
        ("bytes=-999999999999999999", 0, None),
    ],
)
def test_a_piece_of_a_part_is_sent(link: str, whole: bytes, header: str, start: int, end: int | None) -> None:
    answer = httpx.get(link, headers={"Range": header})
    assert answer.status_code == 206
    assert answer.content == whole[start:end]
    first, last = (start + len(whole) if start < 0 else start), (len(whole) if end is None else end) - 1
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(whole)}"
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize(
    "header", ["bytes=", "bytes=-", "bytes=a-b", "rows=1-2", "bytes=0-1,3-4", "bytes=9-3", "bytes=1-" + "9" * 50]
)
def test_a_range_that_is_not_understood_is_as_none(link: str, whole: bytes, header: str) -> None:
    answer = httpx.get(link, headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, whole)


@pytest.mark.parametrize("header", ["bytes=999999999-", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(link: str, whole: bytes, header: str) -> None:
    answer = httpx.get(link, headers={"Range": header})
    refused(answer, 416, f"the file has {len(whole)} bytes")
    assert answer.headers["content-range"] == f"bytes */{len(whole)}"


def test_a_download_goes_on_only_in_the_same_file(link: str, whole: bytes) -> None:
    tag = httpx.head(link).headers["etag"]
    assert httpx.get(link, headers={"Range": "bytes=5-", "If-Range": tag}).status_code == 206
    other = httpx.get(link, headers={"Range": "bytes=5-", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, whole)


def test_a_link_that_was_altered_is_refused(shared: InThread, link: str, ready: str) -> None:
    parts = urlsplit(link)
    query = dict(pair.split("=") for pair in parts.query.split("&"))
    _, _, dataset, file = parts.path.split("/")
    forged = "the link is incomplete or was altered; get the dataset again for a new one"
    expiry, signature = query["exp"], query["sig"]
    for path, changed in [
        (parts.path, {"exp": expiry, "sig": "0" * 64}),
        (parts.path, {"exp": expiry, "sig": signature[:-1]}),
        (parts.path, {"exp": expiry, "sig": signature.upper()}),
        (parts.path, {"exp": expiry, "sig": "ü"}),
        (parts.path, {"exp": str(int(expiry) + 1), "sig": signature}),
        (parts.path, {"exp": f"{expiry}.0", "sig": signature}),
        (parts.path, {"exp": "9" * 50, "sig": signature}),
        (parts.path, {"exp": expiry}),
        (parts.path, {"sig": signature}),
        (parts.path, {}),
        (f"/parts/{ready}/{file}", {"exp": expiry, "sig": signature}),
        (f"/parts/{dataset}/other.avro", {"exp": expiry, "sig": signature}),
    ]:
        refused(httpx.get(shared.url + path, params=changed), 403, forged)


def test_a_link_that_is_ours_leads_to_files_of_the_dataset_alone(tmp_path: Path) -> None:
    with in_thread(tmp_path) as service:
        id = service.upload()
        name = service.settled(id)["dataset_parts"][0]["name"]
        from connector.embedjobs.links import Links

        links = Links(service.store.url_key, now=lambda: datetime.now(UTC))
        assert httpx.get(links.make(service.url, id, name)).status_code == 200
        for file in ("original.jsonl", "..", "../../url-key", "nope"):
            assert httpx.get(links.make(service.url, id, file)).status_code in (403, 404), file


def test_a_link_expires_and_outlives_a_restart(tmp_path: Path) -> None:
    clock = [datetime(2026, 11, 22, 12, tzinfo=UTC)]
    with in_thread(tmp_path, now=lambda: clock[0]) as service:
        url = service.settled(service.upload())["dataset_parts"][0]["url"]
    with in_thread(tmp_path, now=lambda: clock[0]) as service:
        url = service.url + url[url.index("/parts/") :]
        clock[0] += timedelta(seconds=LIFE_SECONDS - 1)
        assert httpx.get(url).status_code == 200
        clock[0] += timedelta(seconds=1)
        refused(httpx.get(url), 403, "the link has expired; get the dataset again for a new one")


@pytest.mark.parametrize(
    "public_url", ["https://embed.example.com/under/this", "https://embed.example.com/under/this/"]
)
def test_links_begin_with_the_public_address(tmp_path: Path, public_url: str) -> None:
    with in_thread(tmp_path, public_url=public_url) as service:
        id = service.upload()
        url = service.settled(id)["dataset_parts"][0]["url"]
        assert url.startswith(f"https://embed.example.com/under/this/parts/{id}/")
        behind_the_proxy = url.replace("https://embed.example.com/under/this", service.url)
        assert httpx.get(behind_the_proxy).status_code == 200
        assert right(service.client().get("/openapi.json"))["servers"] == [{"url": public_url.rstrip("/")}]


def test_links_begin_with_what_the_client_called_us_by(tmp_path: Path) -> None:
    with in_thread(tmp_path) as service:
        id = service.upload()
        service.settled(id)
        named = service.client().get(
            f"/v1/datasets/{id}", headers={"Host": "embed.local:99", "X-Forwarded-Proto": "https"}
        )
        assert named.json()["dataset"]["dataset_parts"][0]["url"].startswith("https://embed.local:99/parts/")


# --- access -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_key_opens(shared: InThread, scheme: str) -> None:
    answer = httpx.get(f"{shared.url}/v1/datasets", headers={"Authorization": f"{scheme} {KEY}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", KEY, f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer x{KEY}", "Bearer ü"]
)
@pytest.mark.parametrize(
    "address", ["/v1/datasets", "/datasets", "/v2/embed-jobs", "/v1/embed", "/metrics", "/nope", "/", "/healthy"]
)
def test_nothing_else_does(shared: InThread, header: str | None, address: str) -> None:
    headers = {} if header is None else {"Authorization": header.encode()}
    answer = httpx.request("POST" if "embed" in address else "GET", f"{shared.url}{address}", headers=headers)
    refused(answer, 401, "invalid api token")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_two_keys_are_none(shared: InThread) -> None:
    headers = [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer other")]
    assert httpx.get(f"{shared.url}/v1/datasets", headers=headers).status_code == 401


@pytest.mark.parametrize("address", ["/health", "/ready", "/openapi.json", "/docs"])
def test_some_addresses_need_no_key(shared: InThread, address: str) -> None:
    assert httpx.get(shared.url + address).status_code == 200


def test_without_a_key_everything_is_open(tmp_path: Path) -> None:
    with in_thread(tmp_path) as service:
        for address in ("/v1/datasets", "/metrics"):
            assert httpx.get(service.url + address).status_code == 200
            assert httpx.get(service.url + address, headers={"Authorization": "Bearer any"}).status_code == 200


# --- other refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/nope", "/", "/v1", "/v1/datasets/", "/v3/datasets", "/v1/v1/datasets", "/%00"])
def test_an_address_that_is_not_there_is_not_found(http: httpx.Client, address: str) -> None:
    refused(http.get(address), 404, "there is nothing at this address; see /docs")


@pytest.mark.parametrize(
    "method, address, allowed",
    [
        ("PUT", "/v1/datasets", "GET, POST"),
        ("HEAD", "/v1/datasets", "GET, POST"),
        ("POST", "/v1/datasets/usage", "GET, DELETE"),
        ("PATCH", "/v1/datasets/x", "GET, DELETE"),
        ("DELETE", "/datasets", "GET, POST"),
        ("GET", "/v2/embed-jobs/x/cancel", "POST"),
        ("POST", "/parts/a/b", "GET, HEAD"),
        ("POST", "/health", "GET"),
        ("NONSENSE", "/v1/datasets", "GET, POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(http: httpx.Client, method: str, address: str, allowed: str) -> None:
    answer = http.request(method, address)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    if method != "HEAD":
        refused(answer, 405, f"{method} cannot be done here")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b'{"model": ',
        b"",
        b"[" * 100_000,
        b"1" * 5000,
        b"NaN",
        b'{"model": "\\ud800"}',
        b"null",
        b"[]",
    ],
)
def test_a_body_that_is_no_job_is_refused(http: httpx.Client, content: bytes) -> None:
    answer = http.post("/v1/embed-jobs", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json().keys() == {"message", "id"}


def test_a_body_of_another_type_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/embed-jobs", content=json.dumps(JOB), headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422
    assert JOB["model"] not in answer.json()["message"]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(http: httpx.Client, is_chunked: bool) -> None:
    content = b'{"model": "' + b"x" * JSON_BYTES + b'"}'
    sent: Any = iter([content[:100], content[100:]]) if is_chunked else content
    answer = http.post("/v1/embed-jobs", content=sent, headers={"Content-Type": "application/json"})
    refused(answer, 413, f"the request is larger than the limit of {JSON_BYTES} bytes; send less at a time")


def test_a_refusal_does_not_repeat_what_was_sent(http: httpx.Client) -> None:
    secret = "what the document says"
    for sent in ({"model": [secret]}, {"model": "hash", "embedding_types": [secret]}, [secret], secret):
        answer = http.post("/v1/embed-jobs", json=sent)
        assert answer.status_code in (400, 422)
        assert secret not in answer.text


def test_what_is_no_http_is_refused_in_json(shared: InThread) -> None:
    address = urlsplit(shared.url)
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=30) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, sent = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(sent).keys() == {"message", "id"}
    assert f"x-request-id: {json.loads(sent)['id']}".encode() in head


def test_a_bug_is_an_internal_error_with_its_trace_in_the_log_alone(tmp_path: Path) -> None:
    with in_thread(tmp_path) as service:
        http = service.client()
        http.get("/health")
        service.service.workers.stop()
        service.store.close()
        refused(http.get("/v1/datasets"), 500, "internal error")
        (line,) = service.lines("bug")
        seen = eventually(lambda: service.lines("request"))
        assert [(it["request_id"], it["status"]) for it in seen] == [(line["request_id"], 500)]
        assert "ProgrammingError" in line["trace"]
        assert "datasets.py" in line["trace"]
        refused(http.get("/health"), 503, "a thread of the service has ended; start the service anew")


# --- what is told about the service -----------------------------------------------------------------


def test_every_answer_has_an_id_of_its_own(http: httpx.Client) -> None:
    ids = [http.get(address).headers["x-request-id"] for address in ("/v1/datasets", "/nope", "/health", "/docs")]
    assert len(set(ids)) == len(ids)


def test_the_log_has_a_line_for_each_request_and_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    with in_thread(tmp_path, api_key="the-secret-key", aliases={ALIAS: "hash"}) as service:
        http = service.client()
        id = service.upload(b'{"text": "a secret of the document"}\n', name="a name", keep_fields=["text"])
        url = service.settled(id)["dataset_parts"][0]["url"]
        service.ended(service.start(id, model=ALIAS))
        httpx.get(url)
        service.client(key="a wrong secret").get("/v1/datasets")
        http.post("/v1/embed-jobs", json={"model": "a secret of the body"})
        http.get("/nope?q=a+secret+of+the+query")
        answer = http.get(f"/v1/datasets/{id}")
        eventually(lambda: [it for it in service.lines() if it.get("request_id") == answer.headers["x-request-id"]])
        lines, text = service.lines(), service.log.getvalue()
    (line,) = [it for it in lines if it.get("request_id") == answer.headers["x-request-id"]]
    assert line["event"] == "request"
    assert (line["method"], line["route"], line["status"]) == ("GET", "/datasets/{id}", 200)
    assert line["sent_bytes"] == len(answer.content)
    assert line["duration_ms"] >= 0
    assert {"started", "DatasetValidated", "JobStarted", "BlockEmbedded", "JobEnded"} <= {it["event"] for it in lines}
    signature = url.partition("sig=")[2]
    for secret in ("secret", signature, "Bearer"):
        assert secret not in text
    assert {it["level"] for it in lines} == {"info"}


def test_prometheus_is_told_what_was_done(tmp_path: Path) -> None:
    with in_thread(tmp_path) as service:
        id = service.upload()
        service.settled(id)
        job = service.ended(service.start(id))
        http = service.client()
        http.get("/v1/nope")
        http.request("NONSENSE", "/v1/datasets")
        text = http.get("/metrics").text
    tokens = job["meta"]["billed_units"]["input_tokens"]
    for line in (
        'embed_jobs_http_requests_total{method="POST",route="/datasets",status="200"} 1.0',
        'embed_jobs_http_requests_total{method="GET",route="none",status="404"} 1.0',
        'embed_jobs_http_requests_total{method="other",route="/datasets",status="405"} 1.0',
        'embed_jobs_http_request_duration_seconds_count{method="POST",route="/embed-jobs"} 1.0',
        "embed_jobs_embedded_rows_total 3.0",
        f"embed_jobs_embedded_tokens_total {float(tokens)}",
        'embed_jobs_datasets{status="validated",type="embed-input"} 1.0',
        'embed_jobs_datasets{status="validated",type="embed-result"} 1.0',
        'embed_jobs_jobs{status="complete"} 1.0',
        'embed_jobs_queue_length{queue="validation"} 0.0',
        'embed_jobs_queue_length{queue="embedding"} 0.0',
    ):
        assert line in text.splitlines(), line
    assert re.search(r"^embed_jobs_stored_bytes [1-9]", text, re.MULTILINE)


def test_the_openapi_document_has_every_call_and_how_it_is_refused(http: httpx.Client) -> None:
    document = right(http.get("/openapi.json"))
    calls = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert {
        "POST /v1/datasets",
        "GET /v1/datasets",
        "GET /v1/datasets/usage",
        "GET /v1/datasets/{id}",
        "DELETE /v1/datasets/{id}",
        "POST /v1/embed-jobs",
        "GET /v1/embed-jobs",
        "GET /v1/embed-jobs/{id}",
        "POST /v1/embed-jobs/{id}/cancel",
        "POST /v1/embed",
        "POST /v2/embed",
        "GET /parts/{dataset_id}/{file}",
        "GET /health",
        "GET /ready",
        "GET /metrics",
    } <= calls
    assert not [path for path in document["paths"] if path.startswith(("/v2/datasets", "/datasets", "/embed-jobs"))]
    operations = [call for methods in document["paths"].values() for call in methods.values()]
    names = [call["operationId"] for call in operations]
    assert len(set(names)) == len(names)
    failure = {"$ref": "#/components/schemas/Failure"}
    for call in operations:
        failures = {status: answer for status, answer in call["responses"].items() if status >= "4"}
        assert failures, call
        for answer in failures.values():
            assert answer["content"]["application/json"]["schema"] == failure, call["operationId"]
    assert "HTTPValidationError" not in json.dumps(document)
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    paths = document["paths"].items()
    open_paths = {path for path, methods in paths for call in methods.values() if not call["security"]}
    assert open_paths == {"/health", "/ready", "/parts/{dataset_id}/{file}", "/v1/tokenizers/{model}"}
    upload = document["paths"]["/v1/datasets"]["post"]
    assert set(upload["requestBody"]["content"]) == {"multipart/form-data"}
    assert {it["name"]: it["required"] for it in upload["parameters"]} == {
        "name": True,
        "type": True,
        "keep_fields": False,
        "optional_fields": False,
        "skip_malformed_input": False,
        "keep_original_file": False,
        "csv_delimiter": False,
        "text_separator": False,
        "dry_run": False,
    }


def test_a_service_without_a_key_declares_none(tmp_path: Path) -> None:
    with in_thread(tmp_path) as service:
        document = right(httpx.get(f"{service.url}/openapi.json"))
    assert "securitySchemes" not in document["components"]

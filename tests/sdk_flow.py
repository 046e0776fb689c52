"""What a user of Cohere's SDK does, in one process; `test_embedjobs_sdk.py` runs it for each version and client.

    python sdk_flow.py SCENE      a JSON file, see `Scene`

Every step is tried, whatever became of the one before; the report is {client and step: "" or its traceback}.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import inspect
import io
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cohere
import fastavro
import numpy as np
import pytest
import requests
from cohere.base_client import AsyncBaseCohere, BaseCohere
from cohere.core.api_error import ApiError
from cohere.utils import dataset_generator

MODEL = "embed-english-light-v3.0"
TYPES = ("float", "int8", "uint8", "binary", "ubinary")
KEEP, OPTIONAL = ["wiki_id", "url", "views", "title"], ["langs"]


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the services are, and what the guide's two rows should become."""

    version: str
    clients: Sequence[str]  # their classes: "AsyncClientV2"
    url: str
    key: str
    busy_url: str  # of a service that can take no more jobs, and needs no key
    busy_dataset_id: str
    folder: str  # empty, for files
    report: str
    rows: Sequence[dict[str, Any]]  # the guide's
    vectors: Sequence[Sequence[float]]


class User:
    """One client. The async ones are asked on a loop of their own, so that all four go the same way."""

    def __init__(self, scene: Scene, client: str) -> None:
        self.scene = scene
        self.client = client
        self.folder = Path(scene.folder)
        self.is_v2 = client.endswith("V2")
        self._loop = asyncio.new_event_loop()
        self.co = self.connect(scene.url, scene.key)
        self.texts = [row["text"] for row in scene.rows]
        self.jsonl = "".join(json.dumps(row) + "\n" for row in scene.rows).encode()

    def connect(self, url: str, key: str) -> Any:
        return getattr(cohere, self.client)(api_key=key, base_url=url)

    def ask(self, answer: Any) -> Any:
        return self._loop.run_until_complete(answer) if inspect.isawaitable(answer) else answer

    def wait(self, created: Any) -> Any:
        return self.ask(self.co.wait(created, timeout=120, interval=0.05))

    def upload(self, upload: Any, *, name: str = "sample_file", **options: Any) -> Any:
        return self.ask(self.co.datasets.create(name=name, type="embed-input", data=upload, **options))

    def embed(self, dataset_id: str, **options: Any) -> Any:
        """Run a job to its end, and look its result up."""
        created = self.ask(
            self.co.embed_jobs.create(dataset_id=dataset_id, model=MODEL, input_type="search_document", **options)
        )
        job = self.wait(created)
        assert (type(job).__name__, job.status, job.job_id) == ("EmbedJob", "complete", created.job_id)
        return job, self.ask(self.co.datasets.get(id=job.output_dataset_id)).dataset

    def refused(self, error: str, call: Callable[[], Any]) -> Any:
        with pytest.raises(getattr(cohere, error)) as caught:
            self.ask(call())
        assert isinstance(caught.value, ApiError)
        assert isinstance(caught.value.body, dict), caught.value.body
        return caught.value


class Stream:
    """Something to be read once, of unknown length."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._content.read(size)


def check_vectors(records: Sequence[Mapping[str, Any]], expected: Sequence[Sequence[float]]) -> None:
    """All five forms, as the wire contract has them (3.2)."""
    for record, wanted in zip(records, expected, strict=True):
        forms = record["embeddings"]
        assert list(forms) == list(TYPES)
        floats = np.asarray(forms["float"])
        np.testing.assert_allclose(floats, wanted, rtol=0, atol=1e-5)
        for name, low, high in (("int8", -128, 127), ("uint8", 0, 255), ("binary", -128, 127), ("ubinary", 0, 255)):
            assert all(type(value) is int and low <= value <= high for value in forms[name]), name
        assert len(forms["int8"]) == len(forms["uint8"]) == floats.size
        # One step of int8 is the same everywhere but at the ends, where it saturates; so is one of uint8.
        for name, middle in (("int8", 0), ("uint8", 128)):
            steps = np.asarray(forms[name]) - middle
            inside = np.abs(steps) < 120
            scale = steps[inside] @ floats[inside] / (floats[inside] @ floats[inside])
            assert np.abs(steps[inside] - scale * floats[inside]).max() <= 1, name
        bits = np.packbits(floats > 0)
        assert forms["ubinary"] == bits.tolist()
        assert forms["binary"] == (bits.astype(int) - 128).tolist()


def the_guide_runs_as_corrected(user: User) -> None:
    with (user.folder / "data.jsonl").open("wb") as file:
        file.write(user.jsonl)
    with (user.folder / "data.jsonl").open("rb") as file:
        created = user.upload(file, keep_fields=KEEP, optional_fields=OPTIONAL)
    ready = user.wait(created)
    assert type(ready).__name__ == "DatasetsGetResponse"
    given = ready.dataset
    assert (given.id, given.name, given.dataset_type) == (created.id, "sample_file", "embed-input")
    assert (given.validation_status, given.validation_error) == ("validated", None)
    assert given.validation_warnings == []
    assert given.required_fields == ["text"]
    assert given.preserve_fields == [*KEEP, *OPTIONAL]
    assert isinstance(given.created_at, datetime)
    assert isinstance(given.updated_at, datetime)

    job, result = user.embed(given.id, embedding_types=list(TYPES), truncate="END", name="the guide's")
    assert (job.name, job.input_dataset_id, job.truncate) == ("the guide's", given.id, "END")
    assert job.model in {MODEL, "all-MiniLM-L6-v2"}  # which answers
    assert isinstance(job.created_at, datetime)
    assert (result.dataset_type, result.validation_status) == ("embed-result", "validated")
    assert sum(part.num_rows for part in result.dataset_parts) == len(user.texts)
    assert [part.index for part in result.dataset_parts] == list(range(len(result.dataset_parts)))

    records = list(dataset_generator(result))
    assert [record["text"] for record in records] == user.texts
    for record, row in zip(records, user.scene.rows, strict=True):
        found = [record[name] for name in [*KEEP, *OPTIONAL]]
        wanted = [row.get(name) for name in [*KEEP, *OPTIONAL]]
        assert found == wanted
        assert list(map(type, found)) == list(map(type, wanted))
    assert all(record.keys() == {"text", "embeddings", *KEEP, *OPTIONAL} for record in records)
    check_vectors(records, user.scene.vectors)


def a_result_is_saved_in_each_format(user: User) -> None:
    ready = user.wait(user.upload(("data.jsonl", user.jsonl), keep_fields=KEEP, optional_fields=OPTIONAL))
    _, result = user.embed(ready.dataset.id, embedding_types=["float", "int8"])
    records = list(dataset_generator(result))
    assert [sorted(name for name, value in record["embeddings"].items() if value) for record in records] == [
        ["float", "int8"]
    ] * 2

    path = user.folder / "result.jsonl"
    user.co.utils.save_dataset(dataset=result, filepath=str(path), format="jsonl")
    assert [json.loads(line) for line in path.read_text().splitlines()] == records

    path = user.folder / "result.csv"
    user.co.utils.save_dataset(dataset=result, filepath=str(path), format="csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == user.texts
    assert [row["langs"] for row in rows] == ["38", ""]
    assert [row["wiki_id"] for row in rows] == ["69407798", "3524766"]

    path = user.folder / "result.avro"
    user.co.utils.save_dataset(dataset=result, filepath=str(path), format="avro")
    with path.open("rb") as file:
        assert list(fastavro.reader(file)) == records


def an_input_dataset_is_downloaded_as_it_was_uploaded(user: User) -> None:
    content = b'{"text": "The quick brown fox jumps over the lazy dog"}\n'
    ready = user.wait(user.upload(("one.jsonl", content)))
    path = user.folder / "input.jsonl"
    user.co.utils.save_dataset(dataset=ready.dataset, filepath=str(path), format="jsonl")
    assert path.read_bytes() == content  # as in Cohere's own live test


def a_csv_is_uploaded_as_bytes(user: User) -> None:
    written = io.StringIO()
    writer = csv.DictWriter(written, [*KEEP, "text", *OPTIONAL], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(user.scene.rows)
    ready = user.wait(
        user.upload(
            ("data.csv", written.getvalue().encode(), "text/csv"),
            keep_fields=KEEP,
            optional_fields=OPTIONAL,
            csv_delimiter=",",
        )
    )
    _, result = user.embed(ready.dataset.id, embedding_types=["float"], truncate="START")
    records = list(dataset_generator(result))
    assert [record["text"] for record in records] == user.texts
    assert [(record["url"], record["title"]) for record in records] == [
        (row["url"], row["title"]) for row in user.scene.rows
    ]
    for record, wanted in zip(records, user.scene.vectors, strict=True):
        np.testing.assert_allclose(record["embeddings"]["float"], wanted, rtol=0, atol=1e-5)
    assert [record["embeddings"]["int8"] for record in records] == [None, None]


def a_stream_of_unknown_length_is_uploaded_in_chunks(user: User) -> None:
    content = b"title;text\nA;one, two\nB;three\n"
    ready = user.wait(
        user.upload(
            ("rows.csv", Stream(content)),
            keep_fields="title",
            csv_delimiter=";",
            keep_original_file=True,
            text_separator="\n",
        )
    )
    rows = [(row["title"], row["text"]) for row in dataset_generator(ready.dataset)]
    assert rows == [("A", "one, two"), ("B", "three")]
    assert requests.get(ready.dataset.dataset_parts[0].original_url, timeout=30).content == content


def a_dataset_that_fails_makes_wait_raise_with_the_reason(user: User) -> None:
    created = user.upload(("data.jsonl", user.jsonl), keep_fields=["langs"])
    with pytest.raises(Exception, match="Dataset creation failed") as caught:  # the SDK raises a bare Exception
        user.wait(created)
    failed = user.ask(user.co.datasets.get(id=created.id)).dataset
    assert failed.validation_status == "failed"
    assert "langs" in failed.validation_error
    assert str(caught.value) == f"Dataset creation failed with status failed and error : {failed.validation_error}"
    refusal = user.refused(
        "BadRequestError",
        lambda: user.co.embed_jobs.create(dataset_id=created.id, model=MODEL, input_type="search_document"),
    )
    assert refusal.status_code == 400


def malformed_rows_are_left_out_on_request(user: User) -> None:
    content = b'{"text": "one"}\n{"text": \n{"text": "three"}\n'
    ready = user.wait(user.upload(("data.jsonl", content), skip_malformed_input=True))
    assert [row["text"] for row in dataset_generator(ready.dataset)] == ["one", "three"]
    assert len(ready.dataset.validation_warnings) == 1


def a_finished_job_is_listed_and_cancelled_without_harm(user: User) -> None:
    ready = user.wait(user.upload(("data.jsonl", user.jsonl)))
    job, result = user.embed(ready.dataset.id)
    listed = {one.job_id: one for one in user.ask(user.co.embed_jobs.list()).embed_jobs}
    assert listed[job.job_id].status == "complete"
    assert listed[job.job_id].output_dataset_id == result.id
    user.ask(user.co.embed_jobs.cancel(job.job_id))
    user.ask(user.co.embed_jobs.cancel(id=job.job_id))
    assert user.ask(user.co.embed_jobs.get(id=job.job_id)).status == "complete"


def datasets_are_listed_counted_and_deleted(user: User) -> None:
    co, ask = user.co, user.ask
    used = int(ask(co.datasets.get_usage()).organization_usage)
    first = user.wait(user.upload(("data.jsonl", user.jsonl), name="first of the list")).dataset
    second = user.wait(user.upload(("data.jsonl", user.jsonl), name="second of the list")).dataset
    assert int(ask(co.datasets.get_usage()).organization_usage) > used

    def ids(**filters: Any) -> list[str]:
        return [one.id for one in ask(co.datasets.list(**filters)).datasets or []]

    assert {first.id, second.id} <= set(ids())
    assert {first.id, second.id} <= set(ids(dataset_type="embed-input", validation_status="validated"))
    assert not {first.id, second.id} & set(ids(dataset_type="embed-result"))
    assert not {first.id, second.id} & set(ids(validation_status="failed"))
    assert len(ids(limit=1)) == 1
    assert ids(limit=1, offset=1) == ids()[1:2]
    moment = timedelta(microseconds=1)
    assert first.id in ids(before=second.created_at)
    assert first.id not in ids(after=first.created_at + moment)
    assert second.id in ids(after=first.created_at + moment)
    assert second.id not in ids(before=second.created_at - moment)

    for id in (first.id, second.id):
        assert ask(co.datasets.delete(id=id)) == {}
    refusal = user.refused("NotFoundError", lambda: co.datasets.get(id=first.id))
    assert refusal.body["message"] == f"dataset with the id '{first.id}' not found"
    refusal = user.refused("NotFoundError", lambda: co.datasets.delete(id=first.id))
    assert refusal.body["message"] == f"dataset with the id '{first.id}' not found"
    assert not {first.id, second.id} & set(ids())


def texts_are_embedded_at_once(user: User) -> None:
    texts = user.texts
    if user.is_v2:
        knows_base64 = "base64" in cohere.EmbedByTypeResponseEmbeddings.model_fields  # SDK 5.15 does not
        options = {"embedding_types": [*TYPES, "base64"] if knows_base64 else list(TYPES)}
    else:
        options = {"embedding_types": list(TYPES)}
        plain = user.ask(user.co.embed(texts=texts, model=MODEL, input_type="search_document"))
        assert plain.response_type == "embeddings_floats"
        assert plain.texts == texts
        assert plain.meta.billed_units.input_tokens > 0
        np.testing.assert_allclose(plain.embeddings, user.scene.vectors, rtol=0, atol=1e-5)
    unsaid = user.ask(
        user.co.embed(texts=texts, model=MODEL, input_type="search_query", truncate=None, embedding_types=None)
    )
    assert unsaid.texts == texts
    answer = user.ask(user.co.embed(texts=texts, model=MODEL, input_type="search_document", truncate="NONE", **options))
    assert isinstance(answer.id, str)
    assert answer.meta.api_version.version == ("2" if user.is_v2 else "1")
    forms = {name: getattr(answer.embeddings, name) for name in options["embedding_types"]}
    check_vectors(
        [{"embeddings": {name: forms[name][row] for name in TYPES}} for row in range(len(texts))], user.scene.vectors
    )
    if "base64" in forms:
        decoded = [np.frombuffer(base64.b64decode(one), "<f4") for one in forms["base64"]]
        np.testing.assert_allclose(decoded, user.scene.vectors, rtol=0, atol=1e-5)
    overlong = {"texts": ["word " * 400], "model": MODEL, "input_type": "search_document", "embedding_types": ["float"]}
    assert user.ask(user.co.embed(truncate="END", **overlong)).texts == overlong["texts"]
    user.refused("BadRequestError", lambda: user.co.embed(truncate="NONE", **overlong))


def more_texts_than_fit_are_batched_by_v1_and_refused_by_v2(user: User) -> None:
    texts = [f"Text number {number}" for number in range(104)]
    message = "invalid request: total number of texts must be at most 96 - received 104"
    if user.is_v2:
        call = {"texts": texts, "model": MODEL, "input_type": "search_query", "embedding_types": ["float"]}
    else:
        answer = user.ask(user.co.embed(texts=texts, model=MODEL, input_type="search_query"))
        assert answer.texts == texts
        assert len(answer.id.split(", ")) == 2
        last = user.ask(user.co.embed(texts=texts[-1:], model=MODEL, input_type="search_query"))
        np.testing.assert_allclose(answer.embeddings[-1], last.embeddings[0], rtol=0, atol=1e-5)
        typed = user.ask(
            user.co.embed(texts=texts, model=MODEL, input_type="search_query", embedding_types=["int8", "ubinary"])
        )
        assert typed.response_type == "embeddings_by_type"
        assert (len(typed.embeddings.int8), len(typed.embeddings.ubinary)) == (104, 104)
        assert not typed.embeddings.float
        call = {"texts": texts, "model": MODEL, "input_type": "search_query", "batching": False}
    refusal = user.refused("BadRequestError", lambda: user.co.embed(**call))
    assert refusal.body["message"] == message


def a_text_is_cut_into_tokens_and_joined_again(user: User) -> None:
    text = "a global video platform"
    for offline in (True, False):  # with the tokenizer that it fetches, or by asking the service
        cut = user.ask(user.co.tokenize(text=text, model=MODEL, offline=offline))
        assert len(cut.tokens) == 4
        assert user.ask(user.co.detokenize(tokens=cut.tokens, model=MODEL, offline=offline)).text == text
    assert len(cut.token_strings) == 4
    tokenizer = user.ask(user.co.fetch_tokenizer(model=MODEL))  # or else the SDK asks the service without a word
    assert tokenizer.encode(text, add_special_tokens=False).ids == cut.tokens


def models_are_listed_and_looked_up(user: User) -> None:
    names = [model.name for model in user.ask(user.co.models.list()).models]
    assert "all-MiniLM-L6-v2" in names
    assert MODEL in names
    model = user.ask(user.co.models.get(MODEL))
    assert model.name in {MODEL, "all-MiniLM-L6-v2"}
    assert "embed" in model.endpoints
    assert model.context_length > 0
    assert MODEL in [model.name for model in user.ask(user.co.models.list(endpoint="embed")).models]
    assert user.ask(user.co.models.list(endpoint="chat")).models == []
    refusal = user.refused("NotFoundError", lambda: user.co.models.get("xyz"))
    assert "xyz" in refusal.body["message"]


def a_key_is_checked(user: User) -> None:
    # `Client.check_api_key` is a stub that raises; the endpoint is reached through its base.
    base = AsyncBaseCohere if user.client.startswith("Async") else BaseCohere
    assert user.ask(base.check_api_key(user.co)).valid is True


def refusals_are_the_exceptions_of_the_sdk(user: User) -> None:
    co = user.co
    ready = user.wait(user.upload(("data.jsonl", user.jsonl)))
    job = {"dataset_id": ready.dataset.id, "model": MODEL, "input_type": "search_document"}

    stranger = user.connect(user.scene.url, "not-the-key")
    refusal = user.refused("UnauthorizedError", stranger.datasets.list)
    assert refusal.status_code == 401
    assert user.scene.key not in str(refusal)

    refusal = user.refused("NotFoundError", lambda: co.embed_jobs.create(**{**job, "dataset_id": "nope-123456"}))
    assert refusal.body["message"] == "dataset with id nope-123456 not found"
    refusal = user.refused("NotFoundError", lambda: co.embed_jobs.create(**{**job, "model": "xyz"}))
    assert refusal.body["message"].startswith(
        "model 'xyz' not found, make sure the correct model ID was used and that you have access to the model."
    )
    refusal = user.refused("BadRequestError", lambda: co.embed_jobs.create(**{**job, "input_type": "nonsense"}))
    assert refusal.body["message"] == "valid input_type must be provided with the provided model"
    for call in (lambda: co.embed_jobs.get(id="nope"), lambda: co.embed_jobs.cancel(id="nope")):
        refusal = user.refused("NotFoundError", call)
        assert refusal.body["message"] == "resource not found: could not find embed job with the ID: nope"
    file = ("data.jsonl", user.jsonl)
    user.refused("BadRequestError", lambda: co.datasets.create(name="n" * 50, type="embed-input", data=file))
    user.refused("BadRequestError", lambda: co.datasets.create(name="n", type="nonsense", data=file))
    refusal = user.refused("BadRequestError", lambda: co.datasets.create(name="n", type="embed-result", data=file))
    assert refusal.body["message"] == "output dataset types are not supported for upload"
    assert "id" in refusal.body


def a_full_queue_says_when_to_come_back(user: User) -> None:
    co = user.connect(user.scene.busy_url, "any")
    refusal = user.refused(
        "TooManyRequestsError",
        lambda: co.embed_jobs.create(
            dataset_id=user.scene.busy_dataset_id,
            model=MODEL,
            input_type="search_document",
            request_options={"max_retries": 0},
        ),
    )
    assert refusal.status_code == 429
    headers = getattr(refusal, "headers", None)
    if headers is not None:  # older SDKs do not keep them
        assert 1 <= int(headers["retry-after"]) <= 60


STEPS: tuple[Callable[[User], None], ...] = (
    a_full_queue_says_when_to_come_back,
    the_guide_runs_as_corrected,
    a_result_is_saved_in_each_format,
    an_input_dataset_is_downloaded_as_it_was_uploaded,
    a_csv_is_uploaded_as_bytes,
    a_stream_of_unknown_length_is_uploaded_in_chunks,
    a_dataset_that_fails_makes_wait_raise_with_the_reason,
    malformed_rows_are_left_out_on_request,
    a_finished_job_is_listed_and_cancelled_without_harm,
    datasets_are_listed_counted_and_deleted,
    texts_are_embedded_at_once,
    more_texts_than_fit_are_batched_by_v1_and_refused_by_v2,
    a_text_is_cut_into_tokens_and_joined_again,
    models_are_listed_and_looked_up,
    a_key_is_checked,
    refusals_are_the_exceptions_of_the_sdk,
)


def main() -> None:
    scene = Scene(**json.loads(Path(sys.argv[1]).read_text()))
    assert cohere.__version__ == scene.version, cohere.__file__
    report: dict[str, str] = {}
    for client in scene.clients:
        user = User(scene, client)
        for step in STEPS:
            name = f"{client}: {step.__name__}"
            try:
                step(user)
            except (Exception, pytest.fail.Exception):  # noqa: BLE001 - whatever went wrong belongs into the report
                report[name] = traceback.format_exc()
            else:
                report[name] = ""
    Path(scene.report).write_text(json.dumps(report))


if __name__ == "__main__":
    main()

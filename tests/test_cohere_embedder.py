"""The embedder of Cohere's wire, against our own service over a socket, with a proxy between them that goes wrong."""

from __future__ import annotations

import base64
import io
import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from embedjobs_fakes import CountingModel
from embedjobs_service import InThread, in_thread
from fault_proxy import Answer, Cut, Drop, Exchange, FaultProxy, Seen

from connector.embedders.cohere import CohereSettings
from connector.embedders.cohere_embed import CohereEmbedder
from connector.embedders.cohere_jobs import CohereJobEmbedder
from connector.embedders.cohere_models import MODELS as COHERE_MODELS
from connector.embedders.estimate import ENGLISH, UNKNOWN, estimate_tokens
from connector.embedders.local import LocalEmbedder
from connector.embedders.pinned import MODELS
from connector.embedjobs.local_models import local_models
from connector.errors import ConfigError, ConnectorError, RejectedError, TransientError, UnknownOutcomeError
from connector.model import InputType
from connector.passages import _pieces
from connector.plugins import BuildContext
from connector.ports import BilledEmbedder, JobEmbedder, RemotePhase
from connector.retry import Retry
from connector.testing.embedders import TEXTS, EmbedderContract, embed
from connector.testing.jobs import (
    NAME,
    JobEmbedderContract,
    Making,
    eventually,
    hash_of,
    ready_job,
    upload,
    vectors_of,
)

ROOT = Path(__file__).parent.parent
CANARY = "canary-51c0ffee"
ALIAS = "embed-english-light-v3.0"
PATHS: Mapping[Making, str] = {"create_dataset": "/v1/datasets", "start_job": "/v1/embed-jobs"}
HERE = BuildContext(Path(), Path())
QUICK = Retry(attempts=3, sleep=lambda _seconds: None)


def made(**given: Any) -> CohereEmbedder:
    """Build an embedder from settings."""
    return CohereSettings.model_validate(given).build(HERE)


def made_with_jobs(**given: Any) -> CohereJobEmbedder:
    embedder = made(**given)
    assert isinstance(embedder, CohereJobEmbedder)
    embedder._download_retry = QUICK
    return embedder


# --- the contracts ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Changed:
    """The rows of a part are changed on their way; as many as there were."""

    edit: Callable[[list[dict[str, Any]]], None]

    def play(self, exchange: Exchange) -> None:
        answer = exchange.forward()
        reader = fastavro.reader(io.BytesIO(answer.body))
        rows: Any = list(reader)
        self.edit(rows)
        out = io.BytesIO()
        assert reader.writer_schema
        fastavro.writer(out, reader.writer_schema, rows)
        exchange.send(Answer(200, out.getvalue(), answer.headers))


class Harness:
    """One service with fake models, a proxy before it, and embedders that go through the proxy."""

    def __init__(self, service: InThread, proxy: FaultProxy, model: CountingModel) -> None:
        self.service, self.proxy, self.model = service, proxy, model
        self.settings = {
            "base_url": proxy.url,
            "api_key": CANARY,
            "model": "hash",
            "dimension": 8,
            "tokens_per_text": 256,
        }
        self.made: list[CohereEmbedder] = []
        self.embedder = self.another()

    def another(self) -> CohereJobEmbedder:
        embedder = made_with_jobs(**self.settings)
        self.made.append(embedder)
        return embedder

    def close(self) -> None:
        for embedder in self.made:
            embedder.close()

    # of EmbedderHarness

    @property
    def calls(self) -> int:
        return len(self.proxy.requests("POST", "/v2/embed"))

    def identity_program(self) -> str:
        return (
            "from pathlib import Path; from connector.plugins import BuildContext; "
            "from connector.embedders.cohere import CohereSettings; "
            f"settings = CohereSettings.model_validate({self.settings!r}); "
            "print(settings.build(BuildContext(Path(), Path())).identity)"
        )

    def unacceptable(self) -> str:
        return ""

    def fail_next_call(self, *, retry_after_seconds: float | None) -> None:
        busy = Answer.of({"message": "slow down"}, 429, Retry_After=str(retry_after_seconds))
        self.proxy.on("POST", "/v2/embed", busy)

    # of JobEmbedderHarness

    @property
    def accepted_uploads(self) -> int:
        return len([one for one in self.service.store.datasets() if one.type == "embed-input"])

    @property
    def accepted_jobs(self) -> int:
        return len(self.service.store.jobs())

    def pause(self) -> None:
        threading.Event().wait(0.01)

    def lose_next_answer(self, call: Making, *, done: bool) -> None:
        self.proxy.on("POST", PATHS[call], Drop(after=done))

    def be_busy(self, call: Making, *, retry_after_seconds: float) -> None:
        busy = Answer.of({"message": "slow down"}, 429, Retry_After=str(retry_after_seconds))
        self.proxy.on("POST", PATHS[call], busy)

    def refused_dataset(self) -> str:
        path = self.service.folder / "refused.jsonl"
        path.write_text('{"text": "a", "hash": "00"}\n{"text": "no hash"}\n')
        return self.embedder.create_dataset(NAME, path)

    @contextmanager
    def held_jobs(self) -> Iterator[None]:
        self.model.gate = threading.Event()
        try:
            yield
        finally:
            self.model.gate.set()
            self.model.gate = None

    def shuffle_next_result(self) -> None:
        self.proxy.on("GET", ".*avro", Changed(list.reverse))


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    model = CountingModel()
    with (
        in_thread(tmp_path, models=[model], api_key=CANARY, aliases={ALIAS: "hash"}) as service,
        FaultProxy(service.url) as proxy,
    ):
        harness = Harness(service, proxy, model)
        yield harness
        harness.close()


class TestCohereEmbedder(EmbedderContract):
    @pytest.fixture
    def harness(self, harness: Harness) -> Harness:
        return harness


class TestCohereJobEmbedder(JobEmbedderContract):
    @pytest.fixture
    def harness(self, harness: Harness) -> Harness:
        return harness


def test_it_is_an_embedder_with_jobs_that_is_billed(harness: Harness) -> None:
    assert isinstance(harness.embedder, JobEmbedder)
    assert isinstance(harness.embedder, BilledEmbedder)
    assert not isinstance(made(**harness.settings, jobs="never"), JobEmbedder)


def test_embed_and_a_job_give_the_vectors_of_the_model_behind_the_alias(tmp_path: Path) -> None:
    local = LocalEmbedder.of(MODELS["all-MiniLM-L6-v2"])
    with in_thread(tmp_path, models=local_models(), aliases={ALIAS: "all-MiniLM-L6-v2"}) as service:
        embedder = made_with_jobs(base_url=service.url, model=ALIAS, tokens_per_text=256)
        embedder.check()
        wanted = local.embed(TEXTS, InputType.SEARCH_DOCUMENT)
        np.testing.assert_allclose(embed(embedder, TEXTS), wanted, rtol=0, atol=1e-5)
        assert embedder.dimension == 384
        harness = Polled(embedder)
        by_job = vectors_of(harness, ready_job(harness, tmp_path))  # type: ignore[arg-type]  # all that they use
        np.testing.assert_allclose([by_job[hash_of(text)] for text in TEXTS], wanted, rtol=0, atol=1e-5)
        embedder.close()
    local.close()


@dataclass
class Polled:
    embedder: CohereJobEmbedder

    def pause(self) -> None:
        threading.Event().wait(0.02)


# --- settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COHERE_MODELS)
def test_of_cohere_s_own_models_nothing_but_the_key_needs_to_be_set(name: str) -> None:
    embedder = made(model=name, api_key=CANARY)
    known = COHERE_MODELS[name]
    assert embedder.dimension == known.dimension
    assert embedder.limits.tokens_per_text == 512
    assert embedder.limits.inputs_per_minute == 2_000
    assert embedder.price
    assert embedder.price.per_million_tokens == known.per_million_tokens
    assert "not verified" in embedder.price.source
    assert isinstance(embedder, JobEmbedder) is (name != "embed-v4.0")


@pytest.mark.parametrize(
    "given, says",
    [
        ({"api_key": None}, "api.cohere.com needs an API key; set VECTOR_SYNC_EMBEDDER__API_KEY"),
        ({"api_key": ""}, "key is empty"),
        ({"api_key": f"{CANARY}\n"}, "line break"),
        ({"api_key": f"{CANARY}\n\rX: y"}, "characters that no header can carry"),
        ({"api_key": f"{CANARY}\0"}, "characters that no header can carry"),
        ({"base_url": "localhost:8080"}, "web address"),
        ({"model": "embed-v9"}, 'nothing is known of the model "embed-v9": set dimension and tokens_per_text'),
        ({"model": "embed-v9", "dimension": 3}, "set tokens_per_text"),
        ({"dimension": 384}, "embed-english-v3.0 has 1024 dimensions, not 384"),
        ({"tokens_per_text": 8_000}, "takes 512 tokens a text, not 8000"),
        ({"model": "embed-v4.0", "jobs_from": 10}, "embed-v4.0 has no Embed Jobs"),
        ({"bytes_per_job": 2_000_000_000}, "one dataset may have 1,500,000,000 bytes"),
    ],
)
def test_settings_that_cannot_work_are_one_line_before_anything_is_sent(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**{"api_key": CANARY} | given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert CANARY not in f"{caught.value!s}{caught.value!r}"


def test_a_server_of_one_s_own_has_no_rate_limit_bills_nothing_and_needs_no_key() -> None:
    embedder = made_with_jobs(base_url="http://127.0.0.1:1/v1", model=ALIAS)
    assert embedder.limits.inputs_per_minute is None
    assert embedder.price
    assert embedder.price.per_million_tokens == 0
    assert embedder.job_limits.jobs_from == 10_000
    assert embedder.job_limits.first_look_seconds < 2
    assert made(model="mine", base_url="http://127.0.0.1:1", dimension=4, tokens_per_text=32).dimension == 4


def test_jobs_begin_at_five_minutes_of_the_rate_limit_unless_it_is_set() -> None:
    assert made_with_jobs(api_key=CANARY).job_limits.jobs_from == 10_000
    assert made_with_jobs(api_key=CANARY, inputs_per_minute=50).job_limits.jobs_from == 250
    assert made_with_jobs(api_key=CANARY, jobs_from=7).job_limits.jobs_from == 7


def test_the_identity_names_all_that_decides_a_vector() -> None:
    assert made(api_key=CANARY).identity == "cohere/api.cohere.com/embed-english-v3.0/dim1024/tokens512/end"
    variants: list[dict[str, Any]] = [
        {"api_key": CANARY},
        {"api_key": CANARY, "tokens_per_text": 128},
        {"api_key": CANARY, "model": "embed-multilingual-v3.0"},
        {"base_url": "http://gpu:8080"},
        {"base_url": "http://gpu:8081"},
        {"base_url": "http://gpu:8080", "dimension": 384},
    ]
    assert len({made(**given).identity for given in variants}) == len(variants)


def test_the_identity_does_not_change_with_the_way_the_service_is_reached_or_used() -> None:
    same: list[dict[str, Any]] = [
        {"base_url": "https://api.cohere.com/v1"},
        {"base_url": "https://api.cohere.ai"},
        {"jobs": "never"},
        {"inputs_per_minute": 5, "price_per_million_tokens": 1.0},
    ]
    assert {made(api_key=CANARY, **given).identity for given in same} == {made(api_key=CANARY).identity}


# --- what is sent -----------------------------------------------------------------------------------


def test_embed_asks_for_floats_that_are_not_cut_and_says_what_they_are_for(harness: Harness) -> None:
    harness.embedder.embed(["a", "b"], InputType.SEARCH_QUERY)
    (seen,) = harness.proxy.requests("POST", "/v2/embed")
    assert seen.json == {
        "model": "hash",
        "texts": ["a", "b"],
        "input_type": "search_query",
        "embedding_types": ["float"],
        "truncate": "NONE",
    }


def test_a_job_keeps_the_hash_and_is_cut_at_the_end(harness: Harness, tmp_path: Path) -> None:
    ready_job(harness, tmp_path)
    (uploaded,) = harness.proxy.requests("POST", "/v1/datasets")
    assert ("keep_fields", "hash") in uploaded.query
    assert ("name", NAME) in uploaded.query
    assert b'filename="texts.jsonl"' in uploaded.body
    (job,) = harness.proxy.requests("POST", "/v1/embed-jobs")
    assert job.json | {"dataset_id": ""} == {
        "model": "hash",
        "dataset_id": "",
        "input_type": "search_document",
        "embedding_types": ["float"],
        "truncate": "END",
        "name": NAME,
    }


def test_billed_tokens_add_up_over_threads(harness: Harness) -> None:
    threads = [threading.Thread(target=embed, args=(harness.embedder, ["abcd"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert harness.embedder.billed_tokens == 8 * 3


# --- what goes wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer, kind",
    [
        (Answer.of({"message": "invalid api token"}, 401), ConfigError),
        (Answer.of({"message": "model 'x' not found"}, 404), ConfigError),
        (Answer.of({"message": "text at index 0 is too long: 600 tokens"}, 400), RejectedError),
        (Answer.of({"message": "slow down"}, 429), TransientError),
        (Answer.of({"message": "oops"}, 503), TransientError),
        (Drop(), TransientError),
    ],
)
def test_a_failure_of_embed_is_told_apart_by_who_has_to_act(
    harness: Harness, answer: Answer | Drop, kind: type[ConnectorError]
) -> None:
    harness.proxy.on("POST", "/v2/embed", answer)
    with pytest.raises(kind) as caught:
        embed(harness.embedder, ["a"])
    assert type(caught.value) is kind
    if isinstance(answer, Answer):
        assert answer.body.decode().split('"')[3] in str(caught.value)


def test_half_a_character_is_rejected_before_it_is_sent(harness: Harness) -> None:
    with pytest.raises(RejectedError, match="text 2 of 2 holds half a surrogate pair"):
        embed(harness.embedder, ["a", "b\ud83d"])
    assert harness.calls == 0


def test_vectors_of_another_dimension_are_a_setting_to_be_mended(harness: Harness, tmp_path: Path) -> None:
    ready = ready_job(harness, tmp_path)
    other = made_with_jobs(**harness.settings | {"dimension": 9})
    harness.made.append(other)
    for act in (
        lambda: embed(other, ["a"]),
        lambda: list(other.results(ready.output_dataset_id or "")),
        other.check,
    ):
        with pytest.raises(ConfigError, match="gives vectors of 8 dimensions, not 9; set dimension = 8"):
            act()


def test_rows_of_a_result_that_cannot_be_read_are_left_out(harness: Harness, tmp_path: Path) -> None:
    def spoil(rows: list[dict[str, Any]]) -> None:
        rows[1]["hash"] = "z" * 32
        rows[2]["hash"] = "00"
        rows[3]["embeddings"]["float"] = [1.0]
        rows[4]["embeddings"]["float"] = None

    harness.proxy.on("GET", ".*avro", Changed(spoil))
    found = vectors_of(harness, ready_job(harness, tmp_path))
    assert set(found) == {hash_of(text) for text in (TEXTS[0], *TEXTS[5:])}


def test_a_batch_of_a_result_stays_what_it_was_when_the_next_one_is_read(harness: Harness, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(2_100)]
    job = ready_job(harness, tmp_path, texts=texts)
    batches = list(harness.embedder.results(job.output_dataset_id or ""))
    assert [len(hashes) for hashes, _ in batches] == [1_000, 1_000, 100]
    found = dict(
        zip((hash for hashes, _ in batches for hash in hashes), np.concatenate([v for _, v in batches]), strict=True)
    )
    some = texts[::50]
    np.testing.assert_allclose([found[hash_of(text)] for text in some], embed(harness.embedder, some), atol=1e-5)


def test_a_download_that_breaks_goes_on_and_one_that_keeps_breaking_may_pass(harness: Harness, tmp_path: Path) -> None:
    job = ready_job(harness, tmp_path)
    harness.proxy.on("GET", ".*avro", Cut(after_bytes=500))
    assert len(vectors_of(harness, job)) == len(TEXTS)
    harness.proxy.on("GET", ".*avro", Cut(after_bytes=500), times=None)
    with pytest.raises(TransientError):
        vectors_of(harness, job)
    harness.proxy.clear()
    assert len(vectors_of(harness, job)) == len(TEXTS)


def test_a_long_wait_in_a_download_is_the_caller_s(harness: Harness, tmp_path: Path) -> None:
    job = ready_job(harness, tmp_path)
    embedder = made(**harness.settings)
    assert isinstance(embedder, CohereJobEmbedder)
    harness.made.append(embedder)
    harness.proxy.on("GET", ".*avro", Answer.of({"message": "slow down"}, 429, Retry_After="60"), times=None)
    with pytest.raises(TransientError) as caught:
        list(embedder.results(job.output_dataset_id or ""))
    assert caught.value.retry_after_seconds == 60


def test_whether_a_result_that_is_not_there_is_gone_is_for_the_next_look_to_tell(
    harness: Harness, tmp_path: Path
) -> None:
    job = ready_job(harness, tmp_path)
    harness.embedder.delete_dataset(job.output_dataset_id or "")
    with pytest.raises(TransientError, match="not found"):
        vectors_of(harness, job)
    assert harness.embedder.dataset(job.output_dataset_id or "") is None


def test_a_web_page_in_the_place_of_a_result_may_pass(harness: Harness, tmp_path: Path) -> None:
    job = ready_job(harness, tmp_path)
    harness.proxy.on("GET", ".*avro", Answer(200, b"<html>log in</html>", {"Content-Type": "text/html"}))
    with pytest.raises(TransientError, match="begins as something else"):
        vectors_of(harness, job)
    assert len(vectors_of(harness, job)) == len(TEXTS)


@pytest.mark.parametrize("pages", [1, 2, 5, 1_000])
def test_all_datasets_are_listed_however_the_service_pages(pages: int) -> None:
    names = [f"vs-{number}" for number in range(5)] + ["other"]

    def page(seen: Seen) -> Answer:
        asked = dict(seen.query)
        start = int(asked["offset"]) if pages < 1_000 else 0  # a service that knows no offset gives all, each time
        some = [{"id": name, "name": name, "validation_status": "validated"} for name in names]
        return Answer.of({"datasets": some[start : start + pages]})

    with FaultProxy() as proxy:
        proxy.serve("GET", "/v1/datasets", page)
        embedder = made_with_jobs(base_url=proxy.url, model=ALIAS)
        assert [one.name for one in embedder.datasets("vs-")] == names[:5]
        assert len(proxy.seen) <= len(names) // pages + 2
        embedder.close()


@pytest.mark.parametrize(
    "status, phase",
    [
        ("queued", RemotePhase.PENDING),
        ("processing", RemotePhase.PENDING),
        ("something new", RemotePhase.PENDING),
        ("validated", RemotePhase.READY),
        ("Validated", RemotePhase.READY),
        ("failed", RemotePhase.FAILED),
        ("unknown", RemotePhase.FAILED),
        ("skipped", RemotePhase.FAILED),
    ],
)
def test_each_status_of_a_dataset_has_a_phase(status: str, phase: RemotePhase) -> None:
    with FaultProxy() as proxy:
        proxy.serve("GET", "/v1/datasets/d", Answer.of({"dataset": {"id": "d", "validation_status": status}}))
        embedder = made_with_jobs(base_url=proxy.url, model=ALIAS)
        found = embedder.dataset("d")
        assert found
        assert found.phase is phase
        assert bool(found.reason) is (phase is RemotePhase.FAILED)
        embedder.close()


@pytest.mark.parametrize(
    "job, phase",
    [
        ({"status": "processing", "percent_complete": 40}, RemotePhase.PENDING),
        ({"status": "cancelling"}, RemotePhase.PENDING),
        ({"status": "complete", "output_dataset_id": "o", "percent_complete": 100}, RemotePhase.READY),
        ({"status": "failed", "error": "out of memory"}, RemotePhase.FAILED),
        ({"status": "cancelled"}, RemotePhase.FAILED),
    ],
)
def test_each_status_of_a_job_has_a_phase(job: dict[str, Any], phase: RemotePhase) -> None:
    told = {"job_id": "j", "input_dataset_id": "d", "meta": {"billed_units": {"input_tokens": 9}}} | job
    with FaultProxy() as proxy:
        proxy.serve("GET", "/v1/embed-jobs/j", Answer.of(told))
        embedder = made_with_jobs(base_url=proxy.url, model=ALIAS)
        found = embedder.job("j")
        assert found
        assert (found.phase, found.dataset_id, found.billed_tokens) == (phase, "d", 9)
        assert found.output_dataset_id == job.get("output_dataset_id")
        assert found.fraction == (job["percent_complete"] / 100 if "percent_complete" in job else None)
        assert bool(found.reason) is (phase is RemotePhase.FAILED)
        assert job.get("error", "") in found.reason
        embedder.close()


def test_what_does_not_say_when_it_was_made_is_new() -> None:
    with FaultProxy() as proxy:
        proxy.serve("GET", "/v1/datasets/d", Answer.of({"dataset": {"id": "d"}}))
        embedder = made_with_jobs(base_url=proxy.url, model=ALIAS)
        embedder._now = lambda: 123.0
        found = embedder.dataset("d")
        assert found
        assert found.created_at == 123.0
        embedder.close()


def test_a_job_is_never_started_twice_by_the_client(harness: Harness, tmp_path: Path) -> None:
    id = upload(harness, tmp_path)
    eventually(harness, lambda: (found := harness.embedder.dataset(id)) and found.phase is RemotePhase.READY)
    for answer in (Answer.of({}, 503, after=True), Answer.of({}, 502), Drop()):
        harness.proxy.on("POST", "/v1/embed-jobs", answer)
        with pytest.raises(UnknownOutcomeError):
            harness.embedder.start_job(id, NAME)
    assert len(harness.proxy.requests("POST", "/v1/embed-jobs")) == 3
    assert harness.accepted_jobs == 2


# --- check ------------------------------------------------------------------------------------------


def test_a_check_finds_nothing_wrong_where_nothing_is(harness: Harness) -> None:
    harness.embedder.check()


def test_a_check_finds_a_wrong_key(harness: Harness) -> None:
    other = made(**harness.settings | {"api_key": "another"})
    harness.made.append(other)
    with pytest.raises(ConfigError, match="check the API key"):
        other.check()


def test_a_check_finds_a_model_that_is_not_there(harness: Harness) -> None:
    other = made(**harness.settings | {"model": "embed-v9"})
    harness.made.append(other)
    with pytest.raises(ConfigError, match="embed-v9"):
        other.check()


def test_a_check_finds_a_model_behind_an_alias_that_takes_fewer_tokens(tmp_path: Path) -> None:
    with in_thread(tmp_path, models=local_models(), aliases={ALIAS: "all-MiniLM-L6-v2"}) as service:
        embedder = made(base_url=service.url, model=ALIAS)  # whose namesake takes 512
        with pytest.raises(ConfigError, match=r"though tokens_per_text is 512; set what its model takes: .* 256"):
            embedder.check()
        embedder.close()


# --- the key ----------------------------------------------------------------------------------------


def test_the_key_is_in_no_representation_error_or_log(
    harness: Harness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = [repr(harness.embedder), str(harness.embedder), harness.embedder.identity]
    told += [repr(CohereSettings.model_validate(harness.settings)), repr(harness.embedder._client)]
    for status in (400, 401, 403, 404, 429, 500):
        harness.proxy.on("POST", "/v2/embed", Answer.of({"message": f"bad key {CANARY}"}, status))
        with pytest.raises(ConnectorError) as caught:
            embed(harness.embedder, ["a"])
        told += [str(caught.value), repr(caught.value)]
    ready_job(harness, tmp_path)
    assert CANARY not in "".join(told) + caplog.text


# --- the estimate of tokens -------------------------------------------------------------------------


PROSE: Mapping[str, str] = {
    "German": "Die Fähre fährt nicht, wenn der Hafen zugefroren ist; die Post kommt dann einen Tag später über Land. "
    "Wer eine Überweisung aufgeben möchte, füllt bitte das Formular vollständig aus und unterschreibt es. ",
    "French": "Le traversier ne part pas lorsque le port est gelé, et le courrier arrive alors par la route, un jour "
    "plus tard. Chaque abonné reçoit gratuitement une carte des horaires d'hiver à la mairie. ",
    "Spanish": "El transbordador no sale cuando el puerto está congelado, y el correo llega entonces por tierra, un "
    "día después. Los habitantes del pueblo guardan leña para los meses más fríos del año. ",
    "Russian": "Паром не ходит, когда гавань замерзает, и почта приходит по суше на день позже. Жители посёлка "
    "запасают дрова на самые холодные месяцы года. ",
    "Chinese": "港口结冰时渡轮停航、邮件改由陆路运送、晚一天到达。居民们为一年中最冷的几个月储备木柴。",
    "Japanese": "港が凍るとフェリーは運休となり、郵便は陸路で一日遅れて届きます。住民は冬のために薪を蓄えます。",
    "Korean": "항구가 얼면 여객선은 운항하지 않으며 우편물은 육로로 하루 늦게 도착합니다. ",
    "Arabic": "لا تبحر العبارة عندما يتجمد الميناء، ويصل البريد عندئذ برا متأخرا يوما واحدا. ",
    "emoji": "🚢⚓ ok → ✓ 🎉 done ★ 👩‍🚀 ",
}


def passages(characters: int) -> dict[str, list[str]]:
    """Texts of many kinds as they would be cut for a model of 512 tokens, or of half as many."""
    chance = random.Random(4)
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    code = [*(ROOT / "connector").rglob("*.py"), *(ROOT / "sinks").glob("*.py")]
    whole: dict[str, Sequence[str]] = {
        "pages": [path.read_text() for path in pages],
        "code": [path.read_text() for path in code],
        "base64": [base64.b64encode(chance.randbytes(40_000)).decode()],
        "hashes": [" ".join(chance.randbytes(chance.choice((4, 16, 20))).hex() for _ in range(1_000))],
        "numbers": [", ".join(str(chance.choice((chance.random(), chance.randrange(10**9)))) for _ in range(2_000))],
        **{name: [text * (8_000 // len(text))] for name, text in PROSE.items()},
    }
    return {
        name: [piece for text in texts for piece in _pieces(text, False, characters)] for name, texts in whole.items()
    }


@pytest.fixture(scope="module")
def local() -> Iterator[LocalEmbedder]:
    embedder = LocalEmbedder.of(MODELS["all-MiniLM-L6-v2"])
    yield embedder
    embedder.close()


def test_the_estimate_of_tokens_is_hardly_ever_too_low_and_not_much_too_high(local: LocalEmbedder) -> None:
    ratios: dict[str, list[float]] = {}
    for characters in (1_843, 921):  # what fills 512 and 256 tokens
        for name, texts in passages(characters).items():
            estimated, counted = estimate_tokens(texts, ENGLISH), local.count_tokens(texts)
            ratios.setdefault(name, []).extend(np.array(estimated) / np.array(counted))
    everything = np.concatenate(list(ratios.values()))
    assert len(everything) > 1_000
    assert np.mean(everything >= 1) >= 0.999, {name: min(ratio) for name, ratio in ratios.items()}
    assert everything.min() > 0.85  # these are our own pages, cut anew with each edit
    assert np.mean(ratios["pages"]) < 1.3
    assert np.mean(ratios["code"]) < 1.3


def test_of_an_unknown_tokenizer_the_estimate_is_at_least_as_high() -> None:
    for texts in passages(1_843).values():
        assert all(
            unknown >= english
            for unknown, english in zip(estimate_tokens(texts), estimate_tokens(texts, ENGLISH), strict=True)
        )


def test_the_estimate_is_told_to_be_one() -> None:
    assert not made(api_key=CANARY).limits.counts_exactly


def test_a_text_of_megabytes_without_a_space_is_estimated_in_no_time() -> None:
    (tokens,) = estimate_tokens(["a" * 4_000_000], UNKNOWN)
    assert tokens > 1_000_000

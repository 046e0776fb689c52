"""Vectors, tokens and models over HTTP: by the official SDK, and by hand where the SDK does not go."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import cohere
import httpx
import numpy as np
import pytest
import uvicorn
from cohere.base_client import BaseCohere
from embedjobs_fakes import CountingModel
from fastapi import FastAPI, Request, Response

from connector.embedjobs import failures
from connector.embedjobs.api_embed import router
from connector.embedjobs.local_models import LocalModel, local_models
from connector.embedjobs.models import Catalogue, Embedded, ServedModel
from connector.embedjobs.quantization import forms
from connector.embedjobs.values import EmbeddingType, InputType, Truncate

ALIAS: Final = "embed-english-light-v3.0"
NAME: Final = "all-MiniLM-L6-v2"
# They are about how the SDK joins the answers to its requests.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute on the instance is deprecated"),
    pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated"),
]
TEXTS: Final = ("How do I take back my last commit?", "Simmer the lentils.", "naïve café — déjà vu")
V1: Final = {"texts": ["one", "two"], "model": "hash", "input_type": "search_query"}
V2: Final = V1
ALL: Final = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
IMAGE: Final = "data:image/png;base64,iVBORw0KGgo="


@dataclass
class Served:
    """The router, on a port of its own."""

    url: str
    requests: list[str] = field(default_factory=list)
    """What came in: "POST /v1/embed"."""

    def post(self, path: str, body: object) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers, timeout=60)


@contextmanager
def served(models: Sequence[ServedModel], aliases: dict[str, str] | None = None, **options: Any) -> Iterator[Served]:
    app = FastAPI(generate_unique_id_function=lambda route: route.name)
    failures.install(app)
    app.include_router(router(Catalogue(models, aliases or {}), **options))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = Served(f"http://127.0.0.1:{listener.getsockname()[1]}")

        @app.middleware("http")
        async def note(request: Request, answer: Callable[[Request], Any]) -> Response:
            running.requests.append(f"{request.method} {request.url.path}")
            response: Response = await answer(request)
            return response

        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield running
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    (model,) = local_models()
    yield model
    model.close()


@pytest.fixture(scope="module")
def real(model: LocalModel) -> Iterator[Served]:
    with served([model], {ALIAS: NAME}) as running:
        yield running


@pytest.fixture(scope="module")
def fake() -> Iterator[Served]:
    with served([CountingModel(), CountingModel("wide", dimension=16)], {"other": "hash"}) as running:
        yield running


@pytest.fixture
def client(real: Served) -> Iterator[cohere.Client]:
    real.requests.clear()
    with cohere.Client(api_key="any", base_url=real.url, max_retries=0) as client:
        yield client


@pytest.fixture
def client_v2(real: Served) -> Iterator[cohere.ClientV2]:
    real.requests.clear()
    with cohere.ClientV2(api_key="any", base_url=real.url, max_retries=0) as client:
        yield client


def vectors_of(model: LocalModel, texts: Sequence[str]) -> Any:
    return model.embed(texts, input_type=InputType.SEARCH_DOCUMENT, truncate=Truncate.END).vectors


def right(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def wrong(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.json().keys() == {"message", "id"}
    return str(response.json()["message"])


# --- by the SDK ---------------------------------------------------------------------------------------


def test_the_sdk_gets_the_vectors_of_the_model(client: cohere.Client, model: LocalModel) -> None:
    found: Any = client.embed(texts=TEXTS, model=NAME, input_type="search_document")
    assert found.response_type == "embeddings_floats"
    np.testing.assert_allclose(found.embeddings, vectors_of(model, TEXTS), rtol=0, atol=1e-6)
    assert found.texts == list(TEXTS)
    assert found.meta.api_version.version == "1"
    assert found.meta.billed_units.input_tokens == sum(len(model.tokenize(text)) + 2 for text in TEXTS)
    assert not found.meta.warnings


def test_more_texts_than_a_request_takes_come_back_in_order(
    client: cohere.Client, real: Served, model: LocalModel
) -> None:
    texts = [f"{number} lentils" for number in range(200)]
    found: Any = client.embed(texts=texts, model=NAME, input_type="search_document")
    assert real.requests == ["POST /v1/embed"] * 3
    np.testing.assert_allclose(found.embeddings, vectors_of(model, texts), rtol=0, atol=1e-6)
    assert len(found.id.split(", ")) == 3


def test_the_sdk_gets_vectors_by_type(client: cohere.Client, model: LocalModel) -> None:
    found: Any = client.embed(
        texts=TEXTS, model=NAME, input_type="search_document", embedding_types=["int8", "float", "ubinary"]
    )
    assert found.response_type == "embeddings_by_type"
    expected = forms(vectors_of(model, TEXTS), EmbeddingType, model.int8_range)
    assert found.embeddings.int8 == expected[EmbeddingType.INT8].tolist()
    assert found.embeddings.ubinary == expected[EmbeddingType.UBINARY].tolist()
    assert found.embeddings.uint8 is None


def test_the_sdk_of_v2_gets_all_types_that_fit_each_other(client_v2: cohere.ClientV2, model: LocalModel) -> None:
    found: Any = client_v2.embed(texts=TEXTS, model=NAME, input_type="search_query", embedding_types=ALL)
    floats = np.asarray(found.embeddings.float, dtype=np.float32)
    np.testing.assert_allclose(floats, vectors_of(model, TEXTS), rtol=0, atol=1e-6)
    expected = forms(floats, EmbeddingType, model.int8_range)
    for type in EmbeddingType:
        numbers = np.asarray(getattr(found.embeddings, type.value), dtype=expected[type].dtype)
        np.testing.assert_array_equal(numbers, expected[type])
    decoded = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in found.embeddings.base64]
    np.testing.assert_array_equal(decoded, floats)
    assert found.meta.api_version.version == "2"


def test_the_sdk_of_v2_may_send_inputs(client_v2: cohere.ClientV2, model: LocalModel) -> None:
    inputs: Any = [
        {"content": [{"type": "text", "text": "one"}]},
        {"content": [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}]},
    ]
    found: Any = client_v2.embed(inputs=inputs, model=NAME, input_type="search_document")
    assert found.texts == ["one", "two\nthree"]
    np.testing.assert_allclose(found.embeddings.float, vectors_of(model, found.texts), rtol=0, atol=1e-6)


def test_the_asynchronous_sdks_get_the_same(real: Served, model: LocalModel) -> None:
    async def ask() -> tuple[Any, Any]:
        async with (
            cohere.AsyncClient(api_key="any", base_url=real.url) as first,
            cohere.AsyncClientV2(api_key="any", base_url=real.url) as second,
        ):
            one = first.embed(texts=TEXTS, model=NAME, input_type="search_document")
            two = second.embed(texts=TEXTS, model=NAME, input_type="search_document")
            return tuple(await asyncio.gather(one, two))

    one, two = asyncio.run(ask())
    np.testing.assert_allclose(one.embeddings, vectors_of(model, TEXTS), rtol=0, atol=1e-6)
    np.testing.assert_allclose(two.embeddings.float, vectors_of(model, TEXTS), rtol=0, atol=1e-6)


def test_the_sdk_tokenizes_with_the_tokenizer_that_it_fetches(
    client: cohere.Client, real: Served, model: LocalModel
) -> None:
    text = "word " * 300
    found = client.tokenize(text=text, model=ALIAS, offline=True)
    assert found.tokens == [token.id for token in model.tokenize(text)]
    assert client.detokenize(tokens=found.tokens, model=ALIAS, offline=True).text == text.strip()
    asked = f"/v1/tokenizers/{NAME}"
    assert real.requests == [f"GET /v1/models/{ALIAS}", f"HEAD {asked}", f"GET {asked}"]


def test_the_sdk_tokenizes_by_the_service(client: cohere.Client, real: Served) -> None:
    found = client.tokenize(text="Embeddings!", model=NAME, offline=False)
    assert found.token_strings == ["em", "##bed", "##ding", "##s", "!"]
    assert client.detokenize(tokens=found.tokens, model=NAME, offline=False).text == "embeddings!"
    assert real.requests == ["POST /v1/tokenize", "POST /v1/detokenize"]


def test_the_sdk_sees_the_model_and_its_alias_marked(client: cohere.Client, model: LocalModel) -> None:
    found = client.models.list(page_size=10, endpoint="embed").models
    assert [one.name for one in found] == [NAME, ALIAS]
    own, alias = found
    assert own.context_length == alias.context_length == 256
    assert own.endpoints == own.default_endpoints == ["embed"]
    assert alias.default_endpoints == []
    assert own.features == ["embed-jobs", "tokenize", "detokenize"]
    assert alias.features == ["embed-jobs", "tokenize", "detokenize", "alias"]
    extras = [one.dict() for one in found]
    assert [extra.get("alias_of") for extra in extras] == [None, NAME]
    assert [extra["aliases"] for extra in extras] == [[ALIAS], [ALIAS]]
    assert [extra["identity"] for extra in extras] == [model.identity] * 2
    assert [extra["dimension"] for extra in extras] == [384, 384]
    assert client.models.get(ALIAS).dict() == extras[1]
    assert client.models.get(NAME).dict() == extras[0]
    assert [one.name for one in client.models.list(endpoint="embed", default_only=True).models] == [NAME]
    assert client.models.list(endpoint="chat").models == []


def test_the_sdk_is_told_that_its_key_is_right(client: cohere.Client) -> None:
    assert BaseCohere.check_api_key(client).valid


def test_the_sdk_raises_its_own_errors(client: cohere.Client, client_v2: cohere.ClientV2) -> None:
    with pytest.raises(cohere.NotFoundError, match=f"embed-v4.0.* not found, .*{NAME}.*{ALIAS}"):
        client.embed(texts=["one"], model="embed-v4.0", input_type="search_document")
    with pytest.raises(cohere.NotFoundError):
        client.models.get("embed-v4.0")
    with pytest.raises(cohere.BadRequestError, match="text 2 of 2 is too long: 302 tokens"):
        client_v2.embed(texts=["a", "word " * 300], model=NAME, input_type="search_document", truncate="NONE")
    with pytest.raises(cohere.BadRequestError, match="at most 96 - received 97"):
        client_v2.embed(texts=["a"] * 97, model=NAME, input_type="search_document")


# --- what is refused ----------------------------------------------------------------------------------

OVERLONG: Final = "invalid request: total number of texts must be at most 96 - received"
TEXT_ONLY: Final = "^model 'hash' takes texts only"
INPUT: Final = [{"content": [{"type": "text", "text": "one"}]}]
IMAGES: Final = [*INPUT, {"content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}]


@pytest.mark.parametrize(
    "path, change, status, message",
    [
        ("/v1/embed", {"texts": []}, 400, "there are no texts to embed"),
        ("/v1/embed", {"texts": None}, 400, "there are no texts to embed"),
        ("/v2/embed", {"texts": None}, 400, "there are no texts to embed"),
        ("/v2/embed", {"texts": None, "inputs": []}, 400, "there are no texts to embed"),
        ("/v1/embed", {"texts": ["a"] * 97}, 400, f"^{OVERLONG} 97$"),
        ("/v2/embed", {"texts": ["a"] * 104}, 400, f"^{OVERLONG} 104$"),
        ("/v2/embed", {"texts": None, "inputs": INPUT * 97}, 400, f"^{OVERLONG} 97$"),
        ("/v1/embed", {"texts": ["a", ""]}, 400, "^inputs contains an element that is the empty string at index 1$"),
        ("/v2/embed", {"texts": ["", "a"]}, 400, "^inputs contains an element that is the empty string at index 0$"),
        ("/v1/embed", {"texts": [1]}, 422, "texts"),
        ("/v2/embed", {"inputs": INPUT}, 400, "there are texts and inputs"),
        ("/v2/embed", {"texts": None, "inputs": IMAGES}, 400, "^the input at index 1 has an image"),
        ("/v2/embed", {"texts": None, "inputs": [{"content": []}]}, 422, "inputs"),
        ("/v1/embed", {"texts": None, "images": [IMAGE]}, 400, TEXT_ONLY),
        ("/v2/embed", {"texts": None, "images": [IMAGE]}, 400, TEXT_ONLY),
        ("/v1/embed", {"input_type": "image"}, 400, TEXT_ONLY),
        ("/v1/embed", {"input_type": None}, 400, "^valid input_type must be provided with the provided model$"),
        ("/v2/embed", {"input_type": "poetry"}, 400, "^valid input_type must be provided with the provided model$"),
        ("/v2/embed", {"model": None}, 400, r"^a model parameter is required for this endpoint\.$"),
        ("/v1/embed", {"model": None}, 400, r"^a model parameter is required for this endpoint\. .*hash, wide$"),
        ("/v1/embed", {"model": "xyz"}, 404, r"^model 'xyz' not found, make sure .*: \"hash\", \"wide\", \"other\"$"),
        ("/v2/embed", {"output_dimension": 16}, 400, "^output_dimension must be 8, or be left out"),
        ("/v2/embed", {"max_tokens": 2}, 400, "^the text at index 0 has 3 tokens, more than max_tokens 2"),
        ("/v2/embed", {"max_tokens": 0}, 422, "max_tokens"),
        ("/v2/embed", {"priority": 1000}, 422, "priority"),
        ("/v1/embed", {"embedding_types": ["float64"]}, 422, "embedding_types"),
        ("/v1/embed", {"truncate": "LEFT"}, 422, "truncate"),
    ],
)
def test_a_request_that_cannot_be_done_is_refused_with_the_reason(
    fake: Served, path: str, change: dict[str, Any], status: int, message: str
) -> None:
    body = {name: value for name, value in (V1 | change).items() if value is not None}
    assert re.search(message, wrong(fake.post(path, body), status))


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed", "/v1/tokenize"])
def test_half_a_surrogate_pair_is_refused(fake: Served, path: str) -> None:
    body = rb'{"texts": ["\ud83d"], "text": "\ud83d", "model": "hash", "input_type": "search_query"}'
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(fake.url + path, content=body, headers=headers)
    assert "text" in wrong(answer, 422 if path == "/v1/tokenize" else 400)


@pytest.mark.parametrize(
    "path, change",
    [
        ("/v1/embed", {"texts": ["a"] * 96}),
        ("/v1/embed", {"embedding_types": []}),
        ("/v1/embed", {"something_new": 1}),
        ("/v1/embed", {"images": []}),
        ("/v1/embed", {"texts": [" "]}),
        ("/v2/embed", {"output_dimension": 8}),
        ("/v2/embed", {"max_tokens": 3}),
        ("/v2/embed", {"texts": ["word " * 1000], "max_tokens": 256}),
        ("/v2/embed", {"priority": 999}),
    ],
)
def test_a_request_at_the_edge_is_done(fake: Served, path: str, change: dict[str, Any]) -> None:
    found = right(fake.post(path, {**V1, "texts": ["one", "two"], **change}))["embeddings"]
    rows = found if path == "/v1/embed" else found["float"]
    assert [len(row) for row in rows] == [8] * len(rows)


@pytest.mark.parametrize(
    "path, body, status, message",
    [
        ("/v1/tokenize", {"text": "", "model": "hash"}, 422, "text"),
        ("/v1/tokenize", {"text": "a" * 65_537, "model": "hash"}, 422, "text"),
        ("/v1/tokenize", {"text": "a"}, 400, "a model parameter is required"),
        ("/v1/tokenize", {"text": "a", "model": "xyz"}, 404, "model 'xyz' not found"),
        ("/v1/detokenize", {"tokens": ["a"], "model": "hash"}, 422, "tokens"),
        ("/v1/detokenize", {"tokens": [97], "model": "xyz"}, 404, "model 'xyz' not found"),
    ],
)
def test_tokens_that_cannot_be_had_are_refused(
    fake: Served, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    assert message in wrong(fake.post(path, body), status)


def test_a_token_that_is_in_no_vocabulary_is_refused(real: Served) -> None:
    message = wrong(real.post("/v1/detokenize", {"tokens": [97, 30_522], "model": NAME}), 400)
    assert message == f'token 2 of 2 is 30522, but those of "{NAME}" are 0 to 30521'


# --- whose vectors these are --------------------------------------------------------------------------

ALIASED: Final = "other is an alias of this service: the vectors are those of hash, and fit no others"


@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/embed", V1),
        ("/v2/embed", V2),
        ("/v1/tokenize", {"text": "a"}),
        ("/v1/detokenize", {"tokens": [97]}),
    ],
)
def test_an_answer_by_an_alias_says_so_in_its_header_and_in_its_body(
    fake: Served, path: str, body: dict[str, Any]
) -> None:
    by_alias, by_name = (fake.post(path, {**body, "model": name}) for name in ("other", "hash"))
    assert by_alias.headers["X-API-Warning"] == ALIASED
    assert right(by_alias)["meta"]["warnings"] == [ALIASED]
    assert "X-API-Warning" not in by_name.headers
    assert "warnings" not in right(by_name)["meta"]


def test_an_alias_of_any_letters_can_be_answered() -> None:
    with served([CountingModel()], {"modèle/日本": "hash"}) as running:
        found = running.post("/v1/embed", {**V1, "model": "modèle/日本"})
        assert found.headers["X-API-Warning"].startswith("mod?le/?? is an alias")
        assert right(found)["meta"]["warnings"][0].startswith("modèle/日本 is an alias")
        assert right(running.get("/v1/models/mod%C3%A8le%2F%E6%97%A5%E6%9C%AC"))["alias_of"] == "hash"


def test_without_a_model_the_only_one_answers_and_is_named() -> None:
    with served([CountingModel()], {"other": "hash"}) as running:
        found = running.post("/v1/embed", {name: value for name, value in V1.items() if name != "model"})
        warning = "no model was asked for: the vectors are those of hash"
        assert found.headers["X-API-Warning"] == warning
        assert right(found)["meta"]["warnings"] == [warning]


# --- models -------------------------------------------------------------------------------------------


def test_pages_of_models_hold_each_name_once(fake: Served) -> None:
    first = right(fake.get("/v1/models?page_size=2.0"))
    second = right(fake.get(f"/v1/models?page_size=2.0&page_token={first['next_page_token']}"))
    assert [[model["name"] for model in page["models"]] for page in (first, second)] == [["hash", "wide"], ["other"]]
    assert "next_page_token" not in second
    assert "next_page_token" not in right(fake.get("/v1/models?page_size=3"))


@pytest.mark.parametrize(
    "query, status, message",
    [
        ("page_token=0", 400, "page_token"),
        ("page_token=3", 400, "page_token"),
        ("page_token=x", 400, "page_token"),
        ("page_token=99999999999999999999", 400, "page_token"),
        ("page_size=0", 422, "page_size"),
        ("page_size=1001", 422, "page_size"),
        ("page_size=nan", 422, "page_size"),
        ("default_only=true", 400, "default_only is for an endpoint"),
    ],
)
def test_a_list_that_cannot_be_is_refused(fake: Served, query: str, status: int, message: str) -> None:
    assert message in wrong(fake.get(f"/v1/models?{query}"), status)


def test_where_there_is_a_choice_no_model_is_the_default(fake: Served) -> None:
    assert right(fake.get("/v1/models?endpoint=embed&default_only=true"))["models"] == []


def test_a_model_without_a_tokenizer_has_no_link_to_one(fake: Served) -> None:
    assert "tokenizer_url" not in right(fake.get("/v1/models/hash"))
    assert "does not give its tokenizer" in wrong(fake.get("/v1/tokenizers/hash"), 404)


def test_the_link_to_a_tokenizer_leads_to_where_the_client_found_the_service(real: Served, model: LocalModel) -> None:
    found = right(real.get(f"/v1/models/{NAME}", Host="embed.example:1234"))
    assert found["tokenizer_url"] == f"http://embed.example:1234/v1/tokenizers/{NAME}"
    with served([model], base_url="https://embed.example/prefix/") as running:
        found = right(running.get(f"/v1/models/{NAME}"))
        assert found["tokenizer_url"] == f"https://embed.example/prefix/v1/tokenizers/{NAME}"


# --- how it is written, and who waits -----------------------------------------------------------------


def test_floats_are_written_with_the_digits_of_float32(real: Served, model: LocalModel) -> None:
    answer = real.post("/v1/embed", {**V1, "texts": ["one", "two"], "model": NAME})
    numbers = re.findall(r"-?\d+\.\d+(?:e-\d+)?", answer.text)
    assert len(numbers) == 2 * 384
    digits = [number.partition("e")[0].lstrip("-0.") for number in numbers if abs(float(number)) > 1e-13]
    assert len(digits) > 2 * 375
    assert max(map(len, digits)) <= 9
    found = np.array(right(answer)["embeddings"], dtype=np.float32)
    np.testing.assert_allclose(found, vectors_of(model, ["one", "two"]), rtol=0, atol=1e-7)


class HoldsMany(CountingModel):
    """A model that holds calls of many texts until its gate is opened."""

    def embed(self, texts: Sequence[str], *, input_type: InputType, truncate: Truncate) -> Embedded:
        if len(texts) > 1:
            self.entered.set()
            assert HELD.wait(30)
        return CountingModel.embed(self, texts, input_type=input_type, truncate=truncate)


HELD = threading.Event()


@pytest.fixture
def held() -> Iterator[HoldsMany]:
    HELD.clear()
    yield HoldsMany()
    HELD.set()


def test_a_question_does_not_queue_behind_a_corpus_and_a_full_queue_says_when_to_come_back(held: HoldsMany) -> None:
    many = {**V1, "texts": ["a"] * 9}
    with served([held], threads=1, waiting=0) as running:
        answers = []
        corpus = threading.Thread(target=lambda: answers.append(running.post("/v1/embed", many)))
        corpus.start()
        assert held.entered.wait(10)
        refused = running.post("/v1/embed", many)
        assert "try again later" in wrong(refused, 429)
        assert re.fullmatch(r"[1-9]|[1-5]\d|60", refused.headers["Retry-After"])
        right(running.post("/v1/embed", {**V1, "texts": ["a question"]}))
        right(running.get("/v1/models"))
        right(running.post("/v1/tokenize", {"text": "a", "model": "hash"}))
        HELD.set()
        corpus.join(30)
        assert [answer.status_code for answer in answers] == [200]
        right(running.post("/v1/embed", many))


def test_the_sdk_knows_a_full_queue_for_what_it_is(held: HoldsMany) -> None:
    with served([held], threads=1, waiting=0) as running:
        corpus = threading.Thread(target=lambda: running.post("/v1/embed", {**V1, "texts": ["a"] * 9}))
        corpus.start()
        assert held.entered.wait(10)
        with (
            cohere.Client(api_key="any", base_url=running.url, max_retries=0) as client,
            pytest.raises(cohere.TooManyRequestsError) as caught,
        ):
            client.embed(texts=["a"] * 9, model="hash", input_type="search_document")
        assert int((caught.value.headers or {})["retry-after"]) >= 1
        HELD.set()
        corpus.join(30)

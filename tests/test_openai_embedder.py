"""The embedder of OpenAI's wire, against a small server with the habits of several."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_proxy import Answer, Drop, FaultProxy, Seen

from connector.embedders.openai import OpenAIEmbedder, OpenAISettings
from connector.errors import ConfigError, ConnectorError, RejectedError, TransientError
from connector.model import InputType
from connector.plugins import BuildContext
from connector.ports import BilledEmbedder, JobEmbedder
from connector.testing.embedders import TEXTS, EmbedderContract, embed
from connector.testing.fakes import HashEmbedder

CANARY = "canary-0badcafe"
HERE = BuildContext(Path(), Path())
PATH = "/v1/embeddings"
UNACCEPTABLE = "a text that nobody will embed"


@dataclass
class Server:
    """Answers as servers of this API do, each in its own way."""

    proxy: FaultProxy
    takes_base64: bool = True  # else it answers with lists, whatever it was asked for
    refuses_base64: bool = False
    is_reversed: bool = False  # the vectors come in another order than the texts
    has_index: bool = True
    tells_usage: bool = True
    model: HashEmbedder = field(default_factory=lambda: HashEmbedder(8, 10_000, 10_000, reject=UNACCEPTABLE.__eq__))

    def __post_init__(self) -> None:
        self.proxy.serve("POST", PATH, self.answer)

    def answer(self, seen: Seen) -> Answer:
        asked = seen.json
        if self.refuses_base64 and asked["encoding_format"] != "float":
            return Answer.of({"error": "unknown variant `base64` of encoding_format"}, 422)
        try:
            vectors = self.model.embed(asked["input"], InputType.SEARCH_DOCUMENT)
        except RejectedError as error:
            return Answer.of({"error": {"message": str(error), "type": "invalid_request_error"}}, 400)
        as_bytes = self.takes_base64 and asked["encoding_format"] == "base64"
        rows: list[dict[str, Any]] = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.tobytes()).decode() if as_bytes else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ]
        if self.is_reversed:
            rows.reverse()
        if not self.has_index:
            rows = [{"embedding": row["embedding"]} for row in rows]
        usage = {"usage": {"prompt_tokens": len(rows), "total_tokens": len(rows)}} if self.tells_usage else {}
        return Answer.of({"object": "list", "data": rows, "model": asked["model"]} | usage)


class Harness:
    """One server, and embedders of it."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.server = Server(proxy)
        self.settings: dict[str, Any] = {
            "base_url": f"{proxy.url}/v1",
            "api_key": CANARY,
            "model": "mine",
            "dimension": 8,
            "tokens_per_text": 256,
        }
        self.made: list[OpenAIEmbedder] = []
        self.embedder = self.another()

    def another(self, **given: Any) -> OpenAIEmbedder:
        embedder = OpenAISettings.model_validate(self.settings | given).build(HERE)
        self.made.append(embedder)
        return embedder

    def close(self) -> None:
        for embedder in self.made:
            embedder.close()

    @property
    def calls(self) -> int:
        return len(self.proxy.requests("POST", PATH))

    def identity_program(self) -> str:
        return (
            "from pathlib import Path; from connector.plugins import BuildContext; "
            "from connector.embedders.openai import OpenAISettings; "
            f"settings = OpenAISettings.model_validate({self.settings!r}); "
            "print(settings.build(BuildContext(Path(), Path())).identity)"
        )

    def unacceptable(self) -> str:
        return UNACCEPTABLE

    def fail_next_call(self, *, retry_after_seconds: float | None) -> None:
        busy = Answer.of({"error": {"message": "slow down"}}, 429, Retry_After=str(retry_after_seconds))
        self.proxy.on("POST", PATH, busy)


@pytest.fixture
def harness() -> Iterator[Harness]:
    with FaultProxy() as proxy:
        harness = Harness(proxy)
        yield harness
        harness.close()


class TestOpenAIEmbedder(EmbedderContract):
    @pytest.fixture
    def harness(self, harness: Harness) -> Harness:
        return harness


def test_it_is_billed_and_has_no_jobs(harness: Harness) -> None:
    assert isinstance(harness.embedder, BilledEmbedder)
    assert not isinstance(harness.embedder, JobEmbedder)


# --- settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, says",
    [
        ({"base_url": "https://api.openai.com/v1", "api_key": None}, "api.openai.com/v1 needs an API key"),
        ({"api_key": ""}, "key is empty"),
        ({"api_key": f"{CANARY}\n"}, "line break"),
        ({"api_key": f"{CANARY}\n\rX: y"}, "characters that no header can carry"),
        ({"base_url": "localhost:11434/v1"}, "web address"),
        ({"base_url": f"http://me:{CANARY}@host/v1"}, "more than a path"),
    ],
)
def test_settings_that_cannot_work_are_one_line_before_anything_is_sent(
    harness: Harness, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        harness.another(**given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert CANARY not in f"{caught.value!s}{caught.value!r}"


def test_the_identity_names_all_that_decides_a_vector(harness: Harness) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"model": "other"},
        {"dimension": 16},
        {"tokens_per_text": 128},
        {"query_prefix": "query: "},
        {"passage_prefix": "query: "},
        {"passage_prefix": "passage: "},
        {"base_url": "http://elsewhere/v1"},
    ]
    assert len({harness.another(**given).identity for given in variants}) == len(variants)
    assert harness.another(api_key=None, timeout_seconds=1.0).identity == harness.embedder.identity


def test_the_price_is_that_of_the_settings_or_not_known(harness: Harness) -> None:
    assert harness.embedder.price is None
    price = harness.another(price_per_million_tokens=0.02, currency="EUR").price
    assert price
    assert (price.per_million_tokens, price.currency, price.source) == (0.02, "EUR", "settings")


# --- what is sent -----------------------------------------------------------------------------------


def test_a_call_has_the_model_the_texts_and_the_key(harness: Harness) -> None:
    embed(harness.embedder, ["a", "b"])
    (seen,) = harness.proxy.seen
    assert seen.json == {"model": "mine", "input": ["a", "b"], "encoding_format": "base64"}
    assert seen.headers["authorization"] == f"Bearer {CANARY}"
    embed(harness.another(api_key=None), ["a"])
    assert "authorization" not in harness.proxy.seen[1].headers


def test_a_dimension_is_asked_for_only_where_that_is_set(harness: Harness) -> None:
    embed(harness.another(send_dimensions=True), ["a"])
    assert harness.proxy.seen[0].json["dimensions"] == 8


def test_questions_and_passages_have_their_prefixes_which_count(harness: Harness) -> None:
    embedder = harness.another(query_prefix="query: ", passage_prefix="passage: ")
    embedder.embed(["a"], InputType.SEARCH_DOCUMENT)
    embedder.embed(["a"], InputType.SEARCH_QUERY)
    assert [seen.json["input"] for seen in harness.proxy.seen] == [["passage: a"], ["query: a"]]
    assert embedder.count_tokens(["a"])[0] > harness.embedder.count_tokens(["a"])[0]


# --- what is answered -------------------------------------------------------------------------------


@pytest.mark.parametrize("takes_base64", [True, False])
@pytest.mark.parametrize("is_reversed", [True, False])
def test_vectors_are_the_same_as_bytes_and_as_lists_in_any_order(
    harness: Harness, takes_base64: bool, is_reversed: bool
) -> None:
    harness.server.takes_base64, harness.server.is_reversed = takes_base64, is_reversed
    wanted = harness.server.model.embed(TEXTS, InputType.SEARCH_DOCUMENT)
    np.testing.assert_array_equal(embed(harness.embedder, TEXTS), wanted)


def test_vectors_without_an_index_are_in_order(harness: Harness) -> None:
    harness.server.has_index = False
    wanted = harness.server.model.embed(TEXTS, InputType.SEARCH_DOCUMENT)
    np.testing.assert_array_equal(embed(harness.embedder, TEXTS), wanted)


def test_a_server_that_refuses_base64_is_asked_for_lists_from_then_on(harness: Harness) -> None:
    harness.server.refuses_base64 = True
    first, second = embed(harness.embedder, TEXTS), embed(harness.embedder, TEXTS)
    np.testing.assert_array_equal(first, second)
    assert [seen.json["encoding_format"] for seen in harness.proxy.seen] == ["base64", "float", "float"]


def test_a_text_that_is_refused_costs_one_call(harness: Harness) -> None:
    with pytest.raises(RejectedError, match="nobody will embed"):
        embed(harness.embedder, [UNACCEPTABLE])
    assert harness.calls == 1


def test_billed_tokens_add_up_where_the_server_tells(harness: Harness) -> None:
    embed(harness.embedder, ["a", "b"])
    embed(harness.embedder, ["c"])
    assert harness.embedder.billed_tokens == 3
    harness.server.tells_usage = False
    embed(harness.embedder, ["c"])
    assert harness.embedder.billed_tokens == 3


ROW = {"index": 0, "embedding": [0.5] * 8}


@pytest.mark.parametrize(
    "answer, kind, says",
    [
        (Answer.of({"error": {"message": "bad key", "code": 1}}, 401), ConfigError, "bad key; check the API key"),
        (Answer.of({"error": "no access"}, 403), ConfigError, "no access"),
        (Answer.of({"error": {"message": "no model"}}, 404), ConfigError, "no model; is the model right, and the URL"),
        (Answer.of({"error": "too long", "error_type": "Validation"}, 413), RejectedError, "too long"),
        (Answer.of({"object": "error", "message": "too long"}, 400), RejectedError, "too long"),
        (Answer.of({"detail": [{"msg": "not a string"}]}, 422), RejectedError, "not a string"),
        (Answer.of({"error": {"message": "rate"}}, 429), TransientError, "rate"),
        (Answer.of({"error": {"message": "no money", "code": "insufficient_quota"}}, 429), ConfigError, "billing"),
        (Answer(502, b"<html>bad gateway</html>"), TransientError, "502"),
        (Answer.of({}, 308, Location="https://elsewhere.example/v1"), ConfigError, "https://elsewhere.example/v1"),
        (Drop(), TransientError, "POST"),
        (Answer(200, b"<html>hello</html>"), ConfigError, "is the URL right?"),
        (Answer.of({"data": []}), ConfigError, "0 vectors for 1 texts"),
        (Answer.of({"data": [ROW | {"index": 1}]}), ConfigError, "indexes"),
        (Answer.of({"data": [ROW | {"embedding": "no base 64!"}]}), ConfigError, "none of OpenAI's API"),
        (Answer.of({"data": [ROW | {"embedding": [0.5] * 9}]}), ConfigError, "9 dimensions, not 8; set dimension = 9"),
        (Answer.of({"data": [ROW | {"embedding": [1e300] * 8}]}), RejectedError, "not finite"),
    ],
)
def test_a_failure_is_told_apart_by_who_has_to_act(
    harness: Harness, answer: Answer | Drop, kind: type[ConnectorError], says: str
) -> None:
    harness.proxy.on("POST", PATH, answer)
    with pytest.raises(kind) as caught:
        embed(harness.embedder, ["a"])
    assert type(caught.value) is kind
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "headers, wait_seconds", [({"Retry-After": "20"}, 20), ({"retry-after-ms": "1500"}, 1.5), ({}, None)]
)
def test_a_wait_that_is_named_is_told(harness: Harness, headers: dict[str, str], wait_seconds: float | None) -> None:
    harness.proxy.on("POST", PATH, Answer(503, b"{}", headers))
    with pytest.raises(TransientError) as caught:
        embed(harness.embedder, ["a"])
    assert caught.value.retry_after_seconds == wait_seconds


def test_half_a_character_is_rejected_before_it_is_sent(harness: Harness) -> None:
    with pytest.raises(RejectedError, match="text 1 of 1 holds half a surrogate pair"):
        embed(harness.embedder, ["b\ud83d"])
    assert harness.calls == 0


# --- check, and the key -----------------------------------------------------------------------------


def test_a_check_finds_a_wrong_dimension_and_nothing_where_nothing_is_wrong(harness: Harness) -> None:
    harness.embedder.check()
    with pytest.raises(ConfigError, match="8 dimensions, not 16"):
        harness.another(dimension=16).check()


def test_the_key_is_in_no_representation_error_or_log(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = [repr(harness.embedder), harness.embedder.identity, repr(harness.embedder._wire)]
    told += [repr(OpenAISettings.model_validate(harness.settings)), repr(harness.embedder._settings)]
    for status in (400, 401, 404, 429, 500):
        harness.proxy.on("POST", PATH, Answer.of({"error": {"message": f"bad key {CANARY}"}}, status))
        with pytest.raises(ConnectorError) as caught:
            embed(harness.embedder, ["a"])
        told += [str(caught.value), repr(caught.value)]
    assert CANARY not in "".join(told) + caplog.text

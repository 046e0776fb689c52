"""The fake and the local model keep the embedder contract, and the kit catches whoever breaks a rule."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest

from connector.embedders.local import LocalEmbedder
from connector.embedders.pinned import MODELS
from connector.errors import RejectedError, TransientError
from connector.model import InputType
from connector.testing.embedders import EmbedderContract
from connector.testing.fakes import HashEmbedder

if TYPE_CHECKING:
    from connector.model import Vectors

UNACCEPTABLE = "a text that nobody will embed"


@dataclasses.dataclass
class FakeHarness:
    make: Callable[[], HashEmbedder] = HashEmbedder
    printed: str = "HashEmbedder().identity"

    def __post_init__(self) -> None:
        self.embedder = self.another()

    @property
    def calls(self) -> int:
        return self.embedder.calls

    def another(self) -> HashEmbedder:
        made = self.make()
        made.reject = UNACCEPTABLE.__eq__
        return made

    def identity_program(self) -> str:
        return f"from connector.testing.fakes import HashEmbedder; print({self.printed})"

    def unacceptable(self) -> str:
        return UNACCEPTABLE

    def fail_next_call(self, *, retry_after_seconds: float | None) -> None:
        self.embedder.fail_next(TransientError("busy", retry_after_seconds=retry_after_seconds))


class TestHashEmbedder(EmbedderContract):
    @pytest.fixture
    def harness(self) -> FakeHarness:
        return FakeHarness()


@dataclasses.dataclass
class CountedSession:
    session: object
    calls: int = 0

    def run(self, outputs: Sequence[str], inputs: Mapping[str, object]) -> list[Vectors]:
        self.calls += 1
        found: list[Vectors] = self.session.run(outputs, inputs)  # type: ignore[attr-defined]  # onnxruntime has no types
        return found


class LocalHarness:
    def __init__(self) -> None:
        self.embedder = self.another()
        self._counted = CountedSession(self.embedder._loaded_session())
        self.embedder._session = self._counted

    @property
    def calls(self) -> int:
        return self._counted.calls

    def another(self) -> LocalEmbedder:
        model = MODELS["all-MiniLM-L6-v2"]
        return LocalEmbedder(model, model.find_folder())

    def identity_program(self) -> str:
        return "from connector.embedders.pinned import MODELS; print(MODELS['all-MiniLM-L6-v2'].identity)"

    def unacceptable(self) -> str:
        return "half an emoji: \ud83d"

    def fail_next_call(self, *, retry_after_seconds: float | None) -> None:
        raise AssertionError("waived")


@pytest.fixture(scope="module")
def local() -> Iterator[LocalHarness]:
    harness = LocalHarness()
    yield harness
    harness.embedder.close()


class TestLocalEmbedder(EmbedderContract):
    waived: ClassVar[Mapping[str, str]] = {
        "E5_a_passing_failure_is_transient_and_names_the_wait": "there is no service that could be busy"
    }

    @pytest.fixture
    def harness(self, local: LocalHarness) -> LocalHarness:
        return local


class Shuffling(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        return super().embed(texts, input_type)[::-1]


class Doubles(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        return super().embed(texts, input_type).astype(np.float64)


class TooWide(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        return np.pad(super().embed(texts, input_type), ((0, 0), (0, 1)))


class NotFinite(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        vectors = super().embed(texts, input_type)
        vectors[-1:, 0] = np.nan
        return vectors


class Gregarious(HashEmbedder):
    """As a model with dynamic quantisation: one scale for the whole call."""

    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        return super().embed(texts, input_type) * np.float32(1 + max(map(len, texts), default=0) / 10_000)


class Deduplicating(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        return super().embed(list(dict.fromkeys(texts)), input_type)


class HalfServed(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        return super().embed(texts[:50], input_type)


class Renamed(HashEmbedder):
    numbers: ClassVar[Iterator[int]] = itertools.count()

    def __post_init__(self) -> None:
        self.identity = f"model/{next(self.numbers)}"


class Renaming(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        self.identity += "+"
        return super().embed(texts, input_type)


class Untrained(HashEmbedder):
    """The same name for other weights."""

    numbers: ClassVar[Iterator[int]] = itertools.count()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weights = next(self.numbers)

    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        return super().embed([f"{self.weights} {text}" for text in texts], input_type)


class CutsEarly(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        return super().embed([text[: self.tokens_per_text] for text in texts], input_type)


class CountsCut(HashEmbedder):
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [min(count, self.tokens_per_text) for count in super().count_tokens(texts)]


class CountsPadded(HashEmbedder):
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        longest = max(super().count_tokens(texts), default=0)
        return [longest] * len(texts)


class CallsForNothing(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        return super().embed(texts or ["nothing"], input_type)[: len(texts)]


class FlatWhenEmpty(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        return super().embed(texts, input_type) if texts else np.empty(0, dtype=np.float32)


class Swallowing(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        return super().embed([text for text in texts if not self.reject(text)], input_type)


class Wordless(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        try:
            return super().embed(texts, input_type)
        except RejectedError:
            raise RejectedError from None


class Impatient(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        try:
            return super().embed(texts, input_type)
        except TransientError as error:
            raise TransientError(str(error)) from error


class Persistent(HashEmbedder):
    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        try:
            return super().embed(texts, input_type)
        except TransientError:
            return super().embed(texts, input_type)


@pytest.mark.parametrize(
    "saboteur,caught_by",
    [
        (Untrained, "E1_two_embedders_with_one_identity_give_the_same_vectors"),
        (Renamed, "E1_two_embedders_with_one_identity_give_the_same_vectors"),
        (Renaming, "E1_the_identity_outlives_use"),
        (Doubles, "E2_vectors_are_finite_float32_of_the_dimension"),
        (TooWide, "E2_vectors_are_finite_float32_of_the_dimension"),
        (NotFinite, "E2_vectors_are_finite_float32_of_the_dimension"),
        (Shuffling, "E2_vectors_come_in_the_order_of_the_texts"),
        (Gregarious, "E2_a_vector_does_not_depend_on_the_other_texts"),
        (Deduplicating, "E2_one_text_twice_in_a_call_gives_two_vectors"),
        (HalfServed, "E2_a_full_call_is_answered_in_full"),
        (CutsEarly, "E3_the_last_word_of_the_longest_text_counts"),
        (CountsPadded, "E3_tokens_are_counted_text_by_text"),
        (CountsCut, "E3_tokens_are_counted_past_the_limit"),
        (CallsForNothing, "E4_no_texts_give_no_vectors_without_a_call"),
        (FlatWhenEmpty, "E4_no_texts_give_no_vectors_without_a_call"),
        (Swallowing, "E5_an_unacceptable_text_is_rejected"),
        (Wordless, "E5_an_unacceptable_text_is_rejected"),
        (Impatient, "E5_a_passing_failure_is_transient_and_names_the_wait"),
        (Persistent, "E5_a_passing_failure_is_transient_and_names_the_wait"),
    ],
)
def test_the_kit_catches_a_broken_embedder(saboteur: type[HashEmbedder], caught_by: str) -> None:
    assert keeps(FakeHarness(), caught_by)
    assert not keeps(FakeHarness(saboteur), caught_by)


def test_the_kit_catches_an_identity_that_differs_by_process() -> None:
    rule = "E1_the_identity_is_the_same_in_every_process"
    assert keeps(FakeHarness(), rule)
    assert not keeps(FakeHarness(printed="hash(HashEmbedder().identity)"), rule)


def test_every_rule_has_a_saboteur() -> None:
    marks = test_the_kit_catches_a_broken_embedder.pytestmark  # type: ignore[attr-defined]  # set by the decorator
    caught = {rule for _, rule in marks[0].args[1]} | {"E1_the_identity_is_the_same_in_every_process"}
    assert caught == {name.removeprefix("test_") for name in vars(EmbedderContract) if name.startswith("test_")}


def keeps(harness: FakeHarness, rule: str) -> bool:
    """Run one test of the kit, with its first parameter if it has any."""
    test = getattr(EmbedderContract(), f"test_{rule}")
    given = {"position": 1, "hash_seed": "1"}
    wanted = {name: given[name] for name in inspect.signature(test).parameters if name in given}
    try:
        test(harness, **wanted)
    except (AssertionError, ValueError, pytest.fail.Exception):
        return False
    return True


def test_a_rule_cannot_be_redefined() -> None:
    def test_E1_the_identity_outlives_use(self: object, harness: object) -> None: ...  # noqa: N802 - as in the kit

    with pytest.raises(TypeError, match="redefines"):
        type("TestMine", (EmbedderContract,), {"test_E1_the_identity_outlives_use": test_E1_the_identity_outlives_use})


def test_only_rules_of_the_contract_can_be_waived() -> None:
    type(
        "TestMine",
        (EmbedderContract,),
        {"waived": {"E3": "the service does not tell", "E1_the_identity_outlives_use": ""}},
    )
    with pytest.raises(TypeError, match=r"waives \['E9'\]"):
        type("TestMine", (EmbedderContract,), {"waived": {"E9": "there is none"}})

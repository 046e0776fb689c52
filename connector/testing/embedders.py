"""The embedder contract as a pytest class, to which anyone's embedder can be held.

    from connector.testing.embedders import EmbedderContract

    class TestMyEmbedder(EmbedderContract):
        @pytest.fixture
        def harness(self):
            yield MyHarness()

A rule that an embedder cannot keep is waived by name and with a reason, which the run prints. It cannot be
overridden: a test redefined in a subclass is an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from connector.errors import RejectedError, TransientError
from connector.model import InputType
from connector.ports import Embedder
from connector.testing.contract import Contract

if TYPE_CHECKING:
    from connector.model import Vectors

TOLERANCE = 1e-5

TEXTS = (
    "The harbour freezes in January.",
    "Wie spät ist es?",
    "a",
    "SELECT count(*) FROM orders WHERE shipped IS NULL;",
    "The ferry does not run when the harbour freezes, and the mail then comes over land, a day late. " * 4,
    "日本語の文章です。",
    "🚢" * 5,
    "The harbour freezes in January!",
)


class EmbedderHarness(Protocol):
    """What the contract needs, besides the embedder, of whoever wrote it."""

    @property
    def embedder(self) -> Embedder: ...

    @property
    def calls(self) -> int:
        """How often the embedder has called its service, or run its model."""
        ...

    def another(self) -> Embedder:
        """Build a second embedder from the same settings."""
        ...

    def identity_program(self) -> str:
        """Give a Python program that builds an embedder from the same settings and prints its identity."""
        ...

    def unacceptable(self) -> str:
        """Give a text that can never be embedded."""
        ...

    def fail_next_call(self, *, retry_after_seconds: float | None) -> None:
        """Let the service fail the next call, for now, and name a wait."""
        ...


class EmbedderContract(Contract):
    """The rules E1 to E5 of `connector.ports.Embedder`."""

    @pytest.fixture
    def harness(self) -> EmbedderHarness:
        raise NotImplementedError("give the contract a harness: see EmbedderHarness")

    def test_E1_two_embedders_with_one_identity_give_the_same_vectors(self, harness: EmbedderHarness) -> None:
        another = harness.another()
        assert another is not harness.embedder
        assert another.identity == harness.embedder.identity
        assert_same(embed(another, TEXTS), embed(harness.embedder, TEXTS))

    def test_E1_the_identity_outlives_use(self, harness: EmbedderHarness) -> None:
        before = harness.embedder.identity
        embed(harness.embedder, TEXTS)
        assert harness.embedder.identity == before
        assert before

    @pytest.mark.parametrize("hash_seed", ["1", "2"])
    def test_E1_the_identity_is_the_same_in_every_process(self, harness: EmbedderHarness, hash_seed: str) -> None:
        printed = subprocess.run(  # noqa: S603 - a program of the harness's own
            [sys.executable, "-c", harness.identity_program()],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        )
        assert printed.stdout.strip() == harness.embedder.identity

    def test_E2_vectors_are_finite_float32_of_the_dimension(self, harness: EmbedderHarness) -> None:
        vectors = embed(harness.embedder, TEXTS)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), harness.embedder.dimension)
        assert np.isfinite(vectors).all()

    def test_E2_vectors_come_in_the_order_of_the_texts(self, harness: EmbedderHarness) -> None:
        together, alone = embed(harness.embedder, TEXTS), one_by_one(harness.embedder, TEXTS)
        nearest = [int(np.square(alone - vector).sum(axis=1).argmin()) for vector in together]
        assert nearest == list(range(len(TEXTS)))

    def test_E2_a_vector_does_not_depend_on_the_other_texts(self, harness: EmbedderHarness) -> None:
        assert_same(embed(harness.embedder, TEXTS), one_by_one(harness.embedder, TEXTS))

    def test_E2_one_text_twice_in_a_call_gives_two_vectors(self, harness: EmbedderHarness) -> None:
        first, other, second = embed(harness.embedder, [TEXTS[0], TEXTS[1], TEXTS[0]])
        assert_same(first, second)
        assert np.abs(first - other).max() > TOLERANCE

    def test_E2_a_full_call_is_answered_in_full(self, harness: EmbedderHarness) -> None:
        texts = [f"text {n}" for n in range(harness.embedder.limits.texts_per_call)]
        assert embed(harness.embedder, texts).shape == (len(texts), harness.embedder.dimension)

    def test_E3_the_last_word_of_the_longest_text_counts(self, harness: EmbedderHarness) -> None:
        embedder = harness.embedder
        one, other = (longest_text(embedder, last) for last in ("volcano", "butter"))
        assert np.abs(embed(embedder, [one]) - embed(embedder, [other])).max() > TOLERANCE

    def test_E3_tokens_are_counted_text_by_text(self, harness: EmbedderHarness) -> None:
        embedder = harness.embedder
        counts = embedder.count_tokens(TEXTS)
        assert counts == [count for text in TEXTS for count in embedder.count_tokens([text])]
        assert all(count > 0 for count in counts)
        assert embedder.count_tokens([]) == []

    def test_E3_tokens_are_counted_past_the_limit(self, harness: EmbedderHarness) -> None:
        limit = harness.embedder.limits.tokens_per_text
        (long, longer) = harness.embedder.count_tokens(["word " * limit * 2, "word " * limit * 4])
        assert limit < long < longer

    def test_E4_no_texts_give_no_vectors_without_a_call(self, harness: EmbedderHarness) -> None:
        before = harness.calls
        vectors = embed(harness.embedder, [])
        assert vectors.shape == (0, harness.embedder.dimension)
        assert vectors.dtype == np.float32
        assert harness.calls == before
        embed(harness.embedder, TEXTS[:1])
        assert harness.calls > before, "the harness does not count calls"

    @pytest.mark.parametrize("position", [0, 1, 2])
    def test_E5_an_unacceptable_text_is_rejected(self, harness: EmbedderHarness, position: int) -> None:
        good = list(TEXTS[:2])
        with pytest.raises(RejectedError) as caught:
            embed(harness.embedder, [*good[:position], harness.unacceptable(), *good[position:]])
        assert str(caught.value)
        assert_same(embed(harness.embedder, good), embed(harness.another(), good))

    def test_E5_a_passing_failure_is_transient_and_names_the_wait(self, harness: EmbedderHarness) -> None:
        harness.fail_next_call(retry_after_seconds=7)
        with pytest.raises(TransientError) as caught:
            embed(harness.embedder, TEXTS[:2])
        assert caught.value.retry_after_seconds == 7
        assert_same(embed(harness.embedder, TEXTS[:2]), embed(harness.another(), TEXTS[:2]))


def embed(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Embed some documents in one call."""
    return embedder.embed(texts, InputType.SEARCH_DOCUMENT)


def one_by_one(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Embed some documents in a call each."""
    return np.concatenate([embed(embedder, [text]) for text in texts])


def assert_same(some: Vectors, others: Vectors) -> None:
    """Compare vectors as the contract does."""
    np.testing.assert_allclose(some, others, rtol=0, atol=TOLERANCE)


def longest_text(embedder: Embedder, last: str) -> str:
    """Make the longest text that is embedded whole, out of one word and another at its end."""
    words, limit = 0, embedder.limits.tokens_per_text
    step = 1 << limit.bit_length()
    while step:
        if embedder.count_tokens([f"{'word ' * (words + step)}{last}"])[0] <= limit:
            words += step
        step //= 2
    return f"{'word ' * words}{last}"

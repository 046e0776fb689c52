"""The forms of a vector: each is what the wire says, and ranks as the vector does."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

import connector
from connector.embedders.cutting import Cut
from connector.embedders.local import LocalEmbedder
from connector.embedders.pinned import MODELS
from connector.embedjobs.quantization import base64_of, forms
from connector.embedjobs.values import EmbeddingType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connector.model import Vectors

    Scores = NDArray[np.float64]

MODEL = MODELS["all-MiniLM-L6-v2"]
RANGE = MODEL.int8_range
FLOAT, INT8, UINT8, BINARY, UBINARY = EmbeddingType
NEAREST = 10


def sentences() -> list[str]:
    """Real ones, of this project's own documentation."""
    root = Path(connector.__file__).parent.parent
    files = [*sorted(root.glob("*.md")), *sorted((root / "docs").glob("*.md"))]
    found = re.split(r"(?<=[.:])\s+|\n\n|\|", " ".join(file.read_text() for file in files))
    return [sentence for sentence in dict.fromkeys(found) if len(sentence.split()) >= 5][:200]


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    embedder = LocalEmbedder.of(MODEL)
    vectors = embedder.embed_counted(sentences(), Cut.END).vectors
    embedder.close()
    assert len(vectors) >= 150
    return vectors


def numbers(vectors: Vectors, type: EmbeddingType) -> Scores:
    return forms(vectors, [type], RANGE)[type].astype(np.float64)


def dot(rows: Scores) -> Scores:
    return rows @ rows.T


def nearness(rows: Scores) -> Scores:
    """The Euclidean distance squared, and negative, so that more is nearer."""
    squares = (rows**2).sum(axis=1)
    scores: Scores = 2 * rows @ rows.T - squares - squares[:, None]
    return scores


def cosine(rows: Scores) -> Scores:
    return dot(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def same_bits(rows: Scores) -> Scores:
    bits = np.unpackbits(rows.astype(np.uint8), axis=1).astype(np.float64)
    return nearness(bits)


def found_of_the_nearest(scores: Scores, right: Scores) -> float:
    """Which share of each text's nearest by `right` is among its nearest by `scores`."""

    def nearest(by: Scores) -> list[set[int]]:
        others = by.copy()
        np.fill_diagonal(others, -np.inf)
        return [set(row) for row in np.argsort(-others, axis=1, kind="stable")[:, :NEAREST].tolist()]

    pairs = zip(nearest(scores), nearest(right), strict=True)
    return float(np.mean([len(found & wanted) / NEAREST for found, wanted in pairs]))


@pytest.mark.parametrize(
    "type, score, at_least, at_most",
    [
        (INT8, dot, 0.98, 1),
        (INT8, cosine, 0.98, 1),
        (INT8, nearness, 0.98, 1),
        (UINT8, nearness, 0.98, 1),
        (UINT8, cosine, 0.97, 1),
        (UINT8, dot, 0, 0.85),  # the shifted zero: the docstring warns of it
        (UBINARY, same_bits, 0.6, 0.9),
    ],
)
def test_a_form_ranks_as_the_vectors_do_by_the_measure_that_is_said_of_it(
    vectors: Vectors, type: EmbeddingType, score: Callable[[Scores], Scores], at_least: float, at_most: float
) -> None:
    found = found_of_the_nearest(score(numbers(vectors, type)), dot(numbers(vectors, FLOAT)))
    assert at_least <= found <= at_most


def test_int8_dot_products_are_those_of_the_vectors_times_a_constant(vectors: Vectors) -> None:
    scaled = dot(numbers(vectors, INT8)) * (RANGE / 127) ** 2
    np.testing.assert_allclose(scaled, dot(numbers(vectors, FLOAT)), rtol=0, atol=0.02)


def test_less_than_one_number_in_a_thousand_of_the_model_is_clipped(vectors: Vectors) -> None:
    assert 0 < (np.abs(vectors) > RANGE).mean() < 0.001


def test_distances_of_uint8_are_those_of_int8_and_hamming_distances_of_binary_those_of_ubinary(
    vectors: Vectors,
) -> None:
    np.testing.assert_array_equal(nearness(numbers(vectors, UINT8)), nearness(numbers(vectors, INT8)))
    signed = forms(vectors, [BINARY], RANGE)[BINARY].view(np.uint8).astype(np.float64)
    np.testing.assert_array_equal(same_bits(signed), same_bits(numbers(vectors, UBINARY)))


def test_a_vector_has_the_same_forms_alone_and_among_others(vectors: Vectors) -> None:
    together = forms(vectors, EmbeddingType, RANGE)
    for position in (0, 7, len(vectors) - 1):
        alone = forms(vectors[position : position + 1], EmbeddingType, RANGE)
        for type in EmbeddingType:
            np.testing.assert_array_equal(alone[type][0], together[type][position])


def test_the_forms_of_a_few_numbers_are_those_of_the_table() -> None:
    vector = np.array([[0.2, -0.2, 0.1, -0.1, 0.0, 0.3, -0.3, 0.0008]], dtype=np.float32)
    found = {type: form.tolist() for type, form in forms(vector, EmbeddingType, 0.2).items()}
    assert found == {
        FLOAT: vector.tolist(),
        INT8: [[127, -127, 64, -64, 0, 127, -127, 1]],
        UINT8: [[255, 1, 192, 64, 128, 255, 1, 129]],
        BINARY: [[0b10100101 - 128]],
        UBINARY: [[0b10100101]],
    }


def test_each_form_has_its_type_and_its_width(vectors: Vectors) -> None:
    found = forms(vectors[:3], EmbeddingType, RANGE)
    assert {type: (form.dtype.name, form.shape) for type, form in found.items()} == {
        FLOAT: ("float32", (3, 384)),
        INT8: ("int8", (3, 384)),
        UINT8: ("uint8", (3, 384)),
        BINARY: ("int8", (3, 48)),
        UBINARY: ("uint8", (3, 48)),
    }


def test_only_what_is_asked_for_is_made(vectors: Vectors) -> None:
    assert list(forms(vectors, [UINT8, FLOAT, UINT8], RANGE)) == [UINT8, FLOAT]
    assert forms(vectors, [], RANGE) == {}
    assert forms(vectors, [FLOAT], RANGE)[FLOAT] is vectors


@pytest.mark.parametrize("type", EmbeddingType)
def test_no_vectors_have_forms_of_no_rows(type: EmbeddingType) -> None:
    empty = np.empty((0, 384), dtype=np.float32)
    assert len(forms(empty, [type], RANGE)[type]) == 0
    assert base64_of(empty) == []


ROWS = st_numpy.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.sampled_from([8, 16, 24])), elements=st.floats(-1, 1, width=32)
)


@given(ROWS, st.sampled_from([0.2, 0.43, 1.0]))
def test_int8_again_is_the_same_int8(rows: Vectors, range: float) -> None:
    once = forms(rows, [INT8], range)[INT8]
    again = forms((once * np.float32(range / 127)).astype(np.float32), [INT8], range)[INT8]
    np.testing.assert_array_equal(once, again)


@given(ROWS, st.sampled_from([0.2, 0.43, 1.0]))
def test_int8_is_half_a_step_away_at_most_symmetric_and_never_beyond_127(rows: Vectors, range: float) -> None:
    found = forms(rows, [INT8], range)[INT8].astype(np.float64)
    exact = np.clip(rows.astype(np.float64) * 127 / range, -127, 127)
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.501)
    np.testing.assert_array_equal(forms(-rows, [INT8], range)[INT8], -found)


@given(ROWS)
def test_the_forms_hold_together_as_the_wire_says(rows: Vectors) -> None:
    found = forms(rows, EmbeddingType, RANGE)
    np.testing.assert_array_equal(found[UBINARY], np.packbits(found[FLOAT] > 0, axis=1))
    np.testing.assert_array_equal(found[BINARY].astype(int), found[UBINARY].astype(int) - 128)
    np.testing.assert_array_equal(found[UINT8].astype(int), found[INT8].astype(int) + 128)


def test_base64_is_of_the_little_endian_bytes_of_float(vectors: Vectors) -> None:
    for text, vector in zip(base64_of(vectors), vectors, strict=True):
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(text), dtype="<f4"), vector)
    assert base64_of(vectors[:, ::2])[0] == base64_of(np.ascontiguousarray(vectors[:1, ::2]))[0]

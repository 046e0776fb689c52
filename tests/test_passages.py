"""Passages fit, lose nothing, and stay where they are when another part of the document is edited."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from connector import passages
from connector.model import Document, DocumentId, Passage
from connector.passages import PassageSplitter
from connector.testing.fakes import HashEmbedder

PROSE = "The ferry does not run when the harbour freezes. The mail then comes over land, a day late.\n"


class Counter:
    """Counts tokens as a model might: a word costs one, and one more for each five letters; CJK one a character."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> list[int]:
        self.calls.append(list(texts))
        return [self.count(text) for text in texts]

    @staticmethod
    def count(text: str) -> int:
        return 2 + sum(1 + len(word) // 5 if word.isascii() else len(word) for word in text.split())


def document(text: str, *, markdown: bool = False) -> Document:
    return Document(DocumentId("doc"), bytes(16), text, {}, markdown)


def split(text: str, tokens: int = 64, *, markdown: bool = False) -> list[str]:
    return [passage.text for passage in PassageSplitter(tokens, Counter())(document(text, markdown=markdown))]


def bare(text: str) -> str:
    return "".join(text.split())


FENCE = "```python\ndef f(x):\n    return [y for y in x]\n\n\n```\n"
TABLE = "| name | price |\n|------|------:|\n" + "".join(f"| item {n} | {n * 7} |\n" for n in range(60))
BLOCKS = st.one_of(
    st.text(max_size=200),
    st.text(st.characters(codec="utf-8"), min_size=150, max_size=400),
    st.text(" \n\t\r\x0b\x0c\x1c\x85\xa0\u2028\u3000\ufeffab#|`-*>", max_size=300),
    st.integers(1, 400).map(lambda n: "日本語の文章です。" * n),
    st.integers(1, 200).map(lambda n: "👩\u200d👩\u200d👧🏽" * n),
    st.integers(1, 400).map(lambda n: "e\u0301\u0323" * n),
    st.integers(1, 2000).map(lambda n: base64.b64encode(random.Random(n).randbytes(n)).decode()),
    st.integers(1, 40).map(lambda n: PROSE * n),
    st.sampled_from(
        [FENCE * 10, TABLE, "# Heading\n\n## Another\n\n", "- a\n  - b\n    1. c\n" * 30, "> > deep\n" * 50]
    ),
    st.sampled_from(
        ["<div>\n" * 80, "[a](b) " * 90, "***" * 90, "\\" * 300, "    indented code\n" * 40, "half \ud83d " * 60]
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(BLOCKS, max_size=5).map("\n\n".join), st.booleans(), st.sampled_from([8, 33, 256]))
def test_every_passage_fits_and_nothing_but_whitespace_is_lost(text: str, markdown: bool, tokens: int) -> None:
    count = Counter()
    splitter = PassageSplitter(tokens, count)
    (found,) = splitter.split_many([document(text, markdown=markdown)])
    texts = [passage.text for passage in found.passages]
    assert list(found.tokens) == Counter()(texts)
    assert all(count <= tokens or len(text) == 1 for text, count in zip(texts, found.tokens, strict=True))
    assert all(text.strip() for text in texts)
    assert bare("".join(texts)) == bare(text)
    assert [passage.index for passage in found.passages] == list(range(len(texts)))
    assert splitter.split_many([document(text, markdown=markdown)]) == [found]


@given(st.lists(BLOCKS, max_size=6), st.booleans())
@settings(max_examples=50, deadline=None)
def test_splitting_many_documents_is_splitting_each(texts: list[str], markdown: bool) -> None:
    documents = [document(text, markdown=markdown) for text in texts]
    splitter = PassageSplitter(64, Counter())
    assert splitter.split_many(documents) == [splitter.split_many([one])[0] for one in documents]


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("text", ["  one  row,\n with its | own\tspacing \n", "# A\n\nb\n\n# C\n\n* d", PROSE * 2])
def test_a_document_that_fits_is_one_passage_of_its_own_text_stripped(text: str, markdown: bool) -> None:
    assert split(text, 256, markdown=markdown) == [text.strip()]


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000", " " * 5000])
def test_a_blank_document_has_no_passage(text: str) -> None:
    assert split(text) == []


def test_passages_name_their_document_and_are_numbered() -> None:
    passages = PassageSplitter(16, Counter())(document("one two three four five. " * 4))
    assert passages[1] == Passage(DocumentId("doc"), 1, passages[1].text)


def test_markdown_is_split_at_its_headings_and_text_is_not() -> None:
    text = "".join(f"# Part {n}\n\nSome words about part {n}, which is short.\nAnd more.\n" for n in range(8))
    assert all(passage.startswith("# Part") for passage in split(text, 32, markdown=True))
    assert not all(passage.startswith("# Part") for passage in split(text, 32))


def test_sentences_are_kept_whole_where_they_fit() -> None:
    sentences = [f"Sentence number {n} says what it says." for n in range(30)]
    passages = split(" ".join(sentences), 64)
    assert len(passages) > 3
    assert all(re.fullmatch(r"(Sentence number \d+ says what it says\. ?)+", passage) for passage in passages)


def test_an_edit_leaves_the_passages_before_it_and_most_of_those_after_it_as_they_were() -> None:
    paragraphs = [f"Paragraph {n}. {PROSE * (1 + n % 4)}\n" for n in range(100)]
    before = split("\n".join(paragraphs), 128)
    paragraphs[50] = f"Edited, and longer than it was. {paragraphs[50]}{PROSE}"
    after = split("\n".join(paragraphs), 128)
    place = next(n for n, passage in enumerate(before) if "Paragraph 50." in passage)
    assert before[: place - 1] == after[: place - 1]
    assert len(set(before) - set(after)) < len(before) / 4


def test_all_documents_are_counted_in_one_call() -> None:
    count = Counter()
    PassageSplitter(64, count).split_many([document("Twelve letters " * n) for n in range(100)])
    assert len(count.calls) == 1


def test_only_dense_pieces_are_split_and_counted_again() -> None:
    count = Counter()
    texts = [PROSE, "日本語の文章です。" * 20, PROSE]
    PassageSplitter(64, count).split_many([document(text) for text in texts])
    first, *later = count.calls
    assert first == [text.strip() for text in texts]
    assert later
    assert all("ferry" not in text for call in later for text in call)


def test_the_parts_of_a_dense_piece_are_about_even() -> None:
    lengths = [len(passage) for passage in split("漢" * 200, 64)]
    assert sum(lengths) == 200
    assert len(lengths) == 4
    assert min(lengths) > 20


def test_a_tokenizer_for_which_one_character_is_too_long_still_comes_to_an_end() -> None:
    splitter = PassageSplitter(5, lambda texts: [10] * len(texts))
    (found,) = splitter.split_many([document("abc déf " * 4)])
    assert "".join(passage.text for passage in found.passages) == "abcdéf" * 4
    assert set(found.tokens) == {10}


def test_max_characters_bounds_every_passage() -> None:
    splitter = PassageSplitter(256, Counter(), max_characters=100)
    assert max(len(passage.text) for passage in splitter(document(PROSE * 20))) <= 100


@pytest.mark.parametrize("characters", [0, -1])
def test_a_passage_without_room_for_a_character_is_refused_at_once(characters: int) -> None:
    with pytest.raises(ValueError, match="room for one character"):
        PassageSplitter(256, Counter(), max_characters=characters)


def test_the_identity_names_all_that_decides_where_a_text_is_split() -> None:
    library = f"semantic-text-splitter-{version('semantic-text-splitter')}"
    assert PassageSplitter(256, Counter()).identity == f"{library}/characters921/tokens256/1"
    assert PassageSplitter(512, Counter()).identity == f"{library}/characters1843/tokens512/1"
    assert PassageSplitter(512, Counter(), max_characters=900).identity == f"{library}/characters900/tokens512/1"


def test_passages_are_those_that_the_identity_stands_for() -> None:
    # If this fails after an upgrade, the library's version must be in the identity; if after an edit here, _ALGORITHM.
    text = "".join(f"## Part {n}\n\n{PROSE * n}\n- one\n  - two\n\n{'日本語の文章です。' * n}\n\n" for n in range(4))
    assert [len(passage) for passage in split(text, markdown=True)] == [157, 9, 91, 126, 9, 183, 135]
    assert [len(passage) for passage in split(text)] == [25, 139, 91, 126, 9, 183, 135]


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("unit", ["x", "word ", "日", "- item\n", "🙂"])
def test_a_long_text_is_shown_to_the_library_in_windows_since_its_time_is_quadratic(
    unit: str, markdown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, the library takes 4 s of 200,000 such characters, and 16 times that of four times as many."""
    shown: list[int] = []

    def watched(make: Callable[[int], MarkdownSplitter | TextSplitter]) -> Callable[[int], object]:
        def splitter(capacity: int) -> object:
            inner = make(capacity)

            class Watching:
                def chunk_indices(self, text: str) -> list[tuple[int, str]]:
                    shown.append(len(text))
                    return inner.chunk_indices(text)

            return Watching()

        return splitter

    monkeypatch.setattr(passages, "TextSplitter", watched(TextSplitter))
    monkeypatch.setattr(passages, "MarkdownSplitter", watched(MarkdownSplitter))
    text = unit * (200_000 // len(unit))
    (found,) = PassageSplitter(64, HashEmbedder().count_tokens).split_many([document(text, markdown=markdown)])
    assert max(shown) <= 32 * 64 * 3.6
    assert sum(shown) < 1.2 * len(text)
    assert bare("".join(passage.text for passage in found.passages)) == bare(text)

"""Passages: documents in pieces that are short enough to be embedded without being cut.

    document -> pieces by characters -> count all at once -> fits: a passage
                (headings, blocks,         ^                    |
                 sentences, words)         +--- smaller pieces -+ too long

A splitter that counts tokens at each step is a hundred times slower than one that counts characters. So a
piece is a guess by characters, which the embedder's own tokenizer confirms; only the few dense
pieces (code, CJK, base64) are split again.

The guess is the same for every document, and a document is filled from its start: an edit changes the
passages near it and leaves those before it as they were, vectors included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import chain, islice
from math import ceil

import msgspec
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from .model import Document, Passage

CountTokens = Callable[[Sequence[str]], list[int]]

_ALGORITHM = 1  # raise it when the same text may come out in other passages
_LIBRARY = "semantic-text-splitter"
_CHARACTERS_PER_TOKEN = 3.6  # of technical English: few passages have to be split again, and few come out short
_FILL = 0.9  # how full the parts of a dense piece shall be: its tokens are not spread evenly
_WINDOW_PIECES = 32  # how many pieces the library is shown room for at a time; see _pieces
_SURROGATE = re.compile("[\ud800-\udfff]")


class SplitDocument(msgspec.Struct, frozen=True, gc=False):
    """A document's passages, and how many tokens each of them has, so that nobody counts again."""

    passages: tuple[Passage, ...]
    tokens: tuple[int, ...]


class PassageSplitter:
    """Splits documents for one embedder.

    No passage has more than `tokens_per_text` tokens by `count_tokens` (unless one character has), none
    has more than `max_characters` characters, and none is blank. Between passages nothing is lost
    but whitespace. A document that fits is one passage: its text, stripped.
    """

    def __init__(self, tokens_per_text: int, count_tokens: CountTokens, max_characters: int | None = None) -> None:
        likely_characters = int(tokens_per_text * _CHARACTERS_PER_TOKEN)
        self._tokens = tokens_per_text
        self._characters = likely_characters if max_characters is None else min(likely_characters, max_characters)
        if self._characters < 1:
            raise ValueError("a passage needs room for one character")
        self._count_tokens = count_tokens
        self.identity = f"{_LIBRARY}-{version(_LIBRARY)}/characters{self._characters}/tokens{self._tokens}/{_ALGORITHM}"
        """All that decides where a text is split but the tokenizer, which the embedder's identity names."""

    def __call__(self, document: Document) -> Sequence[Passage]:
        return self.split_many([document])[0].passages

    def split_many(self, documents: Sequence[Document]) -> list[SplitDocument]:
        """Split some documents, with one count for the pieces of all of them."""
        pieces = [_pieces(document.text, document.markdown, self._characters) for document in documents]
        texts = list(chain.from_iterable(pieces))
        markdown = [document.markdown for document, texts in zip(documents, pieces, strict=True) for _ in texts]
        fitted = iter(self._fitted(texts, markdown))
        return [
            _numbered(document, list(chain.from_iterable(islice(fitted, len(texts)))))
            for document, texts in zip(documents, pieces, strict=True)
        ]

    def _fitted(self, texts: list[str], markdown: list[bool]) -> list[list[tuple[str, int]]]:
        """Give for each text the parts of it that fit, with their tokens; mostly that is the text itself."""
        counts = self._count_tokens(texts)
        fitted = [[(text, count)] for text, count in zip(texts, counts, strict=True)]
        dense = [n for n, count in enumerate(counts) if count > self._tokens and len(texts[n]) > 1]
        if dense:
            smaller = [_pieces(texts[n], markdown[n], self._smaller(len(texts[n]), counts[n])) for n in dense]
            again = iter(
                self._fitted(
                    list(chain.from_iterable(smaller)),
                    [markdown[n] for n, parts in zip(dense, smaller, strict=True) for _ in parts],
                )
            )
            for n, parts in zip(dense, smaller, strict=True):
                fitted[n] = list(chain.from_iterable(islice(again, len(parts))))
        return fitted

    def _smaller(self, characters: int, tokens: int) -> int:
        """Say how long the parts of a dense piece may be: about even, and shorter each time, so that it ends."""
        parts = ceil(tokens / (_FILL * self._tokens))
        return max(1, min(ceil(characters / (_FILL * parts)), characters - 1))


def _pieces(text: str, markdown: bool, characters: int) -> list[str]:
    """Split at the best places there are, with at most so many characters each."""
    text = text.strip()
    if len(text) <= characters:
        return [text] if text else []
    splitter = MarkdownSplitter(characters) if markdown else TextSplitter(characters)
    # Half a surrogate pair cannot pass into Rust; the offsets are of characters, so a stand-in will do.
    rust_text = _SURROGATE.sub("\ufffd", text)
    # The library takes quadratic time over text without sentences or lines (0.4 s for 200 kB of base64, minutes for
    # 4 MB), so it sees one window at a time. The last piece in a window is split again with what follows it.
    window = characters * _WINDOW_PIECES
    pieces: list[str] = []
    start = 0
    while start < len(text):
        found = splitter.chunk_indices(rust_text[start : start + window])
        step = window
        if start + window < len(text) and len(found) > 1:
            step, _ = found.pop()
        pieces += [text[start + offset : start + offset + len(piece)] for offset, piece in found if piece.strip()]
        start += step
    return pieces


def _numbered(document: Document, parts: list[tuple[str, int]]) -> SplitDocument:
    return SplitDocument(
        tuple(Passage(document.id, index, text) for index, (text, _) in enumerate(parts)),
        tuple(tokens for _, tokens in parts),
    )

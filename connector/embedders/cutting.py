"""Texts that are too long for a model: which end is left out, and how much need be read to know what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum

# An encoding takes some hundred bytes for each token, so what is encoded at once is bounded by its characters too.
_TEXTS_AT_ONCE = 512
_CHARACTERS_AT_ONCE = 262_144


class Cut(StrEnum):
    """Which end of a text that is too long is left out; NONE rejects it."""

    NONE = "NONE"
    START = "START"
    END = "END"


def cut_ids(ids: Sequence[int], limit: int, cut: Cut) -> Sequence[int]:
    """Leave out what is too much of a text's tokens, but neither the token that opens it nor the one that closes it."""
    if len(ids) <= limit:
        return ids
    return [ids[0], *ids[1 - limit :]] if cut is Cut.START else [*ids[: limit - 1], ids[-1]]


def kept_end(text: str, size: int, cut: Cut) -> str:
    """Give about `size` characters of the end that is kept, up to white space; empty if there is none in them.

    The tokens of what is given are the first ones, or the last, of the whole text: no token spans white space.
    """
    if len(text) <= size:
        return text
    if cut is Cut.START:
        places = [place for place in (text.find(white, len(text) - size) for white in " \n") if place >= 0]
        return text[min(places) :] if places else ""
    return text[: max(0, *(text.rfind(white, 0, size) for white in " \n"))]


def groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Group texts, in order, so that a group's encodings fit into some megabytes."""
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and (len(group) == _TEXTS_AT_ONCE or characters + len(text) > _CHARACTERS_AT_ONCE):
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group

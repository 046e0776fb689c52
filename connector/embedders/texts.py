"""What embedders of services ask of texts before they send them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from connector.errors import RejectedError

EXCERPT_CHARACTERS: Final = 40
ROOM_TOKENS: Final = 8  # for the special tokens of any model
LONGEST_PROBE_WORDS: Final = 8_000


def demand_encodable(texts: Sequence[str]) -> None:
    """Refuse texts that no JSON can carry; RejectedError names the first."""
    for position, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RejectedError(
                f"text {position + 1} of {len(texts)} holds half a surrogate pair: {text[:EXCERPT_CHARACTERS]!a}"
            ) from None


def probe_text() -> str:
    """Give a text to find out what a service answers, at the cost of a token."""
    return "a"


def repeated_probe(tokens: int) -> str:
    """Give a text of about so many tokens, and not more, whatever the tokenizer."""
    return " ".join(["a"] * max(1, min(tokens - ROOM_TOKENS, LONGEST_PROBE_WORDS)))

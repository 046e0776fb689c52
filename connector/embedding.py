"""Texts to vectors: each text once, from the vector store where it is there, and into it where not.

Nothing is used before it is stored, so what was paid for survives whatever comes next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from .errors import RejectedError
from .events import Emit, TextsEmbedded
from .model import InputType
from .money import Spending
from .pace import Pace
from .ports import Embedder, VectorStore
from .retry import Retry
from .stopping import Stop

if TYPE_CHECKING:
    from .model import Vectors

MAX_TEXTS_PER_CALL = 96  # a kill costs at most one call, so a call is kept short


class Text(msgspec.Struct, frozen=True, gc=False):
    """A text to embed, and how many tokens it has."""

    text: str
    tokens: int


@dataclass(slots=True)
class Embedding:
    """Embeds what is missing, and counts what it cost."""

    embedder: Embedder
    vectors: VectorStore
    retry: Retry
    emit: Emit
    spending: Spending = field(default_factory=lambda: Spending(None))
    pace: Pace | None = None
    stop: Stop = field(default_factory=Stop)
    texts_embedded: int = field(default=0, init=False)
    texts_reused: int = field(default=0, init=False)
    tokens_embedded: int = field(default=0, init=False)

    def embed(self, texts: Mapping[bytes, Text]) -> tuple[Mapping[bytes, Vectors], dict[bytes, str]]:
        """Give each text's vector by the text's hash, and for those that have none the reason.

        Raises:
            TransientError: the embedder's failure outlived the retries; what was embedded is kept.
            SafetyError: the next call would pass the ceiling of what may be spent; the same.
            StoppedError: the run was asked to end; the same.
        """
        found = dict(self.vectors.get(list(texts)))
        reused = len(found)
        self.texts_reused += reused
        refused: dict[bytes, str] = {}
        # Texts of one length share a call, so that little is padded.
        missing = sorted((hash for hash in texts if hash not in found), key=lambda missed: texts[missed].tokens)
        size = min(MAX_TEXTS_PER_CALL, self.embedder.limits.texts_per_call)
        for start in range(0, len(missing), size):
            call = missing[start : start + size]
            found.update(self._embed(call, texts, refused))
            tokens = sum(texts[hash].tokens for hash in call if hash in found)
            embedded = sum(hash in found for hash in call)
            self.texts_embedded += embedded
            self.tokens_embedded += tokens
            self.emit(TextsEmbedded(embedded, tokens, reused))
            reused = 0
        if reused:
            self.emit(TextsEmbedded(0, 0, reused))
        return found, refused

    def _embed(
        self, call: Sequence[bytes], texts: Mapping[bytes, Text], refused: dict[bytes, str]
    ) -> list[tuple[bytes, Vectors]]:
        """Embed and store one call; halve it down to the texts that can never be embedded."""
        sent = [texts[hash].text for hash in call]
        tokens = sum(texts[hash].tokens for hash in call)
        self.spending.allow(tokens)
        try:
            vectors = self.retry(f"embed {len(sent)} texts", lambda: self._call(sent, tokens), self.emit)
            self._demand_sound(vectors, len(sent))
        except RejectedError as error:
            if len(call) == 1:
                refused[call[0]] = f"the embedder refused it: {error}"
                return []
            middle = len(call) // 2
            return self._embed(call[:middle], texts, refused) + self._embed(call[middle:], texts, refused)
        self.spending.add(tokens)
        self.vectors.put(call, vectors)
        return list(zip(call, vectors, strict=True))

    def _call(self, sent: Sequence[str], tokens: int) -> Vectors:
        """Make one call, at the pace that the service allows."""
        if self.pace is not None:
            self.pace.wait(len(sent), tokens)
        self.stop.demand()
        return self.embedder.embed(sent, InputType.SEARCH_DOCUMENT)

    def _demand_sound(self, vectors: Vectors, count: int) -> None:
        if vectors.shape != (count, self.embedder.dimension):
            raise AssertionError(
                f"{self.embedder.identity} gave vectors of shape {vectors.shape} for {count} texts [E2]"
            )
        if not np.isfinite(vectors).all():
            raise RejectedError("its vector has parts that are not finite numbers")

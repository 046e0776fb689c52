"""Real fakes for everybody's tests: they keep their contracts, count what was asked of them, and fail on request.

Nothing here imports pytest, so a fake also works in a benchmark and in a process of its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import shake_128
from typing import TYPE_CHECKING

import numpy as np

from connector.errors import RejectedError
from connector.model import InputType
from connector.ports import EmbedLimits

if TYPE_CHECKING:
    from connector.model import Vectors

_CHARACTERS_PER_TOKEN = 4
_SPECIAL_TOKENS = 2


@dataclass(slots=True)
class HashEmbedder:
    """An embedder whose vectors are hashes: unit float32, and exactly the same for the same text.

    A vector is a function of `identity` and of the text, cut to `tokens_per_text`; `input_type` has
    no effect. So a passage searched for by its own text is found with a score of 1.
    """

    dimension: int = 8
    tokens_per_text: int = 256
    texts_per_call: int = 96
    identity: str = ""  # empty: made of the dimension and the tokens
    reject: Callable[[str], bool] = field(default=lambda _text: False)

    texts_seen: list[str] = field(default_factory=list, init=False)
    """What was paid for: the texts of each call that succeeded, in order."""
    calls: int = field(default=0, init=False)
    """How many calls reached the "service", failed ones included."""
    closed: bool = field(default=False, init=False)
    _failures: deque[Exception] = field(default_factory=deque, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.identity = self.identity or f"hash/dim{self.dimension}/tokens{self.tokens_per_text}"

    @property
    def limits(self) -> EmbedLimits:
        return EmbedLimits(self.texts_per_call, self.tokens_per_text)

    def fail_next(self, *errors: Exception) -> None:
        """Let the next calls fail, one for each error, in this order."""
        self._failures.extend(errors)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) // _CHARACTERS_PER_TOKEN + _SPECIAL_TOKENS for text in texts]

    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:  # noqa: ARG002 - symmetric, as many models are
        if len(texts) > self.texts_per_call:
            raise ValueError(f"a call of {len(texts)} texts, where {self.texts_per_call} are allowed")
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        with self._lock:
            self.calls += 1
            if self._failures:
                raise self._failures.popleft()
            vectors = self._vectors(texts)
            self.texts_seen.extend(texts)
        return vectors

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        characters = (self.tokens_per_text - _SPECIAL_TOKENS + 1) * _CHARACTERS_PER_TOKEN - 1
        salt = shake_128(self.identity.encode() + b"\0")
        digests = bytearray()
        for position, text in enumerate(texts):
            if self.reject(text):
                raise RejectedError(f"text {position + 1} of {len(texts)} is refused: {text[:40]!a}")
            try:
                encoded = text[:characters].encode()
            except UnicodeEncodeError as error:
                raise RejectedError(
                    f"text {position + 1} of {len(texts)} holds half a character: {text[:40]!a}"
                ) from error
            hashed = salt.copy()
            hashed.update(encoded)
            digests += hashed.digest(self.dimension)
        # Odd whole numbers: never all zero, and their squares add up exactly, whatever is beside them in the call.
        parts = 2 * np.frombuffer(digests, dtype=np.int8).reshape(len(texts), self.dimension).astype(np.int64) + 1
        norms = np.sqrt(np.square(parts).sum(axis=1, keepdims=True))
        vectors: Vectors = (parts / norms).astype(np.float32)
        return vectors

    def close(self) -> None:
        self.closed = True

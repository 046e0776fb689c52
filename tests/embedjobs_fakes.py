"""Real fakes for the service's tests: a model that counts, fails, waits and dies when it is told to."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from connector import model as sync_model
from connector.embedjobs.models import Embedded, Token
from connector.embedjobs.values import InputType, Truncate
from connector.errors import RejectedError
from connector.testing.fakes import HashEmbedder

CHARACTERS_PER_TOKEN = 4
FIRST_SURROGATE = 0xD800


def text_hash(text: str, input_type: InputType) -> str:
    """A line of `CountingModel.log_path`."""
    return f"{input_type} {blake2b(text.encode(), digest_size=12).hexdigest()}"


@dataclass(slots=True)
class CountingModel:
    """A served model whose vectors are hashes: unit float32, a function of the text and of the input type."""

    name: str = "hash"
    dimension: int = 8
    tokens_per_text: int = 256
    int8_range: float = 1.0
    identity: str = ""  # empty: made of the name and the dimension
    log_path: Path | None = None
    """Where each text is noted, a line each, before it is embedded; appended to, also by the next process."""
    die_at_call: int = 0
    """The call, from 1, in which the process kills itself, when its texts are noted."""
    failures: deque[Exception] = field(default_factory=deque)
    """Raised by the next calls, one each."""
    gate: threading.Event | None = None
    """Each call waits for it, when its texts are noted."""
    entered: threading.Event = field(default_factory=threading.Event)
    """Set by each call, before it waits."""
    calls: list[list[str]] = field(default_factory=list)
    """The texts of each call, failed ones included."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.identity = self.identity or f"{self.name}/{self.dimension}"

    def embed(self, texts: Sequence[str], *, input_type: InputType, truncate: Truncate) -> Embedded:
        longest = max(map(self._whole, texts), default=0)
        if truncate is Truncate.NONE and longest > self.tokens_per_text:
            raise RejectedError(f"a text of {longest} tokens is too long")
        with self._lock:
            self.calls.append(list(texts))
            self._note(texts, input_type)
            if len(self.calls) == self.die_at_call:
                os.kill(os.getpid(), signal.SIGKILL)
            failure = self.failures.popleft() if self.failures else None
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(60), "nobody opened the gate"
        if failure is not None:
            raise failure
        return Embedded(self._embedder(input_type, len(texts)).embed(texts, _ANY), sum(map(self.count_tokens, texts)))

    def _note(self, texts: Sequence[str], input_type: InputType) -> None:
        if self.log_path is None:
            return
        descriptor = os.open(self.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, "".join(f"{text_hash(text, input_type)}\n" for text in texts).encode())
        finally:
            os.close(descriptor)

    def _embedder(self, input_type: InputType, texts: int) -> HashEmbedder:
        return HashEmbedder(self.dimension, self.tokens_per_text, max(1, texts), f"{self.identity}/{input_type}")

    def count_tokens(self, text: str) -> int:
        return min(self.tokens_per_text, self._whole(text))

    def _whole(self, text: str) -> int:
        return len(text) // CHARACTERS_PER_TOKEN + 2

    def tokenize(self, text: str) -> list[Token]:
        return [Token(ord(character), character) for character in text]

    def detokenize(self, ids: Sequence[int]) -> str:
        if not all(0 <= id < FIRST_SURROGATE for id in ids):
            raise RejectedError("there is no such token")
        return "".join(map(chr, ids))

    @property
    def texts_seen(self) -> list[str]:
        """All texts of all calls, in order."""
        return [text for call in self.calls for text in call]


_ANY = sync_model.InputType.SEARCH_DOCUMENT  # which the hash leaves out: here it is part of the identity

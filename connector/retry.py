"""Make a call again while it fails for reasons that may pass."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from .errors import TransientError
from .events import CallRetried, Emit, ignore

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff with full jitter; a wait that the service names is kept to."""

    attempts: int = 6
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random

    def __call__(self, what: str, call: Callable[[], T], emit: Emit = ignore) -> T:
        """Make the call; the TransientError of the last attempt is the caller's."""
        for attempt in range(1, self.attempts):
            try:
                return call()
            except TransientError as error:
                wait_seconds = self._wait_seconds(attempt, error)
                emit(CallRetried(what, str(error), wait_seconds))
                self.sleep(wait_seconds)
        return call()

    def _wait_seconds(self, attempt: int, error: TransientError) -> float:
        if error.retry_after_seconds is not None:
            return error.retry_after_seconds
        return self.random() * min(self.longest_wait_seconds, self.first_wait_seconds * 2.0 ** (attempt - 1))

"""Make a call again while it fails for reasons that may pass."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from .errors import TransientError
from .events import CallRetried, Emit, ignore

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff with full jitter; a wait that the service names is kept to, if it is not too long.

    For longer ones a run does not hold the lease: the failure counts as one that does not pass, and the next run asks.
    """

    attempts: int = 6
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 60.0  # of our own accord
    longest_named_wait_seconds: float = 600.0
    sleep: Callable[[float], object] = time.sleep  # True: it was ended by a stop, and the call is not made again
    random: Callable[[], float] = random.random

    def __call__(self, what: str, call: Callable[[], T], emit: Emit = ignore) -> T:
        """Make the call; the TransientError of the last attempt is the caller's."""
        for attempt in range(1, self.attempts):
            try:
                return call()
            except TransientError as error:
                wait_seconds = self._wait_seconds(attempt, error)
                if wait_seconds > self.longest_named_wait_seconds:
                    raise TransientError(f"{error}; the service asks to come back in {wait_seconds:,.0f} s") from error
                emit(CallRetried(what, str(error), wait_seconds))
                if self.sleep(wait_seconds) is True:
                    raise
        return call()

    def until(self, stopped: threading.Event) -> Retry:
        """Give the same, whose waits end early when the event is set; then the failure at hand is the caller's."""
        return replace(self, sleep=stopped.wait) if self.sleep is time.sleep else self

    def _wait_seconds(self, attempt: int, error: TransientError) -> float:
        if error.retry_after_seconds is not None:
            return error.retry_after_seconds
        return self.random() * min(self.longest_wait_seconds, self.first_wait_seconds * 2.0 ** (attempt - 1))

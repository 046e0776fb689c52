"""Keep to a service's rate limit: so many texts and tokens a minute, all threads together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .ports import EmbedLimits

SECONDS_A_MINUTE = 60.0
BURST_SECONDS = 6.0
"""How much may be sent at once after a pause, as so many seconds of the rate. Services count by the minute."""


class Pace:
    """Tells each call how long to wait, so that the limits hold over any minute.

    Each limit is a bucket that fills up to `BURST_SECONDS` of its rate; the rate is such that a burst and the minute
    after it are the limit together. A call takes what it needs and may leave the bucket in debt, which it waits
    for: so a call that is larger than the bucket is late, not impossible.
    """

    def __init__(
        self,
        limits: EmbedLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._buckets = [
            _Bucket(per_minute / (SECONDS_A_MINUTE + BURST_SECONDS), clock()) if per_minute is not None else None
            for per_minute in (limits.inputs_per_minute, limits.tokens_per_minute)
        ]

    def wait(self, texts: int, tokens: int) -> float:
        """Wait until a call may be made; give how long that was. Calls are let through in the order they came."""
        with self._lock:
            now = self._clock()
            waits = [
                bucket.take(amount, now)
                for bucket, amount in zip(self._buckets, (texts, tokens), strict=True)
                if bucket is not None
            ]
        wait_seconds = max(waits, default=0.0)
        if wait_seconds:
            self._sleep(wait_seconds)
        return wait_seconds


class _Bucket:
    """One limit."""

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._filled = per_second * BURST_SECONDS
        self._at = now

    def take(self, amount: int, now: float) -> float:
        """Take an amount; give the seconds until it is there."""
        refilled = self._filled + (now - self._at) * self._per_second
        self._filled = min(refilled, self._per_second * BURST_SECONDS) - amount
        self._at = now
        return max(0.0, -self._filled / self._per_second)

"""Rate limits, with a clock and a sleep of our own."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.pace import BURST_SECONDS, Pace
from connector.ports import EmbedLimits


class Time:
    """A clock that only sleeping, and the test, move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def pace(time: Time, *, inputs: int | None = None, tokens: int | None = None) -> Pace:
    limits = EmbedLimits(96, 512, inputs_per_minute=inputs, tokens_per_minute=tokens)
    return Pace(limits, clock=time, sleep=time.sleep)


def test_without_limits_nothing_waits() -> None:
    assert pace(Time()).wait(10**6, 10**9) == 0.0


def test_the_first_calls_go_at_once_and_the_next_ones_at_the_rate() -> None:
    time = Time()
    limited = pace(time, inputs=660)  # ten a second, and a burst
    assert limited.wait(int(10 * BURST_SECONDS), 0) == 0.0
    assert limited.wait(96, 0) == pytest.approx(9.6)
    assert limited.wait(96, 0) == pytest.approx(9.6)


def test_a_pause_is_made_up_for_only_as_far_as_the_burst() -> None:
    time = Time()
    limited = pace(time, inputs=660)
    limited.wait(60, 0)
    time.sleep(3600)
    assert limited.wait(60, 0) == 0.0
    assert limited.wait(10, 0) == pytest.approx(1.0)


def test_the_tighter_limit_decides() -> None:
    time = Time()
    limited = pace(time, inputs=6600, tokens=6600)
    assert limited.wait(1, 600 + 6000) == pytest.approx(60.0)


def test_a_call_larger_than_any_burst_is_late_and_not_impossible() -> None:
    assert pace(Time(), inputs=66).wait(96, 0) == pytest.approx(90.0)


@given(calls=st.lists(st.tuples(st.integers(1, 96), st.floats(0, 30)), min_size=1, max_size=200))
def test_no_minute_has_more_than_the_limit(calls: list[tuple[int, float]]) -> None:
    time = Time()
    limited = pace(time, inputs=2000)
    sent: deque[tuple[float, int]] = deque()
    for texts, idle_seconds in calls:
        time.sleep(idle_seconds)
        limited.wait(texts, 0)
        sent.append((time.now, texts))
        while sent[0][0] <= time.now - 60:
            sent.popleft()
        assert sum(count for _, count in sent) <= 2000

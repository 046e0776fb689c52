"""Who is let in to the model next, and how its vectors are written."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from connector.decimals import shortest
from connector.embedjobs.admission import Admission
from connector.embedjobs.refusals import BusyError

if TYPE_CHECKING:
    from connector.model import Vectors

T = TypeVar("T")


# --- admission ----------------------------------------------------------------------------------------


class Clock:
    """Time that passes by a fixed step at each look."""

    def __init__(self, seconds: float) -> None:
        self._step = seconds
        self._now = 0.0

    def __call__(self) -> float:
        self._now += self._step
        return self._now


def admitted(
    test: Callable[[Admission], Coroutine[None, None, T]], *, threads: int = 1, waiting: int = 10, seconds: float = 1.0
) -> T:
    """Run a test in an event loop, with an admission of its own."""
    admission = Admission("test", threads=threads, waiting=waiting, clock=Clock(seconds))
    try:
        return asyncio.run(asyncio.wait_for(test(admission), 10))
    finally:
        admission.close()


async def queued(admission: Admission, count: int) -> None:
    """Let the tasks that were just started come as far as they can: to the queue."""
    await asyncio.sleep(0)
    assert admission.waiting == count


def test_a_call_runs_in_a_thread_and_gives_its_result() -> None:
    async def test(admission: Admission) -> str:
        return await admission.run(lambda: threading.current_thread().name)

    assert admitted(test).startswith("test")


def test_a_call_that_fails_fails_for_its_caller_and_frees_its_thread() -> None:
    async def test(admission: Admission) -> int:
        with pytest.raises(ValueError, match="abc"):
            await admission.run(lambda: int("abc"))
        return await admission.run(lambda: 1)

    assert admitted(test) == 1


def test_those_that_wait_are_let_in_by_priority_and_then_in_the_order_of_coming() -> None:
    order: list[str] = []

    async def test(admission: Admission) -> None:
        gate = threading.Event()
        first = asyncio.create_task(admission.run(lambda: gate.wait(10)))
        await asyncio.sleep(0)
        names = [("a5", 5), ("a0", 0), ("b5", 5), ("a999", 999), ("b0", 0)]
        tasks = []
        for count, (name, priority) in enumerate(names, 1):
            tasks.append(asyncio.create_task(admission.run(partial(order.append, name), priority=priority)))
            await queued(admission, count)
        gate.set()
        await asyncio.gather(first, *tasks)

    admitted(test)
    assert order == ["a0", "b0", "a5", "b5", "a999"]


def test_as_many_calls_run_at_once_as_there_are_threads() -> None:
    async def test(admission: Admission) -> None:
        meeting = threading.Barrier(3)
        await asyncio.gather(*(admission.run(lambda: meeting.wait(10)) for _ in range(3)))

    admitted(test, threads=3)


@pytest.mark.parametrize("seconds, wait", [(0.001, 1), (1, 2), (1000, 60)], ids=["at-least-1", "half-of-4", "60"])
def test_beyond_the_queue_a_call_is_refused_with_the_wait(seconds: float, wait: int) -> None:
    async def test(admission: Admission) -> int:
        for _ in range(30):
            await admission.run(lambda: None)  # which takes one step of the clock
        gate = threading.Event()
        tasks = [asyncio.create_task(admission.run(lambda: gate.wait(10))) for _ in range(5)]
        await queued(admission, 4)
        with pytest.raises(BusyError, match="4 requests wait for the model already") as caught:
            await admission.run(lambda: None)
        gate.set()
        await asyncio.gather(*tasks)
        await admission.run(lambda: None)
        return caught.value.retry_after_seconds

    assert admitted(test, waiting=4, seconds=seconds) == wait


def test_a_call_that_gives_up_waiting_leaves_its_place() -> None:
    async def test(admission: Admission) -> list[str]:
        gate, order = threading.Event(), list[str]()
        first = asyncio.create_task(admission.run(lambda: gate.wait(10)))
        await asyncio.sleep(0)
        gone = asyncio.create_task(admission.run(lambda: order.append("gone")))
        await queued(admission, 1)
        stays = asyncio.create_task(admission.run(lambda: order.append("stays")))
        await queued(admission, 2)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert admission.waiting == 1
        gate.set()
        await asyncio.gather(first, stays)
        return order

    assert admitted(test) == ["stays"]


def test_a_call_that_gives_up_in_the_moment_of_its_turn_passes_it_on() -> None:
    async def test(admission: Admission) -> int:
        await admission._enter(0)
        gone = asyncio.create_task(admission.run(lambda: 1))
        await queued(admission, 1)
        admission._leave()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await admission.run(lambda: 2)

    assert admitted(test) == 2


# --- the shortest decimals ----------------------------------------------------------------------------

EDGES = [0.0, -0.0, 0.1, -0.1, 1.0, 1 / 3, 0.05, 9.999999e-5, 1e-13, 1e-20, 1e-45, 16777216.0, 3e38, 1.1754944e-38]


@given(st_numpy.arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32, allow_nan=False)))
def test_a_number_comes_back_from_json_bit_for_bit(numbers: Vectors) -> None:
    written = msgspec.json.encode(shortest(numbers[np.isfinite(numbers)]).tolist())
    read = np.array(json.loads(written), dtype=np.float32)
    np.testing.assert_array_equal(read.view(np.uint32), numbers[np.isfinite(numbers)].view(np.uint32))


def test_edges_come_back_from_json_bit_for_bit() -> None:
    numbers = np.array(EDGES, dtype=np.float32)
    read = np.array(json.loads(msgspec.json.encode(shortest(numbers).tolist())), dtype=np.float32)
    np.testing.assert_array_equal(read.view(np.uint32), numbers.view(np.uint32))


def test_numbers_of_unit_vectors_have_the_digits_that_numpy_writes_and_no_more() -> None:
    rows = np.random.default_rng(7).normal(size=(20, 384)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert shortest(rows).ravel().tolist() == [float(str(number)) for number in rows.ravel()]


def test_a_tenth_is_written_as_a_tenth() -> None:
    assert msgspec.json.encode(shortest(np.array([[0.1, -0.25, 0.0]], dtype=np.float32)).tolist()) == (
        b"[[0.1,-0.25,0.0]]"
    )


@pytest.mark.parametrize("shape", [(0, 384), (3, 0), (1, 1)])
def test_the_shape_stays(shape: tuple[int, int]) -> None:
    assert shortest(np.ones(shape, dtype=np.float32)).shape == shape

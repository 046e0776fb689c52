"""Who is let in to the model next: some calls at a time; those that wait by their priority; no more than so many.

a call comes when          what becomes of it
-------------------------  -----------------------------------------------------
a thread is free           it runs
fewer than `waiting` wait  it waits; by priority, then by the order of coming
that many wait already     BusyError, with the seconds until there may be room
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Final, TypeVar

from .refusals import BusyError

LONGEST_WAIT_SECONDS: Final = 60  # SDKs cap longer ones
LATEST: Final = 0.2  # how much the last call counts for what the next one is thought to take

T = TypeVar("T")


class Admission:
    """Runs calls in a few threads. For one event loop; `run` is called from there."""

    def __init__(
        self, name: str, *, threads: int, waiting: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = threads
        self._threads = threads
        self._most = waiting
        self._clock = clock
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._usual_seconds = 1.0

    async def run(self, call: Callable[[], T], *, priority: int = 0) -> T:
        """Run a call in a thread when it is its turn; of two that wait, the one of the lower `priority` is first."""
        await self._enter(priority)
        started = self._clock()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        finally:
            self._usual_seconds += LATEST * (self._clock() - started - self._usual_seconds)
            self._leave()

    def close(self) -> None:
        """Let the threads go, each after the call it is in."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    async def _enter(self, priority: int) -> None:
        if self._free:
            self._free -= 1
            return
        if len(self._queue) >= self._most:
            raise BusyError(
                f"{len(self._queue)} requests wait for the model already; try again later, or start an embed job",
                retry_after_seconds=self._seconds_until_room(),
            )
        turn = asyncio.get_running_loop().create_future()
        entry = (priority, next(self._numbers), turn)
        heapq.heappush(self._queue, entry)
        try:
            await turn
        except asyncio.CancelledError:  # the service stops, or it was given a time limit
            if entry in self._queue:
                self._queue.remove(entry)
                heapq.heapify(self._queue)
            else:
                self._leave()
            raise

    def _leave(self) -> None:
        if self._queue:
            heapq.heappop(self._queue)[2].set_result(None)
        else:
            self._free += 1

    def _seconds_until_room(self) -> int:
        """Half of those that wait have gone by then, so that those who come back do not all come in vain."""
        seconds = self._usual_seconds * len(self._queue) / 2 / self._threads
        return max(1, min(LONGEST_WAIT_SECONDS, math.ceil(seconds)))

"""One thread and one short queue for each sink, so that a slow sink holds up only itself.

The queue bounds memory: whoever fills it waits. A bug in a lane's work ends the run: it is raised
again by the next `put`, or by `drain`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

Work: TypeAlias = Callable[[], None]
T = TypeVar("T")

PATIENCE_SECONDS = 10.0
WAITING_SHARE = 0.5  # of a run's time: so the slowest sink makes the others take twice as long, and no longer
MAX_LOAD = 5  # groups of documents that wait or are in hand; of a lane, so about 50 MB each with 1024 dimensions


class Lane:
    """Does work in order, in a thread of its own; without one, at once."""

    def __init__(self, name: str, *, threaded: bool, changed: threading.Condition | None = None) -> None:
        """`changed` is told whenever the load changes; lanes that are waited for together share one."""
        self._changed = changed or threading.Condition()
        self._waiting: deque[Work] = deque()
        self._is_busy = False
        self._is_closing = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"lane {name}", daemon=True) if threaded else None
        if self._thread:
            self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether `put` would wait."""
        return len(self._waiting) + self._is_busy >= MAX_LOAD

    @property
    def is_idle(self) -> bool:
        """Whether all that was put is done."""
        return not (self._waiting or self._is_busy)

    def put(self, work: Work) -> None:
        """Queue some work; waits while the queue is full."""
        if self._thread is None:
            work()
            return
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or not self.is_full)
            self.raise_failure()
            self._waiting.append(work)
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until all work that was put is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or self.is_idle)
            self.raise_failure()

    def close(self) -> None:
        """Finish the work in hand, drop what is queued, and end the thread, though Ctrl-C is pressed meanwhile.

        What goes on after that would write beside the next run, which has the lease then.
        """
        if self._thread:
            with self._changed:
                self._waiting.clear()
                self._is_closing = True
                self._changed.notify_all()
            _join(self._thread)

    def raise_failure(self) -> None:
        """Raise again what ended the work of this lane, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while work := self._next():
            try:
                work()
            except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits for it
                self._failure = error
            finally:
                with self._changed:
                    self._is_busy = False
                    self._changed.notify_all()

    def _next(self) -> Work | None:
        """Wait for work; None if there is to be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing or self._failure)
            if self._is_closing or self._failure:
                return None
            self._is_busy = True
            return self._waiting.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _join(thread: threading.Thread) -> None:
    interrupt: KeyboardInterrupt | None = None
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt as again:
            interrupt = again
    if interrupt:
        raise interrupt


class Lanes:
    """A lane for each sink, and the word on which of them holds the others up for too long."""

    def __init__(
        self,
        threaded: Mapping[str, bool],
        *,
        give_up: Callable[[], None] = lambda: None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """`threaded` tells by sink whether its lane has a thread; `give_up` ends the work in hand soon.

        It is called where the lanes are left by an error, or by Ctrl-C.
        """
        self._give_up = give_up
        self._patience_seconds = patience_seconds
        self._started = time.monotonic()
        self._held_up_seconds = 0.0
        self._changed = threading.Condition()
        self._opened = ExitStack()
        self._lanes = {
            name: self._opened.enter_context(Lane(name, threaded=is_threaded, changed=self._changed))
            for name, is_threaded in threaded.items()
        }

    def put(self, name: str, work: Work) -> None:
        """Queue some work for a sink; waits while its queue is full."""
        self._lanes[name].put(work)

    def make_room(self, listening: Callable[[], Collection[str]]) -> set[str]:
        """Wait until each sink that listens has room in its lane; or give those that hold the others up for too long.

        full lanes   of the others   then
        -----------  --------------  -------------------------------------------------------------------------
        none         any             go on
        some         none is idle    wait: whoever fills them is ahead of all
        some         one is idle     wait, as it is held up: for PATIENCE_SECONDS and WAITING_SHARE of the time
                                     so far, all in all; then those that are full are given
        """
        with self._changed:
            while True:
                lanes = {name: self._lanes[name] for name in listening()}
                for lane in lanes.values():
                    lane.raise_failure()
                full = {name for name, lane in lanes.items() if lane.is_full}
                if not full:
                    return full
                if not any(lane.is_idle for lane in lanes.values()):
                    self._changed.wait()
                    continue
                now = time.monotonic()
                left = self._patience_seconds + WAITING_SHARE * (now - self._started) - self._held_up_seconds
                if left <= 0:
                    return full
                self._changed.wait(left / (1 - WAITING_SHARE))
                self._held_up_seconds += time.monotonic() - now

    def drain(self, names: Iterable[str]) -> None:
        """Wait until all work of some sinks is done."""
        for name in names:
            self._lanes[name].drain()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._give_up()
        self._opened.close()


def make_together(calls: Iterable[Callable[[], T]], *, at_a_time: int, give_up: Callable[[], None]) -> list[T]:
    """Make calls that do not depend on each other; give their results in order. No thread is made for one at a time.

    The first that fails ends it, and so does Ctrl-C: `give_up` is called, calls not yet begun are dropped, and those
    under way are waited for, so that none can still write when this has returned.
    """
    if at_a_time == 1:
        return [call() for call in calls]
    futures: list[Future[T]] = []
    with ThreadPoolExecutor(at_a_time, thread_name_prefix="call") as pool:
        try:
            futures.extend(pool.submit(call) for call in calls)
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            give_up()
            for future in futures:
                future.cancel()
            raise
    return [future.result() for future in futures]

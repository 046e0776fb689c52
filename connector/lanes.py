"""One thread and one short queue for each sink, so that a slow sink holds up only itself.

The queue bounds memory: whoever fills it waits. A bug in a lane's work ends the run: it is raised
again by the next `put`, or by `close`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeAlias

Work: TypeAlias = Callable[[], None]

GROUPS_WAITING = 2


class Lane:
    """Does work in order, in a thread of its own; without one, at once."""

    def __init__(self, name: str, *, threaded: bool) -> None:
        self._queue: queue.Queue[Work | None] = queue.Queue(GROUPS_WAITING)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"lane {name}", daemon=True) if threaded else None
        if self._thread:
            self._thread.start()

    def put(self, work: Work) -> None:
        """Queue some work; waits while the queue is full."""
        if self._thread is None:
            work()
            return
        self._raise_failure()
        self._queue.put(work)

    def drain(self) -> None:
        """Wait until all work that was put is done."""
        if self._thread:
            self._queue.join()
            self._raise_failure()

    def close(self) -> None:
        """Finish the work in hand, drop what is queued, and end the thread."""
        if self._thread and self._thread.is_alive():
            while True:
                try:
                    self._queue.get_nowait()
                except queue.Empty:
                    break
                self._queue.task_done()
            self._queue.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                if self._failure is None:
                    work()
            except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits for it
                self._failure = error
            finally:
                self._queue.task_done()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

"""Fair turns: a lock that goes to whoever has waited longest.

`threading.Lock` promises no order: a thread that lets go of it and asks again at once mostly has it back before another
one is awake, so that a long call of many short turns would keep everyone else out to its end.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class Turns:
    """Lets one thread at a time into its `with` block, first come, first served.

    Whoever leaves hands over to the first in the queue, and queues behind all others when it comes again. Not to be
    entered again from within.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()  # of the two below; held for moments
        self._taken = False
        self._queue: deque[threading.Lock] = deque()  # one for each that waits; released when it is its turn

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            called = threading.Lock()
            called.acquire()
            self._queue.append(called)
        try:
            called.acquire()
        except BaseException:  # Ctrl-C, in the main thread
            self._give_up(called)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hand_over()

    def _hand_over(self) -> None:
        with self._guard:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._taken = False

    def _give_up(self, called: threading.Lock) -> None:
        """Leave the queue; or pass the turn on, if it came in the same moment."""
        with self._guard:
            waiting = called in self._queue
            if waiting:
                self._queue.remove(called)
        if not waiting:
            self._hand_over()

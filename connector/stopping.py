"""Ask a run to end early, from another thread or a signal: first in order, then at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import StoppedError

Act = Callable[[], object]


class Stop:
    """What a run looks at between its steps. Asked once, it stays asked.

        asked       nothing more is begun: no group of documents, no call to the embedder, no look at a job; waits
                    end. What is queued for the sinks is delivered and committed
        in a hurry  no more calls are made; those under way are waited for, and what they were for is in doubt

    Either way nothing is lost, no embed job is cancelled, and the next run goes on from there.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal may come while the same thread holds it
        self._is_asked = False
        self._is_in_a_hurry = False
        self._heeding: list[tuple[Act, Act]] = []

    @property
    def is_asked(self) -> bool:
        """Whether nothing more is to be begun."""
        return self._is_asked

    def demand(self) -> None:
        """Raise StoppedError if the run is to end; called before each step that takes long or costs."""
        if self._is_asked:
            raise StoppedError("stopped as asked; nothing is lost, and the next run goes on from here")

    def ask(self) -> None:
        """Have the run end when what it has begun is done."""
        with self._lock:
            self._is_asked = True
            for in_order, _ in self._heeding:
                in_order()

    def hurry(self) -> None:
        """Have the run end as soon as the calls under way have returned."""
        self.ask()
        with self._lock:
            self._is_in_a_hurry = True
            for _, at_once in self._heeding:
                at_once()

    @contextmanager
    def heeded(self, in_order: Act, at_once: Act) -> Iterator[None]:
        """Have functions called when it is asked, and when it is in a hurry, while the body runs; quick ones."""
        with self._lock:
            self._heeding.append((in_order, at_once))
            if self._is_asked:
                in_order()
            if self._is_in_a_hurry:
                at_once()
        try:
            yield
        finally:
            with self._lock:
                self._heeding.remove((in_order, at_once))

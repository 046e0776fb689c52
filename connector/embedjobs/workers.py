"""What works in the background: one thread validates datasets and lets old ones expire, another embeds for jobs.

Both are idle until there is something to do; whoever adds or ends something calls `wake`. A bug costs one dataset or
one job, and a full disk costs time: the threads go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from connector.errors import ConnectorError

from .events import BlockEmbedded, BugFound, DatasetsExpired, Emit, Event, Postponed, reason_of, trace_of
from .models import Catalogue
from .rotation import LONGEST_WAIT_SECONDS, Rotation, Waits
from .store import Store
from .validator import Validator

EXPIRY_SECONDS = 3600.0  # between two looks for what is too old
STOP_SECONDS = 30.0  # a call to the model takes two, and a commit on a slow disk some more


class Embedded(msgspec.Struct, frozen=True):
    """What was embedded for jobs since the start."""

    blocks: int = 0
    rows: int = 0
    tokens: int = 0


class Workers:
    """The background of one service."""

    def __init__(
        self, store: Store, catalogue: Catalogue, *, emit: Emit, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._emit = emit
        self._emit_lock = threading.Lock()
        self._monotonic = monotonic
        self._stopping = threading.Event()
        self._embedded = Embedded()
        self._expiry_at = monotonic()
        self._waits = Waits(monotonic)
        self.rotation = Rotation(
            store, catalogue, emit=self._tell, is_stopping=self._stopping.is_set, monotonic=monotonic
        )
        self.validator = Validator(store, emit=self._tell, is_stopping=self._stopping.is_set, monotonic=monotonic)
        self._alarms = (threading.Event(), threading.Event())
        turns = {"validation": self.validation_turn, "jobs": self.rotation.turn}
        self._threads = [
            threading.Thread(target=self._work, args=(what, turn, alarm), name=f"embed-jobs-{what}", daemon=True)
            for (what, turn), alarm in zip(turns.items(), self._alarms, strict=True)
        ]

    def start(self) -> None:
        """Begin. To be called once."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look again: a dataset or a job was added, cancelled or deleted. Cheap; from any thread."""
        for alarm in self._alarms:
            alarm.set()

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> bool:
        """Let both threads end between two calls to the model, or two rows of an upload; what they drop is done again.

        False if one has not ended in time: then the store is to be left open, for it may still write.
        """
        self._stopping.set()
        self.wake()
        deadline = self._monotonic() + timeout_seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - self._monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def is_alive(self) -> bool:
        """Whether both threads are there, as they are between `start` and `stop`."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def embedded(self) -> Embedded:
        """What was embedded since the start."""
        return self._embedded

    def validation_turn(self) -> float | None:
        """Do what the validating thread does once; gives the seconds until the next time, as `Rotation.turn`."""
        until_expiry = self._expire()
        wait_seconds = self.validator.turn()
        return until_expiry if wait_seconds is None else min(wait_seconds, until_expiry)

    def _expire(self) -> float:
        now = self._monotonic()
        if now >= self._expiry_at:
            self._expiry_at = now + LONGEST_WAIT_SECONDS  # if it fails
            expired = self._store.expire()
            self._expiry_at = now + EXPIRY_SECONDS
            if expired:
                self._tell(DatasetsExpired(tuple(expired)))
        return self._expiry_at - now

    def _work(self, what: str, turn: Callable[[], float | None], alarm: threading.Event) -> None:
        while not self._stopping.is_set():
            alarm.clear()
            try:
                wait_seconds = turn()
                self._waits.forget(what)
            except Exception as error:  # noqa: BLE001 - the thread has to live; what fails here is no job's or dataset's
                if not isinstance(error, ConnectorError):
                    self._tell(BugFound(what, trace_of(error)))
                wait_seconds = self._waits.postpone(what, error)
                self._tell(Postponed(what, reason_of(error), wait_seconds))
            if wait_seconds != 0.0:
                alarm.wait(wait_seconds)

    def _tell(self, event: Event) -> None:
        """Emit, one event at a time; a subscriber that fails harms nobody."""
        with self._emit_lock:
            if isinstance(event, BlockEmbedded):
                counted = self._embedded
                self._embedded = Embedded(counted.blocks + 1, counted.rows + event.rows, counted.tokens + event.tokens)
            with suppress(Exception):
                self._emit(event)

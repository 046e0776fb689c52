"""Blocking calls, for a loop that must never wait: each kind has its own few threads, and a patience.

A call that hangs keeps its thread, and no more than the threads of its kind can hang; whoever asked is told after
the patience. The threads are daemons, so that one that hangs does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


class TooSlowError(Exception):
    """A call was not answered in time. It may yet be."""


class Turns:
    """The threads of one kind of call."""

    def __init__(self, what: str, *, at_once: int, patience_seconds: float) -> None:
        self._what = what
        self._turns = asyncio.Semaphore(at_once)
        self._patience_seconds = patience_seconds

    @property
    def all_taken(self) -> bool:
        """Tell whether a call would have to wait for its turn."""
        return self._turns.locked()

    async def __call__(self, call: Callable[[], T]) -> T:
        """Make a call when it has its turn.

        Raises:
            TooSlowError: there was no turn, or no answer, in time.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._patience_seconds) as patience:
                await self._turns.acquire()
                self._start(call, answer)
                return await answer
        except TimeoutError:
            if not patience.expired():
                raise  # the call's own
            told = f"{self._what} took longer than {self._patience_seconds:g} seconds; it may be stuck, see the log"
            raise TooSlowError(told) from None

    def _start(self, call: Callable[[], T], answer: asyncio.Future[T]) -> None:
        loop = answer.get_loop()

        def run() -> None:
            try:
                result = call()
            except Exception as error:  # noqa: BLE001 - whatever it is, it goes to who asked
                report(answer.set_exception, error)
            else:
                report(answer.set_result, result)

        def report(tell: Callable[[R], object], what: R) -> None:
            def end() -> None:
                self._turns.release()
                if not answer.done():  # whoever asked may have been told that it took too long
                    tell(what)

            with suppress(RuntimeError):  # the loop is closed: the service has stopped
                loop.call_soon_threadsafe(end)

        Thread(target=run, name=f"asked: {self._what}", daemon=True).start()


R = TypeVar("R")

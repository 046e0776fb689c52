"""Why a request is not done: what happened, to what, and what to do, in the hosted service's words where known.

refusal          HTTP  when
---------------  ----  ----------------------------------------------------------------
BadRequestError  400   the request, or what it names, can never be accepted as it is
NotFoundError    404   there is no such dataset, job or model
TooLargeError    413   the upload is beyond the size cap
BusyError        429   a queue is full; the same request is welcome after the wait
"""

from __future__ import annotations

from typing import ClassVar


class RefusalError(Exception):
    """Base of all refusals. The message goes to the client as it is."""

    status: ClassVar[int]


class BadRequestError(RefusalError):
    """Never acceptable as it is."""

    status = 400


class NotFoundError(RefusalError):
    """There is no such thing."""

    status = 404


class TooLargeError(RefusalError):
    """Beyond a size cap."""

    status = 413


class BusyError(RefusalError):
    """Not now."""

    status = 429

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds  # 1 to 60: SDKs cap longer waits

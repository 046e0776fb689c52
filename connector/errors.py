"""Errors, sorted by who has to act.

    error                who acts                                                     exit code
    -------------------  -----------------------------------------------------------  ---------
    ConfigError          the operator, before anything is done or paid for            2
    SafetyError          the operator, by confirming: the plan looks like an accident 4
    TransientError       nobody: the same call again, after the wait it names         3, if it outlives the retries
    BusyError            the same, where somebody else has what only one may have     75, if it outlives the retries
    UnknownOutcomeError  nobody: look whether it was done, before doing it again      3, if it stays unknown
    RejectedError        the document's owner; the rest goes on                       1
    SinkError            the operator, for one sink; the other sinks go on            3
    LeaseError           nobody: another run has the state; come back later           75
    StoppedError         nobody: the run was asked to end; the next one goes on        3

Any other exception is a bug: it is not wrapped and not swallowed, and ends the run with a
traceback. A message says what happened, to what, and what to do, in lower case, without a full stop.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """How a command ended; of several, the run's worst."""

    IN_STEP = 0
    REJECTED = 1
    CONFIG = 2
    BEHIND = 3
    SAFETY = 4
    DRIFT = 5
    BUSY = 75  # EX_TEMPFAIL of sysexits.h


BUG = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # as shells say it: 128 and SIGINT


class ConnectorError(Exception):
    """Base of all errors that are not bugs."""

    exit_code: ClassVar[ExitCode]


class ConfigError(ConnectorError):
    """The settings, or what they name, cannot work, whatever is retried."""

    exit_code = ExitCode.CONFIG


class SafetyError(ConnectorError):
    """The plan would destroy or spend more than the operator has allowed."""

    exit_code = ExitCode.SAFETY


class TransientError(ConnectorError):
    """The call failed for a reason that may pass. It is safe to make again as it was."""

    exit_code = ExitCode.BEHIND

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class BusyError(TransientError):
    """Somebody else has open what only one may have open at a time, as a search has an embedded index for a moment."""

    exit_code = ExitCode.BUSY


class UnknownOutcomeError(ConnectorError):
    """The answer to a request that makes something was lost: it may have been made, and cost money, or not.

    On purpose no TransientError: it is not safe to make the call again. Look by a list whether it was made.
    """

    exit_code = ExitCode.BEHIND


class RejectedError(ConnectorError):
    """Something in the call can never be accepted. Smaller calls will show what."""

    exit_code = ExitCode.REJECTED


class SinkError(ConnectorError):
    """The sink refuses everything: revoked key, dropped collection, full disk."""

    exit_code = ExitCode.BEHIND


class StoppedError(ConnectorError):
    """The run was asked to end before it was done."""

    exit_code = ExitCode.BEHIND


class LeaseError(ConnectorError):
    """Another run holds the state, or has taken it over while this one slept."""

    exit_code = ExitCode.BUSY

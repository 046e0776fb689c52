"""Pinecone's errors, as ours: by who must act.

    Pinecone                                               ours
    -----------------------------------------------------  ---------------------------------------------------------
    RateLimitError (429)                                   TransientError, with the wait that the service names
    408, 425, 5xx, no connection, no answer in time,       TransientError, the same
      an answer that cannot be read
    400, 413, 422, and what the SDK refuses to send        RejectedError of an upsert: smaller calls show which record;
      (PineconeTypeError, PineconeValueError)              else as below
    what the SDK refuses to send while the settings are    ConfigError
      checked: it is they that are wrong
    401, 402, 403, 404, 409, 412, all others               SinkError, also while the settings are checked: a key can
                                                           be revoked at any time, and the other sinks go on

SDK 10.2.0, read 2026-11. The service's words are kept; our key is never among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from pinecone import errors

from connector.errors import ConfigError, ConnectorError, RejectedError, SinkError, TransientError

LONGEST_WORDS: Final = 500
PASSING_STATUSES: Final = frozenset({408, 425, 429})
REFUSALS: Final = frozenset({400, 413, 422})


@dataclass(frozen=True, slots=True)
class Failures:
    """Translates what the SDK raises."""

    key: str = field(repr=False)  # that must not be told

    @contextmanager
    def of_upsert(self, what: str) -> Iterator[None]:
        """Refusals are the records' fault."""
        with self._as(what, RejectedError, SinkError):
            yield

    @contextmanager
    def of_call(self, what: str) -> Iterator[None]:
        """Refusals are the sink's."""
        with self._as(what, SinkError, SinkError):
            yield

    @contextmanager
    def of_check(self, what: str) -> Iterator[None]:
        """What the client refuses to send are the settings; what the service refuses is the sink's."""
        with self._as(what, SinkError, SinkError, unsent=ConfigError):
            yield

    @contextmanager
    def _as(
        self,
        what: str,
        refused: type[ConnectorError],
        lasting: type[ConnectorError],
        unsent: type[ConnectorError] | None = None,
    ) -> Iterator[None]:
        try:
            yield
        except errors.PineconeError as error:
            message = f"{what}: {self._words(error)}"
            if _may_pass(error):
                raise TransientError(message, retry_after_seconds=_wait_seconds(error)) from None
            meant = refused if _is_refusal(error) else lasting
            if unsent and not isinstance(error, errors.ApiError):
                meant = unsent
            raise meant(message) from None

    def _words(self, error: errors.PineconeError) -> str:
        words = " ".join(str(error).split()) or type(error).__name__
        if self.key:
            words = words.replace(self.key, "(the key)")
        return words if len(words) <= LONGEST_WORDS else f"{words[:LONGEST_WORDS]} ..."


def _may_pass(error: errors.PineconeError) -> bool:
    if isinstance(error, errors.ApiError):
        return error.status_code in PASSING_STATUSES or error.status_code >= 500  # noqa: PLR2004 - as HTTP has it
    return isinstance(error, errors.PineconeConnectionError | errors.PineconeTimeoutError | errors.ResponseParsingError)


def _is_refusal(error: errors.PineconeError) -> bool:
    if isinstance(error, errors.ApiError):
        return error.status_code in REFUSALS
    return isinstance(error, errors.PineconeTypeError | errors.PineconeValueError)


def _wait_seconds(error: errors.PineconeError) -> float | None:
    """Read how long a service asks to be left alone: seconds, or a date; None if it does not say."""
    headers: Mapping[str, str] = getattr(error, "headers", None) or {}
    told = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    try:
        seconds = float(told)
    except ValueError:
        return _until(told)
    return seconds if 0 <= seconds < float("inf") else None


def _until(date: str) -> float | None:
    try:
        when = parsedate_to_datetime(date)
    except ValueError:
        return None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    return max(0.0, (when - datetime.now(UTC)).total_seconds())

"""What the failures of a Qdrant server mean, by who has to act.

    seen                                             to an upsert    to anything else
    -----------------------------------------------  --------------  ----------------
    no connection, no answer in time                 TransientError  TransientError
    ... because of a certificate                     SinkError       SinkError
    408, 425, 429, 500, 502-504, 520-529             TransientError  TransientError
    400, 413, 422 that blame the collection          SinkError       SinkError
    other 400, 413, 422                              RejectedError   SinkError
    any other status (401, 403, 404, 409, 507 ...)   SinkError       SinkError
    an answer that the client cannot read            SinkError       SinkError

None is a ConfigError, also while the settings are checked: a key can be revoked, and a proxy answer in the place of the
server, at any time. That is the trouble of this sink alone, and the others of a sync go on.

A request that is too large is 413 from a proxy, and 400 from Qdrant itself. 429 and 503 may name a wait; the client
takes whole seconds alone, and raises another exception for "1.5" and for a date. What is not in the table is a bug,
and passes through. Read from qdrant-client 1.20 and from the source of Qdrant 1.19, 2026-11-22.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from typing import Final

import httpx
import msgspec
from pydantic import ValidationError
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from connector.errors import ConnectorError, RejectedError, SinkError, TransientError

PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 530)})
ABOUT_RECORDS: Final = frozenset({400, 413, 422})
BLAMES_THE_COLLECTION: Final = re.compile(
    r"not existing vector name|vector dimension error|limit of .* reached|resident memory|shard key", re.IGNORECASE
)
"""Words of a refused upsert that smaller calls would not change: each of our records has what is blamed, or none."""
CERTIFICATE: Final = re.compile(r"CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER")
LONGEST_WORDS: Final = 300


def explained(error: Exception, what: str, *, upserts: bool = False) -> ConnectorError | None:
    """Say what a failure of the remote client means; None if it is a bug. `upserts`: records were sent."""
    match error:
        case ResourceExhaustedResponse():
            words = f"{what}: 429 {one_line(error.message)}"
            return TransientError(words, retry_after_seconds=max(0.0, float(error.retry_after_s)))
        case QdrantException():  # a wait that is not a whole number; the words that came with it are lost
            named = str(error).partition("integer: ")[2]
            return TransientError(f"{what}: 429", retry_after_seconds=wait_seconds(named))
        case UnexpectedResponse():
            wait = wait_seconds(error.headers.get("retry-after", ""))
            return refused(
                error.status_code or 0, _words(error.content), what, upserts=upserts, retry_after_seconds=wait
            )
        case ResponseHandlingException():
            return _unanswered(error.source, what)
        case JSONDecodeError() | UnicodeDecodeError() | AssertionError():  # so the client says that there is no result
            return SinkError(f"{what}: its answer is not Qdrant's")
    return None


def refused(
    status: int, words: str, what: str, *, upserts: bool = False, retry_after_seconds: float | None = None
) -> ConnectorError:
    """Say what an answer means that is not a success."""
    said = f"{what}: {status} {one_line(words)}".rstrip()
    if status in PASSING:
        return TransientError(said, retry_after_seconds=retry_after_seconds)
    if upserts and status in ABOUT_RECORDS and not BLAMES_THE_COLLECTION.search(words):
        return RejectedError(said)
    return SinkError(said)


def _unanswered(source: Exception, what: str) -> ConnectorError | None:
    if isinstance(source, ValidationError):
        return SinkError(f"{what}: its answer is not one that this version of qdrant-client can read")
    if not isinstance(source, httpx.HTTPError):
        return None
    said = f"{what}: {one_line(str(source)) or type(source).__name__}"
    return SinkError(said) if CERTIFICATE.search(str(source)) else TransientError(said)


def _words(content: bytes) -> str:
    """Find what a server says: as Qdrant does, or anyhow."""
    try:
        status = msgspec.json.decode(content)["status"]
        return str(status["error"]) if isinstance(status, dict) else str(status)
    except (ValueError, KeyError, TypeError):
        return content[: 4 * LONGEST_WORDS].decode(errors="replace")


def wait_seconds(text: str) -> float | None:
    """Read a Retry-After: seconds, perhaps a fraction of them, or a date; None if it is neither."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # no date, or one that does not say of which time zone
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def one_line(words: str) -> str:
    """Cut a server's words down to what fits a report."""
    return " ".join(words.split())[:LONGEST_WORDS]

"""What can go wrong between us and the service, as errors of `connector.errors`, and how answers become them.

    answer                                       a request that changes nothing      a request that makes something
    -------------------------------------------  ----------------------------------  ------------------------------
    no connection came about                     TransientError                      TransientError: not accepted
    timeout, connection lost, cut answer         TransientError                      UnknownOutcomeError
    2xx, but no JSON (a web page, a proxy)       ConfigError: the URL is wrong       UnknownOutcomeError
    2xx, JSON, but without an id                 ConfigError                         UnknownOutcomeError
    3xx                                          ConfigError: names the right URL    ConfigError
    401, 402, 403, 407                           ConfigError                         ConfigError
    404 that speaks of a dataset or a job        NotFoundError                       NotFoundError
    404 that speaks of a model, or of neither    ConfigError: perhaps the URL        ConfigError
    408, 409                                     TransientError                      UnknownOutcomeError
    425, 429, 499                                TransientError                      TransientError: not accepted
    other 4xx                                    RejectedError                       RejectedError
    5xx                                          TransientError                      UnknownOutcomeError

408 and 409 are counted as unknown, although they are 4xx: a proxy may say either of a request that it has passed on,
and to look once too often costs one list, while to ask twice may be billed twice. So is a web page: a filter between
may have put it in the place of the answer.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import isfinite
from typing import TYPE_CHECKING

import httpx
import msgspec

from connector.errors import ConfigError, ConnectorError, RejectedError, TransientError, UnknownOutcomeError

from .values import Dataset, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LONGEST_WORDS = 500
"""Characters of the service's words that are passed on; more than that is a page, not a message."""

MAY_PASS = frozenset({408, 409, 425, 429, 499})
MAY_HAVE_BEEN_DONE = frozenset({408, 409})
ACCESS = {
    401: "check the API key",
    402: "check the billing of the account",
    403: "check the API key and what it may do",
    407: "the proxy wants a login",
}


class NotFoundError(RejectedError):
    """The service does not know the dataset or the job; perhaps it has expired, or was deleted."""


class NoAvroError(RejectedError):
    """A part turned out to be another kind of file; perhaps the page of a filter or a login that is between."""


class LinkRefusedError(TransientError):
    """The link to a part is not valid, probably not any more: ask for the dataset again, it has fresh links."""


class DatasetFailedError(RejectedError):
    """The service has looked at a dataset, and will not take it."""

    def __init__(self, message: str, dataset: Dataset) -> None:
        super().__init__(message)
        self.dataset = dataset


class JobFailedError(RejectedError):
    """A job has ended without a result."""

    def __init__(self, message: str, job: Job) -> None:
        super().__init__(message)
        self.job = job


class StillWaitingError(TransientError):
    """The deadline of a wait has passed. What was waited for goes on, and can be waited for again."""


def of_transport(error: httpx.RequestError, what: str, *, makes: bool) -> ConnectorError:
    """Translate a failure to get any answer."""
    words = one_line(str(error)) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return ConfigError(f"{what}: {words}; is the URL right, and its certificate one that this machine trusts?")
    never_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
    if not makes or isinstance(error, never_sent):
        return TransientError(f"{what}: {words}")
    return _unknown(what, words)


def of_answer(
    response: httpx.Response,
    what: str,
    *,
    makes: bool,
    hidden: Callable[[str], str],
    now: datetime,
) -> ConnectorError:
    """Translate an answer that is no 2xx; `hidden` takes secrets out of what the service says."""
    status = response.status_code
    message = _message(response.content)
    told = hidden(one_line(message or _phrase(status)))
    request_id = _request_id(response)
    said = f"{what}: HTTP {status}, {told}" + (f" (request {hidden(request_id)})" if request_id else "")
    if response.has_redirect_location:
        to = hidden(one_line(str(response.url.join(response.headers["location"]).copy_with(query=None))))
        return ConfigError(f"{what}: HTTP {status}, which sends on to {to}; write the URL so that nothing is between")
    if status in ACCESS:
        return ConfigError(f"{said}; {ACCESS[status]}")
    if status == HTTPStatus.NOT_FOUND:
        return _not_found(said, message)
    if status not in MAY_PASS and not response.is_server_error:
        return RejectedError(said)
    if makes and (response.is_server_error or status in MAY_HAVE_BEEN_DONE):
        return _unknown(what, f"HTTP {status}, {told}")
    return TransientError(said, retry_after_seconds=retry_after_seconds(response.headers, now=now))


def of_content(content_type: str, what: str, *, makes: bool) -> ConnectorError:
    """Say that an answer is no answer of this wire."""
    kind = one_line(content_type.partition(";")[0]) or "something without a type"
    if makes:
        return _unknown(what, f"the answer is {kind}, not JSON of Cohere's API")
    return ConfigError(f"{what}: the answer is {kind}, not JSON of Cohere's API; is the URL right?")


def without_id(what: str, problem: str, *, makes: bool) -> ConnectorError:
    """Say that an answer lacks what cannot be done without."""
    if makes:
        return _unknown(what, f"the answer cannot be understood: {one_line(problem)}")
    return ConfigError(f"{what}: the answer is JSON, but not of Cohere's API: {one_line(problem)}; is the URL right?")


def retry_after_seconds(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Read how long a service asks to be left alone: milliseconds, seconds, or a date; None if it does not say."""
    if (milliseconds := _number(headers.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000.0
    text = headers.get("retry-after", "")
    if (seconds := _number(text)) is not None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, ((date.replace(tzinfo=UTC) if date.tzinfo is None else date) - now).total_seconds())


def one_line(text: str) -> str:
    """Make words of the service fit for a message of ours."""
    joined = " ".join(text.split())
    return joined if len(joined) <= LONGEST_WORDS else f"{joined[:LONGEST_WORDS]} ..."


def _unknown(what: str, words: str) -> UnknownOutcomeError:
    return UnknownOutcomeError(f"{what}: {words}; it may have been done all the same, look before doing it again")


def _not_found(said: str, message: str) -> ConnectorError:
    lower = message.lower()
    if "model" in lower and "dataset" not in lower:
        return ConfigError(said)
    if "dataset" in lower or "job" in lower:
        return NotFoundError(said)
    return ConfigError(f"{said}; is the URL right?")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None


def _fields(body: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _message(body: bytes) -> str:
    message = _fields(body).get("message")
    return message if isinstance(message, str) else ""


def _request_id(response: httpx.Response) -> str:
    id = _fields(response.content).get("id")
    return one_line(id if isinstance(id, str) else response.headers.get("x-request-id", ""))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower()
    except ValueError:
        return "no reason given"

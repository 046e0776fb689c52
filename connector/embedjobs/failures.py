"""How a request that is not done is answered: always `{"message", "id"}`, in the hosted service's words where known.

    raised                          status  besides
    ------------------------------  ------  ------------------------------------------------------------------
    RefusalError                    its own Retry-After where it names a wait
    RequestValidationError          422     400, or 403, where `HOSTED` says so; all that is wrong in one line
    HTTPException                   its own 404 no such address, 405 with all that is allowed there, 413
    TransientError                  503     Retry-After; nothing was acknowledged
    the same, as the disk is full   507     nothing was acknowledged
    anything else                   500     "internal error"; see `observation`

Values that a client sent are not repeated, for they may be documents; names of fields are.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from connector.errors import TransientError

from .links import FORGED
from .refusals import BusyError, RefusalError

NAME_CHARACTERS: Final = 49  # "must be less than 50 characters": docs.cohere.com, datasets, read November 2026
DISK_IS_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
RETRY_AFTER_SECONDS: Final = 10
LONGEST_WAIT_SECONDS: Final = 60  # SDKs cap longer ones
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NO_MODEL: Final = "a model parameter is required for this endpoint."
BAD_INPUT_TYPE: Final = "valid input_type must be provided with the provided model"

HOSTED: Final[Mapping[tuple[str, str, str], tuple[int, str]]] = {
    ("query", "name", "missing"): (400, "name must be set"),
    ("query", "name", "string_too_short"): (400, "name must be set"),
    ("query", "name", "string_too_long"): (400, f"name must be less than {NAME_CHARACTERS + 1} characters"),
    ("query", "type", "missing"): (400, "type must be set"),
    ("query", "csv_delimiter", ""): (400, "invalid csv delimiter: it must be exactly one character, and no quote"),
    ("body", "model", "missing"): (400, NO_MODEL),
    ("body", "model", "string_too_short"): (400, NO_MODEL),
    ("body", "input_type", ""): (400, BAD_INPUT_TYPE),
    ("query", "exp", ""): (403, FORGED),
    ("query", "sig", ""): (403, FORGED),
}
"""By place, field, and pydantic's kind of error ("" is any): the status and the words."""

Problem: TypeAlias = Mapping[str, Any]
"""One of pydantic's errors: {"loc": ("body", "model"), "type": "missing", "msg": "Field required"}."""


class Failure(BaseModel):
    """The body of every answer that is not a success."""

    message: str
    id: str
    """Of the request; also in the header X-Request-Id, and in the service's log."""


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Declare failures for the OpenAPI document; those of every call are among them (FastAPI has its own 422)."""
    return {status: {"model": Failure, "description": _MEANINGS[status]} for status in sorted({*statuses, 422, 500})}


_MEANINGS: Final[Mapping[int, str]] = {
    400: "Never acceptable as it is",
    401: "The key is missing or wrong",
    403: "The link is forged, or has expired",
    404: "There is no such thing",
    408: "The upload stalled",
    413: "Too large",
    416: "No such range",
    422: "A parameter is not what it should be",
    429: "A queue is full: the same request is welcome after the seconds in `Retry-After`",
    500: "A bug; the service's log has more under the id",
    503: "Not now: try again after the seconds in `Retry-After`; nothing was acknowledged",
    507: "The disk is full; nothing was acknowledged",
}


def answer(request_id: str, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer that a request is not done."""
    return JSONResponse({"message": message, "id": request_id}, status_code=status, headers=headers)


def request_id_of(request: Request) -> str:
    """The id that `observation` gave a request."""
    id = request.scope.get("request_id", "")
    return id if isinstance(id, str) else ""


def install(app: FastAPI) -> None:
    """Have an app answer its failures as the table says."""
    catch: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        RefusalError: _refusal,
        RequestValidationError: _invalid,
        HTTPException: _http,
        TransientError: _transient,
    }
    for kind, answering in catch.items():
        app.add_exception_handler(kind, answering)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)  # noqa: S101 - for the types: Starlette calls this for no other
    headers = {"Retry-After": _wait(error.retry_after_seconds)} if isinstance(error, BusyError) else None
    return answer(request_id_of(request), error.status, str(error), headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    status, message = describe(error.errors())
    return answer(request_id_of(request), status, message)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    headers = dict(error.headers or {})
    message = str(error.detail)
    if error.status_code == 404:  # noqa: PLR2004 - of the router: the words of our own are in NotFoundError
        message = "there is nothing at this address; see /docs"
    elif error.status_code == 405:  # noqa: PLR2004 - as above
        message = f"{request.method} cannot be done here"
        headers["Allow"] = ", ".join(_allowed(request))
    return answer(request_id_of(request), error.status_code, message, headers)


async def _transient(request: Request, error: Exception) -> Response:
    assert isinstance(error, TransientError)  # noqa: S101 - as above
    request.scope["failure"] = str(error)  # for the log alone: it names folders
    id, cause = request_id_of(request), error.__cause__
    if isinstance(cause, OSError) and cause.errno in DISK_IS_FULL:
        return answer(id, 507, "the service's disk is full, and nothing was done; delete datasets, or try again later")
    message = "the service cannot do this now, and has not done it; try again later"
    return answer(id, 503, message, {"Retry-After": _wait(error.retry_after_seconds or RETRY_AFTER_SECONDS)})


def describe(problems: Iterable[Problem]) -> tuple[int, str]:
    """Say in one line all that is wrong with a request; the hosted service's words decide the status."""
    hosted: dict[str, int] = {}
    others: list[str] = []
    for problem in problems:
        place, name, kind = _place(problem), _name(problem), str(problem["type"])
        known = HOSTED.get((place, name, kind)) or HOSTED.get((place, name, ""))
        if kind == "json_invalid":
            hosted["the body is not JSON"] = 400
        elif known:
            hosted[known[1]] = known[0]
        else:
            others.append(f"{_shown(problem)}: {_words(problem)}")
    return (min(hosted.values()) if hosted else 422), "; ".join(_unended([*hosted, *others]))


def _unended(messages: Sequence[str]) -> Sequence[str]:
    """Take the full stops off messages that stand with others in a line; one alone keeps the hosted service's words."""
    return messages if len(messages) == 1 else [message.removesuffix(".") for message in messages]


def _place(problem: Problem) -> str:
    return str(problem["loc"][0]) if problem["loc"] else "request"


def _name(problem: Problem) -> str:
    return str(problem["loc"][1]) if len(problem["loc"]) > 1 else ""


def _shown(problem: Problem) -> str:
    place, *path = problem["loc"] or ("request",)
    return ".".join(str(step)[:NAME_CHARACTERS] for step in path) or str(place)


def _words(problem: Problem) -> str:
    """What pydantic says, without what was sent."""
    message = str(problem["msg"]).removeprefix("Value error, ")
    return "is missing" if problem["type"] == "missing" else message[:1].lower() + message[1:]


def _allowed(request: Request) -> list[str]:
    """All methods of an address; Starlette names those of the first route only, and ours have one each."""
    scope = {key: value for key, value in request.scope.items() if key not in ("route", "endpoint", "path_params")}
    return [
        method
        for method in METHODS
        if any(route.matches(scope | {"method": method})[0].name == "FULL" for route in request.app.router.routes)
    ]


def _wait(seconds: float) -> str:
    return str(max(1, min(LONGEST_WAIT_SECONDS, round(seconds))))

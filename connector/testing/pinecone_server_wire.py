"""One call to the emulated Pinecone, and its answer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import msgspec

from .pinecone_server_index import Lag
from .pinecone_server_rules import PineconeLimits, RefusedError

_T = TypeVar("_T")


@dataclass(slots=True)
class Terms:
    """What the calls of one server are subject to. Tests may change all of it, at any time."""

    limits: PineconeLimits = field(default_factory=PineconeLimits)
    lag: Lag = field(default_factory=Lag)
    has_aliases: bool = True  # False: a service of before 2026-07
    polls_until_ready: int = 0  # of indexes yet to be created: so often they are said not to be ready
    poisoned: dict[str, str] = field(default_factory=dict)
    """Upserts are refused that have a record with this id, or this string in its metadata; with which words."""


@dataclass(slots=True)
class Call:
    """What a client asks for."""

    route: str
    body: bytes
    query: Mapping[str, Sequence[str]]
    terms: Terms
    name: str = ""  # what the path names
    host: str = ""  # scheme, name and port under which the client knows the server
    api_version: str = ""
    share: float = 1.0  # so much of it is done, by `Partial`
    records: int = 0  # that were written, or removed

    def decoded(self, kind: type[_T]) -> _T:
        """Read the body."""
        try:
            return msgspec.json.decode(self.body or b"{}", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RefusedError(400, f"Invalid request body: {error}") from None

    def one(self, name: str) -> str | None:
        """Give a parameter of the query."""
        return self.query.get(name, [None])[-1]

    def cut(self, all: Mapping[str, _T]) -> dict[str, _T]:
        """Give what of a call is done."""
        return dict(islice(all.items(), int(len(all) * self.share)))


@dataclass(slots=True)
class Answer:
    """What a client gets."""

    body: Any = field(default_factory=dict)  # bytes, or what is sent as JSON; None: nothing
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """Give the body as it is sent."""
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body)


def page(names: Iterable[str], size: int, token: str | None) -> tuple[list[str], dict[str, str] | None]:
    """Cut a page out of names in order, and say where the next one begins."""
    after = last_of(token)
    found = list(islice((name for name in names if not token or name > after), size + 1))
    return found[:size], next_page(found, size)


def next_page(found: Sequence[str], size: int) -> dict[str, str] | None:
    """Say where the next page begins, if more was found than a page holds."""
    if len(found) <= size:
        return None
    return {"next": base64.urlsafe_b64encode(found[size - 1].encode()).decode()}


def last_of(token: str | None) -> str:
    """Give the name that a page's token stands for."""
    try:
        return base64.b64decode(token or "", altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise RefusedError(400, "Invalid pagination token", reason="INVALID_PAGINATION_TOKEN") from None


def with_page(body: dict[str, Any], pagination: dict[str, str] | None) -> dict[str, Any]:
    """Add where the next page begins; the last page says nothing."""
    return body | {"pagination": pagination} if pagination else body


Answering = Callable[..., Answer]

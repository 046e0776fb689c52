"""What can be made to go wrong in an emulated Pinecone, and with which calls.

| fault | what the client gets | is the work done? |
|---|---|---|
| `Status(503)` | an error in Pinecone's form, `Retry-After` if asked for | no; yes with `after` |
| `Status(502, body="<html>")` | an error in a gateway's form | the same |
| `Reset()` | its connection is reset | no; yes with `after` |
| `Hang()` | nothing, until it is let go | at once; or once it is let go ("late"); or "never" |
| `Partial()` | an error, or with `status=200` a count that is too small | of so much of the call |
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

ANY_ROUTE = "*"


class Status(msgspec.Struct, frozen=True, tag="status", forbid_unknown_fields=True):
    """The call is answered with an error; with `after`, its work is done all the same."""

    status: int
    message: str = ""
    retry_after: float | str | None = None  # seconds, or whatever stands in the header
    body: str | None = None  # instead of Pinecone's JSON
    after: bool = False


class Reset(msgspec.Struct, frozen=True, tag="reset", forbid_unknown_fields=True):
    """The connection is reset instead of an answer; with `after`, when the work is done."""

    after: bool = False


class Hang(msgspec.Struct, frozen=True, tag="hang", forbid_unknown_fields=True):
    """No answer comes until the rule is released, by when the client may have gone."""

    work: Literal["first", "late", "never"] = "first"


class Partial(msgspec.Struct, frozen=True, tag="partial", forbid_unknown_fields=True):
    """So much of an upsert, or of a deletion by ids, is done, the first of it."""

    fraction: float = 0.5
    status: int = 500


Fault: TypeAlias = Status | Reset | Hang | Partial


@dataclass(slots=True, eq=False)
class Rule:
    """A fault, and which calls it is for. `release` lets calls go that hang by it."""

    route: str
    fault: Fault
    times: int | None  # None: all
    after: int
    seen: int = 0  # calls that fitted
    played: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    """A call has come to the fault."""
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let go what hangs, and what would."""
        self.released.set()

    def takes(self, route: str) -> bool:
        """Count a call, and tell whether the fault is for it."""
        if self.route not in (ANY_ROUTE, route):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.played >= self.times):
            return False
        self.played += 1
        self.reached.set()
        return True


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule as other processes order it, over HTTP."""

    route: str
    fault: Fault
    times: int | None = 1
    after: int = 0


def first_that_takes(rules: Iterable[Rule], route: str) -> Rule | None:
    """Find the rule that takes a call. Rules after it do not count the call."""
    return next((rule for rule in rules if rule.takes(route)), None)

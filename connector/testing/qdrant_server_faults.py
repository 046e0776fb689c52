"""What goes wrong at the Qdrant emulator, for which of the calls, when it is asked to.

| kind | is the work done? | what the client sees |
|---|---|---|
| answer | no | a status with an error, perhaps with a wait |
| reset | no | the connection breaks |
| lose | yes | the connection breaks |
| hang | as `done` says | nothing, until `release`: its own timeout |
| say | yes | 200 with another status of the update: "acknowledged", "wait_timeout" |
| tear | the first part of the points | 500 |

The first fault that fits a call takes it. Faults count only the calls that fit them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

PATIENCE_SECONDS = 60.0  # a call that nobody releases ends then, so that no test hangs for good

Predicate = Callable[[Mapping[str, Any]], bool]
"""Told a point as it came, {"id": ..., "vector": ..., "payload": ...}."""


class Kind(StrEnum):
    """What becomes of a call."""

    ANSWER = "answer"
    RESET = "reset"
    LOSE = "lose"
    HANG = "hang"
    SAY = "say"
    TEAR = "tear"


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault. `POST /_faults` takes it as JSON, in the same words."""

    kind: Kind = Kind.ANSWER
    method: str = ""  # "PUT"; empty: any
    path: str = ""  # a regular expression for the whole path, without its query; empty: any
    record: str = ""  # only calls with a point that has this id, or this value in its payload
    over_bytes: int = -1  # only calls whose body is larger
    times: int | None = 1  # so many calls; None: all
    after: int = 0  # let so many that fit pass first
    status: int = 503  # of an answer
    words: str = "fault on demand"  # of its error
    retry_after: str = ""  # its header: "2"; "1.5", which Qdrant's client cannot read
    update_status: str = "wait_timeout"  # what `say` says
    fraction: float = 0.5  # how much of the points `tear` applies
    done: bool = False  # whether a hanging call does its work, before it hangs


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came."""

    method: str
    path: str  # without its query, and still quoted
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def points(self) -> Iterator[Mapping[str, Any]]:
        """Give the points that the call wants written, batches of operations included."""
        try:
            asked = msgspec.json.decode(self.body)
        except msgspec.MsgspecError:
            return
        if isinstance(asked, dict):
            for operation in asked.get("operations", [{"upsert": asked}]):
                if isinstance(operation, dict) and isinstance(operation.get("upsert"), dict):
                    yield from _written(operation["upsert"])


def _written(upsert: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for point in upsert.get("points", ()):
        if isinstance(point, dict):
            yield point
    batch = upsert.get("batch")
    if isinstance(batch, dict):
        for place, id in enumerate(batch.get("ids", ())):
            yield {"id": id, "payload": (batch.get("payloads") or [None] * (place + 1))[place]}


@dataclass(slots=True)
class _Pending:
    fault: Fault
    holds: Predicate | None
    seen: int = 0

    def takes(self, call: Call) -> bool:
        fault = self.fault
        if fault.method and fault.method != call.method:
            return False
        if fault.path and not re.fullmatch(fault.path, call.path):
            return False
        if len(call.body) <= fault.over_bytes:
            return False
        if fault.record and not any(_has(point, fault.record) for point in call.points()):
            return False
        if self.holds and not any(self.holds(point) for point in call.points()):
            return False
        self.seen += 1
        return self.seen > fault.after and not self._is_over(self.seen)

    @property
    def is_spent(self) -> bool:
        return self._is_over(self.seen + 1)

    def _is_over(self, turn: int) -> bool:
        return self.fault.times is not None and turn > self.fault.after + self.fault.times


def _has(point: Mapping[str, Any], record: str) -> bool:
    return str(point.get("id")) == record or record in (point.get("payload") or {}).values()


@dataclass(slots=True)
class Faults:
    """The faults of one server, in the order in which they were asked for."""

    reached: threading.Event = field(default_factory=threading.Event)
    """Set when a call hangs."""
    _pending: list[_Pending] = field(default_factory=list)
    _gate: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault, holds: Predicate | None = None) -> None:
        """Have a fault wait for calls that fit it, and that write a point of which `holds` is true."""
        with self._lock:
            self._pending.append(_Pending(fault, holds))

    def answer(self, status: int, words: str = "fault on demand", **fits: Any) -> None:
        """Refuse the next calls with a status; `retry_after` names a wait."""
        self.add(Fault(status=status, words=words, **fits))

    def reset(self, **fits: Any) -> None:
        """Break the connections of the next calls before anything is done."""
        self.add(Fault(kind=Kind.RESET, **fits))

    def lose(self, **fits: Any) -> None:
        """Do what the next calls want, and break their connections instead of answering."""
        self.add(Fault(kind=Kind.LOSE, **fits))

    def hang(self, **fits: Any) -> None:
        """Let the next calls wait until `release`; `reached` is set when one does."""
        self.reached.clear()
        self.add(Fault(kind=Kind.HANG, **fits))

    def say(self, update_status: str = "wait_timeout", **fits: Any) -> None:
        """Do what the next calls want, and say with 200 that it is not done yet."""
        self.add(Fault(kind=Kind.SAY, update_status=update_status, **fits))

    def tear(self, fraction: float = 0.5, **fits: Any) -> None:
        """Write the first part of the points of the next calls, then answer 500."""
        self.add(Fault(kind=Kind.TEAR, fraction=fraction, method="PUT", **fits))

    def poison(self, record: str | Predicate, words: str = "Wrong input: fault on demand", **fits: Any) -> None:
        """Refuse with 400 every call that writes a certain point: its id, a value of its payload, or a predicate."""
        named, holds = (record, None) if isinstance(record, str) else ("", record)
        self.add(Fault(**{"status": 400, "times": None, "words": words, "record": named} | fits), holds)

    def clear(self) -> None:
        """Forget all faults, and let go what hangs."""
        with self._lock:
            self._pending.clear()
        self.release()

    def release(self) -> None:
        """Let the calls go on that hang now."""
        with self._lock:
            gate, self._gate = self._gate, threading.Event()
        gate.set()

    @property
    def pending(self) -> list[Fault]:
        """The faults that wait for further calls."""
        with self._lock:
            return [one.fault for one in self._pending if not one.is_spent]

    def take(self, call: Call) -> Fault | None:
        """Give the fault that takes a call."""
        with self._lock:
            self._pending = [one for one in self._pending if not one.is_spent]
            return next((one.fault for one in self._pending if one.takes(call)), None)

    def wait(self) -> None:
        """Hang until `release`."""
        with self._lock:
            gate = self._gate
        self.reached.set()
        gate.wait(PATIENCE_SECONDS)

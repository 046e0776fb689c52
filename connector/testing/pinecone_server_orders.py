"""Orders to the emulated Pinecone over HTTP, for tests in other processes and other languages. They need no key.

| request to `/emulator/` | with | does |
|---|---|---|
| `POST faults` | `{"route": "upsert", "fault": {"type": "status", "status": 503}, "times": 2}` | `on` |
| `POST release` | | lets go what hangs |
| `POST poison` | `{"text": "doc-7#0", "message": "Invalid record"}` | `poison` |
| `DELETE poison` | | `cure`, of all |
| `PATCH terms` | `{"lag": {"list": 2}, "limits": {"upsert_bytes": 1000}, "has_aliases": false}` | changes `terms` |
| `POST settle`, `POST clear` | | the methods |
| `GET counts` | | calls by route, records written and removed, records there |
| `GET requests` | | the latest requests, oldest first |

The faults are `status`, `reset`, `hang` and `partial`, with the fields of `pinecone_server_faults`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .pinecone_server_faults import Order
from .pinecone_server_rules import DEFAULT_NAMESPACE
from .pinecone_server_wire import Answer

if TYPE_CHECKING:
    from .pinecone_server import PineconeServer
    from .pinecone_server_http import Request

ORDERS_PATH: Final = "/emulator/"


class _Poison(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    message: str = "Invalid record"


class _Terms(msgspec.Struct, forbid_unknown_fields=True):
    lag: dict[str, int] = {}
    limits: dict[str, int] = {}
    has_aliases: bool | None = None
    polls_until_ready: int | None = None


def obeyed(server: PineconeServer, request: Request) -> Answer:
    """Carry out an order; 400 says what is wrong with one, 404 that there is no such order."""
    try:
        return _carried_out(server, request)
    except (msgspec.DecodeError, ValueError, AttributeError) as error:
        return Answer({"message": str(error)}, 400)


def _carried_out(server: PineconeServer, request: Request) -> Answer:
    asked = f"{request.method} {request.path.removeprefix(ORDERS_PATH)}"
    match asked:
        case "POST faults":
            order = msgspec.json.decode(request.body, type=Order)
            server.on(order.route, order.fault, times=order.times, after=order.after)
        case "POST poison":
            poison = msgspec.json.decode(request.body, type=_Poison)
            server.poison(poison.text, poison.message)
        case "PATCH terms":
            _change(server, msgspec.json.decode(request.body, type=_Terms))
        case "GET counts":
            return Answer(_counts(server))
        case "GET requests":
            return Answer(list(server.requests))
        case _ if asked in _PLAIN:
            _PLAIN[asked](server)
        case _:
            return Answer({"message": f"there is no order {asked}"}, 404)
    return Answer({})


def _release(server: PineconeServer) -> None:
    for rule in server.rules:
        rule.release()


_PLAIN: Final[Mapping[str, Callable[[PineconeServer], None]]] = {
    "POST release": _release,
    "DELETE poison": lambda server: server.terms.poisoned.clear(),
    "POST settle": lambda server: server.settle(),
    "POST clear": lambda server: server.clear(),
}


def _change(server: PineconeServer, change: _Terms) -> None:
    for part, values in ((server.terms.lag, change.lag), (server.terms.limits, change.limits)):
        for name, value in values.items():
            setattr(part, name, value)  # AttributeError if there is none: they have slots
    if change.has_aliases is not None:
        server.terms.has_aliases = change.has_aliases
    if change.polls_until_ready is not None:
        server.terms.polls_until_ready = change.polls_until_ready


def _counts(server: PineconeServer) -> dict[str, Any]:
    return {
        "calls": dict(server.calls),
        "records_written": server.records_written,
        "records_removed": server.records_removed,
        "indexes": {
            index.name: {name or DEFAULT_NAMESPACE: len(one.records) for name, one in index.namespaces.items()}
            for index in server.indexes.values()
        },
    }

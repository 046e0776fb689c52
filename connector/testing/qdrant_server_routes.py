"""The routes of the Qdrant emulator: which call is which, and what answers it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec
from qdrant_client.http import models as wire

from .qdrant_server_faults import Call
from .qdrant_server_state import Collection, Refusal, Settings, State, envelope
from .qdrant_server_values import parsed

if TYPE_CHECKING:
    from .qdrant_server import QdrantServer

OPEN_PATHS = {"/", "/healthz", "/readyz", "/livez"}
READING = re.compile(r".*/(points|scroll|count|query|query/batch|facet)")


def answered(emulator: QdrantServer, call: Call) -> Any:
    """Find what a call asks for and do it; a Refusal if it cannot be done."""
    if call.path == "/":
        return {"title": "qdrant - vector search engine", "version": emulator.version, "commit": "emulator"}
    if call.path in OPEN_PATHS:
        return "healthz check passed"
    for method, pattern, route in ROUTES:
        found = re.fullmatch(pattern, call.path)
        if found and method == call.method:
            with emulator.state.lock:
                return envelope(_within_words(partial(route, emulator, call, *map(unquote, found.groups()))))
    raise Refusal(404, f"Not found: the emulator has no route {call.method} {call.path}")


def route_of(call: Call) -> str:
    """Name a route as the counters do: "PUT /collections/{name}/points"."""
    for method, pattern, _ in ROUTES:
        if method == call.method and re.fullmatch(pattern, call.path):
            return f"{method} {_template(pattern)}"
    return f"{call.method} {call.path}"


def _template(pattern: str) -> str:
    return pattern.replace("([^/]+)", "{name}", 1).replace("([^/]+)", "{}")


def _within_words(work: Callable[[], Any]) -> Any:
    """Have the errors of local mode say what the server's say."""
    try:
        return work()
    except KeyError as error:
        raise Refusal(404, f"Not found: No point with id {error.args[0]} found") from error
    except (ValueError, TypeError) as error:
        words = str(error)
        if "is not found in the collection" in words and words.startswith("Point"):
            raise Refusal(404, f"Not found: {words}") from error
        raise Refusal(400, words if words.startswith("Wrong input") else f"Wrong input: {words}") from error


def json_of(call: Call) -> Any:
    """Read a body as the server's JSON reader does, which knows no NaN."""
    try:
        return msgspec.json.decode(call.body)
    except msgspec.MsgspecError as error:
        raise Refusal(400, f"Format error in JSON body: {error}") from error


def updated(emulator: QdrantServer, call: Call) -> Settings:
    """Give what an update answers: "completed" to whoever waited."""
    status = "completed" if call.query.get("wait") == "true" else "acknowledged"
    return {"operation_id": emulator.state.next_operation(), "status": status}


Route = Callable[..., Any]


def _reading(name: str) -> Route:
    def read(emulator: QdrantServer, call: Call, collection: str) -> Any:
        return getattr(emulator.points, name)(_allowed(emulator, call, collection), json_of(call))

    return read


def _writing(name: str) -> Route:
    def write(emulator: QdrantServer, call: Call, collection: str) -> Settings:
        getattr(emulator.points, name)(_allowed(emulator, call, collection), json_of(call))
        return updated(emulator, call)

    return write


def _allowed(emulator: QdrantServer, call: Call, name: str) -> Collection:
    """Find the collection of a call, if its strict mode allows the call's timeout."""
    collection = emulator.state.find(name)
    strict, timeout = collection.strict, call.query.get("timeout")
    words = strict.over("max_timeout", int(timeout), "timeout") if strict and timeout else None
    if words:
        raise Refusal(400, words)
    return collection


def _batch(emulator: QdrantServer, call: Call, name: str) -> list[Settings]:
    count = emulator.points.batch(_allowed(emulator, call, name), json_of(call))
    return [updated(emulator, call) for _ in range(count)]


def _create_index(emulator: QdrantServer, call: Call, name: str) -> Settings:
    collection = _allowed(emulator, call, name)
    asked = parsed(wire.CreateFieldIndex, json_of(call))
    schema = asked.field_schema
    if schema is None:
        raise Refusal(400, "Wrong input: Can't auto-detect field type, please specify `field_schema` in the request")
    if isinstance(schema, wire.PayloadSchemaType):
        collection.indexes[asked.field_name] = {"data_type": str(schema)}
    else:
        params = schema.model_dump(mode="json", exclude_none=True)
        collection.indexes[asked.field_name] = {"data_type": params["type"], "params": params}
    return updated(emulator, call)


def _delete_index(emulator: QdrantServer, call: Call, name: str, field: str) -> Settings:
    _allowed(emulator, call, name).indexes.pop(field, None)
    return updated(emulator, call)


def _about(answer: Callable[..., Any]) -> Route:
    """Answer from the state and the names in the path."""

    def ask(emulator: QdrantServer, call: Call, *names: str) -> Any:
        del call
        return answer(emulator.state, *names)

    return ask


def _asking(kind: type[Any], answer: Callable[..., Any]) -> Route:
    """Answer from the state, the names in the path, and a body of a certain kind."""

    def ask(emulator: QdrantServer, call: Call, *names: str) -> Any:
        return answer(emulator.state, *names, parsed(kind, json_of(call)))

    return ask


def _listed(state: State) -> Settings:
    return {"collections": [{"name": name} for name in sorted(state.collections)]}


def _exists(state: State, name: str) -> Settings:
    return {"exists": state.aliases.get(name, name) in state.collections}


def _get_point(emulator: QdrantServer, call: Call, name: str, id: str) -> Settings:
    found: Settings = emulator.points.get(_allowed(emulator, call, name), id)
    return found


NAME = r"/collections/([^/]+)"

ROUTES: tuple[tuple[str, str, Route], ...] = (
    ("GET", "/collections", _about(_listed)),
    ("GET", "/aliases", _about(State.listed_aliases)),
    ("POST", "/collections/aliases", _asking(wire.ChangeAliasesOperation, State.change_aliases)),
    ("GET", f"{NAME}/aliases", _about(lambda state, name: state.listed_aliases(state.find(name).name))),
    ("GET", f"{NAME}/exists", _about(_exists)),
    ("GET", NAME, _about(lambda state, name: state.info(state.find(name)))),
    ("PUT", NAME, _asking(wire.CreateCollection, State.create)),
    ("PATCH", NAME, _asking(wire.UpdateCollection, State.update)),
    ("DELETE", NAME, _about(State.delete)),
    ("PUT", f"{NAME}/index", _create_index),
    ("DELETE", f"{NAME}/index/([^/]+)", _delete_index),
    ("PUT", f"{NAME}/points", _writing("upsert")),
    ("POST", f"{NAME}/points", _reading("retrieve")),
    ("POST", f"{NAME}/points/delete", _writing("delete")),
    ("POST", f"{NAME}/points/scroll", _reading("scroll")),
    ("POST", f"{NAME}/points/count", _reading("count")),
    ("POST", f"{NAME}/points/query", _reading("query")),
    ("POST", f"{NAME}/points/query/batch", _reading("query_batch")),
    ("POST", f"{NAME}/points/batch", _batch),
    ("POST", f"{NAME}/points/payload", _writing("set_payload")),
    ("PUT", f"{NAME}/points/payload", _writing("overwrite_payload")),
    ("POST", f"{NAME}/points/payload/delete", _writing("delete_payload")),
    ("POST", f"{NAME}/points/payload/clear", _writing("clear_payload")),
    ("PUT", f"{NAME}/points/vectors", _writing("update_vectors")),
    ("POST", f"{NAME}/points/vectors/delete", _writing("delete_vectors")),
    ("POST", f"{NAME}/facet", _reading("facet")),
    ("GET", f"{NAME}/points/([^/]+)", _get_point),
)

"""A Pinecone on this machine, for tests: the official SDK talks to it as to the service, and it goes wrong on request.

    with PineconeServer() as server:
        client = Pinecone(api_key="any", host=server.url)
        client.create_index("docs", dimension=4, metric="cosine", spec=ServerlessSpec(cloud="aws", region="us-east-1"))
        index = client.index("docs")

        server.on("upsert", Status(429, retry_after=2), times=4)   # the next four upserts
        server.on("upsert", Reset(after=True))                     # the next: done, and its answer is lost
        server.poison("doc-7#0")                                   # no upsert with this record is accepted
        server.terms.lag.list = 2                                  # two listings do not see what is written now
        server.records("docs", "namespace")                        # what is stored, not asked of the API

From a shell: `python -m connector.testing.pinecone_server --port 5080`. Other processes give the same orders over HTTP,
under `/emulator/` (`pinecone_server_orders`).

What it has: serverless indexes of dense vectors, over REST, with namespaces and, as of API 2026-07, their aliases; the
limits of `pinecone_server_rules`. What it has not: sparse vectors, integrated embedding, documents, imports, backups,
gRPC, rates. Search is exact. Nothing is kept when it ends.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Self

import click

from .pinecone_server_control import CONTROL_CALLS, DENSE_FIELD, Indexes, create_index, host_path
from .pinecone_server_faults import Fault, Hang, Partial, Reset, Rule, Status, first_that_takes
from .pinecone_server_http import Listener, Request
from .pinecone_server_index import Lag, Namespace, PineconeRecord
from .pinecone_server_namespaces import ALIAS_CALLS, NAMESPACE_CALLS
from .pinecone_server_orders import ORDERS_PATH, obeyed
from .pinecone_server_records import RECORD_CALLS
from .pinecone_server_routes import NO_KEY, ROUTES, answer_of, find_route, injected, refusal
from .pinecone_server_rules import (
    PineconeLimits,
    RefusedError,
    dense_vector,
    stored_metadata,
)
from .pinecone_server_wire import Answer, Call, Terms

__all__ = [
    "Fault",
    "Hang",
    "Lag",
    "Partial",
    "PineconeLimits",
    "PineconeRecord",
    "PineconeServer",
    "Reset",
    "Rule",
    "Seen",
    "Status",
    "Terms",
]

_LOGGED: Final = 10_000
_ERRORS_FROM: Final = 400
_CALLS: Final = {**RECORD_CALLS, **NAMESPACE_CALLS, **ALIAS_CALLS}


@dataclass(slots=True)
class Seen:
    """A request of which the log knows."""

    route: str
    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case; the key is left out
    request_bytes: int  # of the body
    status: int = 0  # 0: there was no answer
    answer_bytes: int = 0
    records: int = 0  # that were written, or removed


class PineconeServer:
    """The server; `url` is where its controller is, and what the SDK takes as `host`."""

    def __init__(
        self, *, port: int = 0, api_key: str | None = None, aliases: bool = True, address: str = "127.0.0.1"
    ) -> None:
        self.terms: Terms = Terms(has_aliases=aliases)
        self.api_key = api_key  # None: any
        self.calls: Counter[str] = Counter()
        self.records_written = 0
        self.records_removed = 0
        self.requests: deque[Seen] = deque(maxlen=_LOGGED)
        self.indexes: Indexes = {}
        self.rules: list[Rule] = []
        self._request_ids = count(1)
        self._lock = threading.RLock()
        self._listener = Listener(port, self, address)
        self.url = f"http://{address}:{self._listener.server_address[1]}"
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(0.01,), name="pinecone emulator", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self._listener.shutdown()
        self._thread.join()
        self._listener.close_all()

    # --- what goes wrong ---

    def on(self, route: str, fault: Fault, *, times: int | None = 1, after: int = 0) -> Rule:
        """Have a fault take some calls of a route ("*": any): `times` of them, or all (None), `after` so many."""
        if route not in (*ROUTES, "*"):
            raise ValueError(f"there is no route {route!r}: take one of {', '.join(ROUTES)}, or *")
        rule = Rule(route, fault, times, after)
        with self._lock:
            self.rules.append(rule)
        return rule

    def poison(self, text: str, message: str = "Invalid record") -> None:
        """Refuse every upsert that has a record with this id, or this string in its metadata."""
        with self._lock:
            self.terms.poisoned[text] = message

    def cure(self, text: str) -> None:
        """Accept it again."""
        with self._lock:
            self.terms.poisoned.pop(text, None)

    def settle(self) -> None:
        """Let every reader see every write."""
        with self._lock:
            for index in self.indexes.values():
                for namespace in index.namespaces.values():
                    namespace.settle()

    def clear(self) -> None:
        """Forget faults, poison, counts and the log, and let go what hangs. Records stay."""
        with self._lock:
            for rule in self.rules:
                rule.release()
            self.rules.clear()
            self.terms.poisoned.clear()
            self.calls.clear()
            self.requests.clear()
            self.records_written = self.records_removed = 0

    # --- behind the API ---

    def create(self, name: str, dimension: int, metric: str = "cosine") -> str:
        """Make an index; give the URL of its host."""
        schema = {"fields": {DENSE_FIELD: {"type": "dense_vector", "dimension": dimension, "metric": metric}}}
        call = Call("create_index", Answer({"name": name, "schema": schema}).encoded(), {}, self.terms)
        with self._lock:
            create_index(self.indexes, call)
        return self.url + host_path(name)

    def records(self, index: str, namespace: str = "") -> dict[str, PineconeRecord]:
        """Give what a namespace, or that of an alias, holds, by id; nothing if it is not there."""
        with self._lock:
            return dict(self.indexes[index].read(namespace).records)

    def put(self, index: str, namespace: str, records: Mapping[str, tuple[Sequence[float], Mapping[str, Any]]]) -> None:
        """Store vectors and metadata behind everybody's back."""
        with self._lock:
            at = self.indexes[index]
            made = {
                id: PineconeRecord(
                    dense_vector(id, values, at.dimension), stored_metadata(id, metadata, self.terms.limits)
                )
                for id, (values, metadata) in records.items()
            }
            at.namespaces.setdefault(namespace, Namespace()).write(made, Lag())

    def remove(self, index: str, namespace: str, ids: Iterable[str]) -> None:
        """Remove records behind everybody's back."""
        with self._lock:
            self.indexes[index].namespaces[namespace].write(dict.fromkeys(ids), Lag())

    # --- answering ---

    def play(self, request: Request) -> Answer | None:
        """Answer a request, or not."""
        if request.path.startswith(ORDERS_PATH):
            with self._lock:
                return obeyed(self, request)
        route, index, name = find_route(request)
        call = Call(
            route,
            request.body,
            request.query,
            self.terms,
            name,
            "http://" + request.headers.get("host", self.url.removeprefix("http://")),
            request.headers.get("x-pinecone-api-version", ""),
        )
        headers = {header: text for header, text in request.headers.items() if header != "api-key"}
        seen = Seen(route, request.method, request.path, headers, len(request.body))
        with self._lock:
            self.calls[route] += 1
            self.requests.append(seen)
            rule = first_that_takes(self.rules, route)
        answer = self._at_fault(rule, request, call, index)
        with self._lock:
            seen.records = call.records
        if answer is not None:
            answer.headers["x-pinecone-request-id"] = f"{next(self._request_ids):016x}"
            answer.body = answer.encoded()
            seen.status, seen.answer_bytes = answer.status, len(answer.body)
        return answer

    def _at_fault(self, rule: Rule | None, request: Request, call: Call, index: str | None) -> Answer | None:
        if rule is None:
            return self._done(request, call, index)
        match rule.fault:
            case Status() as fault:
                if fault.after:
                    self._done(request, call, index)
                return answer_of(fault, index)
            case Reset() as fault:
                if fault.after:
                    self._done(request, call, index)
                return None
            case Partial() as fault:
                call.share = fault.fraction
                answer = self._done(request, call, index)
                is_refused = answer.status >= _ERRORS_FROM
                return answer if is_refused or fault.status < _ERRORS_FROM else injected(fault.status, "", index)
            case Hang() as fault:
                held = self._done(request, call, index) if fault.work == "first" else None
                rule.released.wait()
                return self._done(request, call, index) if fault.work == "late" else held

    def _done(self, request: Request, call: Call, index: str | None) -> Answer:
        """Do what is asked, and answer."""
        try:
            self._check(request, call)
            with self._lock:
                return self._work(request, call, index)
        except RefusedError as refused:
            return refusal(refused, index)

    def _work(self, request: Request, call: Call, index: str | None) -> Answer:
        if index is None and call.route in CONTROL_CALLS:
            return CONTROL_CALLS[call.route](self.indexes, call)
        if index not in self.indexes or call.route not in _CALLS:
            raise RefusedError(404, f"{request.method} {request.path} not found")
        if call.route in ALIAS_CALLS and not self.terms.has_aliases:
            raise RefusedError(404, "Not Found")
        answer = _CALLS[call.route](self.indexes[index], call)
        if call.route == "upsert":
            self.records_written += call.records
        elif call.route in ("delete", "delete_namespace"):
            self.records_removed += call.records
        return answer

    def _check(self, request: Request, call: Call) -> None:
        key = request.headers.get("api-key", "")
        if not key or (self.api_key is not None and key != self.api_key):
            raise RefusedError(NO_KEY, "Invalid API key.")
        limits = call.terms.limits
        if request.url_bytes > limits.url_bytes:
            raise RefusedError(414, f"URI too long: {request.url_bytes} bytes")
        if (size := len(request.body)) > limits.message_bytes:
            words = f"message length too large: found {size} bytes, the limit is: {limits.message_bytes} bytes"
            raise RefusedError(400, f"Error, {words}", code=11)  # seen


@click.command()
@click.option("--port", default=5080, show_default=True, help="0: any free one.")
@click.option("--address", default="127.0.0.1", show_default=True)
@click.option("--api-key", help="The only key that is accepted.  [default: any]")
@click.option("--aliases/--no-aliases", default=True, help="Be a service with namespace aliases, or of before.")
@click.option("--index", "indexes", multiple=True, metavar="NAME:DIMENSION", help="Make an index at once.")
def main(port: int, address: str, api_key: str | None, indexes: Sequence[str], *, aliases: bool) -> None:
    """Emulate Pinecone until interrupted."""
    with PineconeServer(port=port, address=address, api_key=api_key, aliases=aliases) as server:
        for index in indexes:
            name, _, dimension = index.partition(":")
            server.create(name, int(dimension))
        click.echo(server.url)
        threading.Event().wait()


if __name__ == "__main__":
    main()

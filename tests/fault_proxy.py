"""A server on 127.0.0.1 between a client and a service, or in the place of one, that goes wrong where it is told to.

    with FaultProxy(upstream="http://127.0.0.1:8080") as proxy:          # passes everything on
        proxy.on("POST", r"/v1/embed-jobs", Drop())                      # the next such request: accepted, answer lost
        proxy.on("GET", r"/v1/embed-jobs", Answer(503), times=2)         # the next two: refused
        proxy.on("GET", r"/v1/embed-jobs", Rewrite(reverse), after=2)    # the third
        proxy.on("GET", r"/parts/.*", Cut(after_bytes=1000))
        client.get(proxy.url + "/v1/datasets")
        proxy.seen                                                       # the requests; `reached`: by the service, too

Without `upstream`, `serve` says what the service would answer, else that is a 404. The path of a request is matched
whole, without its query. Of the faults that fit, the first counts the request, and each only those that come to it.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, Self
from urllib.parse import parse_qsl, urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Seen:
    """A request as it came, and whether the service has got it."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    reached: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back: by a service, or instead of it; `after` it has done what it was asked, or before."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: bool = False

    @classmethod
    def of(cls, value: object, status: int = 200, *, after: bool = False, **headers: str) -> Answer:
        """Make an answer of JSON."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | named, after)

    def play(self, exchange: Exchange) -> None:
        if self.after:
            exchange.forward()
        exchange.send(self)


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection is closed instead of an answer, after the service has done what it was asked, or before."""

    after: bool = True

    def play(self, exchange: Exchange) -> None:
        if self.after:
            exchange.forward()
        exchange.close()


@dataclass(frozen=True, slots=True)
class Cut:
    """The answer ends after so many bytes of its body."""

    after_bytes: int

    def play(self, exchange: Exchange) -> None:
        exchange.send(exchange.forward(), only_bytes=self.after_bytes)


@dataclass(frozen=True, slots=True)
class Hold:
    """The answer waits for an event. A client that gave up meanwhile gets nothing."""

    until: threading.Event
    reached: threading.Event = field(default_factory=threading.Event)
    after: bool = True

    def play(self, exchange: Exchange) -> None:
        answer = exchange.forward() if self.after else None
        self.reached.set()
        assert self.until.wait(PATIENCE_SECONDS), "nobody let the answer go"
        exchange.send(answer or exchange.forward())


@dataclass(frozen=True, slots=True)
class Drip:
    """The answer comes in two halves, and the second waits for an event."""

    until: threading.Event
    reached: threading.Event = field(default_factory=threading.Event)

    def play(self, exchange: Exchange) -> None:
        exchange.send(exchange.forward(), pause=self)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The service's JSON is changed on its way: lists in another order, entries missing or twice."""

    edit: Callable[[Any], Any]

    def play(self, exchange: Exchange) -> None:
        answer = exchange.forward()
        exchange.send(Answer(answer.status, json.dumps(self.edit(json.loads(answer.body))).encode(), answer.headers))


class Fault(Protocol):
    """What is done with a request."""

    def play(self, exchange: Exchange) -> None: ...


@dataclass(slots=True)
class Rule:
    """A fault, and which of the requests that fit it is for."""

    method: str
    path: re.Pattern[str]
    fault: Fault
    turns: range | None
    count: int = 0

    def takes(self, seen: Seen) -> bool:
        if seen.method != self.method or not self.path.fullmatch(seen.path):
            return False
        self.count += 1
        return self.turns is None or self.count in self.turns


class FaultProxy:
    """The server; `url` is where it is."""

    def __init__(self, upstream: str | None = None) -> None:
        self.seen: list[Seen] = []
        self.upstream = upstream and urlsplit(upstream)
        self._rules: list[Rule] = []
        self._routes: list[tuple[str, re.Pattern[str], Callable[[Seen], Answer]]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(Exchange):
            through = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="fault proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def on(self, method: str, path: str, fault: Fault, *, times: int | None = 1, after: int = 0) -> None:
        """Have a fault take some of the requests that fit: `times` of them, or all (None), `after` so many others."""
        turns = None if times is None else range(after + 1, after + 1 + times)
        with self._lock:
            self._rules.append(Rule(method, re.compile(path), fault, turns))

    def serve(self, method: str, path: str, answer: Answer | Callable[[Seen], Answer]) -> None:
        """Be the service for some requests: what is given last is asked first."""
        make = answer if callable(answer) else lambda _seen: answer
        with self._lock:
            self._routes.insert(0, (method, re.compile(path), make))

    def clear(self) -> None:
        """Forget all faults, what is served, and what was seen."""
        with self._lock:
            self._rules.clear()
            self._routes.clear()
            self.seen.clear()

    def requests(self, method: str, path: str = ".*") -> Sequence[Seen]:
        """Give the requests so far that fit."""
        return [seen for seen in list(self.seen) if seen.method == method and re.fullmatch(path, seen.path)]

    def fault_for(self, seen: Seen) -> Fault | None:
        with self._lock:
            self.seen.append(seen)
            return next((rule.fault for rule in self._rules if rule.takes(seen)), None)

    def stand_in(self, seen: Seen) -> Answer:
        """Answer as the service, where there is none."""
        with self._lock:
            make = next(
                (m for method, path, m in self._routes if method == seen.method and path.fullmatch(seen.path)), None
            )
        seen.reached = make is not None
        return make(seen) if make else Answer.of({"message": "nothing answers this"}, 404)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients may go whenever they like
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Exchange(BaseHTTPRequestHandler):
    """One request on its way."""

    protocol_version = "HTTP/1.1"
    through: FaultProxy
    seen: Seen
    wbufsize = -1  # an answer goes out in one piece
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): text for name, text in self.headers.items()}
        self.seen = Seen(
            self.command, url.path, parse_qsl(url.query, keep_blank_values=True), headers, self._read_body()
        )
        fault = self.through.fault_for(self.seen)
        if fault:
            fault.play(self)
        else:
            self.send(self.forward())

    do_POST = do_DELETE = do_PUT = do_HEAD = do_GET  # noqa: N815 - the names are http.server's

    def forward(self) -> Answer:
        """Have the service do what was asked, and give what it answers."""
        upstream = self.through.upstream
        if not upstream:
            return self.through.stand_in(self.seen)
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=PATIENCE_SECONDS)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, text in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    connection.putheader(name, text)
            connection.putheader("Content-Length", str(len(self.seen.body)))
            connection.endheaders(self.seen.body)
            response = connection.getresponse()
            body = response.read()
            self.seen.reached = True
            return Answer(response.status, body, dict(response.getheaders()))
        finally:
            connection.close()

    def send(self, answer: Answer, *, only_bytes: int | None = None, pause: Drip | None = None) -> None:
        """Send an answer; or its beginning, though its header promises all of it."""
        self.send_response(answer.status)
        for name, text in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, text)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if pause:
            half = len(answer.body) // 2
            self.wfile.write(answer.body[:half])
            self.wfile.flush()
            pause.reached.set()
            assert pause.until.wait(PATIENCE_SECONDS), "nobody let the answer go on"
            self.wfile.write(answer.body[half:])
        else:
            self.wfile.write(answer.body[:only_bytes])
        if only_bytes is not None and only_bytes < len(answer.body):
            self.close()

    def close(self) -> None:
        """Close the connection without another word."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._read(int(self.headers.get("Content-Length") or 0))
        body = bytearray()
        while size := int(self.rfile.readline() or b"-1", 16):
            body += self._read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)

    def _read(self, size: int) -> bytes:
        found = self.rfile.read(size) if size > 0 else b""
        if len(found) != size:
            raise ConnectionAbortedError("the client went before its request was whole")
        return found

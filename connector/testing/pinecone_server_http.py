"""HTTP for the emulated Pinecone: one request in, one answer out, or a connection that is reset."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from .pinecone_server_wire import Answer

_RESET_AT_ONCE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came."""

    method: str
    path: str  # as it was sent, still percent-encoded
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    url_bytes: int


class Playing(Protocol):
    """What answers requests, in as many threads as there are connections."""

    def play(self, request: Request) -> Answer | None:
        """Give the answer; None: the connection is to be reset."""
        ...


class Listener(ThreadingHTTPServer):
    """The server's socket, and those of its clients."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, playing: Playing, host: str) -> None:
        self.playing = playing
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((host, port), _Exchange)

    def close_all(self) -> None:
        """Close the socket, and the connections that clients keep."""
        self.server_close()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it went by itself

    def opened(self, client: socket.socket) -> None:
        with self._lock:
            self._clients.add(client)

    def closed(self, client: socket.socket) -> None:
        with self._lock:
            self._clients.discard(client)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # clients may go whenever they like, and we may close
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer goes out in one piece
    disable_nagle_algorithm = True
    server: Listener

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.server.closed(self.connection)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        request = Request(
            self.command,
            url.path,
            parse_qs(url.query, keep_blank_values=True),
            {name.lower(): text for name, text in self.headers.items()},
            self._body(),
            len(self.path),
        )
        answer = self.server.playing.play(request)
        if answer is None:
            self._reset()
        else:
            self._send(answer)

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815 - the names are http.server's

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _send(self, answer: Answer) -> None:
        body = answer.encoded()
        self.send_response(answer.status)
        for name, text in ({"Content-Type": "application/json"} | answer.headers).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
        self.connection.close()

    def _body(self) -> bytes:
        size = int(self.headers.get("Content-Length") or 0)
        found = self.rfile.read(size) if size else b""
        if len(found) != size:
            raise ConnectionAbortedError("the client went before its request was whole")
        return found

"""HTTP for the Qdrant emulator: a call comes, a fault takes it or a route answers it, in Qdrant's envelope."""

from __future__ import annotations

import os
import socket
import struct
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from .qdrant_server_faults import Call, Fault, Kind
from .qdrant_server_routes import answered
from .qdrant_server_state import Refusal, envelope

if TYPE_CHECKING:
    from .qdrant_server import QdrantServer


class Listener(ThreadingHTTPServer):
    """The socket, and the connections that are open."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, emulator: QdrantServer) -> None:
        self.emulator = emulator
        self.connections: set[socket.socket] = set()
        self.is_closing = False
        super().__init__(("127.0.0.1", port), Exchange)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # clients may go whenever they like
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        """Break what is open, as a restart does; what hangs is not done any more."""
        self.is_closing = True
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster


class Exchange(BaseHTTPRequestHandler):
    """One connection, and the calls on it."""

    protocol_version = "HTTP/1.1"
    server: Listener
    wbufsize = -1  # an answer goes out in one piece
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): text for name, text in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length") or 0))
        path = url.path.rstrip("/") or "/"
        call = Call(self.command, path, dict(parse_qsl(url.query)), headers, body)
        if path.startswith("/_"):
            try:
                self._send(200, self.server.emulator.controlled(call))
            except msgspec.MsgspecError as error:
                self._send(400, envelope(error=str(error)))
            return
        fault = self.server.emulator.arrived(call)
        self._play(call, fault)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names are http.server's

    def _play(self, call: Call, fault: Fault | None) -> None:
        kind = fault.kind if fault else None
        if fault is None:
            self._send(*self._answer(call))
        elif kind is Kind.ANSWER:
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            self._send(fault.status, envelope(error=fault.words), headers)
        elif kind is Kind.RESET:
            self._break()
        elif kind is Kind.LOSE:
            self._answer(call)
            self._break()
        elif kind is Kind.HANG:
            answer = self._answer(call) if fault.done else None
            self.server.emulator.faults.wait()
            if self.server.is_closing:
                self.close_connection = True
                return
            self._send(*(answer or self._answer(call)))
        elif kind is Kind.SAY:
            status, said, headers = self._answer(call)
            result = said.get("result") if isinstance(said, dict) else None
            for one in result if isinstance(result, list) else [result]:
                if isinstance(one, dict) and "operation_id" in one:
                    one["status"] = fault.update_status
            self._send(status, said, headers)
        else:
            self._answer(torn(call, fault.fraction))
            self._send(500, envelope(error=f"Service internal error: {fault.words}"))

    def _answer(self, call: Call) -> tuple[int, Any, dict[str, str]]:
        """Do what a call asks for: the status, the body, further headers."""
        emulator = self.server.emulator
        try:
            emulator.admit(call)
            return 200, answered(emulator, call), {}
        except Refusal as refusal:
            headers = {} if refusal.wait_seconds is None else {"Retry-After": str(refusal.wait_seconds)}
            plain = refusal.status == 401
            return refusal.status, str(refusal) if plain else envelope(error=str(refusal)), headers

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)

    def _break(self) -> None:
        """Reset the connection."""
        self.close_connection = True
        self.server.connections.discard(self.connection)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())


def torn(call: Call, fraction: float) -> Call:
    """Give an upsert of the first part of its points."""
    asked = msgspec.json.decode(call.body)
    if isinstance(asked.get("points"), list):
        asked["points"] = asked["points"][: int(len(asked["points"]) * fraction)]
    for name, column in (asked.get("batch") or {}).items():
        if isinstance(column, list):
            asked["batch"][name] = column[: int(len(column) * fraction)]
    return Call(call.method, call.path, call.query, call.headers, msgspec.json.encode(asked))

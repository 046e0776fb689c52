"""Uvicorn, as the service wants it: on a port that is taken beforehand, without signals of its own, all in JSON."""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from connector.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

BACKLOG: Final = 512
KEEP_ALIVE_SECONDS: Final = 30  # a poll of `co.wait` comes every 2 or 10 seconds


@contextmanager
def listener_on(host: str, port: int) -> Iterator[socket.socket]:
    """Take a port: whoever connects from now on waits for the answer. ConfigError if it cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda it: it[0] != socket.AF_INET)
        # asyncio turns Nagle's algorithm off where a socket says it is TCP; else each answer waits 40 ms for an ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ConfigError(_why_not(host, port, error)) from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(_why_not(host, port, error)) from None
        yield listener


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; stop what listens there, or name another port"
    if error.errno == errno.EACCES:
        return f"port {port} of {host} may not be taken by this user; name one above 1023"
    return f"cannot listen on {host}: {(error.strerror or str(error)).lower()}; name an address of this machine"


def url_of(listener: socket.socket) -> str:
    """Tell under which address a port is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_this_machine(host: str) -> bool:
    """Tell whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server(uvicorn.Server):
    """Answers requests with an app, until it is asked to stop."""

    def __init__(self, app: ASGIApp, *, grace_seconds: int) -> None:
        """Give requests so many seconds to be finished, once asked to stop."""
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            forwarded_allow_ips="127.0.0.1",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=grace_seconds,
        )
        super().__init__(config)

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override] # a generator's, there
        """Leave the signals alone: uvicorn's own way with them ends the process before our threads have stopped."""
        return nullcontext()

    def stop(self) -> None:
        """Finish the requests and end; when called again, end at once. From any thread, or a signal."""
        self.force_exit = self.should_exit
        self.should_exit = True


class _Protocol(H11Protocol):
    """HTTP/1.1, parsed by h11 whatever else is installed; what is no HTTP gets an answer of our kind, too."""

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            id = uuid4().hex
            body = json.dumps({"message": msg, "id": id})
            head = (
                "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
                f"content-length: {len(body)}\r\nx-request-id: {id}\r\n\r\n"
            )
            self.transport.write((head + body).encode())
        self.transport.close()

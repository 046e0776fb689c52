"""A Qdrant server for tests: its REST API on 127.0.0.1, in this process, with faults on demand.

    with QdrantServer() as server:
        client = QdrantClient(url=server.url)
        server.faults.answer(429, retry_after="2")          # the next call
        server.faults.lose(path=".*/points", times=3)       # the next three: done, and the answer lost
        server.faults.poison("doc-7")                       # 400 for every call that writes this record
        server.calls["PUT /collections/{name}/points"], server.points_written

Or for other processes: `python -m connector.testing.qdrant_server --port 6333`, whose faults are posted to `/_faults`
as JSON, in the words of `Fault`: {"kind": "answer", "status": 503, "times": 2}. GET shows those that wait, DELETE
forgets them, `POST /_release` lets go what hangs, `GET /_calls` shows the counters.

It keeps the server's rules: names and aliases, ids, dimensions, strict mode, its limit of a request. Its search is
exact, in Python: it is for thousands of points, not for millions. No gRPC, snapshots, shards, or inference. It needs
`pip install "vector-sync[qdrant]"`.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from .qdrant_server_faults import Call, Fault, Faults, Kind
from .qdrant_server_points import Points
from .qdrant_server_routes import OPEN_PATHS, READING, route_of
from .qdrant_server_state import Refusal, State, envelope
from .qdrant_server_wire import Listener

__all__ = ["Fault", "Faults", "Kind", "QdrantServer"]

VERSION = "1.19.0"  # whose source was read
MAX_REQUEST_BYTES = 32 * 1024 * 1024  # `service.max_request_size_mb`
POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came."""

    route: str  # "PUT /collections/{name}/points"
    path: str
    query: dict[str, str]
    size_bytes: int


class QdrantServer:
    """The emulator. `url` is where it listens; data and counters stay until the object goes."""

    def __init__(
        self,
        *,
        port: int = 0,
        api_key: str = "",
        read_only_api_key: str = "",
        version: str = VERSION,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.version = version
        self.faults = Faults()
        self.state = State(clock)
        self.points = Points(self.state)
        self.calls: Counter[str] = Counter()  # by route, faults included
        self.seen: deque[Seen] = deque(maxlen=10_000)
        self.max_request_bytes = max_request_bytes
        self._api_key = api_key
        self._read_only_api_key = read_only_api_key
        self._port = port
        self._listener: Listener | None = None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def points_written(self) -> int:
        """How many points were upserted; one that was written twice counts twice."""
        return self.points.written

    @property
    def points_deleted(self) -> int:
        """How many points were there and were deleted."""
        return self.points.deleted

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; on the same port as before, if it has listened."""
        self._listener = Listener(self._port, self)
        self._port = self._listener.server_address[1]
        threading.Thread(
            target=self._listener.serve_forever, args=(POLL_SECONDS,), name="qdrant emulator", daemon=True
        ).start()

    def stop(self) -> None:
        """Break all connections and listen no more."""
        if self._listener:
            self._listener.shutdown()
            self._listener.close_connections()
            self._listener.server_close()
            self._listener = None
        self.faults.release()

    def restart(self) -> None:
        """Break all connections, and be there again with the same data."""
        self.stop()
        self.start()

    def arrived(self, call: Call) -> Fault | None:
        """Count a call, and give the fault that takes it."""
        route = route_of(call)
        with self._lock:
            self.calls[route] += 1
            self.seen.append(Seen(route, call.path, dict(call.query), len(call.body)))
        return self.faults.take(call)

    def admit(self, call: Call) -> None:
        """Raise Refusal for a call without a key, and for one that is too large."""
        if self._api_key and call.path not in OPEN_PATHS:
            key = call.headers.get("api-key") or call.headers.get("authorization", "").removeprefix("Bearer ")
            if not key:
                raise Refusal(401, "Must provide an API key or an Authorization bearer token")
            if key not in {self._api_key, self._read_only_api_key} - {""}:
                raise Refusal(401, "Invalid API key or JWT")
            reads = call.method == "GET" or (call.method == "POST" and READING.fullmatch(call.path))
            if key != self._api_key and not reads:
                raise Refusal(403, "Forbidden: Global manage access is required")
        if len(call.body) > self.max_request_bytes:
            raise Refusal(
                400,
                f"Payload error: JSON payload ({len(call.body)} bytes) is larger than allowed "
                f"(limit: {self.max_request_bytes} bytes).",
            )

    def controlled(self, call: Call) -> Any:
        """Answer what another process asks of the emulator itself."""
        if call.path == "/_faults" and call.method == "POST":
            asked = msgspec.json.decode(call.body)
            for fault in msgspec.convert(asked if isinstance(asked, list) else [asked], list[Fault]):
                self.faults.add(fault)
        elif call.path == "/_faults" and call.method == "DELETE":
            self.faults.clear()
        elif call.path == "/_release":
            self.faults.release()
        elif call.path == "/_calls":
            return envelope(
                {
                    "calls": dict(self.calls),
                    "points_written": self.points_written,
                    "points_deleted": self.points_deleted,
                }
            )
        return envelope(self.faults.pending)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m connector.testing.qdrant_server", description="A Qdrant server for tests, in memory."
    )
    parser.add_argument("--port", type=int, default=6333)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--read-only-api-key", default="")
    parser.add_argument("--max-request-bytes", type=int, default=MAX_REQUEST_BYTES)
    options = parser.parse_args(arguments)
    server = QdrantServer(**vars(options))
    with server:
        print(f"qdrant emulator at {server.url}", flush=True)  # noqa: T201 - whoever started it waits for this line
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()

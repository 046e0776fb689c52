"""What the service of a soak talks to, on 127.0.0.1, and what goes wrong there; and what its indexes hold.

The embedder and the Qdrant are threads of this process. The index in a folder is read from copies, by a process.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from soak_world import Held, Outages

from connector.testing.qdrant_server import QdrantServer

DIMENSION = 32
LOOK_SECONDS = 30.0  # after which a reader that says nothing is ended


# --- the embedder --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaidCall:
    """A call whose texts were embedded."""

    at: float  # when it came
    digests: tuple[bytes, ...]
    answered: bool  # False: the answer was lost on purpose


@dataclass(slots=True)
class Trouble:
    """What goes wrong with the next calls."""

    kind: str = ""  # "refuse", "reset", "lose", "slow"
    status: int = 503
    retry_after: str = ""
    seconds: float = 0.0
    times: int = 0


class Embeddings:
    """An embedder of OpenAI's wire whose vectors are hashes, and which counts every text it was paid for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.paid: list[PaidCall] = []
        self.trouble = Trouble()
        self.under_way = 0  # calls that have come, and were not answered yet
        self.clock = clock
        self.lock = threading.Lock()
        self._server = _Listener(("127.0.0.1", 0), _Exchange)
        self._server.embeddings = self
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def take(self) -> Trouble | None:
        """Give the trouble that takes a call."""
        with self.lock:
            if self.trouble.times < 1:
                return None
            self.trouble.times -= 1
            return self.trouble

    def pay(self, texts: Iterable[str], *, answered: bool, seconds: float) -> None:
        """Embed texts for somebody, which takes some time."""
        digests = tuple(hashlib.md5(text.encode()).digest() for text in texts)
        with self.lock:
            self.under_way += 1
            self.paid.append(PaidCall(self.clock(), digests, answered))
        threading.Event().wait(seconds)
        with self.lock:
            self.under_way -= 1

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    embeddings: Embeddings

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # clients may be killed
            super().handle_error(request, client_address)


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        texts, embeddings = asked["input"], self.server.embeddings
        trouble = embeddings.take() or Trouble()
        if trouble.kind == "refuse":
            headers = {"Retry-After": trouble.retry_after} if trouble.retry_after else {}
            self._send(trouble.status, {"error": {"message": "fault on demand"}}, headers)
            return
        if trouble.kind == "reset":
            self._break()
            return
        embeddings.pay(texts, answered=trouble.kind != "lose", seconds=trouble.seconds)
        if trouble.kind == "lose":
            self._break()
            return
        vectors = [
            {"index": place, "embedding": base64.b64encode(vector_of(text)).decode()}
            for place, text in enumerate(texts)
        ]
        self._send(200, {"data": vectors, "usage": {"total_tokens": sum(len(text) // 4 for text in texts)}}, {})

    def _send(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)

    def _break(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())


def vector_of(text: str) -> bytes:
    digest = hashlib.shake_128(text.encode()).digest(2 * DIMENSION)
    return struct.pack(f"<{DIMENSION}f", *(number / 32768 - 1 for number in struct.unpack(f"<{DIMENSION}H", digest)))


# --- what the indexes hold -----------------------------------------------------------------------------


@dataclass(slots=True)
class Read:
    """An index as it was read."""

    held: dict[str, Held]
    points: int
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, payloads: Iterable[Mapping[str, Any]]) -> Read:
        """Put passages together to documents; what is not as a sync writes it is a problem."""
        parts: dict[str, dict[int, Mapping[str, Any]]] = {}
        problems, points = [], 0
        for points, payload in enumerate(payloads, 1):  # noqa: B007 - counted
            if not payload.keys() >= {"_vs_document", "_vs_index", "text"}:
                problems.append(f"a point has only {sorted(payload)}")
                continue
            document, index = str(payload["_vs_document"]), int(payload["_vs_index"])
            if index in parts.setdefault(document, {}):
                problems.append(f"{document} has its passage {index} twice")
            parts[document][index] = payload
        held = {}
        for document, passages in parts.items():
            if sorted(passages) != list(range(len(passages))):
                problems.append(f"{document} has the passages {sorted(passages)}")
            revisions = {int(passage.get("revision", -1)) for passage in passages.values()}
            if len(revisions) > 1:
                problems.append(f"{document} is of the revisions {sorted(revisions)}")
            if any(passage.get("path") != document for passage in passages.values()):
                problems.append(f"{document} has another path")
            text = "".join("".join(passages[index]["text"].split()) for index in sorted(passages))
            held[document] = Held(text, max(revisions))
        return cls(held, points, problems)


def read_server(server: QdrantServer) -> Read:
    """Look into the emulator, which is in this process."""
    state = server.state
    with state.lock:
        name = state.aliases.get("docs", "docs")
        if name not in state.collections:
            return Read({}, 0)
        points, _ = state.local.scroll(name, limit=1_000_000, with_payload=True, with_vectors=False)
    return Read.of(point.payload or {} for point in points)


class EdgeReader:
    """Reads an index in a folder, though it is open, from copies: in a process, which torn copies may end."""

    def __init__(self, folder: Path, copies: Path) -> None:
        self._arguments = [str(folder), str(copies)]
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self.failures = 0

    def read(self) -> Read | None:
        """Look; None if the copy was of a moment in which it could not be read."""
        with self._lock:
            return self._read()

    def _read(self) -> Read | None:
        process = self._process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        watchdog = threading.Timer(LOOK_SECONDS, process.kill)
        watchdog.start()
        try:
            process.stdin.write("look\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            watchdog.cancel()
        payloads = json.loads(line) if line else None
        if payloads is None:
            self.failures += 1
            if not line:
                self.close()
            return None
        return Read.of(payloads)

    def close(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, __file__, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def states(folder: Path) -> list[tuple[str, int, int]]:
    """Give what shows that some file of an index was written to."""
    return sorted((str(it), it.stat().st_mtime_ns, it.stat().st_size) for it in folder.glob("**/shard/**/*"))


def answer_looks(folder: Path, copies: Path) -> None:
    """Be the process: for each line that comes, print the payloads of all points, or null."""
    sys.path[:0] = [str(Path(__file__).parent.parent / "tests")]
    from edge_rig import points_in

    for _ in sys.stdin:
        shards = sorted(folder.glob("**/shard"))
        try:
            before = states(folder)
            payloads = [point.payload for shard in shards[-1:] for point in points_in(shard, copies / "shard")]
            if states(folder) != before:
                payloads = None
        except Exception:  # noqa: BLE001 - of all kinds: it was read while it was written to
            payloads = None
        print(json.dumps(payloads), flush=True)


# --- what goes wrong -----------------------------------------------------------------------------------


class Weather:
    """Makes things go wrong, one after the other, with calm between them."""

    KINDS = (
        *("qdrant 429", "qdrant 5xx", "qdrant reset", "qdrant lost answer", "qdrant slow", "qdrant outage"),
        *("qdrant half a call", "qdrant says later", "qdrant outage"),
        *("embedder 429", "embedder 503", "embedder reset", "embedder lost answer", "embedder slow", "embedder outage"),
    )

    def __init__(self, qdrant: QdrantServer, embeddings: Embeddings, outages: Outages, seed: int) -> None:
        self.turn = threading.Lock()  # whoever has it has fair weather
        self._qdrant, self._embeddings, self._outages = qdrant, embeddings, outages
        self._rng = random.Random(seed)
        self._left: list[str] = []

    def blow(
        self,
        stop: threading.Event,
        calm: tuple[float, float],
        storm: tuple[float, float],
        wait_for_run: Callable[[], object],
    ) -> None:
        """Go on until stopped; every kind comes once before any comes twice.

        An outage is over when the run has ended that was under way when it was mended.
        """
        while not stop.wait(self._rng.uniform(*calm)):
            if not self._left:
                self._left = self._rng.sample(self.KINDS, len(self.KINDS))
            with self.turn, self._outages.during(kind := self._left.pop()) as mended:
                if stop.is_set():
                    return
                self.one(kind, self._rng.uniform(*storm), stop)
                mended()
                wait_for_run()

    def one(self, kind: str, seconds: float, stop: threading.Event) -> None:
        """Let one thing be wrong for some time."""
        where, _, what = kind.partition(" ")
        try:
            (self._qdrant_has if where == "qdrant" else self._embedder_has)(what)
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0 and not stop.wait(min(left, self._rng.uniform(0.2, 1.0))):
                if what == "slow":
                    self._qdrant.faults.release()
        finally:
            if kind == "qdrant outage":
                self._qdrant.start()
            self._qdrant.faults.clear()
            self._embeddings.trouble = Trouble()

    def _qdrant_has(self, what: str) -> None:
        faults, rng, writes = self._qdrant.faults, self._rng, r".*/points.*"
        if what == "429":
            faults.answer(429, retry_after=str(rng.randint(1, 2)), times=rng.randint(1, 3))
        elif what == "5xx":
            faults.answer(rng.choice((500, 502, 503)), times=rng.randint(1, 5))
        elif what == "reset":
            faults.reset(times=rng.randint(1, 4))
        elif what == "lost answer":
            faults.lose(path=writes, times=rng.randint(1, 3))
        elif what == "half a call":
            faults.tear(path=writes)
        elif what == "says later":
            faults.say(rng.choice(("acknowledged", "wait_timeout")), path=writes)
        elif what == "slow":
            faults.hang(times=None)
        elif what == "outage":
            self._qdrant.stop()

    def _embedder_has(self, what: str) -> None:
        rng = self._rng
        troubles = {
            "429": Trouble("refuse", 429, str(rng.randint(1, 2)), times=rng.randint(1, 3)),
            "503": Trouble("refuse", 503, times=rng.randint(1, 4)),
            "reset": Trouble("reset", times=rng.randint(1, 3)),
            "lost answer": Trouble("lose", times=1),
            "slow": Trouble("slow", seconds=rng.uniform(0.5, 2.0), times=1_000_000),
            "outage": Trouble("refuse", 503, times=1_000_000),
        }
        self._embeddings.trouble = troubles[what]


if __name__ == "__main__":
    answer_looks(*map(Path, sys.argv[1:]))

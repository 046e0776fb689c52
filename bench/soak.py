r"""A soak: `vector-sync serve` as a process, for minutes or hours, with random edits, faults, orders and kills.

    python bench/soak.py --minutes 30 --out soak.json
    python bench/soak.py --minutes 2 --seed 7

    edits of 500 documents --> vector-sync serve --> a Qdrant over HTTP (our emulator), with faults
    orders, signals, kills --^       |          \--> qdrant-edge, in a folder
                                     +--> an embedder of OpenAI's wire, with faults, which counts what it is paid for

A third of the time it is also killed and terminated; the rest is one life, by which memory and handles are judged. An
edit is in time if it is seen in an index before two intervals of calm have gone by in one piece. A piece ends where
something goes wrong or is not to work: a fault, a pause, a restart, a question that waits for its answer, a
`vector-sync sync` from the shell, which has the lease. The next begins when that is over: for a fault, when it is
mended and the run that met it has ended; for a restart, when /readyz is 200. What goes wrong is in `soak_servers`, what
is ordered in `soak_orders`, what is asked of the service in `soak_checks`.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from run_all import machine
from soak_checks import Watcher
from soak_orders import Orders, reload
from soak_report import FLAT, LONG_LIFE_SECONDS, flatness, lags, paid_twice, spread, tables
from soak_servers import EdgeReader, Embeddings, Read, Weather, read_server
from soak_service import ServiceUnderTest
from soak_world import Outages, World, longest_calm

from connector.testing.qdrant_server import QdrantServer

SERVER, FOLDER = "server", "folder"
SINKS = (SERVER, FOLDER)
RESTARTS_SHARE = 0.35  # of the time, at its beginning
MOST_WRONG = 200
RUNNING = ("queued", "running", "verifying")


class Soak:
    """All parts of one soak."""

    def __init__(self, options: argparse.Namespace, folder: Path, parts: ExitStack) -> None:
        self.options = options
        self.folder = folder
        self.clock = time.monotonic
        self.began = self.clock()
        self.wrongs: list[str] = []
        self.stop = threading.Event()
        self.editing = threading.Lock()  # whoever has it has no edits
        self.outages = Outages(self.clock)
        self.world = World(folder / "docs", options.seed, self.clock, SINKS)
        self.qdrant = parts.enter_context(QdrantServer())
        self.embeddings = Embeddings(self.clock)
        parts.callback(self.embeddings.close)
        self.weather = Weather(self.qdrant, self.embeddings, self.outages, options.seed)
        self.service = ServiceUnderTest(
            folder,
            self.embeddings.url,
            self.qdrant.url,
            options.interval,
            options.documents,
            self.outages,
            self.wrong,
            self.clock,
        )
        parts.callback(self.service.close)
        self.edge = EdgeReader(folder / "state", folder / "copies")
        parts.callback(self.edge.close)
        self.watcher = Watcher(self.service, self.wrong, self.stop)
        self.orders = Orders(
            self.service,
            self.world,
            self.weather,
            self.embeddings,
            self.watcher,
            self.editing,
            self.stop,
            random.Random(options.seed),
            options.intervals * options.interval,
            self.tell,
        )

    def wrong(self, what: str) -> None:
        """Note something that is not as it should be."""
        line = f"{self.clock() - self.began:7.1f} s: {what}"
        print(f"WRONG {line}", flush=True)
        if len(self.wrongs) < MOST_WRONG:
            self.wrongs.append(line)

    def tell(self, what: str) -> None:
        print(f"{self.clock() - self.began:7.1f} s: {what}", flush=True)

    # --- the course of it -------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        seconds = 60 * self.options.minutes
        self.world.fill(self.options.documents)
        with self.outages.during("first sync"):
            self.service.start()
            self.expect_all_seen("the first sync")
        self.tell(f"{self.options.documents} documents are in both indexes")
        threads = [
            threading.Thread(target=self.guarded, args=(act,), name=act.__name__, daemon=True)
            for act in (
                *(self.edit, self.blow),
                *(self.compare_server, self.compare_folder, self.watcher.probe, self.watcher.look),
            )
        ]
        for thread in threads:
            thread.start()
        ends = self.clock() + seconds
        self.orders.give(ends - (1 - RESTARTS_SHARE) * seconds, ends)
        return self.end(threads)

    def guarded(self, act: Callable[[], object]) -> None:
        """A thread of ours that ends by a bug is wrong, too."""
        try:
            act()
        except Exception as error:
            self.wrong(f"a bug of the soak in {act.__name__}: {error!r}")
            raise

    def edit(self) -> None:
        rng = random.Random(self.options.seed + 1)
        while not self.stop.wait(rng.expovariate(1 / self.options.edit_seconds)):
            with self.editing:
                if self.stop.is_set():
                    return
                self.world.edit() if rng.random() > 0.02 else self.world.burst()

    def blow(self) -> None:
        interval = self.options.interval
        self.weather.blow(self.stop, (2 * interval, 5 * interval), (0.6 * interval, 1.6 * interval), self.until_idle)

    def until_idle(self) -> None:
        """Wait until no run is under way; a service that starts again has none."""
        self.service.until(lambda: self.service.sync().get("state") not in RUNNING)

    def compare_server(self) -> None:
        while not self.stop.wait(0.05 * self.options.interval):
            if self.world.waits(SERVER):
                self.world.compare(SERVER, read_server(self.qdrant).held)

    def compare_folder(self) -> None:
        while not self.stop.wait(0.1 * self.options.interval):
            if self.world.waits(FOLDER) and (read := self.edge.read()) and not read.problems:
                self.world.compare(FOLDER, read.held)

    # --- the end ----------------------------------------------------------------------------------------

    def expect_all_seen(self, what: str) -> None:
        """Compare until every edit has been seen in both indexes."""

        def is_seen() -> bool:
            self.world.compare(SERVER, read_server(self.qdrant).held)
            if (read := self.edge.read()) and not read.problems:
                self.world.compare(FOLDER, read.held)
            return not any(map(self.world.waits, SINKS))

        self.service.expect(f"{what} is in both indexes", is_seen, 60.0)

    def end(self, threads: list[threading.Thread]) -> dict[str, Any]:
        """No more edits; all has to arrive. Then the service ends, and everything is compared."""
        service = self.service
        with self.editing, self.weather.turn:
            self.tell("no more edits")
            reload(service, watch=False)
            self.expect_all_seen("each edit")
            service.expect("it is in step at the end", lambda: service.sync().get("in_step") is True, 60.0)
            if (count := service.sync().get("rejected", {}).get("count")) != self.world.empty:
                self.wrong(f"{self.world.empty} documents are empty, /status tells of {count} that are rejected")
            self.stop.set()
            for thread in threads[2:]:
                thread.join(60.0)
        for thread in threads[:2]:
            thread.join(60.0)
        service.terminate()
        self.compare_all()
        self.look_into_log()
        return self.report()

    def compare_all(self) -> None:
        """Both indexes have exactly what the folder has; and one more sync finds nothing to do, and pays nothing."""
        held, paid = self.world.held(), len(self.embeddings.paid)
        reads = {SERVER: read_server(self.qdrant), FOLDER: self.edge.read() or Read({}, 0, ["it could not be read"])}
        for sink, read in reads.items():
            for problem in read.problems:
                self.wrong(f"{sink}: {problem}")
            for id in sorted(held.keys() | read.held.keys()):
                if held.get(id) != read.held.get(id):
                    self.wrong(f"{sink}: {id} is not as in the folder")
        if reads[SERVER].points != reads[FOLDER].points:
            self.wrong(f"the indexes have {reads[SERVER].points} and {reads[FOLDER].points} points")
        self.points = reads[SERVER].points
        well = (1 if self.world.empty else 0,)
        if (code := self.service.run("sync").returncode) not in well:
            self.wrong(f"one more sync ended with {code}")
        if len(self.embeddings.paid) != paid:
            self.wrong("one more sync has embedded something")
        if (ended := self.service.run("verify")).returncode not in (0, *well):
            self.wrong(f"`verify` ended with {ended.returncode}: {ended.stdout[-500:]}{ended.stderr[-500:]}")

    def look_into_log(self) -> None:
        self.log = Counter(f"{line.get('event')} ({line.get('level')})" for line in self.service.log_lines())
        for line in self.service.log_lines():
            if line.get("event") == "bug" or line.get("trace") or line.get("exit_code") == 70:
                self.wrong(f"the log tells of a bug: {json.dumps(line)[:2000]}")

    # --- what came of it --------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        options, outages = self.options, self.outages.all()
        allowed = options.intervals
        found = dict(lags(self.world.edits, outages, SINKS, options.interval))
        for edit in self.world.edits:
            for sink in SINKS:
                seen = edit.seen.get(sink)
                if seen is None:
                    self.wrong(f"{sink}: {edit.kind} of {edit.id} was never seen")
                elif (calm := longest_calm(edit.at, seen, outages)[0]) > allowed * options.interval:
                    after = edit.at - self.began
                    self.wrong(f"{sink}: {edit.kind} of {edit.id} at {after:.1f} s was seen after {calm:.1f} s of calm")
        kills = [life.killed_at for life in self.service.lives if life.killed_at is not None]
        flat = flatness(self.watcher.samples)
        if flat["seconds"] >= LONG_LIFE_SECONDS:
            for name, most in FLAT.items():
                if flat[name]["ratio"] > most:
                    self.wrong(f"{name} is not flat: {flat[name]}")
        return {
            "machine": machine(),
            "options": {name: str(value) for name, value in vars(options).items()},
            "seconds": round(self.clock() - self.began, 1),
            "edits": Counter(edit.kind for edit in self.world.edits),
            "documents at the end": len(self.world.held()),
            "points at the end": self.points,
            "outages": self.outages.counts(),
            "orders": self.orders.done,
            "intervals until seen": {name: spread(delays) for name, delays in found.items()},
            "texts": paid_twice(self.embeddings.paid, kills, self.wrong),
            "flat": flat,
            "samples": [sample.told() for sample in self.watcher.samples],
            "lives": [
                {
                    "seconds": round((life.ending_at or self.clock()) - life.started_at, 1),
                    "seconds until ready": round((life.ready_at or life.started_at) - life.started_at, 2),
                    "killed": life.killed_at is not None,
                }
                for life in self.service.lives
            ],
            "answers": self.watcher.counts,
            "ms until a probe was answered": spread(self.watcher.waits_ms),
            "notes": self.service.notes,
            "log": self.log,
            "looks at the folder that failed": self.edge.failures,
            "wrong": self.wrongs,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two runs")
    parser.add_argument("--intervals", type=float, default=2.0, help="so many an edit may take in calm")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--edit-seconds", type=float, default=0.8, help="between two edits, on average")
    parser.add_argument("--work", type=Path, help="a folder to work in; by default where temporary files go")
    parser.add_argument("--out", type=Path, help="a file for the report, as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the processes end with it
    with (
        tempfile.TemporaryDirectory(prefix="vector-sync-soak-", dir=options.work, ignore_cleanup_errors=True) as folder,
        ExitStack() as parts,
    ):
        soak = Soak(options, Path(folder), parts)
        parts.callback(soak.stop.set)
        try:
            report = soak.run()
        finally:
            if options.out and soak.wrongs:
                options.out.with_suffix(".log").write_bytes(soak.service.log_path.read_bytes())
        if options.out:
            options.out.write_text(json.dumps(report, indent=1))
    print("\n".join(tables(report)))
    sys.exit(1 if report["wrong"] else 0)


if __name__ == "__main__":
    main()

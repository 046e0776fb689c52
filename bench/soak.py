r"""A soak: `vector-sync serve` as a process, for minutes or hours, with random edits, faults, orders and kills.

    python bench/soak.py --minutes 30 --out soak.json
    python bench/soak.py --minutes 2 --seed 7

    edits of 500 documents --> vector-sync serve --> a Qdrant over HTTP (our emulator), with faults
    orders, signals, kills --^       |          \--> qdrant-edge, in a folder
                                     +--> an embedder of OpenAI's wire, with faults, which counts what it is paid for

A third of the time it is also killed and terminated; the rest is one life, by which memory and handles are judged. An
edit is in time if it is seen in an index before two intervals of calm have gone by in one piece: a piece ends where
something is wrong or not to work (a fault, a pause, a restart until ready, a question that waits for its answer, a
`vector-sync sync` from the shell, which has the lease), and the next begins when that is over. What goes wrong is in
`soak_servers`, what is asked of the service in `soak_checks`.
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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from run_all import machine
from soak_checks import FLAT, LONG_LIFE_SECONDS, Watcher, flatness, lags, spread
from soak_servers import EdgeReader, Embeddings, Read, Trouble, Weather, read_server
from soak_service import PATIENCE_SECONDS, ServiceUnderTest, paused, reload, reload_wrong
from soak_world import Outages, World, longest_calm

from connector.testing.qdrant_server import QdrantServer

SERVER, FOLDER = "server", "folder"
SINKS = (SERVER, FOLDER)
RESTARTS_SHARE = 0.35  # of the time, at its beginning
KILL_LOSES_SECONDS = 15.0  # a call that was paid so long before a kill may have been under way
MOST_WRONG = 200
PURGED_SHARE = 0.2
LONGEST_ORDER = 6  # intervals
RESTARTS = ("kill", "terminate", "kill in a run", "kill in a call", "terminate in a call")
ORDERS = (
    *("wrong settings", "valid settings", "pause", "ask for a run", "sync beside", "source away", "many deletes"),
    *("valid settings", "strangers"),
)


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
        self.rng = random.Random(options.seed)
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
        self.done: Counter[str] = Counter()

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
        self.give_orders(ends - (1 - RESTARTS_SHARE) * seconds, ends)
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
        self.weather.blow(self.stop, (2 * interval, 5 * interval), (0.6 * interval, 1.6 * interval))

    def compare_server(self) -> None:
        while not self.stop.wait(0.05 * self.options.interval):
            if self.world.waits(SERVER):
                self.world.compare(SERVER, read_server(self.qdrant).held)

    def compare_folder(self) -> None:
        while not self.stop.wait(0.1 * self.options.interval):
            if self.world.waits(FOLDER) and (read := self.edge.read()) and not read.problems:
                self.world.compare(FOLDER, read.held)

    def give_orders(self, restarts_end: float, ends: float) -> None:
        """Order the service about, in the first part every other time to start again."""
        interval, orders, restarts = self.options.interval, self.shuffled(ORDERS), self.shuffled(RESTARTS)
        while self.clock() + LONGEST_ORDER * interval < ends:
            for kinds in (restarts, orders) if self.clock() < restarts_end else (orders,):
                kind = next(kinds)
                self.tell(kind)
                self.done[kind] += 1
                self.order(kind)
                self.stop.wait(self.rng.uniform(1, 4) * interval)
        self.stop.wait(max(0.0, ends - self.clock()))

    def shuffled(self, kinds: Sequence[str]) -> Iterator[str]:
        """Give kinds without end; each comes once before any comes twice."""
        while True:
            yield from self.rng.sample(kinds, len(kinds))

    # --- orders -----------------------------------------------------------------------------------------

    def order(self, kind: str) -> None:
        """Give an order of a kind."""
        orders: dict[str, Callable[[], object]] = {
            "valid settings": self.reload,
            "wrong settings": lambda: reload_wrong(self.service),
            "pause": self.pause,
            "ask for a run": self.ask,
            "sync beside": self.sync_beside,
            "source away": self.source_away,
            "many deletes": self.many_deletes,
            "strangers": self.strangers,
        }
        orders.get(kind, lambda: self.restart(kind))()

    def reload(self) -> None:
        """Have it watch the folder, or no longer."""
        reload(self.service, watch=not self.service.watch)
        self.world.watched = self.service.watch

    def ask(self) -> None:
        if self.service.post("/run") != 202:
            self.wrong("/run was refused")

    @contextmanager
    def alone(self, kind: str) -> Iterator[None]:
        """Have fair weather and no edits, and no edit in a hurry, for as long as the body runs."""
        with self.editing, self.weather.turn, self.outages.during(kind):
            yield

    def restart(self, kind: str) -> None:
        service = self.service
        act = service.terminate if kind.startswith("terminate") else service.kill
        if kind == "kill in a run":
            service.post("/run")
            service.until(lambda: service.sync().get("state") == "running", 1.0)
            self.stop.wait(self.rng.uniform(0, 0.5))
        if not kind.endswith("in a call"):
            with self.outages.during("restart"):
                act()
                service.start()
            return
        with self.alone("restart"):  # while the embedder, which is slow, has a call in hand
            self.embeddings.trouble = Trouble("slow", seconds=0.5, times=1_000)
            self.world.burst()
            service.post("/run")
            service.until(lambda: self.embeddings.under_way > 0, 2 * self.options.interval)
            act()
            self.embeddings.trouble = Trouble()
            service.start()

    def pause(self) -> None:
        service = self.service
        with paused(service):
            service.expect("it is paused", lambda: service.sync().get("state") == "paused", PATIENCE_SECONDS)
            if service.post("/run") != 409:
                self.wrong("/run of a paused sync was not refused with 409")
            before = service.sync().get("runs", [{}])[0].get("id")
            self.stop.wait(2 * self.options.interval)
            if (after := service.sync().get("runs", [{}])[0].get("id")) != before:
                self.wrong(f"a paused sync has run: {before}, {after}")

    def sync_beside(self) -> None:
        """A sync from the shell goes through, or is told that the service's run holds the lease."""
        with self.outages.during("sync beside"):
            ended = self.service.run("sync")
        self.service.notes[f"sync beside: exit code {ended.returncode}"] += 1
        if ended.returncode not in (0, 1, 3, 75):
            self.wrong(f"a sync beside ended with {ended.returncode}: {ended.stderr[-500:]}")

    def source_away(self) -> None:
        """Without its folder the sync cannot work, and says so; and works again when it is back."""
        service, docs, allowed = self.service, self.world.folder, self.options.intervals * self.options.interval
        away = docs.with_name("away")
        with self.alone("source away"):
            self.watcher.cannot_work = True
            docs.rename(away)
            service.expect("/readyz is 503 without the source", lambda: service.answers("/readyz") == 503, allowed)
            self.stop.wait(self.options.interval)
            if service.answers("/livez") != 200:
                self.wrong("/livez was not 200 without the source")
            away.rename(docs)
            service.expect("/readyz is 200 with the source again", lambda: service.answers("/readyz") == 200, allowed)
            self.watcher.cannot_work = False

    def many_deletes(self) -> None:
        """More than the guard lets pass: the sync asks, is ready all the same, and goes on when it is told to."""
        service, allowed = self.service, (self.options.intervals + 1) * self.options.interval
        with self.alone("many deletes"):
            service.until(lambda: service.sync().get("state") == "idle")
            count = self.world.purge(PURGED_SHARE)
            service.expect("it asks before it deletes", lambda: bool(service.sync().get("question")), allowed)
            if service.answers("/readyz") != 200:
                self.wrong("/readyz was not 200 while a question waited")
            if service.post("/run", {"confirm_deletes": count + 100}) != 202:
                self.wrong("/run with confirm_deletes was refused")
            service.expect("it is in step again", lambda: service.sync().get("in_step") is True, allowed)

    def strangers(self) -> None:
        """What the service has to refuse, and what a second one is told."""
        service = self.service
        if (status := service.post("/run", token="wrong")) != 401:
            self.wrong(f"/run with a wrong token was {status}")
        if (status := service.answers("/nothing")) != 404:
            self.wrong(f"/nothing was {status}")
        if (code := service.run("serve").returncode) not in (2, 75):
            self.wrong(f"a second service ended with {code}")
        if (code := service.run("probe", "livez").returncode) != 0:
            self.wrong(f"`vector-sync probe` ended with {code}")

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
            "orders": self.done,
            "intervals until seen": {name: spread(delays) for name, delays in found.items()},
            "texts": self.paid_twice(),
            "flat": flat,
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

    def paid_twice(self) -> dict[str, int]:
        """Count the texts that were paid for again; only for a lost answer or a kill, a call each, is that right."""
        calls_by_text: defaultdict[bytes, list[int]] = defaultdict(list)
        for number, call in enumerate(self.embeddings.paid):
            for digest in call.digests:
                calls_by_text[digest].append(number)
        lost = Counter(number for numbers in calls_by_text.values() for number in numbers[:-1])
        kills = [life.killed_at for life in self.service.lives if life.killed_at is not None]
        by_kill: Counter[float] = Counter()
        for number in lost:
            call = self.embeddings.paid[number]
            kill = next((at for at in kills if 0 <= at - call.at < KILL_LOSES_SECONDS), None)
            if call.answered and kill is None:
                self.wrong(f"{lost[number]} texts of a call at {call.at - self.began:.1f} s were embedded again")
            elif call.answered and kill is not None:
                by_kill[kill] += 1
        for at, count in by_kill.items():
            if count > 1:
                self.wrong(f"the kill at {at - self.began:.1f} s has cost {count} calls")
        return {
            "calls": len(self.embeddings.paid),
            "texts": sum(len(call.digests) for call in self.embeddings.paid),
            "different texts": len(calls_by_text),
            "answers lost on purpose": sum(not call.answered for call in self.embeddings.paid),
            "kills": len(kills),
            "calls lost by kills": sum(by_kill.values()),
            "texts embedded again": sum(lost.values()),
        }


def tables(report: dict[str, Any]) -> Iterator[str]:
    """Tell it for people."""
    yield f"{report['seconds'] / 60:.1f} minutes; {report['machine']}\n"
    yield "| until an edit is seen, in intervals | edits | median | p95 | max |\n|---|---:|---:|---:|---:|"
    for name, told in report["intervals until seen"].items():
        yield f"| {name} | {told['count']:,} | {told['median']:.2f} | {told['p95']:.2f} | {told['max']:.2f} |"
    flat = report["flat"]
    if flat["samples"]:
        yield f"\n| longest life, {flat['seconds']:.0f} s | first quarter | last quarter | ratio | max |"
        yield "|---|---:|---:|---:|---:|"
        for name in FLAT:
            told = flat[name]
            yield f"| {name} | {told['first']} | {told['last']} | {told['ratio']} | {told['max']} |"
    for name in ("edits", "outages", "orders", "texts", "answers", "ms until a probe was answered", "notes"):
        yield f"\n{name}: " + ", ".join(f"{what}: {count:,}" for what, count in report[name].items())
    yield f"\nwrong: {len(report['wrong'])}"
    yield from report["wrong"]


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

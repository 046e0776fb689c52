"""What a service is told to do during a soak, and what it has to answer."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from soak_checks import Watcher
from soak_servers import Embeddings, Trouble, Weather
from soak_service import PATIENCE_SECONDS, ServiceUnderTest
from soak_world import World

LONGEST_ORDER = 6  # intervals
RESTARTS = ("kill", "terminate", "kill in a run", "kill in a call", "terminate in a call")
ORDERS = (
    *("wrong settings", "valid settings", "pause", "ask for a run", "sync beside", "source away", "many deletes"),
    *("valid settings", "strangers"),
)


@dataclass
class Orders:
    """Orders the service about, one after the other."""

    service: ServiceUnderTest
    world: World
    weather: Weather
    embeddings: Embeddings
    watcher: Watcher
    editing: threading.Lock  # whoever has it has no edits
    stop: threading.Event
    rng: random.Random
    patience: float  # so long the service may take for what has to come at its next run
    tell: Callable[[str], object]
    done: Counter[str] = field(default_factory=Counter)

    def give(self, restarts_end: float, ends: float) -> None:
        """Order the service about, in the first part every other time to start again."""
        interval, orders, restarts = self.service.interval, self.shuffled(ORDERS), self.shuffled(RESTARTS)
        while self.service.clock() + LONGEST_ORDER * interval < ends:
            for kinds in (restarts, orders) if self.service.clock() < restarts_end else (orders,):
                kind = next(kinds)
                self.tell(kind)
                self.done[kind] += 1
                self.order(kind)
                self.stop.wait(self.rng.uniform(1, 4) * interval)
        self.stop.wait(max(0.0, ends - self.service.clock()))

    def shuffled(self, kinds: Sequence[str]) -> Iterator[str]:
        """Give kinds without end; each comes once before any comes twice."""
        while True:
            yield from self.rng.sample(kinds, len(kinds))

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
            self.service.wrong("/run was refused")

    @contextmanager
    def alone(self, kind: str) -> Iterator[None]:
        """Have fair weather and no edits, and no edit in a hurry, for as long as the body runs."""
        with self.editing, self.weather.turn, self.service.outages.during(kind):
            yield

    def restart(self, kind: str) -> None:
        service = self.service
        act = service.terminate if kind.startswith("terminate") else service.kill
        if kind == "kill in a run":
            service.post("/run")
            service.until(lambda: service.sync().get("state") == "running", 1.0)
            self.stop.wait(self.rng.uniform(0, 0.5))
        if not kind.endswith("in a call"):
            with service.outages.during("restart"):
                act()
                service.start()
            return
        with self.alone("restart"):  # while the embedder, which is slow, has a call in hand
            self.embeddings.trouble = Trouble("slow", seconds=0.5, times=1_000)
            self.world.burst()
            service.post("/run")
            service.until(lambda: self.embeddings.under_way > 0, 2 * service.interval)
            act()
            self.embeddings.trouble = Trouble()
            service.start()

    def pause(self) -> None:
        service = self.service
        with paused(service):
            service.expect("it is paused", lambda: service.sync().get("state") == "paused", PATIENCE_SECONDS)
            if service.post("/run") != 409:
                service.wrong("/run of a paused sync was not refused with 409")
            before = service.sync().get("runs", [{}])[0].get("id")
            self.stop.wait(2 * service.interval)
            if (after := service.sync().get("runs", [{}])[0].get("id")) != before:
                service.wrong(f"a paused sync has run: {before}, {after}")

    def sync_beside(self) -> None:
        """A sync from the shell goes through, or is told that the service's run holds the lease."""
        with self.service.outages.during("sync beside"):
            ended = self.service.run("sync")
        self.service.notes[f"sync beside: exit code {ended.returncode}"] += 1
        if ended.returncode not in (0, 1, 3, 75):
            self.service.wrong(f"a sync beside ended with {ended.returncode}: {ended.stderr[-500:]}")

    def source_away(self) -> None:
        """Without its folder the sync cannot work, and says so; and works again when it is back."""
        service, docs, allowed = self.service, self.world.folder, self.patience
        away = docs.with_name("away")
        with self.alone("source away"):
            self.watcher.cannot_work = True
            docs.rename(away)
            service.expect("/readyz is 503 without the source", lambda: service.answers("/readyz") == 503, allowed)
            self.stop.wait(service.interval)
            if service.answers("/livez") != 200:
                service.wrong("/livez was not 200 without the source")
            away.rename(docs)
            service.expect("/readyz is 200 with the source again", lambda: service.answers("/readyz") == 200, allowed)
            self.watcher.cannot_work = False

    def many_deletes(self) -> None:
        """More than the guard lets pass: the sync asks, is ready all the same, and goes on when it is told to."""
        service, allowed = self.service, self.patience + self.service.interval
        with self.alone("many deletes"):
            service.until(lambda: service.sync().get("state") == "idle")
            count = self.world.purge()
            service.expect("it asks before it deletes", lambda: bool(service.sync().get("question")), allowed)
            if service.answers("/readyz") != 200:
                service.wrong("/readyz was not 200 while a question waited")
            if service.post("/run", {"confirm_deletes": count + 100}) != 202:
                service.wrong("/run with confirm_deletes was refused")
            service.expect("it is in step again", lambda: service.sync().get("in_step") is True, allowed)
        with self.editing:
            self.world.refill()

    def strangers(self) -> None:
        """What the service has to refuse, and what a second one is told."""
        service = self.service
        if (status := service.post("/run", token="wrong")) != 401:
            service.wrong(f"/run with a wrong token was {status}")
        if (status := service.answers("/nothing")) != 404:
            service.wrong(f"/nothing was {status}")
        if (code := service.run("serve").returncode) not in (2, 75):
            service.wrong(f"a second service ended with {code}")
        if (code := service.run("probe", "livez").returncode) != 0:
            service.wrong(f"`vector-sync probe` ended with {code}")


@contextmanager
def paused(service: ServiceUnderTest) -> Iterator[None]:
    """Pause the sync for as long as the body runs."""
    with service.outages.during("paused"):
        if service.post("/pause") != 202:
            service.wrong("/pause was refused")
        yield
        if service.post("/resume") != 202:
            service.wrong("/resume was refused")


def reload(service: ServiceUnderTest, *, watch: bool) -> None:
    """Have it read valid settings."""
    before = (service.status() or {}).get("config", {})
    service.configure(watch=watch)
    service.life.process.send_signal(signal.SIGHUP)

    def is_taken() -> bool:
        config = (service.status() or {}).get("config", {"error": "no answer"})
        return config["error"] is None and config["loaded_at"] != before.get("loaded_at")

    service.expect("valid settings are taken after SIGHUP", is_taken, 10.0)


def reload_wrong(service: ServiceUnderTest) -> None:
    """Have it read settings that cannot work, which changes nothing; and some time later those that it has."""
    service.configure(watch=service.watch, more="intervall = 3\n")
    service.life.process.send_signal(signal.SIGHUP)

    def is_told() -> bool:
        return "intervall" in str((service.status() or {}).get("config", {}).get("error"))

    service.expect("wrong settings are told of after SIGHUP", is_told, 10.0)
    if service.answers("/readyz") != 200:
        service.wrong("/readyz was not 200 after a SIGHUP with wrong settings")
    threading.Event().wait(2 * service.interval)
    reload(service, watch=service.watch)

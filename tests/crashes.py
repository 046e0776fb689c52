"""Stop a sync at the k-th place where it touches the world, just before or just after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rig import FlakySink, Rig

from connector.plan import sha256_16

EFFECTS = frozenset(
    {
        "upsert",
        "delete",
        "prepare",
        "embed",
        "put",
        "prune",
        "begin",
        "commit",
        "open_ledger",
        "set_recipe",
        "start_run",
        "end_run",
        "replace_unreadable",
        "keep_known",
    }
)


class Crash(BaseException):
    """Not an Exception: nothing in the code under test may catch it."""


@dataclass(slots=True)
class World:
    """Counts what a sync does to the outside, and crashes where it is told to."""

    crash_at: int | None = None  # the n-th effect from now on
    after: bool = False  # crash when the effect has happened; else before it
    touched: list[str] = field(default_factory=list)
    paid_though_stored: list[str] = field(default_factory=list)
    watch: Callable[[], None] = field(default=lambda: None)  # called around every effect

    def install(self, rig: Rig) -> None:
        """Stand between a rig's engine and everything it touches."""
        stores: list[Any] = []  # the vector store of the run under way

        def wrap(part: object, name: str) -> object:
            if name == "vectors":
                stores[:] = [part]
            return _Watched(self, part, stores) if name != "source" else part

        rig.wrap = wrap

    def touch(self, name: str, effect: Callable[[], object]) -> object:
        """Make an effect happen, or the crash."""
        self.touched.append(name)
        self.watch()
        if self.crash_at is None:
            result = effect()
        else:
            self.crash_at -= 1
            if self.crash_at == 0:
                self.crash_at = None
                if self.after:
                    effect()
                raise Crash(name)
            result = effect()
        self.watch()
        return result


class _Watched:
    """Passes everything on, and tells the world of what has effects."""

    def __init__(self, world: World, part: object, stores: list[Any]) -> None:
        self._world, self._part, self._stores = world, part, stores

    def __getattr__(self, name: str) -> Any:  # whatever the part has
        value = getattr(self._part, name)
        if name not in EFFECTS:
            return value

        def touching(*arguments: Any, **named: Any) -> object:
            if name == "embed":
                self._look_for_waste(arguments[0])
            return self._world.touch(name, lambda: value(*arguments, **named))

        return touching

    def _look_for_waste(self, texts: Sequence[str]) -> None:
        hashes = {sha256_16(text.encode()): text for text in texts}
        for stored in hashes.keys() - self._stores[0].missing(list(hashes)):
            self._world.paid_though_stored.append(hashes[stored])


def never_absent(rig: Rig, sinks: Sequence[FlakySink], ids: Sequence[str]) -> Callable[[], None]:
    """Watch that documents which are there before and after a run are there all the while."""

    def watch() -> None:
        for sink in sinks:
            missing = [id for id in ids if f"{id}#0" not in sink.records]
            assert not missing, (
                f"{missing} absent from {sink.name} while {[row.id for row in rig.source.rows]} is synced"
            )

    return watch

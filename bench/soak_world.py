"""The folder of a soak: random edits of its documents, and when each of them was seen in each index.

    new, changed, reverted   text that no document has had; text that it has had, which costs nothing again
    copied                   a new document with the text of another, which costs nothing either
    metadata                 a number in its front matter
    moved, deleted           a move is two edits: gone from the one place, there at the other
    emptied                  a document without text: it is rejected, and has to leave the indexes

An edit is seen in an index as soon as what the index has of its document is what the edit made, or a later one.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

BURST = (0.04, 0.12)  # so many edits of all documents at once
LEAVING_SHARE = 0.03  # of all documents, in one burst
GUARD_SHARE = 0.12  # more than that may not leave in one run, unless it is confirmed
PURGED_SHARE = 0.16
MOST_EMPTY = 12
LONG_EVERY = 8  # one document in so many has several passages
WEIGHTS = {
    "changed": 30,
    "metadata": 16,
    "new": 14,
    "moved": 10,
    "deleted": 10,
    "reverted": 6,
    "copied": 4,
    "emptied": 3,
    "filled": 3,
}


@dataclass(frozen=True, slots=True)
class Held:
    """What an index has of a document, or should have."""

    text: str  # without its white space, which passages may lose between them
    revision: int


Index: TypeAlias = Mapping[str, Held]


@dataclass(slots=True)
class Edit:
    """What was made of a document, and when it was seen where."""

    kind: str
    id: str
    at: float
    held: Held | None  # None: it has to be gone
    watched: bool  # whether the service was told to watch the folder
    seen: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which edits need not arrive."""

    what: str
    begin: float
    mended: float  # when the fault was no more
    end: float  # when the run had ended that was under way then, and may still have waited because of it

    def by_itself(self) -> Outage:
        """The same without what came of it."""
        return replace(self, end=self.mended)


@dataclass(slots=True)
class Trouble:
    """An outage that goes on."""

    what: str
    begin: float
    mended: float | None = None


class Outages:
    """When something was made to go wrong, or was under orders to wait."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[int, Trouble] = {}
        self._over: list[Outage] = []
        self._number = 0

    @contextmanager
    def during(self, what: str) -> Iterator[Callable[[], object]]:
        """Note that something is wrong for as long as the body runs, which may tell that it is mended before that."""
        with self._lock:
            self._number += 1
            number, trouble = self._number, Trouble(what, self._clock())
            self._open[number] = trouble

        def mended() -> None:
            trouble.mended = self._clock()

        try:
            yield mended
        finally:
            with self._lock:
                del self._open[number]
                now = self._clock()
                self._over.append(Outage(what, trouble.begin, trouble.mended or now, now))

    @property
    def now(self) -> list[str]:
        """What is wrong now."""
        with self._lock:
            return [trouble.what for trouble in self._open.values() if trouble.mended is None]

    def all(self) -> list[Outage]:
        """Give them in the order of their beginnings; one that goes on ends at infinity."""
        never = float("inf")
        with self._lock:
            still = [Outage(it.what, it.begin, it.mended or never, never) for it in self._open.values()]
            return sorted([*self._over, *still], key=lambda it: it.begin)

    def counts(self) -> Counter[str]:
        return Counter(it.what for it in self.all())


def longest_calm(begin: float, end: float, outages: Sequence[Outage]) -> tuple[float, bool]:
    """Give the longest time between two moments in which nothing was wrong, and whether something ever was."""
    longest, since, troubled = 0.0, begin, False
    for outage in outages:  # sorted by their beginnings
        if outage.end <= begin or outage.begin >= end:
            continue
        troubled = True
        longest, since = max(longest, outage.begin - since), max(since, outage.end)
    return max(longest, end - since), troubled


class World:
    """The documents, as they are on disk; and all edits."""

    def __init__(self, folder: Path, seed: int, clock: Callable[[], float], sinks: Sequence[str]) -> None:
        self.folder = folder
        self.lock = threading.RLock()  # held while a document is edited, or an index compared
        self.watched = False
        self.edits: list[Edit] = []
        self._rng = random.Random(seed)
        self._clock = clock
        self._texts: dict[str, str] = {}  # "": it is empty
        self._revisions: dict[str, int] = {}
        self._before: dict[str, list[str]] = {}  # texts that a document has had
        self._pending: dict[str, dict[str, list[Edit]]] = {sink: {} for sink in sinks}
        self._number = 0
        folder.mkdir(parents=True)

    # --- what is there --------------------------------------------------------------------------------

    def held(self) -> dict[str, Held]:
        """What each index has to have."""
        with self.lock:
            return {id: made for id in self._texts if (made := self._held(id)) is not None}

    @property
    def empty(self) -> int:
        """How many documents have to be rejected."""
        with self.lock:
            return sum(not text for text in self._texts.values())

    def waits(self, sink: str) -> bool:
        """Tell whether some edit has not been seen in an index."""
        with self.lock:
            return bool(self._pending[sink])

    def compare(self, sink: str, index: Index) -> None:
        """Note which edits are seen in an index, as it was read just now."""
        with self.lock:
            now, pending = self._clock(), self._pending[sink]
            for id, edits in list(pending.items()):
                there = index.get(id)
                newest = max((n for n, edit in enumerate(edits) if edit.held == there), default=-1)
                for edit in edits[: newest + 1]:
                    edit.seen[sink] = now
                if rest := edits[newest + 1 :]:
                    pending[id] = rest
                else:
                    del pending[id]

    # --- what happens ---------------------------------------------------------------------------------

    def fill(self, documents: int) -> None:
        """Make the first documents."""
        for _ in range(documents):
            self._new()
        self.target = documents

    def edit(self) -> None:
        """Make an edit by chance."""
        with self.lock:
            weights = dict(WEIGHTS)
            here = len(self._texts)
            weights["new" if here < self.target else "deleted"] *= 3
            weights["emptied"] *= self.empty < MOST_EMPTY
            (kind,) = self._rng.choices(list(weights), list(weights.values()))
            getattr(self, f"_{kind}")()

    def burst(self) -> int:
        """Make many edits at once."""
        count = self._rng.randint(*(max(1, round(share * self.target)) for share in BURST))
        leaving, most_leaving = 0, max(1, round(LEAVING_SHARE * self.target))
        with self.lock:
            for _ in range(count):
                kind = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
                leaving += kind in ("deleted", "moved", "emptied")
                if leaving <= most_leaving or kind not in ("deleted", "moved", "emptied"):
                    getattr(self, f"_{kind}")()
        return count

    def purge(self) -> int:
        """Delete more documents than the delete guard lets pass."""
        with self.lock:
            full = [id for id, text in self._texts.items() if text]
            for id in (gone := self._rng.sample(full, round(PURGED_SHARE * self.target))):
                self._delete(id)
            return len(gone)

    def refill(self) -> None:
        """Make as many documents as there were at first."""
        with self.lock:
            while len(self._texts) < self.target:
                self._new()

    # --- the kinds of edits ---------------------------------------------------------------------------

    def _new(self) -> None:
        self._create("new", self._text())

    def _copied(self) -> None:
        self._create("copied", self._texts[self._some()])

    def _create(self, kind: str, text: str) -> None:
        self._number += 1
        folder = self._rng.choice(("", "guide/", "guide/deep/", "notes/"))
        self._write(kind, f"{folder}d{self._number}.md", text, self._number)

    def _changed(self) -> None:
        """Change a paragraph; other passages of a long document stay as they are."""
        id = self._some()
        paragraphs = self._texts[id].split("\n\n")
        paragraphs[self._rng.randrange(len(paragraphs))] = self._paragraph()
        self._write("changed", id, "\n\n".join(paragraphs), self._revisions[id])

    def _metadata(self) -> None:
        id = self._some()
        self._number += 1
        self._write("metadata", id, self._texts[id], self._number)

    def _reverted(self) -> None:
        id = self._some()
        if before := [text for text in self._before.get(id, ()) if text and text != self._texts[id]]:
            self._number += 1
            self._write("reverted", id, self._rng.choice(before), self._number)

    def _moved(self) -> None:
        id = self._some()
        self._number += 1
        target = f"{self._rng.choice(('', 'notes/', 'moved/'))}m{self._number}.md"
        (self.folder / target).parent.mkdir(exist_ok=True)
        (self.folder / id).rename(self.folder / target)
        self._texts[target], self._revisions[target] = self._texts.pop(id), self._revisions.pop(id)
        self._before[target] = self._before.pop(id, [])
        self._note("moved", id)
        self._note("moved", target)

    def _deleted(self) -> None:
        self._delete(self._some())

    def _emptied(self) -> None:
        self._write("emptied", self._some(), "", 0)

    def _filled(self) -> None:
        if empty := [id for id, text in self._texts.items() if not text]:
            self._number += 1
            self._write("filled", self._rng.choice(empty), self._text(), self._number)

    def _delete(self, id: str) -> None:
        (self.folder / id).unlink()
        del self._texts[id], self._revisions[id]
        self._before.pop(id, None)
        self._note("deleted", id)

    def _some(self) -> str:
        return self._rng.choice([id for id, text in self._texts.items() if text])

    def _write(self, kind: str, id: str, text: str, revision: int) -> None:
        """Write a file, in place or as a new one in its place."""
        path = self.folder / id
        path.parent.mkdir(parents=True, exist_ok=True)
        content = f"---\nrevision: {revision}\n---\n\n{text}\n" if text else ""
        if self._rng.random() < 0.5:
            path.write_text(content)
        else:
            part = path.with_suffix(".tmp")
            part.write_text(content)
            part.replace(path)
        if id in self._texts:
            self._before.setdefault(id, []).append(self._texts[id])
        self._texts[id], self._revisions[id] = text, revision
        self._note(kind, id)

    def _note(self, kind: str, id: str) -> None:
        edit = Edit(kind, id, self._clock(), self._held(id), self.watched)
        self.edits.append(edit)
        for pending in self._pending.values():
            pending.setdefault(id, []).append(edit)

    def _held(self, id: str) -> Held | None:
        text = self._texts.get(id)
        return Held("".join(text.split()), self._revisions[id]) if text else None

    def _text(self) -> str:
        self._number += 1
        is_long = self._number % LONG_EVERY == 0
        return "\n\n".join(self._paragraph() for _ in range(self._rng.randint(6, 12) if is_long else 1))

    def _paragraph(self) -> str:
        self._number += 1
        words = " ".join(f"word{self._rng.randrange(10_000)}" for _ in range(self._rng.randint(25, 50)))
        return f"Paragraph {self._number} says {words}."

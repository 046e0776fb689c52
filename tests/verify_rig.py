"""A rig that can verify, repair and rebuild, and a memory sink that can be damaged behind the connector's back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import msgspec
from rig import FlakySink, Rig

from connector import engine
from connector.checkpoint import Checkpoints
from connector.drift import Verified
from connector.engine import Options
from connector.model import Detail, DocumentId, EmbeddedRecord, ForeignRecord, RecordId, StoredRecord, record_id
from connector.parts import Parts
from connector.rebuild import Rebuilt, rebuild
from connector.retry import Retry
from connector.scratch import Scratch
from connector.verification import Repaired, repair, verify

Found = dict[str, set[str]]
"""The names that were found, by kind; without the kinds of which there are none."""


class SharedSink(FlakySink):
    """A memory sink whose collection others write to as well, and now and then into ours."""

    owner = "docs sync"

    def __init__(self, name: str = "main") -> None:
        super().__init__(name)
        self.foreign: list[ForeignRecord] = []
        self.damaged: set[RecordId] = set()
        self.before_scan: Callable[[], None] = lambda: None

    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        self.before_scan()
        yield from self.foreign
        for record in super().scan(detail):
            yield ForeignRecord(self.record_name(record.id), self.owner) if record.id in self.damaged else record

    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        super().upsert(records)
        self.damaged -= {record.id for record in records}

    def count(self) -> int:
        return len(self.records) + sum(record.owner == self.owner for record in self.foreign)

    def record_name(self, id: RecordId) -> str:
        return f"point of {id}"

    def remove(self, id: RecordId) -> None:
        del self.records[id]

    def damage(self, id: RecordId) -> None:
        """Make a record's marks unreadable, but for whose it is."""
        self.damaged.add(id)

    def change(self, id: RecordId, **named: Any) -> None:
        """Alter fields of a record."""
        self.records[id] = msgspec.structs.replace(self.records[id], **named)

    def add(self, document: str, index: int) -> RecordId:
        """Add a record that bears our mark, like any that is there."""
        like = next(iter(self.records.values()))
        id = record_id(DocumentId(document), index)
        self.records[id] = EmbeddedRecord(id, DocumentId(document), index, like.vector, "extra", {}, b"e" * 16)
        return id

    def add_foreign(self, name: str, owner: str | None = "somebody") -> str:
        self.foreign.append(ForeignRecord(name, owner))
        return name

    def copy(self, name: str) -> str:
        """Copy one of our records to a name that is none of ours."""
        return self.add_foreign(name, self.owner)


@dataclass(slots=True)
class VerifyRig:
    """Verifies, repairs and rebuilds what a rig syncs; each time the state is opened anew."""

    rig: Rig
    options: Options = field(default_factory=lambda: Options(threads=False, confirm_deletes=1000))

    def verify(self, *, contents: bool = False, sinks: Sequence[str] = ()) -> Verified:
        with self._open(read_only=True) as (parts, scratch):
            return verify(parts, scratch, contents=contents, sinks=sinks, retry=self._retry())

    def repair(self, *, contents: bool = False, options: Options | None = None) -> Repaired:
        with self._open() as (parts, scratch):
            opens: list[Callable[[], AbstractContextManager[Parts]]] = [lambda: nullcontext(parts)]
            return repair(
                opens,
                lambda emit: engine.sync(parts, options or self.options, retry=self._retry(), emit=emit),
                scratch,
                contents=contents,
                retry=self._retry(),
            )

    def rebuild(self, **named: Any) -> list[Rebuilt]:
        with self._open() as (parts, scratch):
            return rebuild(parts, scratch, **named)

    @contextmanager
    def _open(self, *, read_only: bool = False) -> Iterator[tuple[Parts, Scratch]]:
        with (
            closing(Checkpoints.open(self.rig.folder, read_only=read_only)) as checkpoints,
            closing(self.rig._vectors(read_only=read_only)) as vectors,
            Scratch.open(self.rig.folder) as scratch,
        ):
            yield self.rig._parts(checkpoints, vectors), scratch

    def _retry(self) -> Retry:
        return Retry(attempts=3, sleep=self.rig.waits_seconds.append, random=lambda: 1.0)

    def lose_the_state(self) -> None:
        for file in self.rig.folder.iterdir():
            file.unlink()


def found(verified: Verified, sink: int = 0) -> Found:
    """Give the names that were found in a sink, and see to it that they were counted."""
    seen = verified.sinks[sink]
    names = {str(kind): {it.name for it in first} for kind, first in seen.first.items()}
    assert {kind: len(some) for kind, some in names.items()} == {str(kind): n for kind, n in seen.counts.items()}
    return {kind: some for kind, some in names.items() if some}

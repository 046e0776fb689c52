"""Make a lost ledger again, and the vectors with it, from what a sink holds.

    a scan of the sink, with vectors -> vector store: those of our present embedder, if the sink keeps them as they were
                                     -> scratch file, sorted by document -> the ledger, a line for each document

A record bears the digest of what it was made of. One whose text and metadata have that digest under the present
embedder is as the connector wrote it, but for its vector, of which the digest says nothing: see `_Vectors`. What cannot
be known from a sink is the version of each document in its source: so the next sync fetches every document once, finds
the digests that it would give, and embeds and writes nothing.

The ledger is named after its collection only when it is whole. Until then it bears the name of none, and a sync that
finds it so forgets it, as after a kill.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from .drift import Mark, Reason
from .errors import ConfigError, SafetyError
from .model import UNKNOWN, Detail, Entry, ForeignRecord, InputType, JsonValue, StoredRecord
from .parcels import chunks
from .parts import Parts
from .plan import sha256_16
from .ports import BilledEmbedder, Embedder, Sink
from .scratch import Scratch
from .soundness import can_be_checked, is_made_by, is_plausible, is_same_vector
from .verification import Show, named, show_nothing

if TYPE_CHECKING:
    from .model import Vectors

UNFINISHED: Final = "unfinished rebuild "
"""Begins the name of the collection that a ledger is of, while it is made."""
ENTRIES_PER_COMMIT = 1000
VECTORS_PER_WRITE = 500
TEXTS_PER_TRIAL = 8
SAME_TO: Final = 1e-5  # [E2]
MAX_DISPUTED: Final = 10_000  # texts; beyond that, the vectors are simply other ones
RECORDS_PER_TELLING = 10_000
UNKNOWN_EMBEDDER: Final = "an unknown one"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of one sink's ledger."""

    sink: str
    documents: int
    records: int
    vectors: int  # stored
    in_doubt: int  # records that are not what their marks say, missing between others, or of disputed vectors: written
    foreign: int  # records that are not ours
    is_ours: bool  # most records were made by the embedder of the settings; else the next sync asks before it embeds
    without_vectors: str  # why none were stored; empty: they were, but for those that the store had

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return {
            "documents": self.documents,
            "records": self.records,
            "vectors": self.vectors,
            "in_doubt": self.in_doubt,
            "foreign": self.foreign,
            "same_embedder": self.is_ours,
            "without_vectors": self.without_vectors or None,
        }


def rebuild(
    parts: Parts,
    scratch: Scratch,
    *,
    sinks: Sequence[str] = (),
    keep_vectors: bool = True,
    trust_vectors: bool = False,
    show: Show = show_nothing,
) -> list[Rebuilt]:
    """Make the ledgers of some sinks, or of all, from what they hold. The checkpoints are open for writing.

    Vectors are taken into the store where a free embedder shows, by a few texts, that the sink gives them as they were
    made; or where the operator says so by `trust_vectors`. Those of a collection that keeps them rounded, or only their
    direction, would do for that collection, and not for another one.

    Raises:
        SafetyError: a ledger knows something already; nothing was written.
        ConfigError: a sink has no collection; nothing was written.
        SinkError, TransientError: a sink cannot be read; its ledger is as if it were lost.
    """
    incarnations = {sink.name: _incarnation(parts, sink) for sink in named(parts, sinks)}
    rebuilt = []
    for sink in named(parts, sinks):
        vectors = _Vectors(parts, is_wanted=keep_vectors, is_trusted=trust_vectors)
        scan = _Scan(sink, parts.embedder.identity, vectors, show)
        rebuilt.append(_rebuild(parts, scratch, scan, incarnations[sink.name]))
    return rebuilt


def _incarnation(parts: Parts, sink: Sink) -> str:
    """Tell which collection a sink's ledger is to be made of, if it is to be made at all."""
    documents = parts.checkpoints.count(sink.name)
    if documents and not (parts.checkpoints.incarnation(sink.name) or "").startswith(UNFINISHED):
        raise SafetyError(
            f"the ledger of {sink.name} is not lost: it has {documents:,} documents; "
            "`vector-sync verify --repair` mends it and the sink; to make it anew all the same, move checkpoint.db away"
        )
    incarnation = sink.check(parts.embedder.dimension)
    if incarnation is None:
        raise ConfigError(
            f"{sink.name} has no collection yet, so there is nothing to rebuild from; run `vector-sync sync`"
        )
    return incarnation


def _rebuild(parts: Parts, scratch: Scratch, scan: _Scan, incarnation: str) -> Rebuilt:
    name, checkpoints, vectors = scan.sink.name, parts.checkpoints, scan.vectors
    checkpoints.open_ledger(name, UNFINISHED + secrets.token_hex(8))  # forgets what a rebuild that was killed has left
    scratch.write(scan.marks())
    vectors.flush()
    documents = records = in_doubt = 0
    for some in chunks(_entries(scratch, vectors.disputed, is_ours=scan.is_ours), ENTRIES_PER_COMMIT):
        checkpoints.commit(name, some)
        documents += len(some)
        records += sum(entry.extent for entry in some)
        in_doubt += sum(entry.passages.count(UNKNOWN) for entry in some)
        scan.show(f"writing the ledger of {name}", f"{documents:,} documents", None)
    recipe = parts.recipe.parts() if scan.is_ours else {**parts.recipe.parts(), "embedder": UNKNOWN_EMBEDDER}
    with checkpoints.writing() as db:
        db.execute(
            "UPDATE ledger SET incarnation = ?, recipe = ?, version = version + 1 WHERE sink = ?",
            [incarnation, json.dumps(recipe), name],
        )
    return Rebuilt(name, documents, records, vectors.stored, in_doubt, scan.foreign, scan.is_ours, vectors.refusal)


@dataclass(slots=True)
class _Scan:
    """One walk over a sink, and what it saw."""

    sink: Sink
    embedder: str  # identity
    vectors: _Vectors
    show: Show
    foreign: int = 0
    sound: int = 0  # records whose digest is that of their contents under our embedder
    unlike: int = 0  # records whose digest is not

    @property
    def is_ours(self) -> bool:
        """Whether the present embedder made these records, but for some that were altered since."""
        return self.sound >= self.unlike

    def marks(self) -> Iterator[Mark]:
        for number, record in enumerate(self.sink.scan(Detail.VECTORS)):
            if not number % RECORDS_PER_TELLING:
                self.show(f"reading {self.sink.name}", f"{number:,} records", None)
            if isinstance(record, ForeignRecord) or not is_plausible(record):
                self.foreign += 1
                continue
            text_hash = None if record.text is None else sha256_16(record.text.encode(errors="replace"))
            is_sound = is_made_by(self.embedder, record)
            self.sound += is_sound
            self.unlike += not is_sound and can_be_checked(record)
            if is_sound:
                self.vectors.add(record)
            altered = Reason.CONTENTS if can_be_checked(record) and not is_sound else None
            yield Mark(record.document_id, record.index, record.digest, text_hash, altered)


def _entries(scratch: Scratch, disputed: Collection[bytes], *, is_ours: bool) -> Iterator[Entry]:
    """Make the line of each document.

    the records                                       its line
    ------------------------------------------------  ---------------------------------------------------------------
    all there, as they were written                   their digests; a fingerprint that no version has
    some altered, or missing between the others       UNKNOWN for these, and no fingerprint: the next sync writes them
    of a text that has two vectors                    the same
    of another embedder, as most                      their digests; the recipe says so, and the next sync asks
    """
    for id, marks in scratch.documents():
        digests = [UNKNOWN] * (marks[-1].index + 1)
        for mark in marks:
            is_doubted = (mark.altered and is_ours) or mark.text_hash in disputed
            digests[mark.index] = UNKNOWN if is_doubted else mark.digest
        hashes = [mark.text_hash or UNKNOWN for mark in marks]
        content = hashes[0] if len(hashes) == 1 else sha256_16(b"".join(hashes))
        # Not None, though the version is not known: a sync holds in memory what is in doubt, and this is everything.
        fingerprint = None if UNKNOWN in digests else sha256_16(f"rebuilt\0{id}".encode())
        yield Entry(id, fingerprint, content, tuple(digests))


class _Vectors:
    """Takes vectors into the store, if the sink gives them as the embedder made them.

    Somebody may have altered some. Of each write a few texts are embedded, if that is free; and a text for which there
    is another vector, of another record, another sink or an earlier run, keeps none: who is right, the embedder says.
    """

    def __init__(self, parts: Parts, *, is_wanted: bool, is_trusted: bool) -> None:
        self._embedder, self._store = parts.embedder, parts.vectors
        self._is_trusted = is_trusted
        self._waiting: dict[bytes, tuple[str, Vectors]] = {}  # by the hash of the text
        self.refusal = ""  # why none is taken in any more
        self.disputed: set[bytes] = set()  # hashes of texts
        self.stored = 0
        if not is_wanted:
            self.refusal = '[state] keep = "undelivered" keeps none'
        elif not is_trusted and not _is_free(parts.embedder):
            self.refusal = "to try whether they are exact would cost"

    def add(self, record: StoredRecord) -> None:
        """Take one vector in, now or later."""
        if self.refusal or record.text is None or record.vector is None:
            return
        if record.vector.shape == (self._embedder.dimension,) and np.isfinite(record.vector).all():
            text_hash = sha256_16(record.text.encode())
            _, other = self._waiting.get(text_hash, ("", record.vector))
            if text_hash not in self.disputed and is_same_vector(record.vector, other):
                self._waiting[text_hash] = (record.text, record.vector)
            else:
                self._dispute([text_hash])
        if len(self._waiting) >= VECTORS_PER_WRITE:
            self.flush()

    def flush(self) -> None:
        """Store what waits, or nothing any more, if the vectors turn out to be other ones."""
        if self._waiting and not (self.refusal or self._is_trusted or self._are_exact()):
            self.refusal = "the index does not give them as the embedder made them"
        if self._waiting and not self.refusal:
            known = self._store.get(list(self._waiting))
            self._dispute([it for it, vector in known.items() if not is_same_vector(self._waiting[it][1], vector)])
            hashes = sorted(self._waiting.keys() - known.keys())
            if hashes:
                self._store.put(hashes, np.stack([self._waiting[hash][1] for hash in hashes]).astype(np.float32))
            self.stored += len(hashes)
        self._waiting = {}

    def _dispute(self, hashes: Sequence[bytes]) -> None:
        """Take no vector for these texts, and forget what is stored."""
        self._store.forget(hashes)
        for text_hash in hashes:
            self._waiting.pop(text_hash, None)
        self.disputed.update(hashes)
        if len(self.disputed) > MAX_DISPUTED:
            self.refusal = "the index does not give them as they are stored"

    def _are_exact(self) -> bool:
        """Embed a few texts, for nothing, and compare."""
        few = min(TEXTS_PER_TRIAL, self._embedder.limits.texts_per_call)
        some = [self._waiting[it] for it in sorted(self._waiting)[:few]]  # by their hashes: any of them
        made = self._embedder.embed([text for text, _ in some], InputType.SEARCH_DOCUMENT)
        return bool(np.allclose(made, np.stack([vector for _, vector in some]), rtol=0, atol=SAME_TO))


def _is_free(embedder: Embedder) -> bool:
    if not isinstance(embedder, BilledEmbedder):
        return True
    return embedder.price is not None and not embedder.price.per_million_tokens

"""Decide what to do. Pure: the same documents and ledgers always give the same plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from .model import HASH_BYTES, UNKNOWN, Document, DocumentId, Entry, Metadata, Passage, Rejection

if TYPE_CHECKING:
    from .model import Versions

RECORD_FORMAT = "1"  # raised when the same document would be stored in another form


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that turns a document into records, except the document."""

    embedder: str
    splitter: str
    source: str  # which fields are kept, how text is read

    def parts(self) -> dict[str, str]:
        """Give the parts by name, as the checkpoint keeps them."""
        return {"embedder": self.embedder, "splitter": self.splitter, "source": self.source, "format": RECORD_FORMAT}

    def hash(self) -> bytes:
        """Hash all parts to 16 bytes."""
        return sha256_16(json.dumps(self.parts(), sort_keys=True).encode())

    def reembeds(self, before: dict[str, str]) -> str | None:
        """Tell what changed since `before` that changes the texts or the vectors of every document."""
        for part in ("embedder", "splitter"):
            if before and before.get(part) != self.parts()[part]:
                return f"the {part} changed from {before.get(part)} to {self.parts()[part]}"
        return None


def sha256_16(content: bytes) -> bytes:
    """The first 16 bytes of a sha256: long enough that nobody can make two texts meet."""
    return hashlib.sha256(content).digest()[:HASH_BYTES]


def fingerprints(versions: Versions, recipe: bytes) -> Versions:
    """Hash versions with a recipe: (n, 16) in, (n, 16) out.

    Both are hashes already, so their exclusive or is one as well, and a million cost nothing.
    """
    return np.bitwise_xor(versions, np.frombuffer(recipe, dtype=np.uint8))


def fingerprint(version: bytes, recipe: bytes) -> bytes:
    """Hash one version with a recipe."""
    return (int.from_bytes(version, "little") ^ int.from_bytes(recipe, "little")).to_bytes(HASH_BYTES, "little")


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What every sink should hold of one document: its passages, or nothing, for a problem."""

    document_id: DocumentId
    fingerprint: bytes | None  # None: not readable now, so every run tries again
    content: bytes | None = None
    texts: tuple[str, ...] = ()
    text_hashes: tuple[bytes, ...] = ()
    tokens: tuple[int, ...] = ()
    digests: tuple[bytes, ...] = ()
    metadata: Metadata = msgspec.field(default_factory=dict)
    metadata_bytes: int = 0  # as JSON
    problem: str | None = None


def want(document: Document, passages: Sequence[Passage], tokens: Sequence[int], recipe: Recipe, hash: bytes) -> Wanted:
    """Work out what sinks should hold of a document; `hash` is the recipe's."""
    metadata_json = msgspec.json.encode(document.metadata, order="deterministic")
    text_hashes = tuple([sha256_16(passage.text.encode()) for passage in passages])
    made_of = _made_by(recipe.embedder).copy()
    made_of.update(metadata_json)
    digests = []
    for text_hash in text_hashes:
        digest = made_of.copy()
        digest.update(text_hash)
        digests.append(digest.digest()[:HASH_BYTES])
    return Wanted(
        document_id=document.id,
        fingerprint=fingerprint(document.version, hash),
        content=text_hashes[0] if len(text_hashes) == 1 else sha256_16(b"".join(text_hashes)),
        texts=tuple([passage.text for passage in passages]),
        text_hashes=text_hashes,
        tokens=tuple(tokens),
        digests=tuple(digests),
        metadata=document.metadata,
        metadata_bytes=len(metadata_json),
    )


def record_digest(embedder: str, metadata: Metadata, text_hash: bytes) -> bytes:
    """The digest of one record by what it holds: the one that `want` gives it."""
    digest = _made_by(embedder).copy()
    digest.update(msgspec.json.encode(metadata, order="deterministic"))
    digest.update(text_hash)
    return digest.digest()[:HASH_BYTES]


@lru_cache(maxsize=8)
def _made_by(embedder: str) -> hashlib._Hash:
    """The beginning that the digests of all records of an embedder have in common."""
    return hashlib.sha256(f"{RECORD_FORMAT}\0{embedder}\0".encode())


def want_nothing(rejection: Rejection, hash: bytes) -> Wanted:
    """Work out what sinks should hold of a document that cannot be used."""
    kept = None if rejection.passing else fingerprint(rejection.version, hash)
    return Wanted(rejection.id, kept, problem=rejection.reason)


class Kind(StrEnum):
    """What changed about a document; the names are those of `report.Counts`."""

    ADDED = "added"
    CHANGED = "changed"
    METADATA_ONLY = "metadata_only"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"


class Change(msgspec.Struct, frozen=True, gc=False):
    """What to do about one document in one sink."""

    wanted: Wanted
    before: Entry | None
    kind: Kind
    upserts: tuple[int, ...] = ()  # indexes of the records to write
    alterations: tuple[str, ...] = ()  # what the sink will store otherwise than it is

    def refuse(self, reason: str) -> Change:
        """The same document, found to be impossible to embed, or to store there."""
        return compare(Wanted(self.wanted.document_id, self.wanted.fingerprint, problem=reason), self.before)

    @property
    def extent_before(self) -> int:
        """How many records the sink may hold of the document now."""
        return self.before.extent if self.before else 0

    @property
    def touches_sink(self) -> bool:
        """Whether the sink has to be written to, and not only the ledger."""
        if self.kind is Kind.REJECTED:
            return self.removes_document
        return bool(self.upserts) or self.extent_before > len(self.wanted.digests)

    @property
    def removes_document(self) -> bool:
        """Whether a document is rejected for good and has records that are to go."""
        return self.kind is Kind.REJECTED and self.wanted.fingerprint is not None and self.extent_before > 0

    def doubt(self) -> Entry:
        """The ledger's line while the sink is written to: nobody knows what it holds of `upserts`."""
        held = list(self.before.passages) if self.before else []
        held += [UNKNOWN] * (len(self.wanted.digests) - len(held))
        for index in (*self.upserts, *range(len(self.wanted.digests), len(held))):
            held[index] = UNKNOWN
        content = self.before.content if self.before else None
        return Entry(self.wanted.document_id, None, content, tuple(held))

    def done(self) -> Entry:
        """The ledger's line when the sink holds what is wanted."""
        wanted = self.wanted
        if wanted.problem is not None and wanted.fingerprint is None and self.before:
            return Entry(wanted.document_id, None, self.before.content, self.before.passages, wanted.problem)
        return Entry(wanted.document_id, wanted.fingerprint, wanted.content, wanted.digests, wanted.problem)


def compare(wanted: Wanted, before: Entry | None) -> Change:
    """Compare what a sink should hold of a document with what its ledger says.

    wanted      the ledger has              kind           write
    ----------  --------------------------  -------------  -------------------------------------
    passages    no text ever delivered      ADDED          every record not known to be there
    passages    another text                CHANGED        records whose digest differs
    passages    the same text, other        METADATA_ONLY  records whose digest differs
                digests
    passages    the same digests            UNCHANGED      nothing; the ledger notes the new version
    a problem   anything                    REJECTED       nothing; records go after the delete guard,
                                                           and stay if the problem may pass
    """
    if wanted.problem is not None:
        return Change(wanted, before, Kind.REJECTED)
    held = before.passages if before else ()
    upserts = tuple(
        [index for index, digest in enumerate(wanted.digests) if index >= len(held) or held[index] != digest]
    )
    if before is None or before.content is None:
        kind = Kind.ADDED
    elif before.content != wanted.content:
        kind = Kind.CHANGED
    elif upserts or len(held) != len(wanted.digests):
        kind = Kind.METADATA_ONLY
    else:
        kind = Kind.UNCHANGED
    return Change(wanted, before, kind, upserts)


def kind_of_document(kinds: Sequence[Kind]) -> Kind:
    """Say once what changed about a document, from what changed in each sink.

    some sink says                 the document is
    -----------------------------  ---------------
    REJECTED                       REJECTED
    CHANGED                        CHANGED
    METADATA_ONLY                  METADATA_ONLY
    ADDED, and every other too     ADDED
    ADDED, another has it          UNCHANGED: a new sink is being filled
    """
    for kind in (Kind.REJECTED, Kind.CHANGED, Kind.METADATA_ONLY):
        if kind in kinds:
            return kind
    return Kind.ADDED if set(kinds) == {Kind.ADDED} else Kind.UNCHANGED


@dataclass(frozen=True, slots=True)
class DeleteGuard:
    """How many documents may leave the index without anybody being asked."""

    max_fraction: float = 0.1
    min_count: int = 20
    confirmed: int | None = None  # the operator allows up to so many in this run

    def objection(self, *, gone: int, live: int, listed: int, unreadable: int) -> str | None:
        """Say why documents are not to be deleted; None if they may be.

        gone  and                                     verdict
        ----  --------------------------------------  -------
        0                                             go
        > 0   at most `confirmed`                     go
        > 0   nothing was listed                      stop: the source looks blind
        > 0   some places could not be read           stop: they may hide what seems gone
        > 0   more than both limits                   stop: it looks like an accident
        > 0   else                                    go
        """
        if not gone or (self.confirmed is not None and gone <= self.confirmed):
            return None
        if self.confirmed is not None:
            confirm = f"more than the {self.confirmed} confirmed; confirm with --confirm-deletes {gone}"
        else:
            confirm = f"if they are really gone, confirm with --confirm-deletes {gone}"
        if not listed:
            return f"the source lists nothing, and {gone} documents would be deleted; {confirm}"
        if unreadable:
            return (
                f"{gone} documents are missing, but {unreadable} places of the source could not be read and may hold "
                f"them (see `vector-sync rejected`); mend those, or {confirm}"
            )
        if gone > max(self.min_count, self.max_fraction * live):
            return (
                f"{gone} of {live} documents would be deleted, more than max_delete_fraction = {self.max_fraction:g} "
                f"allows; nothing was deleted, everything else is done; {confirm}"
            )
        return None

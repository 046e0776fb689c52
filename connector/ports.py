"""The parts a sync is put together from, and what each one promises.

Rules marked [S1], [D2], ... are checked by the contract kits in `connector.testing`; a kit is
how a stranger's source, embedder or sink is known to be right. An implementation only
translates: batching, retry, limits, logging and memory live above it, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .filters import Condition
from .model import (
    Detail,
    Document,
    DocumentId,
    DocumentRef,
    Draft,
    EmbeddedRecord,
    Entry,
    Fit,
    ForeignRecord,
    Hit,
    InputType,
    ListingComplete,
    RecordId,
    Rejection,
    StoredRecord,
    Unreadable,
)

if TYPE_CHECKING:
    from .model import Positions, Vectors, Versions


class Listing(Protocol):
    """A batch of a source's listing, as columns: a row that has not changed is never parsed."""

    @property
    def versions(self) -> Versions:
        """One version a row, shape (n, 16)."""
        ...

    @property
    def fraction(self) -> float:
        """How much of the source has been listed when this batch ends, 0 to 1; never goes back."""
        ...

    def refs(self, positions: Positions) -> Iterator[DocumentRef | Unreadable]:
        """Parse the rows asked for, and only those, in the order of `positions`.

        Called at most once a listing, before the next batch is asked for.
        """
        ...

    def place(self, position: int) -> str:
        """Name a row for people, as in "rows.jsonl line 17"."""
        ...


class Source(Protocol):
    """Where documents come from.

    [D1] A listing ends with exactly one `ListingComplete` that counts its rows. One that cannot
         be completed raises: ConfigError if it never will (no such folder), else TransientError.
    [D2] Rows are in the same order each time, as long as the source does not change. An id may
         come twice; the engine takes the first.
    [D3] A version changes whenever the document's text or metadata does, and when it is listed under
         another id. It is the same in every process. It may change without cause: that costs a
         fetch, and no more.
    [D4] `fetch` gives each document asked for once, in any order; it leaves out those that are gone
         or no longer what was listed, and gives a Rejection for those that cannot be used.
    [D5] What is fetched is whole: its version is that of its text and metadata, even if the
         document is being rewritten meanwhile.
    [D6] A place whose document cannot be told comes as `Unreadable`, never as nothing.
    """

    def check(self) -> None:
        """Raise ConfigError if the source cannot be read as the settings say. Writes nothing."""
        ...

    def list(self) -> Iterator[Listing | ListingComplete]:
        """List every document."""
        ...

    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[Document | Rejection]:
        """Read the documents of some refs from the latest listing."""
        ...


@runtime_checkable
class WatchableSource(Source, Protocol):
    """A source that is made of files, so that whoever watches them knows when it is time to list it again.

    [D7] What changes the listing writes, moves or removes a file that `may_list` is true of, or a folder, at or below
         one of `watched_paths`. It is no error if more is named than is listed: that costs a run that finds nothing.
    """

    def watched_paths(self) -> Sequence[Path]:
        """Name files, and folders with all that is below them, whether they are there or not."""
        ...

    def may_list(self, path: Path) -> bool:
        """Tell whether a file there, at or below one of those paths, is one of the source's. It need not be there."""
        ...


@dataclass(frozen=True, slots=True)
class EmbedLimits:
    """What one call to an embedder may carry."""

    texts_per_call: int
    tokens_per_text: int  # more would be cut; passages are split so that none is
    inputs_per_minute: int | None = None  # texts, of all threads together; None: as many as you like
    tokens_per_minute: int | None = None  # the same, of tokens
    counts_exactly: bool = True  # else `count_tokens` estimates, and whoever shows its sums says so


@dataclass(frozen=True, slots=True)
class Price:
    """What an embedder's service bills."""

    per_million_tokens: float
    currency: str  # "USD"
    source: str  # whose word it is, and of when: "price list of 2026-11-20", "settings"


class Embedder(Protocol):
    """Turns texts into vectors.

    [E1] `identity` names all that decides a vector: service, model, weights, dimension, truncation.
         Two embedders with one identity give the same vectors; it is the same in every process.
    [E2] The i-th vector is of the i-th text, float32, finite, shape (n, dimension). It does not
         depend on the other texts of the call, to 1e-5.
    [E3] A text of at most `tokens_per_text` by `count_tokens` is embedded whole.
    [E4] No texts give shape (0, dimension), without a call.
    [E5] A text that can never be embedded raises RejectedError; passing failures are TransientError
         with the wait the service named.
    """

    @property
    def identity(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def limits(self) -> EmbedLimits: ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count each text's tokens as the model will, special tokens included."""
        ...

    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        """Embed at most `texts_per_call` texts now."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class BilledEmbedder(Embedder, Protocol):
    """An embedder whose service wants to be paid."""

    @property
    def price(self) -> Price | None:
        """What it bills; None if that is not known."""
        ...

    @property
    def billed_tokens(self) -> int:
        """What the service said that it bills for the calls to `embed` of this object; 0 if it does not say."""
        ...


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What asynchronous jobs are good for, and what one may carry."""

    texts_per_job: int  # what one failed job costs at most; hosted services have no limit of their own
    bytes_per_job: int  # of the dataset as it is uploaded
    open_jobs: int  # at one time
    jobs_from: int  # so many missing texts go through jobs; fewer are embedded at once
    settle_seconds: float  # how long a job that was accepted may be missing from the list
    first_look_seconds: float = 2.0  # between two looks at a job: this at first,
    longest_look_seconds: float = 30.0  # and this after a while


class RemotePhase(StrEnum):
    """How far a dataset or a job is, whatever words its service has for that."""

    PENDING = "pending"
    READY = "ready"  # a dataset was validated, a job is complete
    FAILED = "failed"  # for good; cancelled and vanished ones too


@dataclass(frozen=True, slots=True)
class RemoteDataset:
    """A dataset at an embedding service."""

    id: str
    name: str
    phase: RemotePhase
    reason: str  # the service's words, of one that failed
    created_at: float  # seconds since 1970, by the service's clock


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """A job at an embedding service."""

    id: str
    name: str
    dataset_id: str  # that it embeds
    phase: RemotePhase
    output_dataset_id: str | None  # of one that is ready
    reason: str  # the service's words, of one that failed
    billed_tokens: int | None  # where the service tells
    created_at: float  # seconds since 1970, by the service's clock
    fraction: float | None = None  # of the work that is done, where the service tells


@runtime_checkable
class JobEmbedder(Embedder, Protocol):
    """An embedder that can also embed many texts in an asynchronous job.

    It translates: one exchange a call, no retry, no memory. `connector.jobs` decides what is called when.

    [J1] `start_job` is the one call that costs. It, and `create_dataset`, raise UnknownOutcomeError unless it is sure
         that nothing was made; TransientError only then.
    [J2] `jobs` lists every job that was accepted more than `settle_seconds` ago, with the dataset it embeds.
    [J3] `results` gives each vector with the hash that was sent with its text: in any order, perhaps twice, never
         under another hash; rows that it cannot read are left out. It may be asked again, from the beginning.
    [J4] What is gone is None to `dataset` and `job`, and no error to `delete_dataset` and `cancel_job`.
    [J5] A job is of the model, and gives the vectors, that `embed` gives for SEARCH_DOCUMENT.
    """

    @property
    def job_limits(self) -> JobLimits: ...

    def create_dataset(self, name: str, texts: Path) -> str:
        """Upload a file of lines {"text": ..., "hash": "<32 hex digits>"}; give the dataset's id. Not billed."""
        ...

    def datasets(self, name_prefix: str) -> list[RemoteDataset]: ...

    def dataset(self, id: str) -> RemoteDataset | None: ...

    def delete_dataset(self, id: str) -> None: ...

    def start_job(self, dataset_id: str, name: str) -> str: ...

    def jobs(self) -> list[RemoteJob]: ...

    def job(self, id: str) -> RemoteJob | None: ...

    def cancel_job(self, id: str) -> None: ...

    def results(self, output_dataset_id: str) -> Iterator[tuple[list[bytes], Vectors]]:
        """Read a ready job's vectors, some at a time: their hashes, and an array of shape (n, dimension)."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call to a sink may carry. The delivery packs calls to fit."""

    records_per_call: int = 100
    bytes_per_call: int = 2_000_000
    concurrent_calls: int = 1  # upserts, or deletions, of different records that may be under way at one time
    in_process: bool = False  # calls work instead of waiting for a service, so a thread of their own only costs


class Sink(Protocol):
    """One collection in one vector database.

    [S1]  When `upsert` returns, all of the call is durable, and reads back as it was sent.
    [S2]  Upserting a record that is there replaces all of it, metadata included.
    [S3]  The same call made twice leaves what one call leaves.
    [S4]  Records it was not sent are left as they are, and so is whatever is not the connector's.
    [S5]  A call with a record that can never be accepted raises RejectedError and stores none of
          that record. The other records are accepted when they are sent without it.
    [S6]  Deleting removes the records named, durably; a name that is not there is no error.
    [S7]  A failure that may pass is a TransientError, carrying the wait the service named. One that
          will not is a SinkError. Neither is swallowed.
    [S8]  `check` raises ConfigError if the collection cannot hold such vectors. It writes nothing, and
          gives the incarnation that `prepare` would, or None if the collection is yet to be made.
    [S9]  An empty call does nothing.
    [S10] Any RecordId is kept apart from any other, and read back as it was sent.
    [S11] `prepare` creates what is missing and returns the same incarnation until the collection is
          made anew; then another one.
    [S12] What `upsert` could never accept of a document, whatever its vectors, `fit` refuses beforehand; what it would
          store otherwise than it is, `fit` names. It asks no service. Nothing else is refused or altered.
    [S13] `scan` gives each of our records once, and each other one in the collection as a ForeignRecord. One that
          bears our mark but is not where, or not what, we would have written is foreign, or has another digest;
          it never ends the scan.
    [S14] `count` is how many records bear our mark, exactly; None if the service cannot tell just now.
    [S15] `search` finds only records whose metadata holds all conditions, as `filters.matches` says.
    """

    @property
    def name(self) -> str:
        """The name under which the settings, the ledger and the reports know it."""
        ...

    @property
    def limits(self) -> Limits: ...

    def check(self, dimension: int) -> str | None: ...

    def prepare(self, dimension: int) -> str:
        """Make ready to write, and create what is missing. The answer names this collection since it was created.

        Called after `check`: before anything is paid for if the collection is yet to be made, else before
        the first write of a run, as most runs write nothing. If the incarnation is not the one that the
        ledger was kept for, the collection is new and empty: it is filled again.
        """
        ...

    def upsert(self, records: Sequence[EmbeddedRecord]) -> None: ...

    def delete(self, ids: Sequence[RecordId]) -> None: ...

    def fit(self, draft: Draft) -> Fit:
        """Say whether a document can be stored; called for each that changed, before anything is paid for it."""
        ...

    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:
        """Read the whole collection, in any order, in bounded memory. None there yet: nothing."""
        ...

    def count(self) -> int | None: ...

    def search(self, vector: Vectors, limit: int, where: Sequence[Condition] = ()) -> list[Hit]:
        """Find our own records nearest to a vector, nearest first."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class NamingSink(Sink, Protocol):
    """A sink that says by what name its database has a record, so that one which was damaged is known by its place.

    [S16] `record_name` and `owner` are those of `ForeignRecord`: under its name a scan gives a record of ours whose
          marks were damaged, and with `owner` what bears our mark. No two records share a name.
    """

    @property
    def owner(self) -> str:
        """Whose mark our records bear."""
        ...

    def record_name(self, id: RecordId) -> str | None:
        """Name a record as the database does, whether it is there or not; None if none of ours can have that id."""
        ...


@runtime_checkable
class GenerationSink(Sink, Protocol):
    """A sink whose collection can be built anew beside the one that is read, and then take its place.

    It is built for one generation, `BuildContext.generation`, and reads and writes that one alone.

    [G1] Generations of one collection do not see each other: records, incarnation, counts.
    [G2] `live` says which generation readers get, by the word of the database and not of our memory; None if there is
         none. The first generation that is prepared is live at once; later ones only by `make_live`.
    [G3] `make_live` changes that in one step: a reader gets the one or the other, never neither. Twice is once.
    [G4] `drop` removes this generation and nothing else, durably. ConfigError if it is the live one. If it is not
         there, that is no error. What a killed `drop` or `prepare` left is dropped, or prepared, by the next.
    [G5] `check` of a generation that could not be made live raises ConfigError that says why.
    """

    def live(self) -> int | None: ...

    def make_live(self) -> None: ...

    def drop(self) -> None: ...


class CheckpointStore(Protocol):
    """What has been synced, per sink and document.

    [C1] `begin` is durable when it returns, and clears the fingerprint of each entry: until the
         commit, nobody knows what the sink holds.
    [C2] `commit` applies all of its entries or none, and is durable when it returns.
    [C3] Sinks do not see each other's entries.
    [C4] A store that another process has taken over writes nothing more: LeaseError.
    """

    def open_ledger(self, sink: str, incarnation: str) -> int:
        """Make a sink's ledger ready for a collection; forget, and count, what it knew of another one."""
        ...

    def count(self, sink: str) -> int:
        """How many documents the ledger has."""
        ...

    def entries(self, sink: str, ids: Sequence[DocumentId]) -> dict[DocumentId, Entry]:
        """Look up some documents; those that the ledger does not have are left out."""
        ...

    def begin(self, sink: str, entries: Iterable[Entry]) -> None:
        """Note, before a sink is touched, what it may come to hold."""
        ...

    def commit(self, sink: str, entries: Iterable[Entry], forgotten: Iterable[DocumentId] = ()) -> None:
        """Note what a sink is now known to hold, and forget documents that it holds nothing of."""
        ...


class VectorStore(Protocol):
    """Vectors by what they are of: (embedder identity, hash of the text) -> vector.

    [V1] When `put` returns, the vectors are durable.
    [V2] `get` leaves out what it does not have, and what it has of another dimension.
    """

    def get(self, hashes: Sequence[bytes]) -> Mapping[bytes, Vectors]: ...

    def missing(self, hashes: Sequence[bytes]) -> set[bytes]:
        """Tell which of some hashes are not in the store, without reading a vector."""
        ...

    def put(self, hashes: Sequence[bytes], vectors: Vectors) -> None: ...

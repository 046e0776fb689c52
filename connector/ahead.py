"""What a run is going to embed, found before any of it is paid for; what is much goes through jobs, here.

Called before the documents are delivered, and only where embedding is billed, limited, or can be done by jobs: it
walks the source once more than an ordinary run. What it has embedded is in the vector store, where the
delivery finds it; so the delivery embeds only what is little, or what a job could not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import msgspec
import numpy as np

from .embedding import Embedding, Text
from .errors import SafetyError
from .events import EmbeddingForeseen, Emit
from .fingerprints import HashSet
from .jobs import Jobs, Outcome
from .model import HASH_BYTES
from .money import Ceilings, Forecast, Spending, Way, forecast
from .ports import BilledEmbedder, Embedder, JobEmbedder, Price
from .survey import Update

if TYPE_CHECKING:
    from types import TracebackType

    from .ports import VectorStore

BYTES_PER_LINE = 60  # of a dataset, besides the text: its hash, the names of the fields


class _Line(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One text on disk."""

    hash: bytes
    text: str
    tokens: int


class Missing:
    """The texts that a source has and nobody has embedded yet, each once; on disk where they are kept.

    16 bytes of memory a text.
    """

    def __init__(self, vectors: VectorStore, *, keep_in: Path | None = None) -> None:
        """Count only, or keep the texts in a file in a folder; it is gone with the process."""
        self.texts = 0
        self.tokens = 0
        self.text_bytes = 0
        self.reused = 0  # texts that are needed, each once, and whose vectors are there
        self._vectors = vectors
        self._seen = HashSet()
        self._file: IO[bytes] | None = tempfile.TemporaryFile(dir=keep_in) if keep_in else None  # noqa: SIM115 - closed by `close`
        self._encoder = msgspec.json.Encoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget the texts."""
        if self._file is not None:
            self._file.close()

    def add(self, texts: Mapping[bytes, Text], waited_for: frozenset[bytes] | set[bytes] = frozenset()) -> None:
        """Add what some documents need; `waited_for` is in an open job, and not missing."""
        if not texts:
            return
        hashes = list(texts)
        joined = np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, HASH_BYTES)
        is_repeated = self._seen.add(joined)
        fresh = [hash for hash, repeated in zip(hashes, is_repeated.tolist(), strict=True) if not repeated]
        absent = self._vectors.missing(fresh) - waited_for
        self.reused += len(fresh) - len(absent)
        for hash in fresh:
            if hash in absent:
                text = texts[hash]
                self.texts += 1
                self.tokens += text.tokens
                self.text_bytes += len(text.text.encode(errors="replace"))
                if self._file is not None:
                    self._file.write(self._encoder.encode(_Line(hash, text.text, text.tokens)) + b"\n")

    def read(
        self, max_tokens: int | None = None, *, without: Collection[bytes] = ()
    ) -> Iterator[tuple[bytes, str, int]]:
        """Give the hash, the text and the tokens of each that was kept; no more than so many tokens in all."""
        if self._file is None:
            raise AssertionError("the texts were only counted")
        self._file.seek(0)
        decoder = msgspec.json.Decoder(_Line)
        left = max_tokens
        for encoded in self._file:
            line = decoder.decode(encoded)
            if line.hash in without:
                continue
            if left is not None:
                left -= line.tokens
                if left < 0:
                    return
            yield line.hash, line.text, line.tokens


class Ahead:
    """Embeds what is much before the delivery begins, and stops to ask before it costs much."""

    def __init__(
        self,
        embedder: Embedder,
        vectors: VectorStore,
        jobs: Jobs | None,
        embedding: Embedding,
        *,
        spool: Path,
        ceilings: Ceilings,
        spending: Spending,
        emit: Emit,
        wait: bool = True,
        plan_jobs: bool = True,
    ) -> None:
        """`spool` is the folder for the texts that wait for their jobs; without `wait`, jobs that run are left open."""
        self._wait, self._plan_jobs = wait, plan_jobs
        self._embedder, self._vectors, self._jobs, self._embedding = embedder, vectors, jobs, embedding
        self._spool, self._ceilings, self._spending, self._emit = spool, ceilings, spending, emit
        self.outcome = Outcome()
        self.texts_tried = 0  # embedded at once, before jobs were planned

    def embed(self, groups: Callable[[], Iterable[Sequence[Update]]], *, first_run: bool) -> None:
        """Look, ask, and have jobs done; `groups` walks the source anew each time it is called.

            missing  open jobs  then
            -------  ---------  ----------------------------------------------------------------------
            none     none       nothing; no service is asked anything
            any      any        compare with the service, look again if that brought vectors in;
                                if it is much, try one text and plan jobs for the rest, as far as the
                                ceiling; wait until none is open, or all run if they are not waited for

        Raises:
            SafetyError: a first run would cost more than is spent unasked; nothing was.
            TransientError, UnknownOutcomeError: the service is out of reach; jobs go on by themselves, and
                the next run finds them.
            ConfigError: the service refuses everything; nothing was uploaded, if jobs were yet to be planned.
        """
        with self._look(groups) as missing:
            told = self._foresee(missing)
            has_open_jobs = self._jobs is not None and self._jobs.has_open()
            if objection := self._ceilings.objection(told, first_run=first_run and not has_open_jobs):
                raise SafetyError(objection)
            if self._jobs is None or not (missing.texts or has_open_jobs):
                return
            self.outcome = self._jobs.resume()
            if not (self.outcome.stored_texts or self.outcome.dropped_texts):
                self._plan(told, missing)
                self.outcome += self._jobs.drive(wait=self._wait)
                return
        with self._look(groups) as missing:
            told = self._foresee(missing)
            self._plan(told, missing)
        self.outcome += self._jobs.drive(wait=self._wait)

    def _look(self, groups: Callable[[], Iterable[Sequence[Update]]]) -> Missing:
        missing = Missing(self._vectors, keep_in=self._spool if self._jobs else None)
        try:
            for group in groups():
                texts = texts_to_write(group)
                missing.add(texts, self._jobs.open_texts(list(texts)) if self._jobs else set())
        except BaseException:
            missing.close()
            raise
        return missing

    def _foresee(self, missing: Missing) -> Forecast:
        told = foresee(self._embedder, missing)
        if told.way is not Way.NONE:
            self._emit(EmbeddingForeseen(told.texts, told.tokens, str(told.way), told.reason))
        return told

    def _plan(self, told: Forecast, missing: Missing) -> None:
        if self._jobs is not None and self._plan_jobs and told.way is Way.JOBS:
            tried = self._try_one(missing)
            planned = self._jobs.plan(missing.read(self._spending.left_tokens(), without=tried))
            self._spending.add(planned.tokens)

    def _try_one(self, missing: Missing) -> Collection[bytes]:
        """Embed the first text at once: a wrong key, model or dimension is then found before anything is uploaded.

        It is a text that is needed, and its vector is kept, so the trial costs nothing. Jobs of no more texts than one
        call embeds are trial enough.
        """
        if missing.texts <= self._embedder.limits.texts_per_call:
            return ()
        for hash, text, tokens in missing.read(self._spending.left_tokens()):
            found, _ = self._embedding.embed({hash: Text(text, tokens)})
            self.texts_tried += len(found)
            return found.keys()
        return ()


def foresee(embedder: Embedder, missing: Missing) -> Forecast:
    """Say what some missing texts are going to cost, and which way they go."""
    return forecast(
        missing.texts,
        missing.tokens,
        embedder.limits,
        embedder.job_limits if isinstance(embedder, JobEmbedder) else None,
        price_of(embedder),
        dataset_bytes=missing.text_bytes + BYTES_PER_LINE * missing.texts,
    )


def price_of(embedder: Embedder) -> Price | None:
    """Give what an embedder's service bills; None if nothing, or if that is not known."""
    return embedder.price if isinstance(embedder, BilledEmbedder) else None


def texts_to_write(group: Iterable[Update]) -> dict[bytes, Text]:
    """Gather the texts whose vectors some sink needs, by their hashes."""
    return {
        update.wanted.text_hashes[index]: Text(update.wanted.texts[index], update.wanted.tokens[index])
        for update in group
        for index in {index for change in update.changes.values() for index in change.upserts}
    }

"""Texts to vectors by Embed Jobs: datasets, jobs and results, one exchange a call.

the service says                                                of a dataset, a job is
--------------------------------------------------------------  ----------------------
validated, complete                                             READY
failed, unknown, skipped, cancelled                             FAILED
queued, processing, cancelling, and any word that nobody knows  PENDING
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from connector.cohere import Cohere, Dataset, Job, NoAvroError, NotFoundError, Record, records
from connector.cohere.values import moment
from connector.errors import TransientError
from connector.model import HASH_BYTES, InputType
from connector.ports import EmbedLimits, JobLimits, Price, RemoteDataset, RemoteJob, RemotePhase
from connector.retry import Retry

from .cohere_embed import CohereEmbedder, Recipe, Service

if TYPE_CHECKING:
    from connector.model import Vectors

DATASETS_PER_PAGE: Final = 100
RECORDS_PER_BATCH: Final = 1_000
PATIENCE_SECONDS: Final = 2.0
TEXTS_FILE: Final = "texts.jsonl"  # the service tells by its end what is in it
HASH_FIELD: Final = "hash"


def _sleep_shortly(wait_seconds: float) -> None:
    """Wait between two attempts at a download; a longer wait that was named is the caller's, who can be stopped."""
    if wait_seconds > PATIENCE_SECONDS:
        raise TransientError(
            f"the download of a result has to wait for {wait_seconds:.0f} s, as the service asks",
            retry_after_seconds=wait_seconds,
        )
    time.sleep(wait_seconds)


DOWNLOAD_RETRY: Final = Retry(attempts=3, longest_wait_seconds=PATIENCE_SECONDS, sleep=_sleep_shortly)
"""For one block of a result: a download of a gigabyte goes on where it broke, the caller can only begin anew."""


class CohereJobEmbedder(CohereEmbedder):
    """Embeds in asynchronous jobs, too. `connector.jobs` decides what is called when."""

    def __init__(
        self,
        client: Cohere,
        service: Service,
        recipe: Recipe,
        *,
        limits: EmbedLimits,
        price: Price | None,
        job_limits: JobLimits,
        download_retry: Retry = DOWNLOAD_RETRY,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(client, service, recipe, limits=limits, price=price)
        self._job_limits = job_limits
        self._download_retry = download_retry
        self._now = now

    @property
    def job_limits(self) -> JobLimits:
        return self._job_limits

    def check(self) -> None:
        """Ask also whether the service has datasets, and the key may see them."""
        super().check()
        self._client.check()

    def create_dataset(self, name: str, texts: Path) -> str:
        return self._client.create_dataset(texts, name=name, file_name=TEXTS_FILE, keep_fields=[HASH_FIELD])

    def datasets(self, name_prefix: str) -> list[RemoteDataset]:
        return [
            self._remote_dataset(dataset)
            for dataset in self._client.all_datasets(page=DATASETS_PER_PAGE)
            if dataset.name.startswith(name_prefix)
        ]

    def dataset(self, id: str) -> RemoteDataset | None:
        with suppress(NotFoundError):
            return self._remote_dataset(self._client.dataset(id))
        return None

    def delete_dataset(self, id: str) -> None:
        with suppress(NotFoundError):
            self._client.delete_dataset(id)

    def start_job(self, dataset_id: str, name: str) -> str:
        return self._client.create_job(
            dataset_id=dataset_id,
            model=self._recipe.model,
            input_type=InputType.SEARCH_DOCUMENT.value,
            embedding_types=["float"],
            truncate="END",
            name=name,
        )

    def jobs(self) -> list[RemoteJob]:
        return [self._remote_job(job) for job in self._client.jobs()]

    def job(self, id: str) -> RemoteJob | None:
        with suppress(NotFoundError):
            return self._remote_job(self._client.job(id))
        return None

    def cancel_job(self, id: str) -> None:
        with suppress(NotFoundError):
            self._client.cancel_job(id)

    def results(self, output_dataset_id: str) -> Iterator[tuple[list[bytes], Vectors]]:
        """See [J3]. ConfigError if the vectors have another dimension than was set, before any is given.

        TransientError if the dataset is not there, as the next look tells whether it is gone for good; and if a part
        is another kind of file, put there by something between: what was paid for is not given up for that.
        """
        try:
            yield from self._results(output_dataset_id)
        except (NotFoundError, NoAvroError) as error:
            raise TransientError(str(error)) from None

    def _results(self, output_dataset_id: str) -> Iterator[tuple[list[bytes], Vectors]]:
        hashes: list[bytes] = []
        vectors = self._empty_batch()
        fits = False
        with records(self._client, output_dataset_id, retry=self._download_retry) as rows:
            for record in rows:
                hash, vector = _hash_of(record), record.embeddings.get("float")
                if hash is None or vector is None:
                    continue
                if vector.shape != (self.dimension,):
                    if not fits:
                        raise self.other_dimension(len(vector))
                    continue
                fits = True
                vectors[len(hashes)] = vector
                hashes.append(hash)
                if len(hashes) == RECORDS_PER_BATCH:
                    yield hashes, vectors
                    hashes, vectors = [], self._empty_batch()
        if hashes:
            yield hashes, vectors[: len(hashes)]

    def _empty_batch(self) -> Vectors:
        return np.empty((RECORDS_PER_BATCH, self.dimension), dtype=np.float32)

    def _remote_dataset(self, dataset: Dataset) -> RemoteDataset:
        phase = _phase(is_ready=dataset.is_validated, has_failed=dataset.has_failed)
        reason = _reason(dataset.status, dataset.error, *dataset.warnings[:1]) if dataset.has_failed else ""
        return RemoteDataset(dataset.id, dataset.name, phase, reason, self._seconds(dataset.created_at))

    def _remote_job(self, job: Job) -> RemoteJob:
        return RemoteJob(
            id=job.id,
            name=job.name,
            dataset_id=job.input_dataset_id,
            phase=_phase(is_ready=job.is_complete, has_failed=job.has_failed),
            output_dataset_id=job.output_dataset_id or None,
            reason=_reason(job.status, job.error) if job.has_failed else "",
            billed_tokens=job.billed_tokens,
            created_at=self._seconds(job.created_at),
            fraction=None if job.percent_complete is None else min(1.0, max(0.0, job.percent_complete / 100.0)),
        )

    def _seconds(self, text: str) -> float:
        """Read when something was made; what does not say is taken for new, so that nobody cleans it up for its age."""
        created_at = moment(text)
        return self._now() if created_at is None else created_at.timestamp()


def _phase(*, is_ready: bool, has_failed: bool) -> RemotePhase:
    """Cancelled, unknown and skipped count as failed; cancelling, and every word that nobody knows, as pending."""
    if is_ready:
        return RemotePhase.READY
    return RemotePhase.FAILED if has_failed else RemotePhase.PENDING


def _reason(status: str, *words: str) -> str:
    """Give the service's words, or at least what has become of it."""
    return " ".join("; ".join(filter(None, words)).split()) or f"it is {status.lower()}, and no reason is given"


def _hash_of(record: Record) -> bytes | None:
    found = record.metadata.get(HASH_FIELD)
    if not isinstance(found, str) or len(found) != 2 * HASH_BYTES:
        return None
    with suppress(ValueError):
        return bytes.fromhex(found)
    return None

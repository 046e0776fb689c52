"""The contract of embedders with asynchronous jobs as a pytest class, to which anyone's can be held.

    from connector.testing.jobs import JobEmbedderContract

    class TestMyJobEmbedder(JobEmbedderContract):
        @pytest.fixture
        def harness(self):
            yield MyHarness()

It asks what `EmbedderContract` does not: hold the embedder to both. A rule is waived as there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import pytest

from connector.errors import TransientError, UnknownOutcomeError
from connector.model import HASH_BYTES
from connector.ports import JobEmbedder, RemoteDataset, RemoteJob, RemotePhase
from connector.testing.contract import Contract
from connector.testing.embedders import TEXTS, assert_same, embed

if TYPE_CHECKING:
    from connector.model import Vectors

T = TypeVar("T")
RemoteT = TypeVar("RemoteT", RemoteDataset, RemoteJob)
Making: TypeAlias = Literal["create_dataset", "start_job"]
"""The calls that make something, and are not to be repeated blindly."""

NAME = "vs-contract-0001-a1"
OTHER_NAME = "vs-contract-0002-a1"
PAUSES = 2_000  # until something has to have happened


class JobEmbedderHarness(Protocol):
    """What the contract needs, besides the embedder, of whoever wrote it. Each test gets a service without jobs."""

    @property
    def embedder(self) -> JobEmbedder: ...

    @property
    def accepted_uploads(self) -> int:
        """How many datasets the service has taken, by its own word."""
        ...

    @property
    def accepted_jobs(self) -> int:
        """The same, of jobs."""
        ...

    def pause(self) -> None:
        """Let a little time pass."""
        ...

    def lose_next_answer(self, call: Making, *, done: bool) -> None:
        """Let the connection break in the next such call: after it was done, or before, which nobody can tell."""
        ...

    def be_busy(self, call: Making, *, retry_after_seconds: float) -> None:
        """Let the service do nothing at the next such call, and name a wait."""
        ...

    def refused_dataset(self) -> str:
        """Upload something that the service will find fault with; give the dataset's id."""
        ...

    def held_jobs(self) -> AbstractContextManager[None]:
        """Within it, no job that is started ends by itself."""
        ...

    def shuffle_next_result(self) -> None:
        """Let the result of the next job come in another order than that of its texts."""
        ...


class JobEmbedderContract(Contract):
    """The rules J1 to J5 of `connector.ports.JobEmbedder`."""

    @pytest.fixture
    def harness(self) -> JobEmbedderHarness:
        raise NotImplementedError("give the contract a harness: see JobEmbedderHarness")

    @pytest.mark.parametrize("call", ["create_dataset", "start_job"])
    @pytest.mark.parametrize("done", [True, False])
    def test_J1_a_lost_answer_is_an_unknown_outcome(
        self, harness: JobEmbedderHarness, tmp_path: Path, call: Making, done: bool
    ) -> None:
        make, before = _making(harness, tmp_path, call), _accepted(harness, call)
        harness.lose_next_answer(call, done=done)
        with pytest.raises(UnknownOutcomeError) as caught:
            make()
        assert str(caught.value)
        assert _accepted(harness, call) - before == int(done), "it was made more often than it was asked for"

    @pytest.mark.parametrize("call", ["create_dataset", "start_job"])
    def test_J1_a_service_that_is_busy_is_transient_and_makes_nothing(
        self, harness: JobEmbedderHarness, tmp_path: Path, call: Making
    ) -> None:
        make, before = _making(harness, tmp_path, call), _accepted(harness, call)
        harness.be_busy(call, retry_after_seconds=7)
        with pytest.raises(TransientError) as caught:
            make()
        assert caught.value.retry_after_seconds == 7
        assert _accepted(harness, call) == before
        make()
        assert _accepted(harness, call) == before + 1

    def test_J1_nothing_but_start_job_starts_a_job(self, harness: JobEmbedderHarness, tmp_path: Path) -> None:
        dataset = ready_dataset(harness, upload(harness, tmp_path))
        harness.embedder.datasets(NAME)
        assert harness.embedder.jobs() == []
        assert harness.accepted_jobs == 0
        assert harness.embedder.start_job(dataset.id, NAME)
        assert harness.accepted_jobs == 1

    def test_J1_an_upload_whose_answer_was_lost_is_found_by_its_name(
        self, harness: JobEmbedderHarness, tmp_path: Path
    ) -> None:
        other = upload(harness, tmp_path, name=OTHER_NAME)
        harness.lose_next_answer("create_dataset", done=True)
        with pytest.raises(UnknownOutcomeError):
            upload(harness, tmp_path)
        (found,) = eventually(harness, lambda: harness.embedder.datasets(NAME))
        assert found.name == NAME
        assert found.id != other
        assert {one.name for one in harness.embedder.datasets("vs-contract-")} == {NAME, OTHER_NAME}

    def test_J2_an_accepted_job_is_listed_with_its_dataset(self, harness: JobEmbedderHarness, tmp_path: Path) -> None:
        dataset, other = (ready_dataset(harness, upload(harness, tmp_path, name=name)) for name in (NAME, OTHER_NAME))
        id, other_id = (harness.embedder.start_job(one.id, one.name) for one in (dataset, other))
        listed = eventually(harness, lambda: _if_all(harness.embedder.jobs(), {id, other_id}))
        assert {job.id: job.dataset_id for job in listed} == {id: dataset.id, other_id: other.id}

    def test_J2_a_job_whose_answer_was_lost_is_listed(self, harness: JobEmbedderHarness, tmp_path: Path) -> None:
        dataset = ready_dataset(harness, upload(harness, tmp_path))
        harness.lose_next_answer("start_job", done=True)
        with pytest.raises(UnknownOutcomeError):
            harness.embedder.start_job(dataset.id, NAME)
        (job,) = eventually(harness, harness.embedder.jobs)
        assert job.dataset_id == dataset.id

    def test_J2_a_job_that_has_ended_is_still_listed(self, harness: JobEmbedderHarness, tmp_path: Path) -> None:
        done = ready_job(harness, tmp_path)
        listed = eventually(harness, lambda: _if_all(harness.embedder.jobs(), {done.id}))
        assert [job.phase for job in listed] == [RemotePhase.READY]

    def test_J2_a_job_that_runs_is_pending_and_one_that_was_cancelled_has_failed(
        self, harness: JobEmbedderHarness, tmp_path: Path
    ) -> None:
        dataset = ready_dataset(harness, upload(harness, tmp_path))
        with harness.held_jobs():
            id = harness.embedder.start_job(dataset.id, NAME)
            assert _found(harness.embedder.job(id)).phase is RemotePhase.PENDING
            harness.embedder.cancel_job(id)
        ended = eventually(harness, lambda: _if_over(harness.embedder.job(id)))
        assert ended.phase is RemotePhase.FAILED
        assert ended.reason

    def test_J2_a_dataset_that_was_refused_has_failed_in_the_services_words(self, harness: JobEmbedderHarness) -> None:
        id = harness.refused_dataset()
        refused = eventually(harness, lambda: _if_over(harness.embedder.dataset(id)))
        assert refused.phase is RemotePhase.FAILED
        assert refused.reason

    def test_J3_each_vector_comes_with_the_hash_of_its_text(self, harness: JobEmbedderHarness, tmp_path: Path) -> None:
        assert set(vectors_of(harness, ready_job(harness, tmp_path))) == {hash_of(text) for text in TEXTS}

    def test_J3_batches_are_float32_with_a_row_for_each_hash(self, harness: JobEmbedderHarness, tmp_path: Path) -> None:
        job = ready_job(harness, tmp_path)
        for hashes, vectors in harness.embedder.results(job.output_dataset_id or ""):
            assert vectors.dtype == np.float32
            assert vectors.shape == (len(hashes), harness.embedder.dimension)
            assert np.isfinite(vectors).all()
            assert {len(hash) for hash in hashes} == {HASH_BYTES}

    def test_J3_the_order_of_a_result_does_not_matter(self, harness: JobEmbedderHarness, tmp_path: Path) -> None:
        harness.shuffle_next_result()
        assert_vectors_are_of_their_texts(harness, vectors_of(harness, ready_job(harness, tmp_path)))

    def test_J3_a_result_can_be_asked_for_again(self, harness: JobEmbedderHarness, tmp_path: Path) -> None:
        job = ready_job(harness, tmp_path)
        next(iter(harness.embedder.results(job.output_dataset_id or "")))
        first, second = vectors_of(harness, job), vectors_of(harness, job)
        assert first.keys() == second.keys() == {hash_of(text) for text in TEXTS}

    def test_J4_what_is_gone_is_none_and_no_error(self, harness: JobEmbedderHarness, tmp_path: Path) -> None:
        embedder = harness.embedder
        id = upload(harness, tmp_path)
        ready_dataset(harness, id)
        embedder.delete_dataset(id)
        embedder.delete_dataset(id)
        assert embedder.dataset(id) is None
        assert embedder.datasets(NAME) == []

    def test_J4_what_never_was_is_none_and_no_error(self, harness: JobEmbedderHarness) -> None:
        embedder = harness.embedder
        assert embedder.dataset("there-is-no-such") is None
        assert embedder.job("7d1f6f4c-0000-4000-8000-000000000000") is None
        embedder.delete_dataset("there-is-no-such")
        embedder.cancel_job("7d1f6f4c-0000-4000-8000-000000000000")

    def test_J4_to_cancel_a_job_that_has_ended_is_no_error(self, harness: JobEmbedderHarness, tmp_path: Path) -> None:
        job = ready_job(harness, tmp_path)
        harness.embedder.cancel_job(job.id)
        assert _found(harness.embedder.job(job.id)).phase is RemotePhase.READY

    def test_J5_a_job_gives_the_vectors_of_embed(self, harness: JobEmbedderHarness, tmp_path: Path) -> None:
        assert_vectors_are_of_their_texts(harness, vectors_of(harness, ready_job(harness, tmp_path)))


def hash_of(text: str) -> bytes:
    """Name a text as the connector does."""
    return sha256(text.encode()).digest()[:HASH_BYTES]


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    """Write a file as `create_dataset` gets it."""
    lines = [json.dumps({"text": text, "hash": hash_of(text).hex()}, ensure_ascii=False) for text in texts]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def upload(harness: JobEmbedderHarness, folder: Path, *, name: str = NAME, texts: Sequence[str] = TEXTS) -> str:
    """Upload texts under a name."""
    return harness.embedder.create_dataset(name, write_texts(folder / f"{name}.jsonl", texts))


def ready_dataset(harness: JobEmbedderHarness, id: str) -> RemoteDataset:
    """Wait until a dataset can be embedded."""
    dataset = eventually(harness, lambda: _if_over(harness.embedder.dataset(id)))
    assert dataset.phase is RemotePhase.READY, dataset.reason
    return dataset


def ready_job(harness: JobEmbedderHarness, folder: Path, *, texts: Sequence[str] = TEXTS) -> RemoteJob:
    """Bring texts all the way to their result."""
    dataset = ready_dataset(harness, upload(harness, folder, texts=texts))
    id = harness.embedder.start_job(dataset.id, NAME)
    job = eventually(harness, lambda: _if_over(harness.embedder.job(id)))
    assert job.phase is RemotePhase.READY, job.reason
    assert job.output_dataset_id
    return job


def vectors_of(harness: JobEmbedderHarness, job: RemoteJob) -> Mapping[bytes, Vectors]:
    """Read a result; the first of each hash."""
    found: dict[bytes, Vectors] = {}
    for hashes, vectors in harness.embedder.results(job.output_dataset_id or ""):
        for hash, vector in zip(hashes, vectors, strict=True):
            found.setdefault(hash, vector)
    return found


def assert_vectors_are_of_their_texts(harness: JobEmbedderHarness, found: Mapping[bytes, Vectors]) -> None:
    """Compare the vectors of a job with those that are had at once."""
    assert_same(np.stack([found[hash_of(text)] for text in TEXTS]), embed(harness.embedder, TEXTS))


def eventually(harness: JobEmbedderHarness, look: Callable[[], T | None]) -> T:
    """Look until there is something; fail when that takes too long."""
    for _ in range(PAUSES):
        if found := look():
            return found
        harness.pause()
    pytest.fail("it did not come to be")


def _making(harness: JobEmbedderHarness, folder: Path, call: Making) -> Callable[[], str]:
    """Make ready for a call that makes something."""
    if call == "create_dataset":
        return lambda: upload(harness, folder)
    dataset = ready_dataset(harness, upload(harness, folder))
    return lambda: harness.embedder.start_job(dataset.id, NAME)


def _accepted(harness: JobEmbedderHarness, call: Making) -> int:
    return harness.accepted_uploads if call == "create_dataset" else harness.accepted_jobs


def _if_over(found: RemoteT | None) -> RemoteT | None:
    return found if found and found.phase is not RemotePhase.PENDING else None


def _if_all(jobs: list[RemoteJob], ids: set[str]) -> list[RemoteJob] | None:
    return jobs if {job.id for job in jobs} == ids else None


def _found(found: T | None) -> T:
    assert found is not None
    return found

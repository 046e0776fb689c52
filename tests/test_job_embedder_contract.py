"""The fake keeps the contract of embedders with jobs, and the kit catches whoever breaks a rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from connector.errors import ConfigError, ConnectorError, RejectedError, TransientError, UnknownOutcomeError
from connector.ports import JobEmbedder, RemoteDataset, RemoteJob, RemotePhase
from connector.testing.fake_jobs import FakeJobEmbedder, Fate, Fault
from connector.testing.jobs import NAME, JobEmbedderContract, Making, write_texts

if TYPE_CHECKING:
    from connector.model import Vectors

HELD_LOOKS = 10_000


@dataclass
class FakeHarness:
    folder: Path
    make: Callable[[], FakeJobEmbedder] = FakeJobEmbedder
    embedder: FakeJobEmbedder = field(init=False)

    def __post_init__(self) -> None:
        self.embedder = self.make()

    @property
    def accepted_uploads(self) -> int:
        return self.embedder.made_datasets

    @property
    def accepted_jobs(self) -> int:
        return len(self.embedder._jobs)

    def pause(self) -> None:
        self.embedder.sleep(1.0)

    def lose_next_answer(self, call: Making, *, done: bool) -> None:
        self.embedder.faults[call].append(Fault.LOST if done else Fault.UNSURE)

    def be_busy(self, call: Making, *, retry_after_seconds: float) -> None:
        assert retry_after_seconds == 7, "the fake names no other wait"
        self.embedder.faults[call].append(Fault.NAMED_WAIT)

    def refused_dataset(self) -> str:
        self.embedder.refused_datasets = 1
        return self.embedder.create_dataset(NAME, write_texts(self.folder / "refused.jsonl", ["a"]))

    @contextmanager
    def held_jobs(self) -> Iterator[None]:
        self.embedder.job_looks = HELD_LOOKS
        yield
        self.embedder.job_looks = 2

    def shuffle_next_result(self) -> None:
        self.embedder.fates.append(Fate.REORDERED)


class TestFakeJobEmbedder(JobEmbedderContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> FakeHarness:
        return FakeHarness(tmp_path)


def test_the_fake_is_an_embedder_with_jobs() -> None:
    assert isinstance(FakeJobEmbedder(), JobEmbedder)


# --- saboteurs: each breaks one rule ----------------------------------------------------------------


class Sanguine(FakeJobEmbedder):
    def start_job(self, dataset_id: str, name: str) -> str:
        try:
            return FakeJobEmbedder.start_job(self, dataset_id, name)
        except UnknownOutcomeError as error:
            raise TransientError(str(error)) from error


class Repeating(FakeJobEmbedder):
    def create_dataset(self, name: str, texts: Path) -> str:
        try:
            return FakeJobEmbedder.create_dataset(self, name, texts)
        except UnknownOutcomeError:
            return FakeJobEmbedder.create_dataset(self, name, texts)


class Anxious(FakeJobEmbedder):
    def start_job(self, dataset_id: str, name: str) -> str:
        try:
            return FakeJobEmbedder.start_job(self, dataset_id, name)
        except TransientError as error:
            raise UnknownOutcomeError(str(error)) from error


class Hasty(FakeJobEmbedder):
    def create_dataset(self, name: str, texts: Path) -> str:
        id = FakeJobEmbedder.create_dataset(self, name, texts)
        FakeJobEmbedder.start_job(self, id, name)
        return id


class Nameless(FakeJobEmbedder):
    def datasets(self, name_prefix: str) -> list[RemoteDataset]:
        return [replace(one, name="dataset") for one in FakeJobEmbedder.datasets(self, name_prefix)]


class Unfiltered(FakeJobEmbedder):
    def datasets(self, name_prefix: str) -> list[RemoteDataset]:
        return FakeJobEmbedder.datasets(self, "")


class Crossed(FakeJobEmbedder):
    def jobs(self) -> list[RemoteJob]:
        found = FakeJobEmbedder.jobs(self)
        ids = [job.dataset_id for job in found]
        return [replace(job, dataset_id=id) for job, id in zip(found, reversed(ids), strict=True)]


class Forgetful(FakeJobEmbedder):
    def start_job(self, dataset_id: str, name: str) -> str:
        self.answered = FakeJobEmbedder.start_job(self, dataset_id, name)
        return self.answered

    def jobs(self) -> list[RemoteJob]:
        return [job for job in FakeJobEmbedder.jobs(self) if job.id == getattr(self, "answered", None)]


class OnlyRunning(FakeJobEmbedder):
    def jobs(self) -> list[RemoteJob]:
        return [job for job in FakeJobEmbedder.jobs(self) if job.phase is RemotePhase.PENDING]


class Patient(FakeJobEmbedder):
    def job(self, id: str) -> RemoteJob | None:
        found = FakeJobEmbedder.job(self, id)
        return replace(found, phase=RemotePhase.READY) if found and found.reason == "cancelled" else found


class Lenient(FakeJobEmbedder):
    def dataset(self, id: str) -> RemoteDataset | None:
        found = FakeJobEmbedder.dataset(self, id)
        return replace(found, phase=RemotePhase.READY) if found and found.reason else found


class ByPosition(FakeJobEmbedder):
    def results(self, output_dataset_id: str) -> Iterator[tuple[list[bytes], Vectors]]:
        hashes = list(self._result(output_dataset_id))
        place = 0
        for some, vectors in FakeJobEmbedder.results(self, output_dataset_id):
            yield [hashes[(place + n) % len(hashes)] for n in range(len(some))], vectors
            place += len(some)


class Cropping(FakeJobEmbedder):
    def results(self, output_dataset_id: str) -> Iterator[tuple[list[bytes], Vectors]]:
        for hashes, vectors in FakeJobEmbedder.results(self, output_dataset_id):
            yield [hash[:8] for hash in hashes], vectors


class Doubles(FakeJobEmbedder):
    def results(self, output_dataset_id: str) -> Iterator[tuple[list[bytes], Vectors]]:
        for hashes, vectors in FakeJobEmbedder.results(self, output_dataset_id):
            yield hashes, vectors.astype(np.float64)


class Once(FakeJobEmbedder):
    def results(self, output_dataset_id: str) -> Iterator[tuple[list[bytes], Vectors]]:
        if self.called["results"]:
            return iter(())
        return FakeJobEmbedder.results(self, output_dataset_id)


class Strict(FakeJobEmbedder):
    def delete_dataset(self, id: str) -> None:
        if id not in self._datasets:
            raise RejectedError(f"dataset {id} not found")
        FakeJobEmbedder.delete_dataset(self, id)


class Raising(FakeJobEmbedder):
    def job(self, id: str) -> RemoteJob | None:
        if (found := FakeJobEmbedder.job(self, id)) is None:
            raise ConfigError(f"job {id} not found")
        return found


class Late(FakeJobEmbedder):
    def cancel_job(self, id: str) -> None:
        if self._jobs[id].shown.phase is not RemotePhase.PENDING:
            raise RejectedError(f"job {id} has ended")
        FakeJobEmbedder.cancel_job(self, id)


class OtherModel(FakeJobEmbedder):
    def results(self, output_dataset_id: str) -> Iterator[tuple[list[bytes], Vectors]]:
        for hashes, vectors in FakeJobEmbedder.results(self, output_dataset_id):
            yield hashes, np.roll(vectors, 1, axis=1)


@pytest.mark.parametrize(
    "saboteur, caught_by, given",
    [
        (Sanguine, "J1_a_lost_answer_is_an_unknown_outcome", {"call": "start_job", "done": True}),
        (Repeating, "J1_a_lost_answer_is_an_unknown_outcome", {"call": "create_dataset", "done": True}),
        (Repeating, "J1_a_lost_answer_is_an_unknown_outcome", {"call": "create_dataset", "done": False}),
        (Anxious, "J1_a_service_that_is_busy_is_transient_and_makes_nothing", {"call": "start_job"}),
        (Hasty, "J1_nothing_but_start_job_starts_a_job", {}),
        (Nameless, "J1_an_upload_whose_answer_was_lost_is_found_by_its_name", {}),
        (Unfiltered, "J1_an_upload_whose_answer_was_lost_is_found_by_its_name", {}),
        (Crossed, "J2_an_accepted_job_is_listed_with_its_dataset", {}),
        (Forgetful, "J2_a_job_whose_answer_was_lost_is_listed", {}),
        (OnlyRunning, "J2_a_job_that_has_ended_is_still_listed", {}),
        (Patient, "J2_a_job_that_runs_is_pending_and_one_that_was_cancelled_has_failed", {}),
        (Lenient, "J2_a_dataset_that_was_refused_has_failed_in_the_services_words", {}),
        (Cropping, "J3_each_vector_comes_with_the_hash_of_its_text", {}),
        (Doubles, "J3_batches_are_float32_with_a_row_for_each_hash", {}),
        (ByPosition, "J3_the_order_of_a_result_does_not_matter", {}),
        (Once, "J3_a_result_can_be_asked_for_again", {}),
        (Strict, "J4_what_is_gone_is_none_and_no_error", {}),
        (Raising, "J4_what_never_was_is_none_and_no_error", {}),
        (Late, "J4_to_cancel_a_job_that_has_ended_is_no_error", {}),
        (OtherModel, "J5_a_job_gives_the_vectors_of_embed", {}),
    ],
)
def test_the_kit_catches_a_broken_embedder(
    tmp_path: Path, saboteur: type[FakeJobEmbedder], caught_by: str, given: dict[str, Any]
) -> None:
    assert keeps(FakeHarness(tmp_path), caught_by, given)
    assert not keeps(FakeHarness(tmp_path, saboteur), caught_by, given)


def test_every_rule_has_a_saboteur() -> None:
    marks = test_the_kit_catches_a_broken_embedder.pytestmark
    caught = {rule for _, rule, _ in marks[0].args[1]}
    assert caught == {name.removeprefix("test_") for name in vars(JobEmbedderContract) if name.startswith("test_")}


def keeps(harness: FakeHarness, rule: str, given: dict[str, Any]) -> bool:
    """Run one test of the kit."""
    test = getattr(JobEmbedderContract(), f"test_{rule}")
    if "tmp_path" in inspect.signature(test).parameters:
        given = given | {"tmp_path": harness.folder}
    try:
        test(harness, **given)
    except (AssertionError, ConnectorError, KeyError, StopIteration, ValueError, pytest.fail.Exception):
        return False
    return True

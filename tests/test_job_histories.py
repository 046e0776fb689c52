"""Jobs that are stopped at every point where they touch the world, under every fault: nothing is paid for twice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from crashes import Crash
from job_rig import JobRig

from connector.errors import ConfigError, TransientError, UnknownOutcomeError
from connector.job_steps import ENDED
from connector.testing.fake_jobs import Fate, Fault

TEXTS = ["alpha", "beta", "gamma"]  # two jobs
DAY_SECONDS = 24 * 3600.0
LAG_SECONDS = 100.0  # less than the time to settle

Misfortune = Callable[[JobRig], None]


def faults(method: str, *queue: Fault) -> Misfortune:
    return lambda rig: rig.service.faults[method].extend(queue)


def fates(*queue: Fate) -> Misfortune:
    return lambda rig: rig.service.fates.extend(queue)


def lag(seconds: float) -> Misfortune:
    def set_lag(rig: JobRig) -> None:
        rig.service.list_lag_seconds = seconds

    return set_lag


def refused_datasets(number: int) -> Misfortune:
    def set_number(rig: JobRig) -> None:
        rig.service.refused_datasets = number

    return set_number


def both(*misfortunes: Misfortune) -> Misfortune:
    def all_of_them(rig: JobRig) -> None:
        for misfortune in misfortunes:
            misfortune(rig)

    return all_of_them


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    happens: Misfortune
    paid_once: bool = True  # else the service has lost what was paid for


CASES = [
    Case("none", both()),
    Case("list lags", lag(LAG_SECONDS)),
    Case("start lost", faults("start_job", Fault.LOST)),
    Case("starts lost, list lags", both(faults("start_job", Fault.LOST, Fault.LOST), lag(LAG_SECONDS))),
    Case("start unsure", faults("start_job", Fault.UNSURE)),
    Case("start stuck", faults("start_job", Fault.STUCK)),
    Case("start busy", faults("start_job", Fault.BUSY, Fault.NAMED_WAIT)),
    Case("start refused", faults("start_job", Fault.REFUSED)),
    Case("upload lost", faults("create_dataset", Fault.LOST)),
    Case("upload lost, list lags", both(faults("create_dataset", Fault.LOST), lag(LAG_SECONDS))),
    Case("upload unsure", faults("create_dataset", Fault.UNSURE)),
    Case("upload busy", faults("create_dataset", Fault.BUSY, Fault.NAMED_WAIT)),
    Case("upload refused", faults("create_dataset", *[Fault.REFUSED] * 3)),
    Case("dataset refused", refused_datasets(1)),
    Case("datasets refused always", refused_datasets(6)),
    Case("job failed", fates(Fate.FAILED)),
    Case("jobs failed always", fates(*[Fate.FAILED] * 6)),
    Case("job vanished", fates(Fate.VANISHED), paid_once=False),
    Case("result vanished", fates(Fate.RESULT_VANISHED), paid_once=False),
    Case("reordered", fates(Fate.REORDERED)),
    Case("row missing", fates(Fate.MISSING), paid_once=False),
    Case("foreign rows", fates(Fate.FOREIGN)),
    Case("unsound rows", fates(Fate.UNSOUND)),
    Case("download cut", fates(Fate.CUT)),
    Case("started twice", both(fates(Fate.TWICE), faults("start_job", Fault.LOST))),
    Case("answers lost", both(*[faults(name, Fault.LOST) for name in ("delete_dataset", "jobs", "job", "dataset")])),
]


def assert_all_is_well(rig: JobRig, *, paid_once: bool) -> None:
    """All is stored and paid for once, and nothing is left open."""
    assert rig.stored(TEXTS)
    assert min(rig.billed(TEXTS)) >= 1
    assert max(rig.billed(TEXTS)) <= (1 if paid_once else 3), rig.world.touched
    assert {job.state for job in rig.book()} <= ENDED
    assert rig.count_texts_in_open_jobs() == 0
    assert rig.files() == []


def assert_nothing_is_left_a_day_later(rig: JobRig, *, paid_once: bool) -> None:
    billed = rig.service.billed.copy()
    rig.service.sleep(1.1 * DAY_SECONDS)
    rig.run(TEXTS)
    assert rig.service.billed == billed
    assert [name for name in rig.service.dataset_names if paid_once or "output" not in name] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_a_crash_anywhere_is_put_right_by_the_next_run(folder: Path, case: Case) -> None:
    dry = JobRig(folder / "dry")
    case.happens(dry)
    dry.run(TEXTS)
    effects = len(dry.world.touched)
    assert_all_is_well(dry, paid_once=case.paid_once)
    assert_nothing_is_left_a_day_later(dry, paid_once=case.paid_once)
    for number, after in itertools.product(range(1, effects + 1), (False, True)):
        rig = JobRig(folder / f"{number}{after}")
        case.happens(rig)
        rig.world.crash_at, rig.world.after = number, after
        with pytest.raises(Crash):
            rig.run(TEXTS)
        if number % 3 == 0:
            rig.service.sleep(1000.0)
        rig.run(TEXTS)
        assert_all_is_well(rig, paid_once=case.paid_once)
        if number % 4 == 0:
            assert_nothing_is_left_a_day_later(rig, paid_once=case.paid_once)


def test_two_crashes_are_put_right(folder: Path) -> None:
    for number, (one, two) in enumerate(itertools.product(range(1, 44, 2), range(1, 30, 3))):
        rig = JobRig(folder / str(number))
        for crash_at in (one, two):
            rig.world.crash_at, rig.world.after = crash_at, bool(number % 2)
            with suppress(Crash):
                rig.run(TEXTS)
        rig.world.crash_at = None
        rig.run(TEXTS)
        assert_all_is_well(rig, paid_once=True)
        assert_nothing_is_left_a_day_later(rig, paid_once=True)


HARMLESS = [Fate.COMPLETE, Fate.REORDERED, Fate.FOREIGN, Fate.UNSOUND, Fate.CUT, Fate.FAILED]
POSTS = [Fault.LOST, Fault.BUSY, Fault.NAMED_WAIT, Fault.UNSURE, Fault.STUCK, Fault.REFUSED, Fault.NO_ACCESS]
OTHERS = [Fault.LOST, Fault.BUSY, Fault.NO_ACCESS]
HISTORIES = 1_000
BATCHES = 10


@pytest.mark.parametrize("batch", range(BATCHES))
def test_random_histories_end_with_all_stored_and_paid_once(folder: Path, batch: int) -> None:
    for number in range(batch, HISTORIES, BATCHES):
        chance = random.Random(number)
        rig = JobRig(folder / str(number), tokens=chance)
        service = rig.service
        service.list_lag_seconds = chance.choice([0.0, 0.0, 5.0, LAG_SECONDS])
        service.validation_looks, service.job_looks = chance.randrange(4), chance.randrange(5)
        service.refused_datasets = chance.choice([0, 0, 0, 1])
        service.fates.extend(chance.choice(HARMLESS) for _ in range(4))
        for _ in range(chance.randrange(6)):
            if chance.random() < 0.5:
                service.faults[chance.choice(["start_job", "create_dataset"])].append(chance.choice(POSTS))
            else:
                name = chance.choice(["jobs", "job", "dataset", "datasets", "delete_dataset", "results"])
                service.faults[name].append(chance.choice(OTHERS))
        for _ in range(chance.randrange(5)):  # runs that are cut short
            rig.world.crash_at = chance.choice([None, chance.randint(1, 45)])
            rig.world.after = chance.random() < 0.5
            rig.stop_after_sleeps(chance.randint(1, 200))
            with suppress(Crash, ConfigError, TransientError, UnknownOutcomeError):
                rig.run(TEXTS[: chance.randint(1, 3)])
            service.sleep(chance.choice([0.0, 1.0, 130.0, 3600.0]))
        rig.world.crash_at, rig.stop = None, lambda: False
        service.faults.clear()
        rig.run(TEXTS)
        assert_all_is_well(rig, paid_once=True)
        if number % 4 == 0:
            assert_nothing_is_left_a_day_later(rig, paid_once=True)

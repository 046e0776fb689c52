"""Syncs whose embedder costs money, has a rate limit or works in jobs: what is asked, stopped, counted and paid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rig import Rig

from connector.errors import ConfigError, ExitCode, TransientError
from connector.events import EmbeddingForeseen, JobStarted
from connector.model import InputType
from connector.money import Ceilings
from connector.ports import EmbedLimits, JobLimits, Price
from connector.report import Report
from connector.testing.fake_jobs import FakeJobEmbedder, Fate, Fault
from connector.testing.fakes import HashEmbedder

TEN = {f"doc{n}": f"the text of document {n}" for n in range(10)}
TOKENS_A_TEXT = 7  # of HashEmbedder, for these texts
PRICE = Price(1_000_000.0, "USD", "settings")  # one a token


@dataclass(slots=True)
class BilledFake(HashEmbedder):
    """An embedder with a price, and perhaps a rate limit, that bills what it counted."""

    price: Price | None = PRICE
    inputs_per_minute: int | None = None

    @property
    def limits(self) -> EmbedLimits:
        return EmbedLimits(self.texts_per_call, self.tokens_per_text, inputs_per_minute=self.inputs_per_minute)

    @property
    def billed_tokens(self) -> int:
        return sum(self.count_tokens(self.texts_seen))


def billed_rig(folder: Path, **knobs: int) -> Rig:
    return Rig(folder, embedder=BilledFake(tokens_per_text=8, texts_per_call=2, **knobs))


def job_rig(folder: Path, *, jobs_from: int = 4, texts_per_job: int = 4) -> tuple[Rig, FakeJobEmbedder]:
    limits = JobLimits(
        texts_per_job=texts_per_job, bytes_per_job=10_000, open_jobs=2, jobs_from=jobs_from, settle_seconds=120.0
    )
    service = FakeJobEmbedder(tokens_per_text=8, limits_of_jobs=limits)
    return Rig(folder, embedder=service, clock=service.clock, while_asleep=service.sleep), service


def stop_when_running(service: FakeJobEmbedder) -> Callable[[float], None]:
    """Sleep until a job runs, and then be stopped by Ctrl-C."""

    def sleep(seconds: float) -> None:
        service.sleep(seconds)
        if service.running:
            raise KeyboardInterrupt

    return sleep


def spend(rig: Rig, **ceilings: float) -> Report:
    return rig.sync(options=replace(rig.options, ceilings=Ceilings(**ceilings)))  # type: ignore[arg-type]


# --- money --------------------------------------------------------------------------------------------


def test_what_the_service_billed_and_what_that_costs_is_in_the_report(folder: Path) -> None:
    report = billed_rig(folder).sync(TEN)
    assert (report.tokens_billed, report.cost, report.currency) == (70, 70.0, "USD")
    assert report.as_json()["cost"] == 70.0


def test_an_embedder_that_bills_nothing_has_no_cost(folder: Path) -> None:
    report = Rig(folder).sync(TEN)
    assert (report.tokens_billed, report.cost) == (None, None)


def test_a_plan_tells_the_cost_before_anything_is_spent(folder: Path) -> None:
    rig = billed_rig(folder)
    rig.source.set(dict(TEN))
    told = rig.plan()
    assert (told.texts_to_embed, told.forecast.tokens, told.forecast.cost, told.forecast.requests) == (10, 70, 70.0, 5)
    assert rig.embedder.calls == 0


def test_a_ceiling_of_tokens_stops_before_it_is_passed_and_the_next_run_goes_on(folder: Path) -> None:
    rig = billed_rig(folder)
    rig.source.set(dict(TEN))
    report = spend(rig, max_tokens=3 * 2 * TOKENS_A_TEXT + 1)
    assert report.exit_code is ExitCode.SAFETY
    assert report.tokens_billed == 3 * 2 * TOKENS_A_TEXT
    assert any("ceiling of 43 tokens" in problem for problem in report.problems)
    assert rig.sync().exit_code is ExitCode.IN_STEP
    assert rig.in_step()
    assert sorted(rig.embedder.texts_seen) == sorted(TEN.values())


def test_a_ceiling_of_cost_is_the_same_in_money(folder: Path) -> None:
    rig = billed_rig(folder)
    rig.source.set(dict(TEN))
    assert spend(rig, max_cost=14.5).tokens_billed == 14


def test_a_ceiling_of_nothing_embeds_nothing_and_still_brings_what_costs_nothing(folder: Path) -> None:
    rig = billed_rig(folder)
    rig.sync(TEN)
    rig.source.set(TEN | {"doc0": ("the text of document 0", {"title": "new"})})
    report = spend(rig, max_tokens=0)
    assert (report.exit_code, report.counts.metadata_only, report.tokens_billed) == (ExitCode.IN_STEP, 1, 70)


def test_a_stop_at_the_ceiling_deletes_nothing(folder: Path) -> None:
    rig = billed_rig(folder)
    rig.sync(TEN)
    rig.source.set({"new": "a text that is not there yet"})
    report = spend(rig, max_tokens=0)
    assert report.exit_code is ExitCode.SAFETY
    assert len(rig.held()) == 10


def test_a_dear_first_run_asks_before_anything_is_spent(folder: Path) -> None:
    rig = billed_rig(folder)
    rig.source.set(dict(TEN))
    report = spend(rig, ask_above_cost=50.0)
    assert report.exit_code is ExitCode.SAFETY
    (problem,) = report.problems
    assert problem.startswith("the first run would embed 10 texts, 70 tokens, for 70.00 USD (settings)")
    assert rig.embedder.calls == 0


def test_to_ask_once_is_no_consent(folder: Path) -> None:
    rig = billed_rig(folder)
    rig.source.set(dict(TEN))
    for _ in range(2):
        assert spend(rig, ask_above_cost=50.0).exit_code is ExitCode.SAFETY


def test_a_first_run_that_was_confirmed_goes(folder: Path) -> None:
    rig = billed_rig(folder)
    rig.source.set(dict(TEN))
    assert spend(rig, ask_above_cost=50.0, confirmed=True).exit_code is ExitCode.IN_STEP


def test_later_runs_do_not_ask(folder: Path) -> None:
    rig = billed_rig(folder)
    rig.sync({"doc0": "the text of document 0"})
    rig.source.set(dict(TEN))
    assert spend(rig, ask_above_cost=50.0).exit_code is ExitCode.IN_STEP


def test_a_maximum_cost_without_a_price_is_told_before_anything_is_done(folder: Path) -> None:
    rig = Rig(folder)
    rig.source.set(dict(TEN))
    with pytest.raises(ConfigError, match="the price is not known"):
        spend(rig, max_cost=1.0)
    assert rig.embedder.calls == 0


def test_the_rate_limit_is_kept_by_waiting(folder: Path) -> None:
    rig = billed_rig(folder, inputs_per_minute=11)  # a burst of one, and then one in six seconds
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    rig.clock, rig.while_asleep = lambda: clock[0], sleep
    rig.sync(TEN)
    assert clock[0] == pytest.approx(9 * 6.0)


@pytest.mark.parametrize(
    "ceilings, told",
    [
        ({"ask_above_cost": 50.0}, "the first run would embed 10 texts"),
        ({"max_tokens": 69}, "a run would stop at the ceiling of 69 tokens, of 70 tokens; the next goes on"),
        ({"max_cost": 69.5}, "a run would stop at the ceiling of 69 tokens, of 70 tokens; the next goes on"),
    ],
)
def test_a_plan_tells_where_a_sync_would_stop_to_ask(folder: Path, ceilings: dict[str, float], told: str) -> None:
    rig = billed_rig(folder)
    rig.source.set(dict(TEN))
    planned = rig.plan(replace(rig.options, ceilings=Ceilings(**ceilings)))  # type: ignore[arg-type]
    assert planned.exit_code is ExitCode.SAFETY
    assert told in planned.problems[0]


def test_a_plan_within_the_ceilings_has_nothing_to_ask(folder: Path) -> None:
    rig = billed_rig(folder)
    rig.source.set(dict(TEN))
    allowed = Ceilings(max_tokens=70, max_cost=70.0, ask_above_cost=70.0)
    assert rig.plan(replace(rig.options, ceilings=allowed)).exit_code is ExitCode.IN_STEP


# --- jobs ---------------------------------------------------------------------------------------------


def test_much_goes_through_jobs_and_is_paid_once(folder: Path) -> None:
    rig, service = job_rig(folder)
    report = rig.sync(TEN)
    assert rig.in_step()
    assert (report.texts_embedded, report.texts_by_jobs, report.texts_reused) == (10, 10, 0)
    assert set(service.billed.values()) == {1}
    assert service.texts_seen == []  # nothing was embedded directly
    (foreseen,) = [event for event in rig.events if isinstance(event, EmbeddingForeseen)]
    assert (foreseen.texts, foreseen.way) == (10, "jobs")
    assert service.dataset_names == []  # all was cleaned up


def test_of_much_one_text_is_tried_before_anything_is_uploaded_and_is_not_paid_again(folder: Path) -> None:
    rig, service = job_rig(folder, texts_per_job=200)
    many = {f"doc{n}": f"the text of document {n}" for n in range(service.texts_per_call + 1)}
    report = rig.sync(many)
    assert rig.in_step()
    assert (report.texts_embedded, report.texts_by_jobs, report.texts_reused) == (97, 96, 0)
    assert len(service.texts_seen) == 1
    assert set(service.billed.values()) == {1}


def test_a_trial_that_the_service_refuses_leaves_nothing_uploaded(folder: Path) -> None:
    rig, service = job_rig(folder, texts_per_job=200)
    service.fail_next(ConfigError("there is no such model"))
    with pytest.raises(ConfigError, match="no such model"):
        rig.sync({f"doc{n}": f"the text of document {n}" for n in range(service.texts_per_call + 1)})
    assert service.called["create_dataset"] == 0


def test_a_trial_counts_towards_the_ceiling(folder: Path) -> None:
    rig, service = job_rig(folder, texts_per_job=200)
    rig.source.set({f"doc{n}": f"the text of document {n}" for n in range(service.texts_per_call + 1)})
    report = spend(rig, max_tokens=10 * TOKENS_A_TEXT)
    assert (report.exit_code, report.texts_embedded, report.texts_by_jobs) == (ExitCode.SAFETY, 10, 9)


def test_little_goes_directly(folder: Path) -> None:
    rig, service = job_rig(folder, jobs_from=11)
    report = rig.sync(TEN)
    assert (report.texts_by_jobs, len(service.texts_seen)) == (0, 10)
    assert service.called["start_job"] == 0


def test_a_small_change_after_jobs_goes_directly(folder: Path) -> None:
    rig, service = job_rig(folder)
    rig.sync(TEN)
    report = rig.sync(TEN | {"doc3": "another text now"})
    assert rig.in_step()
    assert (report.texts_embedded, report.texts_by_jobs) == (1, 0)
    assert service.texts_seen == ["another text now"]


def test_where_nothing_is_missing_the_service_is_asked_nothing(folder: Path) -> None:
    rig, service = job_rig(folder)
    rig.sync(TEN)
    before = service.called.copy()
    rig.sync(TEN)
    assert service.called == before


def test_a_job_whose_answer_was_lost_is_found_and_not_paid_again(folder: Path) -> None:
    rig, service = job_rig(folder, texts_per_job=100)
    service.faults["start_job"].append(Fault.LOST)
    rig.sync(TEN)
    assert rig.in_step()
    assert set(service.billed.values()) == {1}
    assert [event.adopted for event in rig.events if isinstance(event, JobStarted)] == [True]


def test_a_run_that_dies_while_a_job_runs_leaves_it_to_the_next(folder: Path) -> None:
    rig, service = job_rig(folder, texts_per_job=100)

    rig.while_asleep = stop_when_running(service)
    with pytest.raises(KeyboardInterrupt):
        rig.sync(TEN)
    rig.while_asleep = service.sleep
    assert rig.sync().exit_code is ExitCode.IN_STEP
    assert rig.in_step()
    assert set(service.billed.values()) == {1}
    assert service.called["start_job"] == 1


def test_open_jobs_are_not_paid_again_because_jobs_were_switched_off(folder: Path) -> None:
    rig, service = job_rig(folder, texts_per_job=100)
    rig.while_asleep = stop_when_running(service)
    with pytest.raises(KeyboardInterrupt):
        rig.sync(TEN)
    rig.while_asleep = service.sleep
    rig.embedder = HashEmbedder(tokens_per_text=8, identity=service.identity)
    with pytest.raises(ConfigError, match=r"1 embed jobs are open.*paid for again"):
        rig.sync()
    assert rig.embedder.calls == 0


def test_jobs_that_fail_twice_leave_their_texts_to_be_embedded_directly(folder: Path) -> None:
    rig, service = job_rig(folder, texts_per_job=100)
    service.fates.extend([Fate.FAILED] * 3)
    report = rig.sync(TEN)
    assert rig.in_step()
    assert report.texts_by_jobs == 0
    assert set(service.billed.values()) == {1}


def test_rows_that_a_result_lacks_are_embedded_directly(folder: Path) -> None:
    rig, service = job_rig(folder, texts_per_job=100)
    service.fates.append(Fate.MISSING)
    report = rig.sync(TEN)
    assert rig.in_step()
    assert report.texts_by_jobs == 9
    assert len(service.texts_seen) == 1


def test_a_service_out_of_reach_leaves_the_run_behind_and_the_next_one_goes_on(folder: Path) -> None:
    rig, service = job_rig(folder)
    service.faults["create_dataset"].extend([Fault.BUSY] * 12)
    report = rig.sync(TEN)
    assert report.exit_code is ExitCode.BEHIND
    assert rig.held() == {}
    assert rig.sync().exit_code is ExitCode.IN_STEP
    assert rig.in_step()
    assert set(service.billed.values()) == {1}


def test_a_ceiling_lets_as_many_jobs_begin_as_fit_under_it(folder: Path) -> None:
    rig, service = job_rig(folder)
    rig.source.set(dict(TEN))
    report = spend(rig, max_tokens=6 * TOKENS_A_TEXT)
    assert report.exit_code is ExitCode.SAFETY
    assert sum(service.billed.values()) == 6
    assert spend(rig).exit_code is ExitCode.IN_STEP
    assert rig.in_step()
    assert set(service.billed.values()) == {1}


def test_a_text_in_a_source_twice_is_in_a_job_once(folder: Path) -> None:
    rig, service = job_rig(folder)
    rig.sync(TEN | {f"copy{n}": text for n, text in enumerate(TEN.values())})
    assert rig.in_step()
    assert set(service.billed.values()) == {1}


def test_a_source_that_breaks_off_while_it_is_looked_through_still_gives_what_it_listed(folder: Path) -> None:
    rig, service = job_rig(folder)
    rig.source.set(dict(TEN))
    rig.source.breaks_off_after = 5
    report = rig.sync()
    assert report.exit_code is ExitCode.BEHIND
    rig.source.breaks_off_after = None
    assert rig.sync().exit_code is ExitCode.IN_STEP
    assert set(service.billed.values()) == {1}


def test_the_vectors_of_a_job_are_those_of_the_direct_way(folder: Path) -> None:
    rig, service = job_rig(folder)
    rig.sync(TEN)
    for record in rig.sinks[0].records.values():
        assert (record.vector == service._vectors([record.text])[0]).all()


def test_a_plan_says_that_jobs_would_be_used_and_starts_none(folder: Path) -> None:
    rig, service = job_rig(folder)
    rig.source.set(dict(TEN))
    told = rig.plan()
    assert (str(told.forecast.way), told.forecast.requests) == ("jobs", 6)
    assert not service.called


def test_an_embedder_that_is_down_is_no_reason_to_forget_what_it_gave(folder: Path) -> None:
    rig = billed_rig(folder)
    rig.embedder.fail_next(*[TransientError("down")] * 3)
    assert rig.sync(TEN).exit_code is ExitCode.BEHIND
    assert rig.sync().exit_code is ExitCode.IN_STEP
    assert rig.embedder.embed([], InputType.SEARCH_DOCUMENT).shape == (0, 8)

"""What embedding costs, which way it goes, and where it stops: tables in, decisions out."""

from __future__ import annotations

import pytest

from connector.errors import ConfigError, SafetyError
from connector.money import Ceilings, Forecast, Spending, Way, forecast, minutes_at_limit, money, route, tokens_in_words
from connector.ports import EmbedLimits, JobLimits, Price

LIMITS = EmbedLimits(96, 512, inputs_per_minute=2000)
JOBS = JobLimits(texts_per_job=100_000, bytes_per_job=200_000_000, open_jobs=4, jobs_from=10_000, settle_seconds=120)
PRICE = Price(0.10, "USD", "price list of 2026-11-20")


# --- which way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts, jobs, way, because",
    [
        (0, JOBS, Way.NONE, "nothing is missing"),
        (0, None, Way.NONE, "nothing is missing"),
        (1, None, Way.NOW, "has no jobs"),
        (1_000_000, None, Way.NOW, "has no jobs"),
        (1, JOBS, Way.NOW, "fewer than 10,000 texts"),
        (9_999, JOBS, Way.NOW, "fewer than 10,000 texts"),
        (10_000, JOBS, Way.JOBS, "5 minutes at the rate limit"),
        (1_000_000, JOBS, Way.JOBS, "500 minutes at the rate limit"),
    ],
)
def test_the_way_is_chosen_by_count_and_says_why(texts: int, jobs: JobLimits | None, way: Way, because: str) -> None:
    chosen, reason = route(texts, LIMITS, jobs)
    assert chosen is way
    assert because in reason


def test_no_rate_limit_is_no_reason() -> None:
    assert route(20_000, EmbedLimits(96, 512), JOBS) == (Way.JOBS, "10,000 texts or more")


# --- forecasts ----------------------------------------------------------------------------------------


def test_calls_are_counted_whole() -> None:
    assert forecast(97, 1000, LIMITS, None, None).requests == 2


def test_a_job_is_an_upload_and_a_start_for_each_shard_by_rows() -> None:
    assert forecast(250_000, 1, LIMITS, JOBS, None, dataset_bytes=1).requests == 6


def test_a_job_is_an_upload_and_a_start_for_each_shard_by_bytes() -> None:
    assert forecast(10_000, 1, LIMITS, JOBS, None, dataset_bytes=900_000_000).requests == 10


def test_the_time_is_that_of_the_tighter_limit() -> None:
    limits = EmbedLimits(96, 512, inputs_per_minute=2000, tokens_per_minute=100_000)
    assert minutes_at_limit(2000, 400_000, limits) == 4.0
    assert minutes_at_limit(8000, 100_000, limits) == 4.0
    assert minutes_at_limit(8000, 100_000, EmbedLimits(96, 512)) is None


def test_a_cost_says_whose_price_it_is_and_whether_the_tokens_are_counted() -> None:
    estimate = EmbedLimits(96, 512, counts_exactly=False)
    told = forecast(1000, 50_000_000, estimate, None, PRICE)
    assert told.cost == pytest.approx(5.0)
    assert money(told) == "about 5.00 USD (price list of 2026-11-20)"
    assert tokens_in_words(told) == "about 50,000,000 tokens (estimated)"


def test_a_small_cost_is_not_rounded_to_nothing() -> None:
    assert money(forecast(10, 2_000, LIMITS, None, PRICE)) == "0.0002 USD (price list of 2026-11-20)"


def test_what_is_not_billed_has_no_cost() -> None:
    told = forecast(10, 2_000, LIMITS, None, None)
    assert (told.cost, money(told), told.as_json()["cost"]) == (None, "nothing that is billed", None)


# --- ceilings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "max_tokens, max_cost, ceiling",
    [
        (None, None, None),
        (1000, None, 1000),
        (None, 1.0, 10_000_000),
        (1000, 1.0, 1000),
        (20_000_000, 1.0, 10_000_000),
        (None, 0.0, 0),
    ],
)
def test_the_lower_ceiling_counts(max_tokens: int | None, max_cost: float | None, ceiling: int | None) -> None:
    assert Ceilings(max_tokens=max_tokens, max_cost=max_cost).tokens(PRICE) == ceiling


def test_a_cost_without_a_price_is_an_error_and_not_free() -> None:
    with pytest.raises(ConfigError, match="the price is not known"):
        Ceilings(max_cost=1.0).tokens(None)


def test_what_costs_nothing_passes_any_cost() -> None:
    assert Ceilings(max_cost=0.0).tokens(Price(0.0, "USD", "settings")) is None


def test_spending_stops_before_the_ceiling_and_not_after() -> None:
    spending = Spending(100)
    for tokens in (60, 40):
        spending.allow(tokens)
        spending.add(tokens)
    with pytest.raises(SafetyError, match="stopped before the ceiling of 100 tokens: 100 are spent"):
        spending.allow(1)
    assert (spending.tokens, spending.left_tokens()) == (100, 0)


def test_a_call_that_does_not_fit_spends_nothing() -> None:
    spending = Spending(100)
    with pytest.raises(SafetyError):
        spending.allow(101)
    assert spending.left_tokens() == 100


def test_without_a_ceiling_nothing_stops() -> None:
    spending = Spending(None)
    spending.allow(10**12)
    spending.add(10**12)
    assert spending.left_tokens() is None


DEAR: Forecast = forecast(1000, 50_000_000, LIMITS, None, PRICE)


@pytest.mark.parametrize(
    "ceilings, first_run, asks",
    [
        (Ceilings(ask_above_cost=1.0), True, True),
        (Ceilings(ask_above_cost=1.0), False, False),
        (Ceilings(ask_above_cost=1.0, confirmed=True), True, False),
        (Ceilings(ask_above_cost=5.0), True, False),
        (Ceilings(), True, False),
    ],
)
def test_only_a_first_run_that_is_dear_and_unconfirmed_asks(ceilings: Ceilings, first_run: bool, asks: bool) -> None:
    objection = ceilings.objection(DEAR, first_run=first_run)
    assert (objection is not None) is asks
    if objection:
        assert "--yes" in objection
        assert "5.00 USD" in objection


def test_what_is_not_billed_is_never_asked_about() -> None:
    free = forecast(1000, 50_000_000, LIMITS, None, None)
    assert Ceilings(ask_above_cost=0.0).objection(free, first_run=True) is None

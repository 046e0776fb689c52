"""What embedding is going to cost, by which way it goes, and how much of it is allowed. Pure.

Which way (`route`):

    the embedder  texts to embed       way   because
    ------------  -------------------  ----  ---------------------------------------------------
    any           0                    none  nothing is missing
    has no jobs   any                  now   there is no other
    has jobs      fewer than jobs_from now   it is done before a job would have begun
    has jobs      jobs_from or more    jobs  it would take so many minutes at the rate limit

Whether it may begin (`objection`), and go on (`Spending`):

    asked for                                   first run  answer
    ------------------------------------------  ---------  ---------------------------------------------------
    costs more than `ask_above_cost`            yes        stop and ask, unless it was confirmed
    the same                                    no         go
    more than `max_tokens` or `max_cost` in all any        as much as is allowed, then stop; the next run goes on
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from .errors import ConfigError, SafetyError
from .ports import EmbedLimits, JobLimits, Price

if TYPE_CHECKING:
    from .model import JsonValue

MILLION = 1_000_000


class Way(StrEnum):
    """How texts get their vectors."""

    NONE = "none"
    NOW = "now"
    JOBS = "jobs"


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is going to be embedded, and what that costs."""

    way: Way
    reason: str
    texts: int
    tokens: int
    counts_exactly: bool  # else the tokens, and all that follows from them, are an estimate
    requests: int  # calls that carry texts; looking at jobs is not counted
    minutes: float | None  # at the rate limit, at least; None where there is none
    price: Price | None

    @property
    def cost(self) -> float | None:
        """In the price's currency; None where nothing is billed, or the price is not known."""
        return cost(self.tokens, self.price)

    def as_json(self) -> dict[str, JsonValue]:
        """Write it with plain JSON values."""
        return {
            "way": str(self.way),
            "reason": self.reason,
            "requests": self.requests,
            "minutes": None if self.minutes is None else round(self.minutes, 2),
            "tokens_are_exact": self.counts_exactly,
            "cost": None if self.cost is None else round(self.cost, 6),
            "currency": self.price.currency if self.price else None,
            "price_source": self.price.source if self.price else None,
        }


@dataclass(frozen=True, slots=True)
class Ceilings:
    """How much a run may spend."""

    max_tokens: int | None = None
    max_cost: float | None = None  # in the price's currency
    ask_above_cost: float | None = None  # a first run that costs more stops and asks
    confirmed: bool = False  # --yes

    def tokens(self, price: Price | None) -> int | None:
        """Give the lower of both ceilings in tokens; ConfigError if a cost cannot be told without a price."""
        if self.max_cost is None:
            return self.max_tokens
        if price is None:
            raise ConfigError("a maximum cost is set, but the price is not known; set the embedder's price")
        if price.per_million_tokens == 0:
            return self.max_tokens
        by_cost = math.floor(self.max_cost * MILLION / price.per_million_tokens)
        return by_cost if self.max_tokens is None else min(by_cost, self.max_tokens)

    def objection(self, forecast: Forecast, *, first_run: bool) -> str | None:
        """Say why a run stops to ask before it spends anything; None if it does not."""
        if self.confirmed or not first_run or self.ask_above_cost is None or forecast.cost is None:
            return None
        if forecast.cost <= self.ask_above_cost:
            return None
        return (
            f"the first run would embed {forecast.texts:,} texts, {tokens_in_words(forecast)}, for {money(forecast)}; "
            "see `vector-sync plan`, and confirm it with --yes"
        )

    def short_of(self, forecast: Forecast) -> str | None:
        """Say that a run would stop at the ceiling before everything is embedded; None if it would not."""
        ceiling = self.tokens(forecast.price)
        if ceiling is None or forecast.tokens <= ceiling:
            return None
        return (
            f"a run would stop at the ceiling of {ceiling:,} tokens, of {tokens_in_words(forecast)}; the next goes on"
        )


class Spending:
    """The tokens that a run has spent, and the ceiling that it may not pass."""

    def __init__(self, ceiling_tokens: int | None) -> None:
        self._ceiling_tokens = ceiling_tokens
        self.tokens = 0

    def left_tokens(self) -> int | None:
        """How many tokens may still be spent; None for as many as you like."""
        return None if self._ceiling_tokens is None else max(0, self._ceiling_tokens - self.tokens)

    def allow(self, tokens: int) -> None:
        """Ask before tokens are sent; SafetyError if they would pass the ceiling."""
        left = self.left_tokens()
        if left is not None and tokens > left:
            raise SafetyError(
                f"stopped before the ceiling of {self._ceiling_tokens:,} tokens: {self.tokens:,} are spent; what is "
                "embedded is kept, and the next run goes on from there"
            )

    def add(self, tokens: int) -> None:
        """Note that tokens were spent."""
        self.tokens += tokens


def route(texts: int, limits: EmbedLimits, jobs: JobLimits | None) -> tuple[Way, str]:
    """Decide which way texts go, and say why; see the table of the module."""
    if not texts:
        return Way.NONE, "nothing is missing"
    if jobs is None:
        return Way.NOW, "the embedder has no jobs"
    if texts < jobs.jobs_from:
        return Way.NOW, f"fewer than {jobs.jobs_from:,} texts, from where jobs are used"
    minutes = minutes_at_limit(texts, 0, limits)
    at_limit = f", and {minutes:,.0f} minutes at the rate limit" if minutes is not None else ""
    return Way.JOBS, f"{_texts(jobs.jobs_from)} or more{at_limit}"


def forecast(
    texts: int, tokens: int, limits: EmbedLimits, jobs: JobLimits | None, price: Price | None, *, dataset_bytes: int = 0
) -> Forecast:
    """Say what texts are going to cost. `dataset_bytes` is their size as they would be uploaded for jobs."""
    way, reason = route(texts, limits, jobs)
    if way is Way.JOBS and jobs is not None:
        shards = max(math.ceil(texts / jobs.texts_per_job), math.ceil(dataset_bytes / jobs.bytes_per_job))
        requests, minutes = 2 * shards, None  # one upload and one job each
    else:
        requests, minutes = math.ceil(texts / limits.texts_per_call), minutes_at_limit(texts, tokens, limits)
    return Forecast(way, reason, texts, tokens, limits.counts_exactly, requests, minutes, price)


def _texts(count: int) -> str:
    return f"{count:,} text" if count == 1 else f"{count:,} texts"


def minutes_at_limit(texts: int, tokens: int, limits: EmbedLimits) -> float | None:
    """Give the least time that texts take at the rate limit; None where there is none."""
    waits = [
        amount / per_minute
        for amount, per_minute in ((texts, limits.inputs_per_minute), (tokens, limits.tokens_per_minute))
        if per_minute is not None
    ]
    return max(waits, default=None)


def cost(tokens: int, price: Price | None) -> float | None:
    """Give what tokens cost, in the price's currency."""
    return None if price is None else tokens * price.per_million_tokens / MILLION


def money(forecast: Forecast) -> str:
    """Write a forecast's cost, and whose price that is."""
    if forecast.price is None or forecast.cost is None:
        return "nothing that is billed"
    about = "" if forecast.counts_exactly else "about "
    digits = 2 if forecast.cost >= 1 else 4
    return f"{about}{forecast.cost:,.{digits}f} {forecast.price.currency} ({forecast.price.source})"


def tokens_in_words(forecast: Forecast) -> str:
    """Write a forecast's tokens, and whether they are counted or estimated."""
    return f"{forecast.tokens:,} tokens" if forecast.counts_exactly else f"about {forecast.tokens:,} tokens (estimated)"

"""The embedder of Cohere's wire: the hosted service, or any server that speaks it, such as `vector-sync embed-jobs`.

    Embed         POST /v2/embed      96 texts a call, truncate NONE: a text that is too long is refused, not cut
    Embed Jobs    /v1/datasets, ...   truncate END, as jobs know no NONE: such a text would be cut without a word

So passages are split by an estimate of their tokens that is hardly ever too low (`estimate`): both ways then embed a
text whole, and give the same vector. The client (`connector.cohere`) makes one exchange a call, and retries nothing
but a download that broke. A call to Embed whose answer is lost was perhaps charged; made again, it costs twice, and
loses nothing, so it is a TransientError like any other.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, SecretStr

from connector.cohere import Cohere, Timeouts
from connector.cohere.values import TEXTS_PER_CALL
from connector.errors import ConfigError
from connector.plugins import BuildContext, EmbedderSettings
from connector.ports import EmbedLimits, JobLimits, Price

from .cohere_embed import CohereEmbedder, Recipe, Service
from .cohere_jobs import CohereJobEmbedder
from .cohere_models import (
    HOSTED_DATASET_BYTES,
    HOSTED_INPUTS_PER_MINUTE,
    HOSTED_URL,
    MODELS,
    PASSAGE_TOKENS,
    PRICE_SOURCE,
    CohereModel,
)
from .estimate import UNKNOWN

JOBS_FROM_MINUTES: Final = 5  # of the rate limit: what takes longer is done sooner by a job
JOBS_FROM_WITHOUT_LIMIT: Final = JOBS_FROM_MINUTES * HOSTED_INPUTS_PER_MINUTE
OWN_FIRST_LOOK_SECONDS: Final = 0.5  # at a job of a server of one's own, which nobody counts; the hosted default is 2 s


class CohereSettings(EmbedderSettings):
    """Cohere's hosted service, or any server that speaks its API, such as `vector-sync embed-jobs`."""

    kind: Literal["cohere"] = "cohere"
    base_url: str = Field(default=HOSTED_URL, description="Where the service is, with or without /v1.")
    api_key: SecretStr | None = Field(default=None, description="The key; a server of your own may need none.")
    model: str = Field(
        default="embed-english-v3.0",
        description="Which model. Its name is part of every vector's identity: another model embeds everything anew.",
    )
    dimension: int | None = Field(
        default=None, ge=1, description="How many numbers a vector has; known of Cohere's own models."
    )
    tokens_per_text: int | None = Field(
        default=None, ge=16, description="How long a passage may be; known of Cohere's own models."
    )
    inputs_per_minute: int | None = Field(
        default=None, ge=1, description="How many texts may be embedded a minute; 2,000 at the hosted service."
    )
    tokens_per_minute: int | None = Field(default=None, ge=1, description="The same, of tokens; no limit by default.")
    jobs: Literal["auto", "never"] = Field(
        default="auto", description="Whether large updates go through Embed Jobs, where the model has them."
    )
    jobs_from: int | None = Field(
        default=None, ge=1, description="So many missing texts go through jobs; by default, five minutes' worth."
    )
    texts_per_job: int = Field(default=100_000, ge=1, description="How many texts one job has at most.")
    bytes_per_job: int = Field(default=200_000_000, ge=100_000, description="How large its upload is at most.")
    open_jobs: int = Field(default=4, ge=1, description="How many jobs are open at one time.")
    settle_seconds: float = Field(
        default=120.0, ge=0, description="How long a job that was accepted may be missing from the service's list."
    )
    price_per_million_tokens: float | None = Field(
        default=None, ge=0, description="What the service bills; a table's price at the hosted one, 0 elsewhere."
    )
    currency: str = Field(default="USD", min_length=1, description="The price's currency.")
    timeout_seconds: float = Field(default=60.0, gt=0, description="How long to wait for the service to say anything.")

    def build(self, context: BuildContext) -> CohereEmbedder:  # noqa: ARG002 - needs no path and keeps no cache
        """Check what can be checked without the network; ConfigError in one line, which never shows the key."""
        client = Cohere(
            self.base_url,
            self.api_key,
            timeouts=Timeouts(read_seconds=self.timeout_seconds, write_seconds=self.timeout_seconds),
        )
        service = Service.at(client)
        if service.is_hosted and self.api_key is None:
            raise ConfigError(
                f"{client.url} needs an API key; set VECTOR_SYNC_EMBEDDER__API_KEY, or "
                "VECTOR_SYNC_EMBEDDER__API_KEY_FILE to the path of a file that holds it"
            )
        known = MODELS.get(self.model)
        recipe = self._recipe(service, known)
        limits = EmbedLimits(
            TEXTS_PER_CALL,
            recipe.tokens,
            self.inputs_per_minute or (HOSTED_INPUTS_PER_MINUTE if service.is_hosted else None),
            self.tokens_per_minute,
            counts_exactly=False,
        )
        price = self._price(service, known)
        if self._goes_through_jobs(service, known):
            job_limits = self._job_limits(service, limits)
            return CohereJobEmbedder(client, service, recipe, limits=limits, price=price, job_limits=job_limits)
        return CohereEmbedder(client, service, recipe, limits=limits, price=price)

    def _recipe(self, service: Service, known: CohereModel | None) -> Recipe:
        dimension = self.dimension or (known.dimension if known else None)
        tokens = self.tokens_per_text or (min(known.tokens, PASSAGE_TOKENS) if known else None)
        missing = [name for name, value in (("dimension", dimension), ("tokens_per_text", tokens)) if value is None]
        if dimension is None or tokens is None:
            raise ConfigError(
                f'nothing is known of the model "{self.model}": set {" and ".join(missing)}, or take one of '
                f"{', '.join(MODELS)}"
            )
        if service.is_hosted and known and dimension != known.dimension:
            raise ConfigError(f"{self.model} has {known.dimension} dimensions, not {dimension}; leave dimension out")
        if service.is_hosted and known and tokens > known.tokens:
            raise ConfigError(
                f"{self.model} takes {known.tokens} tokens a text, not {tokens}; lower tokens_per_text, or leave it out"
            )
        return Recipe(self.model, dimension, tokens, known.alphabets if known else UNKNOWN)

    def _goes_through_jobs(self, service: Service, known: CohereModel | None) -> bool:
        """Tell whether large updates go through jobs.

        jobs     the model                                  jobs_from  then
        -------  -----------------------------------------  ---------  -----------
        "never"  any                                        any        no
        "auto"   is known to have jobs                      any        yes
                 is known to have none, hosted              not set    no
                                                            set        ConfigError
                 is not known, at the hosted service        not set    no
                                                            set        yes: you know
                 any other, at a server of your own         any        yes
        """
        if self.jobs == "never":
            return False
        if not service.is_hosted or (known and known.has_jobs):
            return True
        if known and self.jobs_from is not None:
            with_jobs = ", ".join(model.name for model in MODELS.values() if model.has_jobs)
            raise ConfigError(f"{self.model} has no Embed Jobs; leave jobs_from out, or take one of {with_jobs}")
        return self.jobs_from is not None

    def _job_limits(self, service: Service, limits: EmbedLimits) -> JobLimits:
        if service.is_hosted and self.bytes_per_job > HOSTED_DATASET_BYTES:
            raise ConfigError(
                f"bytes_per_job is {self.bytes_per_job:,}, but one dataset may have {HOSTED_DATASET_BYTES:,} bytes"
            )
        by_rate = JOBS_FROM_MINUTES * limits.inputs_per_minute if limits.inputs_per_minute else JOBS_FROM_WITHOUT_LIMIT
        looks = {} if service.is_hosted else {"first_look_seconds": OWN_FIRST_LOOK_SECONDS}
        return JobLimits(
            texts_per_job=self.texts_per_job,
            bytes_per_job=self.bytes_per_job,
            open_jobs=self.open_jobs,
            jobs_from=self.jobs_from or by_rate,
            settle_seconds=self.settle_seconds,
            **looks,
        )

    def _price(self, service: Service, known: CohereModel | None) -> Price | None:
        if self.price_per_million_tokens is not None:
            return Price(self.price_per_million_tokens, self.currency, "settings")
        if not service.is_hosted:
            return Price(0.0, self.currency, f"{service.name} is not Cohere's")
        return Price(known.per_million_tokens, "USD", PRICE_SOURCE) if known else None

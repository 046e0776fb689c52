"""Texts to vectors by Embed: one call, one exchange."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from connector.cohere import Cohere
from connector.errors import ConfigError, RejectedError
from connector.model import InputType
from connector.ports import EmbedLimits, Price

from .cohere_models import HOSTED_DOMAINS, HOSTED_URL
from .estimate import Alphabets, estimate_tokens
from .texts import demand_encodable, probe_text, repeated_probe

if TYPE_CHECKING:
    from connector.model import Vectors


@dataclass(frozen=True, slots=True)
class Service:
    """Who answers."""

    name: str  # as identities have it
    is_hosted: bool

    @classmethod
    def at(cls, client: Cohere) -> Service:
        """Name the hosted service by one name, and any other by its address."""
        host = urlsplit(client.url).hostname or ""
        if any(host == domain or host.endswith(f".{domain}") for domain in HOSTED_DOMAINS):
            return cls(urlsplit(HOSTED_URL).netloc, is_hosted=True)
        return cls(client.url.partition("://")[2], is_hosted=False)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How vectors are made."""

    model: str
    dimension: int
    tokens: int
    alphabets: Alphabets


class CohereEmbedder:
    """Embeds at once. May be called from several threads."""

    def __init__(
        self, client: Cohere, service: Service, recipe: Recipe, *, limits: EmbedLimits, price: Price | None
    ) -> None:
        self._client = client
        self._service = service
        self._recipe = recipe
        self._limits = limits
        self._price = price
        self._billed_lock = threading.Lock()
        self._billed_tokens = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.identity!r})"

    @property
    def identity(self) -> str:
        recipe = self._recipe
        return f"cohere/{self._service.name}/{recipe.model}/dim{recipe.dimension}/tokens{recipe.tokens}/end"

    @property
    def dimension(self) -> int:
        return self._recipe.dimension

    @property
    def limits(self) -> EmbedLimits:
        return self._limits

    @property
    def price(self) -> Price | None:
        return self._price

    @property
    def billed_tokens(self) -> int:
        with self._billed_lock:
            return self._billed_tokens

    def check(self) -> None:
        """Ask whether the key, the model and its dimension are right; ConfigError.

        The hosted service lists its models, which is not billed. Any other is asked for the vector of one short word,
        and, where nothing is billed, for that of as long a text as will be sent: so it is found out that a model behind
        an alias takes fewer tokens than its namesake.
        """
        if self._service.is_hosted:
            models = self._client.models()
            if models and self._recipe.model not in models:
                raise ConfigError(
                    f'{self._client.url} has no model "{self._recipe.model}" for this key; it has {", ".join(models)}'
                )
            return
        self.embed([probe_text()], InputType.SEARCH_DOCUMENT)
        if self._price is None or self._price.per_million_tokens > 0:
            return
        text = repeated_probe(self._recipe.tokens)
        try:
            self.embed([text], InputType.SEARCH_DOCUMENT)
        except RejectedError as error:
            raise ConfigError(
                f"{self._client.url} refuses a text of {len(text.split())} words, though tokens_per_text is "
                f"{self._recipe.tokens}; set what its model takes: {error}"
            ) from None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return estimate_tokens(texts, self._recipe.alphabets)

    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        demand_encodable(texts)
        answer = self._client.embed(
            texts, model=self._recipe.model, input_type=input_type.value, embedding_types=["float"], truncate="NONE"
        )
        with self._billed_lock:
            self._billed_tokens += answer.billed_tokens or 0
        vectors: Vectors = np.asarray(answer.vectors["float"], dtype=np.float32)
        if vectors.shape != (len(texts), self.dimension):
            raise self.other_dimension(vectors.shape[-1])
        if not np.isfinite(vectors).all():
            raise RejectedError(f"{self._recipe.model} gives a vector with parts that are not finite numbers")
        return vectors

    def close(self) -> None:
        self._client.close()

    def other_dimension(self, found: int) -> ConfigError:
        """Say that the service gives vectors of another dimension than was set."""
        return ConfigError(
            f"{self._recipe.model} at {self._client.url} gives vectors of {found} dimensions, not "
            f"{self.dimension}; set dimension = {found}"
        )

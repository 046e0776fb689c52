"""The embedder of OpenAI's wire: POST /embeddings, as OpenAI, TEI, vLLM, Ollama and many others answer it.

What such a server makes of a text that is too long differs: most refuse it, some cut it without a word. So passages
are split by an estimate of their tokens that is hardly ever too low (`estimate`). Vectors are taken as they are
served: OpenAI's have unit length, those of others may have another.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import Field, SecretStr

from connector.errors import ConfigError, RejectedError
from connector.model import InputType
from connector.plugins import BuildContext, EmbedderSettings
from connector.ports import EmbedLimits, Price

from .estimate import estimate_tokens
from .openai_wire import OpenAI
from .texts import demand_encodable, probe_text

if TYPE_CHECKING:
    from connector.model import Vectors

OPENAI_URL: Final = "https://api.openai.com/v1"


class OpenAISettings(EmbedderSettings):
    """OpenAI, or any server with its API for embeddings: TEI, vLLM, Ollama, ..."""

    kind: Literal["openai"] = "openai"
    base_url: str = Field(default=OPENAI_URL, description="Where the service is; /embeddings is added to it.")
    api_key: SecretStr | None = Field(default=None, description="The key; a server of your own may need none.")
    model: str = Field(
        min_length=1,
        description="Which model. Its name is part of every vector's identity: another model embeds everything anew.",
    )
    dimension: int = Field(ge=1, description="How many numbers a vector has.")
    tokens_per_text: int = Field(
        ge=16, description="How long a passage may be: at most what the model takes, 512 for most open models."
    )
    send_dimensions: bool = Field(
        default=False, description="Ask for vectors of this dimension, of models that have several."
    )
    query_prefix: str = Field(default="", description='Goes before a question, as "query: " for models such as e5.')
    passage_prefix: str = Field(default="", description='Goes before a passage, as "passage: " for models such as e5.')
    texts_per_call: int = Field(default=96, ge=1, description="How many texts one call carries.")
    inputs_per_minute: int | None = Field(default=None, ge=1, description="How many texts may be embedded a minute.")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="The same, of tokens.")
    price_per_million_tokens: float | None = Field(default=None, ge=0, description="What the service bills.")
    currency: str = Field(default="USD", min_length=1, description="The price's currency.")
    timeout_seconds: float = Field(default=60.0, gt=0, description="How long to wait for the service to say anything.")

    def build(self, context: BuildContext) -> OpenAIEmbedder:  # noqa: ARG002 - needs no path and keeps no cache
        """Check what can be checked without the network; ConfigError in one line, which never shows the key."""
        wire = OpenAI(self.base_url, self.api_key, timeout_seconds=self.timeout_seconds)
        if wire.is_hosted and self.api_key is None:
            raise ConfigError(
                f"{wire.url} needs an API key; set VECTOR_SYNC_EMBEDDER__API_KEY, or "
                "VECTOR_SYNC_EMBEDDER__API_KEY_FILE to the path of a file that holds it"
            )
        return OpenAIEmbedder(wire, self)


class OpenAIEmbedder:
    """Embeds at once. May be called from several threads."""

    def __init__(self, wire: OpenAI, settings: OpenAISettings) -> None:
        self._wire = wire
        self._settings = settings
        self._prefixes = {
            InputType.SEARCH_DOCUMENT: settings.passage_prefix,
            InputType.SEARCH_QUERY: settings.query_prefix,
        }
        self._billed_lock = threading.Lock()
        self._billed_tokens = 0

    def __repr__(self) -> str:
        return f"OpenAIEmbedder({self.identity!r})"

    @property
    def identity(self) -> str:
        settings = self._settings
        address = self._wire.url.partition("://")[2]
        prefixes = f"/query={settings.query_prefix!a}/passage={settings.passage_prefix!a}"
        return (
            f"openai/{address}/{settings.model}/dim{settings.dimension}/tokens{settings.tokens_per_text}"
            f"{prefixes if settings.query_prefix or settings.passage_prefix else ''}"
        )

    @property
    def dimension(self) -> int:
        return self._settings.dimension

    @property
    def limits(self) -> EmbedLimits:
        settings = self._settings
        return EmbedLimits(
            settings.texts_per_call,
            settings.tokens_per_text,
            settings.inputs_per_minute,
            settings.tokens_per_minute,
            counts_exactly=False,
        )

    @property
    def price(self) -> Price | None:
        settings = self._settings
        if settings.price_per_million_tokens is None:
            return None
        return Price(settings.price_per_million_tokens, settings.currency, "settings")

    @property
    def billed_tokens(self) -> int:
        with self._billed_lock:
            return self._billed_tokens

    def check(self) -> None:
        """Ask whether the key, the model and its dimension are right; ConfigError.

        OpenAI is asked for the model, which is not billed; any other server for the vector of one short word.
        """
        if self._wire.is_hosted:
            self._wire.find_model(self._settings.model)
            return
        try:
            self.embed([probe_text()], InputType.SEARCH_DOCUMENT)
        except RejectedError as error:
            raise ConfigError(f"not even one word is embedded: {error}") from None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        prefix = self._settings.passage_prefix
        return estimate_tokens([prefix + text for text in texts] if prefix else texts)

    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        settings = self._settings
        if not texts:
            return np.empty((0, settings.dimension), dtype=np.float32)
        demand_encodable(texts)
        prefix = self._prefixes[input_type]
        answer = self._wire.embed(
            [prefix + text for text in texts],
            model=settings.model,
            dimensions=settings.dimension if settings.send_dimensions else None,
        )
        with self._billed_lock:
            self._billed_tokens += answer.billed_tokens
        if answer.vectors.shape != (len(texts), settings.dimension):
            found = answer.vectors.shape[1]
            raise ConfigError(
                f"{settings.model} at {self._wire.url} gives vectors of {found} dimensions, not {settings.dimension}; "
                f"set dimension = {found}"
            )
        return answer.vectors

    def close(self) -> None:
        self._wire.close()

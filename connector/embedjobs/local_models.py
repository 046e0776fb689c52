"""The models that are installed on this machine, as the service serves them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from connector.embedders.cutting import Cut
from connector.embedders.local import LocalEmbedder
from connector.embedders.pinned import INSTALL, MODELS, PinnedModel
from connector.errors import ConfigError

from .models import Embedded, Token
from .values import InputType, Truncate


class LocalModel:
    """A model on this machine's CPU: a `ServedModel` that also gives its tokenizer. Loaded by the first text.

    It is symmetric: `input_type` is accepted and has no effect.
    """

    def __init__(self, embedder: LocalEmbedder) -> None:
        self._embedder = embedder

    @property
    def name(self) -> str:
        return self._embedder.model.name

    @property
    def identity(self) -> str:
        return self._embedder.identity

    @property
    def dimension(self) -> int:
        return self._embedder.dimension

    @property
    def tokens_per_text(self) -> int:
        return self._embedder.model.tokens

    @property
    def int8_range(self) -> float:
        return self._embedder.model.int8_range

    def embed(self, texts: Sequence[str], *, input_type: InputType, truncate: Truncate) -> Embedded:  # noqa: ARG002 - see the class
        vectors, tokens = self._embedder.embed_counted(texts, Cut(truncate.value))
        return Embedded(vectors, sum(tokens))

    def tokenize(self, text: str) -> list[Token]:
        return [Token(id, word) for id, word in self._embedder.tokenize(text)]

    def detokenize(self, ids: Sequence[int]) -> str:
        return self._embedder.detokenize(ids)

    def tokenizer_json(self) -> str:
        return self._embedder.tokenizer_json()

    def close(self) -> None:
        """Free the model's memory. Used again, it is loaded again."""
        self._embedder.close()


def local_models(threads: int = 0, known: Iterable[PinnedModel] = tuple(MODELS.values())) -> list[LocalModel]:
    """Find the models of the known ones that are installed; loads nothing yet.

    `threads` are those of one forward; 0 takes all cores.

    Raises:
        ConfigError: none is installed; or one is, but not whole, or without the packages that it needs.
    """
    found = [LocalModel(LocalEmbedder.of(model, threads)) for model in known if model.is_installed]
    if not found:
        raise ConfigError(f"no model is installed: {INSTALL}")
    return found

"""The models that the service answers with, and the names that clients may call them by.

A client names the model it wants, and gets that one's vectors or an error: vectors of two models do not fit each other.
An operator may give a model other names, so that programs written for the hosted service need no change; then every
answer says which model it was. There are none by default.

    alias                                 result
    ------------------------------------  ----------------------------------------------------
    names a model                         it answers to both
    names nothing, or another alias       ConfigError, with the models there are
    is itself the name of a model         ConfigError: it would hide that model, or say nothing
    is empty or unprintable               ConfigError
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, runtime_checkable

from connector.errors import ConfigError

from .refusals import NotFoundError
from .values import InputType, Truncate

if TYPE_CHECKING:
    from connector.model import Vectors

LONGEST_SHOWN: Final = 100  # characters of a name that there is not
HOSTED_NOT_FOUND: Final = (
    "model '{}' not found, make sure the correct model ID was used and that you have access to the model."
)


class Embedded(NamedTuple):
    """What a model made of some texts."""

    vectors: Vectors  # float32, unit length, shape (n, dimension)
    tokens: int  # of all the texts, after truncation, special tokens included


class Token(NamedTuple):
    """One token of a text."""

    id: int
    text: str


class ServedModel(Protocol):
    """What the service needs of a model. May be called from several threads."""

    @property
    def name(self) -> str:
        """Its own name, as in "all-MiniLM-L6-v2"."""
        ...

    @property
    def identity(self) -> str:
        """All that decides a vector: weights, precision, dimension, pooling. Written into every result."""
        ...

    @property
    def dimension(self) -> int: ...

    @property
    def tokens_per_text(self) -> int: ...

    @property
    def int8_range(self) -> float:
        """The absolute value that int8 maps to 127; see `quantization`."""
        ...

    def embed(self, texts: Sequence[str], *, input_type: InputType, truncate: Truncate) -> Embedded:
        """Embed texts, however many; RejectedError names the first that is too long (NONE), or is no text."""
        ...

    def tokenize(self, text: str) -> list[Token]:
        """Cut a text into tokens, without special ones and without a limit."""
        ...

    def detokenize(self, ids: Sequence[int]) -> str:
        """Join tokens to a text."""
        ...


@runtime_checkable
class GivesTokenizer(Protocol):
    """What a model has besides, if clients may count its tokens themselves."""

    def tokenizer_json(self) -> str:
        """Give the tokenizer, in the format of the library tokenizers: without a limit, and without padding."""
        ...


class Catalogue:
    """Which model answers to which name."""

    def __init__(self, models: Sequence[ServedModel], aliases: Mapping[str, str]) -> None:
        """Check that each alias names a model, and that none hides one; else ConfigError."""
        self._models = MappingProxyType({model.name: model for model in models})
        if len(self._models) < len(models):
            raise ConfigError(f"two models have the same name: {_listed([model.name for model in models])}")
        if not self._models:
            raise ConfigError("there is no model to answer with")
        self._aliases = MappingProxyType(dict(aliases))
        for alias, name in self._aliases.items():
            self._check(alias, name)

    def _check(self, alias: str, name: str) -> None:
        if not alias.strip() or not alias.isprintable():
            raise ConfigError(f"the alias {alias!a} cannot be asked for; give it a name that can be read")
        if alias in self._models:
            raise ConfigError(f'the alias "{alias}" is the name of a model; leave it out, or call it something else')
        if name not in self._models:
            raise ConfigError(f'the alias "{alias}" names no model: "{name}"; there is: {_listed(self._models)}')

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """The models, by their own names."""
        return self._models

    @property
    def aliases(self) -> Mapping[str, str]:
        """The other names that clients may use, each with the name of the model that answers."""
        return self._aliases

    @property
    def only(self) -> ServedModel | None:
        """The model that answers when none is named: there is one if there is no choice."""
        return next(iter(self._models.values())) if len(self._models) == 1 else None

    def find(self, requested: str) -> ServedModel:
        """Find the model that answers to a name; NotFoundError names those there are."""
        found = self._models.get(self._aliases.get(requested, requested))
        if found is None:
            there_is = _listed([*self._models, *self._aliases])
            raise NotFoundError(f"{HOSTED_NOT_FOUND.format(requested[:LONGEST_SHOWN])} There is: {there_is}")
        return found


def local_catalogue(aliases: Mapping[str, str], *, threads: int = 0) -> Catalogue:
    """Make the catalogue of what is installed on this machine; ConfigError if that is nothing."""
    from .local_models import local_models  # noqa: PLC0415 - which is made of what is defined here

    return Catalogue(local_models(threads), aliases)


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(f'"{name}"' for name in names)

"""The JSON of embeddings, tokens and models, in the hosted service's shape; what there is not is left out, never null.

The classes of answers are for the OpenAPI document; the embeddings themselves are written by msgspec, as they are long.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias
from uuid import uuid4

import msgspec
from pydantic import BaseModel, Field, StrictInt, StringConstraints

from connector.decimals import shortest

from .quantization import base64_of, forms
from .values import EmbeddingType, InputType, Truncate
from .wire import Meta, ShortText

if TYPE_CHECKING:
    from .models import Embedded

    Rows: TypeAlias = list[list[float]] | list[list[int]] | list[str]

LONGEST_TEXT: Final = 65_536  # characters to tokenize (OpenAPI of the hosted service, read August 2026)
LOWEST_PRIORITY: Final = 999  # the same


class Form(StrEnum):
    """The forms of a vector that /embed knows: those of results, and base64."""

    FLOAT = "float"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"
    BASE64 = "base64"


class ImageInput(StrEnum):
    """What a text model refuses; the hosted service takes it."""

    IMAGE = "image"


class EmbedRequest(BaseModel):
    """What to embed, and how. Fields that are not listed are ignored, as the hosted service does.

    Null is what is not said: SDKs send an argument that is None so.
    """

    texts: list[str] | None = Field(default=None, description="1 to 96 of them, none empty")
    images: list[str] | None = Field(default=None, description="Refused: the models take texts only")
    input_type: InputType | ImageInput
    embedding_types: list[Form] | None = None
    truncate: Truncate | None = Field(
        default=None, description="Which end of a text that is too long is left out: END, if it is not said"
    )


class EmbedV1Request(EmbedRequest):
    """What /v1/embed takes."""

    model: ShortText | None = Field(
        default=None, description="See /v1/models; may be left out where there is only one, and the answer names it"
    )


class TextContent(BaseModel):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageContent(BaseModel):
    """Refused: the models take texts only."""

    type: Literal["image_url"]


class EmbedInput(BaseModel):
    """What becomes one vector: its texts, joined by line breaks."""

    content: Annotated[list[Annotated[TextContent | ImageContent, Field(discriminator="type")]], Field(min_length=1)]


class EmbedV2Request(EmbedRequest):
    """What /v2/embed takes: `texts`, or `inputs`."""

    model: ShortText = Field(description="See /v1/models")
    inputs: list[EmbedInput] | None = Field(default=None, description="1 to 96 of them, instead of texts")
    max_tokens: int | None = Field(
        default=None, ge=1, description="A text of more tokens is refused, unless the model itself takes no more"
    )
    output_dimension: int | None = Field(default=None, description="The model's own, or left out")
    priority: int | None = Field(
        default=None, ge=0, le=LOWEST_PRIORITY, description="Of requests that wait, 0 is the first, and the default"
    )


class FloatsJson(BaseModel):
    """The answer of /v1/embed to a request without `embedding_types`."""

    id: str
    response_type: Literal["embeddings_floats"]
    texts: list[str]
    embeddings: list[list[float]]
    meta: Meta


Floats: TypeAlias = list[list[float]]  # named out here, as the class has a field that hides `float`
Integers: TypeAlias = list[list[int]]


class FormsJson(BaseModel):
    """Vectors by form, each a row for each text; those that were not asked for are left out."""

    float: Floats | None = None
    int8: Integers | None = None
    uint8: Integers | None = None
    binary: Integers | None = None
    ubinary: Integers | None = None
    base64: list[str] | None = Field(default=None, description="Of the bytes of float, little-endian")


class ByTypeJson(BaseModel):
    """The answer of /v2/embed, and of /v1/embed to a request with `embedding_types`."""

    id: str
    response_type: Literal["embeddings_by_type"]
    texts: list[str]
    embeddings: FormsJson
    meta: Meta


class TokenizeRequest(BaseModel):
    """A text to be cut into tokens."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT)]
    model: ShortText


class TokensJson(BaseModel):
    """A text's tokens, without special ones."""

    tokens: list[int]
    token_strings: list[str]
    meta: Meta


class DetokenizeRequest(BaseModel):
    """Tokens to be joined to a text."""

    tokens: list[StrictInt]
    model: ShortText


class TextJson(BaseModel):
    """The text of tokens."""

    text: str
    meta: Meta


class KeyJson(BaseModel):
    """Whether the key that was sent is the service's; another one is answered with 401."""

    valid: bool


class ModelJson(BaseModel):
    """A name that can be asked for, and what answers to it. From `alias_of` on, the fields are this service's own."""

    name: str
    is_deprecated: bool = False
    endpoints: list[str]
    finetuned: bool = False
    context_length: int = Field(description="Tokens of one text, special ones included")
    tokenizer_url: str | None = Field(
        default=None, description="Where the tokenizer is, if clients may have it; no key"
    )
    default_endpoints: list[str] = Field(description="Where it answers to requests that name no model")
    features: list[str]
    alias_of: str | None = Field(default=None, description="The model that answers to this name, which is not its own")
    aliases: list[str] = Field(description="The other names of the model that answers")
    identity: str = Field(description="All that decides the vectors; also in the files of results")
    dimension: int
    embedding_types: list[str]


class ModelsJson(BaseModel):
    """A page of the models and their aliases."""

    models: list[ModelJson]
    next_page_token: str | None = None


def embed_json(
    texts: Sequence[str], embedded: Embedded, asked: Sequence[Form], *, version: str, int8_range: float, warning: str
) -> bytes:
    """Write an answer: vectors by the forms asked for, each once; or, if none were, as v1 has it, plain vectors."""
    meta: dict[str, object] = {
        "api_version": {"version": version},
        "billed_units": {"input_tokens": embedded.tokens},
    }
    if warning:
        meta["warnings"] = [warning]
    return msgspec.json.encode(
        {
            "id": str(uuid4()),
            "response_type": "embeddings_by_type" if asked else "embeddings_floats",
            "texts": texts,
            "embeddings": {form: _rows(embedded, form, int8_range) for form in dict.fromkeys(asked)}
            if asked
            else _rows(embedded, Form.FLOAT, int8_range),
            "meta": meta,
        }
    )


def _rows(embedded: Embedded, form: Form, int8_range: float) -> Rows:
    if form is Form.BASE64:
        return base64_of(embedded.vectors)
    if form is Form.FLOAT:
        numbers: list[list[float]] = shortest(embedded.vectors).tolist()
        return numbers
    type = EmbeddingType(form.value)
    small: list[list[int]] = forms(embedded.vectors, [type], int8_range)[type].tolist()
    return small

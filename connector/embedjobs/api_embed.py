"""The calls that a model answers at once: vectors and tokens; and which models there are.

    request                          answered by
    -------------------------------  ----------------------------------------------------------------
    of up to `QUICK_TEXTS` texts     the quick threads: a question never queues behind a corpus
    of more                          the bulk threads

Both share the model with the jobs, forward by forward in turns (`connector.embedders.turns`). Of what waits for
either, the lowest `priority` is first; beyond `waiting`, requests are answered with 429 and told when to come back.

    what a request asks for              answer
    -----------------------------------  -----------------------------------------------------------------------
    no model, on v1                      the only model, with a warning that names it; 400 if there are several
    a model by an alias                  the model's vectors, with a warning in X-API-Warning and in `meta.warnings`
    a model that is not there            404 with those there are
    images, or `input_type` image        400: the models take texts
    `output_dimension`                   400 unless it is the model's
    `max_tokens` below the model's       400 if a text has more: the model cuts at its own limit, and at no other
    fields that are not known            ignored, as the hosted service does
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from fastapi import APIRouter, Response

from .admission import Admission
from .api_models import models_router, refused, warn
from .failures import NO_MODEL, documented
from .models import Catalogue, ServedModel
from .refusals import BadRequestError
from .values import InputType, Truncate
from .wire import alias_warning
from .wire_embed import (
    ByTypeJson,
    EmbedRequest,
    EmbedV1Request,
    EmbedV2Request,
    FloatsJson,
    Form,
    ImageInput,
    TextContent,
    embed_json,
)

MAX_TEXTS: Final = 96  # of the hosted service, as are the words of its refusal
QUICK_TEXTS: Final = 8
THREADS: Final = 2  # of each kind: while one computes, another reads or writes
WAITING: Final = 128  # of each kind. SDKs send 64 requests at once, and wait for 300 s, which is 2 s for each of these
FAILURES: Final = documented(400, 401, 404, 413, 422, 429, 503)


def router(
    catalogue: Catalogue,
    *,
    base_url: str | None = None,
    max_texts: int = MAX_TEXTS,
    threads: int = THREADS,
    waiting: int = WAITING,
) -> APIRouter:
    """Make the routes, at their full addresses. `base_url` is how clients reach us, for the links to tokenizers."""
    quick = Admission("embed-quick", threads=threads, waiting=waiting)
    bulk = Admission("embed-bulk", threads=threads, waiting=waiting)
    api = APIRouter(tags=["embeddings"])

    async def embed(asked: _Asked) -> Response:
        admission = quick if len(asked.texts) <= QUICK_TEXTS else bulk
        with refused():
            content = await admission.run(partial(_embedded, asked), priority=asked.priority)
        response = Response(content, media_type="application/json")
        warn(response, asked.warning)
        return response

    @api.post("/v1/embed", summary="Embed texts", response_model=FloatsJson | ByTypeJson, responses=FAILURES)
    async def embed_v1(request: EmbedV1Request) -> Response:
        """Embed up to 96 texts. The answer is plain vectors, or vectors by type if `embedding_types` are named."""
        model, warning = _model(catalogue, request.model)
        asked = _Asked(
            version="1",
            model=model,
            input_type=_input_type(request, model),
            texts=_checked(request.texts or [], max_texts),
            truncate=request.truncate or Truncate.END,
            types=request.embedding_types or (),
            warning=warning,
        )
        return await embed(asked)

    @api.post("/v2/embed", summary="Embed texts, by type", response_model=ByTypeJson, responses=FAILURES)
    async def embed_v2(request: EmbedV2Request) -> Response:
        """Embed up to 96 texts."""
        model, warning = _model(catalogue, request.model)
        _check_dimension(model, request.output_dimension)
        asked = _Asked(
            version="2",
            model=model,
            input_type=_input_type(request, model),
            texts=_checked(_texts_of(request), max_texts),
            truncate=request.truncate or Truncate.END,
            types=request.embedding_types or (Form.FLOAT,),
            warning=warning,
            max_tokens=request.max_tokens,
            priority=request.priority or 0,
        )
        return await embed(asked)

    api.include_router(models_router(catalogue, quick, base_url=base_url))
    return api


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that can be done."""

    version: str
    model: ServedModel
    input_type: InputType
    texts: Sequence[str]
    truncate: Truncate
    types: Sequence[Form]
    """Empty for plain vectors, as on v1."""
    warning: str
    """What the client is to be told about the model; empty for nothing."""
    max_tokens: int | None = None
    priority: int = 0


def _checked(texts: Sequence[str], most: int) -> Sequence[str]:
    if not texts:
        raise BadRequestError(f"invalid request: there are no texts to embed; send 1 to {most}")
    if len(texts) > most:
        raise BadRequestError(f"invalid request: total number of texts must be at most {most} - received {len(texts)}")
    if "" in texts:
        raise BadRequestError(f"inputs contains an element that is the empty string at index {texts.index('')}")
    return texts


def _input_type(request: EmbedRequest, model: ServedModel) -> InputType:
    if request.images or isinstance(request.input_type, ImageInput):
        raise BadRequestError(f"model '{model.name}' takes texts only: leave images out, and the input_type image")
    return request.input_type


def _model(catalogue: Catalogue, requested: str | None) -> tuple[ServedModel, str]:
    """Find the model to answer, and what the client is to be told about it."""
    if requested is not None:
        model = catalogue.find(requested)
        return model, alias_warning(requested, model.name)
    if catalogue.only is None:
        raise BadRequestError(f"{NO_MODEL} There is: {', '.join(catalogue.models)}")
    return catalogue.only, f"no model was asked for: the vectors are those of {catalogue.only.name}"


def _texts_of(request: EmbedV2Request) -> Sequence[str]:
    if not request.inputs:
        return request.texts or []
    if request.texts:
        raise BadRequestError("invalid request: there are texts and inputs; send one of them")
    texts = []
    for index, input in enumerate(request.inputs):
        pieces = [piece.text for piece in input.content if isinstance(piece, TextContent)]
        if len(pieces) < len(input.content):
            raise BadRequestError(f"the input at index {index} has an image, but the models take texts only")
        texts.append("\n".join(pieces))
    return texts


def _check_dimension(model: ServedModel, asked: int | None) -> None:
    if asked is not None and asked != model.dimension:
        raise BadRequestError(
            f"output_dimension must be {model.dimension}, or be left out: model '{model.name}' has no other"
        )


def _embedded(asked: _Asked) -> bytes:
    """Embed, and write the answer: in a thread, where neither keeps other requests waiting."""
    _check_lengths(asked)
    embedded = asked.model.embed(asked.texts, input_type=asked.input_type, truncate=asked.truncate)
    return embed_json(
        asked.texts,
        embedded,
        asked.types,
        version=asked.version,
        int8_range=asked.model.int8_range,
        warning=asked.warning,
    )


def _check_lengths(asked: _Asked) -> None:
    """Refuse a text that the model would cut later than it was asked to."""
    if asked.max_tokens is None or asked.max_tokens >= asked.model.tokens_per_text:
        return
    for index, text in enumerate(asked.texts):
        tokens = len(asked.model.tokenize(text))
        if tokens > asked.max_tokens:
            raise BadRequestError(
                f"the text at index {index} has {tokens} tokens, more than max_tokens {asked.max_tokens}, and model "
                f"'{asked.model.name}' cuts texts at {asked.model.tokens_per_text} only; leave max_tokens out"
            )

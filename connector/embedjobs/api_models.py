"""The calls about models: which there are, what they make of a text's words, and whether a key is right.

A tokenizer has a link, by which SDKs count tokens themselves; they fetch it without a key, see `TOKENIZERS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from connector.errors import RejectedError

from .admission import Admission
from .failures import documented
from .models import Catalogue, GivesTokenizer, ServedModel
from .refusals import BadRequestError, NotFoundError
from .wire import Meta, alias_warning
from .wire_embed import (
    DetokenizeRequest,
    Form,
    KeyJson,
    ModelJson,
    ModelsJson,
    TextJson,
    TokenizeRequest,
    TokensJson,
)

TOKENIZERS: Final = "/v1/tokenizers/"
"""Below it everything has to be open: SDKs send no key when they fetch a tokenizer. They are the same for everybody."""
ENDPOINT: Final = "embed"  # the hosted service's word; it has none for embed jobs
FEATURES: Final = ("embed-jobs", "tokenize", "detokenize")
PAGE_SIZE: Final = 20  # and at most 1000: OpenAPI of the hosted service, read August 2026
LARGEST_PAGE: Final = 1000
WARNING_HEADER: Final = "X-API-Warning"


def models_router(catalogue: Catalogue, admission: Admission, *, base_url: str | None) -> APIRouter:
    """Make the routes. Tokenizers work in the threads of `admission`."""
    api = APIRouter(tags=["models"])

    def base_of(request: Request) -> str:
        return (base_url or str(request.base_url)).rstrip("/")

    @api.get(
        "/v1/models",
        summary="List the models and their aliases",
        response_model_exclude_none=True,
        responses=documented(400, 401, 422, 503),
    )
    async def list_models(
        request: Request,
        page_size: Annotated[float, Query(ge=1, le=LARGEST_PAGE, description="SDKs send it as 20.0")] = PAGE_SIZE,
        page_token: str | None = None,
        endpoint: Annotated[str | None, Query(description='All of them are for "embed"')] = None,
        default_only: Annotated[bool, Query(description="Only those that answer when none is named")] = False,
    ) -> ModelsJson:
        """List the models, and after them their aliases, which have `alias_of`."""
        if default_only and endpoint is None:
            raise BadRequestError("default_only is for an endpoint; name one")
        names = [*catalogue.models, *catalogue.aliases] if endpoint in (None, ENDPOINT) else []
        found = [_model_json(catalogue, name, base_of(request)) for name in names]
        shown = [model for model in found if model.default_endpoints or not default_only]
        start, size = _place(page_token, len(shown)), int(page_size)
        rest = start + size
        return ModelsJson(models=shown[start:rest], next_page_token=str(rest) if rest < len(shown) else None)

    @api.get(
        "/v1/models/{model:path}",
        summary="Look a model up, by its name or an alias",
        response_model_exclude_none=True,
        responses=documented(401, 404, 503),
    )
    async def find_model(model: str, request: Request, response: Response) -> ModelJson:
        warn(response, alias_warning(model, catalogue.find(model).name))
        return _model_json(catalogue, model, base_of(request))

    async def tokenizer(model: str) -> Response:
        """Give a model's tokenizer, in the format of the library tokenizers: without a limit, and without padding."""
        found = catalogue.find(model)
        if not isinstance(found, GivesTokenizer):
            raise NotFoundError(f"model '{found.name}' does not give its tokenizer; use /v1/tokenize")
        return Response(await admission.run(found.tokenizer_json), media_type="application/json")

    api.get(TOKENIZERS + "{model:path}", summary="Fetch a tokenizer", responses=documented(404, 429, 503))(tokenizer)
    api.head(TOKENIZERS + "{model:path}", include_in_schema=False)(tokenizer)

    @api.post(
        "/v1/tokenize",
        summary="Cut a text into tokens",
        response_model_exclude_none=True,
        responses=documented(400, 401, 404, 413, 422, 429, 503),
    )
    async def tokenize(request: TokenizeRequest, response: Response) -> TokensJson:
        """Cut a text into the model's tokens, without special ones and however many there are."""
        model, meta = _chosen(catalogue, request.model, response)
        with refused():
            tokens = await admission.run(partial(model.tokenize, request.text))
        return TokensJson(tokens=[id for id, _ in tokens], token_strings=[word for _, word in tokens], meta=meta)

    @api.post(
        "/v1/detokenize",
        summary="Join tokens to a text",
        response_model_exclude_none=True,
        responses=documented(400, 401, 404, 413, 422, 429, 503),
    )
    async def detokenize(request: DetokenizeRequest, response: Response) -> TextJson:
        model, meta = _chosen(catalogue, request.model, response)
        with refused():
            text = await admission.run(partial(model.detokenize, request.tokens))
        return TextJson(text=text, meta=meta)

    @api.post("/v1/check-api-key", summary="Tell whether a key is right", responses=documented(401, 503))
    async def check_api_key() -> KeyJson:
        """Answer at all: a wrong key has been refused by now."""
        return KeyJson(valid=True)

    return api


@contextmanager
def refused() -> Iterator[None]:
    """Tell the client what a model rejects."""
    try:
        yield
    except RejectedError as error:
        raise BadRequestError(str(error)) from error


def warn(response: Response, warning: str) -> None:
    """Put a warning into the header that the hosted service has for it; nothing if it is empty."""
    if warning:
        response.headers[WARNING_HEADER] = warning.encode("ascii", "replace").decode()


def _chosen(catalogue: Catalogue, requested: str, response: Response) -> tuple[ServedModel, Meta]:
    model = catalogue.find(requested)
    warning = alias_warning(requested, model.name)
    warn(response, warning)
    return model, Meta(warnings=[warning] if warning else None)


def _model_json(catalogue: Catalogue, name: str, base: str) -> ModelJson:
    """Describe a name. What an alias is said to be able to do is what the model that answers can."""
    model = catalogue.find(name)
    is_alias = name != model.name
    link = f"{base}{TOKENIZERS}{quote(model.name, safe='')}" if isinstance(model, GivesTokenizer) else None
    return ModelJson(
        name=name,
        endpoints=[ENDPOINT],
        context_length=model.tokens_per_text,
        tokenizer_url=link,
        default_endpoints=[ENDPOINT] if model is catalogue.only and not is_alias else [],
        features=[*FEATURES, "alias"] if is_alias else [*FEATURES],
        alias_of=model.name if is_alias else None,
        aliases=[alias for alias, answering in catalogue.aliases.items() if answering == model.name],
        identity=model.identity,
        dimension=model.dimension,
        embedding_types=list(Form),
    )


def _place(page_token: str | None, count: int) -> int:
    """Read where a page begins; only what an answer has named is taken."""
    if page_token is None:
        return 0
    if page_token.isascii() and page_token.isdigit() and len(page_token) <= len(str(count)):
        place = int(page_token)
        if 0 < place < count:
            return place
    raise BadRequestError("page_token is not one of ours; begin with a request without it")

"""The whole HTTP side as one app: which routes there are, under which addresses, and what every request goes through.

    address                                answered by
    -------------------------------------  ----------------------------------------------------------------------
    /v1/datasets..., /v1/embed-jobs...     api_datasets, api_jobs
    the same without /v1, or with /v2      the same: SDK 5.0 to 5.7, and one page of the hosted service's docs
    /v1/embed, /v2/embed                   api_embed
    /v1/models, /v1/tokenize and the like  api_models
    /parts/...                             api_parts
    /health, /ready, /metrics              api_status

On its way, a request goes through `observation` (id, log, metrics, bugs), `bodies` (caps) and `access` (the key).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

import connector
from connector.serving.logs import Log

from . import api_datasets, api_embed, api_jobs, api_parts, api_status, failures
from .access import KeyGate, declare
from .bodies import BodyLimits
from .links import Links
from .metrics import Metrics
from .models import Catalogue
from .observation import Observed
from .store import Store
from .upload import STALL_SECONDS, Uploads

if TYPE_CHECKING:
    from connector.sections import EmbedJobsSettings

PREFIX: Final = "/v1"
ALIASES: Final = ("", "/v2")
DESCRIPTION: Final = """Datasets, asynchronous embed jobs and embeddings, in the shape of Cohere's API.

Every answer that is no success is `{"message", "id"}`; the id is also in the header `X-Request-Id` of every answer.
The calls on datasets and embed jobs are also there without `/v1`, and under `/v2`."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What the routes stand on."""

    store: Store
    catalogue: Catalogue
    links: Links
    metrics: Metrics
    log: Log
    wake: Callable[[], None]
    """Called when the workers have something to do."""
    is_alive: Callable[[], bool]
    is_stopping: Callable[[], bool]


def create_app(settings: EmbedJobsSettings, backend: Backend, *, stall_seconds: float = STALL_SECONDS) -> FastAPI:
    """Make the app. Starts nothing, and opens nothing."""
    app = _App(
        has_key=settings.api_key is not None,
        title="Embed Jobs",
        description=DESCRIPTION,
        version=connector.__version__,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        servers=[{"url": settings.public_url.rstrip("/")}] if settings.public_url else None,
        generate_unique_id_function=_operation_id,
    )
    failures.install(app)
    store, links, wake = backend.store, backend.links, backend.wake
    uploads = Uploads(max_bytes=settings.max_dataset_bytes, stall_seconds=stall_seconds)
    routers = (
        api_datasets.router(store, links, uploads, wake=wake, base_url=settings.public_url),
        api_jobs.router(store, backend.catalogue, wake=wake),
    )
    for router in routers:
        app.include_router(router, prefix=PREFIX)
    app.include_router(api_embed.router(backend.catalogue, base_url=settings.public_url))
    app.include_router(api_parts.router(store, links))
    app.include_router(
        api_status.router(store, backend.metrics, is_alive=backend.is_alive, is_stopping=backend.is_stopping)
    )
    for router in routers:
        for alias in ALIASES:
            app.include_router(router, prefix=alias, include_in_schema=False)

    # The last that is added is the first that sees a request.
    app.add_middleware(KeyGate, key=settings.api_key)
    app.add_middleware(
        BodyLimits,
        upload_paths=frozenset(f"{prefix}/datasets" for prefix in (PREFIX, *ALIASES)),
        upload_bytes=settings.max_dataset_bytes,
    )
    app.add_middleware(Observed, log=backend.log, metrics=backend.metrics)
    return app


class _App(FastAPI):
    """An app whose document says which calls need the key, as `access` has it."""

    def __init__(self, *, has_key: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self._has_key = has_key

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        if self._has_key:
            declare(document)
        return document


def _operation_id(route: APIRoute) -> str:
    return route.name

"""What an orchestrator and an operator ask.

    /health    200 while the service can do its work, its own threads included; else 503: start it anew
    /ready     200 while it takes requests: the store answers, and it is not stopping; else 503: ask another
    /metrics   for Prometheus

The first two are open, and the third needs the key where there is one; see `access`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from .failures import answer, documented, request_id_of
from .metrics import Metrics
from .store import Store
from .wire import Nothing

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
TEXT: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {METRICS_TYPE: {"schema": {"type": "string"}}}}}


def router(
    store: Store, metrics: Metrics, *, is_alive: Callable[[], bool], is_stopping: Callable[[], bool]
) -> APIRouter:
    """Make the routes."""
    api = APIRouter(tags=["status"])

    @api.get("/health", summary="Tell whether the service is alive", responses=documented(503), response_model=Nothing)
    async def health(request: Request) -> Nothing | Response:
        if is_alive():
            return Nothing()
        return answer(request_id_of(request), 503, "a thread of the service has ended; start the service anew")

    @api.get(
        "/ready", summary="Tell whether the service takes requests", responses=documented(503), response_model=Nothing
    )
    def ready(request: Request) -> Nothing | Response:
        store.job_counts()
        if is_alive() and not is_stopping():
            return Nothing()
        return answer(request_id_of(request), 503, "the service is stopping")

    @api.get(
        "/metrics",
        summary="Tell Prometheus how the service does",
        response_class=Response,
        responses=TEXT | documented(401, 503),
    )
    def metrics_text() -> Response:
        return Response(metrics.text(), media_type=METRICS_TYPE)

    return api

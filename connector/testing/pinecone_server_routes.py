"""Which call a request to the emulated Pinecone is, and how it is refused."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from .pinecone_server_control import PROJECT
from .pinecone_server_faults import Status
from .pinecone_server_http import Request
from .pinecone_server_rules import RefusedError, control_plane_error, data_plane_error
from .pinecone_server_wire import Answer

NO_KEY: Final = 401
_ROUTES: Final = (
    ("GET", r"/indexes", "list_indexes"),
    ("POST", r"/indexes", "create_index"),
    ("GET", r"/indexes/([^/]+)", "describe_index"),
    ("PATCH", r"/indexes/([^/]+)", "configure_index"),
    ("DELETE", r"/indexes/([^/]+)", "delete_index"),
)
_HOST_ROUTES: Final = (
    ("POST", r"/vectors/upsert", "upsert"),
    ("POST", r"/query", "query"),
    ("GET", r"/vectors/fetch", "fetch"),
    ("POST", r"/vectors/fetch_by_metadata", "fetch_by_metadata"),
    ("GET", r"/vectors/list", "list"),
    ("POST", r"/vectors/update", "update"),
    ("POST", r"/vectors/delete", "delete"),
    ("POST", r"/describe_index_stats", "stats"),
    ("GET", r"/namespaces", "list_namespaces"),
    ("POST", r"/namespaces", "create_namespace"),
    ("GET", r"/namespaces/([^/]+)", "describe_namespace"),
    ("DELETE", r"/namespaces/([^/]+)", "delete_namespace"),
    ("GET", r"/namespace-aliases", "list_aliases"),
    ("POST", r"/namespace-aliases", "create_alias"),
    ("GET", r"/namespace-aliases/([^/]+)", "describe_alias"),
    ("PATCH", r"/namespace-aliases/([^/]+)", "repoint_alias"),
    ("DELETE", r"/namespace-aliases/([^/]+)", "delete_alias"),
)
_HOST: Final = re.compile(rf"/hosts/([^/]+)-{PROJECT}(/.*)")
ROUTES: Final = tuple(route for _, _, route in _ROUTES + _HOST_ROUTES)
"""What calls are named, in `on`, `calls` and `requests`."""


def find_route(request: Request) -> tuple[str, str | None, str]:
    """Tell the route of a request, the index it goes to (None: the controller), and what its path names."""
    host = _HOST.fullmatch(request.path)
    index, path = (unquote(host[1]), host[2]) if host else (None, request.path)
    for method, pattern, route in _HOST_ROUTES if host else _ROUTES:
        if method == request.method and (fits := re.fullmatch(pattern, path)):
            return route, index, unquote(fits[1]) if fits.groups() else ""
    return "unknown", index, ""


def answer_of(fault: Status, index: str | None) -> Answer:
    """Give the error that a fault stands for."""
    answer = injected(fault.status, fault.message, index)
    if fault.body is not None:
        answer = Answer(fault.body.encode(), fault.status, {"Content-Type": "text/html"})
    if fault.retry_after is not None:
        wait = fault.retry_after
        answer.headers["Retry-After"] = wait if isinstance(wait, str) else f"{wait:g}"
    return answer


def injected(status: int, message: str, index: str | None) -> Answer:
    """Give an error that nothing but a fault is the cause of."""
    return refusal(RefusedError(status, message or f"injected {status}"), index)


def refusal(refused: RefusedError, index: str | None) -> Answer:
    """Say no, in the form of the controller (no index) or of an index host."""
    if index is None:
        return Answer(control_plane_error(refused), refused.status)
    if refused.status == NO_KEY:
        return Answer(refused.message.encode(), 401, {"Content-Type": "text/plain"})  # OpenAPI
    return Answer(data_plane_error(refused), refused.status)

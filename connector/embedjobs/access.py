"""Who may call: whoever sends the key. What is not named here as open is closed, addresses that do not exist included.

    open                              why
    --------------------------------  ----------------------------------------------------
    /health, /ready                   an orchestrator asks them, and they tell nothing else
    /openapi.json, /docs              the same for every service
    /parts/...                        the link is signed, see `links`
    /v1/tokenizers/...                SDKs send no key for them, and they are the same for everybody

So /metrics needs the key where there is one; Prometheus sends it as `authorization: credentials`. Without a key
everything is open, which `server` allows on this machine alone.
"""

from __future__ import annotations

import hmac
from typing import Any, Final

from pydantic import SecretStr
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from connector.errors import ConfigError
from connector.serving.listening import is_this_machine

from .api_models import TOKENIZERS
from .failures import answer, request_id_of

OPEN: Final = frozenset({"/health", "/ready", "/openapi.json", "/docs"})
OPEN_BELOW: Final = ("/parts/", TOKENIZERS)
SCHEME: Final = "key"


def is_open(path: str) -> bool:
    """Tell whether an address needs no key."""
    return path in OPEN or path.startswith(OPEN_BELOW)


def declare(document: dict[str, Any]) -> None:
    """Say in an OpenAPI document which calls need the key."""
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes[SCHEME] = {"type": "http", "scheme": "bearer"}
    for path, calls in document["paths"].items():
        for call in calls.values():
            call["security"] = [] if is_open(path) else [{SCHEME: []}]


class KeyGate:
    """ASGI: asks for the key before anything of a request's body is read."""

    def __init__(self, app: ASGIApp, *, key: SecretStr | None) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope["path"]) or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        refusal = answer(request_id_of(Request(scope)), 401, "invalid api token", {"WWW-Authenticate": "Bearer"})
        await refusal(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        """Compare bytes in constant time; the scheme may be in any case, as SDK 4 and curl send it."""
        if self._key is None:
            return True
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = sent[0].partition(b" ") if len(sent) == 1 else (b"", b"", b"")
        right = hmac.compare_digest(token.strip(), self._key.get_secret_value().encode())
        return right and scheme.lower() == b"bearer"


def check_exposure(host: str, key: SecretStr | None) -> None:
    """Refuse to serve strangers without a key, or with one that nobody has to know."""
    if key is not None and not key.get_secret_value().strip():
        raise ConfigError("the key of the service is empty; set one, or leave it out to serve this machine alone")
    if key is not None and key.get_secret_value() != key.get_secret_value().strip():
        raise ConfigError("the key of the service begins or ends with a blank, which clients cannot send; set another")
    if key is None and not is_this_machine(host):
        raise ConfigError(
            f"serving {host} needs a key, or anybody could read and delete the datasets; set "
            "VECTOR_SYNC_EMBED_JOBS__API_KEY, or listen on 127.0.0.1"
        )

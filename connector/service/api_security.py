"""Who may do what, and what browsers are told.

    asked                                what keeps strangers out
    -----------------------------------  ------------------------------------------------------------------------
    anything, on a loopback address      `Host` must name this machine, or 421: a page of a stranger's site whose
                                         name was bound anew to 127.0.0.1 (DNS rebinding) names its own site
    anything                             no page of another site can read an answer (no CORS), frame the page or
                                         have it load or send anything (CSP)
    GET /search                          costs an embedding, so a browser that says that another site's page asks
                                         is refused, 403; who may read the index is settled by `show`
    POST                                 the token, as `Authorization: Bearer`, which no foreign page has; without
                                         a token in the settings nothing can be posted, 403

The token is compared in constant time, and is neither in an answer nor in the log.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from pydantic import SecretStr
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .api_failures import MISDIRECTED, TOO_LARGE, answer

MAX_BODY_BYTES: Final = 10_000
BODY_TOO_LARGE: Final = f"the body is larger than {MAX_BODY_BYTES:,} bytes; send a wish for a run, or nothing"
ON_LOOPBACK: Final = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class Headed:
    """ASGI: gives each answer its headers, whoever made it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, headed)


class Guarded:
    """ASGI: refuses what names another machine or sends too much."""

    def __init__(self, app: ASGIApp, *, loopback_only: bool) -> None:
        self._app = app
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        if self._loopback_only and not names_loopback(scope):
            why = "this service answers to localhost, 127.0.0.1 and [::1] alone; ask it by one of these names"
            return answer(MISDIRECTED, why)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            return answer(TOO_LARGE, BODY_TOO_LARGE)
        return None


def names_loopback(scope: Scope) -> bool:
    """Tell whether a request was meant for this machine, by the one name it gives."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return len(hosts) == 1 and ON_LOOPBACK.fullmatch(hosts[0]) is not None


def check_token(request: Request, token: SecretStr | None) -> None:
    """Let nobody pass but who sends the token, the scheme in any case.

    Raises:
        HTTPException: 403 if there is no token, 401 if another one was sent, or none.
    """
    if token is None:
        raise HTTPException(403, "no token is set, so nothing can be asked for; set VECTOR_SYNC_SERVICE__TOKEN")
    sent = request.headers.getlist("authorization")
    scheme, _, credentials = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
    # Hashes, for a comparison of unequal lengths would tell how long the token is. Headers are latin-1 to Starlette.
    right = hmac.compare_digest(
        hashlib.sha256(credentials.strip().encode("latin-1")).digest(),
        hashlib.sha256(token.get_secret_value().encode()).digest(),
    )
    if not right or scheme.lower() != "bearer":
        raise HTTPException(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})


def check_same_site(request: Request) -> None:
    """Refuse what a page of another site has a browser ask. Whatever is no browser says nothing of this kind."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HTTPException(403, "a page of another site may not search here")

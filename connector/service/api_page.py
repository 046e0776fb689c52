"""The status page's four files, as they lie in `page/`: read once, and served with a mark of what is in them.

A browser asks each time whether they have changed, and is told so in 304: after an upgrade nobody sees an old page.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILES: Final = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
NOT_MODIFIED: Final = 304


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, name: str, media_type: str) -> Asset:
        content = files(__package__).joinpath("page", name).read_bytes()
        return cls(content, media_type, f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"')

    def answer(self, request: Request) -> Response:
        """Answer with the file, or that the browser's copy is still right."""
        headers = {"ETag": self.etag, "Cache-Control": "no-cache"}
        if self._is_known(request.headers.get("if-none-match", "")):
            return Response(status_code=NOT_MODIFIED, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)

    def _is_known(self, if_none_match: str) -> bool:
        """Compare weakly, as the standard has it for GET."""
        known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
        return bool(known & {self.etag, "*"})


def page_routes() -> list[Route]:
    """Make the routes of the page."""
    return [_route(path, Asset.read(name, media_type)) for path, (name, media_type) in FILES.items()]


def _route(path: str, asset: Asset) -> Route:
    async def page(request: Request) -> Response:
        return asset.answer(request)

    return Route(path, page, methods=["GET"])

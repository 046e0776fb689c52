"""Links to a dataset's files that need no key: whoever has one may read that file, until it expires.

    {base}/parts/{dataset id}/{file}?exp={unix seconds}&sig={HMAC-SHA256 of path and exp}

SDKs download with a plain GET and no Authorization header, as from the hosted service's object store. The signature
covers the path without the base, so a proxy may add a prefix.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import datetime
from typing import ClassVar, Final
from urllib.parse import quote

from .refusals import RefusalError

LIFE_SECONDS: Final = 14_399  # X-Goog-Expires of the hosted service's links
EXPIRY: Final = re.compile(r"[0-9]{1,12}")
FORGED: Final = "the link is incomplete or was altered; get the dataset again for a new one"


class ForbiddenError(RefusalError):
    """The link is not, or no longer, one of ours."""

    status: ClassVar[int] = 403


class Links:
    """Makes and checks the links of one service."""

    def __init__(self, key: bytes, *, now: Callable[[], datetime], life_seconds: int = LIFE_SECONDS) -> None:
        self._key = key
        self._now = now
        self._life_seconds = life_seconds

    def make(self, base: str, dataset_id: str, file: str) -> str:
        """Link to a file. `base` is the service's address as the client knows it."""
        expiry = str(int(self._now().timestamp()) + self._life_seconds)
        signature = self._sign(dataset_id, file, expiry)
        return (
            f"{base.rstrip('/')}/parts/{quote(dataset_id, safe='')}/{quote(file, safe='')}?exp={expiry}&sig={signature}"
        )

    def check(self, dataset_id: str, file: str, expiry: str, signature: str) -> None:
        """Check what a client came with; ForbiddenError if we did not make it, or made it too long ago."""
        right = self._sign(dataset_id, file, expiry)
        if not hmac.compare_digest(right.encode(), signature.encode()) or not EXPIRY.fullmatch(expiry):
            raise ForbiddenError(FORGED)
        if int(expiry) <= self._now().timestamp():
            raise ForbiddenError("the link has expired; get the dataset again for a new one")

    def _sign(self, dataset_id: str, file: str, expiry: str) -> str:
        signed = f"/parts/{dataset_id}/{file}\n{expiry}"
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()

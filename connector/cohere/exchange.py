"""One HTTP exchange at a time, with the key where it belongs, and each failure as an error of ours. Retries nothing."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, TypeAlias

import httpx
from pydantic import SecretStr

from connector import __version__
from connector.errors import ConfigError, TransientError

from .failures import LinkRefusedError, of_answer, of_content, of_transport, one_line

Query: TypeAlias = Sequence[tuple[str, str | int | bool]]

REDIRECTS: Final = 5
LINK_REFUSED: Final = frozenset({400, 401, 403, 404, 410})
"""What is said of a link that has expired: by S3 403, by Google 400 with "ExpiredToken", by others 401, 404, 410."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for the other side to do anything at all; no limit on the whole."""

    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    write_seconds: float = 60.0
    made_seconds: float = 300.0  # for the answer to a request that makes something: giving up leaves it in doubt

    def of(self, *, makes: bool) -> httpx.Timeout:
        """Write them as httpx reads them."""
        return httpx.Timeout(
            connect=self.connect_seconds,
            read=self.made_seconds if makes else self.read_seconds,
            write=self.write_seconds,
            pool=self.connect_seconds,
        )


class Exchange:
    """The way to one service. May be used from several threads.

    The key goes to the service, and to nobody else: requests to the service follow no redirect, and links to
    parts, which may lead to any host, are asked for without it.
    """

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr | None,
        *,
        timeouts: Timeouts,
        transport: httpx.BaseTransport | None,
        on_warning: Callable[[str], None],
        now: Callable[[], datetime],
    ) -> None:
        self.root: Final = root_of(base_url)
        self._key = checked_key(api_key)
        self._timeouts = timeouts
        self._on_warning = on_warning
        self._now = now
        self._http = httpx.Client(transport=transport, headers={"User-Agent": f"vector-sync/{__version__}"})
        logging.getLogger("httpx").addFilter(_without_query)

    def close(self) -> None:
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        makes: bool = False,
    ) -> bytes:
        """Make one request, and give the JSON it is answered with; `makes` is for what must not be repeated blindly."""
        what = f"{method} {self.root}{path}"
        request = self._http.build_request(
            method,
            f"{self.root}{path}",
            params=[(name, _written(value)) for name, value in query],
            content=content,
            headers={**self._own_headers(), **(headers or {})},
            timeout=self._timeouts.of(makes=makes),
        )
        try:
            response = self._http.send(request)
        except httpx.RequestError as error:
            raise of_transport(error, what, makes=makes) from None
        if not response.is_success:
            raise of_answer(response, what, makes=makes, hidden=self._hidden, now=self._now())
        if warning := response.headers.get("x-api-warning"):
            self._on_warning(self._hidden(one_line(warning)))
        content_type = response.headers.get("content-type", "")
        if response.content and "json" not in content_type.lower() and not response.content.lstrip().startswith(b"{"):
            raise of_content(content_type, what, makes=makes)
        return response.content

    @contextmanager
    def open_link(self, url: str, *, first_byte: int = 0) -> Iterator[Iterator[bytes]]:
        """Ask for a file, from a byte on, by a link that authorises by itself; give its bytes as they come.

        LinkRefusedError, TransientError or ConfigError now, TransientError while the bytes are read. A store that
        gives no ranges is read from its first byte, and what was not asked for is left out.
        """
        link = self._link(url)
        what = f"GET {link.copy_with(query=None)}"
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={first_byte}-"} if first_byte else {})
        timeout = self._timeouts.of(makes=False)
        try:
            for _ in range(REDIRECTS):
                with self._http.stream("GET", link, headers=headers, timeout=timeout) as response:
                    if not response.has_redirect_location:
                        self._refuse_bad(response, what)
                        yield _pieces(response, what, first_byte)
                        return
                    link = _next(link, response)
        except httpx.RequestError as error:
            raise of_transport(error, what, makes=False) from None
        raise ConfigError(f"{what}: more than {REDIRECTS} redirects, one after the other")

    def _own_headers(self) -> dict[str, str]:
        authorization = {"Authorization": f"Bearer {self._key.get_secret_value()}"} if self._key else {}
        return {"Accept": "application/json", "X-Client-Name": "vector-sync", **authorization}

    def _hidden(self, words: str) -> str:
        return words.replace(self._key.get_secret_value(), "**********") if self._key else words

    def _link(self, url: str) -> httpx.URL:
        try:
            link = httpx.URL(f"{self.root}{url}" if url.startswith("/") else url)
        except (httpx.InvalidURL, TypeError):
            raise ConfigError(f"{self.root} gives a link to a result that is no URL") from None
        if link.scheme not in ("https", "http") or not link.host:
            raise ConfigError(f"{self.root} gives a link to a result that is no web address")
        if self.root.startswith("https:") and link.scheme != "https":
            raise ConfigError(
                f"{self.root} is reached by https, but gives a link to its result that is http, on {link.host}; "
                "a self-hosted service needs its public URL set"
            )
        return link

    def _refuse_bad(self, response: httpx.Response, what: str) -> None:
        status = response.status_code
        if response.is_success:
            return
        if status in LINK_REFUSED:
            raise LinkRefusedError(f"{what}: HTTP {status}, the link has expired, or is not valid")
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise TransientError(f"{what}: HTTP {status}, the file is shorter than it should be")
        response.read()
        raise of_answer(response, what, makes=False, hidden=self._hidden, now=self._now())


def root_of(base_url: str) -> str:
    """Check the address of a service, and write it without `/v1`, whether it was given with it or not."""
    try:
        url = httpx.URL(base_url.strip())
    except httpx.InvalidURL:
        raise ConfigError("the URL of the service cannot be read; write it as in https://api.cohere.com") from None
    if url.scheme not in ("https", "http") or not url.host:
        raise ConfigError(f"{one_line(base_url)!r} is no web address; write it as in https://api.cohere.com")
    if url.userinfo or url.query or url.fragment:
        raise ConfigError(f"the URL of the service on {url.host} has more than a path; give the key apart from it")
    return str(url).rstrip("/").removesuffix("/v1").rstrip("/")


def checked_key(api_key: SecretStr | None) -> SecretStr | None:
    """Refuse a key that no header can carry, without showing any of it."""
    if api_key is None:
        return None
    key = api_key.get_secret_value()
    if not key:
        raise ConfigError("the API key is empty; leave it out for a service that needs none")
    if key != key.strip():
        raise ConfigError("the API key begins or ends with a space or a line break; take that out")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("the API key has characters that no header can carry; is it the key, and nothing else?")
    return api_key


def _pieces(response: httpx.Response, what: str, first_byte: int) -> Iterator[bytes]:
    """Read a body from a byte on, whether it begins there or at the file's first."""
    left_out = first_byte
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        begins = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
        if not begins or int(begins[1]) > first_byte:
            raise TransientError(f"{what}: the answer to a range from byte {first_byte} does not begin there")
        left_out -= int(begins[1])
    try:
        for piece in response.iter_bytes():
            if left_out < len(piece):
                yield piece[left_out:]
            left_out = max(0, left_out - len(piece))
    except httpx.RequestError as error:
        raise of_transport(error, what, makes=False) from None


def utc_now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


def _written(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _next(link: httpx.URL, response: httpx.Response) -> httpx.URL:
    """Follow a redirect of a link, but not out of https or into anything else."""
    to = link.join(response.headers["location"])
    if to.scheme != link.scheme:
        raise ConfigError(f"the link to a result on {link.host} leads from {link.scheme} to {to.scheme}; not followed")
    return to


def _without_query(record: logging.LogRecord) -> bool:
    """Take the query out of the URLs that httpx logs: that of a link to a part is all one needs to read it."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            argument.copy_with(query=None) if isinstance(argument, httpx.URL) else argument for argument in record.args
        )
    return True

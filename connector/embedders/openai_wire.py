"""One exchange with a server of OpenAI's API for embeddings, and each failure as an error of ours. Retries nothing.

    answer                                   error
    ---------------------------------------  -----------------------------------------------------
    none, or half of one                     TransientError; made again, it may be billed again
    2xx that is not of this API, or 3xx      ConfigError: the URL is wrong
    401, 402, 403, 404, 405, 407             ConfigError: the key, the billing, the model, the URL
    408, 409, 425, 429, 5xx                  TransientError, with the wait that was named
    429 for want of credit                   ConfigError: `insufficient_quota` does not pass
    400, 413, 422 and all other 4xx          RejectedError, in the service's words

Vectors are asked for as base64, a third of the bytes of decimals and exact; a server that does not know it answers
with lists all the same, or refuses the word `encoding_format`, and is then asked for lists from there on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import numpy as np

from connector.cohere.exchange import checked_key
from connector.cohere.failures import of_transport, one_line, retry_after_seconds
from connector.errors import ConfigError, ConnectorError, RejectedError, TransientError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from connector.model import Vectors

HOSTED_HOST: Final = "api.openai.com"
CONNECT_SECONDS: Final = 10.0
MAY_PASS: Final = frozenset({408, 409, 425, 429})
ADVICE: Final = {
    401: "check the API key",
    402: "check the billing of the account",
    403: "check the API key and what it may do",
    404: "is the model right, and the URL, which mostly ends in /v1?",
    405: "is the URL right? It mostly ends in /v1",
    407: "the proxy wants a login",
}
NO_CREDIT: Final = "insufficient_quota"
"""OpenAI's code of a 429 that does not pass by itself: "check your plan and billing details" (answers of 2026)."""


class _Vector(msgspec.Struct, frozen=True):
    embedding: str | list[float]
    index: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    total_tokens: int | None = None
    prompt_tokens: int | None = None


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Vector]
    usage: _Usage | None = None


class Embedded(NamedTuple):
    """The vectors of one call, in the order of its texts."""

    vectors: Vectors
    billed_tokens: int  # 0 if the service does not say


class OpenAI:
    """One server, and the key for it. May be used from several threads."""

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr | None,
        *,
        timeout_seconds: float,
    ) -> None:
        """Connect to nothing yet. ConfigError for an address or a key that cannot work; it never shows the key."""
        self.url: Final = _checked_url(base_url)
        self._key = checked_key(api_key)
        self._takes_base64 = True
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        self._http = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS))

    def __repr__(self) -> str:
        return f"OpenAI({self.url!r})"

    @property
    def is_hosted(self) -> bool:
        """Whether this is OpenAI itself."""
        return urlsplit(self.url).hostname == HOSTED_HOST

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._http.close()

    def find_model(self, model: str) -> None:
        """Ask whether there is such a model for this key; ConfigError if not."""
        self._ask("GET", f"{self.url}/models/{quote(model, safe='')}")

    def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embedded:
        """Embed some texts."""
        body: dict[str, object] = {"model": model, "input": list(texts)}
        if dimensions is not None:
            body["dimensions"] = dimensions
        url = f"{self.url}/embeddings"
        if not self._takes_base64:
            return self._embedded(self._ask("POST", url, body | {"encoding_format": "float"}), url, len(texts))
        try:
            raw = self._ask("POST", url, body | {"encoding_format": "base64"})
        except RejectedError as error:
            if "encoding_format" not in str(error) and "base64" not in str(error):
                raise
            raw = self._ask("POST", url, body | {"encoding_format": "float"})
            self._takes_base64 = False
        return self._embedded(raw, url, len(texts))

    def _ask(self, method: str, url: str, body: dict[str, object] | None = None) -> bytes:
        what = f"{method} {url}"
        content = None if body is None else msgspec.json.encode(body)
        try:
            response = self._http.request(method, url, content=content)
        except httpx.RequestError as error:
            raise of_transport(error, what, makes=False) from None
        if not response.is_success:
            raise self._of_answer(response, what)
        return response.content

    def _of_answer(self, response: httpx.Response, what: str) -> ConnectorError:
        status = response.status_code
        if response.has_redirect_location:
            to = self._hidden(one_line(str(response.url.join(response.headers["location"]).copy_with(query=None))))
            return ConfigError(f"{what}: HTTP {status}, which sends on to {to}; write the URL so that it is the last")
        said = f"{what}: HTTP {status}, {self._hidden(one_line(_words(response)))}"
        if status in ADVICE:
            return ConfigError(f"{said}; {ADVICE[status]}")
        if status == HTTPStatus.TOO_MANY_REQUESTS and NO_CREDIT in response.text:
            return ConfigError(f"{said}; check the billing of the account")
        if status in MAY_PASS or response.is_server_error:
            wait_seconds = retry_after_seconds(response.headers, now=datetime.now(UTC))
            return TransientError(said, retry_after_seconds=wait_seconds)
        return RejectedError(said)

    def _hidden(self, words: str) -> str:
        return words.replace(self._key.get_secret_value(), "**********") if self._key else words

    def _embedded(self, raw: bytes, url: str, texts: int) -> Embedded:
        try:
            answer = msgspec.json.decode(raw, type=_Answer, strict=False)
            vectors = _in_order(answer.data, texts)
        except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, ValueError) as error:
            raise ConfigError(
                f"POST {url}: the answer is none of OpenAI's API: {one_line(str(error))}; is the URL right?"
            ) from None
        if not np.isfinite(vectors).all():
            raise RejectedError(f"POST {url}: a vector has parts that are not finite numbers")
        usage = answer.usage
        return Embedded(vectors, (usage.total_tokens or usage.prompt_tokens or 0) if usage else 0)


def _checked_url(base_url: str) -> str:
    try:
        url = httpx.URL(base_url.strip())
    except httpx.InvalidURL:
        raise ConfigError(f"the URL of the service cannot be read; write it as in https://{HOSTED_HOST}/v1") from None
    if url.scheme not in ("https", "http") or not url.host:
        raise ConfigError(f"{one_line(base_url)!r} is no web address; write it as in https://{HOSTED_HOST}/v1")
    if url.userinfo or url.query or url.fragment:
        raise ConfigError(f"the URL of the service on {url.host} has more than a path; give the key apart from it")
    return str(url).rstrip("/").removesuffix("/embeddings")


def _words(response: httpx.Response) -> str:
    """Find what is said: {"error": {"message": ...}} at OpenAI, {"error": ...} or {"message": ...} at others."""
    try:
        fields = msgspec.json.decode(response.content, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        fields = {}
    inner = fields.get("error")
    for words in (
        inner.get("message") if isinstance(inner, dict) else inner,
        fields.get("message"),
        fields.get("detail"),
    ):
        if words:
            return words if isinstance(words, str) else str(words)
    return response.reason_phrase.lower() or "no reason given"


def _in_order(rows: Sequence[_Vector], texts: int) -> Vectors:
    """Put vectors in the order of their texts, by `index` where there is one; ValueError if they are not one a text."""
    if len(rows) != texts:
        raise ValueError(f"{len(rows)} vectors for {texts} texts")
    places = [row.index for row in rows]
    if any(place is not None for place in places):
        rows = sorted(rows, key=lambda row: -1 if row.index is None else row.index)
        if [row.index for row in rows] != list(range(texts)):
            raise ValueError("the indexes of the vectors are not those of the texts")
    vectors: Vectors = np.stack([_numbers(row.embedding) for row in rows])
    return vectors


def _numbers(embedding: str | list[float]) -> Vectors:
    if isinstance(embedding, str):
        found: Vectors = np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float32)
        return found
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told as such
        return np.array(embedding, dtype=np.float32)

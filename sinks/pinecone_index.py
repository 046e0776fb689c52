"""Reach Pinecone: its control plane, the indexes, and the namespace aliases that the SDK does not know yet.

One call here is one request. The SDK would make up to four, wait between them for as long as the service names, and say
nothing of it (10.2.0); here the delivery retries, and tells.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx
from pinecone import Index, Pinecone, RetryConfig, ServerlessSpec, errors

API_VERSION: Final = "2026-07"
"""Of namespace aliases; older ones do not have them."""
CONTROLLER: Final = "https://api.pinecone.io"
NO_KEY: Final = "none"
"""Emulators ask for no key, and the SDK insists on one; it would take it from the environment."""
CREATION_SECONDS: Final = 300
ONE_ATTEMPT: Final = RetryConfig(max_retries=0)
SOURCE_TAG: Final = "vector_sync"


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """What is known of an index."""

    host: str
    dimension: int | None  # None: it has no dense vectors, or does not say
    metric: str | None
    is_ready: bool = True
    tags: dict[str, str] = field(default_factory=dict)


class Service:
    """One project at Pinecone, or one index if only its host is known. All methods raise what the SDK raises."""

    def __init__(self, *, api_key: str, controller_host: str | None, host: str | None, timeout_seconds: float) -> None:
        self._host = host
        self._key = api_key or NO_KEY
        self._timeout_seconds = timeout_seconds
        self._controller_host = controller_host or CONTROLLER
        self._lock = threading.RLock()
        self._controller: Pinecone | None = None
        self._hosts: dict[str, str] = {}  # of indexes, by their names, as far as they are known
        self._clients: dict[str, Index] = {}  # by host
        self._alias_clients: dict[str, httpx.Client] = {}

    @property
    def has_control_plane(self) -> bool:
        """Whether indexes can be described and made; not if the settings name the host of one."""
        return self._host is None

    def describe(self, index: str) -> IndexFacts | None:
        """Describe an index; None if there is none."""
        try:
            if self._host is not None:
                stats = self.open(index).describe_index_stats(timeout=self._timeout_seconds)
                return IndexFacts(self._host, stats.dimension or None, stats.metric)
            model = self._pinecone().indexes.describe(index)
        except errors.NotFoundError:
            return None
        dimension: int | None = getattr(model, "dimension", None)
        metric: str | None = getattr(model, "metric", None)
        host = self._reachable(model.host or "")
        with self._lock:
            self._hosts[index] = host
        return IndexFacts(host, dimension, metric, bool(model.status.ready and host), dict(model.tags or {}))

    def create(self, index: str, *, dimension: int, metric: str, cloud: str, region: str, tags: dict[str, str]) -> None:
        """Make a serverless index, and wait until it is ready. One that is there already is left as it is."""
        try:
            self._pinecone().indexes.create(
                name=index,
                spec=ServerlessSpec(cloud=cloud, region=region),
                dimension=dimension,
                metric=metric,
                tags=tags,
                timeout=CREATION_SECONDS,
            )
        except errors.ConflictError:
            if self.describe(index) is None:
                raise

    def remove(self, index: str) -> None:
        """Delete an index; it is no error if there is none. It is gone for good when this returns, if not at once."""
        with self._lock:
            self._hosts.pop(index, None)
        with suppress(errors.NotFoundError):
            self._pinecone().indexes.delete(index, timeout=-1)

    def open(self, index: str) -> Index:
        """Give a client of an index; NotFoundError if there is none."""
        host = self._found(index)
        with self._lock:
            if host not in self._clients:
                self._clients[host] = client = Index(
                    host=host,
                    api_key=self._key,
                    timeout=self._timeout_seconds,
                    ssl_verify=_is_secure(host),
                    source_tag=SOURCE_TAG,
                )
                _make_one_attempt(client)
            return self._clients[host]

    def aliases(self, index: str) -> NamespaceAliases:
        """Give a client of an index's namespace aliases."""
        host = self._found(index)
        with self._lock:
            if host not in self._alias_clients:
                headers = {"Api-Key": self._key, "X-Pinecone-Api-Version": API_VERSION}
                self._alias_clients[host] = httpx.Client(
                    base_url=host, timeout=self._timeout_seconds, headers=headers, verify=_is_secure(host)
                )
            return NamespaceAliases(self._alias_clients[host])

    def has_namespace(self, index: str, namespace: str) -> bool:
        """Tell whether an index has a namespace of that name."""
        try:
            self.open(index).describe_namespace(name=namespace)
        except errors.NotFoundError:
            return False
        return True

    def forget(self) -> None:
        """Look up anew where the indexes are: they may have been made anew."""
        with self._lock:
            self._hosts = {}

    def close(self) -> None:
        with self._lock, ExitStack() as closed:
            for client in self._clients.values():
                closed.callback(client.close)
            for alias_client in self._alias_clients.values():
                closed.callback(alias_client.close)
            if self._controller is not None:
                closed.callback(self._controller.close)
            self._hosts, self._clients, self._alias_clients, self._controller = {}, {}, {}, None

    def _found(self, index: str) -> str:
        if self._host is not None:
            return self._host
        with self._lock:
            host = self._hosts.get(index)
        if not host:
            facts = self.describe(index)
            if facts is None or not facts.host:
                raise errors.NotFoundError(f'there is no index "{index}"')
            host = facts.host
        return host

    def _pinecone(self) -> Pinecone:
        with self._lock:
            if self._controller is None:
                self._controller = Pinecone(
                    api_key=self._key,
                    host=self._controller_host,
                    timeout=self._timeout_seconds,
                    retry_config=ONE_ATTEMPT,
                    ssl_verify=_is_secure(self._controller_host),
                    source_tag=SOURCE_TAG,
                )
            return self._controller

    def _reachable(self, host: str) -> str:
        """Mend the address of an emulator: Pinecone Local names no scheme, and the SDK then takes https."""
        is_local = host.removeprefix("https://").partition(":")[0] in ("localhost", "127.0.0.1")
        if is_local and self._controller_host.startswith("http://"):
            return f"http://{host.removeprefix('https://')}"
        return host


@dataclass(frozen=True, slots=True)
class NamespaceAliases:
    """The namespace aliases of one index (docs.pinecone.io, "Namespace aliases", read 2026-11): by REST only."""

    client: httpx.Client

    def are_offered(self) -> bool:
        """Tell whether the index has aliases at all."""
        return self._send("GET", "/namespace-aliases?limit=1", missing=(404, 405, 501)) is not None

    def target(self, alias: str) -> str | None:
        """Say which namespace an alias leads to; None if there is no such alias."""
        answer = self._send("GET", f"/namespace-aliases/{quote(alias, safe='')}", missing=(404,))
        return None if answer is None else str(answer.get("target_namespace", ""))

    def point(self, alias: str, namespace: str) -> None:
        """Lead an alias to a namespace, in one step; make it if there is none."""
        there = self._send(
            "PATCH", f"/namespace-aliases/{quote(alias, safe='')}", {"target_namespace": namespace}, missing=(404,)
        )
        if there is None:
            body = {"name": alias, "target_namespace": namespace}
            made = self._send("POST", "/namespace-aliases", body, missing=(409,))
            if made is None and self.target(alias) != namespace:
                raise errors.ConflictError(f'the alias "{alias}" cannot be made: the name is taken')

    def _send(
        self, method: str, path: str, body: dict[str, str] | None = None, *, missing: tuple[int, ...]
    ) -> dict[str, Any] | None:
        try:
            response = self.client.request(method, path, json=body)
        except httpx.TimeoutException as error:
            raise errors.PineconeTimeoutError(f"no answer in time ({error})") from error
        except httpx.TransportError as error:
            raise errors.PineconeConnectionError(f"no connection ({error})") from error
        if response.status_code in missing:
            return None
        answer = _json_object(response)
        if not response.is_success:
            words = str(answer.get("message") or response.text or response.reason_phrase)
            raise errors.ApiError(words, response.status_code, headers=dict(response.headers))
        return answer


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _is_secure(host: str) -> bool:
    """Tell whether there are certificates to check; without, they need not be loaded, which takes 20 ms a client."""
    return not host.startswith("http://")


def _make_one_attempt(client: Index) -> None:
    """Keep the SDK from retrying by itself; if another version of it is built otherwise, it does, which is only slow.

    `Pinecone(retry_config=)` does not reach the data plane, and nothing public does (10.2.0).
    """
    transport = getattr(getattr(getattr(client, "_http", None), "_client", None), "_transport", None)
    if isinstance(getattr(transport, "_config", None), RetryConfig):
        transport._config = ONE_ATTEMPT  # type: ignore[union-attr]  # noqa: SLF001 - there is no other way

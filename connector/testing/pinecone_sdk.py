"""The official Pinecone SDK, in tests: without the waits between its retries.

The SDK makes each call up to four times, with pauses of 0.25 s to 60 s in between. And it keeps count, for the whole
process and each name of a host: about fifty failures, and it stops retrying (pinecone 10.2, read 2026-11).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from ssl import SSLContext
from typing import Any, Final
from unittest.mock import patch

import httpx

_TRANSPORT: Final = "pinecone._internal.http_client"
_POLLING: Final = ("pinecone._internal.indexes_helpers", "pinecone.client.indexes", "pinecone.async_client.indexes")


@contextmanager
def without_waiting() -> Iterator[list[float]]:
    """Have the SDK wait for nothing, in the whole process; gives the seconds that its retries would have waited.

    What it remembers of failures is forgotten before and after, so that no test depends on those before it.
    Certificates are loaded once for all clients and not for each, which takes 0.09 CPU seconds even for plain HTTP.
    """
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    transport = importlib.import_module(_TRANSPORT)
    forget_failures()
    with ExitStack() as patches:
        for name in _POLLING:
            patches.enter_context(patch.object(importlib.import_module(name), "poll_sleep_seconds", _at_once))
        verified = _verified(transport._build_ssl_verify)  # noqa: SLF001 - private, as all of it is
        patches.enter_context(patch.object(transport, "_build_ssl_verify", verified))
        patches.enter_context(patch.object(transport, "_retry_sleep", waits.append))
        patches.enter_context(patch.object(transport, "_async_retry_sleep", note))
        yield waits
    forget_failures()


@cache
def _certificates() -> SSLContext:
    return httpx.create_ssl_context()


def _verified(as_ever: Callable[[Any], SSLContext | bool]) -> Callable[[Any], SSLContext | bool]:
    return lambda config: as_ever(config) if config.ssl_ca_certs or not config.ssl_verify else _certificates()


def _at_once(*_: object) -> float:
    return 0.0


def forget_failures() -> None:
    """Have the SDK forget how often hosts have failed."""
    importlib.import_module(_TRANSPORT).get_budget_registry()._reset()  # noqa: SLF001 - it offers no other way
    importlib.import_module("pinecone._internal.bulk").get_registry()._reset()  # noqa: SLF001

"""The emulated Pinecone and the official SDK, as its tests use them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pinecone import Index, Pinecone, ServerlessSpec
from pinecone.errors import (
    ApiError,
)

from connector.testing.pinecone_sdk import without_waiting
from connector.testing.pinecone_server import PineconeServer

SERVERLESS = ServerlessSpec(cloud="aws", region="us-east-1")
E = [1.0, 0.0, 0.0]
BASIS = {"x": [1.0, 0.0, 0.0], "y": [0.0, 1.0, 0.0], "z": [0.0, 0.0, 1.0]}


@pytest.fixture
def waits() -> Iterator[list[float]]:
    with without_waiting() as waits:
        yield waits


@pytest.fixture
def server(waits: list[float]) -> Iterator[PineconeServer]:
    with PineconeServer() as server:
        yield server


@pytest.fixture
def client(server: PineconeServer) -> Iterator[Pinecone]:
    with Pinecone(api_key="key", host=server.url) as client:
        yield client


@pytest.fixture
def index(server: PineconeServer) -> Iterator[Index]:
    with Index(host=server.create("docs", 3), api_key="key") as index:
        yield index


def listed(index: Index, **asked: Any) -> list[str]:
    return [one.id or "" for one_page in index.list(**asked) for one in one_page.vectors]


def refused(call: Any, *words: str, kind: type[ApiError] = ApiError, status: int = 400) -> ApiError:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.status_code == status
    for word in words:
        assert word in str(caught.value)
    return caught.value


def reason(error: ApiError) -> str:
    assert isinstance(error.body, dict)
    return str(error.body["details"][0]["reason"])

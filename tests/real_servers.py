"""Real servers for tests, by an environment variable or in a container. Where there are none, their tests skip by name.

Qdrant: set VECTOR_SYNC_TEST_QDRANT_URL, and VECTOR_SYNC_TEST_QDRANT_API_KEY if it wants one; or have a container engine
that has the image; or one that may pull it, and VECTOR_SYNC_TEST_CONTAINERS=1. A pull takes minutes, so nobody waits
for it who has not asked.

Pinecone: set VECTOR_SYNC_TEST_PINECONE_API_KEY and VECTOR_SYNC_TEST_PINECONE_INDEX.

Tests write to collections, and namespaces, that have names of their own, and delete them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from uuid import uuid4

import pytest
import requests

QDRANT_IMAGE = "qdrant/qdrant:v1.19.0"
ENGINE_TIMEOUT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class RealServer:
    """Where a real server is, and the key it wants."""

    url: str
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class RealIndex:
    """A real Pinecone index, and the key it wants."""

    name: str
    api_key: str


def unique(prefix: str) -> str:
    """Name a collection or a namespace that nobody else has."""
    return f"{prefix}-{uuid4().hex[:12]}"


@cache
def why_no_qdrant() -> str:
    """Say why there is no real Qdrant; empty if there is one. It asks a container engine for five seconds at most."""
    if os.environ.get("VECTOR_SYNC_TEST_QDRANT_URL"):
        return ""
    wanted = "set VECTOR_SYNC_TEST_QDRANT_URL"
    try:
        import docker
    except ImportError:
        return f"no real Qdrant: testcontainers is not installed; {wanted}"
    try:
        with closing(docker.from_env(timeout=ENGINE_TIMEOUT_SECONDS)) as engine:
            if any(QDRANT_IMAGE in image.tags for image in engine.images.list(QDRANT_IMAGE)):
                return ""
            if os.environ.get("VECTOR_SYNC_TEST_CONTAINERS") != "1":
                missing = f"no real Qdrant: the container engine has no {QDRANT_IMAGE}"
                return f"{missing}; {wanted}, or VECTOR_SYNC_TEST_CONTAINERS=1 to pull it"
            engine.images.get_registry_data(QDRANT_IMAGE)
    except (docker.errors.DockerException, requests.RequestException) as error:
        return f"no real Qdrant: no container engine, or no registry for it ({type(error).__name__}); {wanted}"
    return ""


@pytest.fixture(scope="session")
def real_qdrant() -> Iterator[RealServer]:
    """A real Qdrant server; the test is skipped if there is none."""
    if reason := why_no_qdrant():
        pytest.skip(reason)
    if url := os.environ.get("VECTOR_SYNC_TEST_QDRANT_URL"):
        yield RealServer(url, os.environ.get("VECTOR_SYNC_TEST_QDRANT_API_KEY"))
        return
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # one image less to pull; `with` cleans up
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of testcontainers' own modules
        from testcontainers.community.qdrant import QdrantContainer

        with QdrantContainer(QDRANT_IMAGE) as container:
            yield RealServer(f"http://{container.rest_host_address}")


@pytest.fixture(scope="session")
def real_pinecone() -> RealIndex:
    """A real Pinecone index; the test is skipped if there is none."""
    name, key = os.environ.get("VECTOR_SYNC_TEST_PINECONE_INDEX"), os.environ.get("VECTOR_SYNC_TEST_PINECONE_API_KEY")
    if not (name and key):
        pytest.skip("no real Pinecone: set VECTOR_SYNC_TEST_PINECONE_API_KEY and VECTOR_SYNC_TEST_PINECONE_INDEX")
    return RealIndex(name, key)

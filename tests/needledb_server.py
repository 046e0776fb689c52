"""NeedleDB, a server of Pinecone's data plane that nobody here wrote: a second opinion on what the SDK may expect.

It is not part of the `dev` extra: it brings faiss, 66 MB. It is found where `pip install vector-sync[second-opinion]`
puts it; or in another environment, whose Python VECTOR_SYNC_TEST_NEEDLEDB_PYTHON names. Where it is in neither, tests
that ask for it are skipped, and say so.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

_PYTHON = "VECTOR_SYNC_TEST_NEEDLEDB_PYTHON"
_SERVE = """
import socket, sys, uvicorn
from needledb.server.app import create_app
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(create_app(sys.argv[1], api_keys=[], allow_no_auth=True), log_level="error", access_log=False)
uvicorn.Server(config).run(sockets=[listener])
"""


def needledb_python() -> str:
    """Give the Python that has NeedleDB, or skip."""
    if named := os.environ.get(_PYTHON):
        return named
    if importlib.util.find_spec("needledb") is None:
        pytest.skip(f"needledb is not installed: pip install 'vector-sync[second-opinion]', or set {_PYTHON}")
    return sys.executable


class NeedleServer:
    """A NeedleDB in a process of its own, with its files in a folder."""

    def __init__(self, folder: Path) -> None:
        command = [needledb_python(), "-c", _SERVE, str(folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        assert port, "needledb did not start"
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def create(self, name: str, dimension: int, metric: str = "cosine") -> str:
        """Make an index; give the host that the SDK's data plane is to use. Its controller is not the SDK's."""
        body = {"name": name, "dimension": dimension, "metric": metric}
        httpx.post(f"{self.url}/indexes", json=body, timeout=60).raise_for_status()
        return f"{self.url}/indexes/{name}"

    def delete(self, name: str) -> None:
        httpx.delete(f"{self.url}/indexes/{name}", timeout=60).raise_for_status()

    def records(self, name: str, namespace: str = "") -> dict[str, tuple[list[float], dict[str, Any]]]:
        """Read what an index holds: values and metadata by id."""
        found: dict[str, tuple[list[float], dict[str, Any]]] = {}
        page: dict[str, str] = {}
        host = f"{self.url}/indexes/{name}"
        while True:
            listed = httpx.get(f"{host}/vectors/list", params={"namespace": namespace, **page}, timeout=60).json()
            ids = [each["id"] for each in listed["vectors"]]
            if ids:
                body = {"ids": ids, "namespace": namespace}
                vectors = httpx.post(f"{host}/vectors/fetch", json=body, timeout=60).json()["vectors"]
                found |= {id: (each["values"], each.get("metadata") or {}) for id, each in vectors.items()}
            if not (token := (listed.get("pagination") or {}).get("next")):
                return found
            page = {"paginationToken": token}

"""`vector-sync query-config`: all that an application needs to ask as `search` does, and no secret."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
from cli_rig import CONFIG, Project, install, make_project
from embedjobs_service import in_thread
from pydantic import Field, SecretStr

from connector.model import JsonValue
from connector.plugins import BuildContext, EmbedderSettings, SinkSettings
from connector.ports import Embedder, Sink
from connector.testing.fakes import HashEmbedder
from sinks import qdrant_payload
from sinks.memory import MemorySink

CANARY = "canary-9a4d77"
COHERE = """kind = "cohere"
base_url = "http://127.0.0.1:9/v1"
model = "embed-english-light-v3.0"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return make_project(tmp_path, monkeypatch)


def with_embedder(lines: str) -> str:
    return CONFIG.replace('kind = "hash"\n', lines)


def table(answer: Mapping[str, JsonValue], name: str) -> dict[str, JsonValue]:
    found = answer[name]
    assert isinstance(found, dict)
    return found


class StrangeEmbedder(EmbedderSettings):
    """A stranger's, which has not marked all of its secrets."""

    kind: Literal["strange"] = "strange"
    api_key: SecretStr | None = None
    token: str = CANARY
    deployment: str = "west-2"
    proxy: str = f"https://me:{CANARY}@proxy.example.com/path?sig={CANARY}"
    headers: dict[str, str] = Field(default_factory=lambda: {"X-Team": "search", "Authorization": f"Bearer {CANARY}"})
    cache: Path = Path("cache")
    tokens_per_text: int = 100

    def build(self, context: BuildContext) -> Embedder:
        return HashEmbedder(tokens_per_text=self.tokens_per_text)


class StrangeSink(SinkSettings):
    """A stranger's."""

    kind: Literal["strange"] = "strange"
    api_key: SecretStr | None = None
    index: str = "passages"
    namespace: str | None = None

    def build(self, context: BuildContext) -> Sink:
        return MemorySink(context.name)


@pytest.fixture
def strange(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    install(monkeypatch, {"embedders": {"strange": StrangeEmbedder}, "sinks": {"strange": StrangeSink}})
    project.configure(with_embedder('kind = "strange"\n') + '[sinks.other]\nkind = "strange"\n')
    return project


def test_of_cohere_it_tells_the_service_the_model_and_how_a_question_is_sent(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.configure(with_embedder(COHERE))
    monkeypatch.setenv("VECTOR_SYNC_EMBEDDER__API_KEY", CANARY)
    answer = project.answer("query-config")
    assert table(answer, "embedder") == {
        "kind": "cohere",
        "base_url": "http://127.0.0.1:9/v1",
        "model": "embed-english-light-v3.0",
        "dimension": 384,
        "tokens_per_text": 512,
        "input_type": "search_query",
        "embedding_type": "float",
        "truncate": "NONE",
        "identity": "cohere/127.0.0.1:9/embed-english-light-v3.0/dim384/tokens512/end",
    }
    assert answer["secrets"] == {"embedder.api_key": "VECTOR_SYNC_EMBEDDER__API_KEY"}


def test_the_key_is_shown_by_its_variable_and_never_itself(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.configure(with_embedder(COHERE))
    monkeypatch.setenv("VECTOR_SYNC_EMBEDDER__API_KEY", CANARY)
    for words in (["query-config"], ["query-config", "--json"]):
        result = project.run(*words)
        assert result.exit_code == 0, result.output
        assert CANARY not in result.output
        assert "VECTOR_SYNC_EMBEDDER__API_KEY" in result.stdout


def test_of_a_service_without_a_key_no_variable_is_named(project: Project) -> None:
    project.configure(with_embedder(COHERE))
    assert project.answer("query-config")["secrets"] == {}


def test_of_openai_it_tells_the_prefixes(project: Project) -> None:
    project.configure(
        with_embedder(
            'kind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "e5"\ndimension = 384\n'
            'tokens_per_text = 512\nquery_prefix = "query: "\npassage_prefix = "passage: "\n'
        )
    )
    told = table(project.answer("query-config"), "embedder")
    assert (told["model"], told["query_prefix"], told["passage_prefix"]) == ("e5", "query: ", "passage: ")
    assert "input_type" not in told


def test_of_the_index_it_tells_where_it_is_and_what_is_in_a_record(project: Project) -> None:
    project.configure(CONFIG.replace('"qdrant-edge"\n', '"qdrant-edge"\npath = "there"\ncollection = "mine"\n'))
    answer = project.answer("query-config")
    assert table(answer, "sink") == {
        "name": "main",
        "kind": "qdrant-edge",
        "collection": "mine",
        "distance": "cosine",
        "path": str(project.folder / "there"),
        "generation": 1,
        "folder": str(project.folder / "there" / "mine"),
        "live": str(project.folder / "there" / "mine@live"),
    }
    payload = table(answer, "payload")
    assert [payload[what] for what in ("text", "document", "index", "source", "digest")] == [
        qdrant_payload.TEXT,
        qdrant_payload.DOCUMENT,
        qdrant_payload.INDEX,
        qdrant_payload.SOURCE,
        qdrant_payload.DIGEST,
    ]
    assert answer["filter"] == {qdrant_payload.SOURCE: "default"}


def test_for_people_it_is_toml_and_says_the_same(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.configure(with_embedder(COHERE))
    monkeypatch.setenv("VECTOR_SYNC_EMBEDDER__API_KEY", CANARY)
    result = project.run("query-config")
    assert tomllib.loads(result.stdout) == project.answer("query-config")


def test_a_strangers_parts_are_shown_as_they_are_set(strange: Project) -> None:
    answer = strange.answer("query-config", "--sink", "other")
    assert table(answer, "embedder") == {
        "kind": "strange",
        "cache": str(strange.folder / "cache"),
        "deployment": "west-2",
        "headers": {"Authorization": "(not shown)", "X-Team": "search"},
        "proxy": "https://proxy.example.com/path",
        "token": "(not shown)",
        "tokens_per_text": 100,
        "dimension": 8,
        "input_type": "search_query",
        "identity": "hash/dim8/tokens100",
    }
    assert table(answer, "sink") == {"name": "other", "kind": "strange", "index": "passages", "namespace": None}
    assert (answer["payload"], answer["filter"]) == ({}, {})
    shown = strange.run("query-config", "--sink", "other").stdout
    assert "# namespace is not set" in shown
    assert tomllib.loads(shown)["embedder"]["headers"]["X-Team"] == "search"


def test_a_strangers_secrets_are_shown_by_their_variables_only(
    strange: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOR_SYNC_EMBEDDER__API_KEY", CANARY)
    monkeypatch.setenv("VECTOR_SYNC_SINKS__OTHER__API_KEY", CANARY)
    for words in (["query-config", "--sink", "other"], ["query-config", "--sink", "other", "--json"]):
        result = strange.run(*words)
        assert result.exit_code == 0, result.output
        assert CANARY not in result.output
    assert strange.answer("query-config", "--sink", "other")["secrets"] == {
        "embedder.api_key": "VECTOR_SYNC_EMBEDDER__API_KEY",
        "sink.api_key": "VECTOR_SYNC_SINKS__OTHER__API_KEY",
    }


def test_a_sink_that_is_not_in_the_settings_is_told(project: Project) -> None:
    result = project.run("query-config", "--sink", "other")
    assert result.exit_code == 2
    assert 'there is no sink "other" in the settings; there are: main' in result.stderr


def test_it_writes_nothing_and_embeds_nothing(project: Project) -> None:
    before = sorted(project.folder.rglob("*"))
    assert project.run("query-config").exit_code == 0
    assert sorted(project.folder.rglob("*")) == before
    assert project.embedder.calls == 0


def test_the_python_that_the_docs_show_embeds_a_question(project: Project, tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "when-things-go-wrong.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with in_thread(tmp_path / "service") as service:
        lines = f'kind = "cohere"\nbase_url = "{service.url}/v1"\nmodel = "hash"\ndimension = 8\ntokens_per_text = 64\n'
        project.configure(with_embedder(lines))
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env={"PATH": str(Path(sys.executable).parent), "CO_API_KEY": "none"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stdout) == (0, "8 numbers, to be looked for in docs\n"), ran.stderr

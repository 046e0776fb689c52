"""The shape of the project: who may import whom, and that what is written about it is so."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

import connector
from connector.config import Settings
from connector.plugins import Role, find
from connector.sections import EmbedJobsSettings, ServiceSettings, StateSettings, SyncSettings
from connector.starter import StarterKind, starter

ROOT = Path(connector.__file__).parent.parent

LAYERS = (
    {"decimals", "errors", "filters", "model"},
    {"crontab", "drift", "durations", "events", "fingerprints", "generations", "money", "pace", "plan", "ports"}
    | {"report", "retry", "stopping"},
    {"ledger_walk", "scratch"}
    | {
        "checkpoint",
        "delivery",
        "embedding",
        "lanes",
        "lease",
        "parcels",
        "passages",
        "plugins",
        "soundness",
        "sqlite_file",
        "vectors",
    },
    {
        "generation_book",
        "job_book",
        "job_intake",
        "job_looks",
        "job_planning",
        "job_spool",
        "job_steps",
        "job_sweep",
        "jobs",
    },
    {"ahead", "parts", "survey", "tally"},
    {"engine", "planning", "summary", "walk"},
    {
        "config",
        "composition",
        "inspection",
        "job_control",
        "job_inspection",
        "query_config",
        "retrial",
        "sections",
        "service_config",
        "settings_reader",
        "starter",
        "terminal",
    }
    | {"generation_control", "generation_parts", "generation_run", "generation_switch"}
    | {"cli_verify", "index_control", "rebuild", "verification"}
    | {"cli", "cli_embed_jobs", "cli_generations", "cli_jobs", "cli_service", "__main__"},
)
"""A module imports from its own layer and those above it in this table, never from below."""

OFFERED_TO_PLUG_INS = {"decimals", "errors", "filters", "model", "plugins", "ports", "retry"}
"""All that a source, an embedder or a sink needs of the connector, ours or a stranger's."""

SUBPACKAGES = {
    "cohere": {"config", "decimals", "errors", "events", "model", "retry"},
    "embedjobs": {"decimals", "embedders", "errors", "lease", "model", "ports", "sections", "serving", "sqlite_file"},
    "service": {"checkpoint", "composition", "config", "crontab", "drift", "errors", "events", "generations"}
    | {"index_control", "inspection", "job_control", "job_inspection", "job_steps", "jobs", "lease", "model", "ports"}
    | {"report", "scratch", "sections", "service_config", "serving", "stopping", "terminal"},
    "serving": {"errors"},
}
"""The client of Cohere's wire, the service that speaks it, the one that syncs, what both share: each with all that it
needs."""


# --- imports ----------------------------------------------------------------------------------------


def imports(path: Path) -> set[str]:
    """The full names of the modules that a file of ours imports, wherever in it."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (start, node.module)))
            names = {f"{module}.{alias.name}" for alias in node.names}
            submodules = {name for name in names if is_module(name)}
            found |= submodules or {module}
    return found


def is_module(name: str) -> bool:
    return (ROOT / name.replace(".", "/")).with_suffix(".py").exists()


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def layer(module: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if module in layer)


def test_every_module_of_the_connector_has_its_layer() -> None:
    there = {path.stem for path in (ROOT / "connector").glob("*.py")} - {"__init__"}
    assert there == set().union(*LAYERS)


@pytest.mark.parametrize("module", sorted(set().union(*LAYERS)))
def test_imports_go_one_way(module: str) -> None:
    for name in imports(ROOT / "connector" / f"{module}.py"):
        if name.startswith("connector."):
            imported = name.split(".")[1]
            if imported in SUBPACKAGES:
                assert layer(module) == len(LAYERS) - 1, f"{module} imports {imported}"
                continue
            assert layer(imported) <= layer(module), f"{module} imports {imported}"


def test_the_connector_never_imports_a_sink() -> None:
    for path in modules("connector"):
        assert not {name for name in imports(path) if name.split(".")[0] == "sinks"}, path


def test_the_connector_never_imports_its_tests_kit_or_its_own_plug_ins() -> None:
    for path in (ROOT / "connector").glob("*.py"):
        packages = {name.split(".")[1] for name in imports(path) if name.startswith("connector.")}
        assert not packages & {"testing", "sources", "embedders"}, path


@pytest.mark.parametrize("package", SUBPACKAGES)
def test_subpackages_import_only_what_they_say(package: str) -> None:
    for path in modules(f"connector/{package}"):
        imported = {name.split(".")[1] for name in imports(path) if name.startswith("connector.")}
        assert imported <= SUBPACKAGES[package] | {package}, f"{path} imports {imported - SUBPACKAGES[package]}"


@pytest.mark.parametrize("package", ["sinks", "connector/sources", "connector/embedders"])
def test_plug_ins_import_only_what_strangers_may(package: str) -> None:
    own = package.replace("/", ".")
    for path in modules(package):
        for name in imports(path):
            if name.startswith("connector.cohere") and own == "connector.embedders":
                continue  # as a stranger may: it is a library
            if name.split(".")[0] in ("connector", "sinks") and not name.startswith(f"{own}."):
                assert name in {f"connector.{offered}" for offered in OFFERED_TO_PLUG_INS}, f"{path} imports {name}"


def test_only_the_settings_read_toml_and_the_environment() -> None:
    may = {
        "settings_reader.py": "reads them",
        "cli.py": "sets NO_COLOR for rich",
        "local.py": "sets TOKENIZERS_PARALLELISM for the tokenizer",
    }
    for path in modules("connector") + modules("sinks"):
        text = path.read_text()
        if path.name not in may and path.parent.name != "testing":
            assert "tomllib" not in imports(path), path
            assert not re.search(r"os\.(environ|getenv)", text), path


# --- public names -----------------------------------------------------------------------------------


def test_public_names_are_there_and_the_types_say_the_same() -> None:
    tree = ast.parse((ROOT / "connector" / "__init__.py").read_text())
    for_types = {
        alias.name
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert for_types == set(connector.__all__)
    for name in connector.__all__:
        assert getattr(connector, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = connector.nothing


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert connector.__version__ == project["version"]


def test_the_command_is_installed() -> None:
    from connector.cli import main

    (command,) = entry_points(group="console_scripts", name="vector-sync")
    assert command.load() is main


# --- the settings files -----------------------------------------------------------------------------


@dataclass(slots=True)
class Block:
    """One section of the example, whether it is commented out or not."""

    header: str
    values: dict[str, object] = field(default_factory=dict)
    defaults: dict[str, object] = field(default_factory=dict)  # None: no default can be written
    required: set[str] = field(default_factory=set)


def read_example() -> Iterator[Block]:
    """Read config.example.toml as people do: "#name = value" is a setting at its default."""
    block: Block | None = None
    for line in (ROOT / "config.example.toml").read_text().splitlines():
        if header := re.fullmatch(r"#?\[([a-z._]+)\]", line):
            if block:
                yield block
            block = Block(header[1])
        elif block and (setting := re.fullmatch(r"#?([a-z_]+) = (.*)", line)):
            name, rest = setting.groups()
            block.values[name] = tomllib.loads(f"it = {rest}")["it"]
            documented = re.search(r"default: (.*?)\)?$", rest)
            if "(required)" in rest:
                block.required.add(name)
            elif documented is None:
                block.defaults[name] = block.values[name]
            elif documented[1] == "none":
                block.defaults[name] = None
            else:
                block.defaults[name] = tomllib.loads(f"it = {documented[1]}")["it"]
    assert block
    yield block


BLOCKS = tuple(read_example())
INSTEAD_OF_EACH_OTHER = {"service": ("interval", "cron")}


def model_of(block: Block) -> type[BaseModel]:
    if block.header == "state":
        return StateSettings
    if block.header == "sync":
        return SyncSettings
    if block.header == "service":
        return ServiceSettings
    if block.header == "embed_jobs":
        return EmbedJobsSettings
    roles: dict[str, Role] = {"source": "sources", "embedder": "embedders", "sinks": "sinks"}
    return find(roles[block.header.split(".")[0]], str(block.values["kind"]))


def test_the_example_loads_and_syncs_this_projects_own_documentation() -> None:
    settings = Settings.load(ROOT / "config.example.toml")
    assert settings.base_path == ROOT
    source = settings.source.model_dump(mode="json")
    assert source["path"] == "."
    assert source["include"] == ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md"]
    assert {name: sink.kind for name, sink in settings.sinks.items()} == {"main": "qdrant-edge"}


def test_the_example_shows_every_kind_that_is_shipped() -> None:
    shown = {model_of(block) for block in BLOCKS if "kind" in block.values}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    roles = get_args(Role)
    assert shown == {find(role, kind) for role in roles for kind in project["entry-points"][f"vector_sync.{role}"]}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.header} {block.values.get('kind', '')}")
def test_the_example_shows_every_setting_with_its_default(block: Block) -> None:
    model = model_of(block)
    assert set(block.values) == set(model.model_fields)
    for left_out in INSTEAD_OF_EACH_OTHER.get(block.header, ("",)):
        model.model_validate({name: value for name, value in block.values.items() if name != left_out})
    fields = model.model_fields
    assert block.required == {name for name, info in fields.items() if info.is_required()}
    defaults = model.model_construct().model_dump(mode="json", exclude=block.required)
    assert block.defaults == defaults


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.header} {block.values.get('kind', '')}")
def test_every_setting_describes_itself(block: Block) -> None:
    for name, info in model_of(block).model_fields.items():
        assert info.description or name == "kind", f"{block.header} {name}"


@pytest.mark.parametrize("kind", get_args(StarterKind))
def test_what_init_writes_loads_and_shows_true_defaults(tmp_path: Path, kind: StarterKind) -> None:
    path = tmp_path / "vector-sync.toml"
    path.write_text(starter(kind))
    settings = Settings.load(path)
    assert settings.source.kind == kind
    assert settings.sync == SyncSettings()
    assert settings.state == StateSettings()
    sink = settings.sinks["main"]
    assert sink == type(sink)(kind="qdrant-edge")


# --- what is committed ------------------------------------------------------------------------------


def snippets(language: str) -> list[str]:
    """The code of one language that the README shows."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_settings_that_the_readme_shows_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, table, sinks = snippets("toml")
    (tmp_path / "whole.toml").write_text(whole)
    (tmp_path / "table.toml").write_text(table + whole.partition('path = "docs"\n')[2])
    assert Settings.load(tmp_path / "whole.toml").source.kind == "files"
    (tmp_path / "sinks.toml").write_text(whole.partition("[sinks.main]")[0] + sinks)
    assert Settings.load(tmp_path / "table.toml").source.kind == "table"
    monkeypatch.setenv("VECTOR_SYNC_SINKS__CLOUD__API_KEY", "a key")
    loaded = Settings.load(tmp_path / "sinks.toml").sinks
    assert {name: sink.kind for name, sink in loaded.items()} == {"main": "qdrant", "cloud": "pinecone"}


def test_the_python_that_the_readme_shows_runs(tmp_path: Path) -> None:
    (program,) = snippets("python")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "note.md").write_text("# A note\n\nThe ferry leaves at nine.\n")
    (tmp_path / "vector-sync.toml").write_text(snippets("toml")[0])
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "1 1 0\n"), ran.stderr


def test_every_page_that_a_page_points_to_is_there() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_no_file_names_this_machine_or_where_its_packages_came_from() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    machine = r"(?<![\w.])/(work|root|home/\w+|Users/\w+)/"
    registry = r"index[-]url|find[-]links|/simp[l]e/"
    forbidden = re.compile(f"{machine}|{registry}")
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        found = forbidden.search(path.read_text(errors="replace"))
        assert not found, f"{name}: {found and found[0]}"

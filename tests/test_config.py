"""Settings: what is read from where, and how it is told what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, SecretStr, field_validator, model_validator

from connector import plugins
from connector.config import Settings, canonical, load_embed_jobs
from connector.errors import ConfigError
from connector.plugins import BuildContext, PluginSettings, SinkSettings
from connector.ports import Sink

CANARY = "canary-5f0c1e"

GOOD = """
[source]
kind = "files"
path = "docs"

[embedder]
kind = "local"

[sinks.main]
kind = "memory"
"""


class VaultSettings(SinkSettings):
    """A stranger's sink, with a setting of each shape."""

    kind: Literal["vault"] = "vault"
    api_key: SecretStr
    url: str = "http://127.0.0.1"
    tags: tuple[str, ...] = ()
    weights: dict[str, float] = Field(default_factory=dict)
    hosts: str | list[str] = ""
    quick: bool = False
    pages: int | None = None

    @field_validator("api_key")
    @classmethod
    def _is_long(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < 10:
            raise ValueError(f"the key {value.get_secret_value()} is too short")
        return value

    @model_validator(mode="after")
    def _fits(self) -> VaultSettings:
        if self.quick and self.pages == 0:
            raise ValueError("nothing is quick without pages")
        return self

    def build(self, context: BuildContext) -> Sink:
        raise NotImplementedError


@dataclass(frozen=True)
class FakeEntryPoint:
    """An entry point of a package that is not installed."""

    name: str
    loads: type[PluginSettings] | ImportError

    def load(self) -> type[PluginSettings]:
        if isinstance(self.loads, ImportError):
            raise self.loads
        return self.loads


@pytest.fixture(autouse=True)
def _vault(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_vault(*, group: str) -> list[EntryPoint | FakeEntryPoint]:
        strangers = [
            FakeEntryPoint("vault", VaultSettings),
            FakeEntryPoint("broken", ImportError("no module named 'vaultlib'")),
        ]
        return [*entry_points(group=group), *(strangers if group == "vector_sync.sinks" else ())]

    monkeypatch.setattr(plugins, "entry_points", with_vault)


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("VECTOR_SYNC_"):
            monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    path = folder / "vector-sync.toml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    """The lines that tell what is wrong with a file, its own path left out."""
    path = written(folder, text)
    with pytest.raises(ConfigError) as raised:
        Settings.load(path)
    assert raised.value.__cause__ is None  # pydantic's own error holds the values
    return str(raised.value).replace(f"{path}: ", "").splitlines()


def loaded(folder: Path, text: str) -> Settings:
    return Settings.load(written(folder, text))


def vault(folder: Path, text: str = "") -> VaultSettings:
    sink = loaded(folder, GOOD + '[sinks.vault]\nkind = "vault"\n' + text).sinks["vault"]
    assert isinstance(sink, VaultSettings)
    return sink


# --- what is read -----------------------------------------------------------------------------------


def test_a_short_file_is_filled_up_with_defaults(tmp_path: Path) -> None:
    settings = loaded(tmp_path, GOOD)
    assert settings.source.kind == "files"
    assert list(settings.sinks) == ["main"]
    assert settings.sync.model_dump() == {
        "name": "default",
        "max_delete_fraction": 0.1,
        "min_delete_count": 20,
        "max_tokens": None,
        "max_cost": None,
        "ask_above_cost": 1.0,
        "switch": "auto",
    }
    assert settings.state.model_dump() == {"path": Path("state"), "keep": "all", "max_bytes": None}


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path.parent)
    settings = Settings.load(Path(tmp_path.name) / "vector-sync.toml")
    assert settings.base_path == tmp_path
    assert settings.state_path == tmp_path / "state"


def test_from_code_sections_are_dictionaries_and_relative_paths_start_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VECTOR_SYNC_SYNC__NAME", "not for code")
    settings = Settings(
        source={"kind": "files", "path": "docs"},
        embedder={"kind": "local"},
        sinks={"main": {"kind": "vault", "api_key": "a secret may come from code"}},
        state={"keep": "undelivered"},
    )
    assert settings.base_path == tmp_path
    assert settings.state.keep == "undelivered"
    assert settings.sync.name == "default"


def test_from_code_what_is_wrong_is_a_config_error_too() -> None:
    with pytest.raises(ConfigError, match=r"^\[sync\] max_delete_fraction should be less than or equal to 1$"):
        Settings(
            source={"kind": "files", "path": "docs"},
            embedder={"kind": "local"},
            sinks={"main": {"kind": "memory"}},
            sync={"max_delete_fraction": 2},
        )


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = loaded(tmp_path, GOOD)
    with pytest.raises(ValueError, match="frozen"):
        settings.base_path = Path()  # type: ignore[misc]  # that is the test


def test_equal_settings_are_equal_texts_without_secrets() -> None:
    one = VaultSettings(kind="vault", api_key=SecretStr("a long secret"), tags=("b", "a"))
    other = VaultSettings(tags=("b", "a"), api_key=SecretStr("another secret"), kind="vault")
    assert canonical(one) == canonical(other)
    assert "secret" not in canonical(one)
    assert "api_key" not in canonical(one)
    assert canonical(one) != canonical(VaultSettings(api_key=SecretStr("a long secret"), tags=("a", "b")))


# --- the environment --------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTOR_SYNC_SYNC__MAX_DELETE_FRACTION", "0.2")
    monkeypatch.setenv("VECTOR_SYNC_SOURCE__PATH", "elsewhere")
    settings = loaded(tmp_path, GOOD + "[sync]\nmax_delete_fraction = 0.5\nmin_delete_count = 7\n")
    assert settings.sync.max_delete_fraction == 0.2
    assert settings.sync.min_delete_count == 7
    assert settings.source.model_dump()["path"] == Path("elsewhere")


def test_a_whole_section_and_a_whole_sink_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOR_SYNC_EMBEDDER__KIND", "local")
    monkeypatch.setenv("VECTOR_SYNC_SINKS__SECOND_ONE__KIND", "memory")
    settings = loaded(tmp_path, '[source]\nkind = "files"\npath = "."\n')
    assert settings.embedder.kind == "local"
    assert list(settings.sinks) == ["second_one"]


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("tags", "a, b", ("a", "b")),
        ("tags", '["a, b"]', ("a, b",)),
        ("tags", "[]", ()),
        ("weights", '{"a": 0.5}', {"a": 0.5}),
        ("hosts", "a,b", "a,b"),
        ("hosts", '["a", "b"]', ["a", "b"]),
        ("hosts", "[a-z]*", "[a-z]*"),
        ("quick", "true", True),
        ("pages", "12", 12),
        ("pages", "", None),
    ],
)
def test_variables_are_read_as_the_type_of_their_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv("VECTOR_SYNC_SINKS__VAULT__API_KEY", CANARY)
    monkeypatch.setenv(f"VECTOR_SYNC_SINKS__VAULT__{name.upper()}", text)
    assert getattr(vault(tmp_path), name) == value


def test_variables_that_kubernetes_sets_beside_a_service_of_our_name_are_not_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOR_SYNC_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("VECTOR_SYNC_PORT_80_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("VECTOR_SYNC_CONFIG", "vector-sync.toml")
    assert loaded(tmp_path, GOOD)


def test_a_variable_of_a_sink_that_is_not_there_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOR_SYNC_SINKS__GONE__API_KEY", CANARY)
    (told,) = problems(tmp_path, GOOD)
    assert told.startswith("VECTOR_SYNC_SINKS__GONE__API_KEY: there is no [sinks.gone] in ")


def test_a_wrong_variable_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTOR_SYNC_SYNC__MIN_DELETE_COUNT", "many")
    monkeypatch.setenv("VECTOR_SYNC_SYNC__MIN_DELETE_CUONT", "3")
    monkeypatch.setenv("VECTOR_SYNC_SNKS__MAIN__PATH", "x")
    monkeypatch.setenv("VECTOR_SYNC_SINKS__PATH", "x")
    told = problems(tmp_path, GOOD)
    assert 'VECTOR_SYNC_SNKS__MAIN__PATH: unknown section "snks"; did you mean "sinks"?' in told
    assert "VECTOR_SYNC_SINKS__PATH names no sink; write VECTOR_SYNC_SINKS__MAIN__PATH" in told
    assert 'VECTOR_SYNC_SYNC__MIN_DELETE_CUONT: unknown setting; did you mean "min_delete_count"?' in told
    assert any(
        line.startswith("VECTOR_SYNC_SYNC__MIN_DELETE_COUNT should be a valid integer") and "many" not in line
        for line in told
    )
    assert len(told) == 4


# --- secrets ----------------------------------------------------------------------------------------


def test_a_secret_comes_from_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTOR_SYNC_SINKS__VAULT__API_KEY", CANARY)
    sink = vault(tmp_path)
    assert sink.api_key.get_secret_value() == CANARY
    assert CANARY not in repr(sink)


def test_a_secret_comes_from_a_mounted_file_without_its_last_line_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(f"{CANARY}\n")
    monkeypatch.setenv("VECTOR_SYNC_SINKS__VAULT__API_KEY_FILE", str(tmp_path / "key"))
    assert vault(tmp_path).api_key.get_secret_value() == CANARY


def test_the_file_of_a_secret_may_be_named_in_the_settings_and_a_variable_wins_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(f"{CANARY}-of-the-file")
    assert vault(tmp_path, 'api_key_file = "key"').api_key.get_secret_value() == f"{CANARY}-of-the-file"
    monkeypatch.setenv("VECTOR_SYNC_SINKS__VAULT__API_KEY", CANARY)
    assert vault(tmp_path, 'api_key_file = "key"').api_key.get_secret_value() == CANARY


def test_a_secret_that_is_set_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTOR_SYNC_SINKS__VAULT__API_KEY", CANARY)
    monkeypatch.setenv("VECTOR_SYNC_SINKS__VAULT__API_KEY_FILE", "key")
    assert problems(tmp_path, GOOD + '[sinks.vault]\nkind = "vault"') == [
        "VECTOR_SYNC_SINKS__VAULT__API_KEY_FILE and VECTOR_SYNC_SINKS__VAULT__API_KEY are both set; unset one of them"
    ]


def test_a_secret_in_the_file_is_refused_and_its_variable_named(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, GOOD + f'[sinks.vault]\nkind = "vault"\napi_key = "{CANARY}"')
    assert told == (
        "[sinks.vault] api_key is a secret and must not stand in the file; set VECTOR_SYNC_SINKS__VAULT__API_KEY, "
        "or VECTOR_SYNC_SINKS__VAULT__API_KEY_FILE to the path of a file that holds it"
    )


def test_a_secret_in_the_file_is_refused_even_where_a_variable_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOR_SYNC_SINKS__VAULT__API_KEY", "another secret")
    (told,) = problems(tmp_path, GOOD + f'[sinks.vault]\nkind = "vault"\napi_key = "{CANARY}"')
    assert "must not stand in the file" in told


def test_a_missing_secret_is_told_with_the_variable_to_set(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, GOOD + '[sinks.vault]\nkind = "vault"')
    assert told == (
        "[sinks.vault] api_key is missing; set VECTOR_SYNC_SINKS__VAULT__API_KEY, "
        "or VECTOR_SYNC_SINKS__VAULT__API_KEY_FILE to the path of a file that holds it"
    )


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "names a file that cannot be read: no such file or directory"),
        (b"\n", "names an empty file"),
        (b"\xff\xfe", "names a file that is not UTF-8 text"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_told_without_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / CANARY).write_bytes(content)
    monkeypatch.setenv("VECTOR_SYNC_SINKS__VAULT__API_KEY_FILE", str(tmp_path / CANARY))
    told = problems(tmp_path, GOOD + '[sinks.vault]\nkind = "vault"')
    assert told == [f"VECTOR_SYNC_SINKS__VAULT__API_KEY_FILE {reason}"]


@pytest.mark.parametrize(
    "section",
    [
        f'api_ky = "{CANARY}"',
        f'pages = "{CANARY}"',
        f'tags = "{CANARY}"',
        f'weights = "{CANARY}"',
        f'weights = {{a = "{CANARY}"}}',
        f'hosts = {{a = "{CANARY}"}}',
        f'quick = "{CANARY}"',
        f'api_key = {{value = "{CANARY}"}}',
        f'url = ["{CANARY}"]',
    ],
)
def test_no_value_is_ever_told(tmp_path: Path, section: str) -> None:
    told = problems(tmp_path, GOOD + f'[sinks.vault]\nkind = "vault"\n{section}\n')
    assert CANARY not in "\n".join(told)


def test_a_secret_that_a_plug_in_puts_into_its_own_error_is_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOR_SYNC_SINKS__VAULT__API_KEY", "canary-5f")
    assert problems(tmp_path, GOOD + '[sinks.vault]\nkind = "vault"') == [
        "VECTOR_SYNC_SINKS__VAULT__API_KEY: the key ********** is too short"
    ]


# --- what is wrong ----------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_told_with_the_way_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml does not exist; run `vector-sync init` to write one"):
        Settings.load(tmp_path / "none.toml")


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*: is a directory"):
        Settings.load(tmp_path)


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "vector-sync.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text: a wrong byte at position 0"):
        Settings.load(path)


@pytest.mark.parametrize(
    "text, line",
    [
        (GOOD + "[sync\n", 11),
        (GOOD + '[sinks.main]\nkind = "memory"\n', 11),
        ('[source]\nkind = "files"\nkind = "table"\n', 3),
    ],
)
def test_broken_toml_and_two_sinks_of_one_name_are_told_with_their_line(tmp_path: Path, text: str, line: int) -> None:
    (told,) = problems(tmp_path, text)
    assert "is not TOML" in told
    assert f"at line {line}, column" in told


def test_everything_that_is_wrong_is_told_at_once_in_one_line_each(tmp_path: Path) -> None:
    told = problems(
        tmp_path,
        """
        [source]
        kind = "files"
        [embeddr]
        kind = "local"
        [sinks.main]
        kind = "memory"
        colour = "red"
        [sync]
        max_delete_fracton = 0.2
        min_delete_count = "many"
        max_delete_fraction = 1.5
        [state]
        keep = "some"
        """,
    )
    assert told == [
        'unknown section [embeddr]; did you mean "embedder"?',
        "[source] path is missing",
        "[embedder] is missing",
        "[sinks.main] colour: unknown setting; there are: kind",
        "[state] keep should be 'all' or 'undelivered'",
        "[sync] max_delete_fraction should be less than or equal to 1",
        "[sync] min_delete_count should be a valid integer, unable to parse string as an integer",
        '[sync] max_delete_fracton: unknown setting; did you mean "max_delete_fraction"?',
    ]


def test_an_unknown_kind_is_told_with_the_kinds_there_are(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD.replace('"files"', '"filez"')) == [
        '[source] kind: unknown kind "filez"; the sources installed are: "files", "table"'
    ]


def test_a_missing_kind_is_told_with_the_kinds_there_are(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD.replace('kind = "local"', "")) == [
        '[embedder] kind is missing; the embedders installed are: "cohere", "local", "openai"'
    ]


def test_a_plug_in_that_cannot_be_imported_is_told(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD.replace('"memory"', '"broken"')) == [
        "[sinks.main] kind: \"broken\" cannot be imported: no module named 'vaultlib'"
    ]


def test_an_item_of_a_list_and_a_section_as_a_whole_can_be_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOR_SYNC_SINKS__VAULT__TAGS", "[1]")
    monkeypatch.setenv("VECTOR_SYNC_SINKS__VAULT__API_KEY", CANARY)
    vault_section = '[sinks.vault]\nkind = "vault"\n'
    assert problems(tmp_path, GOOD + vault_section) == ["VECTOR_SYNC_SINKS__VAULT__TAGS should be a valid string"]
    monkeypatch.delenv("VECTOR_SYNC_SINKS__VAULT__TAGS")
    told = problems(tmp_path, GOOD + vault_section + 'tags = ["a", 1]\n')
    assert told == ["[sinks.vault] tags.1 should be a valid string"]
    told = problems(tmp_path, GOOD + vault_section + "quick = true\npages = 0\n")
    assert told == ["[sinks.vault]: nothing is quick without pages"]


def test_missing_sections_are_told(tmp_path: Path) -> None:
    assert problems(tmp_path, "") == [
        "[source] is missing",
        "[embedder] is missing",
        "[sinks.NAME] is missing; write at least one sink, as in [sinks.main]",
    ]


@pytest.mark.parametrize(
    "text, told",
    [
        ('source = "docs"', "[source] kind is missing"),
        ("sinks = 3", "[sinks] should be tables, one a sink, as in [sinks.main]"),
        ("sync = 3", "[sync] should be a table of settings"),
        ("[sinks]\nmain = 3", "[sinks.main] kind is missing"),
    ],
)
def test_a_value_in_the_place_of_a_section_is_told(tmp_path: Path, text: str, told: str) -> None:
    assert any(line.startswith(told) for line in problems(tmp_path, text))


def test_sinks_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD + '[sinks.Main]\nkind = "memory"') == [
        "[sinks.Main] and [sinks.main] differ only in case; rename one of them"
    ]


@pytest.mark.parametrize("name", ["Other", '"a.b"', "a__b", "a_", "1a", '"ä"', '""', "a-b"])
def test_a_sink_that_no_variable_could_name_is_refused(tmp_path: Path, name: str) -> None:
    (told,) = problems(tmp_path, GOOD + f'[sinks.{name}]\nkind = "memory"')
    assert "is no name for a sink" in told


# --- the section of the Embed Jobs service ------------------------------------------------------------


def test_the_service_reads_its_own_section_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "vector-sync.toml"
    path.write_text('[source]\nkind = "no such"\n[embed_jobs]\nport = 9\npath = "jobs"\n')
    settings = load_embed_jobs(path, {})
    assert (settings.port, settings.path) == (9, tmp_path / "jobs")


def test_the_service_needs_no_settings_file(tmp_path: Path) -> None:
    assert load_embed_jobs(tmp_path / "none.toml", {}).path == tmp_path / "embed-jobs"


def test_a_sync_does_not_mind_the_section_of_the_service(tmp_path: Path) -> None:
    path = tmp_path / "vector-sync.toml"
    path.write_text(GOOD + "[embed_jobs]\nport = 9\n")
    assert Settings.load(path).source.kind == "files"


def test_what_is_given_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vector-sync.toml"
    path.write_text('[embed_jobs]\nport = 1\nhost = "a"\nthreads = 1\n')
    monkeypatch.setenv("VECTOR_SYNC_EMBED_JOBS__PORT", "2")
    monkeypatch.setenv("VECTOR_SYNC_EMBED_JOBS__HOST", "b")
    settings = load_embed_jobs(path, {"port": 3})
    assert (settings.port, settings.host, settings.threads) == (3, "b", 1)


def test_the_services_key_comes_from_the_environment_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(f"{CANARY}\n")
    monkeypatch.setenv("VECTOR_SYNC_EMBED_JOBS__API_KEY_FILE", "key")
    settings = load_embed_jobs(tmp_path / "none.toml", {})
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == CANARY
    assert CANARY not in repr(settings)


def test_the_services_key_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "vector-sync.toml"
    path.write_text(f'[embed_jobs]\napi_key = "{CANARY}"\n')
    with pytest.raises(ConfigError, match="api_key is a secret and must not stand in the file") as told:
        load_embed_jobs(path, {})
    assert CANARY not in str(told.value)


def test_everything_wrong_with_the_services_section_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "vector-sync.toml"
    path.write_text("[embed_jobs]\nport = 70000\nprot = 1\n")
    with pytest.raises(ConfigError) as told:
        load_embed_jobs(path, {})
    assert len(str(told.value).splitlines()) == 2

"""The settings of one sync, and of what stands beside it; see `settings_reader` for where they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .plugins import EmbedderSettings, PluginSettings, SinkSettings, SourceSettings
from .sections import EmbedJobsSettings, StateSettings, SyncSettings
from .settings_reader import (
    DELIMITER,
    PREFIX,
    SettingsReader,
    Table,
    environment,
    read_secret,
    read_toml,
    secret_names,
    variables,
)

HOSTED_URL: Final = "https://api.cohere.com"


class CohereAccess(BaseModel):
    """Which service speaks Cohere's API, and the key for it: as options, or where Cohere's own SDK looks for them."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str
    api_key: SecretStr | None

    @classmethod
    def load(cls, *, url: str | None, api_key_file: Path | None) -> CohereAccess:
        """Take what is given, else CO_API_URL, and CO_API_KEY or COHERE_API_KEY; ConfigError if the file has no key."""
        found = environment()
        key = found.get("co_api_key") or found.get("cohere_api_key")
        return cls(
            url=url or found.get("co_api_url") or HOSTED_URL,
            api_key=read_secret(api_key_file, "--api-key-file") if api_key_file else SecretStr(key) if key else None,
        )


class Settings(BaseSettings):
    """All settings of one sync. Sections from code may be plain dictionaries, secrets included."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        env_ignore_empty=True,
    )

    source: SourceSettings
    embedder: EmbedderSettings
    sinks: Mapping[str, SinkSettings]
    state: StateSettings
    sync: SyncSettings
    base_path: Path  # relative paths in the settings start here

    def __init__(
        self,
        *,
        source: SourceSettings | Table,
        embedder: EmbedderSettings | Table,
        sinks: Mapping[str, SinkSettings | Table],
        state: StateSettings | Table | None = None,
        sync: SyncSettings | Table | None = None,
        base_path: Path | None = None,
    ) -> None:
        """Check every section; ConfigError tells all that is wrong. The environment is not read."""
        written = {"source": source, "embedder": embedder, "sinks": sinks, "state": state or {}, "sync": sync or {}}
        base_path = (base_path or Path()).absolute()
        super().__init__(**SettingsReader(base_path=base_path).read(written), base_path=base_path)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what `load` and `__init__` give: they ask the sources, and know where each value came from."""
        return (init_settings,)

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read a file and the environment; relative paths in either start at the file's folder."""
        reader = SettingsReader(base_path=path.absolute().parent, file=str(path), variables=variables())
        return cls(**reader.read(read_toml(path)), base_path=path.absolute().parent)

    @property
    def state_path(self) -> Path:
        """The folder of the checkpoint and the vector store."""
        return (self.base_path / self.state.path.expanduser()).absolute()


def load_embed_jobs(path: Path, given: Table) -> EmbedJobsSettings:
    """Read a file's [embed_jobs], if there is such a file, the environment over it, and `given` over both.

    Paths in the file and the environment start at the file's folder, those in `given` where the process is.
    """
    reader = SettingsReader(base_path=path.absolute().parent, file=str(path), variables=variables())
    return reader.read_embed_jobs(read_toml(path) if path.exists() else {}, given)


def canonical(section: PluginSettings) -> str:
    """Write a section so that equal settings are equal texts; secrets are left out."""
    kept = section.model_dump(mode="json", exclude=secret_names(type(section)))
    return json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def tracing_is_asked() -> bool:
    """Tell whether OpenTelemetry's own variables ask for traces by OTLP.

    OTEL_SDK_DISABLED  OTEL_TRACES_EXPORTER  OTEL_EXPORTER_OTLP_ENDPOINT, or ..._TRACES_ENDPOINT  asked
    -----------------  --------------------  ---------------------------------------------------  -----
    true               anything              anything                                             no
    not so             names otlp            anything                                             yes
    not so             names others only     anything                                             no
    not so             not set               set                                                  yes
    not so             not set               not set                                              no
    """
    found = environment()
    if (found.get("otel_sdk_disabled") or "").strip().lower() == "true":
        return False
    if exporters := found.get("otel_traces_exporter"):
        return "otlp" in {exporter.strip().lower() for exporter in exporters.split(",")}
    return bool(found.get("otel_exporter_otlp_endpoint") or found.get("otel_exporter_otlp_traces_endpoint"))

"""How a source, an embedder or a sink is named in the settings and found.

`kind = "qdrant-edge"` names an entry point of the group `vector_sync.sinks`, which names a subclass
of `PluginSettings`: the plug-in's settings, which can build it. The connector's own parts are
found in the same way as a stranger's, and imported only when they are asked for.

    [project.entry-points."vector_sync.sinks"]
    qdrant-edge = "sinks.qdrant_edge:QdrantEdgeSettings"
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from .errors import ConfigError
from .ports import Embedder, Sink, Source

Role: TypeAlias = Literal["sources", "embedders", "sinks"]


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What a plug-in may know besides its own settings."""

    base_path: Path  # the folder of the config file; relative paths in the settings start here
    state_path: Path  # the folder of the checkpoint; a plug-in may keep caches below it
    name: str = ""  # a sink's own name, as in [sinks.NAME]
    owner: str = "default"  # [sync] name: marks this sync's records in a shared collection
    seed: int = 0  # of this checkpoint, 64 bits, kept secret; for hashes that nobody can aim at
    generation: int = 1  # of a sink's collection: which of those beside each other it is built for
    read_only: bool = False  # nothing may be written, caches included

    def resolve(self, path: Path) -> Path:
        """Make a path from the settings absolute."""
        return (self.base_path / path.expanduser()).absolute()


class PluginSettings(BaseModel, ABC):
    """Base of every plug-in's settings. Each field has a description, and a default if it can."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: str


class SourceSettings(PluginSettings):
    """Settings that build a source."""

    @abstractmethod
    def build(self, context: BuildContext) -> Source:
        """Make the source. Opens nothing yet; `Source.check` says whether it can be read."""


class EmbedderSettings(PluginSettings):
    """Settings that build an embedder."""

    @abstractmethod
    def build(self, context: BuildContext) -> Embedder:
        """Make the embedder; ConfigError if its model or extra is not installed."""


class SinkSettings(PluginSettings):
    """Settings that build a sink."""

    @abstractmethod
    def build(self, context: BuildContext) -> Sink:
        """Make the sink. Opens nothing yet; ConfigError if its extra is not installed."""


def find(role: Role, kind: str) -> type[PluginSettings]:
    """Import the settings class of one kind; ConfigError names the kinds there are."""
    found: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=f"vector_sync.{role}")}
    if kind not in found:
        known = ", ".join(f'"{name}"' for name in sorted(found)) or "none"
        raise ConfigError(f'unknown kind "{kind}"; the {role} installed are: {known}')
    loaded: type[PluginSettings] = found[kind].load()
    return loaded

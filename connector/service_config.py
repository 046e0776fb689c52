"""The settings of a service: one sync's file, or a folder of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from .config import Settings, canonical
from .errors import ConfigError
from .sections import ServiceSettings
from .settings_reader import SettingsReader, Table, read_toml, variables

SERVICE_FILE: Final = "service.toml"  # of a folder of settings files: what is of the whole service

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NamedSync:
    """One sync of a service."""

    name: str  # its file's, without the ending
    path: Path
    settings: Settings
    service: ServiceSettings  # as its own file has it


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """All that a service serves."""

    path: Path
    service: ServiceSettings
    syncs: tuple[NamedSync, ...]


def load_service(path: Path) -> ServiceConfig:
    """Read what a service serves: one settings file, or all those of a folder; ConfigError tells all that is wrong.

    In a folder, every file that ends in .toml is a sync, but for `service.toml`, whose [service] is of them all.
    """
    if not path.is_dir():
        alone = _service_of(path, read_toml(path), {})
        return ServiceConfig(path, alone, (NamedSync(path.stem, path, Settings.load(path), alone),))
    whole_path = path / SERVICE_FILE
    whole = read_toml(whole_path) if whole_path.exists() else {}
    problems = [
        f"{whole_path}: [{name}] is of one sync; write it into a file of its own"
        for name in whole.keys() - {"service", "embed_jobs"}
    ]
    service = _gathered(problems, lambda: _service_of(whole_path, whole, {}))
    syncs: list[NamedSync] = []
    for file in sorted(path.glob("*.toml")):
        if file.name != SERVICE_FILE:
            made = _gathered(problems, lambda file=file: _named_sync(file, whole.get("service", {})))  # type: ignore[misc]
            syncs += [made] if made else []
    if not (syncs or problems):
        problems.append(f"{path} has no settings file that ends in .toml; write one for each sync")
    problems += _collisions(syncs)
    if problems or service is None:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return ServiceConfig(path, service, tuple(syncs))


def load_service_settings(path: Path) -> ServiceSettings:
    """Read what is of the whole service alone, for whoever asks it something: its syncs need not be valid."""
    whole = path / SERVICE_FILE if path.is_dir() else path
    return _service_of(whole, read_toml(whole) if whole.exists() or not path.is_dir() else {}, {})


def _named_sync(path: Path, whole: Table) -> NamedSync:
    written = read_toml(path)
    own = written.get("service", {})
    misplaced = sorted(own.keys() & ServiceSettings.OF_THE_WHOLE) if isinstance(own, Mapping) else []
    if misplaced:
        raise ConfigError(f"{path}: [service] {misplaced[0]} is of the whole service; write it into {SERVICE_FILE}")
    return NamedSync(path.stem, path, Settings.load(path), _service_of(path, written, whole))


def _service_of(path: Path, written: Table, defaults: Table) -> ServiceSettings:
    """Read a file's [service], the environment over it, over the defaults of `service.toml`."""
    reader = SettingsReader(base_path=path.absolute().parent, file=str(path), variables=variables())
    return reader.read_service(written, defaults)


def _gathered(problems: list[str], load: Callable[[], T]) -> T | None:
    try:
        return load()
    except ConfigError as error:
        problems += str(error).splitlines()
        return None


def _collisions(syncs: Sequence[NamedSync]) -> Iterator[str]:
    """Say which syncs would get in each other's way: one state, or the same records in the same index."""
    states: dict[Path, str] = {}
    owned: dict[tuple[str, str], str] = {}
    for it in syncs:
        first = states.setdefault(it.settings.state_path, it.name)
        if first != it.name:
            yield f'{it.path}: [state] path is that of the sync "{first}", too; each sync needs a folder of its own'
        for name, sink in it.settings.sinks.items():
            first = owned.setdefault((it.settings.sync.name, canonical(sink)), it.name)
            if first != it.name:
                yield (
                    f'{it.path}: [sinks.{name}] is that of the sync "{first}", too, and so is [sync] name: each would '
                    "delete the other's records; give one of them another name or another collection"
                )

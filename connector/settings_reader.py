"""Read settings: one TOML file, and the environment, which wins. The only reader of either.

    vector-sync.toml             environment
    ---------------------------  ----------------------------------------------------------
    [sync]
    max_delete_fraction = 0.1    VECTOR_SYNC_SYNC__MAX_DELETE_FRACTION=0.2
    [sinks.main]
    kind = "qdrant"
    (never in the file)          VECTOR_SYNC_SINKS__MAIN__API_KEY=...
                                 VECTOR_SYNC_SINKS__MAIN__API_KEY_FILE=/run/secrets/api_key

A plug-in's section is read by the plug-in's own class, which its `kind` names; a field of type
`SecretStr` is a secret. Everything that is wrong is told at once, one line each: a line says where
a value came from and what it should be, and never the value, which could be a secret in the
wrong place.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from .errors import ConfigError
from .plugins import EmbedderSettings, PluginSettings, Role, SinkSettings, SourceSettings, find
from .sections import EmbedJobsSettings, ServiceSettings, StateSettings, SyncSettings

PREFIX: Final = "VECTOR_SYNC_"
DELIMITER: Final = "__"
SECTIONS: Final = ("source", "embedder", "sinks", "state", "sync", "service", "embed_jobs")
BASES: Final[Mapping[Role, type]] = {"sources": SourceSettings, "embedders": EmbedderSettings, "sinks": SinkSettings}
SINK_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
LISTS: Final[frozenset[object]] = frozenset({list, tuple, set, frozenset, Sequence})
SCALARS: Final[frozenset[object]] = frozenset({str, int, float, bool, Path, SecretStr, Literal})

Table: TypeAlias = Mapping[str, Any]
"""A section as it was written, before anything is known of its types."""
Key: TypeAlias = tuple[str, ...]
"""Where a setting stands: ("sinks", "main", "path")."""

M = TypeVar("M", bound=BaseModel)


class _Sources(BaseSettings):
    """What pydantic-settings' readers of a file and of the environment want to know."""

    model_config = SettingsConfigDict(extra="forbid", hide_input_in_errors=True, env_ignore_empty=True)


def environment() -> Mapping[str, str | None]:
    """Give all environment variables, their names in lower case."""
    return EnvSettingsSource(_Sources).env_vars


def read_secret(path: Path, where: str) -> SecretStr:
    """Read a secret from a file of its own, without the line break that ends it.

    ConfigError says `where` the path was read, and not the path, as that may be the secret itself.
    """
    try:
        secret = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{where} names a file that cannot be read: {_strerror(error)}") from None
    except ValueError:
        raise ConfigError(f"{where} names a file that is not UTF-8 text") from None
    if not secret:
        raise ConfigError(f"{where} names an empty file")
    return SecretStr(secret)


def read_toml(path: Path) -> Table:
    """Read a file as it is written; ConfigError says why it cannot be read."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist; run `vector-sync init` to write one, or name yours with --config")
    if path.is_dir():
        raise ConfigError(f"cannot read {path}: is a directory; name one settings file (a whole folder is for `serve`)")
    try:
        return TomlConfigSettingsSource(_Sources, path).toml_data
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {_strerror(error)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: a wrong byte at position {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {_lower(str(error))}") from None


def variables() -> dict[Key, str]:
    """Find the settings among the environment variables; an empty one counts as not set.

    Those without a double underscore are not ours: Kubernetes sets VECTOR_SYNC_PORT and the like
    in every container beside a service of that name.
    """
    prefix = PREFIX.lower()  # as pydantic-settings gives the names
    return {
        tuple(name.removeprefix(prefix).split(DELIMITER)): value
        for name, value in environment().items()
        if name.startswith(prefix) and DELIMITER in name and value
    }


class SettingsReader:
    """Reads the sections, and gathers what is wrong with all of them."""

    def __init__(self, *, base_path: Path, file: str = "", variables: Mapping[Key, str] | None = None) -> None:
        """Read for `Settings.load` if a file is named, else for settings from code."""
        self._base_path = base_path
        self._file = file
        self._variables = variables or {}
        self._problems: list[str] = []

    def read(self, written: Table) -> dict[str, Any]:
        """Make every section, or raise one ConfigError with a line for each problem."""
        self._check_section_names(written)
        made = {
            "source": self._plugin("sources", ("source",), written.get("source")),
            "embedder": self._plugin("embedders", ("embedder",), written.get("embedder")),
            "sinks": self._sinks(written.get("sinks", {})),
            "state": self._section(StateSettings, ("state",), written.get("state", {})),
            "sync": self._section(SyncSettings, ("sync",), written.get("sync", {})),
        }
        if self._problems:
            raise ConfigError("\n".join(self._problems))
        return made

    def read_embed_jobs(self, written: Table, given: Table) -> EmbedJobsSettings:
        """Make the one section that the service reads, or raise one ConfigError with a line for each problem."""
        made = self._section(EmbedJobsSettings, ("embed_jobs",), written.get("embed_jobs", {}))
        if made is None or self._problems:
            raise ConfigError("\n".join(self._problems))
        path = (self._base_path / made.path.expanduser()).absolute()
        return EmbedJobsSettings.model_validate(made.model_dump() | {"path": path} | dict(given))

    def read_service(self, written: Table, defaults: Table) -> ServiceSettings:
        """Make [service], or raise one ConfigError with a line for each problem."""
        own = written.get("service", {})
        if isinstance(own, Mapping):
            named = own.keys() | self._own_variables(("service",)).keys()
            timed = {"interval", "cron"}  # whoever names one of them leaves out the other
            own = {name: value for name, value in defaults.items() if not (name in timed and named & timed)} | dict(own)
        made = self._section(ServiceSettings, ("service",), own)
        if made is None or self._problems:
            raise ConfigError("\n".join(self._problems))
        return made

    def _check_section_names(self, written: Table) -> None:
        for name in written:
            if name not in SECTIONS:
                self._problem(f"unknown section [{name}]{_did_you_mean(name, SECTIONS)}")
        for key in self._variables:
            if key[0] not in SECTIONS:
                self._problems.append(f'{_variable(key)}: unknown section "{key[0]}"{_did_you_mean(key[0], SECTIONS)}')
            elif key[0] == "sinks" and len(key) < len(("sinks", "name", "setting")):
                self._problems.append(f"{_variable(key)} names no sink; write {_variable(('sinks', 'main', key[1]))}")

    def _sinks(self, written: object) -> dict[str, PluginSettings]:
        if not isinstance(written, Mapping):
            self._problem("[sinks] should be tables, one a sink, as in [sinks.main]")
            return {}
        from_environment = [key[1] for key in self._variables if key[0] == "sinks" and key[2:]]
        names = dict.fromkeys([*written, *from_environment])
        if not names:
            self._problem("[sinks.NAME] is missing; write at least one sink, as in [sinks.main]")
        made: dict[str, PluginSettings] = {}
        for name in names:
            if name != name.lower() and name.lower() in names:
                self._problem(f"[sinks.{name}] and [sinks.{name.lower()}] differ only in case; rename one of them")
            elif not SINK_NAME.fullmatch(name):
                self._problem(
                    f"[sinks.{name}] is no name for a sink; write lower-case letters, digits and single underscores, "
                    "a letter first, so that environment variables can name it"
                )
            elif name not in written and ("sinks", name, "kind") not in self._variables:
                first = next(key for key in self._variables if key[:2] == ("sinks", name))
                self._problems.append(
                    f"{_variable(first)}: there is no [sinks.{name}] in {self._file or 'the settings'}"
                )
            elif sink := self._plugin("sinks", ("sinks", name), written.get(name, {})):
                made[name] = sink
        return made

    def _plugin(self, role: Role, at: Key, written: object) -> PluginSettings | None:
        """Read a section by the class that its `kind` names."""
        base = BASES[role]
        if isinstance(written, PluginSettings) and isinstance(written, base):
            return written
        own = self._own_variables(at)
        if written is None and not own:
            self._problem(f"{_header(at)} is missing")
            return None
        in_file = written if isinstance(written, Mapping) else {}
        kind = str(own.get("kind") or in_file.get("kind", ""))
        where = self._where(at, "kind")
        try:
            model = find(role, kind)
        except ConfigError as error:
            self._problems.append(
                f"{where}: {error}" if kind else f"{where} is missing; {str(error).partition('; ')[2]}"
            )
        except ImportError as error:
            self._problems.append(f'{where}: "{kind}" cannot be imported: {error}')
        else:
            if issubclass(model, base):
                return self._section(model, at, written or {})
            self._problems.append(f'{where}: "{kind}" is installed as one of the {role}, but is no {base.__name__}')
        return None

    def _section(self, model: type[M], at: Key, written: object) -> M | None:
        """Read a section by its class: the file's values, over them the environment's, then the secret files."""
        if isinstance(written, model):
            return written
        if not isinstance(written, Mapping):
            self._problem(f"{_header(at)} should be a table of settings")
            return None
        secrets = secret_names(model)
        told = sorted(secrets & written.keys()) if self._file else []
        for name in told:
            self._problem(f"{_header(at)} {name} is a secret and must not stand in the file; {_how_to_set(at, name)}")
        values = {name: value for name, value in written.items() if name not in told}
        for name, text in self._own_variables(at).items():
            values[name] = _parsed(text, model.model_fields[name].annotation) if name in model.model_fields else text
        for name in secrets:
            if f"{name}_file" not in model.model_fields and (problem := self._read_secret_file(at, name, values)):
                self._problems.append(problem)
                told.append(name)
        try:
            made = model.model_validate(values)
        except ValidationError as error:
            hidden = [values[name] for name in secrets & values.keys()]
            self._problems += [_redacted(line, hidden) for line in self._lines(error, model, at, told)]
            return None
        return made

    def _read_secret_file(self, at: Key, name: str, values: dict[str, Any]) -> str | None:
        """Put a secret in the place of its file's path; the path is not told, as it may be the secret itself."""
        where = self._where(at, f"{name}_file")
        if (file := values.pop(f"{name}_file", None)) is None:
            return None
        if name in values:
            is_twice = (*at, f"{name}_file") in self._variables
            return f"{where} and {_variable((*at, name))} are both set; unset one of them" if is_twice else None
        try:
            values[name] = read_secret(self._base_path / str(file), where).get_secret_value()
        except ConfigError as error:
            return str(error)
        return None

    def _lines(self, error: ValidationError, model: type[BaseModel], at: Key, told: Iterable[str]) -> Iterator[str]:
        """Say each of pydantic's errors in one line of ours, but for the settings that were told already."""
        for detail in error.errors(include_input=False, include_url=False, include_context=False):
            name = ".".join(map(str, detail["loc"]))
            if name in told:
                continue
            where = self._where(at, name)
            if detail["type"] == "extra_forbidden":
                yield f"{where}: unknown setting{_did_you_mean(name, model.model_fields)}"
            elif detail["type"] == "missing":
                yield f"{where} is missing" + (f"; {_how_to_set(at, name)}" if name in secret_names(model) else "")
            elif detail["msg"].startswith("Input should"):
                yield f"{where} {detail['msg'].removeprefix('Input ')}"
            else:
                yield f"{where}: {_lower(detail['msg'].removeprefix('Value error, '))}"

    def _own_variables(self, at: Key) -> dict[str, str]:
        """The environment's values for one section."""
        depth = len(at)
        return {
            DELIMITER.join(key[depth:]): text
            for key, text in self._variables.items()
            if key[:depth] == at and key[depth:]
        }

    def _where(self, at: Key, name: str) -> str:
        """Say where a setting, or a part of one ("include.0"), was read: its variable, or its place in the file."""
        variable = (*at, name.partition(".")[0])
        if variable in self._variables:
            return _variable(variable)
        place = f"{_header(at)} {name}".rstrip()  # an error of the section as a whole has no name
        return f"{self._file}: {place}" if self._file else place

    def _problem(self, line: str) -> None:
        self._problems.append(f"{self._file}: {line}" if self._file else line)


def secret_names(model: type[BaseModel]) -> set[str]:
    """Name the settings that hold a secret."""
    return {name for name, field in model.model_fields.items() if _holds_secret(field.annotation)}


def _holds_secret(annotation: object) -> bool:
    if isinstance(annotation, type):
        if issubclass(annotation, SecretStr | SecretBytes):
            return True
        if issubclass(annotation, BaseModel):
            return any(_holds_secret(field.annotation) for field in annotation.model_fields.values())
    return any(_holds_secret(part) for part in get_args(annotation))


def _parsed(text: str, annotation: object) -> object:
    """Read a variable as its setting's type is written: a list as JSON or with commas, a table as JSON."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    types = {get_origin(part) or part for part in parts}
    if text.lstrip()[:1] in ("[", "{") and types - SCALARS:
        try:
            return json.loads(text)
        except ValueError:
            return text  # pydantic says what it should have been
    if types & LISTS and not types & SCALARS:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _redacted(line: str, secrets: Iterable[object]) -> str:
    """Take secrets out of a line: a plug-in's own validator may have put them in."""
    for secret in secrets:
        plain = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        if isinstance(plain, str) and plain:
            line = line.replace(plain, "**********")
    return line


def _variable(key: Key) -> str:
    return PREFIX + DELIMITER.join(key).upper()


def _header(at: Key) -> str:
    return f"[{'.'.join(at)}]"


def _how_to_set(at: Key, name: str) -> str:
    variable = _variable((*at, name))
    return f"set {variable}, or {variable}_FILE to the path of a file that holds it"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else f"; there are: {', '.join(known)}"


def _strerror(error: OSError) -> str:
    return _lower(error.strerror or type(error).__name__)


def _lower(text: str) -> str:
    """Begin as our other messages do."""
    return text[:1].lower() + text[1:]

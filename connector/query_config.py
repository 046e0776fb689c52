"""What an application needs to ask an index questions, in the way in which its passages were embedded.

It is read from the settings and the embedder, and is of the generation that readers get: where the sink can have
several, that is asked of it, so the vectors and the model are told in one step. No other service is asked, and no
secret is told: only which variable of the environment holds it.

    kind of part         what is told of its settings
    -------------------  ----------------------------------------------------------
    ours, an embedder    what decides a question's vector, and where the service is
    ours, a sink         all but how it is written to
    a stranger's         all of them
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable
from urllib.parse import urlsplit, urlunsplit

from .composition import build_context, open_sync
from .config import canonical
from .errors import ConfigError, SinkError, TransientError
from .model import RESERVED_PREFIX, InputType
from .ports import GenerationSink
from .settings_reader import DELIMITER, PREFIX

if TYPE_CHECKING:
    from .config import Settings
    from .generation_parts import Reading
    from .model import JsonValue
    from .plugins import PluginSettings

    Told = dict[str, JsonValue]

EMBEDDER_SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "cohere": ("base_url", "model"),
    "openai": ("base_url", "model", "send_dimensions", "query_prefix", "passage_prefix"),
    "local": ("model",),
}
WRITING_SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "qdrant-edge": ("min_free_bytes",),
    "qdrant": (
        "datatype",
        "quantization",
        "quantization_in_ram",
        "on_disk",
        "shard_number",
        "replication_factor",
        "write_consistency_factor",
        "timeout_seconds",
        "concurrent_calls",
        "records_per_call",
        "bytes_per_call",
    ),
    "pinecone": (
        "create",
        "cloud",
        "region",
        "unsupported",
        "oversized",
        "timeout_seconds",
        "concurrent_calls",
        "records_per_call",
        "bytes_per_call",
    ),
}
"""Of a sink: what concerns only those who write to it."""
QUERY_FACTS: Final[Mapping[str, Mapping[str, JsonValue]]] = {
    "cohere": {"input_type": InputType.SEARCH_QUERY.value, "embedding_type": "float", "truncate": "NONE"},
    "openai": {},
    "local": {},
}
"""By the embedder's kind: what is sent with a question, or done to it. Strangers' are told the input type alone."""
QDRANT: Final = "qdrant"
PINECONE: Final = "pinecone"
LOOKS_SECRET: Final = re.compile(
    r"(^|[_-])(key|apikey|secret|token|password|passwd|credentials?|auth|authorization|bearer)$", re.IGNORECASE
)
"""Names of settings whose text is not told, should a stranger's settings class not have marked it as a secret."""


@runtime_checkable
class AddressedSink(Protocol):
    """A sink that can name where its generation is."""

    def address(self) -> Mapping[str, JsonValue]:
        """Name it as a client of the database does: {"collection": "docs@2"}. Asks it little, or nothing."""
        ...


@dataclass(frozen=True, slots=True)
class QueryConfig:
    """How to query one index."""

    embedder: Told
    sink: Told
    payload: Told  # which field holds what; empty where the kind of sink is not known
    filter: Told  # what tells this sync's records from others' in the same collection
    secrets: Mapping[str, str]  # what a client must be given, and the variable that holds it here

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return {
            "embedder": self.embedder,
            "sink": self.sink,
            "payload": self.payload,
            "filter": self.filter,
            "secrets": dict(self.secrets),
        }


def query_config(settings: Settings, sink: str | None = None) -> QueryConfig:
    """Say how to query a sink, by default the first. ConfigError if there is none of that name."""
    name = sink or next(iter(settings.sinks))
    if name not in settings.sinks:
        raise ConfigError(f'there is no sink "{name}" in the settings; there are: {", ".join(settings.sinks)}')
    chosen = settings.sinks[name]
    is_known = chosen.kind.startswith(QDRANT) or chosen.kind == PINECONE
    with open_sync(settings, read_only=True) as opened:
        reading = opened.read_generation(name)
        embedder = _embedder(settings, reading)
        place = _place(reading)
    return QueryConfig(
        embedder=embedder,
        sink={"name": name, **_public(settings, chosen, without=WRITING_SETTINGS.get(chosen.kind, ())), **place},
        payload=_payload(chosen.kind) if is_known else {},
        filter={f"{RESERVED_PREFIX}source": settings.sync.name} if is_known else {},
        secrets=_variables("embedder", ("embedder",), reading.section) | _variables("sink", ("sinks", name), chosen),
    )


def _place(reading: Reading) -> Told:
    """Say which generation readers get, and where it is, of a sink that can have several.

    One that cannot be asked just now is described as the settings have it.
    """
    if not isinstance(reading.sink, GenerationSink):
        return {}
    place: Told = {"generation": reading.number}
    if isinstance(reading.sink, AddressedSink):
        with suppress(TransientError, SinkError):
            place |= reading.sink.address()
    return place


def _embedder(settings: Settings, reading: Reading) -> Told:
    section, embedder = reading.section, reading.embedder
    told = _public(settings, section)
    if section.kind in EMBEDDER_SETTINGS:
        told = {name: told[name] for name in ("kind", *EMBEDDER_SETTINGS[section.kind])}
    told |= {"dimension": embedder.dimension, "tokens_per_text": embedder.limits.tokens_per_text}
    told |= QUERY_FACTS.get(section.kind, {"input_type": InputType.SEARCH_QUERY.value})
    told["identity"] = embedder.identity
    return told


def _payload(kind: str) -> Told:
    """Name the fields of a point, as `sinks.qdrant_payload` writes them, or `sinks.pinecone_records`."""
    marks = {what: f"{RESERVED_PREFIX}{what}" for what in ("document", "index", "source", "digest")}
    told: Told = {"text": "text", **marks, "metadata": "all other fields, at the top level, under their own names"}
    if kind == PINECONE:
        told["json"] = f"{RESERVED_PREFIX}json"  # those that Pinecone has no type for, as the text of one JSON object
    return told


def _public(settings: Settings, section: PluginSettings, *, without: tuple[str, ...] = ()) -> Told:
    """Give a section's settings without the secrets, paths made absolute."""
    told: Told = {}
    for name, value in json.loads(canonical(section)).items():
        if name in without:
            continue
        written = getattr(section, name, None)
        is_path = isinstance(written, Path)
        told[name] = str(_absolute(settings, written)) if is_path and written else _without_secrets(name, value)
    kind = {"kind": told.pop("kind", section.kind)}  # first, whatever the alphabet says
    return kind | told


def _absolute(settings: Settings, path: Path) -> Path:
    return build_context(settings, read_only=True).resolve(path)


def _without_secrets(name: str, value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {key: _without_secrets(key, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(name, inner) for inner in value]
    if not isinstance(value, str):
        return value
    if value and LOOKS_SECRET.search(name):
        return "(not shown)"
    return _without_password(value) if "://" in value else value


def _without_password(url: str) -> str:
    """Leave out of an address what may be a secret: a name and a password, and a query."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        return "(not shown)"


def _variables(what: str, at: tuple[str, ...], section: PluginSettings) -> dict[str, str]:
    """Name the secrets that a section was given, and the variable in which each is."""
    public = json.loads(canonical(section)).keys()
    given = [name for name in type(section).model_fields if name not in public and getattr(section, name) is not None]
    return {f"{what}.{name}": PREFIX + DELIMITER.join((*at, name)).upper() for name in given}

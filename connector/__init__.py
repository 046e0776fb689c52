"""vector-sync: keep a vector index in step with your documents.

    from connector import Settings, sync

    report = sync(Settings.load(Path("vector-sync.toml")))

The names below are imported when they are first used, so that `vector-sync --help` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .composition import plan_sync, sync
    from .config import Settings
    from .errors import (
        ConfigError,
        ConnectorError,
        ExitCode,
        LeaseError,
        RejectedError,
        SafetyError,
        SinkError,
        TransientError,
    )
    from .events import Emit, Event
    from .filters import AnyOf, Between, Condition, Equals
    from .plugins import BuildContext, EmbedderSettings, SinkSettings, SourceSettings
    from .ports import Embedder, Sink, Source
    from .report import PlanReport, Report

__version__ = "0.1.0"

_HOME = {
    "composition": ("plan_sync", "sync"),
    "config": ("Settings",),
    "errors": (
        "ConfigError",
        "ConnectorError",
        "ExitCode",
        "LeaseError",
        "RejectedError",
        "SafetyError",
        "SinkError",
        "TransientError",
    ),
    "events": ("Emit", "Event"),
    "filters": ("AnyOf", "Between", "Condition", "Equals"),
    "plugins": ("BuildContext", "EmbedderSettings", "SinkSettings", "SourceSettings"),
    "ports": ("Embedder", "Sink", "Source"),
    "report": ("PlanReport", "Report"),
}

__all__ = [
    "AnyOf",
    "Between",
    "BuildContext",
    "Condition",
    "ConfigError",
    "ConnectorError",
    "Embedder",
    "EmbedderSettings",
    "Emit",
    "Equals",
    "Event",
    "ExitCode",
    "LeaseError",
    "PlanReport",
    "RejectedError",
    "Report",
    "SafetyError",
    "Settings",
    "Sink",
    "SinkError",
    "SinkSettings",
    "Source",
    "SourceSettings",
    "TransientError",
    "plan_sync",
    "sync",
]


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Words for what happened: few, known beforehand, and so fit for labels and attributes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from connector.errors import BUG, INTERRUPTED, ExitCode

OUTCOMES: Final = {
    ExitCode.IN_STEP: "in_step",
    ExitCode.REJECTED: "rejected",
    ExitCode.CONFIG: "config",
    ExitCode.BEHIND: "behind",
    ExitCode.SAFETY: "asked",
    ExitCode.DRIFT: "drift",
    ExitCode.BUSY: "busy",
    BUG: "bug",
    INTERRUPTED: "interrupted",
}
CALLS: Final = frozenset({"embed", "check", "make", "open", "upsert", "delete", "list", "look", "cancel", "search"})
OTHER: Final = "other"


def outcome_of(exit_code: int) -> str:
    """Say how a run ended."""
    return OUTCOMES.get(exit_code, OTHER)


def call_of(what: str) -> str:
    """Say what was tried again, by the first word of `CallRetried.what`; the rest of it names one call of many."""
    word = what.partition(" ")[0]
    return word if word in CALLS else OTHER


def iso(seconds: float) -> str:
    """Write a time since 1970 as the status does."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

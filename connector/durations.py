"""Lengths of time, as the settings write them: "90s", "5m", "2h", "1d", "1h30m", or a number of seconds."""

from __future__ import annotations

import re
from typing import Final

SECONDS: Final = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
SHORTEST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 366 * SECONDS["d"]
_NUMBER: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?")
_PARTS: Final = re.compile(
    "".join(rf"(?:(?P<{unit}>{_NUMBER.pattern})\s*{unit}\s*)?" for unit in SECONDS), re.IGNORECASE
)


def parse_duration(written: str | float) -> float:
    """Give the seconds of a length of time. The ValueError says what it should be, and never what it is."""
    seconds = _seconds(written)
    if seconds is None:
        raise ValueError('should be a length of time, as in "90s", "5m", "2h", "1d" or "1h30m", or a number of seconds')
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise ValueError("should be between 1 second and 366 days")
    return seconds


def _seconds(written: str | float) -> float | None:
    if isinstance(written, str):
        text = written.strip()
        if _NUMBER.fullmatch(text):
            return float(text)
        found = _PARTS.fullmatch(text) if text else None
        return sum(float(found[unit] or 0) * seconds for unit, seconds in SECONDS.items()) if found else None
    if isinstance(written, int | float) and not isinstance(written, bool):  # TOML has these, too
        return float(written)
    return None


def duration_in_words(seconds: float) -> str:
    """Write a length of time as `parse_duration` reads it, to the second: "1h30m"."""
    left = max(0, round(seconds))
    words = ""
    for unit, size in SECONDS.items():
        count, left = divmod(left, int(size))
        words += f"{count}{unit}" if count else ""
    return words or "0s"

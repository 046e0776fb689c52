"""Match paths against patterns such as `**/*.md`, as the settings write them.

    pattern  matches
    -------  ---------------------------------------------------------------
    **       any number of folders, none too; at the end, everything below
    *        any characters but "/", a leading dot too
    ?        one character but "/"
    [ab]     one of these characters; [!ab] one that is not

A pattern matches a whole path relative to the root, case-sensitively, on every system.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_TOKEN = re.compile(
    r"(?P<folders>\*\*/)|(?P<rest>\*\*$)|(?P<star>\*+)|(?P<one>\?)|\[(?P<not>!?)(?P<set>[^/\]]+)\]|(?P<literal>.)",
    re.DOTALL,
)


def compile_patterns(patterns: Sequence[str]) -> re.Pattern[str]:
    """Make one expression for `fullmatch` of several patterns; of none, it matches nothing."""
    return re.compile("|".join(map(_expression, patterns)) or r"(?!)", re.DOTALL)


def _expression(pattern: str) -> str:
    return "".join(map(_part, _TOKEN.finditer(pattern)))


def _part(token: re.Match[str]) -> str:
    match token.lastgroup:
        case "folders":
            return r"(?:[^/]+/)*"
        case "rest":
            return r".*"
        case "star":
            return r"[^/]*"
        case "one":
            return r"[^/]"
        case "set":
            return f"[{'^/' if token['not'] else ''}{_escape_set(token['set'])}]"
        case _:
            return re.escape(token[0])


def _escape_set(characters: str) -> str:
    return re.sub(r"[\\^\[]", r"\\\g<0>", characters)

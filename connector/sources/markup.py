"""Turn the content of a file into text to embed, a title and metadata: Markdown, HTML or plain.

HTML is reduced to Markdown, so that its headings and paragraphs stay apart for the splitter.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

import html_to_markdown
import yaml

from connector.sources.fields import UnusableError

CONTENT_READER = f"1; html-to-markdown {version('html-to-markdown')}"
"""What decides the text and title of a file besides the file; part of every version. The number
counts the ways in which this module has read files."""

MAX_FRONT_MATTER_DEPTH = 64  # the C loader recurses without a limit: at 30,000 levels it ends the process

_SUFFIXES_OF_MARKDOWN = (".md", ".markdown")
_SUFFIXES_OF_HTML = (".html", ".htm")

# Rendered pages repeat these on every page of a site; they say nothing about the one at hand.
_NOISE = ["nav", "aside", "footer", "svg", "template", "noscript", "form", "button", "iframe", "object"]
_HTML_OPTIONS = html_to_markdown.ConversionOptions(
    exclude_selectors=["head", *_NOISE],
    strip_tags=["a"],  # the words of a link stay, its address goes
    skip_images=True,
    extract_metadata=False,
    autolinks=False,
)
_HTML_TITLE = re.compile(r"<title[^>]*>([^<]{1,1000})", re.IGNORECASE)
_HTML_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)
_LATIN_1_LABELS = {"iso-8859-1", "iso8859-1", "latin-1", "latin1", "ascii", "us-ascii"}  # Windows-1252 to a browser
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_CHARSET_WITHIN_BYTES = 1024  # the HTML standard looks for it no further

_Loader: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # C, ten times as fast


class _Mark(Protocol):
    line: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a file says."""

    text: str
    title: str | None
    fields: Mapping[object, object]  # the front matter
    markdown: bool


def read_content(raw: bytes, suffix: str) -> Content:
    """Read a file by its suffix; UnusableError says why it is no text."""
    suffix = suffix.lower()
    if suffix in _SUFFIXES_OF_HTML:
        return _from_html(_decode_html(raw))
    text = _decode_utf8(raw)
    return _from_markdown(text) if suffix in _SUFFIXES_OF_MARKDOWN else Content(text, None, {}, markdown=False)


def _decode_utf8(raw: bytes) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnusableError("it is written in UTF-16; save it as UTF-8")
    nul = raw.find(b"\0")
    if nul >= 0:
        raise UnusableError(f"it is binary: NUL at byte {nul + 1}")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UnusableError(f"it is not UTF-8: byte {error.start + 1} cannot be decoded") from error


def _decode_html(raw: bytes) -> str:
    """Decode as a browser would: the byte order mark, what the page says, UTF-8, else Windows-1252."""
    declared = _HTML_CHARSET.search(raw[:_CHARSET_WITHIN_BYTES])
    if raw.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw:
        return _decode_utf8(raw)
    name = declared[1].decode().lower() if declared else "utf-8"
    if name in _LATIN_1_LABELS:
        name = "cp1252"
    try:
        return raw.decode(name)
    except LookupError as error:
        raise UnusableError(f'it says that it is written in "{name}", which is not known') from error
    except UnicodeDecodeError as error:
        if declared is None:
            return raw.decode("cp1252", errors="replace")
        raise UnusableError(f"it is not {name}, as it says: byte {error.start + 1} cannot be decoded") from error


def _from_html(page: str) -> Content:
    title = _HTML_TITLE.search(page)
    try:
        text = html_to_markdown.convert(page, _HTML_OPTIONS).content
    except html_to_markdown.ConversionError as error:
        raise UnusableError(f"it is HTML that cannot be read: {error}") from error
    return Content(text or "", _one_line(html.unescape(title[1])) if title else None, {}, markdown=True)


def _from_markdown(text: str) -> Content:
    fields, body = _split_front_matter(text)
    return Content(body, _first_heading(body), fields, markdown=True)


def _split_front_matter(text: str) -> tuple[Mapping[object, object], str]:
    """Take the YAML between `---` lines off the top. What is not closed or no mapping is text."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return {}, text
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() in {"---", "..."}), None)
    if end is None:
        return {}, text
    found = _read_yaml("\n".join(lines[1:end]))
    return (found, "\n".join(lines[end + 1 :])) if isinstance(found, Mapping) else ({}, text)


def _read_yaml(source: str) -> object:
    """Read what a stranger may have written, without making objects of it."""
    try:
        _refuse_bombs(source)
        return yaml.load(source, _Loader)  # noqa: S506 - one of the safe loaders
    except UnusableError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # What a tag (!!bool maybe) or a look (2024-13-01) promises and the value breaks, PyYAML trips over.
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UnusableError(f"front matter{_line(mark)}: {problem}") from error


def _refuse_bombs(source: str) -> None:
    """Refuse depths, which the C loader does not survive, and aliases, which multiply."""
    depth = 0
    for event in yaml.parse(source, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise UnusableError(f"front matter{_line(event.start_mark)}: aliases (*name) are not supported")
        if depth > MAX_FRONT_MATTER_DEPTH:
            raise UnusableError(f"front matter{_line(event.start_mark)}: nested too deep")


def _line(mark: _Mark | None) -> str:
    return f" line {mark.line + 2}" if mark else ""  # counted from 1, and "---" is the first


def _first_heading(text: str) -> str | None:
    """Find the first heading: `# like this`, or underlined; not in a code fence."""
    fence: str | None = None
    before = ""
    for line in text.splitlines():
        stripped = line.strip()
        if mark := _FENCE.match(line):
            fence = mark[1] if fence is None else None if stripped.startswith(fence) else fence
        elif fence is None:
            if heading := _HEADING.match(line):
                return _one_line(heading[1])
            if before and stripped and not stripped.strip("="):
                return _one_line(before)
        before = stripped if fence is None else ""
    return None


def _one_line(title: str) -> str | None:
    return " ".join(title.split()) or None

"""Files: text and title of each kind, links, what cannot be read, and files that change meanwhile."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from connector.errors import ConfigError, TransientError
from connector.model import Document, DocumentRef, ListingComplete, Rejection, Unreadable
from connector.plugins import BuildContext, find
from connector.sources import files
from connector.sources.files import FilesListing, FilesSettings, FilesSource
from connector.sources.patterns import compile_patterns


@dataclass
class Folder:
    """A folder of documents, and a clock that by default stands long after they were written."""

    path: Path
    later_seconds: float = 3600.0

    def write(self, name: str, content: bytes | str = "text") -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def source(self, **changes: object) -> FilesSource:
        chosen = FilesSettings.model_validate({"path": self.path, **changes})
        return FilesSource(chosen, BuildContext(self.path, self.path / "state", seed=3), self.now)

    def now(self) -> float:
        return time.time() + self.later_seconds

    def read(self, name: str, content: bytes | str, **changes: object) -> Document | Rejection:
        self.write(name, content)
        return fetched(self.source(**changes))[name]

    def document(self, name: str, content: bytes | str, **changes: object) -> Document:
        found = self.read(name, content, **changes)
        assert isinstance(found, Document)
        return found

    def rejection(self, name: str, content: bytes | str, **changes: object) -> Rejection:
        found = self.read(name, content, **changes)
        assert isinstance(found, Rejection)
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "docs").mkdir()
    return Folder(tmp_path / "docs")


def rows(source: FilesSource) -> Iterator[DocumentRef | Unreadable]:
    for batch in source.list():
        if isinstance(batch, FilesListing):
            yield from batch.refs(np.arange(len(batch.versions)))


def refs(source: FilesSource) -> list[DocumentRef]:
    return [row for row in rows(source) if isinstance(row, DocumentRef)]


def fetched(source: FilesSource) -> dict[str, Document | Rejection]:
    return {row.id: row for row in source.fetch(refs(source))}


def test_ids_are_relative_paths_in_a_sorted_walk_without_hidden_files(folder: Folder) -> None:
    for name in (
        "z.md",
        "a.txt",
        "b/2.md",
        "b/10.rst",
        "b/c/x.HTML",
        "b/c/y.html",
        ".git/h.md",
        "b/.hidden.md",
        "code.py",
        "Ä.md",
    ):
        folder.write(name)
    assert [ref.id for ref in refs(folder.source())] == ["a.txt", "z.md", "Ä.md", "b/10.rst", "b/2.md", "b/c/y.html"]


def test_fractions_never_go_back_and_end_at_one(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILES_PER_BATCH", 2)
    for name in ("a.md", "b/a.md", "b/b.md", "c/d/e/f.md", "c/g.md", "h/i.md", "j.md"):
        folder.write(name)
    *batches, complete = folder.source().list()
    fractions = [batch.fraction for batch in batches if isinstance(batch, FilesListing)]
    assert complete == ListingComplete(7)
    assert len(fractions) == 4
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)


# Content


def test_front_matter_is_metadata_and_no_text(folder: Folder) -> None:
    front = "---\ntitle: A title\ntags: [x, y]\ndate: 2024-02-29\nat: 2024-02-29 10:00:00\nempty:\n---\n"
    document = folder.document("a/page.md", f"\ufeff{front}# Heading\n\nBody.\n".replace("\n", "\r\n"))
    assert document.text == "# Heading\n\nBody.\n"
    assert document.metadata == {
        "title": "A title",
        "tags": ["x", "y"],
        "date": "2024-02-29",
        "at": "2024-02-29T10:00:00",
        "path": "a/page.md",
    }
    assert document.markdown


@pytest.mark.parametrize(
    "content",
    [
        "---\n\ntext after a rule\n",
        "---\njust words\n---\ntext",
        "text\n---\nkey: value\n---\n",
        "----\nkey: value\n---\nx",
    ],
)
def test_a_rule_at_the_top_is_no_front_matter(folder: Folder, content: str) -> None:
    assert folder.document("a.md", content).text == content


@pytest.mark.parametrize(
    "front, reason",
    [
        ("title: x\ntags: [a, b\nmore: y", "front matter line 4: "),
        ("title: a: b", "front matter line 2: mapping values are not allowed in this context"),
        ("title: 'open", "front matter line "),
        ("day: 2024-13-01", "front matter: month must be in 1..12"),
        ("a: &x [1]\nb: *x", "front matter line 3: aliases (*name) are not supported"),
        ("a: " + "[" * 30_000, "front matter line 2: nested too deep"),
        ("a: !!python/object/apply:os.system [ls]", "front matter line 2: could not determine a constructor"),
        ("a: !!bool maybe", "front matter: 'maybe'"),
        ("a: !!timestamp soon", "front matter: "),
        ("a: \b", "front matter: "),
        ("? [a]\n: b", "front matter line 2: found unhashable key"),
        ("a: .nan", '"a" holds nan, which JSON does not have'),
        ("a: !!binary aGk=", '"a" holds bytes, which cannot be metadata'),
        ("2024: x", "field 2024 has a name that is not a string"),
        ("text: x", 'field "text" cannot be metadata'),
        ("_vs_digest: x", 'field "_vs_digest" cannot be metadata'),
    ],
)
def test_front_matter_that_cannot_be_used_rejects_its_file(folder: Folder, front: str, reason: str) -> None:
    folder.write("good.md")
    rejected = folder.rejection("bad.md", f"---\n{front}\n---\nbody")
    assert rejected.reason.startswith(reason)
    assert not rejected.passing
    assert isinstance(fetched(folder.source())["good.md"], Document)


@pytest.mark.parametrize(
    "name, content, title",
    [
        ("a.md", "intro\n\n## The `first`  one ##\n\n# Second\n", "The `first` one"),
        ("a.md", "Under\nline\n=====\n\n# Second\n", "line"),
        ("a.md", "```sh\n# a comment\n```\n# Real\n", "Real"),
        ("a.md", "~~~\n```\n# no\n~~~\n#hashtag\n# Real\n", "Real"),
        ("some notes.md", "no heading", "some notes"),
        ("a.html", "<title>\n A &amp; B\n</title><h1>H</h1>", "A & B"),
        ("page.html", "<h1>H</h1>", "page"),
        ("a.txt", "# not Markdown", "a"),
    ],
)
def test_a_file_has_a_title(folder: Folder, name: str, content: str, title: str) -> None:
    assert folder.document(name, content).metadata == {"path": name, "title": title}


def test_kept_and_optional_fields_choose_the_metadata(folder: Folder) -> None:
    folder.write("a.md", "---\nlang: en\nx: 1\n---\nbody")
    folder.write("b.md", "body")
    found = fetched(folder.source(keep_fields=["lang"], optional_fields=["title"]))
    assert isinstance(found["a.md"], Document)
    assert found["a.md"].metadata == {"lang": "en", "title": "a"}
    assert isinstance(found["b.md"], Rejection)
    assert found["b.md"].reason == 'keep_fields needs "lang", which is missing'


PAGE = """<!doctype html><html><head><title>T</title><style>p { color: red }</style>
<script>var hidden = "<p>script"</script></head><body><nav><a href="/">Home</a></nav><main>
<h1>Caf&eacute; &lt;1&gt;</h1><p>First <b>bold</b>
with a <a href="https://x.y/z">link</a>.</p><p>Second</p><pre>a = 1
  b = 2</pre><ul><li>one</li><li>two</li></ul><script>hidden()</script>
<noscript>hidden</noscript><img src="x.png" alt=""></main><footer>hidden</footer></body></html>"""


def test_a_page_is_reduced_to_what_it_says(folder: Folder) -> None:
    document = folder.document("a.html", PAGE)
    assert document.markdown
    assert document.text.split("\n\n") == [
        "# Café <1>",
        "First **bold** with a link.",
        "Second",
        "```\na = 1\n  b = 2\n```",
        "- one\n- two\n",
    ]


@pytest.mark.parametrize(
    "raw",
    [
        "<p>café Œ €</p>".encode(),
        "\ufeff<meta charset=latin-1><p>café Œ €</p>".encode(),
        "<p>café Œ €</p>".encode("cp1252"),
        '<meta charset="ISO-8859-1"><p>café Œ €</p>'.encode("cp1252"),
        '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-15"><p>café &OElig; €</p>'.encode(
            "iso-8859-15"
        ),
    ],
)
def test_a_page_is_decoded_as_it_says_or_as_a_browser_would(folder: Folder, raw: bytes) -> None:
    assert folder.document("a.html", raw).text == "café Œ €\n"


@pytest.mark.parametrize(
    "name, raw, reason",
    [
        ("a.md", b"text\0more", "it is binary: NUL at byte 5"),
        ("a.txt", b"caf\xe9", "it is not UTF-8: byte 4 cannot be decoded"),
        ("a.txt", "text".encode("utf-16"), "it is written in UTF-16; save it as UTF-8"),
        ("a.html", "<p>text".encode("utf-16"), "it is written in UTF-16; save it as UTF-8"),
        ("a.html", b'<meta charset="utf-8"><p>caf\xe9', "it is not utf-8, as it says: byte 29 cannot be decoded"),
        ("a.html", b'<meta charset="klingon"><p>x', 'it says that it is written in "klingon", which is not known'),
        ("a.md", b"", "no text: the file is empty"),
        ("a.md", b" \n\t", "no text in the file"),
        ("a.md", b"---\ntitle: x\n---\n", "no text in the file"),
        ("a.html", b"<script>x()</script>", "no text in the file"),
        ("a.txt", b"x" * 101, "it has 101 bytes; max_bytes allows 100"),
    ],
)
def test_a_file_without_usable_text_is_rejected_for_good(folder: Folder, name: str, raw: bytes, reason: str) -> None:
    rejected = folder.rejection(name, raw, max_bytes=100)
    assert rejected.reason == reason
    assert not rejected.passing


# Links, and what is no file


def test_links_are_followed_to_files_inside_and_named_where_they_lead_out(folder: Folder) -> None:
    folder.write("real/a.md", "inside")
    (folder.path.parent / "secret.md").write_text("outside")
    (folder.path.parent / "elsewhere").mkdir()
    for name, target in {
        "in.md": "real/a.md",
        "out.md": "../secret.md",
        "sideways.md": "../docs-of-others/x.md",
        "nothing.md": "missing.md",
        "loop.md": "loop.md",
        "folder.md": "real",
        "folders": "real",
        "outer.md": "../elsewhere",
    }.items():
        (folder.path / name).symlink_to(target)
    found = fetched(folder.source())
    assert {id: row.text for id, row in found.items() if isinstance(row, Document)} == {
        "in.md": "inside",
        "real/a.md": "inside",
    }
    assert {id: row.reason for id, row in found.items() if isinstance(row, Rejection)} == {
        "out.md": f"the link leads out of {folder.path}",
        "sideways.md": f"the link leads out of {folder.path}",
        "nothing.md": "the link leads to nothing",
        "loop.md": "the link leads to nothing",
    }


def test_a_file_that_becomes_a_link_out_of_the_root_is_not_read(folder: Folder) -> None:
    secret = folder.path.parent / "secret.md"
    secret.write_text("secret")
    path = folder.write("a.md", "public")
    folder.write("b/c.md", "public")
    source = folder.source()
    listed = refs(source)
    path.unlink()
    path.symlink_to(secret)
    shutil.move(folder.path / "b", folder.path.parent / "moved")
    (folder.path.parent / "moved" / "c.md").write_text("secret")
    (folder.path / "b").symlink_to(folder.path.parent / "moved")
    assert not [row for row in source.fetch(listed) if isinstance(row, Document)]


def test_what_is_not_a_regular_file_is_not_listed(folder: Folder) -> None:
    os.mkfifo(folder.path / "pipe.md")
    (folder.path / "folder.md").mkdir()
    assert list(folder.source().list()) == [ListingComplete(0)]


def test_a_file_that_becomes_a_pipe_does_not_hold_the_run_up(folder: Folder) -> None:
    path = folder.write("a.md")
    source = folder.source()
    listed = refs(source)
    path.unlink()
    os.mkfifo(path)
    assert list(source.fetch(listed)) == []


def test_a_name_that_cannot_be_an_id_is_unreadable_and_not_lost(folder: Folder) -> None:
    folder.write("good.md")
    (folder.path / os.fsdecode(b"b\xff.md")).write_text("text")
    long = "/".join(["d" * 200] * 6)
    folder.write(f"{long}.md")
    found = {row.place: row.reason for row in rows(folder.source()) if isinstance(row, Unreadable)}
    assert found == {
        "b\\xff.md": "the path cannot be an id: the id has half a surrogate pair at character 2",
        f"{long}.md": "the path cannot be an id: the id has 1,208 bytes; 1,024 are the limit",
    }
    assert [ref.id for ref in refs(folder.source())] == ["good.md"]


# Failures, and files that change


@pytest.mark.parametrize("path", ["missing", "file.md"])
def test_a_root_that_is_no_folder_is_a_config_error(folder: Folder, path: str) -> None:
    folder.write("file.md")
    source = folder.source(path=folder.path / path)
    for call in (source.check, lambda: list(source.list())):
        with pytest.raises(ConfigError):
            call()


def test_a_folder_that_cannot_be_listed_makes_the_listing_incomplete_after_the_rest(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/x.md", "locked/y.md", "z/z.md"):
        folder.write(name)
    scandir = os.scandir

    def refuse(path: os.PathLike[str]) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # permissions do not hold root back
    listed: list[object] = []
    with pytest.raises(
        TransientError, match="locked cannot be listed: Permission denied, so the listing is not complete"
    ):
        listed.extend(folder.source().list())
    (batch,) = listed
    assert isinstance(batch, FilesListing)
    assert [batch.place(position) for position in range(2)] == ["a/x.md", "z/z.md"]
    assert len(refs(folder.source(exclude=["locked/**"]))) == 2  # what is excluded is not opened


def test_a_file_that_cannot_be_opened_is_rejected_for_now_and_one_that_is_gone_is_left_out(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.md", "gone.md", "locked.md"):
        folder.write(name)
    source = folder.source()
    listed = refs(source)
    (folder.path / "gone.md").unlink()
    opened = os.open

    def refuse(path: os.PathLike[str], *rest: int) -> int:
        if Path(path).name == "locked.md":
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", refuse)  # permissions do not hold root back
    document, rejected = source.fetch(listed)
    assert isinstance(document, Document)
    assert rejected == Rejection(listed[2].id, listed[2].version, "it cannot be read: Permission denied", passing=True)


def test_a_file_that_is_written_while_it_is_read_is_left_out(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder.write("a.md", "old text")
    source = folder.source()
    (ref,) = refs(source)
    fstat, calls = os.fstat, []

    def write_after_the_first(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        if not calls:
            path.write_text("new text, longer")
        calls.append(descriptor)
        return status

    monkeypatch.setattr(os, "fstat", write_after_the_first)
    assert list(source.fetch([ref])) == []
    monkeypatch.undo()
    assert [row.text for row in fetched(folder.source()).values() if isinstance(row, Document)] == ["new text, longer"]


def test_a_file_that_has_grown_too_large_since_it_was_listed_is_left_out(folder: Folder) -> None:
    path = folder.write("a.md", "x" * 10)
    source = folder.source(max_bytes=10)
    listed = refs(source)
    path.write_text("x" * 11)
    assert list(source.fetch(listed)) == []
    (rejected,) = fetched(source).values()
    assert isinstance(rejected, Rejection)


def test_a_link_that_cannot_be_looked_at_makes_the_listing_incomplete(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("real.txt")
    (folder.path / "link.md").symlink_to("real.txt")
    looked_at = Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if path.name == "real.txt":
            raise PermissionError(13, "Permission denied")
        return looked_at(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)  # permissions do not hold root back
    with pytest.raises(TransientError, match=r"link\.md cannot be looked at: Permission denied"):
        list(folder.source().list())


def test_a_young_file_is_looked_at_again_until_it_is_two_seconds_old(folder: Folder) -> None:
    folder.write("a.md")
    seen = []
    for folder.later_seconds in (0.0, 0.0, 3600.0, 3600.0):
        source = folder.source()
        (ref,) = refs(source)
        assert [row.version for row in source.fetch([ref])] == [ref.version]
        seen.append(ref.version)
    assert len(set(seen[:3])) == 3
    assert seen[2] == seen[3]


def test_settings_that_decide_the_content_are_part_of_every_version(folder: Folder) -> None:
    folder.write("a.md")
    sources = (folder.source(), folder.source(optional_fields=["title"]), folder.source(max_bytes=9))
    assert len({refs(source)[0].version for source in sources}) == 3


def test_the_kind_is_found_and_every_setting_is_described() -> None:
    assert find("sources", "files") is FilesSettings
    assert all(field.description for field in FilesSettings.model_fields.values())


# Patterns


@pytest.mark.parametrize(
    "pattern, path, matches",
    [
        ("**/*.md", "a.md", True),
        ("**/*.md", "a/b/c.md", True),
        ("**/*.md", "a.MD", False),
        ("*.md", "a/b.md", False),
        ("docs/**", "docs/a/b", True),
        ("docs/**", "docsx/a", False),
        ("docs/**/x.md", "docs/x.md", True),
        ("docs/**/x.md", "docs/a/b/x.md", True),
        ("a?.md", "ab.md", True),
        ("a?.md", "a/.md", False),
        ("[ab].md", "b.md", True),
        ("[!ab].md", "b.md", False),
        ("[!ab].md", "/.md", False),
        ("[a-c]+.md", "b+.md", True),
        ("[]].md", "].md", False),
        ("a.md", "aXmd", False),
        ("**/.*/**", "a/.git/b/c", True),
        ("**/.*/**", ".git/", True),
        ("**/.*", "a/.x", True),
        ("**/.*", "a.b", False),
        ("[", "[", True),
        ("a\nb", "a\nb", True),
    ],
)
def test_patterns_match_as_they_are_described(pattern: str, path: str, *, matches: bool) -> None:
    assert bool(compile_patterns([pattern]).fullmatch(path)) is matches


def test_no_patterns_match_nothing() -> None:
    assert not compile_patterns([]).fullmatch("")

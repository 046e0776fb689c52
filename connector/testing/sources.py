"""The source contract as a pytest class, to which anyone's source can be held.

    from connector.testing.sources import SourceContract

    class TestMySource(SourceContract):
        @pytest.fixture
        def harness(self):
            yield MyHarness()

A rule that a source cannot keep is waived by name and with a reason, which the run prints. It cannot be
overridden: a test redefined in a subclass is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from connector.errors import ConfigError, ConnectorError
from connector.model import HASH_BYTES, Document, DocumentId, DocumentRef, ListingComplete, Rejection, Unreadable
from connector.ports import Listing, Source, WatchableSource
from connector.testing.contract import Contract

NAMES = ("a", "b", "c")


class SourceHarness(Protocol):
    """What the contract needs, besides the source, of whoever wrote it. At first there are no documents."""

    def source(self) -> Source:
        """Build the source from the same settings as ever, as the next process would."""
        ...

    def put(self, name: str, text: str, title: str) -> None:
        """Create or replace a document; `title` becomes metadata of that name."""
        ...

    def put_unusable(self, name: str) -> None:
        """Create or replace a document with one that has an id and can never be used."""
        ...

    def put_unreadable(self) -> None:
        """Add a place that should hold a document, but whose document cannot be told."""
        ...

    def remove(self, name: str) -> None:
        """Remove a document."""
        ...

    def break_listing(self) -> None:
        """Let the source be there, with documents, but so that it cannot be listed to the end."""
        ...

    def take_away(self) -> None:
        """Let there be nothing where the settings say that the source is."""
        ...


class SourceContract(Contract):
    """The rules D1 to D6 of `connector.ports.Source`, and D7 of `WatchableSource`, if it is one."""

    @pytest.fixture
    def harness(self) -> SourceHarness:
        raise NotImplementedError("give the contract a harness: see SourceHarness")

    def test_D1_a_listing_ends_with_its_count(self, harness: SourceHarness) -> None:
        fill(harness)
        harness.put_unreadable()
        *batches, complete = harness.source().list()
        assert complete == ListingComplete(len(NAMES) + 1)
        assert [len(batch.versions) for batch in batches if not isinstance(batch, ListingComplete)]
        assert sum(len(batch.versions) for batch in batches if not isinstance(batch, ListingComplete)) == len(NAMES) + 1

    def test_D1_a_listing_that_cannot_be_completed_raises(self, harness: SourceHarness) -> None:
        fill(harness)
        harness.break_listing()
        listed: list[Listing | ListingComplete] = []
        with pytest.raises(ConnectorError):
            listed.extend(harness.source().list())
        assert not any(isinstance(batch, ListingComplete) for batch in listed)

    def test_D1_a_source_that_is_not_there_is_a_config_error_and_not_empty(self, harness: SourceHarness) -> None:
        fill(harness)
        harness.source().check()
        harness.take_away()
        with pytest.raises(ConfigError):
            harness.source().check()
        with pytest.raises(ConfigError):
            list(harness.source().list())

    def test_D2_rows_come_in_the_same_order_each_time(self, harness: SourceHarness) -> None:
        for number in range(30):
            harness.put(f"n{number * 7 % 30}", f"text {number}", "t")
        first = [row.id for row in rows(harness.source()) if isinstance(row, DocumentRef)]
        assert len(first) == 30
        assert [row.id for row in rows(harness.source()) if isinstance(row, DocumentRef)] == first

    def test_D3_versions_are_the_same_in_every_process(self, harness: SourceHarness) -> None:
        fill(harness)
        assert versions(harness.source()) == versions(harness.source())

    @pytest.mark.parametrize("text, title", [("nexT", "titlE"), ("text", "title of another length")])
    def test_D3_a_version_changes_with_the_text_and_the_metadata(
        self, harness: SourceHarness, text: str, title: str
    ) -> None:
        harness.put("a", "text", "title")
        harness.put("b", "other", "title")
        before = versions(harness.source())
        harness.put("a", text, title)
        after = versions(harness.source())
        changed = {id for id in before if before[id] != after[id]}
        assert changed == {id for id in before if "a" in id}

    def test_D3_the_same_content_under_another_id_has_another_version(self, harness: SourceHarness) -> None:
        harness.put("a", "text", "title")
        before = versions(harness.source())
        harness.remove("a")
        harness.put("b", "text", "title")
        after = versions(harness.source())
        assert before.keys().isdisjoint(after)
        assert set(before.values()).isdisjoint(after.values())

    def test_D4_each_document_is_fetched_once_as_it_is(self, harness: SourceHarness) -> None:
        fill(harness)
        source = harness.source()
        refs = readable(source)
        fetched = [row for row in source.fetch(refs) if isinstance(row, Document)]
        assert sorted((row.id, row.version) for row in fetched) == sorted((ref.id, ref.version) for ref in refs)
        assert sorted((row.text, row.metadata["title"]) for row in fetched) == [
            (f"text of {name}", f"title of {name}") for name in NAMES
        ]

    def test_D4_only_what_was_asked_for_is_fetched(self, harness: SourceHarness) -> None:
        fill(harness)
        source = harness.source()
        refs = readable(source)
        for some in (refs[1:2], refs[::-1], []):
            assert sorted(row.id for row in source.fetch(some)) == sorted(ref.id for ref in some)

    def test_D4_what_is_gone_is_left_out(self, harness: SourceHarness) -> None:
        fill(harness)
        source = harness.source()
        refs = readable(source)
        harness.remove("b")
        assert not [row for row in source.fetch(refs) if isinstance(row, Document) and row.text == "text of b"]

    def test_D4_what_cannot_be_used_is_rejected_by_name_and_the_rest_is_not(self, harness: SourceHarness) -> None:
        fill(harness)
        source = harness.source()
        before = {ref.id for ref in readable(source)}
        harness.put_unusable("b")
        source = harness.source()
        refs = {ref.id: ref for ref in readable(source)}
        assert set(refs) == before
        fetched = list(source.fetch(list(refs.values())))
        (rejected,) = [row for row in fetched if isinstance(row, Rejection)]
        assert rejected.reason
        assert not rejected.passing
        assert rejected.version == refs[rejected.id].version
        assert sorted(row.text for row in fetched if isinstance(row, Document)) == ["text of a", "text of c"]

    def test_D5_text_and_version_belong_together(self, harness: SourceHarness) -> None:
        harness.put("a", "text", "title")
        source = harness.source()
        listed = readable(source)
        harness.put("a", "nexT", "titlE")
        now = {ref.version: ("nexT", "titlE") for ref in readable(harness.source())}
        pairs = {**now, **{ref.version: ("text", "title") for ref in listed}}
        for row in source.fetch(listed):
            assert isinstance(row, Document)
            assert (row.text, row.metadata["title"]) == pairs[row.version]

    def test_D6_a_place_whose_document_cannot_be_told_is_named(self, harness: SourceHarness) -> None:
        fill(harness)
        harness.put_unreadable()
        (place,) = [row for row in rows(harness.source()) if isinstance(row, Unreadable)]
        assert place.place
        assert place.reason
        assert len(readable(harness.source())) == len(NAMES)

    def test_D7_what_changes_is_a_file_that_is_watched(self, harness: SourceHarness) -> None:
        fill(harness)
        source = harness.source()
        if not isinstance(source, WatchableSource):
            pytest.skip("the source is not made of files that can be watched")
        changes: Sequence[Callable[[], None]] = (
            partial(harness.put, "a", "another text", "title of a"),
            partial(harness.put, "d", "text of d", "title of d"),
            partial(harness.remove, "b"),
        )
        for change in changes:
            before = watched(source)
            change()
            after = watched(source)
            assert any(source.may_list(path) for path in {path for path, _ in before.items() ^ after.items()})

    def test_D1_the_columns_of_a_batch_agree(self, harness: SourceHarness) -> None:
        fill(harness)
        fraction = 0.0
        for batch in harness.source().list():
            if isinstance(batch, ListingComplete):
                continue
            assert batch.versions.shape == (len(batch.versions), HASH_BYTES)
            assert batch.versions.dtype == np.uint8
            assert fraction <= batch.fraction <= 1
            fraction = batch.fraction
            positions = np.arange(len(batch.versions))[::-1]
            found = list(batch.refs(positions))
            assert [row.version for row in found if isinstance(row, DocumentRef)] == [
                batch.versions[position].tobytes() for position in positions
            ]
            assert all(batch.place(int(position)) for position in positions)


def fill(harness: SourceHarness) -> None:
    """Put one document for each of NAMES."""
    for name in NAMES:
        harness.put(name, f"text of {name}", f"title of {name}")


def rows(source: Source) -> Iterator[DocumentRef | Unreadable]:
    """List a source and parse every row."""
    for batch in source.list():
        if not isinstance(batch, ListingComplete):
            yield from batch.refs(np.arange(len(batch.versions)))


def readable(source: Source) -> Sequence[DocumentRef]:
    """List a source's documents."""
    return [row for row in rows(source) if isinstance(row, DocumentRef)]


def versions(source: Source) -> dict[DocumentId, bytes]:
    """List a source's documents, as what they are known by."""
    return {ref.id: ref.version for ref in readable(source)}


def watched(source: WatchableSource) -> dict[Path, tuple[int, int, int]]:
    """Look at every file that a source wants watched, as closely as a watcher does."""
    found = {}
    for root in source.watched_paths():
        for path in (root, *root.rglob("*")):
            if path.is_file():
                status = path.stat()
                found[path] = (status.st_mtime_ns, status.st_ino, status.st_size)
    return found

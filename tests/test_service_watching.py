"""Real files and real inotify: what is told, what is not, and that nothing ends the watch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watchfiles import Change

from connector.checkpoint import Checkpoints
from connector.plugins import BuildContext
from connector.ports import WatchableSource
from connector.service import watching
from connector.service.watching import Changes, Opens, Pending, Timing, Watch, watch
from connector.sources.files import FilesSettings
from connector.sources.tables import TableSettings

PATIENCE_SECONDS = 30.0
QUICK = Timing(quiet=0.05, longest=2.0, look=0.1, again=0.05)


@dataclass
class Told:
    """Counts the calls to `on_change`, and waits for them."""

    calls: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self) -> None:
        with self.changed:
            self.calls += 1
            self.changed.notify_all()

    def wait(self, calls: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.calls >= calls, PATIENCE_SECONDS), f"told {self.calls} times"


@dataclass
class Spy:
    """Opens real watches, and knows which batches the watch has dealt with."""

    opens: Opens = watching._notified
    folders: list[Sequence[str]] = field(default_factory=list)
    dealt_with: list[Changes] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, folders: Sequence[str], stopping: threading.Event) -> Generator[Changes, None, None]:
        self.folders.append(folders)
        with closing(self.opens(folders, stopping)) as batches:
            for batch in batches:
                yield batch
                with self.changed:
                    self.dealt_with.append(batch)
                    self.changed.notify_all()

    def wait_until_dealt_with(self, path: Path) -> None:
        """Wait for a batch with this path, and for two more: long enough to have been told of it."""

        def is_dealt_with() -> bool:
            places = [place for place, batch in enumerate(self.dealt_with) if str(path) in {it for _, it in batch}]
            return bool(places) and len(self.dealt_with) > places[-1] + 2

        with self.changed:
            assert self.changed.wait_for(is_dealt_with, PATIENCE_SECONDS), self.dealt_with


@dataclass
class Rig:
    """A folder, and what is told of it."""

    root: Path
    told: Told = field(default_factory=Told)
    spy: Spy = field(default_factory=Spy)
    lines: list[str] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)

    def watch(
        self,
        *paths: Path,
        may_list: Callable[[Path], bool] = lambda _: True,
        left_out: Sequence[Path] = (),
        timing: Timing = QUICK,
        on_change: Callable[[], object] | None = None,
    ) -> Watch:
        made = watch(
            lambda: paths or (self.root,),
            on_change or self.told,
            may_list=may_list,
            left_out=left_out,
            tell=self.lines.append,
            timing=timing,
            opens=self.spy,
        )
        self.watches.append(made)
        assert made.is_watching.wait(PATIENCE_SECONDS)
        return made

    def let_all_be_dealt_with(self, name: str) -> None:
        """Write a file that nobody wants to know of, and wait until the watch has been by it."""
        (self.root / name).write_text("")
        self.spy.wait_until_dealt_with(self.root / name)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(watching, "TICK_MS", 60)
    monkeypatch.setattr(watching, "STEP_MS", 20)
    root = tmp_path / "docs"
    root.mkdir()
    made = Rig(root)
    yield made
    for each in made.watches:
        assert each.stop(PATIENCE_SECONDS)


# --- what is told -----------------------------------------------------------------------------------


def test_a_file_that_is_written_changed_renamed_or_removed_is_told(rig: Rig) -> None:
    rig.watch()
    steps: list[Callable[[], object]] = [
        lambda: (rig.root / "a.md").write_text("a"),
        lambda: (rig.root / "a.md").write_text("another a"),
        lambda: (rig.root / "a.md").rename(rig.root / "b.md"),
        (rig.root / "b.md").unlink,
    ]
    for number, step in enumerate(steps, 1):
        step()
        rig.told.wait(number)


def test_a_file_that_is_written_as_editors_do_is_told(rig: Rig) -> None:
    (rig.root / "a.md").write_text("a")
    rig.watch()
    (rig.root / ".a.md.swp").write_text("b")
    (rig.root / ".a.md.swp").rename(rig.root / "a.md")
    rig.told.wait(1)


def test_reading_is_no_change(rig: Rig) -> None:
    (rig.root / "a.md").write_text("a")
    rig.watch()
    (rig.root / "a.md").read_text()
    list(rig.root.iterdir())
    rig.let_all_be_dealt_with("ignored~")
    assert rig.told.calls == 0


def test_new_folders_are_watched_too_however_deep(rig: Rig) -> None:
    rig.watch()
    deep = rig.root / "x" / "y" / "z"
    deep.mkdir(parents=True)
    rig.told.wait(1)
    (deep / "a.md").write_text("a")
    rig.told.wait(2)
    (deep / "a.md").write_text("b")
    rig.told.wait(3)


def test_a_folder_that_is_moved_in_is_watched_and_one_that_is_moved_out_is_not(rig: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    rig.watch()
    outside.rename(rig.root / "inside")
    rig.told.wait(1)
    (rig.root / "inside" / "a.md").write_text("a")
    rig.told.wait(2)
    (rig.root / "inside").rename(outside)
    rig.told.wait(3)
    rig.let_all_be_dealt_with("ignored~")
    before = rig.told.calls
    (outside / "a.md").write_text("b")
    rig.let_all_be_dealt_with("ignored, too~")
    assert rig.told.calls == before


def test_a_folder_that_is_not_there_yet_is_told_when_it_comes(rig: Rig) -> None:
    root = rig.root / "later" / "docs"
    rig.watch(root)
    root.mkdir(parents=True)
    rig.told.wait(1)
    (root / "a.md").write_text("a")
    rig.told.wait(2)


def test_a_folder_that_is_removed_and_made_again_is_watched_again(rig: Rig) -> None:
    rig.watch()
    for turn in range(2):
        shutil.rmtree(rig.root)
        rig.told.wait(rig.told.calls + 1)
        rig.root.mkdir()
        rig.told.wait(rig.told.calls + 1)
        (rig.root / f"{turn}.md").write_text("a")
        rig.told.wait(rig.told.calls + 1)


def test_a_folder_that_is_put_in_the_place_of_another_is_noticed(rig: Rig, tmp_path: Path) -> None:
    current, *releases = (tmp_path / name for name in ("current", "one", "two"))
    for release in releases:
        release.mkdir()
    current.symlink_to(releases[0])
    rig.watch(current)
    (tmp_path / "new").symlink_to(releases[1])
    (tmp_path / "new").rename(current)
    rig.told.wait(1)
    (releases[1] / "a.md").write_text("a")
    rig.told.wait(2)


def test_new_contents_of_a_config_map_are_noticed(rig: Rig) -> None:
    for version in ("..2026_01", "..2026_02"):
        (rig.root / version).mkdir()
        (rig.root / version / "a.md").write_text(version)
    (rig.root / "..data").symlink_to("..2026_01")
    (rig.root / "a.md").symlink_to("..data/a.md")
    (rig.root / "..data_tmp").symlink_to("..2026_02")
    rig.watch(may_list=lambda path: path.suffix == ".md")
    (rig.root / "..data_tmp").rename(rig.root / "..data")
    rig.told.wait(1)


def test_a_file_whose_name_is_not_utf_8_is_noticed_and_does_not_blind_the_watch(rig: Rig) -> None:
    rig.watch()
    (rig.root / os.fsdecode(b"\xff.md")).write_text("a")
    rig.told.wait(1)
    (rig.root / "b.md").write_text("b")
    rig.told.wait(2)


def test_a_folder_whose_name_is_not_utf_8_does_not_keep_the_others_from_being_watched(rig: Rig) -> None:
    (rig.root / os.fsdecode(b"\xff")).mkdir()
    rig.watch()
    (rig.root / "b.md").write_text("b")
    rig.told.wait(1)


# --- what is not ------------------------------------------------------------------------------------


def test_hidden_and_temporary_files_are_not_told(rig: Rig) -> None:
    (rig.root / ".git").mkdir()
    rig.watch()
    (rig.root / ".git" / "index").write_text("a")
    (rig.root / ".hidden").mkdir()
    for name in (".a.md.swp", "a.md~", "a.md.tmp", "#a.md#", "~$a.md", "a.md.part", "___jb_tmp___"):
        (rig.root / name).write_text("a")
    rig.spy.wait_until_dealt_with(rig.root / "___jb_tmp___")
    assert rig.told.calls == 0
    assert rig.spy.folders == [[str(rig.root)]]


def test_a_file_that_may_not_be_listed_is_not_told(rig: Rig) -> None:
    rig.watch(may_list=lambda path: path.suffix == ".md")
    (rig.root / "serve.log").write_text("a line of our own log")
    rig.spy.wait_until_dealt_with(rig.root / "serve.log")
    assert rig.told.calls == 0
    (rig.root / "a.md").write_text("a")
    rig.told.wait(1)


def test_a_run_that_writes_its_state_into_what_is_watched_does_not_call_for_another(rig: Rig, tmp_path: Path) -> None:
    state = rig.root / "state"
    is_over = threading.Event()

    def run() -> None:
        with closing(Checkpoints.open(state)) as checkpoints:
            checkpoints.end_run(checkpoints.start_run(1.0), 2.0, 0, {})
        (state / "listings").mkdir(exist_ok=True)
        (state / "listings" / "a.md").write_text("even if it looks like one of theirs")
        rig.told()
        is_over.set()

    (tmp_path / "a.md").write_text("a")
    rig.watch(left_out=[state, rig.root / "index"], on_change=run)
    (tmp_path / "a.md").rename(rig.root / "a.md")  # in one step, so that it is told once
    assert is_over.wait(PATIENCE_SECONDS)
    (rig.root / "index").mkdir()
    rig.let_all_be_dealt_with("ignored~")
    assert rig.told.calls == 1
    assert not [folder for folders in rig.spy.folders for folder in folders if "state" in folder or "index" in folder]


def test_what_is_left_out_is_so_by_whatever_name(rig: Rig, tmp_path: Path) -> None:
    (rig.root / "state").mkdir()
    (tmp_path / "link").symlink_to(rig.root)
    rig.watch(tmp_path / "link", left_out=[tmp_path / "docs" / ".." / "docs" / "state"])
    (rig.root / "state" / "a.md").write_text("a")
    (rig.root / "ignored~").write_text("")
    rig.spy.wait_until_dealt_with(tmp_path / "link" / "ignored~")
    assert rig.told.calls == 0


def test_of_a_single_file_the_others_beside_it_are_not_told(rig: Rig) -> None:
    rows = rig.root / "rows.jsonl"
    rig.watch(rows)
    (rig.root / "other.jsonl").write_text("{}")
    (rig.root / "folder").mkdir()
    rig.spy.wait_until_dealt_with(rig.root / "folder")
    assert rig.told.calls == 0
    rows.write_text("{}")
    rig.told.wait(1)
    (rig.root / "rows.new").write_text("{}{}")
    (rig.root / "rows.new").rename(rows)
    rig.told.wait(2)
    rows.unlink()
    rig.told.wait(3)
    assert {tuple(folders) for folders in rig.spy.folders} == {(str(rig.root),)}


def test_a_link_to_a_folder_is_not_followed(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (rig.root / "link").symlink_to(tmp_path / "elsewhere")
    (rig.root / "itself").symlink_to(rig.root)
    rig.watch()
    assert rig.spy.folders == [[str(rig.root)]]


def test_a_folders_mode_and_times_are_not_told(rig: Rig) -> None:
    (rig.root / "folder").mkdir()
    rig.watch()
    (rig.root / "folder").chmod(0o700)
    os.utime(rig.root / "folder")
    rig.spy.wait_until_dealt_with(rig.root / "folder")
    assert rig.told.calls == 0


# --- when it is told --------------------------------------------------------------------------------


@dataclass
class Script:
    """A watch whose batches, and the time at which each comes, are written beforehand."""

    batches: Sequence[tuple[float, Changes]]
    time: float = 0.0
    is_over: threading.Event = field(default_factory=threading.Event)
    told_at: list[float] = field(default_factory=list)

    def opens(self, _folders: Sequence[str], stopping: threading.Event) -> Generator[Changes, None, None]:
        for time, batch in self.batches:
            self.time = time
            yield batch
        self.is_over.set()
        stopping.wait()

    def play(self, root: Path) -> list[float]:
        made = watch(
            lambda: [root],
            lambda: self.told_at.append(self.time),
            opens=self.opens,
            clock=lambda: self.time,
        )
        assert self.is_over.wait(PATIENCE_SECONDS)
        assert made.stop(PATIENCE_SECONDS)
        return self.told_at


def test_changes_that_follow_each_other_are_told_once_when_it_is_quiet(tmp_path: Path) -> None:
    changes = [(number / 2, {(Change.added, str(tmp_path / f"{number}.md"))}) for number in range(20)]
    quiet: list[tuple[float, Changes]] = [(10 + number / 4, set()) for number in range(20)]
    assert Script([*changes, *quiet]).play(tmp_path) == [10.5]


def test_changes_that_never_end_are_told_after_half_a_minute(tmp_path: Path) -> None:
    changes = [(number / 2, {(Change.modified, str(tmp_path / "log.md"))}) for number in range(150)]
    assert Script(changes).play(tmp_path) == [30.0, 60.5]


def test_a_flood_of_changes_matters_whatever_they_are_of(tmp_path: Path) -> None:
    flood = {(Change.modified, str(tmp_path / f".{number}")) for number in range(watching.TOO_MANY)}
    assert Script([(0, set()), (1, flood), (2, set())]).play(tmp_path) == [2]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0.01, 10), st.floats(0.01, 60))
def test_a_change_is_put_off_until_it_is_quiet_but_never_for_longer_than_allowed(
    steps: list[float], quiet: float, longest: float
) -> None:
    timing = Timing(quiet=quiet, longest=longest)
    pending, now = Pending(timing), 0.0
    assert not pending.is_due(now)
    for step in steps:
        now += step
        pending.note(now)
    assert pending.first_at is not None
    assert pending.is_due(now) == (now - pending.first_at >= longest)
    assert pending.is_due(now + quiet * 1.01)
    pending.clear()
    assert not pending.is_due(now + 1e6)


# --- what goes wrong --------------------------------------------------------------------------------


def failing(*errors: Exception, then: Opens = watching._notified) -> Opens:
    """Opens of which the first ones fail."""
    left = list(errors)

    def opens(folders: Sequence[str], stopping: threading.Event) -> Generator[Changes, None, None]:
        if left:
            raise left.pop(0)
        yield from then(folders, stopping)

    return opens


LIMIT = 'OS file watch limit reached. about ["{}"] (Error {{ kind: MaxFilesWatch, paths: ["{}"] }})'


def test_a_limit_is_told_once_and_what_changed_meanwhile_when_it_is_gone(rig: Rig) -> None:
    rig.spy.opens = failing(*(OSError(LIMIT.format(name, name)) for name in ("a", "b", "c")))
    rig.watch()
    rig.told.wait(1)  # nobody knows what changed meanwhile
    first, last = rig.lines
    assert "folders are not watched, so changes are found when a run is due" in first
    assert "raise fs.inotify.max_user_watches" in first
    assert last == "folders are watched again"
    (rig.root / "a.md").write_text("a")
    rig.told.wait(2)


def test_another_trouble_is_told_too(rig: Rig) -> None:
    rig.spy.opens = failing(OSError(28, "No space left on device"), RuntimeError("Too many open files (os error 24)"))
    rig.watch()
    assert len(rig.lines) == 3


def test_a_folder_that_goes_before_it_is_watched_is_no_trouble(rig: Rig) -> None:
    rig.spy.opens = failing(FileNotFoundError("No path was found."))
    rig.watch()
    rig.told.wait(1)
    assert rig.lines == []


def test_a_watch_that_breaks_is_made_anew(rig: Rig) -> None:
    def breaks(folders: Sequence[str], stopping: threading.Event) -> Generator[Changes, None, None]:
        yield set()
        raise OSError("error in underlying watcher")

    left = [breaks, breaks, watching._notified]

    def opens(folders: Sequence[str], stopping: threading.Event) -> Generator[Changes, None, None]:
        return left.pop(0)(folders, stopping)

    rig.spy.opens = opens
    rig.watch()
    rig.told.wait(1)
    (rig.root / "a.md").write_text("a")
    rig.told.wait(2)
    assert rig.lines == []


def test_a_bug_in_what_is_told_does_not_end_the_watch(rig: Rig) -> None:
    def on_change() -> None:
        rig.told()
        if rig.told.calls == 1:
            raise ZeroDivisionError

    rig.watch(on_change=on_change)
    (rig.root / "a.md").write_text("a")
    rig.told.wait(2)
    assert "ZeroDivisionError" in rig.lines[0]
    (rig.root / "a.md").write_text("b")
    rig.told.wait(3)


def test_a_watch_that_is_stopped_tells_nothing_more(rig: Rig) -> None:
    stopped = rig.watch()
    assert stopped.stop(PATIENCE_SECONDS)
    (rig.root / "a.md").write_text("a")
    other = Rig(rig.root)
    rig.watches.append(other.watch())
    (rig.root / "b.md").write_text("b")
    other.told.wait(1)
    assert rig.told.calls == 0


def test_a_watch_can_be_stopped_while_it_waits_to_try_again(tmp_path: Path) -> None:
    is_told = threading.Event()
    errors = [OSError("limit")] * 10
    made = watch(lambda: [tmp_path], lambda: None, tell=lambda _: is_told.set(), opens=failing(*errors))
    assert is_told.wait(PATIENCE_SECONDS)
    assert made.stop(PATIENCE_SECONDS)
    assert not made.is_watching.is_set()


def test_the_limit_of_a_real_kernel_is_survived(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / "docs" / str(number)).mkdir(parents=True)
    program = """
        import threading
        from pathlib import Path
        from connector.service.watching import Timing, watch
        limit, told, changed = Path("/proc/sys/user/max_inotify_watches"), [], threading.Event()
        limit.write_text("10")
        def tell(line):
            told.append(line)
            if len(told) == 1:
                limit.write_text("1000")
        made = watch(lambda: [Path("docs")], changed.set, tell=tell, timing=Timing(quiet=0.05, again=0.05))
        assert made.is_watching.wait(30) and changed.wait(30)
        changed.clear()
        Path("docs/19/a.md").write_text("a")
        assert changed.wait(30) and made.stop(30)
        print(told)
    """
    unshare = shutil.which("unshare")
    command = [unshare or "unshare", "--user", "--map-root-user"]
    if unshare is None or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("limits of inotify can only be set in a user namespace, and there are none here")
    ran = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(watching.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "OS file watch limit reached" in ran.stdout
    assert "folders are watched again" in ran.stdout


def test_files_can_be_polled_where_the_kernel_tells_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL_DELAY_MS", 20)
    (rig.root / "a.md").write_text("a")
    rig.spy.opens = watching._polling
    rig.watch()
    (rig.root / "a.md").write_text("another a")
    os.utime(rig.root / "a.md", (4e9, 4e9))  # only a later second is taken for a change
    rig.told.wait(1)


# --- what sources want watched ----------------------------------------------------------------------


def files(folder: Path, **settings: object) -> WatchableSource:
    source = FilesSettings.model_validate({"path": "docs", **settings}).build(BuildContext(folder, folder / "state"))
    assert isinstance(source, WatchableSource)
    return source


def table(folder: Path, path: str) -> WatchableSource:
    source = TableSettings(path=Path(path)).build(BuildContext(folder, folder / "state"))
    assert isinstance(source, WatchableSource)
    return source


def test_a_source_need_not_be_watchable() -> None:
    class Listed:
        check = list = fetch = lambda self: None

    assert not isinstance(Listed(), WatchableSource)


@pytest.mark.parametrize(
    "name, listed",
    [
        ("a.md", True),
        ("x/y/a.txt", True),
        ("a.png", False),
        (".a.md", False),
        (".git/a.md", False),
        ("x/.y/z/a.md", False),
    ],
)
def test_files_are_watched_below_their_folder_as_the_patterns_say(tmp_path: Path, name: str, listed: bool) -> None:
    source = files(tmp_path)
    assert source.watched_paths() == [tmp_path / "docs"]
    assert source.may_list(tmp_path / "docs" / name) == listed


def test_files_in_a_folder_that_is_excluded_are_not_watched(tmp_path: Path) -> None:
    source = files(tmp_path, exclude=["build/", "**/draft?/"])
    assert source.may_list(tmp_path / "docs" / "a.md")
    assert not source.may_list(tmp_path / "docs" / "build" / "x" / "a.md")
    assert not source.may_list(tmp_path / "docs" / "x" / "draft1" / "a.md")
    assert not source.may_list(tmp_path / "a.md")


@pytest.mark.parametrize(
    "path, watched",
    [
        ("rows.jsonl", "rows.jsonl"),
        ("in/rows.csv", "in/rows.csv"),
        ("in/*.jsonl", "in"),
        ("in/**/*.csv", "in"),
        ("in/20[0-9][0-9]/a?.csv", "in"),
        ("*.jsonl", "."),
    ],
)
def test_tables_are_watched_from_where_their_pattern_begins(tmp_path: Path, path: str, watched: str) -> None:
    source = table(tmp_path, path)
    assert source.watched_paths() == [tmp_path / watched]
    assert source.may_list(tmp_path / "in" / "x.JSONL")
    assert not source.may_list(tmp_path / "serve.log")


def test_a_table_behind_a_link_is_watched_at_both_ends(tmp_path: Path) -> None:
    (tmp_path / "exports").mkdir()
    (tmp_path / "rows.jsonl").symlink_to("exports/today.jsonl")
    assert table(tmp_path, "rows.jsonl").watched_paths() == [
        tmp_path / "rows.jsonl",
        tmp_path / "exports" / "today.jsonl",
    ]


@pytest.mark.parametrize("path, file", [("rows/*.jsonl", "rows/b.jsonl"), ("rows.jsonl", "rows.jsonl")])
def test_a_table_that_is_written_is_noticed(rig: Rig, tmp_path: Path, path: str, file: str) -> None:
    (tmp_path / "rows").mkdir()
    source = table(tmp_path, path)
    rig.watch(*source.watched_paths(), may_list=source.may_list)
    (tmp_path / file).write_text('{"id": 1, "text": "a"}\n')
    rig.told.wait(1)

"""Notice that something changed in folders, so that a run need not wait for its interval.

    it happens                                   then
    -------------------------------------------  ------------------------------------------------------------------
    a file that may be listed changes            `on_change`, when all is quiet for a second; in the middle of
                                                 changes that do not end, after 30 seconds
    a folder comes, goes, or is moved            the same, and what is below it is watched, too
    a path is not there, or is replaced          it is looked for every few seconds
    hidden and temporary files, `left_out`       nothing: above all not when a sync writes its own state
    the system cannot watch so many folders      a line is told, once; tried again every minute
    a folder's name is not UTF-8                 it is not watched
    it is on NFS, SMB or the like, and somebody  the kernel knows of no change, so nothing; `polling` compares the
    changes it on another machine                times of all files instead, again and again, which costs what it says

What goes unnoticed is found by the run that comes with the interval: to watch only makes it sooner, and a change
that is noticed without need costs a run that finds nothing. Links to folders are not followed, as no source does.

Each folder is watched by itself, not as a tree: so hidden ones and our own are left out of the kernel's limit, and no
link can lead the watch over the whole disk. So when folders come or go, all are watched anew; always before
`on_change` is called, so that what comes after the run has begun is noticed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final, TypeAlias

import watchfiles
from watchfiles import Change

Changes: TypeAlias = set[tuple[Change, str]]
Batches: TypeAlias = Generator[Changes, None, None]
Opens: TypeAlias = Callable[[Sequence[str], threading.Event], Batches]
"""Watches folders, and not what is below them, until the event is set.

Several times a second it gives what changed, be it nothing. OSError and RuntimeError: it cannot, or can no longer."""

TICK_MS: Final = 200
STEP_MS: Final = 50
POLL_DELAY_MS: Final = 10_000
TOO_MANY: Final = 10_000  # changes at once: the kernel may have dropped some
TEMPORARY_SUFFIXES: Final = (".tmp", ".temp", ".swp", ".swx", ".swo", ".part", ".partial", ".crdownload")
LIMITS: Final = ("limit", "Too many open files")


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient the watch is, in seconds."""

    quiet: float = 1.0  # nothing may have changed for so long
    longest: float = 30.0  # but after so long it is told all the same
    look: float = 5.0  # between two looks whether the paths are still what they were
    again: float = 60.0  # until what could not be watched is tried again


@dataclass(slots=True)
class Pending:
    """A change that was noticed, and not told yet."""

    timing: Timing
    first_at: float | None = None
    last_at: float = 0.0

    def note(self, now: float) -> None:
        """Put it off until it is quiet; but not for ever."""
        self.first_at = now if self.first_at is None else self.first_at
        self.last_at = now

    def is_due(self, now: float) -> bool:
        """Tell whether it has been put off for long enough."""
        if self.first_at is None:
            return False
        return now - self.last_at >= self.timing.quiet or now - self.first_at >= self.timing.longest

    def clear(self) -> None:
        """There is nothing to be told any more."""
        self.first_at = None


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to watch now."""

    paths: tuple[str, ...]
    identities: tuple[tuple[int, int] | None, ...]  # device and inode of each; None: it is not there
    folders: frozenset[str]


class Watch:
    """Watches until it is stopped, in a thread of its own. Made by `watch`."""

    def __init__(
        self,
        paths: Callable[[], Sequence[Path]],
        on_change: Callable[[], object],
        *,
        may_list: Callable[[Path], bool],
        left_out: Sequence[Path],
        tell: Callable[[str], object],
        timing: Timing,
        opens: Opens,
        clock: Callable[[], float],
    ) -> None:
        self.is_watching = threading.Event()  # set while all is watched that is there
        self._paths, self._on_change, self._may_list, self._tell = paths, on_change, may_list, tell
        self._left_out = tuple(os.path.realpath(path) for path in left_out)
        self._timing, self._opens, self._clock = timing, opens, clock
        self._pending = Pending(timing)
        self._trouble: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch. What changes before `is_watching` is set may go unnoticed."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> bool:
        """Stop, and tell whether the thread has ended. `on_change` is not called any more then."""
        self._stopping.set()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._trouble is not None:
                    self._tell_if_due()  # what was noticed before there was trouble
                self._watch()
                continue
            except FileNotFoundError:  # a folder went before it could be watched
                self._pending.note(self._clock())
                wait = self._timing.quiet
            except Exception as error:  # noqa: BLE001 - nothing that is wrong with watching may end the service
                self._note_trouble(error)
                wait = self._timing.again
            self.is_watching.clear()
            self._stopping.wait(wait)

    def _watch(self) -> None:
        """Watch what is there now, until that is something else."""
        look = self._look()
        with closing(self._opens(sorted(look.folders), self._stopping)) as batches:
            first = next(batches, None)  # from here on nothing goes unnoticed
            if first is None:
                return
            self._note_open()
            self._tell_if_due()
            if self._matters(first, look) or self._look() != look:
                self._pending.note(self._clock())
            self._wait_for_changes(batches, look)

    def _wait_for_changes(self, batches: Batches, look: Look) -> None:
        """Tell of changes, as long as what is watched is what there is."""
        looked_at = self._clock()
        while (batch := self._next(batches)) is not None:
            now = self._clock()
            if self._matters(batch, look):
                self._pending.note(now)
            if now - looked_at >= self._timing.look:
                looked_at = now
                if self._look_at_paths() != (look.paths, look.identities):
                    self._pending.note(now)
                    return
            if self._pending.is_due(now) and self._look() != look:
                return  # and tell when all is watched again
            self._tell_if_due()

    def _next(self, batches: Batches) -> Changes | None:
        """Wait for changes, for a moment; None if no more can be noticed by this watch."""
        try:
            return next(batches, None)
        except (OSError, RuntimeError):
            # Among others, a file changed whose name is not UTF-8; then watchfiles fails, and does so for ever.
            self._pending.note(self._clock())
            self._stopping.wait(self._timing.quiet)
            return None

    def _tell_if_due(self) -> None:
        if self._pending.is_due(self._clock()) and not self._stopping.is_set():
            self._pending.clear()
            self._on_change()

    def _note_open(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            self._pending.note(self._clock())  # nobody knows what changed meanwhile
            self._tell("folders are watched again")
        self.is_watching.set()

    def _note_trouble(self, error: Exception) -> None:
        """Tell what is wrong, but not again and again."""
        told = f"{type(error).__name__}: {error}"
        if told.partition(" about ")[0] == self._trouble:
            return
        self._trouble = told.partition(" about ")[0]  # what comes then is the path that was one too many
        limits = (
            "raise fs.inotify.max_user_watches and max_user_instances; " if any(it in told for it in LIMITS) else ""
        )
        self._tell(
            f"folders are not watched, so changes are found when a run is due: {told}; "
            f"{limits}it is tried again every {self._timing.again:g} seconds"
        )

    # --- what there is ----------------------------------------------------------------------------

    def _look(self) -> Look:
        """Find all that is to be watched: folders, those below them, and those that files are in."""
        paths, identities = self._look_at_paths()
        folders: set[str] = set()
        for path in paths:
            if os.path.isdir(path):  # noqa: PTH112 - hundreds of thousands of them
                folders.update(self._below(path))
            elif os.path.isdir(parent := os.path.dirname(path)):  # noqa: PTH112, PTH120
                folders.add(parent)
        return Look(paths, identities, frozenset(folders))

    def _look_at_paths(self) -> tuple[tuple[str, ...], tuple[tuple[int, int] | None, ...]]:
        paths = tuple(str(path.absolute()) for path in self._paths())
        return paths, tuple(map(_identity, paths))

    def _below(self, root: str) -> Iterator[str]:
        """Give a folder and all below it, without those that are hidden, ours, or cannot be read."""
        real_root = os.path.realpath(root)
        folders = [root]
        while folders:
            folder = folders.pop()
            if self._is_ours(real_root + folder[len(root) :]):
                continue
            try:
                folder.encode()
                with os.scandir(folder) as entries:
                    below = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            except (OSError, UnicodeEncodeError):
                continue
            yield folder
            folders += [entry.path for entry in below if not _is_hidden(entry.name)]

    def _is_ours(self, real_path: str) -> bool:
        return any(real_path == ours or real_path.startswith(f"{ours}{os.sep}") for ours in self._left_out)

    # --- what matters -----------------------------------------------------------------------------

    def _matters(self, batch: Changes, look: Look) -> bool:
        return len(batch) >= TOO_MANY or any(self._change_matters(change, path, look) for change, path in batch)

    def _change_matters(self, change: Change, path: str, look: Look) -> bool:
        """Decide about one change.

        what changed                                                        it matters
        ------------------------------------------------------------------  ----------
        anything that is not at or below one of the paths                   no
        what is hidden, or ours; a temporary file                           no
        a folder, or a link to one, that came or went                       yes
        a folder's mode or times                                            no
        a file                                                              if it may be listed
        """
        root = next((it for it in look.paths if path == it or path.startswith(f"{it.rstrip(os.sep)}{os.sep}")), None)
        if root is None or any(map(_is_hidden, PurePath(path[len(root) :]).parts)):
            return False
        if self._left_out and self._is_ours(os.path.realpath(os.path.dirname(path)) + os.sep + os.path.basename(path)):  # noqa: PTH119, PTH120
            return False
        if path in look.folders or os.path.isdir(path):  # noqa: PTH112
            return change is not Change.modified
        return not _is_temporary(path) and self._may_list(Path(path))


def watch(
    paths: Callable[[], Sequence[Path]],
    on_change: Callable[[], object],
    *,
    may_list: Callable[[Path], bool] = lambda _path: True,
    left_out: Sequence[Path] = (),
    tell: Callable[[str], object] = lambda _line: None,
    polling: bool = False,
    timing: Timing = Timing(),  # frozen
    opens: Opens | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Watch:
    """Watch, in a thread of its own, until `Watch.stop`.

    `paths` and `may_list` are those of a `WatchableSource`. `on_change` is called in that thread, and should be quick.
    `left_out` is ours: the state, an embedded index. `tell` gets a line for the log when something is wrong with
    watching, and when it is mended. With `polling`, files are looked at every 10 seconds instead: for network drives.
    """
    made = Watch(
        paths,
        on_change,
        may_list=may_list,
        left_out=left_out,
        tell=tell,
        timing=timing,
        opens=opens or (_polling if polling else _notified),
        clock=clock,
    )
    made.start()
    return made


def _notified(folders: Sequence[str], stopping: threading.Event) -> Batches:
    return _batches(folders, stopping, polling=False)


def _polling(folders: Sequence[str], stopping: threading.Event) -> Batches:
    return _batches(folders, stopping, polling=True)


def _batches(folders: Sequence[str], stopping: threading.Event, *, polling: bool) -> Batches:
    if not folders:
        yield set()
        while not stopping.wait(TICK_MS / 1000):
            yield set()
        return
    yield from watchfiles.watch(
        *folders,
        watch_filter=None,
        debounce=TICK_MS,
        step=STEP_MS,
        stop_event=stopping,
        rust_timeout=TICK_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
        force_polling=polling,
        poll_delay_ms=POLL_DELAY_MS,
        recursive=False,
        ignore_permission_denied=False,  # else it keeps silent about limits, too (watchfiles 1.3)
    )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_hidden(name: str) -> bool:
    """Tell by a name; ".." begins what Kubernetes makes in the folder of a ConfigMap, and puts new contents in."""
    return name.startswith(".") and not name.startswith("..")


def _is_temporary(path: str) -> bool:
    name = os.path.basename(path)  # noqa: PTH119
    return name.endswith(("~", "___", *TEMPORARY_SUFFIXES)) or name.startswith(("#", "~$"))

"""When the files of a folder changed, read by as many processes as there are processors.

Reads names and attributes only, through directory descriptors, and never follows a symlink below the folder.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from operator import attrgetter
from typing import Any

from xtarfs.errors import SourceError
from xtarfs.fork import Helper

from ..scanning.exclusions import CACHE_TAG, is_cache, matcher
from ..scanning.scan import Selection
from .birth import birth_time
from .changes import Changes

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PORTION = 4096  # files of one folder that are held as objects at a time
_MOST_WORKERS = 4
_LOTS = 250  # a ticket is one byte
_SMALL = 10_000  # files that one process reads sooner than another is started

Advance = Callable[[int], None]


def folder_changes(root: str, by: str, selection: Selection, advance: Advance = lambda files: None) -> Changes:
    """The changes of all regular files below `root`, every name of a hard link counted.

    by: `mtime`, `ctime` or `btime`. advance(files) is told of files as they are read. Raises SourceError, BuildError.
    """
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"{root}: {error.strerror}; give a folder or an archive") from None
    try:
        walk = _Walk(fd, by, selection)
        rest = walk.begin(advance)
        if rest:
            _share(walk, rest, advance)
        return walk.changes
    finally:
        os.close(fd)


def _share(walk: _Walk, folders: list[bytes], advance: Advance) -> None:
    """Reads `folders` and all below in several processes, each taking the next lot of folders when it is done with one.

    Tickets lie in a pipe that is filled before the first process starts.
    """
    workers = min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
    tickets, fill = os.pipe()
    os.write(fill, bytes(range(min(_LOTS, len(folders)))))
    os.close(fill)
    counts = memoryview(mmap.mmap(-1, 8 * workers)).cast("q")

    def work(number: int, told: Advance) -> Changes:
        while ticket := os.read(tickets, 1):
            for path in folders[ticket[0] :: _LOTS]:
                walk.below(path)
                counts[number] = len(walk.changes)
                told(sum(counts))
        return walk.changes

    def helper(number: int) -> Helper[Changes]:
        def run() -> Changes:
            walk.changes = Changes()
            return work(number, lambda files: None)

        return Helper(run)

    with ExitStack() as stack:
        stack.callback(os.close, tickets)
        helpers = [helper(number) for number in range(1, workers)]
        for each in helpers:
            stack.callback(each.end)
        counts[0] = done = len(walk.changes)

        def tell(files: int) -> None:
            nonlocal done
            advance(files - done)
            done = files

        work(0, tell)
        for each in helpers:
            walk.changes.extend(each.result())


class _Walk:
    """Reads folders below an open root into `changes`."""

    def __init__(self, root: int, by: str, selection: Selection) -> None:
        self.changes = Changes()
        self._root = root
        self._device = os.fstat(root).st_dev
        self._selection = selection
        self._matches = matcher(selection.exclude)
        self._time: Callable[[Any], int] | None = attrgetter(f"st_{by}_ns") if by != "btime" else None

    def begin(self, advance: Advance) -> list[bytes]:
        """Reads breadth first until all is read or there is enough left to share out; gives the folders left."""
        queue, seen = deque([b""]), 0
        while queue and (len(queue) < _LOTS or len(self.changes) < _SMALL):
            path = queue.popleft()
            fd = self._find(path)
            if fd is not None:
                queue += (_join(path, name) for name in self._read(fd, path))
                os.close(fd)
            advance(len(self.changes) - seen)
            seen = len(self.changes)
        return list(queue)

    def below(self, top: bytes) -> None:
        """Reads a folder and everything below it, holding one descriptor a level."""
        fd = self._find(top)
        levels = [] if fd is None else [(fd, top, self._read(fd, top))]
        try:
            while levels:
                fd, path, names = levels[-1]
                if not names:
                    os.close(levels.pop()[0])
                    continue
                name = names.pop()
                child = _join(path, name)
                opened = self._open(name, fd, child)
                if opened is not None:
                    levels.append((opened, child, self._read(opened, child)))
        finally:
            for fd, *_ in levels:
                os.close(fd)

    def _find(self, path: bytes) -> int | None:
        """A descriptor of the folder at a path below the root, opened step by step."""
        fd: int | None = os.dup(self._root)
        for name in path.split(b"/") if path else ():
            assert fd is not None
            above, fd = fd, self._open(name, fd, path)
            os.close(above)
            if fd is None:
                return None
        return fd

    def _open(self, name: bytes, above: int, path: bytes) -> int | None:
        try:
            return os.open(name, _FLAGS, dir_fd=above)
        except (FileNotFoundError, NotADirectoryError):  # it is gone since its name was read
            return None
        except OSError as error:
            self.changes.problems.append((path, f"cannot be opened: {error.strerror}"))
            return None

    def _read(self, fd: int, path: bytes) -> list[bytes]:
        """Takes down the files of one folder; gives the names of the folders in it."""
        if self._selection.one_file_system and os.fstat(fd).st_dev != self._device:
            return []
        leaves_out = self._exclusion(fd, path)
        folders: list[bytes] = []
        files: list[os.DirEntry[str]] = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if leaves_out is not None and leaves_out(entry):
                        continue
                    if entry.is_file(follow_symlinks=False):
                        files.append(entry)
                        if len(files) == _PORTION:
                            self._take(fd, path, files)
                            files = []
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(os.fsencode(entry.name))
                self._take(fd, path, files)
        except OSError as error:
            self.changes.problems.append((path, f"cannot be listed: {error.strerror}"))
        return folders

    def _exclusion(self, fd: int, path: bytes) -> Callable[[os.DirEntry[str]], bool] | None:
        """What tells which entries of a folder to leave out; None where none are."""
        matches = self._matches
        cache = self._selection.exclude_caches and is_cache(fd)
        if matches is None and not cache:
            return None
        tag = os.fsdecode(CACHE_TAG)

        def leaves_out(entry: os.DirEntry[str]) -> bool:
            if cache and entry.name != tag:
                return True
            child = _join(path, os.fsencode(entry.name))
            return matches is not None and matches(child, entry.is_dir(follow_symlinks=False))

        return leaves_out

    def _take(self, fd: int, path: bytes, files: list[os.DirEntry[str]]) -> None:
        names, times, sizes = [], [], []
        time_of = self._time
        for entry in files:
            try:
                status = entry.stat(follow_symlinks=False)
                time = birth_time(entry.name, fd) if time_of is None else time_of(status)
            except FileNotFoundError:
                continue
            if time is None:
                self.changes.undated += 1
                continue
            names.append(entry.name)
            times.append(time)
            sizes.append(status.st_size)
        if names:
            self.changes.add(path, names, times, sizes)


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name

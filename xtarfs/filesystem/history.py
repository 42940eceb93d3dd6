"""All copies in a folder of archives as one file system: a directory for each, called by its time, and `latest`.

Each copy is a FileSystem of its own, opened when it is looked into; the folder is looked at again as time goes by.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from ..errors import UsageError, XtarError
from ..reading.copies import Copy, in_order, read_copies
from ..reading.reader import Archive
from ..reading.shelf import SUFFIX, State, state_of
from ..text import path_fields
from .vfs import NAME_MAX, Attributes, FileSystem

LATEST = b"latest"
_PATIENCE = 1  # seconds that pass before the folder is looked at again, and that the kernel keeps what it knows
_OPEN = 4  # copies that stay open
_ROOT_INO, _LATEST_INO = 1, 2
_INO_BITS = 48  # of a copy's inode numbers; the copy's own number stands above them


class Shown(Struct):
    """A copy under its name in the mount. number: told apart by it, the inode numbers of copies never meet."""

    name: bytes
    number: int
    copy: Copy
    root: Attributes | None = None


class Folder:
    """The copies among the archives of a folder, each with a name that it keeps as long as this object lives."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.left_out: dict[str, str] = {}
        self._states: dict[str, State | None] = {}
        self._shown: dict[bytes, Shown] = {}
        self._names: dict[tuple[str, ...], tuple[bytes, int]] = {}
        self._looked = -float(_PATIENCE)
        self._lock = threading.Lock()
        try:
            os.listdir(path)
        except OSError as error:
            raise UsageError(f"{path}: is no folder that can be read: {error.strerror}") from None

    def shown(self) -> dict[bytes, Shown]:
        """By name, the newest copy first."""
        with self._lock:
            if time.monotonic() - self._looked >= _PATIENCE:
                self._look()
                self._looked = time.monotonic()
            return self._shown

    def _look(self) -> None:
        try:
            names = sorted(name for name in os.listdir(self.path) if name.endswith(SUFFIX))
        except OSError:
            return  # what was there is still shown; reading will tell
        states = {path: state_of(path) for path in (os.path.join(self.path, name) for name in names)}
        if states == self._states:
            return
        copies, troubles = read_copies(path for path, state in states.items() if state)
        self.left_out = {path: str(error) for path, error in troubles.items()}
        newest_first = in_order(copies)
        named = {copy: self._name(copy) for copy in reversed(newest_first)}
        self._shown = {name: Shown(name, number, copy) for copy in newest_first for name, number in [named[copy]]}
        self._states = states

    def _name(self, copy: Copy) -> tuple[bytes, int]:
        """The copy's name and number; the same for the same copy of the source in the same file."""
        facts = copy.facts
        key = (copy.path, facts.tag, facts.origin.crc32)
        if key not in self._names:
            taken = {name for name, _ in self._names.values()}
            stem = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(copy.origin.created)).encode()
            name, number = stem, 1
            while name in taken:
                number += 1
                name = b"%s-%d" % (stem, number)
            self._names[key] = name, len(self._names) + 1
        return self._names[key]


class _Opened:
    """A copy's file system, and how many requests use it now."""

    def __init__(self, filesystem: FileSystem) -> None:
        self.filesystem = filesystem
        self.users = 0


class History:
    """A read-only view of all copies in `folder`. Paths are absolute bytes; methods raise OSError alone.

    others: where else archives that hold data may lie. Raises UsageError if the folder cannot be read.
    """

    names_kept = _PATIENCE

    def __init__(self, folder: str, others: Iterable[str], cache_size: int) -> None:
        self._folder = Folder(folder)
        self._others = list(others)
        self._cache_size = cache_size // _OPEN
        self._opened: dict[tuple[bytes, str], _Opened] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            for opened in self._opened.values():
                opened.filesystem.close()
            self._opened.clear()

    def getattr(self, path: bytes) -> Attributes:
        if path == b"/":
            return self._root()
        if path == b"/" + LATEST:
            return self._latest()
        shown, below = self._split(path)
        if below == b"/":
            return self._attributes_of(shown)
        with self._using(shown) as filesystem:
            return _numbered(filesystem.getattr(below), shown)

    def readdir(self, path: bytes, start: int = 0) -> Iterator[tuple[bytes, Attributes]]:
        """Names and attributes of the children from the start-th on, without `.` and `..`."""
        if path == b"/":
            return self._copies(start)
        if path == b"/" + LATEST:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return self._entries(*self._split(path), start)

    def readlink(self, path: bytes) -> bytes:
        if path == b"/" + LATEST:
            return next(iter(self._shown_or_none()))
        shown, below = self._split(path)
        with self._using(shown) as filesystem:
            return filesystem.readlink(below)

    def read(self, path: bytes, size: int, offset: int) -> bytes | bytearray | memoryview:
        shown, below = self._split(path)
        with self._using(shown) as filesystem:
            return filesystem.read(below, size, offset)

    def listxattr(self, path: bytes) -> list[bytes]:
        if path in (b"/", b"/" + LATEST):
            return []
        shown, below = self._split(path)
        with self._using(shown) as filesystem:
            return filesystem.listxattr(below)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        if path == b"/" and name == b"user.xtar.report":
            return self.report()
        if path in (b"/", b"/" + LATEST):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        shown, below = self._split(path)
        with self._using(shown) as filesystem:
            return filesystem.getxattr(below, name)

    def statfs(self) -> dict[str, int]:
        facts = [shown.copy.facts for shown in self._folder.shown().values()]
        return {
            "f_bsize": 4096,
            "f_frsize": 4096,
            "f_blocks": -(-sum(one.bytes for one in facts) // 4096),
            "f_bfree": 0,
            "f_bavail": 0,
            "f_files": sum(one.files + one.directories + one.others for one in facts),
            "f_ffree": 0,
            "f_favail": 0,
            "f_namemax": NAME_MAX,
        }

    def report(self) -> bytes:
        """The files of the folder that are not shown, and why, as JSON."""
        self._folder.shown()
        rows = [{**path_fields(os.fsencode(path)), "what": what} for path, what in self._folder.left_out.items()]
        return json.dumps({"left_out": rows[:100], "more": max(len(rows) - 100, 0)}).encode()

    # -- the root --------------------------------------------------------------------------------------------

    def _root(self) -> Attributes:
        shown = self._folder.shown()
        newest = max((one.copy.origin.created for one in shown.values()), default=0)
        return Attributes(stat.S_IFDIR | 0o755, _ROOT_INO, 2 + len(shown), 0, 0, 0, 4096, 0, newest * 10**9)

    def _latest(self) -> Attributes:
        name, shown = next(iter(self._shown_or_none().items()))
        mtime = shown.copy.origin.created * 10**9
        return Attributes(stat.S_IFLNK | 0o777, _LATEST_INO, 1, 0, 0, 0, len(name), 0, mtime)

    def _copies(self, start: int) -> Iterator[tuple[bytes, Attributes]]:
        shown = self._folder.shown()
        names = [*sorted(shown), *([LATEST] if shown else [])]
        for name in names[start:]:
            try:
                yield name, self._latest() if name == LATEST else self._attributes_of(shown[name])
            except OSError:
                yield name, Attributes(stat.S_IFDIR | 0o755, shown[name].number << _INO_BITS, 2, 0, 0, 0, 4096, 0, 0)

    def _shown_or_none(self) -> dict[bytes, Shown]:
        shown = self._folder.shown()
        if not shown:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return shown

    # -- the copies ------------------------------------------------------------------------------------------

    def _split(self, path: bytes) -> tuple[Shown, bytes]:
        """The copy that a path leads into, and the path there. Raises OSError."""
        name, _, below = path[1:].partition(b"/")
        shown = self._folder.shown().get(name)
        if shown is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return shown, b"/" + below

    def _attributes_of(self, shown: Shown) -> Attributes:
        if shown.root is None:
            with self._using(shown) as filesystem:
                shown.root = _numbered(filesystem.getattr(b"/"), shown)
        return shown.root

    def _entries(self, shown: Shown, below: bytes, start: int) -> Iterator[tuple[bytes, Attributes]]:
        with self._using(shown) as filesystem:
            for name, attributes in filesystem.readdir(below, start):
                yield name, _numbered(attributes, shown)

    @contextmanager
    def _using(self, shown: Shown) -> Iterator[FileSystem]:
        """The copy's file system, open for as long. Raises OSError where it cannot be opened."""
        key = (shown.name, shown.copy.facts.id)
        with self._lock:
            opened = self._opened.pop(key, None) or self._open(shown.copy)
            self._opened[key] = opened  # as the one that was used last
            opened.users += 1
            self._close_idle()
        try:
            yield opened.filesystem
        finally:
            with self._lock:
                opened.users -= 1

    def _open(self, copy: Copy) -> _Opened:
        try:
            return _Opened(FileSystem(Archive.open(copy.path, cache_size=self._cache_size, others=self._others)))
        except XtarError as error:
            raise OSError(errno.EIO, str(error)) from None

    def _close_idle(self) -> None:
        idle = [key for key, opened in self._opened.items() if not opened.users]
        for key in idle[: max(len(self._opened) - _OPEN, 0)]:
            self._opened.pop(key).filesystem.close()


def _numbered(attributes: Attributes, shown: Shown) -> Attributes:
    """With an inode number that no other copy's file has."""
    return attributes._replace(ino=shown.number << _INO_BITS | attributes.ino & (1 << _INO_BITS) - 1)

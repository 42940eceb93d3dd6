"""Walks a directory in the archive's order and says what belongs in: excludes, file systems, listed paths.

Reads names and attributes only, never contents, and never follows a symlink. Every step goes through directory
file descriptors, so paths of any length work and a directory swapped for a symlink is not entered.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator

from msgspec import Struct, field

from xtarfs.errors import BuildError

from .exclusions import CACHE_TAG, is_cache, matcher
from .links import LinkTable

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """An open source directory. Its descriptor closes when the last worker that reads from it lets go."""

    __slots__ = ("fd", "names", "path", "stat")

    def __init__(self, fd: int, path: bytes) -> None:
        self.fd = fd
        self.path = path
        self.stat = os.fstat(fd)
        self.names: frozenset[bytes] = frozenset()

    def __del__(self) -> None:
        os.close(self.fd)


class Item(Struct):
    """One thing to store: its folder, name, whole path below the root, and attributes as first seen."""

    folder: Folder
    name: bytes
    path: bytes
    stat: os.stat_result


class Enter(Struct):
    """A directory begins. `item` is None for the root; `folder` is the directory itself."""

    item: Item | None
    folder: Folder


class Leave(Struct):
    """The directory entered last that has not been left ends."""


Step = Enter | Item | Leave


class Selection(Struct):
    """What the user wants stored."""

    exclude: list[str] = field(default_factory=list)
    exclude_caches: bool = False
    one_file_system: bool = False
    only: list[bytes] | None = None


class Scanner:
    """Yields a tree's steps in archive order: children by the bytes of their names, a directory where it falls.

    problem(path, reason) is told of what cannot be read, skipped(path, reason) of what is left out on purpose.
    """

    def __init__(
        self,
        root: str,
        selection: Selection,
        problem: Callable[[bytes, str], None],
        notice: Callable[[bytes, str], None],
        own_files: set[tuple[int, int]],
    ) -> None:
        self._root = root
        self._selection = selection
        self._problem = problem
        self._notice = notice
        self._own_files = own_files
        self._matches = matcher(selection.exclude)
        self._wanted, self._ancestors = _listed(selection.only)
        self._met: set[bytes] = set()
        self.excluded = 0

    def steps(self) -> Iterator[Step]:
        folder = self._open_root()
        device = folder.stat.st_dev
        self.excluded = 0
        self._met.clear()
        yield Enter(None, folder)
        stack = [self._children(folder)]
        while stack:
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
                yield Leave()
            elif not stat.S_ISDIR(item.stat.st_mode):
                yield item
            else:
                folder_below = self._open(item)
                if folder_below is None:
                    continue
                yield Enter(item, folder_below)
                crossing = self._selection.one_file_system and folder_below.stat.st_dev != device
                stack.append(iter(()) if crossing else self._children(folder_below))
        self._report_missing()

    def _open_root(self) -> Folder:
        try:
            return Folder(os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), b"")
        except OSError as error:
            raise BuildError(f"{self._root}: {error.strerror}; give a directory to back up") from None

    def _open(self, item: Item) -> Folder | None:
        try:
            return Folder(os.open(item.name, _DIRECTORY_FLAGS, dir_fd=item.folder.fd), item.path)
        except OSError as error:
            self._problem(item.path, f"cannot be opened: {error.strerror}")
            return None

    def _children(self, folder: Folder) -> Iterator[Item]:
        try:
            names = sorted(os.fsencode(name) for name in os.listdir(folder.fd))
        except OSError as error:
            self._problem(folder.path, f"cannot be listed: {error.strerror}")
            return
        folder.names = frozenset(names)
        cache = self._selection.exclude_caches and CACHE_TAG in folder.names and is_cache(folder.fd)
        prefix = folder.path + b"/" if folder.path else b""
        for name in names:
            path = prefix + name
            if self._ancestors is not None and not self._is_listed(path):
                continue
            try:
                attributes = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
            except OSError as error:
                self._problem(path, f"vanished or cannot be read: {error.strerror}")
                continue
            item = Item(folder, name, path, attributes)
            if (cache and name != CACHE_TAG) or self._is_excluded(item):
                self.excluded += 1
            elif self._is_ours(item):
                continue
            elif stat.S_ISSOCK(attributes.st_mode):
                self._notice(path, "is a socket; sockets are not stored")
            else:
                yield item

    def _is_listed(self, path: bytes) -> bool:
        assert self._ancestors is not None
        if path in self._wanted:
            self._met.add(path)
            return True
        if path in self._ancestors:
            return True
        parent = path.rpartition(b"/")[0]
        while parent:
            if parent in self._wanted:
                return True
            parent = parent.rpartition(b"/")[0]
        return False

    def _is_excluded(self, item: Item) -> bool:
        if self._matches is None:
            return False
        return self._matches(item.path, stat.S_ISDIR(item.stat.st_mode))

    def _is_ours(self, item: Item) -> bool:
        if (item.stat.st_dev, item.stat.st_ino) not in self._own_files or not stat.S_ISREG(item.stat.st_mode):
            return False
        self._notice(item.path, "is the file being written; it is not stored in itself")
        return True

    def _report_missing(self) -> None:
        """Listed paths that were not met."""
        for path in sorted(self._wanted - self._met):
            self._problem(path, "is listed but does not exist")


class Census(Struct):
    """What one look over the tree tells before anything is stored.

    size: bytes of content. digest: over all names and attributes.
    """

    files: int = 0
    directories: int = 0
    others: int = 0
    size: int = 0
    digest: bytes = b""


def take_census(scanner: Scanner, links: LinkTable) -> Census:
    """Counts the tree, its hard links too, and hashes paths, types, modes, sizes and times in archive order."""
    census = Census()
    digest = hashlib.sha256()
    for step in scanner.steps():
        if isinstance(step, Leave):
            continue
        attributes = step.stat if isinstance(step, Item) else step.folder.stat
        path = step.path if isinstance(step, Item) else step.folder.path
        digest.update(b"%s\0%o %d %d\n" % (path, attributes.st_mode, attributes.st_mtime_ns, _size(attributes)))
        if isinstance(step, Enter):
            census.directories += 1
        elif stat.S_ISREG(attributes.st_mode):
            census.files += 1
            census.size += attributes.st_size
            if attributes.st_nlink > 1:
                links.count(attributes)
        else:
            census.others += 1
    census.digest = digest.digest()
    return census


def _size(attributes: os.stat_result) -> int:
    """Directory sizes differ between file systems and say nothing of the tree."""
    return 0 if stat.S_ISDIR(attributes.st_mode) else attributes.st_size


def _listed(paths: list[bytes] | None) -> tuple[set[bytes], set[bytes] | None]:
    """The listed paths, cleaned of `./` and doubled slashes, and all folders above them."""
    if paths is None:
        return set(), None
    wanted: set[bytes] = set()
    ancestors: set[bytes] = set()
    for raw in paths:
        parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise BuildError(f"--files-from: {os.fsdecode(raw)!r} leads out of the directory")
        wanted.add(b"/".join(parts))
        ancestors.update(b"/".join(parts[:depth]) for depth in range(1, len(parts)))
    if b"" in wanted:
        return set(), None
    return wanted, ancestors

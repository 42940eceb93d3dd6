"""`xtar diff`: an archive and a directory, or two archives, side by side.

Both trees are walked in order at once, so that nothing is held but the way down and, of a directory, the hard links
whose further names are still to come. Equal structures of two archives are not descended into.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from msgspec import Struct

from ..errors import SourceError, UsageError, XtarError
from ..format.records import BLOCK_DEVICE, CHARACTER, DIRECTORY, FILE, SYMLINK, TYPE_OF_BITS
from ..reading.reader import Archive
from ..reading.tree import Node
from ..restoring.attributes import Owners, read_xattrs

_READ = 1 << 20
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OWNERS = Owners()


class Difference(Struct, frozen=True):
    """A path, below both roots, that is not the same. `removed`: only in the archive; `added`: only in the other.

    what: for `changed`, some of type, mode, owner, mtime, size, content, target, device, links, xattrs, and unreadable,
    where one side could not be read, so that nothing can be said.
    """

    path: bytes
    kind: Literal["added", "removed", "changed"]
    what: tuple[str, ...] = ()


class Entry(Protocol):
    """What both sides can be asked of one thing."""

    name: bytes
    path: bytes
    type: str

    def facts(self) -> dict[str, object]:
        """Everything that is compared but content, by the words of `Difference.what`. Raises OSError."""

    def digest(self) -> str:
        """SHA-256 of a file's content. Raises OSError, XtarError."""

    def structure(self) -> str:
        """Digest over all that is below a directory; empty where it is not known, and for what is none."""

    def children(self) -> Iterator[Entry]:
        """Sorted by the bytes of their names. Raises OSError, XtarError."""


def diff(
    archive: Archive, other: Archive | str, progress: Callable[[int], None] = lambda size: None
) -> Iterator[Difference]:
    """What `other`, an archive or the path of a directory, has different from `archive`, in order of paths.

    progress(bytes of content compared since the last call). Raises UsageError if `other` is no directory.
    """
    right = _Stored(other, other.root) if isinstance(other, Archive) else _top(other)
    left = _Stored(archive, archive.root)
    what = _compare(left, right, progress)
    if what:
        yield Difference(b"", "changed", what)
    stack = [_pairs(left, right)]
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
            continue
        if isinstance(step, Difference):
            yield step
            continue
        here, there = step
        entry = here or there
        assert entry
        if here and there:
            what = _compare(here, there, progress)
            if what:
                yield Difference(entry.path, "changed", what)
            if here.type == there.type:
                if not (here.structure() and here.structure() == there.structure()):
                    stack.append(_pairs(here, there))
                continue
        else:
            yield Difference(entry.path, "removed" if here else "added")
        stack += [_pairs(here, None), _pairs(None, there)]


def _pairs(left: Entry | None, right: Entry | None) -> Iterator[tuple[Entry | None, Entry | None] | Difference]:
    """The children of both, where they are directories, by name; each with its namesake or None."""
    failed: list[Difference] = []
    here, there = _listed(left, failed), _listed(right, failed)
    a, b = next(here, None), next(there, None)
    while (a or b) and not failed:
        if b is None or (a and a.name < b.name):
            yield a, None
            a = next(here, None)
        elif a is None or b.name < a.name:
            yield None, b
            b = next(there, None)
        else:
            yield a, b
            a, b = next(here, None), next(there, None)
    yield from failed


def _listed(entry: Entry | None, failed: list[Difference]) -> Iterator[Entry]:
    if entry is None or entry.type != DIRECTORY:
        return
    try:
        yield from entry.children()
    except (OSError, XtarError):
        failed.append(Difference(entry.path, "changed", ("unreadable",)))


def _compare(here: Entry, there: Entry, progress: Callable[[int], None]) -> tuple[str, ...]:
    if here.type != there.type:
        return ("type",)
    try:
        a, b = here.facts(), there.facts()
        what = [key for key in a if a[key] != b[key]]
        if here.type == FILE:
            size = a["size"]
            assert isinstance(size, int)
            # a further name on both sides has the content of the first, which was compared
            if "size" in what or ((not a["links"] or "links" in what) and here.digest() != there.digest()):
                what.append("content")
            progress(size)
    except (OSError, XtarError):
        return ("unreadable",)
    return tuple(what)


class _Stored:
    """An archive's node."""

    def __init__(self, archive: Archive, node: Node) -> None:
        self._archive = archive
        self._node = node
        self.name = node.record.raw_name
        self.path = node.path
        self.type = node.record.type

    def facts(self) -> dict[str, object]:
        record = self._node.record
        facts: dict[str, object] = {
            "mode": record.permissions,
            "owner": _OWNERS.ids(record),
            "mtime": record.mtime_ns,
            "xattrs": record.raw_xattrs,
        }
        if self.type == FILE:
            facts["size"] = record.size
            facts["links"] = self._archive.data_node(self._node).path if record.link else b""
        elif self.type == SYMLINK:
            facts["target"] = record.raw_target
        elif self.type in (CHARACTER, BLOCK_DEVICE):
            facts["device"] = (record.major, record.minor)
        return facts

    def digest(self) -> str:
        record = self._archive.data_node(self._node).record
        if record.sha256:
            return record.sha256
        digest = hashlib.sha256()
        for piece in self._archive.pieces(self._node):
            if piece.error:
                raise piece.error
            digest.update(piece.data)
        return digest.hexdigest()

    def structure(self) -> str:
        return self._node.record.sha256 if self.type == DIRECTORY else ""

    def children(self) -> Iterator[Entry]:
        for node in self._archive.children(self._node):
            yield _Stored(self._archive, node)


class _Links:
    """First names of the files of several names that have not all been met, by device and inode."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, int], tuple[bytes, int]] = {}

    def first(self, attributes: os.stat_result, path: bytes) -> bytes:
        """The name that was met first; empty if that is this one."""
        if attributes.st_nlink < 2:
            return b""
        key = attributes.st_dev, attributes.st_ino
        first, left = self._first.get(key, (b"", attributes.st_nlink))
        self._first[key] = first or path, left - 1
        if left == 1:
            del self._first[key]
        return first


class _OnDisk:
    """Something in a directory, reached through the directory's descriptor."""

    def __init__(
        self, parent: _OnDisk | None, name: bytes, path: bytes, attributes: os.stat_result, links: _Links
    ) -> None:
        self._parent = parent
        self._attributes = attributes
        self._links = links
        self._fd: int | None = None
        self.name = name
        self.path = path
        self.type = TYPE_OF_BITS[stat.S_IFMT(attributes.st_mode)]
        self._link = links.first(attributes, path) if self.type == FILE else b""

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def facts(self) -> dict[str, object]:
        attributes = self._attributes
        facts: dict[str, object] = {
            "mode": stat.S_IMODE(attributes.st_mode),
            "owner": (attributes.st_uid, attributes.st_gid),
            "mtime": attributes.st_mtime_ns,
            "xattrs": self._xattrs(),
        }
        if self.type == FILE:
            facts["size"] = attributes.st_size
            facts["links"] = self._link
        elif self.type == SYMLINK:
            facts["target"] = os.fsencode(os.readlink(self.name, dir_fd=self._above()))
        elif self.type in (CHARACTER, BLOCK_DEVICE):
            facts["device"] = (os.major(attributes.st_rdev), os.minor(attributes.st_rdev))
        return facts

    def digest(self) -> str:
        fd = os.open(self.name, _OPEN_FLAGS, dir_fd=self._above())
        try:
            digest = hashlib.sha256()
            while data := os.read(fd, _READ):
                digest.update(data)
            return digest.hexdigest()
        finally:
            os.close(fd)

    def structure(self) -> str:
        return ""

    def children(self) -> Iterator[Entry]:
        fd = self._open()
        for name in sorted(os.fsencode(name) for name in os.listdir(fd)):
            with contextlib.suppress(FileNotFoundError):  # gone since the listing
                attributes = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if not stat.S_ISSOCK(attributes.st_mode):  # no archive holds sockets
                    path = self.path + b"/" + name if self.path else name
                    yield _OnDisk(self, name, path, attributes, self._links)

    def _xattrs(self) -> dict[bytes, bytes]:
        if self._parent is None:
            return read_xattrs(self._open())
        fd = os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._above())
        try:
            return read_xattrs(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def _above(self) -> int:
        assert self._parent
        return self._parent._open()

    def _open(self) -> int:
        """The directory's own descriptor, opened when first needed."""
        if self._fd is None:
            flags = os.O_DIRECTORY | os.O_CLOEXEC | os.O_RDONLY
            if self._parent is None:
                self._fd = os.open(self.name, flags)
            else:
                self._fd = os.open(self.name, flags | os.O_NOFOLLOW, dir_fd=self._above())
        return self._fd


def _top(path: str) -> _OnDisk:
    try:
        attributes = os.stat(path)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    if not stat.S_ISDIR(attributes.st_mode):
        raise UsageError(f"{path}: is neither a directory nor an archive")
    return _OnDisk(None, os.fsencode(path), b"", attributes, _Links())

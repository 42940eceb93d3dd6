"""What an archive looks like as a file system: attributes, errors, extended attributes.

Defined here and only here, and free of any FUSE binding. Every method is thread-safe and raises OSError alone.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from functools import wraps
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from lru import LRU

from ..errors import NotADirectory, NotFound, XtarError
from ..format.records import FILE, SYMLINK, Record
from ..reading.content import merged
from ..reading.reader import Archive
from ..reading.tree import Node
from ..text import path_fields

P = ParamSpec("P")
T = TypeVar("T")

_BLOCK = 4096
NAME_MAX = 255
FOREVER = 1_000_000_000  # seconds that the kernel may keep what it knows of an archive: that never changes
_CACHED_PATHS = 4096
_OWN_XATTRS = b"user.xtar."
_MAX_REPORT = 200  # entries of the damage report: Linux takes no attribute over 64 KiB


class Attributes(NamedTuple):
    """What stat shows. mode with type bits; blocks of 512 bytes; one time stands for all three."""

    mode: int
    ino: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    mtime_ns: int


def _as_os_errors(method: Callable[P, T]) -> Callable[P, T]:
    """Turns the archive's errors into errno: what is not there is ENOENT, what cannot be had is EIO."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except NotFound as error:
            raise OSError(errno.ENOENT, str(error)) from None
        except NotADirectory as error:
            raise OSError(errno.ENOTDIR, str(error)) from None
        except XtarError as error:
            raise OSError(errno.EIO, str(error)) from None

    return call


def _attributes(record: Record) -> Attributes:
    size = record.size
    data = size - sum(end - start for start, end in record.holes) if record.holes else size
    return Attributes(
        record.st_mode,
        record.ino,
        record.nlink,
        record.uid,
        record.gid,
        os.makedev(record.major, record.minor) if record.major or record.minor else 0,
        _BLOCK if record.is_dir else size,  # what most file systems show for a small directory
        -(-data // _BLOCK) * (_BLOCK // 512) if record.type == FILE else 0,
        record.mtime_ns,
    )


class View(Protocol):
    """What can be mounted. names_kept: seconds that the kernel may keep names and attributes."""

    names_kept: int

    def getattr(self, path: bytes) -> Attributes: ...
    def readdir(self, path: bytes, start: int = 0) -> Iterator[tuple[bytes, Attributes]]: ...
    def readlink(self, path: bytes) -> bytes: ...
    def read(self, path: bytes, size: int, offset: int) -> bytes | bytearray | memoryview: ...
    def listxattr(self, path: bytes) -> list[bytes]: ...
    def getxattr(self, path: bytes, name: bytes) -> bytes: ...
    def statfs(self) -> dict[str, int]: ...
    def close(self) -> None: ...


class FileSystem:
    """A read-only view of an open archive. Paths are absolute bytes, `b"/"` the root."""

    names_kept = FOREVER

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._nodes: LRU[bytes, Node] = LRU(_CACHED_PATHS)

    def close(self) -> None:
        self.archive.close()

    @_as_os_errors
    def getattr(self, path: bytes) -> Attributes:
        return _attributes(self._node(path).record)

    @_as_os_errors
    def readdir(self, path: bytes, start: int = 0) -> Iterator[tuple[bytes, Attributes]]:
        """Names and attributes of the children from the start-th on, without `.` and `..`."""
        return self._entries(self._node(path), start)

    @_as_os_errors
    def readlink(self, path: bytes) -> bytes:
        record = self._node(path).record
        if record.type != SYMLINK:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return record.raw_target

    @_as_os_errors
    def read(self, path: bytes, size: int, offset: int) -> bytes | bytearray | memoryview:
        """Exactly the bytes asked for, fewer only at the file's end; EIO if any of them is damaged."""
        node = self._node(path)
        if node.record.type != FILE:
            raise OSError(errno.EISDIR if node.record.is_dir else errno.EINVAL, "not a regular file")
        return self.archive.read(node, offset, size)

    @_as_os_errors
    def listxattr(self, path: bytes) -> list[bytes]:
        """The stored attributes. The archive's own, `user.xtar.*`, are readable by name and not listed."""
        return list(self._node(path).record.raw_xattrs)

    @_as_os_errors
    def getxattr(self, path: bytes, name: bytes) -> bytes:
        node = self._node(path)
        if name.startswith(_OWN_XATTRS):
            value = self._own_xattr(node, name[len(_OWN_XATTRS) :].decode("latin-1"))
        else:
            value = node.record.raw_xattrs.get(name) if node.record.xattrs else None
        if value is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return value

    def statfs(self) -> dict[str, int]:
        facts = self.archive.tree.locator
        return {
            "f_bsize": _BLOCK,
            "f_frsize": _BLOCK,
            "f_blocks": -(-self.archive.tree.content_size // _BLOCK)
            if facts
            else -(-self.archive.source.size // _BLOCK),
            "f_bfree": 0,
            "f_bavail": 0,
            "f_files": self.archive.tree.entries,
            "f_ffree": 0,
            "f_favail": 0,
            "f_namemax": NAME_MAX,
        }

    def _node(self, path: bytes) -> Node:
        node: Node | None = self._nodes.get(path)
        if node is None:
            folder, _, name = path.rpartition(b"/")
            if not name:
                node = self.archive.root
            else:
                found = self.archive.tree.directory(self._node(folder or b"/")).get(name)
                if found is None:
                    if len(name) > NAME_MAX:
                        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
                    raise NotFound(path.decode("utf-8", "replace"))
                node = found
            self._nodes[path] = node
        return node

    def _entries(self, node: Node, start: int) -> Iterator[tuple[bytes, Attributes]]:
        try:
            for child in self.archive.children(node, start):
                yield child.record.raw_name, _attributes(child.record)
        except XtarError as error:
            raise OSError(errno.EIO, str(error)) from None

    def _own_xattr(self, node: Node, name: str) -> bytes | None:
        record = node.record
        if record.is_dir:
            if node.path == b"" and name == "report":
                return self.report()
            if node.path == b"" and name == "id" and self.archive.tree.identifier:
                return self.archive.tree.identifier.encode()
            return None
        if record.type != FILE:
            return None
        if name == "status":
            return self._status(node)
        record = self.archive.data_node(node).record
        values = {
            "sha256": record.sha256,
            "crc32": record.crc32,
            "packed_size": str(record.packed),
            "method": record.method,
            "chunk_size": str(record.chunk),
            "archive": record.elsewhere.archive if record.elsewhere else "",
        }
        return values[name].encode() if values.get(name) else None

    def _status(self, node: Node) -> bytes:
        """`ok`, or what is wrong. Reads the whole file, so that the answer is true now."""
        try:
            self.archive.require_at_hand(node)
        except XtarError as error:
            return f"missing: {error}".encode()
        ranges = self.archive.damaged_ranges(node)
        if ranges:
            return b"damaged " + b" ".join(b"%d-%d" % r for r in ranges)
        return b"repaired" if self.archive.was_healed(node) else b"ok"

    def report(self) -> bytes:
        """The damage met so far in this mount, as JSON."""
        tree = self.archive.tree
        damaged = [
            {**path_fields(path), "ranges": merged(ranges), "repairable": False}
            for path, ranges in list(tree.ranges.items())
        ]
        damaged += [
            {**path_fields(path), "ranges": merged(ranges), "repairable": True}
            for path, ranges in list(tree.healed.items())
        ]
        structure = [{**path_fields(path), "what": what} for path, what in list(tree.damage)]
        more = max(len(damaged) - _MAX_REPORT, 0) + max(len(structure) - _MAX_REPORT, 0)
        return json.dumps(
            {"damaged": damaged[:_MAX_REPORT], "structure": structure[:_MAX_REPORT], "more": more}
        ).encode()

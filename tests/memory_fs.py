"""A FileSystem in memory, to test the FUSE side without archives. Nodes may carry faults."""

from __future__ import annotations

import errno
import itertools
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from typing import Any

from xtarfs.filesystem.vfs import FOREVER, Attributes

CHUNK = 32768


class Node:
    """One inode. `children` keeps the stored order; `bad_chunks` number the 32 KiB chunks that are lost."""

    def __init__(self, mode: int, ino: int, data: bytes = b"", mtime_ns: int = 0) -> None:
        self.mode = mode
        self.ino = ino
        self.nlink = 2 if stat.S_ISDIR(mode) else 1
        self.uid = self.gid = self.rdev = 0
        self.data = data
        self.mtime_ns = mtime_ns
        self.children: dict[bytes, Node] = {}
        self.order: list[tuple[bytes, Attributes]] | None = None
        self.xattrs: dict[bytes, bytes] = {}
        self.bad_chunks: set[int] = set()
        self.fault: BaseException | None = None
        self.delay = 0.0

    def attributes(self) -> Attributes:
        size = len(self.data)
        owner = (self.uid, self.gid)
        return Attributes(self.mode, self.ino, self.nlink, *owner, self.rdev, size, -(-size // 512), self.mtime_ns)


class MemoryFS:
    """Serves the tree under `root`; counts the calls of each method in `calls`."""

    names_kept = FOREVER

    def __init__(self) -> None:
        self._inodes = itertools.count(1)
        self.root = Node(stat.S_IFDIR | 0o755, next(self._inodes))
        self.calls: dict[str, int] = {}
        self.closed = False
        self.readers = self.most_readers = 0
        self._lock = threading.Lock()

    # building

    def add(self, path: bytes, mode: int, data: bytes = b"", **values: Any) -> Node:
        parent = self._find(os.path.dirname(path))
        node = Node(mode, next(self._inodes), data)
        for name, value in values.items():
            setattr(node, name, value)
        parent.children[os.path.basename(path)] = node
        parent.nlink += stat.S_ISDIR(mode)
        return node

    def file(self, path: bytes, data: bytes = b"", **values: Any) -> Node:
        return self.add(path, stat.S_IFREG | 0o644, data, **values)

    def folder(self, path: bytes, **values: Any) -> Node:
        return self.add(path, stat.S_IFDIR | 0o755, **values)

    def link(self, target: Node, path: bytes) -> None:
        self._find(os.path.dirname(path)).children[os.path.basename(path)] = target
        target.nlink += 1

    # the contract

    def getattr(self, path: bytes) -> Attributes:
        self._count("getattr")
        return self._find(path).attributes()

    def readdir(self, path: bytes, start: int = 0) -> Iterator[tuple[bytes, Attributes]]:
        self._count("readdir")
        node = self._find(path)
        if node.order is None:
            node.order = [(name, child.attributes()) for name, child in node.children.items()]
        for index in range(start, len(node.order)):
            yield node.order[index]

    def readlink(self, path: bytes) -> bytes:
        return self._find(path).data

    def read(self, path: bytes, size: int, offset: int) -> bytes | bytearray | memoryview:
        self._count("read")
        node = self._find(path)
        end = min(offset + size, len(node.data))
        if any(offset < (bad + 1) * CHUNK and end > bad * CHUNK for bad in node.bad_chunks):
            raise OSError(errno.EIO, "bad chunk")
        if node.delay:
            self._dwell(node.delay)
        return memoryview(node.data)[offset:end] if offset % 8192 else node.data[offset:end]

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        # How a test sees into the process that serves.
        if name == b"user.xtar.test":
            inside = {
                "pid": os.getpid(),
                "calls": self.calls,
                "readers": self.readers,
                "most_readers": self.most_readers,
            }
            return json.dumps(inside).encode()
        self._count("getxattr")
        try:
            return self._find(path).xattrs[name]
        except KeyError:
            raise OSError(errno.ENODATA, "no such attribute") from None

    def listxattr(self, path: bytes) -> list[bytes]:
        return [name for name in self._find(path).xattrs if not name.startswith(b"user.xtar.")]

    def statfs(self) -> dict[str, int]:
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": 777, "f_files": 55, "f_namemax": 255}

    def close(self) -> None:
        self.closed = True

    # inside

    def _count(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1

    def _find(self, path: bytes) -> Node:
        node = self.root
        for name in filter(None, path.split(b"/")):
            if name not in node.children:
                raise OSError(errno.ENOENT, "no such file")
            node = node.children[name]
        if node.fault:
            raise node.fault
        return node

    def _dwell(self, seconds: float) -> None:
        with self._lock:
            self.readers += 1
            self.most_readers = max(self.most_readers, self.readers)
        time.sleep(seconds)
        with self._lock:
            self.readers -= 1


def from_folder(source: bytes) -> MemoryFS:
    """A copy of the folders, files and symlinks under `source`."""
    filesystem = MemoryFS()
    for base, folders, files in os.walk(source):
        inside = base[len(source) :]
        for name in folders + files:
            status = os.lstat(base + b"/" + name)
            data = b""
            if stat.S_ISREG(status.st_mode):
                with open(base + b"/" + name, "rb") as file:
                    data = file.read()
            elif stat.S_ISLNK(status.st_mode):
                data = os.readlink(base + b"/" + name)
            filesystem.add(inside + b"/" + name, status.st_mode, data, mtime_ns=status.st_mtime_ns)
    return filesystem

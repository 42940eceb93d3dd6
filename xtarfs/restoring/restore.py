"""One record to one object in a folder, whole or not at all.

Everything goes through the folder's descriptor and follows no symlink, so nothing lands outside it, whatever lies
in it. What is made has a temporary name until it is finished. Knows no order.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import itertools
import os
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from msgspec import Struct

from ..errors import DamagedError, FormatError
from ..format.records import BLOCK_DEVICE, CHARACTER, FIFO, SYMLINK, Record
from ..reading.content import Piece, merged
from ..reading.tree import Node
from .attributes import Owners, drop_acls, lends_acl, set_attributes
from .results import Ranges

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_NOREPLACE = 1
_NO_SUCH_FLAG = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
_NO_LINKS = (errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV)
_PRIVATE = stat.S_IRWXU

_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
_token = os.urandom(4).hex().encode()
_numbers = itertools.count()


class Folder:
    """An open directory of the destination; its descriptor closes with it. made: this run made it, or found it empty.

    lends_acl: what is made in it inherits an ACL.
    """

    __slots__ = ("fd", "lends_acl", "made")

    def __init__(self, fd: int, *, made: bool) -> None:
        self.fd = fd
        self.made = made
        self.lends_acl = lends_acl(fd)

    def __del__(self) -> None:
        os.close(self.fd)


class Manner(Struct, frozen=True):
    """How to restore. fill: a damaged file is written, with holes where its bytes are missing."""

    owners: Owners
    force: bool = False
    fill: bool = False


def open_top(path: str) -> Folder:
    """The destination itself, made if it is not there; it alone may be a symlink. Raises OSError."""
    os.makedirs(path, _PRIVATE, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    folder = Folder(fd, made=False)
    folder.made = not os.listdir(fd)
    return folder


def enter(parent: Folder, name: bytes, manner: Manner) -> Folder:
    """The directory `name`, made if it is not there. Raises FileExistsError if something else is; OSError."""
    require_name(name)
    while True:
        made = _make_directory(parent, name)
        try:
            fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent.fd)
            break
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        if not manner.force:
            raise FileExistsError(errno.EEXIST, "exists and is not a directory")
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # another process may have been here
            os.unlink(name, dir_fd=parent.fd)
    if made and parent.lends_acl:
        drop_acls(fd)
    return Folder(fd, made=made)


def _make_directory(parent: Folder, name: bytes) -> bool:
    try:
        os.mkdir(name, _PRIVATE, dir_fd=parent.fd)
    except FileExistsError:
        return False
    return True


class Place:
    """A directory of the archive in the destination: opened, and made, when something is first put there.

    lost: why it could not be opened.
    """

    __slots__ = ("_folder", "lost", "node", "parent")

    def __init__(self, node: Node, parent: Place | None, folder: Folder | None = None) -> None:
        self.node = node
        self.parent = parent
        self._folder = folder
        self.lost: Exception | None = None

    def open(self, manner: Manner) -> Folder:
        """Raises FileExistsError if something else is in the way, OSError, FormatError."""
        closed = [self]
        while not closed[-1]._folder and closed[-1].parent:
            closed.append(closed[-1].parent)
        for place in reversed(closed):
            folder = place._folder or place._enter(manner)
        return folder

    def _enter(self, manner: Manner) -> Folder:
        if self.lost:
            raise self.lost
        assert self.parent and self.parent._folder
        try:
            self._folder = enter(self.parent._folder, self.node.record.raw_name, manner)
        except (OSError, ValueError, FormatError) as error:
            self.lost = error
            raise
        return self._folder


def reopen(parent: Folder, name: bytes) -> Folder:
    """The directory `name`, which is there. Raises OSError."""
    require_name(name)
    return Folder(os.open(name, DIRECTORY_FLAGS, dir_fd=parent.fd), made=False)


def finish_directory(folder: Folder, record: Record, owners: Owners) -> list[str]:
    """Sets a directory's attributes once nothing more is made in it; returns what could not be set."""
    drop_acls(folder.fd)
    return set_attributes(folder.fd, record, owners)


def exists(folder: Folder, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def write_file(
    folder: Folder, name: bytes, record: Record, content: Record, pieces: Iterable[Piece], manner: Manner
) -> tuple[list[str], Ranges]:
    """A regular file; returns what could not be set and, if `manner.fill`, the damaged ranges that are holes in it.

    content: the record that describes the data, another than `record` for a further name of a hard link.
    Raises DamagedError, with all damaged ranges, unless `manner.fill`; FileExistsError unless `manner.force`; OSError.
    """
    with _temporary(folder, name, manner) as temporary:
        fd = os.open(temporary, _NEW_FILE, 0o600, dir_fd=folder.fd)
        try:
            ranges = _write_content(fd, content, pieces, fill=manner.fill)
            if ranges and not manner.fill:
                raise DamagedError("content is damaged", ranges)
            if folder.lends_acl:
                drop_acls(fd)
            return set_attributes(fd, record, manner.owners), ranges
        finally:
            os.close(fd)


def _write_content(fd: int, record: Record, pieces: Iterable[Piece], *, fill: bool) -> Ranges:
    """Writes what is sound, everything if that checks out; returns the ranges that are not."""
    digest = hashlib.sha256()
    ranges: list[tuple[int, int]] = []
    end = 0
    for piece in pieces:
        if piece.error:
            ranges.append((piece.start, piece.end))
        elif not ranges or fill:
            digest.update(piece.data)
            for start, stop in _stretches(piece, record.holes):
                _write_at(fd, memoryview(piece.data)[start - piece.start : stop - piece.start], start)
                end = stop
    if not ranges and record.sha256 and digest.hexdigest() != record.sha256:
        ranges, end = [(0, record.size)], 0
        os.ftruncate(fd, 0)
    if end < record.size:
        os.ftruncate(fd, record.size)
    return tuple(merged(ranges))


def _stretches(piece: Piece, holes: Ranges) -> Iterator[tuple[int, int]]:
    """The parts of a piece outside the holes. A hole is believed only where the content is zeros."""
    at = piece.start
    for number in range(max(bisect_right(holes, (at,)) - 1, 0), len(holes)):
        start, end = max(holes[number][0], at), min(holes[number][1], piece.end)
        if holes[number][0] >= piece.end:
            break
        if start < end and piece.data[start - piece.start : end - piece.start] == bytes(end - start):
            if at < start:
                yield at, start
            at = end
    if at < piece.end:
        yield at, piece.end


def _write_at(fd: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written


def make_special(folder: Folder, name: bytes, record: Record, manner: Manner) -> list[str]:
    """A symlink, fifo or device; returns what could not be set. Raises FileExistsError unless forced; OSError."""
    with _temporary(folder, name, manner) as temporary:
        if record.type == SYMLINK:
            os.symlink(record.raw_target, temporary, dir_fd=folder.fd)
        elif record.type == FIFO:
            os.mkfifo(temporary, 0o600, dir_fd=folder.fd)
        else:
            kind = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}[record.type]
            os.mknod(temporary, 0o600 | kind, os.makedev(record.major, record.minor), dir_fd=folder.fd)
        fd = os.open(temporary, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.fd)
        try:
            return set_attributes(f"/proc/self/fd/{fd}", record, manner.owners)
        finally:
            os.close(fd)


def link(source: Folder, source_name: bytes, folder: Folder, name: bytes, manner: Manner) -> bool:
    """A further name of a file; False if the file system cannot. Raises FileExistsError unless forced; OSError."""
    try:
        with _temporary(folder, name, manner) as temporary:
            os.link(source_name, temporary, src_dir_fd=source.fd, dst_dir_fd=folder.fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


@contextlib.contextmanager
def _temporary(folder: Folder, name: bytes, manner: Manner) -> Iterator[bytes]:
    """A free name in the folder; what is made under it gets its own name at the end, or goes if anything fails."""
    require_name(name)
    if not folder.made and not manner.force and exists(folder, name):
        raise FileExistsError(errno.EEXIST, "exists")
    temporary = b"%s%d" % (temporary_prefix(), next(_numbers))
    try:
        yield temporary
        if manner.force:
            _replace(folder, temporary, name)
        else:
            _rename_to_new(folder, temporary, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder.fd)
        raise


def temporary_prefix(maker: bytes = b"") -> bytes:
    """What names of unfinished files begin with that `maker`, in this process, numbers from 0 on."""
    return b".xtar-%s-%d%s-" % (_token, os.getpid(), maker)


def _replace(folder: Folder, old: bytes, new: bytes) -> None:
    try:
        os.rename(old, new, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
    except IsADirectoryError:
        raise FileExistsError(errno.EEXIST, "exists and is a directory") from None
    if os.stat(new, dir_fd=folder.fd, follow_symlinks=False).st_nlink > 1:
        # rename() leaves both names where they are two of the same file
        with contextlib.suppress(FileNotFoundError):
            os.unlink(old, dir_fd=folder.fd)


def _rename_to_new(folder: Folder, old: bytes, new: bytes) -> None:
    """Raises FileExistsError rather than replace anything."""
    if _renameat2 and _renameat2(folder.fd, old, folder.fd, new, _RENAME_NOREPLACE) == 0:
        return
    code = ctypes.get_errno() if _renameat2 else errno.ENOSYS
    if code not in _NO_SUCH_FLAG:
        raise OSError(code, os.strerror(code))
    if exists(folder, new):  # network file systems cannot do both in one step
        raise FileExistsError(errno.EEXIST, "exists")
    os.rename(old, new, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)


def require_name(name: bytes) -> None:
    """Raises FormatError for what is not the name of one thing in one folder."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise FormatError(f"{name!r} is not a name")

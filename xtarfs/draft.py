"""A file under construction, written at any position, that gets its name only when it is whole and durable."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from typing import Self

from .errors import BuildError, UsageError

_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


class Draft:
    """Use as a context manager: left without `commit`, nothing remains of it.

    Where the file system allows it the file has no name before `commit`, so that not even a kill leaves litter.
    """

    def __init__(self, path: str, size: int, *, force: bool) -> None:
        """`size` bytes, zeros at first, reserved at once so that a full disc is found before the work is done."""
        self.path = path
        self.name = path
        self.size = size
        self._force = force
        self._folder = os.path.dirname(os.path.abspath(path))
        self._temporary: str | None = None
        if os.path.isdir(path):
            raise UsageError(f"{path}: is a directory; give the name of the file to write")
        if os.path.exists(path) and not os.path.isfile(path):
            raise UsageError(f"{path}: is not a regular file; it is never replaced")
        if os.path.lexists(path) and not force:
            raise UsageError(f"{path}: exists already; --force replaces it")
        try:
            self._fd = self._open()
        except OSError as error:
            raise BuildError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            os.ftruncate(self._fd, size)
            self._reserve()
        except OSError as error:
            self.close()
            raise BuildError(f"{path}: cannot be written: {error.strerror}; nothing was left there") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)
        if self._temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)

    def write_at(self, at: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, at)
                view, at = view[written:], at + written
        except OSError as error:
            raise BuildError(f"{self.path}: cannot be written: {error.strerror}; nothing was left there") from None

    def read_at(self, offset: int, size: int) -> bytes:
        """What was written; fewer bytes only at the end."""
        data = b""
        while more := os.pread(self._fd, size - len(data), offset + len(data)):
            data += more
        return data

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self.size = size

    def settle(self) -> None:
        """Makes what was written durable, though without a name."""
        os.fsync(self._fd)

    def commit(self, like: os.stat_result | None = None) -> None:
        """Makes the file durable and gives it its name, with the mode and, if allowed, the owner of `like`."""
        try:
            if like is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(self._fd, like.st_uid, like.st_gid)
            os.fchmod(self._fd, like.st_mode & 0o7777 if like else 0o666 & ~_umask())
            os.fsync(self._fd)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._publish(folder)
                os.fsync(folder)
            finally:
                os.close(folder)
        except FileExistsError:
            raise UsageError(f"{self.path}: exists already; --force replaces it") from None
        except OSError as error:
            raise BuildError(f"{self.path}: cannot be written: {error.strerror}") from None

    def _open(self) -> int:
        try:
            return os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        fd, self._temporary = tempfile.mkstemp(prefix=".", suffix=".xtar-partial", dir=self._folder)
        return fd

    def _reserve(self) -> None:
        try:
            if self.size:
                os.posix_fallocate(self._fd, 0, self.size)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise

    def _publish(self, folder: int) -> None:
        """Links the nameless file, or renames the named one; only a rename can replace a file in one step."""
        if self._temporary is None and self._force:
            self._temporary = tempfile.mktemp(prefix=".", suffix=".xtar-partial", dir=self._folder)
            self._link(os.path.basename(self._temporary), folder)
        if self._temporary is None:
            self._link(os.path.basename(self.path), folder)
        elif self._force:
            os.rename(self._temporary, self.path)
            self._temporary = None
        else:
            os.link(self._temporary, self.path)

    def _link(self, name: str, folder: int) -> None:
        # The folder's descriptor makes Python call linkat, which alone can name a file that has no name yet.
        os.link(f"/proc/self/fd/{self._fd}", name, dst_dir_fd=folder, follow_symlinks=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

"""The file that an archive is written to: appended, patched in place, and given its name only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from typing import IO

from xtarfs.errors import BuildError, UsageError
from xtarfs.format import codec

_BUFFER = 1 << 20
_PARTIAL = ".xtar-partial"


class Output:
    """An archive under construction. Use as a context manager: left without `commit`, nothing remains of it.

    Where the file system allows it the file has no name before `commit`, so that not even a kill leaves litter.
    """

    def __init__(self, path: str, *, force: bool) -> None:
        self.path = path
        self._force = force
        self._folder = os.path.dirname(os.path.abspath(path))
        self._buffer = bytearray()
        self._flushed = 0
        self._temporary: str | None = None
        if os.path.isdir(path):
            raise UsageError(f"{path}: is a directory; give the name of the archive to write")
        if os.path.lexists(path) and not force:
            raise UsageError(f"{path}: exists already; --force replaces it")
        try:
            self._fd = self._open()
        except OSError as error:
            raise BuildError(f"{path}: cannot be written: {error.strerror}") from None

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        if self._temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)

    @property
    def position(self) -> int:
        return self._flushed + len(self._buffer)

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the file being written."""
        attributes = os.fstat(self._fd)
        return attributes.st_dev, attributes.st_ino

    def write(self, data: bytes | memoryview) -> None:
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def patch(self, at: int, data: bytes) -> None:
        """Overwrites bytes that were written before."""
        if at >= self._flushed:
            start = at - self._flushed
            self._buffer[start : start + len(data)] = data
            return
        self._flush()
        self._write_at(memoryview(data), at)

    def rewind(self, at: int) -> None:
        """Takes back everything from `at` on."""
        self._flush()
        os.ftruncate(self._fd, at)
        self._flushed = at

    def append_from(self, spool: IO[bytes]) -> int:
        """Copies a temporary file from its start; gives the CRC-32 of what was copied."""
        crc = 0
        spool.seek(0)
        while data := spool.read(_BUFFER):
            self.write(data)
            crc = codec.crc32(data, crc)
        return crc

    def commit(self) -> None:
        """Makes the archive durable and gives it its name."""
        self._flush()
        try:
            os.fsync(self._fd)
            os.fchmod(self._fd, 0o666 & ~_umask())
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
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
        fd, self._temporary = tempfile.mkstemp(prefix=".", suffix=_PARTIAL, dir=self._folder)
        return fd

    def _publish(self, folder: int) -> None:
        """Links the nameless file, or renames the named one; only a rename can replace an archive in one step."""
        if self._temporary is None and self._force:
            self._temporary = tempfile.mktemp(prefix=".", suffix=_PARTIAL, dir=self._folder)
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

    def _flush(self) -> None:
        self._write_at(memoryview(self._buffer), self._flushed)
        self._flushed += len(self._buffer)
        self._buffer = bytearray()

    def _write_at(self, view: memoryview, at: int) -> None:
        try:
            while view:
                written = os.pwrite(self._fd, view, at)
                view, at = view[written:], at + written
        except OSError as error:
            raise BuildError(f"{self.path}: cannot be written: {error.strerror}; nothing was left there") from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

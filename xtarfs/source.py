"""Bytes by position: `read_at` over a file. No cursor is shared, so any number of threads may read at once."""

from __future__ import annotations

import os
import stat
from typing import Protocol

from .errors import NotAnArchive, SourceError


class Source(Protocol):
    """What the reading side asks of a place where an archive lies."""

    name: str
    size: int

    def read_at(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`, fewer only at the end. Raises SourceError when the medium fails."""

    def close(self) -> None: ...


class FileSource:
    """A regular file or block device, read with pread."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        try:
            self._fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a fifo would wait
        except OSError as error:
            raise SourceError(f"{self.name}: {error.strerror}") from None
        mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            os.close(self._fd)
            kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise NotAnArchive(f"{self.name}: is {kind}; an .xtar file is needed")
        self.size = os.lseek(self._fd, 0, os.SEEK_END)

    def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self.size - offset)  # a damaged size must not cost memory
        if offset < 0 or size <= 0:
            return b""
        try:
            data = os.pread(self._fd, size, offset)
            while len(data) < size:
                more = os.pread(self._fd, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise SourceError(f"{self.name}: read at byte {offset} failed: {error.strerror}") from None
        return data

    def close(self) -> None:
        os.close(self._fd)

"""Bytes by position: `read_at` over a file. No cursor is shared, so any number of threads may read at once."""

from __future__ import annotations

import os
import stat
from typing import Protocol

from .errors import NotAnArchive, SourceError

_STRETCH = 128 << 10  # bytes


class Readable(Protocol):
    """Bytes by position; `size` of them. What parity and salvage ask of a file."""

    name: str
    size: int

    def read_at(self, offset: int, size: int) -> bytes: ...

    def close(self) -> None: ...


class Source:
    """What the reading side asks of a place where an archive lies. `size` in bytes."""

    name: str
    size: int

    def read_at(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`, fewer only at the end. Raises SourceError when the medium fails."""
        raise NotImplementedError

    def heal(self, offset: int, size: int) -> bytes | None:
        """Bytes of a range as parity has them, for what failed its checksum; None where there is none that suffices.

        They must be checked again: the parity may be of another archive of the same name.
        """
        return None

    def was_healed(self, offset: int, size: int) -> bool:
        """Whether any byte of a range had to come from parity so far."""
        return False

    def fileno(self) -> int | None:
        """A descriptor of one file whose bytes are the source's, where they are not damaged; None if there is none."""
        return None

    def close(self) -> None:
        """Nothing is read any more."""


class FileSource(Source):
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

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


class Ahead:
    """Small reads at ascending places of a source, out of large ones: each call of the system lets other threads in."""

    def __init__(self, source: Source) -> None:
        self._read = source.read_at
        self._at = 0
        self._data = b""

    def read_at(self, at: int, size: int) -> bytes:
        """As the source's."""
        start = at - self._at
        if not 0 <= start <= start + size <= len(self._data):
            if size >= _STRETCH:
                return self._read(at, size)
            start, self._at, self._data = 0, at, self._read(at, _STRETCH)
        return self._data[start : start + size]

"""The file that an archive is written to: appended, patched in place, and given its name only when it is complete."""

from __future__ import annotations

import os
from typing import IO, Protocol

from xtarfs.draft import Draft
from xtarfs.format import codec
from xtarfs.source import Readable

_BUFFER = 1 << 20


class Sink(Protocol):
    """What an archive is written to: a file, or what only measures how long that would become."""

    @property
    def position(self) -> int: ...

    def write(self, data: bytes | memoryview) -> None: ...

    def patch(self, at: int, data: bytes) -> None:
        """Overwrites bytes that were written before."""

    def rewind(self, at: int) -> None:
        """Takes back everything from `at` on."""

    def append_from(self, spool: IO[bytes]) -> int:
        """Copies a temporary file from its start; gives the CRC-32 of what was copied."""

    def copy(self, source: Readable, at: int, size: int) -> None:
        """Appends [at, at + size) of `source`."""


class Measure:
    """A Sink that keeps nothing: it tells how long the archive becomes. CRC-32s are left at 0."""

    def __init__(self) -> None:
        self.position = 0

    def write(self, data: bytes | memoryview) -> None:
        self.position += len(data)

    def patch(self, at: int, data: bytes) -> None:
        pass

    def rewind(self, at: int) -> None:
        self.position = at

    def append_from(self, spool: IO[bytes]) -> int:
        self.position += spool.seek(0, os.SEEK_END)
        return 0

    def copy(self, source: Readable, at: int, size: int) -> None:
        self.position += size


class Output(Draft):
    """An archive under construction, written in large pieces. What a Draft promises of its name holds."""

    def __init__(self, path: str, *, force: bool) -> None:
        super().__init__(path, 0, force=force)
        self._buffer = bytearray()
        self._flushed = 0

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
        self.write_at(at, data)

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

    def proof(self) -> str:
        """A path at which what was written so far can be read, before it has its name."""
        self._flush()
        return f"/proc/self/fd/{self._fd}"

    def copy(self, source: Readable, at: int, size: int) -> None:
        for start in range(at, at + size, _BUFFER):
            self.write(source.read_at(start, min(_BUFFER, at + size - start)))

    def settle(self) -> None:
        self._flush()
        self.size = self._flushed
        super().settle()

    def commit(self, like: os.stat_result | None = None) -> None:
        """Makes the archive durable and gives it its name."""
        self._flush()
        super().commit(like)

    def _flush(self) -> None:
        self.write_at(self._flushed, self._buffer)
        self._flushed += len(self._buffer)
        self._buffer = bytearray()

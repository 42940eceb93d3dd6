"""Random access in a large member that was packed without chunks, as `zip` makes them.

The first read unpacks all of it once, checks its CRC-32 and keeps a copy of the decoder's state at intervals; later
reads start from the nearest one and are checked against the CRC-32 that their stretch had then.
"""

from __future__ import annotations

import threading
import zlib
from typing import TYPE_CHECKING

from .errors import DamagedError
from .format import codec
from .format.records import DEFLATE, Record
from .source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

_READ = 256 << 10
_MAX_CHECKPOINTS = 64  # each holds about 40 KB
_MIN_STRETCH = 1 << 20


class CheckpointedStream:
    """`at`: offset of the packed data in the source. Raises DamagedError unless the whole content is sound."""

    def __init__(self, source: Source, at: int, record: Record) -> None:
        self._source = source
        self._at = at
        self._record = record
        self._stretch = max(_MIN_STRETCH, -(-record.size // _MAX_CHECKPOINTS))
        self._checkpoints: list[tuple[_Decoder, int]] = []  # state at the stretch's start, CRC-32 of the stretch
        self._lock = threading.Lock()
        self._error: DamagedError | None = None

    def read(self, offset: int, end: int) -> bytes:
        """[offset, end) of the content."""
        with self._lock:
            if not self._checkpoints and not self._error:
                self._index()
        if self._error:
            raise self._error
        parts = []
        for number in range(offset // self._stretch, (end - 1) // self._stretch + 1):
            start = number * self._stretch
            data = self._load(number)
            parts.append(data[max(offset - start, 0) : end - start])
        return b"".join(parts)

    def _load(self, number: int) -> bytes:
        state, crc = self._checkpoints[number]
        size = min(self._stretch, self._record.size - number * self._stretch)
        data = state.copy().take(size)
        if codec.crc32(data) != crc:
            raise DamagedError("the medium gave other bytes than before")
        return data

    def _index(self) -> None:
        decoder = _Decoder(self._source, self._at, self._record)
        whole = 0
        checkpoints = []
        try:
            for start in range(0, self._record.size, self._stretch):
                state = decoder.copy()
                data = decoder.take(min(self._stretch, self._record.size - start))
                checkpoints.append((state, codec.crc32(data)))
                whole = codec.crc32(data, whole)
            if self._record.crc32 and whole != int(self._record.crc32, 16):
                raise DamagedError("CRC-32 does not match")
            self._checkpoints = checkpoints
        except DamagedError as error:
            self._error = error


class _Decoder:
    """Unpacks forward from a position; a copy goes on from there by itself."""

    def __init__(self, source: Source, at: int, record: Record) -> None:
        self._source = source
        self._next = at
        self._end = at + record.packed
        self._engine = zlib.decompressobj(-15) if record.method == DEFLATE else None
        self._rest = b""

    def copy(self) -> _Decoder:
        twin = object.__new__(_Decoder)
        twin._source, twin._next, twin._end, twin._rest = self._source, self._next, self._end, self._rest
        twin._engine = self._engine.copy() if self._engine else None
        return twin

    def take(self, size: int) -> bytes:
        """The next `size` bytes of content. Raises DamagedError where there are no more."""
        parts = []
        for part in self._unpacked(size):
            parts.append(part)
            size -= len(part)
            if not size:
                return b"".join(parts)
        raise DamagedError("packed data ends early")

    def _unpacked(self, size: int) -> Iterator[bytes]:
        while True:
            packed = self._rest or self._source.read_at(self._next, min(_READ, self._end - self._next))
            if not self._rest:
                self._next += len(packed)
            if self._engine is None:
                part, self._rest = packed[:size], packed[size:]
            else:
                try:
                    part = self._engine.decompress(packed, size)
                except zlib.error:
                    raise DamagedError("packed data does not unpack") from None
                self._rest = self._engine.unconsumed_tail
            size -= len(part)
            if not part and not packed:
                return
            yield part

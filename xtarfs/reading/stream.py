"""Random access in a large member that was packed without chunks, as `zip` makes them.

The first read unpacks all of it once and checks its CRC-32; kept are a CRC-32 for every stretch of the content and
some copies of the decoder's state. A later read goes on from the nearest state and is checked by its stretch's CRC-32.
"""

from __future__ import annotations

import threading
import zlib
from array import array
from collections.abc import Iterator

from ..errors import DamagedError
from ..format import codec
from ..format.records import DEFLATE, Record
from ..source import Source

STRETCH = 1 << 20  # bytes of content
_READ = 256 << 10
_MAX_CHECKPOINTS = 64  # each holds about 40 KB
_MAX_CURSORS = 4  # decoders left where sequential readers stopped


class CheckpointedStream:
    """The member whose packed data lies at `at` of the source. Any number of threads may load from it."""

    def __init__(self, source: Source, at: int, record: Record) -> None:
        self._start = _Decoder(source, at, record)
        self._record = record
        self._every = -(-record.size // (STRETCH * _MAX_CHECKPOINTS))  # stretches from one checkpoint to the next
        self._checkpoints: list[_Decoder] = []
        self._crcs = array("I")
        self._cursors: list[tuple[int, _Decoder]] = []  # the stretch that each would unpack next
        self._lock = threading.Lock()
        self._error = ""

    def load(self, number: int) -> bytes:
        """The content from number * STRETCH on, STRETCH bytes or up to its end.

        Raises DamagedError unless the whole content is sound.
        """
        with self._lock:
            if not self._crcs and not self._error:
                self._index()
            if self._error:
                raise DamagedError(self._error)
            at, decoder = self._nearest(number)
        for skipped in range(at, number):
            decoder.take(self._size(skipped))
        data = decoder.take(self._size(number))
        if codec.crc32(data) != self._crcs[number]:
            raise DamagedError("the medium gave other bytes than before")
        with self._lock:
            self._cursors = [*self._cursors[-_MAX_CURSORS + 1 :], (number + 1, decoder)]
        return data

    def _size(self, number: int) -> int:
        return min(STRETCH, self._record.size - number * STRETCH)

    def _nearest(self, number: int) -> tuple[int, _Decoder]:
        """A decoder that is the caller's own, and the stretch at which it stands, `number` or before."""
        checkpoint = number // self._every
        at = checkpoint * self._every
        ahead = [cursor for cursor in self._cursors if at <= cursor[0] <= number]
        if not ahead:
            return at, self._checkpoints[checkpoint].copy()
        nearest = max(ahead, key=lambda cursor: cursor[0])
        self._cursors.remove(nearest)
        return nearest

    def _index(self) -> None:
        decoder, crcs, checkpoints, whole = self._start.copy(), array("I"), list[_Decoder](), 0
        try:
            for number in range(-(-self._record.size // STRETCH)):
                if number % self._every == 0:
                    checkpoints.append(decoder.copy())
                data = decoder.take(self._size(number))
                crcs.append(codec.crc32(data))
                whole = codec.crc32(data, whole)
        except DamagedError as error:
            self._error = str(error)
            return
        if whole != int(self._record.crc32, 16):
            self._error = "CRC-32 does not match"
            return
        self._crcs, self._checkpoints = crcs, checkpoints


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

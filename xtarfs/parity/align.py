"""Where the bytes of an archive lie now, if some before them were lost or added: shifts, found by checksums.

A shift is by how many bytes everything from some block on lies later (or, negative, earlier) than it should.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from ..format import codec, locator
from ..format.parity import BLOCK, SHEET, ZERO_CRC, Layout, checksums
from ..source import Readable
from .parity_file import Parity, read_padded

if TYPE_CHECKING:
    from ..console import Advance

Shifts = list[tuple[int, int]]  # (first block, shift from there on), ascending; [(0, 0)] is an archive as it should be

_PROBES = 64
_REACH = 4 << 20  # how far from its place a block is searched for
_PATIENCE = 8  # damaged blocks in a row before that
_MOST_HITS = 16  # of one quote: more are some common run of bytes
_LEAST_DISTINCT = 6  # bytes in a quote: fewer are no landmark
_TRIED = 8  # shifts known from before


class Aligned:
    """A source whose shifted parts are read where they lie now. Raises SourceError where the medium fails."""

    def __init__(self, source: Readable, size: int, shifts: Shifts) -> None:
        self.name = source.name
        self.size = size
        self._source = source
        self._shifts = shifts
        self._starts = [first * BLOCK for first, _ in shifts]

    def read_at(self, offset: int, size: int) -> bytes:
        """Fewer bytes only where the source ends before."""
        size = min(size, self.size - offset)
        parts: list[bytes] = []
        while size > 0:
            at = bisect_right(self._starts, offset) - 1
            end = self._starts[at + 1] if at + 1 < len(self._starts) else self.size
            count = min(size, end - offset)
            place = offset + self._shifts[at][1]
            if place < 0:  # lost before the start; the caller fills it up from its other end
                count = min(count, -place)
                parts.append(bytes(count))
            else:
                parts.append(self._source.read_at(place, count))
                if len(parts[-1]) < count and at + 1 == len(self._starts):
                    break
                parts[-1] = parts[-1].ljust(count, b"\0")
            offset, size = offset + count, size - count
        return b"".join(parts)

    def close(self) -> None:
        self._source.close()


def align(source: Readable, parity: Parity) -> Shifts:
    """The shifts of an archive that lost or gained bytes in one place, by a few dozen reads.

    Where blocks at the end stand as far off as the sizes differ, and blocks at the start do not, the place is between.
    """
    layout = parity.layout
    shift = source.size - layout.size
    if not shift:
        return [(0, 0)]

    def stands(block: int, by: int) -> bool:
        check = parity.checks(block, 1)[0]
        if check in (None, ZERO_CRC):
            return False
        return _crc32(source, layout, block, by) == check

    probes = sorted({(layout.blocks - 1) * i // (_PROBES - 1) for i in range(_PROBES)})
    moved = [block for block in probes if stands(block, shift)]
    if not moved:
        return [(0, 0)]
    low = max((block for block in probes if block < moved[0] and stands(block, 0)), default=-1)
    high = moved[0]
    while high - low > 1:
        middle = (low + high) // 2
        if stands(middle, shift):
            high = middle
        elif low < 0 or stands(middle, 0):
            low = middle
        else:
            break
    return [(0, shift)] if low < 0 else [(0, 0), (high, shift)]


def is_stale(source: Readable, parity: Parity) -> bool:
    """Whether the parity was made for another archive, by a few dozen reads.

    It was if the source ends in a sound locator, but has not the size that the parity knows, or next to nothing of it
    is as the parity knows.
    """
    window = min(source.size, locator.WINDOW)
    if locator.find(read_padded(source, source.size - window, window), source.size) is None:
        return False
    layout = parity.layout
    if source.size != layout.size:
        return True
    probes = sorted({(layout.blocks - 1) * i // (_PROBES - 1) for i in range(_PROBES)})
    sound = sum(_crc32(source, layout, block) == parity.checks(block, 1)[0] for block in probes)
    return sound * 4 < len(probes)


def _crc32(source: Readable, layout: Layout, block: int, by: int = 0) -> int:
    """Of the bytes that stand where a block is to be, if it is shifted `by` bytes."""
    data = read_padded(source, block * BLOCK + by, _length(block, layout.size))
    return codec.crc32(data.ljust(BLOCK, b"\0"))


class Survey(Struct):
    """What a reading of the whole source found. hurt: damaged blocks per group, at most 255 counted.

    sha256: of the whole, if nothing is damaged and everything is in its place.
    """

    shifts: Shifts
    hurt: bytearray
    damaged: int
    matched: int
    sha256: bytes | None

    @property
    def sound(self) -> bool:
        return self.sha256 is not None


def survey(source: Readable, parity: Parity, progress: Advance) -> Survey:
    """Checks every block, and looks for those that have moved, any number of times, within some megabytes."""
    walk = _Walk(source, parity)
    digest = hashlib.sha256()
    for number in range(parity.layout.sheets):
        data = walk.sheet(number)
        if not walk.damaged:
            digest.update(memoryview(data)[: parity.layout.size - number * SHEET * BLOCK])
        progress(len(data))
    in_place = walk.shifts == [(0, 0)] and source.size == parity.layout.size
    return Survey(
        walk.shifts, walk.hurt, walk.damaged, walk.matched, digest.digest() if in_place and not walk.damaged else None
    )


class _Walk:
    """Goes through the source sheet by sheet, and remembers by how much it was shifted last."""

    def __init__(self, source: Readable, parity: Parity) -> None:
        layout = parity.layout
        self._source, self._parity, self._size = source, parity, layout.size
        self._groups = layout.groups
        self._known = list(dict.fromkeys((0, source.size - layout.size)))
        self._shift = 0
        self._row = 0  # damaged blocks since the last sound one
        self.shifts: Shifts = [(0, 0)]
        self.hurt = bytearray(layout.groups)
        self.damaged = 0
        self.matched = 0  # sound blocks that are not zeros

    def sheet(self, number: int) -> bytes:
        """Judges the blocks of a sheet; gives what lies in their place."""
        first, count = number * SHEET, self._parity.layout.sheet_blocks(number)
        data = self._read(first, count, self._shift)
        sheet = self._parity.sheet(number)
        if sheet is None:
            for block in range(first, first + count):
                self._miss(block)
            return data
        found = checksums(data)
        searched = False
        at = 0
        while at < count:
            if found[at] == sheet.checks[at]:
                self._row = 0
                self.matched += found[at] != ZERO_CRC
                at += 1
            elif self._move(first + at, sheet.checks[at]):
                found[at:] = checksums(self._read(first + at, count - at, self._shift))
            elif self._row >= _PATIENCE and not searched:
                searched = True
                self._search(number, first + at - self._row)
                # Blocks of this sheet before the landmark may stand with it.
                back = min(at, self._row)
                at -= back
                self._forgive(first + at, back)
            else:
                self._miss(first + at)
                at += 1
        return data

    def _read(self, first: int, count: int, shift: int) -> bytes:
        """Whole blocks as if the archive stood shifted; what follows its end is no part of the last block."""
        size = min(count * BLOCK, self._size - first * BLOCK)
        return read_padded(self._source, first * BLOCK + shift, size).ljust(count * BLOCK, b"\0")

    def _miss(self, block: int) -> None:
        group = block % self._groups
        self.hurt[group] = min(255, self.hurt[group] + 1)
        self.damaged += 1
        self._row += 1

    def _forgive(self, block: int, count: int) -> None:
        for group in ((block + i) % self._groups for i in range(count)):
            self.hurt[group] -= 1
        self.damaged -= count
        self._row -= count

    def _move(self, block: int, check: int) -> bool:
        """Whether the block stands at another known shift, which then holds from there on."""
        if check == ZERO_CRC:
            return False
        for shift in self._known[-_TRIED:] + self._known[:2]:
            if shift != self._shift and codec.crc32(self._read(block, 1, shift)) == check:
                self._shift = shift
                if self.shifts[-1][0] == block:
                    self.shifts.pop()
                self.shifts.append((block, shift))
                return True
        return False

    def _search(self, number: int, start: int) -> None:
        """Looks for the quotes of this sheet and the next, from block `start` on, around their places."""
        begin = max(0, number * SHEET * BLOCK + self._shift - _REACH)
        size = min(SHEET * BLOCK + 2 * _REACH, self._source.size - begin)
        data = read_padded(self._source, begin, size) if size > 0 else b""
        for block, quote, check in self._quotes(number):
            if block < start or len(set(quote)) < _LEAST_DISTINCT:
                continue
            spot = data.find(quote)
            for _ in range(_MOST_HITS):
                if spot < 0:
                    break
                shift = begin + spot - block * BLOCK
                if shift not in self._known and codec.crc32(self._read(block, 1, shift)) == check:
                    self._known.append(shift)
                spot = data.find(quote, spot + 1)

    def _quotes(self, number: int) -> Iterator[tuple[int, bytes, int]]:
        """(block, its first bytes, its CRC-32) of this sheet and the next."""
        for at in range(number, min(number + 2, self._parity.layout.sheets)):
            sheet = self._parity.sheet(at)
            if sheet is None:
                continue
            for position, quote in sheet.quotes:
                yield at * SHEET + position, quote, sheet.checks[position]


def _length(block: int, size: int) -> int:
    return min(BLOCK, size - block * BLOCK)

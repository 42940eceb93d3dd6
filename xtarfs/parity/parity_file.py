"""An open parity file: its checksums, its parity blocks, and where its pages lie when the file itself is damaged."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Iterator

from lru import LRU

from ..errors import DamagedError, FormatError, SourceError
from ..format.parity import (
    BLOCK,
    COPIES,
    MAGIC,
    PAGE,
    SHEET,
    SUFFIX,
    ZERO_CRC,
    Layout,
    Page,
    Sheet,
    parse_page,
    parse_sheet,
)
from ..source import FileSource, Readable

_WINDOW = 256 * PAGE  # read at once while looking for pages
_PROBES = 16
_SHEETS_KEPT = 512  # parsed ones, each of 4 KB


def read_padded(source: Readable, offset: int, size: int) -> bytes:
    """`size` bytes, zeros where the source ends, does not begin, or its medium fails."""
    if offset < 0:
        missing = min(size, -offset)
        return bytes(missing) + (read_padded(source, 0, size - missing) if size > missing else b"")
    try:
        return source.read_at(offset, size).ljust(size, b"\0")
    except SourceError:
        if size <= BLOCK:
            return bytes(size)
        # One bad sector fails the whole request: halve it until only that sector is missing.
        half = max(BLOCK, size // 2 // BLOCK * BLOCK)
        return read_padded(source, offset, half) + read_padded(source, offset + half, size - half)


class Parity:
    """Answers by page number; what is damaged is None. Any number of threads may ask at once."""

    def __init__(self, source: Readable, layout: Layout, shifts: list[tuple[int, int]]) -> None:
        """shifts: (page number, by how many bytes it and what follows it have moved), ascending."""
        self.name = source.name
        self.layout = layout
        self._source = source
        self._shifts = shifts
        self._firsts = [first for first, _ in shifts]
        self._sheets: LRU[int, Sheet] = LRU(_SHEETS_KEPT)
        self._lock = threading.Lock()

    def close(self) -> None:
        self._source.close()

    def sheet(self, number: int) -> Sheet | None:
        """Checksums of the blocks from number * SHEET on; None if no copy of the sheet is sound."""
        with self._lock:
            found: Sheet | None = self._sheets.get(number)
        if found is not None:
            return found
        for copy in range(COPIES):
            payload = self._pages(self.layout.sheet_page(number, copy), 1)[0]
            if payload is not None:
                found = parse_sheet(payload, self.layout.sheet_blocks(number))
                with self._lock:
                    self._sheets[number] = found
                return found
        return None

    def checks(self, first: int, count: int) -> list[int | None]:
        """The CRC-32 of each block from `first` on; None where unknown. Blocks past the end are zeros."""
        checks: list[int | None] = []
        while len(checks) < count:
            at = first + len(checks)
            if at >= self.layout.blocks:
                checks += [ZERO_CRC] * (count - len(checks))
                break
            number, skip = divmod(at, SHEET)
            wanted = min(count - len(checks), self.layout.sheet_blocks(number) - skip)
            sheet = self.sheet(number)
            checks += sheet.checks[skip : skip + wanted] if sheet else [None] * wanted
        return checks

    def shard(self, shard: int, group: int, count: int) -> list[bytes | None]:
        """Parity block `shard` of `count` groups from `group` on."""
        return self._pages(self.layout.parity_page(shard, group), count)

    def is_sound(self) -> bool:
        """Reads all of the file."""
        if self._shifts != [(0, 0)] or self._source.size != self.layout.file_size:
            return False
        step = _WINDOW // PAGE
        return not any(
            None in self._pages(first, min(step, self.layout.pages - first))
            for first in range(0, self.layout.pages, step)
        )

    def locate(self) -> None:
        """Looks for every page, wherever it has moved. Reads all of the file."""
        self._shifts = _shifts(self._source, self.layout)
        self._firsts = [first for first, _ in self._shifts]

    def _pages(self, first: int, count: int) -> list[bytes | None]:
        at = self._place(first)
        if self._place(first + count - 1) != at + (count - 1) * PAGE:
            return [self._pages(number, 1)[0] for number in range(first, first + count)]
        data = memoryview(read_padded(self._source, at, count * PAGE))
        return [self._payload(first + i, data[i * PAGE : (i + 1) * PAGE]) for i in range(count)]

    def _payload(self, number: int, data: memoryview) -> bytes | None:
        try:
            page = parse_page(data)
        except FormatError:
            return None
        return page.payload if (page.layout, page.number) == (self.layout, number) else None

    def _place(self, number: int) -> int:
        return number * PAGE + self._shifts[max(0, bisect_right(self._firsts, number) - 1)][1]


def open_parity(archive: str, path: str | None = None) -> Parity | None:
    """The parity file beside an archive, or at `path`; None if there is none.

    Costs a few reads unless both its ends are damaged or it has another size than it should: then it is read whole.
    Raises DamagedError where the file is no parity file, or nothing of it is left.
    """
    path = path or archive + SUFFIX
    if not os.path.lexists(path):
        return None
    source = FileSource(path)
    try:
        found = _probe(source)
        if found:
            return Parity(source, found, [(0, 0)])
        first = next(_found(source), None)
        if first is None:
            raise DamagedError(f"{path}: is no parity file, or damaged beyond use")
        layout = first[1].layout
        return Parity(source, layout, _shifts(source, layout))
    except BaseException:
        source.close()
        raise


def _probe(source: Readable) -> Layout | None:
    """The layout, if pages stand where they should: at both ends, or anywhere in a file of the right size."""
    whole = source.size // PAGE
    numbers = sorted({0, whole - 1} | {whole * i // _PROBES for i in range(_PROBES)}) if whole else []
    layouts: dict[int, Layout] = {}
    for number in numbers:
        try:
            page = parse_page(read_padded(source, number * PAGE, PAGE))
        except FormatError:
            continue
        if page.number == number:
            layouts[number] = page.layout
            if page.layout.file_size == source.size or layouts.get(whole - 1) == layouts.get(0):
                return page.layout
    return None


def _found(source: Readable) -> Iterator[tuple[int, Page]]:
    """Every sound page with the offset where it lies, in that order."""
    at = 0
    while at + PAGE <= source.size:
        data = read_padded(source, at, min(_WINDOW, source.size - at))
        view = memoryview(data)
        spot = 0
        while 0 <= spot <= len(data) - PAGE:
            try:
                yield at + spot, parse_page(view[spot : spot + PAGE])
                spot += PAGE
            except FormatError:
                spot = data.find(MAGIC, spot + 1)
        at += spot if spot >= 0 else len(data) - PAGE + 1


def _shifts(source: Readable, layout: Layout) -> list[tuple[int, int]]:
    shifts: list[tuple[int, int]] = []
    for at, page in _found(source):
        shift = at - page.number * PAGE
        if page.layout == layout and not (shifts and shifts[-1][1] == shift):
            while shifts and shifts[-1][0] >= page.number:  # a part that lies twice
                shifts.pop()
            shifts.append((page.number, shift))
    return shifts or [(0, 0)]

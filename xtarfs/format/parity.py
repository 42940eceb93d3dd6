"""The parity file as bytes: which page holds what, and how a page proves itself. Opens no file, computes no parity.

The archive is cut into blocks; block `b` is member `b // groups` of group `b % groups`, so that neighbours lie in
different groups and the members of one group lie evenly over the whole archive. `docs/parity.md` specifies it.
"""

from __future__ import annotations

import math
import struct
from array import array
from functools import cached_property
from typing import Final, NamedTuple

from msgspec import Struct

from ..errors import FormatError, UsageError
from . import codec

SUFFIX: Final = ".rec"
BLOCK: Final = 4096  # the sector of today's discs: the least that fails at once
COPIES: Final = 3  # of each sheet of checksums: at the start, in the middle and at the end of the file
MAX_SHARDS: Final = 256  # of one group: the elements of the field
MIN_PARITY: Final = 2  # however small the archive is

MAGIC: Final = b"xtarREC1"
_HEAD: Final = struct.Struct("<8s32sQHHQ")  # magic, SHA-256 and size of the archive, data, parity, page number
_CRC: Final = struct.Struct("<I")  # of all other bytes of the page
HEAD_SIZE: Final = _HEAD.size + _CRC.size
PAGE: Final = HEAD_SIZE + BLOCK

SHEET: Final = 992  # blocks that one page of checksums covers
QUOTES: Final = 8  # per sheet: literal bytes of the archive, to find it again where it has been shifted
QUOTE_SIZE: Final = 16
_SHEET: Final = struct.Struct(f"<{SHEET}I{QUOTES * QUOTE_SIZE}s")

ZERO_CRC: Final = codec.crc32(bytes(BLOCK))


class Layout(Struct, frozen=True, dict=True):
    """What a parity file is for, and where everything lies in it. data, parity: blocks of one group, of each kind."""

    sha256: bytes
    size: int
    data: int
    parity: int

    @cached_property
    def blocks(self) -> int:
        """Blocks of the archive, the last one filled up with zeros."""
        return -(-self.size // BLOCK)

    @cached_property
    def groups(self) -> int:
        return -(-self.blocks // self.data)

    @cached_property
    def sheets(self) -> int:
        return -(-self.blocks // SHEET)

    @cached_property
    def pages(self) -> int:
        return self.parity * self.groups + COPIES * self.sheets

    @property
    def file_size(self) -> int:
        return self.pages * PAGE

    def sheet_page(self, sheet: int, copy: int) -> int:
        """The page number of a copy (0..2) of a sheet."""
        before = (0, self.parity // 2, self.parity)[copy]
        return before * self.groups + copy * self.sheets + sheet

    def parity_page(self, shard: int, group: int) -> int:
        """The page number of parity block `shard` (0..parity-1) of a group; those of the next groups follow it."""
        copies = 1 if shard < self.parity // 2 else 2
        return shard * self.groups + copies * self.sheets + group

    def sheet_blocks(self, sheet: int) -> int:
        """How many blocks a sheet covers: all but the last one cover SHEET."""
        return min(SHEET, self.blocks - sheet * SHEET)


def plan(size: int, percent: float) -> tuple[int, int]:
    """(data, parity): the blocks of each kind in a group, for an archive of `size` bytes. Raises UsageError."""
    if not 1 <= percent <= 100:
        raise UsageError(f"redundancy of {percent:g} percent: choose 1 to 100")
    blocks = -(-size // BLOCK)
    data = min(math.floor(math.floor(MAX_SHARDS * percent / (100 + percent)) * 100 / percent + 1e-9), MAX_SHARDS - 2)
    groups = -(-blocks // data)
    data = -(-blocks // groups)
    return data, max(MIN_PARITY, math.ceil(data * percent / 100 - 1e-9))


def pack_page(layout: Layout, number: int, payload: bytes | memoryview) -> bytes:
    """A page of PAGE bytes that says what it is and proves itself."""
    head = _HEAD.pack(MAGIC, layout.sha256, layout.size, layout.data, layout.parity, number)
    return b"".join((head, _CRC.pack(codec.crc32(payload, codec.crc32(head))), payload))


class Page(NamedTuple):
    """A page that proved itself."""

    layout: Layout
    number: int
    payload: bytes


def parse_page(page: bytes | memoryview) -> Page:
    """Raises FormatError unless all of it is as it was written."""
    if len(page) != PAGE or page[: len(MAGIC)] != MAGIC:
        raise FormatError("not a page of a parity file")
    view = memoryview(page)
    head, payload = view[: _HEAD.size], view[HEAD_SIZE:]
    if _CRC.unpack_from(view, _HEAD.size)[0] != codec.crc32(payload, codec.crc32(head)):
        raise FormatError("a damaged page of a parity file")
    _, sha256, size, data, parity, number = _HEAD.unpack(head)
    if not (size and data and parity and data + parity <= MAX_SHARDS):
        raise FormatError("a page of a parity file with impossible figures")
    layout = Layout(sha256, size, data, parity)
    if number >= layout.pages:
        raise FormatError("a page of a parity file with an impossible number")
    return Page(layout, number, bytes(payload))


class Sheet(NamedTuple):
    """CRC-32s of consecutive blocks, and quotes: (position within the sheet, the block's first bytes)."""

    checks: array[int]
    quotes: list[tuple[int, bytes]]


def checksums(data: bytes | bytearray | memoryview) -> list[int]:
    """The CRC-32 of each block of whole blocks."""
    view = memoryview(data)
    return list(map(codec.crc32, [view[at : at + BLOCK] for at in range(0, len(view), BLOCK)]))


def pack_sheet(data: memoryview) -> bytes:
    """The payload of the sheet for up to SHEET whole blocks."""
    checks = checksums(data)
    count = len(checks)
    quotes = b"".join(data[at * BLOCK : at * BLOCK + QUOTE_SIZE] for at in _quoted(count))
    return _SHEET.pack(*checks, *[0] * (SHEET - count), quotes)


def parse_sheet(payload: bytes, count: int) -> Sheet:
    """What `pack_sheet` made of `count` blocks."""
    *checks, quotes = _SHEET.unpack(payload)
    places = enumerate(_quoted(count))
    return Sheet(array("I", checks[:count]), [(at, quotes[i * QUOTE_SIZE : (i + 1) * QUOTE_SIZE]) for i, at in places])


def _quoted(count: int) -> range:
    return range(0, count, -(-count // QUOTES))

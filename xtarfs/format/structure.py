"""The structure file: records in gzip blocks of bounded size, so that one is looked up without the others.

Each block is a gzip member of its own (RFC 1952) whose extra field `XT` holds the block's length, so that blocks can
be walked; `zcat` reads the whole as text. Opens no file.
"""

from __future__ import annotations

import struct

import deflate

from ..errors import DamagedError, FormatError
from . import codec
from .records import BlockStart, Header, Index, Record, parse_header, parse_records, to_line, to_text

FORMAT = "1-draft"
BLOCK_TARGET = 64 << 10  # bytes of text a block holds before it is closed
MAX_LINE = 16 << 20  # a record longer than this is refused by the reader
_MAX_BLOCK = BLOCK_TARGET + 2 * MAX_LINE
PACK_LEVEL = 5
_LONGEST_ROW = 2200  # bytes of an index's line that one block takes: a name of 255 bytes has up to 2,000 as JSON
_ROW_GROWTH = 16  # digits by which the place of a block may grow once the header's length is known

_HEAD = struct.Struct("<4sIBBHHHI")
_TAIL = struct.Struct("<II")
SIGNATURE = b"\x1f\x8b\x08\x04"
_XT = 0x5458
HEAD_SIZE = _HEAD.size


def pack_block(text: bytes, level: int = PACK_LEVEL) -> bytes:
    """`text` as one gzip member with its own length in the header."""
    packed = codec.pack(text, level)
    length = _HEAD.size + len(packed) + _TAIL.size
    head = _HEAD.pack(SIGNATURE, 0, 0, 255, 8, _XT, 4, length)
    return head + packed + _TAIL.pack(codec.crc32(text), len(text))


def packed_at_most(size: int) -> int:
    """The most bytes that blocks with `size` bytes of text take, the last one begun included."""
    return size + size // 512 + 64


def block_length(head: bytes) -> int:
    """The whole length of the block that begins with `head` (HEAD_SIZE bytes). Raises FormatError."""
    if len(head) < _HEAD.size:
        raise FormatError("structure block: cut short")
    magic, _, _, _, extra, kind, four, length = _HEAD.unpack_from(head)
    if (magic, extra, kind, four) != (SIGNATURE, 8, _XT, 4) or not _HEAD.size + _TAIL.size < length <= _MAX_BLOCK:
        raise FormatError("structure block: not one")
    return int(length)


def unpack_block(block: bytes) -> bytes:
    """The text of one block. Raises DamagedError unless length, CRC-32 and size hold."""
    try:
        if block_length(block[: _HEAD.size]) != len(block):
            raise DamagedError("structure block: length does not match")
    except DamagedError:
        raise
    except FormatError as error:
        raise DamagedError(str(error)) from None
    crc, size = _TAIL.unpack_from(block, len(block) - _TAIL.size)
    if size > BLOCK_TARGET + MAX_LINE:
        raise DamagedError("structure block: impossible size")
    text = codec.unpack(block[_HEAD.size : -_TAIL.size], size)
    if deflate.crc32(text) != crc:
        raise DamagedError("structure block: checksum does not match")
    return bytes(text)


class Writer:
    """Collects a directory's records, sorted by name, into a structure file; blocks are packed as they fill."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._starts: list[BlockStart] = []
        self._lines: list[bytes] = []
        self._size = self._text_size = self._index_size = 0
        self._first: bytes = b""

    def at_most(self, size: int) -> int:
        """The most bytes that `finish` gives if `size` more bytes of lines come first, the header's among them."""
        text = self._text_size + size
        index = 0
        if self._blocks or text >= BLOCK_TARGET:
            index = packed_at_most(self._index_size + (1 + text // BLOCK_TARGET) * _LONGEST_ROW)
        return self._size + packed_at_most(text) + index

    def add(self, name: bytes, line: bytes) -> None:
        """One more record, as `to_line` gives it, in ascending order of the bytes of their names."""
        if not self._lines:
            self._first = name
        self._lines.append(line)
        self._text_size += len(line)
        if self._text_size >= BLOCK_TARGET:
            self._close_block()

    def finish(self, header: Header) -> tuple[bytes, int]:
        """The structure file's bytes, and the length of the index block that ends it (0: there is none)."""
        if not self._blocks:
            return pack_block(to_line(header) + b"".join(self._lines)), 0
        if self._lines:
            self._close_block()
        head = pack_block(to_line(header))
        shift = len(head)
        starts = [BlockStart(s.at + shift, s.length, s.count, s.first, s.first_b64) for s in self._starts]
        index = pack_block(to_line(Index(starts)))
        return b"".join([head, *self._blocks, index]), len(index)

    def _close_block(self) -> None:
        block = pack_block(b"".join(self._lines))
        text, encoded = to_text(self._first)
        start = BlockStart(self._size, len(block), len(self._lines), text, encoded)
        self._starts.append(start)
        self._index_size += len(to_line(start)) + _ROW_GROWTH
        self._blocks.append(block)
        self._size += len(block)
        self._lines, self._text_size = [], 0


def parse_single(text: bytes, *, placed: bool = True) -> tuple[Header, list[Record]]:
    """Header and records of a structure file of one block. placed: see parse_records."""
    line, _, rest = text.partition(b"\n")
    return parse_header(line), parse_records(rest, placed=placed)

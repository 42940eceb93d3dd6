"""The chunk table: where each chunk of a large member begins in its packed data, and each chunk's CRC-32.

For deflated members it is a SOZip 0.5 index, the CRCs in its skip area; stored members carry the same header and
CRCs without offsets. A reader takes from it only the rows it needs.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable

from msgspec import Struct

from ..errors import FormatError
from .zip import DEFLATED

_HEADER = struct.Struct("<IIIIQQ")
_VERSION, _OFFSET_SIZE = 1, 8


def chunk_count(size: int, chunk_size: int) -> int:
    return -(-size // chunk_size)


def table_size(size: int, chunk_size: int, method: int) -> int:
    """Bytes that the table of a member of `size` bytes takes."""
    count = chunk_count(size, chunk_size)
    return _HEADER.size + 4 * count + (_OFFSET_SIZE * (count - 1) if method == DEFLATED else 0)


def pack_table(size: int, packed: int, chunk_size: int, method: int, crcs: array[int], offsets: array[int]) -> bytes:
    """crcs: CRC-32 of each chunk ("I"). offsets: where chunks 1.. begin in the packed data ("Q"); unused if stored."""
    return _header(size, packed, chunk_size) + _little(crcs) + (_little(offsets) if method == DEFLATED else b"")


def _little(values: array[int]) -> bytes:
    import sys

    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def read_chunk_size(read_at: Callable[[int, int], bytes], at: int, size: int, packed: int) -> int:
    """The chunk size that the table of a member of these sizes states. Raises FormatError if it is not its table."""
    raw = read_at(at, _HEADER.size)
    if len(raw) == _HEADER.size:
        chunk_size = int(_HEADER.unpack(raw)[2])
        if chunk_size and raw == _header(size, packed, chunk_size):
            return chunk_size
    raise FormatError("not the chunk table of its file")


def _header(size: int, packed: int, chunk_size: int) -> bytes:
    skip = 4 * chunk_count(size, chunk_size)
    return _HEADER.pack(_VERSION, skip & 0xFFFFFFFF, chunk_size, _OFFSET_SIZE, size, packed)


class Rows(Struct, frozen=True):
    """Rows first .. first+len(crcs) of a table: `bounds` has one more item than `crcs`, offsets in the packed data."""

    first: int
    crcs: tuple[int, ...]
    bounds: tuple[int, ...]


def read_rows(
    read_at: Callable[[int, int], bytes],
    at: int,
    size: int,
    packed: int,
    chunk_size: int,
    method: int,
    first: int,
    last: int,
) -> Rows:
    """Rows first..last (both included) of the table whose payload lies at `at`. Raises FormatError if it is cut short.

    Rows are given as they stand: damage in one must not cost the others, and each chunk has its CRC-32.
    """
    count = chunk_count(size, chunk_size)
    wanted = last - first + 1
    crcs = read_at(at + _HEADER.size + 4 * first, 4 * wanted)
    if len(crcs) != 4 * wanted:
        raise FormatError("chunk table is cut short")
    if method != DEFLATED:
        bounds = tuple(min(i * chunk_size, size) for i in range(first, last + 2))
    else:
        bounds = _bounds(read_at, at + _HEADER.size + 4 * count, count, packed, first, last)
    return Rows(first, struct.unpack(f"<{wanted}I", crcs), bounds)


def _bounds(
    read_at: Callable[[int, int], bytes], at: int, count: int, packed: int, first: int, last: int
) -> tuple[int, ...]:
    low, high = max(first, 1), min(last + 1, count - 1)  # the offsets that are stored: 1 .. count-1
    length = _OFFSET_SIZE * max(high - low + 1, 0)
    raw = read_at(at + _OFFSET_SIZE * (low - 1), length) if length else b""
    if len(raw) != length:
        raise FormatError("chunk table is cut short")
    stored = struct.unpack(f"<{length // _OFFSET_SIZE}Q", raw)
    return (0,) * (first == 0) + stored + (packed,) * (last == count - 1)

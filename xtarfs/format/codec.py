"""Raw deflate and checksums: the engines behind the format, each called in one place.

`docs/decisions.md` has the measurements. All of them release the GIL.
"""

from __future__ import annotations

import hashlib
from typing import Final

import deflate

from ..errors import DamagedError

_FINAL_EMPTY_BLOCK: Final = b"\x03\x00"  # ends a chunk that was only flushed, so that a one-shot decoder takes it
MAX_RATIO: Final = 1032  # the most that deflate can shrink: 258 bytes to two bits
CHUNK_END: Final = b"\x00\x00\xff\xff\x00\x00\x00\xff\xff"  # sync flush and full flush, behind every chunk but the last


def crc32(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """CRC-32 as in zip and gzip, continued from `value`."""
    return deflate.crc32(data, value)


def sha256(data: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def pack(data: bytes | bytearray | memoryview, level: int) -> bytes:
    """`data` as one raw deflate stream. level 0 (stored) to 12 (libdeflate)."""
    return bytes(deflate.deflate_compress(data, level))


def pack_chunk(data: bytes | memoryview, level: int, last: bool) -> bytes:
    """`data` as one chunk of a SOZip stream: a sync and a full flush, or the stream's end. level as for `pack`."""
    packed = pack(data, level)
    if last:
        return packed
    from . import blocks

    return blocks.left_open(packed, len(data)) + CHUNK_END


def unpack(packed: bytes | bytearray | memoryview, size: int) -> bytearray:
    """The `size` bytes that a raw deflate stream, ended or only flushed, unpacks to. Raises DamagedError."""
    if size > MAX_RATIO * len(packed):
        raise DamagedError("packed data is too short for its size")
    try:
        data = deflate.deflate_decompress(b"".join((packed, _FINAL_EMPTY_BLOCK)), size)
    except (deflate.DeflateError, ValueError, MemoryError) as error:
        raise DamagedError("packed data does not unpack") from error
    if len(data) != size:
        raise DamagedError("packed data unpacks to another size")
    return data

"""Deflate streams by their blocks (RFC 1951, section 3.2.3), for what libdeflate cannot do: leave a stream open."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

from ..errors import XtarError

_HEADER_BITS = 3
_LIBRARY = "libz.dylib" if sys.platform == "darwin" else "libz.so.1"
_BLOCK, _OK = 5, 0  # zlib.h
_IN_LAST_BLOCK, _UNUSED_BITS = 64, 63  # of data_type, where inflate() stopped between blocks


class _Stream(ctypes.Structure):
    """z_stream of zlib.h."""

    _fields_ = (
        ("next_in", ctypes.c_char_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


@cache
def _zlib() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise XtarError(f"{error}; files of more than one chunk are not packed without it: install zlib") from None


def left_open(packed: bytes, size: int) -> bytes:
    """A whole stream of `size` bytes of content without its end, for a flush to follow. Raises XtarError.

    Its last block is made one of many, and the header of an empty stored block put behind it; the flush begins with
    the length of that.
    """
    start, end = _last_block(packed, size)
    stream = bytearray(packed)
    stream[start // 8] &= ~(1 << start % 8)
    if -end % 8 < _HEADER_BITS:
        stream.append(0)
    return bytes(stream)


def _last_block(packed: bytes, size: int) -> tuple[int, int]:
    """The bits of a stream at which its last block begins and ends."""
    library, content = _zlib(), ctypes.create_string_buffer(size + 1)
    stream = _Stream(packed, len(packed), next_out=ctypes.addressof(content), avail_out=size + 1)
    if library.inflateInit2_(ctypes.byref(stream), -15, b"1", ctypes.sizeof(stream)) != _OK:
        raise MemoryError
    start = end = 0
    while not stream.data_type & _IN_LAST_BLOCK:
        start = end
        if library.inflate(ctypes.byref(stream), _BLOCK) != _OK:
            raise AssertionError("libdeflate has written what zlib does not read")
        end = 8 * stream.total_in - (stream.data_type & _UNUSED_BITS)
    library.inflateEnd(ctypes.byref(stream))
    return start, end

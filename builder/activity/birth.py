"""When a file was created, which os.stat does not tell on Linux: statx(2) by way of the C library."""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache
from typing import Any

_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BTIME = 0x800
_SIZE = 256  # of struct statx
_MASK = struct.Struct("=I")
_BTIME, _BTIME_AT = struct.Struct("=qI"), 80


def birth_time(name: str, folder: int) -> int | None:
    """Nanoseconds since 1970 at which the file in the open folder was created; None where that is not kept.

    Raises OSError.
    """
    buffer = ctypes.create_string_buffer(_SIZE)
    if _statx()(folder, os.fsencode(name), _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, buffer):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    if not _MASK.unpack_from(buffer)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = _BTIME.unpack_from(buffer, _BTIME_AT)
    return int(seconds * 10**9 + nanoseconds)


@cache
def _statx() -> Any:
    function = ctypes.CDLL(None, use_errno=True).statx
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    return function

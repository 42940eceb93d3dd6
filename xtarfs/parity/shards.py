"""The Reed-Solomon code: zfec, and for encoding ISA-L where that is installed: the same bytes, seven times as fast."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_ISAL = "libisal.so.2"
_TABLE = 32  # bytes that ISA-L derives from one coefficient
_STRIDE = 16 << 10  # bytes of each block encoded at a time, so that the parity in work stays in the cache


class Encoder:
    """Parity blocks of groups of `data` blocks. Any number of threads may encode at once."""

    def __init__(self, data: int, parity: int, *, library: ctypes.CDLL | None = None) -> None:
        """library: ISA-L, by default the installed one."""
        import zfec

        self._data, self._parity = data, parity
        self._wanted = tuple(range(data, data + parity))
        self._zfec = zfec.Encoder(data, data + parity)
        self._library = library or isal()
        if self._library:
            self._tables = ctypes.create_string_buffer(_TABLE * data * parity)
            self._library.ec_init_tables(data, parity, self._coefficients(), self._tables)

    def encode(self, runs: Sequence[bytes]) -> list[bytes]:
        """The parity blocks of `data` blocks of one length."""
        if not self._library:
            return list(self._zfec.encode(runs, self._wanted))
        length = len(runs[0])
        parity = [ctypes.create_string_buffer(length) for _ in range(self._parity)]
        # Of whom an address is taken, `runs` and `parity`, both outlive the calls.
        sources = [ctypes.cast(ctypes.c_char_p(run), ctypes.c_void_p).value or 0 for run in runs]
        targets = [ctypes.addressof(block) for block in parity]
        for at in range(0, length, _STRIDE):
            self._library.ec_encode_data(
                min(_STRIDE, length - at),
                self._data,
                self._parity,
                self._tables,
                (ctypes.c_void_p * self._data)(*[source + at for source in sources]),
                (ctypes.c_void_p * self._parity)(*[target + at for target in targets]),
            )
        return [block.raw for block in parity]

    def _coefficients(self) -> bytes:
        """zfec's own, row by row: what it makes of one byte 1 among zeros."""
        columns = [
            self._zfec.encode([b"\1" if i == member else b"\0" for i in range(self._data)], self._wanted)
            for member in range(self._data)
        ]
        return b"".join(column[row] for row in range(self._parity) for column in columns)


@lru_cache(8)
def decoder(data: int, parity: int) -> Any:
    """zfec's decoder for groups of that shape, which takes milliseconds to make and serves any number of threads."""
    import zfec

    return zfec.Decoder(data, data + parity)


@lru_cache(1)
def isal() -> ctypes.CDLL | None:
    """ISA-L, if it is installed (Debian: libisal2)."""
    try:
        return ctypes.CDLL(_ISAL)
    except OSError:
        return None

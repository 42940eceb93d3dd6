"""Numbers as people write them: sizes with units, times as decimal seconds."""

from __future__ import annotations

import re
from functools import lru_cache

from ..errors import FormatError, UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", re.IGNORECASE)
_TIME = re.compile(r"(-?)(\d+)(?:\.(\d{1,9}))?")


def parse_size(text: str) -> int:
    """Bytes in `650M` or `4.7G` (decimal), `64KiB` or `1MiB` (binary), `4096`. Raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a size; write 650M, 4.7G, 64KiB or a number of bytes")
    return (
        round(float(match[1]) * _UNITS[(match[2] or "").upper()])
        if "." in match[1]
        else (int(match[1]) * _UNITS[(match[2] or "").upper()])
    )


def format_time(nanoseconds: int) -> str:
    """Seconds since 1970 as a decimal string without trailing zeros: `1700000000.5`, `-0.25`."""
    if nanoseconds < 0:
        return "-" + format_time(-nanoseconds)
    seconds, fraction = divmod(nanoseconds, 10**9)
    return f"{seconds}.{fraction:09d}".rstrip("0") if fraction else str(seconds)


@lru_cache(1024)
def parse_digits(text: str, base: int) -> int:
    """The number, not negative, that `text` is in this base. Raises FormatError."""
    try:
        if text.isalnum():
            return int(text, base)
    except ValueError:
        pass
    raise FormatError(f"{text!r} is not a number")


@lru_cache(1024)
def parse_time(text: str) -> int:
    """Nanoseconds since 1970 from what `format_time` writes. Raises FormatError."""
    match = _TIME.fullmatch(text)
    if not match:
        raise FormatError(f"{text!r} is not a time")
    value = int(match[2]) * 10**9 + int((match[3] or "").ljust(9, "0"))
    return -value if match[1] else value

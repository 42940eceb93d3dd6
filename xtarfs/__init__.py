"""Everything needed to get data back from `.xtar` archives: the format, the reader, the mount.

`open` is the front door; it never needs the package `builder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .reading.reader import Archive

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(path: str, *, cache_size: int = 64 << 20) -> Archive:
    """Opens an archive for reading; see `xtarfs.reading.reader.Archive`. cache_size: bytes of unpacked data kept.

    Raises SourceError if the file cannot be read, NotAnArchive if it is not one.
    """
    from .reading.reader import Archive

    return Archive.open(path, cache_size=cache_size)

"""From an open source file to packed data with its checksums, in memory; parts of large files likewise.

Runs in worker threads: the engines, hashes and reads release the GIL. Knows the levels, not the archive.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterator

from msgspec import Struct, field

from xtarfs.format import codec
from xtarfs.format.records import DEFLATE, STORE

try:
    from .. import _packer as _core
except ImportError:  # no compiler when it was installed, or engines that do not show their functions
    _core = None  # type: ignore[assignment]

SEGMENT = 1 << 20  # bytes of a file that are read and packed as one piece of work
MAX_CHUNKS = 1 << 22  # bounds a chunk table at 48 MiB; a larger file gets larger chunks
MAX_HOLES = 4096  # bounds a record's line; smaller holes of a file that has more are stored as zeros

# libdeflate's for levels 1 to 9, and for files larger than a segment, which lose most by being cut into chunks; figures
# in docs/decisions.md
_LEVELS = (1, 2, 2, 3, 4, 6, 8, 10, 12)
_SEGMENT_LEVELS = (1, 2, 4, 6, 7, 8, 9, 10, 12)
DEFAULT_LEVEL, MAX_LEVEL = 5, 9
STORED_CHUNK = 4096  # nothing is gained by larger ones where nothing is packed, and a bad sector costs less
_SAMPLES = 16
_WORTHWHILE = 0.98  # a sample that packs to more than this share of its size promises nothing


class Settings(Struct, frozen=True):
    """level 1..9; chunk_size a multiple of 4,096."""

    level: int = DEFAULT_LEVEL
    chunk_size: int = 32 << 10

    @property
    def engine_level(self) -> int:
        """libdeflate's level for a file that is packed at once."""
        return _LEVELS[self.level - 1]

    @property
    def segment_level(self) -> int:
        """libdeflate's level for segments of a larger file."""
        return _SEGMENT_LEVELS[self.level - 1]

    def chunk_size_for(self, size: int, deflate: bool) -> int:
        """The chunk size of a file of `size` bytes; 0 if it is not chunked."""
        if size <= self.chunk_size:
            return 0
        chunk_size = self.chunk_size if deflate else STORED_CHUNK
        while -(-size // chunk_size) > MAX_CHUNKS:
            chunk_size *= 2
        return chunk_size


class Packed(Struct):
    """A stretch of a file, packed. sizes: packed bytes of each chunk; crcs: CRC-32 of each chunk's content."""

    data: bytes
    method: str
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    crcs: array[int] = field(default_factory=lambda: array("I"))


def pack_whole(data: bytes, settings: Settings) -> Packed:
    """A file that is in memory whole, with a row per chunk if it has more than one. Stored if it does not shrink."""
    chunk_size = settings.chunk_size_for(len(data), deflate=True)
    if chunk_size:
        packed = pack_segment(data, chunk_size, settings.engine_level, final=True, deflate=True)
    else:
        packed = Packed(codec.pack(data, settings.engine_level), DEFLATE)
    if len(packed.data) < len(data):
        return packed
    chunk_size = settings.chunk_size_for(len(data), deflate=False)
    if chunk_size:
        return pack_segment(data, chunk_size, settings.engine_level, final=True, deflate=False)
    return Packed(data, STORE)


def pack_segment(data: bytes, chunk_size: int, engine_level: int, *, final: bool, deflate: bool) -> Packed:
    """Whole chunks of a file, the last of the file among them if `final`."""
    if deflate and _core and len(data) <= SEGMENT:
        told = _core.pack_segment(data, engine_level, chunk_size, final)
        if told:
            return _packed_by_core(*told)
    view = memoryview(data)
    sizes, crcs, parts = array("Q"), array("I"), []
    for start in range(0, len(data), chunk_size):
        chunk = view[start : start + chunk_size]
        crcs.append(codec.crc32(chunk))
        if deflate:
            part = codec.pack_chunk(chunk, engine_level, final and start + chunk_size >= len(data))
            sizes.append(len(part))
            parts.append(part)
    return Packed(b"".join(parts) if deflate else data, DEFLATE if deflate else STORE, sizes, crcs)


def _packed_by_core(packed: bytes, sizes: bytes, crcs: bytes) -> Packed:
    return Packed(packed, DEFLATE, array("Q", sizes), array("I", crcs))


def promises_to_shrink(fd: int, size: int, settings: Settings) -> bool:
    """Whether chunks taken evenly from a large file pack well, so that packing all of it is worth the time."""
    step = size // _SAMPLES
    taken = packed = 0
    for sample in range(_SAMPLES):
        data = os.pread(fd, settings.chunk_size, sample * step)
        if data:
            taken += len(data)
            packed += len(codec.pack(data, 1))
    return packed < taken * _WORTHWHILE


def read_up_to(fd: int, size: int, offset: int) -> bytes:
    """`size` bytes, fewer where the file has become shorter."""
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    parts = [data]
    have = len(data)
    while have < size:
        more = os.pread(fd, size - have, offset + have)
        if not more:
            break
        parts.append(more)
        have += len(more)
    return b"".join(parts)


def find_holes(fd: int, attributes: os.stat_result) -> tuple[tuple[int, int], ...]:
    """The file's holes as half-open ranges, the largest MAX_HOLES of them, in order."""
    size = attributes.st_size
    if attributes.st_blocks * 512 >= size:
        return ()
    holes = list(_holes(fd, size))
    if len(holes) > MAX_HOLES:
        holes = sorted(sorted(holes, key=lambda hole: (hole[0] - hole[1], hole[0]))[:MAX_HOLES])
    return tuple(holes)


def _holes(fd: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_HOLE)
            if start >= size:
                return
            end = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a file system that knows no holes
                return
            end = size
        end = min(end, size)
        if start < end:
            yield start, end
        at = end

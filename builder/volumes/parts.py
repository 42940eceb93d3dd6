"""Cuts a file that no volume has room for into parts, at chunk boundaries; each is a file of its own there."""

from __future__ import annotations

import hashlib
from array import array
from itertools import pairwise
from typing import NamedTuple

import msgspec
from msgspec import Struct

from xtarfs.format import chunks, codec, member, tar, zip
from xtarfs.format.member import method_of
from xtarfs.format.records import DEFLATE, Record, to_text
from xtarfs.format.tar import Mark
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node

_PIECE = 1 << 20
_ROWS = 1 << 16  # of a chunk table that are read at a time
_FINAL = b"\x03\x00"  # an empty final block, which ends a deflate stream that was cut
_SEPARATOR = b".part-"
_DIGITS = 4
MOST_PARTS = 10**_DIGITS - 1
_LONGEST_STEM = member.MAX_NAME - len(_SEPARATOR) - _DIGITS - 24  # what is put behind a name to tell it from others


class Part(Struct, frozen=True):
    """A stretch of a file. start, end: of its packed data in the archive; `ending` comes behind it.

    record: as a file of its own, `data` and `index` still to be filled in.
    """

    record: Record
    start: int
    end: int
    ending: bytes
    table: bytes


class Sums(NamedTuple):
    """Checksums of a part: of its content, and of its packed data."""

    sha256: str
    crc32: str
    packed_crc32: str


def chunk_table(full: Archive, node: Node) -> bytes:
    """The chunk table of a file that is not cut; empty if it has none."""
    record = node.record
    if not record.chunk:
        return b""
    size = chunks.table_size(record.size, record.chunk, method_of(record))
    return full.source.read_at(node.base + record.index, size)


class Cut:
    """A file to be cut. stem: what the names of its parts begin with.

    sums: of parts, by the file's inode number and their chunks; they are kept there, so that none is read twice.
    """

    def __init__(self, full: Archive, node: Node, stem: bytes, sums: dict[tuple[int, int, int], Sums]) -> None:
        self.node = node
        self.count = chunks.chunk_count(node.record.size, node.record.chunk)
        self._full = full
        self._stem = stem
        self._sums = sums

    @property
    def prefix(self) -> bytes:
        """What the names of all its parts begin with."""
        return prefix_of(self._stem)

    @property
    def overhead(self) -> int:
        """The most bytes of a part's member that are neither packed data nor chunk table."""
        record = msgspec.structs.replace(self.node.record, size=zip.LIMIT32)
        path = self.node.path[: len(self.node.path) - len(record.raw_name)] + self.prefix + bytes(_DIGITS)
        around = member.file_bytes(
            record, path, bytes(member.MAX_NAME), Mark(bytes(6), 0, tar.ROLE_FILE), bytes(chunks.table_size(1, 1, 0))
        )
        return len(around.head) + len(around.tail) + len(_FINAL) + tar.BLOCK

    def longest_chunk(self, *, exact: bool) -> int:
        """The most bytes that one of its chunks is packed to, or could be at that chunk size."""
        record = self.node.record
        if record.method != DEFLATE:
            return record.chunk
        if not exact:
            return min(record.chunk + record.chunk // 256 + 128, record.packed)
        most = 0
        for first in range(0, self.count, _ROWS):
            bounds = self._rows(first, min(first + _ROWS, self.count) - 1).bounds
            most = max(most, *(end - start for start, end in pairwise(bounds)))
        return most

    def table_size(self, count: int) -> int:
        """Bytes of the chunk table of a part of so many chunks."""
        record = self.node.record
        return chunks.table_size(count * record.chunk, record.chunk, method_of(record))

    def reach(self, first: int, room: int) -> int:
        """The chunk behind the last one that fits: packed data and two chunk tables take at most `room` bytes."""
        start, low, high = self._bound(first), first, self.count
        while low < high:
            middle = (low + high + 1) // 2
            if self._bound(middle) - start + 2 * self.table_size(middle - first) <= room:
                low = middle
            else:
                high = middle - 1
        return low

    def part(self, number: int, first: int, end: int) -> Part:
        """Chunks [first, end) as part `number`, from 1. Reads the content."""
        whole = self.node.record
        start, size = first * whole.chunk, min(end * whole.chunk, whole.size) - first * whole.chunk
        at, stop = self._bound(first), self._bound(end)
        ending = _FINAL if whole.method == DEFLATE and end < self.count else b""
        packed = stop - at + len(ending)
        name, encoded = to_text(self.prefix + b"%0*d" % (_DIGITS, number))
        data_at = self.node.base + whole.data
        key = (whole.ino, first, end)
        sums = self._sums.get(key)
        if sums is None:
            digest, crc = self._content_sums(start, size)
            sums = self._sums[key] = Sums(digest, crc, self._packed_sum(data_at + at, data_at + stop, ending))
        record = msgspec.structs.replace(
            whole,
            name=name,
            name_b64=encoded,
            nlink=1,
            size=size,
            packed=packed,
            crc32=sums.crc32,
            sha256=sums.sha256,
            packed_crc32=sums.packed_crc32 if whole.packed_crc32 else "",
            holes=(),
        )
        return Part(record, data_at + at, data_at + stop, ending, self._table(record, first, end))

    def _bound(self, number: int) -> int:
        """Where in the packed data chunk `number` begins, or the last one ends."""
        record = self.node.record
        if number == self.count:
            return record.packed
        return self._rows(number, number).bounds[0]

    def _rows(self, first: int, last: int) -> chunks.Rows:
        record, table = self.node.record, self.node.base + self.node.record.index
        return chunks.read_rows(
            self._full.source.read_at, table, record.size, record.packed, record.chunk, method_of(record), first, last
        )

    def _table(self, record: Record, first: int, end: int) -> bytes:
        rows = self._rows(first, end - 1)
        offsets = array("Q", (bound - rows.bounds[0] for bound in rows.bounds[1:-1]))
        crcs = array("I", rows.crcs)
        return chunks.pack_table(record.size, record.packed, record.chunk, method_of(record), crcs, offsets)

    def _content_sums(self, start: int, size: int) -> tuple[str, str]:
        digest, crc = hashlib.sha256(), 0
        for at in range(start, start + size, _PIECE):
            data = self._full.read(self.node, at, min(_PIECE, start + size - at))
            digest.update(data)
            crc = codec.crc32(data, crc)
        return digest.hexdigest(), f"{crc:08x}"

    def _packed_sum(self, start: int, end: int, ending: bytes) -> str:
        crc = 0
        for at in range(start, end, _PIECE):
            crc = codec.crc32(self._full.source.read_at(at, min(_PIECE, end - at)), crc)
        return f"{codec.crc32(ending, crc):08x}"


def prefix_of(stem: bytes) -> bytes:
    return stem + _SEPARATOR


def stem_of(record: Record) -> bytes:
    """What the names of a file's parts begin with: its name, or where that is too long the begin of it, made unique.

    Sorted among the names beside it, it comes behind the file's own.
    """
    name = record.raw_name
    if len(name) <= _LONGEST_STEM:
        return name
    mark = b"%d" % record.ino
    room = _LONGEST_STEM - len(mark)
    if record.name_b64:
        return name[:room] + b"\xff" + mark
    return name[:room].decode(errors="ignore").encode() + "\U0010fffd".encode() + mark


def other_stem(stem: bytes, record: Record) -> bytes:
    """Another one, where names beside the file begin with this; sorted, it comes later."""
    mark = b"%d" % record.ino
    base = stem.removesuffix(mark)
    return base + b"~" + mark if base.endswith(b"~") else stem + b"~" + mark

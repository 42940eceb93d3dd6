"""Members against their records: are these the bytes that the records call for?

Says whether something is wrong; which ranges of a file's content that costs is for the reader to say.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from ..errors import DamagedError, FormatError
from ..format import chunks, codec, member
from ..format.chunks import Rows
from ..format.records import DEFLATE, FILE, Record
from ..pool import Pool, Task
from ..reading.content import chunks_at, unpack_chunks
from ..reading.tree import Node
from ..source import Source
from .items import LARGE, RUN_LENGTH, Item, Run, is_compiled, suspects

_PIECE = 1 << 20  # bytes of a large file's content that one piece of work covers
_MOST_AROUND = 128 << 20  # bytes around a file's data that can be: a chunk table has at most 48 MiB
_AHEAD = 3  # pieces of work per thread that may be waiting


class Problem(NamedTuple):
    """lost: content may be hit, not only what lies around it."""

    reason: str
    lost: bool = False


class Piece(NamedTuple):
    """A stretch of a file: as it is packed, and its content."""

    packed: bytes
    data: bytes | bytearray


NO_LAYOUT = Problem("its member and its record do not fit together", lost=True)
_BAD_DATA = Problem("its data is damaged", lost=True)


def check_batch(batch: Sequence[Item | Run], raw: bytes, start: int) -> list[tuple[Node, Problem]]:
    """What is wrong with which of some members, all of them in `raw`, which lies at `start` of the source."""
    runs = [run for run in batch if isinstance(run, Run)]
    items = [item for item in batch if isinstance(item, Item)]
    items += suspects(runs, raw, start) if runs else []
    checked = ((item.node, check_member(item, raw[item.at - start : item.end - start])) for item in items)
    return [(node, problem) for node, problem in checked if problem]


def check_member(item: Item, raw: bytes) -> Problem | None:
    """A member that is in memory whole."""
    record = item.node.record
    if record.type != FILE:
        return None if raw == member.native_entry(record, item.mark) else Problem("its tar header is damaged")
    head = record.data - record.at
    tail = head + record.packed
    if not 0 < head <= tail <= len(raw):
        return NO_LAYOUT
    packed, table = raw[head:tail], table_in(record, raw[tail:])
    try:
        if record.chunk:
            last = chunks.chunk_count(record.size, record.chunk) - 1
            piece = unpack_piece(record, table_rows(record, table, 0, last), last, packed)
        else:
            piece = unpack_whole(record, packed)
    except FormatError:
        return _BAD_DATA
    sums = Sums()
    sums.add(piece)
    return sums.check(record) or check_around(item, raw[:head], raw[tail:], table)


def table_in(record: Record, tail: bytes) -> bytes:
    """The chunk table's payload among the bytes behind a file's data; empty if there is none."""
    if not record.chunk:
        return b""
    at = record.index - record.data - record.packed
    size = chunks.table_size(record.size, record.chunk, member.method_of(record))
    return tail[at : at + size] if at > 0 else b""


def table_rows(record: Record, table: bytes, first: int, last: int) -> Rows:
    """Rows first..last of a table that is in memory. Raises FormatError."""

    def read_at(at: int, size: int) -> bytes:
        return table[at : at + size]

    method = member.method_of(record)
    return chunks.read_rows(read_at, 0, record.size, record.packed, record.chunk, method, first, last)


def unpack_whole(record: Record, packed: bytes) -> Piece:
    """A file of one chunk. Raises DamagedError."""
    return Piece(packed, codec.unpack(packed, record.size) if record.method == DEFLATE else packed)


def unpack_piece(record: Record, rows: Rows, last: int, packed: bytes) -> Piece:
    """The chunks from the first row's to the last-th, each checked for its content and its end. Raises DamagedError."""
    data = unpack_chunks(record, rows, rows.first, last, packed)
    if record.method == DEFLATE:
        for bound in rows.bounds[1:-1]:
            end = bound - rows.bounds[0]
            if packed[end - len(codec.CHUNK_END) : end] != codec.CHUNK_END:
                raise DamagedError("chunk does not end where the next begins")
    return Piece(packed, data)


class Sums:
    """The checksums of a file's whole content, taken piece by piece."""

    def __init__(self) -> None:
        self._size = self._crc = self._packed_crc = 0
        self._digest = hashlib.sha256()

    def add(self, piece: Piece) -> None:
        self._size += len(piece.data)
        self._crc = codec.crc32(piece.data, self._crc)
        self._packed_crc = codec.crc32(piece.packed, self._packed_crc)
        self._digest.update(piece.data)

    def check(self, record: Record) -> Problem | None:
        if (self._size, f"{self._crc:08x}", self._digest.hexdigest()) != (record.size, record.crc32, record.sha256):
            return _BAD_DATA
        if record.packed_crc32 and f"{self._packed_crc:08x}" != record.packed_crc32:
            return Problem("its packed data has changed, though it still unpacks to the right content")
        return None


def check_around(item: Item, head: bytes, tail: bytes, table: bytes) -> Problem | None:
    """What stands before and behind a file's data: tar and zip headers, chunk table, padding."""
    record = item.node.record
    for taken in (False, True):
        name = member.member_name(record.raw_name, member.FILE_SUFFIX, taken)
        around = member.file_bytes(record, item.path, name, item.mark, table)
        if around.head == head:
            return None if around.tail == tail else Problem("what follows its data is damaged")
    return Problem("the headers before its data are damaged")


class Checker:
    """Checks members: its share of them, the others being for other processes that see the same members.

    share: which of how many processes this is. found(node, problem) and progress(offset in the source) are called as
    members are done. jobs: threads that take the pieces of a large file; small files are checked in the caller's,
    because threads only pass the interpreter lock to and fro over them.
    """

    def __init__(
        self,
        source: Source,
        share: tuple[int, int],
        jobs: int,
        found: Callable[[Node, Problem], None],
        progress: Callable[[int], None],
    ) -> None:
        self._read = source.read_at
        self._pool = Pool(jobs)
        self._limit = _AHEAD * jobs
        self._index, self._count = share
        self._found = found
        self._progress = progress
        self._batch: list[Item | Run] = []
        self._waiting: deque[tuple[Task[list[tuple[Node, Problem]]], int]] = deque()
        self._turn = 0

    def add(self, item: Item | Run) -> None:
        """Takes a member, or a run of them, in the order in which they lie in the source."""
        large = isinstance(item, Item) and item.end - item.at > LARGE
        if self._batch and (large or item.end - self._batch[0].at > RUN_LENGTH):
            self._flush()
        if isinstance(item, Run) or not large:
            self._batch.append(item)
        elif self.is_next():
            self._take_all(but=0)
            problem = self._check_large(item)
            if problem:
                self._found(item.node, problem)
            self._progress(item.end)

    def finish(self) -> None:
        """Does what is left."""
        if self._batch:
            self._flush()
        self._take_all(but=0)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()

    def is_next(self) -> bool:
        """Whether the next piece of work is this process's. Every process must ask for every one."""
        self._turn += 1
        return self._turn % self._count == self._index

    def _flush(self) -> None:
        items, self._batch = self._batch, []
        if not self.is_next():
            return
        start, end = items[0].at, items[-1].end
        raw = self._read(start, end - start)
        if is_compiled():
            self._waiting.append((self._pool.submit(partial(check_batch, items, raw, start)), end))
            self._take_all(but=self._limit)
        else:
            self._tell(check_batch(items, raw, start), end)

    def _take_all(self, but: int) -> None:
        """Waits for batches until no more than `but` are left."""
        while len(self._waiting) > but:
            task, end = self._waiting.popleft()
            self._tell(task.result(), end)

    def _tell(self, problems: list[tuple[Node, Problem]], end: int) -> None:
        for node, problem in problems:
            self._found(node, problem)
        self._progress(end)

    def _check_large(self, item: Item) -> Problem | None:
        record, data_at = item.node.record, item.node.base + item.node.record.data
        tail_at = data_at + record.packed
        around = max(data_at - item.at, item.end - tail_at)
        if not item.at < data_at <= tail_at <= item.end or around > _MOST_AROUND:
            return NO_LAYOUT
        tail = self._read(tail_at, item.end - tail_at)
        table = table_in(record, tail)
        sums = Sums()
        try:
            for piece in self._pieces(item.node, table):
                sums.add(piece)
        except FormatError:
            return _BAD_DATA
        return sums.check(record) or check_around(item, self._read(item.at, data_at - item.at), tail, table)

    def _pieces(self, node: Node, table: bytes) -> Iterator[Piece]:
        """The content in order, unpacked ahead by the pool. Raises FormatError."""
        record = node.record
        count = chunks.chunk_count(record.size, record.chunk) if record.chunk else 1
        step = max(_PIECE // record.chunk, 1) if record.chunk else 1
        waiting: deque[Task[Piece]] = deque()
        try:
            for first in range(0, count, step):
                last = min(first + step, count) - 1
                waiting.append(self._pool.submit(partial(self._piece, node, table, first, last)))
                if len(waiting) > self._limit:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for task in waiting:
                task.cancel()

    def _piece(self, node: Node, table: bytes, first: int, last: int) -> Piece:
        record = node.record
        at = node.base + record.data
        if not record.chunk:
            return unpack_whole(record, self._read(at, record.packed))
        rows = table_rows(record, table, first, last)
        start, stop = chunks_at(record, rows, first, last)
        return unpack_piece(record, rows, last, self._read(at + start, stop - start))

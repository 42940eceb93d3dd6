"""From a member and a range to verified bytes: the content of the files whose members lie in one archive file.

No byte leaves here before the CRC-32 of its chunk has been checked. Any number of threads may read at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from lru import LRU
from msgspec import Struct

from ..errors import DamagedError, FormatError, SourceError
from ..format import chunks, codec
from ..format.chunks import Rows
from ..format.member import method_of
from ..format.records import DEFLATE, NO_COPY, STORE, Record
from ..source import Source
from ..text import show
from .cache import ByteCache
from .stream import STRETCH, CheckpointedStream
from .tree import Node, Tree

_WINDOW = 512  # rows of a chunk table that are read and kept together
_MOST_OVERHEAD = 1024  # bytes by which packing may lengthen what does not shrink, at most
_BULK = 1 << 20  # bytes of content that a sequential pass unpacks at a time
_MAX_UNCHUNKED = 8 << 20  # a larger member without chunks is unpacked through checkpoints instead of whole

ReadAt = Callable[[int, int], bytes]
ContentCache = ByteCache[tuple[int, int, int], bytes | bytearray]


class Piece(Struct, frozen=True):
    """A stretch of a file's content that starts at `start`: the bytes, or why they cannot be had."""

    start: int
    end: int
    data: bytes | bytearray
    error: DamagedError | None = None


class Content:
    """The content of members in `source`, by nodes that need no other archive.

    tables: where the copies of chunk tables begin in the source, None where not known. log: the tree that is told of
    damage, under the paths of the nodes. cache: may be shared with the content of other archives.
    """

    _serial = itertools.count()

    def __init__(self, source: Source, tables: int | None, log: Tree, cache: ContentCache) -> None:
        self.source = source
        self.tables = tables
        self._log = log
        self._cache = cache
        self._key = next(self._serial)
        self._rows: LRU[tuple[int, ...], Rows] = LRU(64)
        self._streams: LRU[int, CheckpointedStream] = LRU(16)

    def read(self, node: Node, offset: int, end: int) -> bytes | bytearray | memoryview:
        """Bytes [offset, end) of a file, within its size. Raises DamagedError, SourceError."""
        record = node.record
        self.require_readable(node)
        if not record.chunk:
            return self._read_unchunked(node, offset, end)
        first, last = offset // record.chunk, (end - 1) // record.chunk
        skip = offset - first * record.chunk
        if first == last:
            data = self._chunk(node, first)
        elif record.method == STORE:
            data = self._stored(node, first, last)
        else:
            data = b"".join(self._chunk(node, number) for number in range(first, last + 1))
        return memoryview(data)[skip : skip + end - offset]

    def pieces(self, node: Node) -> Iterator[Piece]:
        """A file's whole content in order, past the cache; damaged stretches come as pieces with an error."""
        record = node.record
        try:
            self.require_readable(node)
        except DamagedError as error:
            yield Piece(0, record.size, b"", error)
            return
        if not record.size:
            return
        step = (max(_BULK // record.chunk, 1) * record.chunk) if record.chunk else _MAX_UNCHUNKED
        possible, end = min(self._possible_size(node), record.size), 0
        for start in range(0, possible, step):
            end = min(start + step, record.size)
            try:
                data = self._bulk(node, start, end)
            except (DamagedError, SourceError):
                yield from self._pieces_by_chunk(node, start, end)
            else:
                yield Piece(start, end, data)
        if end < record.size:
            yield Piece(end, record.size, b"", self._damaged(node, end, record.size))

    def _possible_size(self, node: Node) -> int:
        """The most content that what there is of a member's data can unpack to, whatever its record claims."""
        record = node.record
        packed = min(record.packed, self.source.size - node.base - record.data)
        return max(packed, 1) * (codec.MAX_RATIO if record.method == DEFLATE else 1)

    def was_healed(self, node: Node) -> bool:
        """Whether any of a file's data had to be rebuilt from parity so far."""
        return self.source.was_healed(node.base + node.record.data, node.record.packed)

    def require_readable(self, node: Node) -> None:
        """Raises DamagedError if the file is packed in a way that is not ours."""
        if node.record.method not in (STORE, DEFLATE):
            raise DamagedError(f"{show(node.path)}: cannot be read: {node.record.method}", whole(node.record))

    def _pieces_by_chunk(self, node: Node, start: int, end: int) -> Iterator[Piece]:
        chunk = node.record.chunk
        for at in range(start, end, chunk or end - start):
            stop = min(at + chunk, end) if chunk else end
            try:
                yield Piece(at, stop, self._load_chunk(node, at // chunk) if chunk else self._bulk(node, at, stop))
            except DamagedError as error:
                yield Piece(at, stop, b"", error)
            except SourceError as error:
                yield Piece(at, stop, b"", DamagedError(str(error), ((at, stop),)))

    def _bulk(self, node: Node, start: int, end: int) -> bytes | bytearray:
        """[start, end) of the content, whole chunks, unpacked in one go. Raises DamagedError."""
        record = node.record
        if not record.chunk:
            return bytes(self._read_unchunked(node, start, end, cached=False))
        first, last = start // record.chunk, (end - 1) // record.chunk
        read = self.source.read_at
        rows = self._read_rows(node, first, last, node.base + record.index, read)
        return self._unpack_rows(node, rows, first, last, read)

    def _unpack_rows(self, node: Node, rows: Rows, first: int, last: int, read: ReadAt) -> bytes | bytearray:
        """Chunks first..last from one stretch of packed data, each of them checked. Raises DamagedError."""
        at, stop = chunks_at(node.record, rows, first, last)
        packed = read(node.base + node.record.data + at, stop - at)
        return unpack_chunks(node.record, rows, first, last, packed)

    def _stored(self, node: Node, first: int, last: int) -> bytes | bytearray:
        """Chunks of what is not packed: the kernel's cache of the archive serves them, ours would only copy."""
        chunk = node.record.chunk
        try:
            return self._bulk(node, first * chunk, min((last + 1) * chunk, node.record.size))
        except DamagedError:
            return b"".join(self._chunk(node, number) for number in range(first, last + 1))

    def _chunk(self, node: Node, number: int) -> bytes | bytearray:
        key = (self._key, node.base + node.record.data, number)
        return self._cache.get(key, lambda: self._load_chunk(node, number))

    def _load_chunk(self, node: Node, number: int) -> bytes | bytearray:
        """A chunk as it lies in the archive or, where that is damaged, as parity gives it."""
        start, end = number * node.record.chunk, min((number + 1) * node.record.chunk, node.record.size)
        return self._heal_where_damaged(node, start, end, lambda read: self._try_chunk(node, number, read))

    def _heal_where_damaged(
        self, node: Node, start: int, end: int, load: Callable[[ReadAt], bytes | bytearray]
    ) -> bytes | bytearray:
        """What load(read) gives of [start, end) from the archive or, if that raises DamagedError, from parity."""
        with suppress(DamagedError):
            return load(self.source.read_at)
        try:
            data = load(self._heal_at)
        except DamagedError:
            raise self._damaged(node, start, end) from None
        self._log.report_healed(node.path, node.first + start, node.first + end)
        return data

    def _heal_at(self, offset: int, size: int) -> bytes:
        data = self.source.heal(offset, size)
        if data is None:
            raise DamagedError("no parity that would suffice")
        return data

    def _try_chunk(self, node: Node, number: int, read: ReadAt) -> bytes | bytearray:
        """A chunk by either copy of its table, by itself or, where the offset between is damaged, with a neighbour."""
        record = node.record
        count = chunks.chunk_count(record.size, record.chunk)
        for table in self._tables_of(node):
            for first, last in ((number, number), (number - 1, number), (number, number + 1)):
                if first < 0 or last >= count:
                    continue
                with suppress(DamagedError):
                    if first == last and read == self.source.read_at:
                        rows = self._rows_for(node, number, table)
                    else:
                        rows = self._read_rows(node, first, last, table, read)
                    data = self._unpack_rows(node, rows, first, last, read)
                    start = (number - first) * record.chunk
                    return data if first == last else data[start : start + record.chunk]
        raise DamagedError("chunk is damaged")

    def _tables_of(self, node: Node) -> list[int]:
        """Where the copies of a file's chunk table lie."""
        record, copies = node.record, self.tables
        beside = node.base + record.index
        return [beside] if copies is None or record.table_copy == NO_COPY else [beside, copies + record.table_copy]

    def _rows_for(self, node: Node, number: int, table: int) -> Rows:
        """The rows around chunk `number` of the chunk table at `table`."""
        record, window = node.record, number // _WINDOW
        key = (table, record.size, record.packed, record.chunk, window)  # several records may claim one table
        rows: Rows | None = self._rows.get(key)
        if rows is None:
            last = min((window + 1) * _WINDOW, chunks.chunk_count(record.size, record.chunk)) - 1
            rows = self._rows[key] = self._read_rows(node, window * _WINDOW, last, table, self.source.read_at)
        return rows

    def _read_rows(self, node: Node, first: int, last: int, table: int, read: ReadAt) -> Rows:
        record = node.record
        method = method_of(record)
        try:
            return chunks.read_rows(read, table, record.size, record.packed, record.chunk, method, first, last)
        except FormatError as error:
            start, end = first * record.chunk, min((last + 1) * record.chunk, record.size)
            raise DamagedError(f"{show(node.path)}: {error}", ((start, end),)) from None

    def _read_unchunked(
        self, node: Node, offset: int, end: int, *, cached: bool = True
    ) -> bytes | bytearray | memoryview:
        record, at = node.record, node.base + node.record.data
        if not record.crc32 and record.method == STORE:  # as it lies in a tar: nothing vouches for any of it
            return self._read_plain(node, offset, end)
        if max(record.size, record.packed) <= _MAX_UNCHUNKED:
            key = (self._key, at, 0)
            data = self._cache.get(key, lambda: self._load_whole(node)) if cached else self._load_whole(node)
            return memoryview(data)[offset:end]
        stream: CheckpointedStream | None = self._streams.get(at)
        if stream is None:
            stream = self._streams[at] = CheckpointedStream(self.source, at, record)
        first, last = offset // STRETCH, (end - 1) // STRETCH
        try:
            parts = [self._stretch(stream, at, number, cached) for number in range(first, last + 1)]
        except DamagedError:
            raise self._damaged(node, 0, record.size) from None
        return memoryview(b"".join(parts) if last > first else parts[0])[
            offset - first * STRETCH : end - first * STRETCH
        ]

    def _stretch(self, stream: CheckpointedStream, at: int, number: int, cached: bool) -> bytes | bytearray:
        return self._cache.get((self._key, at, number), lambda: stream.load(number)) if cached else stream.load(number)

    def _read_plain(self, node: Node, offset: int, end: int) -> bytes:
        data = self.source.read_at(node.base + node.record.data + offset, end - offset)
        if len(data) < end - offset:
            raise self._damaged(node, offset + len(data), end)
        return data

    def _load_whole(self, node: Node) -> bytes | bytearray:
        record, at = node.record, node.base + node.record.data
        return self._heal_where_damaged(
            node, 0, record.size, lambda read: unpack_whole(record, read(at, record.packed))
        )

    def _damaged(self, node: Node, start: int, end: int) -> DamagedError:
        start, end = node.first + start, node.first + end
        self._log.report_range(node.path, start, end)
        return DamagedError(f"{show(node.path)}: bytes {start} to {end} are damaged", ((start, end),))


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Half-open ranges in order, those that touch or overlap as one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def content_cache(capacity: int) -> ContentCache:
    """A cache that keeps at most `capacity` bytes of memory."""
    return ByteCache(capacity, _weigh)


def _weigh(data: bytes | bytearray) -> int:
    """Bytes of memory that cached data takes: the allocator loses about a fifth between pieces of many sizes."""
    return len(data) + len(data) // 5


def whole(record: Record) -> tuple[tuple[int, int], ...]:
    return ((0, record.size),)


def unpack_whole(record: Record, packed: bytes) -> bytes | bytearray:
    """The content of a file of one piece, checked. Raises DamagedError."""
    data = codec.unpack(packed, record.size) if record.method == DEFLATE else packed
    if len(data) != record.size or codec.crc32(data) != record.crc:
        raise DamagedError("data does not match its checksum")
    return data


def chunks_at(record: Record, rows: Rows, first: int, last: int) -> tuple[int, int]:
    """Where chunks first..last begin and end in a file's packed data. Raises DamagedError if that cannot be."""
    at, stop = rows.bounds[first - rows.first], rows.bounds[last + 1 - rows.first]
    if not at < stop <= record.packed or stop - at > 2 * (last + 1 - first) * record.chunk + _MOST_OVERHEAD:
        raise DamagedError("chunk table: impossible offsets")
    return at, stop


def unpack_chunks(record: Record, rows: Rows, first: int, last: int, packed: bytes) -> bytes | bytearray:
    """The content of chunks first..last, each of them checked. Raises DamagedError."""
    size = min((last + 1) * record.chunk, record.size) - first * record.chunk
    data = packed if record.method == STORE else codec.unpack(packed, size)
    if len(data) != size:
        raise DamagedError("data is cut short")
    view = memoryview(data)
    for number in range(first, last + 1):
        start = (number - first) * record.chunk
        if codec.crc32(view[start : start + record.chunk]) != rows.crcs[number - rows.first]:
            raise DamagedError("chunk does not match its checksum")
    return data

"""A damaged archive's tree and content, from whatever is left: an `Archive` that looks in every place.

Nothing is given out but what a checksum vouches for: the chunk's CRC-32, or that of the whole file.
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice

from ..errors import DamagedError, ElsewhereError, FormatError
from ..format import chunks, codec, member, zip
from ..format.chunks import Rows
from ..format.locator import Base
from ..format.records import DEFLATE, Record, holders_of
from ..reading.content import Piece, chunks_at, unpack_chunks, whole
from ..reading.reader import Archive
from ..reading.tree import Directory, Node, Tree
from ..source import Source
from ..text import show
from .remains import Remains

_READ = 1 << 20


class _Listing:
    def __init__(self, remains: Remains, path: bytes) -> None:
        self._remains, self._path = remains, path

    def get(self, name: bytes) -> Node | None:
        return self._remains.get(self._path, name)

    def children(self, start: int = 0) -> Iterator[Node]:
        return islice(self._remains.children(self._path), start, None)


class _SalvagedTree(Tree):
    def __init__(self, remains: Remains) -> None:
        self._remains = remains
        super().__init__(remains.source)
        self.tables = next(iter(remains.tables), None)

    def directory(self, node: Node) -> Directory:
        return _Listing(self._remains, node.path)

    def _find_root(self) -> Node:
        record = self._remains.folder(b"").record
        assert record
        return Node(record, 0, b"")


class Salvaged(Archive):
    """What is left of one archive. A file of which nothing is left raises DamagedError instead of giving pieces."""

    def __init__(self, remains: Remains) -> None:
        super().__init__(remains.source, tree=_SalvagedTree(remains))
        self.remains = remains
        self._spans: list[tuple[int, int, Node]] | None = None

    def pieces(self, node: Node) -> Iterator[Piece]:
        node = self.data_node(node)
        if node.record.elsewhere or node.record.parts:
            raise ElsewhereError(f"{show(node.path)}: its data lies in another archive")
        self.content.require_readable(node)
        if not node.record.size:
            return iter(())
        return checked(unless_all_lost(self._found(node), node.record), node.record)

    @property
    def bases(self) -> Sequence[Base]:
        return [base for _, locator in self.remains.locators for base in locator.base]

    def lacking(self, node: Node) -> str:
        """No other archive is looked into, so none is at hand."""
        return next(map(self.name_of, sorted(holders_of(node.record))), "")

    def _found(self, node: Node) -> Iterator[Piece]:
        record = node.record
        place = self.remains.place(node.path, record)
        if place is None:
            yield Piece(0, record.size, b"", DamagedError("nothing of it was found", whole(record)))
            return
        mender: Mender | None = None
        for piece in super().pieces(Node(record, place - record.data, node.path)):
            if piece.error is None:
                yield piece
                continue
            mender = mender or self.mender(node)
            if mender.is_whole(piece.start):
                yield from mender.rest(piece.start)
                return
            yield from mender.mend(piece)

    def file_at(self, at: int) -> Node | None:
        """The file in whose packed data byte `at` of the source lies."""
        if self._spans is None:
            spans = [
                (place, place + node.record.packed, node)
                for node in self.remains.files()
                if (place := self.remains.place(node.path, node.record)) is not None
            ]
            self._spans = sorted(spans, key=lambda span: span[:2])
        number = bisect_right(self._spans, at, key=lambda span: span[0]) - 1
        return self._spans[number][2] if number >= 0 and at < self._spans[number][1] else None

    def vouches(self, node: Node, at: int) -> bool | None:
        """Whether byte `at` of the source is what was stored there for a file; None if that cannot be told."""
        record, place = node.record, self.remains.place(node.path, node.record)
        if record.method == DEFLATE or place is None:
            return None
        if not record.chunk:  # a large file, then, has lost its table, and too much may be damaged in it
            sound = record.packed <= _READ and codec.crc32(self.source.read_at(place, record.packed)) == record.crc
            return sound or None
        number = (at - place) // record.chunk
        data = self.source.read_at(place + number * record.chunk, record.chunk)[: record.size - number * record.chunk]
        rows = self.mender(node).rows(number)
        return any(codec.crc32(data) == row.crcs[0] for row in rows) if rows else None

    def mender(self, node: Node) -> Mender:
        record = node.record
        places = self.remains.places(node.path, record)
        tables = [place - record.data + record.index for place in places]
        if not self.remains.is_extra(node.path, record):
            tables += [table + record.table_copy for table in self.remains.tables]
        return Mender(self.source, node, places, tables)


def unless_all_lost(pieces: Iterator[Piece], record: Record) -> Iterator[Piece]:
    """The pieces, those before the first sound one held back. Raises DamagedError if none is sound."""
    held = 0
    for piece in pieces:
        if piece.error:
            held = piece.end
            continue
        if held:
            yield Piece(0, held, b"", _lost(0, held))
        yield piece
        yield from pieces
        return
    raise DamagedError("nothing of it is left", whole(record))


def checked(pieces: Iterator[Piece], record: Record) -> Iterator[Piece]:
    """Raises DamagedError behind the last piece if they are all sound, but not together."""
    crc, sound = 0, True
    for piece in pieces:
        sound = sound and piece.error is None
        crc = codec.crc32(piece.data, crc)
        yield piece
    if sound and crc != record.crc:
        raise DamagedError("content does not match its checksum", whole(record))


def _lost(start: int, end: int) -> DamagedError:
    return DamagedError(f"bytes {start} to {end} are lost", ((start, end),))


class Mender:
    """Looks for the parts of one file that are not where they should be.

    places: where its data may begin; tables: where copies of its chunk table may.
    """

    def __init__(self, source: Source, node: Node, places: list[int], tables: list[int]) -> None:
        self._source = source
        self._path, self._record = node.path, node.record
        self._places = places
        self._tables = [table for table in dict.fromkeys(tables) if self._begins(table)]
        self._swept: dict[tuple[int, int], int] | None = None
        self._sound_table: int | None = None
        self._tried = False
        self._whole: int | None = None  # the place from where on all of it unpacks

    def mend(self, piece: Piece) -> Iterator[Piece]:
        """The chunks of a piece, each as data or as an error."""
        record = self._record
        for start in range(piece.start, piece.end, record.chunk or record.size):
            end = min(start + (record.chunk or record.size), piece.end)
            data = self._chunk(start // record.chunk) if record.chunk else self._only()
            yield Piece(start, end, data or b"", None if data else _lost(start, end))

    def _only(self) -> bytes | bytearray | None:
        """The content of a file without chunks."""
        record = self._record
        for place in self._places:
            data: bytes | bytearray = self._source.read_at(place, record.packed)
            try:
                data = codec.unpack(data, record.size) if record.method == DEFLATE else data
            except DamagedError:
                continue
            if len(data) == record.size and codec.crc32(data) == record.crc:
                return data
        return None

    def _chunk(self, number: int) -> bytes | bytearray | None:
        record = self._record
        copies = self.rows(number)
        for rows in copies:
            for place in self._places:
                try:
                    at, stop = chunks_at(record, rows, number, number)
                    return unpack_chunks(record, rows, number, number, self._source.read_at(place + at, stop - at))
                except DamagedError:
                    continue
        if record.method != DEFLATE or (_agree(copies) and len(self._places) < 2):
            return None
        size = min(record.size - number * record.chunk, record.chunk)
        crc = self._checksum(copies)
        start = self._sweep().get((crc, size)) if crc is not None else None
        return None if start is None else _unpack_some(self._source.read_at(start, _most(size)), size)

    def _checksum(self, copies: list[Rows]) -> int | None:
        """A chunk's CRC-32 if it is sure that it is this chunk's: in a table that lost a part, it may be another's."""
        crcs = [rows.crcs[0] for rows in copies]
        agreed = next((crc for crc in crcs if crcs.count(crc) > 1), None)
        if agreed is not None:
            return agreed
        if self._sound_table is None:
            self._sound_table = next((number for number, at in enumerate(self._tables) if self._is_sound(at)), -1)
        return crcs[self._sound_table] if 0 <= self._sound_table < len(crcs) else None

    def _begins(self, table: int) -> bool:
        record = self._record
        try:
            return chunks.read_chunk_size(self._source.read_at, table, record.size, record.packed) == record.chunk
        except FormatError:
            return False

    def _is_sound(self, table: int) -> bool:
        """Whether a chunk table is what the local header before it says."""
        record, read = self._record, self._source.read_at
        method = member.method_of(record)
        try:
            entry, data = zip.read_local(read, table - len(zip.hidden_header(zip.table_name(self._path, method), 0, 0)))
        except FormatError:
            return False
        return data == table and codec.crc32(read(table, entry.size)) == entry.crc32

    def rows(self, number: int) -> list[Rows]:
        """What the copies of the chunk table say of one chunk."""
        record = self._record
        method = member.method_of(record)
        found: list[Rows] = []
        for table in self._tables:
            try:
                rows = chunks.read_rows(
                    self._source.read_at, table, record.size, record.packed, record.chunk, method, number, number
                )
            except FormatError:
                continue
            found.append(rows)
        return found

    def _sweep(self) -> dict[tuple[int, int], int]:
        """Where chunks begin, by CRC-32 and size of the content: all that can be unpacked behind a flush."""
        if self._swept is None:
            self._swept = {}
            for start in self._starts():
                data = _unpack_some(self._source.read_at(start, _most(self._record.chunk)), self._record.chunk)
                if data:
                    self._swept.setdefault((codec.crc32(data), len(data)), start)
        return self._swept

    def _starts(self) -> Iterator[int]:
        """Where chunks may begin: what lies behind each flush from the first place on."""
        yield from self._places
        at, end = min(self._places, default=0), max(self._places, default=0) + self._record.packed
        mark = codec.CHUNK_END
        while at < end:
            window = self._source.read_at(at, _READ + len(mark))
            hit = window.find(mark)
            while hit >= 0:
                yield at + hit + len(mark)
                hit = window.find(mark, hit + 1)
            at += _READ

    # -- without a table -------------------------------------------------------------------------------------

    def is_whole(self, start: int) -> bool:
        """Whether the file is sound although its chunk table, at byte `start` of the content, is not."""
        record = self._record
        if not self._tried and record.chunk and not _agree(self.rows(start // record.chunk)):
            self._tried = True
            self._whole = next((place for place in self._places if self._unpacks(place)), None)
        return self._whole is not None

    def _unpacks(self, place: int) -> bool:
        record, digest, crc, size = self._record, hashlib.sha256(), 0, 0
        for data in self._stream(place):
            digest.update(data)
            crc = codec.crc32(data, crc)
            size += len(data)
        return size == record.size and crc == record.crc and record.sha256 in ("", digest.hexdigest())

    def rest(self, start: int) -> Iterator[Piece]:
        """The content from `start` on, of a file that `is_whole`."""
        assert self._whole is not None
        at = 0
        for data in self._stream(self._whole):
            end = at + len(data)
            if end > start:
                yield Piece(max(at, start), end, data[max(start - at, 0) :])
            at = end

    def _stream(self, place: int) -> Iterator[bytes]:
        record = self._record
        engine = zlib.decompressobj(-15) if record.method == DEFLATE else None
        room = record.size
        for at in range(0, record.packed, _READ):
            data = self._source.read_at(place + at, min(_READ, record.packed - at))
            while data:
                try:
                    part, data = (engine.decompress(data, _READ), engine.unconsumed_tail) if engine else (data, b"")
                except zlib.error:
                    return
                room -= len(part)
                if room < 0:
                    return
                if not part:
                    break
                yield part


def _agree(copies: list[Rows]) -> bool:
    """Whether two copies of a table say the same: then it is the data that is damaged."""
    return len(copies) > 1 and len({(rows.crcs, rows.bounds) for rows in copies}) < len(copies)


def _most(size: int) -> int:
    """The most that a chunk of `size` bytes packs to."""
    return size + (size >> 3) + 64


def _unpack_some(packed: bytes, size: int) -> bytes:
    """Up to `size` bytes; none if it does not unpack."""
    try:
        return zlib.decompressobj(-15).decompress(packed, size)
    except zlib.error:
        return b""

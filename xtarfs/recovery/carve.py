"""Everything of an archive that can be recognised in a damaged file, an image or a device, found in one pass.

Each find proves itself: tar headers and blocks of text by their checksums, zip headers by the archive's tag in them.
What the finds mean together is for `salvage` to say. Nothing need lie at any particular place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from msgspec import Struct, field

from ..errors import FormatError, SourceError
from ..format import codec, locator, structure, tar, zip
from ..format.locator import Locator
from ..format.records import Header, Record, parse_header, parse_index, parse_records
from ..source import Source

_SECTOR = 4096  # what a medium that fails loses at once
_WINDOW = 8 << 20
_MARGIN = 256 << 10  # read beyond a window, so that few finds reach over its end
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar\x0000", 257


class Patient(Source):
    """A source whose medium may fail: what cannot be read is zeros, and is not tried again."""

    def __init__(self, source: Source) -> None:
        self.name, self.size = source.name, source.size
        self._source = source
        self._bad: set[int] = set()

    def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self.size - offset)
        if offset < 0 or size <= 0:
            return b""
        sectors = range(offset // _SECTOR, -(-(offset + size) // _SECTOR))
        if not self._bad or self._bad.isdisjoint(sectors):
            try:
                return self._source.read_at(offset, size)
            except SourceError:
                pass
        data = b"".join(map(self._sector, sectors))
        skip = offset - sectors[0] * _SECTOR
        return data[skip : skip + size]

    def heal(self, offset: int, size: int) -> bytes | None:
        return self._source.heal(offset, size)

    @property
    def unreadable(self) -> int:
        """Bytes that the medium did not give so far."""
        return len(self._bad) * _SECTOR

    def close(self) -> None:
        self._source.close()

    def _sector(self, number: int) -> bytes:
        size = min(_SECTOR, self.size - number * _SECTOR)
        if number not in self._bad:
            try:
                return self._source.read_at(number * _SECTOR, size)
            except SourceError:
                self._bad.add(number)
        return bytes(size)


class Member(NamedTuple):
    """A tar header of ours. at: where its first block lies; data: where what it heads begins; ino: of the directory."""

    at: int
    data: int
    size: int
    ino: int
    role: bytes
    name: bytes


class Zip(NamedTuple):
    """A zip's local header, `data` being where the packed data begins; or a central header, `data` being its place."""

    at: int
    data: int
    path: bytes
    crc: int


class Block(NamedTuple):
    """A sound block of text. text: a number that blocks of the same text share."""

    at: int
    length: int
    text: int


class Text(Struct):
    """What a block says. first: name of its first record, if there is one; index: it lists the blocks before it."""

    header: Header | None = None
    first: bytes | None = None
    locator: Locator | None = None
    index: bool = False


class Tagged(Struct):
    """What bears the tag of one archive, in the order in which it lies."""

    members: list[Member] = field(default_factory=list)
    locals: list[Zip] = field(default_factory=list)
    centrals: list[Zip] = field(default_factory=list)


class Finds(Struct):
    """All finds: by tag what bears one; blocks and what their texts say."""

    tagged: dict[bytes, Tagged] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


def carve(source: Patient, progress: Callable[[int], None] = lambda size: None) -> Finds:
    """Reads the source once, from end to end. progress(bytes more) is called now and then."""
    return _Carver(source).run(progress)


def records_of(source: Source, block: Block) -> list[Record]:
    """The records in a block; none if it holds none."""
    text = structure.unpack_block(source.read_at(block.at, block.length))
    line, _, rest = text.partition(b"\n")
    try:
        parse_header(line)
    except FormatError:
        return parse_records(text)
    return parse_records(rest)


class _Carver:
    def __init__(self, source: Patient) -> None:
        self._source = source
        self._finds = Finds()
        self._texts: dict[bytes, int] = {}  # by digest of the block
        self._start, self._window = 0, b""
        self._headers_end = 0  # the headers before are part of a member that was found
        self._patience = source.size + _WINDOW  # bytes that may yet be looked at in vain, whatever lengths are claimed

    def run(self, progress: Callable[[int], None]) -> Finds:
        for start in range(0, self._source.size, _WINDOW):
            self._start, self._window = start, self._source.read_at(start, _WINDOW + _MARGIN)
            for magic, shift, take in (
                (_TAR_MAGIC, _TAR_MAGIC_AT, self._tar),
                (zip.LOCAL_SIGNATURE, 0, self._local),
                (zip.CENTRAL_SIGNATURE, 0, self._central),
                (structure.SIGNATURE, 0, self._block),
            ):
                for hit in self._hits(magic):
                    try:
                        take(self._start + hit - shift)
                    except FormatError:
                        continue
            progress(min(_WINDOW, self._source.size - start))
        return self._finds

    def _hits(self, magic: bytes) -> Iterator[int]:
        hit = self._window.find(magic)
        while 0 <= hit < _WINDOW:
            yield hit
            hit = self._window.find(magic, hit + 1)

    def _read(self, offset: int, size: int) -> bytes:
        at = offset - self._start
        if at >= 0 and at + size <= len(self._window):
            return self._window[at : at + size]
        return self._source.read_at(offset, size)

    def _of(self, tag: bytes) -> Tagged:
        return self._finds.tagged.setdefault(tag, Tagged())

    def _tar(self, at: int) -> None:
        if at < self._headers_end:
            return
        block = self._read(at, tar.BLOCK)
        mark = tar.mark_of(block)
        if mark is None:
            return
        header = tar.parse(block)
        data = at + tar.BLOCK
        if header.type in tar.BEFORE:
            if self._patience < header.size:
                return
            self._patience -= header.size
            found = tar.read_member(self._read, at)
            if found is None or found.header.mark != mark:
                return
            header, data = found.header, found.data
            self._patience += header.size
        elif len(header.name) == 100 and header.type != tar.REGULAR:
            return  # the header that had the whole name is lost
        self._headers_end = data
        self._of(mark.tag).members.append(Member(at, data, header.size, mark.ino, mark.role, header.name))

    def _local(self, at: int) -> None:
        if not zip.bears_tag(self._read, at):
            return
        entry, data = zip.read_local(self._read, at)
        if entry.tag is not None:
            self._of(entry.tag).locals.append(Zip(at, data, entry.name, entry.crc32))

    def _central(self, at: int) -> None:
        if not zip.bears_tag(self._read, at):
            return
        entry = zip.read_listed(self._read, at)
        if entry.tag is not None:
            self._of(entry.tag).centrals.append(Zip(at, at, entry.name, entry.crc32))

    def _block(self, at: int) -> None:
        length = structure.block_length(self._read(at, structure.HEAD_SIZE))
        if self._patience < length:
            return
        self._patience -= length
        raw = self._read(at, length)
        digest = codec.sha256(raw)
        number = self._texts.get(digest)
        if number is None:
            text = structure.unpack_block(raw)
            number = len(self._finds.texts)
            self._finds.texts.append(_understand(text))
            self._texts[digest] = number
        self._finds.blocks.append(Block(at, length, number))
        self._patience += length


def _understand(text: bytes) -> Text:
    """What a block's text is: it can be of several kinds, or of none that is known."""
    line, _, rest = text.partition(b"\n")
    for attempt in (_as_structure, _as_records, _as_index, _as_locator):
        try:
            return attempt(line, rest, text)
        except FormatError:
            continue
    return Text()


def _as_structure(line: bytes, rest: bytes, text: bytes) -> Text:
    header, records = parse_header(line), parse_records(rest)
    return Text(header, records[0].raw_name if records else None)


def _as_records(line: bytes, rest: bytes, text: bytes) -> Text:
    records = parse_records(text)
    return Text(first=records[0].raw_name if records else None)


def _as_index(line: bytes, rest: bytes, text: bytes) -> Text:
    parse_index(line)
    return Text(index=True)


def _as_locator(line: bytes, rest: bytes, text: bytes) -> Text:
    return Text(locator=locator.parse(line))

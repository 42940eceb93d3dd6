"""From paths to records: a directory's structure is read when it is first touched, block by block.

Knows where records lie, not how content is packed. Every structure block has a copy in the catalogue, which is
taken where the first fails its checksum; a directory that has lost both is listed from its members' own headers.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from lru import LRU
from msgspec import Struct

from ..errors import DamagedError, FormatError, NotADirectory, NotAnArchive, NotFound, SourceError
from ..format import locator, structure, tar
from ..format.locator import Base, Locator, Place
from ..format.records import (
    DIRECTORY,
    Header,
    Record,
    Structure,
    new_record,
    parse_header,
    parse_index,
    parse_records,
    to_text,
)
from ..source import Source
from ..text import escape, show
from .cache import ByteCache

if TYPE_CHECKING:
    from .unstructured import Folder

_CACHE = 12 << 20  # bytes of decoded records
_RECORD_SIZE = 1000  # bytes that a decoded record takes, about
_CACHED_DIRECTORIES = 256
_FIRST_MADE_UP_INO = 1 << 40


def child_path(path: bytes, name: bytes) -> bytes:
    """The path below the root of what a directory, whose path is empty for the root, holds under a name."""
    return path + b"/" + name if path else name


class Node(Struct):
    """A record in its place. base: offset of the containing tar in the source; path: bytes below the root.

    listing: a directory's children, where they are known without a look at the source. first: where in its file's
    content a part's begins.
    """

    record: Record
    base: int
    path: bytes
    listing: Directory | None = None
    first: int = 0

    def child_path(self, name: bytes) -> bytes:
        return child_path(self.path, name)


class Directory(Protocol):
    """A directory's children, by name or in order. Raises DamagedError where they cannot be known."""

    def get(self, name: bytes) -> Node | None: ...

    def children(self, start: int = 0) -> Iterator[Node]:
        """From the start-th on, sorted by the bytes of their names."""


class _Block:
    """Decoded records of one structure block; the header too where a structure file has one block only."""

    __slots__ = ("header", "names", "records")

    def __init__(self, records: list[Record], header: Header | None = None) -> None:
        self.header = header
        self.records = records
        self.names = [record.raw_name for record in records]

    def weigh(self) -> int:
        return _RECORD_SIZE * len(self.records)


class StructuredDirectory:
    """A directory read from its structure file. start, size: offset of its tar in the source, and its length.

    placed: the directories in it have tars of their own.
    """

    placed = True

    def __init__(self, tree: Tree, path: bytes, start: int, size: int, place: Structure) -> None:
        self._tree = tree
        self._path = path
        self._start = start
        self._size = size
        self._place = place
        self._header: Header | None = None
        if place.index:
            index = parse_index(self._text(place.size - place.index, place.index))
            self._blocks = index.blocks
            self._firsts = [block.raw_first for block in index.blocks]

    def header(self) -> Header:
        """The directory's own attributes and path."""
        if self._header is None:
            if self._place.index:
                self._header = parse_header(self._text(0, self._blocks[0].at))
            else:
                self._header = self._block(0).header
        if self._header is None:
            raise FormatError(f"structure of {show(self._path)} has no header")
        return self._header

    def get(self, name: bytes) -> Node | None:
        number = max(bisect_right(self._firsts, name) - 1, 0) if self._place.index else 0
        block = self._block(number)
        row = bisect_right(block.names, name) - 1
        if row < 0 or block.names[row] != name:
            return None
        return self.node(block.records[row], name)

    def children(self, start: int = 0) -> Iterator[Node]:
        end = 0
        for number in range(len(self._blocks) if self._place.index else 1):
            if self._place.index and start >= self._blocks[number].count:
                start -= self._blocks[number].count
                continue
            block = self._block(number)
            for record, name in zip(block.records[start:], block.names[start:], strict=True):
                before = end
                if record.is_dir:
                    end = self.end_of(record, before)
                yield self.node(record, name, before)
            start = max(start - len(block.names), 0)

    def texts(self) -> Iterator[bytes]:
        """The structure file's text, block by block: the header's line, then the records', the index left out."""
        if not self._place.index:
            yield self._text(0, self._place.size)
            return
        yield self._text(0, self._blocks[0].at)
        for row in self._blocks:
            yield self._text(row.at, row.length)

    def end_of(self, record: Record, before: int) -> int:
        """Where a directory ends that must begin behind `before`. Raises DamagedError.

        Directories lie side by side within this one: so no walk is endless, whatever the records say.
        """
        if not before < record.data <= record.data + record.packed <= self._size:
            raise DamagedError(f"{show(self._path)}: its structure puts a directory where none can be")
        return record.data + record.packed

    def node(self, record: Record, name: bytes, before: int = 0) -> Node:
        """The node of one of its records. before: where the directories in front of it end, if that is known."""
        return Node(record, self._start, self.child_path(name))

    def child_path(self, name: bytes) -> bytes:
        return child_path(self._path, name)

    def _block(self, number: int) -> _Block:
        key = (self._start + self._place.at, self._place.size, number)  # records that lie may share a place
        return self._tree.blocks.get(key, lambda: self._load(number))

    def _load(self, number: int) -> _Block:
        if self._place.index:
            row = self._blocks[number]
            return _Block(parse_records(self._text(row.at, row.length), placed=self.placed))
        header, records = structure.parse_single(self._text(0, self._place.size), placed=self.placed)
        return _Block(records, header)

    def _text(self, at: int, length: int) -> bytes:
        """The text of the block at `at` of the structure file, from whichever copy is sound."""
        places = [self._start + self._place.at + at]
        catalogue = self._tree.catalogue
        if catalogue is not None:
            places.append(catalogue + self._place.catalogue + at)
        source = self._tree.source
        for read in (source.read_at, source.heal):
            for place in places:
                try:
                    return structure.unpack_block(read(place, length) or b"")
                except (FormatError, SourceError):
                    self._tree.report(self._path, f"structure block at byte {place} is damaged")
        raise DamagedError(f"{self._tree.source.name}: no sound copy of the structure of {show(self._path)}")


class Tree:
    """The tree of one archive, from the root node down.

    catalogue, tables: offsets of the catalogue's and the chunk tables' data in the source, None where not known.
    root_path: where the root lay in the archive that it was written in, other than empty for an inner archive that
    was extracted.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.blocks: ByteCache[tuple[int, int, int], _Block] = ByteCache(_CACHE, _Block.weigh)
        self.catalogue: int | None = None
        self.tables: int | None = None
        self.locator: Locator | None = None
        self.damage: dict[tuple[bytes, str], None] = {}
        self.healed: dict[bytes, set[tuple[int, int]]] = {}
        self.ranges: dict[bytes, set[tuple[int, int]]] = {}
        self._directories: LRU[bytes, Directory] = LRU(_CACHED_DIRECTORIES)
        self.root_path = b""
        self.made_up: dict[bytes, Folder] = {}
        self._inos = _FIRST_MADE_UP_INO
        self.root = self._find_root()

    @property
    def identifier(self) -> str:
        """What this tree is known by, empty if by nothing."""
        return self.locator.id if self.locator else ""

    @property
    def holders(self) -> list[Base]:
        """What another archive that leaves data to this one must name: itself, or all volumes of the set."""
        name = os.fsencode(os.path.basename(self.source.name))
        return [Base(self.locator.id, to_text(name)[0])] if self.locator else []

    @property
    def origin(self) -> tuple[Source, Place] | None:
        """Where the origin member's data of the whole tree lies."""
        return (self.source, self.locator.origin) if self.locator else None

    @property
    def entries(self) -> int:
        """How many names there are, 0 where that is not known; of a set, of files."""
        facts = self.locator
        return facts.files + facts.directories + facts.others if facts else 0

    @property
    def content_size(self) -> int:
        """Bytes of content in all files, 0 where that is not known."""
        return self.locator.bytes if self.locator else 0

    def directory(self, node: Node) -> Directory:
        """The children of a directory's node. Raises NotADirectory, DamagedError."""
        directory = node.listing or self._directories.get(node.path)
        if directory is None:
            directory = self._directories[node.path] = self._load(node)
        return directory

    def lookup(self, path: bytes) -> Node:
        """The node at a path below the root; the empty path is the root. Raises NotFound, NotADirectory."""
        node = self.root
        for name in path.split(b"/") if path else ():
            if not name:
                continue
            found = self.directory(node).get(name)
            if found is None:
                raise NotFound(f"{self.source.name}: no {show(path)} in the archive")
            node = found
        return node

    def walk(self, top: Node | None = None) -> Iterator[Node]:
        """The nodes below `top` (default: the root) in order, a directory before what it holds."""
        stack = [self.directory(top or self.root).children()]
        while stack:
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
                continue
            yield node
            if node.record.is_dir:
                stack.append(self.directory(node).children())

    def new_ino(self) -> int:
        """A number for what has none stored."""
        self._inos += 1
        return self._inos

    def report(self, path: bytes, what: str) -> None:
        """Remembers damage that was met, for the user to see."""
        self.damage[path, what] = None

    def report_healed(self, path: bytes, start: int, end: int) -> None:
        """Remembers a stretch of a file's content that came from parity."""
        self.healed.setdefault(path, set()).add((start, end))

    def report_range(self, path: bytes, start: int, end: int) -> None:
        """Remembers a damaged stretch of a file's content."""
        self.ranges.setdefault(path, set()).add((start, end))

    def _load(self, node: Node) -> Directory:
        record = node.record
        if not record.is_dir:
            raise NotADirectory(f"{self.source.name}: {show(node.path)} is not a directory")
        start = node.base + record.data
        if record.structure is not None:
            try:
                directory = StructuredDirectory(self, node.path, start, record.packed, record.structure)
                directory.header()
                return directory
            except FormatError:
                self.report(node.path, "structure is damaged in both copies; listed from the members' headers")
        from . import unstructured

        return unstructured.load(self, node.path, start, start + record.packed)

    def _find_root(self) -> Node:
        size = self.source.size
        self.locator = find_locator(self.source)
        if self.locator:
            if self.locator.xtar != structure.FORMAT:
                version = escape(self.locator.xtar.encode())
                raise NotAnArchive(f"{self.source.name}: is of format {version}, this program reads {structure.FORMAT}")
            self.catalogue, self.tables = self.locator.catalogue.at, self.locator.tables.at
            place: Structure | None = self.locator.root
        else:
            place = self._find_structure()
        record = new_record(b".", DIRECTORY, 0o755, 0, 1)
        record.packed = size
        node = Node(record, 0, b"")
        if place is None:
            self._read_headers(node)
            return node
        record.structure = place
        directory = self.directory(node)
        if isinstance(directory, StructuredDirectory):
            header = directory.header()
            self.root_path = header.raw_path
            node.record = header.directory
            node.record.structure, node.record.packed = place, size
        return node

    def _find_structure(self) -> Structure | None:
        """The root's structure by way of the tar headers: of an inner archive, or one that lost its locator."""
        place = None
        try:
            for found in tar.members(self.source.read_at, 0, self.source.size):
                mark = found.header.mark
                if mark and mark.role == tar.ROLE_STRUCTURE:
                    place = place_of(self.source, found, 0)
                elif mark and mark.role == tar.ROLE_CATALOGUE and place:
                    self.catalogue = found.data
                    place = Structure(place.at, place.size, place.index, found.header.size - place.size)
                elif mark and mark.role == tar.ROLE_TABLES:
                    self.tables = found.data
        except FormatError:
            pass
        return place

    def _read_headers(self, node: Node) -> None:
        """Lists the root from the members' headers."""
        from .unstructured import Listing

        listing = Listing(self, b"")
        self.made_up[b""] = listing.run(0, self.source.size)
        if not listing.members:
            reason = "no tar header in it is readable" if self.source.size else "it is empty"
            raise NotAnArchive(f"{self.source.name}: is not an archive: {reason}")
        self.root_path = listing.base or b""
        node.record = self.made_up[b""].record or node.record
        if listing.ours:  # a tar made by hand has no structure to lose
            self.report(b"", "no locator and no structure of the root; listed from the members' headers")


def find_locator(source: Source) -> Locator | None:
    """The locator at the end of an archive, from parity if need be."""
    size = source.size
    window = min(size, locator.WINDOW)
    found = None
    with suppress(SourceError):
        found = locator.find(source.read_at(size - window, window), size)
    return found or locator.find(source.heal(size - window, window) or b"", size)


def place_of(source: Source, found: tar.Member, start: int) -> Structure:
    """Where a structure file lies that was met as a tar member; `start` is where its tar begins. Raises FormatError."""
    at, end, length = found.data, found.data + found.header.size, 0
    if end > source.size:
        raise DamagedError("structure file is cut short")
    while at < end:
        length = structure.block_length(source.read_at(at, structure.HEAD_SIZE))
        at += length
    index = length if length < found.header.size else 0
    return Structure(found.data - start, found.header.size, index)

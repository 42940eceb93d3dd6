"""Files whose data lies in other archives: which members hold it, and their bytes.

A record names the archive that has its member, so one step reaches it, however long the chain of copies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
from lru import LRU

from ..errors import DamagedError, ElsewhereError, NotADirectory, NotFound, XtarError
from ..format import codec
from ..format.records import Elsewhere, Part, Record, holders_of, to_text
from ..source import FileSource, Source
from ..text import show
from .content import Content, ContentCache, Piece
from .opening import with_parity
from .shelf import SUFFIX, Identity, Shelf
from .tree import Node, Tree, find_locator

MOST_HOPS = 8  # archives that replace one another
_KEPT = 1024  # files whose places are remembered


class Span(NamedTuple):
    """[start, end) of a file's content, and the node whose member it is, in the archive `holder`."""

    start: int
    end: int
    node: Node
    holder: str


class Holders:
    """The archives that hold the data of one tree's files, each opened when it is first asked for.

    own: the content of the archive at hand, and its identifier. name_of(identifier): what to call a missing one.
    """

    def __init__(
        self, shelf: Shelf, log: Tree, cache: ContentCache, own: tuple[str, Content], name_of: Callable[[str], str]
    ) -> None:
        self._shelf = shelf
        self._log = log
        self._cache = cache
        self._name_of = name_of
        self._contents = {own[0]: own[1]}
        self._own = own[1]
        self._trees: dict[str, Tree] = {}
        self._spans: LRU[bytes, list[Span]] = LRU(_KEPT)
        self._lock = threading.Lock()

    def close(self) -> None:
        for content in self._contents.values():
            if content is not self._own:
                content.source.close()
        for tree in self._trees.values():
            tree.source.close()

    def read(self, node: Node, offset: int, end: int) -> bytes | bytearray | memoryview:
        """Bytes [offset, end) of a file, within its size. Raises ElsewhereError, DamagedError, SourceError."""
        parts = []
        for span in self.spans(node):
            if span.start < end and offset < span.end:
                start, stop = max(offset - span.start, 0), min(end, span.end) - span.start
                parts.append(self.content(span).read(span.node, start, stop))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self, node: Node) -> Iterator[Piece]:
        """A file's whole content in order; what is damaged comes as a piece with an error, a missing part too.

        Raises ElsewhereError where nothing of it is at hand.
        """
        spans = list(self.spans(node))
        missing: ElsewhereError | None = None
        contents: list[Content | None] = []
        for span in spans:
            try:
                contents.append(self.content(span))
            except ElsewhereError as error:
                missing = error
                contents.append(None)
        if missing and not any(contents):
            raise missing
        for span, content in zip(spans, contents, strict=True):
            if content is None:
                yield Piece(span.start, span.end, b"", DamagedError(str(missing), ((span.start, span.end),)))
                continue
            for piece in content.pieces(span.node):
                yield Piece(span.start + piece.start, span.start + piece.end, piece.data, piece.error)

    def members(self, node: Node) -> Iterator[tuple[Span, Content]]:
        """Where a file's data lies, in order. Raises ElsewhereError where any of it is missing."""
        for span in self.spans(node):
            yield span, self.content(span)

    def has(self, identifier: str) -> bool:
        """Whether an archive, or one that replaces it, is at hand."""
        return identifier in self._contents or bool(self._shelf.find(identifier) or self._shelf.replacing(identifier))

    def file_of(self, identifier: str) -> str:
        """The path of the archive of that identifier; empty if it is not at hand."""
        content = self._find(identifier)
        return content.source.name if content else ""

    def was_healed(self, node: Node) -> bool:
        return any(content.was_healed(span.node) for span, content in self.members(node))

    def spans(self, node: Node) -> list[Span]:
        """The members that hold a file; those of an archive that replaces a holder, if that is what there is."""
        known: list[Span] | None = self._spans.get(node.path)
        if known is None:
            known, complete = self._trace(node)
            if complete:
                self._spans[node.path] = known
        return known

    def leading(self, node: Node) -> Record:
        """A file's record, leading to archives that are at hand where its own are replaced; else as it stands."""
        there, seen = self._resolve(node)
        return led_as(node, there, seen.path)

    def _trace(self, node: Node) -> tuple[list[Span], bool]:
        """A file's members, and whether all of them are at hand."""
        spans = list(_members(node, self._resolve(node)[0]))
        return spans, all(self._find(span.holder) for span in spans)

    def _resolve(self, node: Node) -> tuple[Record, Node]:
        """The record of a file that leads to what is at hand, and the node that has it, maybe in another tree."""
        record, seen = node.record, node
        for _ in range(MOST_HOPS):
            missing = [holder for holder in sorted(holders_of(record)) if self._find(holder) is None]
            found = next(filter(None, (self._replacement(seen, holder) for holder in missing)), None)
            if found is None:
                return record, seen
            record, seen = found
        raise ElsewhereError(f"{show(node.path)}: the archives that replace each other lead in a circle")

    def content(self, span: Span) -> Content:
        """What a member is read from. Raises ElsewhereError where that is missing."""
        content = self._find(span.holder)
        if content is None:
            where = self._name_of(span.holder)
            raise ElsewhereError(f"{show(span.node.path)}: its data lies in {where}, which is not at hand")
        return content

    def _find(self, identifier: str) -> Content | None:
        with self._lock:
            content = self._contents.get(identifier)
            if content is None:
                for path in self._shelf.find(identifier):
                    if source := _open(path):
                        facts = find_locator(source)
                        content = Content(source, facts.tables.at if facts else None, self._log, self._cache)
                        self._contents[identifier] = content
                        break
            return content

    def _replacement(self, node: Node, holder: str) -> tuple[Record, Node] | None:
        """What an archive in the place of `holder` has of the same file: its record, leading to its member."""
        for path in self._shelf.replacing(holder):
            tree = self._tree(path)
            found = find_again(tree, node) if tree else None
            if tree and found and holder not in holders_of(found.record):
                return located(tree, found), found
        return None

    def _tree(self, path: str) -> Tree | None:
        with self._lock:
            if path not in self._trees:
                source = _open(path)
                if source is None:
                    return None
                try:
                    self._trees[path] = Tree(source)
                except XtarError:
                    source.close()
            return self._trees.get(path)


def led_as(node: Node, there: Record, path: bytes) -> Record:
    """The record of `node`, with its data where the record `there` has it: that of the same file under `path`."""
    former, encoded = (there.former, there.former_b64) if path == node.path else to_text(path)
    return msgspec.structs.replace(
        node.record,
        at=there.at,
        data=there.data,
        packed=there.packed,
        method=there.method,
        chunk=there.chunk,
        index=there.index,
        table_copy=there.table_copy,
        packed_crc32=there.packed_crc32,
        elsewhere=there.elsewhere,
        parts=there.parts,
        former=former,
        former_b64=encoded,
    )


def find_again(tree: Tree, node: Node) -> Node | None:
    """The same file in another archive's tree: under its path or its former one, with the same size and SHA-256."""
    record = node.record
    for wanted in filter(None, (node.path, record.raw_former)):
        found = _lookup(tree, wanted)
        if found and (found.record.size, found.record.sha256) == (record.size, record.sha256):
            return found
    return None


def located(tree: Tree, node: Node) -> Record:
    """A file's record as one in another archive may have it: leading to the member's archive, places absolute."""
    record = node.record
    if record.elsewhere or record.parts or not tree.locator:
        return record
    return msgspec.structs.replace(
        record,
        at=node.base + record.at,
        data=node.base + record.data,
        index=node.base + record.index if record.index else 0,
        elsewhere=Elsewhere(tree.locator.id),
    )


def identify(path: str) -> Identity | None:
    """What archive a file is; one called `.xtar` that has lost its end is known by its root's structure file."""
    source = _open(path)
    if source is None:
        return None
    try:
        facts = find_locator(source)
        if facts:
            return Identity(facts.id, tuple(facts.replaces), facts.set.id if facts.set else "")
        place = Tree(source).root.record.structure if path.endswith(SUFFIX) else None
        return Identity(codec.sha256(source.read_at(place.at, place.size)).hex()) if place else None
    except XtarError:
        return None
    finally:
        source.close()


def _open(path: str) -> Source | None:
    try:
        return with_parity(FileSource(path))[0]
    except XtarError:
        return None


def _lookup(tree: Tree, path: bytes) -> Node | None:
    try:
        node = tree.lookup(path)
        return tree.lookup(node.record.raw_link) if node.record.link else node
    except (NotFound, NotADirectory, DamagedError):
        return None


def _members(node: Node, record: Record) -> Iterator[Span]:
    if record.elsewhere:
        local = msgspec.structs.replace(record, elsewhere=None)
        yield Span(0, record.size, Node(local, 0, node.path), record.elsewhere.archive)
    start = 0
    for part in record.parts:
        yield Span(start, start + part.size, Node(_of_part(record, part), 0, node.path, first=start), part.archive)
        start += part.size


def _of_part(record: Record, part: Part) -> Record:
    """A part as the record of a file of its own."""
    return msgspec.structs.replace(
        record,
        parts=(),
        size=part.size,
        at=part.at,
        data=part.data,
        packed=part.packed,
        chunk=record.chunk if part.index else 0,
        index=part.index,
        table_copy=part.table_copy,
        crc32=part.crc32,
        packed_crc32=part.packed_crc32,
        sha256="",
        holes=(),
    )

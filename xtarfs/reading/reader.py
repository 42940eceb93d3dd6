"""The public way into an archive: its tree, and the content of its files, wherever that lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..errors import DamagedError, ElsewhereError, FormatError, NotFound, XtarError
from ..format.locator import Base
from ..format.records import FILE, Record, holders_of
from ..source import FileSource, Source
from ..text import show
from .content import Content, Piece, content_cache, merged, whole
from .holders import Holders, identify, located
from .opening import with_parity
from .sets import Catalogues, SetTree, Volume
from .shelf import Shelf
from .tree import Node, Tree

DEFAULT_CACHE = 64 << 20


class Archive:
    """An open archive: its tree, and the content of its files.

    Paths are bytes below the root, without a leading slash; the empty path is the root. content: of the files whose
    members lie in this archive itself.
    """

    def __init__(
        self,
        source: Source,
        cache_size: int = DEFAULT_CACHE,
        tree: Tree | None = None,
        others: Iterable[str] = (),
        alone: bool = False,
    ) -> None:
        self.source = source
        shelf = Shelf(source.name, others, identify)
        own = tree or Tree(source)
        self.tree = own if alone else _tree_of_set(own, shelf)
        self._cache = cache = content_cache(cache_size)
        self.content = Content(source, self.tree.tables, self.tree, cache)
        identifier = self.tree.locator.id if self.tree.locator else ""
        self._holders = Holders(shelf, self.tree, cache, (identifier, self.content), self.name_of)

    @classmethod
    def open(
        cls, path: str, *, cache_size: int = DEFAULT_CACHE, others: Iterable[str] = (), alone: bool = False
    ) -> Archive:
        """Opens the archive at `path`. Raises SourceError, NotAnArchive.

        others: files, or folders of them, that may hold data of its files, besides those that lie beside it. alone:
        of a volume, show what it holds itself, and not its whole set.
        """
        source, problem = with_parity(FileSource(path))
        try:
            archive = cls(source, cache_size, others=others, alone=alone)
        except XtarError as error:
            source.close()
            if isinstance(source, FileSource):
                raise
            problem = f"parity does not suffice: {error}"
            archive = cls(FileSource(path), cache_size, others=others, alone=alone)
        except BaseException:
            source.close()
            raise
        if problem:
            archive.tree.report(b"", problem)
        return archive

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._holders.close()
        if isinstance(self.tree, SetTree):
            self.tree.catalogues.close()
        self.source.close()

    def cede_cache(self) -> int:
        """Leaves half of the cache to another reader of the same archive: the bytes of that half."""
        return self._cache.halve()

    # -- the tree --------------------------------------------------------------------------------------------

    @property
    def root(self) -> Node:
        return self.tree.root

    def lookup(self, path: bytes | str) -> Node:
        """The node at a path. Raises NotFound, NotADirectory, DamagedError."""
        raw = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
        return self.tree.lookup(raw)

    def children(self, node: Node, start: int = 0) -> Iterator[Node]:
        """A directory's children from the start-th on, sorted by the bytes of their names."""
        return self.tree.directory(node).children(start)

    def walk(self, top: Node | None = None) -> Iterator[Node]:
        """All nodes below `top` (default: the root), a directory before what it holds."""
        return self.tree.walk(top)

    def data_node(self, node: Node) -> Node:
        """The node that holds a file's data: itself, or the first name of a hard link.

        Raises ElsewhereError if that lies outside this archive.
        """
        record = node.record
        if not record.link:
            return node
        link, root = record.raw_link, self.tree.root_path
        if root:
            if not link.startswith(root + b"/"):
                raise ElsewhereError(f"{show(node.path)}: its data is stored under {show(link)}, outside this archive")
            link = link[len(root) + 1 :]
        try:
            target = self.tree.lookup(link)
        except NotFound:
            target = node
        if target.record.type != FILE or target.record.link:
            raise DamagedError(f"{show(node.path)}: hard link to {show(link)}, which holds no data", whole(record))
        return target

    # -- content ---------------------------------------------------------------------------------------------

    def read(self, node: Node, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Bytes [offset, offset + size) of a file, fewer only at its end.

        Raises DamagedError if any chunk in the range is damaged, ElsewhereError if the data is not at hand,
        SourceError if the medium fails.
        """
        node = self.data_node(node)
        end = min(offset + size, node.record.size)
        if offset >= end:
            return b""
        return (self._holders if _is_elsewhere(node) else self.content).read(node, offset, end)

    def pieces(self, node: Node) -> Iterator[Piece]:
        """A file's whole content in order, past the cache; damaged stretches come as pieces with an error.

        Raises ElsewhereError if nothing of it is at hand.
        """
        try:
            node = self.data_node(node)
        except DamagedError as error:
            yield Piece(0, node.record.size, b"", error)
            return
        yield from (self._holders if _is_elsewhere(node) else self.content).pieces(node)

    def damaged_ranges(self, node: Node) -> list[tuple[int, int]]:
        """Reads the whole file and gives the half-open ranges of its content that cannot be had, merged."""
        return merged((piece.start, piece.end) for piece in self.pieces(node) if piece.error)

    def was_healed(self, node: Node) -> bool:
        """Whether any of a file's data had to be rebuilt from parity so far."""
        node = self.data_node(node)
        return (self._holders if _is_elsewhere(node) else self.content).was_healed(node)

    def require_at_hand(self, node: Node) -> None:
        """Raises ElsewhereError if any of a file's data lies in another archive or volume that is not there."""
        self.members(node)

    def members(self, node: Node) -> list[tuple[Node, Content]]:
        """Where a file's data lies, in order: a node for each part, and the content of the archive that holds it.

        Raises ElsewhereError where any of it is missing.
        """
        node = self.data_node(node)
        if not _is_elsewhere(node):
            return [(node, self.content)]
        return [(span.node, content) for span, content in self._holders.members(node)]

    def leading(self, node: Node) -> Record:
        """A file's record as one in another archive may have it: leading to its members, if they can be found."""
        return self._holders.leading(node) if _is_elsewhere(node) else located(self.tree, node)

    def lacking(self, node: Node) -> str:
        """What to call the first archive or volume that has data of a file and is not at hand; empty if none is."""
        missing = (each for each in sorted(holders_of(node.record)) if not self._holders.has(each))
        return next(map(self.name_of, missing), "")

    def file_of(self, identifier: str) -> str:
        """The path of an archive that holds data of this one's files; empty if it is not at hand."""
        return self._holders.file_of(identifier)

    @property
    def bases(self) -> Sequence[Base]:
        """The other archives that hold data of this tree, the oldest first."""
        return self.tree.locator.base if self.tree.locator else ()

    def holders(self) -> Iterator[tuple[str, str, bool]]:
        """Identifier, name and presence of the bases and, of a set, of its volumes."""
        for base in self.bases:
            yield base.id, base.name, self._holders.has(base.id)
        if isinstance(self.tree, SetTree):
            for volume in self.tree.catalogues.volumes:
                yield volume, self.name_of(volume), self._holders.has(volume)

    def name_of(self, identifier: str) -> str:
        """What to call another archive, or volume, that holds data of this one's files."""
        if isinstance(self.tree, SetTree) and (volume := self.tree.catalogues.describe(identifier)):
            return volume
        name = next((base.name for base in self.bases if base.id == identifier), "")
        return f"{name} ({identifier[:12]})" if name else f"archive {identifier[:12]}"


def _tree_of_set(own: Tree, shelf: Shelf) -> Tree:
    """The tree of a volume's set; of the volume alone, as of any other archive, where there is no other."""
    if own.locator is None or own.locator.set is None:
        return own
    try:
        catalogues = Catalogues(Volume(own.source, own.locator, own.locator.set), shelf)
        try:
            return SetTree(own, catalogues)
        except BaseException:
            catalogues.close()
            raise
    except (ElsewhereError, FormatError) as error:
        own.report(b"", f"{error}; only the files of this volume are shown")
        return own


def _is_elsewhere(node: Node) -> bool:
    """Whether other archives are needed: not for a file without content."""
    return node.record.size > 0 and (node.record.elsewhere is not None or bool(node.record.parts))

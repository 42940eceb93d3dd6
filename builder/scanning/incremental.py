"""The copy before: which of its files the files of the source still are.

A file whose path, size, mtime, ctime and inode number are as they were is the same. Where one of them differs, or says
nothing because the file changed as the copy before was being made, the content decides by its SHA-256: of the file at
that path, and of the one that had the inode number. Devices are not compared: their numbers change with every boot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import Struct

from xtarfs.errors import NotAnArchive, UsageError, XtarError
from xtarfs.format.locator import ROOM_FOR_LISTS, Base, Locator
from xtarfs.format.numbers import format_time
from xtarfs.format.records import DIRECTORY, FILE, Record, holders_of, to_text
from xtarfs.reading.holders import identify, located
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node

from .identities import Identities, InodeTable
from .scan import Item

_LENT = (
    "size", "at", "data", "packed", "method", "chunk", "index", "table_copy", "crc32", "sha256", "packed_crc32",
    "elsewhere", "parts", "former", "former_b64",
)  # fmt: skip


class Former(Struct, frozen=True):
    """A file of the copy before, its places counting from the begin of the archive that holds it.

    attributes: its record there. path: where it was; moved: that was another path.
    """

    record: Record
    attributes: Record
    path: bytes
    moved: bool = False

    def lend(self, record: Record) -> None:
        """Makes `record` lead to the data of this file."""
        for name in _LENT:
            setattr(record, name, getattr(self.record, name))


class Match(Struct, frozen=True):
    """What a file of the source may still be. known: a file had its path; certain: it is the first of `formers`."""

    formers: tuple[Former, ...] = ()
    known: bool = False
    certain: bool = False

    def of(self, size: int, sha256: str) -> Former | None:
        """The file with this content."""
        for former in self.formers:
            if (former.record.size, former.record.sha256) == (size, sha256):
                return former
        return None


class PreviousCopy:
    """An archive as the base of the next, walked beside the source: `enter`, `find` and `leave` in archive order.

    checksum: content is compared whatever the attributes say. gone(path, files, bytes) is told of files and whole
    folders that the source has no more. Raises UsageError if the archive cannot be a base.
    """

    def __init__(self, path: str, work_dir: str, *, checksum: bool, gone: Callable[[bytes, int, int], None]) -> None:
        self._archive = archive = _open(path)
        try:
            facts = _locator(archive)
            self.identifier = archive.tree.identifier
            self._holders = [*facts.base, *archive.tree.holders]
            _require_room(self._holders)
            self._missing = {identifier for identifier, _, at_hand in archive.holders() if not at_hand}
        except BaseException:
            archive.close()
            raise
        self._checksum = checksum
        self._gone = gone
        self._identities = Identities(*(archive.tree.origin or (archive.source, facts.origin)))
        self._inodes = InodeTable(archive, self._identities, work_dir)
        self._cursors: list[_Cursor] = []

    def close(self) -> None:
        self._inodes.close()
        self._archive.close()

    def holders(self, used: set[str]) -> list[Base]:
        """Those archives of `used`, identifiers, with their files' names, the oldest first."""
        known = {base.id for base in self._holders}
        instead = [_base(one, self._archive.file_of(one)) for one in sorted(used - known)]
        return instead + [base for base in self._holders if base.id in used]

    def damage(self) -> Iterator[tuple[bytes, str]]:
        """Where this copy turned out to be damaged, and how: what could not be known of it is stored anew."""
        for path, what in self._archive.tree.damage:
            yield path, f"in {self._archive.source.name}: {what}"

    def require_apart(self, replaced: Iterable[str]) -> None:
        """Raises UsageError if any of these files is an archive that holds data of this copy."""
        for path in filter(os.path.isfile, replaced):
            old = identify(path)
            if old and any(base.id == old.id for base in self._holders):
                raise UsageError(f"{path}: holds data of the base and cannot be replaced by the new copy")

    def require_kinship(self, source: str) -> None:
        """Raises UsageError if this cannot be a copy of the folder: another inode, and no name at the top in common."""
        try:
            inode, names = os.stat(source).st_ino, os.listdir(source)
        except OSError:
            return  # the scan says why
        root = self._archive.root
        identity = self._identities.get(root.record.ino)
        if next(self._children(root), None) is None or (identity and identity.inode == inode):
            return
        if not any(map(self._has_at_top, names)):
            raise UsageError(
                f"--base {self._archive.source.name}: is no copy of {source}: no name at its top is there; "
                "give the base that belongs to it, or build without --base"
            )

    def _has_at_top(self, name: str) -> bool:
        """Whether the root has that name, or may have it: its records are damaged."""
        try:
            return self._archive.tree.directory(self._archive.root).get(os.fsencode(name)) is not None
        except XtarError:
            return True

    # -- beside the source, in archive order -----------------------------------------------------------------

    def enter(self, name: bytes | None) -> None:
        """A directory of the source begins; None is the root."""
        node = self._archive.root if name is None else self.find(name, DIRECTORY)
        self._cursors.append(_Cursor(self._children(node) if node else iter(()), self._skip))

    def leave(self) -> None:
        self._cursors.pop().finish()

    def find(self, name: bytes, kind: str) -> Node | None:
        """What the name was in the directory that is being walked, if it was of that type. Names must ascend."""
        node = self._cursors[-1].find(name)
        if node is not None and node.record.type != kind:
            self._skip(node)
            return None
        return node

    def match(self, item: Item) -> Match:
        """What a regular file of the source may still be."""
        node = self.find(item.name, FILE)
        identity = self._identities.get(node.record.ino) if node else None
        same_inode = identity is not None and identity.inode == item.stat.st_ino
        former = self._former(node) if node and node.record.size == item.stat.st_size else None
        if former and identity and same_inode and self._is_certain(item.stat, former, identity.ctime):
            return Match((former,), known=True, certain=True)
        moved = None if same_inode else self._moved(item)
        return Match(tuple(found for found in (former, moved) if found), known=node is not None)

    def _is_certain(self, stat: os.stat_result, former: Former, ctime: str) -> bool:
        return (
            not self._checksum
            and not former.record.changed
            and format_time(stat.st_ctime_ns) == ctime
            and format_time(stat.st_mtime_ns) == former.attributes.mtime
            and self._identities.is_settled(max(stat.st_ctime_ns, stat.st_mtime_ns))
        )

    def _moved(self, item: Item) -> Former | None:
        path = self._inodes.find(item.stat.st_ino, item.stat.st_size)
        try:
            return self._former(self._archive.lookup(path), moved=True) if path is not None else None
        except XtarError:
            return None

    def _former(self, node: Node, *, moved: bool = False) -> Former | None:
        """A file by the archive that holds its data; None if nothing vouches for its content."""
        try:
            holder = self._archive.data_node(node)
        except XtarError:
            return None
        if not holder.record.sha256:
            return None
        as_it_stands = holders_of(holder.record) <= self._missing
        record = located(self._archive.tree, holder) if as_it_stands else self._archive.leading(holder)
        if moved:
            former, encoded = to_text(node.path)
            record = msgspec.structs.replace(record, former=former, former_b64=encoded)
        return Former(record, node.record, node.path, moved)

    def _children(self, node: Node) -> Iterator[Node]:
        """A directory's children up to where it is damaged."""
        try:
            yield from self._archive.children(node)
        except XtarError as error:
            self._archive.tree.report(node.path, str(error))

    def _skip(self, node: Node) -> None:
        """The source has no file or folder at this path, or something else."""
        record = node.record
        if record.is_dir and record.files:
            self._gone(node.path, record.files, record.total)
        elif record.type == FILE:
            self._gone(node.path, 1, record.size)


def _base(identifier: str, path: str) -> Base:
    return Base(identifier, to_text(os.fsencode(os.path.basename(path)))[0])


class _Cursor:
    """A directory's children in order, beside another listing of it. skip(node) is told of those passed over."""

    def __init__(self, nodes: Iterator[Node], skip: Callable[[Node], None]) -> None:
        self._nodes = nodes
        self._skip = skip
        self._next = next(nodes, None)

    def find(self, name: bytes) -> Node | None:
        """The child of that name, once."""
        while self._next is not None and self._next.record.raw_name < name:
            self._skip(self._next)
            self._next = next(self._nodes, None)
        found = self._next
        if found is None or found.record.raw_name != name:
            return None
        self._next = next(self._nodes, None)
        return found

    def finish(self) -> None:
        """Passes over what is left."""
        while self._next is not None:
            self._skip(self._next)
            self._next = next(self._nodes, None)


def _open(path: str) -> Archive:
    try:
        return Archive.open(path)
    except NotAnArchive as error:
        raise UsageError(f"--base {error}") from None


def _locator(archive: Archive) -> Locator:
    facts = archive.tree.locator
    if facts is None:
        raise UsageError(
            f"--base {archive.source.name}: has lost its end, or is no archive that xtar wrote; "
            "'xtar repair' may help, or build without --base"
        )
    if facts.set and archive.tree.identifier != facts.set.id:
        raise UsageError(
            f"--base {archive.source.name}: is a volume of a set whose catalogue is not at hand; give the last volume"
        )
    return facts


def _require_room(bases: list[Base]) -> None:
    """The list of archives stands in the locator, whose place is bounded."""
    if len(msgspec.json.encode(bases)) > ROOM_FOR_LISTS:
        raise UsageError(f"--base: its data lies in {len(bases)} archives, which are too many; 'xtar merge' them first")

"""A directory without a structure file, listed from what its members say of themselves.

Serves tars made by hand from zips in the style of 2003, and archives of ours whose structure is lost or cut off.
Unlike everything else here it reads all headers below the directory at once. Places in its records are absolute.

Where things lie: what a tar holds lies where the tar does. An entry of a zip that carries a whole path is taken at its
word, as unzip takes it; where all such paths agree on top folders that the tars leave out, the rest goes there too.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

import msgspec
from msgspec import Struct, field

from ..errors import FormatError, SourceError
from ..format import member, tar, zip
from ..format.records import FILE, Record, Structure, to_text
from ..text import show
from . import foreign
from .tree import Node, StructuredDirectory, Tree, place_of

Location = tuple[bytes, ...]  # the names that lead to something, from the listed directory down

_OWN_ROLES = (
    tar.ROLE_INTRO
    + tar.ROLE_STRUCTURE
    + tar.ROLE_CATALOGUE
    + tar.ROLE_TABLES
    + tar.ROLE_ORIGIN
    + tar.ROLE_LOCATOR
    + tar.ROLE_SET
)
_NO_FILES = (b"V", b"M")  # a volume's label; the rest of a file that began in another volume
_STREAMED_NAME = (b"-",)  # what zip calls an entry that it reads from a pipe
_SCAN_WINDOW = 1 << 20
_SECTOR = 4096
_MAGIC_AT = 257
_MAX_NAME = 255
_MAX_DEPTH = 2048  # names in a path: more do not fit into the longest path that Linux takes
_FREE_FOLDERS, _BYTES_PER_FOLDER = 10_000, 256  # more folders than that for its size has no archive: memory is bounded


class Folder(Struct):
    """A listed directory: the records of its children, and what lies below those that are listed too.

    record: its own, where a header gives one, and of the folder that a listing began with alone.
    """

    record: Record | None = None
    records: dict[bytes, Record] = field(default_factory=dict)
    below: dict[bytes, Folder] = field(default_factory=dict)
    names: list[bytes] = field(default_factory=list)


class MemoryDirectory:
    """A folder in its place. Nodes are made as they are asked for: their paths would outgrow the archive."""

    def __init__(self, path: bytes, folder: Folder) -> None:
        self._prefix = path + b"/" if path else b""
        self._folder = folder

    def get(self, name: bytes) -> Node | None:
        return self._node(name) if name in self._folder.records else None

    def children(self, start: int = 0) -> Iterator[Node]:
        folder = self._folder
        if len(folder.names) != len(folder.records):
            folder.names = sorted(folder.records)
        for name in folder.names[start:]:
            yield self._node(name)

    def _node(self, name: bytes) -> Node:
        path, below = self._prefix + name, self._folder.below.get(name)
        return Node(self._folder.records[name], 0, path, MemoryDirectory(path, below) if below else None)


def load(tree: Tree, path: bytes, start: int, end: int) -> MemoryDirectory:
    """The directory at `path`, whose tar is [start, end) of the source."""
    folder = tree.made_up.get(path)
    if folder is None:
        base = b"/".join(part for part in (tree.root_path, path) if part)
        folder = tree.made_up[path] = Listing(tree, path, base).run(start, min(end, tree.source.size))
    return MemoryDirectory(path, folder)


class Listing:
    """One run over all headers below a directory.

    base: where the directory lay in the archive that it was written in, if that is known, or has come to be.
    members: how many headers were met; ours: whether any of them is of an archive of ours.
    """

    def __init__(self, tree: Tree, path: bytes, base: bytes | None = None) -> None:
        self.base = base
        self.members = 0
        self.ours = False
        self._tree = tree
        self._read = tree.source.read_at
        self._path = path
        self._root = Folder()
        self._nested: list[tuple[int, int, Location]] = []  # tars yet to be listed: start, end, location
        self._zips: dict[bytes, tar.Member] = {}  # by the member's name, of the tar that is being listed
        self._rest: list[tuple[Location, Location, Record | None]] = []  # what lies where its tar does; None: a folder
        self._links: list[tuple[Location, tar.Member, Record]] = []
        self._tops: set[Location] = set()
        self._room = _FREE_FOLDERS + tree.source.size // _BYTES_PER_FOLDER

    def run(self, start: int, end: int) -> Folder:
        """The folder of the tar in [start, end)."""
        self._nested.append((start, end, ()))
        while self._nested:
            self._list_tar(*self._nested.pop())
        top = self._tops.pop() if len(self._tops) == 1 else ()
        for location, parts, record in self._rest:
            self._add(top + location + parts, record)
        for location, found, record in self._links:
            self._link(top + location, found.header, record)
        return self._root

    # -- members of a tar ------------------------------------------------------------------------------------

    def _list_tar(self, start: int, end: int, location: Location) -> None:
        self._zips.clear()
        for found in self._members(start, end):
            self.members += 1
            mark = found.header.mark
            self.ours = self.ours or mark is not None
            parts = _parts(found.header.pax.get("GNU.sparse.name", found.header.name))
            if (mark and mark.role in _OWN_ROLES) or found.header.type in _NO_FILES:
                continue
            last = min(found.data + found.header.size, end)
            if found.header.type != tar.REGULAR or not self._container(found, location, parts, last):
                self._native(found, location, parts)

    def _container(self, found: tar.Member, location: Location, parts: Location, end: int) -> bool:
        """Lists a zip or nested tar that ends at `end`; False if it is neither but a file that is only called so."""
        ours = found.header.mark is not None
        if parts[-1:] and parts[-1].endswith(member.DIRECTORY_SUFFIX):
            if ours or self._is_tar(found.data, end):
                self._directory(found, location + _stripped(parts, member.DIRECTORY_SUFFIX), end)
                return True
        elif parts[-1:] and parts[-1].endswith(member.FILE_SUFFIX):
            place = location + _stripped(parts, member.FILE_SUFFIX)
            if place and (ours or self._is_zip(found.data, end)):
                self._zips[found.header.name] = found
                self._zip(found, place, end)
                return True
        return False

    def _is_tar(self, start: int, end: int) -> bool:
        return not self._read(start, min(tar.BLOCK, end - start)).strip(b"\0") or self._find(start, end) < end

    def _is_zip(self, start: int, end: int) -> bool:
        """Whether either end of a zip is there."""
        tail = self._read(max(start, end - _SECTOR), end - max(start, end - _SECTOR))
        return self._read(start, 2) == b"PK" or zip.END_SIGNATURE in tail

    def _native(self, found: tar.Member, location: Location, parts: Location) -> None:
        name = (parts or location or (b".",))[-1]
        if not parts and found.header.type != tar.DIRECTORY:
            return
        record = foreign.from_header(found, name, self._tree.new_ino())
        if found.header.type != tar.HARD_LINK:
            self._rest.append((location, parts, record))
            return
        target = self._zips.get(found.header.link)
        if target and name.endswith(member.FILE_SUFFIX):
            self._zip(target, location + _stripped(parts, member.FILE_SUFFIX), target.data + target.header.size)
        else:
            self._links.append((location, found, record))

    def _directory(self, found: tar.Member, location: Location, end: int) -> None:
        """A nested tar: by its structure if that says that it belongs here, else by its members."""
        record = self._structured(found.data, end, location) if location else None
        if record:
            self._add(location, record)
            return
        self._rest.append((location, (), None))
        if len(location) > _MAX_DEPTH:
            self._tree.report(self._path, f"tar at byte {found.data} is nested too deep")
        else:
            self._nested.append((found.data, end, location))

    def _structured(self, start: int, end: int, location: Location) -> Record | None:
        path = b"/".join(location)
        try:
            place = self._find_structure(start, end)
            if place is None:
                return None
            header = StructuredDirectory(self._tree, path, start, end - start, place).header()
        except (FormatError, SourceError):
            return None
        whole = b"/" + header.raw_path
        base = whole[1 : -len(path) - 1]
        if not whole.endswith(b"/" + path) or base != (base if self.base is None else self.base):
            return None
        self.base = base
        record = msgspec.structs.replace(header.directory, data=start, packed=end - start, structure=place)
        record.name, record.name_b64 = to_text(location[-1])
        return record

    def _find_structure(self, start: int, end: int) -> Structure | None:
        for found in self._members(start, end):
            if found.header.mark is None:
                return None
            if found.header.mark.role == tar.ROLE_STRUCTURE:
                return place_of(self._tree.source, found, start)
        return None

    def _members(self, start: int, end: int) -> Iterator[tar.Member]:
        """The tar's members; past a broken header, the next that is one and, in an archive of ours, of this tar."""
        at, mark = start, None
        while at + tar.BLOCK <= end:
            broken = False
            try:
                found = tar.read_member(self._read, at)
            except (FormatError, SourceError):
                found, broken = None, True
            if found is None:
                after = at + tar.BLOCK
                at = self._find(after, end if broken else min(end, after + _SCAN_WINDOW), mark)
                if not broken and at >= min(end, after + _SCAN_WINDOW):
                    return
                self._tree.report(self._path, f"tar header at byte {after - tar.BLOCK} is damaged")
                continue
            mark = mark or found.header.mark
            yield found
            at = found.end

    def _find(self, at: int, end: int, like: tar.Mark | None = None) -> int:
        """The next header at a block's start in [at, end), of the same tar as `like`; `end` if there is none."""
        step = _SCAN_WINDOW
        while at < end:
            try:
                window = self._read(at, min(step, end - at))
            except SourceError:
                step, at = _SECTOR, at + (_SECTOR if step == _SECTOR else 0)
                continue
            hit = window.find(b"ustar", _MAGIC_AT)
            while hit >= 0:
                offset = hit - _MAGIC_AT
                if offset % tar.BLOCK == 0 and _is_header(window[offset : offset + tar.BLOCK], like):
                    return at + offset
                hit = window.find(b"ustar", hit + 1)
            at += step
        return end

    # -- entries of a zip ------------------------------------------------------------------------------------

    def _zip(self, found: tar.Member, location: Location, end: int) -> None:
        placed = self._is_empty_zip(found, end)
        for entry in self._entries(found.data, end):
            parts = _parts(entry.name)
            if not parts:
                continue
            placed = True
            if parts == _STREAMED_NAME:
                parts = location[-1:]
            place = self._place(parts, location, found.header.mark is not None)
            ino = self._tree.new_ino()
            if stat.S_ISDIR(entry.mode) or entry.name.endswith(b"/"):
                self._add(place, foreign.folder(place[-1], ino, entry))
            else:
                record = foreign.from_entry(self._read, entry, place[-1], ino, end)
                if found.header.mark:
                    foreign.decorate(record, found.header)
                self._add(place, record)
        if not placed:
            record = foreign.lost(location[-1], self._tree.new_ino(), size=found.header.size)
            self._rest.append((location, (), record))

    def _entries(self, start: int, end: int) -> Iterator[zip.Entry]:
        """What the central directory lists; where it is lost, what the first local header tells."""
        count = 0
        try:
            for entry in zip.read_central(self._read, start, end):
                count += 1
                yield entry
        except (FormatError, SourceError):
            if not count:
                try:
                    yield zip.read_local(self._read, start)[0]
                except (FormatError, SourceError):
                    return

    def _is_empty_zip(self, found: tar.Member, end: int) -> bool:
        return self._read(found.data, 4) == zip.END_SIGNATURE and found.data + found.header.size == end

    def _place(self, parts: Location, location: Location, ours: bool) -> Location:
        """Where the entry `parts` of the zip at `location` belongs."""
        folders = location[:-1]
        if ours or len(parts) == 1:
            return folders + parts[-1:]
        if parts[-len(location) :] == location:
            self._tops.add(parts[: -len(location)])
        if not folders or b"/%s/" % b"/".join(folders) in b"/" + b"/".join(parts):
            return parts
        return folders + parts

    # -- the tree that comes of it ---------------------------------------------------------------------------

    def _add(self, location: Location, record: Record | None) -> None:
        """Puts a record in its place. Of two, the last counts, as for tar and unzip; but a folder stays a folder."""
        if not location:
            self._root.record = record or self._root.record
            return
        if len(location) > min(_MAX_DEPTH, self._room):
            self._tree.report(self._path, f"{show(location[-1])} lies in too many folders to be shown")
            return
        name, folder = location[-1], self._folder(location[:-1])
        if record is None or (record.is_dir and record.structure is None):
            self._folder(location)
            folder.records[name] = record or folder.records[name]
        elif name not in folder.below:
            folder.records[name] = record

    def _folder(self, location: Location) -> Folder:
        folder = self._root
        for name in location:
            if name not in folder.below:
                folder.below[name] = Folder()
                folder.records[name] = foreign.folder(name, self._tree.new_ino())
                self._room -= 1
            folder = folder.below[name]
        return folder

    def _link(self, location: Location, header: tar.Header, record: Record) -> None:
        """A further name of a file that lies in a tar as it is, or of a native entry."""
        target = location + _parts(header.link)
        folder: Folder | None = self._root
        for name in target[:-1]:
            folder = folder.below.get(name) if folder else None
        first = folder.records.get(target[-1]) if folder and target else None
        record.link, record.link_b64 = to_text(b"/".join(part for part in (self.base, self._path, *target) if part))
        if first and first.type == FILE:
            first.nlink += 1
            record = msgspec.structs.replace(
                first,
                name=record.name,
                name_b64=record.name_b64,
                link=first.link or record.link,
                link_b64=first.link_b64 or record.link_b64,
            )
        elif first and not first.is_dir:
            record = msgspec.structs.replace(first, name=record.name, name_b64=record.name_b64)
        self._add(location + _parts(header.name), record)


def _is_header(block: bytes, like: tar.Mark | None) -> bool:
    try:
        mark = tar.parse(block).mark
    except FormatError:
        return False
    return like is None or (mark is not None and (mark.tag, mark.ino) == (like.tag, like.ino))


def _parts(name: bytes) -> Location:
    """A stored path's names, cut to what a file system takes, without what could lead out of the tree."""
    name = name.partition(b"\0")[0]
    return tuple(part[:_MAX_NAME] for part in name.split(b"/") if part not in (b"", b".", b".."))


def _stripped(parts: Location, suffix: bytes) -> Location:
    """`a/NAME.zip` or `a/NAME/.zip` without the suffix."""
    name = parts[-1][: -len(suffix)]
    return (*parts[:-1], name) if name else parts[:-1]

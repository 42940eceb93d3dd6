"""A directory without a structure file, listed from what its members say of themselves.

Serves tars made by hand from zips in the style of 2003, and archives of ours whose structure is lost or cut off.
Unlike everything else here it reads all headers below the directory at once. Places in its records are absolute.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from .errors import FormatError, SourceError
from .format import chunks, member, tar, zip
from .format.records import (
    BLOCK_DEVICE,
    CHARACTER,
    DEFLATE,
    DIRECTORY,
    FIFO,
    FILE,
    STORE,
    SYMLINK,
    TYPE_OF_BITS,
    Record,
    Structure,
    new_record,
    to_text,
    xattrs_to_text,
)
from .tree import Node, StructuredDirectory, Tree, place_of

DAMAGED = "damaged"  # method of a file that is known by name alone

_NATIVE = {tar.SYMLINK: SYMLINK, tar.CHARACTER: CHARACTER, tar.BLOCK_DEVICE: BLOCK_DEVICE, tar.FIFO: FIFO}
_OWN_ROLES = tar.ROLE_INTRO + tar.ROLE_STRUCTURE + tar.ROLE_CATALOGUE + tar.ROLE_ORIGIN + tar.ROLE_LOCATOR
_SCAN_WINDOW = 1 << 20
_MAGIC_AT = 257


class MemoryDirectory:
    """Children held in memory."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.nodes: dict[bytes, Node] = {}
        self.below: dict[bytes, MemoryDirectory] = {}

    def get(self, name: bytes) -> Node | None:
        return self.nodes.get(name)

    def children(self, start: int = 0) -> Iterator[Node]:
        for name in sorted(self.nodes)[start:]:
            yield self.nodes[name]


def load(tree: Tree, path: bytes, start: int, end: int) -> MemoryDirectory:
    """The tree of the tar in [start, end), whose root lies at `path` of the archive."""
    made = tree.made_up.get(path)
    if made is None:
        made = _Listing(tree, path).run(start, min(end, tree.source.size))
        _register(tree, made)
    return made


def _register(tree: Tree, directory: MemoryDirectory) -> None:
    tree.made_up[directory.path] = directory
    for below in directory.below.values():
        _register(tree, below)


class _Listing:
    """One run over all headers below a directory."""

    def __init__(self, tree: Tree, path: bytes) -> None:
        self._tree = tree
        self._read = tree.source.read_at
        self._root = MemoryDirectory(path)
        self._added = 0

    def run(self, start: int, end: int) -> MemoryDirectory:
        self._list_tar(start, end, ())
        return self._root

    def _list_tar(self, start: int, end: int, location: tuple[bytes, ...]) -> None:
        for found in list(self._members(start, end)):
            header = found.header
            role = header.mark.role if header.mark else b""
            parts = _parts(header.name)
            if role and role in _OWN_ROLES:
                continue
            if header.type == tar.DIRECTORY:
                self._set_directory(location + parts, header)
            elif header.type == tar.REGULAR and parts and parts[-1].endswith(member.DIRECTORY_SUFFIX):
                self._nested(found, location + _stripped(parts, member.DIRECTORY_SUFFIX), end)
            elif header.type == tar.REGULAR and parts and parts[-1].endswith(member.FILE_SUFFIX):
                self._zip(found, location + _stripped(parts, member.FILE_SUFFIX), min(found.data + header.size, end))
            elif parts:
                self._plain(found, location + parts)

    def _members(self, start: int, end: int) -> Iterator[tar.Member]:
        """The tar's members; past a broken header, the next that is one. Headers of ours must be of this directory."""
        at, ino = start, None
        while at + tar.BLOCK <= end:
            try:
                found = tar.read_member(self._read, at)
            except (FormatError, SourceError):
                self._tree.report(self._root.path, f"tar header at byte {at} is damaged")
                at = self._next_header(at + tar.BLOCK, end, ino)
                continue
            if found is None:
                return
            if found.header.mark and ino is None:
                ino = found.header.mark.ino
            yield found
            at = found.end

    def _next_header(self, at: int, end: int, ino: int | None) -> int:
        while at < end:
            window = self._read(at, min(_SCAN_WINDOW, end - at))
            for offset in range(0, len(window) - tar.BLOCK + 1, tar.BLOCK):
                if window[offset + _MAGIC_AT : offset + _MAGIC_AT + 5] != b"ustar":
                    continue
                try:
                    mark = tar.parse(window[offset : offset + tar.BLOCK]).mark
                except FormatError:
                    continue
                if ino is None or (mark and mark.ino == ino):
                    return at + offset
            at += _SCAN_WINDOW
        return end

    def _nested(self, found: tar.Member, location: tuple[bytes, ...], end: int) -> None:
        last = min(found.data + found.header.size, end)
        place = self._structure(found.data, last)
        if place and location:
            record = self._structured(location, found.data, place)
            record.data, record.packed, record.structure = found.data, last - found.data, place
            self._add(location, record)
            return
        before = self._added
        self._list_tar(found.data, last, location)
        if found.header.mark or self._added == before:
            self._folder(location)

    def _structured(self, location: tuple[bytes, ...], start: int, place: Structure) -> Record:
        """The attributes that a nested archive's own structure gives it."""
        try:
            return StructuredDirectory(self._tree, b"/".join(location), start, 0, place).header().directory
        except FormatError:
            return new_record(location[-1], DIRECTORY, 0o755, 0, self._tree.new_ino())

    def _structure(self, start: int, end: int) -> Structure | None:
        try:
            for found in self._members(start, end):
                if found.header.mark and found.header.mark.role == tar.ROLE_STRUCTURE:
                    return place_of(self._tree.source, found, start)
        except (FormatError, SourceError):
            pass
        return None

    def _zip(self, found: tar.Member, location: tuple[bytes, ...], end: int) -> None:
        try:
            entries = list(zip.read_central(self._read, found.data, end))
        except (FormatError, SourceError):
            entries = self._local_only(found)
        if not entries:
            self._lost(location, end - found.data)
        for entry in entries:
            parts = _parts(entry.name)
            whole = entry.tag is None and len(parts) > 1
            base = () if whole else location[:-1]
            place = base + (parts if whole else parts[-1:])
            if not parts:
                continue
            if stat.S_ISDIR(entry.mode):
                self._folder(place)
                continue
            try:
                self._add(place, self._file(entry, place[-1]))
            except (FormatError, SourceError):
                self._lost(place, entry.size)

    def _local_only(self, found: tar.Member) -> list[zip.Entry]:
        try:
            return [zip.read_local(self._read, found.data)[0]]
        except (FormatError, SourceError):
            return []

    def _file(self, entry: zip.Entry, name: bytes) -> Record:
        local, data = zip.read_local(self._read, entry.offset)
        kind = TYPE_OF_BITS.get(stat.S_IFMT(entry.mode), FILE)
        uid, gid = max(entry.uid, local.uid, 0), max(entry.gid, local.gid, 0)
        mtime = local.mtime if entry.tag is None and local.mtime % (2 * 10**9) else entry.mtime
        record = new_record(name, FILE, entry.mode, mtime, self._tree.new_ino(), uid, gid)
        record.size, record.packed, record.data, record.crc32 = entry.size, entry.packed, data, f"{entry.crc32:08x}"
        methods = {zip.STORED: STORE, zip.DEFLATED: DEFLATE}
        record.method = "encrypted" if entry.encrypted else methods.get(entry.method, f"zip method {entry.method}")
        if kind == SYMLINK and record.method == STORE:
            target = self._read(data, entry.packed)
            record.type, (record.target, record.target_b64) = SYMLINK, to_text(target)
        else:
            self._find_table(record, entry)
        return record

    def _find_table(self, record: Record, entry: zip.Entry) -> None:
        """The chunk table right behind the data, where there is one that fits."""
        try:
            hidden, at = zip.read_local(self._read, record.data + record.packed)
            if not hidden.name.endswith((b".sozip.idx", b".xtar.crc")):
                return
            chunk_size = chunks.read_chunk_size(self._read, at, record.size, record.packed)
            if hidden.size == chunks.table_size(record.size, chunk_size, entry.method):
                record.chunk, record.index = chunk_size, at
        except (FormatError, SourceError):
            return

    def _plain(self, found: tar.Member, location: tuple[bytes, ...]) -> None:
        """A native entry, or a regular file that was put into the tar as it is: no checksum vouches for that one."""
        header = found.header
        kind = _NATIVE.get(header.type, FILE)
        record = new_record(
            location[-1], kind, header.mode, header.mtime * 10**9, self._tree.new_ino(), header.uid, header.gid
        )
        _decorate(record, header)
        if header.type == tar.HARD_LINK:
            record.link, record.link_b64 = to_text(b"/".join(location[:-1] + _parts(header.link)))
            target = self._root.nodes.get(location[-1])
            record.size = target.record.size if target else 0
        elif kind == SYMLINK:
            record.target, record.target_b64 = to_text(header.link)
            record.size = len(header.link)
        elif kind == FILE:
            record.size = record.packed = header.size
            record.data = found.data
        record.major, record.minor = header.major, header.minor
        self._add(location, record)

    def _lost(self, location: tuple[bytes, ...], size: int) -> None:
        record = new_record(location[-1], FILE, 0o644, 0, self._tree.new_ino())
        record.size, record.method = size, DAMAGED
        self._add(location, record)

    def _set_directory(self, location: tuple[bytes, ...], header: tar.Header) -> None:
        directory = self._folder(location)
        node = self._node_of(directory)
        made = new_record(
            location[-1] if location else b".", DIRECTORY, header.mode, header.mtime * 10**9, 0, header.uid, header.gid
        )
        made.ino = node.record.ino if node else 1
        made.structure, made.data, made.packed = None, 0, 0
        _decorate(made, header)
        if node:
            node.record = made
        elif directory is self._root and not self._root.path:
            self._tree.unstructured_root = made

    def _node_of(self, directory: MemoryDirectory) -> Node | None:
        if directory is self._root:
            return None
        below = directory.path[len(self._root.path) :].strip(b"/")
        parent = self._folder(tuple(below.split(b"/"))[:-1])
        return parent.nodes[below.rpartition(b"/")[2]]

    def _folder(self, location: tuple[bytes, ...]) -> MemoryDirectory:
        directory = self._root
        for name in location:
            if name not in directory.below:
                path = directory.path + b"/" + name if directory.path else name
                directory.below[name] = MemoryDirectory(path)
                record = new_record(name, DIRECTORY, 0o755, 0, self._tree.new_ino())
                directory.nodes[name] = Node(record, 0, path)
            directory = directory.below[name]
        return directory

    def _add(self, location: tuple[bytes, ...], record: Record) -> None:
        if not location:
            return
        self._added += 1
        directory = self._folder(location[:-1])
        path = directory.path + b"/" + location[-1] if directory.path else location[-1]
        directory.nodes[location[-1]] = Node(record, 0, path)


def _decorate(record: Record, header: tar.Header) -> None:
    record.user, record.group = header.user.decode("utf-8", "replace"), header.group.decode("utf-8", "replace")
    prefix = tar.XATTR_PREFIX
    xattrs = {
        key[len(prefix) :].encode("utf-8", "surrogateescape"): value
        for key, value in header.pax.items()
        if key.startswith(prefix)
    }
    if xattrs:
        record.xattrs = xattrs_to_text(xattrs)


def _parts(name: bytes) -> tuple[bytes, ...]:
    """A stored path's components, without what could lead out of the tree."""
    return tuple(part for part in name.split(b"/") if part not in (b"", b".", b".."))


def _stripped(parts: tuple[bytes, ...], suffix: bytes) -> tuple[bytes, ...]:
    """`a/NAME.zip` or `a/NAME/.zip` without the suffix."""
    name = parts[-1][: -len(suffix)]
    return (*parts[:-1], name) if name else parts[:-1]

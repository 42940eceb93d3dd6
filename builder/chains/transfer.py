"""Files from archive to archive: packed data is copied as it is, and the headers around it are written anew.

Every stretch of packed data is compared with its checksum on the way. What fails is taken from parity; where that
does not suffice the transfer ends, because nothing damaged may be carried on as if it were sound.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from xtarfs.errors import DamagedError, FormatError, SourceError
from xtarfs.format import chunks, codec, member, tar, zip
from xtarfs.format.records import DEFLATE, FILE, Record
from xtarfs.reading.content import Content
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node, StructuredDirectory
from xtarfs.source import Source
from xtarfs.text import show

from ..writing.compress import MAX_CHUNKS
from ..writing.layout import Layout, surround

_PIECE = 1 << 20  # bytes copied at a time
_FINAL_BLOCK = b"\x03\x00"  # ends a part's stream; between the chunks of a whole file there is none

ReadAt = Callable[[int, int], bytes]


class Held(NamedTuple):
    """A member that holds a file, or a part of one: a node whose places are those of `content`, and which names no
    other archive."""

    node: Node
    content: Content

    @property
    def source(self) -> Source:
        return self.content.source


Keep = Callable[[Node], Record | None]
"""Gives the record of a file whose data may stay in another archive, None where the data is to be copied."""


def copy_tree(
    archive: Archive, layout: Layout, progress: Callable[[int], None], keep: Keep = lambda node: None
) -> None:
    """Writes an archive's whole tree, root included. progress(bytes of content more) is called as it goes.

    Raises DamagedError, ElsewhereError and SourceError where anything of it cannot be had.
    """
    stack = [_enter(archive, archive.root, layout)]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            layout.leave()
            stack.pop()
            continue
        record = node.record
        if record.is_dir:
            stack.append(_enter(archive, node, layout))
        elif record.type != FILE:
            layout.add_native(msgspec.structs.replace(record))
        elif record.link:
            layout.add(record)
        else:
            kept = keep(node)
            if kept:
                layout.add(kept)
            else:
                copy_file(layout, record, [Held(*member) for member in archive.members(node)])
            progress(record.size)


def _enter(archive: Archive, node: Node, layout: Layout) -> Iterator[Node]:
    """Begins a directory; gives its children."""
    directory = archive.tree.directory(node)
    if not isinstance(directory, StructuredDirectory):
        raise DamagedError(f"{archive.source.name}: the structure of {show(node.path)} is damaged in both copies")
    record = msgspec.structs.replace(node.record, at=0, data=0, packed=0, sha256="", structure=None, files=0, total=0)
    layout.enter(record, _Names(directory))
    return directory.children()


class _Names:
    """The names in a directory, looked up where they stand."""

    def __init__(self, directory: StructuredDirectory) -> None:
        self._directory = directory

    def __contains__(self, name: object) -> bool:
        return isinstance(name, bytes) and self._directory.get(name) is not None


def copy_file(layout: Layout, record: Record, held: Sequence[Held]) -> None:
    """Writes a file as a child of the directory under construction, from its member or its parts in their order.

    `record` says what the file is; it is not changed. Raises DamagedError, SourceError; the archive under construction
    is of no use then.
    """
    record = msgspec.structs.replace(record, elsewhere=None, parts=(), former="", former_b64="")
    between = len(_FINAL_BLOCK) if record.method == DEFLATE else 0
    record.packed = sum(part.node.record.packed for part in held) - between * (len(held) - 1)
    table = joined_table(record, held)
    name = record.raw_name
    mark = layout.mark(tar.ROLE_FILE)
    at = layout.out.position
    around = surround(record, layout.child_path(name), layout.member_name(name, member.FILE_SUFFIX), mark, table)
    layout.out.write(around.head)
    crc = 0
    for part in held[:-1]:
        crc = copy_packed(layout, part, crc, between)
    crc = copy_packed(layout, held[-1], crc)
    expected = record.packed_crc32 if record.method == DEFLATE else record.crc32
    if expected not in ("", f"{crc:08x}"):
        raise DamagedError(f"{show(held[0].node.path)}: its parts do not fit together")
    if record.method == DEFLATE:
        record.packed_crc32 = f"{crc:08x}"
    layout.out.write(around.tail)
    layout.add_file(record, at, table)


def copy_packed(layout: Layout, held: Held, crc: int, left_out: int = 0) -> int:
    """Appends a member's packed data but for its last `left_out` bytes; gives the CRC-32 `crc` continued over it.

    Raises DamagedError if neither the source nor its parity has what the checksum stands for.
    """
    start = layout.out.position
    for read in (held.source.read_at, _healed(held.source)):
        copied = _try_packed(layout, held, read, crc, left_out)
        if copied is not None:
            return copied
        layout.out.rewind(start)
    raise DamagedError(f"{held.source.name}: {show(held.node.path)} is damaged there, and parity does not suffice")


def _try_packed(layout: Layout, held: Held, read: ReadAt, crc: int, left_out: int) -> int | None:
    record = held.node.record
    at, kept, own = held.node.base + record.data, record.packed - left_out, 0
    for offset in range(0, record.packed, _PIECE):
        wanted = min(_PIECE, record.packed - offset)
        try:
            data = read(at + offset, wanted)
        except SourceError:
            return None
        if len(data) < wanted:
            return None
        own = codec.crc32(data, own)
        if offset + wanted > kept:
            data = data[: max(kept - offset, 0)]
        crc = codec.crc32(data, crc)
        layout.out.write(data)
    # What is stored is its own packed data; a deflated file whose packed data nothing vouches for is not ours.
    expected = record.packed_crc32 or (record.crc32 if record.method != DEFLATE else "")
    return crc if expected == f"{own:08x}" else None


def joined_table(record: Record, held: Sequence[Held]) -> bytes:
    """The chunk table of a file, its `packed` known, from those of its parts; empty if there is none."""
    if not record.chunk:
        return b""
    if len(held) == 1:
        return read_table(held[0])
    crcs, offsets = array("I"), array("Q")
    shift = 0
    for part in held:
        rows = _rows(part)
        crcs.extend(rows.crcs)
        offsets.extend(shift + bound for bound in rows.bounds[:-1])
        shift += part.node.record.packed - (len(_FINAL_BLOCK) if record.method == DEFLATE else 0)
    if len(crcs) != chunks.chunk_count(record.size, record.chunk):
        raise DamagedError(f"{show(held[0].node.path)}: its parts do not fit together")
    return chunks.pack_table(record.size, record.packed, record.chunk, member.method_of(record), crcs, offsets[1:])


def _rows(part: Held) -> chunks.Rows:
    """All rows of a part's table; a part of one chunk has none, and is its own row."""
    record = part.node.record
    if not record.chunk:
        return chunks.Rows(0, (record.crc,), (0, record.packed))
    table = read_table(part)
    count = chunks.chunk_count(record.size, record.chunk)
    method = member.method_of(record)

    def read_at(at: int, size: int) -> bytes:
        return table[at : at + size]

    return chunks.read_rows(read_at, 0, record.size, record.packed, record.chunk, method, 0, count - 1)


def read_table(held: Held) -> bytes:
    """The payload of a chunked file's table: the copy that matches its checksum, from parity if need be.

    Raises DamagedError.
    """
    record, base = held.node.record, held.node.base
    if chunks.chunk_count(record.size, record.chunk) > MAX_CHUNKS:
        raise DamagedError(f"{held.source.name}: {show(held.node.path)} has an impossible chunk table")
    size = chunks.table_size(record.size, record.chunk, member.method_of(record))
    places = [base + record.index]
    if held.content.tables is not None:
        places.append(held.content.tables + record.table_copy)
    for read in (held.source.read_at, _healed(held.source)):
        tables = [table for place in places if len(table := _try(read, place, size)) == size]
        expected = _table_checksum(read, base + record.data + record.packed)
        for table in tables:
            if codec.crc32(table) == expected:
                return table
        if len(tables) == 2 and tables[0] == tables[1]:
            return tables[0]
    raise DamagedError(f"{held.source.name}: the chunk table of {show(held.node.path)} is damaged")


def _table_checksum(read: ReadAt, at: int) -> int | None:
    """The CRC-32 that the local header in front of a chunk table states; None if that is damaged."""
    try:
        return zip.read_local(read, at)[0].crc32
    except (FormatError, SourceError):
        return None


def _try(read: ReadAt, at: int, size: int) -> bytes:
    try:
        return read(at, size)
    except SourceError:
        return b""


def _healed(source: Source) -> ReadAt:
    return lambda offset, size: source.heal(offset, size) or b""

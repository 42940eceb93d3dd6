"""The catalogue of a set: the structure files of the whole tree, their records leading to the volumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, NamedTuple

import msgspec

from xtarfs.format.locator import Place, VolumeSet
from xtarfs.format.records import FILE, Elsewhere, Part, Record, Structure
from xtarfs.format.structure import pack_block
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node

from ..writing.section import Section
from .placement import Piece, Placements


class _Folder(NamedTuple):
    section: Section
    below: Iterator[Node]


def compose(full: Archive, placements: Placements, volumes: list[str], spool: IO[bytes]) -> VolumeSet:
    """Writes the data of the set's catalogue to `spool`. volumes: their identifiers, in order.

    Gives what locators say of the set, its place and the volume's number still to be filled in.
    """
    facts = full.tree.locator
    assert facts
    head = spool.write(volume_list(volumes))
    wholes = placements.wholes()
    stack = [_folder(full, full.root)]
    while True:
        folder = stack[-1]
        node = next(folder.below, None)
        if node is None:
            record = _close(folder.section, bytes.fromhex(facts.tag), spool)
            stack.pop()
            if not stack:
                assert record.structure
                return VolumeSet(record.sha256, 0, len(volumes), Place(0, 0, ""), head, record.structure)
            stack[-1].section.add(record)
        elif node.record.is_dir:
            stack.append(_folder(full, node))
        else:
            folder.section.add(_located(node.record, placements, wholes, volumes))


def volume_list(volumes: list[str]) -> bytes:
    """The block that a set's catalogue begins with."""
    return pack_block(msgspec.json.encode(volumes) + b"\n")


def _folder(full: Archive, node: Node) -> _Folder:
    record = msgspec.structs.replace(node.record, at=0, data=0, packed=0, sha256="", structure=None, files=0, total=0)
    return _Folder(Section(record, node.path), full.children(node))


def _close(section: Section, tag: bytes, spool: IO[bytes]) -> Record:
    """Writes a directory's structure file; gives its record."""
    data, index = section.finish(tag)
    section.record.structure = Structure(0, len(data), index, spool.tell())
    spool.write(data)
    return section.record


def _located(record: Record, placements: Placements, wholes: Iterator[Piece], volumes: list[str]) -> Record:
    """A child's record, leading to the volume that has it."""
    if record.link or record.elsewhere or record.parts:
        return record
    if record.type != FILE:
        return msgspec.structs.replace(record, at=0)
    if record.ino in placements.cut:
        parts = tuple(_part(piece, volumes) for piece in placements.cut[record.ino])
        return msgspec.structs.replace(record, at=0, data=0, index=0, table_copy=0, parts=parts)
    piece = next(wholes)
    return msgspec.structs.replace(
        record,
        at=piece.at,
        data=piece.data,
        index=piece.index,
        table_copy=piece.table_copy,
        elsewhere=Elsewhere(volumes[piece.volume - 1]),
    )


def _part(piece: Piece, volumes: list[str]) -> Part:
    return Part(
        volumes[piece.volume - 1],
        piece.size,
        piece.at,
        piece.data,
        piece.packed,
        piece.index,
        piece.table_copy,
        piece.crc32,
        piece.packed_crc32,
    )

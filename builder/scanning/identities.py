"""What an archive's origin member tells of the source: each inode's ctime and number, by which files are known again.

Both look-ups are bounded in memory: the origin is decoded block by block, inode numbers lie in a scratch database.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import msgspec
from lru import LRU

from xtarfs.errors import FormatError, SourceError, XtarError
from xtarfs.format.locator import Place, read_origin
from xtarfs.format.records import FILE
from xtarfs.format.structure import HEAD_SIZE, block_length, unpack_block
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node
from xtarfs.source import Source

from .scratch import Scratch

_SLACK = 2  # seconds: no file system's times are coarser
_KEPT = 4  # blocks of decoded lines: what is asked for ascends, but for hard links

_decoder = msgspec.json.Decoder(tuple[int, str, int, int])


class Identity(NamedTuple):
    """ctime: seconds since 1970 as the format writes times; inode: its number in the source."""

    ctime: str
    inode: int


class Identities:
    """The source's inodes as they were when an archive was made, by the `ino` of its records."""

    def __init__(self, source: Source, place: Place) -> None:
        self._source = source
        self._end = place.at + place.size
        self._next = place.at
        self._places: list[tuple[int, int]] = []  # of the blocks passed so far: where each begins, and its length
        self._highest: list[int] = []  # the highest ino up to the end of each
        self._blocks: LRU[int, dict[int, Identity]] = LRU(_KEPT)
        facts = read_origin(source.read_at, place)
        self._safe = (facts.created - _SLACK) * 10**9 if facts else 0
        self._pass_block()  # the facts

    def get(self, ino: int) -> Identity | None:
        """None where the line is missing or damaged."""
        while not self._highest or self._highest[-1] < ino:
            if not self._pass_block():
                return None
        return self._block(bisect_left(self._highest, ino)).get(ino)

    def is_settled(self, time_ns: int) -> bool:
        """Whether a change at that time came before the archive was begun, so that a later one has another time."""
        return time_ns < self._safe

    def _pass_block(self) -> bool:
        """Takes one more block into the index; False at the origin's end, or where it is too damaged to go on."""
        try:
            length = block_length(self._read(self._next, HEAD_SIZE)) if self._next < self._end else 0
        except (FormatError, SourceError):
            length = 0
        if not length:
            self._next = self._end
            return False
        self._places.append((self._next, length))
        self._next += length
        highest = self._highest[-1] if self._highest else 0
        self._highest.append(max(highest, max(self._block(len(self._highest)), default=0)))
        return True

    def _block(self, number: int) -> dict[int, Identity]:
        lines: dict[int, Identity] | None = self._blocks.get(number)
        if lines is None:
            lines = self._blocks[number] = self._decode(*self._places[number]) if number else {}
        return lines

    def _decode(self, at: int, length: int) -> dict[int, Identity]:
        try:
            rows = _decoder.decode_lines(unpack_block(self._read(at, length)))
        except (FormatError, SourceError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
        return {ino: Identity(ctime, inode) for ino, ctime, inode, _ in rows}

    def _read(self, at: int, length: int) -> bytes:
        return self._source.read_at(at, length)


class InodeTable:
    """Paths in an archive by the source's inode number and size; read from the whole tree when first asked."""

    def __init__(self, archive: Archive, identities: Identities, work_dir: str) -> None:
        self._archive = archive
        self._identities = identities
        self._filled = False
        self._scratch = Scratch(
            work_dir,
            "CREATE TABLE inode (number BLOB, size INTEGER, path BLOB, PRIMARY KEY (number, size)) WITHOUT ROWID",
        )

    def find(self, inode: int, size: int) -> bytes | None:
        """Where a file with that number and size was."""
        if not self._filled:
            self._filled = True
            self._scratch.fill("INSERT OR IGNORE INTO inode VALUES (?, ?, ?)", self._rows())
        row = self._scratch.row("SELECT path FROM inode WHERE number = ? AND size = ?", (_key(inode), size))
        return bytes(row[0]) if row else None

    def close(self) -> None:
        self._scratch.close()

    def _rows(self) -> Iterator[tuple[bytes, int, bytes]]:
        for node in _files(self._archive):
            identity = self._identities.get(node.record.ino)
            if identity:
                yield _key(identity.inode), node.record.size, node.path


def _files(archive: Archive) -> Iterator[Node]:
    """The regular files with data of their own, past directories that are damaged."""
    stack = [archive.root]
    while stack:
        with suppress(XtarError):
            for node in archive.children(stack.pop()):
                if node.record.is_dir:
                    stack.append(node)
                elif node.record.type == FILE and not node.record.link:
                    yield node


def _key(inode: int) -> bytes:
    return inode.to_bytes(8, "big")

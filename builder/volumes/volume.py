"""One volume under construction: an archive of its own of some of the files of a larger one, copied as they are.

Says beforehand how long it becomes at most with one more thing in it.
"""

from __future__ import annotations

from collections.abc import Container
from typing import IO

import msgspec
from lru import LRU

from xtarfs.format import member, tar
from xtarfs.format.locator import Locator, VolumeSet
from xtarfs.format.records import Record
from xtarfs.format.structure import packed_at_most
from xtarfs.format.tar import Mark
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Directory, Node

from ..writing.layout import Layout, header_at_most, line_at_most, surround
from ..writing.output import Sink
from .parts import Part, chunk_table
from .placement import Piece

_KEPT = 1024  # folders whose least length is remembered
_LOCATOR = 1600  # bytes that the locator's block takes at most, without the list of bases


class _Names(Container[bytes]):
    """The names in a directory, looked up one by one."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def __contains__(self, name: object) -> bool:
        return isinstance(name, bytes) and self._directory.get(name) is not None


class Volume:
    """Volume `number` of what `full` holds. tail: bytes of data in the set's catalogue and the origin that end it."""

    def __init__(self, number: int, out: Sink, full: Archive, work_dir: str, tail: int) -> None:
        facts = full.tree.locator
        assert facts
        self.number = number
        self._out = out
        self._full = full
        self._facts = facts
        self._layout = Layout(out, bytes.fromhex(facts.tag), work_dir)
        self._chain: list[Node] = []
        self._lengths: LRU[bytes, int] = LRU(_KEPT)
        bases = len(msgspec.json.encode((facts.base, facts.replaces)))
        self._end = tail + _LOCATOR + bases + 6 * tar.BLOCK + len(tar.END)
        self._enter(full.root)

    @property
    def identifier(self) -> str:
        """Its own; known once it is closed."""
        return self._layout.identifier

    # -- how long it becomes ---------------------------------------------------------------------------------

    def at_most(self, chain: list[Node], size: int, text: int = 0, table: int = 0) -> int:
        """Its length if a member of `size` bytes, with so much text of records and chunk table, comes into `chain`.

        chain: the directories from the root down. What lies behind them in the archive's order must not be asked for
        before, because those that end before are ended.
        """
        self._leave_to(chain)
        size += sum(map(self._directory_at_most, chain[len(self._chain) :]))
        # The innermost directory that is open gets the record of the first new one, and each new one the next.
        first, *others = [*(line_at_most(node.record) for node in chain[len(self._chain) :]), text]
        return self._out.position + size + self._layout.left_at_most(first, table) + 2 * sum(others) + self._end

    # -- what goes into it -----------------------------------------------------------------------------------

    def add_file(self, chain: list[Node], node: Node, size: int) -> Piece:
        """A file with its member, of `size` bytes, as it is; gives where that came to lie."""
        self._go_to(chain)
        record, at = msgspec.structs.replace(node.record), self._out.position
        table = chunk_table(self._full, node)
        self._out.copy(self._full.source, node.base + record.at, size)
        record.data -= record.at
        record.index -= record.at if table else 0
        return self._placed(record, at, table)

    def add_part(self, chain: list[Node], part: Part) -> Piece:
        """A stretch of a file, as a file of its own."""
        self._go_to(chain)
        record, at = msgspec.structs.replace(part.record), self._out.position
        name = self._layout.member_name(record.raw_name, member.FILE_SUFFIX)
        path = self._layout.child_path(record.raw_name)
        around = surround(record, path, name, self._layout.mark(tar.ROLE_FILE), part.table)
        self._out.write(around.head)
        self._out.copy(self._full.source, part.start, part.end - part.start)
        self._out.write(part.ending)
        self._out.write(around.tail)
        return self._placed(record, at, part.table)

    def add_native(self, chain: list[Node], node: Node) -> None:
        self._go_to(chain)
        self._layout.add_native(msgspec.structs.replace(node.record))

    def add_record(self, chain: list[Node], node: Node) -> None:
        """What has no member in the archive: its data lies under another name, or elsewhere."""
        self._go_to(chain)
        self._layout.add(node.record)

    def add_directory(self, chain: list[Node]) -> None:
        """The last directory of `chain`, though nothing is in it."""
        self._go_to(chain)

    def close(self) -> None:
        """Nothing more comes into it."""
        while self._chain:
            self._layout.leave()
            self._chain.pop()

    def finish(self, catalogue: IO[bytes], origin: IO[bytes], facts: VolumeSet) -> Locator:
        """Writes the end of the closed volume. facts: of the set; its `catalogue` is filled in here."""
        place = self._layout.append(member.SET_NAME, catalogue, tar.ROLE_SET)
        return self._layout.finish(
            origin,
            base=self._facts.base,
            previous=self._facts.previous,
            replaces=self._facts.replaces,
            volumes=msgspec.structs.replace(facts, number=self.number, catalogue=place),
        )

    def _placed(self, record: Record, at: int, table: bytes) -> Piece:
        """Notes a file whose member was written at `at`, its places counting from there."""
        data, index = at + record.data, at + record.index if table else 0
        self._layout.add_file(record, at, table)
        return Piece(
            self.number,
            record.size,
            at,
            data,
            record.packed,
            index,
            record.table_copy,
            record.crc32,
            record.packed_crc32,
        )

    # -- directories -----------------------------------------------------------------------------------------

    def _go_to(self, chain: list[Node]) -> None:
        self._leave_to(chain)
        for node in chain[len(self._chain) :]:
            self._enter(node)

    def _leave_to(self, chain: list[Node]) -> None:
        """Leaves the directories that `chain` does not go through."""
        common = 0
        while common < min(len(chain), len(self._chain)) and chain[common].path == self._chain[common].path:
            common += 1
        while len(self._chain) > common:
            self._layout.leave()
            self._chain.pop()

    def _enter(self, node: Node) -> None:
        record = msgspec.structs.replace(
            node.record, at=0, data=0, packed=0, sha256="", structure=None, files=0, total=0, nlink=1
        )
        self._layout.enter(record, _Names(self._full.tree.directory(node)))
        self._chain.append(node)

    def _directory_at_most(self, node: Node) -> int:
        known = self._lengths.get(node.path)
        if known is None:
            known = self._lengths[node.path] = _directory_at_most(node)
        return known


def _directory_at_most(node: Node) -> int:
    """Bytes that a directory takes in a volume at most, besides its record, with nothing in it."""
    record, mark = node.record, Mark(bytes(6), 0, tar.ROLE_SELF)
    name = member.long_name(record.raw_name, member.DIRECTORY_SUFFIX)
    heads = len(member.directory_head(record, name, mark)) + len(member.self_entry(record, mark))
    return heads + 2 * packed_at_most(header_at_most(record, node.path)) + 2 * tar.BLOCK + len(tar.END)

"""What goes into which volume: everything in the archive's order, a new volume where the next thing does not fit.

Runs twice, and the same both times: first into what only measures, to learn the volumes' identifiers and where each
file comes to lie; then, with the set's catalogue made of that, into files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct

from xtarfs.format import chunks, member, tar, zip
from xtarfs.format.records import FILE
from xtarfs.format.tar import Mark
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node

from ..writing.layout import line_at_most
from .parts import Cut, Sums, other_stem, prefix_of, stem_of
from .placement import Piece, Placements
from .volume import Volume


class _Open(Struct):
    """A directory that is being gone through. placed: something of it is in a volume."""

    children: Iterator[Node | Cut]
    placed: bool = False


class Spread:
    """Spreads what `full` holds over volumes of at most `limit` bytes.

    begin(number) opens a volume, whose end is still to be written when ended(volume) is told of it. empty: one that
    is never written, to measure by. sums: see Cut.
    """

    def __init__(
        self,
        full: Archive,
        limit: int,
        empty: Volume,
        begin: Callable[[int], Volume],
        ended: Callable[[Volume], None],
        placements: Placements,
        sums: dict[tuple[int, int, int], Sums],
    ) -> None:
        self._full = full
        self._limit = limit
        self._empty = empty
        self._begin = begin
        self._ended = ended
        self._placements = placements
        self._sums = sums
        self._chain = [full.root]
        self._highest = 0  # inode number of what was placed so far, but for what was cut
        self._before = 0  # the same, when the volume began
        self._volume = begin(1)

    def run(self, last: int = 0) -> int:
        """Gives the number of volumes. last: bytes that the end of the last one takes beyond that of the others."""
        stack = [_Open(self._in_order(self._full.root))]
        while stack:
            item = next(stack[-1].children, None)
            if item is None:
                done = stack.pop()
                if stack and not done.placed:
                    self._directory()
                self._chain.pop()
                if stack:
                    stack[-1].placed = True
            elif isinstance(item, Cut):
                self._cut_up(item)
                stack[-1].placed = True
            elif item.record.is_dir:
                self._chain.append(item)
                stack.append(_Open(self._in_order(item)))
            elif self._place(item):
                stack[-1].placed = True
        if self._volume.at_most([self._full.root], last) > self._limit:
            self._next()
        self._end()
        return self._volume.number

    # -- one by one ------------------------------------------------------------------------------------------

    def _place(self, node: Node) -> bool:
        """Puts a file, a special file or a record into a volume; False if it goes into none."""
        record = node.record
        text = line_at_most(record)
        if record.link:
            # Its data's name comes before it. A volume has the further names of the files that it has whole.
            there = record.ino > self._before and record.ino not in self._placements.cut
            there = there and self._volume.at_most(self._chain, 0, text) <= self._limit
            if there:
                self._volume.add_record(self._chain, node)
            return there
        size, table = _sizes(self._full, node)
        volume = self._room(size, text, table)
        self._highest = record.ino
        if not size:
            volume.add_record(self._chain, node)
        elif record.type == FILE:
            self._placements.add(volume.add_file(self._chain, node, size))
        else:
            volume.add_native(self._chain, node)
        return True

    def _directory(self) -> None:
        self._room(0, 0).add_directory(self._chain)

    def _room(self, size: int, text: int, table: int = 0) -> Volume:
        """The volume that has room for it."""
        if self._volume.at_most(self._chain, size, text, table) > self._limit:
            self._next()
        return self._volume

    def _next(self) -> None:
        self._end()
        self._before = self._highest
        self._volume = self._begin(self._volume.number + 1)

    def _end(self) -> None:
        self._volume.close()
        self._ended(self._volume)

    # -- files to cut ----------------------------------------------------------------------------------------

    def _in_order(self, folder: Node) -> Iterator[Node | Cut]:
        """A directory's children in the order in which a volume has them: a file to cut, by the names of its parts."""
        directory = self._full.tree.directory(folder)
        chain = self._chain.copy()
        waiting: list[tuple[bytes, Node]] = []  # stems, ascending
        for node in directory.children():
            name = node.record.raw_name
            while waiting and prefix_of(waiting[0][0]) <= name:
                stem, held = waiting.pop(0)
                if not name.startswith(prefix_of(stem)):
                    yield Cut(self._full, held, stem, self._sums)
                    continue
                stem = other_stem(stem, held.record)
                while directory.get(stem):
                    stem = other_stem(stem, held.record)
                waiting = sorted([*waiting, (stem, held)], key=lambda pair: prefix_of(pair[0]))
            if self._fits_none(node, chain):
                waiting = sorted([*waiting, (stem_of(node.record), node)], key=lambda pair: prefix_of(pair[0]))
            else:
                yield node
        for stem, held in waiting:
            yield Cut(self._full, held, stem, self._sums)

    def _fits_none(self, node: Node, chain: list[Node]) -> bool:
        """Whether a file is too long for a volume that has nothing else."""
        if not node.record.chunk:
            return False
        size, table = _sizes(self._full, node)
        return size > 0 and self._empty.at_most(chain, size, line_at_most(node.record), table) > self._limit

    def _cut_up(self, cut: Cut) -> None:
        record = cut.node.record
        pieces: list[Piece] = []
        first = 0
        while first < cut.count:
            room = self._limit - self._volume.at_most(self._chain, cut.overhead, line_at_most(record))
            end = cut.reach(first, room)
            if end > first:
                part = cut.part(len(pieces) + 1, first, end)
                pieces.append(self._volume.add_part(self._chain, part))
                first = end
            if first < cut.count:
                self._next()
        self._placements.cut[record.ino] = pieces


def least(full: Archive, empty: Volume, *, exact: bool) -> int:
    """The length that volumes must be allowed so that each thing in the archive fits into one, or each chunk of it.

    exact: look how long the longest chunk is, rather than how long it could be.
    """
    chain, most = [full.root], empty.at_most([full.root], 0)
    for node in full.walk():
        depth = node.path.count(b"/") + 1
        del chain[depth:]
        if node.record.is_dir:
            chain.append(node)
            most = max(most, empty.at_most(chain, 0))
            continue
        text = line_at_most(node.record)
        size, table = _sizes(full, node)
        needed = empty.at_most(chain, size, text, table)
        if table:
            cut = Cut(full, node, stem_of(node.record), {})
            chunk = cut.longest_chunk(exact=exact)
            needed = min(needed, empty.at_most(chain, cut.overhead + chunk, text) + 2 * cut.table_size(1))
        most = max(most, needed)
    return most


def _sizes(full: Archive, node: Node) -> tuple[int, int]:
    """Bytes of a member, 0 if the archive has none, and of its chunk table."""
    record = node.record
    if record.link or record.elsewhere or record.parts:
        return 0, 0
    if record.type != FILE:
        return len(member.native_entry(record, Mark(bytes(6), 0, tar.ROLE_NATIVE))), 0
    if record.chunk:
        found = tar.read_member(full.source.read_at, node.base + record.at)
        assert found
        return found.end - found.at, chunks.table_size(record.size, record.chunk, member.method_of(record))
    local, central = zip.headers(member.zip_entry(record, node.path, bytes(6)))
    length = len(local) + record.packed
    length += len(central) + len(zip.end_record(len(central), length))
    return record.data - record.at - len(local) + length + tar.padding(length), 0

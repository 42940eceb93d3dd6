"""What a directory's members are checked as: single ones, and runs of plain files that the compiled core does alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from ..errors import FormatError
from ..format.records import Header, Record, Structure, parse_header, parse_records
from ..format.tar import Mark
from ..reading.tree import Node, StructuredDirectory, Tree, child_path

try:
    from .. import _unpacker as _core
except ImportError:  # no compiler when it was installed, or engines that do not show their functions
    _core = None  # type: ignore[assignment]

RUN_LENGTH = 1 << 20  # bytes of the archive after which another run begins
LARGE = 4 << 20  # a member over this size is checked in pieces


class Item(NamedTuple):
    """A child whose member must fill [at, end) of the source. path: below the archive's root; mark: its header's."""

    node: Node
    path: bytes
    mark: Mark
    at: int
    end: int


class Stretch(NamedTuple):
    """Plain files whose members follow one another. lines: their records, as the structure file has them.

    content: bytes that the files show. at, end: of the members, from the start of the directory's tar.
    """

    lines: bytes
    files: int
    content: int
    at: int
    end: int


class Run(NamedTuple):
    """A stretch of `directory`, whose tar begins at `base` of the source, and whose path in the archive is `path`."""

    directory: Node
    path: bytes
    mark: Mark
    base: int
    stretch: Stretch

    @property
    def at(self) -> int:
        """Where in the source its first member begins."""
        return self.base + self.stretch.at

    @property
    def end(self) -> int:
        """Where in the source its last member ends."""
        return self.base + self.stretch.end

    def items(self, end: int) -> list[Item]:
        """The files one by one, where whatever follows them begins at `end`."""
        records = parse_records(self.stretch.lines)
        starts = [self.base + record.at for record in records]
        return [
            Item(
                Node(record, self.base, self.directory.child_path(record.raw_name)),
                child_path(self.path, record.raw_name),
                self.mark,
                start,
                until,
            )
            for record, start, until in zip(records, starts, [*starts[1:], end], strict=True)
        ]


def is_compiled() -> bool:
    """Whether plain files are checked by the compiled core, which other threads can run beside."""
    return _core is not None


def suspects(runs: list[Run], raw: bytes, start: int) -> list[Item]:
    """The files of some runs that are not proven to be sound, all of them in `raw`, which lies at `start`."""
    asked = [(run.stretch.lines, run.stretch.files, run.path, run.mark, run.base) for run in runs]
    found = _core.check(asked, raw, start)
    items = {number: runs[number].items(runs[number].end) for number in {number for number, _ in found}}
    return [items[number][place] for number, place in found]


def open_directory(tree: Tree, node: Node) -> tuple[Header, Iterator[Node | Stretch]] | None:
    """A directory's header and what it holds, in order; None if it has no structure that can be read.

    Going on raises FormatError where records are not what they should be.
    """
    if _core and node.record.structure:
        try:
            return _with_stretches(tree, node, node.record.structure)
        except FormatError:
            pass  # another look, with all its ways to help itself
    directory = tree.directory(node)
    if not isinstance(directory, StructuredDirectory):
        return None
    return directory.header(), directory.children()


def _with_stretches(tree: Tree, node: Node, place: Structure) -> tuple[Header, Iterator[Node | Stretch]]:
    directory = StructuredDirectory(tree, node.path, node.base + node.record.data, node.record.packed, place)
    texts = directory.texts()
    line, _, lines = next(texts).partition(b"\n")
    header = parse_header(line)
    first = _split(lines, header.raw_path)
    blocks = chain([first], (_split(text, header.raw_path) for text in texts))
    return header, _children(directory, blocks)


def _split(lines: bytes, path: bytes) -> list[Stretch | Record]:
    """A block's records, those of plain files as they stand. path: the directory's."""
    found: list[Stretch | Record] = []
    for stretch in _core.split(lines, path, RUN_LENGTH, LARGE):
        found += [Stretch(*stretch)] if stretch[1] else parse_records(stretch[0])
    return found


def _children(directory: StructuredDirectory, blocks: Iterable[Iterable[Stretch | Record]]) -> Iterator[Node | Stretch]:
    end = 0
    for found in chain.from_iterable(blocks):
        if isinstance(found, Stretch):
            yield found
            continue
        before = end
        if found.is_dir:
            end = directory.end_of(found, before)
        yield directory.node(found, found.raw_name, before)

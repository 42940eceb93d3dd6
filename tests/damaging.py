"""Small archives to be damaged, in memory: where everything lies in them, and what must be lost when it is hit."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from builder.building.build import Options, build
from builder.writing.compress import Settings
from xtarfs.errors import DamagedError
from xtarfs.format import chunks, member
from xtarfs.format.records import FILE
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node
from xtarfs.source import Source

from . import trees

CHUNK = 4096
Span = tuple[int, int]


class MemorySource(Source):
    """An archive's bytes, as the reader takes them."""

    def __init__(self, data: bytes) -> None:
        self.name = "memory"
        self.data = data
        self.size = len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size] if offset >= 0 and size > 0 else b""

    def close(self) -> None:
        pass


def opened(data: bytes) -> Archive:
    return Archive(MemorySource(data))


def flipped(data: bytes, at: int, mask: int = 1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= mask
    return bytes(changed)


@dataclass
class Sample:
    """An archive's bytes, its files' content by path, and its layout.

    chunks: where each chunk's packed data lies, with its path and content range. rows: likewise each CRC-32 of a
    chunk table. structures: both copies of each directory's.
    """

    data: bytes
    content: dict[bytes, bytes]
    nodes: dict[bytes, Node] = field(default_factory=dict)
    chunks: list[tuple[Span, bytes, Span]] = field(default_factory=list)
    rows: list[tuple[Span, bytes, Span]] = field(default_factory=list)
    structures: list[tuple[Span, Span]] = field(default_factory=list)

    def loses_structure(self, start: int, end: int) -> bool:
        """Whether both copies of a directory's structure are hit: far apart in a large archive, not in this one."""
        return any(all(at < end and start < stop for at, stop in copies) for copies in self.structures)

    def lost_by(self, start: int, end: int) -> dict[bytes, list[Span]]:
        """The content ranges that may be lost when bytes [start, end) of the archive are hit."""
        lost: dict[bytes, list[Span]] = {}
        for span, path, content in self.chunks + self.rows:
            if span[0] < end and start < span[1] and content not in lost.setdefault(path, []):
                lost[path].append(content)
        return {path: sorted(ranges) for path, ranges in lost.items() if ranges}


def sample_tree(root: Path) -> Path:
    """Small files, files of several chunks that pack and that do not, nested directories, a symlink, a hard link."""
    root.mkdir()
    for number in range(6):
        trees.write(root / f"small-{number}", trees.words(300 * number + 1, number))
    trees.write(root / "empty")
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "none").mkdir()
    trees.write(root / "d" / "large", trees.words(20 * CHUNK + 7))
    trees.write(root / "d" / "noise", trees.noise(6 * CHUNK + 1))
    trees.write(root / "d" / "e" / "zeros", bytes(9 * CHUNK))
    trees.write(root / "d" / "e" / "three", trees.words(3 * CHUNK, 5))
    os.symlink("three", root / "d" / "e" / "symlink")
    os.link(root / "d" / "e" / "three", root / "linked")
    trees.set_times(root)
    return root


def make_sample(root: Path, **settings: int) -> Sample:
    archive = root.parent / f"{root.name}.xtar"
    build(str(root), str(archive), Options(settings=Settings(**({"chunk_size": CHUNK} | settings)), force=True))
    sample = Sample(archive.read_bytes(), {})
    with Archive.open(str(archive)) as open_archive:
        for node in [open_archive.root, *open_archive.walk()]:
            sample.nodes[node.path] = node
            place, facts = node.record.structure, open_archive.tree.locator
            if place and facts:
                copies = (node.base + node.record.data + place.at, facts.catalogue.at + place.catalogue)
                sample.structures.append(tuple((at, at + place.size) for at in copies))  # type: ignore[arg-type]
            if node.record.type == FILE:
                sample.content[node.path] = (root / os.fsdecode(node.path)).read_bytes()
                if not node.record.link:
                    _lay_out(open_archive, node, sample)
        for span, path, content in sample.chunks[:] + sample.rows[:]:
            for node in sample.nodes.values():
                if node.record.raw_link == path:
                    (sample.chunks if (span, path, content) in sample.chunks else sample.rows).append(
                        (span, node.path, content)
                    )
    return sample


def _lay_out(archive: Archive, node: Node, sample: Sample) -> None:
    record, at = node.record, node.base + node.record.data
    if not record.chunk:
        sample.chunks.append(((at, at + record.packed), node.path, (0, record.size)))
        return
    count = chunks.chunk_count(record.size, record.chunk)
    rows = chunks.read_rows(
        archive.source.read_at,
        node.base + record.index,
        record.size,
        record.packed,
        record.chunk,
        member.method_of(record),
        0,
        count - 1,
    )
    for number in range(count):
        content = (number * record.chunk, min((number + 1) * record.chunk, record.size))
        sample.chunks.append(((at + rows.bounds[number], at + rows.bounds[number + 1]), node.path, content))
        row = node.base + record.index + 32 + 4 * number
        sample.rows.append(((row, row + 4), node.path, content))


def read_all(archive: Archive, path: bytes, content: bytes) -> list[Span]:
    """Reads a file chunk by chunk; gives what cannot be had. Any byte that is had must be the right one."""
    node = archive.lookup(path)
    lost: list[Span] = []
    for start in range(0, len(content), CHUNK):
        try:
            assert archive.read(node, start, CHUNK) == content[start : start + CHUNK]
        except DamagedError:
            lost.append((start, min(start + CHUNK, len(content))))
    return lost

"""Transfer: packed data that goes from archive to archive as it is; parts that become one file again."""

from __future__ import annotations

import tempfile
from array import array
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from builder.building.build import Options, build
from builder.chains.transfer import Held, copy_file, read_table
from builder.writing.layout import Layout
from builder.writing.output import Output
from xtarfs.errors import DamagedError
from xtarfs.format import chunks, codec, member
from xtarfs.format.records import DEFLATE
from xtarfs.format.tar import Mark
from xtarfs.reading.content import Content, content_cache
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node

from . import trees
from .damaging import MemorySource

CHUNK = 32 << 10
CONTENTS = {
    "deflated": trees.words(6 * CHUNK + 5),
    "stored": trees.noise(6 * CHUNK + 5),
    "even": trees.words(6 * CHUNK),
}


@pytest.fixture(params=CONTENTS)
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An archive of one file of several chunks."""
    (tmp_path / "source").mkdir()
    trees.write(tmp_path / "source" / "file", CONTENTS[request.param])
    archive = tmp_path / "whole.xtar"
    build(str(tmp_path / "source"), str(archive), Options())
    return archive


def held(archive: Archive) -> Held:
    [(node, content)] = archive.members(archive.lookup(b"file"))
    return Held(node, content)


def cut(archive: Archive, borders: list[int]) -> list[Held]:
    """The file in parts that begin at these chunks, each with its own table, as the parts of volumes are."""
    whole = held(archive)
    record, read = whole.node.record, whole.source.read_at
    count = chunks.chunk_count(record.size, record.chunk)
    method = member.method_of(record)
    rows = chunks.read_rows(
        read, whole.node.base + record.index, record.size, record.packed, record.chunk, method, 0, count - 1
    )
    parts = []
    for first, end in pairwise([*borders, count]):
        packed = read(whole.node.base + record.data + rows.bounds[first], rows.bounds[end] - rows.bounds[first])
        if end < count and record.method == DEFLATE:
            packed += b"\x03\x00"
        size = min(end * record.chunk, record.size) - first * record.chunk
        content = bytes(archive.read(whole.node, first * record.chunk, size))
        crcs = array("I", rows.crcs[first:end])
        offsets = array("Q", (bound - rows.bounds[first] for bound in rows.bounds[first + 1 : end]))
        table = chunks.pack_table(size, len(packed), record.chunk, method, crcs, offsets) if end - first > 1 else b""
        part = msgspec.structs.replace(
            record,
            at=0,
            size=size,
            packed=len(packed),
            chunk=record.chunk if table else 0,
            crc32=f"{codec.crc32(content):08x}",
            packed_crc32=f"{codec.crc32(packed):08x}" if record.method == DEFLATE else "",
        )
        around = member.file_bytes(part, b"file.part", b"file.part.zip", archive_mark(), table)
        part.data = len(around.head)
        part.index = part.data + part.packed + around.table if table else 0
        source = MemorySource(around.head + packed + around.tail)
        parts.append(Held(Node(part, 0, b"file"), Content(source, None, archive.tree, content_cache(0))))
    return parts


def archive_mark() -> Mark:
    return Mark(b"abcdef", 1, b"f")


def written(archive: Archive, parts: list[Held], destination: Path) -> bytes:
    """A new archive of the same tree, of the parts."""
    facts = archive.tree.locator
    assert facts
    with Output(str(destination), force=False) as out, tempfile.TemporaryFile() as origin:
        layout = Layout(out, bytes.fromhex(facts.tag), tempfile.gettempdir())
        root = msgspec.structs.replace(archive.root.record, packed=0, structure=None, files=0, total=0)
        layout.enter(root, {b"file"})
        copy_file(layout, archive.lookup(b"file").record, parts)
        layout.leave()
        origin.write(archive.source.read_at(facts.origin.at, facts.origin.size))
        layout.finish(origin)
        out.commit()
    return destination.read_bytes()


@pytest.mark.parametrize("borders", [[0], [0, 3], [0, 1, 2], [0, 5], [0, 4, 6]])
def test_joined_parts_are_the_file_as_it_was(whole: Path, tmp_path: Path, borders: list[int]) -> None:
    with Archive.open(str(whole)) as archive:
        record = archive.lookup(b"file").record
        count = chunks.chunk_count(record.size, record.chunk)
        parts = cut(archive, [border for border in borders if border < count])
        assert written(archive, parts, tmp_path / "again.xtar") == whole.read_bytes()


@pytest.mark.parametrize("mistake", ["order", "missing", "twice"])
def test_parts_that_do_not_fit_together(whole: Path, tmp_path: Path, mistake: str) -> None:
    with Archive.open(str(whole)) as archive:
        a, b, c = cut(archive, [0, 2, 4])
        parts = {"order": [b, a, c], "missing": [a, c], "twice": [a, b, b, c]}[mistake]
        with pytest.raises(DamagedError):
            written(archive, parts, tmp_path / "again.xtar")
    assert not (tmp_path / "again.xtar").exists()


def test_no_flipped_bit_gets_through(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    with Archive.open(str(whole)) as archive:
        part = held(archive)
        record = part.node.record
        for at in range(record.data, record.data + record.packed, record.packed // 20):
            harmed = bytearray(data)
            harmed[part.node.base + at] ^= 16
            source = MemorySource(bytes(harmed))
            content = Content(source, part.content.tables, archive.tree, content_cache(0))
            with pytest.raises(DamagedError):
                written(archive, [Held(part.node, content)], tmp_path / "again.xtar")


def test_a_table_that_is_damaged_in_both_copies(whole: Path) -> None:
    data = bytearray(whole.read_bytes())
    with Archive.open(str(whole)) as archive:
        part = held(archive)
        record = part.node.record
        assert part.content.tables is not None
        sound = read_table(part)
        data[part.node.base + record.index + 33] ^= 1
        once = Content(MemorySource(bytes(data)), part.content.tables, archive.tree, content_cache(0))
        assert read_table(Held(part.node, once)) == sound
        data[part.content.tables + record.table_copy + 37] ^= 1
        twice = Content(MemorySource(bytes(data)), part.content.tables, archive.tree, content_cache(0))
        with pytest.raises(DamagedError, match="chunk table"):
            read_table(Held(part.node, twice))

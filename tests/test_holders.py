"""Files whose data lies in another archive: found by identifier, read as if it were here, missed by name."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from builder.building.build import Options, build
from xtarfs.errors import DamagedError, ElsewhereError
from xtarfs.format.records import Elsewhere, Part
from xtarfs.reading import shelf
from xtarfs.reading.holders import identify, located
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node

CONTENT = os.urandom(1 << 16) + b"text " * 40_000  # several chunks, some of which pack


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_PATIENCE", 0.0)


def make(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """An archive of some files, with its source gone."""
    source = folder / f"{name} source"
    for path, content in files.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    archive = folder / f"{name}.xtar"
    assert build(str(source), str(archive), Options()).problems == []
    return archive


@pytest.fixture
def holder(tmp_path: Path) -> Path:
    return make(tmp_path, "holder", {"folder/file": CONTENT, "small": b"a few bytes"})


@pytest.fixture
def viewer(tmp_path: Path) -> Path:
    return make(tmp_path, "viewer", {"another": b""})


def pointer(holder: Path, path: bytes = b"folder/file", as_path: bytes = b"", former: str = "") -> Node:
    """A node as a later copy has it of a file in `holder`."""
    with Archive.open(str(holder)) as archive:
        record = located(archive.tree, archive.lookup(path))
    return Node(msgspec.structs.replace(record, former=former), 0, as_path or path)


def read_all(archive: Archive, node: Node) -> bytes:
    pieces = list(archive.pieces(node))
    assert not any(piece.error for piece in pieces)
    whole = b"".join(bytes(piece.data) for piece in pieces)
    assert bytes(archive.read(node, 0, len(whole) + 1)) == whole
    assert bytes(archive.read(node, 40_000, 70_000)) == whole[40_000:110_000]
    return whole


def test_a_file_in_an_archive_beside(holder: Path, viewer: Path) -> None:
    with Archive.open(str(viewer)) as archive:
        assert read_all(archive, pointer(holder)) == CONTENT
        assert read_all(archive, pointer(holder, b"small")) == b"a few bytes"


def test_whatever_the_archive_is_called(holder: Path, viewer: Path) -> None:
    node = pointer(holder)
    holder.rename(holder.with_name("renamed, without a suffix"))
    with Archive.open(str(viewer)) as archive:
        assert read_all(archive, node) == CONTENT


@pytest.mark.parametrize("named", ["file", "folder"])
def test_in_another_folder_that_is_named(holder: Path, viewer: Path, tmp_path: Path, named: str) -> None:
    node = pointer(holder)
    moved = tmp_path / "elsewhere" / "holder.xtar"
    moved.parent.mkdir()
    holder.rename(moved)
    with Archive.open(str(viewer)) as archive, pytest.raises(ElsewhereError, match=r"folder/file.*not at hand"):
        archive.read(node, 0, 1)
    with Archive.open(str(viewer), others=[str(moved if named == "file" else moved.parent)]) as archive:
        assert read_all(archive, node) == CONTENT


def test_an_archive_that_comes_later(holder: Path, viewer: Path) -> None:
    node = pointer(holder)
    away = holder.with_name("holder.away")
    os.rename(holder, away)
    away_bytes = away.read_bytes()
    away.unlink()
    with Archive.open(str(viewer)) as archive:
        with pytest.raises(ElsewhereError):
            archive.require_at_hand(node)
        holder.write_bytes(away_bytes[: len(away_bytes) // 2])  # half copied
        with pytest.raises(ElsewhereError):
            list(archive.pieces(node))
        holder.write_bytes(away_bytes)
        assert read_all(archive, node) == CONTENT
        archive.require_at_hand(node)


def test_an_archive_that_has_lost_its_end(holder: Path, viewer: Path) -> None:
    node = pointer(holder)
    os.truncate(holder, holder.stat().st_size - 1024)
    with Archive.open(str(viewer)) as archive:
        assert read_all(archive, node) == CONTENT


def test_damage_there_is_an_error_for_its_range_only(holder: Path, viewer: Path) -> None:
    node = pointer(holder)
    with open(holder, "r+b") as file:
        file.seek(node.record.data + 10)
        file.write(b"\0\0\0\0\0\0")
    with Archive.open(str(viewer)) as archive:
        ranges = archive.damaged_ranges(node)
        assert ranges[0][0] == 0 and ranges[-1][1] < len(CONTENT)
        with pytest.raises(DamagedError):
            archive.read(node, 0, 10)
        end = ranges[-1][1]
        assert bytes(archive.read(node, end, len(CONTENT))) == CONTENT[end:]
        assert archive.tree.ranges.keys() == {b"folder/file"}


def test_a_file_in_parts(tmp_path: Path, viewer: Path) -> None:
    halves = CONTENT[: 2 << 16], CONTENT[2 << 16 :]
    archives = [make(tmp_path, f"part{number}", {"p": half}) for number, half in enumerate(halves)]
    records = [pointer(archive, b"p").record for archive in archives]
    parts = tuple(
        Part(r.elsewhere.archive, r.size, r.at, r.data, r.packed, r.index, r.table_copy, r.crc32, r.packed_crc32)
        for r in records
        if r.elsewhere
    )
    whole = msgspec.structs.replace(records[0], elsewhere=None, size=len(CONTENT), parts=parts)
    node = Node(whole, 0, b"whole")
    with Archive.open(str(viewer)) as archive:
        assert read_all(archive, node) == CONTENT
        assert bytes(archive.read(node, (2 << 16) - 5, 10)) == CONTENT[(2 << 16) - 5 : (2 << 16) + 5]
    archives[1].unlink()
    with Archive.open(str(viewer)) as archive:
        assert archive.damaged_ranges(node) == [(2 << 16, len(CONTENT))]
        assert bytes(archive.read(node, 0, 1000)) == CONTENT[:1000]
        with pytest.raises(ElsewhereError):
            archive.read(node, 2 << 16, 1)


def test_what_replaces_a_missing_archive(holder: Path, tmp_path: Path, viewer: Path) -> None:
    node = pointer(holder)
    identity = identify(str(holder))
    assert identity
    holder.unlink()
    other = make(tmp_path, "merged", {"now/here": CONTENT, "small": b"other bytes!"})
    with Archive.open(str(viewer)) as archive:
        known = archive._holders._shelf
        known._identify = lambda path: (found := identify(path)) and found._replace(replaces=(identity.id,))
        with pytest.raises(ElsewhereError):
            archive.read(node, 0, 1)
        renamed = pointer(other, b"now/here")
        elsewhere = Elsewhere(identity.id)
        record = msgspec.structs.replace(renamed.record, elsewhere=elsewhere, former="now/here")
        moved = Node(record, 0, b"later/here")
        assert read_all(archive, moved) == CONTENT
        stale = msgspec.structs.replace(pointer(other, b"small").record, sha256="0" * 64, elsewhere=elsewhere)
        with pytest.raises(ElsewhereError):
            archive.read(Node(stale, 0, b"small"), 0, 1)


@pytest.mark.parametrize("content", [b"", b"no archive", bytes(4096)])
def test_what_is_no_archive_has_no_identity(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.xtar"
    path.write_bytes(content)
    assert identify(str(path)) is None

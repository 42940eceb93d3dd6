"""Structures that lie, and locators of other archives: what section 8 of docs/format.md is for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from builder.building.build import Options, build
from xtarfs.errors import FormatError, NotAnArchive
from xtarfs.format import locator, records, tar
from xtarfs.format.records import DIRECTORY, Structure, new_record
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import StructuredDirectory

from . import trees


def test_a_directory_cannot_hold_itself() -> None:
    record = new_record(b"loop", DIRECTORY, 0o755, 0, 2)
    record.packed, record.structure = 4096, Structure(1024, 100)
    with pytest.raises(FormatError):
        records.parse_records(records.to_line(record))


def test_a_directory_loaded_twice_has_its_header_both_times(archive: Path) -> None:
    """Its block is in the cache the second time."""
    with Archive.open(str(archive)) as opened:
        node = opened.lookup(b"kinds/sub")
        assert node.record.structure
        for _ in range(2):
            start, size = node.base + node.record.data, node.record.packed
            directory = StructuredDirectory(opened.tree, node.path, start, size, node.record.structure)
            assert directory.header().raw_path == b"kinds/sub"


def test_the_locator_of_an_archive_inside_is_not_taken(tmp_path: Path) -> None:
    """An archive cut off right behind another one that is stored in it, unpacked, as a file."""
    (tmp_path / "tree").mkdir()
    trees.write(tmp_path / "tree" / "inside", b"x")
    build(str(tmp_path / "tree"), str(tmp_path / "inner.xtar"), Options())
    inner = (tmp_path / "inner.xtar").read_bytes()
    outer = bytes(512) + inner
    assert locator.find(inner, len(inner))
    assert locator.find(outer, len(outer)) is None


def test_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    build(str(tmp_path / "tree"), str(tmp_path / "x.xtar"), Options())
    data = (tmp_path / "x.xtar").read_bytes()
    found = locator.find(data, len(data))
    assert found
    changed = locator.pack(msgspec.structs.replace(found, xtar="9-later"))
    at = found.at + tar.BLOCK
    (tmp_path / "x.xtar").write_bytes(data[:at] + changed + data[at + len(changed) :])
    with pytest.raises(NotAnArchive, match="9-later"):
        Archive.open(str(tmp_path / "x.xtar"))

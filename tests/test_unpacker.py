"""The compiled unpacker against the Python that it stands in for: what is sound, what is damaged, what is restored."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from builder.building.build import Options, build
from builder.writing.compress import Settings
from xtarfs import _unpacker
from xtarfs.checking.check import Item, check_member
from xtarfs.checking.verify import Damage, verify
from xtarfs.format import tar
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import StructuredDirectory
from xtarfs.restoring.extract import ExtractOptions, extract

from . import trees
from .damaging import Sample, flipped, make_sample, opened, sample_tree
from .mounting import environment


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(sample_tree(tmp_path_factory.mktemp("unpacker") / "tree"))


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Item]]:
    """An archive of four files, one of each layout, and their members in order."""
    root = tmp_path_factory.mktemp("flat")
    source = root / "source"
    source.mkdir()
    for name, data in (
        ("chunked", trees.words(9000)),
        ("chunked-noise", trees.noise(9000)),
        ("noise", trees.noise(300)),
        ("\N{SNOWMAN}", trees.words(700)),
    ):
        trees.write(source / name, data, 0o640, 1_700_000_000_050_000_000)
    build(str(source), str(root / "flat.xtar"), Options(Settings(chunk_size=4096)))
    with Archive.open(str(root / "flat.xtar")) as archive:
        directory = archive.tree.directory(archive.root)
        assert isinstance(directory, StructuredDirectory)
        nodes = list(archive.children(archive.root))
        mark = tar.Mark(bytes.fromhex(directory.header().tag), 1, tar.ROLE_FILE)
        structure = archive.root.record.structure
        assert structure
        ends = [*(node.record.at for node in nodes[1:]), structure.at - tar.BLOCK]
    items = [Item(node, node.path, mark, node.record.at, end) for node, end in zip(nodes, ends, strict=True)]
    return (root / "flat.xtar").read_bytes(), items


def test_sound_members_are_proven(flat: tuple[bytes, list[Item]]) -> None:
    raw, items = flat
    assert _unpacker.check(items, raw, 0) == []


def test_no_flipped_bit_is_proven(flat: tuple[bytes, list[Item]]) -> None:
    raw, items = flat
    for item in items:
        member = bytearray(raw[item.at : item.end])
        for at in range(len(member)):
            member[at] ^= 1 << at % 8
            assert _unpacker.check([item], bytes(member), item.at) == [0]
            member[at] ^= 1 << at % 8
        assert _unpacker.check([item], bytes(member), item.at) == []


def test_what_is_not_in_memory_is_not_proven(flat: tuple[bytes, list[Item]]) -> None:
    raw, items = flat
    for item in items:
        for start, size in ((0, item.end - 1), (item.at + 1, 1 << 20), (item.end, 1 << 20), (0, 0), (2**63, 1 << 20)):
            assert _unpacker.check([item], raw[start : start + size], start) == [0]
        for at, end in ((item.end, item.at), (item.at, 2**63), (2**64 - 1, 0), (item.at, item.end + 512)):
            assert _unpacker.check([item._replace(at=at, end=end)], raw, 0) == [0]


@pytest.mark.parametrize(
    "field",
    ["size", "packed", "at", "data", "index", "chunk", "uid", "gid", "crc32", "sha256", "mode", "mtime", "user"],
)
def test_records_that_say_something_else(flat: tuple[bytes, list[Item]], field: str) -> None:
    raw, items = flat
    for item in items:
        true = getattr(item.node.record, field)
        texts = ("", "0", "00000000", "0" * 64, "x" * 300, "0777", "-1", "1700000000", "1.5.5", "1.", ".5")
        for lie in texts if isinstance(true, str) else (0, 1, 4096, true + 1, 2**31, 2**32, 2**63, 2**64, -1):
            if lie == true or (field == "index" and not item.node.record.chunk):
                continue
            setattr(item.node.record, field, lie)
            assert _unpacker.check([item], raw, 0) == [0]
            job = (item.node, -1, b"name", 0, 0)
            assert _unpacker.restore([job], raw, 0, b".tmp") == [0]
            setattr(item.node.record, field, true)
    assert _unpacker.check(items, raw, 0) == []


def test_python_agrees_on_flipped_bytes(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    def damage(data: bytes) -> list[Damage]:
        return verify(opened(data), jobs=1).damaged

    rng = random.Random(5)
    changed = [flipped(sample.data, rng.randrange(len(sample.data))) for _ in range(150)]
    compiled = [damage(data) for data in changed]
    monkeypatch.setattr("xtarfs.checking.check._core", None)
    assert compiled == [damage(data) for data in changed]
    assert all(compiled)


def test_python_restores_the_same(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, core in (("compiled", _unpacker), ("interpreted", None)):
        monkeypatch.setattr("xtarfs.restoring.bulk._core", core)
        with Archive.open(str(archive)) as opened_archive:
            assert extract(opened_archive, str(tmp_path / name), [], ExtractOptions()).complete
    first, second = tmp_path / "compiled", tmp_path / "interpreted"
    assert trees.snapshot(first, holes=True) == trees.snapshot(second, holes=True)


def test_nothing_is_left_of_what_was_not_restored(flat: tuple[bytes, list[Item]], tmp_path: Path) -> None:
    raw, items = flat
    node = items[0].node
    folder = os.open(tmp_path, os.O_RDONLY)
    job = (node, folder, b"file", os.geteuid(), os.getegid())
    try:
        damaged = flipped(raw, node.record.data + 5)
        assert _unpacker.restore([job], damaged, 0, b".tmp") == [0]
        assert os.listdir(tmp_path) == []
        assert _unpacker.restore([job], raw, 0, b".tmp") == []
        assert _unpacker.restore([job], raw, 0, b".tmp") == [0]  # it is there already
        for name in (b"..", b".", b"a/b", b"../out"):
            assert _unpacker.restore([(node, folder, name, 0, 0)], raw, 0, b".tmp") == [0]
        assert os.listdir(tmp_path) == ["file"]
        assert (tmp_path / "file").read_bytes() == trees.words(9000)
    finally:
        os.close(folder)


RESTORED_IN_LITTLE_MEMORY = """
import os, resource, sys
from xtarfs import _unpacker
from xtarfs.reading.reader import Archive

with Archive.open(sys.argv[1]) as archive:
    job = (archive.lookup(b"large"), os.open(sys.argv[2], os.O_RDONLY), b"large", os.geteuid(), os.getegid())
    raw = archive.source.read_at(0, archive.source.size)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), limits[1]))
    little = _unpacker.restore([job], raw, 0, b".tmp")
    resource.setrlimit(resource.RLIMIT_AS, limits)
    print(little, _unpacker.restore([job], raw, 0, b".tmp"))
"""


def test_content_for_which_there_is_no_memory(tmp_path: Path) -> None:
    source, copy, path = tmp_path / "source", tmp_path / "copy", tmp_path / "large.xtar"
    source.mkdir()
    copy.mkdir()
    trees.write(source / "large", bytes(12 << 20))
    build(str(source), str(path), Options())
    done = subprocess.run(
        [sys.executable, "-c", RESTORED_IN_LITTLE_MEMORY, path, copy],
        capture_output=True, text=True, check=False, timeout=60, env=environment(),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[0] []\n"), done.stderr
    assert os.listdir(copy) == ["large"]


def test_python_says_what_is_wrong_with_what_is_not_proven(flat: tuple[bytes, list[Item]]) -> None:
    raw, items = flat
    item = items[0]
    for at in range(0, item.end - item.at, 7):
        problem = check_member(item, flipped(raw, item.at + at)[item.at : item.end])
        assert problem


def test_what_is_no_item_is_refused() -> None:
    for nothing in (None, ()):
        with pytest.raises(TypeError):
            _unpacker.check([nothing], b"", 0)  # type: ignore[list-item]
        with pytest.raises(TypeError):
            _unpacker.restore([nothing], b"", 0, b".tmp")  # type: ignore[list-item]

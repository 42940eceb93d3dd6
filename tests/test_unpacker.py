"""The compiled unpacker against the Python that it stands in for: what is sound, what is damaged, what is restored."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.building.build import Options, build
from builder.writing.compress import Settings
from xtarfs import _unpacker
from xtarfs.checking.check import check_member
from xtarfs.checking.items import Item, Run, Stretch, open_directory
from xtarfs.checking.verify import Damage, verify
from xtarfs.errors import XtarError
from xtarfs.format import tar
from xtarfs.format.records import DIRECTORY, FIFO, FILE, Elsewhere, new_record, parse_records, to_line
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import StructuredDirectory
from xtarfs.restoring.extract import ExtractOptions, extract

from . import trees
from .damaging import Sample, flipped, make_sample, opened, sample_tree
from .mounting import environment


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(sample_tree(tmp_path_factory.mktemp("unpacker") / "tree"))


Asked = tuple[bytes, int, bytes, tar.Mark, int]  # a run, as check() takes it


@dataclass(frozen=True)
class Flat:
    """An archive of four files in one directory, one of each layout: as one run, as four, and one by one."""

    raw: bytes
    whole: Run
    run: Asked
    alone: list[Asked]
    items: list[Item]


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Flat:
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
        opened_root = open_directory(archive.tree, archive.root)
        assert opened_root
        header, children = opened_root
        (stretch,) = children
        assert isinstance(stretch, Stretch)
        mark = tar.Mark(bytes.fromhex(header.tag), 1, tar.ROLE_FILE)
        run = Run(archive.root, b"", mark, 0, stretch)
    alone = [(line, 1, b"", mark, 0) for line in stretch.lines.splitlines(keepends=True)]
    raw = (root / "flat.xtar").read_bytes()
    return Flat(raw, run, (stretch.lines, stretch.files, run.path, run.mark, run.base), alone, run.items(run.end))


def split(lines: bytes, path: bytes = b"", longest: int = 1 << 20, largest: int = 1 << 20) -> list[tuple[int, ...]]:
    """Number of files, content, begin and end of each piece, whose lines must be those given."""
    found = _unpacker.split(lines, path, longest, largest)
    assert b"".join(piece[0] for piece in found) == lines
    return [piece[1:] for piece in found]


def test_sound_members_are_proven(flat: Flat) -> None:
    assert _unpacker.check([flat.run], flat.raw, 0) == []
    assert _unpacker.check(flat.alone, flat.raw, 0) == []


def test_no_flipped_bit_is_proven(flat: Flat) -> None:
    for number, (alone, item) in enumerate(zip(flat.alone, flat.items, strict=True)):
        member = bytearray(flat.raw[item.at : item.end])
        for at in range(len(member)):
            member[at] ^= 1 << at % 8
            assert _unpacker.check([alone], bytes(member), item.at) == [(0, 0)]
            member[at] ^= 1 << at % 8
        assert _unpacker.check([alone], bytes(member), item.at) == []
        assert _unpacker.check([flat.run], flipped(flat.raw, item.at + 3), 0) == [(0, number)]
        assert _unpacker.check(flat.alone, flipped(flat.raw, item.at + 3), 0) == [(number, 0)]


def test_what_is_not_in_memory_is_not_proven(flat: Flat) -> None:
    raw = flat.raw
    for alone, item in zip(flat.alone, flat.items, strict=True):
        for start, size in ((0, item.end - 1), (item.at + 1, 1 << 20), (item.end, 1 << 20), (0, 0), (2**63, 1 << 20)):
            assert _unpacker.check([alone], raw[start : start + size], start) == [(0, 0)]
        for base in (1, 512, 2**63, 2**64 - item.at, 2**64 - 1):
            assert _unpacker.check([(*alone[:4], base)], raw, 0) == [(0, 0)]


LIES = ("", "0", "00000000", "0" * 64, "x" * 300, "0777", "-1", "1700000000", "1.5.5", "1.", ".5", '"', "\u00e9")


@pytest.mark.parametrize(
    "field",
    ["size", "packed", "at", "data", "index", "chunk", "uid", "gid", "crc32", "sha256", "mode", "mtime", "user"],
)
def test_records_that_say_something_else(flat: Flat, field: str) -> None:
    for alone, item in zip(flat.alone, flat.items, strict=True):
        record = item.node.record
        true = getattr(record, field)
        for lie in LIES if isinstance(true, str) else (0, 1, 4096, true + 1, 2**31, 2**32, 2**63, 2**64 - 1):
            if lie == true or (field == "index" and not record.chunk):
                continue
            setattr(record, field, lie)
            assert _unpacker.check([(to_line(record), *alone[1:])], flat.raw, 0) == [(0, 0)]
            job = (item.node, -1, b"name", 0, 0)
            assert _unpacker.restore([job], flat.raw, 0, b".tmp") == [0]
            setattr(record, field, true)
        assert _unpacker.check([(to_line(record), *alone[1:])], flat.raw, 0) == []


def test_digits_in_another_spelling_are_not_proven(flat: Flat) -> None:
    """Python compares checksums as text, so whoever takes them as numbers would accept more."""
    for alone, item in zip(flat.alone, flat.items, strict=True):
        for sum_ in (item.node.record.crc32, item.node.record.sha256):
            line = alone[0].replace(sum_.encode(), sum_.upper().encode())
            assert line != alone[0]
            assert _unpacker.check([(line, *alone[1:])], flat.raw, 0) == [(0, 0)]


def test_files_that_follow_one_another_make_a_stretch(flat: Flat) -> None:
    lines = [alone[0] for alone in flat.alone]
    first, last = flat.items[0], flat.items[-1]
    sizes = [item.node.record.size for item in flat.items]
    assert split(b"".join(lines)) == [(4, sum(sizes), first.at, last.end)]
    assert split(b"".join(lines), longest=1) == [
        (1, size, item.at, item.end) for size, item in zip(sizes, flat.items, strict=True)
    ]
    assert split(b"".join(lines[:1] + lines[2:])) == [
        (1, sizes[0], first.at, first.end),
        (2, sum(sizes[2:]), flat.items[2].at, last.end),
    ]
    assert split(b"".join(lines), largest=1) == [(0, 0, 0, 0)]
    assert split(b"") == []


def test_what_is_left_for_python(flat: Flat) -> None:
    """Records of other kinds, and files that say more than plain ones, lie between stretches."""
    line = flat.alone[0][0]
    odd = [
        new_record(b"folder", DIRECTORY, 0o755, 0, 2),
        new_record(b"fifo", FIFO, 0o755, 0, 2),
        new_record(b"caf\xe9", FILE, 0o644, 0, 2),
        *(
            msgspec.structs.replace(flat.items[0].node.record, **more)
            for more in (
                {"link": "else/where"},
                {"xattrs": {"user.a": "YQ=="}},
                {"elsewhere": Elsewhere("0" * 64)},
                {"former": "other"},
                {"method": "lzma"},
                {"name": "a/b"},
                {"name": ".."},
                {"name": ""},
                {"name": "x" * 97},
                {"name": 'a"b'},
                {"chunk": 100},
                {"size": (16 << 20) + 1},
                {"mtime": "-1.5"},
                {"data": 0},
            )
        ),
    ]
    for record in odd:
        counts = [piece[0] for piece in split(line + to_line(record) + to_line(record) + line)]
        assert counts == [1, 0, 1], record
    assert split(line, b"caf\xe9") == [(0, 0, 0, 0)]
    assert split(line, b"x" * 4096) == [(0, 0, 0, 0)]
    for broken in (b"{}\n", b"\n", line[:-1], line[:-2] + b"\n", b" " + line, line.replace(b":", b": ", 1)):
        assert split(line + broken + line) == [(0, 0, 0, 0)]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_called_plain_python_reads_with_the_same_values(flat: Flat, data: st.DataObject) -> None:
    lines = bytearray(flat.run[0])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    for piece, files, content, at, end in _unpacker.split(bytes(lines), b"", 1 << 20, 1 << 20):
        if files:
            records = parse_records(piece)
            assert (files, content) == (len(records), sum(record.size for record in records))
            assert at == records[0].at
            assert records[-1].data + records[-1].packed < end
    told = bytes(lines).split(b"\n")[:-1]
    unproven = {place for _, place in _unpacker.check([(bytes(lines), len(told), *flat.run[2:])], flat.raw, 0)}
    for place, line in enumerate(told):
        if place not in unproven:
            ((_, _, _, at, end),) = _unpacker.split(line + b"\n", b"", 1 << 20, 1 << 20)
            (item,) = flat.whole._replace(stretch=flat.whole.stretch._replace(lines=line + b"\n")).items(end)
            assert check_member(item, flat.raw[at:end]) is None


def test_python_agrees_on_flipped_bytes(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    def damage(data: bytes) -> list[Damage]:
        return verify(opened(data), jobs=1).damaged

    rng = random.Random(5)
    changed = [flipped(sample.data, rng.randrange(len(sample.data))) for _ in range(150)]
    compiled = [damage(data) for data in changed]
    monkeypatch.setattr("xtarfs.checking.items._core", None)
    assert compiled == [damage(data) for data in changed]
    assert all(compiled)


def a_lie(rng: random.Random, text: bytes) -> bytes:
    """A structure block's text with one record that says something else, stands elsewhere, twice, or not at all."""
    lines = text.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[number]
    elif kind == 1:
        lines.insert(number, lines[number])
    elif kind == 2:
        other = rng.randrange(len(lines))
        lines[number], lines[other] = lines[other], lines[number]
    else:
        fields = list(re.finditer(rb'"(at|data|packed|size|chunk|index|uid|nlink|files)":(\d+)', lines[number]))
        start, end = rng.choice(fields).span(2)
        value = int(lines[number][start:end])
        lie = rng.choice((0, 1, value + 1, abs(value - 1), value + 512, 2 * value, 4096, 2**31, 2**62, 2**63))
        lines[number] = lines[number][:start] + str(lie).encode() + lines[number][end:]
    return b"".join(lines)


@pytest.mark.parametrize("seed", range(100))
def test_python_agrees_on_records_that_lie(sample: Sample, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    path = random.Random(seed).choice([path for path, node in sample.nodes.items() if node.record.is_dir])
    true_text = StructuredDirectory._text

    def text(self: StructuredDirectory, at: int, length: int) -> bytes:
        true = true_text(self, at, length)
        return a_lie(random.Random(seed), true) if self._path == path else true

    def outcome() -> list[Damage] | str:
        try:
            return verify(opened(sample.data), jobs=1).damaged
        except XtarError as error:
            return str(error)

    monkeypatch.setattr(StructuredDirectory, "_text", text)
    compiled = outcome()
    monkeypatch.setattr("xtarfs.checking.items._core", None)
    assert compiled == outcome()


def test_python_restores_the_same(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, core in (("compiled", _unpacker), ("interpreted", None)):
        monkeypatch.setattr("xtarfs.restoring.bulk._core", core)
        with Archive.open(str(archive)) as opened_archive:
            assert extract(opened_archive, str(tmp_path / name), [], ExtractOptions()).complete
    first, second = tmp_path / "compiled", tmp_path / "interpreted"
    assert trees.snapshot(first, holes=True) == trees.snapshot(second, holes=True)


def test_nothing_is_left_of_what_was_not_restored(flat: Flat, tmp_path: Path) -> None:
    raw, node = flat.raw, flat.items[0].node
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
from xtarfs.reading.tree import StructuredDirectory

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


def test_python_says_what_is_wrong_with_what_is_not_proven(flat: Flat) -> None:
    item = flat.items[0]
    for at in range(0, item.end - item.at, 7):
        problem = check_member(item, flipped(flat.raw, item.at + at)[item.at : item.end])
        assert problem


def test_what_is_no_run_or_job_is_refused(flat: Flat) -> None:
    for count in (-1, len(flat.run[0]) + 1):
        with pytest.raises(ValueError, match="not a run"):
            _unpacker.check([(flat.run[0], count, *flat.run[2:])], flat.raw, 0)
    for nothing in (None, ()):
        with pytest.raises(TypeError):
            _unpacker.check([nothing], b"", 0)  # type: ignore[list-item]
        with pytest.raises(TypeError):
            _unpacker.restore([nothing], b"", 0, b".tmp")  # type: ignore[list-item]

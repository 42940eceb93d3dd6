"""The compiled decoder of structure blocks against the Python one, and what the compiled loop does beyond libfuse."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.building.build import Options, build
from xtarfs.errors import FormatError
from xtarfs.filesystem.vfs import FileSystem, _attributes
from xtarfs.format import records, structure
from xtarfs.format.codec import crc32
from xtarfs.format.records import FILE, Record, new_record
from xtarfs.mounting.mount import mount, unmount
from xtarfs.native import loop
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node, StructuredDirectory

from . import trees
from .memory_fs import MemoryFS
from .mounting import failure, live, until
from .test_hostile_sizes import a_file, crafted, folders_that_share_a_place, its_own_parent

START, LENGTH = 1 << 20, 1 << 30  # where the tar of the records lies, as far as the decoders are concerned
ASK_DATA, ASK_CHILDREN, ASK_XATTRS, DEFLATED = 1, 2, 4, 8
FEW = settings(max_examples=50, deadline=None)


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    spec = find_spec("deflate._deflate")
    assert spec
    assert spec.origin
    assert loop.load_engine(spec.origin)


# --- the decoder ---


def attributes(record: Record) -> tuple[Any, ...]:
    """What the loop must know of a record beside where its data lies."""
    shown = _attributes(record)
    return (
        record.raw_name, record.raw_target, shown.mode, shown.ino, shown.size, shown.blocks,
        *divmod(shown.mtime_ns, 10**9), shown.nlink, shown.uid, shown.gid, shown.rdev & 0xFFFFFFFF,
    )  # fmt: skip


def places(record: Record, start: int) -> tuple[int, ...]:
    if record.type == FILE:
        index = start + record.index
        return (start + record.data, record.packed, index, record.chunk, record.crc)
    assert record.structure
    at = start + record.data
    size = record.structure.size
    return (at, record.packed, at + record.structure.at, size & 0xFFFFFFFF, size >> 32)


def agree(row: tuple[Any, ...], record: Record, start: int) -> None:
    """A decoded row says what the record says, or leaves it to Python."""
    assert row[:12] == attributes(record)
    flags = row[-1]
    if (record.type == FILE and not flags & ASK_DATA) or (record.is_dir and not flags & ASK_CHILDREN):
        assert row[12:17] == places(record, start)
    if record.link or record.elsewhere or record.method not in (records.STORE, records.DEFLATE):
        assert record.type != FILE or flags & ASK_DATA
    assert bool(flags & ASK_XATTRS) == bool(record.xattrs)


def blocks_of(archive: Archive, node: Node) -> Iterator[tuple[bytes, bool, list[Record]]]:
    """The blocks of a directory's structure file: packed, whether a header comes first, and their records."""
    place = node.record.structure
    assert place
    start = node.base + node.record.data
    directory = archive.tree.directory(node)
    assert isinstance(directory, StructuredDirectory)
    if not place.index:
        block = archive.source.read_at(start + place.at, place.size)
        yield block, True, structure.parse_single(structure.unpack_block(block))[1]
        return
    for row in directory._blocks:
        block = archive.source.read_at(start + place.at + row.at, row.length)
        yield block, False, records.parse_records(structure.unpack_block(block))


def test_all_that_the_builder_writes_is_decoded(archive: Path) -> None:
    decoded = asked = 0
    with Archive.open(str(archive)) as opened:
        for node in (opened.root, *opened.walk()):
            if not node.record.is_dir:
                continue
            start = node.base + node.record.data
            for block, header, wanted in blocks_of(opened, node):
                rows = loop.decode_block(block, header, start, node.record.packed)
                assert rows is not None
                assert len(rows) == len(wanted)
                for row, record in zip(rows, wanted, strict=True):
                    agree(row, record, start)
                    decoded += 1
                    asked += bool(row[-1] & (ASK_DATA | ASK_CHILDREN))
                    assert not row[-1] & (ASK_DATA | ASK_CHILDREN) or record.link or not record.data
    assert decoded > 100
    assert asked < decoded / 10


numbers = st.one_of(st.integers(0, 9000), st.sampled_from([2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, -1]))
texts = st.one_of(
    st.text(max_size=8), st.sampled_from(["", ".", "..", "a/b", "nul\0", "\ud7ff", "\U0001f600", '"\\\n'])
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.one_of(texts, st.text("abcdefgh", min_size=1, max_size=300)),
    "name_b64": st.sampled_from(["", "eA==", "/w==", "eA", "e===", "Lg==", "YS9i", "!!!!"]),
    "type": st.sampled_from(["file", "file", "dir", "dir", "symlink", "fifo", "char", "block", "door", ""]),
    "mode": st.sampled_from(["0644", "0755", "7777", "0o75", "", "9", "-1", "00644", "٣"]),
    "uid": numbers, "gid": numbers, "user": texts, "group": texts,
    "mtime": st.sampled_from(["1", "-1", "-0.25", "1.5", "1.123456789", "1.1234567890", "", "1.", ".5", "1e3", "٣",
                              "9" * 17, "9" * 18, "9" * 33, "+1", "-"]),
    "ino": numbers, "nlink": numbers, "size": numbers, "at": numbers, "data": numbers, "packed": numbers,
    "method": st.sampled_from(["store", "deflate", "lzma", ""]), "chunk": st.sampled_from([0, 4096, 32768, 5, 2**40]),
    "index": numbers, "table_copy": numbers, "crc32": st.sampled_from(["", "0", "ffffffff", "0x12", "123456789", "g"]),
    "sha256": texts, "packed_crc32": st.sampled_from(["", "12345678", "123456789"]),
    "holes": st.lists(st.tuples(numbers, numbers), max_size=3), "changed": st.booleans(),
    "target": texts, "target_b64": st.sampled_from(["", "AA==", "eHg="]), "major": numbers, "minor": numbers,
    "link": texts, "link_b64": st.sampled_from(["", "eA==", "x"]),
    "xattrs": st.sampled_from([{}, {"user.a": "eA=="}, {"user.a": "x"}, {"=eA==": ""}, {"": "eA=="}]),
    "structure": st.one_of(
        st.none(), st.fixed_dictionaries({"at": numbers, "size": numbers}, optional={"index": numbers})
    ),
    "files": numbers, "total": numbers,
    "elsewhere": st.sampled_from([None, {"archive": "a", "volume": 2}, {"path": "x"}]),
    "new": st.sampled_from([1, "x", [1, {"a": None}], True]),
}  # fmt: skip
SOUND = {
    "name": "x",
    "type": "file",
    "mode": "0644",
    "uid": 0,
    "gid": 0,
    "mtime": "1",
    "ino": 2,
    "data": 9,
    "packed": 9,
}


def as_line(fields: dict[str, Any], kept: set[str], escaped: bool) -> bytes:
    """The sound record with the kept ones of `fields`, in the order in which the builder writes them."""
    chosen = SOUND | {key: value for key, value in fields.items() if key in kept}
    ordered = {key: chosen[key] for key in FIELDS if key in chosen}
    return json.dumps(ordered, separators=(",", ":"), ensure_ascii=escaped).encode("utf-8", "surrogatepass")


lines = st.builds(
    as_line, st.fixed_dictionaries(FIELDS), st.sets(st.sampled_from(sorted(FIELDS)), max_size=4), st.booleans()
)


def python_rows(text: bytes) -> list[Record] | None:
    try:
        decoded = records.parse_records(text)
        for record in decoded:
            attributes(record)
    except (FormatError, ValueError, OverflowError):
        return None
    return decoded


def compare(text: bytes) -> None:
    rows = loop.decode_block(structure.pack_block(text), False, START, LENGTH)
    if rows is None:
        return
    wanted = python_rows(text)
    if wanted is None:
        # What only Python understands may be wrong in a way that only Python sees.
        assert b'"elsewhere"' in text or any(row[-1] & ASK_DATA for row in rows)
        return
    assert len(rows) == len(wanted)
    for row, record in zip(rows, wanted, strict=True):
        agree(row, record, START)


@settings(FEW, max_examples=150)
@given(lines)
def test_odd_records(line: bytes) -> None:
    compare(line + b"\n")


@settings(FEW, max_examples=150)
@given(
    lines, st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=3)
)
def test_mangled_records(line: bytes, edits: list[tuple[int, bytes, int]]) -> None:
    text = line + b"\n"
    for at, new, removed in edits:
        at %= len(text)
        text = text[:at] + new + text[at + removed :]
    compare(text)


def test_a_sound_record_is_decoded() -> None:
    """The fuzzing above compares something."""
    rows = loop.decode_block(
        structure.pack_block(json.dumps(SOUND, separators=(",", ":")).encode() + b"\n"), False, 0, 99
    )
    assert rows is not None
    assert rows[0][:2] == (b"x", b"")


@FEW
@given(st.data())
def test_damaged_blocks_are_refused(archive_blocks: list[tuple[bytes, bool]], data: st.DataObject) -> None:
    block, header = data.draw(st.sampled_from(archive_blocks))
    at, mask = data.draw(st.integers(0, len(block) - 1)), data.draw(st.integers(1, 255))
    damaged = block[:at] + bytes([block[at] ^ mask]) + block[at + 1 :]
    cut = block[: data.draw(st.integers(0, len(block) - 1))]
    longer = struct.pack("<I", len(block) + 1)
    assert loop.decode_block(cut, header, START, LENGTH) is None
    assert loop.decode_block(block[:16] + longer + block[20:] + b"x", header, START, LENGTH) is None
    sound, found = (loop.decode_block(each, header, START, LENGTH) for each in (block, damaged))
    assert found is None or found == sound  # the gzip header has bytes that say nothing


@pytest.fixture(scope="module")
def archive_blocks(archive: Path) -> list[tuple[bytes, bool]]:
    with Archive.open(str(archive)) as opened:
        folders = [opened.root, *(node for node in opened.walk() if node.record.is_dir)]
        return [(block, header) for node in folders for block, header, _ in blocks_of(opened, node)]


# --- the loop ---


def odd_files() -> list[Record]:
    """Files whose places and sizes are anything, with names in order."""
    rng = random.Random(8)
    values = [0, 1, 10, 500, 4096, 5000, 32768, 10**6, 2**31, 2**32, 2**40, 2**62, 2**63 - 1]
    found = []
    for number in range(300):
        record = new_record(b"%04d" % number, FILE, 0o644, 0, number + 3)
        record.data, record.packed, record.size, record.index = (rng.choice(values) for _ in range(4))
        record.chunk = rng.choice([0, 0, 4096, 32768, 2**29, 2**40])
        record.method = rng.choice([records.STORE, records.DEFLATE])
        record.crc32 = rng.choice(["", "00000000", f"{crc32(bytes(500)):08x}", "12345678"])
        found.append(record)
    return found


def test_places_that_make_no_sense(native: None, tmp_path: Path) -> None:
    """Every file gives what the Python reader gives, or EIO where that gives none."""
    path = tmp_path / "odd.xtar"
    path.write_bytes(crafted(odd_files()))
    sound = 0
    with live(path, tmp_path / "m") as point, Archive.open(str(path)) as archive:
        filesystem = FileSystem(archive)
        for entry in sorted(os.scandir(point), key=lambda entry: entry.name):
            for offset in (0, 4096, 2**31):
                try:
                    wanted = bytes(filesystem.read(b"/" + os.fsencode(entry.name), 4096, offset))
                except OSError:
                    wanted = None
                with open(entry.path, "rb") as file:
                    if wanted is None:
                        assert failure(os.pread, file.fileno(), 4096, offset) == errno.EIO
                    else:
                        assert os.pread(file.fileno(), 4096, offset) == wanted
                        sound += bool(wanted)
        assert len(os.listdir(point)) == 300
    assert sound > 3


@pytest.mark.parametrize("packed", [2**40, 9000, 1024])
def test_a_folder_that_holds_its_parent(native: None, tmp_path: Path, packed: int) -> None:
    path = tmp_path / "loop.xtar"
    source = its_own_parent((b"a", b"b"), packed).source
    path.write_bytes(source.read_at(0, source.size))
    with live(path, tmp_path / "m") as point:
        assert sum(1 for _ in zip(os.walk(point), range(1000), strict=False)) < 100


def test_folders_that_share_a_place(native: None, tmp_path: Path) -> None:
    """What is kept of one must not be taken for both."""
    data, others = folders_that_share_a_place()
    path = tmp_path / "shared.xtar"
    path.write_bytes(data)
    with live(path, tmp_path / "m") as point:
        os.stat(point / "z")  # first: in the order of their names only one may lie there
        assert os.listdir(point / "a") == []
        for other in others:
            with suppress(OSError):
                os.listdir(point / os.fsdecode(other.raw_name))
        assert sorted(os.listdir(point / "z")) == [f"{number:04d}" for number in range(1000)]


def test_a_further_name_that_claims_a_larger_size(native: None, tmp_path: Path) -> None:
    """Where data ends too early there is an error, no zeros."""
    content = b"content" * 50
    first, further = a_file(size=350, packed=350, crc32=f"{crc32(content):08x}"), a_file(size=9000, link="file")
    further.name = "further"
    data = bytearray(crafted([first, further]))
    data[1024 : 1024 + len(content)] = content
    path = tmp_path / "link.xtar"
    path.write_bytes(data)
    with live(path, tmp_path / "m") as point:
        assert (point / "file").read_bytes() == content
        assert failure((point / "further").read_bytes) == errno.EIO


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTARFS_FUSE", "native")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of many small files and some others, so that reading it in order has files prefetched."""
    root = tmp_path_factory.mktemp("source") / "tree"
    for name in ("one", "two"):
        (root / name / "between").mkdir(parents=True)
        for number in range(150):
            trees.write(root / name / f"file {number:03d}", trees.words(50 + 97 * number, number))
        trees.write(root / name / "file 050 empty")
        trees.write(root / name / "file 060 long", trees.words(700_000, 1))
        trees.write(root / name / "file 070 noise", trees.noise(90_000, 2))
        os.symlink("file 001", root / name / "file 080 link")
    return root


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "folder.xtar"
    assert build(str(folder), str(path), Options()).problems == []
    return path


def test_damage_among_prefetched_files(native: None, folder: Path, packed: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.xtar"
    shutil.copy(packed, damaged)
    hit = {f"file {number:03d}" for number in range(5, 150, 7)}
    with Archive.open(str(packed)) as opened, open(damaged, "r+b") as file:
        for name in hit:
            node = opened.lookup(f"one/{name}")
            file.seek(node.base + node.record.data + node.record.packed // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 0x10]))
    with live(damaged, tmp_path / "m") as point:
        for entry in sorted(os.scandir(point / "one"), key=lambda entry: entry.name):
            if entry.name in hit:
                assert failure(Path(entry.path).read_bytes) == errno.EIO
            elif entry.is_file():
                assert Path(entry.path).read_bytes() == (folder / "one" / entry.name).read_bytes()
        report = json.loads(os.getxattr(point, "user.xtar.report"))
        assert {row["path"] for row in report["damaged"]} == {f"one/{name}" for name in hit}


def test_many_readers_in_order(native: None, folder: Path, packed: Path, tmp_path: Path) -> None:
    """Each file is wanted, prefetched and read by several at once."""
    wanted = {path.name: path.read_bytes() for path in sorted((folder / "one").iterdir()) if path.is_file()}
    with live(packed, tmp_path / "m") as point:

        def read(skipped: int) -> list[str]:
            names = sorted(entry.name for entry in os.scandir(point / "one") if entry.name in wanted)
            return [name for name in names[skipped:] if (point / "one" / name).read_bytes() != wanted[name]]

        for _ in range(3):
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(read, range(0, 24, 3))) == [[]] * 8
            for name in wanted:
                with open(point / "one" / name, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class SlowMedium(MemoryFS):
    """Takes long for one stretch of the archive that lies on it."""

    def __init__(self, archive: Path, stretch: tuple[int, int]) -> None:
        super().__init__()
        self.file(b"/archive", archive.read_bytes())
        self.stretch = stretch

    def read(self, path: bytes, size: int, offset: int) -> bytes | bytearray | memoryview:
        if offset < self.stretch[1] and offset + size > self.stretch[0]:
            self._dwell(3.0)
        return super().read(path, size, offset)


def test_a_slow_medium_holds_up_only_who_waits_for_it(native: None, packed: Path, tmp_path: Path) -> None:
    with Archive.open(str(packed)) as opened:
        node = opened.lookup("one/file 060 long")
        middle = node.base + node.record.data + node.record.packed // 2
    outer = tmp_path / "outer"
    outer.mkdir()
    mount(lambda: SlowMedium(packed, (middle - 30_000, middle + 30_000)), str(outer), fsname="x")
    try:
        with (
            live(outer / "archive", tmp_path / "m") as point,
            open(point / "one" / "file 060 long", "rb") as file,
            ThreadPoolExecutor(1) as pool,
        ):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            reading = pool.submit(os.pread, file.fileno(), 4096, 350_000)
            assert until(lambda: busy(outer))
            assert failure(lambda: os.getxattr(point / "two", "user.none")) == errno.ENODATA
            assert busy(outer), "the question was answered only after the slow read"
            assert len(reading.result()) == 4096
    finally:
        unmount(str(outer))


def busy(medium: Path) -> bool:
    return bool(json.loads(os.getxattr(medium, "user.xtar.test"))["readers"])


def test_allow_root_keeps_others_out(native: None, packed: Path) -> None:
    """Also of what the kernel knows already."""
    with tempfile.TemporaryDirectory(prefix="xtar-test-") as folder:
        os.chmod(folder, 0o755)
        with live(packed, Path(folder) / "m", "-o", "allow_root") as point:
            content = next(path for path in sorted((point / "one").iterdir()) if path.is_file())
            assert content.read_bytes()
            script = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
            for act in ("os.listdir(sys.argv[1])", "open(sys.argv[2]).read()"):
                command = [sys.executable, "-S", "-c", script + act, str(point), str(content)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert "PermissionError" in done.stderr

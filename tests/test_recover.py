"""Recovery from wrecks: whatever is done to an archive, nothing wrong is given out, and only what was hit is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.building.build import Options, build
from builder.commands.cli import main
from builder.writing.compress import Settings
from xtarfs.errors import NotAnArchive, SourceError
from xtarfs.format import structure, tar
from xtarfs.format.zip import CENTRAL_SIGNATURE, LOCAL_SIGNATURE
from xtarfs.reading.reader import Archive
from xtarfs.recovery.carve import Patient
from xtarfs.recovery.recover import Recovered, RecoverResult, recover, salvage

from . import trees
from .damaging import MemorySource

Snapshot = dict[bytes, dict[str, object]]
SECTOR = 4096


def wreck_tree(root: Path) -> Path:
    """A few MB: many small files, some large ones that pack and that do not, every kind of entry."""
    root.mkdir()
    rng = random.Random(7)
    for folder in range(12):
        path = root / f"folder-{folder:02}" / "sub"
        path.mkdir(parents=True)
        for number in range(25):
            trees.write(path / f"file-{number}", trees.words(rng.randrange(1, 9000), 100 * folder + number))
        trees.write(path.parent / "large", trees.words(rng.randrange(50_000, 300_000), folder))
        trees.write(path.parent / "noise", trees.noise(rng.randrange(20_000, 150_000), folder))
        os.symlink("../large", path / "link")
        (path.parent / "empty").mkdir(mode=0o711)
    (root / "many").mkdir()
    for number in range(600):  # more than one block of records
        trees.write(root / "many" / f"n{number:04}-{'x' * 60}", trees.words(number, number))
    (root / "kinds").mkdir()
    trees.kinds(root / "kinds")
    (root / "names").mkdir()
    trees.names(root / "names")
    trees.set_times(root)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wreck_tree(tmp_path_factory.mktemp("recover") / "tree")


@pytest.fixture(scope="module")
def sound(tree: Path) -> bytes:
    return packed(tree)


@pytest.fixture(scope="module")
def before(tree: Path) -> Snapshot:
    return trees.snapshot(tree)


def packed(tree: Path, **options: int) -> bytes:
    path = tree.parent / f"{tree.name}.xtar"
    build(str(tree), str(path), Options(settings=Settings(**options), force=True))
    data = path.read_bytes()
    path.unlink()
    return data


@pytest.fixture
def attempt(tree: Path, tmp_path: Path) -> Iterator[Callable[[bytes], RecoverResult]]:
    """Recovers from bytes into `out`, and checks that nothing wrong was given out."""

    def run(data: bytes) -> RecoverResult:
        result = recover(MemorySource(data), str(tmp_path / "out"))
        check(result, tree, tmp_path / "out")
        return result

    yield run


def check(result: RecoverResult, tree: Path, out: Path) -> None:
    """Every byte delivered is the source's at that place; what is called whole is; nothing else is there."""
    for account in result.archives:
        check_one(account, tree, out / os.fsdecode(account.prefix))


def check_one(account: Recovered, tree: Path, out: Path) -> None:
    partial = dict(account.partial)
    whole = 0
    for folder, names, files in os.walk(os.fsencode(out)):
        for name in names + files:
            path = os.path.relpath(os.path.join(folder, name), os.fsencode(out))
            original, restored = (os.path.join(os.fsencode(top), path) for top in (tree, out))
            modes = os.lstat(original).st_mode, os.lstat(restored).st_mode
            assert stat.S_IFMT(modes[0]) == stat.S_IFMT(modes[1]), path
            assert path not in account.lost
            if stat.S_ISLNK(modes[0]):
                assert os.readlink(original) == os.readlink(restored)
            elif stat.S_ISREG(modes[0]):
                whole += path not in partial
                compare(original, restored, partial.get(path, ()))
    assert whole == account.files


def compare(original: bytes, restored: bytes, holes: tuple[tuple[int, int], ...]) -> None:
    expected, found = bytearray(Path(os.fsdecode(original)).read_bytes()), Path(os.fsdecode(restored)).read_bytes()
    for start, end in holes:
        assert start < end <= len(expected)
        expected[start:end] = bytes(end - start)
    assert expected == found, original


def zeroed(data: bytes, *ranges: tuple[int, int]) -> bytes:
    changed = bytearray(data)
    for start, end in ranges:
        changed[start:end] = bytes(end - start)
    return bytes(changed)


def lost_bytes(result: RecoverResult, tree: Path) -> int:
    (account,) = result.archives
    return sum(end - start for _, ranges in account.partial for start, end in ranges) + sum(
        (tree / os.fsdecode(path)).stat().st_size for path in account.lost
    )


Attempt = Callable[[bytes], RecoverResult]


# -- damage in place -------------------------------------------------------------------------------------------


def test_a_sound_archive_comes_back_whole(sound: bytes, before: Snapshot, attempt: Attempt, tmp_path: Path) -> None:
    result = attempt(sound)
    assert result.complete
    assert trees.differences(before, trees.snapshot(tmp_path / "out")) == []
    with Archive(MemorySource(sound)) as archive:
        assert archive.tree.locator
        assert result.archives[0].files == archive.tree.locator.files


def test_flipped_bytes_cost_their_chunks(sound: bytes, tree: Path, attempt: Attempt) -> None:
    rng = random.Random(1)
    changed = bytearray(sound)
    for _ in range(15):
        changed[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
    result = attempt(bytes(changed))
    assert lost_bytes(result, tree) <= 15 * (32 << 10)
    assert result.archives[0].incomplete == result.archives[0].guessed == []


@pytest.mark.parametrize("seed", range(3))
def test_one_percent_of_sectors_costs_four_percent_of_bytes(
    sound: bytes, tree: Path, before: Snapshot, attempt: Attempt, tmp_path: Path, seed: int
) -> None:
    count = len(sound) // SECTOR
    hit = random.Random(seed).sample(range(count), count // 100)
    result = attempt(zeroed(sound, *((sector * SECTOR, (sector + 1) * SECTOR) for sector in hit)))
    assert lost_bytes(result, tree) <= 0.04 * result_size(tree)
    assert result.archives[0].guessed == []
    same_attributes(before, trees.snapshot(tmp_path / "out"))


def result_size(tree: Path) -> int:
    return sum(path.stat().st_size for path in trees.paths_below(tree) if stat.S_ISREG(path.lstat().st_mode))


def same_attributes(before: Snapshot, after: Snapshot) -> None:
    for path in after.keys() & before.keys():
        for key in ("mode", "owner", "mtime", "xattrs", "target"):
            assert after[path].get(key) == before[path].get(key), path


@pytest.mark.parametrize("tenth", range(11))
def test_a_burst_costs_what_was_packed_in_it_and_two_chunks(
    sound: bytes, tree: Path, attempt: Attempt, tenth: int
) -> None:
    length = 100_000
    start = min(len(sound) * tenth // 10, len(sound) - length)
    result = attempt(zeroed(sound, (start, start + length)))
    assert lost_bytes(result, tree) <= content_in(sound, start, start + length) + 2 * (32 << 10)
    assert result.archives[0].incomplete == []


def content_in(sound: bytes, start: int, end: int) -> int:
    """Bytes of content whose packed data touches [start, end), by share for large files."""
    total = 0.0
    with Archive(MemorySource(sound)) as archive:
        for node in archive.walk():
            record, at = node.record, node.base + node.record.data
            touched = min(end, at + record.packed) - max(start, at)
            if record.type == "file" and touched > 0:
                total += record.size if not record.chunk else record.size * touched / record.packed * 1.3
    return int(total)


@pytest.mark.parametrize("end", ["first", "last"])
def test_an_end_zeroed_costs_only_what_lay_there(
    sound: bytes, tree: Path, before: Snapshot, attempt: Attempt, tmp_path: Path, end: str
) -> None:
    size = 64 << 10
    start = 0 if end == "first" else len(sound) - size
    result = attempt(zeroed(sound, (start, start + size)))
    (account,) = result.archives
    with Archive(MemorySource(sound)) as archive:
        inside = {
            node.path
            for node in archive.walk()
            if start <= node.base + node.record.data < start + size and node.record.type == "file"
        }
    assert set(account.lost) | {path for path, _ in account.partial} <= inside
    assert account.incomplete == account.guessed == []
    after = trees.snapshot(tmp_path / "out")
    assert before.keys() - after.keys() <= inside
    same_attributes(before, after)


def test_a_chunk_in_a_damaged_row_of_the_table_is_found(sound: bytes, attempt: Attempt) -> None:
    with Archive(MemorySource(sound)) as archive:
        node = archive.lookup("folder-03/large")
        table = node.base + node.record.index
    result = attempt(zeroed(sound, (table + 36, table + 40)))
    assert result.complete


# -- shifted, cut and buried -----------------------------------------------------------------------------------


def test_inserted_bytes_cost_a_chunk_each(sound: bytes, tree: Path, attempt: Attempt) -> None:
    parts = [sound[len(sound) * i // 20 : len(sound) * (i + 1) // 20] for i in range(20)]
    result = attempt(b"".join(part + b"\xaa" * (7 * i + 1) for i, part in enumerate(parts)))
    assert lost_bytes(result, tree) <= 20 * (32 << 10)
    assert result.archives[0].incomplete == []


def test_bytes_cut_out_of_the_middle(sound: bytes, tree: Path, attempt: Attempt) -> None:
    start, end = len(sound) // 3, len(sound) // 3 + 250_001
    result = attempt(sound[:start] + sound[end:])
    assert lost_bytes(result, tree) <= content_in(sound, start, end) + 2 * (32 << 10)
    assert result.archives[0].incomplete == []


def test_a_lost_head_loses_no_name(sound: bytes, tree: Path, attempt: Attempt) -> None:
    cut = len(sound) * 3 // 10 + 37
    result = attempt(sound[cut:])
    assert lost_bytes(result, tree) <= content_in(sound, 0, cut) + 2 * (32 << 10)
    assert result.archives[0].incomplete == []


def test_a_lost_tail_keeps_all_before_it(sound: bytes, attempt: Attempt, tmp_path: Path) -> None:
    cut = len(sound) * 7 // 10
    result = attempt(sound[:cut])
    assert not result.complete
    with Archive(MemorySource(sound)) as archive:
        expected = [path for path, (_, end) in members(archive) if end < cut]
    assert len(expected) > 100
    for path in expected:
        assert os.path.lexists(os.fsencode(tmp_path / "out") + b"/" + path), path


def test_a_fragment_gives_what_is_in_it(sound: bytes, attempt: Attempt, tmp_path: Path) -> None:
    start, end = len(sound) * 4 // 10 + 11, len(sound) * 6 // 10 + 3
    attempt(sound[start:end])
    with Archive(MemorySource(sound)) as archive:
        expected = [path for path, (at, stop) in members(archive) if start < at and stop < end]
    assert len(expected) > 20
    for path in expected:
        assert os.path.lexists(os.fsencode(tmp_path / "out") + b"/" + path), path


def members(archive: Archive) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Where each file's zip lies, generously."""
    for node in archive.walk():
        record = node.record
        if record.type == "file" and not record.link:
            end = record.index + 12 * record.size // record.chunk if record.chunk else record.data + record.packed
            yield node.path, (node.base + record.at, node.base + end + 1000)


def test_an_archive_in_an_image_of_noise(sound: bytes, before: Snapshot, attempt: Attempt, tmp_path: Path) -> None:
    result = attempt(trees.noise(1_000_003) + sound + trees.noise(500_001, 2))
    assert result.complete
    assert trees.differences(before, trees.snapshot(tmp_path / "out")) == []


class FailingSource(MemorySource):
    """A medium that fails wherever a read touches one of `bad` ranges."""

    def __init__(self, data: bytes, bad: list[tuple[int, int]]) -> None:
        super().__init__(data)
        self.bad = bad

    def read_at(self, offset: int, size: int) -> bytes:
        if any(offset < end and start < offset + size for start, end in self.bad):
            raise SourceError("Input/output error")
        return super().read_at(offset, size)


def test_a_failing_medium_costs_its_sectors(sound: bytes, tree: Path, tmp_path: Path) -> None:
    places = random.Random(5).sample(range(len(sound)), 20)
    source = FailingSource(sound, [(place, place + 512) for place in places])
    result = recover(source, str(tmp_path / "out"))
    check(result, tree, tmp_path / "out")
    assert SECTOR <= result.unreadable <= 40 * SECTOR
    assert lost_bytes(result, tree) <= 40 * (32 << 10)


# -- several archives ------------------------------------------------------------------------------------------


def test_two_archives_on_one_image_are_kept_apart(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(30):
        trees.write(root / f"f{number}", trees.words(5000 * number, number), mtime_ns=10**18)
    (root / "d").mkdir()
    trees.write(root / "d" / "same", b"same", mtime_ns=10**18)
    trees.set_times(root)
    old, first = packed(root), trees.snapshot(root)
    for number in range(0, 30, 3):  # the same sizes
        trees.write(root / f"f{number}", trees.words(5000 * number, 1000 + number), mtime_ns=2 * 10**18)
    trees.set_times(root, 2 * 10**18)
    new, second = packed(root), trees.snapshot(root)
    image = trees.noise(10_001) + new + trees.noise(5_001) + zeroed(old, (len(old) - 3000, len(old)))
    result = recover(MemorySource(image), str(tmp_path / "out"))
    assert [len(account.lost) + len(account.partial) for account in result.archives] == [0, 0]
    for account, expected in zip(result.archives, (second, first), strict=True):
        found = trees.snapshot(tmp_path / "out" / account.tag)
        assert trees.differences(expected, found) == []


def test_archives_that_share_a_tag_are_kept_apart(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(9):
        trees.write(root / f"f{number}", trees.noise(50_000 * number, number))
    trees.set_times(root)
    old, first = packed(root), trees.snapshot(root)
    times = os.stat(root / "f5")
    trees.write(root / "f5", trees.noise(250_000, 99), mtime_ns=times.st_mtime_ns)
    trees.set_times(root)
    new, second = packed(root), trees.snapshot(root)
    result = recover(MemorySource(new + old), str(tmp_path / "out"))
    (tag,) = {account.tag for account in result.archives}
    assert trees.differences(second, trees.snapshot(tmp_path / "out" / tag)) == []
    assert trees.differences(first, trees.snapshot(tmp_path / "out" / f"{tag}-2")) == []


def test_two_copies_make_up_for_each_other(sound: bytes, before: Snapshot, attempt: Attempt, tmp_path: Path) -> None:
    half = len(sound) // 2
    result = attempt(zeroed(sound, (0, half)) + trees.noise(777) + zeroed(sound, (half + 50_000, len(sound))))
    assert result.archives[0].lost == []
    assert result.archives[0].partial == []
    assert len(trees.snapshot(tmp_path / "out")) == len(before)


@pytest.fixture(scope="module")
def outer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A tree that holds an archive as a file, and its archive."""
    inner = tmp_path_factory.mktemp("inner") / "tree"
    for folder in range(4):
        path = inner / f"folder-{folder:02}"
        path.mkdir(parents=True)
        for number in range(4):
            trees.write(path / f"noise-{number}", trees.noise(150_000 * number + 1, 10 * folder + number))
    root = tmp_path_factory.mktemp("outer") / "tree"
    root.mkdir()
    trees.write(root / "a", trees.words(300_000))
    trees.write(root / "backup.xtar", packed(inner))
    trees.write(root / "folder-03", b"a file where the other archive has a folder")
    trees.write(root / "z", trees.words(100_000))
    trees.set_times(root)
    return root, packed(root)


@pytest.mark.parametrize("cut", ["none", "head", "in the inner head", "tail", "in the inner tail", "sectors"])
def test_an_archive_within_an_archive_is_content(outer: tuple[Path, bytes], tmp_path: Path, cut: str) -> None:
    root, data = outer
    with Archive(MemorySource(data)) as archive:
        node = archive.lookup("backup.xtar")
        assert node.record.method == "store"
        start = node.base + node.record.data
        middle = start + node.record.packed // 2
    hit = random.Random(3).sample(range(len(data) // SECTOR), len(data) // SECTOR // 50)
    damaged = {
        "none": data,
        "head": data[start - 20_000 :],
        "in the inner head": data[middle:],
        "tail": data[: start + node.record.packed + 2000],
        "in the inner tail": data[:middle],
        "sectors": zeroed(data, *((sector * SECTOR, (sector + 1) * SECTOR) for sector in hit)),
    }[cut]
    result = recover(MemorySource(damaged), str(tmp_path / "out"))
    check(result, root, tmp_path / "out")
    assert result.unclaimed == 0


# -- any damage ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    root = tmp_path_factory.mktemp("little") / "tree"
    (root / "d" / "e").mkdir(parents=True)
    for number in range(8):
        trees.write(root / "d" / f"small-{number}", trees.words(200 * number, number))
    trees.write(root / "d" / "e" / "text", trees.words(60_000))
    trees.write(root / "d" / "e" / "noise", trees.noise(30_000))
    trees.write(root / "zeros", bytes(40_000))
    os.symlink("d/e", root / "link")
    trees.set_times(root)
    return root, packed(root, chunk_size=4096)


PLACE = st.floats(0, 1)
DAMAGE = st.one_of(
    st.tuples(st.just("flip"), PLACE, st.integers(1, 255)),
    st.tuples(st.just("zero"), PLACE, st.integers(1, 20_000)),
    st.tuples(st.just("noise"), PLACE, st.integers(1, 5_000)),
    st.tuples(st.just("cut"), PLACE, st.integers(1, 20_000)),
    st.tuples(st.just("insert"), PLACE, st.integers(1, 9_000)),
    st.tuples(st.just("move"), PLACE, st.integers(1, 30_000)),
    st.tuples(st.just("copy"), PLACE, st.integers(1, 30_000)),
)


def apply(data: bytes, kind: str, place: float, amount: int) -> bytes:
    at = int(place * max(len(data) - 1, 0))
    piece = data[at : at + amount]
    if kind == "flip":
        return data[:at] + bytes(byte ^ amount for byte in data[at : at + 1]) + data[at + 1 :]
    if kind == "zero":
        return data[:at] + bytes(len(piece)) + data[at + amount :]
    if kind == "noise":
        return data[:at] + random.Random(amount).randbytes(len(piece)) + data[at + amount :]
    if kind == "cut":
        return data[:at] + data[at + amount :]
    if kind == "insert":
        return data[:at] + bytes([amount & 255]) * amount + data[at:]
    if kind == "move":
        return data[:at] + data[at + amount :] + piece
    return data[:at] + piece + data[at:]


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=st.lists(DAMAGE, min_size=1, max_size=6))
def test_any_damage(little: tuple[Path, bytes], tmp_path: Path, damage: list[tuple[str, float, int]]) -> None:
    root, data = little
    for step in damage:
        data = apply(data, *step)
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        result = recover(MemorySource(data), str(out))
    except NotAnArchive:
        assert not out.exists()
        return
    check(result, root, out)


@pytest.mark.parametrize(
    "pattern",
    [
        LOCAL_SIGNATURE,
        CENTRAL_SIGNATURE,
        structure.pack_block(b"x" * 1000)[:16] + struct.pack("<I", 1 << 20),
        b"ustar\x0000",
        tar.pack(tar.Header(b"n", 1 << 24, tar.PAX, mark=tar.Mark(b"tagged", 1, b"f"))),
    ],
    ids=["local", "central", "block", "magic", "pax"],
)
def test_signatures_without_end_cost_little(pattern: bytes) -> None:
    start = time.process_time()
    with pytest.raises(NotAnArchive):
        salvage(Patient(MemorySource(pattern * (2_000_000 // len(pattern)))))
    assert time.process_time() - start < 10


# -- the command -----------------------------------------------------------------------------------------------


def test_json_and_exit_codes(sound: bytes, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(sound)
    assert main(["recover", str(damaged), "-C", str(tmp_path / "all"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["partial"] == document["lost"] == document["incomplete"] == []
    with Archive(MemorySource(sound)) as archive:
        large, small = archive.lookup("folder-01/large"), archive.lookup("folder-01/sub/file-3")
        hits = [node.base + node.record.data for node in (large, small)]
    damaged.write_bytes(zeroed(sound, *((hit, hit + 10) for hit in hits)))
    for partial in ("keep", "drop"):
        out = tmp_path / partial
        assert main(["recover", str(damaged), "-C", str(out), "--json", "--partial", partial]) == 1
        found = json.loads(capsys.readouterr().out)
        assert found["partial"] == [{"path": "folder-01/large", "ranges": [[0, 32768]]}]
        assert found["lost"] == [{"path": "folder-01/sub/file-3"}]
        assert found["recovered"] == document["recovered"] - 2
        assert found["unclaimed"] == 0
        assert (out / "folder-01" / "large").exists() == (partial == "keep")
    size = (tree / "folder-01" / "large").stat().st_size
    assert document["recovered_bytes"] - found["recovered_bytes"] == size + small.record.size


@pytest.mark.parametrize("content", [b"", bytes(100_000), trees.noise(300_000), b"hello\n"])
def test_nothing_to_recover(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert main(["recover", str(path), "-C", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_exists_is_kept(sound: bytes, tmp_path: Path) -> None:
    path, out = tmp_path / "damaged", tmp_path / "out"
    path.write_bytes(sound)
    (out / "folder-00").mkdir(parents=True)
    (out / "folder-00" / "large").write_bytes(b"mine")
    assert main(["recover", str(path), "-C", str(out)]) == 1
    assert (out / "folder-00" / "large").read_bytes() == b"mine"
    assert (out / "folder-00" / "noise").exists()


def test_a_new_archive_of_what_is_left(sound: bytes, before: Snapshot, tmp_path: Path) -> None:
    path, new, out = tmp_path / "damaged", tmp_path / "new.xtar", tmp_path / "out"
    path.write_bytes(trees.noise(12_345) + sound)
    work = tmp_path / "work"
    work.mkdir()
    assert main(["recover", str(path), "-o", str(new), "--work-dir", str(work)]) == 0
    assert list(work.iterdir()) == []
    assert main(["extract", str(new), "-C", str(out)]) == 0
    assert trees.differences(before, trees.snapshot(out)) == []
    assert main(["recover", str(path), "-o", str(new)]) == 2


def test_a_device(sound: bytes, before: Snapshot, tmp_path: Path) -> None:
    """A loop device, as a stand-in for a disc."""
    image = tmp_path / "image"
    image.write_bytes(trees.noise(8192) + sound + bytes(-len(sound) % 4096))
    made = subprocess.run(["losetup", "--find", "--show", "-r", image], capture_output=True, text=True)
    if made.returncode:
        pytest.skip("no loop devices here")
    try:
        assert main(["recover", made.stdout.strip(), "-C", str(tmp_path / "out")]) == 0
    finally:
        subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)
    assert trees.differences(before, trees.snapshot(tmp_path / "out")) == []

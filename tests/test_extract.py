"""`restoring.extract`: all comes back, nothing lands outside, nothing is half-written, damage stays where it is."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.building.build import Options, build
from xtarfs.errors import DamagedError, FormatError, NotFound, UsageError, XtarError
from xtarfs.format.records import DIRECTORY, FILE, SYMLINK, Record, new_record
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node
from xtarfs.restoring import restore
from xtarfs.restoring.attributes import Owners
from xtarfs.restoring.extract import extract
from xtarfs.restoring.results import ExtractOptions, ExtractResult

from . import trees

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
CHUNK = trees.CHUNK


def run(archive: Path, destination: Path, *paths: bytes, **options: Any) -> ExtractResult:
    with Archive.open(str(archive)) as opened:
        return extract(opened, str(destination), list(paths), ExtractOptions(**options))


def pack(tree: Path, name: str = "archive.xtar") -> Path:
    path = tree.parent / name
    assert build(str(tree), str(path), Options()).problems == []
    return path


def leftovers(top: Path) -> list[str]:
    return [name for _, _, names in os.walk(top) for name in names if name.startswith(".xtar-")]


def flip(archive: Path, path: bytes, chunk: int = 0) -> tuple[int, int]:
    """Flips a bit in the middle of a chunk of a file; gives the range of content that is lost."""
    with Archive.open(str(archive)) as opened:
        node = opened.lookup(path)
        record = node.record
        at = node.base + record.data
        if record.chunk:
            rows = opened.content._read_rows(node, chunk, chunk, node.base + record.index, opened.source.read_at)
            at += (rows.bounds[0] + rows.bounds[1]) // 2
            lost = chunk * record.chunk, min((chunk + 1) * record.chunk, record.size)
        else:
            at += record.packed // 2
            lost = 0, record.size
    with open(archive, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))
    return lost


# -- everything comes back -----------------------------------------------------------------------------------


@ROOT
@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_tree_comes_back_whole(archive: Path, menagerie: Path, tmp_path: Path, jobs: int) -> None:
    result = run(archive, tmp_path / "out", jobs=jobs)
    assert result.complete, result
    assert trees.differences(trees.snapshot(menagerie, holes=True), trees.snapshot(tmp_path / "out", holes=True)) == []
    assert leftovers(tmp_path) == []
    source = [os.lstat(os.path.join(d, f)) for d, ds, fs in os.walk(os.fsencode(menagerie)) for f in ds + fs]
    assert result.files == sum(stat.S_ISREG(s.st_mode) for s in source)
    assert result.directories == sum(stat.S_ISDIR(s.st_mode) for s in source)
    assert result.others == len(source) - result.files - result.directories


@ROOT
def test_rsync_finds_no_difference(archive: Path, menagerie: Path, tmp_path: Path) -> None:
    run(archive, tmp_path / "out")
    command = ["rsync", "-aHAXn", "--checksum", "--itemize-changes", f"{menagerie}/", f"{tmp_path}/out/"]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b""


@ROOT
def test_a_destination_that_hands_down_acls_leaves_no_trace(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    trees.write(tree / "sub" / "f", b"x")
    trees.write(tree / "f", b"x")
    (tmp_path / "out").mkdir()
    subprocess.run(["setfacl", "-d", "-m", "u:daemon:rwx", tmp_path / "out"], check=True)
    os.chmod(tmp_path / "out", 0o2777)
    assert run(pack(tree), tmp_path / "out").complete
    assert trees.differences(trees.snapshot(tree), trees.snapshot(tmp_path / "out")) == []


@ROOT
def test_owners_by_name_by_number_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    trees.write(tree / "known", b"")
    os.chown(tree / "known", 1, 2)
    trees.write(tree / "unknown", b"", 0o4755)
    os.chown(tree / "unknown", 54321, 54321)
    os.chmod(tree / "unknown", 0o6755)
    archive = pack(tree)
    monkeypatch.setattr("xtarfs.restoring.attributes._uid", {"daemon": 4711}.get)

    def owner(path: str) -> tuple[int, int]:
        attributes = (tmp_path / path).stat()
        return attributes.st_uid, attributes.st_gid

    assert run(archive, tmp_path / "names").complete
    assert owner("names/known") == (4711, 2)
    assert owner("names/unknown") == (54321, 54321)
    assert stat.S_IMODE((tmp_path / "names/unknown").stat().st_mode) == 0o6755
    assert run(archive, tmp_path / "numbers", numeric_owner=True).complete
    assert owner("numbers/known") == (1, 2)
    result = run(archive, tmp_path / "none", no_owner=True)
    assert owner("none/known") == owner("none/unknown") == (0, 0)
    # setuid of another's file would now be setuid root
    assert stat.S_IMODE((tmp_path / "none/unknown").stat().st_mode) == 0o755
    assert result.unset == [(b"unknown", "setuid bit, setgid bit")]


def test_paths_beyond_path_max(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    home = os.getcwd()
    try:
        os.chdir(tree)
        for _ in range(40):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        trees.write(Path("file"), b"far down")
        os.link("file", "second")
    finally:
        os.chdir(home)
    archive = pack(tree)
    result = run(archive, tmp_path / "out")
    assert result.complete
    assert (result.files, result.directories) == (2, 40)
    for command in ("find . -type f -execdir cat {} +", "find . -type f -links 2 -printf 'x\n'"):
        there, here = (
            subprocess.run(command, shell=True, cwd=top, capture_output=True, check=True).stdout
            for top in (tree, tmp_path / "out")
        )
        assert there == here != b""
    for top in (tree, tmp_path / "out"):
        subprocess.run(["rm", "-rf", top], check=True)


def test_many_levels(tmp_path: Path) -> None:
    """Deeper than Python recurses; the directory is empty but for the last."""
    tree = tmp_path / "tree"
    tree.mkdir()
    home = os.getcwd()
    try:
        os.chdir(tree)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        trees.write(Path("file"), b"far down")
    finally:
        os.chdir(home)
    result = run(pack(tree), tmp_path / "out")
    assert result.complete
    assert (result.files, result.directories) == (1, 1500)
    for top in (tree, tmp_path / "out"):
        subprocess.run(["rm", "-rf", top], check=True)


def test_sparse_files_stay_sparse(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    trees.sparse(tree / "middle", 50 << 20, {0: b"start", 20 << 20: trees.noise(100_000), (50 << 20) - 5: b"final"})
    trees.sparse(tree / "hole", 30 << 20, {})
    trees.write(tree / "zeros", bytes(2 << 20))
    archive = pack(tree)
    assert run(archive, tmp_path / "out").complete
    assert trees.differences(trees.snapshot(tree, holes=True), trees.snapshot(tmp_path / "out", holes=True)) == []
    assert (tmp_path / "out/middle").stat().st_blocks == (tree / "middle").stat().st_blocks
    assert (tmp_path / "out/hole").stat().st_blocks == 0


def test_a_hole_that_is_none_is_written(tmp_path: Path) -> None:
    """Holes are a hint: content that is not zeros goes to the file whatever the record says."""
    tree = tmp_path / "tree"
    tree.mkdir()
    trees.write(tree / "f", trees.words(3 << 20))
    with Archive.open(str(pack(tree))) as opened:
        node = opened.lookup(b"f")
        node.record.holes = ((0, 1 << 20), (2_000_001, 2_500_000), (5, 4 << 20))
        folder = restore.open_top(str(tmp_path / "out"))
        manner = restore.Manner(Owners())
        assert restore.write_file(folder, b"f", node.record, node.record, opened.pieces(node), manner) == ([], ())
    assert (tmp_path / "out/f").read_bytes() == (tree / "f").read_bytes()


# -- as an ordinary user -------------------------------------------------------------------------------------

# Loads everything before it becomes nobody, who may not be able to read the project's folder or Python's.
AS_USER = """
import os, pickle, select, sys, tempfile
from xtarfs.reading.reader import Archive
from xtarfs.restoring.extract import extract
from xtarfs.restoring.results import ExtractOptions
with Archive.open(sys.argv[1]) as archive, tempfile.TemporaryDirectory() as folder:
    extract(archive, folder, [b"kinds", b"sizes"], ExtractOptions())
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with Archive.open(sys.argv[1]) as archive:
    result = extract(archive, sys.argv[2], [], ExtractOptions())
    assert result.unset_count == len(result.unset) and not (result.damaged or result.failed or result.kept)
    for path, what in result.unset:
        print(ascii(path), what)
"""


@ROOT
def test_an_ordinary_user_is_told_what_could_not_be_set(archive: Path, menagerie: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    os.chown(tmp_path / "out", 65534, 65534)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 1:
            os.chmod(folder, 0o711)
    shutil.copy(archive, tmp_path / "readable.xtar")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", AS_USER, tmp_path / "readable.xtar", tmp_path / "out"],
        capture_output=True, text=True, cwd=Path(__file__).parents[1], env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    unset = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert unset["b'kinds/char'"] == unset["b'kinds/block'"] == "device"
    assert unset["b'kinds/setuid'"] == "owner, group, setuid bit"
    assert unset["b'top'"] == "owner, group"
    devices = {b"kinds/char", b"kinds/block"}
    before, after = trees.snapshot(menagerie, holes=True), trees.snapshot(tmp_path / "out", holes=True)
    assert before.keys() - after.keys() == devices
    for facts in (*before.values(), *after.values()):
        del facts["owner"]
    for path in (b"kinds/setuid", b"kinds/setgid"):
        assert int(after[path].pop("mode"), 8) & 0o7777 == int(before[path].pop("mode"), 8) & 0o777
    assert trees.differences(before, after, ignore=lambda path: path in devices) == []


# -- what is there already -----------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """A small tree and its archive."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    trees.write(tree / "f", b"from the archive")
    trees.write(tree / "sub" / "g", b"g from the archive")
    trees.write(tree / "linked", b"linked")
    os.link(tree / "linked", tree / "sub" / "linked")
    os.symlink("f", tree / "link")
    os.chmod(tree / "sub", 0o750)
    trees.set_times(tree)
    return tree, pack(tree)


def test_existing_files_are_kept_and_named(small: tuple[Path, Path], tmp_path: Path) -> None:
    tree, archive = small
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    trees.write(out / "f", b"mine", mtime_ns=5)
    trees.write(out / "linked", b"another", mtime_ns=5)
    trees.write(out / "sub" / "extra", b"extra")
    os.symlink("/nowhere", out / "link")
    result = run(archive, out)
    assert sorted(result.kept) == [b"f", b"link", b"linked"]
    assert (result.kept_count, result.complete) == (3, False)
    assert (out / "f").read_bytes() == b"mine"
    assert os.readlink(out / "link") == "/nowhere"
    assert (out / "sub" / "extra").read_bytes() == b"extra"
    assert (out / "sub" / "g").read_bytes() == b"g from the archive"
    # the further name must not become a name of the file that was kept
    assert (out / "sub" / "linked").read_bytes() == b"linked"
    assert (out / "sub" / "linked").stat().st_nlink == 1
    assert (out / "linked").read_bytes() == b"another"
    assert stat.S_IMODE((out / "sub").stat().st_mode) == 0o750
    assert (out / "sub").stat().st_mtime_ns == (tree / "sub").stat().st_mtime_ns
    assert leftovers(out) == []


def test_force_replaces(small: tuple[Path, Path], tmp_path: Path) -> None:
    tree, archive = small
    out = tmp_path / "out"
    out.mkdir()
    trees.write(out / "f", b"mine")
    os.link(out / "f", out / "other name of mine")
    os.symlink("/etc", out / "sub")
    trees.write(out / "link", b"a file where a symlink goes")
    trees.write(out / "linked")
    result = run(archive, out, force=True)
    assert result.complete, result
    assert (out / "other name of mine").read_bytes() == b"mine"
    (out / "other name of mine").unlink()
    run(archive, out, force=True)  # over the same names, hard links among them
    assert leftovers(out) == []
    os.utime(out, ns=(0, tree.stat().st_mtime_ns))
    assert trees.differences(trees.snapshot(tree), trees.snapshot(out), ignore=lambda path: path == b"") == []


def test_what_cannot_be_replaced_is_kept(small: tuple[Path, Path], tmp_path: Path) -> None:
    _, archive = small
    out = tmp_path / "out"
    (out / "f" / "full").mkdir(parents=True)
    result = run(archive, out, force=True)
    assert result.kept == [b"f"]
    assert (out / "f" / "full").is_dir()
    shutil.rmtree(out)
    out.mkdir()
    trees.write(out / "sub", b"a file where a directory goes")
    result = run(archive, out)
    assert result.kept == [b"sub"]
    assert (out / "sub").read_bytes() == b"a file where a directory goes"
    assert (out / "f").read_bytes() == b"from the archive"


def test_a_second_run_completes_the_first(archive: Path, menagerie: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(archive, out)
    for path in ("kinds/linked-1", "sizes/zeros", "deep/d0/file"):
        (out / path).unlink()
    shutil.rmtree(out / "kinds" / "sub")
    run(archive, out)
    before, after = trees.snapshot(menagerie, nlink=False), trees.snapshot(out, nlink=False)
    assert trees.differences(before, after, ignore=lambda path: path == b"") == []


def test_the_root_of_a_filled_destination_keeps_its_attributes(small: tuple[Path, Path], tmp_path: Path) -> None:
    tree, archive = small
    os.chmod(tree, 0o711)
    archive.unlink()
    archive = pack(tree)
    for name, filled, mode in (("new", False, 0o711), ("empty", False, 0o711), ("filled", True, 0o777)):
        out = tmp_path / name
        if name != "new":
            out.mkdir()
            os.chmod(out, 0o777)
        if filled:
            trees.write(out / "mine")
        run(archive, out)
        assert stat.S_IMODE(out.stat().st_mode) == mode, name


def test_a_destination_may_be_a_symlink(small: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink("real", tmp_path / "out")
    assert run(small[1], tmp_path / "out").complete
    assert (tmp_path / "real" / "f").read_bytes() == b"from the archive"


def test_a_destination_that_is_a_file(small: tuple[Path, Path], tmp_path: Path) -> None:
    trees.write(tmp_path / "file", b"mine")
    with pytest.raises(UsageError, match="file: cannot be extracted into"):
        run(small[1], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_dry_run(archive: Path, tmp_path: Path) -> None:
    planned = run(archive, tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    done = run(archive, tmp_path / "out")
    assert (planned.files, planned.directories, planned.others) == (done.files, done.directories, done.others)


# -- parts of the tree ---------------------------------------------------------------------------------------


def test_named_paths_come_with_their_parents(archive: Path, menagerie: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(archive, out, b"kinds/sub", b"deep/d0/d1/", b"/top", b"kinds/sub/linked-3", b"kinds/fifo")
    assert result.complete, result
    source, restored = trees.snapshot(menagerie, nlink=False), trees.snapshot(out, nlink=False)
    wanted = {p for p in source if p == b"top" or p == b"kinds/fifo" or p.startswith((b"deep/d0/d1", b"kinds/sub"))}
    assert restored.keys() == wanted | {b"", b"kinds", b"deep", b"deep/d0"}
    assert trees.differences({p: source[p] for p in restored}, restored) == []


def test_parents_that_exist_keep_their_attributes(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "kinds").mkdir(parents=True)
    os.chmod(out / "kinds", 0o700)
    run(archive, out, b"kinds/fifo")
    assert stat.S_IMODE((out / "kinds").stat().st_mode) == 0o700


def test_hard_links_without_their_first_name(archive: Path, menagerie: Path, tmp_path: Path) -> None:
    """The data stands under kinds/linked-1, which is not asked for: the first that is gets it."""
    out = tmp_path / "out"
    assert run(archive, out, b"kinds/linked-2", b"kinds/sub/linked-3").complete
    assert (out / "kinds/linked-2").read_bytes() == (menagerie / "kinds/linked-1").read_bytes()
    assert (out / "kinds/linked-2").stat().st_ino == (out / "kinds/sub/linked-3").stat().st_ino
    assert (out / "kinds/linked-2").stat().st_nlink == 2


def test_a_path_that_is_not_there(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        run(archive, tmp_path / "out", b"top", b"no/such")
    assert not (tmp_path / "out").exists()


# -- damage --------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, Path, dict[bytes, tuple[int, int]]]:
    """Files of one chunk and of many, packed and stored and linked, a chunk of each hit; and the ranges."""
    tree = tmp_path / "tree"
    tree.mkdir()
    trees.write(tree / "text", trees.words(10 * CHUNK + 5))
    trees.write(tree / "noise", trees.noise(10 * CHUNK))
    trees.write(tree / "small", trees.words(2000))
    trees.write(tree / "linked", trees.words(3 * CHUNK))
    os.link(tree / "linked", tree / "z-linked")
    trees.write(tree / "whole", trees.words(5 * CHUNK))
    archive = pack(tree)
    hits = {b"text": 4, b"noise": 9, b"small": 0, b"linked": 1}
    lost = {path: flip(archive, path, chunk) for path, chunk in hits.items()}
    lost[b"z-linked"] = lost[b"linked"]
    return tree, archive, lost


def test_skip_leaves_damaged_files_out(damaged: Any, tmp_path: Path) -> None:
    tree, archive, lost = damaged
    result = run(archive, tmp_path / "out")
    assert dict(result.damaged) == {path: (span,) for path, span in lost.items()}
    assert result.files == 1
    assert os.listdir(tmp_path / "out") == ["whole"]
    assert (tmp_path / "out/whole").read_bytes() == (tree / "whole").read_bytes()


def test_hole_writes_all_that_is_sound(damaged: Any, tmp_path: Path) -> None:
    tree, archive, lost = damaged
    result = run(archive, tmp_path / "out", on_damage="hole")
    assert dict(result.damaged) == {path: (span,) for path, span in lost.items()}
    for path in (b"text", b"noise", b"small", b"linked", b"z-linked", b"whole"):
        start, end = lost.get(path, (0, 0))
        expected = bytearray((tree / os.fsdecode(path)).read_bytes())
        expected[start:end] = bytes(end - start)
        assert (tmp_path / "out" / os.fsdecode(path)).read_bytes() == expected
    assert (tmp_path / "out/small").stat().st_blocks == 0
    assert (tmp_path / "out/linked").stat().st_ino == (tmp_path / "out/z-linked").stat().st_ino
    for name in ("text", "linked", "whole"):
        assert (tmp_path / "out" / name).stat().st_mtime_ns == (tree / name).stat().st_mtime_ns


def test_stop_ends_at_the_first(damaged: Any, tmp_path: Path) -> None:
    tree, archive, _ = damaged
    with pytest.raises(DamagedError, match="extraction stopped"):
        run(archive, tmp_path / "out", on_damage="stop")
    assert leftovers(tmp_path / "out") == []
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tree / path.name).read_bytes()


@pytest.mark.parametrize("mode", ["skip", "hole", "stop"])
def test_content_that_is_not_what_was_stored(tmp_path: Path, mode: str) -> None:
    """Every chunk checks out, the whole file's SHA-256 does not: no byte of it can be believed."""
    tree = tmp_path / "tree"
    tree.mkdir()
    trees.write(tree / "f", trees.words(5 * CHUNK))
    with Archive.open(str(pack(tree))) as opened:
        opened.lookup(b"f").record.sha256 = "0" * 64  # the record is cached, and met again by the walk
        options = ExtractOptions(on_damage=mode)  # type: ignore[arg-type]
        if mode == "stop":
            with pytest.raises(DamagedError):
                extract(opened, str(tmp_path / "out"), [], options)
        else:
            result = extract(opened, str(tmp_path / "out"), [], options)
            assert result.damaged == [(b"f", ((0, 5 * CHUNK),))]
    expected = {"skip": [], "stop": [], "hole": ["f"]}[mode]
    assert os.listdir(tmp_path / "out") == expected
    if expected:
        assert (tmp_path / "out/f").read_bytes() == bytes(5 * CHUNK)
        assert (tmp_path / "out/f").stat().st_blocks == 0


def test_flipped_bits_anywhere_never_give_a_wrong_byte(menagerie: Path, archive: Path, tmp_path: Path) -> None:
    source = trees.snapshot(menagerie)
    data = archive.read_bytes()
    import random

    rng = random.Random(7)
    for trial in range(8):
        hurt = bytearray(data)
        for _ in range(5):
            hurt[rng.randrange(len(hurt))] ^= 1 << rng.randrange(8)
        (tmp_path / "hurt.xtar").write_bytes(hurt)
        out = tmp_path / f"out-{trial}"
        result = run(tmp_path / "hurt.xtar", out)
        restored = trees.snapshot(out)
        for path, facts in restored.items():
            assert facts.get("content") == source[path].get("content"), path
        lost = {path for path, _ in result.damaged}
        assert {p for p in source if "content" in source[p]} - restored.keys() <= lost
        shutil.rmtree(out)


# -- archives that mean harm ---------------------------------------------------------------------------------


def tar_of(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """A tar by hand: content as bytes, or the target of a symlink as text."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def zip_of(name: str, content: bytes = b"evil") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def everything_below(top: Path) -> set[str]:
    return {os.path.relpath(os.path.join(d, f), top) for d, ds, fs in os.walk(top) for f in ds + fs}


HARMFUL: dict[str, list[tuple[str, bytes | str]]] = {
    "dots in a tar name": [("../evil", b"evil"), ("a/../../evil", b"evil")],
    "an absolute tar name": [("/tmp/xtar-evil", b"evil"), ("//evil", b"evil")],
    "dots in a zip's name": [("a.zip", zip_of("../../evil")), ("b.zip", zip_of("x/../../../evil"))],
    "an absolute zip name": [("a.zip", zip_of("/tmp/xtar-evil"))],
    "a file through a symlink": [("way", "@outside"), ("way/evil", b"evil"), ("z", b"fine")],
    "a file through a symlink, as zips": [("way", "@outside"), ("way.zip", zip_of("way/evil"))],
    "a file in place of a symlink": [("way", "@outside/evil"), ("way", b"evil")],
    "a symlink chain": [("a", "@outside"), ("b", "a"), ("b/evil", b"evil"), ("b/c/evil", b"evil")],
    "a name of dots": [("..", b"evil"), (".", b"evil"), ("../", b"evil"), ("z", b"fine")],
    "NUL in a zip's name": [("a.zip", zip_of("evil").replace(b"evil", b"e\0il", 1))],
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", HARMFUL)
def test_nothing_lands_outside(tmp_path: Path, name: str, force: bool) -> None:
    (tmp_path / "outside").mkdir()
    members = [(n, c.replace("@", str(tmp_path) + "/") if isinstance(c, str) else c) for n, c in HARMFUL[name]]
    archive = tar_of(tmp_path / "harm.xtar", *members)
    for _ in range(2):  # the second time over what the first has left
        run(archive, tmp_path / "out", force=force)
        assert os.listdir(tmp_path / "outside") == []
        assert set(os.listdir(tmp_path)) == {"outside", "harm.xtar", "out"}
        assert not os.path.lexists("/tmp/xtar-evil")
    assert leftovers(tmp_path / "out") == []


@pytest.mark.parametrize("force", [False, True])
def test_planted_symlinks_are_not_followed(small: tuple[Path, Path], tmp_path: Path, force: bool) -> None:
    tree, archive = small
    outside, out = tmp_path / "outside", tmp_path / "out"
    (outside / "sub").mkdir(parents=True)
    out.mkdir()
    trees.write(outside / "f", b"precious")
    os.symlink(outside / "sub", out / "sub")
    os.symlink(outside / "f", out / "f")
    os.symlink(outside / "new", out / "linked")
    before = trees.snapshot(outside)
    result = run(archive, out, force=force)
    assert trees.differences(before, trees.snapshot(outside)) == []
    assert result.complete == force
    if force:
        assert (out / "sub" / "g").read_bytes() == (tree / "sub" / "g").read_bytes()
        assert not (out / "sub").is_symlink()
    else:
        assert sorted(result.kept) == [b"f", b"linked", b"sub"]


class Scripted:
    """An archive whose records say what no builder writes; its tree is in memory."""

    def __init__(self, *steps: tuple[bytes, Record]) -> None:
        self.root = Node(new_record(b".", DIRECTORY, 0o755, 0, 1), 0, b"")
        self._nodes = [Node(record, 0, path) for path, record in steps]
        self.tree = type("Tree", (), {"made_up": {}})()
        self.source = type("Source", (), {"read_at": lambda self, offset, size: b""})()

    def children(self, node: Node) -> Iterator[Node]:
        for child in self._nodes:
            if child.path.rpartition(b"/")[0] == node.path:
                yield child

    def pieces(self, node: Node) -> Iterator[Any]:
        return iter(())

    def data_node(self, node: Node) -> Node:
        return next(n for n in self._nodes if n.path == node.record.raw_link)


def named(name: bytes, kind: str, **fields: Any) -> Record:
    record = new_record(b"x", kind, 0o755, 0, 2)
    record.name = name.decode()
    for key, value in fields.items():
        setattr(record, key, value)
    return record


def test_records_that_lead_out(tmp_path: Path) -> None:
    """A directory under a name that a symlink has taken, names with slashes and dots, links to what lies outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    trees.write(outside / "secret", b"precious")
    archive = Scripted(
        (b"way", named(b"way", SYMLINK, target=str(outside))),
        (b"way", named(b"way", DIRECTORY)),
        (b"way/evil", named(b"evil", FILE)),
        (b"way/deeper", named(b"deeper", DIRECTORY)),
        (b"../evil", named(b"../evil", FILE)),
        (b"slash", named(b"../outside/evil", FILE)),
        (b"dots", named(b"..", DIRECTORY)),
        (b"dots/evil", named(b"evil", FILE)),
        (b"absolute", named(str(outside).encode() + b"/evil", SYMLINK, target="x")),
        (b"way/secret", named(b"secret", FILE)),
        (b"steal", named(b"steal", FILE, link="way/secret")),
        (b"climb", named(b"climb", FILE, link="../outside/secret")),
        (b"../outside/secret", named(b"secret", FILE)),
    )
    for force in (False, True):
        result = extract(archive, str(tmp_path / "out"), [], ExtractOptions(force=force, jobs=1))  # type: ignore[arg-type]
        assert result.failed
        assert os.listdir(outside) == ["secret"]
        assert (outside / "secret").read_bytes() == b"precious"
        assert (outside / "secret").stat().st_nlink == 1
        assert set(os.listdir(tmp_path)) == {"outside", "out"}
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/a", b"a\0b"])
def test_no_such_name(tmp_path: Path, name: bytes) -> None:
    folder = restore.open_top(str(tmp_path / "out"))
    record = new_record(b"x", FILE, 0o644, 0, 1)
    manner = restore.Manner(Owners())
    with pytest.raises(FormatError):
        restore.write_file(folder, name, record, record, [], manner)
    with pytest.raises(FormatError):
        restore.enter(folder, name, manner)
    assert os.listdir(tmp_path / "out") == []


# -- nothing half-written ------------------------------------------------------------------------------------


@ROOT
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk(tmp_path: Path, jobs: int) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    tree.mkdir()
    for number in range(200):
        trees.write(tree / f"f{number:03}", trees.words(50_000, number))
    archive = pack(tree)
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", out], check=True)
    try:
        with pytest.raises(XtarError, match=r"out/f\d+: cannot be written: No space left on device"):
            run(archive, out, jobs=jobs)
        assert leftovers(out) == []
        assert len(os.listdir(out)) > 50
        for path in out.iterdir():
            assert path.read_bytes() == (tree / path.name).read_bytes()
    finally:
        subprocess.run(["umount", out], check=True)


INTERRUPTED = """
import signal, sys
from xtarfs.reading.reader import Archive
from xtarfs.restoring.extract import extract
from xtarfs.restoring.results import ExtractOptions
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
signal.signal(signal.SIGINT, signal.default_int_handler)
with Archive.open(sys.argv[1]) as archive:
    extract(archive, sys.argv[2], [], ExtractOptions(jobs=int(sys.argv[3])))
"""


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_whole_files_only(tmp_path: Path, which: signal.Signals, jobs: int) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    tree.mkdir()
    for number in range(1500):
        trees.write(tree / f"f{number:04}", trees.words(30_000, number % 7))
    trees.write(tree / "g0", trees.words(1 << 20) * 30)
    archive = pack(tree)
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, archive, out, str(jobs)], cwd=Path(__file__).parents[1],
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while time.monotonic() < end and (not out.exists() or len(os.listdir(out)) < 200):
        time.sleep(0.001)
    if which == signal.SIGINT:
        os.killpg(process.pid, which)  # as the terminal does
    else:
        process.send_signal(which)
    assert process.wait(60) in ((-signal.SIGINT, 1, 130) if which == signal.SIGINT else (7,))
    time.sleep(0.1)
    names = os.listdir(out)
    assert len(names) > 150
    assert leftovers(out) == []
    for name in names:
        assert (out / name).read_bytes() == (tree / name).read_bytes()
    assert run(archive, out).files + len(names) == 1501


def test_a_worker_that_is_killed_is_an_error(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = os.getpid()
    write_file = restore.write_file

    def killing(*arguments: Any) -> Any:
        if os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.001)
        return write_file(*arguments)

    monkeypatch.setattr(restore, "write_file", killing)
    with pytest.raises(XtarError, match="worker process"):
        run(archive, tmp_path / "out", jobs=2)


def test_what_a_worker_raises_is_raised(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = os.getpid()
    write_file = restore.write_file

    def failing(*arguments: Any) -> Any:
        if os.getpid() != main:
            raise OSError(errno.ENOSPC, "No space left on device")
        time.sleep(0.001)
        return write_file(*arguments)

    monkeypatch.setattr(restore, "write_file", failing)
    with pytest.raises(XtarError, match="No space left on device; extraction stopped"):
        run(archive, tmp_path / "out", jobs=2)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# -- size and progress ---------------------------------------------------------------------------------------


def test_progress_adds_up(archive: Path, menagerie: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    with Archive.open(str(archive)) as opened:
        extract(opened, str(tmp_path / "out"), [], ExtractOptions(jobs=2), steps.append)
    total = sum(os.lstat(os.path.join(d, f)).st_size for d, _, fs in os.walk(os.fsencode(menagerie)) for f in fs
                if stat.S_ISREG(os.lstat(os.path.join(d, f)).st_mode))  # fmt: skip
    assert sum(steps) == total
    assert min(steps) > 0


MEASURED = """
import resource, sys
from xtarfs.reading.reader import Archive
from xtarfs.restoring.extract import extract
from xtarfs.restoring.results import ExtractOptions
with Archive.open(sys.argv[1]) as archive:
    result = extract(archive, sys.argv[2], [], ExtractOptions())
    assert result.complete
print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    used = []
    for count in (200, 20_000):
        tree = tmp_path / f"tree-{count}"
        for number in range(count):
            if number % 100 == 0:
                (tree / f"d{number // 100:03}").mkdir(parents=True)
            trees.write(tree / f"d{number // 100:03}" / f"f{number}", b"%d" % number)
        archive = pack(tree, f"{count}.xtar")
        command = [sys.executable, "-c", MEASURED, str(archive), str(tmp_path / f"out-{count}")]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
        used.append(int(done.stdout))
    assert used[1] - used[0] < 16, used

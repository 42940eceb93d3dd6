"""Archives without a structure: tars made by hand from zips as in 2003, archives of ours cut short, hostile files."""

from __future__ import annotations

import io
import os
import random
import resource
import stat
import struct
import subprocess
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import xtarfs
from builder.building.build import Options, build
from xtarfs.errors import DamagedError, ElsewhereError, NotAnArchive, SourceError, XtarError
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node

from . import trees

LARGE = (9 << 20) + 12345


def run(*command: str | bytes | Path, cwd: Path | None = None, data: bytes | None = None) -> bytes:
    environment = {**os.environ, "TZ": "UTC"}
    return subprocess.run(command, cwd=cwd, input=data, capture_output=True, check=True, env=environment).stdout


def read(archive: Archive, node: Node) -> bytes:
    return bytes(archive.read(node, 0, node.record.size))


def contents(path: Path) -> dict[bytes, Any]:
    """All that an archive shows: a file's bytes or error, a symlink's target, None for a directory, else the type."""
    found: dict[bytes, Any] = {}
    with xtarfs.open(str(path)) as archive:
        for node in archive.walk():
            record = node.record
            if len(found) < 1000:
                assert archive.lookup(node.path).record.ino == record.ino
            if record.is_dir:
                found[node.path] = None
            elif record.type == "file":
                try:
                    found[node.path] = read(archive, node)
                except XtarError as error:
                    found[node.path] = type(error)
            else:
                found[node.path] = record.raw_target.decode() if record.type == "symlink" else record.type
    return found


def on_disk(root: Path, prefix: bytes = b"") -> dict[bytes, Any]:
    """What `contents` should show of the files, symlinks and folders below `root`."""
    found: dict[bytes, Any] = {}
    for path in root.rglob("*"):
        name = prefix + os.fsencode(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = None if path.is_dir() else "fifo"
    return found


def unzipped(zips: list[Path]) -> dict[bytes, bytes]:
    """What `unzip -p` gives for every file of every zip, by the entry's name."""
    found = {}
    for path in zips:
        for name in run("unzip", "-Z1", path).splitlines():
            if not name.endswith(b"/"):
                found[name] = run("unzip", "-p", path, name)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """`test`, as the page of 2003 calls it."""
    root = tmp_path / "test"
    (root / "sub" / "deeper").mkdir(parents=True)
    (root / "other").mkdir()
    for number, name in enumerate(("a.txt", "b.zip.txt", "sub/c", "sub/deeper/d", "other/e f", "sub/empty")):
        trees.write(root / name, trees.words(number * 20_000, number + 1) if "empty" not in name else b"")
    trees.write(root / "other/noise", trees.noise(30_000))
    return root


def zip_each(folder: Path, entry: Callable[[Path], tuple[Path, str]], *options: str) -> list[Path]:
    """`zip` of every file in a folder, beside it; entry(file): where zip runs, and by which name."""
    made = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.is_symlink():
            where, name = entry(path)
            made.append(path.with_name(path.name + ".zip"))
            run("zip", "-q", *options, made[-1], name, cwd=where)
            path.unlink()
    return made


def nest(folder: Path, entry: Callable[[Path], tuple[Path, str]], member: str, prefix: str = "") -> Path:
    """compressdir of 2003: turns a tree into the nested tar of its zips. member: `{}.xtar` or `{}/.xtar`."""
    zip_each(folder, entry)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            nested = nest(path, entry, member, prefix)
            target = folder / member.format(path.name)
            if target != nested:
                nested.rename(target)
                path.rmdir()
    names = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if not p.is_dir() or p.is_symlink()]
    archive = folder / ".xtar"
    run("tar", "cf", archive, "-T", "/dev/null", *(prefix + name for name in names), cwd=folder)
    for name in names:
        (folder / name).unlink()
    return archive


def whole_with_top(path: Path) -> tuple[Path, str]:
    top = next(parent for parent in path.parents if parent.name == "test").parent
    return top, str(path.relative_to(top))


def whole(path: Path) -> tuple[Path, str]:
    top = next(parent for parent in path.parents if parent.name == "test")
    return top, str(path.relative_to(top))


def basename(path: Path) -> tuple[Path, str]:
    return path.parent, path.name


# -- made by hand ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", ["{}/.xtar", "{}.xtar"])
@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize(("entry", "top"), [(whole_with_top, b"test/"), (whole, b""), (basename, b"")])
def test_nested_as_in_2003(
    source: Path, member: str, prefix: str, entry: Callable[[Path], tuple[Path, str]], top: bytes
) -> None:
    """Symlinks and empty folders, of which no zip tells, lie where the zips' paths put their folder."""
    (source / "sub" / "nothing").mkdir()
    (source / "sub" / "link").symlink_to("c")
    expected = on_disk(source, top) | ({b"test": None} if top else {})
    assert contents(nest(source, entry, member, prefix)) == expected


def test_flat_with_whole_paths(source: Path, tmp_path: Path) -> None:
    expected = on_disk(source, b"test/") | {b"test": None}
    zips = [
        path
        for folder in (source, *filter(Path.is_dir, source.rglob("*")))
        for path in zip_each(folder, whole_with_top)
    ]
    expected_files = unzipped(zips)
    (tmp_path / "flat").mkdir()
    for number, path in enumerate(zips):
        path.rename(tmp_path / "flat" / f"{number}.zip")
    run("tar", "cf", tmp_path / "flat.xtar", "-C", tmp_path / "flat", ".")
    assert contents(tmp_path / "flat.xtar") == expected
    assert {path: data for path, data in expected.items() if data is not None} == expected_files


def test_attributes_come_from_the_zips(source: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(source / "a.txt", 12, 34)
    (source / "a.txt").chmod(0o4640)
    os.utime(source / "a.txt", (1_000_000_001, 1_000_000_001))
    (source / "other").chmod(0o751)
    os.utime(source / "other", (1_100_000_001, 1_100_000_001))
    attributes = (source / "a.txt").stat()
    run("zip", "-q", "a.zip", "a.txt", cwd=source)
    run("zip", "-qr", "o.zip", "other", cwd=source)
    run("tar", "cf", tmp_path / "x.xtar", "a.zip", "o.zip", cwd=source)
    with xtarfs.open(str(tmp_path / "x.xtar")) as archive:
        record = archive.lookup("a.txt").record
        assert (record.permissions, record.uid, record.gid) == (0o4640, attributes.st_uid, attributes.st_gid)
        assert record.mtime_ns == 1_000_000_001 * 10**9
        folder = archive.lookup("other").record
        assert (folder.is_dir, folder.permissions, folder.mtime_ns) == (True, 0o751, 1_100_000_001 * 10**9)


def test_zips_with_several_entries(source: Path, tmp_path: Path) -> None:
    """Paths inside a zip that do not lead through the zip's own place begin there."""
    expected = on_disk(source)
    run("zip", "-qr", "all.zip", "a.txt", "other", cwd=source)
    run("zip", "-qr", "docs.zip", "deeper", "c", cwd=source / "sub")
    run("tar", "cf", "sub.xtar", "docs.zip", cwd=source / "sub")
    run("zip", "-q", "b.zip.txt.zip", "b.zip.txt", cwd=source)
    run("tar", "cf", tmp_path / "x.xtar", "all.zip", "-C", "sub", "sub.xtar", "-C", "..", "b.zip.txt.zip", cwd=source)
    del expected[b"sub/empty"]
    assert contents(tmp_path / "x.xtar") == expected


def test_stored_streamed_and_other_methods(source: Path, tmp_path: Path) -> None:
    data = (source / "sub/deeper/d").read_bytes()
    run("zip", "-q0", "stored.zip", "a.txt", "other/noise", cwd=source)
    (source / "streamed.zip").write_bytes(run("zip", "-q", "-", "sub/c", cwd=source))  # sizes behind the data
    (source / "one.zip").write_bytes(run("zip", "-q", "-", "-", data=data))  # entries without a name
    (source / "two.zip").write_bytes(run("zip", "-q", "-", "-", data=data[::-1]))
    run("zip", "-q", "-Z", "bzip2", "bz.zip", "other/e f", cwd=source)
    run("zip", "-q", "-P", "secret", "locked.zip", "b.zip.txt", cwd=source)
    (source / "zero.zip").write_bytes(b"PK\5\6" + bytes(18))
    with open(source / "streamed.zip", "rb") as file:
        assert struct.unpack_from("<H", file.read(8), 6)[0] & 8
    names = ["stored.zip", "streamed.zip", "one.zip", "two.zip", "bz.zip", "locked.zip", "zero.zip"]
    run("tar", "cf", tmp_path / "x.xtar", *names, cwd=source)
    expected = on_disk(source)
    found = contents(tmp_path / "x.xtar")
    for path in (b"a.txt", b"other/noise", b"sub/c"):
        assert found.pop(path) == expected[path]
    assert (found.pop(b"one"), found.pop(b"two")) == (data, data[::-1])
    assert found == {b"other": None, b"sub": None, b"other/e f": DamagedError, b"b.zip.txt": DamagedError}
    with xtarfs.open(str(tmp_path / "x.xtar")) as archive, pytest.raises(DamagedError, match="encrypted"):
        read(archive, archive.lookup("b.zip.txt"))


def test_raw_files_links_and_fifos_beside_zips(source: Path, tmp_path: Path) -> None:
    zips = zip_each(source, basename)
    trees.write(source / "raw", trees.words(300_000), 0o640, 1_234_567_890 * 10**9)
    trees.write(source / "huge", trees.words(LARGE))
    trees.write(source / "no.zip", b"not a zip")
    trees.write(source / "no.xtar", b"not a tar" * 1000)
    os.link(source / "raw", source / "second")
    os.symlink("raw", source / "link")
    os.symlink("link", source / "link.zip")
    os.mkfifo(source / "fifo", 0o600)
    trees.sparse(source / "sparse", 1 << 20, {5000: b"data"})
    run("tar", "cf", tmp_path / "x.xtar", "--sparse", ".", cwd=source)
    expected = on_disk(source) | {b"sparse": DamagedError}
    for path in zips:
        del expected[path.name.encode()]
        expected[path.name.encode()[:-4]] = run("unzip", "-p", path)
    assert contents(tmp_path / "x.xtar") == expected
    with xtarfs.open(str(tmp_path / "x.xtar")) as archive:
        first, second = archive.lookup("raw").record, archive.lookup("second").record
        assert (first.ino, first.nlink, second.nlink) == (second.ino, 2, 2)
        assert (first.permissions, first.mtime_ns) == (0o640, 1_234_567_890 * 10**9)
        assert archive.root.record.permissions == stat.S_IMODE(source.stat().st_mode)
        assert list(archive.tree.damage) == []


@pytest.mark.parametrize("form", ["ustar", "gnu", "posix", "v7"])
def test_forms_of_tar(source: Path, tmp_path: Path, form: str) -> None:
    if form == "v7":
        run("tar", "cf", tmp_path / "x.xtar", "--format", form, "a.txt", cwd=source)
        with pytest.raises(NotAnArchive):
            xtarfs.open(str(tmp_path / "x.xtar"))
        return
    long = source / ("long" * 20) / ("name" * 20)
    long.mkdir(parents=True)
    trees.write(long / "file", b"f")
    run("zip", "-q", "file.zip", "file", cwd=long)
    (long / "file").unlink()
    run("tar", "cf", tmp_path / "x.xtar", "--format", form, ".", cwd=source)
    expected = on_disk(source)
    name = os.fsencode(long.relative_to(source)) + b"/file"
    del expected[name + b".zip"]
    assert contents(tmp_path / "x.xtar") == expected | {name: b"f"}


def test_names_that_are_not_ascii(tmp_path: Path) -> None:
    names = ("café".encode(), b"latin\xe9", "日本".encode(), b"tab\there", b"new\nline")
    raw = os.fsencode(tmp_path)
    for name in names:
        trees.write(raw + b"/" + name, b"content of " + name)
        run("zip", "-q", name + b".zip", name, cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / "flag.zip", "w") as made:  # with the UTF-8 flag
        made.writestr("schön", b"flagged")
    run("tar", "cf", "x.xtar", *(name + b".zip" for name in names), "flag.zip", cwd=tmp_path)
    expected = {name: b"content of " + name for name in names}
    assert contents(tmp_path / "x.xtar") == expected | {"schön".encode(): b"flagged"}


def test_symlinks_in_zips(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target/é")
    (tmp_path / "long").symlink_to("x/" * 1000)
    run("zip", "-qy", "l.zip", "link", "long", cwd=tmp_path)
    run("tar", "cf", "x.xtar", "l.zip", cwd=tmp_path)
    assert contents(tmp_path / "x.xtar") == {b"link": "target/é", b"long": "x/" * 1000}


def test_zip_behind_other_data_and_with_a_comment(source: Path, tmp_path: Path) -> None:
    run("zip", "-q", "-z", "x.zip", "a.txt", cwd=source, data=b"PK\5\6 a comment\n")
    plain = (source / "x.zip").read_bytes()
    (source / "x.zip").write_bytes(b"#!/bin/sh\n" * 100 + plain)
    run("tar", "cf", tmp_path / "x.xtar", "x.zip", cwd=source)
    assert contents(tmp_path / "x.xtar") == {b"a.txt": (source / "a.txt").read_bytes()}


def test_the_last_of_two_counts_but_a_folder_stays(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.xtar", "w") as made:
        for name, data in (("a", b"old"), ("a", b"new"), ("f", b"file"), ("f/inside", b"in"), ("f", b"late")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    assert contents(tmp_path / "x.xtar") == {b"a": b"new", b"f": None, b"f/inside": b"in"}


# -- large members without chunks ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A tar with a large deflated member, and its content."""
    folder = tmp_path_factory.mktemp("large")
    data = trees.words(LARGE)
    trees.write(folder / "large", data)
    run("zip", "-q", "large.zip", "large", cwd=folder)
    run("tar", "cf", "x.xtar", "large.zip", cwd=folder)
    return folder / "x.xtar", data


def test_random_access_in_a_large_member(large: tuple[Path, bytes]) -> None:
    path, data = large
    rng = random.Random(1)
    with xtarfs.open(str(path), cache_size=2 << 20) as archive:
        node = archive.lookup("large")
        for _ in range(100):
            offset, size = rng.randrange(len(data)), rng.choice((1, 4096, 131072, 3 << 20))
            assert archive.read(node, offset, size) == data[offset : offset + size]
        assert b"".join(piece.data for piece in archive.pieces(node)) == data


def test_many_readers_of_a_large_member(large: tuple[Path, bytes]) -> None:
    path, data = large
    wrong: list[int] = []

    def reader(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(20):
            offset = rng.randrange(len(data))
            if archive.read(node, offset, 100_000) != data[offset : offset + 100_000]:
                wrong.append(offset)

    with xtarfs.open(str(path), cache_size=1 << 20) as archive:
        node = archive.lookup("large")
        threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_damage_in_a_large_member_is_never_a_wrong_byte(large: tuple[Path, bytes], tmp_path: Path) -> None:
    path, data = large
    packed = bytearray(path.read_bytes())
    rng = random.Random(2)
    end = len(packed) - 12_000  # before the central directory
    for trial in range(12):
        at = rng.randrange(600, end)
        flipped = bytearray(packed)
        flipped[at] ^= 1 << rng.randrange(8)
        damaged = tmp_path / f"{trial}.xtar"
        damaged.write_bytes(flipped)
        with xtarfs.open(str(damaged)) as archive:
            node = archive.lookup("large")
            for offset in (0, len(data) // 2, len(data) - 10):
                with pytest.raises(DamagedError) as caught:
                    archive.read(node, offset, 10)
                assert caught.value.ranges == ((0, len(data)),)
            assert archive.damaged_ranges(node) == [(0, len(data))]


def test_a_medium_that_changes_its_mind(large: tuple[Path, bytes], tmp_path: Path) -> None:
    path, data = large
    copy = tmp_path / "copy.xtar"
    copy.write_bytes(path.read_bytes())
    with xtarfs.open(str(copy), cache_size=0) as archive:
        node = archive.lookup("large")
        assert archive.read(node, 5, 5) == data[5:10]
        with open(copy, "r+b") as file:
            file.seek(copy.stat().st_size // 2)
            file.write(bytes(200_000))
        with pytest.raises(DamagedError):
            archive.pieces(node)
            for offset in range(0, len(data), 1 << 20):
                assert archive.read(node, offset, 1 << 20) == data[offset : offset + (1 << 20)]


# -- archives of ours, cut -------------------------------------------------------------------------------------


def test_inner_archives_opened_alone(menagerie: Path, archive: Path, tmp_path: Path) -> None:
    run("tar", "xf", archive, "-C", tmp_path)
    for name in ("sizes", "names", "kinds", "deep"):
        with xtarfs.open(str(tmp_path / f"{name}.xtar")) as inner:
            assert inner.root.record.mtime_ns == (menagerie / name).stat().st_mtime_ns
            for node in inner.walk():
                path = os.fsencode(menagerie / name) + b"/" + node.path
                assert node.record.mtime_ns == os.lstat(path).st_mtime_ns
                if node.record.type == "file":
                    with open(path, "rb") as file:
                        assert read(inner, node) == file.read()
            assert list(inner.tree.damage) == []


def test_hard_link_that_leads_out_of_an_inner_archive(menagerie: Path, archive: Path, tmp_path: Path) -> None:
    run("tar", "xf", archive, "-C", tmp_path, "kinds.xtar")
    run("tar", "xf", tmp_path / "kinds.xtar", "-C", tmp_path, "sub.xtar")
    with xtarfs.open(str(tmp_path / "sub.xtar")) as inner:
        node = inner.lookup("linked-3")
        assert node.record.size == (menagerie / "kinds/sub/linked-3").stat().st_size
        with pytest.raises(ElsewhereError, match="kinds/linked-1"):
            read(inner, node)
    with xtarfs.open(str(tmp_path / "kinds.xtar")) as inner:
        assert read(inner, inner.lookup("sub/linked-3")) == (menagerie / "kinds/linked-1").read_bytes()


def compare_with(source: Path, path: Path) -> tuple[int, int]:
    """Opens a damaged archive: whatever it gives must be right. Numbers of files that were read and that were not."""
    good = bad = 0
    with xtarfs.open(str(path)) as archive:
        for node in archive.walk():
            full = os.fsencode(source) + b"/" + node.path
            attributes = os.lstat(full)
            assert (
                stat.S_IFMT(node.record.st_mode) == stat.S_IFMT(attributes.st_mode) or node.record.method == "damaged"
            )
            if node.record.type == "symlink":
                assert node.record.raw_target == os.fsencode(os.readlink(full))
            elif node.record.type == "file":
                try:
                    with open(full, "rb") as file:
                        assert read(archive, node) == file.read()
                    assert node.record.permissions == stat.S_IMODE(attributes.st_mode)
                    assert node.record.mtime_ns == attributes.st_mtime_ns
                    good += 1
                except DamagedError:
                    bad += 1
    return good, bad


FILES = 89  # of the menagerie's 91, two are further names that only structures know


def test_locator_cut_off(menagerie: Path, archive: Path, tmp_path: Path) -> None:
    data = archive.read_bytes()
    (tmp_path / "x.xtar").write_bytes(data[:-2048])
    assert compare_with(menagerie, tmp_path / "x.xtar") == (FILES + 2, 0)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.999])
def test_truncated(menagerie: Path, archive: Path, tmp_path: Path, share: float) -> None:
    data = archive.read_bytes()
    (tmp_path / "x.xtar").write_bytes(data[: int(len(data) * share)])
    good, bad = compare_with(menagerie, tmp_path / "x.xtar")
    assert bad <= 1
    with xtarfs.open(str(tmp_path / "x.xtar")) as opened:
        assert opened.tree.damage or good == FILES + 2


def zeroed_structures(archive: Path) -> bytes:
    """The archive with every structure file and the catalogue zeroed; headers and locator stay."""
    data = bytearray(archive.read_bytes())
    at = data.find(b"\x1f\x8b\x08\x04")
    while at >= 0:
        if data[at + 12 : at + 14] == b"XT":
            length = struct.unpack_from("<I", data, at + 16)[0]
            if not (len(data) - 4096 < at):
                data[at : at + length] = bytes(length)
        at = data.find(b"\x1f\x8b\x08\x04", at + 1)
    return bytes(data)


def test_structures_lost_in_both_copies(menagerie: Path, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "x.xtar").write_bytes(zeroed_structures(archive))
    assert compare_with(menagerie, tmp_path / "x.xtar") == (FILES, 0)
    with xtarfs.open(str(tmp_path / "x.xtar")) as opened:
        attributes = os.lstat(menagerie / "kinds/closed")
        closed = opened.lookup("kinds/closed").record
        assert (closed.permissions, closed.mtime_ns // 10**9) == (0o500, attributes.st_mtime_ns // 10**9)
        assert opened.lookup("kinds/xattrs").record.raw_xattrs[b"user.comment"] == b"hello\0world"
        assert any("structure" in what for _, what in opened.tree.damage)


def test_zeroed_headers(menagerie: Path, archive: Path, tmp_path: Path) -> None:
    """Without structures and with sectors zeroed: some names are lost, and nothing that is shown is wrong."""
    data = zeroed_structures(archive)
    rng = random.Random(3)
    total = 0
    for _trial in range(15):
        damaged = bytearray(data)
        for _ in range(3):
            at = rng.randrange(len(data) // 4096) * 4096
            damaged[at : at + 4096] = bytes(4096)
        (tmp_path / "x.xtar").write_bytes(damaged)
        total += compare_with(menagerie, tmp_path / "x.xtar")[0]
    assert total > 15 * FILES * 0.8


# -- no archives, and hostile ones -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"text\n" * 1000, trees.noise(100_000), bytes(10_240), bytes(100), b"PK\5\6" + bytes(18), b"ustar" * 200],
    ids=["empty", "text", "noise", "zeros", "few zeros", "zip", "magics"],
)
def test_not_an_archive(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.xtar").write_bytes(data)
    with pytest.raises(NotAnArchive, match=r"x\.xtar: is not an archive: [^\n]+\Z"):
        xtarfs.open(str(tmp_path / "x.xtar"))


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotAnArchive, match=r"is a directory; [^\n]+\Z"):
        xtarfs.open(str(tmp_path))
    with pytest.raises(SourceError, match=r"missing\.xtar: No such file or directory\Z"):
        xtarfs.open(str(tmp_path / "missing.xtar"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotAnArchive, match=r"is not a regular file; [^\n]+\Z"):
        xtarfs.open(str(tmp_path / "fifo"))
    run("tar", "cf", tmp_path / "nothing.xtar", "-T", "/dev/null")
    with pytest.raises(NotAnArchive):
        xtarfs.open(str(tmp_path / "nothing.xtar"))


def test_an_empty_folder_is_an_archive(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o711)
    run("tar", "cf", "x.xtar", "-C", "empty", ".", cwd=tmp_path)
    assert contents(tmp_path / "x.xtar") == {}
    build(str(tmp_path / "empty"), str(tmp_path / "y.xtar"), Options())
    (tmp_path / "y.xtar").write_bytes((tmp_path / "y.xtar").read_bytes()[: 2048 + 2048])
    assert contents(tmp_path / "y.xtar") == {}


@pytest.fixture
def bounded() -> Any:
    """Half a gigabyte of address space more than now, and the time of the processor that it took to use it."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + (512 << 20), old[1]))
    start = time.process_time()
    yield
    resource.setrlimit(resource.RLIMIT_AS, old)
    assert time.process_time() - start < 20


def tar_of(*members: tuple[str, bytes], **fields: Any) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zip_of(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, data in entries:
            made.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def walked(data: bytes, tmp_path: Path) -> dict[bytes, Any]:
    (tmp_path / "hostile.xtar").write_bytes(data)
    return contents(tmp_path / "hostile.xtar")


def test_names_that_lead_out(tmp_path: Path, bounded: None) -> None:
    data = tar_of(
        ("../../up.zip", zip_of(("../../etc/passwd", b"x"))),
        ("/other.zip", zip_of(("/root/abs", b"y"))),
        ("..", b"z"),
        ("../raw", b"r"),
        ("dots.zip", zip_of(("..", b""), (".", b""), ("/", b""))),
    )
    found = walked(data, tmp_path)
    assert found.pop(b"dots") is DamagedError
    assert {path: data for path, data in found.items() if data} == {
        b"etc/passwd": b"x",
        b"root/abs": b"y",
        b"raw": b"r",
    }
    assert not any(part in (b"", b".", b"..") for path in found for part in path.split(b"/"))


def test_nested_2000_deep(tmp_path: Path, bounded: None) -> None:
    """Sizes are claimed, not there: every tar is one header, with the next where its data begins."""
    headers = []
    for level in range(2000):
        info = tarfile.TarInfo("d.xtar" if level < 1999 else "f.zip")
        info.size = (2000 - level) * 512
        headers.append(info.tobuf(tarfile.USTAR_FORMAT))
    found = walked(b"".join(headers) + zip_of(("f", b"deep")).ljust(1024, b"\0") + bytes(1024), tmp_path)
    assert len(found) == 2000
    assert max(path.count(b"/") for path in found) == 1999


def test_nested_deeper_than_any_path(tmp_path: Path, bounded: None) -> None:
    headers = []
    for level in range(20_000):
        info = tarfile.TarInfo("d.xtar")
        info.size = (20_000 - level) * 512
        headers.append(info.tobuf(tarfile.USTAR_FORMAT))
    (tmp_path / "x.xtar").write_bytes(b"".join(headers) + bytes(1024))
    with xtarfs.open(str(tmp_path / "x.xtar")) as archive:
        assert sum(1 for _ in archive.walk()) < 2100
        assert any("too deep" in what for _, what in archive.tree.damage)


def test_paths_of_64_kilobytes(tmp_path: Path, bounded: None) -> None:
    members = [(f"{n}.zip", zip_of((f"{n}/" + "a/" * 32_000 + "x", b"x"), (f"n{n}" * 10_000, b"y"))) for n in range(50)]
    many = [(f"m{n}.zip", zip_of((f"{n}/" + f"{n}/" * 600 + "x", b"x"))) for n in range(3000)]
    found = walked(tar_of(*members, *many), tmp_path)
    assert all(len(part) <= 255 for path in found for part in path.split(b"/"))


def test_claims_of_size(tmp_path: Path, bounded: None) -> None:
    """Sizes that are not there cost neither memory nor time, and reading says that the file is damaged."""
    deflated = bytearray(zip_of(("bomb", bytes(100_000))))
    for at, signature in ((22, b"PK\3\4"), (24, b"PK\1\2")):
        struct.pack_into("<I", deflated, deflated.index(signature) + at, 0xFFFFFFF0)
    stored = bytearray(zip_of(("stored", b"abc"), method=zipfile.ZIP_STORED))
    for at, signature in ((18, b"PK\3\4"), (20, b"PK\1\2")):
        struct.pack_into("<II", stored, stored.index(signature) + at, 0xFFFFFFF0, 0xFFFFFFF0)
    data = bytearray(tar_of(("d.zip", bytes(deflated)), ("s.zip", bytes(stored)), ("last", b"raw")))
    at = data.index(b"last\0")
    info = tarfile.TarInfo("last")
    info.size = 1 << 60
    data[at : at + 512] = info.tobuf(tarfile.GNU_FORMAT)
    assert walked(bytes(data[: at + 1024]), tmp_path) == {
        b"bomb": DamagedError,
        b"stored": DamagedError,
        b"last": DamagedError,
    }


def test_bomb_that_keeps_its_word(tmp_path: Path, bounded: None) -> None:
    """4 GiB of zeros in 4 MB: listed at once; reading its start unpacks it by the way, in little memory."""
    size = 1 << 30
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 20)
    packed, crc = bytearray(), 0
    for _ in range(size >> 20):
        packed += engine.compress(block)
        crc = zlib.crc32(block, crc)
    packed += engine.flush()
    local = struct.pack("<4sHHHIIIIHH", b"PK\3\4", 20, 0, 8, 0, crc, len(packed), size, 1, 0) + b"z"
    central = (
        struct.pack("<4sHHHHIIIIHHHHHII", b"PK\1\2", 20, 20, 0, 8, 0, crc, len(packed), size, 1, 0, 0, 0, 0, 0, 0)
        + b"z"
    )
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local) + len(packed), 0)
    (tmp_path / "x.xtar").write_bytes(tar_of(("z.zip", local + bytes(packed) + central + end)))
    with xtarfs.open(str(tmp_path / "x.xtar")) as archive:
        node = archive.lookup("z")
        assert archive.read(node, size - 10, 100) == bytes(10)
        assert archive.read(node, size // 2, 100) == bytes(100)


def test_counts_and_offsets_that_cannot_be(tmp_path: Path, bounded: None) -> None:
    good = zip_of(("a", b"a" * 1000))
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1 << 63, 1 << 63, 46, 0)
    for number, broken in enumerate(
        (
            good[:-22] + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, 0xFFFFFFFE, 0, 0),
            good[:-22] + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 9999, 9999, 60, len(good) - 22 - 60, 0),
            good[:-22] + end64 + struct.pack("<4sIQI", b"PK\6\7", 0, len(good) - 22, 1)
            + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, 0xFFFFFFFF, 0xFFFFFFFF, 0),
            good[:40],
            b"PK\3\4" + bytes(20),
            b"PK",
        )
    ):  # fmt: skip
        found = walked(tar_of(("a.zip", broken)), tmp_path)
        assert found in ({b"a": b"a" * 1000}, {b"a": DamagedError}), number


def test_numbers_that_no_system_call_takes(tmp_path: Path, bounded: None) -> None:
    info = tarfile.TarInfo("x")
    info.uid, info.gid, info.mtime, info.mode = 1 << 40, -5, 1 << 60, 0o7777777
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    (tmp_path / "x.xtar").write_bytes(data)
    with xtarfs.open(str(tmp_path / "x.xtar")) as archive:
        record = archive.lookup("x").record
        assert (record.uid, record.gid, record.permissions) == (65534, 65534, 0o7777)
        assert record.mtime_ns < 2**63


@pytest.mark.parametrize("seed", range(8))
def test_bytes_changed_at_random(seed: int, source: Path, tmp_path: Path, bounded: None) -> None:
    """Errors of this package alone, whatever is read; and no content that differs from what was packed."""
    expected = {data for data in on_disk(source).values() if data is not None}
    data = nest(source, whole_with_top, "{}.xtar").read_bytes()
    rng = random.Random(seed)
    for _ in range(25):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 5, 50))):
            at = rng.randrange(len(data) // 512) * 512 + rng.choice((rng.randrange(512), rng.randrange(64), 124))
            changed[at] = rng.randrange(256)
        try:
            found = walked(bytes(changed), tmp_path)
        except NotAnArchive:
            continue
        for path, content in found.items():
            if isinstance(content, bytes) and not path.endswith((b".zip", b".xtar")):
                assert content in expected or content[:2] == b"PK"

"""`xtarfs.checking.diff`: every kind of difference is named, and nothing else is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.building.build import Options, build
from xtarfs.checking.diff import Difference, diff
from xtarfs.errors import UsageError
from xtarfs.reading.reader import Archive

from . import trees

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root sets owners and makes devices")
Found = dict[bytes, tuple[str, tuple[str, ...]]]


def found(archive: Path, other: Path | Archive) -> Found:
    with Archive.open(str(archive)) as opened:
        differences = list(diff(opened, other if isinstance(other, Archive) else str(other)))
    assert len({d.path for d in differences}) == len(differences)
    return {d.path: (d.kind, d.what) for d in differences}


def found_twice(archive: Path, tree: Path) -> Found:
    """The differences to a tree, which are the same as to an archive of it."""
    other = archive.with_name("other.xtar")
    build(str(tree), str(other), Options(force=True))
    with Archive.open(str(other)) as opened:
        between = found(archive, opened)
    assert between == found(archive, tree)
    return between


def test_an_archive_does_not_differ_from_its_source(archive: Path, menagerie: Path) -> None:
    with Archive.open(str(archive)) as other:
        assert found(archive, other) == {}
    assert found(archive, menagerie) == {}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A small tree and the archive of it as it was."""
    tree = tmp_path / "tree"
    (tree / "sub" / "below").mkdir(parents=True)
    trees.write(tree / "a", trees.words(100_000))
    trees.write(tree / "sub" / "b", b"same length")
    trees.write(tree / "sub" / "below" / "c", b"c")
    trees.write(tree / "z", b"z")
    os.link(tree / "z", tree / "z2")
    os.symlink("a", tree / "link")
    trees.set_times(tree)
    archive = tmp_path / "tree.xtar"
    build(str(tree), str(archive), Options())
    return archive, tree


def rewrite(path: Path) -> None:
    old = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


def relink(tree: Path) -> None:
    (tree / "link").unlink()
    os.symlink("b", tree / "link")


def to_fifo(tree: Path) -> None:
    (tree / "a").unlink()
    os.mkfifo(tree / "a")


CHANGES: dict[str, tuple[Callable[[Path], object], bytes, tuple[str, ...]]] = {
    "content of the same size and time": (lambda t: rewrite(t / "sub" / "b"), b"sub/b", ("content",)),
    "mode": (lambda t: os.chmod(t / "a", 0o600), b"a", ("mode",)),
    "time by one nanosecond": (lambda t: os.utime(t / "sub", ns=(0, 1_650_000_000_123_456_790)), b"sub", ("mtime",)),
    "xattr": (lambda t: os.setxattr(t / "a", "user.x", b"1"), b"a", ("xattrs",)),
    "xattr of the root": (lambda t: os.setxattr(t, "user.x", b"1"), b"", ("xattrs",)),
    "target": (relink, b"link", ("target",)),
    "type": (to_fifo, b"a", ("type",)),
    "mode of a hard link": (lambda t: os.chmod(t / "z2", 0o600), b"z2", ("mode",)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_named(pair: tuple[Path, Path], name: str) -> None:
    archive, tree = pair
    change, path, what = CHANGES[name]
    change(tree)
    differences = found_twice(archive, tree)
    kind, words = differences.pop(path)
    assert kind == "changed"
    assert set(words) - {"mtime"} == set(what) - {"mtime"}
    if "mtime" in what:
        assert words == what
    # what the change does beside: the folder's time, the other name of the same inode
    assert set(differences) <= {b"", b"z"}


def test_size_goes_with_content(pair: tuple[Path, Path]) -> None:
    archive, tree = pair
    trees.write(tree / "a", b"short", mtime_ns=(tree / "a").stat().st_mtime_ns)
    assert found_twice(archive, tree) == {b"a": ("changed", ("size", "content"))}


@ROOT
def test_owner(pair: tuple[Path, Path]) -> None:
    archive, tree = pair
    os.chown(tree / "a", 1, 0)
    os.chown(tree / "link", 0, 54321, follow_symlinks=False)
    owner = ("changed", ("owner",))
    assert found_twice(archive, tree) == {b"a": owner, b"link": owner}


@ROOT
def test_device(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mknod(tmp_path / "tree" / "dev", 0o600 | 0o020000, os.makedev(1, 3))
    build(str(tmp_path / "tree"), str(tmp_path / "a.xtar"), Options())
    old = (tmp_path / "tree").stat().st_mtime_ns
    time = (tmp_path / "tree" / "dev").stat().st_mtime_ns
    (tmp_path / "tree" / "dev").unlink()
    os.mknod(tmp_path / "tree" / "dev", 0o600 | 0o020000, os.makedev(1, 5))
    os.utime(tmp_path / "tree" / "dev", ns=(time, time))
    os.utime(tmp_path / "tree", ns=(old, old))
    assert found_twice(tmp_path / "a.xtar", tmp_path / "tree") == {b"dev": ("changed", ("device",))}


def test_a_hard_link_that_became_a_copy(pair: tuple[Path, Path]) -> None:
    archive, tree = pair
    shutil.copy2(tree / "z", tree / "copy")
    os.replace(tree / "copy", tree / "z2")
    trees.set_times(tree)
    assert found_twice(archive, tree) == {b"z2": ("changed", ("links",))}


def test_added_and_removed_with_all_below(pair: tuple[Path, Path]) -> None:
    archive, tree = pair
    shutil.rmtree(tree / "sub")
    (tree / "new" / "deep").mkdir(parents=True)
    trees.write(tree / "new" / "deep" / "f", b"")
    trees.set_times(tree)
    removed, added = ("removed", ()), ("added", ())
    assert found_twice(archive, tree) == {
        b"sub": removed, b"sub/b": removed, b"sub/below": removed, b"sub/below/c": removed,
        b"new": added, b"new/deep": added, b"new/deep/f": added,
    }  # fmt: skip


def test_a_directory_that_became_a_file(pair: tuple[Path, Path]) -> None:
    archive, tree = pair
    shutil.rmtree(tree / "sub")
    trees.write(tree / "sub", b"")
    trees.set_times(tree)
    assert found_twice(archive, tree) == {
        b"sub": ("changed", ("type",)), b"sub/b": ("removed", ()), b"sub/below": ("removed", ()),
        b"sub/below/c": ("removed", ()),
    }  # fmt: skip


def test_names_sort_by_bytes(tmp_path: Path) -> None:
    """`a-`, `a` with children and `a0`: a merge by whole paths, or by text, would lose step here."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in (b"a-", b"a0", b"\xff", b"\xc3\xa9", b"B", b"b"):
        trees.write(os.fsencode(tree) + b"/" + name)
    (tree / "a").mkdir()
    trees.write(tree / "a" / "x")
    build(str(tree), str(tmp_path / "a.xtar"), Options())
    old = tree.stat().st_mtime_ns
    os.unlink(os.fsencode(tree) + b"/\xc3\xa9")
    trees.write(tree / "a.")
    os.utime(tree, ns=(old, old))
    assert found_twice(tmp_path / "a.xtar", tree) == {b"\xc3\xa9": ("removed", ()), b"a.": ("added", ())}


def test_hand_made_archive_is_compared_by_reading(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    trees.write(tree / "f", trees.words(50_000), mtime_ns=1_700_000_000 * 10**9)
    subprocess.run(["zip", "-q", "../f.zip", "f"], cwd=tree, check=True)
    subprocess.run(["tar", "cf", "hand.xtar", "f.zip"], cwd=tmp_path, check=True)
    assert "content" not in dict(found(tmp_path / "hand.xtar", tree)).get(b"f", ("", ()))[1]
    rewrite(tree / "f")
    assert "content" in found(tmp_path / "hand.xtar", tree)[b"f"][1]


def test_equal_directories_of_two_archives_are_not_read(archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.xtar"
    shutil.copy(archive, copy)
    with Archive.open(str(archive)) as left, Archive.open(str(copy)) as right:
        reads: list[int] = []
        read_at = left.source.read_at
        left.source.read_at = lambda offset, size: reads.append(offset) or read_at(offset, size)  # type: ignore[method-assign,func-returns-value]
        assert list(diff(left, right)) == []
    assert len(reads) < 10


def test_sockets_are_no_difference(pair: tuple[Path, Path]) -> None:
    archive, tree = pair
    old = tree.stat().st_mtime_ns
    trees.add_socket(tree)
    os.utime(tree, ns=(old, old))
    assert found(archive, tree) == {}


def test_not_a_directory(archive: Path, tmp_path: Path) -> None:
    trees.write(tmp_path / "file")
    with Archive.open(str(archive)) as opened, pytest.raises(UsageError):
        list(diff(opened, str(tmp_path / "file")))


def test_a_lazy_iterator(pair: tuple[Path, Path]) -> None:
    archive, tree = pair
    shutil.rmtree(tree / "sub")
    with Archive.open(str(archive)) as opened:
        first = next(diff(opened, str(tree)))
    assert first == Difference(b"", "changed", ("mtime",))

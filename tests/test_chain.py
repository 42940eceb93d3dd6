"""Chains of incremental copies through the command line: each copy shows the whole tree, wherever its data lies."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import msgspec
import pytest

import xtarfs
from builder.building.build import Options, build
from builder.writing.layout import Layout
from xtarfs.errors import DamagedError
from xtarfs.format.records import Elsewhere
from xtarfs.reading.tree import Node
from xtarfs.restoring.extract import ExtractOptions, extract

from . import trees
from .mounting import failure, live, until, xtar


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with three copies of `source`, and what that was at each."""
    root = tmp_path_factory.mktemp("chain")
    source = root / "source"
    (source / "sub").mkdir(parents=True)
    trees.write(source / "first", trees.words(200_000, 1))
    trees.write(source / "second", b"will be rewritten")
    trees.write(source / "sub" / "third", b"will be moved")
    os.link(source / "first", source / "sub" / "first again")
    for number, script in enumerate(("true", "echo of copy 2 > second", "mv sub other; echo of copy 3 > new"), 1):
        subprocess.run(["sh", "-c", script], cwd=source, check=True)
        base = str(root / f"{number - 1}.xtar") if number > 1 else ""
        assert build(str(source), str(root / f"{number}.xtar"), Options(base=base)).problems == []
        subprocess.run(["cp", "-a", source, root / f"was {number}"], check=True)
    yield root


@pytest.fixture
def copies(chain: Path, tmp_path: Path) -> Path:
    """The three archives, for a test to move about."""
    for number in (1, 2, 3):
        shutil.copy(chain / f"{number}.xtar", tmp_path)
    return tmp_path


def restored(copies: Path, number: int, *options: str) -> Path:
    out = copies / "out"
    done = xtar("extract", copies / f"{number}.xtar", "-C", out, *options)
    assert (done.returncode, done.stderr) == (0, "")
    return out


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_copy_is_the_whole_tree(chain: Path, copies: Path, number: int) -> None:
    out = restored(copies, number)
    assert trees.differences(trees.snapshot(chain / f"was {number}"), trees.snapshot(out)) == []
    done = xtar("verify", copies / f"{number}.xtar")
    assert (done.returncode, done.stderr) == (0, "")
    assert xtar("diff", copies / f"{number}.xtar", out).returncode == 0


def test_archives_may_be_renamed_and_lie_in_another_folder(chain: Path, copies: Path) -> None:
    away = copies / "cupboard"
    away.mkdir()
    for number in (1, 2):
        os.rename(copies / f"{number}.xtar", away / f"copy no. {number}")
    out = restored(copies, 3, "--with", str(away))
    assert trees.differences(trees.snapshot(chain / "was 3"), trees.snapshot(out)) == []


def test_without_one_archive_only_its_files_are_missing(chain: Path, copies: Path) -> None:
    os.rename(copies / "1.xtar", copies / "1.away")
    (copies / "1.away").write_bytes(b"")
    archive, out = copies / "3.xtar", copies / "out"
    listed = xtar("list", "-R", archive)
    assert listed.returncode == 0
    assert listed.stdout.split("\n")[:-1] == ["first", "new", "other", "other/first again", "other/third", "second"]
    done = xtar("extract", archive, "-C", out)
    assert done.returncode == 1
    assert "first: its data lies in 1.xtar" in done.stderr and "Traceback" not in done.stderr
    assert {path.name for path in out.rglob("*") if path.is_file()} == {"new", "second"}
    assert (out / "second").read_text() == "of copy 2\n"
    checked = xtar("verify", archive, "--json")
    assert checked.returncode == 1
    assert {row["path"] for row in json.loads(checked.stdout)["damaged"]} >= {"first", "other/third"}
    read = xtar("cat", archive, "first")
    assert (read.returncode, read.stdout, read.stderr.count("\n")) != (0, "", 0)
    assert "1.xtar" in read.stderr
    facts = json.loads(xtar("info", archive, "--json").stdout)
    assert [(holder["name"], holder["at_hand"]) for holder in facts["holders"]] == [("1.xtar", False), ("2.xtar", True)]


def test_damage_in_a_base_is_damage_to_its_files(copies: Path) -> None:
    with xtarfs.open(str(copies / "3.xtar")) as archive:
        at = archive.lookup("first").record.data
    with open(copies / "1.xtar", "r+b") as file:
        file.seek(at + 50)
        file.write(bytes(64))
    done = xtar("verify", copies / "3.xtar", "--json")
    damaged: list[Any] = json.loads(done.stdout)["damaged"]
    assert done.returncode == 1
    assert {row["path"] for row in damaged} <= {"first", "other/first again"} and damaged[0]["ranges"] == [[0, 32768]]
    out = copies / "out"
    assert xtar("extract", copies / "3.xtar", "-C", out, "--on-damage", "skip").returncode == 1
    assert (out / "other" / "third").read_text() == "will be moved"


def test_a_mount_shows_all_and_picks_up_what_comes_later(chain: Path, copies: Path) -> None:
    away = copies / "away"
    os.rename(copies / "1.xtar", away)
    saved = away.read_bytes()
    away.unlink()
    with live(copies / "3.xtar", copies / "point") as point:
        assert sorted(os.listdir(point)) == ["first", "new", "other", "second"]
        assert (point / "first").stat().st_size == 200_000
        assert (point / "second").read_text() == "of copy 2\n"
        assert failure((point / "first").read_bytes) == errno.EIO
        assert (point / "new").read_text() == "of copy 3\n"
        (copies / "back.xtar").write_bytes(saved)

        def is_there() -> bool:
            try:
                return (point / "other" / "first again").read_bytes() == (chain / "source" / "first").read_bytes()
            except OSError as error:
                assert error.errno == errno.EIO
                return False

        assert until(is_there)
        assert trees.differences(trees.snapshot(chain / "was 3"), trees.snapshot(point)) == []


def test_a_copy_leads_to_the_archive_that_replaces_a_holder(chain: Path, copies: Path) -> None:
    """`sub/third` was renamed twice since the first copy: only the record that was led on finds it again."""
    source = copies / "source"
    subprocess.run(["cp", "-a", chain / "was 3", source], check=True)
    assert xtar("merge", copies / "1.xtar", copies / "2.xtar", "-o", copies / "merged.xtar").returncode == 0
    os.unlink(copies / "1.xtar")
    os.unlink(copies / "2.xtar")
    os.rename(source / "other" / "third", source / "again")
    assert build(str(source), str(copies / "4.xtar"), Options(base=str(copies / "3.xtar"))).problems == []
    with xtarfs.open(str(copies / "4.xtar")) as archive:
        assert [(name, there) for _, name, there in archive.holders()] == [("merged.xtar", True), ("3.xtar", True)]
    out = restored(copies, 4)
    assert trees.differences(trees.snapshot(source), trees.snapshot(out)) == []


def test_a_base_whose_holders_are_not_at_hand_will_do(chain: Path, copies: Path) -> None:
    away = copies / "away"
    away.mkdir()
    os.rename(copies / "1.xtar", away / "1.xtar")
    assert build(str(chain / "source"), str(copies / "4.xtar"), Options(base=str(copies / "3.xtar"))).problems == []
    with xtarfs.open(str(copies / "4.xtar")) as archive:
        assert [(name, there) for _, name, there in archive.holders()] == [
            ("1.xtar", False),
            ("2.xtar", True),
            ("3.xtar", True),
        ]
    out = restored(copies, 4, "--with", str(away))
    assert trees.differences(trees.snapshot(chain / "was 3"), trees.snapshot(out)) == []


def test_thirty_copies(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    base = ""
    for number in range(30):
        trees.write(source / f"file {number}", trees.words(3000, number))
        trees.write(source / "always", b"in copy %d" % number)
        archive = str(tmp_path / f"{number}.xtar")
        build(str(source), archive, Options(base=base))
        base = archive
    with xtarfs.open(base) as last:
        assert len(list(last.holders())) == 29
        assert all(there for _, _, there in last.holders())
        assert extract(last, str(tmp_path / "out"), [], ExtractOptions()).complete
    assert trees.differences(trees.snapshot(source), trees.snapshot(tmp_path / "out")) == []
    assert xtar("verify", base).returncode == 0


def test_plain_tar_and_unzip_open_a_copy(copies: Path) -> None:
    """It holds what it took, and nothing of what lies elsewhere."""
    out = copies / "plain"
    out.mkdir()
    subprocess.run(["tar", "xf", copies / "3.xtar", "-C", out], check=True)
    assert {path.name for path in out.glob("*.zip")} == {"new.zip"}
    done = subprocess.run(["unzip", "-p", out / "new.zip"], capture_output=True, check=True)
    assert done.stdout == b"of copy 3\n"


def test_a_record_that_leads_to_one_that_leads_on_is_an_error(copies: Path) -> None:
    """No builder writes it: a record names the archive that has the member. It is not followed, so nothing can turn."""
    with xtarfs.open(str(copies / "3.xtar")) as archive:
        node = archive.lookup("first")
        second = next(identifier for identifier, name, _ in archive.holders() if name == "2.xtar")
        crafted = msgspec.structs.replace(node.record, elsewhere=Elsewhere(second))
        with pytest.raises(DamagedError):
            archive.read(Node(crafted, 0, b"first"), 0, 100)
        own = msgspec.structs.replace(node.record, elsewhere=Elsewhere(archive.tree.locator.id))  # type: ignore[union-attr]
        with pytest.raises(DamagedError):
            archive.read(Node(own, 0, b"first again"), 0, 100)


def test_archives_that_replace_one_another_in_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a forger makes them. Every one of them leads to the next, and none has the data."""
    source = tmp_path / "source"
    source.mkdir()
    trees.write(source / "file", b"content")
    archives = {name: str(tmp_path / f"{name}.xtar") for name in ("left full", "right full", "left", "right")}
    ids: dict[str, str] = {}
    finish = Layout.finish
    for side in ("left", "right"):
        trees.write(source / f"only {side}", b"x")
        ids[side] = build(str(source), archives[f"{side} full"], Options()).identifier
    for side, other in (("left", "right"), ("right", "left")):
        monkeypatch.setattr(Layout, "finish", partialmethod(finish, replaces=[ids[other]]))
        build(str(source), archives[side], Options(base=archives[f"{side} full"]))
        os.unlink(archives[f"{side} full"])
    done = xtar("cat", archives["left"], "file")
    assert (done.returncode, done.stdout) == (2, "")
    assert "circle" in done.stderr and done.stderr.count("\n") == 1


def test_a_mount_warns_of_what_is_not_at_hand(copies: Path) -> None:
    (copies / "1.xtar").unlink()
    mountpoint = copies / "mnt"
    mountpoint.mkdir()
    done = xtar("mount", copies / "3.xtar", mountpoint)
    try:
        assert done.returncode == 0
        assert done.stderr.count("\n") == 1 and "not at hand: 1.xtar;" in done.stderr
    finally:
        assert xtar("umount", mountpoint).returncode == 0


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_a_holder_that_is_none_is_refused(copies: Path, content: bytes | None) -> None:
    named = copies / "named"
    if content is not None:
        named.write_bytes(content)
    done = xtar("extract", copies / "3.xtar", "-C", copies / "out", "--with", named)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"--with: {named}: " in done.stderr
    assert not (copies / "out").exists()


@pytest.mark.parametrize("cut", [0, 1536])
def test_recover_tells_which_archive_has_what_it_cannot_recover(copies: Path, cut: int) -> None:
    """cut: bytes off the end, the locator among them; the names of the other archives go with that."""
    wreck = copies / "wreck"
    data = (copies / "3.xtar").read_bytes()
    wreck.write_bytes(data[: len(data) - cut])
    done = xtar("recover", wreck, "-C", copies / "out")
    assert done.returncode == 1
    with xtarfs.open(str(copies / "3.xtar")) as archive:
        name = {holder: name for holder, name, _ in archive.holders()}
        first = archive.lookup("first").record.elsewhere
    assert first
    where = f"archive {first.archive[:12]}" if cut else f"{name[first.archive]} ({first.archive[:12]})"
    assert f"first: not recovered, because its data lies in {where}\n" in done.stderr
    report = json.loads(xtar("recover", wreck, "-C", copies / "again", "--json").stdout)
    assert {"path": "first", "lies_in": where} in report["lost"]

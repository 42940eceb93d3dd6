"""Reading sets of volumes: the whole tree from any of them, with volumes missing, damaged, elsewhere, or mixed up."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from xtarfs.checking.verify_set import verify_set
from xtarfs.errors import DamagedError, ElsewhereError
from xtarfs.filesystem.vfs import FileSystem
from xtarfs.format import tar
from xtarfs.format.locator import Place, pack
from xtarfs.format.member import own_member
from xtarfs.format.records import FILE, Record, Structure
from xtarfs.reading import shelf
from xtarfs.reading.reader import Archive
from xtarfs.reading.sets import SetDirectory, SetTree
from xtarfs.reading.tree import Node
from xtarfs.restoring.extract import ExtractOptions, extract

from . import trees
from .mounting import failure, live, until, xtar
from .volume_sets import build_set, run, varied_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return varied_tree(tmp_path_factory.mktemp("source") / "tree")


@pytest.fixture(scope="module")
def pristine(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The tree as a set; tests must not change it."""
    return build_set(tree, tmp_path_factory.mktemp("set") / "name.xtar", 120_000)


@pytest.fixture
def volumes(pristine: list[Path], tmp_path: Path) -> list[Path]:
    """A copy to be spoiled."""
    folder = tmp_path / "set"
    shutil.copytree(pristine[0].parent, folder)
    return [folder / path.name for path in pristine]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_PATIENCE", 0.0)


def restored(archive: Archive, out: Path) -> dict[bytes, object]:
    assert extract(archive, str(out), [], ExtractOptions(jobs=1)).complete
    return trees.snapshot(out)


def holders_of(volumes: list[Path], path: str) -> list[int]:
    """Numbers of the volumes that a file's data lies in."""
    with Archive.open(str(volumes[0])) as archive:
        assert isinstance(archive.tree, SetTree)
        record = archive.lookup(path).record
        names = [part.archive for part in record.parts] or [record.elsewhere.archive if record.elsewhere else ""]
        return [archive.tree.catalogues.volumes.index(name) for name in names]


# -- all at hand -------------------------------------------------------------------------------------------------


def test_any_volume_shows_the_whole_tree(tree: Path, pristine: list[Path], tmp_path: Path) -> None:
    expected = trees.snapshot(tree)
    assert len(pristine) > 3
    for path in (pristine[0], pristine[2], pristine[-1]):
        with Archive.open(str(path)) as archive:
            assert trees.differences(expected, restored(archive, tmp_path / path.name)) == []
            assert archive.tree.content_size == sum(facts["size"] for facts in expected.values() if "size" in facts)


def test_volumes_in_other_folders_and_under_other_names(tree: Path, volumes: list[Path], tmp_path: Path) -> None:
    for number, path in enumerate(volumes):
        folder = tmp_path / f"disc {number}"
        folder.mkdir()
        path.rename(folder / f"backup {number}")
    others = [str(tmp_path / f"disc {number}") for number in range(1, len(volumes))]
    with Archive.open(str(tmp_path / "disc 0" / "backup 0"), others=others) as archive:
        assert trees.differences(trees.snapshot(tree), restored(archive, tmp_path / "out")) == []


def test_alone(pristine: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "-R", "--alone", pristine[0]) == 0
    alone = capsys.readouterr().out.splitlines()
    assert run("list", "-R", pristine[0]) == 0
    together = capsys.readouterr().out.splitlines()
    assert 0 < len(alone) < len(together)
    assert any(".part-0001" in line for line in alone)
    assert not any("~" in line for line in together)


def test_several_volumes_as_arguments(
    tree: Path, pristine: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list", *pristine, "last") == 0
    assert "last/one\n" in capsys.readouterr().out
    assert run("extract", *pristine, "d/text-1", "-C", tmp_path / "out") == 0
    assert (tmp_path / "out" / "d" / "text-1").read_bytes() == (tree / "d" / "text-1").read_bytes()
    assert run("verify", *pristine) == 0
    assert run("recover", *pristine, "-C", tmp_path / "recovered") == 0
    assert trees.differences(trees.snapshot(tree), trees.snapshot(tmp_path / "recovered")) == []
    assert run("diff", pristine[1], tree) == 0


def test_cat_and_info(tree: Path, pristine: list[Path], capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("cat", pristine[1], "last/link to what is cut") == 0
    assert capsysbinary.readouterr().out == (tree / "big").read_bytes()
    assert run("info", "--json", pristine[1]) == 0
    facts = json.loads(capsysbinary.readouterr().out)
    assert (facts["set"]["number"], facts["set"]["count"]) == (2, len(pristine))
    assert [holder["at_hand"] for holder in facts["holders"]] == [True] * len(pristine)


def test_more_open_files_than_select_takes(tree: Path, pristine: list[Path], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with Archive.open(str(pristine[0])) as archive:
            assert extract(archive, str(tmp_path / "out"), [], ExtractOptions(jobs=2)).complete
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert trees.differences(trees.snapshot(tree), trees.snapshot(tmp_path / "out")) == []


# -- volumes missing ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_what_lies_on_a_missing_volume(tree: Path, volumes: list[Path], tmp_path: Path) -> None:
    (number,) = holders_of(volumes, "last/one")
    assert number
    volumes[number].rename(tmp_path / "missing")
    expected = f"volume {number + 1} of {len(volumes)} of name, which is not at hand"
    with Archive.open(str(volumes[0])) as archive:
        assert {node.path for node in archive.walk()} == trees.snapshot(tree).keys() - {b""}
        files = FileSystem(archive)
        assert failure(files.read, b"/last/one", 10, 0) == errno.EIO
        for name in (b"/last/one", b"/last/second"):
            assert files.getxattr(name, b"user.xtar.status").decode().endswith(expected)
        assert files.getxattr(b"/d/text-0", b"user.xtar.status") == b"ok"
        assert files.getattr(b"/last/one").size == 1
        assert isinstance(archive.tree, SetTree)
        assert files.getxattr(b"/", b"user.xtar.id").decode() == archive.tree.catalogues.facts.id
        (tmp_path / "missing").rename(volumes[number])
        assert bytes(files.read(b"/last/one", 10, 0)) == b"1"
        assert files.getxattr(b"/last/one", b"user.xtar.status") == b"ok"


def test_a_missing_part_costs_that_part(tree: Path, volumes: list[Path]) -> None:
    numbers = holders_of(volumes, "big")
    assert len(numbers) > 1
    os.unlink(volumes[numbers[1]])
    content = (tree / "big").read_bytes()
    with Archive.open(str(volumes[0])) as archive:
        node = archive.lookup("big")
        start = node.record.parts[0].size
        assert archive.damaged_ranges(node) == [(start, start + node.record.parts[1].size)]
        assert bytes(archive.read(node, 0, start)) == content[:start]
        with pytest.raises(ElsewhereError, match=f"volume {numbers[1] + 1} of {len(volumes)} of name"):
            archive.read(node, start - 1, 2)


def test_extract_and_verify_with_a_volume_missing(
    tree: Path, volumes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (number,) = holders_of(volumes, "last/one")
    os.unlink(volumes[number])
    assert run("extract", volumes[0], "-C", tmp_path / "out") == 1
    kept = trees.snapshot(tmp_path / "out").keys()
    assert f"volume {number + 1} of {len(volumes)} of name" in capsys.readouterr().err
    assert b"last/one" not in kept and b"d/text-0" in kept and b"big" in kept
    capsys.readouterr()
    assert run("verify", "--json", volumes[0]) == 1
    damaged = {each["path"]: each for each in json.loads(capsys.readouterr().out)["damaged"]}
    assert f"volume {number + 1} of" in damaged["last/one"]["reason"]
    assert damaged["last/one"]["ranges"] == [[0, 1]]
    assert "last/second" in damaged and "d/text-0" not in damaged
    assert run("recover", "--json", volumes[0], "-C", tmp_path / "recovered") == 1
    report = json.loads(capsys.readouterr().out)
    where = f"volume {number + 1} of {len(volumes)} of name"
    assert {"path": "last/one", "lies_in": where} in report["lost"]


def test_a_mount_takes_a_volume_that_comes_later(tree: Path, volumes: list[Path], tmp_path: Path, binding: str) -> None:
    (number,) = holders_of(volumes, "last/one")
    volumes[number].rename(tmp_path / "missing")
    with live(volumes[0], tmp_path / "point") as point:
        assert sorted(os.listdir(point / "last")) == sorted(os.listdir(tree / "last"))
        assert failure((point / "last" / "one").read_bytes) == errno.EIO
        status = os.getxattr(point / "last" / "one", "user.xtar.status").decode()
        assert f"volume {number + 1} of {len(volumes)} of name" in status
        (tmp_path / "missing").rename(volumes[number])
        assert until(lambda: os.getxattr(point / "last" / "one", "user.xtar.status") == b"ok")
        assert (point / "last" / "one").read_bytes() == b"1"
        assert (point / "big").read_bytes() == (tree / "big").read_bytes()


def test_mount_takes_several_volumes(tree: Path, volumes: list[Path], tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    moved = [path.rename(away / path.name) for path in volumes[1:]]
    (tmp_path / "point").mkdir()
    done = xtar("mount", volumes[0], *moved, tmp_path / "point")
    assert (done.returncode, done.stderr) == (0, "")
    try:
        assert (tmp_path / "point" / "big").read_bytes() == (tree / "big").read_bytes()
        assert os.statvfs(tmp_path / "point").f_blocks > 100
    finally:
        assert xtar("umount", tmp_path / "point").returncode == 0


# -- damage ------------------------------------------------------------------------------------------------------


def spoil(path: Path, at: int, size: int = 4096) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(trees.noise(size, 99))


def test_a_catalogue_that_is_hit_is_read_from_a_sibling(tree: Path, volumes: list[Path], tmp_path: Path) -> None:
    with Archive.open(str(volumes[0]), alone=True) as volume:
        facts = volume.tree.locator
        assert facts and facts.set
        place = facts.set.catalogue
    spoil(volumes[0], place.at, place.size)
    with Archive.open(str(volumes[0])) as archive:
        assert trees.differences(trees.snapshot(tree), restored(archive, tmp_path / "out")) == []
        assert archive.tree.damage
    for path in volumes[1:]:
        path.unlink()
    with Archive.open(str(volumes[0])) as archive:
        assert not isinstance(archive.tree, SetTree)
        assert any("only the files of this volume" in what for _, what in archive.tree.damage)
        assert sum(1 for _ in archive.walk()) > 0


def test_damage_is_told_by_the_path_in_the_set(volumes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    numbers = holders_of(volumes, "big")
    with Archive.open(str(volumes[0])) as archive:
        first, second = archive.lookup("big").record.parts[:2]
    spoil(volumes[numbers[1]], second.data + 4096 + 5, 1)
    assert run("verify", "--json", volumes[-1]) == 1
    (damage,) = (each for each in json.loads(capsys.readouterr().out)["damaged"] if each["path"] == "big")
    assert damage["ranges"] == [[first.size + 4096, first.size + 8192]]
    assert run("verify", volumes[numbers[0]], "--alone") == 0
    assert run("verify", volumes[numbers[1]], "--alone") == 1


def test_volumes_that_lost_their_ends(tree: Path, volumes: list[Path], tmp_path: Path) -> None:
    os.truncate(volumes[0], volumes[0].stat().st_size - 5000)
    os.truncate(volumes[1], 40_000)
    out = tmp_path / "out"
    assert run("recover", *volumes, "-C", out) == 1
    expected, found = trees.snapshot(tree, holes=False), trees.snapshot(out, holes=False)
    assert expected.keys() - found.keys() <= {b"big", b"last/link to what is cut"}
    same = [path for path in found if found[path] == expected[path]]
    assert len(same) > len(expected) - 6
    content, original = (out / "big").read_bytes(), (tree / "big").read_bytes()
    assert len(content) == len(original)
    assert sum(a == b for a, b in zip(content, original, strict=True)) > len(original) // 3


def test_a_wreck_among_the_volumes_is_noted(volumes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    volumes[1].write_bytes(trees.noise(50_000))
    assert run("verify", volumes[0]) == 1
    assert "too damaged to be recognised" in capsys.readouterr().err


def test_the_set_and_its_volumes_must_agree(volumes: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    node_of = SetDirectory.node

    def other(self: SetDirectory, record: Record, name: bytes, before: int = 0) -> Node:
        node = node_of(self, record, name, before)
        if node.path == b"d/text-2":
            node.record.at += 512
        return node

    monkeypatch.setattr(SetDirectory, "node", other)
    with Archive.open(str(volumes[0])) as archive:
        damaged = {damage.path: damage.reason for damage in verify_set(archive, jobs=1).damaged}
    assert "do not agree" in damaged[b"d/text-2"]


def test_no_set_leads_in_circles(pristine: list[Path]) -> None:
    with Archive.open(str(pristine[0])) as archive:
        tree = archive.tree
        assert isinstance(tree, SetTree)
        record = archive.lookup("d").record
        place = record.structure
        assert place
        inside = SetDirectory(tree, b"x", Structure(0, place.size, 0, place.catalogue), 100)
        for catalogue in (0, 99, place.catalogue - place.size + 1, place.catalogue, place.catalogue + 1):
            record.structure = Structure(0, place.size, place.index, catalogue)
            with pytest.raises(DamagedError, match="where none can be"):
                inside.node(record, b"y")
        record.structure = Structure(0, 50, 0, 120)
        assert inside.node(record, b"y", 110).base == 110
        with pytest.raises(DamagedError, match="where none can be"):
            inside.node(record, b"y", 121)  # within those that lie before it


def test_a_disc_image_with_a_volume_is_not_all(
    pristine: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image"
    image.write_bytes(trees.noise(5000) + pristine[0].read_bytes() + trees.noise(5000, 1))
    assert run("recover", image, "-C", tmp_path / "out") == 1
    stdout, stderr = capsys.readouterr()
    assert " 0 partial, 0 lost" in stdout
    assert "without the catalogue of the set" in stderr


# -- mixed up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["verify", "extract", "list", "recover", "mount"])
def test_volumes_of_two_sets_or_one_twice(
    pristine: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    source = tmp_path / "other"
    source.mkdir()
    trees.write(source / "file", b"of another set")
    (other,) = build_set(source, tmp_path / "other.xtar")
    copy = tmp_path / "copy.xtar"
    shutil.copy(pristine[0], copy)
    before = sorted(tmp_path.iterdir())
    into: list[str | Path] = ["-C", tmp_path / "out"]
    cases: dict[str, list[str | Path]] = {"extract": into, "recover": into, "mount": [source]}
    more = cases.get(command, [])
    for path, message in ((other, "of another set"), (copy, "is volume 1, and so is"), (pristine[0], "is volume 1")):
        assert run(command, pristine[0], path, *more) == 2
        stdout, stderr = capsys.readouterr()
        assert message in stderr
        assert (stdout, stderr.count("\n")) == ("", 1)
    assert sorted(tmp_path.iterdir()) == before


def test_sets_side_by_side_are_not_mixed(tree: Path, volumes: list[Path], tmp_path: Path) -> None:
    source = tmp_path / "other"
    source.mkdir()
    trees.write(source / "file", b"of another set")
    (other,) = build_set(source, volumes[0].parent / "other.xtar")
    shutil.copy(volumes[1], volumes[1].parent / "a copy.xtar")
    with Archive.open(str(other)) as archive:
        assert [node.path for node in archive.walk()] == [b"file"]
    with Archive.open(str(volumes[0])) as archive:
        assert sum(1 for node in archive.walk() if node.record.type == FILE) == len(
            [path for path in trees.paths_below(tree) if path.is_file() and not path.is_symlink()]
        )
        assert verify_set(archive, jobs=1).damaged == []


def test_words_that_are_no_volumes(pristine: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", pristine[0], "something") == 2
    assert "something: is no volume of the set of" in capsys.readouterr().err
    assert run("list", pristine[0], "d", "last") == 2


# -- what a stranger may have written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoilt",
    [
        {"number": 0},
        {"number": 9},
        {"count": 0},
        {"count": 1 << 62},
        {"head": 1 << 62},
        {"head": 3},
        {"catalogue": Place(-(1 << 62), 1 << 62, "00000000")},
        {"catalogue": Place(1 << 62, 1 << 62, "00000000")},
        {"root": Structure(0, 1 << 62, 0, 0)},
        {"root": Structure(0, 100, 1 << 62, 1 << 62)},
        {"id": "0" * 64},
    ],
    ids=str,
)
def test_hostile_locators(volumes: list[Path], tmp_path: Path, spoilt: dict[str, Any]) -> None:
    """Any answer will do that comes soon and is no crash; what the volume holds itself can always be had."""
    with Archive.open(str(volumes[0]), alone=True) as volume:
        facts = volume.tree.locator
        assert facts and facts.set
        names = [node.path for node in volume.walk()]
    block = pack(msgspec.structs.replace(facts, set=msgspec.structs.replace(facts.set, **spoilt)))
    data = volumes[0].read_bytes()[: facts.at]
    header = tar.parse(volumes[0].read_bytes()[facts.at : facts.at + tar.BLOCK])
    assert header.mark
    data += own_member(header.name, header.mark, len(block)) + block + bytes(tar.padding(len(block))) + tar.END
    volumes[0].write_bytes(data)
    for path in volumes[2:]:
        path.unlink()
    for command in (["list", "-R"], ["info"], ["verify"]):
        assert run(*command, volumes[0]) in (0, 1, 2)
    assert run("recover", volumes[0], "-C", tmp_path / "out") in (0, 1)
    with Archive.open(str(volumes[0])) as archive:
        assert {node.path for node in archive.walk()} >= {name for name in names if b".part-" not in name}

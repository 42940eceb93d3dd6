"""Reading heals: with a parity file beside it, a damaged archive gives the right bytes, and says so."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

import xtarfs
from xtarfs.errors import DamagedError

from . import trees
from .mounting import live, xtar

SECTOR = 4096


@pytest.fixture(scope="module")
def protected(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The menagerie's archive with 5% of parity beside it; tests must not change it."""
    path = tmp_path_factory.mktemp("protected") / "tree.xtar"
    shutil.copy(archive, path)
    done = xtar("protect", path, "--redundancy", "5")
    assert done.returncode == 0, done.stderr
    return path


def wreck(protected: Path, folder: Path, seed: int = 1, share: float = 0.01) -> Path:
    """A copy with that share of its sectors zeroed, and its parity file beside it."""
    data = bytearray(protected.read_bytes())
    count = len(data) // SECTOR
    for sector in random.Random(seed).sample(range(count), max(int(count * share), 1)):
        data[sector * SECTOR : (sector + 1) * SECTOR] = bytes(SECTOR)
    path = folder / "wreck.xtar"
    path.write_bytes(data)
    shutil.copy(f"{protected}.rec", f"{path}.rec")
    return path


@pytest.mark.parametrize("seed", range(3))
def test_everything_reads_right(protected: Path, menagerie: Path, tmp_path: Path, seed: int) -> None:
    path = wreck(protected, tmp_path, seed)
    done = xtar("extract", path, "-C", tmp_path / "out")
    assert done.returncode in (0, 1), done.stderr  # 1: structure blocks were damaged too, and said so
    assert trees.differences(trees.snapshot(menagerie), trees.snapshot(tmp_path / "out")) == []


def test_verify_says_damaged_and_repairable(protected: Path, tmp_path: Path) -> None:
    path = wreck(protected, tmp_path)
    done = xtar("verify", "--json", path)
    assert done.returncode == 1
    damaged = json.loads(done.stdout)["damaged"]
    assert damaged
    assert all(entry["repairable"] for entry in damaged)
    os.unlink(f"{path}.rec")
    without = json.loads(xtar("verify", "--json", path).stdout)["damaged"]
    assert {entry["path"]: entry["ranges"] for entry in without} == {e["path"]: e["ranges"] for e in damaged}
    assert not any(entry["repairable"] for entry in without)


def test_the_mount_heals_and_tells(protected: Path, menagerie: Path, tmp_path: Path, binding: str) -> None:
    path = wreck(protected, tmp_path)
    name = next(e["path"] for e in json.loads(xtar("verify", "--json", path).stdout)["damaged"] if e["ranges"])
    with live(path, tmp_path / "point") as point:
        subprocess.run(["diff", "-r", menagerie / "sizes", point / "sizes"], check=True)
        assert (point / name).read_bytes() == (menagerie / name).read_bytes()
        assert os.getxattr(point / name, "user.xtar.status") == b"repaired"
        assert os.getxattr(point / "top", "user.xtar.status") == b"ok"
        report = json.loads(os.getxattr(point, "user.xtar.report"))
        assert name in {entry["path"] for entry in report["damaged"] if entry["repairable"]}


def test_repair_restores_the_exact_bytes(protected: Path, tmp_path: Path) -> None:
    path = wreck(protected, tmp_path)
    done = xtar("repair", "--json", path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["left_blocks"] == 0
    assert path.read_bytes() == protected.read_bytes()
    assert xtar("verify", path).returncode == 0


def test_a_lost_end_heals(protected: Path, menagerie: Path, tmp_path: Path) -> None:
    path = wreck(protected, tmp_path)
    os.truncate(path, protected.stat().st_size - 100_000)
    with xtarfs.open(str(path)) as archive:
        node = archive.lookup("top")
        assert archive.read(node, 0, 1 << 20) == (menagerie / "top").read_bytes()


def test_parity_of_another_archive_gives_no_wrong_byte(protected: Path, menagerie: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(menagerie / "sizes", source)
    trees.write(source / "text-1048577", trees.words(1048577, 99))
    assert xtar("build", source, "-o", tmp_path / "new.xtar").returncode == 0
    path = tmp_path / "new.xtar"
    shutil.copy(f"{protected}.rec", f"{path}.rec")
    data = bytearray(path.read_bytes())
    for at in range(50_000, len(data) - 50_000, 100_000):
        data[at] ^= 0x55
    path.write_bytes(data)
    with xtarfs.open(str(path)) as archive:
        for node in archive.walk():
            for piece in archive.pieces(node) if node.record.type == "file" else ():
                if not piece.error:
                    content = (source / os.fsdecode(node.path)).read_bytes()
                    assert piece.data == content[piece.start : piece.end]


def test_parity_of_an_archive_that_was_replaced_is_not_used(protected: Path, menagerie: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.xtar"
    shutil.copy(f"{protected}.rec", f"{path}.rec")
    assert xtar("build", menagerie / "kinds", "-o", path).returncode == 0
    done = xtar("list", path)
    assert "of another archive" in done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(entry.name for entry in (menagerie / "kinds").iterdir())


def test_parity_that_does_not_suffice_is_no_worse_than_none(protected: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.xtar"
    path.write_bytes(protected.read_bytes()[: protected.stat().st_size // 2])
    without = xtar("list", "-R", path)
    shutil.copy(f"{protected}.rec", f"{path}.rec")
    done = xtar("list", "-R", path)
    assert (done.returncode, done.stdout) == (without.returncode, without.stdout) == (1, without.stdout)
    assert "parity does not suffice" in done.stderr


def test_a_broken_parity_file_is_a_warning(protected: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.xtar"
    shutil.copy(protected, path)
    Path(f"{path}.rec").write_bytes(trees.noise(100_000))
    done = xtar("list", path)
    assert done.returncode == 1
    assert "parity" in done.stderr
    assert done.stdout.split() == ["deep", "kinds", "names", "sizes", "top"]


def test_beyond_the_redundancy_it_is_damage(protected: Path, tmp_path: Path) -> None:
    path = wreck(protected, tmp_path, share=0.4)
    with xtarfs.open(str(path)) as archive, pytest.raises(DamagedError):
        for node in archive.walk():
            if node.record.type == "file":
                archive.read(node, 0, 1 << 30)


@pytest.mark.parametrize("redundancy", ["0", "101", "-3", "lots", ""])
def test_impossible_redundancy(protected: Path, tmp_path: Path, redundancy: str) -> None:
    path = tmp_path / "x.xtar"
    shutil.copy(protected, path)
    done = xtar("protect", path, f"--redundancy={redundancy}")
    assert (done.returncode, done.stdout) == (2, "")
    done = xtar("build", tmp_path, "-o", tmp_path / "y.xtar", f"--redundancy={redundancy}")
    assert (done.returncode, done.stdout) == (2, "")
    assert list(tmp_path.iterdir()) == [path]


def test_build_with_parity(menagerie: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.xtar"
    done = xtar("build", menagerie / "sizes", "-o", path, "--redundancy", "10%")
    assert done.returncode == 0, done.stderr
    assert Path(f"{path}.rec").stat().st_size > path.stat().st_size // 10
    assert xtar("repair", path).stdout.endswith("nothing to repair\n")

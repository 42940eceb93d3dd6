"""Spares of a set: whole volumes that are lost come back byte for byte, and so do blocks that nothing else can heal."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import pytest

from xtarfs.errors import DamagedError, UsageError
from xtarfs.recovery.repair_set import SetRepair, repair_set

from . import trees
from .volume_sets import build_set, run, varied_tree

PAGE, BLOCK = 4160, 4096
SPARES = 2


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return varied_tree(tmp_path_factory.mktemp("source") / "tree")


@pytest.fixture
def volumes(tree: Path, tmp_path: Path) -> list[Path]:
    return build_set(tree, tmp_path / "name.xtar", 120_000, SPARES)


def repair(path: Path) -> SetRepair:
    return repair_set(str(path), lambda size, total=0: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def states(result: SetRepair) -> dict[int, str]:
    """Of the volumes that were not sound, by number."""
    return {number: each.state for number, each in enumerate(result.volumes, 1) if each.state != "sound"}


# -- what is written ---------------------------------------------------------------------------------------------


def gf_multiply(a: int, b: int) -> int:
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = (a << 1) ^ (0x11D if a & 0x80 else 0)
        b >>= 1
    return product


def gf_power(a: int, exponent: int) -> int:
    result = 1
    for _ in range(exponent):
        result = gf_multiply(result, a)
    return result


def interpolated(values: list[int], at: int) -> int:
    """The value at point number `at` of the polynomial through `values` at the points 0, 1, ...: docs/parity.md 3."""
    point = [0, *(gf_power(2, i) for i in range(300))]
    total = 0
    for i, value in enumerate(values):
        term = value
        for j in range(len(values)):
            if j != i:
                term = gf_multiply(term, point[at] ^ point[j])
                term = gf_multiply(term, gf_power(point[i] ^ point[j], 254))  # its inverse
        total ^= term
    return total


def test_spares_are_as_specified(volumes: list[Path], tmp_path: Path) -> None:
    """By section 8 of docs/parity.md alone."""
    count = len(volumes)
    groups = max(-(-path.stat().st_size // BLOCK) for path in volumes)
    padded = [path.read_bytes().ljust(groups * BLOCK, b"\0") for path in volumes]
    sheets = -(-count * groups // 992)
    checks = [zlib.crc32(data[at : at + BLOCK]) for data in padded for at in range(0, len(data), BLOCK)]
    for shard in range(SPARES):
        spare = (tmp_path / f"name.spare{shard + 1}.rec").read_bytes()
        pages = [spare[at : at + PAGE] for at in range(0, len(spare), PAGE)]
        assert len(pages) == groups + 2 * sheets
        numbers = []
        for page in pages:
            magic, _, size, data, parity, number = struct.unpack("<8s32sQHHQ", page[:60])
            assert (magic, size, data, parity) == (b"xtarREC1", count * groups * BLOCK, count, SPARES)
            assert struct.unpack("<I", page[60:64])[0] == zlib.crc32(page[:60] + page[64:])
            numbers.append(number)
        first = sheets + shard * groups + (sheets if shard >= SPARES // 2 else 0)
        assert numbers[:sheets] == list(range(sheets))
        assert numbers[sheets:-sheets] == list(range(first, first + groups))
        assert numbers[-sheets:] == list(range(2 * sheets + SPARES * groups, 3 * sheets + SPARES * groups))
        for sheet in (pages[0], pages[-sheets]):
            assert (
                list(struct.unpack(f"<{min(992, len(checks))}I", sheet[64 : 64 + 4 * min(992, len(checks))]))
                == checks[:992]
            )
        for group, byte in ((0, 0), (1, 4000), (groups - 1, 17)):
            values = [data[group * BLOCK + byte] for data in padded]
            assert pages[sheets + group][64 + byte] == interpolated(values, count + shard)


# -- repair ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [[1], [2, 4], [-1], [1, -1]])
def test_lost_volumes_come_back(volumes: list[Path], tmp_path: Path, lost: list[int]) -> None:
    before = contents(tmp_path)
    numbers = [number if number > 0 else len(volumes) for number in lost]
    for number in numbers:
        volumes[number - 1].unlink()
    result = repair(volumes[numbers[0] - 1])
    assert states(result) == dict.fromkeys(numbers, "rebuilt")
    assert (result.proven, result.spares) == (True, "sound")
    assert contents(tmp_path) == before


def test_the_only_volume_comes_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    trees.write(source / "file", trees.words(5000))
    (path,) = build_set(source, tmp_path / "name.xtar", spares=1)
    before = contents(tmp_path)
    path.unlink()
    assert repair(path).proven
    assert contents(tmp_path) == before


def test_damage_of_every_sort(volumes: list[Path], tmp_path: Path) -> None:
    before = contents(tmp_path)
    data = volumes[0].read_bytes()
    volumes[0].write_bytes(data[:30_000])
    volumes[1].write_bytes(volumes[1].read_bytes() + bytes(3000) + b"more")
    spoilt = bytearray(volumes[2].read_bytes())
    spoilt[50_000:58_000] = trees.noise(8000)
    spoilt[90_000] ^= 1
    volumes[2].write_bytes(bytes(spoilt))
    data = volumes[3].read_bytes()
    volumes[3].write_bytes(data[: len(data) - 700])  # of the zeros that end it
    result = repair(volumes[-1])
    assert states(result) == dict.fromkeys((1, 2, 3, 4), "repaired")
    assert contents(tmp_path) == before


def test_more_than_the_spares_can_do(volumes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(tmp_path)
    for path in volumes[:3]:
        path.unlink()
    kept = contents(tmp_path)
    assert run("repair", volumes[3], "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["proven"] is False
    assert [each["state"] for each in report["volumes"][:4]] == ["missing"] * 3 + ["sound"]
    assert contents(tmp_path) == kept
    volumes[0].write_bytes(before[volumes[0].name])
    assert run("repair", volumes[3]) == 0
    assert contents(tmp_path) == before
    assert "rebuilt" in capsys.readouterr().out


def test_the_parity_of_a_volume_heals_beyond_the_spares(volumes: list[Path], tmp_path: Path) -> None:
    """Three volumes hit in the same group, two spares: one block has to come from its own volume's parity."""
    assert run("protect", volumes[0], "--redundancy", "10") == 0
    before = contents(tmp_path)
    for path in volumes[:3]:
        data = bytearray(path.read_bytes())
        data[8192:8292] = trees.noise(100)
        path.write_bytes(bytes(data))
    assert repair(volumes[0]).proven
    assert contents(tmp_path) == before


def test_a_volume_cut_short_is_written_anew_though_its_parity_could_heal_it(
    volumes: list[Path], tmp_path: Path
) -> None:
    assert run("protect", volumes[0], "--redundancy", "10") == 0
    before = contents(tmp_path)
    os.truncate(volumes[0], volumes[0].stat().st_size - 6000)
    assert states(repair(volumes[0])) == {1: "repaired"}
    assert contents(tmp_path) == before


def test_lost_checksums(volumes: list[Path], tmp_path: Path) -> None:
    """All copies of a sheet: what it covers counts as lost, and is told to be right by the whole."""
    sheets = -(-len(volumes) * max(-(-path.stat().st_size // BLOCK) for path in volumes) // 992)
    before = contents(tmp_path)
    for number in range(1, SPARES + 1):
        path = tmp_path / f"name.spare{number}.rec"
        data = bytearray(path.read_bytes())
        data[: sheets * PAGE] = bytes(sheets * PAGE)
        data[-sheets * PAGE :] = bytes(sheets * PAGE)
        path.write_bytes(bytes(data))
    result = repair(volumes[0])
    assert (result.proven, result.spares, states(result)) == (True, "rewritten", {})
    assert contents(tmp_path) == before


def test_spares_are_written_anew(volumes: list[Path], tmp_path: Path) -> None:
    before = contents(tmp_path)
    first, second = tmp_path / "name.spare1.rec", tmp_path / "name.spare2.rec"
    first.unlink()
    data = bytearray(second.read_bytes())
    data[:PAGE] = bytes(PAGE)
    second.write_bytes(bytes(data))
    volumes[1].unlink()
    result = repair(volumes[1])
    assert (result.proven, result.spares) == (True, "rewritten")
    assert contents(tmp_path) == before


def test_mixed_up_sets(tree: Path, volumes: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    trees.write(tree.parent / "more", b"")
    strangers = build_set(tree, other / "name.xtar", 130_000, SPARES)
    os.replace(strangers[0], volumes[0])
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="are volumes of different sets"):
        repair(volumes[1])
    for path in volumes[1:]:
        path.unlink()
    before = contents(tmp_path)
    assert not repair(volumes[0]).proven
    assert contents(tmp_path) == before
    (tmp_path / "name.spare1.rec").write_bytes((other / "name.spare1.rec").read_bytes())
    with pytest.raises(DamagedError, match="are of different sets"):
        repair(volumes[0])
    for number in (1, 2):
        (tmp_path / f"name.spare{number}.rec").write_bytes(b"no parity")
    with pytest.raises(DamagedError, match="damaged beyond use"):
        repair(volumes[0])
    assert contents(tmp_path)[volumes[0].name] == before[volumes[0].name]


def test_spares_of_an_older_version(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    trees.write(source / "file", trees.words(5000))
    (path,) = build_set(source, tmp_path / "name.xtar", spares=1)
    trees.write(source / "file 2", b"newer")
    (newer,) = build_set(source, tmp_path / "newer.xtar")
    os.replace(newer, path)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="another version"):
        repair(path)
    assert contents(tmp_path) == before


def test_with_spares_and_redundancy_from_the_command(tree: Path, tmp_path: Path) -> None:
    options = ["--volume-size", "400k", "--spare-volumes", "1", "--redundancy", "5"]
    assert run("build", tree, "-o", tmp_path / "name.xtar", *options) == 0
    before = contents(tmp_path)
    (tmp_path / "name.002.xtar").unlink()
    assert run("repair", tmp_path / "name.002.xtar") == 0
    assert contents(tmp_path) == before

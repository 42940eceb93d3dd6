"""Protect, repair and heal: exact within the redundancy, and never a wrong byte called right beyond it."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.building.build import Options, build
from xtarfs.errors import DamagedError, SourceError, UsageError, XtarError
from xtarfs.format.parity import (
    BLOCK,
    COPIES,
    PAGE,
    SHEET,
    Layout,
    checksums,
    pack_page,
    pack_sheet,
    parse_page,
    parse_sheet,
    plan,
)
from xtarfs.parity.align import survey
from xtarfs.parity.heal import HealingSource, rebuild
from xtarfs.parity.parity_file import open_parity
from xtarfs.parity.protect import protect
from xtarfs.parity.shards import Encoder, isal
from xtarfs.recovery.repair import RepairResult, repair
from xtarfs.source import FileSource, Source

PERCENTS = (1, 2, 5, 10, 33, 50, 100)
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def quiet(size: int, total: int = 0) -> None:
    """No progress bar."""


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def protected(folder: Path, data: bytes, percent: float = 5) -> Path:
    path = folder / "a.xtar"
    path.write_bytes(data)
    protect(str(path), percent, quiet, force=True)
    return path


def fix(path: Path, out: Path | None = None) -> RepairResult:
    return repair(str(path), str(out) if out else None, quiet)


@contextmanager
def healing(path: Path) -> Iterator[HealingSource]:
    parity = open_parity(str(path))
    assert parity
    source = HealingSource(FileSource(path), parity)
    yield source
    source.close()


def rec(path: Path) -> Path:
    return path.with_name(path.name + ".rec")


def zero(path: Path, start: int, end: int) -> None:
    data = bytearray(path.read_bytes())
    data[start:end] = bytes(max(0, min(end, len(data)) - start))
    path.write_bytes(data)


def zero_sectors(path: Path, share: float, seed: int) -> None:
    data = bytearray(path.read_bytes())
    count = len(data) // BLOCK
    for at in random.Random(seed).sample(range(count), round(count * share)):
        data[at * BLOCK : (at + 1) * BLOCK] = bytes(BLOCK)
    path.write_bytes(data)


def padded_checksums(data: bytes | bytearray) -> list[int]:
    return checksums(data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0"))


# The layout


@given(st.integers(1, 1 << 42), st.floats(1, 100))
def test_a_group_is_as_redundant_as_asked(size: int, percent: float) -> None:
    data, parity = plan(size, percent)
    layout = Layout(bytes(32), size, data, parity)
    assert data >= 1 and parity >= 2 and data + parity <= 256
    assert parity >= data * percent / 100 - 1e-6
    assert (data - 1) * layout.groups < layout.blocks <= data * layout.groups


@given(st.integers(1, 30 << 20), st.sampled_from(PERCENTS))
def test_every_page_has_one_place(size: int, percent: int) -> None:
    layout = Layout(bytes(32), size, *plan(size, percent))
    pages = [layout.sheet_page(sheet, copy) for sheet in range(layout.sheets) for copy in range(COPIES)]
    pages += [layout.parity_page(shard, group) for shard in range(layout.parity) for group in range(layout.groups)]
    assert sorted(pages) == list(range(layout.pages))


@pytest.mark.parametrize("size", [10 << 20, 200_000_000, 10**9, 10**12, 10**15])
def test_space_at_five_percent(size: int) -> None:
    assert Layout(bytes(32), size, *plan(size, 5)).file_size <= 0.06 * size


@pytest.mark.parametrize("size", [200_000_000, 10**12])
def test_a_burst_of_four_and_a_half_percent_fits_every_group(size: int) -> None:
    layout = Layout(bytes(32), size, *plan(size, 5))
    touched = int(size * 0.045) // BLOCK + 2
    assert -(-touched // layout.groups) <= layout.parity


def test_pages_and_sheets_prove_themselves() -> None:
    layout = Layout(content(32), 5 * BLOCK, 5, 2)
    data = content(5 * BLOCK)
    page = pack_page(layout, 3, pack_sheet(memoryview(data)))
    assert len(page) == PAGE
    found = parse_page(page)
    assert (found.layout, found.number) == (layout, 3)
    sheet = parse_sheet(found.payload, 5)
    assert list(sheet.checks) == checksums(data)
    assert sheet.quotes == [(i, data[i * BLOCK : i * BLOCK + 16]) for i in range(5)]
    for at in range(0, PAGE, 37):
        with pytest.raises(XtarError):
            parse_page(page[:at] + bytes([page[at] ^ 16]) + page[at + 1 :])


@pytest.mark.parametrize("percent", [0, 0.5, 101, -5])
def test_impossible_redundancy(tmp_path: Path, percent: float) -> None:
    with pytest.raises(UsageError, match="redundancy"):
        protected(tmp_path, b"x", percent)


# Protect


def test_protect_is_deterministic_and_leaves_the_archive_alone(tmp_path: Path) -> None:
    path = protected(tmp_path, content(3_000_000))
    before = os.stat(path)
    first = rec(path).read_bytes()
    result = protect(str(path), 5, quiet, force=True, jobs=1)
    assert rec(path).read_bytes() == first
    assert (result.size, result.parity_size) == (3_000_000, len(first))
    assert os.stat(path) == before or os.stat(path).st_mtime_ns == before.st_mtime_ns
    assert sorted(os.listdir(tmp_path)) == ["a.xtar", "a.xtar.rec"]


def test_protect_refuses(tmp_path: Path) -> None:
    path = protected(tmp_path, b"x" * 5000)
    with pytest.raises(UsageError, match="exists already"):
        protect(str(path), 5, quiet)
    with pytest.raises(SourceError, match="No such file"):
        protect(str(tmp_path / "none"), 5, quiet)
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="is empty"):
        protect(str(tmp_path / "empty"), 5, quiet)
    assert not (tmp_path / "empty.rec").exists()


def test_progress_adds_up(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(content(5_000_001))
    steps: list[int] = []
    protect(str(path), 5, lambda size, total=0: steps.append(size))
    assert sum(steps) == 10_000_002


# The code


def test_isal_gives_the_same_bytes() -> None:
    library = isal()
    if library is None:
        pytest.skip("libisal2 is not installed")
    for data, parity, blocks in ((240, 12, 9), (128, 128, 1), (1, 2, 3), (3, 7, 4)):
        runs = [content(blocks * BLOCK, seed) for seed in range(data)]
        plain = Encoder(data, parity)
        plain._library = None
        assert Encoder(data, parity, library=library).encode(runs) == plain.encode(runs)


def restore_by_the_book(table: bytes, broken: bytes, lost: set[int]) -> bytes:
    """A decoder from docs/parity.md alone, for one group of lost blocks: Lagrange interpolation over GF(256)."""
    power = [1]
    while len(power) < 255:
        power.append((power[-1] << 1) ^ (0x11D if power[-1] & 128 else 0))
    log = {value: at for at, value in enumerate(power)}
    points = [0, *power]

    def ratio(pairs: list[tuple[int, int]]) -> int:
        """The product of quotients."""
        return 0 if any(not top for top, _ in pairs) else power[sum(log[top] - log[low] for top, low in pairs) % 255]

    size, data, parity = struct.unpack_from("<QHH", table, 40)
    count = -(-size // 4096)
    groups, sheets = -(-count // data), -(-count // 992)
    blocks = [broken[at : at + 4096].ljust(4096, b"\0") for at in range(0, data * groups * 4096, 4096)]
    restored = list(blocks)
    for block in lost:
        group = block % groups
        known = {
            member: blocks[member * groups + group] for member in range(data) if member * groups + group not in lost
        }
        for shard in range(parity):
            if len(known) < data:
                page = shard * groups + sheets * (1 if shard < parity // 2 else 2) + group
                known[data + shard] = table[page * 4160 + 64 : (page + 1) * 4160]
        total = bytearray(4096)
        for at, values in known.items():
            factor = ratio(
                [
                    (points[block // groups] ^ points[other], points[at] ^ points[other])
                    for other in known
                    if other != at
                ]
            )
            product = bytes(power[(log[factor] + log[value]) % 255] if factor and value else 0 for value in range(256))
            total = bytearray(a ^ b for a, b in zip(total, values.translate(product), strict=True))
        restored[block] = bytes(total)
    return b"".join(restored)[:size]


@pytest.mark.parametrize(("size", "percent"), [(14, 5), (100_000, 10), (1_200_000, 5), (30_000, 100)])
def test_the_specification_suffices_to_restore(tmp_path: Path, size: int, percent: int) -> None:
    original = content(size)
    path = protected(tmp_path, original, percent)
    lost = {0, -(-size // BLOCK) - 1}
    broken = bytearray(original)
    for block in lost:
        broken[block * BLOCK : (block + 1) * BLOCK] = bytes(len(broken[block * BLOCK : (block + 1) * BLOCK]))
    assert restore_by_the_book(rec(path).read_bytes(), bytes(broken), lost) == original


# Within the redundancy


@relaxed
@given(st.data())
def test_any_damage_within_the_redundancy(tmp_path: Path, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 700_000), "size")
    original = content(size)
    path = protected(tmp_path, original, data.draw(st.sampled_from(PERCENTS), "percent"))
    parity = open_parity(str(path))
    assert parity
    layout = parity.layout
    parity.close()
    chance = random.Random(data.draw(st.integers(0, 1 << 30), "seed"))
    broken, table = bytearray(original), bytearray(rec(path).read_bytes())
    for group in range(layout.groups):
        for shard in chance.sample(range(layout.data + layout.parity), chance.randint(0, layout.parity)):
            if shard >= layout.data:
                table[layout.parity_page(shard - layout.data, group) * PAGE + chance.randrange(PAGE)] ^= 1
            elif (block := shard * layout.groups + group) < layout.blocks:
                end = min(size, (block + 1) * BLOCK)
                broken[chance.randrange(block * BLOCK, end)] ^= 1 << chance.randrange(8)
    for sheet in range(layout.sheets):
        for copy in chance.sample(range(COPIES), chance.randint(0, COPIES - 1)):
            table[layout.sheet_page(sheet, copy) * PAGE + chance.randrange(PAGE)] ^= 128
    expected = bytes(table) != rec(path).read_bytes()
    sound = rec(path).read_bytes()
    rec(path).write_bytes(table)
    path.write_bytes(broken)
    with healing(path) as source:
        start = chance.randrange(size)
        end = chance.randint(start + 1, min(size, start + 200_000))
        assert source.heal(start, end - start) == original[start:end]
    if not any(map(int.__eq__, padded_checksums(broken), padded_checksums(original))):
        with pytest.raises(DamagedError, match="-o writes"):  # it may be any file: not in place
            fix(path)
        out = tmp_path / "out"
        out.unlink(missing_ok=True)
        assert fix(path, out).proven and out.read_bytes() == original
        return
    result = fix(path)
    assert path.read_bytes() == original
    assert result.proven and not result.left
    assert result.was_sound == (bytes(broken) == original)
    assert result.parity == ("rewritten" if expected else "sound")
    assert rec(path).read_bytes() == sound


def test_bursts_of_every_position(tmp_path: Path) -> None:
    original = content(2_000_000)
    path = protected(tmp_path, original)
    length = int(len(original) * 0.045)
    for start in range(0, len(original), 47_111):
        zero(path, start, start + length)
        result = fix(path)
        assert result.proven and path.read_bytes() == original
        assert min(start for start, _ in result.repaired) <= start
        assert rec(path).stat().st_size == len(rec(path).read_bytes())


def test_bursts_of_every_position_in_both_files(tmp_path: Path) -> None:
    original = content(2_000_000)
    path = protected(tmp_path, original)
    sound = rec(path).read_bytes()
    for start in range(0, len(original), 97_111):
        zero(path, start, start + 70_000)
        zero(rec(path), start * len(sound) // len(original), start * len(sound) // len(original) + 6000)
        assert fix(path).proven and path.read_bytes() == original
        assert rec(path).read_bytes() == sound


def test_random_sectors_of_both_files(tmp_path: Path) -> None:
    original = content(30_000_000)
    path = protected(tmp_path, original)
    for seed in range(3):
        zero_sectors(path, 0.01, seed)
        zero_sectors(rec(path), 0.01, seed + 100)
        result = fix(path)
        assert result.proven and path.read_bytes() == original
        assert result.repaired_blocks == round(len(original) // BLOCK * 0.01)
        assert result.parity == "rewritten"


def shifted(original: bytes, *changes: tuple[int, int]) -> bytes:
    """Bytes inserted (positive) or removed (negative) at positions of the original."""
    parts, done = [], 0
    for at, count in changes:
        parts.append(original[done:at])
        parts.append(content(max(0, count), at))
        done = at + max(0, -count)
    return b"".join((*parts, original[done:]))


@pytest.mark.parametrize(
    "changes",
    [
        ((0, -400_000),),
        ((0, 12_345),),
        ((0, -1),),
        ((4_000_001, 1),),
        ((4_000_001, -70_000),),
        ((10_000_000 - 400_000, -400_000),),
        ((10_000_000, 5000),),
        ((1_000_000, 3), (5_000_000, -3)),
        ((0, -5000), (3_000_000, 77), (6_000_000, -100_000), (9_000_000, 512)),
        ((5_000_000, 5), (5_300_000, -7)),
        ((200, 1_000_000), (8_000_000, -2_000)),
    ],
    ids=str,
)
def test_bytes_lost_and_added(tmp_path: Path, changes: tuple[tuple[int, int], ...]) -> None:
    original = content(10_000_000)
    path = protected(tmp_path, original, 10)
    path.write_bytes(shifted(original, *changes))
    result = fix(path)
    assert result.proven and path.read_bytes() == original
    assert result.resized == sum(count for _, count in changes)
    assert not result.was_sound


def test_bytes_lost_and_added_in_the_parity_file(tmp_path: Path) -> None:
    original = content(10_000_000)
    path = protected(tmp_path, original)
    sound = rec(path).read_bytes()
    for changes in (((0, -5000),), ((0, 77),), ((100_000, 3), (300_000, -3)), ((200_000, -6000),)):
        rec(path).write_bytes(shifted(sound, *changes))
        zero(path, 1_000_000, 1_300_000)
        assert fix(path).proven and path.read_bytes() == original
        assert rec(path).read_bytes() == sound


@pytest.mark.parametrize("keep", [0.5, 0.2, 0.9])
def test_half_a_parity_file(tmp_path: Path, keep: float) -> None:
    original = content(3_000_000)
    path = protected(tmp_path, original)
    sound = rec(path).read_bytes()
    for part in (sound[: int(len(sound) * keep)], sound[-int(len(sound) * keep) :]):
        rec(path).write_bytes(part)
        zero(path, 777_777, 790_000)
        assert fix(path).proven and path.read_bytes() == original
        assert rec(path).read_bytes() == sound


# Beyond it


def damage(data: bytes, chance: random.Random) -> bytes:
    broken = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(broken)) if broken else 0
        length = int(len(data) * chance.choice((0.001, 0.02, 0.2)))
        kind = chance.choice(("zero", "noise", "cut", "insert", "flip", "end", "swap"))
        if kind == "zero":
            broken[at : at + length] = bytes(len(broken[at : at + length]))
        elif kind == "noise":
            broken[at : at + length] = chance.randbytes(len(broken[at : at + length]))
        elif kind == "cut":
            del broken[at : at + length]
        elif kind == "insert":
            broken[at:at] = chance.randbytes(length)
        elif kind == "flip" and broken:
            broken[at] ^= 4
        elif kind == "end":
            del broken[at:]
        elif kind == "swap":
            broken[at : at + length], broken[:length] = broken[:length], broken[at : at + length]
    return bytes(broken)


@relaxed
@given(st.integers(1, 2_500_000), st.sampled_from(PERCENTS), st.integers(0, 1 << 30))
def test_nothing_wrong_is_ever_called_right(tmp_path: Path, size: int, percent: int, seed: int) -> None:
    original = content(size)
    path = protected(tmp_path, original, percent)
    chance = random.Random(seed)
    broken = damage(original, chance)
    path.write_bytes(broken)
    if chance.random() < 0.5:
        rec(path).write_bytes(damage(rec(path).read_bytes(), chance))
    out = tmp_path / "out"
    out.unlink(missing_ok=True)
    try:
        with healing(path) as source:
            for _ in range(4):
                start = chance.randrange(size)
                length = chance.randint(1, 50_000)
                assert source.heal(start, length) in (None, original[start : start + length])
        result = fix(path, out)
    except XtarError:
        assert not out.exists()
        with pytest.raises(XtarError):
            fix(path)
        assert path.read_bytes() == broken
        return
    assert result.proven == (out.read_bytes() == original)
    written = out.read_bytes()
    assert len(written) == size and bool(result.left) != result.proven
    done = 0
    for start, end in [*result.left, (size, size)]:
        assert written[done:start] == original[done:start]
        done = end
    try:
        assert fix(path).proven == result.proven
    except DamagedError as error:
        assert "-o writes" in str(error)
        assert path.read_bytes() == broken
    else:
        assert path.read_bytes() == (original if result.proven else broken)


def test_beyond_repair_says_what_is_left(tmp_path: Path) -> None:
    original = content(3_000_000)
    path = protected(tmp_path, original)
    zero(path, 1_000_000, 1_500_000)
    zero(path, 40_960, 40_961)
    broken = path.read_bytes()
    result = fix(path)
    assert (result.proven, result.written) == (False, None)
    assert path.read_bytes() == broken
    left: set[int] = set()
    for start, end in result.left:
        left.update(range(start // BLOCK, -(-end // BLOCK)))
    assert left <= {10, *range(244, 367)}
    assert result.left_blocks == len(left)
    out = tmp_path / "out"
    assert fix(path, out).written == str(out)
    with pytest.raises(UsageError, match="exists already"):
        fix(path, out)


def test_a_changed_block_that_passes_its_checksum_is_not_called_right(tmp_path: Path) -> None:
    path = protected(tmp_path, content(100_000))
    original = path.read_bytes()
    forged = bytearray(original)
    # The generator polynomial of CRC-32 leaves the checksum as it is.
    for at, bits in zip(range(5000, 5005), (0x104C11DB7 << 1).to_bytes(5, "big"), strict=True):
        forged[at] ^= int(f"{bits:08b}"[::-1], 2)
    assert checksums(forged[4096:8192]) == checksums(original[4096:8192])
    path.write_bytes(forged)
    result = fix(path)
    assert not result.proven and not result.was_sound and result.left == [(0, 100_000)]
    assert path.read_bytes() == bytes(forged)


# What is refused


def test_parity_of_another_archive(tmp_path: Path) -> None:
    path = protected(tmp_path, content(500_000))
    path.write_bytes(content(500_000, 2))
    for out in (None, tmp_path / "out"):
        with pytest.raises(DamagedError, match="another archive"):
            fix(path, out)
    assert path.read_bytes() == content(500_000, 2)
    assert sorted(os.listdir(tmp_path)) == ["a.xtar", "a.xtar.rec"]


def test_parity_of_an_older_version_does_not_bring_it_back(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(content(2_000_000))
    (tree / "z").write_text("old")
    path = tmp_path / "a.xtar"
    build(str(tree), str(path), Options())
    protect(str(path), 10, quiet)
    (tree / "z").write_text("new")
    build(str(tree), str(path), Options(force=True))
    new = path.read_bytes()
    with pytest.raises(UsageError, match="another version"):
        fix(path)
    assert path.read_bytes() == new


@pytest.mark.parametrize(
    "junk", [b"", bytes(50_000), content(50_000), b"xtarREC1" * 9000], ids=["empty", "zeros", "noise", "magic"]
)
def test_no_parity_file(tmp_path: Path, junk: bytes) -> None:
    path = protected(tmp_path, content(50_000))
    rec(path).write_bytes(junk)
    with pytest.raises(DamagedError, match="no parity file"):
        fix(path)
    rec(path).unlink()
    assert open_parity(str(path)) is None
    with pytest.raises(UsageError, match="has no parity file"):
        fix(path)


def test_parity_alone(tmp_path: Path) -> None:
    path = protected(tmp_path, content(50_000))
    path.unlink()
    with pytest.raises(SourceError, match="alone cannot restore"):
        fix(path)
    path.touch()
    with pytest.raises(DamagedError, match="matches 0 of 13 blocks"):
        fix(path)


def test_whole_redundancy_restores_from_a_tenth_and_parity(tmp_path: Path) -> None:
    original = content(500_000)
    path = protected(tmp_path, original, 100)
    path.write_bytes(original[:50_000])
    assert fix(path).proven and path.read_bytes() == original


def test_repair_keeps_mode_and_follows_links(tmp_path: Path) -> None:
    path = protected(tmp_path, content(50_000))
    path.chmod(0o640)
    link = tmp_path / "link.xtar"
    link.symlink_to("a.xtar")
    shutil.copy(rec(path), rec(link))
    zero(path, 100, 200)
    assert fix(link).proven
    assert link.is_symlink() and path.stat().st_mode & 0o7777 == 0o640
    assert path.read_bytes() == content(50_000)


def test_out_is_written_for_a_sound_archive_too(tmp_path: Path) -> None:
    path = protected(tmp_path, content(50_000))
    assert fix(path).was_sound and fix(path).written is None
    result = fix(path, tmp_path / "out")
    assert result.was_sound and result.written == str(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content(50_000)


# Healing


class BadSectors(Source):
    """A source whose medium fails at some blocks, and that counts what is read."""

    def __init__(self, path: Path, bad: set[int]) -> None:
        self._file = FileSource(path)
        self.name, self.size, self.bad, self.bytes, self.reads = str(path), self._file.size, bad, 0, 0

    def read_at(self, offset: int, size: int) -> bytes:
        self.reads += 1
        self.bytes += size
        if not self.bad.isdisjoint(range(offset // BLOCK, -(-(offset + size) // BLOCK))):
            raise SourceError(f"{self.name}: read at byte {offset} failed: Input/output error")
        return self._file.read_at(offset, size)

    def close(self) -> None:
        self._file.close()


def test_bad_sectors_of_the_medium_are_read_through(tmp_path: Path) -> None:
    original = content(10_000_000)
    path = protected(tmp_path, original)
    parity = open_parity(str(path))
    assert parity
    bad = set(random.Random(3).sample(range(len(original) // BLOCK), 24))
    medium = BadSectors(path, bad)
    assert survey(medium, parity, quiet).damaged == 24
    source = HealingSource(medium, parity)
    for block in sorted(bad):
        assert source.read_at(block * BLOCK - 5, 5000) == original[max(0, block * BLOCK - 5) :][:5000]
        assert source.was_healed(block * BLOCK, 1) and not source.was_healed(block * BLOCK, 0)
    assert source.read_at(len(original) - 10, 100) == original[-10:]
    assert sum(end - start for start, end in source.healed) == 24 * BLOCK
    source.close()


def test_one_block_costs_one_group(tmp_path: Path) -> None:
    original = content(40_000_000)
    path = protected(tmp_path, original)
    parity = open_parity(str(path))
    assert parity
    medium = BadSectors(path, {5000})
    source = HealingSource(medium, parity)
    assert source.heal(5000 * BLOCK + 7, 100) == original[5000 * BLOCK + 7 :][:100]
    assert medium.bytes < 1.1 * parity.layout.data * BLOCK
    before = medium.bytes
    assert source.read_at(5000 * BLOCK, BLOCK) == original[5000 * BLOCK :][:BLOCK]
    assert medium.bytes <= before + 3 * BLOCK  # from the cache
    source.close()


def test_a_group_beyond_repair_costs_no_other_group(tmp_path: Path) -> None:
    original = content(4_000_000)
    path = protected(tmp_path, original)
    with healing(path) as probe:
        layout = probe._parity.layout
    data = bytearray(original)
    for member in range(layout.parity + 1):
        at = member * layout.groups * BLOCK
        data[at : at + BLOCK] = bytes(BLOCK)
    data[BLOCK : 2 * BLOCK] = bytes(BLOCK)
    path.write_bytes(data)
    with healing(path) as source:
        assert source.heal(0, 100) is None
        assert source.heal(BLOCK, 100) == original[BLOCK : BLOCK + 100]
        assert source.heal(BLOCK - 1, 2) is None
        assert source.healed == [(BLOCK, 2 * BLOCK)]


def test_a_shortened_source_has_its_whole_size(tmp_path: Path) -> None:
    original = content(10_000_000)
    path = protected(tmp_path, original)
    for broken in (original[:-400_000], original[400_000:], original[:5_000_000] + original[5_300_000:]):
        path.write_bytes(broken)
        with healing(path) as source:
            assert source.size == len(original)
            for start in (0, 4_900_000, 5_100_000, 9_500_000, 9_990_000):
                assert source.heal(start, 20_000) == original[start : start + 20_000]
            assert source.read_at(9_999_000, 5000) == original[9_999_000:]


def test_many_threads_heal_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    original = content(8_000_000)
    path = protected(tmp_path, original)
    zero_sectors(path, 0.02, 5)
    with healing(path) as source, ThreadPoolExecutor(8) as pool:
        starts = [random.Random(i).randrange(len(original) - 70_000) for i in range(200)]
        for start, data in zip(starts, pool.map(lambda start: source.heal(start, 70_000), starts), strict=True):
            assert data == original[start : start + 70_000]


def test_unknown_checksums_cost_one_member_each(tmp_path: Path) -> None:
    """All copies of a sheet lost: its blocks count as lost, which spread over the groups like a burst."""
    original = content(SHEET * BLOCK * 30)
    path = protected(tmp_path, original)
    parity = open_parity(str(path))
    assert parity
    for copy in range(COPIES):
        zero(rec(path), parity.layout.sheet_page(7, copy) * PAGE, (parity.layout.sheet_page(7, copy) + 1) * PAGE)
    parity.close()
    zero(path, 7 * SHEET * BLOCK, 7 * SHEET * BLOCK + 5 * BLOCK)
    with healing(path) as source:
        assert source.heal(7 * SHEET * BLOCK, 10 * BLOCK) == original[7 * SHEET * BLOCK :][: 10 * BLOCK]
    assert fix(path).proven and path.read_bytes() == original


def test_opening_costs_a_few_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = protected(tmp_path, content(60_000_000))
    reads: list[int] = []
    read_at: Callable[[FileSource, int, int], bytes] = FileSource.read_at

    def counted(self: FileSource, offset: int, size: int) -> bytes:
        reads.append(size)
        return read_at(self, offset, size)

    monkeypatch.setattr(FileSource, "read_at", counted)
    for start in (None, 0, rec(path).stat().st_size - PAGE):  # sound, first page hit, last page hit
        reads.clear()
        if start is not None:
            zero(rec(path), start, start + 100)
        parity = open_parity(str(path))
        assert parity and sum(reads) < 20 * PAGE
        parity.close()


def test_rebuild_in_a_pool_is_the_same(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    original = content(9_000_000)
    path = protected(tmp_path, original)
    zero_sectors(path, 0.02, 9)
    parity = open_parity(str(path))
    assert parity
    source = FileSource(path)
    with ThreadPoolExecutor(3) as pool:
        here = rebuild(source, parity, 0, parity.layout.groups)
        assert rebuild(source, parity, 0, parity.layout.groups, pool.map) == here
    assert here.fixed and all(original[at * BLOCK :][:BLOCK] == block for at, block in here.fixed.items())
    source.close()
    parity.close()


def test_memory_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with open(path, "wb") as file:
        for seed in range(24):
            file.write(content(10_000_000, seed))
    script = (
        "import resource, sys; from xtarfs.parity.protect import protect; from xtarfs.recovery.repair import repair\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "protect(sys.argv[1], 5, lambda size, total=0: None, jobs=2)\n"
        "file = open(sys.argv[1], 'r+b')\n"
        "for at in range(0, 240_000_000, 1_000_000): file.seek(at); file.write(bytes(4096))\n"
        "file.close(); assert repair(sys.argv[1], None, lambda size, total=0: None, jobs=2).repaired_blocks > 200\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 110 << 10

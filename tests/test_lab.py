"""The damage laboratory: what it does to archives, and that it counts right."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import bench, damage, report, tools
from lab.score import Attempt, score
from lab.tree import Content, make

from . import trees


@pytest.fixture
def content(tmp_path: Path) -> Content:
    source = tmp_path / "source"
    for number in range(12):
        (source / f"d{number % 3}").mkdir(parents=True, exist_ok=True)
        trees.write(source / f"d{number % 3}" / f"file-{number}", trees.words(9000 * number, number))
    made = make(tmp_path / "tree", 10_000_000, (str(source),))
    return dict(made)


def deliver(folder: Path, content: Content) -> Attempt:
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return Attempt(folder)


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "tool", [tools.TarGz(), tools.Zip(), tools.Xtar(), tools.Xtar(redundancy=5)], ids=lambda tool: tool.name
)
def test_an_undamaged_archive_scores_all(tool: tools.Tool, content: Content, tmp_path: Path) -> None:
    packed = bench.pack(tool, tmp_path / "tree", tmp_path / "work")
    result = bench.trial(packed, None, 1, content, tmp_path).score
    total = sum(map(len, content.values()))
    assert (result.files, result.bytes, result.whole, result.silent) == (len(content), total, total, 0)
    assert (result.total_files, result.total_bytes) == (len(content), total)


@pytest.mark.parametrize("tool", [tools.Zip(), tools.Xtar()], ids=lambda tool: tool.name)
def test_a_damaged_archive_scores_less_and_stays_as_it_was(tool: tools.Tool, content: Content, tmp_path: Path) -> None:
    packed = bench.pack(tool, tmp_path / "tree", tmp_path / "work")
    before = [path.read_bytes() for path in tool.files(packed.folder)]
    result = bench.trial(packed, damage.scattered(10), 1, content, tmp_path).score
    assert 0 < result.bytes < result.total_bytes
    assert result.silent == 0
    assert before == [path.read_bytes() for path in tool.files(packed.folder)]


def test_parity_brings_all_of_it_back(content: Content, tmp_path: Path) -> None:
    packed = bench.pack(tools.Xtar(redundancy=5), tmp_path / "tree", tmp_path / "work")
    result = bench.trial(packed, damage.SECTOR_LOST, 1, content, tmp_path).score
    assert result.bytes == result.total_bytes


def test_a_wrong_byte_that_nothing_is_said_about_is_silent_corruption(content: Content, tmp_path: Path) -> None:
    path = max(content)
    attempt = deliver(tmp_path / "out", content | {path: changed(content[path], 700)})
    result = score(content, [attempt])
    assert (result.silent, result.silent_files, result.files) == (1, 1, len(content) - 1)
    assert result.bytes == result.total_bytes - 512
    assert result.whole == result.total_bytes - len(content[path])


@pytest.mark.parametrize("log", ["error: {}", "x: {}: bad CRC", "'/out/{}'", "{}."])
def test_a_file_that_a_message_names_is_not_silent(log: str, content: Content, tmp_path: Path) -> None:
    path = max(content)
    attempt = deliver(tmp_path / "out", content | {path: changed(content[path], 700)})
    attempt.log = log.format(path)
    assert score(content, [attempt]).silent == 0


@pytest.mark.parametrize("log", ["error: {}2", "{}.h: bad", "{}-old: bad", "some error"])
def test_a_message_about_another_file_does_not_count(log: str, content: Content, tmp_path: Path) -> None:
    path = max(content)
    attempt = deliver(tmp_path / "out", content | {path: changed(content[path], 700)})
    attempt.log = log.format(path)
    assert score(content, [attempt]).silent == 1


def test_outside_the_ranges_that_were_told_a_byte_must_be_right(content: Content, tmp_path: Path) -> None:
    path = max(content)
    attempt = deliver(tmp_path / "out", content | {path: changed(changed(content[path], 700), 5000)})
    attempt.ranges[path] = [(4096, 8192)]
    assert score(content, [attempt]).silent == 1
    attempt.ranges[path] = [(512, 1024), (4096, 8192)]
    assert score(content, [attempt]).silent == 0


def test_cut_short_or_never_stored_is_silent_too_and_missing_is_not(content: Content, tmp_path: Path) -> None:
    short, missing = sorted(content)[-2:]
    attempt = deliver(tmp_path / "out", content | {short: content[short][:-10], "stranger": b"12345"})
    (tmp_path / "out" / missing).unlink()
    result = score(content, [attempt])
    assert (result.silent, result.silent_files) == (15, 2)
    assert result.files == len(content) - 2


def test_a_later_attempt_serves_for_what_the_first_calls_damaged(content: Content, tmp_path: Path) -> None:
    path = max(content)
    first = deliver(tmp_path / "1", content | {path: changed(content[path], 700)})
    second = deliver(tmp_path / "2", {path: content[path]})
    first.log = f"bad: {path}"
    assert score(content, [first, second]).files == len(content)
    second.suspect = True
    (tmp_path / "2" / path).write_bytes(changed(content[path], 9))
    assert score(content, [second]).silent == 0


@pytest.mark.parametrize("one", [*damage.SCATTERED, *damage.BURSTS, damage.HEAD, damage.TAIL, damage.SECTOR_LOST])
def test_damage_zeroes_the_sectors_that_it_should(one: damage.Damage, tmp_path: Path) -> None:
    sizes = (1_000_000, 3000, 2_000_001)
    files = [tmp_path / str(number) for number in range(len(sizes))]
    for path, size in zip(files, sizes, strict=True):
        path.write_bytes(b"\xff" * size)
    one.apply(files, 7)
    data = [path.read_bytes() for path in files]
    assert [len(each) for each in data] == list(sizes)
    sectors = [each[at : at + 4096] for each in data for at in range(0, len(each), 4096)]
    zeroed = [number for number, sector in enumerate(sectors) if not any(sector)]
    assert all(not any(sector) or all(byte == 255 for byte in sector) for sector in sectors)
    expected = {damage.HEAD: 16, damage.TAIL: 16, damage.SECTOR_LOST: 1}.get(one, round(len(sectors) * one.share / 100))
    assert len(zeroed) == max(expected, one in damage.BURSTS)
    if one in (*damage.BURSTS, damage.HEAD, damage.TAIL):
        assert zeroed == list(range(zeroed[0], zeroed[0] + len(zeroed)))


def test_the_same_seed_is_the_same_damage(tmp_path: Path) -> None:
    seen = []
    for seed in (1, 1, 2):
        file = tmp_path / "file"
        file.write_bytes(trees.noise(100_000))
        damage.FLIP.apply([file], seed)
        seen.append(
            [
                at
                for at, (one, other) in enumerate(zip(file.read_bytes(), trees.noise(100_000), strict=True))
                if one != other
            ]
        )
    assert [len(each) for each in seen] == [1, 1, 1]
    assert seen[0] == seen[1] != seen[2]


def test_a_part_of_a_page_is_replaced_and_the_rest_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n")
    report.put(page, "a", "one\n")
    report.put(page, "b", "two\n")
    report.put(page, "a", "three\n")
    text = page.read_text()
    assert text.startswith("before\n") and "one" not in text
    assert text.index("three") < text.index("two")

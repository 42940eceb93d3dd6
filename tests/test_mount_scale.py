"""What a mount costs does not grow with the archive: the time until it is ready, and its memory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from builder.building.build import Options, build

from . import trees
from .mounting import live, servers

MEMORY = 60_000_000  # bytes, beside the cache and
BYTES_PER_NAME = 200
SMALL_CACHE = 4 << 20


def many(root: Path, folders: int, each: int) -> Path:
    """A tree of small files, each with content of its own."""
    for folder in range(folders):
        (root / f"folder {folder:03d}").mkdir(parents=True)
        for number in range(each):
            descriptor = os.open(root / f"folder {folder:03d}" / f"file number {number:06d}", os.O_CREAT | os.O_WRONLY)
            os.write(descriptor, b"content %d of %d\n" % (number, folder))
            os.close(descriptor)
    return root


def archive_of(root: Path) -> Path:
    path = root.with_suffix(".xtar")
    assert build(str(root), str(path), Options()).problems == []
    return path


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_of(many(tmp_path_factory.mktemp("few") / "tree", 1, 1000))


@pytest.fixture(scope="module")
def hundred_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the names in one folder, half in fifty."""
    root = tmp_path_factory.mktemp("many") / "tree"
    many(root, 50, 1000)
    many(root / "all", 1, 50_000)
    return archive_of(root)


def test_opening_reads_as_much_of_any_archive(
    binding: str, thousand: Path, hundred_thousand: Path, tmp_path: Path
) -> None:
    read = []
    for number, archive in enumerate((thousand, hundred_thousand)):
        with live(archive, tmp_path / str(number)) as point:
            (pid,) = servers(point)
            read.append(bytes_read(pid))
    assert abs(read[1] - read[0]) < 100_000


def test_little_of_the_archive_is_read_to_open_it(binding: str, hundred_thousand: Path, tmp_path: Path) -> None:
    with live(hundred_thousand, tmp_path / "m") as point:
        (pid,) = servers(point)
        before = bytes_read(pid)
        assert (point / "all" / "folder 000" / "file number 040000").read_bytes() == b"content 40000 of 0\n"
        # One name of a large folder needs one block of it.
        assert bytes_read(pid) - before < 300_000


def bytes_read(pid: int) -> int:
    """Bytes that a process has read from files so far."""
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])


def test_memory(binding: str, hundred_thousand: Path, tmp_path: Path) -> None:
    with live(hundred_thousand, tmp_path / "m", "--cache-size", str(SMALL_CACHE)) as point:
        (pid,) = servers(point)
        listed = subprocess.run(["find", point, "-ls"], capture_output=True, check=True).stdout.count(b"\n")
        assert listed == 100_053
        content = f"find {point} -type f -print0 | xargs -0 cat | wc -c"
        assert int(subprocess.run(content, shell=True, capture_output=True, check=True).stdout) > 100_000 * 14
        assert resident(pid) < MEMORY + SMALL_CACHE + BYTES_PER_NAME * listed


def test_memory_with_eight_readers(binding: str, tmp_path: Path) -> None:
    """More chunks, of all sizes, than the cache holds, unpacked by many threads at once."""
    root = tmp_path / "tree"
    root.mkdir()
    text = trees.words(1 << 20)
    for number in range(300):
        (root / f"file {number}").write_bytes(text[number * 997 :][: 4000 * number])
    with live(archive_of(root), tmp_path / "m", "--cache-size", "32MiB") as point:
        (pid,) = servers(point)
        read = f"find {point} -type f -print0 | shuf -z --random-source=/bin/true | xargs -0 -P8 -n5 cat | wc -c"
        assert int(subprocess.run(read, shell=True, capture_output=True, check=True).stdout) > 150_000_000
        assert resident(pid) < MEMORY + (32 << 20)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError

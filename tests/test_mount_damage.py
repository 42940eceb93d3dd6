"""Damage under a mount: the ranges that were hit are EIO, all else is right, and the mount tells.

What an archive's bytes are for comes from its records; which chunk a byte belongs to, from the chunk table.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from builder.building.build import Options, build
from xtarfs.filesystem.vfs import FileSystem
from xtarfs.format import chunks
from xtarfs.format.member import method_of
from xtarfs.reading.reader import Archive

from . import trees
from .mounting import failure, live

CHUNK = trees.CHUNK
Ranges = set[tuple[int, int]]


class Place(NamedTuple):
    """A stretch of packed data in the archive, and the range of whose content it holds."""

    at: int
    end: int
    path: str
    start: int
    stop: int


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small and large files, packed and stored, plain and sparse, some in folders, one with two names."""
    root = tmp_path_factory.mktemp("source") / "tree"
    for folder in ("a", "b/c", "d"):
        (root / folder).mkdir(parents=True)
        for number in range(8):
            trees.write(root / folder / f"small {number}", trees.words(500 + 700 * number, number))
        trees.write(root / folder / "text", trees.words(4 * CHUNK + 99, 5))
        trees.write(root / folder / "noise", trees.noise(3 * CHUNK + 1, 6))
    trees.sparse(root / "sparse", 10 * CHUNK, {3 * CHUNK: trees.words(CHUNK + 7)})
    trees.write(root / "empty")
    os.link(root / "a" / "text", root / "second name of text")
    return root


@pytest.fixture(scope="module")
def sound(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "sound.xtar"
    assert build(str(source), str(path), Options()).problems == []
    return path


@pytest.fixture(scope="module")
def places(sound: Path) -> list[Place]:
    """Where the content of every file lies, in the order of the archive."""
    found = []
    with Archive.open(str(sound)) as archive:
        for node in archive.walk():
            record = node.record
            if record.type != "file" or record.link or not record.size:
                continue
            path, at = os.fsdecode(node.path), node.base + record.data
            if not record.chunk:
                found.append(Place(at, at + record.packed, path, 0, record.size))
                continue
            bounds = chunks.read_rows(
                archive.source.read_at, node.base + record.index, record.size, record.packed, record.chunk,
                method_of(record), 0, chunks.chunk_count(record.size, record.chunk) - 1,
            ).bounds  # fmt: skip
            for number, (low, high) in enumerate(pairwise(bounds)):
                start = number * record.chunk
                found.append(Place(at + low, at + high, path, start, min(start + record.chunk, record.size)))
    return sorted(found)


def joined(ranges: Ranges) -> list[tuple[int, int]]:
    """Neighbouring chunks as one range, as the report shows them."""
    starts, ends = {start for start, _ in ranges}, {end for _, end in ranges}
    return list(zip(sorted(starts - ends), sorted(ends - starts), strict=True))


def place_of(places: list[Place], at: int) -> Place | None:
    index = bisect_right(places, at, key=lambda place: place.at) - 1
    return places[index] if index >= 0 and at < places[index].end else None


def files(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(root.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(root)), path.read_bytes()


def lost(path: Path, wanted: bytes) -> Ranges:
    """Reads a file as a patient program does and gives the chunks that are EIO. Any other byte must be right."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            assert file.read() == wanted
            return set()
        except OSError as error:
            assert error.errno == errno.EIO
        missing = set()
        step = int(os.getxattr(path, "user.xtar.chunk_size")) or len(wanted)
        for start in range(0, len(wanted), step):
            end = min(start + step, len(wanted))
            try:
                assert os.pread(file.fileno(), end - start, start) == wanted[start:end]
            except OSError as error:
                assert error.errno == errno.EIO
                for at in (start, (start + end) // 2, end - 1):  # all of it, not only the first page
                    assert failure(os.pread, file.fileno(), 1, at) == errno.EIO
                missing.add((start, end))
        assert missing, "the whole could not be read, each part could"
        return missing


def flip(archive: Path, at: int, mask: int) -> None:
    with open(archive, "r+b") as file:
        file.seek(at)
        old = file.read(1)[0]
        file.seek(at)
        file.write(bytes([old ^ mask]))


def status_of(missing: Ranges) -> str:
    """What user.xtar.status must say of a file that has lost these chunks."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(missing):
        if merged and merged[-1][1] == start:
            start = merged.pop()[0]
        merged.append((start, end))
    return "damaged " + " ".join(f"{start}-{end}" for start, end in merged) if merged else "ok"


def status(path: Path) -> str:
    return os.getxattr(path, "user.xtar.status").decode()


def test_bytes_flipped_under_a_live_mount(
    source: Path, sound: Path, places: list[Place], binding: str, tmp_path: Path
) -> None:
    """Trials of one to four flipped bytes in the data of files. Nothing is cached but the tables of chunks."""
    rng = random.Random(11)
    archive = tmp_path / "damaged.xtar"
    shutil.copy(sound, archive)
    contents = dict(files(source))
    reported: dict[str, Ranges] = {}
    eio = 0
    with live(archive, tmp_path / "m", "--cache-size", "0") as point:
        for trial in range(300):
            flips = {rng.choice(places): rng.randrange(1, 256) for _ in range(rng.randint(1, 4))}
            hit: dict[str, Ranges] = {}
            spots = []
            for place, mask in flips.items():
                at = rng.randrange(place.at, place.end)
                spots.append((at, mask))
                flip(archive, at, mask)
                hit.setdefault(place.path, set()).add((place.start, place.stop))
                if place.path == "a/text":
                    hit["second name of text"] = hit[place.path]
            bystanders = rng.sample(sorted(contents), 5)
            for path in {*hit, *bystanders}:
                missing = lost(point / path, contents[path])
                assert missing <= hit.get(path, set())
                assert status(point / path) == status_of(missing)
                eio += len(missing)
                if missing and path != "second name of text":
                    reported.setdefault(path, set()).update(missing)
            for at, mask in spots:
                flip(archive, at, mask)
            if trial % 100 == 0:
                for path in hit:
                    assert (lost(point / path, contents[path]), status(point / path)) == (set(), "ok")
        assert eio > 600  # a few flips change nothing that the content depends on
        report = json.loads(os.getxattr(point, "user.xtar.report"))
        told = {row["path"]: [tuple(pair) for pair in row["ranges"]] for row in report["damaged"]}
        assert told == {path: joined(ranges) for path, ranges in reported.items()}
        assert trees.differences(trees.snapshot(source), trees.snapshot(point)) == []
    assert archive.read_bytes() == sound.read_bytes()


def test_bytes_flipped_anywhere_before_opening(source: Path, sound: Path, places: list[Place], tmp_path: Path) -> None:
    """One byte anywhere: every name and attribute is there, and at most the chunk that it lies in is lost."""
    rng = random.Random(12)
    archive = tmp_path / "damaged.xtar"
    shutil.copy(sound, archive)
    contents = dict(files(source))
    with Archive.open(str(sound)) as opened:
        wanted = attributes(FileSystem(opened))
    size = sound.stat().st_size
    outside = [at for at in range(0, size, 17) if place_of(places, at) is None]
    for trial in range(600):
        at, mask = rng.choice(outside) if trial % 2 else rng.randrange(size), rng.randrange(1, 256)
        flip(archive, at, mask)
        filesystem = FileSystem(Archive.open(str(archive)))
        assert attributes(filesystem) == wanted, f"byte {at}"
        missing = [(path, start) for path in contents for start in missing_chunks(filesystem, path, contents[path])]
        place = place_of(places, at)
        if place:
            names = {place.path, "second name of text"} if place.path == "a/text" else {place.path}
            assert set(missing) <= {(name, place.start) for name in names}, f"byte {at}"
        else:
            assert len({start for _, start in missing}) <= 1, f"byte {at}"  # the CRC-32 of one chunk
            assert len(missing) <= 2, f"byte {at}"
        filesystem.close()
        flip(archive, at, mask)


def attributes(filesystem: FileSystem) -> dict[bytes, object]:
    found: dict[bytes, object] = {b"/": filesystem.getattr(b"/")}
    pending = [b""]
    while pending:
        folder = pending.pop()
        for name, facts in filesystem.readdir(folder or b"/"):
            path = folder + b"/" + name
            found[path] = (facts, filesystem.listxattr(path))
            if facts.mode & 0o170000 == 0o040000:
                pending.append(path)
    return found


def missing_chunks(filesystem: FileSystem, path: str, wanted: bytes) -> Iterator[int]:
    raw = b"/" + os.fsencode(path)
    try:
        assert filesystem.read(raw, len(wanted) + 1, 0) == wanted
        return
    except OSError as error:
        assert error.errno == errno.EIO
    step = int(filesystem.getxattr(raw, b"user.xtar.chunk_size")) or len(wanted)
    for start in range(0, len(wanted), step):
        try:
            assert filesystem.read(raw, step, start) == wanted[start : start + step]
        except OSError as error:
            assert error.errno == errno.EIO
            yield start


@pytest.mark.parametrize("seed", range(4))
def test_a_mount_of_a_wreck(
    source: Path, sound: Path, places: list[Place], binding: str, tmp_path: Path, seed: int
) -> None:
    """Dozens of flipped bytes in data: mounted with 0, every hit file told, everything else right."""
    rng = random.Random(seed)
    archive = tmp_path / "wreck.xtar"
    shutil.copy(sound, archive)
    hit: dict[str, Ranges] = {}
    for place in rng.sample(places, 20):
        flip(archive, rng.randrange(place.at, place.end), 1 << rng.randrange(8))
        hit.setdefault(place.path, set()).add((place.start, place.stop))
    if "a/text" in hit:
        hit["second name of text"] = hit["a/text"]
    with live(archive, tmp_path / "m") as point:
        found = {path: lost(point / path, wanted) for path, wanted in files(source)}
        assert all(found[path] <= hit.get(path, set()) for path in found)
        assert sum(map(len, found.values())) >= 15
        for path, missing in found.items():
            assert status(point / path) == status_of(missing)
        names = {path for path, missing in found.items() if missing}
        report = json.loads(os.getxattr(point, "user.xtar.report"))
        assert {row["path"] for row in report["damaged"]} == names - {"second name of text"}


def test_a_sound_mount_reports_nothing(source: Path, sound: Path, binding: str, tmp_path: Path) -> None:
    with live(sound, tmp_path / "m") as point:
        assert {status(point / path) for path, _ in files(source)} == {"ok"}
        assert json.loads(os.getxattr(point, "user.xtar.report")) == {"damaged": [], "structure": [], "more": 0}

"""Damage of every sort against the reader: never a wrong byte, nothing lost but what was hit, no error but ours."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtarfs.checking.verify import verify
from xtarfs.errors import DamagedError, NotAnArchive, SourceError, XtarError
from xtarfs.format.records import FILE
from xtarfs.reading.reader import Archive
from xtarfs.source import Source

from .damaging import CHUNK, Sample, flipped, make_sample, opened, read_all, sample_tree

SECTOR = 4096


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(sample_tree(tmp_path_factory.mktemp("damage") / "tree"))


def read_randomly(archive: Archive, path: bytes, content: bytes, rng: random.Random) -> None:
    node = archive.lookup(path)
    for _ in range(4):
        offset, size = rng.randint(0, len(content) + 10), rng.randint(0, 3 * CHUNK)
        try:
            assert archive.read(node, offset, size) == content[offset : offset + size]
        except DamagedError as error:
            assert all(start < offset + size and offset < end for start, end in error.ranges)


def test_a_flipped_byte_costs_its_chunk_and_nothing_else(sample: Sample) -> None:
    rng = random.Random(4711)
    hit = 0
    for _ in range(400):
        at = rng.randrange(len(sample.data))
        archive = opened(flipped(sample.data, at, rng.randint(1, 255)))
        may_be_lost = sample.lost_by(at, at + 1)
        for path, content in sample.content.items():
            read_randomly(archive, path, content, rng)
            lost = read_all(archive, path, content)
            hit += bool(lost)
            chunk_lost = [span for span in may_be_lost.get(path, ()) if span[1] - span[0] <= CHUNK]
            assert lost in ([], chunk_lost), (at, path)
            assert archive.damaged_ranges(archive.lookup(path)) == lost, (at, path)
    assert hit > 100  # most of the archive is content


def test_verify_reports_every_flipped_byte(sample: Sample) -> None:
    rng = random.Random(42)
    for _ in range(400):
        at = rng.randrange(len(sample.data))
        damaged = flipped(sample.data, at, 1 << rng.randrange(8))
        found = {damage.path: list(damage.ranges) for damage in verify(opened(damaged), jobs=1).damaged}
        assert found, at
        archive = opened(damaged)
        lost = {path: read_all(archive, path, content) for path, content in sample.content.items()}
        assert {path: ranges for path, ranges in found.items() if ranges} == {p: r for p, r in lost.items() if r}, at


def test_a_zeroed_sector_costs_what_it_covers(sample: Sample) -> None:
    rng = random.Random(99)
    for _ in range(60):
        at = rng.randrange(len(sample.data) // SECTOR) * SECTOR
        damaged = sample.data[:at] + bytes(SECTOR) + sample.data[at + SECTOR :]
        if damaged == sample.data:
            continue
        may_be_lost = sample.lost_by(at, at + SECTOR)
        archive = opened(damaged)
        for path, content in sample.content.items():
            try:
                lost = read_all(archive, path, content)
            except XtarError:
                assert sample.loses_structure(at, at + SECTOR), (at, path)
            else:
                allowed = may_be_lost.get(path, []) if not sample.loses_structure(at, at + SECTOR) else lost
                assert set(lost) <= set(allowed), (at, path)
        assert verify(opened(damaged), jobs=1).damaged, at


def test_what_lies_before_a_cut_is_there(sample: Sample) -> None:
    rng = random.Random(7)
    for _ in range(60):
        length = rng.randrange(len(sample.data))
        try:
            archive = opened(sample.data[:length])
        except NotAnArchive:
            assert not any(end <= length for (_, end), _, _ in sample.chunks)
            continue
        assert verify(opened(sample.data[:length]), jobs=1).damaged
        found = {node.path: node for node in archive.walk()}
        for path, content in sample.content.items():
            node = sample.nodes[path]
            if not node.record.link and node.base + node.record.data + node.record.packed + 4096 < length:
                assert not read_all(archive, path, content), (length, path)
            elif path in found:  # as long as the tar's header says, where the cut is in the zip's
                read_all(archive, path, content[: found[path].record.size])


kinds = st.sampled_from(["set", "insert", "delete", "copy"])
edits = st.lists(st.tuples(kinds, st.floats(0, 1), st.binary(min_size=1, max_size=600)), min_size=1, max_size=12)


@given(edits)
@settings(max_examples=150, deadline=2000, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_damage_gives_right_bytes_or_our_error(sample: Sample, changes: list[tuple[str, float, bytes]]) -> None:
    data = bytearray(sample.data)
    for kind, place, block in changes:
        at = int(place * len(data))
        if kind == "set":
            data[at : at + len(block)] = block
        elif kind == "insert":
            data[at:at] = block
        elif kind == "delete":
            del data[at : at + len(block)]
        else:
            data[at : at + len(block)] = data[: len(block)]
    try:
        archive = opened(bytes(data))
        for node in archive.walk():
            if node.record.type == FILE and node.path in sample.content:
                content = sample.content[node.path]
                for piece in archive.pieces(node):
                    assert piece.error or piece.data == content[piece.start : piece.end]
        verify(opened(bytes(data)), jobs=1)
    except XtarError:
        pass


@given(st.binary(max_size=4096))
@settings(max_examples=150, deadline=2000, derandomize=True)
def test_noise_is_not_an_archive(noise: bytes) -> None:
    with pytest.raises(NotAnArchive):
        opened(noise)


def test_a_failing_medium_is_an_error_for_its_range_alone(sample: Sample) -> None:
    span, path, content = next(found for found in sample.chunks if found[1] == b"d/large" and found[2][0] == 5 * CHUNK)

    class Scratched(Source):
        name, size = "scratched", len(sample.data)

        def read_at(self, offset: int, size: int) -> bytes:
            if offset < span[1] and span[0] < offset + size:
                raise SourceError("scratched: read failed")
            return sample.data[offset : offset + size]

        def close(self) -> None:
            pass

    archive = Archive(Scratched())
    assert archive.damaged_ranges(archive.lookup(path)) == [content]

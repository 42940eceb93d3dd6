"""verify: every byte of an archive of ours has its place, and whatever is wrong is said of the right path."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from builder.building.build import Options, build
from builder.writing.compress import Settings
from xtarfs.checking.verify import Damage, VerifyResult, verify
from xtarfs.errors import SourceError, XtarError
from xtarfs.fork import Helper
from xtarfs.format import codec, tar
from xtarfs.format.records import DIRECTORY, FILE
from xtarfs.reading.reader import Archive

from . import trees
from .damaging import CHUNK, Sample, flipped, make_sample, opened, sample_tree


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(sample_tree(tmp_path_factory.mktemp("verify") / "tree"))


def check(data: bytes) -> dict[bytes, Damage]:
    result = verify(opened(data), jobs=1)
    assert result.damaged == sorted(result.damaged)
    return {damage.path: damage for damage in result.damaged}


def build_verified(source: Path, jobs: int = 1, **settings: int) -> VerifyResult:
    archive = source.parent / f"{source.name}.xtar"
    build(str(source), str(archive), Options(settings=Settings(**settings), force=True))
    with Archive.open(str(archive)) as open_archive:
        return verify(open_archive, jobs=jobs)


# -- sound archives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2, 3])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_sound_archive(
    archive: Path, menagerie: Path, jobs: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr("xtarfs.checking.items._core", None)
    with Archive.open(str(archive)) as open_archive:
        assert open_archive.source.size > 4 << 20  # so that processes are forked where nothing is compiled
        steps: list[int] = []
        result = verify(open_archive, steps.append, jobs)
    found = [os.lstat(os.path.join(folder, name)) for folder, _, names in os.walk(menagerie) for name in names]
    sizes = [attributes.st_size for attributes in found if stat.S_ISREG(attributes.st_mode)]
    assert result.damaged == []
    assert (result.files, result.content) == (len(sizes), sum(sizes))
    assert min(steps) > 0
    assert sum(steps) <= archive.stat().st_size


def test_the_identifier_is_the_digest_of_the_roots_structure(archive: Path, tmp_path: Path) -> None:
    names = subprocess.run(["tar", "tf", archive], capture_output=True, check=True, text=True).stdout.splitlines()
    assert "structure.jsonl.gz" in names
    structure = subprocess.run(["tar", "xOf", archive, "structure.jsonl.gz"], capture_output=True, check=True).stdout
    assert gzip.decompress(structure).startswith(b'{"xtar":')
    with Archive.open(str(archive)) as open_archive:
        assert verify(open_archive).identifier == hashlib.sha256(structure).hexdigest()


def test_an_inner_archive_that_was_extracted(archive: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", archive, "-C", tmp_path, "kinds.xtar"], check=True)
    with Archive.open(str(tmp_path / "kinds.xtar")) as open_archive:
        result = verify(open_archive)
    assert result.damaged == []
    assert result.files > 10
    inner = (tmp_path / "kinds.xtar").read_bytes()
    at = inner.index(b"PK\x03\x04") + 4
    assert list(check(flipped(inner, at)))


def test_the_empty_tree_and_one_of_empty_directories(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    assert build_verified(tmp_path / "tree").damaged == []
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    result = build_verified(tmp_path / "tree")
    assert (result.files, result.content, result.damaged) == (0, 0, [])


@pytest.mark.parametrize("chunk_size", [4096, 32 << 10, 16 << 20])
def test_every_chunk_size(tmp_path: Path, chunk_size: int) -> None:
    (tmp_path / "tree").mkdir()
    trees.write(tmp_path / "tree" / "text", trees.words(9_000_000))
    trees.write(tmp_path / "tree" / "noise", trees.noise(9_000_000))
    assert build_verified(tmp_path / "tree", jobs=2, chunk_size=chunk_size).damaged == []


def test_a_structure_of_many_blocks(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(1500):
        trees.write(tmp_path / "tree" / f"{number:05}", b"x")
    assert build_verified(tmp_path / "tree").damaged == []


# -- each part of an archive, hit by itself --------------------------------------------------------------------


def lost_ranges(found: dict[bytes, Damage]) -> dict[bytes, tuple[tuple[int, int], ...]]:
    return {path: damage.ranges for path, damage in found.items() if damage.ranges}


def test_content_is_reported_with_its_range(sample: Sample) -> None:
    for span, path, content in sample.chunks:
        if not sample.content[path]:
            continue
        found = check(flipped(sample.data, span[0] + (span[1] - span[0]) // 3, 0x55))
        expected = {path: (content,)}
        if path in (b"linked", b"d/e/three"):
            expected = {b"linked": (content,), b"d/e/three": (content,)}
        assert lost_ranges(found) == expected, path
        assert set(found) == set(expected)


def test_a_bit_that_changes_no_content_is_reported_all_the_same(sample: Sample) -> None:
    """The last byte of a deflate stream has bits that no decoder looks at."""
    unseen = 0
    for span, path, content in sample.chunks:
        if content[1] != len(sample.content[path]) or not sample.content[path]:
            continue
        for bit in range(8):
            damaged = flipped(sample.data, span[1] - 1, 1 << bit)
            if not opened(damaged).damaged_ranges(opened(damaged).lookup(path)):
                unseen += 1
                found = check(damaged)
                assert list(found) in ([path], [b"d/e/three"])
                assert not lost_ranges(found)
    assert unseen


def members(data: bytes) -> dict[bytes, tar.Member]:
    """The outermost archive's own members by role."""
    found = tar.members(lambda at, size: data[at : at + size], 0, len(data))
    return {member.header.mark.role: member for member in found if member.header.mark}


@pytest.mark.parametrize(
    ("role", "said"),
    [
        (tar.ROLE_INTRO, "the text on restoring"),
        (tar.ROLE_STRUCTURE, "its structure file"),
        (tar.ROLE_CATALOGUE, "the copy of its structure in the catalogue"),
        (tar.ROLE_ORIGIN, "the record of its origin"),
        (tar.ROLE_LOCATOR, "its locator"),
    ],
)
def test_the_archives_own_members(sample: Sample, role: bytes, said: str) -> None:
    member = members(sample.data)[role]
    for at in range(member.data, member.data + member.header.size, 5):
        found = check(flipped(sample.data, at, 0x80))
        assert any(damage.reason.startswith(said) for damage in found.values()), at
        assert not lost_ranges(found)
    for at in (*range(member.at, member.at + tar.BLOCK, 7), *range(member.data + member.header.size, member.end, 7)):
        assert check(flipped(sample.data, at)), at


def test_headers_and_padding_around_files(sample: Sample) -> None:
    for path, node in sample.nodes.items():
        record = node.record
        if not record.at:
            continue
        places = [node.base + record.at + 5, node.base + record.at + 508]  # the name, and the mark
        if record.type == FILE:
            places += [node.base + record.data - 2, node.base + record.data + record.packed + 44]
        for at in places:
            found = check(flipped(sample.data, at))
            assert path in found, (path, at)
            assert not lost_ranges(found), (path, at)


def test_the_end_of_an_archive(sample: Sample) -> None:
    for at in (len(sample.data) - 1, len(sample.data) - 1024):
        assert list(check(flipped(sample.data, at))) == [b""]
    nested = sample.nodes[b"d/e"]
    at = nested.base + nested.record.data + nested.record.packed - 700
    assert list(check(flipped(sample.data, at))) == [b"d/e"]
    assert check(sample.data + b"more")
    assert check(sample.data + bytes(512))
    assert check(sample.data[:-1])


def test_both_copies_of_a_structure_lost(sample: Sample) -> None:
    data = sample.data
    for copy in sample.structures[sorted(p for p, n in sample.nodes.items() if n.record.type == DIRECTORY).index(b"d")]:
        data = flipped(data, copy[0] + 30)
    found = check(data)
    assert "both copies of its structure are damaged" in found[b"d"].reason
    assert not lost_ranges(found)
    at = next(span[0] for span, path, content in sample.chunks if path == b"d/large" and content[0] == 8 * CHUNK)
    assert lost_ranges(check(flipped(data, at + 9)))[b"d/large"] == ((8 * CHUNK, 9 * CHUNK),)


def test_damage_in_several_places_is_found_by_several_processes(archive: Path, tmp_path: Path) -> None:
    data = bytearray(archive.read_bytes())
    wanted = {b"sizes/noise-3145733", b"sizes/text-3145733", b"sizes/text-32768", b"names/UPPER", b"kinds/setuid"}
    with Archive.open(str(archive)) as open_archive:
        for path in wanted:
            node = open_archive.lookup(path)
            data[node.base + node.record.data + node.record.packed // 2] ^= 0xFF
    (tmp_path / "damaged.xtar").write_bytes(data)
    results = []
    for jobs in (1, 2, 3):
        with Archive.open(str(tmp_path / "damaged.xtar")) as open_archive:
            results.append(verify(open_archive, jobs=jobs))
    assert {damage.path for damage in results[0].damaged} == wanted
    assert results[0] == results[1] == results[2]
    assert not any(damage.repairable for damage in results[0].damaged)


def test_a_large_file_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    trees.write(tmp_path / "tree" / "noise", trees.noise(12_000_000))
    trees.write(tmp_path / "tree" / "text", trees.words(3_000_000) * 10)
    build(str(tmp_path / "tree"), str(tmp_path / "x.xtar"), Options())
    data = (tmp_path / "x.xtar").read_bytes()
    assert not check(data)
    for path in (b"noise", b"text"):
        node = opened(data).lookup(path)
        record, at = node.record, node.base + node.record.data
        assert record.packed > 4 << 20
        for place in (at, at + record.packed // 2, at + record.packed - 1):
            found = check(flipped(data, place, 0xFF))
            ((start, end),) = found[path].ranges
            assert end - start <= record.chunk
        for place in (at - 3, at + record.packed + 3, node.base + record.index + 3):
            assert not lost_ranges(check(flipped(data, place)))
        found = check(flipped(data, node.base + record.index + 32))  # a row, of which there is a copy
        assert path in found
        assert not lost_ranges(found)


# -- archives that are not ours --------------------------------------------------------------------------------


def test_an_archive_made_by_hand(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    trees.write(tmp_path / "in" / "a", trees.words(5000))
    trees.write(tmp_path / "in" / "b", trees.words(70_000))
    for name in ("a", "b"):
        subprocess.run(["zip", "-q", f"{name}.zip", name], cwd=tmp_path / "in", check=True)
    subprocess.run(["tar", "cf", "../x.xtar", "a.zip", "b.zip"], cwd=tmp_path / "in", check=True)
    data = (tmp_path / "x.xtar").read_bytes()
    result = verify(opened(data))
    assert (result.damaged, result.files, result.content, result.identifier) == ([], 2, 75_000, "")
    found = check(flipped(data, data.rindex(b"PK\x03\x04") + 5000, 0x10))
    assert lost_ranges(found) == {b"b": ((0, 70_000),)}


# -- the machinery ---------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    trees.sparse(tmp_path / "tree" / "huge", 1 << 30, {0: trees.noise(20 << 20)})
    build(str(tmp_path / "tree"), str(tmp_path / "x.xtar"), Options())
    script = (
        "import re, sys; from xtarfs.reading.reader import Archive; from xtarfs.checking.verify import verify\n"
        "result = verify(Archive.open(sys.argv[1]), jobs=1); assert not result.damaged\n"
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", script, str(tmp_path / "x.xtar")]
    peak = subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout
    assert int(peak) < 60 << 10  # KiB


def test_a_helper_gives_its_result_its_error_or_its_death() -> None:
    def fail() -> None:
        raise SourceError("the medium failed")

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    helper = Helper(lambda: b"x" * 1_000_000)
    assert helper.result() == b"x" * 1_000_000
    helper.end()
    for work, said in ((fail, "the medium failed"), (die, "died")):
        helper_that_fails = Helper(work)
        with pytest.raises(XtarError, match=said):
            helper_that_fails.result()
        helper_that_fails.end()


def test_the_packed_data_has_a_checksum_of_its_own(sample: Sample) -> None:
    for node in sample.nodes.values():
        record = node.record
        if record.method == "deflate" and record.type == FILE and not record.link:
            at = node.base + record.data
            assert f"{codec.crc32(sample.data[at : at + record.packed]):08x}" == record.packed_crc32

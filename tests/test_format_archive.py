"""A whole archive in other tools' eyes: tar, zip and SOZip rules, structure files, and equal bytes for equal trees."""

from __future__ import annotations

import itertools
import json
import os
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.building.build import Options, build
from builder.writing.compress import Settings

from . import trees

BLOCK = 512
CHUNK_END = bytes.fromhex("0000ffff 00 0000ffff")


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive and all archives in it, extracted by GNU tar, each into a folder of its own."""
    folder = tmp_path_factory.mktemp("unpacked")
    waiting = [os.fsencode(archive)]
    for number, path in enumerate(waiting):
        below = folder / str(number)
        below.mkdir()
        done = subprocess.run(
            ["tar", "xpf", path, "--warning=no-timestamp", "-C", below], capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        waiting += _files(below, b".xtar")
    return folder


def _files(folder: Path, suffix: bytes) -> Iterator[bytes]:
    for at, _, names in os.walk(os.fsencode(folder)):
        for name in names:
            path = os.path.join(at, name)
            if name.endswith(suffix) and os.path.isfile(path) and not os.path.islink(path):
                yield path


@pytest.fixture(scope="module")
def zips(unpacked: Path) -> list[bytes]:
    found = list(_files(unpacked, b".zip"))
    assert len(found) > 60
    return found


# -- tars ------------------------------------------------------------------------------------------------------


def every_tar(data: bytes, start: int, end: int) -> Iterator[list[tarfile.TarInfo]]:
    """The members of the tar in [start, end), by Python's tarfile, then of those in it."""
    import io

    with tarfile.open(fileobj=io.BytesIO(data[start:end]), errors="surrogateescape", encoding="utf-8") as found:
        infos = found.getmembers()
    yield infos
    for info in infos:
        if info.isreg() and info.name.endswith(".xtar"):
            at = start + info.offset_data
            yield from every_tar(data, at, at + info.size)


def test_every_tar_in_it(archive: Path) -> None:
    data, seen = archive.read_bytes(), 0
    for infos in every_tar(data, 0, len(data)):
        seen += 1
        names = [info.name for info in infos]
        assert len(set(names)) == len(names)
        assert "." in names[:2]
        for name in names:
            assert all(len(os.fsencode(part)) <= 255 for part in name.split("/"))
        assert all(info.offset % BLOCK == 0 for info in infos)
    assert seen > 200


def test_each_tar_ends_in_exactly_two_zero_blocks(unpacked: Path) -> None:
    for path in _files(unpacked, b".xtar"):
        with open(path, "rb") as file:
            data = file.read()
        assert data[-2 * BLOCK :] == bytes(2 * BLOCK)
        with tarfile.open(path, errors="surrogateescape", encoding="utf-8") as found:
            last = found.getmembers()[-1]
        assert last.offset_data + -(-last.size // BLOCK) * BLOCK == len(data) - 2 * BLOCK


@pytest.mark.parametrize("command", [["tar", "tvf"], ["bsdtar", "tvf"], ["7z", "l", "-ttar", "-ba"]])
def test_other_tools_list_it_without_complaint(archive: Path, command: list[str]) -> None:
    done = subprocess.run([*command, archive], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    for name in (b"names.xtar", b"top.zip", b"structure.jsonl.gz", b"locator.json.gz"):
        assert name in done.stdout


# -- zips ------------------------------------------------------------------------------------------------------


def test_every_zip_by_zipfile(zips: list[bytes], menagerie: Path) -> None:
    for path in zips:
        with zipfile.ZipFile(os.fsdecode(path)) as found:
            (info,) = found.infolist()
            source = os.fsencode(menagerie) + b"/" + _raw_name(info)
            with found.open(info) as content, open(source, "rb") as original:
                assert content.read() == original.read()
            assert info.external_attr >> 16 == os.stat(source).st_mode


def _raw_name(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")


@pytest.mark.parametrize(
    "command", [["unzip", "-tqq"], ["zip", "-T", "-q"], ["7z", "t", "-bso0", "-bsp0"], ["bsdtar", "tf"]]
)
def test_every_zip_by_other_tools(zips: list[bytes], command: list[str], tmp_path: Path) -> None:
    for number, path in enumerate(zips):
        copy = tmp_path / f"{number}.zip"  # their own trouble with odd names of the zip itself is not ours
        os.link(path, copy)
        done = subprocess.run([*command, copy], capture_output=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, (command, path, done)
        assert done.stderr == b""
        copy.unlink()


def test_zips_carry_sizes_and_checksum_in_front(zips: list[bytes]) -> None:
    for path in zips:
        with open(path, "rb") as file:
            signature, _, flags, _, _, crc, packed, size = struct.unpack("<4sHHHIIII", file.read(26))
        with zipfile.ZipFile(os.fsdecode(path)) as found:
            (info,) = found.infolist()
        assert (signature, flags & 8) == (b"PK\x03\x04", 0)
        assert (crc, packed, size) == (info.CRC, info.compress_size, info.file_size)


# -- SOZip: the rules of the public profile, read from the zip alone -------------------------------------------


def check_sozip(path: bytes) -> int:
    """Validates a zip of one member against SOZip 0.5; gives the number of chunks, 0 if it is not one."""
    with open(path, "rb") as file:
        data = file.read()
    with zipfile.ZipFile(os.fsdecode(path)) as found:
        (info,) = found.infolist()  # the index must not be listed
    name_length, extra_length = struct.unpack_from("<HH", data, 26)
    name, start = data[30 : 30 + name_length], 30 + name_length + extra_length
    at = start + info.compress_size
    if data[at : at + 4] != b"PK\x03\x04":
        return 0
    method, _, crc, packed, size, length, extra = struct.unpack_from("<HIIIIHH", data, at + 8)
    index_name = data[at + 30 : at + 30 + length]
    payload = data[at + 30 + length + extra : at + 30 + length + extra + size]
    assert (method, packed, crc) == (0, size, zlib.crc32(payload))
    folder, slash, base = name.rpartition(b"/")
    if info.compress_type == zipfile.ZIP_STORED:
        assert index_name == folder + slash + b"." + base + b".xtar.crc"
        return 0
    assert index_name == folder + slash + b"." + base + b".sozip.idx"
    version, skip, chunk, offset_size, full, compressed = struct.unpack_from("<IIIIQQ", payload)
    assert (version, offset_size, full, compressed) == (1, 8, info.file_size, info.compress_size)
    assert chunk % 4096 == 0
    assert full > chunk
    count = (full - 1) // chunk
    assert len(payload) == 32 + skip + 8 * count
    offsets = [0, *struct.unpack_from(f"<{count}Q", payload, 32 + skip), compressed]
    assert offsets[1] >= 9
    stream = data[start:at]
    for number, (begin, end) in enumerate(itertools.pairwise(offsets)):
        assert begin < end
        wanted = min(chunk, full - number * chunk)
        content = zlib.decompressobj(-15).decompress(stream[begin:end])
        assert len(content) == wanted
        assert zlib.crc32(content) == struct.unpack_from("<I", payload, 32 + 4 * number)[0]
        assert end == compressed or stream[end - 9 : end] == CHUNK_END
    assert zlib.crc32(zlib.decompress(stream, -15)) == info.CRC
    return int(count) + 1


def test_large_members_keep_the_rules_of_sozip(zips: list[bytes]) -> None:
    chunked = [check_sozip(path) for path in zips]
    assert sum(map(bool, chunked)) >= 5
    assert max(chunked) > 90


# -- structure files -------------------------------------------------------------------------------------------


def test_structure_files_are_json_lines_sorted_by_name(unpacked: Path) -> None:
    from base64 import b64decode

    texts = []
    for path in _files(unpacked, b".jsonl.gz"):
        if not os.path.basename(path).startswith(b"structure"):
            continue
        text = subprocess.run(["zcat", path], capture_output=True, check=True).stdout
        header, *rows = [json.loads(line) for line in text.splitlines()]
        names = [b64decode(row["name_b64"]) if "name_b64" in row else row["name"].encode() for row in rows]
        assert names == sorted(names)
        assert header["children"] == len(rows)
        texts.append(text)
    assert len(texts) > 100
    subprocess.run(["jq", "-e", "."], input=b"".join(texts), check=True, stdout=subprocess.DEVNULL)


def test_the_catalogue_holds_every_structure(unpacked: Path) -> None:
    (catalogue,) = _files(unpacked, b"catalogue.jsonl.gz")
    with open(catalogue, "rb") as file:
        whole = file.read()
    for path in _files(unpacked, b".jsonl.gz"):
        if os.path.basename(path).startswith(b"structure"):
            with open(path, "rb") as file:
                assert file.read() in whole


# -- equal trees give equal bytes ------------------------------------------------------------------------------


def test_equal_bytes_whatever_the_machine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    source = tmp_path / "tree"
    source.mkdir()
    trees.sizes(source)
    (source / "sub").mkdir()
    trees.kinds(source / "sub")
    trees.set_times(source)
    outputs, identifiers = [], []
    ways = [(1, "UTC", "5"), (2, "Asia/Kathmandu", "5"), (5, "America/Lima", "")]
    for number, (jobs, zone, epoch) in enumerate(ways):
        here = tmp_path / f"cwd-{number}"
        here.mkdir()
        monkeypatch.chdir(here)
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch) if epoch else monkeypatch.delenv("SOURCE_DATE_EPOCH")
        time.tzset()
        result = build(str(source), "x.xtar", Options(jobs=jobs))
        outputs.append(Path("x.xtar").read_bytes())
        identifiers.append(result.identifier)
    monkeypatch.undo()
    time.tzset()
    assert outputs[0] == outputs[1]
    assert identifiers[0] == identifiers[1] == identifiers[2]
    assert outputs[2] != outputs[0]  # made at another time


def test_what_matters_changes_the_identifier(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    trees.write(source / "a", trees.words(5000), mtime_ns=1)

    def identifier(**settings: int) -> str:
        options = Options(settings=Settings(**settings), force=True)
        os.utime(source, ns=(2, 2))
        return build(str(source), str(tmp_path / "x.xtar"), options).identifier

    first = identifier()
    assert identifier() == first
    assert identifier(chunk_size=4096) != first
    os.chmod(source / "a", 0o600)
    second = identifier()
    assert second != first
    trees.write(source / "a", trees.words(5000, 2), 0o600, mtime_ns=1)
    assert identifier() != second


def test_an_archive_can_be_made_of_a_read_only_tree_elsewhere(tmp_path: Path) -> None:
    """The path of the source is in the origin member alone: a moved tree keeps its identifier."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        trees.write(tmp_path / name / "a", b"content", mtime_ns=5)
        os.utime(tmp_path / name, ns=(6, 6))
    first, second = (build(str(tmp_path / name), str(tmp_path / f"{name}.xtar"), Options()) for name in ("one", "two"))
    assert first.identifier == second.identifier

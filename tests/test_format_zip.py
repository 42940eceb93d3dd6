"""One-member zips: golden bytes, round trips, zip64 at its thresholds, hostile fields, and other tools' opinion."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xtarfs.errors import FormatError
from xtarfs.format import codec, zip
from xtarfs.format.zip import Entry

TAG = b"\xa1\xa2\xa3\xa4\xa5\xa6"
MTIME = 1_700_000_001_250_000_000


def reader(data: bytes, at: int = 0) -> Callable[[int, int], bytes]:
    """read_at over bytes that begin at offset `at` of a larger file."""
    return lambda offset, size: data[offset - at : offset - at + size] if offset >= at and size > 0 else b""


def pack(entry: Entry, packed: bytes) -> bytes:
    local, central = zip.headers(entry)
    return local + packed + central + zip.end_record(len(central), len(local) + len(packed))


def entry_of(data: bytes, name: bytes = b"d/name", **fields: object) -> tuple[Entry, bytes]:
    packed = codec.pack(data, 6)
    facts = {"mode": 0o100644, "uid": 0, "gid": 0, "mtime": MTIME, "tag": TAG} | fields
    return Entry(name, zip.DEFLATED, codec.crc32(data), len(packed), len(data), **facts), packed  # type: ignore[arg-type]


def test_golden_zip() -> None:
    entry = Entry(b"a", zip.STORED, 0x3610A686, 5, 5, 0o100640, 1000, 100, MTIME, TAG)
    shared = bytes.fromhex(
        "0a00 0000 0000"  # version needed, flags, stored
        "aab1 6e57"  # 22:13:20 and 2023-11-14, UTC
        "86a61036 05000000 05000000"  # CRC-32, packed, size
        "0100 2900"  # lengths of name and extra
    )
    extra = bytes.fromhex(
        "5554 0500 01 01f15365"  # UT: modified, seconds
        "7578 0b00 01 04 e8030000 04 64000000"  # ux: owner and group
        "5854 0d00 01 a1a2a3a4a5a6 80b2e60e a001"  # ours: version, tag, nanoseconds, permissions
    )
    local = b"PK\x03\x04" + shared + b"a" + extra
    packed = pack(entry, b"hello")
    assert packed.startswith(local + b"hello")
    at = len(local) + 5
    assert packed[at : at + 6 + len(shared)] == b"PK\x01\x02\x1e\x03" + shared
    assert packed[at + 32 : at + 46] == bytes(6) + struct.pack("<II", 0o100640 << 16, 0)
    assert packed[at + 46 : at + 47 + len(extra)] == b"a" + extra
    end = at + 47 + len(extra)
    assert packed[end:] == b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, end - at, at, 0)


parts = st.binary(min_size=1, max_size=60).filter(lambda raw: b"\0" not in raw and b"/" not in raw)


@given(
    name=st.lists(parts, min_size=1).map(b"/".join),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 1),
    gid=st.integers(0, 2**32 - 1),
    mtime=st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1),
    tag=st.one_of(st.none(), st.binary(min_size=6, max_size=6)),
    sizes=st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
)
@example(b"x", 0, 0, 0, -1, TAG, (2**32 - 2, 2**32 - 2))
@example(b"x", 0, 0, 0, 0, TAG, (2**32 - 1, 0))
@example(b"x", 0, 0, 0, 0, TAG, (0, 2**32 - 1))
@example(b"x", 0, 0, 0, 0, TAG, (2**32, 2**32))
@settings(deadline=None)
def test_headers_round_trip(
    name: bytes, mode: int, uid: int, gid: int, mtime: int, tag: bytes | None, sizes: tuple[int, int]
) -> None:
    entry = Entry(name, zip.DEFLATED, 0x12345678, *sizes, 0o100000 | mode, uid, gid, mtime, tag)
    local, central = zip.headers(entry)
    read, data_at = zip.read_local(reader(local, 7), 7)
    assert data_at == 7 + len(local)
    if tag is None:  # nanoseconds and permissions stand in our own field only
        mtime -= mtime % 10**9
    expected = Entry(name, zip.DEFLATED, 0x12345678, *sizes, 0, uid, gid, mtime, tag, 7)
    read.mode = 0
    assert read == expected
    end = zip.end_record(len(central), sizes[0])
    start = 2**40
    whole = reader(central + end, start + sizes[0])
    (listed,) = zip.read_central(whole, start, start + sizes[0] + len(central) + len(end))
    expected.mode, expected.offset = 0o100000 | mode, start
    assert listed == expected


@pytest.mark.parametrize("name", [b"plain", b"a/b/c", "ü/ö".encode(), b"latin\xe9", b"new\nline", b"x" * 4000])
def test_other_tools_take_it(tmp_path: Path, name: bytes) -> None:
    content = b"some content, some content\n" * 50
    path = tmp_path / "x.zip"
    path.write_bytes(pack(*entry_of(content, name)))
    with zipfile.ZipFile(path) as archive:
        (info,) = archive.infolist()
        assert archive.read(info) == content
        assert info.orig_filename == (name.decode() if info.flag_bits & 0x800 else name.decode("cp437"))
        assert info.external_attr >> 16 == 0o100644
        assert info.date_time[:5] == time.gmtime(MTIME // 10**9)[:5]
    for command in (["unzip", "-tqq"], ["zip", "-T"], ["7z", "t", "-bso0"], ["bsdtar", "tf"]):
        if command[0] == "zip" and len(name) > 1000:
            continue  # its buffers end before
        done = subprocess.run([*command, path], capture_output=True, check=False)
        assert done.returncode == 0, (command, done)
    assert subprocess.run(["unzip", "-p", path], capture_output=True, check=True).stdout == content


def test_unzip_restores_mode_owner_and_time(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(pack(*entry_of(b"x" * 100, b"name", mode=0o100751, uid=12, gid=34)))
    subprocess.run(["unzip", "-qXK", "x.zip"], cwd=tmp_path, check=True)
    found = (tmp_path / "name").stat()
    assert (found.st_mode, found.st_uid, found.st_gid, found.st_mtime) == (0o100751, 12, 34, MTIME // 10**9)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-1, (1980, 1, 1, 0, 0, 0)),
        (315532800, (1980, 1, 1, 0, 0, 0)),
        (1_700_000_001, (2023, 11, 14, 22, 13, 20)),
        (4354819198, (2107, 12, 31, 23, 59, 58)),
        (10**11, (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_dos_times(seconds: int, expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    zip._dos_time.cache_clear()
    value = zip.dos_time(seconds * 10**9 + 999)
    date, clock = value >> 16, value & 0xFFFF
    fields = (1980 + (date >> 9), date >> 5 & 15, date & 31, clock >> 11, clock >> 5 & 63, (clock & 31) * 2)
    assert fields == expected
    monkeypatch.undo()
    time.tzset()


@given(st.integers(0, 2**32 - 1))
def test_any_dos_time_is_read(value: int) -> None:
    data = struct.pack("<4sHHHIIIIHH", b"PK\x03\x04", 10, 0, 0, value, 0, 0, 0, 1, 0) + b"x"
    entry, _ = zip.read_local(reader(data), 0)
    assert 315532800 - 86400 <= entry.mtime // 10**9 <= 4354819198 + 86400 * 31


def test_a_chunk_table_is_named_after_its_file() -> None:
    assert zip.table_name(b"a/b/c", zip.DEFLATED) == b"a/b/.c.sozip.idx"
    assert zip.table_name(b"c", zip.DEFLATED) == b".c.sozip.idx"
    assert zip.table_name(b"a/c", zip.STORED) == b"a/.c.xtar.crc"


def test_the_longest_name_fits_with_its_table() -> None:
    name = b"n" * zip.MAX_NAME
    local, _ = zip.headers(Entry(name, zip.DEFLATED, tag=TAG))
    assert zip.read_local(reader(local), 0)[0].name == name
    hidden = zip.hidden_header(zip.table_name(name, zip.DEFLATED), 1, 2)
    assert zip.read_local(reader(hidden), 0)[0].size == 2


@given(st.data())
@settings(deadline=1000, max_examples=300)
def test_any_change_gives_entries_or_a_format_error(data: st.DataObject) -> None:
    packed = bytearray(pack(*entry_of(b"content " * 20)))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        zip.read_local(reader(bytes(packed)), 0)
    with contextlib.suppress(FormatError):
        list(zip.read_central(reader(bytes(packed)), 0, len(packed)))

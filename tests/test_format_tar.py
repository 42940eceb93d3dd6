"""Tar blocks: golden bytes, round trips of anything, and what GNU tar, bsdtar and tarfile make of them."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xtarfs.errors import FormatError
from xtarfs.format import tar
from xtarfs.format.tar import Header, Mark

MARK = Mark(b"\x01\x02\x03\x04\x05\x06", 0x0A0B0C0D, tar.ROLE_FILE)


def reader(data: bytes):  # type: ignore[no-untyped-def]
    return lambda at, size: data[at : at + size]


def read_back(header: Header) -> Header:
    data = tar.pack(header)
    assert len(data) % tar.BLOCK == 0
    member = tar.read_member(reader(data), 0)
    assert member and member.data == len(data)
    return member.header


def test_golden_header() -> None:
    block = tar.pack(Header(b"notes.txt.zip", 1234, mode=0o640, uid=1000, gid=100, mtime=1_700_000_000, mark=MARK))
    fields = {
        (0, 14): b"notes.txt.zip\0",
        (100, 24): b"0000640\x000001750\x000000144\x00",
        (124, 24): b"00000002322\x0014524770400\x00",
        (156, 1): b"0",
        (257, 8): b"ustar\x0000",
        (345, 155): bytes(155),
        (500, 12): b"\x01\x02\x03\x04\x05\x06\x0d\x0c\x0b\x0axf",
    }
    for (at, length), expected in fields.items():
        assert block[at : at + length] == expected
    unsummed = block[:148] + b" " * 8 + block[156:]
    assert block[148:156] == b"%06o\0 " % sum(unsummed)


def test_golden_pax() -> None:
    body = tar.pack_pax({"path": b"x" * 90, "SCHILY.xattr.user.a": b"1\n2"})
    assert body == b"27 SCHILY.xattr.user.a=1\n2\n" + b"99 path=" + b"x" * 90 + b"\n"
    assert tar.pack_pax({"path": b"x" * 91}) == b"101 path=" + b"x" * 91 + b"\n"  # 100 would need a third digit


names = st.binary(min_size=1, max_size=300).map(lambda raw: raw.replace(b"\0", b"0"))
numbers = st.one_of(st.integers(0, 2**21), st.integers(0, 2**32 - 1))


@given(
    name=names,
    link=st.one_of(st.just(b""), names),
    size=st.integers(0, 2**63 - 1),
    mode=st.integers(0, 0o7777),
    uid=numbers,
    gid=numbers,
    mtime=st.integers(-(2**62), 2**62),
    user=st.text(max_size=60).map(lambda text: text.replace("\0", "").encode()),
    xattrs=st.dictionaries(st.text("abc.", min_size=1), st.binary(max_size=200), max_size=3),
)
@example(b"x", b"", 8**11 - 1, 0, 0, 0, 8**11 - 1, b"", {})
@example(b"x", b"", 8**11, 0, 8**7 - 1, 8**7, 8**11, b"", {})
@example(b"x" * 100, b"y" * 100, 0, 0, 0, 0, -1, b"u" * 31, {})
@example(b"x" * 101, b"y" * 101, 0, 0, 0, 0, -(2**62), b"u" * 32, {"a": b"a=b\nc\0"})
@example(b"\xff" * 101, b"\xfe" * 101, 0, 0, 0, 0, 0, b"", {"a": b""})
@settings(deadline=None)
def test_round_trip(
    name: bytes,
    link: bytes,
    size: int,
    mode: int,
    uid: int,
    gid: int,
    mtime: int,
    user: bytes,
    xattrs: dict[str, bytes],
) -> None:
    pax = {tar.XATTR_PREFIX + key: value for key, value in xattrs.items()}
    header = Header(name, size, tar.SYMLINK, mode, uid, gid, mtime, link, user, user, 7, 300, MARK, pax)
    assert read_back(header) == header


@given(names.filter(lambda name: not name.endswith(b"/")), st.integers(0, 8**11 - 1), st.integers(0, 2**31))
@settings(deadline=None)
def test_tarfile_reads_the_same(name: bytes, size: int, mtime: int) -> None:
    data = tar.pack(Header(name, size, mode=0o644, mtime=mtime, mark=MARK))
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as archive:
        info = archive.next()
    assert info
    assert info.name.encode("utf-8", "surrogateescape") == name
    assert (info.size, info.mtime) == (size, mtime)


@pytest.mark.parametrize(
    ("program", "expected"),
    [(["tar", "tvf"], "3000000/4000000000"), (["bsdtar", "tvnf"], "3000000 4000000000")],
)
def test_other_tools_list_what_does_not_fit(tmp_path: Path, program: list[str], expected: str) -> None:
    big = Header(b"n" * 200, 0, mode=0o755, uid=3_000_000, gid=4_000_000_000, mtime=-1, mark=MARK)
    link = Header(b"symlink", 0, tar.SYMLINK, link=b"t" * 500, mark=MARK)
    (tmp_path / "x.tar").write_bytes(tar.pack(big) + tar.pack(link) + tar.END)
    done = subprocess.run([*program, "x.tar"], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert expected in " ".join(lines[0].split())
    assert "n" * 200 in lines[0]
    assert lines[1].endswith("symlink -> " + "t" * 500)


def test_a_size_known_later_changes_the_last_block_only() -> None:
    small, large = (tar.pack(Header(b"n" * 150, size, mark=MARK, pax={"a.b": b"c"})) for size in (0, 2**40))
    assert len(small) == len(large)
    assert small[: -tar.BLOCK] == large[: -tar.BLOCK]


@given(st.integers(0, 511), st.integers(1, 255))
@settings(deadline=None)
def test_a_changed_byte_is_refused_or_changes_nothing(at: int, mask: int) -> None:
    header = Header(b"name", 77, mtime=5, mark=MARK)
    block = bytearray(tar.pack(header))
    block[at] ^= mask
    with contextlib.suppress(FormatError):
        assert tar.parse(bytes(block)) == header


def test_marks_of_foreign_headers_are_not_taken() -> None:
    assert tar.parse(tar.pack(Header(b"x"))).mark is None
    info = tarfile.TarInfo("x")
    assert tar.parse(info.tobuf(tarfile.GNU_FORMAT)[:512]).mark is None
    assert Mark.parse(MARK.pack()) == MARK
    assert Mark.parse(MARK.pack()[:-1] + b"?") is None


def test_the_old_prefix_field_is_read(tmp_path: Path) -> None:
    (tmp_path / ("d" * 90)).mkdir()
    (tmp_path / ("d" * 90) / ("f" * 80)).write_bytes(b"x")
    subprocess.run(["tar", "cf", "x.tar", "--format=ustar", "d" * 90], cwd=tmp_path, check=True)
    found = list(tar.members(reader((tmp_path / "x.tar").read_bytes()), 0, 10**6))
    assert found[1].header.name == b"d" * 90 + b"/" + b"f" * 80


@pytest.mark.parametrize("form", ["gnu", "posix", "ustar", "oldgnu"])
def test_members_of_gnu_tars(tmp_path: Path, form: str) -> None:
    (tmp_path / "in").mkdir()
    long = "n" * (90 if form == "ustar" else 200)
    (tmp_path / "in" / long).write_bytes(b"12345")
    (tmp_path / "in" / "link").symlink_to(long)
    subprocess.run(["tar", "cf", "x.tar", f"--format={form}", "--sort=name", "in"], cwd=tmp_path, check=True)
    found = list(tar.members(reader((tmp_path / "x.tar").read_bytes()), 0, 10**6))
    assert [member.header.name for member in found] == [b"in/", b"in/link", b"in/" + long.encode()]
    assert (found[1].header.link, found[2].header.size) == (long.encode(), 5)


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"0 a=b\n", b"-5 a=b\n", b"6 a=b", b"99 a=b\n", b"6 ab\n\n", b"a=b\n", b"5 a=b\n", b"\xff 1"],
)
def test_broken_pax_headers_end(body: bytes) -> None:
    with contextlib.suppress(FormatError):
        assert tar.parse_pax(body) in ({}, {"a": b"b"})


@given(st.binary(max_size=60))
@settings(deadline=1000)
def test_any_pax_body_ends(body: bytes) -> None:
    for raw in (body, b"9 size=-1\n"[:-1] + body, b"-1 " + body):
        with contextlib.suppress(FormatError):
            tar.parse_pax(raw)


def test_a_negative_size_is_refused_wherever_it_stands() -> None:
    body = tar.pack_pax({"size": b"-1024"})
    data = tar.pack(Header(b"p", len(body), tar.PAX)) + body.ljust(512, b"\0") + tar.pack(Header(b"x"))
    with pytest.raises(FormatError):
        list(tar.members(reader(data), 0, len(data)))
    block = bytearray(tar.pack(Header(b"x")))
    block[124:136] = (-512).to_bytes(12, "big", signed=True)
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * 32)
    with pytest.raises(FormatError):
        tar.parse(bytes(block))

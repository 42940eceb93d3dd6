"""Records, structure files, the locator and numbers: golden bytes, round trips, and what must be refused."""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtarfs.errors import DamagedError, FormatError, UsageError
from xtarfs.format import locator, numbers, records, structure, tar
from xtarfs.format.locator import Locator, Place
from xtarfs.format.records import DIRECTORY, FILE, Header, Record, Structure, new_record
from xtarfs.format.tar import Mark

raw_names = st.binary(min_size=1, max_size=255).filter(
    lambda raw: b"/" not in raw and b"\0" not in raw and raw not in (b".", b"..")
)
counts = st.integers(0, 2**63 - 1)


@st.composite
def record_of_a_file(draw: st.DrawFn) -> Record:
    record = new_record(
        draw(raw_names), FILE, draw(st.integers(0, 0o7777)), draw(st.integers(-(10**19), 10**19)), draw(counts)
    )
    record.uid, record.gid = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**32 - 1))
    record.size, record.at, record.data, record.packed = (draw(counts) for _ in range(4))
    record.crc32 = f"{draw(st.integers(0, 2**32 - 1)):08x}"
    record.link, record.link_b64 = records.to_text(draw(st.binary(max_size=100)))
    record.xattrs = records.xattrs_to_text(draw(st.dictionaries(raw_names, st.binary(max_size=50), max_size=3)))
    return record


# -- records ---------------------------------------------------------------------------------------------------


def test_golden_record() -> None:
    record = new_record(b"notes.txt", FILE, 0o100640, 1_700_000_000_500_000_000, 7, 1000, 100)
    record.user, record.size, record.at, record.data, record.packed = "jo", 5, 1024, 1600, 5
    assert records.to_line(record) == (
        b'{"name":"notes.txt","type":"file","mode":"0640","uid":1000,"gid":100,"user":"jo",'
        b'"mtime":"1700000000.5","ino":7,"size":5,"at":1024,"data":1600,"packed":5}\n'
    )


def test_golden_record_of_a_name_that_is_not_utf8() -> None:
    line = records.to_line(new_record(b"caf\xe9", FILE, 0o644, -1, 7))
    assert line.startswith(b'{"name":"caf\\\\xe9","name_b64":"Y2Fm6Q==","type"')
    assert b'"mtime":"-0.000000001"' in line


@given(st.lists(record_of_a_file(), max_size=4))
@settings(deadline=None)
def test_records_round_trip(many: list[Record]) -> None:
    lines = b"".join(map(records.to_line, many))
    assert records.parse_records(lines) == many
    for record, line in zip(many, lines.splitlines(), strict=True):
        read = json.loads(line)
        assert read["name"] == record.name
        assert read.get("size", 0) == record.size
        assert record.st_mode == 0o100000 | int(read["mode"], 8)


@given(raw_names, st.dictionaries(raw_names, st.binary(max_size=50), max_size=4))
@settings(deadline=None)
def test_names_of_any_bytes(name: bytes, xattrs: dict[bytes, bytes]) -> None:
    record = new_record(name, FILE, 0, 0, 1)
    record.xattrs = records.xattrs_to_text(xattrs)
    (read,) = records.parse_records(records.to_line(record))
    assert read.raw_name == name
    assert read.raw_xattrs == xattrs


GOOD = json.loads(records.to_line(new_record(b"x", FILE, 0o644, 0, 1)))


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""}, {"name": "."}, {"name": ".."}, {"name": "a/b"}, {"name": "a\0b"}, {"name": 5},
        {"name_b64": "Li4="}, {"name_b64": "L2V0Yw=="}, {"name_b64": "!"}, {"name_b64": "YQ"},
        {"type": "socket"}, {"type": ""}, {"size": -1}, {"at": -1}, {"data": -1}, {"packed": -1}, {"index": -1},
        {"chunk": -1}, {"size": 2**64}, {"size": "5"}, {"size": 1.5}, {"uid": -1}, {"gid": 2**32}, {"major": -1},
        {"nlink": -1}, {"ino": -1}, {"xattrs": {"user.a": "?"}}, {"xattrs": {"=?": "YQ=="}}, {"link_b64": "?"},
        {"target": "a\0b"}, {"mode": "12345"}, {"crc32": "123456789"}, {"mtime": "9" * 5000},
        {"structure": {"at": -1, "size": 1}}, {"structure": {"at": 1}}, {"structure": 3},
        {"type": "dir"},  # without a place of its own it would hold itself
    ],
)  # fmt: skip
def test_what_no_reader_may_act_on_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        records.parse_records(json.dumps(GOOD | change).encode() + b"\n")


@pytest.mark.parametrize("change", [{"mode": "9"}, {"mode": "-1"}, {"mtime": "x"}, {"crc32": "xyz"}, {"crc32": "-1"}])
def test_digits_are_checked_when_used(change: dict[str, object]) -> None:
    (record,) = records.parse_records(json.dumps(GOOD | change).encode() + b"\n")
    with pytest.raises(FormatError):
        assert max(record.st_mode, record.mtime_ns, record.crc)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_noise_is_a_format_error(noise: bytes) -> None:
    for parse in (records.parse_records, records.parse_header, records.parse_index):
        with contextlib.suppress(FormatError):
            parse(noise)


def test_fields_of_later_versions_are_passed_over() -> None:
    (record,) = records.parse_records(json.dumps(GOOD | {"colour": "red"}).encode() + b"\n")
    assert record.name == "x"


# -- structure files -------------------------------------------------------------------------------------------


def test_golden_block() -> None:
    block = structure.pack_block(b"hello\n", level=0)
    assert block == bytes.fromhex(
        "1f8b 08 04 00000000 00 ff"  # gzip, deflate, an extra field follows, no time, system unknown
        "0800 5854 0400 27000000"  # XT: the length of this block
        "01 0600 f9ff 68656c6c6f0a"  # one stored block
        "20303a36 06000000"  # CRC-32 and size
    )
    assert gzip.decompress(block) == b"hello\n"


@given(st.binary(max_size=3000), st.integers(0, 12))
@settings(deadline=None)
def test_blocks_round_trip(text: bytes, level: int) -> None:
    block = structure.pack_block(text, level)
    assert structure.block_length(block[: structure.HEAD_SIZE]) == len(block)
    assert structure.unpack_block(block) == text
    assert gzip.decompress(block + block) == text + text


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(deadline=None)
def test_a_damaged_block_gives_its_text_or_an_error(place: int, mask: int) -> None:
    text = b'{"name":"x"}\n' * 20
    block = bytearray(structure.pack_block(text))
    block[place % len(block)] ^= mask
    with contextlib.suppress(DamagedError):
        assert structure.unpack_block(bytes(block)) == text


@pytest.mark.parametrize("size", [0, 1, 19, 20, 28])
def test_a_block_cut_short(size: int) -> None:
    with pytest.raises(DamagedError):
        structure.unpack_block(structure.pack_block(b"some text")[:size])


def test_a_block_of_impossible_length_is_refused() -> None:
    head = bytearray(structure.pack_block(b"x")[: structure.HEAD_SIZE])
    head[-4:] = b"\xff\xff\xff\xff"
    with pytest.raises(FormatError):
        structure.block_length(bytes(head))


def header(children: int) -> Header:
    directory = new_record(b"d", DIRECTORY, 0o755, 0, 2)
    return Header(xtar=structure.FORMAT, tag="010203040506", path="a/d", children=children, directory=directory)


@pytest.mark.parametrize("count", [0, 1, 2, 700, 3000])
def test_a_structure_file(tmp_path: Path, count: int) -> None:
    writer = structure.Writer()
    many = [new_record(b"%06d-\xff\n" % number, FILE, 0o644, number, number) for number in range(count)]
    for record in many:
        writer.add(record.raw_name, records.to_line(record))
    data, index_size = writer.finish(header(count))
    (tmp_path / "structure.jsonl.gz").write_bytes(data)
    text = subprocess.run(["zcat", tmp_path / "structure.jsonl.gz"], capture_output=True, check=True).stdout
    lines = [json.loads(line) for line in text.splitlines()]
    assert (lines[0]["path"], lines[0]["children"]) == ("a/d", count)
    assert [line["name_b64"] for line in lines[1 : count + 1]] == [record.name_b64 for record in many]
    subprocess.run(["jq", "-e", "."], input=text, stdout=subprocess.DEVNULL, check=True)
    if not index_size:
        assert structure.parse_single(structure.unpack_block(data)) == (header(count), many)
        return
    assert list(lines[-1]) == ["blocks"]
    index = records.parse_index(structure.unpack_block(data[-index_size:]))
    assert len(index.blocks) > 1
    found = []
    for block in index.blocks:
        text = structure.unpack_block(data[block.at : block.at + block.length])
        assert len(text) < structure.BLOCK_TARGET + 1000
        rows = records.parse_records(text)
        assert (len(rows), rows[0].raw_name) == (block.count, block.raw_first)
        found += rows
    assert found == many


# -- the locator -----------------------------------------------------------------------------------------------


def a_locator(at: int) -> Locator:
    return Locator(
        xtar=structure.FORMAT, writer="test", id="ab" * 32, tag="010203040506", at=at, intro=Place(512, 10, "00000000"),
        root=Structure(1024, 100), catalogue=Place(2048, 100, ""),
        tables=Place(3072, 0, ""), origin=Place(4096, 50, ""),
        files=1, directories=2, others=3, bytes=4,
    )  # fmt: skip


def tail_of(facts: Locator) -> bytes:
    data = locator.pack(facts)
    head = tar.pack(tar.Header(b"locator.json.gz", len(data), mark=Mark(b"\1\2\3\4\5\6", 1, tar.ROLE_LOCATOR)))
    return head + data + bytes(tar.padding(len(data))) + tar.END


def test_the_locator_is_found_at_the_end_only() -> None:
    size = 100 * tar.BLOCK
    tail = tail_of(a_locator(size - len(tail_of(a_locator(10**4)))))
    assert len(tail) <= locator.WINDOW
    before = b"\xee" * (locator.WINDOW - len(tail))
    assert locator.find(before + tail, size) == a_locator(size - len(tail))
    assert locator.find(tail, size) == a_locator(size - len(tail))
    for other in (tail[:-1], tail + bytes(512), tail[512:], b"", tail[:100]):
        assert locator.find(other, size) is None


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(deadline=None)
def test_a_damaged_locator_is_none_or_the_same(place: int, mask: int) -> None:
    size = 100 * tar.BLOCK
    tail = bytearray(tail_of(a_locator(size - len(tail_of(a_locator(10**4))))))
    tail[place % len(tail)] ^= mask
    assert locator.find(bytes(tail), size) in (None, a_locator(size - len(tail)))


def test_each_byte_of_the_locators_block_follows_from_its_text() -> None:
    block = locator.pack(a_locator(5))
    assert locator.pack_text(gzip.decompress(block)) == block
    assert msgspec.json.decode(gzip.decompress(block))["id"] == "ab" * 32


# -- numbers ---------------------------------------------------------------------------------------------------


@given(st.integers(-(10**30), 10**30))
def test_times_round_trip(nanoseconds: int) -> None:
    assert numbers.parse_time(numbers.format_time(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0"), (1, "0.000000001"), (-1, "-0.000000001"), (15 * 10**8, "1.5"), (-15 * 10**8, "-1.5"), (10**9, "1")],
)
def test_golden_times(nanoseconds: int, text: str) -> None:
    assert numbers.format_time(nanoseconds) == text


@pytest.mark.parametrize("text", ["", "-", "1.", ".5", "1e9", "1.0000000001", "0x5", " 1", "1\n", "nan", "--1"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(FormatError):
        numbers.parse_time(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("4096", 4096), ("650M", 650_000_000), ("4.7G", 4_700_000_000), ("64KiB", 65536), ("64kib", 65536),
        ("1MiB", 1 << 20), ("1.5 MiB", 1536 << 10), ("10B", 10), ("2T", 2 * 10**12), ("1TiB", 1 << 40), ("5K", 5000),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert numbers.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-5", "1X", "1.5.5M", "1 2", "five", "1KB2"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        numbers.parse_size(text)

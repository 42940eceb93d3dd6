"""The chunk table: golden bytes, every row of every table, and damage that stays in its row."""

from __future__ import annotations

import struct
from array import array
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtarfs.errors import FormatError, XtarError
from xtarfs.format import blocks, chunks, codec
from xtarfs.format.zip import DEFLATED, STORED


def reader(data: bytes):  # type: ignore[no-untyped-def]
    return lambda at, size: data[at : at + size]


def test_golden_deflated_table() -> None:
    crcs, offsets = array("I", [0x11, 0x22, 0x33]), array("Q", [1000, 2000])
    assert chunks.pack_table(9000, 2500, 4096, DEFLATED, crcs, offsets) == bytes.fromhex(
        "01000000 0c000000 00100000 08000000"  # version, bytes to skip, chunk size, offset size
        "2823000000000000 c409000000000000"  # size, packed
        "11000000 22000000 33000000"  # the skipped bytes: CRC-32 of each chunk
        "e803000000000000 d007000000000000"  # where the second and the third chunk begin
    )


def test_golden_stored_table() -> None:
    crcs = array("I", [0x11, 0x22])
    assert chunks.pack_table(5000, 5000, 4096, STORED, crcs, array("Q")) == bytes.fromhex(
        "01000000 08000000 00100000 08000000 8813000000000000 8813000000000000 11000000 22000000"
    )


@given(
    sizes=st.lists(st.integers(9, 5000), min_size=2, max_size=40),
    last=st.integers(1, 4096),
    method=st.sampled_from([DEFLATED, STORED]),
    at=st.integers(0, 100),
    rows=st.tuples(st.integers(0, 39), st.integers(0, 39)),
)
@settings(deadline=None)
def test_rows_round_trip(sizes: list[int], last: int, method: int, at: int, rows: tuple[int, int]) -> None:
    size = 4096 * (len(sizes) - 1) + last
    ends = list(accumulate(sizes)) if method == DEFLATED else [min(4096 * (i + 1), size) for i in range(len(sizes))]
    crcs = array("I", (number * 0x1234567 & 0xFFFFFFFF for number in range(len(sizes))))
    table = chunks.pack_table(size, ends[-1], 4096, method, crcs, array("Q", ends[:-1]))
    assert len(table) == chunks.table_size(size, 4096, method)
    data = bytes(at) + table
    assert chunks.read_chunk_size(reader(data), at, size, ends[-1]) == 4096
    first, until = sorted(min(row, len(sizes) - 1) for row in rows)
    found = chunks.read_rows(reader(data), at, size, ends[-1], 4096, method, first, until)
    assert found.crcs == tuple(crcs[first : until + 1])
    assert found.bounds == tuple([0, *ends][first : until + 2])
    for wrong in ((size + 1, ends[-1]), (size, ends[-1] + 1)):
        with pytest.raises(FormatError):
            chunks.read_chunk_size(reader(data), at, *wrong)


def test_a_damaged_row_is_given_as_it_stands() -> None:
    """The reader checks each chunk by itself: a wrong offset must not cost the 500 rows around it."""
    crcs, offsets = array("I", range(10)), array("Q", range(100, 1000, 100))
    table = bytearray(chunks.pack_table(40960, 1000, 4096, DEFLATED, crcs, offsets))
    struct.pack_into("<Q", table, 32 + 40 + 8 * 4, 2**63)
    found = chunks.read_rows(reader(bytes(table)), 0, 40960, 1000, 4096, DEFLATED, 0, 9)
    assert found.bounds == (0, 100, 200, 300, 400, 2**63, 600, 700, 800, 900, 1000)


@pytest.mark.parametrize("method", [DEFLATED, STORED])
def test_a_table_cut_short(method: int) -> None:
    table = chunks.pack_table(8192, 4000 if method else 8192, 4096, method, array("I", [1, 2]), array("Q", [99]))
    with pytest.raises(FormatError):
        chunks.read_rows(reader(table[:-1]), 0, 8192, 4000 if method else 8192, 4096, method, 0, 1)
    with pytest.raises(FormatError):
        chunks.read_chunk_size(reader(table[:31]), 0, 8192, 4000)


# -- the engines -----------------------------------------------------------------------------------------------


@given(st.binary(max_size=5000), st.integers(1, 12))
@settings(deadline=None)
def test_packed_data_unpacks(data: bytes, level: int) -> None:
    import zlib

    packed = codec.pack(data, level)
    assert zlib.decompress(packed, -15) == data
    assert codec.unpack(packed, len(data)) == data


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=5), st.integers(1, 12))
@settings(deadline=None)
def test_chunks_unpack_alone_and_together(parts: list[bytes], level: int) -> None:
    import zlib

    packed = [codec.pack_chunk(part, level, number == len(parts) - 1) for number, part in enumerate(parts)]
    for part, raw in zip(parts, packed, strict=True):
        assert codec.unpack(raw, len(part)) == part
        assert zlib.decompressobj(-15).decompress(raw) == part
    assert all(raw.endswith(codec.CHUNK_END) for raw in packed[:-1])
    assert zlib.decompress(b"".join(packed), -15) == b"".join(parts)
    assert codec.unpack(b"".join(packed), sum(map(len, parts))) == b"".join(parts)


def test_without_zlib_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_LIBRARY", "libnowhere.so")
    blocks._zlib.cache_clear()
    with pytest.raises(XtarError, match=r"libnowhere.so: .* install zlib"):
        codec.pack_chunk(b"a chunk", 6, last=False)


def test_sizes_that_are_only_claimed_cost_nothing() -> None:
    packed = codec.pack(bytes(100_000), 6)
    assert codec.unpack(packed, 100_000) == bytes(100_000)
    for size in (99_999, 100_001, 10**9, 2**62):
        with pytest.raises(FormatError):
            codec.unpack(packed, size)
    with pytest.raises(FormatError):
        codec.unpack(b"", 1)


def test_the_packed_bytes_are_pinned() -> None:
    """Another version of an engine that packs otherwise would change every archive's bytes: that must be noticed."""
    sample = b"".join(b"line %d of a sample that packs as text does\n" % (n * n % 977) for n in range(2000))
    chunk = codec.pack_chunk(sample[:32768], 5, False)
    assert (codec.sha256(codec.pack(sample, 6)).hex()[:16], codec.sha256(chunk).hex()[:16]) == PINNED


PINNED = ("ecdfd4dbb1da2d7c", "c2abd2aed12247b7")

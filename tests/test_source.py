"""Bytes by position."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from xtarfs.source import Ahead, FileSource, Source

_SIZE = 1172 * 512


class Counted(Source):
    """Bytes that can be told apart by their places, and how often they were asked for."""

    size = _SIZE

    def __init__(self) -> None:
        self.content = b"".join(number.to_bytes(4, "big") for number in range(_SIZE // 4))
        self.reads = 0

    def read_at(self, offset: int, size: int) -> bytes:
        self.reads += 1
        return self.content[offset : offset + size] if offset >= 0 else b""


@given(st.lists(st.tuples(st.integers(-10, _SIZE + 10), st.integers(0, 300_000)), max_size=20))
def test_ahead_gives_what_the_source_gives(reads: list[tuple[int, int]]) -> None:
    source = Counted()
    ahead = Ahead(source)
    for at, size in reads:
        assert ahead.read_at(at, size) == (source.content[at : at + size] if at >= 0 else b"")


def test_ahead_asks_the_source_seldom() -> None:
    source = Counted()
    ahead = Ahead(source)
    for at in range(0, _SIZE, 512):
        ahead.read_at(at, 512)
    assert source.reads == 5


def test_a_file_source_gives_fewer_bytes_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    source = FileSource(path)
    try:
        assert source.read_at(3, 4) == b"3456"
        assert source.read_at(8, 1 << 40) == b"89"
        assert source.read_at(10, 1) == source.read_at(-1, 1) == b""
    finally:
        source.close()

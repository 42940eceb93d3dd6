"""Where files came to lie in the volumes: kept in a temporary file, in the archive's order, and read in the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

import msgspec


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A file, or a part of one, in a volume. at, data, index: from the volume's first byte, as in a Part."""

    volume: int
    size: int
    at: int
    data: int
    packed: int
    index: int
    table_copy: int
    crc32: str
    packed_crc32: str


class Placements:
    """The pieces of all files. Files that were cut are few, and are kept by inode number."""

    def __init__(self, work_dir: str) -> None:
        self._spool: IO[bytes] = tempfile.TemporaryFile(dir=work_dir)  # noqa: SIM115
        self.cut: dict[int, list[Piece]] = {}

    def add(self, piece: Piece) -> None:
        self._spool.write(msgspec.json.encode(piece) + b"\n")

    def wholes(self) -> Iterator[Piece]:
        """Those of the files that were not cut."""
        decoder = msgspec.json.Decoder(Piece)
        self._spool.seek(0)
        return map(decoder.decode, self._spool)

    def close(self) -> None:
        self._spool.close()

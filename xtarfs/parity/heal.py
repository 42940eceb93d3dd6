"""Rebuilds blocks of an archive from their groups, and a source that heals as it is read.

Damage is located by the checksum of each block, and what is rebuilt must match it too. CRC-32 suffices for both: it
lets one damaged block in four thousand million pass, and what is read is checked by the archive's own checksums again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from lru import LRU

from ..errors import SourceError
from ..format import codec
from ..format.parity import BLOCK, checksums
from ..source import Readable, Source
from .align import Aligned, align
from .parity_file import Parity, read_padded
from .shards import decoder

_KEPT = 2048  # healed blocks: 8 MiB
_RUN = 8  # groups rebuilt at once while reading: up to 8 MiB in memory

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


class Rebuilt(NamedTuple):
    """fixed: what blocks must hold; left: blocks that could not be rebuilt."""

    fixed: dict[int, bytes]
    left: list[int]


class _Case(NamedTuple):
    """Neighbouring groups that lost the same members and can use the same parity: one call decodes them."""

    first: int
    width: int
    lost: tuple[int, ...]
    spare: tuple[int, ...]


def rebuild(source: Readable, parity: Parity, group: int, count: int, run: Map = map) -> Rebuilt:
    """All damaged blocks of `count` groups from `group` on. `run` may be the map of a pool of threads.

    Takes (data + parity) * count blocks of memory.
    """
    return _Rebuild(source, parity, group, count).all(run)


class _Rebuild:
    """The blocks of a run of groups: member m of group `group + i` lies at tiles[m][i * BLOCK :]."""

    def __init__(self, source: Readable, parity: Parity, group: int, count: int) -> None:
        self._layout = layout = parity.layout
        self._parity = parity
        self._group, self._count = group, count
        self._decoder = decoder(layout.data, layout.parity)
        self._tiles: list[bytes] = []
        self._checks: list[list[int | None]] = []
        self._lost: list[list[int]] = [[] for _ in range(count)]
        for member in range(layout.data):
            first = member * layout.groups + group
            tile = read_padded(source, first * BLOCK, count * BLOCK)
            checks = parity.checks(first, count)
            found: list[int | None] = [*checksums(tile)]
            if found != checks:
                for i in range(count):
                    if found[i] != checks[i]:
                        self._lost[i].append(member)
            self._tiles.append(tile)
            self._checks.append(checks)
        self._shards: list[list[bytes | None]] = []

    def all(self, run: Map) -> Rebuilt:
        fixed: dict[int, bytes] = {}
        left: list[int] = []
        for case, blocks in zip(cases := list(self._cases()), run(self._decode, cases), strict=True):
            for i in range(case.width):
                column = case.first + i
                places = [member * self._layout.groups + self._group + column for member in case.lost]
                rebuilt = [block[i * BLOCK : (i + 1) * BLOCK] for block in blocks]
                checks = [self._checks[member][column] for member in case.lost]
                if rebuilt and all(
                    check in (None, codec.crc32(block)) for check, block in zip(checks, rebuilt, strict=True)
                ):
                    fixed.update(zip(places, rebuilt, strict=True))
                else:
                    left += places
        return Rebuilt(fixed, sorted(left))

    def _cases(self) -> Iterator[_Case]:
        pending: _Case | None = None
        for column, members in enumerate(self._lost):
            if not members:
                continue
            lost, spare = tuple(members), self._spare(column, len(members))
            if pending and (pending.first + pending.width, pending.lost, pending.spare) == (column, lost, spare):
                pending = pending._replace(width=pending.width + 1)
                continue
            if pending:
                yield pending
            pending = _Case(column, 1, lost, spare)
        if pending:
            yield pending

    def _spare(self, column: int, wanted: int) -> tuple[int, ...]:
        """The first sound parity blocks of a group; read from the file only as far as they are needed."""
        found: list[int] = []
        for shard in range(self._layout.parity):
            if len(found) == wanted:
                break
            if shard == len(self._shards):
                self._shards.append(self._parity.shard(shard, self._group, self._count))
            if self._shards[shard][column] is not None:
                found.append(shard)
        return tuple(found)

    def _decode(self, case: _Case) -> list[bytes]:
        """The lost members' blocks, all groups of the case behind each other; empty if there is too little parity."""
        if len(case.spare) < len(case.lost):
            return []
        start, end = case.first, case.first + case.width
        shards: list[bytes | memoryview] = [memoryview(tile)[start * BLOCK : end * BLOCK] for tile in self._tiles]
        numbers = list(range(self._layout.data))
        for member, shard in zip(case.lost, case.spare, strict=True):
            shards[member] = b"".join(block or b"" for block in self._shards[shard][start:end])
            numbers[member] = self._layout.data + shard
        decoded = self._decoder.decode(shards, numbers)
        return [decoded[member] for member in case.lost]


class HealingSource(Source):
    """An archive read through its parity: what the medium does not give is rebuilt, and on demand what it gives wrong.

    `size` is that of the sound archive, whatever is left of it. Sound ranges never wait for a rebuild.
    """

    def __init__(self, source: Source, parity: Parity) -> None:
        self.name = source.name
        self.size = parity.layout.size
        self._source = source
        self._parity = parity
        self._aligned = Aligned(source, self.size, align(source, parity))
        self._kept: LRU[int, bytes] = LRU(_KEPT)
        self._healed: set[int] = set()
        self._lock = threading.Lock()

    def read_at(self, offset: int, size: int) -> bytes:
        """Raises SourceError where the medium fails or ends, and the parity does not suffice."""
        size = min(size, self.size - offset)
        if offset < 0 or size <= 0:
            return b""
        try:
            data = self._aligned.read_at(offset, size)
            if len(data) == size:
                return data
            problem = SourceError(f"{self.name}: ends before byte {offset + size}")
        except SourceError as error:
            problem = error
        healed = self.heal(offset, size)
        if healed is None:
            raise problem
        return healed

    def heal(self, offset: int, size: int) -> bytes | None:
        """The bytes of a range as they were when the parity was made, each block proven; None if that cannot be had.

        A parity file left over from an older archive of the same name gives that one's bytes: check them again.
        """
        size = min(size, self.size - offset)
        if offset < 0 or size <= 0:
            return None
        first, end = offset // BLOCK, -(-(offset + size) // BLOCK)
        parts: list[bytes] = []
        for at in range(first, end, _RUN):
            part = self._proven(at, min(_RUN, end - at))
            if part is None:
                return None
            parts.append(part)
        skip = offset - first * BLOCK
        return b"".join(parts)[skip : skip + size]

    def was_healed(self, offset: int, size: int) -> bool:
        """Whether any block of a range had to be rebuilt so far."""
        return bool(self._healed) and not self._healed.isdisjoint(range(offset // BLOCK, -(-(offset + size) // BLOCK)))

    @property
    def healed(self) -> list[tuple[int, int]]:
        """Half-open ranges of the archive that had to be rebuilt so far."""
        with self._lock:
            return block_ranges(sorted(self._healed), self.size)

    def fileno(self) -> int | None:
        return self._source.fileno()

    def close(self) -> None:
        self._source.close()
        self._parity.close()

    def _proven(self, first: int, count: int) -> bytes | None:
        data = read_padded(self._aligned, first * BLOCK, count * BLOCK)
        blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
        checks = self._parity.checks(first, count)
        bad = [first + i for i, crc in enumerate(checksums(data)) if crc != checks[i]]
        if bad:
            with self._lock:
                if not self._rebuild([block for block in bad if block not in self._kept]):
                    return None
                for block in bad:
                    blocks[block - first] = self._kept[block]
        return b"".join(blocks)

    def _rebuild(self, blocks: list[int]) -> bool:
        """Puts the blocks into the cache, neighbours together; False if one of them cannot be rebuilt."""
        groups = self._parity.layout.groups
        while blocks:
            group = blocks[0] % groups
            count = min(blocks[-1] - blocks[0] + 1, groups - group)
            fixed = rebuild(self._aligned, self._parity, group, count).fixed
            done = [block for block in blocks if block < blocks[0] + count]
            if any(block not in fixed for block in done):
                return False
            for block in done:
                self._kept[block] = fixed[block]
            self._healed.update(done)
            blocks = blocks[len(done) :]
        return True


def block_ranges(blocks: Iterable[int], size: int) -> list[tuple[int, int]]:
    """Ascending block numbers as half-open byte ranges of a file of `size` bytes."""
    ranges: list[tuple[int, int]] = []
    for block in blocks:
        start, end = block * BLOCK, min((block + 1) * BLOCK, size)
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges

"""What an origin member tells of the source's inodes: over many blocks, in any order, past damage."""

from __future__ import annotations

import io
import random
from types import SimpleNamespace
from typing import Any

import pytest

from builder.scanning.identities import Identities, Identity
from builder.writing.origin import OriginLog
from xtarfs.format.locator import Place
from xtarfs.format.structure import HEAD_SIZE, block_length
from xtarfs.source import Source

COUNT = 6000
CREATED = 1_700_000_000


class Bytes(Source):
    def __init__(self, data: bytes) -> None:
        self.name, self.size, self.data = "memory", len(data), data

    def read_at(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]


def identity(ino: int) -> Identity:
    return Identity(f"{CREATED}.{ino:09d}".rstrip("0"), 10**7 + ino)


@pytest.fixture(scope="module")
def origin() -> bytes:
    """Of numbers 1 to COUNT without the multiples of 7; every tenth has a further name some lines later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(CREATED))
        log = OriginLog(io.BytesIO(), "/source")
    numbers = [ino for ino in range(1, COUNT + 1) if ino % 7]
    for ino in numbers:
        for each in [ino, ino - 100] if ino > 100 and ino % 10 == 0 and (ino - 100) % 7 else [ino]:
            stat: Any = SimpleNamespace(st_ctime_ns=CREATED * 10**9 + each, st_ino=10**7 + each, st_dev=5)
            log.add(each, stat)
    spool = log.finish()
    spool.seek(0)
    return spool.read()


def opened(data: bytes) -> Identities:
    return Identities(Bytes(b"before" + data + b"after"), Place(6, len(data), ""))


def blocks(data: bytes) -> list[tuple[int, int]]:
    at, found = 0, []
    while at < len(data):
        length = block_length(data[at : at + HEAD_SIZE])
        found.append((at, at + length))
        at += length
    return found


@pytest.mark.parametrize("order", ["up", "down", "any"])
def test_every_number_is_found_in_any_order(origin: bytes, order: str) -> None:
    assert len(blocks(origin)) > 3
    identities = opened(origin)
    numbers = list(range(1, COUNT + 1))
    if order == "down":
        numbers.reverse()
    elif order == "any":
        random.Random(1).shuffle(numbers)
    for ino in numbers[:: 1 if order == "up" else 5]:
        assert identities.get(ino) == (identity(ino) if ino % 7 else None)
    assert identities.get(COUNT + 1) is None


def test_a_damaged_block_costs_its_own_lines(origin: bytes) -> None:
    first, last = blocks(origin)[2]
    damaged = bytearray(origin)
    damaged[(first + last) // 2] ^= 1
    identities = opened(bytes(damaged))
    lost = [ino for ino in range(1, COUNT + 1) if ino % 7 and identities.get(ino) is None]
    assert 500 < len(lost) < COUNT / 2
    assert lost[-1] - lost[0] < 3 * len(lost) / 2, (
        "lost are neighbours, but for those with a further name in the next block"
    )
    assert identities.get(1) == identity(1)
    assert identities.get(COUNT) == identity(COUNT)


def test_blocks_of_further_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(CREATED))
    log = OriginLog(io.BytesIO(), "/source")
    for ino in [*range(1, 3001), *3 * list(range(1, 1501)), *range(3001, 4001)]:
        stat: Any = SimpleNamespace(st_ctime_ns=CREATED * 10**9 + ino, st_ino=10**7 + ino, st_dev=5)
        log.add(ino, stat)
    spool = log.finish()
    identities = opened(spool.getvalue())  # type: ignore[attr-defined]
    for ino in (4000, *range(1, 4000, 3)):
        assert identities.get(ino) == identity(ino)


def test_past_a_damaged_head_nothing_is_known(origin: bytes) -> None:
    at = blocks(origin)[1][0]
    identities = opened(origin[:at] + bytes(HEAD_SIZE) + origin[at + HEAD_SIZE :])
    assert identities.get(1) is None
    assert identities.get(COUNT) is None
    assert identities.is_settled((CREATED - 3) * 10**9)


def test_times_count_from_two_seconds_before_the_archive_on(origin: bytes) -> None:
    identities = opened(origin)
    assert identities.is_settled((CREATED - 2) * 10**9 - 1)
    assert not identities.is_settled((CREATED - 2) * 10**9)
    assert not opened(bytes(len(origin))).is_settled(0)

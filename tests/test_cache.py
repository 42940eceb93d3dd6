"""The chunk cache: each value computed once, nobody waits for another's value, bounded in bytes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from xtarfs.errors import DamagedError
from xtarfs.reading.cache import OVERHEAD, ByteCache

from .mounting import until


class Work:
    """A computation that counts its calls and lasts until it is released."""

    def __init__(self, value: bytes | Exception) -> None:
        self.value = value
        self.calls = 0
        self.release = threading.Event()

    def __call__(self) -> bytes:
        self.calls += 1
        assert self.release.wait(60)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_computed_once_while_many_wait() -> None:
    cache: ByteCache[int, bytes] = ByteCache(3000, len)
    work = Work(b"value")
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(cache.get, 1, work) for _ in range(8)]
        assert until(lambda: work.calls == 1)
        time.sleep(0.1)
        assert not any(future.done() for future in waiting)
        work.release.set()
        assert {future.result(60) for future in waiting} == {b"value"}
    assert cache.get(1, work) == b"value"
    assert work.calls == 1


def test_other_keys_do_not_wait() -> None:
    cache: ByteCache[int, bytes] = ByteCache(3000, len)
    slow = Work(b"slow")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.get, 1, slow)
        assert until(lambda: slow.calls == 1)
        assert cache.get(2, lambda: b"other") == b"other"  # computed meanwhile
        assert cache.get(2, slow) == b"other"  # found meanwhile
        slow.release.set()
        assert waiting.result(60) == b"slow"


@pytest.mark.parametrize("error", [DamagedError("bad", ((0, 5),)), MemoryError()])
def test_an_error_reaches_all_and_is_not_kept(error: Exception) -> None:
    cache: ByteCache[int, bytes] = ByteCache(3000, len)
    work = Work(error)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(cache.get, 1, work) for _ in range(4)]
        assert until(lambda: work.calls == 1)
        time.sleep(0.1)
        work.release.set()
        raised = [future.exception(5) for future in waiting]
    assert all(isinstance(one, type(error)) for one in raised)
    assert [str(one) for one in raised] == [str(error)] * 4
    assert cache.held == 0
    assert cache.get(1, lambda: b"now") == b"now"


def test_the_bound_is_in_bytes_and_the_oldest_goes() -> None:
    cache: ByteCache[str, bytes] = ByteCache(3000, len)
    computed: list[str] = []

    def get(key: str, size: int) -> None:
        def compute() -> bytes:
            computed.append(key)
            return bytes(size)

        assert len(cache.get(key, compute)) == size
        assert cache.held <= 3000

    third = 1000 - OVERHEAD
    for key in "abcd":
        get(key, third)
    assert cache.held == 3000
    get("b", third)  # now the latest
    get("e", 2000 - OVERHEAD)
    assert (computed, cache.held) == ([*"abcde"], 3000)
    get("b", third)
    assert computed == [*"abcde"]
    get("c", third)
    assert computed == [*"abcdec"]


def test_small_values_are_bounded_too() -> None:
    cache: ByteCache[int, bytes] = ByteCache(30 * OVERHEAD, len)
    for key in range(100):
        cache.get(key, lambda: b"")
    assert cache.held == 30 * OVERHEAD


def test_a_value_over_the_bound_is_given_and_not_kept() -> None:
    cache: ByteCache[int, bytes] = ByteCache(3000, len)
    cache.get(1, lambda: bytes(600))
    assert len(cache.get(2, lambda: bytes(3001 - OVERHEAD))) == 3001 - OVERHEAD
    assert cache.held == 600 + OVERHEAD
    nothing: ByteCache[int, bytes] = ByteCache(0, len)
    assert (nothing.get(1, lambda: b"a"), nothing.get(1, lambda: b"b"), nothing.held) == (b"a", b"b", 0)


def test_many_threads_and_keys() -> None:
    cache: ByteCache[int, bytes] = ByteCache(20_000, len)
    running: set[int] = set()
    twice: list[int] = []
    lock = threading.Lock()

    def compute(key: int) -> bytes:
        with lock:
            if key in running:
                twice.append(key)
            running.add(key)
        time.sleep(0.0002)
        with lock:
            running.discard(key)
        return bytes([key]) * (key * 7 % 300)

    def hammer(seed: int) -> bool:
        keys = [(seed * 31 + turn * 17) % 97 for turn in range(1500)]
        return all(cache.get(key, partial(compute, key)) == bytes([key]) * (key * 7 % 300) for key in keys)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(hammer, range(8)))
    assert twice == []
    assert 19_000 < cache.held <= 20_000

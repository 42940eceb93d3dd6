"""A cache bounded in bytes that computes each missing value once, however many threads ask for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from lru import LRU

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
OVERHEAD = 300  # bytes that the key, the objects and their places take besides a value's own


class _Flight(Generic[Value]):
    """A value that one thread is computing and others may wait for. done: made by the first that waits."""

    __slots__ = ("done", "error", "value")

    def __init__(self) -> None:
        self.done: threading.Event | None = None
        self.value: Value
        self.error: BaseException | None = None


class ByteCache(Generic[Key, Value]):
    """Least recently used values are dropped once all together take more than `capacity` bytes of memory.

    weigh: the bytes that a value takes, always the same for one value.
    """

    def __init__(self, capacity: int, weigh: Callable[[Value], int]) -> None:
        self._capacity = capacity
        self._weigh = weigh
        self._held = 0
        self._values: LRU[Key, Value] = LRU(1 << 30)  # bounded by bytes, not by count
        self._flights: dict[Key, _Flight[Value]] = {}
        self._lock = threading.Lock()

    def get(self, key: Key, compute: Callable[[], Value]) -> Value:
        """The cached value, or compute() now. What compute raises reaches all that wait, and is not cached."""
        with self._lock:
            value: Value | None = self._values.get(key)
            if value is not None:
                return value
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = _Flight()
                done = None
            else:
                done = flight.done = flight.done or threading.Event()
        if done:
            done.wait()
            if flight.error:
                raise flight.error
            return flight.value
        try:
            flight.value = compute()
        except BaseException as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                del self._flights[key]
                if flight.error is None:
                    self._keep(key, flight.value)
            if flight.done:
                flight.done.set()
        return flight.value

    def _keep(self, key: Key, value: Value) -> None:
        cost = self._weigh(value) + OVERHEAD
        if cost > self._capacity:
            return
        self._values[key] = value
        self._held += cost
        while self._held > self._capacity:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        item = self._values.peek_last_item()
        assert item
        del self._values[item[0]]
        self._held -= self._weigh(item[1]) + OVERHEAD

    def halve(self) -> int:
        """Gives up half of the capacity before anything is kept; how much is left, in bytes."""
        self._capacity //= 2
        return self._capacity

    @property
    def held(self) -> int:
        """Bytes of memory that the cached values take now."""
        return self._held

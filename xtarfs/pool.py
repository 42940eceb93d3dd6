"""Threads that work side by side.

concurrent.futures does the same, but importing it takes a seventh of the time of a small command.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, Self, TypeVar

Result = TypeVar("Result")


class Task(Generic[Result]):
    """A call that a thread makes, or has made."""

    __slots__ = ("_call", "_ended", "_error", "_result")

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call: Callable[[], Result] | None = call
        self._error: BaseException | None = None
        self._ended = threading.Lock()
        self._ended.acquire()

    def run(self) -> None:
        """Makes the call, unless it was cancelled."""
        call = self._call
        try:
            if call:
                self._result = call()
        except BaseException as error:  # whoever asks for the result gets it
            self._error = error
        finally:
            self._call = None
            self._ended.release()

    def cancel(self) -> None:
        """Nobody will ask for the result: the call is not made if it has not begun."""
        self._call = None

    def result(self) -> Result:
        """Waits for the call's end; gives what it gave, or raises what it raised."""
        with self._ended:
            if self._error:
                raise self._error
            return self._result


class Pool:
    """At most `jobs` threads, each started when there is first something for it to do. Calls begin in their order."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._queue: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, call: Callable[[], Result]) -> Task[Result]:
        """Has the call made in one of the threads."""
        task = Task(call)
        self._queue.put(task)
        if len(self._threads) < self._jobs:
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()
        return task

    def close(self) -> None:
        """Waits for the calls that have begun; the others are not made."""
        while not self._queue.empty():
            if task := self._queue.get():
                task.cancel()
                task.run()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        while task := self._queue.get():
            task.run()

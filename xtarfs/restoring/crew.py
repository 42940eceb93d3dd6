"""Processes that share out one run of numbered batches, forked from this one in the midst of its work.

Threads do not help with many small files: each of a file's dozen short calls hands the interpreter lock over, and two
threads take longer than one. Every process goes through the same batches and takes the next that nobody has.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import struct
import threading
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

from ..errors import XtarError

Outcome = TypeVar("Outcome")
_NUMBER = struct.Struct("<Q")
_SHOW_EVERY = 1 << 18  # bytes done in this process between calls of `progress`
_POLL = 0.1  # seconds between calls of `progress` while others are waited for


class Stopped(Exception):
    """Another process of the crew has failed."""


class Crew(Generic[Outcome]):
    """Up to `size` processes. progress(bytes done since the last call, in all of them) is called in the first."""

    def __init__(self, size: int, progress: Callable[[int], None]) -> None:
        self._size = size
        self._progress = progress
        self._shared = mmap.mmap(-1, _NUMBER.size * (size + 1))  # bytes done by each process; a stop mark
        self._slot = self._done = self._shown = self._unshown = 0
        self._leader = os.getpid()
        self._tickets = os.pipe()  # holds the number of the first batch that nobody has taken
        self._members: list[tuple[int, int]] = []  # process, and the pipe that its outcome comes through
        self._reply: int | None = None

    def run(self, work: Callable[[], Outcome]) -> list[Outcome]:
        """What work(), which calls `recruit` at most once, returns in each process. Raises what any of them raised."""
        try:
            mine = work()
        except BaseException as error:
            self._mark_stop()
            if self.is_member:
                self._leave(error)
            raise self._cause_of(error) from None
        if self.is_member:
            self._leave(mine)
        outcomes = self._gather()
        causes = [number for number, outcome in enumerate(outcomes) if _is_cause(outcome)]
        if causes:
            raise outcomes.pop(causes[0])  # held here, it and its traceback would keep folders open
        return [mine, *outcomes]

    def _cause_of(self, error: BaseException) -> BaseException:
        """What another process raised, if this one was only told to stop."""
        others = self._gather()
        return next((other for other in others if isinstance(error, Stopped) and _is_cause(other)), error)

    def recruit(self, first: int) -> None:
        """Forks the others, which go on from here as this one does; batches from `first` on are shared out.

        A process of several threads stays alone: a lock that another thread holds would never open in a fork.
        """
        os.write(self._tickets[1], _NUMBER.pack(first))
        for slot in range(1, self._size if threading.active_count() == 1 else 1):
            receive, send = os.pipe()
            process = os.fork()
            if not process:
                # a reader less for each pipe: a member whose reply nobody wants must not wait for ever
                for end in (receive, *(other for _, other in self._members)):
                    os.close(end)
                self._slot, self._done, self._reply, self._members = slot, 0, send, []
                return
            os.close(send)
            self._members.append((process, receive))

    @property
    def is_member(self) -> bool:
        """Whether this process is one that was forked."""
        return self._reply is not None

    def claim(self) -> int:
        """The number of a batch that is now this process's to do."""
        number = int(_NUMBER.unpack(os.read(self._tickets[0], _NUMBER.size))[0])
        os.write(self._tickets[1], _NUMBER.pack(number + 1))
        return number

    def advance(self, size: int) -> None:
        """Counts bytes that are done. Raises Stopped if the work is to end."""
        self._done += size
        at = self._slot * _NUMBER.size
        self._shared[at : at + _NUMBER.size] = _NUMBER.pack(self._done)
        if not self.is_member:
            self._unshown += size
            if self._unshown >= _SHOW_EVERY:
                self.show()
        elif os.getppid() != self._leader:
            raise Stopped
        if self._shared[-1]:
            raise Stopped

    def show(self) -> None:
        """Calls `progress` with what has been done since."""
        self._unshown = 0
        done = sum(_NUMBER.unpack_from(self._shared, slot * _NUMBER.size)[0] for slot in range(self._size))
        if done != self._shown:
            step, self._shown = done - self._shown, done
            self._progress(step)

    def _mark_stop(self) -> None:
        self._shared[-1] = 1

    def _leave(self, outcome: object) -> NoReturn:
        """Ends a forked process: nothing of what the first one would do at its end may be done here."""
        import pickle  # here and below: small extractions stay alone and save its time

        try:
            with os.fdopen(self._reply or -1, "wb") as reply:
                pickle.dump(outcome, reply)
        finally:
            os._exit(0)

    def _gather(self) -> list[Any]:
        """What each other process returned or raised; all have ended then."""
        if not self._members:
            return []
        import pickle

        outcomes = []
        try:
            while self._members:
                process, receive = self._members[-1]
                reply = self._receive(receive)
                self._members.pop()
                os.close(receive)
                os.waitpid(process, 0)
                try:
                    outcomes.append(pickle.loads(reply))
                except (EOFError, pickle.UnpicklingError):
                    outcomes.append(XtarError("a worker process was killed; what it had at hand is not extracted"))
        except BaseException:
            self._mark_stop()
            for process, receive in self._members:
                with contextlib.suppress(OSError):
                    os.close(receive)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process, 0)
            raise
        self.show()
        return outcomes

    def _receive(self, pipe: int) -> bytes:
        parts = []
        ready = select.poll()  # select() takes no descriptor above 1,023, and a set may have more volumes open
        ready.register(pipe, select.POLLIN)
        while True:
            if not ready.poll(1000 * _POLL):
                self.show()
            elif part := os.read(pipe, 1 << 16):
                parts.append(part)
            else:
                return b"".join(parts)

    def __del__(self) -> None:
        for end in self._tickets:
            os.close(end)


def _is_cause(outcome: object) -> bool:
    return isinstance(outcome, BaseException) and not isinstance(outcome, Stopped)

"""A piece of work in a process of its own: for what would only wait for the interpreter lock in a thread."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Generic, TypeVar

from .errors import XtarError

Result = TypeVar("Result")


class Helper(Generic[Result]):
    """work() running in a forked process. Its result, or its XtarError, must be picklable."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._pipe, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._work(work, write)
        os.close(write)

    def _work(self, work: Callable[[], Result], write: int) -> None:
        import pickle  # here and below: what stays alone saves its time

        status = 1
        try:
            outcome: Result | XtarError
            try:
                outcome = work()
            except XtarError as error:
                outcome = error
            with open(write, "wb") as pipe:
                pickle.dump(outcome, pipe)
            status = 0
        finally:
            os._exit(status)

    def result(self) -> Result:
        """Waits for the result. Raises what work() raised."""
        import pickle

        with open(os.dup(self._pipe), "rb") as pipe:
            data = pipe.read()
        try:
            outcome = pickle.loads(data)
        except (EOFError, pickle.UnpicklingError):
            raise XtarError("a helper process died before its work was done") from None
        if isinstance(outcome, XtarError):
            raise outcome
        result: Result = outcome
        return result

    def end(self) -> None:
        """Ends the process if it still runs, and lets go of it."""
        os.close(self._pipe)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

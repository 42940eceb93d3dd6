"""Where the commands start. Nothing imported here takes time, so Ctrl-C is answered from the first moment."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # the name that type checkers know; `typing` takes 2 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_INTERRUPTED = 130
_FEW_COLLECTIONS = 20_000  # records come by the thousand and have no cycles; looking for some took 4% of a verify


def enter(load: Callable[[], Callable[[], int]]) -> NoReturn:
    """Runs the command whose main function `load` imports, and ends the process with its exit code.

    At once: the interpreter would take every record apart first, which took 10% of a verify.
    """
    gc.set_threshold(_FEW_COLLECTIONS)
    try:
        code = load()()
    except KeyboardInterrupt:
        print("xtar: interrupted", file=sys.stderr)
        code = _INTERRUPTED
    from contextlib import suppress

    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or none at all
            stream.flush()
    os._exit(code)


def xtarfs() -> NoReturn:
    """The mount helper `xtarfs`."""

    def load() -> Callable[[], int]:
        from .commands.cli import mount_helper

        return mount_helper

    enter(load)

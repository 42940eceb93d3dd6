"""Ends a run that SIGTERM or Ctrl-C asked to end, but only between two steps.

An exception out of a signal's handler could come while a process is being started or a mount ended, and leave it there.
"""

from __future__ import annotations

import signal
from types import FrameType

_asked: list[int] = []


def listen() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _note)


def _note(number: int, frame: FrameType | None) -> None:
    _asked.append(number)


def check() -> None:
    """To be called by whatever waits or goes on for long."""
    if _asked:
        raise SystemExit(128 + _asked[0])

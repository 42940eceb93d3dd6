"""What came back: compared with the originals file by file, and with what the tool said about each."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from .tree import Content

_BLOCK = 512

Ranges = list[tuple[int, int]]


@dataclass(slots=True)
class Attempt:
    """One way of getting the files back. folder: where they lie; log: all messages about what is wrong.

    ranges: of files that the tool calls partly lost, the ranges, where it tells them; outside them it vouches.
    suspect: what is here and in no earlier attempt is damaged, and the user knows.
    """

    folder: Path
    log: str = ""
    ranges: dict[str, Ranges] = field(default_factory=dict)
    suspect: bool = False

    def delivered(self, path: str) -> bool:
        full = self.folder / path
        return full.is_file() and not full.is_symlink()

    def told(self, path: str) -> bool:
        """Whether it is known that this file is damaged: its whole path stands in a message, for example."""
        if self.suspect or path in self.ranges:
            return True
        found = path in self.log and re.search(rf"(?<![\w.+-]){re.escape(path)}(?![\w+-]|\.\w)", self.log)
        return bool(found)


@dataclass(slots=True)
class Score:
    """Of all files: `bytes` right in their place (by 512 bytes), `whole` bytes in whole files, number of whole files.

    silent: bytes handed out wrong, or left out, in `silent_files` of which the tool did not say so.
    """

    total_files: int = 0
    total_bytes: int = 0
    files: int = 0
    bytes: int = 0
    whole: int = 0
    silent: int = 0
    silent_files: int = 0


def score(content: Content, attempts: list[Attempt]) -> Score:
    """Judges the best that a careful user makes of the attempts: a file that no message is about, else the first."""
    result = Score(len(content), sum(map(len, content.values())))
    for path, right in content.items():
        chosen, got = _choose(attempts, path, right)
        if chosen is None or got is None:
            continue
        if got == right:
            result.files += 1
            result.bytes += len(right)
            result.whole += len(right)
            continue
        result.bytes += _right_bytes(right, got)
        _add_silent(result, _silent(chosen, path, right, got))
    for attempt in attempts:
        for path, size in _strangers(attempt, content):
            _add_silent(result, size if not attempt.told(path) else 0)
    return result


def _add_silent(result: Score, size: int) -> None:
    result.silent += size
    result.silent_files += size > 0


def _choose(attempts: list[Attempt], path: str, right: bytes) -> tuple[Attempt | None, bytes | None]:
    """The attempt whose file is taken, and its bytes. What is right needs no reading of messages."""
    first: tuple[Attempt | None, bytes | None] = (None, None)
    for attempt in attempts:
        if not attempt.delivered(path):
            continue
        got = (attempt.folder / path).read_bytes()
        if got == right or not attempt.told(path):
            return attempt, got
        if first[0] is None:
            first = attempt, got
    return first


def _right_bytes(right: bytes, got: bytes) -> int:
    starts = range(0, len(right), _BLOCK)
    return sum(min(_BLOCK, len(right) - at) for at in starts if right[at : at + _BLOCK] == got[at : at + _BLOCK])


def _silent(attempt: Attempt, path: str, right: bytes, got: bytes) -> int:
    """Wrong bytes that nothing was said about, those that are missing or too many at the end included."""
    told = attempt.ranges.get(path, [])
    if not told and attempt.told(path):
        return 0
    wrong, at = 0, 0
    for start, end in sorted(told):
        wrong += _wrong(right, got, at, start)
        at = max(at, end)
    return wrong + _wrong(right, got, at, max(len(right), len(got)))


def _wrong(right: bytes, got: bytes, start: int, end: int) -> int:
    """How many of the bytes [start, end) differ, or stand in one of the two only."""
    wrong = 0
    for at in range(start, end, _BLOCK):
        one, other = right[at : min(at + _BLOCK, end)], got[at : min(at + _BLOCK, end)]
        if one != other:
            wrong += abs(len(one) - len(other)) + sum(a != b for a, b in zip(one, other, strict=False))
    return wrong


def _strangers(attempt: Attempt, content: Content) -> list[tuple[str, int]]:
    """Files that were never stored: path and size."""
    found = []
    for folder, _, names in os.walk(attempt.folder):
        for name in names:
            full = os.path.join(folder, name)
            path = os.path.relpath(full, attempt.folder)
            if path not in content and os.path.isfile(full) and not os.path.islink(full):
                found.append((path, os.path.getsize(full)))
    return found

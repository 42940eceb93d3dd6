"""When each file of a tree changed: columns of numbers and packed names, about 40 bytes a file, no objects."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence

_FIRST, _LAST = -(1 << 63), (1 << 63) - 1
_MOST_KINDS = 1 << 16
_LONGEST_KIND = 8


class Changes:
    """A row for each file: when it changed, its size, the number of its folder and of its kind.

    times: nanoseconds since 1970; what lies outside the years 1677 to 2262 counts as their ends. sizes: bytes.
    problems: paths of folders that could not be read, and why. undated: files without the time that was asked for.
    """

    def __init__(self) -> None:
        self.times = array("q")
        self.sizes = array("q")
        self.folders = array("I")
        self.kinds = array("H")
        self.kind_names = [""]
        self.problems: list[tuple[bytes, str]] = []
        self.undated = 0
        self._kind_numbers = {"": 0}
        self._paths = _Texts()
        self._names = _Texts()
        self._firsts = array("Q")

    def __len__(self) -> int:
        return len(self.times)

    def add(self, folder: bytes, names: Sequence[str], times: Sequence[int], sizes: Sequence[int]) -> None:
        """Files of one folder, which may come in several portions. Names are file system text (os.fsdecode)."""
        self._firsts.append(len(self.times))
        self.folders.extend([len(self._paths)] * len(names))
        self.kinds.extend(self._kinds_of(names))
        self._paths.append(folder)
        self._names.append(os.fsencode("\0".join(names)))
        try:
            self.times.extend(array("q", times))
        except OverflowError:
            self.times.extend(min(max(time, _FIRST), _LAST) for time in times)
        self.sizes.extend(array("q", sizes))

    def extend(self, other: Changes) -> None:
        """The rows of another after those that are here."""
        firsts, folders = len(self.times), len(self._paths)
        kinds = [self._kind_number(name) for name in other.kind_names]
        self._firsts.extend(first + firsts for first in other._firsts)
        self.folders.extend(folder + folders for folder in other.folders)
        self.kinds.extend(map(kinds.__getitem__, other.kinds))
        self.times.extend(other.times)
        self.sizes.extend(other.sizes)
        self._paths.extend(other._paths)
        self._names.extend(other._names)
        self.problems += other.problems
        self.undated += other.undated

    def folder_path(self, folder: int) -> bytes:
        return self._paths[folder]

    def path(self, row: int) -> bytes:
        """A file's path below the root."""
        folder = bisect_right(self._firsts, row) - 1
        name = self._names[folder].split(b"\0")[row - self._firsts[folder]]
        parent = self._paths[folder]
        return parent + b"/" + name if parent else name

    def _kinds_of(self, names: Iterable[str]) -> list[int]:
        known = self._kind_numbers
        numbers = []
        for name in names:
            stem, _, suffix = name.rpartition(".")
            number = known.get(suffix) if stem else 0
            numbers.append(self._new_suffix(suffix) if number is None else number)
        return numbers

    def _new_suffix(self, suffix: str) -> int:
        kind = suffix.lower()
        if len(kind) > _LONGEST_KIND or not kind.isalnum() or kind.isdecimal():
            kind = ""
        number = self._kind_number(kind)
        if len(self._kind_numbers) < _MOST_KINDS:
            self._kind_numbers[suffix] = number
        return number

    def _kind_number(self, kind: str) -> int:
        number = self._kind_numbers.get(kind)
        if number is None:
            if len(self._kind_numbers) >= _MOST_KINDS:
                return 0
            number = self._kind_numbers[kind] = len(self.kind_names)
            self.kind_names.append(kind)
        return number


class _Texts:
    """A growing list of byte strings in two buffers."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("Q")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> bytes:
        return bytes(self._data[self._ends[number - 1] if number else 0 : self._ends[number]])

    def append(self, text: bytes) -> None:
        self._data += text
        self._ends.append(len(self._data))

    def extend(self, other: _Texts) -> None:
        start = len(self._data)
        self._data += other._data
        self._ends.extend(end + start for end in other._ends)

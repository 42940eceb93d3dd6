"""Sorts the changes of a tree into groups that happened at about the same time, as pyactivity did in 2003."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush, nlargest
from itertools import islice
from operator import sub

from msgspec import Struct

from .changes import Changes

HOUR = 3600 * 10**9
_MOST_FOLDERS = _MOST_KINDS = 5
_LEAST_SHARE = 0.05  # of a group's files, for a folder to be named


class ChangedFile(Struct, frozen=True):
    """A path below the root, the file's bytes, and when it changed, in nanoseconds since 1970."""

    path: bytes
    size: int
    time: int


class Group(Struct, frozen=True):
    """Files that changed one after the other, no gap being longer than the radius. Times in nanoseconds since 1970.

    size: bytes in all. folders: where, each with the number of files in it or below it but in no deeper folder of the
    list. kinds: the most frequent suffixes, each with its number of files. top: the largest files.
    """

    begin: int
    end: int
    files: int
    size: int
    folders: list[tuple[bytes, int]]
    kinds: list[tuple[str, int]]
    top: list[ChangedFile]

    @property
    def main_folder(self) -> bytes:
        """The folder with the most files, or the one that holds all of the list if several have as many."""
        if len(self.folders) == 1 or self.folders[0][1] > self.folders[1][1]:
            return self.folders[0][0]
        return os.path.commonpath([path for path, _ in self.folders])


class Activity:
    """The groups of a tree, made one by one as they are asked for; holds 12 bytes more for each file."""

    def __init__(
        self, changes: Changes, radius: int = HOUR, since: int | None = None, until: int | None = None
    ) -> None:
        """radius: nanoseconds. since, until: the first and the last nanosecond that count."""
        self._changes = changes
        times = changes.times
        order = array("Q", sorted(range(len(times)), key=times.__getitem__))
        first = 0 if since is None else bisect_left(order, since, key=times.__getitem__)
        end = len(order) if until is None else bisect_right(order, until, key=times.__getitem__)
        self._order = order[first:end]
        moments = array("q", map(times.__getitem__, self._order))
        gaps = map(sub, islice(moments, 1, None), moments)
        starts = (number for number, gap in enumerate(gaps, 1) if gap > radius)
        self._starts = array("Q", [0, *starts] if self._order else [])
        self._starts.append(len(self._order))

    def __len__(self) -> int:
        """How many groups there are."""
        return len(self._starts) - 1

    @property
    def files(self) -> int:
        return len(self._order)

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return self._size(self._order)

    def groups(self, sort: str = "time", top: int = 0) -> Iterator[Group]:
        """All groups in the order of a key of SORT_KEYS, each with its `top` largest files."""
        key = SORT_KEYS[sort]
        for number in sorted(range(len(self) - 1, -1, -1), key=lambda number: key(self, number)):
            yield self._group(number, top)

    def begin(self, number: int) -> int:
        """When a group began; groups are numbered from the oldest on."""
        return self._changes.times[self._order[self._starts[number]]]

    def end(self, number: int) -> int:
        return self._changes.times[self._order[self._starts[number + 1] - 1]]

    def files_of(self, number: int) -> int:
        return self._starts[number + 1] - self._starts[number]

    def size_of(self, number: int) -> int:
        return self._size(self._rows(number))

    def _rows(self, number: int) -> array[int]:
        return self._order[self._starts[number] : self._starts[number + 1]]

    def _size(self, rows: array[int]) -> int:
        return sum(map(self._changes.sizes.__getitem__, rows))

    def _group(self, number: int, top: int) -> Group:
        changes, rows = self._changes, self._rows(number)
        folders: Counter[bytes] = Counter()
        for folder, files in Counter(map(changes.folders.__getitem__, rows)).items():
            folders[changes.folder_path(folder)] += files
        kinds = Counter(map(changes.kinds.__getitem__, rows))
        named = ((changes.kind_names[kind], files) for kind, files in kinds.items())
        return Group(
            begin=self.begin(number),
            end=self.end(number),
            files=len(rows),
            size=self._size(rows),
            folders=main_folders(folders, _MOST_FOLDERS, _LEAST_SHARE),
            kinds=sorted(named, key=lambda kind: (-kind[1], kind[0]))[:_MOST_KINDS],
            top=self._largest(rows, top),
        )

    def _largest(self, rows: array[int], most: int) -> list[ChangedFile]:
        """The files with the most bytes, of those with as many the newest; `rows` are sorted by time."""
        if not most:
            return []
        changes, sizes = self._changes, self._changes.sizes
        least = nlargest(most, map(sizes.__getitem__, rows))[-1]
        larger = [row for row in rows if sizes[row] > least]
        equal = islice((row for row in reversed(rows) if sizes[row] == least), most - len(larger))
        files = [ChangedFile(changes.path(row), sizes[row], changes.times[row]) for row in (*larger, *equal)]
        return sorted(files, key=lambda file: (-file.size, -file.time, file.path))


SORT_KEYS: dict[str, Callable[[Activity, int], int]] = {
    "time": lambda activity, number: -number,
    "oldest": lambda activity, number: number,
    "files": lambda activity, number: -activity.files_of(number),
    "bytes": lambda activity, number: -activity.size_of(number),
    "length": lambda activity, number: activity.begin(number) - activity.end(number),
}
"""What groups can be sorted by: `time` is newest first, the others than `oldest` are largest first."""


def main_folders(weights: Mapping[bytes, int], most: int, share: float) -> list[tuple[bytes, int]]:
    """At most `most` folders that stand for many, given each folder's own weight: the heaviest first, each with the
    weight in and below it but in no deeper folder of the list.

    Begins with the root alone, and takes out the heaviest folder below one that is listed, over and over, as long as
    it has this share of the whole. Of a folder that keeps less, the rest counts for the one above.
    """
    if len(weights) == 1:
        return list(weights.items())
    below, children = _subtotals(weights)
    least = share * below[b""]
    listed = Counter({b"": below[b""]})
    heap = [(-below[child], child, b"") for child in children[b""]]
    heapify(heap)
    while heap:
        minus, path, parent = heappop(heap)
        if -minus < least:
            break
        rest = listed[parent] + minus
        after = listed.copy()
        del after[parent]
        after[path] = -minus
        if rest:
            after[parent if rest >= least else _listed_above(parent, listed)] += rest
        if len(after) <= most:
            listed = after
            for child in children[path]:
                heappush(heap, (-below[child], child, path))
    return sorted(listed.items(), key=lambda folder: (-folder[1], folder[0]))


def _subtotals(weights: Mapping[bytes, int]) -> tuple[Counter[bytes], defaultdict[bytes, set[bytes]]]:
    """The weight in and below each folder, up to the root, and the folders right below it."""
    below: Counter[bytes] = Counter()
    children: defaultdict[bytes, set[bytes]] = defaultdict(set)
    for path, weight in weights.items():
        below[path] += weight
        while path:
            parent = path.rpartition(b"/")[0]
            children[parent].add(path)
            below[parent] += weight
            path = parent
    return below, children


def _listed_above(path: bytes, listed: Mapping[bytes, int]) -> bytes:
    """The deepest folder above that is listed; the root, be it listed or not, if there is none."""
    while path:
        path = path.rpartition(b"/")[0]
        if path in listed:
            break
    return path

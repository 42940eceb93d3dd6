"""What an incremental copy takes, and why: counts by reason, and the changes in groups by when they happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from msgspec import Struct, field

from xtarfs.console import human_size
from xtarfs.text import show

from ..activity.groups import HOUR, main_folders
from ..activity.when import show_length, show_moment
from ..scanning.scratch import Scratch
from ..writing.files import Job, Stored
from ..writing.finished import Finished

NEW, CHANGED, MOVED, ATTRIBUTES, GONE = "new", "content changed", "renamed", "attributes only", "deleted"
UNCHANGED = "unchanged"
REASONS = (NEW, CHANGED, MOVED, ATTRIBUTES, GONE, UNCHANGED)
_FIRST, _LAST = -(1 << 63), (1 << 63) - 1  # nanoseconds that a database can hold: 1677 to 2262
_GROUPS = 10
_FOLDERS, _LEAST_SHARE = 3, 0.05
_DEPTH = 3  # names in a folder's path that are told apart: a group may be a whole new tree
_SIZED = (NEW, CHANGED, GONE)
_COMPARED = ("mode", "uid", "gid", "mtime", "xattrs")


class Tally(Struct):
    """Files, and the bytes of content in them."""

    files: int = 0
    content: int = 0

    def add(self, files: int, size: int) -> None:
        self.files += files
        self.content += size


class Group(Struct):
    """Files that changed one after another, no gap being longer than an hour. Times in nanoseconds since 1970.

    content: bytes to store. reasons: how many files for each. folders: how many files in each, but in none too deep.
    """

    begin: int
    end: int
    content: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    folders: Counter[bytes] = field(default_factory=Counter)


class Changes(Struct):
    """tallies by reason; the newest groups, and how many more there were."""

    tallies: dict[str, Tally]
    groups: list[Group]
    more: int


class Summary:
    """Collects the changes of one build."""

    def __init__(self, work_dir: str) -> None:
        self._tallies = {reason: Tally() for reason in REASONS}
        self._scratch = Scratch(
            work_dir,
            """
            CREATE TABLE change (time INTEGER, path BLOB, size INTEGER, reason TEXT, PRIMARY KEY (time DESC, path))
                WITHOUT ROWID;
            CREATE TABLE gone (path BLOB PRIMARY KEY) WITHOUT ROWID;
            CREATE TABLE moved (path BLOB, size INTEGER);
            """,
        )

    def close(self) -> None:
        self._scratch.close()

    def gone(self, path: bytes, files: int, size: int) -> None:
        """A file, or a folder with so many files, is at that path no more."""
        self._tallies[GONE].add(files, size)
        self._scratch.execute("INSERT OR IGNORE INTO gone VALUES (?)", (path,))

    def note(self, job: Job, stored: Stored | Finished | None) -> None:
        """A file was stored or refers to what it was before; None if, in a dry run, it would be stored."""
        attributes = stored.origin if isinstance(stored, Stored) else job.item.stat
        size = stored.size if stored else attributes.st_size
        reason = _reason(job, stored)
        self._tallies[reason].add(1, size)
        if isinstance(stored, Stored) and stored.former and stored.former.moved:
            self._scratch.execute("INSERT INTO moved VALUES (?, ?)", (stored.former.path, size))
        if reason != UNCHANGED:
            when = attributes.st_mtime_ns if reason in (NEW, CHANGED) else attributes.st_ctime_ns
            when = max(_FIRST, min(when, _LAST))
            self._scratch.execute("INSERT INTO change VALUES (?, ?, ?, ?)", (when, job.item.path, size, reason))

    def finish(self) -> Changes:
        """What was moved away counts as gone until here, where both are known."""
        for path, size in self._scratch.rows("SELECT path, size FROM moved"):
            if any(self._scratch.row("SELECT 1 FROM gone WHERE path = ?", (gone,)) for gone in _with_parents(path)):
                self._tallies[GONE].add(-1, -size)
        groups = _groups(self._scratch.rows("SELECT time, path, size, reason FROM change"))
        return Changes(self._tallies, list(islice(groups, _GROUPS)), sum(1 for _ in groups))


def _reason(job: Job, stored: Stored | Finished | None) -> str:
    if job.is_unchanged:
        return UNCHANGED
    if not isinstance(stored, Stored) or stored.former is None:
        return CHANGED if job.match and job.match.known else NEW
    former = stored.former
    if former.moved and job.nlink == 1:  # of several names one may be new and the old one there as well
        return MOVED
    same = all(getattr(stored.record, key) == getattr(former.attributes, key) for key in _COMPARED)
    return UNCHANGED if same else ATTRIBUTES


def _with_parents(path: bytes) -> Iterator[bytes]:
    while path:
        yield path
        path = path.rpartition(b"/")[0]


def _groups(rows: Iterable[tuple[Any, ...]]) -> Iterator[Group]:
    """Groups of changes that come the newest first."""
    group: Group | None = None
    for when, path, size, reason in rows:
        if group and group.begin - when > HOUR:
            yield group
            group = None
        group = group or Group(when, when)
        group.begin = when
        group.content += size if reason in (NEW, CHANGED) else 0
        group.reasons[reason] += 1
        group.folders[b"/".join(path.split(b"/")[:-1][:_DEPTH])] += 1
    if group:
        yield group


def describe(changes: Changes) -> Iterator[str]:
    """Lines for people, times in the local zone: the counts by reason, then a line for each group."""
    counts = [
        f"{tally.files} {reason}" + (f" ({human_size(tally.content)})" if reason in _SIZED else "")
        for reason, tally in changes.tallies.items()
        if tally.files
    ]
    yield "since the base: " + (", ".join(counts) or "nothing to store")
    for group in changes.groups:
        reasons = ", ".join(f"{group.reasons[reason]} {reason}" for reason in REASONS if group.reasons[reason])
        folders = ", ".join(show(folder) for folder, _ in main_folders(group.folders, _FOLDERS, _LEAST_SHARE))
        stored = f", {human_size(group.content)} to store" if group.content else ""
        when = f"{show_moment(group.begin)}  {show_length(group.end - group.begin)}"
        yield f"  {when}  {reasons}{stored}; in {folders}"
    if changes.more:
        yield f"  ... and {changes.more} earlier groups"

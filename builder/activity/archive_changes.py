"""When the files of an archive changed, from its structure alone: it describes the whole tree, in a chain too."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator

import msgspec

from xtarfs.errors import FormatError, SourceError, UsageError, XtarError
from xtarfs.format.numbers import parse_time
from xtarfs.format.records import FILE
from xtarfs.format.structure import HEAD_SIZE, block_length, unpack_block
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node

from ..scanning.exclusions import CACHE_SIGNATURE, CACHE_TAG, matcher
from ..scanning.scan import Selection
from .changes import Changes

Advance = Callable[[int], None]
_PORTION = 4096
_MOST_MISSING = 1 << 20  # inode numbers left out in one place
_inode_decoder = msgspec.json.Decoder(tuple[int, str, int, int])


def archive_changes(archive: Archive, by: str, selection: Selection, advance: Advance = lambda files: None) -> Changes:
    """The changes of all regular files in an archive, every name of a hard link counted.

    by: `mtime` or `ctime`. advance(files) is told of files as they are met. Raises UsageError for a time that the
    archive does not have.
    """
    walk = _Walk(archive, _time_of(archive, by), selection, advance)
    walk.run()
    walk.changes.problems += [(path, what) for path, what in archive.tree.damage]
    return walk.changes


class _Level:
    """A folder that is being read: its children to come, and files that wait to be taken down together."""

    def __init__(self, path: bytes, children: Iterator[Node]) -> None:
        self.path = path
        self.children = children
        self.names: list[str] = []
        self.times: list[int] = []
        self.sizes: list[int] = []


class _Walk:
    def __init__(
        self, archive: Archive, time_of: Callable[[Node], int | None], selection: Selection, advance: Advance
    ) -> None:
        self.changes = Changes()
        self._archive = archive
        self._time_of = time_of
        self._selection = selection
        self._matches = matcher(selection.exclude)
        self._advance = advance

    def run(self) -> None:
        levels = [_Level(b"", self._children(self._archive.root))]
        while levels:
            level = levels[-1]
            node = next(level.children, None)
            if node is None:
                self._take(levels.pop())
            elif self._matches is not None and self._matches(node.path, node.record.is_dir):
                continue
            elif node.record.is_dir:
                levels.append(_Level(node.path, self._children(node)))
            elif node.record.type == FILE:
                self._note(level, node)

    def _children(self, folder: Node) -> Iterator[Node]:
        try:
            if self._selection.exclude_caches and self._is_cache(folder):
                tag = self._archive.tree.directory(folder).get(CACHE_TAG)
                yield from (tag,) if tag else ()
            else:
                yield from self._archive.children(folder)
        except (FormatError, SourceError) as error:
            self.changes.problems.append((folder.path, f"cannot be listed: {error}"))

    def _is_cache(self, folder: Node) -> bool:
        tag = self._archive.tree.directory(folder).get(CACHE_TAG)
        if tag is None or tag.record.type != FILE:
            return False
        try:
            return bytes(self._archive.read(tag, 0, len(CACHE_SIGNATURE))) == CACHE_SIGNATURE
        except XtarError:
            return False

    def _note(self, level: _Level, node: Node) -> None:
        time = self._time_of(node)
        if time is None:
            self.changes.undated += 1
            return
        level.names.append(os.fsdecode(node.path.rpartition(b"/")[2]))
        level.times.append(time)
        level.sizes.append(node.record.size)
        if len(level.names) == _PORTION:
            self._take(level)

    def _take(self, level: _Level) -> None:
        if level.names:
            self.changes.add(level.path, level.names, level.times, level.sizes)
            self._advance(len(level.names))
        level.names, level.times, level.sizes = [], [], []


def _time_of(archive: Archive, by: str) -> Callable[[Node], int | None]:
    if by == "mtime":
        return lambda node: node.record.mtime_ns
    name = archive.source.name
    if by != "ctime":
        raise UsageError(f"{name}: an archive keeps no {by}; use --by mtime, or give the folder")
    if archive.tree.locator is None:
        raise UsageError(f"{name}: its ctimes lie in the outermost archive's end, which is not here; use --by mtime")
    times = _source_ctimes(archive)
    return lambda node: times[node.record.ino] if node.record.ino < len(times) else None


def _source_ctimes(archive: Archive) -> array[int]:
    """The source's ctimes in nanoseconds by inode number in the archive, from its origin member. Raises UsageError."""
    assert archive.tree.locator
    place = archive.tree.locator.origin
    at, end = place.at, place.at + place.size
    times = array("q")
    try:
        at += block_length(archive.source.read_at(at, HEAD_SIZE))
        while at < end:
            length = block_length(archive.source.read_at(at, HEAD_SIZE))
            for ino, ctime, *_ in _inode_decoder.decode_lines(unpack_block(archive.source.read_at(at, length))):
                if not 0 <= ino - len(times) <= _MOST_MISSING:
                    continue  # another name of a hard link
                times.extend([0] * (ino - len(times)))
                times.append(parse_time(ctime))
            at += length
    except (FormatError, msgspec.MsgspecError, OverflowError):
        reason = "its record of ctimes is damaged; use --by mtime"
        raise UsageError(f"{archive.source.name}: {reason}") from None
    return times

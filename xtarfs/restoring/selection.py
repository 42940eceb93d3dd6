"""Which part of an archive's tree is asked for, and its walk in the archive's order."""

from __future__ import annotations

from collections.abc import Iterator

from ..reading.reader import Archive
from ..reading.tree import Node

Wanted = dict[bytes, "Wanted | None"]
"""Names to extract from a directory, each with what is wanted below it; None stands for everything."""


def select(archive: Archive, paths: list[bytes]) -> Wanted | None:
    """What `paths` ask for; None is everything. Raises NotFound, NotADirectory, DamagedError."""
    wanted: Wanted = {}
    for path in paths:
        archive.lookup(path)
        parts = [part for part in path.split(b"/") if part]
        level: Wanted | None = wanted
        for part in parts[:-1]:
            level = level.setdefault(part, {}) if level is not None else None
        if not parts:
            return None
        if level is not None:
            level[parts[-1]] = None
    return wanted if paths else None


def children(archive: Archive, node: Node, wanted: Wanted | None) -> Iterator[tuple[Node, Wanted | None]]:
    """The selected children of a directory in order, each with what is wanted below it. Raises DamagedError."""
    if wanted is None:
        for child in archive.children(node):
            yield child, None
        return
    for name in sorted(wanted):
        yield archive.lookup(node.child_path(name)), wanted[name]


def covers(wanted: Wanted | None, path: bytes) -> bool:
    """Whether a path is among what is to be extracted."""
    for part in path.split(b"/"):
        if wanted is None:
            return True
        if part not in wanted:
            return False
        wanted = wanted[part]
    return wanted is None

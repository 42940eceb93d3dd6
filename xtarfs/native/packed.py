"""Where an archive's packed data lies, for a reader that needs no more than a descriptor and numbers."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..filesystem.vfs import FileSystem
from ..reading.tree import StructuredDirectory, Tree


class Packed(NamedTuple):
    """descriptor: the archive, size: its bytes. root: start and length of the root's tar, then place, size and index
    length of its structure file. catalogue: where the copies of all structure files begin, 0 where there are none.
    cache: bytes that the reader may keep of what it unpacks."""

    descriptor: int
    size: int
    catalogue: int
    root: tuple[int, int, int, int, int]
    cache: int


def packed(filesystem: object) -> Packed | None:
    """None for what is no single archive with structure files."""
    if type(filesystem) is not FileSystem or type(filesystem.archive.tree) is not Tree:
        return None
    tree = filesystem.archive.tree
    descriptor = filesystem.archive.source.fileno()
    place = tree.root.record.structure
    if descriptor is None or place is None or not isinstance(tree.directory(tree.root), StructuredDirectory):
        return None
    size = min(os.lseek(descriptor, 0, os.SEEK_END), filesystem.archive.source.size)
    catalogue = tree.catalogue or 0
    at = catalogue + place.catalogue if catalogue else place.at
    return Packed(descriptor, size, catalogue, (0, size, at, place.size, place.index), filesystem.archive.cede_cache())

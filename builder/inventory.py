"""A tree's records without an archive: what a build would say of everything, but for places and checksums."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator

from xtarfs.attributes import read_xattrs
from xtarfs.format import tar
from xtarfs.format.records import Record
from xtarfs.format.tar import Mark

from .files import Job, describe, describe_link, describe_native
from .links import LinkTable
from .scan import Enter, Item, Leave, Step

_NO_MARK = Mark(bytes(6), 0, tar.ROLE_FILE)  # no tar header will bear it


def take_inventory(
    steps: Iterator[Step], links: LinkTable, problem: Callable[[bytes, str], None]
) -> Iterator[tuple[Step, Record | None]]:
    """Each step of a scanner with its record; None for the end of a directory.

    links: with all names counted. problem(path, reason) is told of what cannot be read, which is then left out.
    Inode numbers are those of a build.
    """
    ino = 0
    for step in steps:
        if isinstance(step, Leave):
            yield step, None
            continue
        if isinstance(step, Enter):
            ino += 1
            name = step.item.name if step.item else b"."
            yield step, describe(name, step.folder.stat, ino, read_xattrs(step.folder.fd))
            continue
        linked = step.stat.st_nlink > 1 and stat.S_ISREG(step.stat.st_mode)
        first = links.first(step.stat) if linked else None
        ino += 0 if first else 1
        try:
            yield step, _describe(step, links, *(first or (ino, b"")))
        except OSError as error:
            problem(step.path, f"cannot be read: {error.strerror}")
            continue
        if linked and not first:
            links.remember(step.stat, ino, step.path)


def _describe(item: Item, links: LinkTable, ino: int, link: bytes) -> Record:
    if not stat.S_ISREG(item.stat.st_mode):
        return describe_native(Job(item, _NO_MARK, ino))
    return describe_link(Job(item, _NO_MARK, ino, links.names(item.stat), link))

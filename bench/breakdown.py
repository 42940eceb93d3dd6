"""What the bytes of an archive of ours are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from xtarfs.format import tar, zip
from xtarfs.source import FileSource

DATA, ZIP, TAR = "packed content", "zip headers, chunk tables", "tar headers"
PADDING, ENDS, OTHER = "tar padding", "ends of tars", "intro, origin, locator, copies of chunk tables"
_OWN = {tar.ROLE_STRUCTURE: "structure files", tar.ROLE_CATALOGUE: "catalogue"}


def breakdown(archive: Path) -> Counter[str]:
    """Bytes by what they are for; together they are the archive's size."""
    found: Counter[str] = Counter()
    source = FileSource(archive)
    try:
        _count(source, 0, source.size, found)
    finally:
        source.close()
    return found


def _count(source: FileSource, start: int, end: int, found: Counter[str]) -> None:
    at = start
    for member in tar.members(source.read_at, start, end):
        found[TAR] += member.data - member.at
        found[PADDING] += tar.padding(member.header.size)
        at, size = member.end, member.header.size
        role = member.header.mark.role if member.header.mark else b""
        if role == tar.ROLE_DIRECTORY:
            _count(source, member.data, member.data + size, found)
        elif role == tar.ROLE_FILE:
            packed = zip.read_local(source.read_at, member.data)[0].packed
            found[DATA] += packed
            found[ZIP] += size - packed
        else:
            found[_OWN.get(role, OTHER)] += size
    found[ENDS] += end - at

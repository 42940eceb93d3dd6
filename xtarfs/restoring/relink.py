"""Further names of one file: where the first name is, and whether what bears another may become one of it."""

from __future__ import annotations

import os
import stat
from typing import IO, NamedTuple

from . import restore
from .restore import Folder

_READ = 1 << 20
_CONTENT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Name(NamedTuple):
    """A name in an open folder."""

    folder: Folder
    name: bytes

    def stat(self) -> os.stat_result:
        return os.stat(self.name, dir_fd=self.folder.fd, follow_symlinks=False)


def find(top: Folder, path: bytes) -> Name | None:
    """The regular file at a path below `top`, no symlink being followed; None if there is none. Raises FormatError."""
    *parts, name = path.split(b"/")
    try:
        for part in parts:
            top = restore.reopen(top, part)
        found = Name(top, name)
        return found if stat.S_ISREG(found.stat().st_mode) else None
    except OSError:
        return None


def are_one(a: Name, b: Name) -> bool:
    """Whether two names are of one file already. Raises OSError."""
    return os.path.samestat(a.stat(), b.stat())


def are_equal(a: Name, b: Name) -> bool:
    """Whether two regular files have the same bytes. Raises OSError."""
    if a.stat().st_size != b.stat().st_size:
        return False
    with _opened(a) as left, _opened(b) as right:
        while data := left.read(_READ):
            if data != right.read(_READ):
                return False
        return not right.read(1)


def _opened(place: Name) -> IO[bytes]:
    return open(os.open(place.name, _CONTENT, dir_fd=place.folder.fd), "rb")

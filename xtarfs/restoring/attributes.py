"""Owner, mode, time and extended attributes between a record and an object of the file system.

POSIX ACLs are extended attributes. Nothing here opens or follows a path that a user chose.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Callable
from functools import lru_cache

from ..errors import FormatError
from ..format.numbers import format_time
from ..format.records import SYMLINK, Record
from ..text import escape

Target = int | str
"""An open descriptor, or the `/proc/self/fd/N` of an O_PATH one, for what cannot be opened otherwise."""

_ACCESS_ACL, DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"


class Owners:
    """Which ids a record's owner has on this machine: by name first, by number where the name is unknown."""

    def __init__(self, *, numeric: bool = False, apply: bool = True) -> None:
        self._numeric = numeric
        self.apply = apply

    def ids(self, record: Record) -> tuple[int, int]:
        uid = None if self._numeric or not record.user else _uid(record.user)
        gid = None if self._numeric or not record.group else _gid(record.group)
        return record.uid if uid is None else uid, record.gid if gid is None else gid


@lru_cache(1024)
def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


@lru_cache(1024)
def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


def set_attributes(target: Target, record: Record, owners: Owners) -> list[str]:
    """Gives `target` all that the record says of it; returns what could not be set, in words.

    The order matters: a change of owner clears setuid bits and capabilities, an ACL changes the mode.
    A setuid or setgid bit is left off where the owner or group is not the recorded one: it would lend the wrong rights.
    """
    unset: list[str] = []

    def attempt(what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, OverflowError, ValueError, FormatError):
            unset.append(what)

    owner, group = _set_owner(target, record, owners, unset)
    if record.xattrs:
        for name, value in record.raw_xattrs.items():
            attempt(f"attribute {os.fsdecode(name)}", lambda n=name, v=value: os.setxattr(target, n, v))  # type: ignore[misc]
    if record.type != SYMLINK:
        mode = record.permissions
        for bit, kept, what in ((stat.S_ISUID, owner, "setuid bit"), (stat.S_ISGID, group, "setgid bit")):
            if mode & bit and not kept:
                mode &= ~bit
                unset.append(what)
        attempt("mode", lambda: os.chmod(target, mode))
    attempt("time", lambda: os.utime(target, ns=(record.mtime_ns, record.mtime_ns)))
    return unset


def _set_owner(target: Target, record: Record, owners: Owners, unset: list[str]) -> tuple[bool, bool]:
    """Whether the owner, and the group, is now the recorded one."""
    uid, gid = owners.ids(record)
    owner, group = uid == os.geteuid(), gid == os.getegid()
    if not owners.apply:
        return owner, group
    if _chown(target, uid, gid):
        return True, True
    group = _chown(target, -1, gid)
    if not owner:
        unset.append("owner")
    if not group:
        unset.append("group")
    return owner, group


def _chown(target: Target, uid: int, gid: int) -> bool:
    if gid < 0:
        return False
    try:
        os.chown(target, uid, gid)
    except (OSError, OverflowError):
        return False
    return True


def differences(target: Target, found: os.stat_result, record: Record, owners: Owners) -> dict[str, str]:
    """What `set_attributes` would change, each in words. Extended attributes that the record does not name may stay."""
    words = {}
    mode, owner, ids = stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid), owners.ids(record)
    if owner != ids:
        words["owner"] = f"owner {owner[0]}:{owner[1]} -> {ids[0]}:{ids[1]}"
    present = read_xattrs(target) if record.xattrs else {}
    for name, value in record.raw_xattrs.items():
        if present.get(name) != value:
            words[f"attribute {name!r}"] = f"attribute {escape(name)}"
    if record.type != SYMLINK and mode != record.permissions:
        words["mode"] = f"mode {mode:04o} -> {record.permissions:04o}"
    if found.st_mtime_ns != record.mtime_ns:
        words["time"] = f"time {format_time(found.st_mtime_ns)} -> {record.mtime}"
    return words


def read_xattrs(target: Target, *, follow: bool = True) -> dict[bytes, bytes]:
    """All extended attributes that can be read, POSIX ACLs among them."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listxattr(target, follow_symlinks=follow):
            with contextlib.suppress(OSError):
                found[os.fsencode(name)] = os.getxattr(target, name, follow_symlinks=follow)
    return found


def lends_acl(fd: int) -> bool:
    """Whether what is made in this directory inherits an ACL from it."""
    try:
        return DEFAULT_ACL in os.listxattr(fd)
    except OSError:
        return False


def drop_acls(fd: int) -> None:
    """Removes the ACLs of a file or directory, inherited or of before."""
    for name in (_ACCESS_ACL, DEFAULT_ACL):
        with contextlib.suppress(OSError):
            os.removexattr(fd, name)

"""The -o options of a mount: what fstab, mount(8) and users write, and what it asks for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct, field

from ..errors import MountError
from ..text import escape

MAX_READ = 1 << 20  # bytes; the kernel takes less where it cannot do as much

# What fstab and mount(8) put among the options and does not concern a read-only FUSE mount.
_IGNORED = {
    "ro", "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
    "async", "sync", "dirsync", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime",
    "strictatime", "nostrictatime", "lazytime", "nolazytime", "default_permissions",
}  # fmt: skip
_IGNORED_PREFIXES = ("x-", "X-", "comment=", "user=")
_PASSED_ON = {"allow_other", "allow_root", "dev", "nodev", "suid", "nosuid", "exec", "noexec"}
_VALUES = {
    "max_read": re.compile(r"[1-9]\d{3,8}"),
    "uid": re.compile(r"\d{1,10}"),
    "gid": re.compile(r"\d{1,10}"),
    "umask": re.compile(r"[0-7]{1,4}"),
    "idle_timeout": re.compile(r"\d+(\.\d+)?"),
    "log_file": re.compile(r".+"),
}


class Ownership(NamedTuple):
    """What a mount shows instead of the stored owner (None: as stored), and permission bits that it hides."""

    uid: int | None = None
    gid: int | None = None
    umask: int = 0


class MountOptions(Struct):
    """The -o options, sorted by whom they concern. `flags` go to libfuse as they are."""

    flags: set[str] = field(default_factory=set)
    max_read: int = MAX_READ
    ownership: Ownership = field(default_factory=Ownership)
    idle_timeout: float = 0.0
    log_file: str | None = None
    nonempty: bool = False
    writable_asked: bool = False


def parse_options(options: Iterable[str]) -> MountOptions:
    """Reads -o options, each maybe several with commas between. Raises MountError at the first unknown one."""
    parsed = MountOptions()
    for option in (part for text in options for part in text.split(",") if part):
        name, separator, value = option.partition("=")
        if option in _IGNORED or option.startswith(_IGNORED_PREFIXES):
            continue
        if option in _PASSED_ON:
            parsed.flags.add(option)
        elif option == "rw":
            parsed.writable_asked = True
        elif option == "nonempty":
            parsed.nonempty = True
        elif name not in _VALUES:
            raise MountError(f"unknown mount option: {shown(option)}")
        elif not separator or not _VALUES[name].fullmatch(value):
            raise MountError(f"mount option {name}: bad value {shown(value)!r}")
        else:
            _set_value(parsed, name, value)
    return parsed


def _set_value(parsed: MountOptions, name: str, value: str) -> None:
    if name in ("uid", "gid"):
        parsed.ownership = parsed.ownership._replace(**{name: int(value)})
    elif name == "umask":
        parsed.ownership = parsed.ownership._replace(umask=int(value, 8))
    elif name == "idle_timeout":
        parsed.idle_timeout = float(value)
    elif name == "max_read":
        parsed.max_read = int(value)
    else:
        parsed.log_file = os.path.abspath(value)


def kept_seconds(options: MountOptions, names_kept: int) -> int:
    """How long the kernel may keep names and attributes that stay as they are for `names_kept` seconds."""
    if options.idle_timeout:
        # Names that are in use must come back to us before the time is over, or a mount that is read
        # from the kernel's caches alone would look idle.
        return min(names_kept, max(1, int(options.idle_timeout / 2)))
    return names_kept


def escaped(value: str) -> str:
    """`value` such that libfuse takes it as one option's value, whatever bytes it holds."""
    return os.fsencode(value).decode("latin-1").replace("\\", "\\\\").replace(",", "\\,")


def shown(text: str) -> str:
    """`text`, a path or what a program said, on one printable line."""
    return escape(os.fsencode(text))

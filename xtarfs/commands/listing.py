"""What `xtar list` and `xtar info` show."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from typing import Any

from ..format import locator
from ..reading.reader import Archive
from ..reading.sets import SetTree
from ..reading.tree import Node
from ..text import escape, path_fields


def selected(archive: Archive, path: bytes, recursive: bool) -> Iterator[Node]:
    """The nodes that a listing of `path` shows: a directory's children or all below it, anything else itself."""
    node = archive.lookup(path)
    if not node.record.is_dir:
        yield node
    elif recursive:
        yield from archive.walk(node)
    else:
        yield from archive.children(node)


def long_line(node: Node) -> str:
    """As `ls -l` shows it, with full time and owner names or numbers."""
    record = node.record
    seconds, fraction = divmod(record.mtime_ns, 10**9)
    try:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) + f".{fraction:09d}"
    except (OverflowError, ValueError):
        when = record.mtime
    size = f"{record.major},{record.minor}" if record.type in ("char", "block") else str(record.size)
    target = f" -> {escape(record.raw_target)}" if record.type == "symlink" else ""
    return (
        f"{stat.filemode(record.st_mode)} {record.nlink:>3} {record.user or record.uid}/{record.group or record.gid}"
        f" {size:>12} {when} {escape(node.path)}{target}"
    )


def as_json(node: Node) -> dict[str, Any]:
    """A listing's entry; times are decimal strings of seconds since 1970."""
    record = node.record
    facts: dict[str, Any] = {
        **path_fields(node.path),
        "type": record.type,
        "mode": record.mode,
        "uid": record.uid,
        "gid": record.gid,
        "user": record.user,
        "group": record.group,
        "mtime": record.mtime,
        "size": record.size,
        "nlink": record.nlink,
        "ino": record.ino,
    }
    for key in ("sha256", "target", "target_b64", "link", "link_b64", "major", "minor", "packed", "method"):
        value = getattr(record, key)
        if value and not (record.is_dir and key in ("sha256", "method", "packed")):
            facts[key] = value
    if record.elsewhere:
        facts["archive"] = record.elsewhere.archive
    return facts


def info(archive: Archive) -> dict[str, Any]:
    """What the archive says of itself as a whole."""
    facts = archive.tree.locator
    if facts is None:
        return {"archive": archive.source.name, "size": archive.source.size, "id": None, "structure": "partial"}
    origin = locator.read_origin(archive.source.read_at, facts.origin)
    whole = archive.tree if isinstance(archive.tree, SetTree) else None
    return {
        "archive": archive.source.name,
        "format": facts.xtar,
        "writer": facts.writer,
        "id": archive.tree.identifier,
        "created": origin.created if origin else None,
        "host": origin.host if origin else None,
        "source": origin.source if origin else None,
        "files": archive.root.record.files if whole else facts.files,
        "directories": None if whole else facts.directories,
        "others": None if whole else facts.others,
        "bytes": archive.tree.content_size,
        "size": archive.source.size,
        "catalogue_size": facts.catalogue.size,
        "holders": [{"id": id, "name": name, "at_hand": there} for id, name, there in archive.holders()],
        "previous": facts.previous or None,
        "replaces": facts.replaces,
        "set": {"id": facts.set.id, "number": facts.set.number, "count": facts.set.count} if facts.set else None,
    }

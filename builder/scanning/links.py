"""Hard links: how many names of the tree an inode has, and which of them was stored first."""

from __future__ import annotations

import os

from .scratch import Scratch


class LinkTable:
    """Inodes of more than one name, by (device, inode)."""

    def __init__(self, work_dir: str) -> None:
        self._scratch = Scratch(
            work_dir, "CREATE TABLE link (key BLOB PRIMARY KEY, names INTEGER, ino INTEGER, path BLOB) WITHOUT ROWID"
        )

    def count(self, stat: os.stat_result) -> None:
        """One more name of this inode lies in the tree."""
        self._scratch.execute(
            "INSERT INTO link (key, names) VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET names = names + 1",
            (_key(stat),),
        )

    def names(self, stat: os.stat_result) -> int:
        """How many names of this inode were counted."""
        row = self._scratch.row("SELECT names FROM link WHERE key = ?", (_key(stat),))
        return int(row[0]) if row else 1

    def first(self, stat: os.stat_result) -> tuple[int, bytes] | None:
        """Inode number in the archive and path of the name that was stored first."""
        row = self._scratch.row("SELECT ino, path FROM link WHERE key = ? AND ino IS NOT NULL", (_key(stat),))
        return (int(row[0]), bytes(row[1])) if row else None

    def remember(self, stat: os.stat_result, ino: int, path: bytes) -> None:
        self._scratch.execute("UPDATE link SET ino = ?, path = ? WHERE key = ?", (ino, path, _key(stat)))

    def close(self) -> None:
        self._scratch.close()


def _key(stat: os.stat_result) -> bytes:
    return stat.st_dev.to_bytes(8, "big") + stat.st_ino.to_bytes(8, "big")

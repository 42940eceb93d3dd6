"""Hard links: how many names of the tree an inode has, and which of them was stored first.

Kept in a temporary SQLite file, so that a tree of millions of hard links costs disk and not memory.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3


class LinkTable:
    """Inodes of more than one name, by (device, inode). The file is made when the first one turns up."""

    def __init__(self, work_dir: str) -> None:
        self._work_dir = work_dir
        self._db: sqlite3.Connection | None = None

    def count(self, stat: os.stat_result) -> None:
        """One more name of this inode lies in the tree."""
        self._open().execute(
            "INSERT INTO link (key, names) VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET names = names + 1",
            (_key(stat),),
        )

    def names(self, stat: os.stat_result) -> int:
        """How many names of this inode were counted."""
        row = self._get("names", stat)
        return int(row) if row else 1

    def first(self, stat: os.stat_result) -> tuple[int, bytes] | None:
        """Inode number in the archive and path of the name that was stored first."""
        ino = self._get("ino", stat)
        path = self._get("path", stat)
        return (int(ino), bytes(path)) if isinstance(ino, int) and isinstance(path, bytes) else None

    def remember(self, stat: os.stat_result, ino: int, path: bytes) -> None:
        self._open().execute("UPDATE link SET ino = ?, path = ? WHERE key = ?", (ino, path, _key(stat)))

    def close(self) -> None:
        if self._db:
            self._db.close()
            self._db = None

    def _get(self, column: str, stat: os.stat_result) -> int | bytes | None:
        if self._db is None:
            return None
        row = self._db.execute(f"SELECT {column} FROM link WHERE key = ?", (_key(stat),)).fetchone()
        return row[0] if row else None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            import sqlite3

            handle, path = tempfile.mkstemp(prefix="xtar-links-", dir=self._work_dir)
            os.close(handle)
            self._db = sqlite3.connect(path, isolation_level=None)
            os.unlink(path)
            self._db.execute("PRAGMA journal_mode = OFF")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute(
                "CREATE TABLE link (key BLOB PRIMARY KEY, names INTEGER, ino INTEGER, path BLOB) WITHOUT ROWID"
            )
        return self._db


def _key(stat: os.stat_result) -> bytes:
    return stat.st_dev.to_bytes(8, "big") + stat.st_ino.to_bytes(8, "big")

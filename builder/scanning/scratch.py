"""A temporary SQLite database for what a build must look up again: a large tree costs disk and not memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3


class Scratch:
    """The file is made when it is first written to, in `work_dir`, and has no name there: nothing is left of it."""

    def __init__(self, work_dir: str, schema: str) -> None:
        self._work_dir = work_dir
        self._schema = schema
        self._db: sqlite3.Connection | None = None

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> None:
        self._open().execute(statement, values)

    def fill(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """One statement for every row."""
        self._open().executemany(statement, rows)

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
        """What a query finds, row by row; nothing in a database that was never written to."""
        return self._db.execute(query, values) if self._db else ()

    def row(self, query: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """The first that a query finds."""
        return next(iter(self.rows(query, values)), None)

    def close(self) -> None:
        if self._db:
            self._db.close()
            self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            import sqlite3

            handle, path = tempfile.mkstemp(prefix="xtar-", dir=self._work_dir)
            os.close(handle)
            self._db = sqlite3.connect(path, isolation_level=None)
            os.unlink(path)
            self._db.execute("PRAGMA journal_mode = OFF")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.executescript(self._schema)
            self._db.execute("BEGIN")
        return self._db

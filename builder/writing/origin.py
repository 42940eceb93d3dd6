"""The origin member: what differs from run to run, and what a later incremental copy compares."""

from __future__ import annotations

import os
import time
from typing import IO

import msgspec

from xtarfs.errors import UsageError
from xtarfs.format.locator import Origin
from xtarfs.format.numbers import format_time
from xtarfs.format.structure import BLOCK_TARGET, pack_block


class OriginLog:
    """What differs from run to run: when and where the archive was made, and each source inode's ctime and number.

    A later incremental copy compares these; they stay outside the archive's identifier.
    """

    def __init__(self, spool: IO[bytes], source: str) -> None:
        self._spool = spool
        self._lines: list[bytes] = []
        self._size = 0
        created = _now()
        facts = Origin(created=created, host=os.uname().nodename, source=os.path.abspath(source))
        self._spool.write(pack_block(msgspec.json.encode(facts) + b"\n"))

    def add(self, ino: int, attributes: os.stat_result) -> None:
        changed = format_time(attributes.st_ctime_ns).encode()
        self.add_line(b'[%d,"%s",%d,%d]\n' % (ino, changed, attributes.st_ino, attributes.st_dev))

    def add_line(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BLOCK_TARGET:
            self._flush()

    def finish(self) -> IO[bytes]:
        self._flush()
        return self._spool

    def _flush(self) -> None:
        self._spool.write(pack_block(b"".join(self._lines)))
        self._lines, self._size = [], 0


def _now() -> int:
    """Seconds since 1970, or what SOURCE_DATE_EPOCH says (reproducible-builds.org). Raises UsageError."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    if fixed and not fixed.isdecimal():
        raise UsageError(f"SOURCE_DATE_EPOCH={fixed}: is not a number of seconds")
    return int(fixed or time.time())

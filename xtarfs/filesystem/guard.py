"""What keeps a mount alive whatever an operation raises."""

from __future__ import annotations

import errno
import logging

log = logging.getLogger("xtarfs")


class Guard:
    """Gives the errno for what an operation raised; what is a fault of ours is logged, each once."""

    def __init__(self) -> None:
        self._reported: set[tuple[str, str]] = set()

    def errno_of(self, operation: str, error: BaseException) -> int:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        # A reader that meets a fault meets it for every page; once is enough for the log.
        key = (operation, repr(error)[:200])
        if key not in self._reported and len(self._reported) < 1000:
            self._reported.add(key)
            log.error("%s failed, answered EIO: %r", operation, error, exc_info=error)
        return errno.EIO

"""Which archive is where: the files beside an archive, and those that the user names, by their identifiers."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

SUFFIX = ".xtar"
_PATIENCE = 1.0  # seconds that pass before a folder is looked through again for what was not there


class Identity(NamedTuple):
    """What a file says of itself as an archive: its identifier, its set's, and those that it replaces."""

    id: str
    replaces: tuple[str, ...] = ()
    set: str = ""


Identify = Callable[[str], Identity | None]
"""Tells what archive a file is, None where it is none. Raises nothing."""


State = tuple[int, int, int, int]
"""What changes when a file does."""


class _Seen(NamedTuple):
    state: State
    identity: Identity | None


class Shelf:
    """Finds archives by identifier, beside `path` and in `others`: files, or folders of files.

    What is missing is looked for again when it is asked for again, so an archive may come later. Files called
    `.xtar` come first; others are looked at only if none of those will do. Any number of threads may ask.
    """

    def __init__(self, path: str, others: Iterable[str], identify: Identify) -> None:
        self._places = [*others, os.path.dirname(path) or "."]
        self._identify = identify
        self._seen: dict[str, _Seen] = {}
        self._looked = -_PATIENCE
        self._lock = threading.Lock()

    def find(self, identifier: str) -> list[str]:
        """Paths of the archive itself; empty if it is not there."""
        return self._search(lambda identity: identity.id == identifier)

    def replacing(self, identifier: str) -> list[str]:
        """Paths of archives that hold what the archive held."""
        return self._search(lambda identity: identifier in identity.replaces)

    def of_set(self, identifier: str) -> list[str]:
        """Paths of volumes of a set, not of all of them if some were seen before."""
        return self._search(lambda identity: identity.set == identifier)

    def _search(self, wanted: Callable[[Identity], bool]) -> list[str]:
        with self._lock:
            found = self._known(wanted)
            if found or time.monotonic() - self._looked < _PATIENCE:
                return found
            for named in (True, False):
                for path in self._files(named):
                    self._look_at(path)
                if found := self._known(wanted):
                    return found
            self._looked = time.monotonic()
            return []

    def _known(self, wanted: Callable[[Identity], bool]) -> list[str]:
        """Of the files seen, those that are still what they were."""
        found = [path for path, seen in self._seen.items() if seen.identity and wanted(seen.identity)]
        for path in found:
            if state_of(path) != self._seen[path].state:
                del self._seen[path]
        return [path for path in found if path in self._seen]

    def _look_at(self, path: str) -> None:
        state = state_of(path)
        seen = self._seen.get(path)
        if state and not (seen and seen.state == state):
            self._seen[path] = _Seen(state, self._identify(path))

    def _files(self, named: bool) -> Iterator[str]:
        """Candidates: those called `.xtar`, or the others."""
        for place in self._places:
            try:
                names = sorted(os.listdir(place))
            except NotADirectoryError:
                names, place = [os.path.basename(place)], os.path.dirname(place)
            except OSError:
                continue
            for name in names:
                if name.endswith(SUFFIX) == named:
                    yield os.path.join(place, name)


def state_of(path: str) -> State | None:
    """None for what is no regular file."""
    try:
        attributes = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(attributes.st_mode):
        return None
    return attributes.st_dev, attributes.st_ino, attributes.st_size, attributes.st_mtime_ns

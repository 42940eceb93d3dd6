"""Copies of a source: what archives say of themselves and of each other, volumes of one set taken together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from msgspec import Struct

from ..errors import DamagedError, NotAnArchive, SourceError, XtarError
from ..format.locator import Locator, Origin, read_origin
from ..format.structure import FORMAT
from ..source import FileSource, Source
from ..text import escape
from .opening import with_parity
from .shelf import state_of
from .tree import find_locator


class Copy(Struct, frozen=True, eq=False):
    """A copy of a source as one archive or as a set of volumes: its files, and what the first of them says of itself.

    ids: the identifiers that records of other archives may know it by. modified: when its first file was, in ns.
    """

    paths: tuple[str, ...]
    facts: Locator
    origin: Origin
    ids: frozenset[str]
    modified: int

    @property
    def path(self) -> str:
        return self.paths[0]

    @property
    def id(self) -> str:
        return self.facts.set.id if self.facts.set else self.facts.id

    @property
    def needs(self) -> frozenset[str]:
        """Identifiers of other archives that hold data of this copy's tree."""
        return frozenset(base.id for base in self.facts.base) - self.ids

    @property
    def missing(self) -> int:
        """How many volumes of the set are not there."""
        return self.facts.set.count - len(self.paths) if self.facts.set else 0


def read_copy(path: str) -> Copy:
    """What the archive at `path` says of itself; a volume is taken alone.

    Raises SourceError, NotAnArchive, and DamagedError where what it says of itself is damaged.
    """
    source = with_parity(FileSource(path))[0]
    try:
        facts = find_locator(source)
        state = state_of(path)
        if facts is None:
            raise NotAnArchive(f"{path}: is not a whole archive; if it was one, 'xtar repair' or 'xtar recover' it")
        if facts.xtar != FORMAT:
            version = escape(facts.xtar.encode())
            raise NotAnArchive(f"{path}: is of format {version}, this program reads {FORMAT}")
        origin = _origin(source, facts)
    finally:
        source.close()
    if origin is None:
        raise DamagedError(f"{path}: what says when and where it was made is damaged; 'xtar repair' it first")
    ids = frozenset((facts.id, facts.set.id) if facts.set else (facts.id,))
    return Copy((path,), facts, origin, ids, state[-1] if state else 0)


def read_copies(paths: Iterable[str]) -> tuple[list[Copy], dict[str, XtarError]]:
    """The copies that the files are, in the order of their first files; and why which file is none."""
    copies: dict[str, Copy] = {}
    troubles: dict[str, XtarError] = {}
    for path in paths:
        try:
            copy = read_copy(path)
        except (SourceError, NotAnArchive, DamagedError) as error:
            troubles[path] = error
            continue
        key = copy.id if copy.facts.set else path
        first = copies.get(key)
        copies[key] = _together(first, copy) if first else copy
    return list(copies.values()), troubles


def _together(first: Copy, more: Copy) -> Copy:
    return Copy(first.paths + more.paths, first.facts, first.origin, first.ids | more.ids, first.modified)


def _origin(source: Source, facts: Locator) -> Origin | None:
    for read in (source.read_at, lambda offset, size: source.heal(offset, size) or b""):
        with suppress(SourceError):
            if origin := read_origin(read, facts.origin):
                return origin
    return None


Links = dict[Copy, set[Copy]]
"""Each copy with those that it builds on directly."""


def links(copies: Sequence[Copy]) -> Links:
    serving: dict[str, list[Copy]] = {}
    for copy in copies:
        for identifier in copy.ids.union(copy.facts.replaces):
            serving.setdefault(identifier, []).append(copy)
    return {
        copy: {
            other
            for identifier in copy.needs | {copy.facts.previous}
            for other in serving.get(identifier, ())
            if other is not copy
        }
        for copy in copies
    }


def below(top: Copy, known: Links) -> set[Copy]:
    """The copy itself and all that it builds on, however indirectly."""
    found, waiting = {top}, [top]
    while waiting:
        more = known[waiting.pop()] - found
        found |= more
        waiting += more
    return found


def in_order(copies: Sequence[Copy]) -> list[Copy]:
    """The newest first; of one second, what builds on others before what it builds on, and what was written later."""
    known = links(copies)

    def age(copy: Copy) -> tuple[int, int, int, str]:
        return -copy.origin.created, -len(below(copy, known)), -copy.modified, copy.path

    return sorted(copies, key=age)

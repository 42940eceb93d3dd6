"""What `xtar prune` is going to do with each archive of a folder, and why.

Reads what archives say of themselves, their catalogues' checksums, and the records of copies that lose an archive
which they need.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from msgspec import Struct, field

from xtarfs.errors import UsageError, XtarError
from xtarfs.format import codec
from xtarfs.format.records import holders_of
from xtarfs.reading.copies import Copy, below, links, read_copies, read_copy
from xtarfs.reading.holders import MOST_HOPS, find_again
from xtarfs.reading.opening import with_parity
from xtarfs.reading.reader import Archive
from xtarfs.reading.shelf import SUFFIX
from xtarfs.reading.tree import Node, Tree
from xtarfs.source import FileSource

from .retention import Policy, reasons, series

KEEP, NEEDED, REWRITE, REMOVE = "keep", "needed", "rewrite", "remove"
LEFTOVER = ".before-prune"  # under NAME and this, a copy that is rewritten stays as it was until all is done
_PIECE = 1 << 20


class Fate(Struct, eq=False):
    """What becomes of a copy. why: the rules that keep it, or the archives that it is needed by or takes data from.

    lost: identifiers of archives that hold data of a copy to be rewritten, and that go or are rewritten themselves.
    """

    copy: Copy
    action: str
    why: list[str] = field(default_factory=list)
    lost: frozenset[str] = frozenset()


class Plan(Struct):
    """fates: series by series, the newest copy first. rewrites: those to be rewritten, in the order to do it in.

    left_alone: files that are damaged or incomplete, and why.
    """

    fates: list[Fate]
    rewrites: list[Fate]
    left_alone: dict[str, str]


def make_plan(folder: str, policy: Policy, *, rewrite: bool) -> Plan:
    """Raises UsageError where the folder cannot be read."""
    copies, olds, left_alone = _scan(folder)
    fates = _fates(copies, policy)
    known = {identifier for copy in copies for identifier in copy.ids.union(copy.facts.replaces)}
    for old in olds:
        if old.ids <= known:
            fates.append(Fate(old, REMOVE, ["left by a prune that was interrupted"]))
        else:
            left_alone[old.path] = "left by a prune that was interrupted, and nothing else holds it"
    rewrites = _Planner(fates, {path: _needs_of_wreck(path) for path in left_alone}, rewrite).run()
    return Plan(fates, rewrites, left_alone)


# -- what is there ---------------------------------------------------------------------------------------------


def _scan(folder: str) -> tuple[list[Copy], list[Copy], dict[str, str]]:
    """The sound copies; what an interrupted prune has left; files that are to be left alone, and why."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None
    copies, troubles = read_copies(os.path.join(folder, name) for name in names if name.endswith(SUFFIX))
    olds, _ = read_copies(os.path.join(folder, name) for name in names if name.endswith(SUFFIX + LEFTOVER))
    left_alone = {path: _reason(path, error) for path, error in troubles.items()}
    for copy in copies:
        if copy.missing:
            why = f"{copy.missing} of the {len(copy.paths) + copy.missing} volumes are not there"
        elif not all(map(_has_sound_catalogue, copy.paths)):
            why = "its catalogue is damaged; 'xtar repair' it"
        else:
            continue
        left_alone |= dict.fromkeys(copy.paths, why)
    return [copy for copy in copies if copy.path not in left_alone], olds, left_alone


def _reason(path: str, error: XtarError) -> str:
    return str(error).removeprefix(f"{path}: ")


def _has_sound_catalogue(path: str) -> bool:
    place = read_copy(path).facts.catalogue
    source = FileSource(path)
    try:
        crc = 0
        for offset in range(0, place.size, _PIECE):
            crc = codec.crc32(source.read_at(place.at + offset, min(_PIECE, place.size - offset)), crc)
        return f"{crc:08x}" == place.crc32
    except XtarError:
        return False
    finally:
        source.close()


def _needs_of_wreck(path: str) -> frozenset[str]:
    """Identifiers of the archives that what is left of an archive leads to."""
    found: set[str] = set()
    try:
        source = with_parity(FileSource(path))[0]
    except XtarError:
        return frozenset()
    try:
        tree = Tree(source)
        if tree.locator:
            return frozenset(base.id for base in tree.locator.base)
        for node in tree.walk():
            found |= holders_of(node.record)
    except XtarError:
        pass  # what cannot be read is of no use to it either
    finally:
        source.close()
    return frozenset(found)


# -- what becomes of it ----------------------------------------------------------------------------------------


def _fates(copies: Sequence[Copy], policy: Policy) -> list[Fate]:
    """What the rules alone say."""
    superseded = {copy: other for copy in copies for other in copies if _supersedes(other, copy)}
    fates = [
        Fate(copy, KEEP if why else REMOVE, why)
        for group in series([copy for copy in copies if copy not in superseded])
        for copy, why in zip(group, reasons([copy.origin.created for copy in group], policy), strict=True)
    ]
    return fates + [
        Fate(copy, REMOVE, [f"{name_of(other)} has the same tree and needs fewer archives"])
        for copy, other in superseded.items()
    ]


def _supersedes(other: Copy, copy: Copy) -> bool:
    """Whether `other` is the same copy in another form: merged, or rewritten by a prune that was interrupted."""
    one, two = copy.facts, other.facts
    same = (one.tag, one.origin.size, one.origin.crc32) == (two.tag, two.origin.size, two.origin.crc32)
    return same and copy.id in two.replaces and other.id not in one.replaces


def name_of(copy: Copy) -> str:
    return os.path.basename(copy.path)


class _Planner:
    """Settles which copies must stay for others' sake, and which are rewritten so that others can go.

    wrecks: files left alone, with what they need; they can no more be rewritten than sets of volumes can.
    """

    def __init__(self, fates: list[Fate], wrecks: dict[str, frozenset[str]], rewrite: bool) -> None:
        self._fates = fates
        self._wrecks = wrecks
        kept = {fate.copy: fate for fate in fates if fate.action == KEEP}
        known = links(list(kept))
        self._kept = [kept[copy] for copy in sorted(kept, key=lambda copy: (len(below(copy, known)), copy.path))]
        self._fixed = {fate for fate in self._kept if fate.copy.facts.set or not rewrite}

    def run(self) -> list[Fate]:
        """The rewrites in their order; sets all fates."""
        while True:
            rewrites: list[Fate] = []
            if self._settle(rewrites):
                break
        for fate in rewrites:
            fate.action = REWRITE
            gone = {name_of(other.copy) for other in self._going(rewrites) for one in fate.lost if _serves(other, one)}
            fate.why.append("takes data from " + " and ".join(sorted(gone)))
        return rewrites

    def _settle(self, rewrites: list[Fate]) -> bool:
        """Fills `rewrites`; False where something was found that must stay as it is, so that all is to be seen anew."""
        for fate in self._kept:
            lost = self._lost(fate.copy.needs, rewrites)
            if not lost or _After(self._fates, rewrites, lost).reads_on(fate.copy):
                continue
            if fate not in self._fixed:
                fate.lost = lost
                rewrites.append(fate)
            elif self._hold(lost, rewrites, name_of(fate.copy)):
                return False
        return not any(
            self._hold(self._lost(needs, rewrites), rewrites, os.path.basename(path))
            for path, needs in self._wrecks.items()
        )

    def _hold(self, lost: Iterable[str], rewrites: list[Fate], wanted_by: str) -> bool:
        """Has what holds the data of the lost archives stay as it is; whether that changes anything."""
        going = self._going(rewrites)
        holders = {fate for identifier in lost if (fate := _first(going, identifier))}
        for fate in holders:
            if fate.action == REMOVE:
                fate.action, fate.why = NEEDED, [f"holds data of {wanted_by}"]
            else:
                self._fixed.add(fate)
        return bool(holders)

    def _going(self, rewrites: list[Fate]) -> list[Fate]:
        """What goes, or gets another identifier."""
        return [fate for fate in self._fates if fate.action == REMOVE or fate in rewrites]

    def _lost(self, needs: Iterable[str], rewrites: list[Fate]) -> frozenset[str]:
        """Of the identifiers, and those that they lead to, those of archives that go or get another one."""
        stays = {i for fate in self._fates if fate.action != REMOVE and fate not in rewrites for i in fate.copy.ids}
        going = {i for fate in self._going(rewrites) for i in fate.copy.ids}
        going |= {i for fate in self._fates if fate.action == REMOVE for i in fate.copy.facts.replaces}
        return frozenset(self._reached(needs) & (going - stays))

    def _reached(self, needs: Iterable[str]) -> set[str]:
        """The identifiers, and those of archives that replace missing ones, and what these need in turn."""
        found: set[str] = set()
        waiting = list(needs)
        while waiting:
            identifier = waiting.pop()
            if identifier in found:
                continue
            found.add(identifier)
            if not any(identifier in fate.copy.ids for fate in self._fates):
                for fate in self._fates:
                    waiting += fate.copy.ids | fate.copy.needs if _serves(fate, identifier) else ()
        return found


class _After:
    """The folder as it will be: whether copies that are left as they are can be read then.

    lost: identifiers of archives that will not be there any more.
    """

    def __init__(self, fates: list[Fate], rewrites: list[Fate], lost: frozenset[str]) -> None:
        self._lost = lost
        self._stays = [fate for fate in fates if fate.action != REMOVE]
        self._absorbed = {fate: frozenset(absorbed_by(fate, fates)) for fate in rewrites}
        self._exact = {i for fate in self._stays if fate not in self._absorbed for i in fate.copy.ids}
        self._trees: dict[Fate, Tree] = {}

    def reads_on(self, copy: Copy) -> bool:
        """Whether all files of the copy that can be read now can be read then."""
        with ExitStack() as stack:
            self._stack = stack
            archive = stack.enter_context(Archive.open(copy.path))
            return all(self._is_served(node, frozenset(), copy, 0) for node in archive.walk() if not node.record.link)

    def _is_served(self, node: Node, taken_over: frozenset[str], copy: Copy, hops: int) -> bool:
        """Whether the data of a file of `copy` is found. taken_over: what that will then hold itself."""
        for identifier in holders_of(node.record) - taken_over - self._exact:
            takers = [fate for fate in self._stays if fate.copy is not copy and self._takes(fate, identifier)]
            if not takers and identifier not in self._lost:
                continue  # it is not in this folder now either
            if hops == MOST_HOPS or not any(self._finds(fate, node, hops) for fate in takers):
                return False
        return True

    def _takes(self, fate: Fate, identifier: str) -> bool:
        return identifier in self._absorbed.get(fate, fate.copy.facts.replaces)

    def _finds(self, taker: Fate, node: Node, hops: int) -> bool:
        if taker not in self._trees:
            self._trees[taker] = self._stack.enter_context(Archive.open(taker.copy.path)).tree
        found = find_again(self._trees[taker], node)
        taken_over = taker.lost if taker in self._absorbed else frozenset[str]()
        return found is not None and self._is_served(found, taken_over, taker.copy, hops + 1)


def absorbed_by(fate: Fate, fates: Iterable[Fate]) -> list[str]:
    """The identifiers in whose place a rewritten copy stands."""
    direct = [*sorted(fate.copy.ids), *sorted(fate.lost)]
    inherited = list(fate.copy.facts.replaces)
    there: set[str] = set()
    reached: set[str] = set()
    for other in fates:
        there |= other.copy.ids
        reached |= fate.copy.needs.intersection(other.copy.facts.replaces)
        if other.copy.ids & fate.lost:
            inherited += other.copy.facts.replaces
    direct += sorted(reached - there)  # what it reaches through others now, it will lead to itself
    return list(dict.fromkeys(direct + inherited))


def _serves(fate: Fate, identifier: str) -> bool:
    return identifier in fate.copy.ids or identifier in fate.copy.facts.replaces


def _first(fates: Iterable[Fate], identifier: str) -> Fate | None:
    """The archive of that identifier, or else the first that replaces it."""
    serving = [fate for fate in fates if _serves(fate, identifier)]
    return next((fate for fate in serving if identifier in fate.copy.ids), serving[0] if serving else None)

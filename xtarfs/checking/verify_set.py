"""Verify of a set of volumes: each volume by itself, and that together they hold what the set's catalogue says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from lru import LRU

from ..errors import DamagedError, ElsewhereError, XtarError
from ..format import codec
from ..format.records import FILE
from ..reading.content import merged, whole
from ..reading.reader import Archive
from ..reading.sets import SetTree
from ..reading.tree import Node
from ..reading.volume_names import number_of, stem_of, volumes_beside
from ..text import show
from .verify import Damage, VerifyResult, further_names, verify

_OPEN_VOLUMES = 3
Ranges = tuple[tuple[int, int], ...]


def verify_set(archive: Archive, progress: Callable[[int], None] = lambda size: None, jobs: int = 0) -> VerifyResult:
    """As `verify`, of all volumes of the set that `archive` shows. What lies on a volume that is missing is damaged."""
    assert isinstance(archive.tree, SetTree)
    return _SetVerification(archive, archive.tree).run(progress, jobs)


class _SetVerification:
    def __init__(self, archive: Archive, tree: SetTree) -> None:
        self._archive = archive
        self._tree = tree
        self._catalogues = tree.catalogues
        self._result = VerifyResult(identifier=tree.catalogues.facts.id)
        self._damage: dict[bytes, Damage] = {}
        # What was found in the volumes: of members, by volume and place; of anything else, by path.
        self._members: dict[tuple[str, int], Damage] = {}
        self._volumes: LRU[str, Archive] = LRU(_OPEN_VOLUMES, callback=lambda _, volume: volume.close())

    def run(self, progress: Callable[[int], None], jobs: int) -> VerifyResult:
        for identifier in self._catalogues.volumes:
            path = self._catalogues.path_of(identifier)
            if path:
                self._verify_volume(identifier, path, progress, jobs)
            else:
                self._note_unrecognised(identifier)
        try:
            self._check_tree()
        except DamagedError as error:
            self._report(b"", (), str(error))
        for where, what in self._tree.damage:
            if where not in self._damage:
                self._report(where, (), what)
        for volume in self._volumes.values():
            volume.close()
        self._result.damaged = [self._damage[path] for path in sorted(self._damage)]
        return self._result

    def _report(self, path: bytes, ranges: Ranges, reason: str, repairable: bool = False) -> None:
        known = self._damage.get(path)
        if known:
            reason = known.reason if reason in known.reason else f"{known.reason}; {reason}"
            ranges, repairable = tuple(merged({*known.ranges, *ranges})), repairable and known.repairable
        self._damage[path] = Damage(path, ranges, reason, repairable)

    # -- volumes by themselves -------------------------------------------------------------------------------

    def _verify_volume(self, identifier: str, path: str, progress: Callable[[int], None], jobs: int) -> None:
        name = self._catalogues.describe(identifier)
        with Archive.open(path, alone=True) as volume:
            found = verify(volume, progress, jobs)
            if found.identifier != identifier:
                self._report(b"", (), f"{name}: has another identifier than the set's catalogue says")
            for damage in found.damaged:
                node = _lookup(volume, damage.path)
                if node and node.record.type == FILE and not (node.record.elsewhere or node.record.parts):
                    self._members[identifier, node.base + node.record.at] = damage
                else:
                    self._report(damage.path, damage.ranges, f"{name}: {damage.reason}", damage.repairable)

    def _note_unrecognised(self, identifier: str) -> None:
        """A file that is called like a volume that is missing."""
        number = self._catalogues.number_of(identifier)
        for path in volumes_beside(stem_of(self._archive.source.name)):
            if number_of(path) == number:
                self._report(b"", (), f"{path}: is too damaged to be recognised as a volume of this set, or is none")

    # -- the set ---------------------------------------------------------------------------------------------

    def _check_tree(self) -> None:
        self._check_structure(self._archive.root, self._catalogues.facts.id)
        for node in self._archive.walk():
            record = node.record
            if record.is_dir:
                self._check_structure(node, record.sha256)
            if record.type != FILE:
                continue
            self._result.files += 1
            self._result.content += record.size
            if record.elsewhere and self._catalogues.number_of(record.elsewhere.archive):
                self._check_whole(node, record.elsewhere.archive)
            elif record.parts:
                self._check_parts(node)
        for further in further_names(self._archive, self._damage):
            self._report(*further)

    def _check_structure(self, node: Node, expected: str) -> None:
        place = node.record.structure
        assert place
        for source, _, facts in self._catalogues.whole():
            if codec.sha256(source.read_at(facts.catalogue.at + place.catalogue, place.size)).hex() == expected:
                return
        self._report(node.path, (), "its structure in the set's catalogue is damaged")

    def _check_whole(self, node: Node, identifier: str) -> None:
        record = node.record
        volume = self._open(identifier)
        if volume is None and not record.size:
            return  # there is nothing that could be missing
        if volume is None:
            where = self._catalogues.describe(identifier)
            self._report(node.path, whole(record), f"its data lies in {where}, which is not at hand")
            return
        damage = self._members.get((identifier, record.at))
        if damage:
            self._report(node.path, damage.ranges, damage.reason, damage.repairable)
        own = _lookup(volume, node.path)
        if own is None or (own.base + own.record.at, own.record.sha256) != (record.at, record.sha256):
            self._report(node.path, whole(record), "the set's catalogue and the volume do not agree on it")

    def _check_parts(self, node: Node) -> None:
        start, hurt = 0, False
        for part in node.record.parts:
            damage = self._members.get((part.archive, part.at))
            if damage:
                hurt = True
                ranges = tuple((start + first, start + end) for first, end in damage.ranges)
                self._report(node.path, ranges, damage.reason, damage.repairable)
            start += part.size
        if not hurt:
            self._check_content(node)

    def _check_content(self, node: Node) -> None:
        """That sound parts are the right ones."""
        digest, lost = hashlib.sha256(), []
        try:
            for piece in self._archive.pieces(node):
                digest.update(piece.data)
                if piece.error:
                    lost.append((piece.start, piece.end))
            self._archive.require_at_hand(node)
        except ElsewhereError as error:
            ranges = tuple(merged(lost)) or whole(node.record)
            self._report(node.path, ranges, str(error).removeprefix(f"{show(node.path)}: "))
            return
        if lost or digest.hexdigest() != node.record.sha256:
            self._report(node.path, tuple(merged(lost)) or whole(node.record), "its parts do not fit together")

    def _open(self, identifier: str) -> Archive | None:
        volume: Archive | None = self._volumes.get(identifier)
        path = None if volume else self._catalogues.path_of(identifier)
        if path:
            volume = self._volumes[identifier] = Archive.open(path, alone=True)
        return volume


def _lookup(volume: Archive, path: bytes) -> Node | None:
    try:
        return volume.lookup(path)
    except XtarError:
        return None

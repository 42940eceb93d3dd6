"""The tree of a set of volumes: read from the set's catalogue, in whichever volume a sound copy of it lies."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from ..errors import DamagedError, ElsewhereError, FormatError, SourceError, XtarError
from ..format import structure
from ..format.locator import Base, Locator, Place, VolumeSet
from ..format.records import Identifier, Record, Structure
from ..source import FileSource, Source
from ..text import escape, show
from .opening import with_parity
from .shelf import Shelf
from .tree import Directory, Node, StructuredDirectory, Tree, find_locator
from .volume_names import stem_of, volume_path

_decoder = msgspec.json.Decoder(list[Identifier])


class Volume(NamedTuple):
    """An open volume. facts: what its locator says of the set."""

    source: Source
    locator: Locator
    facts: VolumeSet


class Catalogues:
    """The copies of a set's catalogue: that of the volume at hand, `own`, then its siblings', opened when needed.

    volumes: the identifiers of all, in order; name: of the set, by the file at hand.
    """

    def __init__(self, own: Volume, shelf: Shelf) -> None:
        """Raises DamagedError if no volume that is there has a sound list of all."""
        self.facts = own.facts
        self._shelf = shelf
        self._own = own
        self._opened: dict[str, Volume | None] = {}
        self._lock = threading.Lock()
        self.volumes: list[str] = []
        try:
            self.volumes = self._read_volumes()
        except BaseException:
            self.close()
            raise
        self._numbers = {identifier: number for number, identifier in enumerate(self.volumes, 1)}
        self.name = os.path.basename(stem_of(own.source.name))

    def close(self) -> None:
        for opened in self._opened.values():
            if opened:
                opened.source.close()

    def whole(self) -> Iterator[Volume]:
        """The volumes at hand that have the catalogue of the whole set, not only the list of volumes."""
        return (volume for volume in self._at_hand() if volume.facts.catalogue.size > volume.facts.head)

    def describe(self, identifier: str) -> str | None:
        """What to call a volume: by number and name of the set; None if it is none of them."""
        number = self.number_of(identifier)
        return f"volume {number} of {self.facts.count} of {self.name}" if number else None

    def number_of(self, identifier: str) -> int | None:
        """A volume's number, from 1; None if it is none of the set."""
        return self._numbers.get(identifier)

    def path_of(self, identifier: str) -> str | None:
        """Where a volume is; None if it is not at hand."""
        if self.number_of(identifier) == self.facts.number:
            return self._own.source.name
        return next(iter(self._shelf.find(identifier)), None)

    def _at_hand(self) -> Iterator[Volume]:
        """All volumes that are there; as long as their identifiers are not known, by what they say of their set."""
        yield self._own
        if not self.volumes:
            yield from filter(None, map(self._open, self._shelf.of_set(self.facts.id)))
        for identifier in self._sought():
            for path in self._shelf.find(identifier)[:1]:
                opened = self._open(path)
                if opened:
                    yield opened

    def _sought(self) -> list[str]:
        """Identifiers of the siblings, the last one, which has the catalogue in any case, first."""
        return [each for each in reversed(self.volumes) if each != self.volumes[self.facts.number - 1]]

    def _open(self, path: str) -> Volume | None:
        with self._lock:
            if path not in self._opened:
                self._opened[path] = self._try_open(path)
            return self._opened[path]

    def _try_open(self, path: str) -> Volume | None:
        try:
            source, _ = with_parity(FileSource(path))
        except XtarError:
            return None
        facts = find_locator(source)
        if facts and facts.set and facts.set.id == self.facts.id:
            return Volume(source, facts, facts.set)
        source.close()
        return None

    def _read_volumes(self) -> list[str]:
        for source, _, facts in self._at_hand():
            for read in (source.read_at, source.heal):
                try:
                    text = structure.unpack_block(
                        read(facts.catalogue.at, min(facts.head, facts.catalogue.size)) or b""
                    )
                    volumes = _decoder.decode(text)
                except (FormatError, SourceError, msgspec.MsgspecError):
                    continue
                if len(volumes) == self.facts.count >= self.facts.number > 0:
                    return volumes
        raise DamagedError(f"{self.facts.id[:12]}: the list of its volumes is damaged in all that are at hand")


class SetDirectory(StructuredDirectory):
    """A directory as the set's catalogue has it. Its files lie in volumes, their places being absolute there."""

    placed = False

    def __init__(self, tree: SetTree, path: bytes, place: Structure, first: int) -> None:
        """first: where in the catalogue the structure files of what is below it begin, or later."""
        self._set = tree
        self._first = first
        super().__init__(tree, path, place.catalogue, place.catalogue, place)

    def end_of(self, record: Record, before: int) -> int:
        """Raises DamagedError for a directory whose structure file lies not between those before it and this one (V2).

        What is below it lies there too: so no walk is endless.
        """
        place = record.structure
        first = max(before, self._first)
        if place is None or not first <= place.catalogue < place.catalogue + place.size <= self._place.catalogue:
            raise DamagedError(f"{show(self._path)}: the set's catalogue puts a directory where none can be")
        return place.catalogue + place.size

    def node(self, record: Record, name: bytes, before: int = 0) -> Node:
        """Of a directory, `base` is where the structure files below it begin."""
        if record.is_dir:
            self.end_of(record, before)
        return Node(record, max(before, self._first) if record.is_dir else 0, self.child_path(name))

    def _text(self, at: int, length: int) -> bytes:
        offset = self._place.catalogue + at
        for source, _, facts in self._set.catalogues.whole():
            for read in (source.read_at, source.heal):
                try:
                    return structure.unpack_block(read(facts.catalogue.at + offset, length) or b"")
                except (FormatError, SourceError):
                    self._set.report(self._path, f"the set's catalogue is damaged in {source.name}")
        raise DamagedError(f"{self._set.source.name}: no sound copy of the structure of {show(self._path)} is at hand")


class SetTree(Tree):
    """The tree of all volumes together. `locator` and `tables` are those of the volume at hand."""

    def __init__(self, alone: Tree, catalogues: Catalogues) -> None:
        """Raises ElsewhereError if no volume at hand has the set's catalogue, DamagedError if none has a sound one."""
        self.catalogues = catalogues
        self._alone = alone
        super().__init__(alone.source)

    @property
    def identifier(self) -> str:
        return self.catalogues.facts.id

    @property
    def holders(self) -> list[Base]:
        count, stem = self.catalogues.facts.count, self.catalogues.name
        names = (volume_path(stem, number, count) for number in range(1, count + 1))
        return [
            Base(each, escape(os.fsencode(name))) for each, name in zip(self.catalogues.volumes, names, strict=True)
        ]

    @property
    def origin(self) -> tuple[Source, Place] | None:
        whole = next(self.catalogues.whole(), None)
        return (whole.source, whole.locator.origin) if whole else super().origin

    @property
    def entries(self) -> int:
        return self.root.record.files

    @property
    def content_size(self) -> int:
        return self.root.record.total

    def _find_root(self) -> Node:
        self.locator, self.tables = self._alone.locator, self._alone.tables
        facts = next((volume.facts for volume in self.catalogues.whole()), None)
        if facts is None:
            last = self.catalogues.describe(self.catalogues.volumes[-1])
            raise ElsewhereError(f"the catalogue of the set lies in {last}, which is not at hand")
        header = SetDirectory(self, b"", facts.root, facts.head).header()
        record = msgspec.structs.replace(header.directory, structure=facts.root, sha256=facts.id)
        return Node(record, facts.head, b"")

    def _load(self, node: Node) -> Directory:
        if node.record.is_dir and node.record.structure:
            return SetDirectory(self, node.path, node.record.structure, node.base)
        return super()._load(node)

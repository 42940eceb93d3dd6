"""`xtar recover` of a set of volumes: its tree from a sound copy of the set's catalogue, its content from what is left.

What a volume does not give as it should is looked for in it as in any wreck. So only volumes that are hit are scanned.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Literal

from ..errors import DamagedError, ElsewhereError, NotAnArchive, XtarError
from ..reading.content import Piece
from ..reading.holders import Span
from ..reading.opening import with_parity
from ..reading.reader import Archive
from ..reading.sets import SetTree
from ..reading.tree import Node
from ..reading.volume_names import number_of, stem_of, volumes_beside
from ..restoring.extract import ExtractOptions, extract
from ..source import FileSource
from .carve import Patient
from .recover import RecoverResult, account_of, salvage
from .remains import split
from .salvage import Salvaged, checked, unless_all_lost


class SalvagedSet(Archive):
    """What is left of a set. A file of which nothing is left raises DamagedError instead of giving pieces.

    given: the volumes that the user names; those of the same name beside them are looked at as well.
    """

    def __init__(self, path: str, tree: SetTree, given: Sequence[str]) -> None:
        super().__init__(tree.source, tree=tree, others=given, alone=True)
        self._catalogues = tree.catalogues
        self._candidates = list(dict.fromkeys([path, *given, *volumes_beside(stem_of(path))]))
        self._wrecks: dict[str, list[Salvaged]] = {}
        self._patients: list[Patient] = []

    def close(self) -> None:
        for patient in self._patients:
            patient.close()
        super().close()

    def pieces(self, node: Node) -> Iterator[Piece]:
        node = self.data_node(node)
        if not node.record.size:
            return iter(())
        return checked(unless_all_lost(self._found(node), node.record), node.record)

    def _found(self, node: Node) -> Iterator[Piece]:
        for span in self._holders.spans(node):
            for piece in self._of_span(span):
                yield Piece(span.start + piece.start, span.start + piece.end, piece.data, _moved(piece, span.start))

    def _of_span(self, span: Span) -> Iterator[Piece]:
        """A member's content as it is read in sound volumes; from where that fails, as it is put together."""
        try:
            pieces = self._holders.content(span).pieces(span.node)
        except ElsewhereError as error:
            size = span.end - span.start
            pieces = iter([Piece(0, size, b"", DamagedError(str(error), ((0, size),)))])
        for piece in pieces:
            if piece.error is None:
                yield piece
                continue
            rest = self._from_wreck(piece.start, span)
            found = next(rest, None)
            if found:
                yield found
                yield from rest
                return
            yield piece

    def _from_wreck(self, start: int, span: Span) -> Iterator[Piece]:
        """A member's content from `start` on, put together; nothing if there is nothing of it."""
        for wreck in self._wrecks_of(span.holder):
            found = False
            with suppress(DamagedError):  # what was given by then is right: each piece has its own checksum
                for piece in _from(start, wreck.pieces(_node_in(wreck, span.node))):
                    found = True
                    yield piece
            if found:
                return

    def _wrecks_of(self, identifier: str) -> list[Salvaged]:
        if identifier not in self._wrecks:
            self._wrecks[identifier] = self._scan(identifier)
        return self._wrecks[identifier]

    def _scan(self, identifier: str) -> list[Salvaged]:
        path = self._path_of(identifier)
        if path is None:
            return []
        self._patients.append(Patient(with_parity(FileSource(path))[0]))
        try:
            return salvage(self._patients[-1])[0]
        except NotAnArchive:
            return []

    def _path_of(self, identifier: str) -> str | None:
        """Where a volume is: by what it says or, where damage has taken that, by its name."""
        number = self._catalogues.number_of(identifier)
        if number is None:
            return None
        named = (path for path in self._candidates if number_of(path) == number and os.path.isfile(path))
        return self._catalogues.path_of(identifier) or next(named, None)


def _node_in(wreck: Salvaged, node: Node) -> Node:
    """A member's node under the path that its volume has it by, which for a part is not that of the file."""
    name = wreck.remains.named(split(node.path)[0], node.record.crc) if not node.record.sha256 else None
    return Node(node.record, 0, name or node.path)


def _from(start: int, pieces: Iterator[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        if piece.end > start:
            skip = max(start - piece.start, 0)
            yield Piece(piece.start + skip, piece.end, piece.data[skip:], piece.error)


def _moved(piece: Piece, by: int) -> DamagedError | None:
    """A piece's error, its ranges counted from another start."""
    if piece.error is None:
        return None
    return DamagedError(str(piece.error), ((by + piece.start, by + piece.end),))


def open_set(paths: Sequence[str]) -> SalvagedSet | None:
    """The set that one of these files is a volume of and has the catalogue of; None if there is none."""
    for path in paths:
        try:
            archive = Archive.open(path, others=paths)
        except XtarError:
            continue
        if isinstance(archive.tree, SetTree):
            return SalvagedSet(path, archive.tree, paths)
        archive.close()
    return None


def recover_set(
    archive: SalvagedSet,
    destination: str,
    *,
    partial: Literal["keep", "drop"] = "keep",
    numeric_owner: bool = False,
    no_owner: bool = False,
    restored: Callable[[int], None] = lambda size: None,
) -> RecoverResult:
    """As `recover`, of a whole set: files that were cut are put together again."""
    facts = archive.tree.locator
    assert facts
    options = ExtractOptions(
        numeric_owner=numeric_owner, no_owner=no_owner, on_damage="hole" if partial == "keep" else "skip"
    )
    done = extract(archive, destination, [], options, restored)
    return RecoverResult([account_of(archive, facts.tag, "", done, options)])

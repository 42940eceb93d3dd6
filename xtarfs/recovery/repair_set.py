"""Repair of a set of volumes with its spares: lost volumes are rebuilt, and blocks that a volume's own parity cannot
heal are taken from the others.

A volume gets replaced only by a copy all of whose blocks are proven.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from ..draft import Draft
from ..errors import FormatError, UsageError, XtarError
from ..format import locator, structure, tar
from ..format.locator import Locator
from ..format.parity import BLOCK, Layout, checksums
from ..parity.heal import rebuild
from ..parity.parity_file import read_padded
from ..parity.spare import Joined, Spares, open_spares, spans, write_spares
from ..reading.opening import with_parity
from ..reading.tree import find_locator
from ..reading.volume_names import number_of, spare_path, spares_beside, stem_of, volume_path, volumes_beside
from ..source import FileSource, Readable, Source

if TYPE_CHECKING:
    from ..console import Advance


class VolumeRepair(Struct):
    """state: "sound"; "repaired"; "rebuilt" where there was no file; "damaged", "missing", if it still is."""

    path: str
    state: str = "sound"
    repaired_blocks: int = 0
    left_blocks: int = 0


class SetRepair(Struct, frozen=True):
    """proven: the SHA-256 over all volumes is right. spares: "sound", "damaged", or "rewritten"."""

    volumes: list[VolumeRepair]
    proven: bool
    spares: str


def has_spares(path: str) -> bool:
    """Whether spares lie beside a volume, or beside where it was."""
    return number_of(path) is not None and bool(spares_beside(stem_of(path)))


def repair_set(path: str, progress: Advance) -> SetRepair:
    """Restores the whole set that `path` names a volume of. Raises XtarError; then nothing was written."""
    stem = stem_of(path)
    spares = open_spares(spares_beside(stem))
    try:
        with ExitStack() as stack:
            return _SetRepairing(stem, spares, stack, progress).run()
    finally:
        spares.close()


class _Mended(Joined):
    """Volumes joined, blocks that fail the checksum of the spares being taken from the volume's own parity."""

    def __init__(self, name: str, volumes: list[Source | None], spares: Spares) -> None:
        super().__init__(name, volumes, spares.layout.groups)
        self._sources = volumes
        self._spares = spares

    def read_at(self, offset: int, size: int) -> bytes:
        data = bytearray(super().read_at(offset, size))
        first, groups = offset // BLOCK, self._spares.layout.groups
        for i, check in enumerate(self._spares.checks(first, size // BLOCK)):
            block = data[i * BLOCK : (i + 1) * BLOCK]
            if check is None or checksums(block) == [check]:
                continue
            member, place = divmod(first + i, groups)
            source = self._sources[member]
            healed = source.heal(place * BLOCK, BLOCK) if source else None
            if healed and checksums(healed.ljust(BLOCK, b"\0")) == [check]:
                data[i * BLOCK : (i + 1) * BLOCK] = healed.ljust(BLOCK, b"\0")
        return bytes(data)


class _SetRepairing:
    def __init__(self, stem: str, spares: Spares, stack: ExitStack, progress: Advance) -> None:
        self._stem = stem
        self._spares = spares
        self._stack = stack
        self._progress = progress
        self._layout: Layout = spares.layout
        self._files: list[FileSource | None] = [None] * self._layout.data  # as they are
        self._healing: list[Source | None] = [None] * self._layout.data  # with their own parity
        count = self._layout.data
        self._repairs = [VolumeRepair(volume_path(stem, number + 1, count)) for number in range(count)]
        self._set = ""
        self._open_volumes()

    def run(self) -> SetRepair:
        self._progress(0, total=3 * self._layout.size)
        damaged = self._survey()
        drafts = self._write(damaged)
        proven = self._prove(drafts)
        for member, draft in drafts.items():
            repair, file = self._repairs[member], self._files[member]
            if repair.left_blocks and not proven:
                repair.state = "damaged" if file else "missing"
                continue
            repair.left_blocks = 0
            repair.state = "repaired" if file else "rebuilt"
            draft.commit(like=os.stat(repair.path) if file else None)
        return SetRepair(self._repairs, proven, self._care() if proven else self._state())

    def _open_volumes(self) -> None:
        """Raises UsageError where volumes of different sets bear the names of one."""
        known: dict[str, str] = {}
        for path in volumes_beside(self._stem):
            file, (source, _) = FileSource(path), with_parity(FileSource(path))
            self._stack.callback(file.close)
            self._stack.callback(source.close)
            facts = find_locator(source)
            number = facts.set.number if facts and facts.set else number_of(path) or 0
            if facts and facts.set:
                known[facts.set.id] = path
            if not 0 < number <= self._layout.data or self._files[number - 1]:
                raise UsageError(f"{path}: does not belong to the set of {self._spares.name}, or is there twice")
            self._files[number - 1], self._healing[number - 1] = file, source
            self._repairs[number - 1].path = path
        self._set = next(iter(known), "")
        if len(known) > 1:
            raise UsageError(
                f"{' and '.join(known.values())}: are volumes of different sets; keep one set beside its spares"
            )

    def _survey(self) -> list[int]:
        """The volumes that need repair."""
        joined = Joined(self._stem, self._files, self._layout.groups)
        damaged = []
        for member, file in enumerate(self._files):
            bad = 0
            for first, count in spans(self._layout):
                at = member * self._layout.groups + first
                found = checksums(joined.read_at(at * BLOCK, count * BLOCK))
                checks = self._spares.checks(at, count)
                bad += sum(check not in (None, crc) for check, crc in zip(checks, found, strict=True))
                self._progress(count * BLOCK)
            if bad or file is None or _length(file) != file.size:
                damaged.append(member)
        return damaged

    def _write(self, damaged: list[int]) -> dict[int, Draft]:
        groups = self._layout.groups
        drafts = {
            member: self._stack.enter_context(Draft(self._repairs[member].path, groups * BLOCK, force=True))
            for member in damaged
        }
        mended = _Mended(self._stem, self._healing, self._spares)
        raw = Joined(self._stem, self._files, groups)
        for first, count in spans(self._layout) if damaged else ():
            found = rebuild(mended, self._spares, first, count)
            for member, draft in drafts.items():
                at = (member * groups + first) * BLOCK
                before, data = raw.read_at(at, count * BLOCK), mended.read_at(at, count * BLOCK)
                draft.write_at(first * BLOCK, data)
                self._repairs[member].repaired_blocks += _differing(before, data)
            for block, data in found.fixed.items():
                member, place = divmod(block, groups)
                if member in drafts:  # or only its checksum is lost
                    drafts[member].write_at(place * BLOCK, data)
                    self._repairs[member].repaired_blocks += 1
            for block in found.left:
                self._repairs[block // groups].left_blocks += block // groups in drafts
            self._progress(count * BLOCK * self._layout.data)
        for member, draft in drafts.items():
            self._cut_to_length(member, draft)
        return drafts

    def _cut_to_length(self, member: int, draft: Draft) -> None:
        """Raises UsageError where the spares, left over from another version of the set, would bring that back."""
        repair = self._repairs[member]
        length = _length(draft)
        if length is None:
            repair.left_blocks = repair.left_blocks or 1
            return
        draft.truncate(length)
        start = max(0, length - locator.WINDOW)
        facts = locator.find(draft.read_at(start, length - start), length)
        if self._set and facts and facts.set and facts.set.id != self._set:
            raise UsageError(f"{self._spares.name}: is of another version of the set than {repair.path}")

    def _prove(self, drafts: dict[int, Draft]) -> bool:
        volumes: list[Readable | None] = [drafts.get(member) or file for member, file in enumerate(self._files)]
        joined = Joined(self._stem, volumes, self._layout.groups)
        digest = hashlib.sha256()
        for at in range(0, self._layout.size, BLOCK * 256):
            size = min(BLOCK * 256, self._layout.size - at)
            digest.update(joined.read_at(at, size))
            self._progress(size)
        return digest.digest() == self._layout.sha256

    def _state(self) -> str:
        return "sound" if self._spares.is_sound() else "damaged"

    def _care(self) -> str:
        """Writes spares anew that are damaged or missing, from volumes that are proven."""
        if self._spares.is_sound():
            return "sound"
        with suppress(XtarError), ExitStack() as stack:
            volumes = [FileSource(repair.path) for repair in self._repairs]
            for volume in volumes:
                stack.callback(volume.close)
            paths = [spare_path(self._stem, number + 1) for number in range(self._layout.parity)]
            for draft in write_spares(volumes, paths, stack, force=True):
                draft.commit()
            return "rewritten"
        return "damaged"


def _differing(a: bytes, b: bytes) -> int:
    """How many blocks are not the same."""
    return sum(a[at : at + BLOCK] != b[at : at + BLOCK] for at in range(0, len(a), BLOCK)) if a != b else 0


def _length(volume: Readable | Draft) -> int | None:
    """How long an archive is that zeros may follow, or that was cut within them; None if its locator is not there."""
    end = volume.size
    while end > 0:
        start = max(0, end - locator.WINDOW)
        tail = read_padded(volume, start, end - start)
        if any(tail):
            break
        end = start
    start = max(0, end - locator.WINDOW)
    tail = read_padded(volume, start, end - start + len(tar.END) + tar.BLOCK)
    last = start + len(tail.rstrip(b"\0"))
    for length in (last, last + tar.BLOCK):
        size = -(-length // tar.BLOCK) * tar.BLOCK + len(tar.END)
        window = read_padded(volume, max(0, size - locator.WINDOW), min(size, locator.WINDOW))
        found = locator.find(window, size)
        if found and _end_of(volume, found) == size:
            return size
    return None


def _end_of(volume: Readable | Draft, facts: Locator) -> int:
    """Where the archive ends whose locator this is."""
    at = facts.at + tar.BLOCK
    try:
        length = structure.block_length(read_padded(volume, at, structure.HEAD_SIZE))
    except FormatError:
        return 0
    return at + length + tar.padding(length) + len(tar.END)

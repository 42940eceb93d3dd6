"""Restores a damaged archive with its parity file: the exact bytes, proven by the SHA-256 of the whole.

The archive gets replaced only by a copy that is proven; a copy that is not is written only where it replaces nothing.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from msgspec import Struct

from ..draft import Draft
from ..errors import BuildError, DamagedError, SourceError, UsageError
from ..format import locator
from ..format.parity import BLOCK, MAX_SHARDS, SUFFIX
from ..parity.align import Aligned, Survey, survey
from ..parity.heal import block_ranges, rebuild
from ..parity.parity_file import Parity, open_parity, read_padded
from ..parity.protect import write_parity
from ..source import FileSource, Readable

if TYPE_CHECKING:
    from ..console import Advance

Ranges = list[tuple[int, int]]

_PIECE = 4 << 20
_MEMORY = 64 << 20  # for the blocks in work
_MAX_JOBS = 8
_LEAST_MATCH = 0.01  # of the blocks: the text every archive begins with also matches that of another archive
_MOST_LISTED = 1 << 18  # damaged blocks whose ranges are kept for the report


class RepairResult(Struct, frozen=True):
    """What was done. Ranges are half-open, in bytes of the sound archive; those of the first 262,144 blocks are listed.

    written: the file that now holds the result, None if none was written, as all was sound or nothing is proven.
    proven: the SHA-256 of the whole is right. moved: places from which on bytes lay shifted. resized: bytes that the
    file had too many or, negative, too few. parity: "sound", "damaged", or "rewritten" after it was found damaged.
    """

    path: str
    size: int
    sha256: str
    proven: bool
    written: str | None
    repaired_blocks: int
    repaired: Ranges
    left_blocks: int
    left: Ranges
    moved: int
    resized: int
    parity: str

    @property
    def was_sound(self) -> bool:
        """Nothing of the archive had to be repaired."""
        return self.proven and not (self.repaired_blocks or self.moved or self.resized)


def repair(
    archive: str,
    out: str | None,
    progress: Advance,
    *,
    force: bool = False,
    jobs: int = 0,
    parity_path: str | None = None,
) -> RepairResult:
    """Restores an archive in place, by rename, or into `out`. jobs: threads, 0 for all cores.

    Beyond the redundancy `out` holds what could be had, and nothing is written in place. A damaged parity file is
    written anew after a repair in place. Raises XtarError; then nothing was written.
    """
    path = os.path.realpath(archive)
    parity = open_parity(archive, parity_path)
    if parity is None:
        raise UsageError(
            f"{archive}: has no parity file {parity_path or archive + SUFFIX}; 'xtar recover' works without"
        )
    try:
        if not os.path.exists(path):
            raise SourceError(f"{archive}: no such file; {parity.name} alone cannot restore it")
        source = FileSource(path)
        try:
            return _Repair(archive, path, source, parity, progress).run(out, force, jobs)
        finally:
            source.close()
    finally:
        parity.close()


class _Repair:
    def __init__(self, archive: str, path: str, source: FileSource, parity: Parity, progress: Advance) -> None:
        self._archive, self._path = archive, path
        self._source, self._parity, self._progress = source, parity, progress
        self._layout = parity.layout

    def run(self, out: str | None, force: bool, jobs: int) -> RepairResult:
        size = self._layout.size
        if out and os.path.exists(out) and os.path.samefile(out, self._parity.name):
            raise UsageError(f"{out}: is the parity file; give another name")
        if not out and not os.path.isfile(self._path):
            raise UsageError(f"{self._archive}: is a device; write the repaired archive to a file with -o")
        if out and os.path.lexists(out) and not force:
            raise UsageError(f"{out}: exists already; --force replaces it")
        self._progress(0, total=size)
        intact = self._parity.is_sound()
        if not intact:
            self._parity.locate()
        seen = survey(self._source, self._parity, self._progress)
        if seen.matched < seen.damaged * _LEAST_MATCH and not (out and max(seen.hurt) <= self._layout.parity):
            raise DamagedError(
                f"{self._parity.name}: matches {seen.matched} of {self._layout.blocks} blocks of {self._archive}; "
                "it is the parity of another archive, or next to nothing of this one is left"
                + ("; -o writes what it is the parity of" if max(seen.hurt) <= self._layout.parity else "")
            )
        fixed, left = _Tally(), _Tally()
        if seen.sha256 == self._layout.sha256 and not out:
            return self._result(None, True, fixed, left, seen, self._care(intact))
        self._progress(0, total=3 * size)
        with Draft(out or self._path, size, force=force or not out) as draft:
            self._write(draft, seen, jobs, fixed, left)
            proven = self._prove(draft)
            self._refuse_other_version(draft)
            if proven or out:
                draft.commit(like=None if out else os.stat(self._path))
        state = self._care(intact) if proven and not out else "sound" if intact else "damaged"
        return self._result(out or (self._path if proven else None), proven, fixed, left, seen, state)

    def _write(self, draft: Draft, seen: Survey, jobs: int, fixed: _Tally, left: _Tally) -> None:
        """Copies what is there, then overwrites what was damaged."""
        aligned = Aligned(self._source, self._layout.size, seen.shifts)
        for at in range(0, self._layout.size, _PIECE):
            piece = read_padded(aligned, at, min(_PIECE, self._layout.size - at))
            draft.write_at(at, piece)
            self._progress(len(piece))
        with ThreadPoolExecutor(min(jobs or len(os.sched_getaffinity(0)), _MAX_JOBS)) as pool:
            for group, count in _hurt_runs(seen.hurt, _MEMORY // (MAX_SHARDS * BLOCK)):
                found = rebuild(aligned, self._parity, group, count, pool.map)
                for block, data in found.fixed.items():
                    draft.write_at(block * BLOCK, data[: self._layout.size - block * BLOCK])
                fixed.add(found.fixed)
                left.add(found.left)

    def _prove(self, draft: Draft) -> bool:
        digest = hashlib.sha256()
        for at in range(0, self._layout.size, _PIECE):
            piece = draft.read_at(at, min(_PIECE, self._layout.size - at))
            digest.update(piece)
            self._progress(len(piece))
        return digest.digest() == self._layout.sha256

    def _refuse_other_version(self, draft: Draft) -> None:
        """A new archive under an old one's name must not be "repaired" into the old one by a parity file left over."""
        now = _locator(self._source, self._source.size)
        if now is not None and now != _locator(draft, draft.size):
            raise UsageError(
                f"{self._parity.name}: is the parity of another version of {self._archive}; protect the archive again"
            )

    def _care(self, intact: bool) -> str:
        """Writes a damaged parity file anew, from an archive that is proven."""
        if intact:
            return "sound"
        try:
            shape = (self._layout.data, self._layout.parity)
            write_parity(self._path, self._parity.name, lambda size: shape, lambda size, total=0: None, force=True)
        except (BuildError, SourceError, UsageError):
            return "damaged"
        return "rewritten"

    def _result(
        self, written: str | None, proven: bool, fixed: _Tally, left: _Tally, seen: Survey, parity: str
    ) -> RepairResult:
        layout = self._layout
        if proven:  # some may only have lacked their checksum
            left = _Tally()
        blind = not proven and not left.count  # every block passes its checksum, but the whole is wrong
        moved = len(seen.shifts) - (seen.shifts[0] == (0, 0))
        return RepairResult(
            path=self._archive,
            size=layout.size,
            sha256=layout.sha256.hex(),
            proven=proven,
            written=written,
            repaired_blocks=fixed.count,
            repaired=fixed.ranges(layout.size),
            left_blocks=layout.blocks if blind else left.count,
            left=[(0, layout.size)] if blind else left.ranges(layout.size),
            moved=moved,
            resized=self._source.size - layout.size,
            parity=parity,
        )


class _Tally:
    """Counts blocks, and keeps the numbers of the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self._blocks = array("Q")

    def add(self, blocks: Collection[int]) -> None:
        self.count += len(blocks)
        if len(self._blocks) < _MOST_LISTED:
            self._blocks.extend(blocks)

    def ranges(self, size: int) -> Ranges:
        return block_ranges(sorted(self._blocks), size)


def _hurt_runs(hurt: bytearray, most: int) -> Iterator[tuple[int, int]]:
    """(first, count) of neighbouring groups with damage, `most` at a time."""
    at = 0
    while at < len(hurt):
        if not hurt[at]:
            at += 1
            continue
        end = at
        while end < len(hurt) and hurt[end] and end - at < most:
            end += 1
        yield at, end - at
        at = end


def _locator(source: Readable | Draft, size: int) -> locator.Locator | None:
    start = max(0, size - locator.WINDOW)
    return locator.find(read_padded(source, start, size - start), size)

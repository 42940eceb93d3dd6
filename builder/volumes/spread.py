"""`xtar build --volume-size`: the archive is written whole, out of sight, and then spread over volumes.

All volumes are drafts until the last one is complete; only then do they get their names.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import IO

from msgspec import Struct

from xtarfs.draft import Draft
from xtarfs.errors import BuildError, UsageError
from xtarfs.format.locator import VolumeSet
from xtarfs.format.parity import MAGIC, SUFFIX
from xtarfs.format.structure import HEAD_SIZE, block_length
from xtarfs.parity.spare import write_spares
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import find_locator
from xtarfs.reading.volume_names import (
    MOST_VOLUMES,
    MOST_WITH_SPARES,
    spare_path,
    spares_beside,
    stem_of,
    volume_path,
    volumes_beside,
)
from xtarfs.source import FileSource

from ..building.build import Options, fill
from ..building.write import Result
from ..writing.output import Measure, Output
from .parts import Sums
from .placement import Placements
from .set_catalogue import compose, volume_list
from .volume import Volume
from .volume_plan import Spread, least

_ROUNDS = 20  # attempts to guess how long the set's catalogue becomes: the second is right as a rule
_SHARE = 4  # a set's catalogue longer than this part of a volume goes into the last one only
_POINTER, _LISTED = 12, 50  # bytes, packed: of a record's pointer into a volume; of a volume's identifier
_PIECE = 1 << 20


class Ends(Struct, frozen=True):
    """Bytes of data that end a volume, set catalogue and origin together: in each, and in the last one beyond that."""

    each: int
    last: int


class Plan(Struct):
    """The volumes as they will be. catalogue: data of the set's catalogue. facts: what their locators say of it."""

    limit: int
    ends: Ends
    catalogue: IO[bytes]
    facts: VolumeSet
    identifiers: list[str]


class _TooSmall(Exception):
    """Volumes must be allowed at least `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def build_volumes(
    source: str,
    destination: str,
    options: Options,
    limit: int,
    spares: int = 0,
    progress: Callable[[int, int], None] = lambda size, total: None,
) -> tuple[Result, list[str]]:
    """Writes the directory `source` as volumes of at most `limit` bytes beside `destination`; gives their paths.

    spares: how many further files to write, each of which can make up for one lost volume. As `build` otherwise.
    """
    stem = stem_of(destination)
    before = volumes_beside(stem) + spares_beside(stem)
    if before and not options.force:
        raise UsageError(f"{before[0]}: exists already; --force replaces the set")
    hidden = os.path.join(options.work_dir, os.path.basename(destination)) if options.work_dir else destination
    try:
        with Output(hidden, force=True) as out:
            result = fill(source, out, options, before, progress)
            with Archive.open(out.proof()) as full:
                volumes = _Volumes(full, options.work_dir or tempfile.gettempdir())
                plan = volumes.plan(limit)
                paths = volumes.write(plan, stem, spares, force=options.force)
    except OSError as error:
        raise BuildError(f"{destination}: not written: {error.strerror or error}") from None
    kept = {*paths, *(spare_path(stem, number + 1) for number in range(spares))}
    _remove_old([path for path in before if path not in kept])
    result.size, result.identifier = sum(map(os.path.getsize, paths)), plan.facts.id
    return result, paths


class _Volumes:
    """Spreads what `full` holds."""

    def __init__(self, full: Archive, work_dir: str) -> None:
        facts = full.tree.locator
        assert facts
        self._full = full
        self._facts = facts
        self._work_dir = work_dir
        self._sums: dict[tuple[int, int, int], Sums] = {}
        self._empty = self._measure(0, 0)
        self._bare = self._empty.at_most([full.root], 0)
        self._least = least(full, self._empty, exact=False)
        origin = facts.origin
        length = block_length(full.source.read_at(origin.at, HEAD_SIZE))
        self._origin, self._origin_head = self._spool(origin.at, origin.size), self._spool(origin.at, length)

    def _measure(self, number: int, tail: int) -> Volume:
        return Volume(number, Measure(), self._full, self._work_dir, tail)

    def _spool(self, at: int, size: int) -> IO[bytes]:
        file = self._temporary()
        for start in range(at, at + size, _PIECE):
            file.write(self._full.source.read_at(start, min(_PIECE, at + size - start)))
        return file

    def _temporary(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._work_dir)

    # -- planning --------------------------------------------------------------------------------------------

    def plan(self, limit: int) -> Plan:
        """Raises UsageError, with the size that would do, if nothing can be put into volumes as small as that."""
        with contextlib.suppress(_TooSmall):
            return self._plan(limit)
        self._least = least(self._full, self._empty, exact=True)
        enough = limit
        while True:
            try:
                plan = self._plan(enough)
            except _TooSmall as error:
                enough = -(-max(error.size, enough + 1) // 1000) * 1000
                continue
            if enough == limit:
                return plan
            raise UsageError(f"volumes of {limit} bytes are too small for this folder; the least is {enough}")

    def _plan(self, limit: int) -> Plan:
        """The second attempt is right as a rule: the catalogue's length hardly depends on where the volumes end."""
        count = self._full.source.size // max(limit, self._least) + 2
        head = _LISTED * count + 128
        catalogue = self._facts.catalogue.size + _POINTER * self._facts.files + _LISTED * count + head
        for _ in range(_ROUNDS):
            ends = self._ends(limit, catalogue, head)
            placements = Placements(self._work_dir)
            identifiers: list[str] = []
            self._measured(limit, ends, placements, identifiers)
            spool = self._temporary()
            facts = compose(self._full, placements, identifiers, spool)
            placements.close()
            if spool.tell() <= catalogue and facts.head <= head:
                return Plan(limit, ends, spool, facts, identifiers)
            catalogue = max(catalogue, spool.tell() + spool.tell() // 32 + 64)
            head = max(head, facts.head + facts.head // 32 + 64)
            spool.close()
        raise BuildError(f"volumes of {limit} bytes: no size of the set's catalogue was found that fits")

    def _measured(self, limit: int, ends: Ends, placements: Placements, identifiers: list[str]) -> None:
        """Fills in where everything comes to lie, and the volumes' identifiers."""

        def begin(number: int) -> Volume:
            return self._measure(number, ends.each)

        self._spread(limit, ends, begin, lambda volume: identifiers.append(volume.identifier), placements)

    def _ends(self, limit: int, catalogue: int, head: int) -> Ends:
        """Raises _TooSmall."""
        whole, short = catalogue + self._origin.tell(), head + self._origin_head.tell()
        if _SHARE * catalogue <= limit and self._least + whole <= limit:
            return Ends(whole, 0)
        needed = max(self._least + short, self._bare + whole)
        if needed > limit:
            raise _TooSmall(needed)
        return Ends(short, whole - short)

    def _spread(
        self,
        limit: int,
        ends: Ends,
        begin: Callable[[int], Volume],
        ended: Callable[[Volume], None],
        placements: Placements,
    ) -> None:
        count = Spread(self._full, limit, self._measure(0, ends.each), begin, ended, placements, self._sums).run(
            ends.last
        )
        if count > MOST_VOLUMES:
            raise UsageError(f"volumes of {limit} bytes: that would be {count} of them; {MOST_VOLUMES} is the most")

    # -- writing ---------------------------------------------------------------------------------------------

    def write(self, plan: Plan, stem: str, spares: int, *, force: bool) -> list[str]:
        """Gives the volumes' paths."""
        count = len(plan.identifiers)
        if spares and count + spares > MOST_WITH_SPARES:
            raise UsageError(f"{count} volumes and {spares} to spare: {MOST_WITH_SPARES} together are the most")
        paths = [volume_path(stem, number, count) for number in range(1, count + 1)]
        outs: list[Output] = []
        with ExitStack() as stack:

            def begin(number: int) -> Volume:
                outs.append(stack.enter_context(Output(paths[number - 1], force=force)))
                return Volume(number, outs[-1], self._full, self._work_dir, plan.ends.each)

            placements = Placements(self._work_dir)
            self._spread(plan.limit, plan.ends, begin, lambda volume: self._finish(plan, volume, outs[-1]), placements)
            placements.close()
            spare_paths = [spare_path(stem, number + 1) for number in range(spares)]
            drafts = write_spares(outs, spare_paths, stack, force=force) if spares else []
            for draft in drafts:
                draft.settle()
            _publish([*outs, *drafts], force=force)
        return paths

    def _finish(self, plan: Plan, volume: Volume, out: Output) -> None:
        whole = not plan.ends.last or volume.number == len(plan.identifiers)
        catalogue, origin = plan.catalogue, self._origin
        if not whole:
            catalogue, origin = self._temporary(), self._origin_head
            catalogue.write(volume_list(plan.identifiers))
        volume.finish(_again(catalogue), _again(origin), plan.facts)
        out.settle()
        if out.position > plan.limit or volume.identifier != plan.identifiers[volume.number - 1]:
            raise BuildError(f"{out.path}: is not as it was planned; please report this")


def _again(spool: IO[bytes]) -> IO[bytes]:
    """The same temporary file, opened once more, at its end."""
    spool.flush()
    file = os.fdopen(os.dup(spool.fileno()), "rb")
    file.seek(0, os.SEEK_END)
    return file


def _publish(drafts: Sequence[Draft], *, force: bool) -> None:
    """Gives all of them their names; none keeps it if one cannot have it, unless files were replaced already."""
    named: list[str] = []
    try:
        for draft in drafts:
            draft.commit()
            named.append(draft.path)
    except BaseException:
        for path in () if force else named:
            os.unlink(path)
        raise


def _remove_old(paths: list[str]) -> None:
    """Removes what is left of a set that was replaced; files that only are called like that stay."""
    for path in paths:
        source = FileSource(path)
        try:
            facts = find_locator(source)
            is_ours = (facts is not None and facts.set is not None) or source.read_at(0, len(MAGIC)) == MAGIC
        finally:
            source.close()
        if is_ours:
            os.unlink(path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + SUFFIX)

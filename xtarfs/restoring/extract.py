"""`xtar extract`: walks the tree in order and restores it, files in batches that several processes share out.

What must wait for all files (further names of hard links, the directories' own attributes) is done in a second walk, so
that no list of them is held, however large the tree.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from functools import partial

from ..errors import DamagedError, ElsewhereError, FormatError, UsageError, XtarError
from ..format.records import BLOCK_DEVICE, CHARACTER, FILE, Record
from ..reading.content import Piece
from ..reading.reader import Archive
from ..reading.tree import Node
from ..text import show
from . import restore
from .attributes import Owners
from .bulk import Job, restore_batch
from .crew import Crew
from .restore import Folder, Manner, Place
from .results import ExtractOptions, ExtractResult, Ranges
from .selection import Wanted, children, covers, select

__all__ = ["ExtractOptions", "ExtractResult", "extract"]

_BATCH_FILES = 64
_BATCH_BYTES = 1 << 20
_LARGE = 4 << 20  # from this size on, a file's next piece is unpacked while this one is hashed and written
# the destination as a whole cannot go on
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)


def extract(
    archive: Archive,
    destination: str,
    paths: list[bytes],
    options: ExtractOptions,
    progress: Callable[[int], None] = lambda size: None,
) -> ExtractResult:
    """Restores `paths` (none: everything), with all below them, at their whole paths below `destination`.

    progress(bytes done since the last call) is called in this thread. Raises NotFound, before anything is written,
    for a path that is not there; DamagedError with on_damage `stop`; XtarError when the destination cannot be
    written. What was finished until then stays, and nothing half-written does.
    """
    wanted = select(archive, paths)
    if options.dry_run:
        return _survey(archive, wanted)
    try:
        top = restore.open_top(destination)
    except OSError as error:
        raise UsageError(f"{destination}: cannot be extracted into: {error.strerror}") from None
    extraction = _Extraction(archive, destination, options, progress, wanted)
    return extraction.run(top)


def _survey(archive: Archive, wanted: Wanted | None) -> ExtractResult:
    """What would be extracted. Nothing is written and no content read."""
    result = ExtractResult()
    stack = [children(archive, archive.root, wanted)]
    path = b""
    while stack:
        try:
            step = next(stack[-1], None)
        except DamagedError:
            result.damaged.append((path, ()))
            step = None
        if step is None:
            stack.pop()
            continue
        (node, below), path = step, step[0].path
        record = node.record
        if record.is_dir:
            result.directories += 1
            stack.append(children(archive, node, below))
        elif record.type != FILE:
            result.others += 1
        elif not _is_at_hand(archive, node):
            result.missing.append(path)
        else:
            result.files += 1
            result.bytes += record.size
    return result


def _is_at_hand(archive: Archive, node: Node) -> bool:
    try:
        archive.require_at_hand(node)
    except ElsewhereError:
        return False
    return True


class _Extraction:
    """One run: files are shared out to a crew; what must wait for all of them comes in a second walk."""

    def __init__(
        self,
        archive: Archive,
        destination: str,
        options: ExtractOptions,
        progress: Callable[[int], None],
        wanted: Wanted | None,
    ) -> None:
        self._archive = archive
        self._destination = destination
        self._stop_at_damage = options.on_damage == "stop"
        owners = Owners(numeric=options.numeric_owner, apply=not options.no_owner)
        self._manner = Manner(owners, options.force, options.on_damage == "hole")
        self._wanted = wanted
        self._crew: Crew[tuple[ExtractResult, set[bytes]]] = Crew(
            options.jobs or len(os.sched_getaffinity(0)), progress
        )
        self._result = ExtractResult()
        self._made: set[bytes] = set()
        self._absent: set[bytes] = set()
        self._homes: dict[bytes, bytes] = {}
        self._lost: dict[bytes, Ranges] = {}

    def run(self, top: Folder) -> ExtractResult:
        self._top = top
        root = self._archive.root
        try:
            self._make_parents(Place(root, None, top), self._wanted)
            outcomes = self._crew.run(self._restore_share)
            for result, absent in outcomes[1:]:
                self._result.add(result)
                self._absent |= absent
            self._lost = dict(self._result.damaged)
            self._finish()
            self._crew.show()
        finally:
            if top.made:
                self._result.note_unset(root.path, restore.finish_directory(top, root.record, self._manner.owners))
        return self._result

    def _make_parents(self, place: Place, wanted: Wanted | None) -> None:
        """Makes the directories above what is wanted: they get their attributes only if they were not there."""
        for name, below in sorted((wanted or {}).items()):
            node = self._archive.lookup(place.node.child_path(name))
            if below is None or not node.record.is_dir:
                continue
            child = Place(node, place)
            with contextlib.suppress(OSError, ValueError, FormatError):  # met again, and reported, in the walk
                if child.open(self._manner).made:
                    self._made.add(node.path)
                self._make_parents(child, below)

    # -- first walk, in every process: all but directories and further names of hard links -------------------

    def _restore_share(self) -> tuple[ExtractResult, set[bytes]]:
        """Restores the batches that fall to this process; gives also the paths that are not there to be linked to."""
        mine = 0
        for number, batch in enumerate(self._batches()):
            if number == 1:
                self._crew.recruit(first=1)
                if self._crew.is_member:
                    self._result, self._absent = ExtractResult(), set()
                mine = self._crew.claim()
            if number == mine:
                for place, node in self._restore_together(batch):
                    self._restore(place, node)
                self._crew.advance(0)
                if number:
                    mine = self._crew.claim()
        return self._result, self._absent

    def _restore_together(self, batch: list[Job]) -> list[Job]:
        """Restores what the compiled core can; gives the others."""
        left = restore_batch(self._archive, batch, self._manner)
        self._result.files += len(batch) - len(left)
        done = sum(node.record.size for _, node in batch) - sum(node.record.size for _, node in left)
        self._result.bytes += done
        self._crew.advance(done)
        return left

    def _batches(self) -> Iterator[list[Job]]:
        batch: list[Job] = []
        weight = 0
        for place, node in self._walk():
            if node is None or node.record.is_dir or node.record.link:
                continue
            batch.append((place, node))
            weight += node.record.size
            if len(batch) >= _BATCH_FILES or weight >= _BATCH_BYTES:
                yield batch
                batch, weight = [], 0
        if batch:
            yield batch

    def _walk(self, *, again: bool = False) -> Iterator[tuple[Place, Node | None]]:
        """All that is wanted, with its place; None where that ends. Damaged directories are reported `again` only."""
        root = self._archive.root
        stack = [(Place(root, None, self._top), children(self._archive, root, self._wanted))]
        while stack:
            place, steps = stack[-1]
            try:
                step = next(steps, None)
            except DamagedError as error:
                if again or self._stop_at_damage:
                    self._damage(place.node, error)
                step = None
            if step is None:
                stack.pop()
                yield place, None
                continue
            node, wanted = step
            yield place, node
            if node.record.is_dir:
                stack.append((Place(node, place), children(self._archive, node, wanted)))

    def _restore(self, place: Place, node: Node) -> None:
        """One file or special file; what goes wrong goes into the result."""
        archive, record, result = self._archive, node.record, self._result
        try:
            folder = place.open(self._manner)
        except (OSError, ValueError, FormatError):
            return  # the second walk reports the directory
        there = False
        try:
            if record.type == FILE:
                content = archive.data_node(node).record if record.link else record
                pieces = self._pieces(node, content)
                unset, ranges = restore.write_file(folder, record.raw_name, record, content, pieces, self._manner)
                result.files += 1
                result.bytes += content.size
                if ranges:
                    result.damaged.append((node.path, ranges))
            else:
                unset = restore.make_special(folder, record.raw_name, record, self._manner)
                result.others += 1
            result.note_unset(node.path, unset)
            there = True
        except FileExistsError:
            self._keep(node)
        except DamagedError as error:
            self._damage(node, error)
        except ElsewhereError:
            result.missing.append(node.path)
        except (OSError, ValueError, OverflowError, XtarError) as error:
            if isinstance(error, PermissionError) and record.type in (CHARACTER, BLOCK_DEVICE):
                self._result.note_unset(node.path, ["device"])
            else:
                self._fail(node, error)
        if not there and (record.nlink > 1 or archive.tree.made_up):
            self._absent.add(node.path)

    def _pieces(self, node: Node, content: Record) -> Iterator[Piece]:
        pieces = self._archive.pieces(node)
        for piece in _read_ahead(pieces) if content.size >= _LARGE else pieces:
            self._crew.advance(piece.end - piece.start)
            yield piece

    # -- second walk, in the first process: further names, and directories, from the deepest up ---------------

    def _finish(self) -> None:
        for place, node in self._walk(again=True):
            if node is None:
                self._finish_directory(place)
            elif node.record.link and not node.record.is_dir:
                self._finish_link(place, node)

    def _finish_directory(self, place: Place) -> None:
        node = place.node
        if place.parent is None:
            return  # the root comes last of all
        try:
            folder = place.open(self._manner)
        except (OSError, ValueError, FormatError) as error:
            if place.lost is error:  # once for all that would be below it
                self._keep(node) if isinstance(error, FileExistsError) else self._fail(node, error)
            return
        self._result.directories += 1
        if node.path in self._made or covers(self._wanted, node.path):
            self._result.note_unset(node.path, restore.finish_directory(folder, node.record, self._manner.owners))

    def _finish_link(self, place: Place, node: Node) -> None:
        try:
            folder = place.open(self._manner)
        except (OSError, ValueError, FormatError):
            return
        try:
            data = self._archive.data_node(node)
            linked = self._link(folder, node, data)
        except FileExistsError:
            self._keep(node)
        except DamagedError as error:
            self._damage(node, error)
        except ElsewhereError:
            self._result.missing.append(node.path)
        except (OSError, ValueError, XtarError) as error:
            self._fail(node, error)
        else:
            if linked:
                self._result.files += 1
                self._crew.advance(node.record.size)
            else:
                self._restore(place, node)
                self._homes.setdefault(data.path, node.path)

    def _link(self, folder: Folder, node: Node, data: Node) -> bool:
        """A further name of what was restored here from `data`; False if there is no such thing, or no hard links."""
        home = self._homes.get(data.path, data.path)
        if home in self._absent or not covers(self._wanted, home):
            return False
        *above, name = home.split(b"/")
        source = self._top
        for part in above:
            source = restore.reopen(source, part)
        if not restore.link(source, name, folder, node.record.raw_name, self._manner):
            self._result.note_unset(node.path, ["hard link"])
            return False
        if home in self._lost:
            self._result.damaged.append((node.path, self._lost[home]))
        return True

    # -- what went otherwise ---------------------------------------------------------------------------------

    def _keep(self, node: Node) -> None:
        self._result.keep(node.path)
        self._crew.advance(node.record.size)

    def _damage(self, node: Node, error: DamagedError) -> None:
        if self._stop_at_damage:
            raise DamagedError(f"{show(node.path)}: {error}; extraction stopped", error.ranges) from None
        self._result.damaged.append((node.path, error.ranges))

    def _fail(self, node: Node, error: Exception) -> None:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and error.errno in _FATAL:
            where = os.path.join(self._destination, show(node.path))
            raise XtarError(f"{where}: cannot be written: {reason}; extraction stopped") from None
        self._result.failed.append((node.path, reason))


def _read_ahead(pieces: Iterator[Piece]) -> Iterator[Piece]:
    from ..pool import Pool

    with Pool(1) as reader:
        task = reader.submit(partial(next, pieces, None))
        while piece := task.result():
            task = reader.submit(partial(next, pieces, None))
            yield piece

"""Reads and checks everything that an archive holds.

An archive of ours is accounted for byte by byte: what surrounds each file's data is made again from its record, by
the functions that the builder writes with, and compared; the data and its copies are checked against each other up
to the identifier. Of an archive without structure, what has a checksum is checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct, field

from ..errors import ElsewhereError, FormatError, XtarError
from ..fork import Helper
from ..format import codec, locator, member, structure, tar
from ..format.locator import Locator, Place
from ..format.records import FILE, Structure
from ..format.tar import Mark
from ..reading.content import merged, whole
from ..reading.reader import Archive
from ..reading.tree import Node, StructuredDirectory, child_path
from ..source import Ahead
from ..text import show
from .check import NO_LAYOUT, Checker, Problem
from .items import Item, Run, Stretch, is_compiled, open_directory

_PIECE = 1 << 20  # bytes of a structure file that are read at a time
_HEALED = 4 << 20  # bytes that parity is asked for at a time
_WORTH_A_FORK = 4 << 20  # a smaller archive is checked before another process has begun


class Damage(NamedTuple):
    """What is wrong with one path. ranges: of its content, half-open, that are lost; none if it is hit elsewhere.

    repairable: parity can heal it.
    """

    path: bytes
    ranges: tuple[tuple[int, int], ...]
    reason: str
    repairable: bool = False


class VerifyResult(Struct):
    """files: names of regular files; content: the bytes they show.

    identifier: SHA-256 of the root's structure as it stands in the archive; empty if it has none.
    """

    files: int = 0
    content: int = 0
    identifier: str = ""
    damaged: list[Damage] = field(default_factory=list)


def verify(
    archive: Archive, progress: Callable[[int], None] = lambda size: None, jobs: int = 0, *, alone: bool = False
) -> VerifyResult:
    """Checks a whole archive. progress(bytes of the archive done since the last call) is called as it goes.

    jobs: threads, or processes where Python has most of the work, 0 for one per processor. These are forked, so no
    other thread should be busy then. alone: files whose data lies in other archives are not read. Damage
    is in the result, sorted by path. Raises SourceError where the medium fails.
    """
    jobs = jobs or len(os.sched_getaffinity(0))
    threads_do = is_compiled() and (alone or not _leads_elsewhere(archive))
    count = 1 if threads_do or archive.source.size <= _WORTH_A_FORK else jobs
    helpers = [
        Helper(_Verification(archive, (index, count), jobs, _no_progress, alone).run) for index in range(1, count)
    ]
    try:
        run = _Verification(archive, (0, count), jobs, _steps(progress), alone)
        run.run()
        for helper in helpers:
            run.join(helper.result())
    finally:
        for helper in helpers:
            helper.end()
    return run.finish()


def _leads_elsewhere(archive: Archive) -> bool:
    """Whether data lies in other archives, which Python reads."""
    facts = archive.tree.locator
    return facts is not None and bool(facts.base or facts.set)


def further_names(archive: Archive, damage: Mapping[bytes, Damage]) -> Iterator[Damage]:
    """That of the names of hard links whose data, under another name, is lost in part."""
    if not any(found.ranges for found in damage.values()):
        return
    for node in archive.walk():
        if not node.record.link:
            continue
        try:
            holder = damage.get(archive.data_node(node).path)
        except XtarError:
            continue
        if holder and holder.ranges:
            yield Damage(node.path, holder.ranges, f"its data lies in {show(holder.path)}", holder.repairable)


def _steps(progress: Callable[[int], None]) -> Callable[[int], None]:
    """Takes how far the archive is done, and tells `progress` how much further that is."""
    done = 0

    def reached(at: int) -> None:
        nonlocal done
        if at > done:
            progress(at - done)
            done = at

    return reached


def _no_progress(done: int) -> None:
    pass


class _Level:
    """A directory whose tar is being gone through. held: what ends where the next member begins."""

    def __init__(self, node: Node, start: int, path: bytes, tag: bytes, children: Iterator[Node | Stretch]) -> None:
        self.node = node
        self.start = start
        self.path = path
        self.children = children
        self.position = start
        self.held: Node | Run | None = None
        self.broken = False
        self._tag = tag
        self._marks: dict[bytes, Mark] = {}

    def mark(self, role: bytes) -> Mark:
        known = self._marks.get(role)
        if known is None:
            known = self._marks[role] = Mark(self._tag, self.node.record.ino, role)
        return known


class _Verification:
    """One run over an archive: walks it, and accounts for every place in it."""

    def __init__(
        self, archive: Archive, share: tuple[int, int], jobs: int, progress: Callable[[int], None], alone: bool
    ) -> None:
        self.result = VerifyResult()
        self._alone = alone
        self.damage: dict[bytes, Damage] = {}
        self._archive = archive
        self._tree = archive.tree
        self._read = Ahead(archive.source).read_at
        self._read_copy = Ahead(archive.source).read_at
        self._size = archive.source.size
        self._checker = Checker(archive.source, share, jobs, self._problem, progress)
        self._leads = share[0] == 0
        self._catalogue = 0  # how much of the catalogue has been compared

    def run(self) -> dict[bytes, Damage]:
        """Checks this process's share; the one that leads, all that is not a member of a file as well."""
        root = self._archive.root
        try:
            if isinstance(self._tree.directory(root), StructuredDirectory):
                self._structured(root)
            else:
                self._loose(root)
            self._checker.finish()
        finally:
            self._checker.close()
        return self.damage

    def join(self, damage: dict[bytes, Damage]) -> None:
        """Takes what another process found."""
        for found in damage.values():
            self._report(*found)

    def finish(self) -> VerifyResult:
        """The result, once all is joined."""
        for further in further_names(self._archive, self.damage):
            self._report(*further)
        for path, what in self._tree.damage:
            if path not in self.damage:
                self._report(path, (), what)
        self.result.damaged = [self.damage[path] for path in sorted(self.damage)]
        if any(not damage.ranges for damage in self.result.damaged) and self._heals_everywhere():
            self.result.damaged = [
                damage if damage.ranges else damage._replace(repairable=True) for damage in self.result.damaged
            ]
        return self.result

    def _heals_everywhere(self) -> bool:
        """Whether parity can restore the whole archive."""
        heal = self._archive.source.heal
        return all(heal(at, _HEALED) is not None for at in range(0, self._size, _HEALED))

    # -- results ---------------------------------------------------------------------------------------------

    def _report(self, path: bytes, ranges: tuple[tuple[int, int], ...], reason: str, repairable: bool = False) -> None:
        known = self.damage.get(path)
        if known:
            reason = known.reason if reason in known.reason else f"{known.reason}; {reason}"
            ranges = tuple(merged({*known.ranges, *ranges}))
            repairable = repairable and (known.repairable or not known.ranges)
        self.damage[path] = Damage(path, ranges, reason, repairable)

    def _problem(self, node: Node, problem: Problem) -> None:
        """A member that is not as it should be; the reader says what of its content is lost."""
        if not problem.lost or node.record.type != FILE:
            self._report(node.path, (), problem.reason)
            return
        lost = self._archive.damaged_ranges(node)
        healed = self._tree.healed.get(node.path, set())
        ranges = tuple(merged({*lost, *healed}))
        reason = problem.reason if ranges else f"{problem.reason}, but it can be read"
        self._report(node.path, ranges, reason, bool(healed) and not lost)

    def _count(self, node: Node) -> None:
        if node.record.type == FILE:
            self.result.files += 1
            self.result.content += node.record.size

    # -- archives of ours: every byte has its place ----------------------------------------------------------

    def _structured(self, root: Node) -> None:
        stack = [level] if (level := self._enter(root, 0)) else []
        while stack:
            level = stack[-1]
            child = self._next(level)
            if child is None:
                stack.pop()
                self._leave(level)
            elif isinstance(child, Stretch):
                self._files(level, child)
            elif below := self._child(level, child):
                stack.append(below)

    def _child(self, level: _Level, node: Node) -> _Level | None:
        """The next child; if it is a directory, what is to be gone through before those behind it."""
        self._count(node)
        record = node.record
        if record.link:
            return None
        if record.elsewhere or record.parts:
            if not self._alone and self._checker.is_next():
                self._elsewhere(node)
            return None
        self._place(level, level.start + record.at)
        if not record.is_dir:
            level.held = node
            return None
        if self._leads:
            self._nested_head(level, node)
        level.position = level.start + record.data + record.packed
        return self._enter(node, level.start + record.data)

    def _files(self, level: _Level, stretch: Stretch) -> None:
        self.result.files += stretch.files
        self.result.content += stretch.content
        self._place(level, level.start + stretch.at)
        level.held = Run(level.node, level.path, level.mark(tar.ROLE_FILE), level.start, stretch)

    def _next(self, level: _Level) -> Node | Stretch | None:
        try:
            return next(level.children, None)
        except FormatError as error:
            self._report(level.node.path, (), str(error))
            level.broken = True
            return None

    def _enter(self, node: Node, start: int) -> _Level | None:
        """A directory's first members; None if it has no structure and its members were checked for themselves."""
        opened = open_directory(self._tree, node)
        if opened is None:
            self._report(node.path, (), "both copies of its structure are damaged")
            self._loose(node)
            return None
        header, children = opened
        level = _Level(node, start, header.raw_path, bytes.fromhex(header.tag), children)
        facts = self._tree.locator
        if node.path == b"" and facts:
            self._own(level, facts.intro, tar.ROLE_INTRO)
        elif node.path == b"" and not level.path:
            self._report(b"", (), "its locator is damaged or missing")
            level.broken = True
        self._expect(level, member.self_entry(node.record, level.mark(tar.ROLE_SELF)), "the entry ./")
        return level

    def _leave(self, level: _Level) -> None:
        """What stands behind a directory's children."""
        place = level.node.record.structure
        assert place
        self._own(level, Place(level.start + place.at, place.size, ""), tar.ROLE_STRUCTURE)
        if self._leads:
            self._structure(level.node, level.start + place.at, place)
        self._catalogue = place.catalogue + place.size
        facts, end = self._tree.locator, level.start + level.node.record.packed
        if level.node.path == b"":
            end = self._size
            if facts:
                self._ending(level, facts)
        if not level.broken:
            self._expect(level, tar.END, "the end of its archive")
            self._place(level, end)

    def _ending(self, level: _Level, facts: Locator) -> None:
        """The members that only an outermost archive has."""
        self._own(level, facts.catalogue, tar.ROLE_CATALOGUE)
        if self._catalogue != facts.catalogue.size:
            self._report(b"", (), "the catalogue holds more than the structures of the tree")
        self._own(level, facts.tables, tar.ROLE_TABLES)
        if facts.set:
            self._own(level, facts.set.catalogue, tar.ROLE_SET)
        self._own(level, facts.origin, tar.ROLE_ORIGIN)
        at = facts.at + tar.BLOCK
        length = structure.block_length(self._read(at, structure.HEAD_SIZE))
        block = self._read(at, length)
        self._own(level, Place(at, length, ""), tar.ROLE_LOCATOR)
        if locator.pack_text(structure.unpack_block(block)) != block:
            self._report(b"", (), "its locator is damaged")

    def _place(self, level: _Level, at: int) -> None:
        """The next member begins at `at`: what was held ends there, or everything before is accounted for already."""
        held, level.held = level.held, None
        if held is None:
            if level.position != at and not level.broken:
                self._report(level.node.path, (), f"bytes {level.position} to {at} of the archive belong to nothing")
        elif isinstance(held, Run):
            self._hand_over_run(held, at)
        else:
            start = level.start + held.record.at
            role = tar.ROLE_FILE if held.record.type == FILE else tar.ROLE_NATIVE
            path = child_path(level.path, held.record.raw_name)
            self._hand_over(Item(held, path, level.mark(role), start, at))
        level.position = at

    def _hand_over_run(self, run: Run, end: int) -> None:
        if run.end == end <= self._size:
            self._checker.add(run)
            return
        for item in run.items(end):
            self._hand_over(item)

    def _hand_over(self, item: Item) -> None:
        if not item.at < item.end <= self._size:
            self._problem(item.node, NO_LAYOUT)
        else:
            self._checker.add(item)

    def _expect(self, level: _Level, expected: bytes, what: str) -> None:
        if self._read(level.position, len(expected)) != expected:
            self._report(level.node.path, (), f"{what} is damaged")
        level.position += len(expected)

    def _nested_head(self, level: _Level, node: Node) -> None:
        record = node.record
        for taken in (False, True):
            name = member.member_name(record.raw_name, member.DIRECTORY_SUFFIX, taken)
            head = member.directory_head(record, name, level.mark(tar.ROLE_DIRECTORY))
            if record.at + len(head) == record.data and self._read(level.start + record.at, len(head)) == head:
                return
        self._report(node.path, (), "its tar header is damaged")

    def _own(self, level: _Level, place: Place, role: bytes) -> None:
        """A member of the archive's own whose data must lie at `place`: its header, padding and CRC-32."""
        self._place(level, place.at - tar.BLOCK)
        raw = self._read(level.position, tar.BLOCK)
        name, what = _OWN[role]
        sound = raw == member.own_member(name, level.mark(role), place.size) or self._renamed(level, role, raw, place)
        level.position = place.at + place.size
        if not sound:
            self._report(level.node.path, (), f"the tar header of {what} is damaged")
        if place.crc32 and self._crc32(place) != place.crc32:
            self._report(level.node.path, (), f"{what} is damaged")
        self._expect(level, bytes(tar.padding(place.size)), f"the padding behind {what}")

    def _renamed(self, level: _Level, role: bytes, raw: bytes, place: Place) -> bool:
        """Whether a header is an own member's that had to give its usual name to a child."""
        try:
            return raw == member.own_member(tar.parse(raw).name, level.mark(role), place.size)
        except FormatError:
            return False

    def _crc32(self, place: Place) -> str:
        crc = 0
        for piece in self._pieces(place.at, place.size, self._read):
            crc = codec.crc32(piece, crc)
        return f"{crc:08x}"

    def _pieces(self, at: int, size: int, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
        end = min(at + size, self._size)
        for start in range(max(at, 0), end, _PIECE):  # a place may claim to lie anywhere
            yield read(start, min(_PIECE, end - start))

    def _sha256(self, at: int, size: int, read: Callable[[int, int], bytes]) -> str:
        if size <= _PIECE:
            return hashlib.sha256(read(at, size)).hexdigest()
        digest = hashlib.sha256()
        for piece in self._pieces(at, size, read):
            digest.update(piece)
        return digest.hexdigest()

    def _structure(self, node: Node, at: int, place: Structure) -> None:
        """A structure file against the digest in its directory's record, or in the locator, and against its copy."""
        digest, wanted = self._sha256(at, place.size, self._read), node.record.sha256
        if node.path == b"":
            self.result.identifier = digest
            wanted = self._tree.locator.id if self._tree.locator else digest
        if digest != wanted:
            self._report(node.path, (), "its structure file is damaged")
        copy = self._tree.catalogue
        if copy is None:
            return
        at = copy + place.catalogue
        if place.catalogue != self._catalogue or self._sha256(at, place.size, self._read_copy) != wanted:
            self._report(node.path, (), "the copy of its structure in the catalogue is damaged")

    def _elsewhere(self, node: Node) -> None:
        """A file whose member lies in another archive: its content, as it can be read."""
        digest, lost = hashlib.sha256(), []
        try:
            for piece in self._archive.pieces(node):
                digest.update(piece.data)
                if piece.error:
                    lost.append((piece.start, piece.end))
        except ElsewhereError as error:
            self._report(node.path, whole(node.record), str(error).partition(": ")[2])
            return
        healed = self._tree.healed.get(node.path, set())
        if lost or healed:
            self._report(node.path, tuple(merged({*lost, *healed})), "its data is damaged", not lost)
        elif digest.hexdigest() != node.record.sha256:
            self._report(node.path, whole(node.record), "its content has another checksum than it was given")

    # -- archives without structure --------------------------------------------------------------------------

    def _loose(self, top: Node) -> None:
        """Everything below a directory that is listed from its members' headers."""
        for node in self._archive.walk(top):
            self._count(node)
            if node.record.type == FILE and not node.record.link and self._checker.is_next():
                ranges = tuple(self._archive.damaged_ranges(node))
                if ranges:
                    self._report(node.path, ranges, "its data is damaged")


_OWN = {
    tar.ROLE_INTRO: (member.INTRO_NAME, "the text on restoring"),
    tar.ROLE_STRUCTURE: (member.STRUCTURE_NAME, "its structure file"),
    tar.ROLE_CATALOGUE: (member.CATALOGUE_NAME, "the catalogue"),
    tar.ROLE_TABLES: (member.TABLES_NAME, "the copy of the chunk tables"),
    tar.ROLE_SET: (member.SET_NAME, "the catalogue of the set"),
    tar.ROLE_ORIGIN: (member.ORIGIN_NAME, "the record of its origin"),
    tar.ROLE_LOCATOR: (member.LOCATOR_NAME, "the locator"),
}

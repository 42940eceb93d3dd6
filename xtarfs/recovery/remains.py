"""What is left of one archive, put together again: its directories, what was in them, and where data may lie.

Every fact stands in several places; here the first sound copy of each is taken. Whether the bytes found are the right
ones is for the reader to check: a place is only a guess.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import msgspec
from lru import LRU
from msgspec import Struct, field

from ..errors import FormatError
from ..format import chunks, member, tar, zip
from ..format.locator import Locator
from ..format.records import DIRECTORY, FILE, Header, Record, new_record
from ..reading import foreign
from ..reading.tree import Node
from .carve import Block, Member, Patient, Tagged, Zip, records_of

_ANYWHERE = 1 << 62
_FIRST_MADE_UP_INO = 1 << 40
_OWN_CONTENT = tar.ROLE_FILE + tar.ROLE_DIRECTORY + tar.ROLE_NATIVE


class Run(Struct):
    """A structure file, or its copy, as far as it was found: the header, text `text`, and the blocks of records."""

    at: int
    text: int
    header: Header
    blocks: list[Block] = field(default_factory=list)


class Folder(Struct):
    """What is known of a directory. record: from its parent. blocks: with the name of the first record in each.

    count: records in the blocks. extra: children that no record tells of. subdirectories: names of those found.
    """

    header: Header | None = None
    record: Record | None = None
    ino: int | None = None
    blocks: list[tuple[bytes, Block]] = field(default_factory=list)
    count: int = 0
    extra: dict[bytes, Record] = field(default_factory=dict)
    observed: tuple[list[int], list[int]] | None = None

    @property
    def complete(self) -> bool:
        return self.header is not None and self.count >= self.header.children


def split(path: bytes) -> tuple[bytes, bytes]:
    folder, _, name = path.rpartition(b"/")
    return folder, name


class Remains:
    """One archive's finds, joined. claimed: whose data lies where, for all archives that were found.

    folders: by path. guessed: paths of directories whose attributes no copy tells. tag: the archive's.
    """

    def __init__(
        self,
        source: Patient,
        tag: bytes,
        found: Tagged,
        runs: list[Run],
        locators: list[tuple[int, Locator]],
        claimed: dict[int, tuple[bytes, bytes, int]],
    ) -> None:
        self.source, self.tag, self.found = source, tag, found
        self.folders: dict[bytes, Folder] = {}
        self.guessed: list[bytes] = []
        self.tables: list[int] = []
        self.unplaced = 0
        self._claimed = claimed
        self.locators = locators
        self._seen: set[int] = set()
        self._paths: dict[int, bytes] = {}
        self._records: LRU[int, list[Record]] = LRU(32)
        self._inos = _FIRST_MADE_UP_INO
        self._members = {(m.ino, m.name): m for m in reversed(found.members) if m.role in _OWN_CONTENT}
        self._selves = {m.ino: m for m in reversed(found.members) if m.role == tar.ROLE_SELF}
        self._structures = {m.ino: m for m in reversed(found.members) if m.role == tar.ROLE_STRUCTURE}
        self._locals = _by_path(found.locals)
        self._centrals = _by_path(found.centrals)
        self._spare = self._locals.keys() | self._centrals.keys()
        for run in runs:
            self._take(run.header.raw_path, run.blocks, run.header)

    def finish(self, strays: list[list[Block]]) -> None:
        """Gives a place to what the structure files leave over. Takes those of `strays` that belong here."""
        for blocks in strays[:]:
            path = self._home(blocks)
            if path is not None:
                self._take(path, blocks)
                strays.remove(blocks)
        self._learn_paths()
        self._adopt_zips()
        self._adopt_natives()
        self._adopt_folders()
        self.tables = self._find_tables()

    # -- joining ---------------------------------------------------------------------------------------------

    def folder(self, path: bytes) -> Folder:
        folder = self.folders.get(path)
        if folder is None:
            folder = self.folders[path] = Folder()
        return folder

    def _take(self, path: bytes, blocks: list[Block], header: Header | None = None) -> None:
        """Blocks of records of the directory at `path`."""
        folder = self.folder(path)
        if header and not folder.header:
            folder.header = header
            self._know(path, header.directory.ino)
        for block in blocks:
            if block.text in self._seen:
                continue
            self._seen.add(block.text)
            records = self.records(block)
            folder.blocks.append((records[0].raw_name, block))
            folder.count += len(records)
            for record in records:
                child = path + b"/" + record.raw_name if path else record.raw_name
                if record.is_dir:
                    self.folder(child).record = record
                    self._know(child, record.ino)
                elif record.type == FILE:
                    self._spare.discard(child)

    def _know(self, path: bytes, ino: int) -> None:
        self._paths.setdefault(ino & 0xFFFFFFFF, path)
        self.folder(path).ino = ino & 0xFFFFFFFF

    def records(self, block: Block) -> list[Record]:
        records: list[Record] | None = self._records.get(block.text)
        if records is None:
            records = self._records[block.text] = records_of(self.source, block)
        return records

    def _home(self, blocks: list[Block]) -> bytes | None:
        """The directory of blocks that were found without their header."""
        for found in self.found.members:
            if found.role == tar.ROLE_STRUCTURE and found.data <= blocks[0].at < found.data + found.size:
                return self._paths.get(found.ino)
        votes: Counter[bytes] = Counter()
        names = set()
        for record in (record for block in blocks for record in self.records(block)):
            names.add(record.raw_name)
            if record.is_dir:
                path = self._paths.get(record.ino & 0xFFFFFFFF)
                votes.update([split(path)[0]] if path and split(path)[1] == record.raw_name else [])
            elif record.size and record.crc32:
                votes.update(self._by_name().get((record.raw_name, record.crc), ()))
        (path, most), *_ = [*votes.most_common(1), (b"", 0)]
        if 2 * most <= votes.total():
            return None
        known = self.folder(path)
        if known.complete or any(not names.isdisjoint(r.raw_name for r in self.records(b)) for _, b in known.blocks):
            return None
        return path

    def _by_name(self) -> dict[tuple[bytes, int], set[bytes]]:
        """Directories by name and CRC-32 of the zips that they hold."""
        found: dict[tuple[bytes, int], set[bytes]] = defaultdict(set)
        for entry in (*self.found.locals, *self.found.centrals):
            folder, name = split(entry.path)
            found[name, entry.crc].add(folder)
        self._by_name = lambda: found  # type: ignore[method-assign]
        return found

    def _learn_paths(self) -> None:
        """Paths of directories whose structure is lost, from the zips and the nested archives in them."""
        starts = {entry.at: entry.path for entry in self.found.locals}
        votes: dict[int, Counter[bytes]] = defaultdict(Counter)
        for found in self.found.members:
            path = starts.get(found.data) if found.ino not in self._paths else None
            if path is not None and _names(found.name, split(path)[1], member.FILE_SUFFIX):
                votes[found.ino][split(path)[0]] += 2 if self._twice(path) else 1
        for ino, counter in votes.items():
            path, most = counter.most_common(1)[0]
            if most > 1 and self.folder(path).ino is None:
                self._know(path, ino)
        selves = {found.at: found.ino for found in self._selves.values()}
        nested = [found for found in self.found.members if found.role == tar.ROLE_DIRECTORY and found.data in selves]
        for found in nested:  # downwards
            above, child = self._paths.get(found.ino), selves[found.data]
            if above is not None and child not in self._paths:
                name = _stripped(found.name, member.DIRECTORY_SUFFIX)
                self._know(above + b"/" + name if above else name, child)
        for found in reversed(nested):  # and upwards
            path = self._paths.get(selves[found.data])
            if path and found.ino not in self._paths:
                self._know(split(path)[0], found.ino)

    def _twice(self, path: bytes) -> bool:
        return path in self._locals and path in self._centrals

    def _adopt_zips(self) -> None:
        """Files that no record tells of, where two copies of the name agree and the directory may have had more."""
        for path in sorted(self._spare):
            name = split(path)[1]
            folder = self.folders.get(split(path)[0])
            named = folder is not None and any(
                (folder.ino, candidate) in self._members for candidate in _member_names(name, member.FILE_SUFFIX)
            )
            if (folder and folder.complete) or not (self._twice(path) or named) or not _is_path(path):
                self.unplaced += 1
                continue
            self.folder(split(path)[0]).extra[name] = self._from_zip(path, name)

    def _from_zip(self, path: bytes, name: bytes) -> Record:
        read = self.source.read_at
        self._inos += 1
        if path in self._locals:
            entry = zip.read_local(read, self._locals[path][0].at)[0]
            record = foreign.from_entry(read, entry, name, self._inos, _ANYWHERE)
        else:
            entry = zip.read_listed(read, self._centrals[path][0].at)
            record = foreign.lost(name, self._inos, entry)
        found = self._member(split(path)[0], name, FILE)
        if found:
            self._decorate(record, found)
        record.nlink = 2  # there may be further names, which only records tell of
        return record

    def _decorate(self, record: Record, found: Member) -> None:
        try:
            header = tar.read_member(self.source.read_at, found.at)
        except FormatError:
            return
        if header:
            foreign.decorate(record, header.header)

    def _adopt_natives(self) -> None:
        for found in self.found.members:
            path = self._paths.get(found.ino) if found.role == tar.ROLE_NATIVE else None
            if path is None or self.folder(path).complete or not _is_path(found.name) or b"/" in found.name:
                continue
            header = tar.read_member(self.source.read_at, found.at)
            if header and not any(found.name == r.raw_name for r in self._children(path)):
                self._inos += 1
                self.folder(path).extra[found.name] = foreign.from_header(header, found.name, self._inos)

    def _adopt_folders(self) -> None:
        """A record for each directory that its parent's structure does not tell of, and for those above it."""
        self.folder(b"")
        for path in sorted(self.folders):
            while self.folder(path).record is None:
                above, name = split(path)
                record = self.folder(path).record = self._attributes(path, name or b".")
                if path:
                    self.folder(above).extra[name] = record
                    path = above

    def _attributes(self, path: bytes, name: bytes) -> Record:
        folder = self.folder(path)
        if folder.header:
            record = msgspec.structs.replace(folder.header.directory)
        else:
            self._inos += 1
            found = self._selves.get(1 if not path else -1 if folder.ino is None else folder.ino)
            header = tar.read_member(self.source.read_at, found.at) if found else None
            if header:
                return foreign.from_header(header, name, self._inos)
            self.guessed.append(path)
            return foreign.folder(name, self._inos)
        named = new_record(name, DIRECTORY, 0, 0, 0)
        record.name, record.name_b64 = named.name, named.name_b64
        return record

    def _children(self, path: bytes) -> Iterator[Record]:
        for _, block in self.folder(path).blocks:
            yield from self.records(block)

    # -- listing ---------------------------------------------------------------------------------------------

    def children(self, path: bytes) -> Iterator[Node]:
        """The children of a directory in order. base 0: `places` knows where their data lies."""
        folder = self.folders.get(path) or Folder()
        streams: list[Iterable[tuple[bytes, Record]]] = [sorted(folder.extra.items())]
        streams += [self._named(block) for _, block in sorted(folder.blocks, key=lambda pair: pair[0])]
        last = None
        for name, record in heapq.merge(*streams, key=lambda pair: pair[0]) if folder.extra else _chained(streams):
            if name != last:
                yield Node(record, 0, path + b"/" + name if path else name)
            last = name

    def _named(self, block: Block) -> Iterator[tuple[bytes, Record]]:
        for record in self.records(block):
            yield record.raw_name, record

    def get(self, path: bytes, name: bytes) -> Node | None:
        """The child of that name."""
        folder = self.folders.get(path) or Folder()
        record = folder.extra.get(name)
        if record is None:
            _, block = max((pair for pair in folder.blocks if pair[0] <= name), default=(name, None))
            record = next((r for r in self.records(block) if r.raw_name == name), None) if block else None
        return Node(record, 0, path + b"/" + name if path else name) if record else None

    def files(self) -> Iterator[Node]:
        """All files that have data of their own."""
        for path in self.folders:
            for node in self.children(path):
                if node.record.type == FILE and not node.record.link:
                    yield node

    @property
    def incomplete(self) -> list[bytes]:
        """Directories that may have held more than is known."""
        return sorted(path for path, folder in self.folders.items() if not folder.complete)

    # -- places ----------------------------------------------------------------------------------------------

    def place(self, path: bytes, record: Record) -> int | None:
        """Where a file's packed data begins, most likely."""
        if self.is_extra(path, record):
            return record.data
        for entry in self._locals.get(path, ()):
            if entry.crc == record.crc:
                return entry.data
        return next(iter(self.places(path, record)), None)

    def places(self, path: bytes, record: Record) -> list[int]:
        """Everywhere where a file's packed data may begin, or may seem to, seen from what was found around it."""
        if self.is_extra(path, record):
            return [record.data]
        above, name = split(path)
        found = [entry.data for entry in self._locals.get(path, ()) if entry.crc == record.crc]
        header = self._member(above, name, FILE)
        if header:
            found.append(header.at + record.data - record.at)
        end = record.packed
        if record.chunk:
            end = record.index - record.data + chunks.table_size(record.size, record.chunk, member.method_of(record))
        found += [entry.at - end for entry in self._centrals.get(path, ()) if entry.crc == record.crc]
        found += [base + record.data for base in self._bases(above, record.at)]
        expected = (self.tag, path, record.crc)
        return [at for at in dict.fromkeys(found) if self._claimed.get(at, expected) == expected]

    def named(self, folder: bytes, crc: int) -> bytes | None:
        """The path of a zip in a directory whose content has that checksum."""
        for entry in (*self.found.locals, *self.found.centrals):
            if entry.crc == crc and split(entry.path)[0] == folder:
                return entry.path
        return None

    def is_extra(self, path: bytes, record: Record) -> bool:
        """Whether only the file's own headers tell of it."""
        above, name = split(path)
        return self.folder(above).extra.get(name) is record

    def _member(self, path: bytes, name: bytes, kind: str) -> Member | None:
        suffix = member.DIRECTORY_SUFFIX if kind == DIRECTORY else member.FILE_SUFFIX
        ino = self.folder(path).ino
        for candidate in _member_names(name, suffix) if kind in (FILE, DIRECTORY) else (name,):
            found = self._members.get((ino, candidate)) if ino is not None else None
            if found:
                return found
        return None

    def _bases(self, path: bytes, at: int) -> list[int]:
        """Where a directory's tar may begin, seen from byte `at` of it: by what was found next to that, or above."""
        folder = self.folder(path)
        if folder.observed is None:
            folder.observed = self._observe(path, folder)
        ats, bases = folder.observed
        number = bisect_right(ats, at)
        near = bases[max(number - 1, 0) : number + 1]
        if len(near) == 2 and near[0] == near[1]:
            return near[:1]
        if not path:
            near += [place - facts.at for place, facts in self.locators] + [0]
        elif folder.record and folder.record.data:
            above = self._bases(split(path)[0], folder.record.data)
            near += [base + folder.record.data for base in above]
        return list(dict.fromkeys(near))

    def _observe(self, path: bytes, folder: Folder) -> tuple[list[int], list[int]]:
        """By ascending place in a directory's tar: where the tar begins according to what was found there."""
        seen: list[tuple[int, int]] = []
        own = self._selves.get(folder.ino) if folder.ino is not None else None
        if own and path:
            seen.append((0, own.at))
        structure = self._structures.get(folder.ino) if folder.ino is not None else None
        place = folder.record.structure if folder.record else None
        if structure and place:
            seen.append((place.at, structure.data - place.at))
        for record in self._children(path):
            if record.link:
                continue
            name = record.raw_name
            found = self._member(path, name, record.type)
            if found:
                seen.append((record.at, found.at - record.at))
            elif record.type == FILE:
                child = path + b"/" + name if path else name
                seen += [
                    (record.at, entry.data - record.data)
                    for entry in self._locals.get(child, ())
                    if entry.crc == record.crc
                ]
        seen.sort()
        return [at for at, _ in seen], [base for _, base in seen]

    def _find_tables(self) -> list[int]:
        """Where the data of the member with the copies of all chunk tables may begin."""
        found = [m.data for m in self.found.members if m.role == tar.ROLE_TABLES]
        for place, facts in self.locators:
            found += [base + facts.tables.at for base in (place - facts.at, *self._bases(b"", facts.tables.at))]
        return list(dict.fromkeys(found))


def _by_path(entries: list[Zip]) -> dict[bytes, list[Zip]]:
    found: dict[bytes, list[Zip]] = {}
    for entry in entries:
        found.setdefault(entry.path, []).append(entry)
    return found


def _chained(streams: list[Iterable[tuple[bytes, Record]]]) -> Iterator[tuple[bytes, Record]]:
    for stream in streams:
        yield from stream


def _member_names(name: bytes, suffix: bytes) -> tuple[bytes, bytes]:
    return name + suffix, member.long_name(name, suffix)


def _names(found: bytes, name: bytes, suffix: bytes) -> bool:
    return found in _member_names(name, suffix)


def _stripped(name: bytes, suffix: bytes) -> bytes:
    return name.removesuffix(suffix).rstrip(b"/")


def _is_path(path: bytes) -> bool:
    return b"\0" not in path and not any(part in (b"", b".", b"..") for part in path.split(b"/"))

"""An archive under construction: members one behind the other, directories nested, and the members that end it.

Does not know where content comes from: a build has it from a source, a transfer from other archives.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container
from typing import IO

import msgspec

import xtarfs
from xtarfs.format import codec, intro, locator, member, tar
from xtarfs.format.locator import Base, Locator, Place, VolumeSet
from xtarfs.format.records import Record, Structure, to_line, to_text
from xtarfs.format.structure import FORMAT
from xtarfs.format.tar import Mark

from .finished import Finished
from .output import Sink
from .section import Section


class _Directory(Section, kw_only=True):
    """A directory whose tar is being written. head_at, start: offsets in the output of its header and its tar.

    above: the most bytes that it takes to end those that it lies in.
    """

    name: bytes
    names: Container[bytes]
    mark: Mark
    head_at: int
    start: int
    above: int

    def left_at_most(self, text: int) -> int:
        """The most bytes that its end takes, that of its copy in the catalogue too, with `text` more of records."""
        structure = self.lines.at_most(header_at_most(self.record, self.path) + text)
        return 2 * structure + 2 * tar.BLOCK + len(tar.END)


class Layout:
    """The archive that is written to `out`, from the first `enter` to `finish`.

    Children must come in ascending order of the bytes of their names, each as `add`, `add_native`, `add_file`, or as
    an `enter` with its `leave`.
    """

    _root: _Directory

    def __init__(self, out: Sink, tag: bytes, work_dir: str) -> None:
        self.out = out
        self._tag = tag
        self._catalogue: IO[bytes] = tempfile.TemporaryFile(dir=work_dir)  # noqa: SIM115
        self._tables: IO[bytes] = tempfile.TemporaryFile(dir=work_dir)  # noqa: SIM115
        self._stack: list[_Directory] = []
        self._directories = self._others = 0
        self._intro = self._catalogue_place = self._tables_place = Place(0, 0, "")
        self._structure = Structure(0, 0)

    @property
    def depth(self) -> int:
        """How many directories are being written, each within the one before."""
        return len(self._stack)

    @property
    def identifier(self) -> str:
        """The archive's; known once the root has been left."""
        return self._root.record.sha256

    def child_path(self, name: bytes) -> bytes:
        """The path below the archive's root of a child of the directory being written."""
        path = self._stack[-1].path
        return path + b"/" + name if path else name

    def member_name(self, name: bytes, suffix: bytes) -> bytes:
        """The name of a child's member in the directory being written."""
        return member.member_name(name, suffix, name + suffix in self._stack[-1].names)

    def mark(self, role: bytes) -> Mark:
        """The mark of a member of the directory being written."""
        return _as(self._stack[-1].mark, role)

    # -- children --------------------------------------------------------------------------------------------

    def enter(self, record: Record, names: Container[bytes]) -> None:
        """Begins a directory; the first is the root. names: what it holds, for member names that clash with none."""
        root = not self._stack
        name = record.raw_name
        path = b"" if root else self.child_path(name)
        head_at = self.out.position
        if not root:
            name = self.member_name(name, member.DIRECTORY_SUFFIX)
            self.out.write(member.directory_head(record, name, self.mark(tar.ROLE_DIRECTORY)))
        mark = Mark(self._tag, record.ino, tar.ROLE_SELF)
        start = self.out.position
        above = self._stack[-1].above + self._stack[-1].left_at_most(line_at_most(record)) if self._stack else 0
        self._stack.append(
            _Directory(record, path, name=name, names=names, mark=mark, head_at=head_at, start=start, above=above)
        )
        if root:
            self._root = self._stack[0]
            at = self._own_member(member.INTRO_NAME, intro.TEXT, tar.ROLE_INTRO, self._root)
            self._intro = Place(at, len(intro.TEXT), f"{codec.crc32(intro.TEXT):08x}")
        self.out.write(member.self_entry(record, mark))

    def add(self, record: Record) -> None:
        """One more child of the directory being written, its member being there already or elsewhere."""
        self._stack[-1].add(record)

    def add_native(self, record: Record) -> None:
        """Writes a symlink, fifo or device."""
        record.at = self.out.position - self._stack[-1].start
        self.out.write(member.native_entry(record, self.mark(tar.ROLE_NATIVE)))
        self._others += 1
        self.add(record)

    def add_file(self, record: Record, at: int, table: bytes) -> None:
        """A regular file whose member was written at `at` of the output; places in its record count from there."""
        record.at = at - self._stack[-1].start
        record.data += record.at
        if table:
            record.index += record.at
            record.table_copy = self._keep_table(table)
        self.add(record)

    def add_finished(self, name: bytes, file: Finished, at: int) -> None:
        """A regular file whose member was written at `at` of the output, as the compiled core gives it."""
        directory = self._stack[-1]
        copy = self._keep_table(file.chunk_table) if file.table_length else 0
        directory.add_line(name, file.line(at - directory.start, copy), 1, file.size)

    def _keep_table(self, table: bytes) -> int:
        """Where the copy of a chunk table lies."""
        at = self._tables.tell()
        self._tables.write(table)
        return at

    def leave(self) -> None:
        """Ends the directory being written. Behind the root's structure file follow catalogue and chunk tables."""
        directory = self._stack[-1]
        record = directory.record
        self._directories += 1
        structure = self._write_structure(directory)
        self._stack.pop()
        if not self._stack:
            self._structure = structure
            self._catalogue_place = self.append(member.CATALOGUE_NAME, self._catalogue, tar.ROLE_CATALOGUE)
            self._tables_place = self.append(member.TABLES_NAME, self._tables, tar.ROLE_TABLES)
            return
        self.out.write(tar.END)
        parent = self._stack[-1]
        record.structure = structure
        record.packed = self.out.position - directory.start
        record.at, record.data = directory.head_at - parent.start, directory.start - parent.start
        self.out.patch(directory.head_at, member.directory_head(record, directory.name, self.mark(tar.ROLE_DIRECTORY)))
        self.add(record)

    def _write_structure(self, directory: _Directory) -> Structure:
        data, index = directory.finish(self._tag)
        at = self._own_member(member.STRUCTURE_NAME, data, tar.ROLE_STRUCTURE, directory)
        catalogue = self._catalogue.tell()
        self._catalogue.write(data)
        return Structure(at - directory.start, len(data), index, catalogue)

    def _own_member(self, name: bytes, data: bytes, role: bytes, directory: _Directory) -> int:
        """Writes a member of the archive's own under a name that no child has; gives where its data begins."""
        self.out.write(member.own_member(_free_name(name, directory.names), _as(directory.mark, role), len(data)))
        at = self.out.position
        self.out.write(data)
        self.out.write(bytes(tar.padding(len(data))))
        return at

    def left_at_most(self, text: int, table: int) -> int:
        """The most bytes that leaving all directories takes if records of `text` bytes and a chunk table come first."""
        directory = self._stack[-1]
        own_members = 4 * tar.BLOCK + self._catalogue.tell() + self._tables.tell() + table
        return directory.above + directory.left_at_most(text) + own_members

    # -- behind the root's structure -------------------------------------------------------------------------

    def append(self, name: bytes, spool: IO[bytes], role: bytes) -> Place:
        """Writes a temporary file, which ends where it stands, as a further member of the outermost tar; closes it."""
        size = spool.tell()
        name = _free_name(name, self._root.names)
        self.out.write(member.own_member(name, _as(self._root.mark, role), size))
        at = self.out.position
        crc = self.out.append_from(spool)
        self.out.write(bytes(tar.padding(size)))
        spool.close()
        return Place(at, size, f"{crc:08x}")

    def finish(
        self,
        origin: IO[bytes],
        *,
        base: list[Base] | None = None,
        previous: str = "",
        replaces: list[str] | None = None,
        volumes: VolumeSet | None = None,
    ) -> Locator:
        """Writes the origin, the locator and the archive's end."""
        place = self.append(member.ORIGIN_NAME, origin, tar.ROLE_ORIGIN)
        root = self._root
        facts = Locator(
            xtar=FORMAT,
            writer=f"xtar {xtarfs.__version__}",
            id=self.identifier,
            tag=self._tag.hex(),
            at=self.out.position,
            intro=self._intro,
            root=self._structure,
            catalogue=self._catalogue_place,
            tables=self._tables_place,
            origin=place,
            files=root.record.files,
            directories=self._directories,
            others=self._others,
            bytes=root.record.total,
            base=base or [],
            previous=previous,
            replaces=replaces or [],
            set=volumes,
        )
        self._own_member(member.LOCATOR_NAME, locator.pack(facts), tar.ROLE_LOCATOR, root)
        self.out.write(tar.END)
        return facts


def surround(record: Record, path: bytes, name: bytes, mark: Mark, table: bytes) -> member.FileBytes:
    """The bytes around a file's packed data; sets the record's places, counted from the member's start.

    path: below the archive's root; name: the member's; table: the chunk table, empty if there is none.
    """
    around = member.file_bytes(record, path, name, mark, table)
    record.data = len(around.head)
    record.index = record.data + record.packed + around.table if table else 0
    return around


# Bytes by which a record's line grows at most, once places, counts and digests are known.
_GROWTH, _DIRECTORY_GROWTH = 100, 350


def line_at_most(record: Record) -> int:
    """The longest that a record's line can be, whatever its places become."""
    return len(to_line(record)) + (_DIRECTORY_GROWTH if record.is_dir else _GROWTH)


def header_at_most(record: Record, path: bytes) -> int:
    """The longest that the Header of a directory's structure file can be."""
    return len(to_line(record)) + len(msgspec.json.encode(to_text(path))) + 2 * _GROWTH


def _as(mark: Mark, role: bytes) -> Mark:
    return Mark(mark.tag, mark.ino, role)


def _free_name(name: bytes, taken: Container[bytes]) -> bytes:
    """`name`, or with a number before its extension the first that no child has."""
    stem, _, extension = name.partition(b".")
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = b"%s-%d.%s" % (stem, number, extension)
    return candidate

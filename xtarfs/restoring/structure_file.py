"""A tree's structure as a file of its own: saved by itself, taken out of an archive, or mtree.

The first pass reads and checks everything, so that nothing is done by a file that is damaged further on; the second
gives the entries. Nothing is held but a line.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import IO, NamedTuple, Self

from ..errors import DamagedError, FormatError, SourceError, UsageError
from ..format import mtree
from ..format.records import Header, Record, parse_header, parse_index, parse_records
from ..format.structure import FORMAT, MAX_LINE
from ..text import escape

_GZIP = b"\x1f\x8b"
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a fifo would wait
_BROKEN = (gzip.BadGzipFile, EOFError, zlib.error)


class Entry(NamedTuple):
    """One thing of the tree. path: below the root, which is empty. link: path of another name of the same file."""

    path: bytes
    record: Record
    link: bytes = b""


class StructureFile:
    """An open structure file that was found whole. root: path, below an archive's root, of the only folder it holds."""

    def __init__(self, path: str) -> None:
        """Raises SourceError, FormatError if it is no structure file, DamagedError if it is not whole."""
        self.name = path
        self.root = b""
        self._sections = 0
        try:
            self._file: IO[bytes] = open(os.open(path, _FLAGS), "rb")  # noqa: SIM115
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from None
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def entries(self) -> Iterator[Entry]:
        """All entries, those below a folder one behind the other; the folder itself before or after them."""
        if self._is_json:
            return self._stored()
        return (Entry(path, record) for path, record in mtree.parse(self._lines()))

    # -- the first pass --------------------------------------------------------------------------------------

    def _check(self) -> None:
        try:
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                raise FormatError("it is no regular file")
            self._is_packed = self._file.read(len(_GZIP)) == _GZIP
            first = next((line for line in self._lines() if line.strip()), b"")
            self._is_json = first.lstrip().startswith(b"{")
            if not self._is_json and first[:1] not in (b"#", b"/", b"."):
                raise FormatError("is neither jsonl nor mtree; of an archive, give its catalogue.jsonl.gz")
            last = self._check_sections() if self._is_json else self._check_entries()
        except DamagedError as error:
            raise DamagedError(f"{self.name}: {error}; nothing was applied") from None
        except FormatError as error:
            raise FormatError(f"{self.name}: is not a structure file: {error}") from None
        except OSError as error:
            raise SourceError(f"{self.name}: {error.strerror or error}") from None
        if last is None:
            raise DamagedError(f"{self.name}: is cut short: it ends before the root; nothing was applied")
        self.root = last

    def _check_sections(self) -> bytes | None:
        """Path of the root, which comes last; None if it does not come."""
        path = b""
        for header, records in self._read_sections():
            self._sections += 1
            path = header.raw_path
            if not header.directory.is_dir:
                raise FormatError(f"{escape(path) or 'the root'} is not a directory in it")
            for record in chain((header.directory,), records):
                _require_usable(record)
        return path if self._sections == 1 or not path else None

    def _check_entries(self) -> bytes:
        if not sum(1 for _ in mtree.parse(self._lines())):
            raise FormatError("it has no entries")
        return b""

    # -- reading ---------------------------------------------------------------------------------------------

    def _stored(self) -> Iterator[Entry]:
        """Folders come with their own sections; of a sole section, its records are all that is said of them."""
        for header, records in self._read_sections():
            path = header.raw_path if self._sections > 1 else b""
            yield Entry(path, header.directory)
            prefix = path + b"/" if path else b""
            for record in records:
                if self._sections == 1 or not record.is_dir:
                    yield Entry(prefix + record.raw_name, record, self._link_below_root(record))

    def _link_below_root(self, record: Record) -> bytes:
        """Where a further name leads, if that lies in this tree."""
        link = record.raw_link
        if not self.root:
            return link
        return link[len(self.root) + 1 :] if link.startswith(self.root + b"/") else b""

    def _read_sections(self) -> Iterator[tuple[Header, Iterator[Record]]]:
        lines = self._lines()
        for line in lines:
            try:
                header = parse_header(line)
            except FormatError as error:
                _require_index(line, error)
                continue
            if header.xtar != FORMAT:
                raise FormatError(f"is of format {escape(header.xtar.encode())}, this program reads {FORMAT}")
            if header.path:
                _require_path(header.raw_path)
            yield header, _records(header, lines)

    def _lines(self) -> Iterator[bytes]:
        self._file.seek(0)
        stream: IO[bytes] = gzip.GzipFile(fileobj=self._file) if self._is_packed else self._file  # type: ignore[assignment]
        try:
            while line := stream.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE:
                    raise FormatError("a line is too long")
                yield line
        except _BROKEN as error:
            raise DamagedError(f"is damaged or cut short: {error}") from None


def _records(header: Header, lines: Iterator[bytes]) -> Iterator[Record]:
    for _ in range(header.children):
        line = next(lines, None)
        if line is None or not line.endswith(b"\n"):
            raise DamagedError("is cut short")
        yield from parse_records(line, placed=False)


def _require_index(line: bytes, error: FormatError) -> None:
    try:
        parse_index(line)
    except FormatError:
        raise error from None


def _require_usable(record: Record) -> None:
    """Raises FormatError for what can be found out only by use."""
    if record.permissions > 0o7777 or max(record.uid, record.gid) > 2**32 - 2:
        raise FormatError(f"impossible mode or owner of {record.name!r}")
    _ = record.mtime_ns, record.raw_xattrs
    if record.link:
        _require_path(record.raw_link)


def _require_path(path: bytes) -> None:
    if b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise FormatError(f"{path!r} is not a path below the root")


def require_replaceable(path: str) -> None:
    """Raises UsageError if there is something at `path` that is not a structure file."""
    if os.path.lexists(path):
        try:
            StructureFile(path).close()
        except (SourceError, FormatError):
            raise UsageError(f"{path}: exists and is not a structure file; it is not replaced") from None

"""Zips taken out of an archive into one flat folder, and unpacked there into the tree that they came from.

A list in the folder tells which zips were put there, and what is in them: a file that comes out of one may be a zip,
even one of ours. A name is put on the list before its zip has any content, so an interruption leaves nothing unlisted.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Self

from xtarfs.errors import BuildError, DamagedError, FormatError, NotFound, UsageError, XtarError
from xtarfs.format import tar, zip
from xtarfs.format.member import FILE_SUFFIX, MAX_NAME
from xtarfs.format.records import FILE, Record, new_record
from xtarfs.reading.content import Piece
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node
from xtarfs.restoring import restore
from xtarfs.restoring.attributes import Owners
from xtarfs.restoring.restore import Folder, Manner
from xtarfs.source import FileSource
from xtarfs.text import escape

LIST = b".launched-by-xtar"  # NAME, NUL, PATH, NUL for each zip
_NEXT_LIST = LIST + b"-next"
_READ = 1 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Launch:
    """Puts zips of one archive into `directory`, made if need be, under names that nothing in its root has."""

    def __init__(self, archive: Archive, directory: str) -> None:
        self._archive = archive
        self._directory = directory
        if self._is_in_root(LIST) or self._is_in_root(_NEXT_LIST):
            raise UsageError(f"{archive.source.name}: holds a {LIST.decode()} itself; use 'xtar extract'")
        try:
            os.makedirs(directory, exist_ok=True)
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._list = os.open(LIST, _APPEND, 0o600, dir_fd=self._fd)
        except OSError as error:
            raise UsageError(f"{directory}: cannot be written into: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._list)
        os.close(self._fd)

    def put(self, node: Node) -> str:
        """Copies a file's zip as it is; gives the reason why that could not be done, or nothing. Raises BuildError."""
        source, record = self._archive.source, node.record
        if not record.at or record.elsewhere or record.parts:
            return "has no zip of its own in this archive; use 'xtar extract'"
        try:
            found = tar.read_member(source.read_at, node.base + record.at)
            if found is None:
                return "its zip cannot be found; 'xtar extract' may have it"
            name, fd = self._new_file(node)
            try:
                os.write(self._list, name + b"\0" + node.path + b"\0")
                with open(fd, "wb", closefd=False) as out:
                    for at in range(found.data, found.data + found.header.size, _READ):
                        out.write(source.read_at(at, min(_READ, found.data + found.header.size - at)))
            finally:
                os.close(fd)
        except XtarError as error:
            return f"could not be taken out: {error}"
        except OSError as error:
            raise BuildError(f"{self._directory}: cannot be written into: {error.strerror}") from None
        return ""

    def _new_file(self, node: Node) -> tuple[bytes, int]:
        """A name of its own for the file's zip, and the descriptor."""
        for name in _candidates(node.record):
            if not self._is_in_root(name):
                with contextlib.suppress(FileExistsError):
                    return name, os.open(name, _NEW, 0o600, dir_fd=self._fd)
        raise AssertionError

    def _is_in_root(self, name: bytes) -> bool:
        try:
            self._archive.lookup(name)
        except NotFound:
            return False
        return True


def _candidates(record: Record) -> Iterator[bytes]:
    """`NAME.zip`, then with the file's number in the archive, then with another."""
    name = record.raw_name
    for ending in itertools.chain(
        (b"", b"-%d" % record.ino), (b"-%d-%d" % (record.ino, n) for n in itertools.count(1))
    ):
        rest = ending + FILE_SUFFIX
        if ending or len(name) + len(rest) <= MAX_NAME:
            yield name[: MAX_NAME - len(rest)] + rest


def expand(directory: str) -> list[tuple[bytes, str]]:
    """Unpacks the zips on the directory's list into their folders, and removes each and in the end the list.

    Those that could not be unpacked stay, and stay on the list; their paths are returned with the reason.
    """
    try:
        top = Folder(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), made=False)
        listed = _open_at(top, LIST)
    except FileNotFoundError as error:
        if error.filename == directory:
            raise UsageError(f"{directory}: does not exist; give the folder that was launched into") from None
        raise UsageError(f"{directory}: nothing was launched into it; zips of your own are never expanded") from None
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}; give the folder that was launched into") from None
    problems: list[tuple[bytes, str]] = []
    with listed, open(os.open(_NEXT_LIST, _ANEW, 0o600, dir_fd=top.fd), "wb") as left:
        for name, path in _pairs(listed):
            try:
                with contextlib.suppress(FileNotFoundError):  # unpacked by a run that was interrupted
                    _expand_one(top, name, path)
            except (OSError, ValueError, XtarError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                problems.append((path, f"was not unpacked: {reason}; its zip stays: {escape(name)}"))
                left.write(name + b"\0" + path + b"\0")
    os.rename(_NEXT_LIST, LIST, src_dir_fd=top.fd, dst_dir_fd=top.fd)
    if not problems:
        os.unlink(LIST, dir_fd=top.fd)
    return problems


def _pairs(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Names and paths from a list; what an interruption has cut off is no pair."""
    rest, name = b"", None
    while data := file.read(_READ):
        *words, rest = (rest + data).split(b"\0")
        for word in words:
            if name is None:
                name = word
            else:
                yield name, word
                name = None


def _expand_one(top: Folder, name: bytes, path: bytes) -> None:
    """Raises DamagedError, FormatError, FileExistsError if there is such a file already, OSError."""
    restore.require_name(name)
    with _open_at(top, name) as file:
        record = _describe(file, path)
        manner = Manner(Owners())
        folder = top
        *parents, last = path.split(b"/")
        for part in parents:
            folder = restore.enter(folder, part, manner)
        restore.write_file(folder, last, record, record, _pieces(file, record), manner)
    os.unlink(name, dir_fd=top.fd)


def _open_at(folder: Folder, name: bytes) -> IO[bytes]:
    return open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder.fd), "rb")


def _describe(file: IO[bytes], path: bytes) -> Record:
    """The file in the zip, by what the zip says of it."""
    source = FileSource(f"/proc/self/fd/{file.fileno()}")
    try:
        entries = list(itertools.islice(zip.read_central(source.read_at, 0, source.size), 2))
        if len(entries) != 1:
            raise FormatError("it is not a zip of one file")
    finally:
        source.close()
    entry = entries[0]
    record = new_record(
        path.rpartition(b"/")[2], FILE, entry.mode, entry.mtime, 0, max(entry.uid, 0), max(entry.gid, 0)
    )
    record.size = entry.size
    return record


def _pieces(file: IO[bytes], record: Record) -> Iterator[Piece]:
    """The content; what follows the damage that is met is a piece without data. zipfile raises RuntimeError as well."""
    at = 0
    try:
        with zipfile.ZipFile(file) as opened, opened.open(opened.infolist()[0]) as content:
            while data := content.read(_READ):
                yield Piece(at, at + len(data), data)
                at += len(data)
        if at != record.size:
            raise EOFError("content is not as long as the zip says")
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        yield Piece(at, record.size, b"", DamagedError(str(error)))

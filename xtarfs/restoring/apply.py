"""`xtar struct apply`: gives a tree that lost them its modes, owners, times, links and empty folders back.

Goes through the folders' descriptors and follows no symlink, so nothing outside the tree is touched. Content is never
written, and nothing that is there is removed, but a copy that becomes a further name of the equal file it once was.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from ..errors import FormatError, UsageError
from ..format.numbers import format_time
from ..format.records import BLOCK_DEVICE, CHARACTER, FILE, SYMLINK, TYPE_OF_BITS, Record
from ..text import escape, show
from . import relink, restore
from .attributes import Owners, differences, set_attributes
from .relink import Name
from .restore import Folder, Manner
from .structure_file import Entry, StructureFile

_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

Tell = Callable[[bytes, str], None]


class Outcome(Struct):
    """How many paths were changed, or would be; were as they should be; and have what could not be put right."""

    changed: int = 0
    right: int = 0
    wrong: int = 0


class _Level(Struct):
    """A folder on the way down. folder: None if it is not there, because this is a dry run or it is `lost`.

    closed: the mode that it had, if that kept even its owner out.
    """

    name: bytes
    folder: Folder | None
    record: Record | None = None
    made: bool = False
    lost: bool = False
    closed: int | None = None


def apply(file: StructureFile, destination: str, changed: Tell, wrong: Tell, *, dry_run: bool = False) -> Outcome:
    """Makes the directory `destination` what `file` says, content excepted.

    changed(path, what), wrong(path, why) are told of each path. Raises UsageError if there is no directory, or if its
    name is not that of the only folder that `file` knows, which may be all that is left of a file that was cut short.
    """
    name = file.root.rpartition(b"/")[2]
    if name and os.path.basename(os.path.realpath(os.fsencode(destination))) != name:
        raise UsageError(f"{file.name}: describes the folder {show(file.root)} alone; give a folder of that name")
    try:
        top = Folder(os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), made=False)
    except OSError as error:
        raise UsageError(f"{destination}: {error.strerror}; give the directory to apply it to") from None
    application = _Application(top, changed, wrong, dry_run)
    for entry in file.entries():
        application.take(entry)
    return application.finish()


class _Application:
    def __init__(self, top: Folder, changed: Tell, wrong: Tell, dry_run: bool) -> None:
        self._top = top
        self._stack = [_Level(b"", top)]
        self._changed = changed
        self._wrong = wrong
        self._dry_run = dry_run
        self._owners = Owners()
        self._outcome = Outcome()

    def take(self, entry: Entry) -> None:
        parts = entry.path.split(b"/") if entry.path else []
        if entry.record.is_dir or not parts:
            level = self._descend(parts)
            level.record = entry.record if entry.record.is_dir else None
            return
        level = self._descend(parts[:-1])
        if level.lost:
            return
        try:
            self._settle(entry, level, parts[-1])
        except (OSError, ValueError, FormatError) as error:
            self._fail(entry.path, f"cannot be put right: {_reason(error)}")

    def finish(self) -> Outcome:
        while self._stack:
            self._leave()
        return self._outcome

    # -- folders ---------------------------------------------------------------------------------------------

    def _descend(self, parts: list[bytes]) -> _Level:
        """The folder at this path, made if it is not there; those that are left on the way are finished."""
        shared = 0
        while shared < min(len(parts), len(self._stack) - 1) and self._stack[shared + 1].name == parts[shared]:
            shared += 1
        while len(self._stack) > shared + 1:
            self._leave()
        for name in parts[shared:]:
            self._stack.append(self._enter(self._stack[-1], name))
        return self._stack[-1]

    def _enter(self, above: _Level, name: bytes) -> _Level:
        if above.lost:
            return _Level(name, None, lost=True)
        path = self._path(name)
        try:
            if self._dry_run:
                if above.folder is None or not restore.exists(above.folder, name):
                    return _Level(name, None, made=True)
                return _Level(name, restore.reopen(above.folder, name))
            assert above.folder
            closed = _open_up(above.folder, name)
            with _keeping_time(above.folder):
                folder = restore.enter(above.folder, name, Manner(self._owners))
            return _Level(name, folder, made=folder.made, closed=closed)
        except (OSError, FormatError) as error:
            why = "exists and is not a directory" if isinstance(error, (NotADirectoryError, FileExistsError)) else ""
            self._fail(path, f"cannot be entered: {why or _reason(error)}; nothing below it was touched")
            return _Level(name, None, lost=True)

    def _leave(self) -> None:
        """A folder gets its attributes once nothing more happens in it."""
        path = self._path()
        level = self._stack.pop()
        if level.lost:
            return
        try:
            if level.folder and level.closed is not None:
                os.fchmod(level.folder.fd, level.closed)
            if level.folder and level.record:
                self._set(path, level.folder.fd, level.record, "directory made" if level.made else "")
            elif level.made:
                self._tell(path, "directory made")
        except (OSError, ValueError, FormatError) as error:
            self._fail(path, f"cannot be put right: {_reason(error)}")

    def _path(self, name: bytes = b"") -> bytes:
        """Of the folder that is open, or of `name` in it."""
        names = [level.name for level in self._stack[1:]]
        return b"/".join([*names, name] if name else names)

    # -- all else --------------------------------------------------------------------------------------------

    def _settle(self, entry: Entry, level: _Level, name: bytes) -> None:
        folder, record = level.folder, entry.record
        restore.require_name(name)
        if folder is None or not restore.exists(folder, name):
            self._make(entry, folder, name)
            return
        fd = os.open(name, _HANDLE, dir_fd=folder.fd)
        try:
            why = self._unlike(fd, record)
            if why:
                self._fail(entry.path, why)
                return
            if entry.link and not self._join(entry, folder, name):
                return
        finally:
            os.close(fd)
        self._set_at(entry.path, folder, name, record, "")

    def _unlike(self, fd: int, record: Record) -> str:
        """Why this is not what the record describes; empty if it is."""
        found = os.fstat(fd)
        kind = TYPE_OF_BITS.get(stat.S_IFMT(found.st_mode), "socket")
        if kind != record.type:
            return f"is a {kind}, not a {record.type}; it was left alone"
        if kind == SYMLINK:
            target = os.fsencode(os.readlink("", dir_fd=fd))
            if target != record.raw_target:
                return f"leads to {escape(target)}, not to {escape(record.raw_target)}; it was left alone"
        if kind in (CHARACTER, BLOCK_DEVICE) and found.st_rdev != os.makedev(record.major, record.minor):
            return "is another device; it was left alone"
        return ""

    def _make(self, entry: Entry, folder: Folder | None, name: bytes) -> None:
        record = entry.record
        if entry.link:
            self._link(entry, folder, name)
        elif record.type == FILE:
            self._fail(entry.path, "is missing; its content must be restored first")
        elif self._dry_run:
            self._tell(entry.path, f"{record.type} made")
        else:
            assert folder
            with _keeping_time(folder):
                restore.make_special(folder, name, record, Manner(self._owners))
            self._set_at(entry.path, folder, name, record, f"{record.type} made")

    # -- further names of hard links -------------------------------------------------------------------------

    def _link(self, entry: Entry, folder: Folder | None, name: bytes) -> None:
        """One that is missing."""
        first = relink.find(self._top, entry.link)
        if first is None:
            self._fail(entry.path, f"is missing, and so is {escape(entry.link)}, which it is another name of")
        else:
            self._link_to(first, entry, folder, name)

    def _join(self, entry: Entry, folder: Folder, name: bytes) -> bool:
        """One that is a file of its own: linked again if the bytes are the same. Whether attributes are left to set."""
        first, other = relink.find(self._top, entry.link), Name(folder, name)
        if first is None or relink.are_one(first, other):
            return True
        if relink.are_equal(first, other):
            self._link_to(first, entry, folder, name)
        else:
            self._fail(entry.path, f"was another name of {escape(entry.link)} and differs from it; it was left alone")
        return False

    def _link_to(self, first: Name, entry: Entry, folder: Folder | None, name: bytes) -> None:
        if not self._dry_run:
            assert folder
            with _keeping_time(folder):
                if not restore.link(*first, folder, name, Manner(self._owners, force=True)):
                    self._fail(entry.path, f"cannot be linked to {escape(entry.link)} on this file system")
                    return
        self._tell(entry.path, f"linked to {escape(entry.link)}")

    # -- attributes ------------------------------------------------------------------------------------------

    def _set_at(self, path: bytes, folder: Folder, name: bytes, record: Record, done: str) -> None:
        fd = os.open(name, _HANDLE, dir_fd=folder.fd)
        try:
            self._set(path, fd, record, done)
        finally:
            os.close(fd)

    def _set(self, path: bytes, fd: int, record: Record, done: str) -> None:
        """Sets what differs, and tells. done: what was already done to it; its attributes then go without saying."""
        found = os.fstat(fd)
        resized = record.type == FILE and found.st_size != record.size
        if resized:  # a time is a promise about the content
            record = msgspec.structs.replace(record, mtime=format_time(found.st_mtime_ns))
        target = f"/proc/self/fd/{fd}"
        wanted = differences(target, found, record, self._owners)
        left = wanted
        if wanted and not self._dry_run:
            set_attributes(target, record, self._owners)
            left = differences(target, os.fstat(fd), record, self._owners)
        elif self._dry_run:
            left = {}
        changes = [done] if done else [text for key, text in wanted.items() if key not in left]
        problems = [f"has {found.st_size} bytes, not {record.size}, and keeps its time"] if resized else []
        if left:
            problems.append(f"could not be set: {', '.join(left.values())}")
        if changes:
            self._tell(path, ", ".join(changes))
        if problems:
            self._fail(path, "; ".join(problems))
        if not changes and not problems:
            self._outcome.right += 1

    def _tell(self, path: bytes, what: str) -> None:
        self._outcome.changed += 1
        self._changed(path, what)

    def _fail(self, path: bytes, why: str) -> None:
        self._outcome.wrong += 1
        self._wrong(path, why)


def _open_up(folder: Folder, name: bytes) -> int | None:
    """Lets an ordinary user into a directory of his own, to work there; gives the mode that it had if that did not."""
    try:
        fd = os.open(name, _HANDLE | os.O_DIRECTORY, dir_fd=folder.fd)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        mode = stat.S_IMODE(found.st_mode)
        if mode & stat.S_IRWXU == stat.S_IRWXU or os.geteuid() != found.st_uid or not found.st_uid:
            return None
        os.chmod(f"/proc/self/fd/{fd}", mode | stat.S_IRWXU)
        return mode
    finally:
        os.close(fd)


@contextlib.contextmanager
def _keeping_time(folder: Folder) -> Iterator[None]:
    """What is made in a folder is not to show in its time: the folder may not be in the structure file."""
    before = os.fstat(folder.fd)
    yield
    with contextlib.suppress(OSError):
        os.utime(folder.fd, ns=(before.st_atime_ns, before.st_mtime_ns))


def _reason(error: Exception) -> str:
    return (error.strerror or "unknown error") if isinstance(error, OSError) else str(error)

"""Joins a FileSystem to the kernel: the C callbacks of libfuse, in terms of its methods.

Two bindings serve: fusepy on libfuse 2 and its fork mfusepy on libfuse 3. Both turn an object with Python
methods into a table of C functions, but with a decoding of every path, times as floats and directories
without attributes. So only their types, their option handling and their main loop are used; the functions
in the table are those of `Callbacks`, which take and give raw bytes.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import MountError
from ..filesystem.guard import Guard
from ..filesystem.mount_options import Ownership
from ..filesystem.vfs import FOREVER

if TYPE_CHECKING:
    from ..filesystem.vfs import Attributes, View

READ_OPERATIONS = (
    "getattr", "readlink", "open", "read", "statfs", "getxattr", "listxattr",
    "opendir", "readdir", "releasedir", "init",
)  # fmt: skip
WRITE_OPERATIONS = (
    "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "chmod", "chown", "truncate",
    "write", "create", "utimens", "setxattr", "removexattr",
)  # fmt: skip

READDIR_PLUS = 1  # flag of a readdir request (libfuse 3): the kernel takes attributes with the names
FILL_DIR_PLUS = 2  # flag of the answer: the whole stat is filled in
CAP_READDIRPLUS_AUTO = 1 << 14
CAP_CACHE_SYMLINKS = 1 << 23


class Binding(NamedTuple):
    """An imported binding and the major version of the libfuse under it."""

    name: str
    module: Any
    libfuse: int


class _Candidate(NamedTuple):
    name: str
    module: str
    libfuse: int
    libraries: tuple[str, ...]
    short_name: str
    package: str


_CANDIDATES = (
    _Candidate("mfusepy", "mfusepy", 3, ("libfuse3.so.3", "libfuse3.so.4"), "fuse3", "libfuse3-3 fuse3"),
    _Candidate("fusepy", "fuse", 2, ("libfuse.so.2",), "fuse", "libfuse2"),
)


def load_binding(choice: str | None = None) -> Binding:
    """The binding named by `choice`, or else the first one that can be had here.

    Raises MountError that names the missing package.
    """
    reasons = []
    for candidate in (each for each in _CANDIDATES if choice in (None, each.name)):
        library = _find_libfuse(candidate)
        if library is None:
            reasons.append(f"libfuse {candidate.libfuse} is missing: apt install {candidate.package}")
            continue
        # Both bindings look for libfuse 2 first; this makes each load its own.
        os.environ["FUSE_LIBRARY_PATH"] = library
        try:
            return Binding(candidate.name, importlib.import_module(candidate.module), candidate.libfuse)
        except ImportError:
            reasons.append(f"the Python package {candidate.name} is missing: pip install {candidate.name}")
        except (OSError, AttributeError) as error:
            reasons.append(f"{candidate.name} does not work with {library}: {error}")
    raise MountError("cannot mount: " + ", or: ".join(reasons))


def _find_libfuse(candidate: _Candidate) -> str | None:
    """The name of a library that loads."""
    for name in candidate.libraries:
        if _loads(name):
            return name
    # Takes 2 ms to load and a process or two, so only where the usual names fail.
    from ctypes.util import find_library

    other = find_library(candidate.short_name)
    return other if other and _loads(other) else None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


class _ThreadStates:
    """Keeps the Python thread states of the first of libfuse's threads.

    When C calls in from a foreign thread, Python makes a state for it, and on return frees it with its stack and
    all thread-local objects: a fifth of a request's time (`find` cold: 0.17 s, with states kept 0.13 s).
    A kept state stays when its thread ends, which libfuse's first threads seldom do; so their number is limited.
    """

    LIMIT = 16

    def __init__(self) -> None:
        self._local = threading.local()
        self._left = self.LIMIT

    def keep(self) -> None:
        """To be called in a call from C. One more count on its state, never taken back, keeps that alive."""
        if not hasattr(self._local, "seen"):
            self._local.seen = True
            if self._left > 0:
                self._left -= 1
                ctypes.pythonapi.PyGILState_Ensure()


def serve(
    binding: Binding,
    callbacks: Callbacks,
    mountpoint: str,
    options: Mapping[str, str | bool],
) -> None:
    """Mounts and answers requests until the mount ends; returns then.

    `options` are libfuse's -o options. Raises RuntimeError when libfuse could not mount; the reason is then
    what it wrote on stderr. Ends by unmounting, or by SIGTERM, SIGINT or SIGHUP, which libfuse handles.
    """
    module = binding.module
    members: dict[str, Any] = {"_wrapper": staticmethod(callbacks.guarded)}
    for name in READ_OPERATIONS + WRITE_OPERATIONS:
        function = getattr(callbacks, name if name in READ_OPERATIONS else "refuse")
        suffixed = f"{name}_fuse_{binding.libfuse}"
        members[suffixed if hasattr(module.FUSE, suffixed) else name] = staticmethod(function)
    fuse_class = type("XtarFuse", (module.FUSE,), members)
    # The bindings only ask this object which operations exist, and one flag.
    operations = SimpleNamespace(use_ns=True, **dict.fromkeys(READ_OPERATIONS + WRITE_OPERATIONS, True))
    # libfuse takes a signal over only where it finds the default action. (The bindings see to SIGINT.)
    former = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        fuse_class(operations, _as_latin1(mountpoint), encoding="latin-1", foreground=True, **options)
    finally:
        signal.signal(signal.SIGTERM, former or signal.SIG_DFL)


def _as_latin1(path: str) -> str:
    return os.fsencode(path).decode("latin-1")


class _Listing:
    """A directory being read: the position of the next child, and the children from there on."""

    def __init__(self, position: int, children: Iterator[tuple[bytes, Attributes]]) -> None:
        self.position = position
        self._children = children
        self._held: tuple[bytes, Attributes] | None = None

    def next(self) -> tuple[bytes, Attributes] | None:
        """The next child, None behind the last; `advance` goes past it."""
        if self._held is None:
            self._held = next(self._children, None)
        return self._held

    def advance(self) -> None:
        self._held = None
        self.position += 1


class Callbacks:
    """libfuse's operations. Each takes what C passes and returns 0, a length, or -errno.

    `on_init` is called once, when the kernel opens the conversation. `max_read` (bytes) must be that of the
    options.
    """

    def __init__(
        self,
        binding: Binding,
        filesystem: View,
        on_init: Callable[[], None],
        max_read: int,
        ownership: Ownership,
    ) -> None:
        self._filesystem = filesystem
        self._on_init = on_init
        self._max_read = max_read
        self._ownership = ownership
        self._libfuse = binding.libfuse
        self._c_stat = binding.module.c_stat
        self._handles = itertools.count(1)
        self._listings: dict[int, _Listing] = {}
        self._guard = Guard()
        self._thread_states = _ThreadStates()
        self.last_request = time.monotonic()
        self.answered = False

    def guarded(self, function: Callable[..., int | None], *arguments: Any) -> int:
        """Calls an operation; whatever it raises becomes an errno, and the mount lives on."""
        self._thread_states.keep()
        self.last_request = time.monotonic()
        try:
            return function(*arguments) or 0
        except BaseException as error:
            return -self._guard.errno_of(function.__name__, error)

    def init(self, connection: Any, config: Any = None) -> None:
        if self._libfuse == 3:
            capable = connection.contents.capable
            # Without AUTO every listing carries attributes, not only the first part of it.
            connection.contents.want &= ~CAP_READDIRPLUS_AUTO
            if self._filesystem.names_kept == FOREVER:
                connection.contents.want |= capable & CAP_CACHE_SYMLINKS
            connection.contents.max_read = self._max_read
            config.contents.use_ino = 1
            config.contents.readdir_ino = 1
        self._on_init()

    def _fill(self, target: Any, attributes: Attributes) -> None:
        uid, gid, umask = self._ownership
        target.st_mode = attributes.mode & ~umask
        target.st_ino = attributes.ino
        target.st_nlink = attributes.nlink
        target.st_uid = attributes.uid if uid is None else uid
        target.st_gid = attributes.gid if gid is None else gid
        target.st_rdev = attributes.rdev
        target.st_size = attributes.size
        target.st_blocks = attributes.blocks
        seconds, nanoseconds = divmod(attributes.mtime_ns, 1_000_000_000)
        for spec in (target.st_atimespec, target.st_mtimespec, target.st_ctimespec):
            spec.tv_sec = seconds
            spec.tv_nsec = nanoseconds

    def getattr(self, path: bytes, buffer: Any, file_info: Any = None) -> None:
        attributes = self._filesystem.getattr(path)
        ctypes.memset(buffer, 0, ctypes.sizeof(self._c_stat))
        self._fill(buffer.contents, attributes)
        self.answered = True

    def readlink(self, path: bytes, buffer: Any, size: int) -> None:
        target = self._filesystem.readlink(path)[: size - 1] + b"\0"
        ctypes.memmove(buffer, target, len(target))

    def open(self, path: bytes, file_info: Any) -> int:
        # The kernel then sends no more open and release, and keeps what it has read in its cache.
        return -errno.ENOSYS

    def read(self, path: bytes, buffer: Any, size: int, offset: int, file_info: Any) -> int:
        data = self._filesystem.read(path, size, offset)
        length = len(data)
        if length > size:
            raise ValueError(f"read of {size} bytes gave {length}")
        if isinstance(data, bytes):
            ctypes.memmove(buffer, data, length)
        else:
            area = (ctypes.c_char * length).from_address(ctypes.addressof(buffer.contents))
            memoryview(area).cast("B")[:] = data
        return length

    def statfs(self, path: bytes, buffer: Any) -> None:
        target = buffer.contents
        for name, value in self._filesystem.statfs().items():
            setattr(target, name, value)

    def getxattr(self, path: bytes, name: bytes, buffer: Any, size: int, *position: int) -> int:
        return _give(self._filesystem.getxattr(path, name), buffer, size)

    def listxattr(self, path: bytes, buffer: Any, size: int) -> int:
        names = self._filesystem.listxattr(path)
        return _give(b"".join(name + b"\0" for name in names), buffer, size)

    def opendir(self, path: bytes, file_info: Any) -> None:
        information = file_info.contents
        information.fh = next(self._handles)
        if self._filesystem.names_kept < FOREVER:
            return
        information.keep_cache = 1
        if hasattr(information, "cache_readdir"):
            information.cache_readdir = 1

    def releasedir(self, path: bytes, file_info: Any) -> None:
        self._listings.pop(file_info.contents.fh, None)

    def readdir(self, path: bytes, buffer: Any, filler: Any, offset: int, file_info: Any, flags: int = 0) -> None:
        """Fills `buffer` with the entries from `offset` on: 0 is ".", 1 is "..", child i is i + 2.

        What stands behind an entry is the offset to go on from, never 0: given 0, libfuse would gather the
        whole directory in memory, and libfuse 3 would leave the attributes out.
        """
        entry = self._c_stat()
        handle = file_info.contents.fh
        plus = (flags & READDIR_PLUS) * FILL_DIR_PLUS
        extra: tuple[int, ...] = (plus,) if self._libfuse == 3 else ()
        for position, name, parent in ((0, b".", path), (1, b"..", os.path.dirname(path))):
            if position >= offset:
                self._fill(entry, self._filesystem.getattr(parent))
                if filler(buffer, name, entry, position + 1, *((0,) if extra else ())):
                    return
        position = max(offset, 2)
        listing = self._listings.pop(handle, None)
        if listing is None or listing.position != position:
            listing = _Listing(position, iter(self._filesystem.readdir(path, position - 2)))
        while child := listing.next():
            self._fill(entry, child[1])
            if filler(buffer, child[0], entry, listing.position + 1, *extra):
                self._listings[handle] = listing
                return
            listing.advance()

    def refuse(self, *arguments: Any) -> int:
        return -errno.EROFS


def _give(value: bytes, buffer: Any, size: int) -> int:
    """Answers the getxattr family: the length alone for size 0, ERANGE where `value` does not fit."""
    if size:
        if len(value) > size:
            return -errno.ERANGE
        ctypes.memmove(buffer, value, len(value))
    return len(value)

"""The Python side of the compiled loop: its start and end, and the answers to what it does not know."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import chain
from types import FrameType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from lru import LRU

from ..filesystem.guard import Guard
from ..filesystem.mount_options import MountOptions, kept_seconds
from ..filesystem.vfs import FOREVER
from .attach import attach, detach, only_owner_and_root
from .packed import packed

if TYPE_CHECKING:
    from ..filesystem.vfs import Attributes, View

P = ParamSpec("P")
T = TypeVar("T")

Numbers = tuple[int, ...]
_OPEN_LISTINGS = 64
_ENTRY_HEAD = 152  # bytes of a reply that a name takes besides itself, with its attributes
_PATIENCE = 5  # seconds for requests in progress once the mount has been told to end


def _answer(method: Callable[Concatenate[Answers, P], T]) -> Callable[Concatenate[Answers, P], T | int]:
    """What the method returns or, where it raises, the errno as an int."""

    @wraps(method)
    def call(self: Answers, /, *args: P.args, **kwargs: P.kwargs) -> T | int:
        try:
            return method(self, *args, **kwargs)
        except BaseException as error:
            return self.guard.errno_of(method.__name__, error)

    return call


class Answers:
    """What the loop asks. Paths are absolute bytes; every method returns its answer or an errno."""

    def __init__(self, filesystem: View) -> None:
        self.guard = Guard()
        self._filesystem = filesystem
        self._listings: LRU[tuple[bytes, int], Iterator[tuple[bytes, Attributes]]] = LRU(_OPEN_LISTINGS)

    @_answer
    def getattr(self, path: bytes) -> Numbers:
        """mode, ino, nlink, uid, gid, rdev, size, blocks, seconds and nanoseconds of mtime."""
        return _numbers(self._filesystem.getattr(path))

    @_answer
    def readdir(self, path: bytes, position: int, room: int) -> list[tuple[bytes, Numbers]]:
        """Children from `position` on, as many as fill `room` bytes of a reply."""
        listing = self._listings.pop((path, position), None)
        if listing is None:
            listing = iter(self._filesystem.readdir(path, position))
        children: list[tuple[bytes, Numbers]] = []
        for name, attributes in listing:
            room -= (_ENTRY_HEAD + len(name) + 7) // 8 * 8
            if room < 0:
                if self._filesystem.names_kept == FOREVER:
                    self._listings[path, position + len(children)] = chain([(name, attributes)], listing)
                break
            children.append((name, _numbers(attributes)))
        return children

    @_answer
    def readlink(self, path: bytes) -> bytes:
        return self._filesystem.readlink(path)

    @_answer
    def read(self, path: bytes, size: int, offset: int) -> bytes | bytearray | memoryview:
        return self._filesystem.read(path, size, offset)

    @_answer
    def getxattr(self, path: bytes, name: bytes) -> bytes:
        return self._filesystem.getxattr(path, name)

    @_answer
    def listxattr(self, path: bytes) -> bytes:
        return b"".join(name + b"\0" for name in self._filesystem.listxattr(path))

    @_answer
    def statfs(self) -> Numbers:
        """blocks, bfree, bavail, files, ffree, bsize, namemax, frsize."""
        values = self._filesystem.statfs()
        names = ("blocks", "bfree", "bavail", "files", "ffree", "bsize", "namemax", "frsize")
        return tuple(values.get(f"f_{name}", 0) for name in names)


def _numbers(attributes: Attributes) -> Numbers:
    return (*attributes[:8], *divmod(attributes.mtime_ns, 1_000_000_000))


class NativeServer:
    """Serves a mount with the compiled loop, which must be importable."""

    def __init__(self, filesystem: View, on_start: Callable[[], None], options: MountOptions) -> None:
        from . import loop

        self._loop = loop
        self._filesystem = filesystem
        self._on_start = on_start
        self._options = options
        self._session: loop.Session | None = None

    @property
    def last_request(self) -> float:
        """When the last request came, as time.monotonic() counts."""
        return self._session.last_request if self._session else 0.0

    @property
    def answered(self) -> bool:
        return self._session is not None

    def serve(self, mountpoint: str, fsname: str) -> None:
        """Mounts and answers requests until the mount or a signal ends it. Raises MountError."""
        device = attach(mountpoint, fsname, self._options)
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        former = _take_signals(writing)
        try:
            self._session = self._new_session(device, writing)
            self._session.start()
            self._on_start()
            if os.read(reading, 1) != b"\0":  # the number of a signal; 0 comes with the end of the last thread
                detach(mountpoint)
        except BaseException:
            detach(mountpoint)
            raise
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in former.items():
                signal.signal(number, handler)
            # What a thread that hangs may still write to stays open until the process ends.
            if self._session is None or self._session.end(_PATIENCE):
                for descriptor in (device, reading, writing):
                    os.close(descriptor)

    def _new_session(self, device: int, ended: int) -> Any:
        place = packed(self._filesystem)
        uid, gid, umask = self._options.ownership
        guarded = only_owner_and_root(self._options)  # the kernel's caches would let others in
        names_kept = 0 if guarded else self._filesystem.names_kept
        return self._loop.Session(
            device,
            ended,
            Answers(self._filesystem),
            archive=place.descriptor if place else -1,
            size=place.size if place else 0,
            root=place.root if place else None,
            catalogue=place.catalogue if place else 0,
            cache=place.cache if place else 0,
            timeout=kept_seconds(self._options, names_kept),
            changes=names_kept < FOREVER,
            uid=-1 if uid is None else uid,
            gid=-1 if gid is None else gid,
            umask=umask,
            owner=os.getuid() if guarded else -1,
        )


def _take_signals(wake: int) -> dict[int, Any]:
    """Has the usual signals write their number to `wake`; the handlers that there were."""

    def note(number: int, frame: FrameType | None) -> None:
        """The interpreter itself writes the number."""

    former: dict[int, Any] = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) == signal.SIG_DFL:
            former[number] = signal.signal(number, note)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return former

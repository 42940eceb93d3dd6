"""The life of a mount, whatever is mounted: checks, start, the word that it is ready, and its end."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, NamedTuple, NoReturn

from ..errors import MountError, XtarError
from ..filesystem.guard import log
from ..filesystem.mount_options import MountOptions, parse_options, shown
from ..native.attach import fusermount
from .engine import Engine, Server, load_engine

if TYPE_CHECKING:
    from ..filesystem.vfs import View

FILESYSTEM_TYPE = "fuse.xtarfs"
BUSY_RETRY = 30.0  # seconds
_SYSTEM_LOG = "/dev/log"
_DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED)  # what a mount without its process answers


def mount(
    open_filesystem: Callable[[], View],
    mountpoint: str,
    *,
    fsname: str,
    options: Iterable[str] = (),
    foreground: bool = False,
) -> int:
    """Mounts what `open_filesystem` gives on the empty directory `mountpoint`.

    Returns 0: in the background as soon as the mount answers, in the foreground when it has ended.
    `open_filesystem` is called in the process that serves the mount, after all checks; until the mount is
    ready it may write to the terminal. `fsname` is what `df` and `mount` show as the device;
    `options` are those behind -o, each maybe several with commas between.
    Raises MountError, whose one line says why it cannot be mounted, or what `open_filesystem` raises.
    """
    chosen = parse_options(options)
    mountpoint = os.path.realpath(mountpoint)
    _check_mountpoint(mountpoint, chosen.nonempty)
    engine = load_engine()
    _check_fuse(chosen)
    handler = _log_handler(chosen.log_file, foreground)
    if chosen.writable_asked:
        print("xtar: note: rw is ignored, archives are mounted read-only", file=sys.stderr)

    def run(announce: Callable[[], None]) -> None:
        log.addHandler(handler)
        _run(engine, open_filesystem, mountpoint, fsname, chosen, announce)

    if foreground:
        run(lambda: None)
    else:
        _start_daemon(run, mountpoint)
    return 0


def _run(
    engine: Engine,
    open_filesystem: Callable[[], View],
    mountpoint: str,
    fsname: str,
    options: MountOptions,
    announce: Callable[[], None],
) -> None:
    """Serves the mount until it ends. Calls `announce` when the mount has given its first answer."""
    _share_one_heap()
    filesystem = open_filesystem()
    ready = threading.Event()
    try:
        with _captured_stderr() as captured:

            def settle() -> None:
                if not _answers(mountpoint):
                    return
                ready.set()
                captured.release()
                announce()
                if options.idle_timeout:
                    _unmount_when_idle(server, mountpoint, options.idle_timeout)

            # libfuse may yet fail after it has begun, so a request from outside is what tells.
            starter = threading.Thread(target=settle, daemon=True)
            server = engine(filesystem, starter.start, options)
            reason = "it ended at once"
            try:
                server.serve(mountpoint, fsname)
            except RuntimeError as error:
                reason = f"libfuse gave error {error}"  # after the start: libfuse 3 was ended by a signal
            if not ready.is_set() and not server.answered:
                raise MountError(f"cannot mount on {shown(mountpoint)}: {captured.text() or reason}")
    finally:
        filesystem.close()


def _share_one_heap() -> None:
    """Keeps glibc from giving each thread a heap of its own: with 8 readers they held 15 to 30 MB for nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    arena_max = -8
    if mallopt:
        mallopt(arena_max, 1)


def _answers(mountpoint: str) -> bool:
    try:
        os.stat(mountpoint)
    except OSError as error:
        # The root's own trouble is an answer too.
        return error.errno not in _DEAD
    return True


# --- before ---


def _check_mountpoint(mountpoint: str, nonempty: bool) -> None:
    """Raises MountError where `mountpoint` cannot be mounted on."""
    where = shown(mountpoint)
    try:
        if not stat.S_ISDIR(os.stat(mountpoint).st_mode):
            raise MountError(f"{where}: the mount point is not a directory")
        if _mounted(mountpoint):
            os.statvfs(mountpoint)  # stat may be answered from the cache though the mount is dead
            raise MountError(f"{where}: something is already mounted there")
        with os.scandir(mountpoint) as entries:
            if not nonempty and any(True for _ in entries):
                raise MountError(f"{where}: the mount point is not empty (-o nonempty mounts over it)")
    except FileNotFoundError:
        raise MountError(f"{where}: the mount point does not exist") from None
    except OSError as error:
        if error.errno in _DEAD:
            raise MountError(f"{where}: a dead mount is left there; run `xtar umount {where}` first") from None
        raise MountError(f"{where}: cannot mount there: {error.strerror}") from None


def _check_fuse(chosen: MountOptions) -> None:
    if not os.path.exists("/dev/fuse"):
        raise MountError(
            "/dev/fuse is missing: run `modprobe fuse` as root; "
            "a container needs --device /dev/fuse --cap-add SYS_ADMIN"
        )
    if os.geteuid() == 0:
        return
    if not fusermount():
        raise MountError("fusermount is missing, which lets users mount: apt install fuse3")
    if chosen.flags & {"allow_other", "allow_root"} and not _others_allowed():
        raise MountError("allow_other is for root only, unless /etc/fuse.conf has the line user_allow_other")


def _others_allowed() -> bool:
    try:
        with open("/etc/fuse.conf", encoding="utf-8", errors="replace") as configuration:
            return any(line.strip() == "user_allow_other" for line in configuration)
    except OSError:
        return False


# --- the process that serves ---


def _start_daemon(run: Callable[[Callable[[], None]], None], mountpoint: str) -> None:
    """Has `run` work in a process of its own; returns when that announces itself, or raises its error."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        # A second fork gives the server to init, so that no caller has to wait for it.
        if os.fork() == 0:
            os.close(reading)
            _serve_and_exit(run, writing)
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as pipe:
        message = pipe.read().decode("utf-8", "replace")
    if not message:
        raise MountError(f"cannot mount on {shown(mountpoint)}: the process that serves it died at the start")
    if message != "ready":
        raise MountError(message)


def _serve_and_exit(run: Callable[[Callable[[], None]], None], pipe: int) -> NoReturn:
    def announce() -> None:
        os.setsid()
        os.chdir("/")
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        tell("ready")

    def tell(message: str) -> None:
        nonlocal pipe
        if pipe >= 0:
            os.write(pipe, message.encode("utf-8", "backslashreplace"))
            os.close(pipe)
            pipe = -1
        else:
            log.error("the mount ended: %s", message)

    try:
        run(announce)
    except XtarError as error:
        tell(str(error))
    except BaseException as error:
        tell(f"cannot mount: {type(error).__name__}: {shown(str(error))}")
    finally:
        os._exit(0)


class _Captured:
    """Standard error while libfuse starts, in a file instead of on the terminal."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._terminal = os.dup(2)
        os.dup2(file.fileno(), 2)

    def release(self) -> None:
        if self._terminal >= 0:
            os.dup2(self._terminal, 2)
            os.close(self._terminal)
            self._terminal = -1

    def text(self) -> str:
        """What was written so far, as one line."""
        self._file.seek(0)
        lines = self._file.read().decode("utf-8", "replace").splitlines()
        return "; ".join(shown(line.strip()) for line in lines if line.strip())


@contextmanager
def _captured_stderr() -> Iterator[_Captured]:
    sys.stderr.flush()
    # In memory, as a mount at boot time may find no writable folder.
    with open(os.memfd_create("stderr"), "w+b") as file:
        captured = _Captured(file)
        try:
            yield captured
        finally:
            captured.release()


def _log_handler(log_file: str | None, foreground: bool) -> logging.Handler:
    handler: logging.Handler = logging.NullHandler()
    if log_file:
        try:
            handler = logging.FileHandler(log_file)
        except OSError as error:
            raise MountError(f"cannot log to {shown(log_file)}: {error.strerror}") from None
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    elif foreground:
        # A descriptor of its own: requests may fail while standard error is still captured.
        handler = logging.StreamHandler(os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace"))
        handler.setFormatter(logging.Formatter("xtar: %(message)s"))
    elif os.path.exists(_SYSTEM_LOG):
        handler = _SystemLog()
        handler.setFormatter(logging.Formatter("xtarfs[%(process)d]: %(message)s"))
    return handler


class _SystemLog(logging.Handler):
    """The system's log, opened with the first line for it: most mounts have none, and it takes 10 ms to load."""

    _opened: logging.Handler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        from logging.handlers import SysLogHandler

        try:
            self._opened = self._opened or SysLogHandler(_SYSTEM_LOG, SysLogHandler.LOG_DAEMON)
        except OSError:
            self.handleError(record)
            return
        self._opened.setFormatter(self.formatter)
        self._opened.emit(record)


# --- the end ---


def unmount(mountpoint: str) -> None:
    """Ends the xtar mount on `mountpoint`, also a dead one. Raises MountError when busy or not mounted."""
    mountpoint = os.path.realpath(mountpoint)
    where = shown(mountpoint)
    entry = _mounted(mountpoint)
    if entry is None:
        raise MountError(f"{where}: nothing is mounted there")
    if entry.type != FILESYSTEM_TYPE:
        raise MountError(f"{where}: not an xtar mount but {entry.type}")
    reason = _plain_unmount(mountpoint)
    if reason == os.strerror(errno.EBUSY):
        raise MountError(
            f"{where} is busy: a process has a file open or its current folder there (`fuser -vm {where}` lists)"
        )
    if reason:
        raise MountError(f"cannot unmount {where}: {reason}")


def _plain_unmount(mountpoint: str) -> str | None:
    """Unmounts, never lazily. The reason why it could not, or None."""
    libc = ctypes.CDLL(None, use_errno=True)
    nofollow = 8
    if libc.umount2(os.fsencode(mountpoint), nofollow) == 0:
        return None
    code = ctypes.get_errno()
    program = fusermount() if code == errno.EPERM else None
    if not program:
        return os.strerror(code)
    import subprocess

    # A user's mount; fusermount is setuid root and knows whose it is.
    done = subprocess.run([program, "-u", mountpoint], check=False, capture_output=True)
    if done.returncode == 0:
        return None
    text = shown(done.stderr.decode("utf-8", "replace").strip())
    busy = os.strerror(errno.EBUSY)
    return busy if busy in text else text or f"{program} failed"


def _unmount_when_idle(server: Server, mountpoint: str, timeout: float) -> None:
    """Unmounts after `timeout` seconds without a request, unless something is open or stands there.

    The kernel answers much from its caches without us; that it calls the mount busy is what decides.
    """
    own = _mounted(mountpoint)
    wait = timeout
    while True:
        time.sleep(wait)
        idle = time.monotonic() - server.last_request
        if idle < timeout:
            wait = timeout - idle
        elif _mounted(mountpoint) != own:
            wait = BUSY_RETRY  # something else is mounted over us
        elif _plain_unmount(mountpoint) is None:
            return
        else:
            wait = min(timeout, BUSY_RETRY)


class _Mounted(NamedTuple):
    device: str
    type: str


def _mounted(mountpoint: str) -> _Mounted | None:
    """What is mounted on the absolute path `mountpoint`, the topmost if several; None if nothing is."""
    wanted = os.fsencode(mountpoint)
    found = None
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            left, _, right = line.partition(b" - ")
            fields = left.split(b" ")
            path = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), fields[4])
            if path == wanted:
                found = _Mounted(fields[2].decode(), right.split(b" ")[0].decode())
    return found

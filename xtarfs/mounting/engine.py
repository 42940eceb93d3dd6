"""Which program talks to the kernel: the compiled loop or, where it is not there, libfuse through Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from ..errors import MountError
from ..filesystem.mount_options import MountOptions, escaped, kept_seconds
from .fuse_adapter import Binding, Callbacks, load_binding, serve

if TYPE_CHECKING:
    from ..filesystem.vfs import View

_NATIVE = "native"
_CHOICES = (_NATIVE, "mfusepy", "fusepy")


class Server(Protocol):
    """Serves one mount. last_request: when a request last came, as time.monotonic() counts.

    answered: the mount was there, even if it ended before its starter could see it.
    """

    @property
    def last_request(self) -> float: ...

    @property
    def answered(self) -> bool: ...

    def serve(self, mountpoint: str, fsname: str) -> None:
        """Mounts and answers requests until the mount ends. Raises MountError, RuntimeError with libfuse's number."""


# Of a file system, what to call when requests are about to be answered, and the options.
Engine = Callable[["View", Callable[[], None], MountOptions], Server]


class LibfuseServer:
    """Serves a mount with a binding of libfuse."""

    def __init__(self, binding: Binding, filesystem: View, on_start: Callable[[], None], options: MountOptions) -> None:
        self._binding = binding
        self._options = options
        self._names_kept = filesystem.names_kept
        self._callbacks = Callbacks(binding, filesystem, on_start, options.max_read, options.ownership)

    @property
    def last_request(self) -> float:
        return self._callbacks.last_request

    @property
    def answered(self) -> bool:
        return self._callbacks.answered

    def serve(self, mountpoint: str, fsname: str) -> None:
        options = libfuse_options(self._binding, fsname, self._options, self._names_kept)
        serve(self._binding, self._callbacks, mountpoint, options)


def libfuse_options(binding: Binding, fsname: str, options: MountOptions, names_kept: int) -> dict[str, str | bool]:
    """libfuse's own -o options; `fsname` is shown as the mount's device, `names_kept` is in seconds."""
    timeout = kept_seconds(options, names_kept)
    given: dict[str, str | bool] = {
        "ro": True,
        "fsname": escaped(fsname),
        "subtype": "xtarfs",
        "default_permissions": True,
        "use_ino": True,
        "readdir_ino": True,
        "kernel_cache": True,
        "entry_timeout": str(timeout),
        "attr_timeout": str(timeout),
        "negative_timeout": str(timeout),
        "max_read": str(options.max_read),
    }
    if binding.libfuse == 3:
        given["clone_fd"] = True  # each thread takes its requests from a queue of its own
    elif options.nonempty:
        given["nonempty"] = True
    return given | dict.fromkeys(sorted(options.flags), True)


def load_engine() -> Engine:
    """The one that $XTARFS_FUSE names, or else the fastest that can be had here. Raises MountError."""
    choice = os.environ.get("XTARFS_FUSE") or None
    if choice not in (None, *_CHOICES):
        raise MountError(f"XTARFS_FUSE={choice}: no such engine; use native, mfusepy or fusepy")
    if choice in (None, _NATIVE):
        problem = _native_problem()
        if not problem:
            from ..native.adapter import NativeServer

            return NativeServer
        if choice:
            raise MountError(f"XTARFS_FUSE=native: {problem}")
    binding = load_binding(choice)
    return lambda filesystem, on_start, options: LibfuseServer(binding, filesystem, on_start, options)


def _native_problem() -> str:
    """Why the compiled loop cannot be used; empty if it can."""
    if sys.platform != "linux":
        return "is for Linux only"
    try:
        from ..native import loop
    except ImportError:
        return "was not compiled when xtar was installed: install a C compiler and Python's headers, then xtar again"
    spec = find_spec("deflate._deflate")
    if spec is None or spec.origin is None or not loop.load_engine(spec.origin):
        return "does not work with this version of the Python package deflate"
    return ""

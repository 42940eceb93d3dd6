"""Mounting without libfuse: mount(2) for who may, and fusermount for everybody else.

What only fusermount needs is imported there: it is 5 ms of a mount's start.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from ..errors import MountError
from ..filesystem.mount_options import MountOptions, escaped, shown

_DEVICE = "/dev/fuse"
_READ_ONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8  # flags of mount(2)
_DETACH = 2  # flag of umount2(2)


def fusermount() -> str | None:
    """The program that mounts for users, setuid root."""
    import shutil

    return shutil.which("fusermount3") or shutil.which("fusermount")


def only_owner_and_root(options: MountOptions) -> bool:
    """Whether we must tell users apart. The kernel knows the owner alone, which may be root, or everybody."""
    return "allow_root" in options.flags and os.getuid() != 0


def attach(mountpoint: str, fsname: str, options: MountOptions) -> int:
    """Mounts on the directory `mountpoint`; the descriptor that requests come from. Raises MountError."""
    try:
        device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"cannot mount: {_DEVICE}: {error.strerror}") from None
    code = _mount(device, mountpoint, fsname, options)
    if not code:
        return device
    os.close(device)
    if code == errno.EPERM and fusermount():
        return _fusermount_mount(mountpoint, fsname, options)
    raise MountError(f"cannot mount on {shown(mountpoint)}: {os.strerror(code)}")


def detach(mountpoint: str) -> None:
    """Unmounts, at once for everybody who looks and for good when the last open file is closed."""
    libc = ctypes.CDLL(None, use_errno=True)
    refused = libc.umount2(os.fsencode(mountpoint), _DETACH) and ctypes.get_errno() == errno.EPERM
    if refused and (program := fusermount()):
        import subprocess

        subprocess.run([program, "-u", "-q", "-z", "--", mountpoint], check=False)


def _mount(device: int, mountpoint: str, fsname: str, options: MountOptions) -> int:
    """mount(2); 0 or its errno."""
    flags = _READ_ONLY
    for word, flag, usual in (("suid", _NOSUID, True), ("dev", _NODEV, True), ("exec", _NOEXEC, False)):
        if "no" + word in options.flags or (usual and word not in options.flags):
            flags |= flag
    words = [
        f"fd={device},rootmode={stat.S_IFDIR:o},user_id={os.getuid()},group_id={os.getgid()}",
        f"default_permissions,max_read={options.max_read}",
        *(["allow_other"] if "allow_other" in options.flags or only_owner_and_root(options) else []),
    ]
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (os.fsencode(fsname), os.fsencode(mountpoint), b"fuse.xtarfs")
    return ctypes.get_errno() if libc.mount(*arguments, flags, ",".join(words).encode()) else 0


def _fusermount_mount(mountpoint: str, fsname: str, options: MountOptions) -> int:
    import array
    import socket
    import subprocess

    program = fusermount()
    assert program
    words = [
        "ro",
        "fsname=" + os.fsdecode(escaped(fsname).encode("latin-1")),
        f"subtype=xtarfs,default_permissions,max_read={options.max_read}",
        *sorted(options.flags - {"allow_root"}),
        *(["allow_other"] if only_owner_and_root(options) else []),
    ]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", ",".join(words), "--", mountpoint],
            env=os.environ | {"_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=(theirs.fileno(),), capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise MountError(f"cannot mount on {shown(mountpoint)}: {shown(said) or f'{program} failed'}")
        descriptors = array.array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(descriptors.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: descriptors.itemsize])
    if not descriptors:
        raise MountError(f"cannot mount on {shown(mountpoint)}: {program} gave no device")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]

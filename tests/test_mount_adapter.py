"""Real mounts of a FileSystem in memory, on both bindings. Needs FUSE; fails where there is none."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import xtarfs.mounting.engine as engine_module
from tests.memory_fs import CHUNK, MemoryFS, Node
from tests.mounting import ROOT, failure, gone, until
from xtarfs.errors import MountError
from xtarfs.filesystem.mount_options import parse_options
from xtarfs.mounting.engine import libfuse_options
from xtarfs.mounting.mount import mount, unmount

ODD_NAMES = [
    b"\xff\xfe not utf-8", "grün".encode(), b"new\nline", b"-dash", b" ", b"a,b\\c", b"%s", b"x" * 255,
]  # fmt: skip

Mounter = Callable[..., bytes]


@pytest.fixture
def mounted(binding: str, tmp_path: Path) -> Iterator[Mounter]:
    """mounted(filesystem, *options) gives the mount point. What is left at the end of the test goes."""
    points: list[bytes] = []
    pids: list[int] = []

    def go(filesystem: Any, *options: str, name: str = "m") -> bytes:
        point = tmp_path / name
        point.mkdir(exist_ok=True)
        points.append(os.fsencode(point))
        mount(lambda: filesystem, str(point), fsname="test archive", options=options)
        pids.append(pid_of(points[-1]))
        return points[-1]

    yield go
    for point in points:
        subprocess.run([b"umount", b"-l", point], capture_output=True, check=False)
    assert [pid for pid in pids if not gone(pid)] == []


def inside(point: bytes) -> dict[str, Any]:
    return dict(json.loads(os.getxattr(point, "user.xtar.test")))


def pid_of(point: bytes) -> int:
    return int(inside(point)["pid"])


# --- what is shown ---


def everything() -> MemoryFS:
    filesystem = MemoryFS()
    filesystem.root.mtime_ns = 1_234_567_890_123_456_789
    filesystem.folder(b"/sub", mtime_ns=1, uid=12, gid=34)
    file = filesystem.file(b"/sub/file", b"x" * 5000, mtime_ns=1_700_000_000_999_999_999, uid=1000, gid=1001)
    filesystem.link(file, b"/hard")
    filesystem.add(b"/setuid", stat.S_IFREG | 0o6755, b"", mtime_ns=-1)
    filesystem.add(b"/link", stat.S_IFLNK | 0o777, b"dangling/\xff" + b"y" * 3000, mtime_ns=2_000_000_000)
    filesystem.add(b"/fifo", stat.S_IFIFO | 0o600, mtime_ns=4_294_967_296_000_000_001)
    filesystem.add(b"/device", stat.S_IFBLK | 0o640, rdev=os.makedev(259, 70000))
    filesystem.add(b"/sticky", stat.S_IFDIR | 0o1777)
    for name in ODD_NAMES:
        filesystem.file(b"/sub/" + name, name)
    return filesystem


def nodes(filesystem: MemoryFS) -> Iterator[tuple[bytes, Node]]:
    pending = [(b"", filesystem.root)]
    while pending:
        path, node = pending.pop()
        yield path, node
        pending += [(path + b"/" + name, child) for name, child in node.children.items()]


def test_attributes_are_exact(mounted: Mounter) -> None:
    filesystem = everything()
    point = mounted(filesystem)
    # Once by lookups, once out of the listing: the two take different ways.
    for listed_first in (False, True):
        if listed_first:
            subprocess.run([b"umount", point], check=True)
            point = mounted(filesystem)
            subprocess.run([b"find", point, b"-ls"], check=True, capture_output=True)
        for path, node in nodes(filesystem):
            status = os.lstat(point + path)
            wanted = node.attributes()
            assert status.st_mode == wanted.mode
            assert (status.st_ino, status.st_nlink) == (wanted.ino, wanted.nlink), path
            assert (status.st_uid, status.st_gid) == (wanted.uid, wanted.gid), path
            assert status.st_rdev == wanted.rdev
            assert (status.st_size, status.st_blocks) == (wanted.size, wanted.blocks), path
            assert {status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns} == {wanted.mtime_ns}, path
            if stat.S_ISLNK(node.mode):
                assert os.readlink(point + path) == node.data


def test_find_printf(mounted: Mounter) -> None:
    filesystem = everything()
    point = mounted(filesystem)
    kinds = {stat.S_IFDIR: "d", stat.S_IFREG: "f", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFBLK: "b"}
    wanted = set()
    for path, node in nodes(filesystem):
        seconds, nanoseconds = divmod(node.mtime_ns, 10**9)
        if node.mtime_ns < 0:
            continue  # find prints such times in a way of its own
        target = node.data if stat.S_ISLNK(node.mode) else b""
        fields = (
            f"{kinds[stat.S_IFMT(node.mode)]} {stat.S_IMODE(node.mode):o} {node.uid} {node.gid} "
            f"{len(node.data)} {node.nlink} {seconds}.{nanoseconds:09d}0 "
        )
        wanted.add((path or b"/") + b" " + fields.encode() + target)
    form = b"/%P %y %m %U %G %s %n %T@ %l\\0"
    command = [b"find", point, b"!", b"-name", b"setuid", b"-printf", form]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    assert set(output.split(b"\0")[:-1]) == wanted


def test_listing_gives_types_and_inodes(mounted: Mounter) -> None:
    filesystem = everything()
    point = mounted(filesystem)
    with os.scandir(point + b"/sub") as entries:
        seen = {entry.name: (entry.inode(), entry.is_file(follow_symlinks=False)) for entry in entries}
    assert seen == {name: (node.ino, True) for name, node in filesystem._find(b"/sub").children.items()}
    raw = subprocess.run([b"ls", b"-aif", point + b"/sub"], check=True, capture_output=True).stdout
    dots = {line.split()[1]: int(line.split()[0]) for line in raw.splitlines() if line.strip().endswith(b".")}
    assert dots == {b".": filesystem._find(b"/sub").ino, b"..": filesystem.root.ino}


def test_odd_names_open(mounted: Mounter) -> None:
    point = mounted(everything())
    assert set(ODD_NAMES) < set(os.listdir(point + b"/sub"))
    for name in ODD_NAMES:
        assert Path(os.fsdecode(point + b"/sub/" + name)).read_bytes() == name
    assert failure(lambda: os.stat(point + b"/sub/\xff")) == errno.ENOENT


def test_another_owner_and_hidden_permissions(mounted: Mounter) -> None:
    point = mounted(everything(), "uid=77,gid=88", "umask=027")
    subprocess.run([b"find", point, b"-ls"], check=True, capture_output=True)
    for path, mode in ((b"/sub", 0o750), (b"/sub/file", 0o640), (b"/setuid", 0o6750)):
        status = os.stat(point + path)
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (77, 88, mode)


def test_statfs_and_source(mounted: Mounter, binding: str, tmp_path: Path) -> None:
    point = mounted(everything())
    status = os.statvfs(point)
    assert (status.f_blocks, status.f_files, status.f_namemax, status.f_bsize) == (777, 55, 255, 4096)
    other = tmp_path / "other"
    other.mkdir()
    name = "/b a,c\\k\\054u/p \udcff=x,allow_other"
    mount(everything, str(other), fsname=name)
    try:
        command = ["findmnt", "-no", "FSTYPE,OPTIONS,SOURCE", "--raw", str(other)]
        kind, options, source = subprocess.run(command, capture_output=True, check=True).stdout.split()
        assert kind == b"fuse.xtarfs"
        assert b"allow_other" not in options
        assert b"ro" in options.split(b",")
        assert source.decode("unicode_escape").encode("latin-1") == os.fsencode(name)
    finally:
        unmount(str(other))


def test_nothing_can_be_written(mounted: Mounter) -> None:
    point = mounted(everything())
    path = point + b"/sub/file"

    def refused() -> None:
        for attempt in (
            lambda: Path(os.fsdecode(path)).write_bytes(b"x"),
            lambda: os.open(path + b"2", os.O_CREAT | os.O_WRONLY),
            lambda: os.mkdir(path + b"2"),
            lambda: os.mkfifo(path + b"2"),
            lambda: os.unlink(path),
            lambda: os.rmdir(point + b"/sticky"),
            lambda: os.rename(path, path + b"2"),
            lambda: os.symlink(b"x", path + b"2"),
            lambda: os.link(path, path + b"2"),
            lambda: os.chmod(path, 0o600),
            lambda: os.chown(path, 1, 1),
            lambda: os.truncate(path, 1),
            lambda: os.utime(path),
            lambda: os.setxattr(path, "user.a", b"b"),
            lambda: os.removexattr(path, "user.a"),
        ):
            assert failure(attempt) == errno.EROFS

    refused()
    subprocess.run([b"mount", b"-i", b"-o", b"remount,rw", point], check=True)
    refused()


# --- reading ---


def test_reading(mounted: Mounter) -> None:
    filesystem = MemoryFS()
    data = os.urandom(3_000_001)
    filesystem.file(b"/big", data)
    filesystem.file(b"/empty")
    filesystem.add(b"/true", stat.S_IFREG | 0o755, Path("/bin/true").read_bytes())
    point = mounted(filesystem)
    with open(point + b"/big", "rb") as file:
        for offset, size in ((0, 10), (2_999_999, 100), (5_000_000, 10), (131071, 131074), (0, 4_000_000)):
            assert os.pread(file.fileno(), size, offset) == data[offset : offset + size]
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == data
    assert Path(os.fsdecode(point + b"/empty")).read_bytes() == b""
    subprocess.run([point + b"/true"], check=True)


def test_pages_stay_in_the_kernel_and_open_does_not_ask(mounted: Mounter) -> None:
    filesystem = MemoryFS()
    filesystem.file(b"/file", b"x" * 300_000)
    path = mounted(filesystem) + b"/file"
    Path(os.fsdecode(path)).read_bytes()
    before = inside(path)["calls"]
    for _ in range(3):
        Path(os.fsdecode(path)).read_bytes()
        os.stat(path)
        os.access(path, os.R_OK)
    assert inside(path)["calls"] == before


@pytest.mark.parametrize("unit", [4096, 65536, 1 << 20])
def test_a_bad_chunk_costs_its_own_pages_only(mounted: Mounter, unit: int) -> None:
    filesystem = MemoryFS()
    data = os.urandom(40 * CHUNK + 777)
    bad = {5, 20, 21, 40}
    filesystem.file(b"/file", data, bad_chunks=bad)
    path = mounted(filesystem) + b"/file"
    with open(path, "rb") as file:
        for offset in range(0, len(data), unit):
            end = min(offset + unit, len(data))
            faults = [max(chunk * CHUNK, offset) for chunk in bad if offset < (chunk + 1) * CHUNK]
            hit = min([end, *(fault for fault in faults if fault < end)])
            if hit == offset:
                assert failure(os.pread, file.fileno(), unit, offset) == errno.EIO
            else:
                # As on a disk: what stands before the fault comes, the fault with the next read.
                assert os.pread(file.fileno(), unit, offset) == data[offset:hit]
        for chunk in range(41):
            start = chunk * CHUNK
            for at in (start, start + CHUNK - 1):
                if chunk in bad and at < len(data):
                    assert failure(os.pread, file.fileno(), 1, at) == errno.EIO
                else:
                    assert os.pread(file.fileno(), 1, at) == data[at : at + 1]


def test_dd_rescues_all_but_the_bad_chunk(mounted: Mounter, tmp_path: Path) -> None:
    filesystem = MemoryFS()
    data = os.urandom(30 * CHUNK)
    filesystem.file(b"/file", data, bad_chunks={7})
    path = mounted(filesystem) + b"/file"
    command = [b"dd", b"if=" + path, b"of=" + os.fsencode(tmp_path / "out"), b"bs=4096", b"conv=noerror,sync"]
    assert b"Input/output error" in subprocess.run(command, capture_output=True, check=False).stderr
    assert (tmp_path / "out").read_bytes() == data[: 7 * CHUNK] + bytes(CHUNK) + data[8 * CHUNK :]


def test_readers_do_not_wait_for_each_other(mounted: Mounter) -> None:
    filesystem = MemoryFS()
    contents = {b"/%d" % index: os.urandom(200_000) for index in range(8)}
    for path, data in contents.items():
        filesystem.file(path, data, delay=0.1)
    point = mounted(filesystem)
    with ThreadPoolExecutor(8) as pool:
        read = pool.map(lambda path: Path(os.fsdecode(point + path)).read_bytes(), contents)
        assert list(read) == list(contents.values())
    assert inside(point)["most_readers"] >= 6


def test_a_directory_of_100000(mounted: Mounter) -> None:
    filesystem = MemoryFS()
    node = filesystem.folder(b"/many")
    child = filesystem.file(b"/child", b"", mtime_ns=5)
    node.children = {b"file number %06d" % index: child for index in range(100_000)}
    point = mounted(filesystem) + b"/many"
    assert os.listdir(point) == list(node.children)
    assert inside(point)["calls"]["readdir"] <= 3
    # Two readers of one directory, each at its own place.
    with os.scandir(point) as first, os.scandir(point) as second:
        pairs = [(next(first).name, next(second).name) for _ in range(2000)]
    assert [a for a, b in pairs if a != b] == []


def test_xattrs(mounted: Mounter) -> None:
    filesystem = MemoryFS()
    acl = bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff")
    values = {
        b"user.empty": b"",
        b"user.long": os.urandom(65536),
        b"user.\xff": b"\0\1",
        b"system.posix_acl_access": acl,
        b"security.x": b"s",
        b"user.xtar.status": b"ok",
    }
    filesystem.file(b"/file", xattrs=values)
    filesystem.file(b"/many", xattrs={b"user.%0200d" % index: b"" for index in range(200)})
    filesystem.file(b"/none")
    point = mounted(filesystem)
    path = point + b"/file"
    assert {os.fsencode(name) for name in os.listxattr(path)} == values.keys() - {b"user.xtar.status"}
    for name, value in values.items():
        assert os.getxattr(path, name) == value
    assert len(os.listxattr(point + b"/many")) == 200
    assert os.listxattr(point + b"/none") == []
    assert failure(lambda: os.getxattr(path, "user.absent")) == errno.ENODATA
    libc_getxattr(path)


def libc_getxattr(path: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(100)
    assert libc.lgetxattr(path, b"user.long", None, 0) == 65536
    assert libc.lgetxattr(path, b"user.long", buffer, 100) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.llistxattr(path, buffer, 5) == -1
    assert ctypes.get_errno() == errno.ERANGE


@pytest.mark.parametrize("fault", [ValueError("a\nbug"), SystemExit(3), OSError("no errno"), KeyboardInterrupt()])
def test_an_unexpected_exception_is_eio_and_logged_once(mounted: Mounter, tmp_path: Path, fault: BaseException) -> None:
    filesystem = MemoryFS()
    filesystem.file(b"/broken", fault=fault)
    filesystem.folder(b"/folder", fault=fault)
    filesystem.file(b"/sound", b"x")
    point = mounted(filesystem, f"log_file={tmp_path}/log")
    for _ in range(3):
        assert failure(lambda: os.stat(point + b"/broken")) == errno.EIO
        assert failure(lambda: os.listdir(point + b"/folder")) == errno.EIO
        assert Path(os.fsdecode(point + b"/sound")).read_bytes() == b"x"
    assert (tmp_path / "log").read_text().count("answered EIO") == 1


def test_a_broken_root_is_mounted_all_the_same(binding: str, tmp_path: Path) -> None:
    filesystem = MemoryFS()
    filesystem.root.fault = OSError(errno.EIO, "damaged")
    mount(lambda: filesystem, str(tmp_path), fsname="x")
    try:
        assert failure(lambda: os.listdir(tmp_path)) == errno.EIO
    finally:
        unmount(str(tmp_path))


# --- start and end ---


def test_ready_when_it_returns(mounted: Mounter, binding: str, tmp_path: Path) -> None:
    def slow() -> MemoryFS:
        time.sleep(0.5)
        return everything()

    point = tmp_path / "m"
    point.mkdir()
    start = time.monotonic()
    assert mount(slow, str(point), fsname="x") == 0
    try:
        assert time.monotonic() - start > 0.5
        assert "sub" in os.listdir(point)
    finally:
        pid = pid_of(os.fsencode(point))
        unmount(str(point))
    assert gone(pid)


def test_relative_and_linked_mount_points(mounted: Mounter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real ,\\\n").mkdir()
    (tmp_path / "link").symlink_to("real ,\\\n")
    mount(everything, "link", fsname="x")
    try:
        assert (tmp_path / "real ,\\\n" / "sub").is_dir()
        with pytest.raises(MountError, match="already mounted"):
            mount(everything, "link", fsname="x")
    finally:
        unmount("link")
    assert os.listdir("link") == []


@pytest.mark.parametrize("ending", ["fusermount", "fusermount3", "umount", "unmount", "SIGTERM", "SIGINT", "SIGHUP"])
def test_endings(mounted: Mounter, ending: str) -> None:
    point = mounted(everything())
    pid = pid_of(point)
    if ending.startswith("SIG"):
        os.kill(pid, getattr(signal, ending))
    elif ending == "unmount":
        unmount(os.fsdecode(point))
    else:
        subprocess.run([ending, *(["-u"] if "fuse" in ending else []), os.fsdecode(point)], check=True)
    assert gone(pid)
    assert os.listdir(point) == []


def test_sigterm_ends_a_busy_mount(mounted: Mounter) -> None:
    point = mounted(everything())
    descriptor = os.open(point + b"/sub/file", os.O_RDONLY)
    pid = pid_of(point)
    os.kill(pid, signal.SIGTERM)
    assert gone(pid)
    assert os.listdir(point) == []
    assert failure(lambda: os.pread(descriptor, 1, 0)) in (errno.ENOTCONN, errno.ECONNABORTED)
    assert failure(lambda: os.close(descriptor)) == errno.ENOTCONN


def test_unmount_refuses_in_one_line(mounted: Mounter, tmp_path: Path) -> None:
    point = mounted(everything())
    with open(point + b"/sub/file", "rb"), pytest.raises(MountError, match="busy") as caught:
        unmount(os.fsdecode(point))
    assert "\n" not in str(caught.value)
    unmount(os.fsdecode(point))
    with pytest.raises(MountError, match="nothing is mounted"):
        unmount(os.fsdecode(point))
    with pytest.raises(MountError, match="not an xtar mount but proc"):
        unmount("/proc")


def test_a_dead_mount_is_recognised_and_cleared(mounted: Mounter) -> None:
    point = mounted(everything())
    pid = pid_of(point)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert failure(lambda: os.listdir(point)) in (errno.ENOTCONN, errno.ECONNABORTED)
    with pytest.raises(MountError, match=r"dead mount.*xtar umount"):
        mount(everything, os.fsdecode(point), fsname="x")
    unmount(os.fsdecode(point))
    assert os.listdir(point) == []


def test_idle_timeout(mounted: Mounter) -> None:
    point = mounted(everything(), "idle_timeout=0.6")
    pid = pid_of(point)
    with open(point + b"/sub/file", "rb"):
        time.sleep(1.5)
        assert os.path.ismount(point)
    assert gone(pid)
    assert os.listdir(point) == []


def test_idle_timeout_sees_use_that_the_kernel_answers(mounted: Mounter) -> None:
    point = mounted(everything(), "idle_timeout=3")
    end = time.monotonic() + 7
    while time.monotonic() < end:
        assert os.path.exists(point + b"/sub/file")
        time.sleep(0.3)


FOREGROUND = """
import sys
from tests.memory_fs import MemoryFS
from xtarfs.mounting.mount import mount
def opened():
    filesystem = MemoryFS()
    filesystem.close = lambda: print("closed", flush=True)
    filesystem.file(b"/file", b"x", fault=ValueError("bug"))
    return filesystem
sys.exit(mount(opened, sys.argv[1], fsname="x", foreground=True))
"""


def unmounts(point: Path) -> bool:
    """The process that serves a mount looks at it once at the start; while it does, that is busy."""
    try:
        unmount(str(point))
    except MountError:
        return False
    return True


@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM", "unmount"])
def test_foreground(binding: str, tmp_path: Path, ending: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FOREGROUND, str(tmp_path)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            assert until(lambda: os.path.ismount(tmp_path))
            assert failure(lambda: os.stat(tmp_path / "file")) == errno.EIO
            if ending == "unmount":
                assert until(lambda: unmounts(tmp_path))
            else:
                process.send_signal(getattr(signal, ending))
            output, errors = process.communicate(timeout=60)
        finally:
            subprocess.run(["umount", "-l", str(tmp_path)], capture_output=True, check=False)
            process.kill()
    assert (process.returncode, output) == (0, "closed\n")
    assert "answered EIO" in errors
    assert os.listdir(tmp_path) == []


# --- why not ---


def why_not(point: Path | str, *options: str, opened: Callable[[], Any] = MemoryFS) -> str:
    with pytest.raises(MountError) as caught:
        mount(opened, str(point), fsname="x", options=options)
    assert not os.path.ismount(point)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_mount_points(binding: str, tmp_path: Path) -> None:
    assert "does not exist" in why_not(tmp_path / "absent")
    (tmp_path / "file").touch()
    assert "not a directory" in why_not(tmp_path / "file")
    assert "cannot mount there: Not a directory" in why_not(tmp_path / "file" / "below")
    assert "not empty" in why_not(tmp_path)


def test_nonempty_is_possible_when_asked(mounted: Mounter, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "file").touch()
    assert os.listdir(mounted(MemoryFS(), "nonempty")) == []


def test_what_the_opener_says_comes_through(binding: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def foreign() -> MemoryFS:
        print("a warning", file=sys.stderr, flush=True)
        raise MountError("x.tar: not an archive")

    def broken() -> MemoryFS:
        raise ZeroDivisionError("two\nlines")

    def dying() -> MemoryFS:
        os._exit(9)

    assert why_not(tmp_path, opened=foreign) == "x.tar: not an archive"
    assert "a warning" in capfd.readouterr().err
    assert "ZeroDivisionError: two\\nlines" in why_not(tmp_path, opened=broken)
    assert "died at the start" in why_not(tmp_path, opened=dying)


@pytest.fixture(params=["mfusepy", "fusepy"])
def libfuse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each binding of libfuse in turn."""
    monkeypatch.setenv("XTARFS_FUSE", request.param)
    return str(request.param)


def test_what_libfuse_says_is_in_the_line(libfuse: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "libfuse_options", lambda *a: {**libfuse_options(*a), "no_such_thing": True})
    assert "no_such_thing" in why_not(tmp_path)


def in_namespace(prepare: str, tmp_path: Path, *, user: bool = False, options: str = "", compiled: bool = True) -> str:
    """The error of a mount tried where /dev or /lib look different. `prepare` is run by sh in that place."""
    script = (
        "import os, sys; from tests.memory_fs import MemoryFS; from xtarfs.mounting.mount import mount, unmount\n"
        "from xtarfs.mounting.engine import load_engine\n"
        f"if not {compiled}: sys.modules['xtarfs.native.loop'] = None\n"
        f"if {user}:\n"  # loads everything before it becomes nobody, who may not be able to read the project's folder
        "    load_engine(); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        f"    mount(MemoryFS, sys.argv[1], fsname='x', options=[{options!r}])\n"
        "    unmount(sys.argv[1]); print('mounted and unmounted')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    point = tmp_path / "m"
    point.mkdir(exist_ok=True)
    if user:
        os.chown(point, 65534, 65534)
    command = f'{prepare}\nexec "$0" -c "$1" "$2"'
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        ["unshare", "-m", "sh", "-ec", command, sys.executable, script, str(point)],
        env=environment, cwd="/", capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip


def test_no_device(binding: str, tmp_path: Path) -> None:
    said = in_namespace("mount -t tmpfs none /dev; : > /dev/null", tmp_path)
    assert said.startswith("MountError /dev/fuse is missing: run `modprobe fuse`")


HIDE_3 = "for f in /lib/*/libfuse3.so.* /usr/lib/*/libfuse3.so.*; do mount --bind /dev/null $f; done\n"
HIDE_2 = HIDE_3.replace("fuse3", "fuse")


def test_no_libfuse(libfuse: str, tmp_path: Path) -> None:
    package = {"fusepy": "apt install libfuse2", "mfusepy": "apt install libfuse3-3 fuse3"}[libfuse]
    assert package in in_namespace(HIDE_2 if libfuse == "fusepy" else HIDE_3, tmp_path)


def test_the_engine_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XTARFS_FUSE", raising=False)
    assert in_namespace(HIDE_2 + HIDE_3, tmp_path) == "mounted and unmounted"
    neither = in_namespace(HIDE_2 + HIDE_3, tmp_path, compiled=False)
    assert "apt install libfuse2" in neither
    assert "apt install libfuse3-3 fuse3" in neither
    assert in_namespace(HIDE_3, tmp_path, compiled=False) == "mounted and unmounted"
    assert in_namespace(HIDE_2, tmp_path, compiled=False) == "mounted and unmounted"
    monkeypatch.setenv("XTARFS_FUSE", "native")
    assert "install a C compiler" in in_namespace(":", tmp_path, compiled=False)


def test_an_unknown_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTARFS_FUSE", "pyfuse3")
    assert "use native, mfusepy or fusepy" in why_not(tmp_path)


OPEN_DEVICE = "mount -t tmpfs none /mnt; mknod -m 666 /mnt/fuse c 10 229; mount --bind /mnt/fuse /dev/fuse"


@pytest.fixture
def open_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that users reach; pytest's own are root's alone."""
    path = Path(tempfile.mkdtemp(prefix="xtar-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_a_user_mounts(binding: str, open_path: Path) -> None:
    assert in_namespace(OPEN_DEVICE, open_path, user=True) == "mounted and unmounted"


def test_a_user_is_told_what_is_missing(binding: str, open_path: Path) -> None:
    no_access = in_namespace(OPEN_DEVICE.replace("666", "600"), open_path, user=True)
    assert "/dev/fuse" in no_access
    assert "ermission denied" in no_access
    no_others = in_namespace(OPEN_DEVICE, open_path, user=True, options="allow_other")
    assert no_others.endswith("/etc/fuse.conf has the line user_allow_other")
    assert in_namespace("PATH=/nowhere", open_path, user=True).endswith("apt install fuse3")


# --- options ---


def test_fstab_options_are_taken(mounted: Mounter) -> None:
    point = mounted(
        everything(), "defaults,_netdev,noauto,user,nofail,x-systemd.automount,x-gvfs-show,ro,comment=a b",
        "noatime", "allow_other,nosuid,nodev,noexec,max_read=65536",
    )  # fmt: skip
    options = subprocess.run([b"findmnt", b"-no", b"OPTIONS", point], capture_output=True, check=True).stdout
    given = options.strip().split(b",")
    assert {b"ro", b"nosuid", b"nodev", b"noexec", b"allow_other", b"max_read=65536"} <= set(given)


def test_rw_is_ignored_with_a_note(mounted: Mounter, capfd: pytest.CaptureFixture[str]) -> None:
    point = mounted(everything(), "rw")
    assert capfd.readouterr().err == "xtar: note: rw is ignored, archives are mounted read-only\n"
    assert failure(lambda: os.mkdir(point + b"/x")) == errno.EROFS


@pytest.mark.parametrize(
    "option", ["frobnicate", "max_read=many", "max_read", "idle_timeout=-1", "uid=root", "umask=9"]
)
def test_bad_options_are_refused(option: str) -> None:
    with pytest.raises(MountError, match=option.partition("=")[0]):
        parse_options(["ro,nosuid", option])


def test_no_thread_or_file_is_left_in_the_caller(mounted: Mounter) -> None:
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    mounted(everything())
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (files, threads)

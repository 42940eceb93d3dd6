"""Mounting by the command line: what it refuses and how it says so, the ways a mount ends, and what it leaves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xtarfs.filesystem.guard import Guard, log
from xtarfs.mounting import mount

from .mounting import ROOT, XTAR, environment, gone, live, servers, until, xtar


@pytest.fixture
def point(tmp_path: Path) -> Path:
    path = tmp_path / "m"
    path.mkdir()
    return path


def refused(*arguments: str | Path, point: Path | None = None) -> str:
    """What the command says, in one line, when it does nothing."""
    done = xtar(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("xtar: ")
    assert done.stderr.count("\n") == 1
    assert point is None or (not os.path.ismount(point) and servers(point) == [])
    return done.stderr


# --- why not ---


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (b"hello world\n" * 1000, "not an archive"),
        (bytes(100_000), "not an archive"),
        (b"\x1f\x8b\x08\x00" + bytes(range(256)) * 50, "not an archive"),
    ],
)
def test_what_is_no_archive(binding: str, tmp_path: Path, point: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "x.xtar"
    if content is not None:
        path.write_bytes(content)
    said = refused("mount", path, point, point=point)
    assert str(path) in said
    assert reason in said


def test_a_folder_is_no_archive(binding: str, tmp_path: Path, point: Path) -> None:
    assert "is a directory" in refused("mount", tmp_path, point, point=point)


def test_bad_mount_points(binding: str, archive: Path, tmp_path: Path, point: Path) -> None:
    assert "does not exist" in refused("mount", archive, tmp_path / "absent")
    (tmp_path / "file").touch()
    assert "not a directory" in refused("mount", archive, tmp_path / "file")
    assert "not empty" in refused("mount", archive, tmp_path)
    with live(archive, point):
        assert "already mounted" in refused("mount", archive, point)
        assert sorted(os.listdir(point)) == ["deep", "kinds", "names", "sizes", "top"]


def test_unknown_words(archive: Path, point: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "unknown mount option: frobnicate" in refused("mount", archive, point, "-o", "frobnicate", point=point)
    assert "not a size" in refused("mount", archive, point, "--cache-size", "lots", point=point)
    assert "MOUNTPOINT" in refused("mount", archive)
    monkeypatch.setenv("XTARFS_FUSE", "winfsp")
    assert "use native, mfusepy or fusepy" in refused("mount", archive, point, point=point)


def test_an_unreadable_archive(archive: Path, tmp_path: Path, point: Path) -> None:
    loop = tmp_path / "loop.xtar"
    loop.symlink_to(loop)
    assert "symbolic links" in refused("mount", loop, point, point=point)


def test_a_truncated_archive_is_mounted_with_a_warning(
    binding: str, archive: Path, menagerie: Path, tmp_path: Path, point: Path
) -> None:
    half = tmp_path / "half.xtar"
    half.write_bytes(archive.read_bytes()[: archive.stat().st_size * 9 // 10])
    done = xtar("mount", half, point)
    try:
        assert (done.returncode, done.stdout) == (0, "")
        assert "warning" in done.stderr
        assert all(line.startswith("xtar: warning: ") for line in done.stderr.splitlines())
        assert (point / "kinds" / "linked-1").read_bytes() == (menagerie / "kinds" / "linked-1").read_bytes()
        assert b"structure" in os.getxattr(point, "user.xtar.report")
    finally:
        subprocess.run(["umount", "-l", point], check=False)


def test_umount_refuses(archive: Path, point: Path, binding: str) -> None:
    assert "nothing is mounted" in refused("umount", point)
    assert "nothing is mounted" in refused("umount", point / "absent")
    with live(archive, point):
        with open(point / "top", "rb"):
            assert "busy" in refused("umount", point)
        assert (point / "top").stat().st_size == 1000


# --- the end ---


ENDINGS: dict[str, Callable[[Path, int], object]] = {
    "fusermount": lambda point, _: subprocess.run(["fusermount", "-u", point], check=True),
    "umount": lambda point, _: subprocess.run(["umount", point], check=True),
    "xtar umount": lambda point, _: xtar("umount", point).check_returncode(),
    "SIGTERM": lambda _, pid: os.kill(pid, signal.SIGTERM),
    "SIGINT": lambda _, pid: os.kill(pid, signal.SIGINT),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_endings(binding: str, archive: Path, point: Path, ending: str) -> None:
    with live(archive, point):
        (pid,) = servers(point)
        assert (point / "top").stat().st_size == 1000
        ENDINGS[ending](point, pid)
        assert gone(pid)
        assert not os.path.ismount(point)
        assert os.listdir(point) == []


@contextmanager
def foreground(archive: Path, point: Path) -> Iterator[subprocess.Popen[str]]:
    command = [*XTAR, "mount", "-f", str(archive), str(point)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert until(lambda: os.path.ismount(point))
            yield process
        finally:
            subprocess.run(["umount", "-l", point], capture_output=True, check=False)
            process.kill()


@pytest.mark.parametrize("ending", ENDINGS)
def test_endings_in_the_foreground(binding: str, archive: Path, point: Path, ending: str) -> None:
    with foreground(archive, point) as process:
        assert until(lambda: os.listdir(point) != [])
        ENDINGS[ending](point, process.pid)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (0, "", "")
        assert os.listdir(point) == []


def test_ctrl_c_at_a_terminal(binding: str, archive: Path, point: Path) -> None:
    """The terminal sends SIGINT to the whole group, here of one process."""
    script = f"import os, sys; os.setpgid(0, 0); sys.path.insert(0, {str(ROOT)!r})\n{XTAR[2]}"
    command = [sys.executable, "-c", script, "mount", "-f", str(archive), str(point)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert until(lambda: os.path.ismount(point))
            (point / "top").read_bytes()
            os.killpg(process.pid, signal.SIGINT)
            assert process.communicate(timeout=30)[1] == ""
            assert process.returncode == 0
        finally:
            subprocess.run(["umount", "-l", point], capture_output=True, check=False)
            process.kill()


def test_idle_timeout(binding: str, archive: Path, point: Path) -> None:
    with live(archive, point, "-o", "idle_timeout=1"):
        (pid,) = servers(point)
        assert (point / "top").stat().st_size == 1000
        assert until(lambda: not os.path.ismount(point), 8)
        assert gone(pid)


def test_a_dead_mount(binding: str, archive: Path, point: Path) -> None:
    with live(archive, point):
        (pid,) = servers(point)
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        assert "dead mount" in refused("mount", archive, point)
        assert xtar("umount", point).returncode == 0
    with live(archive, point):
        assert (point / "top").stat().st_size == 1000


def test_the_archive_may_be_moved_and_removed(
    binding: str, archive: Path, menagerie: Path, tmp_path: Path, point: Path
) -> None:
    copy = tmp_path / "copy.xtar"
    shutil.copy(archive, copy)
    with live(copy, point):
        copy.rename(tmp_path / "other")
        (tmp_path / "other").unlink()
        assert (point / "sizes" / "half").read_bytes() == (menagerie / "sizes" / "half").read_bytes()


def test_nothing_is_left_of_the_command(binding: str, archive: Path, point: Path) -> None:
    """No pipe, folder or session of the caller is kept: `x=$(xtar mount ...)` returns, a log-out does not end it."""
    with live(archive, point):  # waits for the end of the command's output
        (pid,) = servers(point)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {"/dev/null"}
        assert os.getsid(pid) != os.getsid(0)


def test_the_system_log_is_opened_with_the_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "log")
    monkeypatch.setattr(mount, "_SYSTEM_LOG", place)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system:
        system.bind(place)
        system.settimeout(10)
        handler = mount._log_handler(None, foreground=False)
        log.addHandler(handler)
        try:
            for operation in ("read", "readdir"):
                Guard().errno_of(operation, ValueError("a bug"))
                line = system.recv(4096)
                assert b"xtarfs[%d]: %s failed, answered EIO: ValueError" % (os.getpid(), operation.encode()) in line
        finally:
            log.removeHandler(handler)


def test_a_system_log_that_is_gone_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "log"
    place.touch()
    monkeypatch.setattr(mount, "_SYSTEM_LOG", str(place))
    handler = mount._log_handler(None, foreground=False)
    log.addHandler(handler)
    place.unlink()
    try:
        assert Guard().errno_of("read", ValueError("a bug")) == 5
    finally:
        log.removeHandler(handler)

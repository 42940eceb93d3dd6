"""Mounts through the command line, and what tests ask of the processes that serve them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
XTAR = [sys.executable, "-c", "from builder.entry import xtar; xtar()"]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def xtar(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command `xtar`. Without a pipe to the end, as a mount's process must not keep one open."""
    return subprocess.run(
        [*XTAR, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60,
        env=environment(), **options,
    )  # fmt: skip


@contextmanager
def live(archive: Path, point: Path, *flags: str) -> Iterator[Path]:
    """`archive` mounted on `point`, which is created. At the end nothing is mounted and no process is left."""
    point.mkdir(exist_ok=True)
    done = xtar("mount", archive, point, *flags)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    pids = servers(point)
    try:
        assert len(pids) == 1
        yield point
    finally:
        subprocess.run(["umount", "-l", point], capture_output=True, check=False)
        assert [pid for pid in pids if not gone(pid)] == []


def servers(point: Path) -> list[int]:
    """The processes that have `point` in their command line, which a server keeps from the command `xtar mount`."""
    wanted = os.fsencode(point)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if wanted in words and b"mount" in words:
                found.append(int(entry.name))
    return found


def gone(pid: int) -> bool:
    """Whether the process ends within some seconds."""

    def ended() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state == b"Z"  # init will fetch it, sooner or later

    return until(ended)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def failure(function: Callable[..., object], *arguments: Any) -> int:
    """The errno that function(*arguments) raises."""
    with pytest.raises(OSError) as caught:
        function(*arguments)
    assert caught.value.errno is not None
    return caught.value.errno

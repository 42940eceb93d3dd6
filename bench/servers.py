"""Mounts that always end: no server that hangs or dies may hang the benchmark or be left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import stop
from .measure import NotMeasured, end, last_line, surroundings
from .peers import Peer

_TICK = os.sysconf("SC_CLK_TCK")
_POLL = 0.002  # seconds
_PATIENCE = 0.5


@dataclass(slots=True)
class Mount:
    """A mount that has answered. ready: seconds from the command's start to the first answer.

    pid: of the serving process, None where the kernel serves.
    """

    point: Path
    pid: int | None = None
    ready: float | None = None

    def cpu(self) -> float | None:
        """Seconds that the serving process and its ended children took so far."""
        if self.pid is None:
            return None
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICK

    def peak(self) -> int | None:
        """The largest resident set of the serving process so far, in bytes."""
        if self.pid is None:
            return None
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


@contextlib.contextmanager
def mounted(peer: Peer, archive: Path, point: Path, limit: float) -> Iterator[Mount]:
    """`archive` shown by `peer` on `point`. Raises NotMeasured where it is not ready within `limit` seconds."""
    if not peer.command:
        yield Mount(archive)
        return
    point.mkdir(exist_ok=True)
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        server = subprocess.Popen(
            peer.command(archive, point),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={**surroundings(), **peer.environment},
            start_new_session=True,
        )
        try:
            _wait(peer, server, point, start + limit)
            ready = time.perf_counter() - start
            yield Mount(point, None if peer.kernel else server.pid, ready)
        except _Ended:
            said.seek(0)
            raise NotMeasured(f"exit code {server.returncode}{last_line(said.read())}") from None
        finally:
            detach(point)
            end(server)


class _Ended(Exception):
    """The server ended before its mount was ready."""


def _wait(peer: Peer, server: subprocess.Popen[bytes], point: Path, deadline: float) -> None:
    while not is_mounted(point):
        if server.poll() is not None and (server.returncode or not peer.kernel) and not is_mounted(point):
            raise _Ended
        _go_on(deadline)
        time.sleep(_POLL)
    answers: list[str] = []
    asker = threading.Thread(target=_ask, args=(point, answers), daemon=True)  # it may never come back
    asker.start()
    while not answers:
        asker.join(_PATIENCE)
        _go_on(deadline)
    if answers[0]:
        raise NotMeasured(f"its root cannot be listed: {answers[0]}")


def _ask(point: Path, answers: list[str]) -> None:
    try:
        os.listdir(point)
        answers.append("")
    except OSError as error:
        answers.append(str(error.strerror))


def _go_on(deadline: float) -> None:
    stop.check()
    if time.perf_counter() > deadline:
        raise NotMeasured("was not ready in time")


def is_mounted(point: Path) -> bool:
    return point in mount_points(point)


def mount_points(folder: Path) -> list[Path]:
    """Those at and below a folder, found without asking the file systems there, which may not answer."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
        points = [Path(line.split()[4].replace("\\040", " ")) for line in lines]
    return [point for point in points if point.is_relative_to(folder)]


def detach(point: Path) -> None:
    """Ends a mount at once; `--force` makes the kernel answer all requests that a FUSE server still owes."""
    if is_mounted(point):
        options = ["umount", "--force", "--lazy"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
        subprocess.run([*options, point], capture_output=True, check=False, timeout=60)

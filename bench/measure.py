"""Measures commands, each within a time limit, and empties the caches before those that are to run cold."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.command import XTAR as XTAR_BESIDE_TOOLS
from lab.command import environment

from . import stop

_BUILD = Path(__file__).resolve().parent.parent / "build"
PEERS = _BUILD / "peers" / "bin"  # where `make bench` puts ratarmount
_INSTALLED = _BUILD / "installed" / "bin" / "python"  # and what xtar needs, without the tools of this work tree
# msgspec imports some of the tools where it finds them, which takes 8 ms of every command's start.
XTAR = (str(_INSTALLED), *XTAR_BESIDE_TOOLS[1:]) if _INSTALLED.exists() else XTAR_BESIDE_TOOLS
_PATIENCE = 0.5  # seconds between two looks whether to stop
RUN = "run"
READS = "reads"
_CLIENT = Path(__file__).with_name("client.py")
_DROP = Path("/proc/sys/vm/drop_caches")


class NotMeasured(Exception):
    """Why there is no figure, in one line."""


class TookTooLong(NotMeasured):
    """A time limit was reached: whoever does not answer may not answer the next command either."""


@dataclass(frozen=True, slots=True)
class Usage:
    """seconds: wall time; cpu: seconds; peak: bytes of the largest process."""

    seconds: float
    cpu: float | None = None
    peak: int | None = None


def surroundings() -> dict[str, str]:
    """The laboratory's environment, with the peers that are not packaged on the path, and git that trusts any owner."""
    trust = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    return environment() | trust | {"PATH": f"{os.environ['PATH']}:{PEERS}"}


def measure(command: Sequence[str | Path], limit: float, *, cwd: Path | None = None, mode: str = RUN) -> Usage:
    """Runs a command, or the reads of `client.reads`, in the folder `cwd`, which may be a mount that does not answer.

    Raises NotMeasured where it fails, TookTooLong where it takes over `limit` seconds.
    """
    client = subprocess.Popen(
        [sys.executable, "-I", "-S", _CLIENT, cwd or Path.cwd(), mode, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=surroundings(),
        start_new_session=True,
    )
    try:
        out, err = _communicate(client, limit)
    finally:
        end(client)
    result = json.loads(out) if out else {"exit": client.returncode}
    if result["exit"]:
        raise NotMeasured(f"exit code {result['exit']}{last_line(err)}")
    return Usage(result["seconds"], result.get("cpu"), result.get("peak"))


def _communicate(client: subprocess.Popen[bytes], limit: float) -> tuple[bytes, bytes]:
    deadline = time.monotonic() + limit
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return client.communicate(timeout=min(left, _PATIENCE))
        stop.check()
    raise TookTooLong(f"took more than {limit:g} s")


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and those of its session, if it still runs; one that the kernel does not let go is left to it."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


def last_line(err: bytes) -> str:
    """What a program said last, for a message's end."""
    lines = err.decode(errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {said[:200]}" if said else ""


def drop_caches() -> None:
    """Empties the kernel's caches, where `caches_drop()` says that it can be done."""
    os.sync()
    if caches_drop():
        _DROP.write_text("3\n")


def caches_drop() -> bool:
    return os.access(_DROP, os.W_OK)

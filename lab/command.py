"""Runs the tools' commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

XTAR = (sys.executable, "-c", "from builder.entry import xtar; xtar()")
_LIMIT = 900  # seconds


class ToolFailed(Exception):
    """Packing did not work: the command and what it said."""


def run(*command: str | Path, cwd: Path | None = None, answers: str = "") -> str:
    """Runs one command of a recovery, whatever it ends with; gives what it said on both channels."""
    done = subprocess.run(
        command,
        cwd=cwd,
        input=answers.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_LIMIT,
        env=environment(),
        check=False,
    )
    return done.stdout.decode(errors="replace")


def output(*command: str | Path) -> tuple[bytes, str]:
    """Like `run`, with standard output and error apart."""
    done = subprocess.run(command, capture_output=True, timeout=_LIMIT, env=environment(), check=False)
    return done.stdout, done.stderr.decode(errors="replace")


def must(*command: str | Path, cwd: Path | None = None) -> None:
    """Runs a command that packs. Raises ToolFailed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=_LIMIT, env=environment(), check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
        raise ToolFailed(f"{' '.join(map(str, command))}: exit code {done.returncode}: {said}")


def shell(script: str, *arguments: str | Path) -> str:
    """`run` for a pipe of commands; the arguments are $1, $2 ..."""
    return run("bash", "-c", script, "bash", *arguments)


def environment() -> dict[str, str]:
    """No prompt, no colours, no user's settings, and `xtar` from this work tree."""
    return {
        **os.environ,
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "RESTIC_PASSWORD": "lab",
        "BORG_CHECK_I_KNOW_WHAT_I_AM_DOING": "YES",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
    }

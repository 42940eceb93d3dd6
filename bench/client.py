"""Runs one command, or one series of reads, and prints what it took.

A script of its own, `python -I -S client.py FOLDER run COMMAND...` or `... FOLDER reads FILE COUNT`. The kernel counts
the memory of whoever starts a command into the command's peak, so that must be small; and a client that hangs in a
mount can be killed.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time

PAGE = 4096
LONGEST = 60  # seconds


def run(command: list[str]) -> dict[str, float]:
    """Time, CPU and the peak memory of the largest of its processes, of a command whose output goes nowhere."""
    quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    start = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    return {
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
        "exit": os.waitstatus_to_exitcode(status),
    }


def reads(path: str, count: int) -> dict[str, float]:
    """Time of `count` reads of a page at random places of a file, the same ones every time.

    Past `LONGEST` the rest is taken to go on as slowly.
    """
    rng = random.Random(2003)
    with open(path, "rb", buffering=0) as file:
        pages = os.fstat(file.fileno()).st_size // PAGE
        places = [rng.randrange(pages) * PAGE for _ in range(count)]
        done, seconds, start = 0, 0.0, time.perf_counter()
        while done < count and seconds < LONGEST:
            if len(os.pread(file.fileno(), PAGE, places[done])) != PAGE:
                raise OSError(f"{path}: a short read at {places[done]}")
            done, seconds = done + 1, time.perf_counter() - start
        return {"seconds": seconds * count / done, "exit": 0}


if __name__ == "__main__":
    folder, mode, *arguments = sys.argv[1:]
    os.chdir(folder)
    result = run(arguments) if mode == "run" else reads(arguments[0], int(arguments[1]))
    print(json.dumps(result))

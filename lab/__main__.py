"""`python -m lab`: runs the laboratory, prints the tables, and writes them with the figure into a folder."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from . import report, tree
from .bench import Trial, missing, pack, series
from .damage import BURSTS, FLIP, HEAD, SCATTERED, SECTOR_LOST, TAIL, Damage
from .figure import draw
from .tools import ALL, CHUNKED, Tool

_DAMAGES: tuple[Damage, ...] = (SECTOR_LOST, FLIP, *SCATTERED, *BURSTS, HEAD, TAIL)
_CHUNK_DAMAGES: tuple[Damage, ...] = (*SCATTERED, BURSTS[2], FLIP)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    parser.add_argument("--size", type=int, default=60, metavar="MB", help="of the tree, default 60")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs with different damage, default 3")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), metavar="N", help="recoveries at a time, default one a processor"
    )
    parser.add_argument("--out", type=Path, default=Path("build/damage"), metavar="DIR", help="for tables and figure")
    parser.add_argument("--work-dir", metavar="DIR", help="for archives and what comes back; 10 times the size")
    parser.add_argument("--only", default="", metavar="TEXT", help="tools with this in their name")
    arguments = parser.parse_args()
    tools = [tool for tool in ALL if arguments.only in tool.name and not _lacks(tool)]
    with tempfile.TemporaryDirectory(prefix="xtar-lab-", dir=arguments.work_dir) as place:
        work = Path(place)
        content = tree.make(work / "tree", arguments.size * 1_000_000)
        size, largest = sum(map(len, content.values())), max(map(len, content.values()))
        about = (
            f"{len(content)} files, {size / 1e6:.1f} MB, the largest {largest / 1e6:.1f} MB; seeds: {arguments.seeds}."
        )
        print(about)
        archives = [pack(tool, work / "tree", work) for tool in tools]
        show = _Progress()
        timed = series(archives, (None, report.USUAL), 1, content, work, 1, show)
        trials = series(archives, _DAMAGES, arguments.seeds, content, work, arguments.jobs, show)
        chunked = [pack(tool, work / "tree", work) for tool in CHUNKED]
        chunk_trials = series(chunked, _CHUNK_DAMAGES, arguments.seeds, content, work, arguments.jobs, show)
    for done in timed:
        if not done.damage and done.score.files < done.score.total_files:
            print(f"{done.tool}: does not give back all of an undamaged archive", file=sys.stderr)
            return 1
    results = f"{about}\n\n{report.tables(archives, trials)}\n{report.costs(archives, timed)}"
    _publish(arguments.out, results, report.chunk_table(chunked, chunk_trials))
    draw(archives, trials, arguments.out / "durability.svg")
    return 0


def _lacks(tool: Tool) -> bool:
    names = missing(tool)
    if names:
        print(f"{tool.name}: left out, as {', '.join(names)} is not installed", file=sys.stderr)
    return bool(names)


class _Progress:
    """A line for each trial on a terminal, a dot otherwise."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, done: Trial) -> None:
        seconds = f"{time.monotonic() - self.start:.0f} s"
        what = f"{done.tool}, {done.damage.name if done.damage else 'undamaged'}, seed {done.seed}"
        print(f"\r\x1b[K{seconds}: {what}" if sys.stderr.isatty() else ".", end="", file=sys.stderr, flush=True)


def _publish(folder: Path, results: str, chunks: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "durability.md"
    print(f"\n\n{results}\n**Chunk size of xtar, no parity**\n\n{chunks}")
    report.put(page, "results", results)
    report.put(page, "chunk size", chunks)
    print(f"written to {page}, and the figure beside it")


if __name__ == "__main__":
    sys.exit(main())

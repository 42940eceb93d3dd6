"""`python -m bench`: measures, saves each figure at once, and writes the tables and the figure into a folder."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import report, stop, trees
from .bench import Bench
from .figure import draw
from .groups import GROUPS
from .measure import caches_drop
from .samples import Log, Run, describe, load, merge

_RESULTS = "build/bench/%Y%m%d-%H%M%S.jsonl"


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.report:
        try:
            runs = [load(path) for path in arguments.report]
        except OSError as error:
            print(f"{error.filename}: cannot be read: {error.strerror}", file=sys.stderr)
            return 2
        _publish(merge(runs), arguments.out)
        return 0
    stop.listen()
    results = arguments.json or Path(time.strftime(_RESULTS, time.gmtime()))
    if results.exists():
        print(f"{results}: exists already; give --json another name", file=sys.stderr)
        return 2
    groups = arguments.only or list(GROUPS)
    log = Log(results, describe(_settings(arguments, groups)))
    with tempfile.TemporaryDirectory(prefix="xtar-bench-", dir=arguments.work_dir) as place:
        work = Path(place).resolve()
        size, floor = arguments.size * 1_000_000, _built_floor(arguments.floor, work)
        bench = Bench(
            work,
            log,
            arguments.rounds,
            size,
            arguments.files,
            arguments.limit,
            floor,
            arguments.tree or trees.NAMES,
            arguments.without,
        )
        for group in groups:
            GROUPS[group](bench)
    print(f"measured: {results}")
    _publish(load(results), arguments.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=GROUPS, help="measure this group; may be repeated")
    parser.add_argument("--tree", action="append", choices=trees.NAMES, help="on this tree; may be repeated")
    parser.add_argument("--without", action="append", default=[], metavar="WORD", help="no mounts whose names have it")
    parser.add_argument("--rounds", type=_at_least(1), default=3, metavar="N", help="default 3")
    parser.add_argument("--size", type=_at_least(1), default=1000, metavar="MB", help="of a tree at most, default 1000")
    parser.add_argument("--files", type=_at_least(1000), default=10**6, metavar="N", help="of the largest growing tree")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="of a command, default 600")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR", help="for tables and figure")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="for what is measured, default build/bench/DATE.jsonl"
    )
    parser.add_argument("--work-dir", metavar="DIR", help="for trees and archives; some 20 times the size")
    parser.add_argument(
        "--floor", type=Path, default=Path("../shared/floor/floor.c"), metavar="FILE", help="the floor's source, if any"
    )
    parser.add_argument(
        "--report",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing; write the tables from saved files, each group from the first that has it",
    )
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"a number from {least}")
        return int(text)

    return parse


def _settings(arguments: argparse.Namespace, groups: list[str]) -> str:
    caches = "emptied before cold runs" if caches_drop() else "NOT emptied before cold runs"
    return (
        f"{', '.join(groups)}; {arguments.rounds} rounds, trees up to {arguments.size} MB, "
        f"growth to {arguments.files} files; caches {caches}"
    )


def _built_floor(source: Path, work: Path) -> Path | None:
    """The server in C, compiled; None where it, its libraries or a compiler is missing."""
    if not source.exists():
        return None
    program = work / "floor"
    script = 'gcc -O2 -w "$1" -o "$2" $(pkg-config --cflags --libs fuse3) -ldeflate'
    done = subprocess.run(["sh", "-c", script, "sh", source, program], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{source}: left out, as it does not compile: {done.stderr.splitlines()[:1]}", file=sys.stderr)
        return None
    return program


def _publish(run: Run, folder: Path) -> None:
    page = folder / "performance.md"
    report.write(page, run)
    print(report.targets(run))
    print(f"written to {page}")
    try:
        draw(run, folder / report.FIGURE)
    except ModuleNotFoundError as error:
        print(f"no figure, as {error.name} is not installed: pip install '.[lab]'", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

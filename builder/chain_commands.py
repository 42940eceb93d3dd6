"""`xtar merge` and `xtar prune` on the command line."""

from __future__ import annotations

import argparse

from xtarfs.console import DONE, Commands


def add_merge(commands: Commands) -> None:
    parser = commands.add_parser("merge", help="make one full archive of a chain of incremental ones")
    parser.add_argument(
        "archives", metavar="ARCHIVE", nargs="+", help="the chain, in any order; bases beside them are found"
    )
    parser.add_argument("-o", "--output", metavar="FULL.xtar", required=True, help="the archive to write")
    parser.add_argument("--force", action="store_true", help="replace FULL.xtar if it exists")
    parser.add_argument("--work-dir", metavar="DIR", default="", help="where temporary data goes (default: $TMPDIR)")
    parser.set_defaults(command=_merge)


def _merge(arguments: argparse.Namespace) -> int:
    import os

    from xtarfs.console import human_size, progress

    from .merge import merge

    with progress("xtar merge") as advance:
        facts = merge(
            arguments.archives,
            arguments.output,
            force=arguments.force,
            work_dir=arguments.work_dir,
            progress=advance,
        )
    counts = f"{facts.files} files, {facts.directories} folders, {facts.others} others"
    size = human_size(os.path.getsize(arguments.output))
    print(f"{arguments.output}: merged {counts}, {human_size(facts.bytes)} in {size}")
    print(f"identifier {facts.id}")
    return DONE

"""`xtar merge` and `xtar prune` on the command line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from xtarfs.console import DONE, PARTLY, Commands, complain

if TYPE_CHECKING:
    from ..chains.prune_plan import Plan


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

    from ..chains.merge import merge

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


def add_prune(commands: Commands) -> None:
    parser = commands.add_parser("prune", help="remove copies that no rule keeps and no kept copy needs")
    parser.add_argument("folder", metavar="FOLDER", help="the folder that the archives lie in; other files stay")
    keep = parser.add_argument_group("what to keep, of each source (at least one rule; a copy stays if any keeps it)")
    keep.add_argument("--keep-last", metavar="N", type=int, help="the N newest copies")
    for period in ("daily", "weekly", "monthly"):
        text = f"the newest copy of each of the last N {_PERIODS[period]} that have one"
        keep.add_argument(f"--keep-{period}", metavar="N", type=int, help=text)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done, and why")
    parser.add_argument(
        "--no-rewrite", action="store_true", help="keep archives that kept copies need, instead of taking their data"
    )
    parser.add_argument("--work-dir", metavar="DIR", default="", help="where temporary data goes (default: $TMPDIR)")
    parser.set_defaults(command=_prune)


_PERIODS = {"daily": "days", "weekly": "weeks", "monthly": "months"}


def _prune(arguments: argparse.Namespace) -> int:
    from xtarfs.console import progress
    from xtarfs.errors import UsageError

    from ..chains.prune import prune
    from ..chains.retention import Policy

    counts = {rule: getattr(arguments, f"keep_{rule}") for rule in ("last", "daily", "weekly", "monthly")}
    for rule, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"--keep-{rule} {count}: must be 1 or more")
    if not any(counts.values()):
        raise UsageError("prune: say what to keep, with --keep-last, --keep-daily, --keep-weekly or --keep-monthly")
    with progress("xtar prune") as advance:
        plan = prune(
            arguments.folder,
            Policy(**counts),
            may_rewrite=not arguments.no_rewrite,
            dry_run=arguments.dry_run,
            work_dir=arguments.work_dir,
            progress=advance,
        )
    _tell(plan, arguments.folder, arguments.dry_run)
    return PARTLY if plan.left_alone else DONE


def _tell(plan: Plan, folder: str, dry_run: bool) -> None:
    """A line for each copy, with the reason; on stderr one for each file that was left alone."""
    import os
    import time

    from xtarfs.text import escape

    for fate in plan.fates:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(fate.copy.origin.created))
        why = ", ".join(escape(os.fsencode(reason)) for reason in fate.why)
        name = escape(os.fsencode(os.path.basename(fate.copy.path)))
        more = f" and {len(fate.copy.paths) - 1} more volumes" if len(fate.copy.paths) > 1 else ""
        print(f"{fate.action:8}{when}  {name}{more}" + (f": {why}" if why else ""))
    for path, reason in plan.left_alone.items():
        complain(f"{path}: left alone: {reason}")
    counts = {action: sum(fate.action == action for fate in plan.fates) for action in ("remove", "rewrite")}
    did = "would remove" if dry_run else "removed"
    also = f", {'rewrite' if dry_run else 'rewrote'} {counts['rewrite']}" if counts["rewrite"] else ""
    print(f"{folder}: {did} {counts['remove']} of {len(plan.fates)} copies{also}")

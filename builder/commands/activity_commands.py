"""`xtar activity` on the command line."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from xtarfs.console import DONE, PARTLY, Commands, complain, human_size

from ..scanning.exclusions import add_exclude_options, exclude_patterns

if TYPE_CHECKING:
    from xtarfs.draft import Draft

    from ..activity.changes import Changes
    from ..activity.groups import Activity, Group

_ON_TERMINAL = 25  # groups; a pipe or file gets all
_MARKS = {"terminal": 100_000, ".html": 5_000, ".png": 5_000, ".svg": 5_000}
_HINT_FILES = _JSON_FILES = 3
_PROBLEM_LINES = 20
_PIPE_WIDTH = 100
_LONGEST_FOLDER = 60


def add_activity(commands: Commands) -> None:
    parser = commands.add_parser("activity", help="files that changed at about the same time, in groups")
    parser.add_argument("source", metavar="DIR|ARCHIVE", help="a folder, or an archive of one")
    parser.add_argument("--radius", metavar="TIME", default="1h", help="the longest gap within a group (default 1h)")
    parser.add_argument(
        "--by",
        choices=("mtime", "ctime", "btime"),
        default="mtime",
        help="content changed (default), anything changed, or created; an archive keeps no btime",
    )
    parser.add_argument(
        "--since", metavar="T", help="only changes from then on: 2024, 2024-12-31, @1700000000, 7d, ..."
    )
    parser.add_argument("--until", metavar="T", help="only changes until then, that day or year included")
    parser.add_argument(
        "--sort",
        metavar="KEY",
        choices=("time", "oldest", "files", "bytes", "length"),
        default="time",
        help="time (newest first, default), oldest, files, bytes or length (most first)",
    )
    parser.add_argument("--files", metavar="N", type=int, help="name each group's N largest files")
    parser.add_argument("--plot", metavar="FILE", help="draw the groups instead: FILE.html, .png or .svg")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    add_exclude_options(parser.add_argument_group("what to leave out"))
    parser.set_defaults(command=_activity)


def _activity(arguments: argparse.Namespace) -> int:
    from xtarfs.errors import UsageError

    from ..activity.groups import Activity
    from ..activity.when import parse_moment, parse_radius

    radius = parse_radius(arguments.radius)
    since = parse_moment("--since", arguments.since)[0] if arguments.since is not None else None
    until = parse_moment("--until", arguments.until)[1] if arguments.until is not None else None
    if since is not None and until is not None and since > until:
        raise UsageError(f"--since {arguments.since}: is after --until {arguments.until}")
    if arguments.files is not None and arguments.files < 0:
        raise UsageError(f"--files {arguments.files}: must not be negative")
    with ExitStack() as stack:
        draft = stack.enter_context(_plot_file(arguments)) if arguments.plot is not None else None
        changes = _changes(arguments)
        activity = Activity(changes, radius, since, until)
        if draft:
            _plot(arguments, activity, draft)
        if arguments.json:
            _print_json(arguments, activity, radius)
        elif not draft:
            _print(arguments, activity)
    for path, what in changes.problems[:_PROBLEM_LINES]:
        complain(f"{os.fsdecode(path) or arguments.source}: {what}")
    if len(changes.problems) > _PROBLEM_LINES:
        complain(f"... and {len(changes.problems) - _PROBLEM_LINES} more problems")
    if changes.undated:
        complain(f"{arguments.source}: {changes.undated} files have no {arguments.by} and are left out")
    return PARTLY if changes.problems or changes.undated else DONE


def _changes(arguments: argparse.Namespace) -> Changes:
    from xtarfs.console import progress
    from xtarfs.reading.reader import Archive

    from ..activity.archive_changes import archive_changes
    from ..activity.folder_changes import folder_changes
    from ..scanning.scan import Selection

    selection = Selection(
        exclude=exclude_patterns(arguments),
        exclude_caches=arguments.exclude_caches,
        one_file_system=arguments.one_file_system,
    )
    if os.path.isdir(arguments.source):
        with progress("xtar activity", unit=" files") as advance:
            return folder_changes(arguments.source, arguments.by, selection, advance)
    with Archive.open(arguments.source) as archive:
        total = archive.tree.locator.files if archive.tree.locator else 0
        with progress("xtar activity", total, unit=" files") as advance:
            return archive_changes(archive, arguments.by, selection, advance)


# -- text and JSON ---------------------------------------------------------------------------------------------


def _print(arguments: argparse.Namespace, activity: Activity) -> None:
    import sys

    from rich.console import Console

    from ..activity.scene import make_scene
    from ..activity.timeline import timeline

    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    scene = make_scene(arguments.source, activity, _MARKS["terminal"])
    for line in timeline(scene, console.width - 1):
        console.print(line)
    print(scene.subtitle)
    for number, group in enumerate(activity.groups(arguments.sort, arguments.files or 0)):
        if number == _ON_TERMINAL and console.is_terminal:
            print(f"... and {len(activity) - number} more groups; a pipe, --since or --json gets at them")
            break
        print(*_group_lines(group), sep="\n")


def _group_lines(group: Group) -> list[str]:
    """The group, where it happened, and its top files."""
    from xtarfs.text import escape

    from ..activity.scene import counted
    from ..activity.when import show_length, show_moment

    folders = ", ".join(f"{escape(path) or '.'} ({files})" for path, files in group.folders)
    kinds = ", ".join(f"{kind or 'no suffix'} ({files})" for kind, files in group.kinds)
    amount = f"{counted(group.files, 'file')}, {human_size(group.size)}"
    return [
        "",
        f"{show_moment(group.begin)}  {show_length(group.end - group.begin)}  {amount}",
        f"    in {folders}",
        f"    {kinds}",
        *(f"    {human_size(file.size):>8}  {show_moment(file.time)}  {escape(file.path)}" for file in group.top),
    ]


def _print_json(arguments: argparse.Namespace, activity: Activity, radius: int) -> None:
    from xtarfs.console import print_json_list
    from xtarfs.text import escape

    top = _JSON_FILES if arguments.files is None else arguments.files
    facts = {
        "source": escape(os.fsencode(arguments.source)),
        "by": arguments.by,
        "radius": _seconds(radius),
        "files": activity.files,
        "bytes": activity.size,
    }
    print_json_list("groups", map(_group_json, activity.groups(arguments.sort, top)), facts)


def _group_json(group: Group) -> dict[str, Any]:
    from xtarfs.text import path_fields

    return {
        "begin": _seconds(group.begin),
        "end": _seconds(group.end),
        "files": group.files,
        "bytes": group.size,
        "folders": [{**path_fields(path), "files": files} for path, files in group.folders],
        "kinds": [{"kind": kind, "files": files} for kind, files in group.kinds],
        "top": [{**path_fields(file.path), "bytes": file.size, "time": _seconds(file.time)} for file in group.top],
    }


def _seconds(nanoseconds: int) -> int | float:
    seconds, fraction = divmod(nanoseconds, 10**9)
    return nanoseconds / 10**9 if fraction else seconds


# -- pictures --------------------------------------------------------------------------------------------------


def _plot_file(arguments: argparse.Namespace) -> Draft:
    from xtarfs.draft import Draft
    from xtarfs.errors import UsageError

    if _form(arguments.plot) not in _MARKS:
        raise UsageError(f"--plot {arguments.plot}: must end in .html, .png or .svg")
    return Draft(arguments.plot, 0, force=arguments.force)


def _form(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _plot(arguments: argparse.Namespace, activity: Activity, draft: Draft) -> None:
    from xtarfs.text import escape

    from ..activity import drawing, plot_page
    from ..activity.scene import make_scene

    form = _form(arguments.plot)
    write = {".html": plot_page.to_html, ".png": drawing.to_png, ".svg": drawing.to_svg}[form]
    top = _HINT_FILES if arguments.files is None else arguments.files
    scene = make_scene(escape(os.fsencode(arguments.source)), activity, _MARKS[form], top)
    draft.write_at(0, write(scene))
    draft.commit()
    if not arguments.json:
        print(f"{arguments.plot}: {scene.subtitle}")

"""The command `xtar`: the reading commands of `xtarfs.commands.cli`, and `build`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from xtarfs.commands import cli
from xtarfs.console import DONE, PARTLY, Commands, complain

from ..scanning.exclusions import add_exclude_options, exclude_patterns, read_list
from .activity_commands import add_activity
from .chain_commands import add_merge, add_prune
from .struct_commands import add_struct
from .volume_options import add_volume_options

if TYPE_CHECKING:
    from xtarfs.recovery.recover import RecoverResult

    from ..building.build import Options
    from ..building.write import Result


def main(argv: list[str] | None = None) -> int:
    """The entry point of the command `xtar`; gives its exit code."""
    writing: dict[str, cli.Adder] = {
        "build": _add_build,
        "struct": add_struct,
        "activity": add_activity,
        "merge": add_merge,
        "prune": add_prune,
    }
    return cli.main(argv, writing, _rebuild)


def _add_build(commands: Commands) -> None:
    parser = commands.add_parser("build", help="write a folder as an archive")
    parser.add_argument("directory", metavar="DIR", help="the folder to back up; it is only read")
    parser.add_argument("-o", "--output", metavar="OUT.xtar", required=True, help="the archive to write")
    parser.add_argument("--force", action="store_true", help="replace OUT.xtar if it exists")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be stored")
    selection = parser.add_argument_group("what to store")
    add_exclude_options(selection)
    selection.add_argument("--files-from", metavar="FILE|-", help="store only these paths, one a line or NUL-ended")
    increment = parser.add_argument_group("what has changed")
    increment.add_argument("--base", metavar="PREV.xtar", default="", help="store only what changed since that copy")
    increment.add_argument("--checksum", action="store_true", help="compare the content of all files with the base's")
    how = parser.add_argument_group("how")
    how.add_argument("--level", metavar="N", type=int, default=5, help="1 (fast) to 9 (small), default 5")
    how.add_argument("--chunk-size", metavar="SIZE", default="32KiB", help="a multiple of 4KiB, default 32KiB")
    how.add_argument("--jobs", metavar="N", type=int, default=0, help="worker threads, default one a processor")
    how.add_argument("--redundancy", metavar="PERCENT", help="write a parity file beside it, as 'xtar protect' does")
    how.add_argument("--work-dir", metavar="DIR", default="", help="where temporary data goes (default: $TMPDIR)")
    add_volume_options(parser)
    parser.set_defaults(command=_build)


def _build(arguments: argparse.Namespace) -> int:
    from xtarfs.commands.parity_commands import parse_percent, protect_archive
    from xtarfs.console import progress
    from xtarfs.errors import UsageError

    from ..building.build import build, survey
    from .volume_options import check_volumes, tell_volumes

    if arguments.output == "-":
        raise UsageError("-o -: an archive cannot be written to a pipe, because sizes are patched in; give a file name")
    options = _options(arguments)
    if arguments.redundancy is not None and not 1 <= parse_percent(arguments.redundancy) <= 100:
        raise UsageError(f"--redundancy {arguments.redundancy}: must be between 1 and 100")
    volume_size = check_volumes(arguments)
    if arguments.dry_run:
        census, result = survey(arguments.directory, options, arguments.output)
        result.files, result.directories, result.others = census.files, census.directories, census.others
        result.content = census.size
        _tell(result, f"{arguments.directory}: would {'show' if arguments.base else 'store'}")
        return PARTLY if result.problems else DONE
    with progress("xtar build") as advance:
        if volume_size:
            from ..volumes.spread import build_volumes

            result, paths = build_volumes(
                arguments.directory, arguments.output, options, volume_size, arguments.spare_volumes, advance
            )
        else:
            result, paths = build(arguments.directory, arguments.output, options, advance), [arguments.output]
    _tell(result, f"{arguments.output}: {'shows' if arguments.base else 'stored'}")
    if volume_size:
        tell_volumes(paths, arguments.spare_volumes)
    for path in paths if arguments.redundancy is not None else ():
        protect_archive(path, arguments.redundancy, arguments.force)
    return PARTLY if result.problems else DONE


def _rebuild(arguments: argparse.Namespace, recover: Callable[[str], RecoverResult]) -> RecoverResult:
    """`recover -o`: what is left goes into a temporary folder, and from there into a new archive."""
    import shutil
    import tempfile

    from xtarfs.errors import UsageError

    from ..building.build import Options, build

    if os.path.lexists(arguments.output) and not arguments.force:
        raise UsageError(f"{arguments.output}: exists already; --force replaces it")
    try:
        folder = tempfile.mkdtemp(prefix="xtar-recover-", dir=arguments.work_dir or None)
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be worked in: {error.strerror}") from None
    try:
        result = recover(os.path.join(folder, "tree"))
        build(
            os.path.join(folder, "tree"),
            arguments.output,
            Options(work_dir=arguments.work_dir, force=arguments.force),
        )
    finally:
        shutil.rmtree(folder)
    return result


def _options(arguments: argparse.Namespace) -> Options:
    from xtarfs.errors import UsageError
    from xtarfs.format.numbers import parse_size
    from xtarfs.format.records import MIN_CHUNK

    from ..building.build import Options
    from ..scanning.scan import Selection
    from ..writing.compress import MAX_LEVEL, Settings

    chunk_size = parse_size(arguments.chunk_size)
    if chunk_size < MIN_CHUNK or chunk_size % MIN_CHUNK or chunk_size >= 1 << 30:
        raise UsageError(f"--chunk-size {arguments.chunk_size}: must be a multiple of 4KiB below 1GiB")
    if not 1 <= arguments.level <= MAX_LEVEL:
        raise UsageError(f"--level {arguments.level}: must be between 1 and {MAX_LEVEL}")
    if not 0 <= arguments.jobs <= 256:
        raise UsageError(f"--jobs {arguments.jobs}: must be between 1 and 256")
    selection = Selection(
        exclude=exclude_patterns(arguments),
        exclude_caches=arguments.exclude_caches,
        one_file_system=arguments.one_file_system,
        only=_listed(arguments.files_from) if arguments.files_from else None,
    )
    settings = Settings(arguments.level, chunk_size)
    if arguments.checksum and not arguments.base:
        raise UsageError("--checksum: compares with a base; name it by --base")
    return Options(
        settings,
        selection,
        arguments.jobs,
        arguments.work_dir,
        arguments.force,
        arguments.base,
        arguments.checksum,
    )


def _listed(path: str) -> list[bytes]:
    """The paths of --files-from: NUL-ended if there is a NUL, else one a line."""
    data = read_list(path)
    separator = b"\0" if b"\0" in data else b"\n"
    return [line for line in data.split(separator) if line]


def _tell(result: Result, what: str) -> None:
    """The summary on stdout; what went wrong, a line each, on stderr."""
    from xtarfs.console import human_size
    from xtarfs.text import escape

    for path, reason in result.notices:
        complain(f"note: {escape(path)} {reason}")
    for path, reason in result.problems:
        complain(f"{escape(path) or '.'} {reason}")
    counts = f"{result.files} files, {result.directories} folders, {result.others} others"
    line = f"{what} {counts}, {human_size(result.content)}"
    if result.size:
        line += f" in {human_size(result.size)}"
    if result.excluded:
        line += f", {result.excluded} excluded"
    if result.problems:
        line += f", {len(result.problems)} with problems"
    print(line)
    if result.identifier:
        print(f"identifier {result.identifier}")
    if result.changes:
        from ..building.summary import describe

        print("\n".join(describe(result.changes)))

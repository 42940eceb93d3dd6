"""The reading half of the command `xtar`, and the mount helper `xtarfs`. Heavy modules load where they are used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..console import DONE, PARTLY, Commands, Parser, complain, progress, run
from ..text import escape, path_fields, show
from .parity_commands import add_protect, add_repair

if TYPE_CHECKING:
    from ..checking.diff import Difference
    from ..filesystem.vfs import View
    from ..reading.reader import Archive
    from ..recovery.recover import RecoverResult
    from ..restoring.extract import ExtractResult
    from ..restoring.results import Ranges

_MAX_LINES = 20  # of one kind on stderr

Adder = Callable[[Commands], None]
"""Adds one command's parser."""

Rebuild = Callable[[argparse.Namespace, Callable[[str], "RecoverResult"]], "RecoverResult"]
"""Runs a recovery into a folder of its choice, and writes that as the new archive that the arguments name."""


def main(argv: list[str] | None = None, more: Mapping[str, Adder] | None = None, rebuild: Rebuild | None = None) -> int:
    """Runs `xtar ARGV...`; `more` adds commands to those that read, `rebuild` serves `recover -o`."""
    words = sys.argv[1:] if argv is None else argv
    parser = Parser(
        prog="xtar",
        description="Backups that damage cannot spread in, and that anyone can browse as a folder.",
        epilog="Exit codes: 0 done; 1 done, but something was lost, damaged, skipped or different; 2 not done.",
    )
    parser.add_argument("--version", action="version", version=f"xtar {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    adders: dict[str, Adder] = {**(more or {}), **_READING, "recover": lambda commands: _add_recover(commands, rebuild)}
    # All 16 parsers take 8 ms, and the one that is asked for does not need the others.
    for name in words[:1] if words and words[0] in adders else adders:
        adders[name](commands)
    arguments, rest = parser.parse_known_args(words)
    if rest and (not hasattr(arguments, "paths") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes no more paths once an option has come between
        arguments.paths += rest
    return run(lambda: arguments.command(arguments))


def _open(path: str, others: Iterable[str] = (), cache_size: int = 16 << 20, alone: bool = False) -> Archive:
    from ..reading.reader import Archive

    archive = Archive.open(path, cache_size=cache_size, others=others, alone=alone)
    for where, what in archive.tree.damage:
        complain(f"warning: {path}: {what}" + (f" (in {os.fsdecode(where)})" if where else ""))
    return archive


def _exit_code(archive: Archive) -> int:
    """1 if reading has met damage."""
    return PARTLY if archive.tree.damage or archive.tree.ranges else DONE


def _take_volumes(arguments: argparse.Namespace, words: list[str], most: int) -> list[str]:
    """What is left of `words` when the further volumes at their begin are taken; at most so many."""
    from ..errors import UsageError
    from .volume_arguments import take_volumes

    words = words.copy()
    arguments.others = [*take_volumes(arguments.archive, words), *arguments.others]
    if len(words) > most:
        raise UsageError(f"{words[0]}: is no volume of the set of {arguments.archive}")
    return words


def _raw(path: str) -> bytes:
    return b"/".join(part for part in os.fsencode(path).split(b"/") if part not in (b"", b"."))


def _archive_argument(parser: Parser) -> None:
    parser.add_argument("archive", metavar="ARCHIVE", help="an .xtar file, or a tar of zips made by hand")
    parser.add_argument(
        "--with",
        dest="others",
        metavar="FILE",
        type=_holder,
        action="append",
        default=[],
        help="an archive that holds data of this one, or a folder of such, if they do not lie beside it",
    )
    parser.add_argument(
        "--alone", action="store_true", help="of a volume, only what it holds itself, not its whole set"
    )


def _holder(path: str) -> str:
    """The argument of --with."""
    from ..reading.holders import identify

    if not os.path.exists(path):
        raise argparse.ArgumentTypeError(f"{path}: No such file or directory")
    if not os.path.isdir(path) and identify(path) is None:
        raise argparse.ArgumentTypeError(f"{path}: is no archive, or too damaged to tell which")
    return path


# -- list, cat, info -------------------------------------------------------------------------------------------


def _add_list(commands: Commands) -> None:
    parser = commands.add_parser("list", help="list what an archive holds")
    _archive_argument(parser)
    parser.add_argument("paths", metavar="PATH", nargs="*", help="a path inside (default: the root)")
    parser.add_argument("-l", "--long", action="store_true", help="type, mode, links, owner, size and time as well")
    parser.add_argument("-R", "--recursive", action="store_true", help="everything below PATH")
    parser.add_argument("-0", "--null", action="store_true", help="names as they are, each ended by a NUL byte")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(command=_list)


def _list(arguments: argparse.Namespace) -> int:
    from ..console import print_json_list
    from .listing import as_json, long_line, selected

    path = "".join(_take_volumes(arguments, arguments.paths, most=1))
    with _open(arguments.archive, arguments.others, alone=arguments.alone) as archive:
        nodes = selected(archive, _raw(path), arguments.recursive)
        if arguments.json:
            print_json_list("entries", map(as_json, nodes))
        elif arguments.null:
            for node in nodes:
                sys.stdout.buffer.write(node.path + b"\0")
        else:
            for node in nodes:
                print(long_line(node) if arguments.long else escape(node.path))
        return _exit_code(archive)


def _add_cat(commands: Commands) -> None:
    parser = commands.add_parser("cat", help="write a file's content to standard output")
    _archive_argument(parser)
    parser.add_argument("path", metavar="PATH", help="the file's path inside")
    parser.set_defaults(command=_cat)


def _cat(arguments: argparse.Namespace) -> int:
    from ..errors import UsageError

    with _open(arguments.archive, arguments.others, alone=arguments.alone) as archive:
        node = archive.lookup(_raw(arguments.path))
        if node.record.type != "file":
            raise UsageError(f"{arguments.path}: is a {node.record.type}, not a file")
        for piece in archive.pieces(node):
            if piece.error:
                sys.stdout.flush()
                complain(f"{arguments.archive}: {piece.error}; the output ends there")
                return PARTLY
            sys.stdout.buffer.write(piece.data)
        return _exit_code(archive)


def _add_info(commands: Commands) -> None:
    parser = commands.add_parser("info", help="what an archive says of itself: identifier, origin, totals")
    _archive_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(command=_info)


def _info(arguments: argparse.Namespace) -> int:
    import time

    from ..console import human_size, print_json
    from .listing import info

    with _open(arguments.archive, arguments.others, alone=arguments.alone) as archive:
        facts = info(archive)
        if arguments.json:
            print_json(facts)
            return _exit_code(archive)
        for key, value in facts.items():
            if isinstance(value, list) or (key in ("set", "previous") and value is None):
                continue
            if key == "set":
                value = f"volume {value['number']} of {value['count']}, identifier {value['id']}"
            if key == "created" and value is not None:
                value = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
            elif key in ("bytes", "size", "catalogue_size"):
                value = f"{value} ({human_size(value)})"
            print(f"{key.replace('_', ' ') + ':':16}{'unknown' if value is None else value}")
        for holder in facts.get("holders", ()):
            there = "at hand" if holder["at_hand"] else "missing"
            print(f"{'needs:':16}{show(os.fsencode(holder['name']))}, identifier {holder['id']} ({there})")
        return _exit_code(archive)


# -- extract, verify, diff -------------------------------------------------------------------------------------


def _add_extract(commands: Commands) -> None:
    parser = commands.add_parser("extract", help="restore files, or everything, into a folder")
    _archive_argument(parser)
    parser.add_argument("paths", metavar="PATH", nargs="*", help="files or folders inside (default: everything)")
    parser.add_argument("-C", "--directory", metavar="DEST", required=True, help="the folder to restore into")
    parser.add_argument("--force", action="store_true", help="replace files that exist in DEST")
    parser.add_argument("--numeric-owner", action="store_true", help="owners by number, not by name")
    parser.add_argument("--no-owner", action="store_true", help="leave owners to the system")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be restored")
    parser.add_argument(
        "--on-damage",
        choices=("stop", "skip", "hole"),
        default="skip",
        help="end at the first damaged file, leave damaged files out (default), or restore them with holes",
    )
    parser.set_defaults(command=_extract)


def _extract(arguments: argparse.Namespace) -> int:
    from ..console import human_size
    from ..restoring.extract import ExtractOptions, extract

    options = ExtractOptions(
        force=arguments.force,
        numeric_owner=arguments.numeric_owner,
        no_owner=arguments.no_owner,
        dry_run=arguments.dry_run,
        on_damage=arguments.on_damage,
    )
    paths = _take_volumes(arguments, arguments.paths, most=len(arguments.paths))
    with ExitStack() as stack:
        archive = stack.enter_context(_open(arguments.archive, arguments.others, alone=arguments.alone))
        advance = stack.enter_context(progress("xtar extract", _content_size(archive)))
        result = extract(archive, arguments.directory, [_raw(path) for path in paths], options, advance)
        _tell_lost(archive, result)
        lacks_set = not arguments.alone and _is_volume_alone(archive)
    verb = "would extract" if arguments.dry_run else "extracted"
    counts = f"{result.files} files, {result.directories} folders, {result.others} others"
    print(f"{arguments.directory}: {verb} {counts}, {human_size(result.bytes)}")
    return DONE if result.complete and not lacks_set else PARTLY


def _is_volume_alone(archive: Archive) -> bool:
    """Whether this is a volume that does not show its set."""
    facts = archive.tree.locator
    return facts is not None and facts.set is not None and archive.tree.identifier == facts.id


def _tell_lost(archive: Archive, result: ExtractResult) -> None:
    """A line for each thing that is not as it was stored; of long lists the beginning, and how many more."""
    for path, ranges in result.damaged:
        complain(f"{show(path)}: damaged{_ranges(ranges)}")
    for path in result.missing[:_MAX_LINES]:
        complain(f"{_why_missing(archive, path)}; name it by --with")
    if len(result.missing) > _MAX_LINES:
        complain(f"... and {len(result.missing) - _MAX_LINES} more whose data is not at hand")
    for path, reason in result.failed:
        complain(f"{show(path)}: {reason}")
    for path in result.kept[:_MAX_LINES]:
        complain(f"{show(path)}: exists and was kept")
    for path, what in result.unset[:_MAX_LINES]:
        complain(f"{show(path)}: could not set {what}")
    more = result.kept_count + result.unset_count - len(result.kept[:_MAX_LINES]) - len(result.unset[:_MAX_LINES])
    if more:
        complain(f"... and {more} more that were kept or could not be set")


def _why_missing(archive: Archive, path: bytes) -> str:
    """Which archive, or volume, a file's data lies in that is not at hand."""
    from ..errors import XtarError

    try:
        archive.require_at_hand(archive.lookup(path))
    except XtarError as error:
        return str(error)
    return f"{show(path)}: its data lies in another archive, which was not at hand"


def _content_size(archive: Archive) -> int:
    return archive.tree.content_size


def _add_verify(commands: Commands) -> None:
    parser = commands.add_parser("verify", help="read and check every byte of an archive")
    _archive_argument(parser)
    parser.add_argument("volumes", metavar="VOLUME", nargs="*", help="further volumes of its set")
    parser.add_argument("--id", metavar="HEX", help="the identifier that the archive must have")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(command=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from ..checking.verify import verify
    from ..checking.verify_set import verify_set
    from ..console import human_size, print_json
    from ..reading.sets import SetTree

    _take_volumes(arguments, arguments.volumes, most=0)
    with ExitStack() as stack:
        archive = stack.enter_context(_open(arguments.archive, arguments.others, alone=arguments.alone))
        is_set = isinstance(archive.tree, SetTree)
        advance = stack.enter_context(progress("xtar verify", 0 if is_set else archive.source.size))
        result = (verify_set if is_set else verify)(archive, advance)
    expected = arguments.id is None or arguments.id.lower() == result.identifier
    if arguments.json:
        document = {
            "archive": arguments.archive,
            "id": result.identifier or None,
            "id_matches": None if arguments.id is None else expected,
            "files": result.files,
            "bytes": result.content,
            "damaged": [
                {**path_fields(d.path), "ranges": d.ranges, "reason": d.reason, "repairable": d.repairable}
                for d in result.damaged
            ],
        }
        print_json(document)
    else:
        for damage in result.damaged:
            complain(f"{show(damage.path)}: {damage.reason}{_ranges(damage.ranges)}")
        print(
            f"{arguments.archive}: {result.files} files, {human_size(result.content)}, identifier {result.identifier}"
        )
        print("every byte is as it was written" if not result.damaged else f"{len(result.damaged)} damaged")
    if not expected:
        complain(f"{arguments.archive}: identifier is {result.identifier or 'unknown'}, not {arguments.id}")
    return PARTLY if result.damaged or not expected else DONE


def _ranges(ranges: Ranges) -> str:
    """Half-open ranges of a file's content, as the end of a line."""
    return "; lost bytes " + ", ".join(f"{start}-{end}" for start, end in ranges) if ranges else ""


# -- recover ---------------------------------------------------------------------------------------------------


def _add_recover(commands: Commands, rebuild: Rebuild | None) -> None:
    parser = commands.add_parser("recover", help="restore what is left of a damaged archive, or of a disc with one")
    parser.add_argument("archive", metavar="DAMAGED", help="an archive, a piece of one, a disc image or a device")
    parser.add_argument("volumes", metavar="VOLUME", nargs="*", help="if it is a volume, further ones of its set")
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument("-C", "--directory", metavar="DEST", help="the folder to restore into")
    if rebuild:
        output.add_argument("-o", "--output", metavar="NEW.xtar", help="write a new archive of what is left instead")
        parser.add_argument(
            "--work-dir", metavar="DIR", default="", help="where temporary data goes (default: $TMPDIR)"
        )
        parser.add_argument("--force", action="store_true", help="replace NEW.xtar if it exists")
    parser.add_argument(
        "--partial",
        choices=("keep", "drop"),
        default="keep",
        help="restore files that have lost a part with holes there (default), or leave them out",
    )
    parser.add_argument("--numeric-owner", action="store_true", help="owners by number, not by name")
    parser.add_argument("--no-owner", action="store_true", help="leave owners to the system")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(command=lambda arguments: _recover(arguments, rebuild))


def _recover(arguments: argparse.Namespace, rebuild: Rebuild | None) -> int:
    from ..console import print_json
    from ..recovery.recover import joined, recover
    from ..recovery.salvage_set import open_set, recover_set
    from ..source import FileSource

    arguments.others = []
    _take_volumes(arguments, arguments.volumes, most=0)
    paths = [arguments.archive, *arguments.others]
    volumes = open_set(paths)
    sources = [] if volumes else [FileSource(path) for path in paths]
    manner: dict[str, Any] = {key: getattr(arguments, key) for key in ("partial", "numeric_owner", "no_owner")}

    def into(folder: str) -> RecoverResult:
        if volumes:
            with progress("xtar recover", volumes.tree.content_size) as restored:
                return recover_set(volumes, folder, restored=restored, **manner)
        size = sum(source.size for source in sources)
        with progress("xtar recover: scan", size) as scanned, progress("xtar recover") as restored:
            return joined([recover(each, folder, scanned=scanned, restored=restored, **manner) for each in sources])

    try:
        result = into(arguments.directory) if arguments.directory or not rebuild else rebuild(arguments, into)
    finally:
        for opened in [volumes] if volumes else sources:
            opened.close()
    if arguments.json:
        print_json(result.as_json())
    _tell_recovered(arguments, result)
    lacks_set = any(each.volume for each in result.archives)
    if lacks_set:
        complain(
            f"{arguments.archive}: recovered without the catalogue of the set; only its volumes' own files are known"
        )
    return DONE if result.complete and not lacks_set else PARTLY


def _fate(where: str | None) -> str:
    return f"not recovered, because its data lies in {where}" if where else "lost"


def _tell_recovered(arguments: argparse.Namespace, result: RecoverResult) -> None:
    from ..console import human_size

    for archive in result.archives:
        lines = [f"{show(path)}: partial{_ranges(ranges)}" for path, ranges in archive.partial]
        lines += [f"{show(path)}: {_fate(archive.elsewhere.get(path))}" for path in archive.lost]
        lines += [f"{show(path)}: {reason}" for path, reason in archive.result.failed]
        lines += [f"{show(path)}: exists and was kept" for path in archive.result.kept]
        lines += [f"{show(path)}: could not set {what}" for path, what in archive.result.unset]
        lines += [f"{show(path)}: may have held more than was found" for path in archive.incomplete]
        lines += [f"{show(path)}: its mode, owner and time are lost" for path in archive.guessed]
        for line in lines[: 5 * _MAX_LINES]:
            complain(line)
        if len(lines) > 5 * _MAX_LINES:
            complain(f"... and {len(lines) - 5 * _MAX_LINES} more such lines; --json lists all")
        if not arguments.json:
            place = os.path.join(arguments.directory or arguments.output, os.fsdecode(archive.prefix)).rstrip("/")
            print(
                f"{place}: recovered {archive.files} whole files, {human_size(archive.content)}; "
                f"{len(archive.partial)} partial, {len(archive.lost)} lost"
            )
    if result.unreadable:
        complain(f"{arguments.archive}: {result.unreadable} bytes could not be read")
    if result.unclaimed:
        complain(f"{arguments.archive}: {result.unclaimed} zips were found that could not be given a place")


def _add_diff(commands: Commands) -> None:
    parser = commands.add_parser("diff", help="compare an archive with a folder or another archive")
    _archive_argument(parser)
    parser.add_argument("other", metavar="DIR|ARCHIVE", help="what to compare with")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(command=_diff)


def _diff(arguments: argparse.Namespace) -> int:
    from ..checking.diff import diff
    from ..console import print_json_list

    with ExitStack() as stack:
        archive = stack.enter_context(_open(arguments.archive, arguments.others, alone=arguments.alone))
        is_folder = os.path.isdir(arguments.other)
        other = arguments.other if is_folder else stack.enter_context(_open(arguments.other, arguments.others))
        advance = stack.enter_context(progress("xtar diff", _content_size(archive)))
        count = 0

        def counted() -> Iterator[Difference]:
            nonlocal count
            for difference in diff(archive, other, advance):
                count += 1
                yield difference

        if arguments.json:
            rows = ({**path_fields(d.path), "kind": d.kind, "what": list(d.what)} for d in counted())
            print_json_list("differences", rows)
        else:
            for difference in counted():
                print(f"{difference.kind:8} {show(difference.path)}" + _in_brackets(difference.what))
        return PARTLY if count else _exit_code(archive)


def _in_brackets(words: tuple[str, ...]) -> str:
    return f" ({', '.join(words)})" if words else ""


# -- mount, umount ---------------------------------------------------------------------------------------------


def _add_mount(commands: Commands) -> None:
    parser = commands.add_parser("mount", help="show an archive as a read-only folder")
    _archive_argument(parser)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="an empty folder")
    parser.add_argument("more", metavar="", nargs="*", default=[], help=argparse.SUPPRESS)  # after further volumes
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground until unmounted")
    parser.add_argument(
        "-o",
        "--options",
        metavar="OPTS",
        action="append",
        default=[],
        help="mount options, with commas between: allow_other, uid=N, gid=N, umask=OCT, idle_timeout=SECONDS, ...",
    )
    parser.add_argument("--cache-size", metavar="SIZE", default="64MiB", help="unpacked data kept (default 64MiB)")
    parser.add_argument(
        "--history", action="store_true", help="ARCHIVE is a folder: show all copies in it by time, and 'latest'"
    )
    parser.set_defaults(command=_mount)


def _mount(arguments: argparse.Namespace) -> int:
    from ..format.numbers import parse_size
    from ..mounting.mount import mount

    size = parse_size(arguments.cache_size)
    words: list[str] = [arguments.mountpoint, *arguments.more]
    mountpoint = words.pop()
    _take_volumes(arguments, words, most=0)
    path = os.path.abspath(arguments.archive)
    others = [os.path.abspath(other) for other in arguments.others]

    def view() -> View:
        from ..filesystem.history import History
        from ..filesystem.vfs import FileSystem

        if arguments.history:
            return History(path, others, size)
        archive = _open(path, others, size, arguments.alone)
        _warn_of_missing(archive)
        return FileSystem(archive)

    return mount(
        view,
        mountpoint,
        fsname=path,
        options=arguments.options,
        foreground=arguments.foreground,
    )


def _warn_of_missing(archive: Archive) -> None:
    missing = [name for _, name, there in archive.holders() if not there]
    if missing:
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        complain(f"warning: {archive.source.name}: not at hand: {names}; reading what lies there gives an I/O error")


def _add_umount(commands: Commands) -> None:
    parser = commands.add_parser("umount", help="end a mount")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.set_defaults(command=_umount)


def _umount(arguments: argparse.Namespace) -> int:
    from ..mounting.mount import unmount

    unmount(arguments.mountpoint)
    return DONE


_READING: dict[str, Adder] = {
    "list": _add_list,
    "cat": _add_cat,
    "extract": _add_extract,
    "verify": _add_verify,
    "info": _add_info,
    "diff": _add_diff,
    "mount": _add_mount,
    "umount": _add_umount,
    "protect": add_protect,
    "repair": add_repair,
}


def mount_helper(argv: list[str] | None = None) -> int:
    """`xtarfs ARCHIVE MOUNTPOINT [-o OPTS]`, as mount(8) and fstab call it."""
    parser = Parser(prog="xtarfs", description="Mounts an .xtar archive; the helper that mount(8) and fstab call.")
    parser.add_argument("--version", action="version", version=f"xtarfs {__version__}")
    _archive_argument(parser)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.set_defaults(more=[])
    parser.add_argument("-o", "--options", metavar="OPTS", action="append", default=[], help="mount options")
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground until unmounted")
    parser.add_argument("-n", action="store_true", help="ignored; mount(8) passes it")
    parser.add_argument("-s", action="store_true", help="ignored; mount(8) passes it")
    parser.add_argument("-v", action="store_true", help="ignored; mount(8) passes it")
    arguments = parser.parse_args(argv)
    _take_own_options(arguments)
    return run(lambda: _mount(arguments))


def _take_own_options(arguments: argparse.Namespace) -> None:
    """fstab has no place for --cache-size, --with and --history: `-o cache_size=256MiB,with=FILE,history` say it.

    mount(8) adds rw unless it is told ro.
    """
    rest, arguments.cache_size, arguments.history = [], "64MiB", False
    for option in ",".join(arguments.options).split(","):
        name, _, value = option.partition("=")
        if name == "cache_size":
            arguments.cache_size = value
        elif name == "with":
            arguments.others.append(value)
        elif option == "history":
            arguments.history = True
        elif option and option != "rw":
            rest.append(option)
    arguments.options = rest

"""`xtar protect` and `xtar repair` on the command line."""

from __future__ import annotations

import argparse

from ..console import DONE, PARTLY, Commands, complain, human_size, print_json, progress

Ranges = list[tuple[int, int]]


def add_protect(commands: Commands) -> None:
    parser = commands.add_parser("protect", help="write a parity file beside an archive")
    parser.add_argument("archive", metavar="ARCHIVE", help="any file; it is only read")
    parser.add_argument(
        "--redundancy", metavar="PERCENT", required=True, help="how much of the archive may be lost, 1 to 100"
    )
    parser.add_argument("--force", action="store_true", help="replace ARCHIVE.rec if it exists")
    parser.set_defaults(
        command=lambda arguments: protect_archive(arguments.archive, arguments.redundancy, arguments.force)
    )


def protect_archive(archive: str, redundancy: str, force: bool) -> int:
    """Writes ARCHIVE.rec and says so."""
    from ..parity.protect import protect

    with progress("xtar protect") as advance:
        result = protect(archive, parse_percent(redundancy), advance, force=force)
    share = 100 * result.parity_size / result.size
    print(f"{archive}.rec: {human_size(result.parity_size)} ({share:.1f}% of {human_size(result.size)})")
    print(
        f"{result.groups} groups of {result.data} blocks, each survives the loss of any {result.parity} of its blocks"
    )
    return DONE


def parse_percent(text: str) -> float:
    """`5` or `5%`. Raises UsageError."""
    from ..errors import UsageError

    try:
        return float(text.removesuffix("%"))
    except ValueError:
        raise UsageError(f"--redundancy {text}: is not a percentage; write 5 or 5%") from None


def add_repair(commands: Commands) -> None:
    parser = commands.add_parser("repair", help="restore a damaged archive by its parity file")
    parser.add_argument("archive", metavar="ARCHIVE", help="the damaged file; ARCHIVE.rec lies beside it")
    parser.add_argument("-o", "--output", metavar="OUT", help="write the repaired archive here, not in place")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(command=_repair)


def _repair(arguments: argparse.Namespace) -> int:
    from ..recovery.repair import repair
    from ..recovery.repair_set import has_spares

    if has_spares(arguments.archive) and not arguments.output:
        return _repair_set(arguments)
    with progress("xtar repair") as advance:
        result = repair(arguments.archive, arguments.output, advance, force=arguments.force)
    if arguments.json:
        print_json(
            {
                "archive": arguments.archive,
                "written": result.written,
                "proven": result.proven,
                "sha256": result.sha256,
                "repaired_blocks": result.repaired_blocks,
                "repaired": result.repaired,
                "left_blocks": result.left_blocks,
                "left": result.left,
                "moved": result.moved,
                "resized": result.resized,
                "parity": result.parity,
            }
        )
    elif result.was_sound:
        print(f"{arguments.archive}: is sound, nothing to repair")
    else:
        done = f"{result.repaired_blocks} blocks repaired"
        where = f", written to {result.written}" if result.written else ""
        print(f"{arguments.archive}: {done}, {result.left_blocks} left{where}")
    if not result.proven:
        written = arguments.output or "OUT"
        hint = "" if arguments.output else "nothing was written; -o OUT writes what could be had, "
        complain(f"{arguments.archive}: damage beyond the redundancy; {hint}'xtar recover {written}' gets the files")
    if result.parity != "sound":
        complain(
            f"{arguments.archive}.rec: was damaged too" + (", and written anew" if result.parity == "rewritten" else "")
        )
    return DONE if result.proven else PARTLY


def _repair_set(arguments: argparse.Namespace) -> int:
    from msgspec.structs import asdict

    from ..recovery.repair_set import repair_set

    with progress("xtar repair") as advance:
        result = repair_set(arguments.archive, advance)
    if arguments.json:
        volumes = [asdict(volume) for volume in result.volumes]
        print_json({"archive": arguments.archive, "proven": result.proven, "volumes": volumes, "spares": result.spares})
    else:
        for volume in result.volumes:
            counts = f": {volume.repaired_blocks} blocks repaired, {volume.left_blocks} left"
            print(f"{volume.path}: {volume.state}" + ("" if volume.state == "sound" else counts))
    if not result.proven:
        complain(f"{arguments.archive}: damage beyond the redundancy; 'xtar recover' gets the files of what is left")
    if result.spares != "sound":
        complain(
            "the spares were damaged or missing too" + (", and written anew" if result.spares == "rewritten" else "")
        )
    return DONE if result.proven else PARTLY

"""`xtar struct save` and `xtar struct apply` on the command line."""

from __future__ import annotations

import argparse

from xtarfs.console import DONE, PARTLY, Commands, Parser, complain


def add_struct(commands: Commands) -> None:
    parser = commands.add_parser("struct", help="save a folder's modes, owners, times and links, or apply them")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=Parser)
    save = actions.add_parser("save", help="write what a folder looks like, contents excepted, as a structure file")
    save.add_argument("directory", metavar="DIR", help="the folder; it is only read")
    save.add_argument("file", metavar="FILE", help="the structure file to write")
    save.add_argument(
        "--format",
        choices=("jsonl", "mtree"),
        default="jsonl",
        help="jsonl (default) as in an archive's catalogue; mtree(5) for BSD tools, with SHA-256 of the contents, "
        "without hard links and extended attributes",
    )
    save.add_argument("--force", action="store_true", help="replace FILE if it exists")
    save.set_defaults(command=_save)
    apply = actions.add_parser("apply", help="give a folder that lost them its modes, owners, times and links back")
    apply.add_argument("file", metavar="FILE", help="a structure file, an archive's catalogue.jsonl.gz, or mtree")
    apply.add_argument("directory", metavar="DIR", help="the folder; contents are never changed")
    apply.add_argument("--dry-run", action="store_true", help="only say what would be changed")
    apply.set_defaults(command=_apply)


def _save(arguments: argparse.Namespace) -> int:
    from xtarfs.console import human_size
    from xtarfs.text import show

    from ..building.save import save

    result = save(arguments.directory, arguments.file, as_mtree=arguments.format == "mtree", force=arguments.force)
    for path, reason in result.notices:
        complain(f"note: {show(path)} {reason}")
    for path, reason in result.problems:
        complain(f"{show(path)}: {reason}")
    counts = f"{result.files} files, {result.directories} folders, {result.others} others"
    print(f"{arguments.file}: {counts} described in {human_size(result.size)}")
    return PARTLY if result.problems else DONE


def _apply(arguments: argparse.Namespace) -> int:
    from xtarfs.restoring.apply import apply
    from xtarfs.restoring.structure_file import StructureFile
    from xtarfs.text import show

    with StructureFile(arguments.file) as file:
        outcome = apply(
            file,
            arguments.directory,
            lambda path, what: print(f"{show(path)}: {what}"),
            lambda path, why: complain(f"{show(path)}: {why}"),
            dry_run=arguments.dry_run,
        )
    verb = "would be changed" if arguments.dry_run else "changed"
    print(f"{arguments.directory}: {outcome.changed} {verb}, {outcome.right} were right, {outcome.wrong} with problems")
    return PARTLY if outcome.wrong else DONE

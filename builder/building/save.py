"""`xtar struct save`: a tree's structure as a file, in the form of an archive's catalogue or as mtree."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator

from xtarfs.errors import BuildError
from xtarfs.format import mtree
from xtarfs.format.records import Record

from ..scanning.links import LinkTable
from ..scanning.scan import Enter, Item, Scanner, Selection, Step, take_census
from ..writing.output import Output
from ..writing.section import Section
from .build import identity
from .inventory import take_inventory
from .plan import Planner
from .write import Result

_CONTENT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Inventory = Iterator[tuple[Step, Record | None]]


def save(source: str, destination: str, *, as_mtree: bool = False, force: bool = False, besides: str = "") -> Result:
    """Writes what the directory `source` looks like, contents excepted, to `destination`; mtree with their SHA-256.

    besides: a file that is left out, like `destination` itself. Raises UsageError and BuildError, nothing being
    left under `destination` then; what could not be read is named in the result.
    """
    result = Result()
    links = LinkTable(tempfile.gettempdir())
    try:
        with Output(destination, force=force) as out:
            own = {out.identity} | identity(destination) | (identity(besides) if besides else set())
            quiet = Scanner(source, Selection(), lambda path, reason: None, lambda path, reason: None, own)
            census = take_census(quiet, links)
            scanner = Scanner(source, Selection(), result.problem, result.notice, own)
            tag = census.digest[:6]
            inventory = take_inventory(Planner(tag, links).run(scanner.steps()), result.problem)
            if as_mtree:
                _write_mtree(out, inventory, result)
            else:
                _write_sections(out, inventory, tag)
            result.size = out.position
            out.commit()
    except OSError as error:
        raise BuildError(f"{destination}: not written: {error.strerror or error}") from None
    finally:
        links.close()
    result.files, result.directories, result.others = census.files, census.directories, census.others
    return result


def _write_sections(out: Output, inventory: Inventory, tag: bytes) -> None:
    """The structure of every directory, those below it before it."""
    stack: list[Section] = []
    for step, record in inventory:
        if isinstance(step, Enter):
            assert record
            stack.append(Section(record, step.folder.path))
        elif record:
            stack[-1].add(record)
        else:
            section = stack.pop()
            out.write(section.finish(tag)[0])
            if stack:
                stack[-1].add(section.record)


def _write_mtree(out: Output, inventory: Inventory, result: Result) -> None:
    out.write(mtree.HEAD)
    for step, record in inventory:
        if isinstance(step, Enter):
            assert record
            out.write(mtree.to_line(step.folder.path, record, step.folder.stat.st_nlink))
        elif isinstance(step, Item):
            assert record
            out.write(mtree.to_line(step.path, record, step.stat.st_nlink, _digest(step, result)))


def _digest(item: Item, result: Result) -> str:
    """SHA-256 of a regular file's content; empty for what is none, or cannot be read."""
    if not stat.S_ISREG(item.stat.st_mode):
        return ""
    try:
        with open(os.open(item.name, _CONTENT, dir_fd=item.folder.fd), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        result.problem(item.path, f"cannot be read: {error.strerror}; it is listed without a digest")
        return ""

"""`xtar build`: census, workers, writer and output put together."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from msgspec import Struct, field

from xtarfs.errors import BuildError, UsageError
from xtarfs.pool import Pool

from ..scanning.links import LinkTable
from ..scanning.scan import Census, Scanner, Selection, take_census
from ..writing.compress import Settings
from ..writing.files import refer
from ..writing.output import Output
from .plan import Planner
from .summary import Summary
from .write import ArchiveWriter, Result, Setup

if TYPE_CHECKING:
    from ..scanning.incremental import PreviousCopy


class Options(Struct):
    """How to build. jobs: worker threads, 0 for one per processor. work_dir: where temporary data goes.

    base: the copy before, which unchanged files are left to; checksum: they are told by content, not by attributes.
    """

    settings: Settings = field(default_factory=Settings)
    selection: Selection = field(default_factory=Selection)
    jobs: int = 0
    work_dir: str = ""
    force: bool = False
    base: str = ""
    checksum: bool = False


def build(
    source: str,
    destination: str,
    options: Options,
    progress: Callable[[int, int], None] = lambda size, total: None,
) -> Result:
    """Writes the directory `source` as the archive `destination`, which appears only when it is complete.

    progress(bytes more, bytes in all) is called as files are stored. Files that cannot be read are named in the
    result. Raises UsageError and BuildError, nothing being left under `destination` then.
    """
    try:
        with Output(destination, force=options.force) as out:
            result = fill(source, out, options, [destination], progress)
            out.commit()
    except OSError as error:
        raise BuildError(f"{destination}: not written: {error.strerror or error}") from None
    return result


def fill(
    source: str,
    out: Output,
    options: Options,
    replaced: Sequence[str],
    progress: Callable[[int, int], None] = lambda size, total: None,
) -> Result:
    """Writes the archive to `out`, and does not yet give it its name. replaced: files that are to make way for it."""
    result = Result()
    work_dir = _work_dir(options)
    jobs = options.jobs or len(os.sched_getaffinity(0))
    own = {out.identity}.union(*map(identity, replaced))
    with (
        closing(LinkTable(work_dir)) as links,
        _compared(source, replaced, options) as (base, summary),
        Pool(jobs) as pool,
    ):
        census = take_census(Scanner(source, options.selection, _ignore, _ignore, own), links)
        scanner = Scanner(source, options.selection, result.problem, result.notice, own)
        setup = Setup(source, work_dir, options.settings, jobs, census.digest[:6], base, summary)
        writer = ArchiveWriter(out, pool, setup, links, result, lambda size: progress(size, census.size))
        writer.write(scanner.steps())
        result.excluded = scanner.excluded
        _conclude(result, base, summary)
    return result


def survey(source: str, options: Options, destination: str = "") -> tuple[Census, Result]:
    """What `build` would store, for a dry run: reads names and attributes, and content only to compare it."""
    result = Result()
    with closing(LinkTable(_work_dir(options))) as links, _compared(source, [destination], options) as (base, summary):
        scanner = Scanner(source, options.selection, result.problem, result.notice, identity(destination))
        census = take_census(scanner, links)
        result.excluded = scanner.excluded
        if base and summary:
            again = Scanner(source, options.selection, _ignore, _ignore, identity(destination))
            for work in Planner(census.digest[:6], links, base).run(again.steps()):
                if work.job and stat.S_ISREG(work.job.item.stat.st_mode) and not work.job.link:
                    with suppress(OSError):
                        summary.note(work.job, refer(work.job))
        _conclude(result, base, summary)
    return census, result


@contextmanager
def _compared(
    source: str, replaced: Sequence[str], options: Options
) -> Iterator[tuple[PreviousCopy | None, Summary | None]]:
    """The copy before and the summary of what differs from it, if one is given. Raises UsageError."""
    if not options.base:
        yield None, None
        return
    from ..scanning.incremental import PreviousCopy  # which loads all that reads an archive

    work_dir = _work_dir(options)
    with (
        closing(Summary(work_dir)) as summary,
        closing(PreviousCopy(options.base, work_dir, checksum=options.checksum, gone=summary.gone)) as base,
    ):
        base.require_apart(replaced)
        base.require_kinship(source)
        yield base, summary


def _conclude(result: Result, base: PreviousCopy | None, summary: Summary | None) -> None:
    if base and summary:
        for path, what in base.damage():
            result.notice(path, what)
        result.changes = summary.finish()


def _work_dir(options: Options) -> str:
    work_dir = options.work_dir or tempfile.gettempdir()
    if not os.path.isdir(work_dir):
        raise UsageError(f"{work_dir}: is not a directory; give --work-dir a folder for temporary data")
    return work_dir


def _ignore(path: bytes, reason: str) -> None:
    """The census says nothing: the build meets the same things again and reports them."""


def identity(path: str) -> set[tuple[int, int]]:
    """Device and inode of what has this name; empty if nothing has."""
    try:
        attributes = os.stat(path)
    except OSError:
        return set()
    return {(attributes.st_dev, attributes.st_ino)}

"""`xtar build`: census, workers, writer and output put together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from xtarfs.errors import BuildError, UsageError

from .compress import Settings
from .links import LinkTable
from .output import Output
from .scan import Census, Scanner, Selection, take_census
from .write import ArchiveWriter, Result, Setup


@dataclass(slots=True)
class Options:
    """How to build. jobs: worker threads, 0 for one per processor. work_dir: where temporary data goes."""

    settings: Settings = field(default_factory=Settings)
    selection: Selection = field(default_factory=Selection)
    jobs: int = 0
    work_dir: str = ""
    force: bool = False


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
    result = Result()
    work_dir = options.work_dir or tempfile.gettempdir()
    if not os.path.isdir(work_dir):
        raise UsageError(f"{work_dir}: is not a directory; give --work-dir a folder for temporary data")
    links = LinkTable(work_dir)
    jobs = options.jobs or len(os.sched_getaffinity(0))
    try:
        with Output(destination, force=options.force) as out, ThreadPoolExecutor(jobs) as pool:
            own = {out.identity} | identity(destination)
            census = take_census(Scanner(source, options.selection, _ignore, _ignore, own), links)
            scanner = Scanner(source, options.selection, result.problem, result.notice, own)
            setup = Setup(source, work_dir, options.settings, jobs, census.digest[:6])
            writer = ArchiveWriter(out, pool, setup, links, result, lambda size: progress(size, census.size))
            writer.write(scanner.steps())
            result.excluded = scanner.excluded
            out.commit()
    except OSError as error:
        raise BuildError(f"{destination}: not written: {error.strerror or error}") from None
    finally:
        links.close()
    return result


def survey(source: str, options: Options) -> tuple[Census, Result]:
    """What `build` would store, for a dry run: reads names and attributes only."""
    result = Result()
    links = LinkTable(options.work_dir or tempfile.gettempdir())
    scanner = Scanner(source, options.selection, result.problem, result.notice, set())
    census = take_census(scanner, links)
    links.close()
    result.excluded = scanner.excluded
    return census, result


def _ignore(path: bytes, reason: str) -> None:
    """The census says nothing: the build meets the same things again and reports them."""


def identity(path: str) -> set[tuple[int, int]]:
    """Device and inode of what has this name; empty if nothing has."""
    try:
        attributes = os.stat(path)
    except OSError:
        return set()
    return {(attributes.st_dev, attributes.st_ino)}

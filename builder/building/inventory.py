"""A tree's records without an archive: what a build would say of everything, but for places and checksums."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator

from xtarfs.format.records import Record
from xtarfs.restoring.attributes import read_xattrs

from ..scanning.scan import Enter, Step
from ..writing.files import Job, describe, describe_link, describe_native
from .plan import Work


def take_inventory(plan: Iterator[Work], problem: Callable[[bytes, str], None]) -> Iterator[tuple[Step, Record | None]]:
    """Each step of a plan with its record; None for the end of a directory.

    problem(path, reason) is told of what cannot be read, which is then left out.
    """
    for work in plan:
        step, job = work.step, work.job
        if isinstance(step, Enter):
            name, ino = (job.item.name, job.ino) if job else (b".", 1)
            yield step, describe(name, step.folder.stat, ino, read_xattrs(step.folder.fd))
        elif job is None:
            yield step, None
        else:
            try:
                yield step, _describe(job)
            except OSError as error:
                problem(job.item.path, f"cannot be read: {error.strerror}")


def _describe(job: Job) -> Record:
    return describe_link(job) if stat.S_ISREG(job.item.stat.st_mode) else describe_native(job)

"""Steps to jobs: what each thing of the source becomes in the archive. Runs ahead of the writer, in the same order."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from xtarfs.format import tar
from xtarfs.format.records import FILE, TYPE_OF_BITS
from xtarfs.format.tar import Mark

from ..scanning.links import LinkTable
from ..scanning.scan import Enter, Item, Leave, Step
from ..writing.files import Job
from ..writing.packer import Outcome

if TYPE_CHECKING:
    from ..scanning.incremental import PreviousCopy


class Work(Struct):
    """A step with its job and, for a small file, what became of it."""

    step: Step
    job: Job | None = None
    stored: Outcome = None


class Planner:
    """Gives every item its inode number, its containing directory's mark, its part in a hard link, and what it may be
    in the copy before, if there is one.
    """

    def __init__(self, tag: bytes, links: LinkTable, base: PreviousCopy | None = None) -> None:
        self._tag = tag
        self._links = links
        self._base = base
        self._inos = 0

    def run(self, steps: Iterator[Step]) -> Iterator[Work]:
        marks: list[Mark] = []
        for step in steps:
            if isinstance(step, Leave):
                marks.pop()
                if self._base:
                    self._base.leave()
                yield Work(step)
            elif isinstance(step, Enter):
                self._inos += 1
                item = step.item
                if self._base:
                    self._base.enter(item.name if item else None)
                yield Work(step, Job(item, marks[-1], self._inos) if item else None)
                marks.append(Mark(self._tag, self._inos, tar.ROLE_FILE))
            else:
                job = self._job(step, marks[-1])
                if self._base:
                    self._compare(job, self._base)
                yield Work(step, job)

    def _job(self, item: Item, mark: Mark) -> Job:
        linked = item.stat.st_nlink > 1 and stat.S_ISREG(item.stat.st_mode)
        first = self._links.first(item.stat) if linked else None
        if first:
            return Job(item, mark, first[0], self._links.names(item.stat), first[1])
        self._inos += 1
        if not linked:
            return Job(item, mark, self._inos)
        self._links.remember(item.stat, self._inos, item.path)
        return Job(item, mark, self._inos, self._links.names(item.stat))

    def _compare(self, job: Job, base: PreviousCopy) -> None:
        kind = TYPE_OF_BITS[stat.S_IFMT(job.item.stat.st_mode)]
        if kind == FILE and not job.link:
            job.match = base.match(job.item)
        else:
            base.find(job.item.name, kind)

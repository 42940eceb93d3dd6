"""Records to a nested `.xtar`: one pass over the tree, members written in order, packing done ahead by a pool.

Data flow: scanner -> jobs -> Lookahead (workers pack small files) -> ArchiveWriter -> Layout -> Output.
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msgspec import Struct, field

from xtarfs.format.records import holders_of
from xtarfs.pool import Pool
from xtarfs.restoring.attributes import read_xattrs

from ..scanning.links import LinkTable
from ..scanning.scan import Enter, Leave, Step
from ..writing.compress import Settings
from ..writing.files import Job, LargeFile, Stored, describe, describe_link, describe_native, refer, store_small
from ..writing.finished import Finished
from ..writing.layout import Layout
from ..writing.origin import OriginLog
from ..writing.output import Output
from ..writing.packer import Outcome
from .lookahead import Lookahead
from .plan import Planner
from .summary import Changes, Summary

if TYPE_CHECKING:
    from ..scanning.incremental import PreviousCopy


class Result(Struct):
    """What a build did. content: bytes in regular files; size: bytes of the archive; paths are below the source.

    changes: since the copy before, if there is one.
    """

    files: int = 0
    directories: int = 0
    others: int = 0
    content: int = 0
    excluded: int = 0
    size: int = 0
    identifier: str = ""
    problems: list[tuple[bytes, str]] = field(default_factory=list)
    notices: list[tuple[bytes, str]] = field(default_factory=list)
    changes: Changes | None = None

    def problem(self, path: bytes, reason: str) -> None:
        self.problems.append((path, reason))

    def notice(self, path: bytes, reason: str) -> None:
        self.notices.append((path, reason))


class Setup(Struct, frozen=True):
    """What stays the same for a whole build. tag: the six bytes that mark every member of the archive.

    base: the copy before; summary: told of what differs from it.
    """

    source: str
    work_dir: str
    settings: Settings
    jobs: int
    tag: bytes
    base: PreviousCopy | None = None
    summary: Summary | None = None


class ArchiveWriter:
    """Writes one archive to `out` from the steps of a scanner."""

    def __init__(
        self,
        out: Output,
        pool: Pool,
        setup: Setup,
        links: LinkTable,
        result: Result,
        progress: Callable[[int], None],
    ) -> None:
        self._out = out
        self._lookahead = Lookahead(pool, setup.jobs, setup.settings)
        self._settings = setup.settings
        self._large = LargeFile(out, pool, setup.jobs, setup.settings)
        self._planner = Planner(setup.tag, links, setup.base)
        self._base = setup.base
        self._summary = setup.summary
        self._holders: set[str] = set()
        self._result = result
        self._progress = progress
        self._layout = Layout(out, setup.tag, setup.work_dir)
        self._origin = OriginLog(tempfile.TemporaryFile(dir=setup.work_dir), setup.source)  # noqa: SIM115
        self._failed: set[int] = set()

    def write(self, steps: Iterator[Step]) -> None:
        for work in self._lookahead.run(self._planner.run(steps)):
            if isinstance(work.step, Enter):
                self._enter(work.step, work.job)
            elif isinstance(work.step, Leave):
                self._leave()
            else:
                assert work.job
                self._store(work.job, work.stored)

    def _enter(self, step: Enter, job: Job | None) -> None:
        folder, item = step.folder, step.item
        record = describe(item.name if item else b".", folder.stat, job.ino if job else 1, read_xattrs(folder.fd))
        self._layout.enter(record, folder.names)
        self._origin.add(record.ino, folder.stat)

    def _store(self, job: Job, stored: Outcome) -> None:
        try:
            if job.link and job.ino not in self._failed:
                self._layout.add(describe_link(job))
                self._origin.add(job.ino, job.item.stat)
            elif isinstance(stored, OSError):
                raise stored
            elif stat.S_ISREG(job.item.stat.st_mode):
                self._store_file(job, stored)
            else:
                self._store_native(job)
        except OSError as error:
            self._result.problem(job.item.path, f"cannot be read: {error.strerror}")
            if job.nlink > 1:
                self._failed.add(job.ino)

    def _store_late(self, job: Job) -> Stored:
        """A file that was not packed ahead: a large one, or a further name of one whose first name failed."""
        return store_small(job, self._settings) or refer(job) or self._large.store(job)

    def _store_native(self, job: Job) -> None:
        self._layout.add_native(describe_native(job))
        self._origin.add(job.ino, job.item.stat)

    def _store_file(self, job: Job, stored: Stored | Finished | None) -> None:
        at = self._out.position
        stored = stored or self._store_late(job)
        self._out.write(stored.blob)
        if isinstance(stored, Finished):
            self._layout.add_finished(job.item.name, stored, at)
            self._origin.add_line(stored.origin)
        else:
            self._add_stored(job, stored, at)
        self._progress(stored.size)
        if self._summary:
            self._summary.note(job, stored)

    def _add_stored(self, job: Job, stored: Stored, at: int) -> None:
        record = stored.record
        if record.changed:
            self._result.problem(job.item.path, "changed while it was read; stored as read")
        if stored.former:
            self._layout.add(record)
            self._holders |= holders_of(record)
        else:
            self._layout.add_file(record, at, stored.table)
        self._origin.add(job.ino, stored.origin)

    def _leave(self) -> None:
        self._layout.leave()
        if self._layout.depth:
            return
        base = self._base
        holders = base.holders(self._holders) if base else []
        facts = self._layout.finish(self._origin.finish(), base=holders, previous=base.identifier if base else "")
        result = self._result
        result.identifier, result.size = facts.id, self._out.position
        result.files, result.directories, result.others = facts.files, facts.directories, facts.others
        result.content = facts.bytes

"""Records to a nested `.xtar`: one pass over the tree, members written in order, packing done ahead by a pool.

Data flow: scanner -> jobs -> Lookahead (workers pack small files) -> ArchiveWriter -> Layout -> Output.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import IO

import msgspec

from xtarfs.attributes import read_xattrs
from xtarfs.errors import UsageError
from xtarfs.format import tar
from xtarfs.format.locator import Origin
from xtarfs.format.numbers import format_time
from xtarfs.format.structure import BLOCK_TARGET, pack_block
from xtarfs.format.tar import Mark

from .compress import SEGMENT, Settings
from .files import Job, LargeFile, Stored, describe, describe_link, describe_native, store_small
from .layout import Layout
from .links import LinkTable
from .output import Output
from .scan import Enter, Item, Leave, Step

_BATCH_FILES = 32
_BATCH_BYTES = SEGMENT
_AHEAD = 4  # batches per worker that may be waiting to be written


@dataclass(slots=True)
class Result:
    """What a build did. content: bytes in regular files; size: bytes of the archive; paths are below the source."""

    files: int = 0
    directories: int = 0
    others: int = 0
    content: int = 0
    excluded: int = 0
    size: int = 0
    identifier: str = ""
    problems: list[tuple[bytes, str]] = field(default_factory=list)
    notices: list[tuple[bytes, str]] = field(default_factory=list)

    def problem(self, path: bytes, reason: str) -> None:
        self.problems.append((path, reason))

    def notice(self, path: bytes, reason: str) -> None:
        self.notices.append((path, reason))


class _Batch:
    """Small files that one worker stores in one go; a failure is kept in its file's place."""

    __slots__ = ("future", "jobs", "weight")

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.weight = 0
        self.future: Future[list[Stored | OSError | None]] | None = None

    def run(self, settings: Settings) -> list[Stored | OSError | None]:
        return [_try_store(job, settings) for job in self.jobs]


def _try_store(job: Job, settings: Settings) -> Stored | OSError | None:
    try:
        return store_small(job, settings)
    except OSError as error:
        return error


@dataclass(slots=True)
class Work:
    """A step with its job and, for a small file, what became of it."""

    step: Step
    job: Job | None = None
    stored: Stored | OSError | None = None


class Lookahead:
    """Runs small files through the pool ahead of the writer, in batches, and gives the steps back in their order.

    What waits is bounded: _AHEAD batches of at most _BATCH_BYTES per worker.
    """

    def __init__(self, pool: Executor, jobs: int, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._limit = _AHEAD * jobs
        self._queue: deque[tuple[Work, _Batch | None, int]] = deque()
        self._open: _Batch | None = None
        self._batches = 0

    def run(self, steps: Iterator[Work]) -> Iterator[Work]:
        for work in steps:
            self._add(work)
            while self._batches > self._limit or len(self._queue) > self._limit * _BATCH_FILES:
                yield self._take()
        self._submit()
        while self._queue:
            yield self._take()

    def _add(self, work: Work) -> None:
        job = work.job
        size = job.item.stat.st_size if job else 0
        if job is None or job.link or size > SEGMENT or not stat.S_ISREG(job.item.stat.st_mode):
            self._queue.append((work, None, 0))
            return
        if self._open is None:
            self._open = _Batch()
            self._batches += 1
        batch = self._open
        self._queue.append((work, batch, len(batch.jobs)))
        batch.jobs.append(job)
        batch.weight += size
        if len(batch.jobs) >= _BATCH_FILES or batch.weight >= _BATCH_BYTES:
            self._submit()

    def _submit(self) -> None:
        if self._open:
            self._open.future = self._pool.submit(self._open.run, self._settings)
            self._open = None

    def _take(self) -> Work:
        work, batch, row = self._queue.popleft()
        if batch is None:
            return work
        if batch is self._open:
            self._submit()
        assert batch.future
        work.stored = batch.future.result()[row]
        if row == len(batch.jobs) - 1:
            self._batches -= 1
        return work


@dataclass(frozen=True, slots=True)
class Setup:
    """What stays the same for a whole build. tag: the six bytes that mark every member of the archive."""

    source: str
    work_dir: str
    settings: Settings
    jobs: int
    tag: bytes


class ArchiveWriter:
    """Writes one archive to `out` from the steps of a scanner."""

    def __init__(
        self,
        out: Output,
        pool: Executor,
        setup: Setup,
        links: LinkTable,
        result: Result,
        progress: Callable[[int], None],
    ) -> None:
        self._out = out
        self._lookahead = Lookahead(pool, setup.jobs, setup.settings)
        self._settings = setup.settings
        self._large = LargeFile(out, pool, setup.jobs, setup.settings)
        self._links = links
        self._tag = setup.tag
        self._result = result
        self._progress = progress
        self._layout = Layout(out, setup.tag, setup.work_dir)
        self._origin = _OriginLog(tempfile.TemporaryFile(dir=setup.work_dir), setup.source)  # noqa: SIM115
        self._inos = 0
        self._failed: set[int] = set()

    def write(self, steps: Iterator[Step]) -> None:
        for work in self._lookahead.run(self._plan(steps)):
            if isinstance(work.step, Enter):
                self._enter(work.step, work.job)
            elif isinstance(work.step, Leave):
                self._leave()
            else:
                assert work.job
                self._store(work.job, work.stored)

    # -- planning: runs ahead of writing, in the same order --------------------------------------------------

    def _plan(self, steps: Iterator[Step]) -> Iterator[Work]:
        """Gives every item its inode number, its containing directory's mark and its part in a hard link."""
        marks: list[Mark] = []
        for step in steps:
            if isinstance(step, Leave):
                marks.pop()
                yield Work(step)
            elif isinstance(step, Enter):
                self._inos += 1
                item = step.item
                yield Work(step, Job(item, marks[-1], self._inos) if item else None)
                marks.append(Mark(self._tag, self._inos, tar.ROLE_FILE))
            else:
                yield Work(step, self._job(step, marks[-1]))

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

    # -- writing ---------------------------------------------------------------------------------------------

    def _enter(self, step: Enter, job: Job | None) -> None:
        folder, item = step.folder, step.item
        record = describe(item.name if item else b".", folder.stat, job.ino if job else 1, read_xattrs(folder.fd))
        self._layout.enter(record, folder.names)
        self._origin.add(record.ino, folder.stat)

    def _store(self, job: Job, stored: Stored | OSError | None) -> None:
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
        return store_small(job, self._settings) or self._large.store(job)

    def _store_native(self, job: Job) -> None:
        self._layout.add_native(describe_native(job))
        self._origin.add(job.ino, job.item.stat)

    def _store_file(self, job: Job, stored: Stored | None) -> None:
        at = self._out.position
        stored = stored or self._store_late(job)
        self._out.write(stored.blob)
        record = stored.record
        if record.changed:
            self._result.problem(job.item.path, "changed while it was read; stored as read")
        self._layout.add_file(record, at, stored.table)
        self._origin.add(job.ino, stored.origin)
        self._progress(record.size)

    def _leave(self) -> None:
        self._layout.leave()
        if self._layout.depth:
            return
        facts = self._layout.finish(self._origin.finish())
        result = self._result
        result.identifier, result.size = facts.id, self._out.position
        result.files, result.directories, result.others = facts.files, facts.directories, facts.others
        result.content = facts.bytes


class _OriginLog:
    """What differs from run to run: when and where the archive was made, and each source inode's ctime and number.

    A later incremental copy compares these; they stay outside the archive's identifier.
    """

    def __init__(self, spool: IO[bytes], source: str) -> None:
        self._spool = spool
        self._lines: list[bytes] = []
        self._size = 0
        created = _now()
        facts = Origin(created=created, host=os.uname().nodename, source=os.path.abspath(source))
        self._spool.write(pack_block(msgspec.json.encode(facts) + b"\n"))

    def add(self, ino: int, attributes: os.stat_result) -> None:
        line = b'[%d,"%s",%d,%d]\n' % (
            ino,
            format_time(attributes.st_ctime_ns).encode(),
            attributes.st_ino,
            attributes.st_dev,
        )
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BLOCK_TARGET:
            self._flush()

    def finish(self) -> IO[bytes]:
        self._flush()
        return self._spool

    def _flush(self) -> None:
        self._spool.write(pack_block(b"".join(self._lines)))
        self._lines, self._size = [], 0


def _now() -> int:
    """Seconds since 1970, or what SOURCE_DATE_EPOCH says (reproducible-builds.org). Raises UsageError."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    if fixed and not fixed.isdecimal():
        raise UsageError(f"SOURCE_DATE_EPOCH={fixed}: is not a number of seconds")
    return int(fixed or time.time())

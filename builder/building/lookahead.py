"""Packing ahead of the writer: small files go through a pool of workers in batches, and come back in their order."""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Iterator
from functools import partial

from xtarfs.pool import Pool, Task

from ..writing.compress import SEGMENT, Settings
from ..writing.files import Job
from ..writing.packer import Outcome, store_batch
from .plan import Work

_BATCH_FILES = 32
_BATCH_BYTES = SEGMENT
_AHEAD = 4  # batches per worker that may be waiting to be written


class _Batch:
    """Small files that one worker stores in one go; a failure is kept in its file's place."""

    __slots__ = ("jobs", "outcomes", "task", "weight")

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.weight = 0
        self.task: Task[list[Outcome]] | None = None
        self.outcomes: list[Outcome] = []

    def run(self, settings: Settings) -> list[Outcome]:
        return store_batch(self.jobs, settings)


class Lookahead:
    """Runs small files through the pool ahead of the writer, in batches, and gives the steps back in their order.

    What waits is bounded: _AHEAD batches of at most _BATCH_BYTES per worker.
    """

    def __init__(self, pool: Pool, jobs: int, settings: Settings) -> None:
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
        size = job.item.stat.st_size if job and not job.is_unchanged else 0
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
            self._open.task = self._pool.submit(partial(self._open.run, self._settings))
            self._open = None

    def _take(self) -> Work:
        work, batch, row = self._queue.popleft()
        if batch is None:
            return work
        if batch is self._open:
            self._submit()
        if row == 0:
            assert batch.task
            batch.outcomes = batch.task.result()
        work.stored = batch.outcomes[row]
        if row == len(batch.jobs) - 1:
            self._batches -= 1
        return work

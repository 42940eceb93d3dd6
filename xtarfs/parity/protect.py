"""Writes the parity file of an archive. The archive is read twice and never changed.

First from start to end, for its SHA-256 and the checksums; then as many places at once as a group has members,
because a group's blocks lie evenly over the archive: that is what makes it survive a burst.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ..draft import Draft
from ..errors import SourceError, UsageError
from ..format.parity import (
    BLOCK,
    COPIES,
    HEAD_SIZE,
    MAX_SHARDS,
    PAGE,
    SHEET,
    SUFFIX,
    Layout,
    pack_page,
    pack_sheet,
    plan,
)
from ..source import FileSource
from .shards import Encoder

if TYPE_CHECKING:
    from ..console import Advance

_MEMORY = 64 << 20  # for the blocks in work, of all threads together
_MAX_JOBS = 8


class ProtectResult(Struct, frozen=True):
    """size: bytes of the archive, parity_size: of the parity file. data, parity: blocks of each of the groups."""

    path: str
    size: int
    parity_size: int
    data: int
    parity: int
    groups: int
    sha256: str


def protect(archive: str, percent: float, progress: Advance, *, force: bool = False, jobs: int = 0) -> ProtectResult:
    """Writes ARCHIVE.rec, which can restore `percent` (1 to 100) per cent of it. jobs: threads, 0 for all cores.

    `progress` is told of bytes read: twice the archive's size in all. Raises XtarError; then nothing was written.
    """
    plan(BLOCK, percent)  # says first what is wrong with it
    return write_parity(archive, archive + SUFFIX, lambda size: plan(size, percent), progress, force=force, jobs=jobs)


def write_parity(
    archive: str, path: str, plan: Callable[[int], tuple[int, int]], progress: Advance, *, force: bool, jobs: int = 0
) -> ProtectResult:
    """As `protect`, with any name for the parity file and any (data, parity) per group, given the archive's size."""
    source = FileSource(archive)
    try:
        if not source.size:
            raise UsageError(f"{archive}: is empty; there is nothing to protect")
        before = os.stat(archive)
        data, parity = plan(source.size)
        layout = Layout(bytes(32), source.size, data, parity)
        with Draft(path, layout.file_size, force=force) as draft:
            progress(0, total=2 * source.size)
            layout = replace(layout, sha256=_write_sheets(source, draft, layout, progress))
            _finish_sheets(draft, layout)
            _write_shards(source, draft, layout, progress, min(jobs or len(os.sched_getaffinity(0)), _MAX_JOBS))
            after = os.stat(archive)
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise SourceError(f"{archive}: changed while it was read; protect it again")
            draft.commit()
    finally:
        source.close()
    return ProtectResult(path, layout.size, layout.file_size, data, parity, layout.groups, layout.sha256.hex())


def _read_blocks(source: FileSource, first: int, count: int) -> bytes:
    """Whole blocks, the archive's end filled up with zeros. Raises SourceError."""
    data = source.read_at(first * BLOCK, count * BLOCK)
    expected = max(0, min(count * BLOCK, source.size - first * BLOCK))
    if len(data) != expected:
        raise SourceError(f"{source.name}: ends at byte {first * BLOCK + len(data)} while it is read")
    return data.ljust(count * BLOCK, b"\0")


def _write_sheets(source: FileSource, draft: Draft, layout: Layout, progress: Advance) -> bytes:
    """Each sheet in its first place, and still without a head, as that needs the SHA-256, which is returned."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1) as hasher:
        hashed = hasher.submit(lambda: None)
        for sheet in range(layout.sheets):
            first, count = sheet * SHEET, layout.sheet_blocks(sheet)
            view = memoryview(_read_blocks(source, first, count))
            size = min(len(view), layout.size - first * BLOCK)
            hashed.result()
            hashed = hasher.submit(digest.update, view[:size])
            draft.write_at(layout.sheet_page(sheet, 0) * PAGE + HEAD_SIZE, pack_sheet(view))
            progress(size)
    return digest.digest()


def _finish_sheets(draft: Draft, layout: Layout) -> None:
    for sheet in range(layout.sheets):
        payload = draft.read_at(layout.sheet_page(sheet, 0) * PAGE + HEAD_SIZE, BLOCK)
        for copy in range(COPIES):
            number = layout.sheet_page(sheet, copy)
            draft.write_at(number * PAGE, pack_page(layout, number, payload))


def _write_shards(source: FileSource, draft: Draft, layout: Layout, progress: Advance, jobs: int) -> None:
    encoder = Encoder(layout.data, layout.parity)

    def encode(span: tuple[int, int]) -> int:
        """Parity of the groups [first, end): their blocks are neighbours, so each read and each write is one run."""
        first, end = span
        runs = [_read_blocks(source, member * layout.groups + first, end - first) for member in range(layout.data)]
        for shard, blocks in enumerate(encoder.encode(runs)):
            number = layout.parity_page(shard, first)
            view = memoryview(blocks)
            pages = [pack_page(layout, number + i, view[i * BLOCK : (i + 1) * BLOCK]) for i in range(end - first)]
            draft.write_at(number * PAGE, b"".join(pages))
        return end - first

    left = layout.size
    with ThreadPoolExecutor(jobs) as pool:
        for done in pool.map(encode, _spans(layout.groups, max(1, _MEMORY // (MAX_SHARDS * BLOCK * jobs)))):
            step = min(left, done * layout.data * BLOCK)
            left -= step
            progress(step)


def _spans(groups: int, step: int) -> Iterator[tuple[int, int]]:
    """[0, groups) in runs of up to `step`."""
    return ((first, min(first + step, groups)) for first in range(0, groups, step))

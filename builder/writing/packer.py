"""Batches of small files to finished members: by the compiled core where it is there, by `files.store_small` else.

The core leaves what is out of the ordinary to `store_small`; both give the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtarfs.format.zip import flags as name_flags

from .compress import Settings
from .files import Job, Stored, group_name, refer, store_small, user_name
from .finished import Finished

try:
    from .. import _packer as _core
except ImportError:  # no compiler when it was installed, or engines that do not show their functions
    _core = None  # type: ignore[assignment]


if TYPE_CHECKING:
    from .._packer import Job as _Asked

Outcome = Stored | Finished | OSError | None


def store_batch(jobs: list[Job], settings: Settings) -> list[Outcome]:
    """What became of each file, as `store_small` or `refer` say: None for one that is too large by now."""
    new = [job for job in jobs if not job.match or not job.match.formers] if _core else []
    if not new:
        return [_try_store(job, settings) for job in jobs]
    told = _core.pack([_ask(job) for job in new], new[0].mark.tag, settings.engine_level, settings.chunk_size)
    outcomes = {id(job): outcome for job, outcome in zip(new, told, strict=True)}
    return [Finished(*done) if (done := outcomes.get(id(job))) else _try_store(job, settings) for job in jobs]


def _try_store(job: Job, settings: Settings) -> Stored | OSError | None:
    try:
        return refer(job) if job.is_unchanged else store_small(job, settings)
    except OSError as error:
        return error


def _ask(job: Job) -> _Asked:
    item, stat = job.item, job.item.stat
    return (
        item.folder.fd,
        item.name,
        item.path,
        job.member_name,
        job.mark.ino & 0xFFFFFFFF,
        stat.st_uid,
        stat.st_gid,
        user_name(stat.st_uid).encode(),
        group_name(stat.st_gid).encode(),
        name_flags(item.path),
        job.ino,
        job.nlink,
    )

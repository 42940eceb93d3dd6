"""Batches of small files to files by the compiled core, where it is there.

What is out of the ordinary, or meets any difficulty, is left for `restore`, which says what is wrong with it.
"""

from __future__ import annotations

import os

from ..errors import FormatError
from ..format import chunks, member
from ..format.records import FILE, Record
from ..reading.reader import Archive
from ..reading.tree import Node
from .attributes import Owners
from .restore import Manner, Place, temporary_prefix

try:
    from .. import _unpacker as _core
except ImportError:  # no compiler when it was installed, or engines that do not show their functions
    _core = None  # type: ignore[assignment]

_LARGEST = 1 << 20  # bytes of content; a larger file is nothing to hurry with
_MOST_READ = 8 << 20  # bytes of the archive that are read for one batch
_NOT_SET = 2**32 - 1

Job = tuple[Place, Node]


def restore_batch(archive: Archive, batch: list[Job], manner: Manner) -> list[Job]:
    """Restores files, whole and checked, with all that their records say; gives back those that are left."""
    if _core is None or manner.force:
        return batch
    asked, numbers, spans = [], [], []
    for number, (place, node) in enumerate(batch):
        record = node.record
        owner = _owner(manner.owners, record)
        folder = _folder(place, manner) if _is_small(record) and owner else None
        if owner and folder is not None:
            asked.append((node, folder, record.raw_name, *owner))
            numbers.append(number)
            spans.append((node.base + record.at, node.base + _end(record)))
    if not asked:
        return batch
    start, end = min(start for start, _ in spans), max(end for _, end in spans)
    if end - start > _MOST_READ:
        return batch
    undone = _core.restore(asked, archive.source.read_at(start, end - start), start, temporary_prefix(b"c"))
    done = set(numbers) - {numbers[number] for number in undone}
    return [job for number, job in enumerate(batch) if number not in done]


def _is_small(record: Record) -> bool:
    at_hand = not (record.link or record.elsewhere or record.parts)
    return at_hand and record.type == FILE and record.size <= _LARGEST


def _end(record: Record) -> int:
    """Where the last of a member that is needed to restore it ends, in the containing tar."""
    if not record.chunk:
        return record.data + record.packed
    return record.index + chunks.table_size(record.size, record.chunk, member.method_of(record))


def _owner(owners: Owners, record: Record) -> tuple[int, int] | None:
    """The ids to set, None where this process could not."""
    if not owners.apply:
        return _NOT_SET, _NOT_SET
    user = os.geteuid()
    ids = owners.ids(record)
    return ids if user == 0 or ids == (user, os.getegid()) else None


def _folder(place: Place, manner: Manner) -> int | None:
    """The folder's descriptor, None where it cannot be had or what is made in it would inherit."""
    try:
        folder = place.open(manner)
    except (OSError, ValueError, FormatError):
        return None
    return None if folder.lends_acl else folder.fd

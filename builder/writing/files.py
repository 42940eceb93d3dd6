"""One source file to one member: attributes to a record, content to a zip, both to the member's bytes.

`store_small` runs in worker threads and returns the whole member; `store_large` writes to the output as it goes,
with the packing done by the pool.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import stat
from array import array
from collections import deque
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from msgspec import Struct

from xtarfs.format import chunks, codec, member
from xtarfs.format.records import DEFLATE, STORE, TYPE_OF_BITS, Record, new_record, to_text, xattrs_to_text
from xtarfs.format.tar import Mark
from xtarfs.pool import Pool, Task
from xtarfs.restoring.attributes import read_xattrs

from ..scanning.scan import Item
from . import compress
from .compress import SEGMENT, Packed, Settings
from .layout import surround
from .output import Output

if TYPE_CHECKING:
    from ..scanning.incremental import Former, Match

_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Job(Struct):
    """An item with what the archive has decided about it. link: path of the name that holds the data, if not this.

    match: what it may be in the copy before, if there is one.
    """

    item: Item
    mark: Mark
    ino: int
    nlink: int = 1
    link: bytes = b""
    match: Match | None = None

    @property
    def is_unchanged(self) -> bool:
        """Whether its attributes alone say that the copy before has it."""
        return self.match is not None and self.match.certain

    @property
    def member_name(self) -> bytes:
        taken = self.item.name + member.FILE_SUFFIX in self.item.folder.names
        return member.member_name(self.item.name, member.FILE_SUFFIX, taken)


class Stored(Struct):
    """A finished member; `blob` is empty if it is written already. The record's `data` and `index` count from the
    member's start; `origin` is the stat that it shows. former: the file whose data serves; there is no member then.
    """

    record: Record
    blob: bytes
    table: bytes
    origin: os.stat_result
    former: Former | None = None

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.record.size


def describe(name: bytes, attributes: os.stat_result, ino: int, xattrs: dict[bytes, bytes]) -> Record:
    """The record that a stat result gives, type-specific fields left at their defaults."""
    record = new_record(
        name,
        TYPE_OF_BITS[stat.S_IFMT(attributes.st_mode)],
        attributes.st_mode,
        attributes.st_mtime_ns,
        ino,
        attributes.st_uid,
        attributes.st_gid,
    )
    record.user, record.group = user_name(attributes.st_uid), group_name(attributes.st_gid)
    if xattrs:
        record.xattrs = xattrs_to_text(xattrs)
    return record


@lru_cache(1024)
def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


@lru_cache(1024)
def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def _describe_unopened(job: Job) -> Record:
    """The record of what cannot be opened for reading, as a symlink or fifo, or need not be. Raises OSError."""
    item = job.item
    xattrs = read_xattrs(f"/proc/self/fd/{item.folder.fd}/{os.fsdecode(item.name)}", follow=False)
    return describe(item.name, item.stat, job.ino, xattrs)


def describe_native(job: Job) -> Record:
    """The record of a symlink, fifo or device. Raises OSError."""
    item = job.item
    record = _describe_unopened(job)
    record.nlink = job.nlink
    if stat.S_ISLNK(item.stat.st_mode):
        target = os.fsencode(os.readlink(item.name, dir_fd=item.folder.fd))
        record.target, record.target_b64 = to_text(target)
        record.size = len(target)
    elif not stat.S_ISFIFO(item.stat.st_mode):
        record.major, record.minor = os.major(item.stat.st_rdev), os.minor(item.stat.st_rdev)
    return record


def describe_link(job: Job) -> Record:
    """The record of a further name of a hard-linked file, which leads to the first. Raises OSError."""
    item = job.item
    record = _describe_unopened(job)
    record.nlink, record.size = job.nlink, item.stat.st_size
    record.link, record.link_b64 = to_text(job.link)
    return record


@contextlib.contextmanager
def _opened(job: Job) -> Iterator[tuple[int, os.stat_result]]:
    """The file's descriptor and its attributes as opened. Raises OSError, also if it is no regular file any more."""
    item = job.item
    try:
        fd = os.open(item.name, _OPEN_FLAGS | os.O_NOATIME, dir_fd=item.folder.fd)
    except PermissionError:
        fd = os.open(item.name, _OPEN_FLAGS, dir_fd=item.folder.fd)
    try:
        attributes = os.fstat(fd)
        if not stat.S_ISREG(attributes.st_mode):
            raise OSError(0, "is no longer a regular file")
        yield fd, attributes
    finally:
        os.close(fd)


def _has_changed(fd: int, before: os.stat_result) -> bool:
    after = os.fstat(fd)
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def store_small(job: Job, settings: Settings) -> Stored | None:
    """A file of at most SEGMENT bytes as a finished member; None if it is larger. Raises OSError."""
    with _opened(job) as (fd, attributes):
        if attributes.st_size > SEGMENT:
            return None
        record = describe(job.item.name, attributes, job.ino, read_xattrs(fd))
        record.nlink = job.nlink
        # A file of /proc says that it is empty; whatever comes of it is stored, and noted as a change.
        data = compress.read_up_to(fd, attributes.st_size or SEGMENT, 0)
        record.holes = compress.find_holes(fd, attributes)
        record.changed = _has_changed(fd, attributes) or len(data) != attributes.st_size
    record.size = len(data)
    record.crc32 = f"{codec.crc32(data):08x}"
    record.sha256 = hashlib.sha256(data).hexdigest()
    former = job.match.of(record.size, record.sha256) if job.match else None
    if former:
        return _lent(record, former, attributes)
    packed = compress.pack_whole(data, settings)
    record.method, record.packed = packed.method, len(packed.data)
    if packed.method == DEFLATE:
        record.packed_crc32 = f"{codec.crc32(packed.data):08x}"
    record.chunk = settings.chunk_size_for(record.size, packed.method == DEFLATE)
    table = _table(record, packed)
    around = surround(record, job.item.path, job.member_name, job.mark, table)
    return Stored(record, b"".join((around.head, packed.data, around.tail)), table, attributes)


def refer(job: Job) -> Stored | None:
    """A file that the copy before has: its attributes as they are now, its data there; None if it has it not.

    Reads all of a file that is not certain to be the same. Raises OSError.
    """
    if job.match is None or not job.match.formers:
        return None
    if job.match.certain:
        former: Former | None = job.match.formers[0]
        record, attributes = _describe_unopened(job), job.item.stat
        record.holes = job.match.formers[0].record.holes
    else:
        with _opened(job) as (fd, attributes):
            former = job.match.of(attributes.st_size, _digest(fd, attributes.st_size))
            record = describe(job.item.name, attributes, job.ino, read_xattrs(fd))
            record.holes, record.changed = compress.find_holes(fd, attributes), _has_changed(fd, attributes)
    record.nlink = job.nlink
    return _lent(record, former, attributes) if former else None


def _lent(record: Record, former: Former, attributes: os.stat_result) -> Stored:
    former.lend(record)
    return Stored(record, b"", b"", attributes, former)


def _digest(fd: int, size: int) -> str:
    """SHA-256 of the first `size` bytes."""
    digest = hashlib.sha256()
    for at in range(0, size, SEGMENT):
        digest.update(compress.read_up_to(fd, min(SEGMENT, size - at), at))
    return digest.hexdigest()


def _table(record: Record, packed: Packed) -> bytes:
    """The chunk table; empty if there is none."""
    if not record.chunk:
        return b""
    offsets = array("Q")
    at = 0
    for size in packed.sizes[:-1]:
        at += size
        offsets.append(at)
    method = member.method_of(record)
    return chunks.pack_table(record.size, record.packed, record.chunk, method, packed.crcs, offsets)


class LargeFile:
    """Stores one file larger than SEGMENT: segments are read and hashed here, packed by the pool, written in order."""

    def __init__(self, out: Output, pool: Pool, jobs: int, settings: Settings) -> None:
        self._out = out
        self._pool = pool
        self._window = 2 * jobs + 2
        self._settings = settings

    def store(self, job: Job) -> Stored:
        """Writes the member at the output's position. Raises OSError, the output then being as it was before."""
        start = self._out.position
        try:
            with _opened(job) as (fd, attributes):
                size = attributes.st_size
                deflate = compress.promises_to_shrink(fd, size, self._settings)
                stored = self._attempt(fd, attributes, job, size, deflate)
                if deflate and stored.record.packed >= stored.record.size:
                    self._out.rewind(start)
                    stored = self._attempt(fd, attributes, job, size, deflate=False)
                return stored
        except OSError:
            self._out.rewind(start)
            raise

    def _attempt(self, fd: int, attributes: os.stat_result, job: Job, size: int, deflate: bool) -> Stored:
        """Stores the first `size` bytes, or as many as there are: the stream's end must be known beforehand."""
        start = self._out.position
        record = describe(job.item.name, attributes, job.ino, read_xattrs(fd))
        record.nlink = job.nlink
        record.holes = tuple(hole for hole in compress.find_holes(fd, attributes) if hole[1] <= size)
        record.size = size
        record.method = DEFLATE if deflate and size else STORE
        record.chunk = self._settings.chunk_size_for(size, deflate)
        head_size = len(member.file_bytes(record, job.item.path, job.member_name, job.mark, b"").head)
        self._out.write(bytes(head_size))
        packed = self._write_segments(fd, record)
        if record.size != size:
            self._out.rewind(start)
            return self._attempt(fd, attributes, job, record.size, deflate)
        record.changed = _has_changed(fd, attributes) or size != attributes.st_size
        table = _table(record, packed)
        around = surround(record, job.item.path, job.member_name, job.mark, table)
        self._out.patch(start, around.head)
        self._out.write(around.tail)
        return Stored(record, b"", table, attributes)

    def _write_segments(self, fd: int, record: Record) -> Packed:
        """Writes the packed data; sets size, packed, CRC-32 and SHA-256 from what was really read."""
        digest, crc, size = hashlib.sha256(), 0, 0
        total = Packed(b"", record.method)
        record.packed, record.packed_crc32 = 0, ""
        pending: deque[Task[Packed]] = deque()
        for data in _segments(fd, record):
            final = size + len(data) == record.size
            pending.append(
                self._pool.submit(
                    partial(
                        compress.pack_segment,
                        data,
                        record.chunk or SEGMENT,
                        self._settings.segment_level,
                        final=final,
                        deflate=record.method == DEFLATE,
                    )
                )
            )
            size += len(data)
            crc = codec.crc32(data, crc)
            digest.update(data)
            if len(pending) > self._window:
                self._take(pending.popleft(), total, record)
        while pending:
            self._take(pending.popleft(), total, record)
        record.size = size
        record.crc32, record.sha256 = f"{crc:08x}", digest.hexdigest()
        return total

    def _take(self, task: Task[Packed], total: Packed, record: Record) -> None:
        packed = task.result()
        self._out.write(packed.data)
        record.packed += len(packed.data)
        if record.method == DEFLATE:
            record.packed_crc32 = f"{codec.crc32(packed.data, int(record.packed_crc32 or '0', 16)):08x}"
        total.sizes.extend(packed.sizes)
        total.crcs.extend(packed.crcs)


_ZEROS = bytes(SEGMENT)


def _segments(fd: int, record: Record) -> Iterator[bytes]:
    """The content in pieces of whole chunks; holes are not read. Ends early where the file has become shorter."""
    step = max(SEGMENT // record.chunk, 1) * record.chunk if record.chunk else SEGMENT
    holes = iter(record.holes)
    hole = next(holes, None)
    for at in range(0, record.size, step):
        wanted = min(step, record.size - at)
        while hole and hole[1] <= at:
            hole = next(holes, None)
        if hole and hole[0] <= at and at + wanted <= hole[1] and wanted <= SEGMENT:
            yield _ZEROS[:wanted] if wanted < SEGMENT else _ZEROS
            continue
        data = compress.read_up_to(fd, wanted, at)
        if data:
            yield data
        if len(data) < wanted:
            return

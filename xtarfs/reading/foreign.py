"""Records from what members say of themselves: headers of a tar, entries of a zip. Places in them are absolute.

Neither may be ours, or sound: whatever does not fit is cut to what can be, and content that is not all there, or that
this program cannot unpack, gets a method that no reader takes.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from ..errors import DamagedError, FormatError, SourceError
from ..format import chunks, codec, tar, zip
from ..format.records import (
    BLOCK_DEVICE,
    CHARACTER,
    DEFLATE,
    DIRECTORY,
    FIFO,
    FILE,
    NO_COPY,
    STORE,
    SYMLINK,
    Record,
    new_record,
    to_text,
    xattrs_to_text,
)

DAMAGED = "damaged"  # method of a file whose data is not all there

_KINDS = {tar.SYMLINK: SYMLINK, tar.CHARACTER: CHARACTER, tar.BLOCK_DEVICE: BLOCK_DEVICE, tar.FIFO: FIFO}
_WHOLE_TYPES = (tar.REGULAR, tar.HARD_LINK, b"7")  # "7": contiguous, of old; any other may hold more than content
_SPARSE = "GNU.sparse."
_METHODS = {zip.STORED: STORE, zip.DEFLATED: DEFLATE}
_TABLES = (b".sozip.idx", b".xtar.crc")
_MAX_TARGET = 4096
_MAX_CHUNK = 64 << 20
_MAX_SECONDS = 2**63 // 10**9 - 1
_MAX_ID = 2**32 - 2  # the last means none
_NOBODY = 65534

ReadAt = Callable[[int, int], bytes]


def from_header(found: tar.Member, name: bytes, ino: int) -> Record:
    """The record of a directory or native entry, or of a file that lies in a tar as it is: nothing vouches for that."""
    header = found.header
    kind = DIRECTORY if header.type == tar.DIRECTORY else _KINDS.get(header.type, FILE)
    record = _record(name, kind, header.mode, header.mtime * 10**9, ino, header.uid, header.gid)
    decorate(record, header)
    if kind == SYMLINK:
        record.size, (record.target, record.target_b64) = len(header.link), to_text(header.link)
    elif kind in (CHARACTER, BLOCK_DEVICE):
        record.major, record.minor = header.major & 0xFFF, header.minor & 0xFFFFF
    elif kind == FILE and header.type != tar.HARD_LINK:
        record.size = record.packed = header.size
        record.data = found.data
        if header.type not in _WHOLE_TYPES or any(key.startswith(_SPARSE) for key in header.pax):
            record.method = f"tar type {header.type.decode('latin-1')!r}, a sparse file or stranger"
    return record


def decorate(record: Record, header: tar.Header) -> None:
    """Adds what only tar headers say: the owner's names, extended attributes."""
    prefix = tar.XATTR_PREFIX
    record.user, record.group = header.user.decode("utf-8", "replace"), header.group.decode("utf-8", "replace")
    record.xattrs = xattrs_to_text(
        {
            key[len(prefix) :].encode("utf-8", "surrogateescape"): value
            for key, value in header.pax.items()
            if key.startswith(prefix)
        }
    )


def from_entry(read: ReadAt, entry: zip.Entry, name: bytes, ino: int, end: int) -> Record:
    """The record of a zip's entry; `end`: where the zip ends, or is cut off."""
    try:
        local, data = zip.read_local(read, entry.offset)
    except (FormatError, SourceError):
        return lost(name, ino, entry)
    record = _record(name, FILE, entry.mode, _mtime(entry, local), ino, *_owner(entry, local))
    record.size, record.packed, record.data = entry.size, entry.packed, data
    record.crc32 = f"{entry.crc32:08x}"
    record.method = _method(entry)
    if record.method in (STORE, DEFLATE) and not _is_all_there(record, end):
        record.method = DAMAGED
    elif stat.S_ISLNK(entry.mode):
        _make_symlink(read, record)
    else:
        _find_table(read, record, entry)
    return record


def _is_all_there(record: Record, end: int) -> bool:
    if record.method == STORE and record.size != record.packed:
        return False
    return record.data + record.packed <= end and record.size <= max(record.packed, 1) * codec.MAX_RATIO


def lost(name: bytes, ino: int, entry: zip.Entry | None = None, size: int = 0) -> Record:
    """The record of a file that is known by its name, and by what is left of its zip, alone."""
    entry = entry or zip.Entry(name, size=size)
    record = _record(name, FILE, entry.mode, entry.mtime, ino, *_owner(entry, entry))
    record.size, record.method = entry.size, DAMAGED
    return record


def folder(name: bytes, ino: int, entry: zip.Entry | None = None) -> Record:
    """The record of a directory that a zip names, or that only paths below it speak of."""
    if entry is None:
        return new_record(name, DIRECTORY, 0o755, 0, ino)
    return _record(name, DIRECTORY, entry.mode, entry.mtime, ino, *_owner(entry, entry))


def _record(name: bytes, kind: str, mode: int, mtime: int, ino: int, uid: int, gid: int) -> Record:
    limit = _MAX_SECONDS * 10**9
    mtime = max(-limit, min(mtime, limit))
    uid, gid = (number if 0 <= number <= _MAX_ID else _NOBODY for number in (uid, gid))
    return new_record(name, kind, mode, mtime, ino, uid, gid)


def _mtime(entry: zip.Entry, local: zip.Entry) -> int:
    """Some zips have the precise time at one end only; the other has it to two seconds."""
    return local.mtime if entry.tag is None and local.mtime % (2 * 10**9) else entry.mtime


def _owner(entry: zip.Entry, local: zip.Entry) -> tuple[int, int]:
    return max(entry.uid, local.uid, 0), max(entry.gid, local.gid, 0)


def _method(entry: zip.Entry) -> str:
    if entry.encrypted:
        return "encrypted"
    if entry.unsized:
        return DAMAGED
    return _METHODS.get(entry.method, f"zip method {entry.method}")


def _make_symlink(read: ReadAt, record: Record) -> None:
    """Zips hold a symlink's target as content."""
    if record.method not in (STORE, DEFLATE) or max(record.size, record.packed) > _MAX_TARGET:
        return
    target: bytes = read(record.data, record.packed)
    try:
        if record.method == DEFLATE:
            target = bytes(codec.unpack(target, record.size))
    except DamagedError:
        target = b""
    if f"{codec.crc32(target):08x}" != record.crc32 or not target:
        record.method = DAMAGED
        return
    record.type, record.method = SYMLINK, STORE
    record.target, record.target_b64 = to_text(target)


def _find_table(read: ReadAt, record: Record, entry: zip.Entry) -> None:
    """The chunk table right behind the data, where there is one that fits."""
    try:
        hidden, at = zip.read_local(read, record.data + record.packed)
        if not hidden.name.endswith(_TABLES):
            return
        chunk_size = chunks.read_chunk_size(read, at, record.size, record.packed)
        if chunk_size <= _MAX_CHUNK and hidden.size == chunks.table_size(record.size, chunk_size, entry.method):
            chunks.read_rows(read, at, record.size, record.packed, chunk_size, entry.method, 0, 0)
            record.chunk, record.index, record.table_copy = chunk_size, at, NO_COPY
    except (FormatError, SourceError):
        return

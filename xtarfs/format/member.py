"""Members: the exact bytes that surround each record's data in its directory's tar.

The builder writes with these functions and `verify` compares with them, so what is written and what is accepted
cannot drift apart. Opens no file.
"""

from __future__ import annotations

from typing import NamedTuple

from . import codec, tar, zip
from .records import BLOCK_DEVICE, CHARACTER, DEFLATE, FIFO, SYMLINK, Record
from .tar import Mark

MAX_NAME = 255  # bytes in one component of a path, on every file system that matters

FILE_SUFFIX, DIRECTORY_SUFFIX = b".zip", b".xtar"
INTRO_NAME, STRUCTURE_NAME = b"HOW-TO-RESTORE.txt", b"structure.jsonl.gz"
CATALOGUE_NAME, TABLES_NAME = b"catalogue.jsonl.gz", b"chunk-tables.bin"
ORIGIN_NAME, LOCATOR_NAME = b"origin.jsonl.gz", b"locator.json.gz"
SET_NAME = b"set-catalogue.jsonl.gz"
SELF_NAME = b"./"

_NATIVE_TYPES = {
    SYMLINK: tar.SYMLINK,
    FIFO: tar.FIFO,
    CHARACTER: tar.CHARACTER,
    BLOCK_DEVICE: tar.BLOCK_DEVICE,
}
_METHODS = {True: zip.DEFLATED, False: zip.STORED}


def member_name(name: bytes, suffix: bytes, taken: bool) -> bytes:
    """`NAME.zip`; or `NAME/.zip` where the former is too long or `taken`: the name of another child."""
    return long_name(name, suffix) if taken or len(name) + len(suffix) > MAX_NAME else name + suffix


def long_name(name: bytes, suffix: bytes) -> bytes:
    return name + b"/" + suffix


def method_of(record: Record) -> int:
    """The record's compression method as zip numbers it."""
    return _METHODS[record.method == DEFLATE]


def zip_entry(record: Record, path: bytes, tag: bytes) -> zip.Entry:
    """What the zip of a file's record says. path: whole path below the archive's root."""
    return zip.Entry(
        path if len(path) <= zip.MAX_NAME else record.raw_name,
        method_of(record),
        record.crc,
        record.packed,
        record.size,
        record.st_mode,
        record.uid,
        record.gid,
        record.mtime_ns,
        tag,
    )


class FileBytes(NamedTuple):
    """What surrounds a file's packed data: `head` before it, `tail` behind it, padding included.

    table: where the chunk table's payload begins in `tail`, 0 if there is none.
    """

    head: bytes
    tail: bytes
    table: int


def file_bytes(record: Record, path: bytes, name: bytes, mark: Mark, table: bytes) -> FileBytes:
    """Tar header, zip headers and chunk table of a regular file's member. name: the member's.

    The head's length does not depend on what is known only after packing, except that sizes of 4 GiB need zip64.
    """
    entry = zip_entry(record, path, mark.tag)
    local, central = zip.headers(entry)
    table_head = b""
    if table:
        hidden = zip.table_name(entry.name, entry.method)
        table_head = zip.hidden_header(hidden, codec.crc32(table), len(table))
    central_at = len(local) + record.packed + len(table_head) + len(table)
    end = zip.end_record(len(central), central_at)
    size = central_at + len(central) + len(end)
    tail = b"".join((table_head, table, central, end, bytes(tar.padding(size))))
    return FileBytes(_header(record, name, mark, size) + local, tail, len(table_head))


def directory_head(record: Record, name: bytes, mark: Mark) -> bytes:
    """Tar header of a nested archive; `record.packed` is its length."""
    return _header(record, name, mark, record.packed)


def self_entry(record: Record, mark: Mark) -> bytes:
    """The `./` entry of a directory's tar, which makes plain tar set the directory's attributes."""
    header = _common(record, SELF_NAME, mark)
    header.type, header.mode = tar.DIRECTORY, record.permissions
    return tar.pack(header)


def native_entry(record: Record, mark: Mark) -> bytes:
    """A symlink, fifo or device as the tar entry that plain tar restores."""
    header = _common(record, record.raw_name, mark)
    header.type, header.mode = _NATIVE_TYPES[record.type], record.permissions
    header.link, header.major, header.minor = record.raw_target, record.major, record.minor
    return tar.pack(header)


def own_member(name: bytes, mark: Mark, size: int) -> bytes:
    """Header of a member that is the archive's own: the structure file, the catalogue, ..."""
    return tar.pack(tar.Header(name, size, mode=0o644, mark=mark))


def _header(record: Record, name: bytes, mark: Mark, size: int) -> bytes:
    header = _common(record, name, mark)
    header.size = size
    return tar.pack(header)


def _common(record: Record, name: bytes, mark: Mark) -> tar.Header:
    pax = {tar.XATTR_PREFIX + key.decode("utf-8", "surrogateescape"): value for key, value in record.raw_xattrs.items()}
    return tar.Header(
        name,
        uid=record.uid,
        gid=record.gid,
        mtime=record.mtime_ns // 10**9,
        user=record.user.encode(),
        group=record.group.encode(),
        mark=mark,
        pax=pax,
    )

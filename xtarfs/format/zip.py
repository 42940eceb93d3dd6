"""One-member zips: local header, chunk table entry, central directory and end record, to bytes and back.

Opens no file. Source: PKWARE APPNOTE 6.3.10 (sections 4.3, 4.5), Info-ZIP `extrafld.txt` for UT and ux. The entry's
name is the whole path below the backed-up directory; sizes and CRC always stand in the local header.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from functools import lru_cache

from msgspec import Struct, field

from ..errors import FormatError

STORED, DEFLATED = 0, 8
LIMIT32 = 0xFFFFFFFF
LIMIT16 = 0xFFFF

LOCAL_SIGNATURE, CENTRAL_SIGNATURE, END_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64_SIGNATURE, _LOCATOR64_SIGNATURE = b"PK\x06\x06", b"PK\x06\x07"

_LOCAL = struct.Struct("<4sHHHIIIIHH")
_CENTRAL = struct.Struct("<4sHHHHIIIIHHHHHII")
_SHARED = struct.Struct("<HHHIIIIHH")  # the fields that both headers have, in the same order
_CENTRAL_REST = struct.Struct("<HHHII")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")
_EXTRA = struct.Struct("<HH")

_ZIP64, _UT, _UX, _XTAR = 0x0001, 0x5455, 0x7875, 0x5458
_UTF8_FLAG = 0x0800
_ENCRYPTED, _DESCRIPTOR = 0x0001, 0x0008
_UNIX = 3 << 8
_CENTRAL_START = CENTRAL_SIGNATURE + struct.pack("<H", _UNIX | 30)
_OWN = struct.Struct("<B6sIH")
_OWN_VERSION = 1
_OWN_START = _EXTRA.pack(_XTAR, _OWN.size) + bytes([_OWN_VERSION])
_LONGEST_EXTRA = 256  # four times what headers of ours have
MAX_NAME = LIMIT16 - 64  # leaves room for the chunk table's longer name


class Entry(Struct):
    """What a zip says of its member. mtime in nanoseconds; mode with the file type bits; tag None: not ours.

    offset: where its local header lies. unsized: sizes and CRC-32 are yet to come, behind the data.
    """

    name: bytes
    method: int = STORED
    crc32: int = 0
    packed: int = 0
    size: int = 0
    mode: int = 0o100644
    uid: int = -1
    gid: int = -1
    mtime: int = 0
    tag: bytes | None = None
    offset: int = 0
    encrypted: bool = False
    unsized: bool = False

    @property
    def zip64(self) -> bool:
        return self.size >= LIMIT32 or self.packed >= LIMIT32


class _Extras(Struct):
    seconds: int | None = None
    fraction: int = 0
    owner: tuple[int, int] | None = None
    tag: bytes | None = None
    mode: int = 0o644
    sizes: list[int] = field(default_factory=list)


def headers(entry: Entry) -> tuple[bytes, bytes]:
    """The local header, and the central directory that lists this entry alone.

    Their lengths depend on name, times and owner only, and on whether the sizes need zip64.
    """
    extra = _extras(entry)
    packed, size = entry.packed, entry.size
    if entry.zip64:
        extra = _EXTRA.pack(_ZIP64, 16) + struct.pack("<QQ", size, packed) + extra
        packed = size = LIMIT32
    name = entry.name
    shared = _SHARED.pack(
        _version_needed(entry),
        flags(name),
        entry.method,
        dos_time(entry.mtime),
        entry.crc32,
        packed,
        size,
        len(name),
        len(extra),
    )
    local = b"".join((LOCAL_SIGNATURE, shared, name, extra))
    return local, b"".join((_CENTRAL_START, shared, _CENTRAL_REST.pack(0, 0, 0, entry.mode << 16, 0), name, extra))


def hidden_header(name: bytes, crc: int, size: int) -> bytes:
    """Local header of a stored entry that no central directory lists: a chunk table's."""
    return _LOCAL.pack(LOCAL_SIGNATURE, 10, flags(name), STORED, dos_time(0), crc, size, size, len(name), 0) + name


def end_record(central_size: int, central_at: int) -> bytes:
    """What ends a zip of one entry. central_at: offset of the central directory from the zip's start."""
    end = b""
    if central_at >= LIMIT32:
        end64_at = central_at + central_size
        end += _END64.pack(_END64_SIGNATURE, _END64.size - 12, _UNIX | 45, 45, 0, 0, 1, 1, central_size, central_at)
        end += _LOCATOR64.pack(_LOCATOR64_SIGNATURE, 0, end64_at, 1)
    return end + _END.pack(END_SIGNATURE, 0, 0, 1, 1, central_size, min(central_at, LIMIT32), 0)


def table_name(name: bytes, method: int) -> bytes:
    """Name of the hidden chunk table entry: SOZip's for deflate, a private one for stored files."""
    folder, slash, base = name.rpartition(b"/")
    return folder + slash + b"." + base + (b".sozip.idx" if method == DEFLATED else b".xtar.crc")


def dos_time(mtime: int) -> int:
    """DOS date and time, UTC, clamped to 1980..2107."""
    return _dos_time(min(max(mtime // 10**9, 315532800), 4354819198))


@lru_cache(1024)
def _dos_time(seconds: int) -> int:
    t = time.gmtime(seconds)
    return (t.tm_year - 1980) << 25 | t.tm_mon << 21 | t.tm_mday << 16 | t.tm_hour << 11 | t.tm_min << 5 | t.tm_sec >> 1


def _from_dos_time(value: int) -> int:
    import calendar

    fields = (
        1980 + (value >> 25),
        min(max(value >> 21 & 15, 1), 12),
        max(value >> 16 & 31, 1),
        value >> 11 & 31,
        value >> 5 & 63,
        (value & 31) * 2,
    )
    return calendar.timegm(fields) * 10**9


def _version_needed(entry: Entry) -> int:
    if entry.zip64:
        return 45
    return 20 if entry.method == DEFLATED else 10


def flags(name: bytes) -> int:
    """The general purpose bits for an entry of this name."""
    if name.isascii():
        return 0
    try:
        name.decode()
    except UnicodeDecodeError:
        return 0
    return _UTF8_FLAG


def _extras(entry: Entry) -> bytes:
    seconds, fraction = divmod(entry.mtime, 10**9)
    extra = b""
    if -(2**31) <= seconds < 2**31:
        extra += _EXTRA.pack(_UT, 5) + struct.pack("<Bi", 1, seconds)
    if entry.uid >= 0:
        extra += _EXTRA.pack(_UX, 11) + struct.pack("<BBIBI", 1, 4, entry.uid, 4, entry.gid)
    if entry.tag is not None:
        extra += _EXTRA.pack(_XTAR, _OWN.size) + _OWN.pack(_OWN_VERSION, entry.tag, fraction, entry.mode & 0o7777)
    return extra


def _parse_extras(raw: bytes, wanted_sizes: int) -> _Extras:
    found = _Extras()
    at = 0
    while at + _EXTRA.size <= len(raw):
        kind, length = _EXTRA.unpack_from(raw, at)
        body = raw[at + _EXTRA.size : at + _EXTRA.size + length]
        at += _EXTRA.size + length
        if len(body) < length:
            break
        if kind == _UT and length >= 5 and body[0] & 1:
            found.seconds = struct.unpack_from("<i", body, 1)[0]
        elif kind == _UX and length >= 3 and body[0] == 1:
            split = 2 + body[1]
            uid, gid = body[2:split], body[split + 1 :]
            found.owner = (int.from_bytes(uid, "little"), int.from_bytes(gid, "little"))
        elif kind == _XTAR and length == _OWN.size:
            version, tag, fraction, mode = _OWN.unpack(body)
            if version == _OWN_VERSION and fraction < 10**9:
                found.tag, found.fraction, found.mode = tag, fraction, mode & 0o7777
        elif kind == _ZIP64:
            count = min(wanted_sizes, length // 8)
            found.sizes = list(struct.unpack_from(f"<{count}Q", body))
    return found


def _entry(name: bytes, method: int, flags: int, dos: int, crc: int, packed: int, size: int, raw: bytes) -> Entry:
    wanted = [value == LIMIT32 for value in (size, packed)]
    extras = _parse_extras(raw, sum(wanted) + 1)
    if sum(wanted) > len(extras.sizes):
        raise FormatError("zip header: zip64 sizes are missing")
    if wanted[0]:
        size = extras.sizes.pop(0)
    if wanted[1]:
        packed = extras.sizes.pop(0)
    mtime = _from_dos_time(dos) if extras.seconds is None else extras.seconds * 10**9
    uid, gid = extras.owner or (-1, -1)
    entry = Entry(
        name, method, crc, packed, size, 0o100000 | extras.mode, uid, gid, mtime + extras.fraction, extras.tag
    )
    entry.encrypted = bool(flags & _ENCRYPTED)
    if extras.sizes:
        entry.offset = extras.sizes.pop(0)
    return entry


def read_local(read_at: Callable[[int, int], bytes], at: int) -> tuple[Entry, int]:
    """The local header at `at`, and where its data begins; sizes are 0 if a descriptor follows. Raises FormatError."""
    raw = read_at(at, _LOCAL.size)
    if len(raw) < _LOCAL.size or raw[:4] != LOCAL_SIGNATURE:
        raise FormatError("zip: no local header")
    _, _, flags, method, dos, crc, packed, size, name_length, extra_length = _LOCAL.unpack(raw)
    rest = read_at(at + _LOCAL.size, name_length + extra_length)
    if len(rest) < name_length + extra_length:
        raise FormatError("zip: local header cut short")
    entry = _entry(rest[:name_length], method, flags, dos, crc, packed, size, rest[name_length:])
    entry.offset = at
    entry.unsized = bool(flags & _DESCRIPTOR) and not packed
    return entry, at + _LOCAL.size + name_length + extra_length


def read_central(read_at: Callable[[int, int], bytes], start: int, end: int) -> Iterator[Entry]:
    """The entries that the central directory of the zip in [start, end) lists. Raises FormatError where it breaks off.

    Their `offset` is absolute.
    """
    count, size, at, shift = _find_end(read_at, start, end)
    window, position = b"", 0
    for _ in range(count):
        if len(window) - position < _LONGEST_CENTRAL and size:
            window = window[position:] + read_at(at, min(size, _CENTRAL_WINDOW))
            read = min(size, _CENTRAL_WINDOW)
            at, size, position = at + read, size - read, 0
        entry, position = _parse_central(window, position)
        entry.offset += shift
        yield entry


def bears_tag(read_at: Callable[[int, int], bytes], at: int) -> bool:
    """Whether what may be a local or central header at `at` has our extra field: a quick look, before it is parsed."""
    signature = read_at(at, 4)
    fixed, lengths_at = (_CENTRAL, 28) if signature == CENTRAL_SIGNATURE else (_LOCAL, 26)
    lengths = read_at(at + lengths_at, 4)
    if len(lengths) < 4:
        return False
    name, extra = struct.unpack("<HH", lengths)
    return _OWN_START in read_at(at + fixed.size + name, min(extra, _LONGEST_EXTRA))


def read_listed(read_at: Callable[[int, int], bytes], at: int) -> Entry:
    """The entry of the central directory that lies at `at`, its offset as written. Raises FormatError."""
    raw = read_at(at, _CENTRAL.size)
    if len(raw) < _CENTRAL.size:
        raise FormatError("zip: central directory is broken")
    return _parse_central(raw + read_at(at + _CENTRAL.size, sum(_CENTRAL.unpack(raw)[9:12])), 0)[0]


_CENTRAL_WINDOW = 1 << 20
_LONGEST_CENTRAL = _CENTRAL.size + 3 * LIMIT16


def _parse_central(raw: bytes, at: int) -> tuple[Entry, int]:
    """The entry at `at` of a central directory, its offset as written, and where the next begins."""
    if raw[at : at + 4] != CENTRAL_SIGNATURE or at + _CENTRAL.size > len(raw):
        raise FormatError("zip: central directory is broken")
    fields = _CENTRAL.unpack_from(raw, at)
    made_by, _, flags, method, dos, crc, packed, full = fields[1:9]
    name_length, extra_length, comment_length = fields[9:12]
    external, offset = fields[14:16]
    name_at = at + _CENTRAL.size
    extra_at = name_at + name_length
    name, extra = raw[name_at:extra_at], raw[extra_at : extra_at + extra_length]
    entry = _entry(name, method, flags, dos, crc, packed, full, extra)
    entry.offset = entry.offset if offset == LIMIT32 else offset
    mode = external >> 16 if made_by >> 8 == 3 else 0
    entry.mode = mode or (0o040755 if name.endswith(b"/") else 0o100644)
    return entry, extra_at + extra_length + comment_length


def _find_end(read_at: Callable[[int, int], bytes], start: int, end: int) -> tuple[int, int, int, int]:
    """Of the zip in [start, end): number of entries, size and absolute offset of the central directory, and what to
    add to the offsets in it, which is more than `start` where something was put before the zip."""
    for tail_size in (_END.size, _END.size + LIMIT16):
        tail_at = max(start, end - tail_size)
        tail = read_at(tail_at, end - tail_at)
        found = _last_end(tail)
        if found >= 0:
            break
    else:
        raise FormatError("zip: no end of central directory")
    _, _, _, _, count, size, offset, _ = _END.unpack_from(tail, found)
    at = tail_at + found - size
    if offset == LIMIT32 or count == LIMIT16 or size == LIMIT32:
        locator = read_at(tail_at + found - _LOCATOR64.size, _LOCATOR64.size)
        if locator[:4] == _LOCATOR64_SIGNATURE:
            end64 = read_at(start + _LOCATOR64.unpack(locator)[2], _END64.size)
            if len(end64) == _END64.size and end64[:4] == _END64_SIGNATURE:
                _, _, _, _, _, _, _, count, size, offset = _END64.unpack(end64)
                at = start + offset
    if at < start + offset or at + size > end:
        raise FormatError("zip: central directory lies outside")
    return count, size, at, at - offset


def _last_end(tail: bytes) -> int:
    """Where the end record begins: the last one whose comment ends with the zip, or else the last; -1 if none does."""
    last = -1
    at = tail.rfind(END_SIGNATURE, 0, len(tail) - _END.size + len(END_SIGNATURE))
    while at >= 0:
        if at + _END.size + _END.unpack_from(tail, at)[7] == len(tail):
            return at
        last = max(last, at)
        at = tail.rfind(END_SIGNATURE, 0, at + len(END_SIGNATURE) - 1)
    return last

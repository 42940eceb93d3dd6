"""Tar blocks: one header to 512 bytes and back, pax records, and the mark that tells our headers from foreign ones.

Opens no file. Source: POSIX.1-2017 pax "ustar Interchange Format" and "pax Header Block"; base-256 numbers as
GNU tar writes them. Offsets below are those of the standard.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import lru_cache

from msgspec import Struct, field

from ..errors import FormatError

BLOCK = 512
END = bytes(2 * BLOCK)

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (bytes([c]) for c in b"0123456")
PAX, PAX_GLOBAL, GNU_LONG_NAME, GNU_LONG_LINK = b"x", b"g", b"L", b"K"
BEFORE = (PAX, PAX_GLOBAL, GNU_LONG_NAME, GNU_LONG_LINK)  # types of headers that say more of the one that follows

XATTR_PREFIX = "SCHILY.xattr."

_CHECKSUM = slice(148, 156)
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_MAGICS = (b"ustar\x0000", b"ustar  \x00")

_MARK = struct.Struct("<6sIcc")
_MARK_SIGN = b"x"


class Mark(Struct, frozen=True):
    """What the twelve bytes after the prefix field (500..511) say in an archive of ours; other tools skip them.

    tag: six bytes that all members of one archive share. ino: the containing directory's inode number, low 32
    bits. role: what the member is, one of the ROLE_ letters.
    """

    tag: bytes
    ino: int
    role: bytes

    def pack(self) -> bytes:
        return _MARK.pack(self.tag, self.ino & 0xFFFFFFFF, _MARK_SIGN, self.role)

    @classmethod
    def parse(cls, raw: bytes) -> Mark | None:
        tag, ino, sign, role = _MARK.unpack(raw)
        return cls(tag, ino, role) if sign == _MARK_SIGN and role in ROLES else None


ROLE_INTRO, ROLE_SELF, ROLE_FILE, ROLE_DIRECTORY, ROLE_NATIVE = b"i", b".", b"f", b"d", b"n"
ROLE_STRUCTURE, ROLE_CATALOGUE, ROLE_TABLES, ROLE_ORIGIN, ROLE_LOCATOR = b"s", b"c", b"t", b"o", b"l"
ROLE_SET = b"v"
ROLES = (
    ROLE_INTRO + ROLE_SELF + ROLE_FILE + ROLE_DIRECTORY + ROLE_NATIVE
    + ROLE_STRUCTURE + ROLE_CATALOGUE + ROLE_TABLES + ROLE_ORIGIN + ROLE_LOCATOR + ROLE_SET
)  # fmt: skip


class Header(Struct):
    """One tar entry's header, the pax records that go before it included. Times in whole seconds."""

    name: bytes
    size: int = 0
    type: bytes = REGULAR
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    link: bytes = b""
    user: bytes = b""
    group: bytes = b""
    major: int = 0
    minor: int = 0
    mark: Mark | None = None
    pax: dict[str, bytes] = field(default_factory=dict)


def padding(size: int) -> int:
    """Bytes from the end of `size` bytes of data to the next block."""
    return -size % BLOCK


def pack(header: Header) -> bytes:
    """The header's blocks: what does not fit its field goes before it, the ustar block comes last.

    The last 512 bytes are all that depends on `size`, so that a size known only later can be patched in place.
    """
    pax, blocks = dict(header.pax), b""
    for key, value, width in (
        ("path", header.name, 100),
        ("linkpath", header.link, 100),
        ("uname", header.user, 31),
        ("gname", header.group, 31),
    ):
        if len(value) > width:
            if key in _GNU_LONG and not _is_utf8(value):
                blocks += _before(header, b"././@LongLink", _GNU_LONG[key], value + b"\0")
            else:
                pax[key] = value
    if pax:
        blocks += _before(header, b"././@PaxHeader", PAX, pack_pax(pax))
    return blocks + _ustar(header)


_GNU_LONG = {"path": GNU_LONG_NAME, "linkpath": GNU_LONG_LINK}  # pax text is UTF-8; bsdtar complains of any other


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _before(header: Header, name: bytes, kind: bytes, body: bytes) -> bytes:
    """A header whose data says more of the one that follows."""
    return _ustar(Header(name, len(body), kind, mark=header.mark)) + body + bytes(padding(len(body)))


def _ustar(header: Header) -> bytes:
    block = bytearray(
        _FIELDS.pack(
            header.name[:100],
            _number(header.mode, 8),
            _number(header.uid, 8),
            _number(header.gid, 8),
            _number(header.size, 12),
            _number(header.mtime, 12),
            b" " * 8,
            header.type,
            header.link[:100],
            _MAGICS[0],
            header.user[:31],
            header.group[:31],
            _number(header.major, 8),
            _number(header.minor, 8),
            b"",
            header.mark.pack() if header.mark else b"",
        )
    )
    block[_CHECKSUM] = b"%06o\0 " % _sum(block)
    return bytes(block)


def _sum(block: bytes | bytearray) -> int:
    """Most bytes of a header are zero, and dropping them is quicker than adding them."""
    return sum(block.translate(None, b"\0"))


@lru_cache(1024)
def _number(value: int, width: int) -> bytes:
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    raw = bytearray(value.to_bytes(width, "big", signed=True))
    raw[0] |= 0x80
    return bytes(raw)


def _parse_number(raw: bytes) -> int:
    if raw[0] & 0x80:
        sign = 0xFF if raw[0] & 0x40 else 0x00
        return int.from_bytes(bytes([(raw[0] & 0x7F) | (sign & 0x80)]) + raw[1:], "big", signed=True)
    text = raw.strip(b" \0")
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise FormatError(f"tar header: {raw!r} is not a number") from None


def parse(block: bytes) -> Header:
    """One ustar or GNU header block. Raises FormatError unless magic and checksum hold."""
    if len(block) != BLOCK:
        raise FormatError("tar header: cut short")
    (name, mode, uid, gid, size, mtime, checksum, kind, link, magic, user, group, major, minor, prefix, mark) = (
        _FIELDS.unpack(block)
    )
    if magic not in _MAGICS:
        raise FormatError("tar header: no ustar magic")
    if _parse_number(checksum) != _sum(block) - sum(checksum) + 8 * 32:
        raise FormatError("tar header: checksum does not match")
    name = name.rstrip(b"\0")
    if magic == _MAGICS[0] and prefix.rstrip(b"\0"):
        name = prefix.rstrip(b"\0") + b"/" + name
    header = Header(
        name,
        _parse_number(size),
        REGULAR if kind == b"\0" else kind,
        _parse_number(mode),
        _parse_number(uid),
        _parse_number(gid),
        _parse_number(mtime),
        link.rstrip(b"\0"),
        user.rstrip(b"\0"),
        group.rstrip(b"\0"),
        _parse_number(major),
        _parse_number(minor),
        Mark.parse(mark),
    )
    if header.size < 0:
        raise FormatError("tar header: negative size")
    return header


def mark_of(block: bytes) -> Mark | None:
    """The mark of what may be a header block; its checksum is not looked at."""
    return Mark.parse(block[-_MARK.size :]) if len(block) == BLOCK else None


def pack_pax(records: dict[str, bytes]) -> bytes:
    """`LENGTH KEY=VALUE\\n` lines, LENGTH counting itself; sorted, so that equal records give equal bytes."""
    out = bytearray()
    for key in sorted(records):
        escaped = key.replace("%", "%25").replace("=", "%3D")  # as GNU tar does: a key ends at the first `=`
        rest = b" " + escaped.encode("utf-8", "surrogateescape") + b"=" + records[key] + b"\n"
        length = len(rest)
        while length != len(rest) + len(str(length)):
            length = len(rest) + len(str(length))
        out += b"%d" % length + rest
    return bytes(out)


def parse_pax(body: bytes) -> dict[str, bytes]:
    """The records of a pax header's body. Raises FormatError where the lengths do not hold."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        try:
            length = int(body[at:space])
        except ValueError:
            raise FormatError("pax header: bad record length") from None
        if length < 1:
            raise FormatError("pax header: bad record length")
        raw_key, equals, value = body[space + 1 : at + length - 1].partition(b"=")
        if not equals or body[at + length - 1 : at + length] != b"\n":
            raise FormatError("pax header: bad record")
        key = raw_key.decode("utf-8", "surrogateescape")
        if key.startswith(XATTR_PREFIX):
            key = key.replace("%3D", "=").replace("%25", "%")
        records[key] = value
        at += length
    return records


class Member(Struct):
    """An entry found in a tar: where it begins, where its data lies, and its header with pax records merged in."""

    at: int
    data: int
    header: Header

    @property
    def end(self) -> int:
        return self.data + self.header.size + padding(self.header.size)


_MAX_PAX = 16 << 20  # a pax header longer than this is taken for damage; Linux limits one xattr to 64 KiB


def read_member(read_at: Callable[[int, int], bytes], at: int) -> Member | None:
    """The member whose first header block lies at `at`; None at the end-of-archive block.

    read_at(offset, size) gives exactly the bytes wanted or fewer at the end. Raises FormatError.
    """
    start, pax, long_fields = at, dict[str, bytes](), dict[str, bytes]()
    while True:
        block = read_at(at, BLOCK)
        if not block or block == bytes(BLOCK):
            return None
        header = parse(block)
        data = at + BLOCK
        if header.type not in BEFORE:
            break
        if header.size > _MAX_PAX:
            raise FormatError("pax header: too long to be one")
        body = read_at(data, header.size)
        if header.type == PAX:
            pax |= parse_pax(body)
        elif header.type == GNU_LONG_NAME:
            long_fields["path"] = body.rstrip(b"\0")
        elif header.type == GNU_LONG_LINK:
            long_fields["linkpath"] = body.rstrip(b"\0")
        at = data + header.size + padding(header.size)
    fields = long_fields | pax
    header.name = fields.pop("path", header.name)
    header.link = fields.pop("linkpath", header.link)
    header.user = fields.pop("uname", header.user)
    header.group = fields.pop("gname", header.group)
    try:
        header.size = int(fields.pop("size", header.size))
        header.uid = int(fields.pop("uid", header.uid))
        header.gid = int(fields.pop("gid", header.gid))
    except ValueError:
        raise FormatError("pax header: bad number") from None
    if header.size < 0:
        raise FormatError("pax header: negative size")
    header.pax = fields
    return Member(start, data, header)


def members(read_at: Callable[[int, int], bytes], start: int, end: int) -> Iterator[Member]:
    """The members of the tar in [start, end), in order. Raises FormatError at the first header that is not one."""
    at = start
    while at + BLOCK <= end:
        member = read_member(read_at, at)
        if member is None:
            return
        yield member
        at = member.end

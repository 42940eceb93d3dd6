"""The structure record: all that is known of one file, directory or native entry, as one line of JSON.

One class serves the line on disk and the program; properties give the raw bytes and numbers behind the text.
`docs/format.md` section 6 is the specification of every field.
"""

from __future__ import annotations

import stat
from base64 import b64decode, b64encode
from typing import Annotated

import msgspec
from msgspec import Meta

from ..errors import FormatError
from .numbers import format_time, parse_digits, parse_time

FILE, DIRECTORY, SYMLINK, FIFO, CHARACTER, BLOCK_DEVICE = "file", "dir", "symlink", "fifo", "char", "block"
STORE, DEFLATE = "store", "deflate"
MIN_CHUNK = 4096  # chunk sizes are multiples of it
NO_COPY = -1  # as `table_copy`: where the copy of a chunk table lies is not known; never written

TYPE_BITS = {
    FILE: stat.S_IFREG,
    DIRECTORY: stat.S_IFDIR,
    SYMLINK: stat.S_IFLNK,
    FIFO: stat.S_IFIFO,
    CHARACTER: stat.S_IFCHR,
    BLOCK_DEVICE: stat.S_IFBLK,
}
TYPE_OF_BITS = {bits: name for name, bits in TYPE_BITS.items()}


# What a reader may act on; decoding refuses all else.
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Mode = Annotated[str, Meta(max_length=4)]  # digits are checked when used: patterns take as long as all the rest
Time = Annotated[str, Meta(max_length=32)]
Crc32 = Annotated[str, Meta(max_length=8)]
Identifier = Annotated[str, Meta(min_length=64, max_length=64)]
Tag = Annotated[str, Meta(pattern=r"^[0-9a-f]{12}\Z")]
_BASE64 = r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z"
Base64 = Annotated[str, Meta(pattern="^" + _BASE64)]
XattrKey = Annotated[str, Meta(pattern="^([^=]|=" + _BASE64 + ")")]


class Structure(msgspec.Struct, omit_defaults=True, frozen=True):
    """Where a directory's structure file lies. `at` is relative to the start of the directory's own tar.

    index: length of the index block that ends it, 0 where a single block needs none. catalogue: offset of its
    copy in the catalogue member's data.
    """

    at: Count
    size: Count
    index: Count = 0
    catalogue: Count = 0


class Elsewhere(msgspec.Struct, omit_defaults=True, frozen=True):
    """The archive that holds a file's data, by identifier, where it is not the one that holds the record.

    The record's `at`, `data` and `index` count from that archive's first byte then, its `table_copy` from that
    archive's chunk tables.
    """

    archive: Identifier


class Part(msgspec.Struct, omit_defaults=True, frozen=True):
    """A stretch of a file that was cut at a chunk boundary: a member of its own in the archive `archive`.

    Its places count as in a record with `elsewhere`. size: bytes of content; the parts' content follows one another.
    packed: as its zip has it; where further parts follow and it is deflated, the last two bytes only end the stream.
    """

    archive: Identifier
    size: Count
    at: Count
    data: Count
    packed: Count
    index: Count = 0
    table_copy: Count = 0
    crc32: Crc32 = ""
    packed_crc32: Crc32 = ""


class Record(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One line of a structure file. `at`, `data` and `index` are relative to the start of the containing tar.

    files, total: regular files below a directory, and the bytes of content in them.
    """

    name: str
    name_b64: Base64 = ""
    type: str
    mode: Mode
    uid: Number32
    gid: Number32
    user: str = ""
    group: str = ""
    mtime: Time
    ino: Count
    nlink: Number32 = 1
    size: Count = 0
    at: Count = 0
    data: Count = 0
    packed: Count = 0
    method: str = STORE
    chunk: Count = 0
    index: Count = 0
    table_copy: Count = 0
    crc32: Crc32 = ""
    sha256: str = ""
    packed_crc32: Crc32 = ""
    holes: tuple[tuple[int, int], ...] = ()
    changed: bool = False
    target: str = ""
    target_b64: Base64 = ""
    major: Number32 = 0
    minor: Number32 = 0
    link: str = ""
    link_b64: Base64 = ""
    xattrs: dict[XattrKey, Base64] = {}
    structure: Structure | None = None
    files: Count = 0
    total: Count = 0
    elsewhere: Elsewhere | None = None
    parts: tuple[Part, ...] = ()
    former: str = ""
    former_b64: Base64 = ""

    @property
    def raw_name(self) -> bytes:
        return from_text(self.name, self.name_b64)

    @property
    def raw_target(self) -> bytes:
        return from_text(self.target, self.target_b64)

    @property
    def raw_link(self) -> bytes:
        """Path, below the archive's root, of the name that holds a hard-linked file's data; empty if this one does."""
        return from_text(self.link, self.link_b64)

    @property
    def raw_former(self) -> bytes:
        """The file's path before it was last renamed, if that was since its data was stored in another archive.

        An archive that replaces the holder may have the file there.
        """
        return from_text(self.former, self.former_b64)

    @property
    def permissions(self) -> int:
        return parse_digits(self.mode, 8)

    @property
    def st_mode(self) -> int:
        return TYPE_BITS[self.type] | self.permissions

    @property
    def mtime_ns(self) -> int:
        return parse_time(self.mtime)

    @property
    def crc(self) -> int:
        """CRC-32 of the content, 0 where none is known."""
        return parse_digits(self.crc32, 16) if self.crc32 else 0

    @property
    def is_dir(self) -> bool:
        return self.type == DIRECTORY

    @property
    def raw_xattrs(self) -> dict[bytes, bytes]:
        return {_xattr_name(key): b64decode(value) for key, value in self.xattrs.items()} if self.xattrs else {}


class Header(msgspec.Struct, omit_defaults=True, kw_only=True):
    """First line of a structure file: whose children follow. path: below the archive's root, which is empty."""

    xtar: str
    tag: Tag
    path: str
    path_b64: Base64 = ""
    children: int
    directory: Record

    @property
    def raw_path(self) -> bytes:
        return from_text(self.path, self.path_b64)


class BlockStart(msgspec.Struct, omit_defaults=True, frozen=True):
    """One row of a structure file's index: where a block lies in it, and its first and how many names it holds."""

    at: Count
    length: Count
    count: Count
    first: str
    first_b64: Base64 = ""

    @property
    def raw_first(self) -> bytes:
        return from_text(self.first, self.first_b64)


class Index(msgspec.Struct):
    """Last line of a structure file of more than one block."""

    blocks: Annotated[list[BlockStart], Meta(min_length=1)]


def holders_of(record: Record) -> set[str]:
    """Identifiers of the other archives that hold a file's data; none: it lies in the archive that has the record."""
    found = {part.archive for part in record.parts}
    return found | {record.elsewhere.archive} if record.elsewhere else found


def to_text(raw: bytes) -> tuple[str, str]:
    """A name as JSON can hold it: text and, where the bytes are not UTF-8, their base64; else an empty string."""
    try:
        return raw.decode(), ""
    except UnicodeDecodeError:
        return raw.decode("utf-8", "backslashreplace"), b64encode(raw).decode()


def from_text(text: str, encoded: str) -> bytes:
    return b64decode(encoded) if encoded else text.encode()


def xattrs_to_text(xattrs: dict[bytes, bytes]) -> dict[str, str]:
    """Values in base64. A name that is not UTF-8, or begins with `=`, becomes `=` and its base64."""
    return {_xattr_key(name): b64encode(xattrs[name]).decode() for name in sorted(xattrs)}


def _xattr_key(name: bytes) -> str:
    text, encoded = to_text(name)
    return "=" + b64encode(name).decode() if encoded or text.startswith("=") else text


def _xattr_name(key: str) -> bytes:
    return b64decode(key[1:]) if key.startswith("=") else key.encode()


_encoder = msgspec.json.Encoder()
_record_decoder = msgspec.json.Decoder(Record)
_header_decoder = msgspec.json.Decoder(Header)
_index_decoder = msgspec.json.Decoder(Index)


def to_line(record: Record | Header | Index | BlockStart) -> bytes:
    return _encoder.encode(record) + b"\n"


def parse_records(lines: bytes, *, placed: bool = True) -> list[Record]:
    """The records of newline-ended lines. placed: in an archive, where a directory's tar must lie somewhere.

    Raises FormatError for anything that is not one.
    """
    try:
        records = _record_decoder.decode_lines(lines)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FormatError(f"structure record: {error}") from None
    for record in records:
        check(record, placed=placed)
    return records


def check(record: Record, *, placed: bool = True) -> None:
    """Refuses what no reader may act on: a name that leads elsewhere, a negative place, an unknown type."""
    name = record.name if not record.name_b64 else record.raw_name.decode("latin-1")
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise FormatError(f"structure record: {record.name!r} is not a name")
    target = record.raw_target if record.target or record.target_b64 else b""
    if record.type not in TYPE_BITS or record.chunk % MIN_CHUNK or b"\0" in target:
        raise FormatError(f"structure record of {record.name!r}: impossible values")
    if placed and record.type == DIRECTORY and not record.data:
        raise FormatError(f"structure record of {record.name!r}: a directory that would hold itself")


def parse_header(line: bytes) -> Header:
    try:
        return _header_decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FormatError(f"structure header: {error}") from None


def parse_index(line: bytes) -> Index:
    try:
        return _index_decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FormatError(f"structure index: {error}") from None


def new_record(name: bytes, kind: str, mode: int, mtime_ns: int, ino: int, uid: int = 0, gid: int = 0) -> Record:
    """A record with the attributes that every type has."""
    text, encoded = to_text(name)
    return Record(
        name=text,
        name_b64=encoded,
        type=kind,
        mode=f"{mode & 0o7777:04o}",
        uid=uid,
        gid=gid,
        mtime=format_time(mtime_ns),
        ino=ino,
    )

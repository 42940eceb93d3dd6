"""The locator: the last member of an outermost archive, one small block that leads to everything else.

It lies right before the two zero blocks that end the tar, so the last few kilobytes of a file suffice to find it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..errors import FormatError
from . import tar
from .records import Count, Identifier, Structure
from .structure import HEAD_SIZE, block_length, pack_block, unpack_block

WINDOW = 64 << 10  # the locator lies whole within this many bytes of the end
ROOM_FOR_LISTS = WINDOW - 4096  # bytes that its lists of archives may take; what else it holds is less than the rest


class Place(msgspec.Struct, frozen=True):
    """Bytes [at, at + size) of the archive, and their CRC-32."""

    at: int
    size: int
    crc32: str


class Base(msgspec.Struct, frozen=True):
    """An archive that holds data of this one's tree: its identifier, and the name that its file had."""

    id: Identifier
    name: str


class VolumeSet(msgspec.Struct, frozen=True):
    """What makes an archive a volume, number `number` (from 1) of `count`, of the set `id`.

    The set's catalogue holds a block with the identifiers of all volumes, [0, head) of its data, and the structure
    files of the whole tree behind it, in which every record leads to the volume that holds the file. root:
    the root's there, its `at` unused; `id` is the SHA-256 of that structure file.
    """

    id: Identifier
    number: Count
    count: Count
    catalogue: Place
    head: Count
    root: Structure


class Locator(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Offsets from the archive's start. id: SHA-256 of the root's structure file, the archive's identifier.

    at: where the locator's own tar header lies. base: the archives that hold data of the tree, the oldest first;
    previous: the one that the source was compared with. replaces: identifiers of archives whose members, as far as
    this tree still has them, were copied into this one.
    """

    xtar: str
    writer: str
    id: str
    tag: str
    at: int
    intro: Place
    root: Structure
    catalogue: Place
    tables: Place
    origin: Place
    files: int
    directories: int
    others: int
    bytes: int
    base: list[Base] = []
    previous: str = ""
    replaces: list[Identifier] = []
    set: VolumeSet | None = None


class Origin(msgspec.Struct, kw_only=True):
    """First line, and block, of the origin member: seconds since 1970, host name and directory of the build."""

    created: int
    host: str
    source: str


_decoder = msgspec.json.Decoder(Locator)
_origin_decoder = msgspec.json.Decoder(Origin)


def pack(locator: Locator) -> bytes:
    return pack_text(msgspec.json.encode(locator) + b"\n")


def pack_text(text: bytes) -> bytes:
    """The locator's block, stored: each of its bytes then follows from the text, and none can change unnoticed."""
    return pack_block(text, level=0)


def parse(text: bytes) -> Locator:
    """Raises FormatError."""
    try:
        return _decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise FormatError(f"locator: {error}") from None


def find(tail: bytes, size: int) -> Locator | None:
    """The locator in the last bytes of an archive of `size`; None where none is whole and in its place."""
    end = len(tail) - len(tar.END)
    if end < 0 or tail[end:] != tar.END:
        return None
    for at in range(end - 2 * tar.BLOCK, -1, -tar.BLOCK):
        try:
            header = tar.parse(tail[at : at + tar.BLOCK])
            if header.mark is None or header.mark.role != tar.ROLE_LOCATOR:
                continue
            data = tail[at + tar.BLOCK : at + tar.BLOCK + header.size]
            found = parse(unpack_block(data[: block_length(data[:HEAD_SIZE])]))
            if found.at == size - len(tail) + at:  # or it is another archive's, stored in this one, which was cut off
                return found
        except (FormatError, msgspec.MsgspecError):
            continue
    return None


def read_origin(read_at: Callable[[int, int], bytes], place: Place) -> Origin | None:
    """When and where the archive was made; None if that is damaged."""
    try:
        length = block_length(read_at(place.at, HEAD_SIZE))
        return _origin_decoder.decode(unpack_block(read_at(place.at, min(length, place.size))))
    except (FormatError, msgspec.MsgspecError):
        return None

"""BSD mtree(5): one line of text per path, to records and back. Opens no file.

Source: mtree(5) of FreeBSD 14 and NetBSD 10; names are encoded as vis(3) does. mtree has no words for hard links and
extended attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ..errors import FormatError
from .numbers import parse_digits
from .records import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    FILE,
    SYMLINK,
    Record,
    new_record,
    to_text,
)

_TYPES = {FILE: b"file", DIRECTORY: b"dir", SYMLINK: b"link", FIFO: b"fifo", CHARACTER: b"char", BLOCK_DEVICE: b"block"}
_KINDS = {word: kind for kind, word in _TYPES.items()}
_DEVICES = (b"char", b"block")
_LONGEST = 1 << 20  # bytes of an entry; a path and a target of 4,096 bytes each take 32 KiB at most
_USUAL = {b"type": b"file", b"uid": b"0", b"gid": b"0", b"mode": b"0644", b"nlink": b"1"}
_NEEDED = (b"type", b"uid", b"gid", b"mode", b"time")

HEAD = b"#mtree\n/set " + b" ".join(b"%s=%s" % pair for pair in _USUAL.items()) + b"\n"

# All but letters, digits and what no reader takes for a pattern, a comment, an escape or a keyword.
_SPECIAL = re.compile(rb"[^A-Za-z0-9_.,:@%+/-]")
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2}|M-.|M\^.|\^.|.)", re.DOTALL)
_LETTERS = dict(zip(b"nrbavtfs0E", b"\n\r\b\a\v\t\f \0\x1b", strict=True))
_TIME = re.compile(rb"(-?\d{1,19})(?:\.(\d{1,9}))?")


def to_line(path: bytes, record: Record, nlink: int, sha256: str = "") -> bytes:
    """What mtree says of a path below the root. nlink: the inode's names, also those outside the tree."""
    words = {
        b"type": _TYPES[record.type],
        b"uid": b"%d" % record.uid,
        b"gid": b"%d" % record.gid,
        b"mode": record.mode.encode(),
        b"nlink": b"%d" % nlink,
        b"time": b"%d.%09d" % divmod(record.mtime_ns, 10**9),
    }
    if record.type == FILE:
        words[b"size"] = b"%d" % record.size
    elif record.type == SYMLINK:
        words[b"link"] = encode(record.raw_target)
    elif record.type in (CHARACTER, BLOCK_DEVICE):
        words[b"device"] = b"native,%d,%d" % (record.major, record.minor)
    if sha256:
        words[b"sha256digest"] = sha256.encode()
    said = [b"%s=%s" % (key, value) for key, value in words.items() if _USUAL.get(key) != value]
    name = b"./" + encode(path) if path else b"."
    return b" ".join([name, *said]) + b"\n"


def encode(raw: bytes) -> bytes:
    """As vis(3) with octal escapes, which every reader of mtree knows."""
    return _SPECIAL.sub(lambda found: b"\\%03o" % found[0][0], raw)


def decode(text: bytes) -> bytes:
    """What vis(3) in any of its styles has made of some bytes."""
    return _ESCAPE.sub(lambda found: _unescape(found[1]), text)


def _unescape(code: bytes) -> bytes:
    if len(code) == 3 and code.isdigit():
        return bytes([int(code, 8)])
    if code[:1] == b"^":
        return bytes([0x7F if code[1:] == b"?" else code[1] & 0x1F])
    if len(code) == 3:
        low = code[2] if code[1:2] == b"-" else _unescape(code[1:])[0]
        return bytes([low | 0x80])
    return bytes([_LETTERS.get(code[0], code[0])])


def parse(lines: Iterable[bytes]) -> Iterator[tuple[bytes, Record]]:
    """Path below the root and record of each entry; sockets, and devices without their numbers, are passed over.

    Raises FormatError, also for an entry that lacks type, owner, mode or time.
    """
    folder: list[bytes] = []
    defaults: dict[bytes, bytes] = {}
    for number, line in _logical_lines(lines):
        first, *words = line.split()
        try:
            if first == b"..":
                folder.pop()
            elif first == b"/set":
                defaults |= _keywords(words)
            elif first == b"/unset":
                defaults = {} if b"all" in words else {k: v for k, v in defaults.items() if k not in words}
            elif first.startswith(b"/"):
                raise FormatError("an unknown command")
            else:
                path, said = _path(folder, first), defaults | _keywords(words)
                if said.get(b"type") == b"socket" or (said.get(b"type") in _DEVICES and b"device" not in said):
                    continue
                record = _record(path, said)
                yield path, record
                if record.is_dir and b"/" not in first:
                    folder.append(decode(first))
        except (FormatError, IndexError) as error:
            reason = "a .. too many" if isinstance(error, IndexError) else error
            raise FormatError(f"line {number}: {reason}") from None


def _logical_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines without comments and blank ones; those that end with a backslash go on in the next."""
    begun = b""
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            raise FormatError(f"line {number} is cut short")
        text = line.strip()
        if not begun and text.startswith(b"#"):
            continue
        if (len(text) - len(text.rstrip(b"\\"))) % 2:
            begun += text[:-1] + b" "
            if len(begun) > _LONGEST:
                raise FormatError(f"line {number} goes on for too long")
            continue
        if begun + text:
            yield number, begun + text
        begun = b""
    if begun:
        raise FormatError("the last line goes on, but nothing follows")


def _keywords(words: list[bytes]) -> dict[bytes, bytes]:
    return {key: value for key, _, value in (word.partition(b"=") for word in words)}


def _path(folder: list[bytes], text: bytes) -> bytes:
    """The whole path of an entry: with a slash it is one already, without it lies in the folder that is open."""
    name = decode(text)
    parts = name.split(b"/") if b"/" in text else [*folder, name]
    if b".." in parts or b"\0" in name:
        raise FormatError(f"{name!r} leads out of the tree")
    return b"/".join(part for part in parts if part not in (b"", b"."))


def _record(path: bytes, words: dict[bytes, bytes]) -> Record:
    needed = (*_NEEDED, b"size") if words.get(b"type") == b"file" else _NEEDED
    missing = [key.decode() for key in needed if key not in words]
    if missing:
        raise FormatError(f"is no entry of mtree, or says no {', '.join(missing)}")
    kind = _KINDS.get(words[b"type"])
    if kind is None:
        raise FormatError(f"unknown type {words[b'type']!r}")
    mode = _number(words[b"mode"], 8)
    uid, gid = _number(words[b"uid"]), _number(words[b"gid"])
    if max(uid, gid) > 2**32 - 2 or mode > 0o7777:
        raise FormatError("impossible owner or mode")
    name = path.rpartition(b"/")[2] or b"."
    record = new_record(name, kind, mode, _time(words[b"time"]), 0, uid, gid)
    if kind == FILE:
        record.size = _number(words[b"size"])
    elif kind == SYMLINK:
        record.target, record.target_b64 = to_text(decode(words.get(b"link", b"")))
        if not record.target or "\0" in record.target:
            raise FormatError("a link that leads nowhere")
    elif kind in (CHARACTER, BLOCK_DEVICE):
        record.major, record.minor = _device(words[b"device"])
    return record


def _number(text: bytes, base: int = 10) -> int:
    return parse_digits(text.decode("latin-1"), base)


def _time(text: bytes) -> int:
    """Nanoseconds since 1970. The fraction counts forwards from the second, also before 1970."""
    found = _TIME.fullmatch(text)
    if not found:
        raise FormatError(f"{text!r} is not a time")
    return int(found[1]) * 10**9 + int(found[2] or b"0")


def _device(text: bytes) -> tuple[int, int]:
    """`FORMAT,MAJOR,MINOR`."""
    parts = text.split(b",")
    if len(parts) != 3:
        raise FormatError(f"{text!r} is not a device")
    major, minor = (parse_digits(part.decode("latin-1"), 10) for part in parts[1:])
    if max(major, minor) >= 2**32:
        raise FormatError(f"{text!r} is not a device")
    return major, minor

"""A second reader of the format, written from docs/format.md alone and from the standard library alone.

It proves that the document suffices, so it must never import xtarfs or builder. Letters and numbers are rules of
the document. It opens by the locator only (O1, O2) and holds the whole archive in memory.
"""

import base64
import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

Record = dict[str, Any]
Nodes = Iterator[tuple[bytes, Record, int]]


class Bad(Exception):
    """Bytes that are not what the document says they must be."""


def need(condition: bool, what: str) -> None:
    if not condition:
        raise Bad(what)


def raw(fields: Record, key: str) -> bytes:
    """T2: the bytes of a text field."""
    return base64.b64decode(fields.get(key + "_b64", "")) or fields.get(key, "").encode()


def nanoseconds(text: str) -> int:
    """T3."""
    whole, _, fraction = text.lstrip("-").partition(".")
    return (-1 if text.startswith("-") else 1) * (int(whole) * 10**9 + int(fraction.ljust(9, "0")))


def xattrs(record: Record) -> dict[bytes, bytes]:
    """T5."""
    return {
        base64.b64decode(key[1:]) if key.startswith("=") else key.encode(): base64.b64decode(value)
        for key, value in record.get("xattrs", {}).items()
    }


class Reader:
    def __init__(self, path: Any) -> None:
        with open(path, "rb") as file:
            self.data = file.read()
        self.locator = self._find_locator()

    def read(self, at: int, size: int) -> bytes:
        need(at >= 0 and size >= 0 and at + size <= len(self.data), f"bytes {at}+{size} lie outside the archive")
        return self.data[at : at + size]

    def _find_locator(self) -> Record:
        """O1, O2."""
        end = len(self.data) - 1024
        need(end > 0 and not any(self.data[end:]), "does not end in two zero blocks")
        for at in range(end - 1024, max(end - 8192, 0) - 1, -512):
            header = self.read(at, 512)
            if header[257:263] != b"ustar\0" or header[510:512] != b"xl":
                continue
            if int(header[148:154], 8) == sum(header) - sum(header[148:156]) + 8 * 32:
                locator: Record = json.loads(self.block(at + 512)[0])
                need(locator["at"] == at and locator["xtar"] == "1-draft", "locator of another place or version")
                return locator
        raise Bad("no locator")

    def block(self, at: int, length: int | None = None) -> tuple[bytes, int]:
        """G1, G2: the text of a gzip block, and the block's length."""
        head, size = struct.unpack("<16sI", self.read(at, 20))
        need(head == b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x08\0XT\x04\0", "not a block")
        need(length in (None, size) and size > 28, "a block of another length")
        body = self.read(at, size)
        crc, text_size = struct.unpack("<II", body[-8:])
        text = inflate(body[20:-8], min(text_size, (16 << 20) + (64 << 10)))
        need(zlib.crc32(text) == crc, "a block's CRC-32")
        return text, size

    def directory(self, start: int, place: dict[str, int]) -> tuple[Record, list[Record], str]:
        """Header and records of the structure file at `place` of the tar that begins at `start`: S1 to S5."""
        at, size, index = start + place["at"], place["size"], place.get("index", 0)
        copy = self.read(self.locator["catalogue"]["at"] + place.get("catalogue", 0), size)
        need(self.read(at, size) == copy, "structure and catalogue differ")
        lines = self.block(at, None if index else size)[0].splitlines()
        if index:
            for row in json.loads(self.block(at + size - index, index)[0])["blocks"]:
                part = self.block(at + row["at"], row["length"])[0].splitlines()
                first = raw(json.loads(part[0]), "name")
                need((len(part), first) == (row["count"], raw(row, "first")), "index")
                lines += part
        header, *records = map(json.loads, lines)
        names = [raw(record, "name") for record in records]
        need(header["children"] == len(records) and names == sorted(set(names)), "children")
        need(not any(n in (b"", b".", b"..") or b"/" in n or b"\0" in n for n in names), "a name that is none")
        return header, records, hashlib.sha256(copy).hexdigest()

    def walk(self) -> Nodes:
        """(path, record, start of the containing tar) of everything, a directory before its children."""
        header, records, digest = self.directory(0, self.locator["root"])
        need(digest == self.locator["id"], "the identifier")
        yield b"", header["directory"], 0
        yield from self._walk(b"", records, 0, len(self.data))

    def _walk(self, above: bytes, records: list[Record], start: int, end: int) -> Nodes:
        for record in records:
            path = above + raw(record, "name")
            yield path, record, start
            if record["type"] == "dir":
                below = start + record["data"]
                stop = below + record["packed"]
                need(start < below < stop < end, "a directory that lies outside the one it is in")  # C3
                header, children, digest = self.directory(below, record["structure"])
                need(raw(header, "path") == path and digest == record["sha256"], "a structure of another directory")
                yield from self._walk(path + b"/", children, below, stop)

    def content(self, record: Record, start: int) -> Iterator[bytes]:
        """The content of a file's record in pieces, each checked before it is given: C1, K1 to K5."""
        size, packed, chunk = (record.get(key, 0) for key in ("size", "packed", "chunk"))
        at, deflated = start + record["data"], record.get("method", "store") == "deflate"
        if not chunk:
            data = inflate(self.read(at, packed), size) if deflated else self.read(at, packed)
            need(len(data) == size and zlib.crc32(data) == int(record["crc32"], 16), "content")
            yield data
            return
        count, table = -(-size // chunk), start + record["index"]
        head = struct.pack("<IIIIQQ", 1, 4 * count, chunk, 8, size, packed)
        need(self.read(table, 32) == head, "a chunk table of another file")
        crcs = struct.unpack(f"<{count}I", self.read(table + 32, 4 * count))
        bounds = [min(number * chunk, size) for number in range(count + 1)]
        if deflated:
            offsets = struct.unpack(f"<{count - 1}Q", self.read(table + 32 + 4 * count, 8 * (count - 1)))
            bounds = [0, *offsets, packed]
        for number, crc in enumerate(crcs):
            need(0 <= bounds[number] < bounds[number + 1] <= packed, "chunk offsets")
            data = self.read(at + bounds[number], bounds[number + 1] - bounds[number])
            data = inflate(data, min(chunk, size - number * chunk)) if deflated else data
            need(zlib.crc32(data) == crc, f"chunk {number}")
            yield data


def inflate(packed: bytes, size: int) -> bytes:
    try:
        data = zlib.decompressobj(-15).decompress(packed, size + 1)
    except zlib.error as error:
        raise Bad(str(error)) from None
    need(len(data) == size, "unpacks to another size")
    return data

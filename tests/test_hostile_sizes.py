"""Archives that were made to harm: what they claim costs neither memory nor time, and ends in an error of ours."""

from __future__ import annotations

import io
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec
import pytest

from xtarfs.checking.verify import verify
from xtarfs.errors import XtarError
from xtarfs.format import codec, locator, structure, tar
from xtarfs.format.locator import Locator, Place
from xtarfs.format.records import DEFLATE, DIRECTORY, FIFO, FILE, Header, Record, Structure, new_record, to_line
from xtarfs.format.tar import Mark
from xtarfs.reading.reader import Archive
from xtarfs.source import Source

from .damaging import opened

TAG = bytes(range(6))
HUGE = (2**31, 2**33, 2**50, 2**62)


@contextmanager
def cheaply() -> Iterator[None]:
    """What runs in this takes little time and memory."""
    tracemalloc.start()
    begin = time.process_time()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
        assert time.process_time() - begin < 30  # of its own; what is counted by hand would take hours
    finally:
        tracemalloc.stop()


def read_everything(data: bytes) -> list[bytes]:
    """Paths of the files that could be read whole; at most an XtarError comes out of anything."""
    whole = []
    with suppress(XtarError):
        archive = opened(data)
        for node in archive.walk():
            if node.record.type != FILE:
                continue
            with suppress(XtarError):
                archive.read(node, 0, 1 << 20)
                archive.read(node, node.record.size // 2, 4096)
                archive.read(node, max(node.record.size - 10, 0), 4096)
            if not archive.damaged_ranges(node):
                whole.append(node.path)
    with suppress(XtarError):
        verify(opened(data), jobs=1)
    return whole


# -- made by hand ----------------------------------------------------------------------------------------------


def by_hand(member: bytes, name: str = "x.zip") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(member)
        archive.addfile(info, io.BytesIO(member))
    return out.getvalue()


def a_zip(content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("x", content)
    return bytearray(out.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
@pytest.mark.parametrize("fields", [("size",), ("packed",), ("size", "packed")])
@pytest.mark.parametrize("claimed", [2**31, 2**32 - 2])
def test_sizes_that_a_zip_only_claims(method: int, fields: tuple[str, ...], claimed: int) -> None:
    data = a_zip(b"content" * 1000, method)
    central = data.index(b"PK\x01\x02")
    for field in fields:
        struct.pack_into("<I", data, 18 if field == "packed" else 22, claimed)
        struct.pack_into("<I", data, central + (20 if field == "packed" else 24), claimed)
    with cheaply():
        assert read_everything(by_hand(bytes(data))) == []


@pytest.mark.parametrize("claimed", HUGE)
def test_sizes_that_a_zip64_field_claims(claimed: int) -> None:
    packed = codec.pack(b"content" * 1000, 6)
    extra = struct.pack("<HHQQ", 1, 16, claimed, len(packed))
    facts = struct.pack("<HHHIIIIHH", 45, 0, 8, 0x21 << 16, 1, 2**32 - 1, 2**32 - 1, 1, len(extra))
    local = b"PK\x03\x04" + facts + b"x" + extra + packed
    central = b"PK\x01\x02" + b"\x1e\x03" + facts + bytes(14) + b"x" + extra
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    with cheaply():
        assert read_everything(by_hand(local + central + end)) == []


def test_a_central_directory_of_endless_entries() -> None:
    data = a_zip(b"content")
    struct.pack_into("<H", data, len(data) - 12, 65535)
    with cheaply():
        read_everything(by_hand(bytes(data)))


def test_a_tar_that_claims_more_than_there_is() -> None:
    for size in (2**40, 2**62):
        header = tar.pack(tar.Header(b"x.zip", size)) + bytes(a_zip(b"content"))
        with cheaply():
            read_everything(header.ljust(4096, b"\0"))


# -- with a structure whose checksums hold ---------------------------------------------------------------------


def crafted(records: list[Record], change: Callable[[Locator], Locator] = lambda facts: facts) -> bytes:
    """An archive whose root has these children; before its structure lie zeros. change: of the locator."""
    writer = structure.Writer()
    for record in records:
        writer.add(record.raw_name, to_line(record))
    root = new_record(b".", DIRECTORY, 0o755, 0, 1)
    text, index = writer.finish(
        Header(xtar=structure.FORMAT, tag=TAG.hex(), path="", children=len(records), directory=root)
    )
    data = bytearray(8192)

    def add(name: bytes, content: bytes, role: bytes) -> int:
        data.extend(tar.pack(tar.Header(name, len(content), mark=Mark(TAG, 1, role))))
        at = len(data)
        data.extend(content + bytes(tar.padding(len(content))))
        return at

    at = add(b"structure.jsonl.gz", text, tar.ROLE_STRUCTURE)
    catalogue = add(b"catalogue.jsonl.gz", text, tar.ROLE_CATALOGUE)
    place = Place(catalogue, len(text), "")
    facts = Locator(
        xtar=structure.FORMAT, writer="", id=codec.sha256(text).hex(), tag=TAG.hex(), at=len(data),
        intro=Place(512, 0, ""),
        root=Structure(at, len(text), index), catalogue=place,
        tables=place, origin=place, files=1, directories=1, others=0, bytes=0,
    )  # fmt: skip
    add(b"locator.json.gz", locator.pack(change(facts)), tar.ROLE_LOCATOR)
    return bytes(data) + tar.END


def folder(name: bytes, data: int, packed: int, place: Structure) -> Record:
    record = new_record(name, DIRECTORY, 0o755, 0, 2)
    record.at, record.data, record.packed, record.structure = 512, data, packed, place
    return record


def a_file(**fields: object) -> Record:
    record = new_record(b"file", FILE, 0o644, 0, 3)
    for name, value in ({"at": 512, "data": 1024, "crc32": "00000000"} | fields).items():
        setattr(record, name, value)
    return record


def test_a_sound_one_is_read() -> None:
    content = bytes(500)
    archive = opened(crafted([a_file(size=500, packed=500, crc32=f"{codec.crc32(content):08x}")]))
    assert archive.read(archive.lookup(b"file"), 0, 500) == content


@pytest.mark.parametrize("names", [(b"a",), (b"a", b"b")])
def test_directories_that_hold_their_parent(names: tuple[bytes, ...]) -> None:
    """Each child's structure is the root's own: a walk over it would never end, or after 2**depth steps."""
    for packed in (2**40, 9000, 1024, 0):
        archive = its_own_parent(names, packed)
        with cheaply(), suppress(XtarError):
            assert sum(1 for _ in archive.walk()) < 100
        with cheaply(), suppress(XtarError):
            verify(archive, jobs=1)


def folders_that_share_a_place() -> tuple[bytes, list[Record]]:
    """An archive: its folder `a` has a structure file's header alone, `z` all of it; and the folders between them."""
    writer = structure.Writer()
    for number in range(1000):
        record = new_record(b"%04d" % number, FIFO, 0o644, 0, number + 3)
        writer.add(record.raw_name, to_line(record))
    directory = new_record(b".", DIRECTORY, 0o755, 0, 2)
    text, index = writer.finish(
        Header(xtar=structure.FORMAT, tag=TAG.hex(), path="", children=1000, directory=directory)
    )
    whole = Structure(0, len(text), index)
    header = Structure(0, structure.block_length(text[: structure.HEAD_SIZE]))
    start, size = 512, 6000  # of the tar that both claim
    others = [folder(b"b%03d" % number, start + size + number, 1, Structure(0, 1)) for number in range(300)]
    fifos = [new_record(b"c%03d" % number, FIFO, 0o644, 0, 9) for number in range(500)]
    children = [folder(b"a", start, size, header), *others, *fifos, folder(b"z", start, size, whole)]

    def with_text_as_catalogue(facts: Locator) -> Locator:
        root = facts.root
        return msgspec.structs.replace(
            facts,
            catalogue=Place(1024, len(text), ""),
            root=Structure(root.at, root.size, root.index, root.at - 1024),
        )

    data = bytearray(crafted(children, with_text_as_catalogue))
    data[1024 : 1024 + len(text)] = text
    assert len(text) < size
    return bytes(data), others


def its_own_parent(names: tuple[bytes, ...], packed: int) -> Archive:
    length = 200
    for attempt in range(500):  # the structure states its own length, which is found by trying
        records = [folder(name, 512, packed, Structure(8192, length)) for name in names]
        records[0].user = str(attempt // 4 * 7919)
        archive = opened(crafted(records))
        assert archive.tree.locator
        if archive.tree.locator.root.size == length:
            return archive
        length = archive.tree.locator.root.size
    raise AssertionError("no length fits")


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("method", ["store", DEFLATE])
@pytest.mark.parametrize("chunk", [0, 1, 4096, 2**31, 2**62])
def test_files_of_claimed_sizes(size: int, method: str, chunk: int) -> None:
    for packed in (1000, size):
        data = crafted([a_file(size=size, packed=packed, method=method, chunk=chunk, index=2048)])
        with cheaply():
            assert read_everything(data) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"data": 2**62, "packed": 10, "size": 10},
        {"data": 2**63 - 1, "packed": 2**63 - 1, "size": 2**63 - 1},
        {"size": 100_000, "packed": 50_000, "chunk": 4096, "index": 2**63 - 1, "method": DEFLATE},
        {"size": 10, "packed": 10, "method": "lzma"},
        {"size": 10, "packed": 10, "crc32": "zz"},
        {"size": 10, "packed": 10, "mtime": "never"},
        {"size": 10, "packed": 10, "link": "file"},
        {"size": 10, "packed": 10, "link": "nowhere"},
        {"size": 10, "packed": 10, "link": "file/below"},
    ],
)
def test_records_that_make_no_sense(fields: dict[str, object]) -> None:
    with cheaply():
        assert read_everything(crafted([a_file(**fields)])) == []


@pytest.mark.parametrize(
    "place", [Structure(0, 2**62), Structure(2**62, 100), Structure(0, 100, 2**62), Structure(5, 0)]
)
def test_a_locator_that_points_elsewhere(place: Structure) -> None:
    changes: list[dict[str, object]] = [
        {"root": place},
        {"catalogue": Place(2**62, 2**62, "")},
        {"origin": Place(0, 2**62, "00")},
    ]
    for change in changes:
        data = crafted([a_file()], lambda facts: msgspec.structs.replace(facts, **change))  # noqa: B023 - called now
        with cheaply():
            read_everything(data)


def test_the_source_is_never_asked_for_more_than_it_has() -> None:
    class Strict(Source):
        name = "strict"

        def __init__(self, data: bytes) -> None:
            self.data, self.size = data, len(data)

        def read_at(self, offset: int, size: int) -> bytes:
            assert size <= 64 << 20
            return self.data[max(offset, 0) : max(offset, 0) + max(size, 0)]

        def close(self) -> None:
            pass

    data = crafted([a_file(size=2**50, packed=2**50, chunk=4096, index=2048, method=DEFLATE)])
    archive = Archive(Strict(data))
    assert archive.damaged_ranges(archive.lookup(b"file")) == [(0, 2**50)]


def test_folders_that_share_a_place() -> None:
    with opened(folders_that_share_a_place()[0]) as archive:
        assert list(archive.children(archive.lookup(b"a"))) == []
        assert len(list(archive.children(archive.lookup(b"z")))) == 1000

"""docs/format.md is true: a reader written from it alone reads what we write, and it names every field there is."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from builder.building.build import Options, build
from builder.writing.compress import Settings
from xtarfs.format import intro, locator, records, tar

from . import second_reader, trees

DOCUMENT = Path(__file__).parent.parent / "docs" / "format.md"
STRUCTS = [
    records.Record,
    records.Header,
    records.Structure,
    records.BlockStart,
    records.Index,
    records.Elsewhere,
    records.Part,
    locator.Locator,
    locator.Base,
    locator.VolumeSet,
    locator.Origin,
    locator.Place,
]
_ANNEX = re.compile(r"(?<=```dump\n).*?(?=```)", re.DOTALL)
_TIME = 1_700_000_000 * 10**9
_INTRO = b"How to restore this archive by hand: ...\n"  # stands in for the long text, so that this may change


def _section(name: str) -> str:
    """The part of the document under the heading that ends in a struct's name."""
    found = re.search(rf"^###.* {name}\n(.*?)(?=^#)", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"docs/format.md has no section {name}"
    return found[1]


@pytest.mark.parametrize("struct_type", STRUCTS, ids=lambda struct_type: struct_type.__name__)
def test_the_document_has_exactly_the_fields_there_are(struct_type: Any) -> None:
    documented = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", _section(struct_type.__name__), re.MULTILINE)
    names = [name for cell in documented for name in re.findall(r"\w+", cell)]
    assert sorted(names) == sorted(field.encode_name for field in msgspec.structs.fields(struct_type))


def test_the_document_stays_short() -> None:
    assert len(DOCUMENT.read_text().splitlines()) <= 500


def test_the_second_reader_stands_alone() -> None:
    code = Path(second_reader.__file__).read_text()
    assert len(code.splitlines()) <= 150
    used = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used.add(f"{'.' * node.level}{node.module}")
    assert {name.partition(".")[0] for name in used} <= sys.stdlib_module_names


def test_the_second_reader_reads_the_menagerie(archive: Path, menagerie: Path) -> None:
    found = _snapshot(second_reader.Reader(archive))
    assert trees.differences(trees.snapshot(menagerie), found) == []


def _snapshot(reader: second_reader.Reader) -> dict[bytes, Any]:
    """What `trees.snapshot` gives of a source, from what the second reader reads."""
    nodes = {path: (record, start) for path, record, start in reader.walk()}
    inodes: dict[int, bytes] = {}
    found: dict[bytes, Any] = {}
    for path, (record, _) in nodes.items():
        facts: dict[str, Any] = {
            "mode": oct(records.TYPE_BITS[record["type"]] | int(record["mode"], 8)),
            "owner": (record["uid"], record["gid"]),
            "mtime": second_reader.nanoseconds(record["mtime"]),
            "xattrs": {os.fsdecode(name): value for name, value in second_reader.xattrs(record).items()},
        }
        if record["type"] == "symlink":
            facts["target"] = second_reader.raw(record, "target")
        elif record["type"] == "file":
            data_record, start = nodes[second_reader.raw(record, "link")] if "link" in record else nodes[path]
            digest = hashlib.sha256()
            for piece in reader.content(data_record, start):
                digest.update(piece)
            assert digest.hexdigest() == data_record["sha256"]
            facts |= {"content": digest.hexdigest(), "size": record.get("size", 0), "links": record.get("nlink", 1)}
            facts["first name"] = inodes.setdefault(record["ino"], path)
        elif record["type"] != "dir":
            facts["device"] = os.makedev(record.get("major", 0), record.get("minor", 0))
        found[path] = facts
    return found


def test_the_locator_counts_what_there_is(archive: Path) -> None:
    reader = second_reader.Reader(archive)
    found = [record for _, record, _ in reader.walk()]
    files = [record for record in found if record["type"] == "file"]
    assert reader.locator["files"] == len(files)
    assert reader.locator["directories"] == sum(record["type"] == "dir" for record in found)
    assert reader.locator["others"] == sum(record["type"] not in ("file", "dir") for record in found)
    assert reader.locator["bytes"] == sum(record.get("size", 0) for record in files)


def test_xattr_names_as_gnu_tar_escapes_them(tmp_path: Path) -> None:
    """Rule P6: a pax key ends at its first `=`."""
    (tmp_path / "tree").mkdir()
    trees.write(tmp_path / "tree" / "f")
    os.setxattr(tmp_path / "tree" / "f", "user.a=b%c%3D", b"value=")
    build(str(tmp_path / "tree"), str(tmp_path / "x.xtar"), Options())
    subprocess.run(["tar", "--xattrs", "--xattrs-include=*", "-xf", "x.xtar", "f.zip"], cwd=tmp_path, check=True)
    assert os.getxattr(tmp_path / "f.zip", "user.a=b%c%3D") == b"value="
    data = (tmp_path / "x.xtar").read_bytes()
    found = [member.header.pax for member in tar.members(lambda at, size: data[at : at + size], 0, len(data))]
    assert {"SCHILY.xattr.user.a=b%c%3D": b"value="} in found


@pytest.mark.parametrize("name", ["rose", "noise"])
def test_a_flipped_bit_is_one_chunk(tmp_path: Path, name: str) -> None:
    """Documented rule C1, of a deflated and of a stored file: nothing wrong is handed out before the fault."""
    _sample(tmp_path / "tree")
    (tmp_path / "tree" / "noise").write_bytes(trees.noise(9000))
    path = tmp_path / "x.xtar"
    build(str(tmp_path / "tree"), str(path), Options(settings=Settings(chunk_size=4096)))
    source = (tmp_path / "tree" / ("noise" if name == "noise" else "sub/rose.txt")).read_bytes()
    reader = second_reader.Reader(path)
    record, start = next((r, s) for _, r, s in reader.walk() if r["name"].startswith(name))
    pristine = reader.data
    at = start + record["data"]
    for offset in range(0, record["packed"], max(record["packed"] // 40, 1)):
        damaged = bytearray(pristine)
        damaged[at + offset] ^= 1 << offset % 8
        reader.data = bytes(damaged)
        had = bytearray()
        try:
            for piece in reader.content(record, start):
                had += piece
        except second_reader.Bad:
            assert len(had) < len(source)
        assert source.startswith(had)


# -- the annex -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="the dump shows files that belong to root")
def test_the_dump_is_of_a_real_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intro, "TEXT", _INTRO)
    found = _ANNEX.search(DOCUMENT.read_text())
    assert found
    assert found[0] == _dump(tmp_path), "run `python -m tests.test_format_document` to write the annex anew"


def _sample(root: Path) -> None:
    """Two files and a subdirectory: one stored, one in two chunks of 4 KiB."""
    (root / "sub").mkdir(parents=True)
    trees.write(root / "hello.txt", b"Hello, world!\n", mtime_ns=_TIME + 500_000_000)
    trees.write(root / "sub" / "rose.txt", b"Rose is a rose is a rose is a rose.\n" * 150, mtime_ns=_TIME)
    for folder in (root / "sub", root):
        os.chmod(folder, 0o755)
        os.utime(folder, ns=(_TIME, _TIME))


def _dump(folder: Path) -> str:
    """The annex: the archive of `_sample`, up to what differs from machine to machine."""
    _sample(folder / "tree")
    path = folder / "x.xtar"
    build(str(folder / "tree"), str(path), Options(settings=Settings(chunk_size=4096)))
    out: list[str] = []
    _dump_tar(path.read_bytes(), 0, out, "")
    origin = next(number for number, line in enumerate(out) if line.endswith("role o"))
    place = re.compile(r'(?<="origin":){.*?}|(?<="at":)\d+(?=,"intro")|(?<="writer":)".*?"')
    out[origin:] = [re.sub(r"^[0-9a-f]{6}|size \d+", lambda m: "." * len(m[0]), line) for line in out[origin:]]
    return "\n".join(place.sub("...", line) for line in out) + "\n"


def _dump_tar(data: bytes, start: int, out: list[str], indent: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(data[start:])) as members:
        for member in members:
            at, body = start + member.offset, start + member.offset_data
            mark = data[at + 500 : at + 512]
            role = chr(mark[11])
            name = "./" if member.isdir() else member.name
            out.append(f"{at:06x}  {indent}tar header {name}, size {member.size}, role {role}")
            if role == "f":
                _rows(data, at + 500, out, indent + "  ", (12, "mark: tag, inode number of the directory, x, role"))
                _dump_zip(data, body, out, indent + "  ")
            elif role == "d":
                _dump_tar(data, body, out, indent + "    ")
            elif role == "s":
                _rows(data, body, out, indent + "  ", (10, "gzip header"), (10, "extra: 8, XT, 4, length of the block"))
                _dump_text(data, body, out, indent)
            elif role == "l":
                _dump_text(data, body, out, indent)
            last = body + member.size
    out.append(f"{last + -last % 512:06x}  {indent}two zero blocks")


def _rows(data: bytes, at: int, out: list[str], indent: str, *fields: tuple[int, str]) -> int:
    for length, meaning in fields:
        shown = data[at : at + length].hex(" ") if length <= 24 else data[at : at + 8].hex(" ") + " ..."
        out.append(f"{at:06x}  {indent}{shown}  {meaning}")
        at += length
    return at


def _dump_zip(data: bytes, at: int, out: list[str], indent: str) -> None:
    method, packed = struct.unpack_from("<8xH8xI", data, at)
    at = _dump_header(data, at, out, indent, "local header", 30)
    at = _rows(data, at, out, indent, (packed, f"{packed} bytes of data, {'deflated' if method else 'stored'}"))
    if data[at : at + 4] == b"PK\3\4":
        at = _dump_header(data, at, out, indent, "local header of the chunk table", 30)
        at = _rows(data, at, out, indent, (16, "version 1, 8 bytes of CRCs, chunks of 4096, offsets of 8 bytes"))
        at = _rows(data, at, out, indent, (16, "size, packed size"), (8, "two CRC-32"), (8, "where chunk 1 begins"))
    at = _dump_header(data, at, out, indent, "central directory", 46)
    _rows(data, at, out, indent, (22, "end record"))


def _dump_header(data: bytes, at: int, out: list[str], indent: str, what: str, fixed: int) -> int:
    name, extra = struct.unpack_from("<HH", data, at + (28 if fixed == 46 else 26))
    text = data[at + fixed : at + fixed + name].decode()
    at = _rows(data, at, out, indent, (fixed, f"{what} ({fixed} bytes)"), (name, f"name {text}"))
    meanings = {0x5455: "UT: modified", 0x7875: "ux: uid, gid", 0x5458: "XT: version, tag, nanoseconds, mode"}
    end = at + extra
    while at < end:
        kind, length = struct.unpack_from("<HH", data, at)
        at = _rows(data, at, out, indent, (4 + length, meanings[kind]))
    return at


def _dump_text(data: bytes, at: int, out: list[str], indent: str) -> None:
    reader = object.__new__(second_reader.Reader)
    reader.data = data
    out.extend(f"          {indent}{line}" for line in reader.block(at)[0].decode().splitlines())


if __name__ == "__main__":
    intro.TEXT = _INTRO
    with tempfile.TemporaryDirectory() as temporary:
        dump = _dump(Path(temporary))
    DOCUMENT.write_text(_ANNEX.sub(lambda _: dump, DOCUMENT.read_text()))

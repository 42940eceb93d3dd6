"""Incremental copies: what is stored and what is left to the copy before, whatever happened to the source."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xtarfs
from builder.building.build import Options, build, survey
from builder.building.summary import ATTRIBUTES, CHANGED, GONE, MOVED, NEW, UNCHANGED, describe
from builder.building.write import Result
from builder.commands.cli import main
from builder.scanning import identities, incremental
from builder.writing import files
from builder.writing.compress import SEGMENT
from xtarfs.errors import UsageError
from xtarfs.format.locator import Locator
from xtarfs.format.records import Record
from xtarfs.restoring.extract import ExtractOptions, extract

from . import second_reader, trees

LARGE = SEGMENT + 5
CONTENTS = {
    "one": b"the first",
    "two": b"the other",  # of the same size
    "words": trees.words(100_000),
    "noise": trees.noise(50_000),
    "empty": b"",
    "zeros": bytes(65536),
    "large": trees.words(LARGE),
    "folder/inside": b"in a folder",
    "folder/deeper/file": trees.words(5000, 7),
    "caf\udce9": b"a name that is not UTF-8",
}


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies claim to be made long after the files of a test, so that these need not be compared by content."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "4000000000")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for name, content in CONTENTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        trees.write(root / name, content)
    os.symlink("one", root / "link")
    os.link(root / "words", root / "words again")
    trees.sparse(root / "sparse", 3 << 20, {0: b"begin", 2 << 20: trees.words(5000)})
    trees.set_times(root)
    return root


def copy(source: Path, number: int, base: int = 0, **options: object) -> Result:
    """Copy `number` of the source, beside it."""
    previous = str(archive(source, base)) if base else ""
    return build(str(source), str(archive(source, number)), Options(base=previous, **options))  # type: ignore[arg-type]


def archive(source: Path, number: int) -> Path:
    return source.parent / f"{number}.xtar"


def records(source: Path, number: int) -> dict[str, Record]:
    with xtarfs.open(str(archive(source, number))) as opened:
        return {os.fsdecode(node.path): node.record for node in opened.walk()}


def locator(source: Path, number: int) -> Locator:
    with xtarfs.open(str(archive(source, number))) as opened:
        assert opened.tree.locator
        return opened.tree.locator


def stored(source: Path, number: int) -> set[str]:
    """The files whose data lies in that copy itself."""
    return {
        path
        for path, record in records(source, number).items()
        if record.type == "file" and not record.link and not record.elsewhere
    }


def is_right(source: Path, number: int) -> bool:
    """Whether what the copy restores is the source, by what the file system says of both."""
    out = Path(tempfile.mkdtemp(dir=source.parent))
    with xtarfs.open(str(archive(source, number))) as opened:
        assert extract(opened, str(out), [], ExtractOptions()).complete
    found = trees.differences(trees.snapshot(source, holes=True), trees.snapshot(out, holes=True))
    assert found == []
    return True


def count(result: Result) -> dict[str, int]:
    assert result.changes
    return {reason: tally.files for reason, tally in result.changes.tallies.items() if tally.files}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of the source that were opened, as the list grows."""
    names: list[str] = []
    original = files._opened

    def noting(job: files.Job) -> object:
        names.append(os.fsdecode(job.item.path))
        return original(job)

    monkeypatch.setattr(files, "_opened", noting)
    return names


# -- unchanged ---------------------------------------------------------------------------------------------------


def test_what_did_not_change_is_neither_read_nor_stored(source: Path, opened: list[str]) -> None:
    copy(source, 1)
    opened.clear()
    result = copy(source, 2, base=1)
    assert opened == []
    assert stored(source, 2) == set()
    assert count(result) == {UNCHANGED: len(CONTENTS) + 1}
    assert result.size < archive(source, 1).stat().st_size / 4
    assert is_right(source, 2)


def test_records_are_those_of_the_base_but_for_the_place(source: Path) -> None:
    copy(source, 1)
    copy(source, 2, base=1)
    with xtarfs.open(str(archive(source, 1))) as first, xtarfs.open(str(archive(source, 2))) as second:
        for node in first.walk():
            record = second.lookup(node.path).record
            if record.type == "file" and not record.link:
                assert record.elsewhere and record.elsewhere.archive == locator(source, 1).id
                assert (record.at, record.data) == (node.base + node.record.at, node.base + node.record.data)
                for key in ("size", "packed", "method", "chunk", "table_copy", "crc32", "sha256", "holes", "nlink"):
                    assert getattr(record, key) == getattr(node.record, key)


def test_a_second_reader_finds_the_data_by_the_document(source: Path) -> None:
    copy(source, 1)
    trees.write(source / "one", b"another first")
    copy(source, 2, base=1)
    holders = {
        second_reader.Reader(path).locator["id"]: second_reader.Reader(path)
        for path in (archive(source, 1), archive(source, 2))
    }
    here = second_reader.Reader(archive(source, 2))
    assert [base["name"] for base in here.locator["base"]] == ["1.xtar"]
    seen = 0
    for path, record, start in here.walk():
        if record["type"] == "file" and "link" not in record:
            place = record.get("elsewhere")
            content = holders[place["archive"]].content(record, 0) if place else here.content(record, start)
            assert b"".join(content) == (source / os.fsdecode(path)).read_bytes()
            seen += 1
    assert seen == len(CONTENTS) + 1


def test_later_copies_lead_to_the_holder_itself(source: Path) -> None:
    copy(source, 1)
    trees.write(source / "one", b"another first")
    copy(source, 2, base=1)
    trees.write(source / "two", b"another second")
    copy(source, 3, base=2)
    copy(source, 4, base=3)
    ids = {number: locator(source, number).id for number in (1, 2, 3)}
    held = {path: record.elsewhere for path, record in records(source, 4).items()}
    assert {path: held[path].archive for path in ("one", "two", "noise")} == {  # type: ignore[union-attr]
        "one": ids[2],
        "two": ids[3],
        "noise": ids[1],
    }
    facts = locator(source, 4)
    assert [(base.id, base.name) for base in facts.base] == [(ids[n], f"{n}.xtar") for n in (1, 2, 3)]
    assert facts.previous == ids[3]
    assert is_right(source, 4)


def test_archives_that_nothing_is_left_in_are_not_listed(source: Path) -> None:
    copy(source, 1)
    for path in [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]:
        path.unlink()
    trees.write(source / "only", b"this")
    copy(source, 2, base=1)
    copy(source, 3, base=2)
    assert [base.name for base in locator(source, 2).base] == []
    assert [base.name for base in locator(source, 3).base] == ["2.xtar"]


def test_the_number_of_workers_changes_no_byte(source: Path) -> None:
    copy(source, 1)
    trees.write(source / "one", b"another first")
    os.rename(source / "noise", source / "nuisance")
    copy(source, 2, base=1, jobs=1)
    copy(source, 3, base=1, jobs=4)
    assert archive(source, 2).read_bytes() == archive(source, 3).read_bytes()


# -- changes -----------------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[str, set[str], dict[str, int]]] = {
    "nothing": (":", set(), {}),
    "content": ("echo longer than it was > one", {"one"}, {CHANGED: 1}),
    "content of the same size and time": (
        "touch -r one ../time; printf 'not first' > one; touch -r ../time one", {"one"}, {CHANGED: 1},
    ),
    "large content": ("tr a-m n-z < large > x; cat x > large; rm x", {"large"}, {CHANGED: 1}),
    "appended": ("echo >> large", {"large"}, {CHANGED: 1}),
    "emptied": (": > one", {"one"}, {CHANGED: 1}),
    "time only": ("touch -d @1 words", set(), {ATTRIBUTES: 1}),
    "time of a large one": ("touch -d @1 large", set(), {ATTRIBUTES: 1}),
    "content of another age": ("echo long ago > one; touch -d @-9999999999 one", {"one"}, {CHANGED: 1}),
    "content of the future": ("echo far away > one; touch -d @9999999999 one", {"one"}, {CHANGED: 1}),
    "mode": ("chmod 600 one", set(), {ATTRIBUTES: 1}),
    "mode and back": ("chmod 600 one; chmod 644 one", set(), {}),
    "xattr": ("setfattr -n user.colour -v red one", set(), {ATTRIBUTES: 1}),
    "written anew": ("cp noise x; rm noise; mv x noise", set(), {ATTRIBUTES: 1}),
    "renamed": ("mv one uno", set(), {MOVED: 1}),
    "renamed, large": ("mv large folder/huge", set(), {MOVED: 1}),
    "renamed over another": ("mv one noise", set(), {MOVED: 1}),
    "renamed over one of the same size": ("mv one two", set(), {MOVED: 1}),
    "exchanged": ("mv one x; mv two one; mv x two", set(), {MOVED: 2}),
    "renamed folder": ("mv folder 'a folder'", set(), {MOVED: 2}),
    "renamed and rewritten": ("mv one uno; printf rewritten > uno", {"uno"}, {NEW: 1, GONE: 1}),
    "another in its place": ("mv one uno; echo new > one", {"one"}, {MOVED: 1, CHANGED: 1}),
    "copied": ("cp one copy", {"copy"}, {NEW: 1}),
    "new": ("echo new > new", {"new"}, {NEW: 1}),
    "deleted": ("rm one", set(), {GONE: 1}),
    "deleted folder": ("rm -r folder", set(), {GONE: 2}),
    "deleted and renamed": ("rm two; mv one uno", set(), {MOVED: 1, GONE: 1}),
    "all deleted but one": ("find . -mindepth 1 ! -name one -delete", set(), {GONE: 11}),
    "file to folder": ("rm one; mkdir one; echo it > one/in", {"one/in"}, {NEW: 1, GONE: 1}),
    "folder to file": ("rm -r folder; echo file > folder", {"folder"}, {NEW: 1, GONE: 2}),
    "file to symlink": ("ln -sf two one", set(), {GONE: 1}),
    "symlink to file": ("rm link; echo file > link", {"link"}, {NEW: 1}),
    "symlink to folder": ("rm link; mkdir link", set(), {}),
    "further name": ("ln one 'a name before it'", set(), {}),
    "first name gone": ("rm words", set(), {GONE: 1}),
    "last link gone": ("rm 'words again'", set(), {GONE: 1}),
    "hole filled": ("printf 'no hole' | dd of=sparse bs=1 seek=1048576 conv=notrunc", {"sparse"}, {CHANGED: 1}),
    "hole made": ("fallocate -p -o 0 -l 65536 zeros", set(), {ATTRIBUTES: 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_change(source: Path, name: str) -> None:
    script, taken, reasons = CHANGES[name]
    copy(source, 1)
    subprocess.run(["sh", "-ec", script], cwd=source, check=True, stderr=subprocess.DEVNULL)
    result = copy(source, 2, base=1)
    assert result.problems == result.notices == []
    assert stored(source, 2) == taken
    assert {reason: files for reason, files in count(result).items() if reason != UNCHANGED} == reasons
    assert is_right(source, 2)


def test_there_and_back_again(source: Path) -> None:
    copy(source, 1)
    (source / "one").unlink()
    (source / "one").mkdir()
    copy(source, 2, base=1)
    (source / "one").rmdir()
    trees.write(source / "one", CONTENTS["one"])
    copy(source, 3, base=2)
    assert stored(source, 3) == {"one"}
    assert is_right(source, 3)


def test_a_renamed_file_tells_where_it_was(source: Path) -> None:
    copy(source, 1)
    os.rename(source / "one", source / "uno")
    os.rename(source / "caf\udce9", source / "tea")
    copy(source, 2, base=1)
    copy(source, 3, base=2)
    os.rename(source / "uno", source / "un")
    copy(source, 4, base=3)
    first = locator(source, 1).id
    former = {
        number: {
            path: record.raw_former
            for path, record in records(source, number).items()
            if record.elsewhere and record.former and record.elsewhere.archive == first
        }
        for number in (2, 3, 4)
    }
    assert former[2] == former[3] == {"uno": b"one", "tea": b"caf\xe9"}
    assert former[4] == {"un": b"uno", "tea": b"caf\xe9"}


def test_an_inode_number_used_again_means_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(source, 1)
    monkeypatch.setattr(identities.InodeTable, "find", lambda self, inode, size: b"one")
    (source / "one").unlink()
    trees.write(source / "stranger", b"no friend")
    copy(source, 2, base=1)
    assert stored(source, 2) == {"stranger"}


# -- when attributes say nothing -----------------------------------------------------------------------------------


def test_what_changed_while_the_base_was_made_is_compared(
    source: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's times must lie safely before the base's own, as all of them do not here."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(time.time())))
    copy(source, 1)
    opened.clear()
    copy(source, 2, base=1)
    assert set(opened) == {*CONTENTS, "sparse"}
    assert stored(source, 2) == set()


def test_checksum_reads_everything(source: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    copy(source, 1)
    trees.write(source / "one", b"not first")
    identity = source.stat()
    monkeypatch.setattr(incremental.PreviousCopy, "_is_certain", lambda self, *_: not self._checksum)
    copy(source, 2, base=1)
    assert stored(source, 2) == set(), "a change that no attribute tells of"
    opened.clear()
    copy(source, 3, base=1, checksum=True)
    assert set(opened) == {*CONTENTS, "sparse"}
    assert stored(source, 3) == {"one"}
    assert source.stat() == identity


def test_a_file_that_changed_while_it_was_read_is_compared(
    source: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "_has_changed", lambda fd, before: before.st_size == len(CONTENTS["noise"]))
        patch.setattr("builder.writing.packer._core", None)  # it looks for itself
        assert [path for path, _ in copy(source, 1).problems] == [b"noise"]
    opened.clear()
    assert copy(source, 2, base=1).problems == []
    assert opened == ["noise"]
    assert stored(source, 2) == set()
    opened.clear()
    copy(source, 3, base=2)
    assert opened == [], "known to be whole by now"


def test_a_damaged_origin_costs_reading_only(source: Path, opened: list[str]) -> None:
    copy(source, 1)
    place = locator(source, 1).origin
    damage(archive(source, 1), place.at, place.size)
    opened.clear()
    copy(source, 2, base=1)
    assert set(opened) == {*CONTENTS, "sparse"}
    assert stored(source, 2) == set()


def test_what_the_base_has_lost_the_records_of_is_stored_anew(source: Path) -> None:
    copy(source, 1)
    facts = locator(source, 1)
    with xtarfs.open(str(archive(source, 1))) as first:
        node = first.lookup("folder")
        place = node.record.structure
        assert place
        at = node.base + node.record.data + place.at
    damage(archive(source, 1), at, place.size)
    damage(archive(source, 1), facts.catalogue.at + place.catalogue, place.size)
    result = copy(source, 2, base=1)
    assert result.problems == []
    assert any("damaged" in reason and "1.xtar" in reason for _, reason in result.notices)
    assert stored(source, 2) == {"folder/inside"}
    assert is_right(source, 2)


def damage(path: Path, at: int, size: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes(size))


def test_hard_links_whose_first_name_cannot_be_read(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(source, 1)
    os.utime(source / "words")
    original = files._opened

    def failing(job: files.Job) -> object:
        if job.item.name == b"words":
            raise OSError(5, "Input/output error")
        return original(job)

    monkeypatch.setattr(files, "_opened", failing)
    result = copy(source, 2, base=1)
    assert [path for path, _ in result.problems] == [b"words"]
    assert stored(source, 2) == {"words again"}


def test_a_folder_that_cannot_be_read_any_more(source: Path) -> None:
    copy(source, 1)
    result = copy(source, 2, base=1, selection=files_from(b"one", b"gone"))
    assert [path for path, _ in result.problems] == [b"gone"]
    assert set(records(source, 2)) == {"one"}
    assert stored(source, 2) == set()


def files_from(*paths: bytes) -> object:
    from builder.scanning.scan import Selection

    return Selection(only=list(paths))


# -- what is told --------------------------------------------------------------------------------------------------


def test_summary_by_groups_of_activity(source: Path) -> None:
    copy(source, 1)
    noon = 1_600_000_000 * 10**9
    for name, minutes in (("folder/new", 0), ("folder/newer", 50), ("one", 100), ("folder/deeper/old", -200)):
        trees.write(source / name, b"12345", mtime_ns=noon + minutes * 60 * 10**9)
    (source / "two").unlink()
    result = copy(source, 2, base=1)
    assert result.changes
    groups = [
        (group.begin, group.end, group.content, dict(group.reasons), dict(group.folders))
        for group in result.changes.groups
    ]
    assert groups == [
        (noon, noon + 6000 * 10**9, 15, {NEW: 2, CHANGED: 1}, {b"folder": 2, b"": 1}),
        (noon - 12000 * 10**9, noon - 12000 * 10**9, 5, {NEW: 1}, {b"folder/deeper": 1}),
    ]
    lines = list(describe(result.changes))
    assert lines[0].startswith("since the base: 3 new (15 B), 1 content changed (5 B), 1 deleted (9 B), ")
    assert lines[1].endswith("  1 h 40 min  2 new, 1 content changed, 15 B to store; in folder, /")
    assert lines[2].endswith("  0 s  1 new, 5 B to store; in folder/deeper")
    assert len(lines) == 3


def test_of_many_groups_the_newest_are_told(source: Path) -> None:
    copy(source, 1)
    for number in range(15):
        trees.write(source / f"new {number}", b"x", mtime_ns=(10**9 + number * 10_000) * 10**9)
    lines = list(describe(copy(source, 2, base=1).changes))  # type: ignore[arg-type]
    assert len(lines) == 12
    assert lines[-1] == "  ... and 5 earlier groups"


def test_a_dry_run_tells_the_same_and_writes_nothing(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy(source, 1)
    trees.write(source / "one", b"not first")
    trees.write(source / "new", b"new")
    os.rename(source / "large", source / "largest")
    os.chmod(source / "two", 0o600)
    (source / "noise").unlink()
    before = sorted(source.parent.iterdir())
    arguments = ["build", str(source), "--base", str(archive(source, 1)), "-o", str(archive(source, 2))]
    assert main([*arguments, "--dry-run"]) == 0
    dry = capsys.readouterr().out.splitlines()
    assert sorted(source.parent.iterdir()) == before
    assert main(arguments) == 0
    wet = capsys.readouterr().out.splitlines()
    assert "1 new (3 B), 1 content changed (9 B), 1 renamed, 1 attributes only, 1 deleted (50.0 kB)" in wet[2]
    assert dry[1:] == wet[2:]
    assert dry[0].startswith(f"{source}: would show ") and wet[0].startswith(f"{archive(source, 2)}: shows ")


def test_survey_without_a_base_compares_nothing(source: Path) -> None:
    assert survey(str(source), Options())[1].changes is None


# -- what is refused -----------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], source: Path, *arguments: str) -> str:
    """The one line with which a build is refused; nothing is written."""
    before = {path: path.read_bytes() for path in source.parent.iterdir() if path.is_file()}
    capsys.readouterr()
    assert main(["build", str(source), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert {path: path.read_bytes() for path in source.parent.iterdir() if path.is_file()} == before
    return captured.err


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "tar", "cut off"])
def test_a_base_that_is_none(source: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    base = source.parent / "base.xtar"
    if kind == "folder":
        base.mkdir()
    elif kind in ("text", "empty"):
        trees.write(base, b"no archive\n" * 100 if kind == "text" else b"")
    elif kind == "tar":
        subprocess.run(["tar", "cf", base, "-C", source, "."], check=True)
    elif kind == "cut off":
        copy(source, 1)
        trees.write(base, archive(source, 1).read_bytes()[:-2048])
    line = refused(capsys, source, "--base", str(base), "-o", str(archive(source, 2)))
    assert "base.xtar" in line


def test_a_base_that_does_not_belong(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    trees.write(other / "something else", b"x")
    build(str(other), str(archive(source, 1)), Options())
    line = refused(capsys, source, "--base", str(archive(source, 1)), "-o", str(archive(source, 2)))
    assert "is no copy of" in line and "build without --base" in line


def test_a_source_that_is_none(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy(source, 1)
    os.rename(source, source.parent / "away")
    line = refused(capsys, source, "--base", str(archive(source, 1)), "-o", str(archive(source, 2)))
    assert "give a directory" in line


def test_a_source_that_moved_still_belongs(source: Path) -> None:
    copy(source, 1)
    moved = source.parent / "moved"
    subprocess.run(["cp", "-a", source, moved], check=True)
    build(str(moved), str(archive(source, 2)), Options(base=str(archive(source, 1))))
    assert stored(source, 2) == set()
    for path in moved.iterdir():  # all names at the top are new, but the folder itself is the one of copy 2
        path.rename(moved / f"{path.name} renamed")
    build(str(moved), str(archive(source, 3)), Options(base=str(archive(source, 2))))
    assert stored(source, 3) == set()


@pytest.mark.parametrize("output", ["1.xtar", "2.xtar", "again.xtar"])
def test_no_archive_of_the_chain_is_replaced(source: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    copy(source, 1)
    trees.write(source / "one", b"changed")
    copy(source, 2, base=1)
    os.symlink("2.xtar", source.parent / "again.xtar")
    refused(capsys, source, "--base", str(archive(source, 2)), "--force", "-o", str(source.parent / output))


def test_another_archive_is_replaced(source: Path) -> None:
    copy(source, 1)
    copy(source, 2, base=1)
    trees.write(source / "one", b"changed")
    copy(source, 2, base=1, force=True)
    assert stored(source, 2) == {"one"}


def test_checksum_needs_a_base(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--base" in refused(capsys, source, "--checksum", "-o", str(archive(source, 1)))


def test_a_chain_too_long_for_its_locator(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incremental, "ROOM_FOR_LISTS", 200)
    copy(source, 1)
    for number in range(2, 5):
        trees.write(source / f"file {number}", b"x")
        if number < 4:
            copy(source, number, base=number - 1)
    with pytest.raises(UsageError, match="'xtar merge' them first"):
        copy(source, 4, base=3)
    assert not archive(source, 4).exists()


# -- interruptions -------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from xtarfs import draft
from builder.writing import output
left = int(sys.argv.pop(1))
def counted(function):
    def run(*arguments, **options):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*arguments, **options)
    return run
output._BUFFER = 4096
for name in ("write_at", "commit", "_publish", "_link"):
    setattr(draft.Draft, name, counted(getattr(draft.Draft, name)))
os.fsync, os.rename, os.link = map(counted, (os.fsync, os.rename, os.link))
from builder.commands.cli import main
sys.exit(main())
"""


def test_killed_between_any_two_writes_no_archive_is_harmed(source: Path) -> None:
    copy(source, 1)
    trees.write(source / "noise", trees.noise(30_000, 2))
    build(str(source), str(archive(source, 2)), Options(base=str(archive(source, 1))))
    trees.write(source / "two", b"changed since")
    before = {number: archive(source, number).read_bytes() for number in (1, 2)}
    arguments = ["build", str(source), "--base", str(archive(source, 1)), "--force", "-o", str(archive(source, 2))]
    kills = 0
    for step in (0, 1, 3, 6, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 25, 10_000):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(step), *arguments], capture_output=True, check=False, timeout=60
        )
        assert archive(source, 1).read_bytes() == before[1]
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
        now = archive(source, 2).read_bytes()
        assert now == before[2] or is_right(source, 2)
    assert kills >= 5
    assert archive(source, 2).read_bytes() != before[2]
    assert is_right(source, 2)


# -- anything ------------------------------------------------------------------------------------------------------

PLACES = st.sampled_from(["a", "b", "b/x", "c", "c/x", "c/y/z"])
EDITS = st.one_of(
    st.tuples(st.just("write"), PLACES, st.integers(0, 3)),
    st.tuples(st.just("rename"), PLACES, PLACES),
    st.tuples(st.just("link"), PLACES, PLACES),
    st.tuples(st.just("symlink"), PLACES, PLACES),
    st.tuples(st.just("remove"), PLACES),
    st.tuples(st.just("chmod"), PLACES, st.sampled_from([0o600, 0o755])),
    st.tuples(st.just("touch"), PLACES, st.integers(0, 1 << 60)),
)


def edit(root: Path, what: str, place: str, argument: Any = None) -> None:
    """One change; those that the file system refuses are none."""
    path = root / place
    with contextlib.suppress(OSError, shutil.Error):
        if what == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            trees.write(path, (b"", b"one", b"two", trees.words(70_000))[argument])
        elif what == "rename":
            os.rename(path, root / argument)
        elif what == "link":
            os.link(path, root / argument)
        elif what == "symlink":
            os.symlink(place, root / argument)
        elif what == "remove":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        elif what == "chmod":
            os.chmod(path, argument)
        else:
            os.utime(path, ns=(argument, argument), follow_symlinks=False)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(EDITS, max_size=8), min_size=2, max_size=3))
def test_any_chain_restores_what_was_there(rounds: list[list[tuple[Any, ...]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.mkdir()
        trees.write(source / "a", b"one")
        trees.write(source / "kin", b"keeps the copies together")
        snapshots = []
        for number, edits in enumerate(rounds, 1):
            for change in edits:
                edit(source, *change)
            assert copy(source, number, base=number - 1).problems == []
            snapshots.append(trees.snapshot(source))
        for number, snapshot in enumerate(snapshots, 1):
            out = Path(folder, f"out {number}")
            with xtarfs.open(str(archive(source, number))) as opened:
                assert extract(opened, str(out), [], ExtractOptions()).complete
            assert trees.differences(snapshot, trees.snapshot(out)) == []

"""`xtar struct`: what is saved is what an archive says, other tools read it, and a tree that lost it gets it back."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.building.build import Options, build
from builder.building.save import save
from xtarfs.errors import FormatError
from xtarfs.format import mtree
from xtarfs.restoring.apply import Outcome, apply
from xtarfs.restoring.structure_file import Entry, StructureFile

from . import trees
from .mounting import XTAR, environment, xtar

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
Lines = list[tuple[bytes, str]]


def applied(file: Path, folder: Path, *, dry_run: bool = False) -> tuple[Outcome, Lines, Lines]:
    """The outcome, what was changed, what was wrong."""
    changed: Lines = []
    wrong: Lines = []
    with StructureFile(str(file)) as opened:
        outcome = apply(
            opened,
            str(folder),
            lambda path, what: changed.append((path, what)),
            lambda path, why: wrong.append((path, why)),
            dry_run=dry_run,
        )
    assert (outcome.changed, outcome.wrong) == (len(changed), len(wrong))
    return outcome, changed, wrong


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("struct") / "tree"
    root.mkdir()
    for part in (trees.names, trees.kinds):
        (root / part.__name__).mkdir()
        part(root / part.__name__)
    trees.deep(root, 60)
    trees.set_times(root)
    return root


@pytest.fixture(scope="module")
def saved(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source's structure in all forms that can be read."""
    folder = tmp_path_factory.mktemp("saved")
    archive = folder / "a.xtar"
    build(str(source), str(archive), Options())
    packed, plain, tree = folder / "s.jsonl.gz", folder / "s.jsonl", folder / "s.mtree"
    assert save(str(source), str(packed)).problems == []
    assert save(str(source), str(tree), as_mtree=True).problems == []
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    subprocess.run(["tar", "xf", archive, "-C", folder, "catalogue.jsonl.gz"], check=True)
    return {"jsonl.gz": packed, "jsonl": plain, "catalogue": folder / "catalogue.jsonl.gz", "mtree": tree}


def small_tree(root: Path) -> Path:
    (root / "sub" / "empty").mkdir(parents=True)
    trees.write(root / "file", b"content", 0o640)
    trees.write(root / "sub" / "run", b"#!/bin/sh\n", 0o755)
    os.link(root / "file", root / "sub" / "again")
    os.symlink("file", root / "link")
    trees.set_times(root)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return small_tree(tmp_path / "tree")


@pytest.fixture
def structure(tree: Path, tmp_path: Path) -> Path:
    save(str(tree), str(tmp_path / "structure"))
    return tmp_path / "structure"


# -- saving ------------------------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[Any]:
    """A structure file's lines, without what only an archive can say."""
    absent = {"at", "data", "packed", "method", "chunk", "index", "table_copy", "crc32", "sha256", "packed_crc32"}
    absent |= {"structure", "holes"}

    def clean(value: dict[str, Any]) -> dict[str, Any]:
        return {k: clean(v) if isinstance(v, dict) else v for k, v in value.items() if k not in absent}

    lines = (json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines())
    return [clean(line) for line in lines if "blocks" not in line]


def test_saved_is_what_an_archives_catalogue_says(saved: dict[str, Path]) -> None:
    mine, theirs = lines_of(saved["jsonl.gz"]), lines_of(saved["catalogue"])
    assert len(mine) > 200
    assert mine == theirs


def test_a_large_directory_is_saved_in_blocks_with_an_index(tmp_path: Path) -> None:
    root = tmp_path / "many"
    root.mkdir()
    for number in range(800):
        (root / f"{number:04}").touch()
    save(str(root), str(tmp_path / "s"))
    lines = gzip.decompress((tmp_path / "s").read_bytes()).splitlines()
    assert "blocks" in json.loads(lines[-1])
    assert applied(tmp_path / "s", root)[0] == Outcome(right=801)


def test_the_file_itself_is_not_in_it(tree: Path) -> None:
    for _ in range(2):
        done = xtar("struct", "save", tree, tree / "structure", "--force")
        assert done.returncode == 0
        names = [line.get("name") for line in lines_of(tree / "structure")]
        assert "file" in names
        assert "structure" not in names


def test_an_existing_file_is_kept(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    done = xtar("struct", "save", tree, tmp_path / "there")
    assert (done.returncode, done.stdout) == (2, "")
    assert "exists already" in done.stderr
    assert (tmp_path / "there").read_text() == "mine"
    assert xtar("struct", "save", tree, tmp_path / "there", "--force").returncode == 0
    assert xtar("struct", "apply", tmp_path / "there", tree).returncode == 0


# -- mtree -------------------------------------------------------------------------------------------------------


def compare(structure: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mtree", "-f", structure, "-p", folder], capture_output=True, text=True, errors="replace")


def test_a_real_mtree_finds_no_difference(saved: dict[str, Path], source: Path) -> None:
    done = compare(saved["mtree"], source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("change", ["content", "mode", "time", "target", "missing", "extra"])
def test_a_real_mtree_finds_the_difference(tree: Path, tmp_path: Path, change: str) -> None:
    save(str(tree), str(tmp_path / "s"), as_mtree=True)
    assert compare(tmp_path / "s", tree).returncode == 0
    before = (tree / "file").stat()
    if change == "content":
        (tree / "file").write_bytes(b"CONTENT")
        os.utime(tree / "file", ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "mode":
        os.chmod(tree / "sub", 0o700)
    elif change == "time":
        os.utime(tree / "file", ns=(0, before.st_mtime_ns + 10**9))
    elif change == "target":
        (tree / "link").unlink()
        (tree / "link").symlink_to("sub")
    elif change == "missing":
        (tree / "sub" / "run").unlink()
    else:
        (tree / "sub" / "new").touch()
    assert compare(tmp_path / "s", tree).returncode != 0


def test_bsdtar_lists_and_packs_what_mtree_says(saved: dict[str, Path], source: Path, tmp_path: Path) -> None:
    listed = subprocess.run(["bsdtar", "-tf", saved["mtree"]], capture_output=True, check=True).stdout
    assert listed.count(b"\n") == sum(1 for _ in trees.paths_below(source)) + 1
    small = small_tree(tmp_path / "small")
    save(str(small), str(tmp_path / "m"), as_mtree=True)
    packed = tmp_path / "packed.tar"
    subprocess.run(["bsdtar", "-cf", packed, "--format=pax", f"@{tmp_path / 'm'}"], cwd=small, check=True)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xpf", packed, "-C", tmp_path / "out"], check=True)
    assert trees.differences(trees.snapshot(small, nlink=False), trees.snapshot(tmp_path / "out", nlink=False)) == []


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw))
@settings(max_examples=50, deadline=None)
def test_names_survive_mtrees_escapes(raw: bytes) -> None:
    text = mtree.encode(raw)
    assert text.isascii()
    assert len(text.split()) == 1
    assert mtree.decode(text) == raw


def test_what_other_tools_write_is_read(source: Path, tmp_path: Path) -> None:
    """NetBSD's mtree nests entries and encodes as vis does by default; bsdtar writes whole paths.

    The former writes newlines in names raw, in comments; the latter leaves an ACL's mask out of the mode.
    """
    plain = tmp_path / "tree"
    subprocess.run(["cp", "-a", source, plain], check=True)
    shutil.rmtree(plain / "names" / "new\nline dir")
    (plain / "names" / "new\nline").unlink()
    for name in ("xattrs", "long-target"):
        (plain / "kinds" / name).unlink()
    for name, command in {
        "netbsd": ["mtree", "-c", "-p", str(plain)],
        "bsdtar": ["bsdtar", "-cf", "-", "--format=mtree", "-C", str(plain), "."],
    }.items():
        (tmp_path / name).write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
        outcome, changed, wrong = applied(tmp_path / name, plain)
        assert (changed, wrong) == ([], [])
        unsaid = 2 if name == "netbsd" and os.geteuid() == 0 else 0  # it says no numbers of devices
        assert outcome.right == sum(1 for _ in trees.paths_below(plain)) + 1 - unsaid


@pytest.mark.parametrize(
    "text",
    [
        "./x type=file uid=0 gid=0 mode=0644 time=1.0\n",
        "./x type=dir uid=0 gid=0 mode=0755\n",
        "./x type=dir uid=0 gid=0 mode=u=rwx time=1.0\n",
        "./x type=dir uid=0 gid=0 mode=17777 time=1.0\n",
        "./x type=dir uid=-1 gid=0 mode=0755 time=1.0\n",
        "./x type=dir uid=0 gid=0 mode=0755 time=soon\n",
        "./x type=door uid=0 gid=0 mode=0755 time=1.0\n",
        "./x type=link uid=0 gid=0 mode=0755 time=1.0\n",
        "./x type=char uid=0 gid=0 mode=0755 time=1.0 device=7\n",
        "./../x type=dir uid=0 gid=0 mode=0755 time=1.0\n",
        "a/\\056\\056/x type=dir uid=0 gid=0 mode=0755 time=1.0\n",
        "..\n", "/etc\n", "", "nonsense\n", "./x type=dir uid=0 gid=0 mode=0755 time=1.0", "./x \\\n",
    ],
)  # fmt: skip
def test_broken_mtree_is_refused(tree: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "broken").write_text("#mtree\n" + text)
    before = trees.snapshot(tree)
    with pytest.raises(FormatError, match="is not a structure file"):
        applied(tmp_path / "broken", tree)
    assert trees.snapshot(tree) == before


def test_mtree_of_any_order_keeps_the_folders_times(tmp_path: Path) -> None:
    owner = f"uid={os.getuid()} gid={os.getgid()}"
    (tmp_path / "m").write_text(
        f"#mtree\n/set type=dir {owner} mode=0755 time=5.000000001\n./a\n./b\n/set mode=0500\n"
        f"./a/link type=link link=x time=7.0\n./b/deep\n. mode=0700 time=-2.5\n"
    )
    (tmp_path / "t").mkdir()
    applied(tmp_path / "m", tmp_path / "t")
    assert applied(tmp_path / "m", tmp_path / "t")[0] == Outcome(right=5)
    found = trees.snapshot(tmp_path / "t")
    assert [found[path]["mtime"] for path in (b"", b"a", b"a/link", b"b", b"b/deep")] == [
        -2 * 10**9 + 5, 5 * 10**9 + 1, 7 * 10**9, 5 * 10**9 + 1, 5 * 10**9 + 1,
    ]  # fmt: skip


# -- applying ----------------------------------------------------------------------------------------------------


def stripped(source: Path, copy: Path) -> Path:
    """A copy of the files' contents alone; folders only where they are needed, hard links as files of their own."""
    for path in trees.paths_below(source):
        if path.is_symlink() or not path.is_file():
            continue
        place = copy / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return copy


@ROOT
@pytest.mark.parametrize("form", ["jsonl.gz", "jsonl", "catalogue"])
def test_everything_but_content_comes_back(saved: dict[str, Path], source: Path, tmp_path: Path, form: str) -> None:
    copy = stripped(source, tmp_path / "copy")
    before = trees.snapshot(copy)
    tried = applied(saved[form], copy, dry_run=True)
    assert trees.snapshot(copy) == before
    done = applied(saved[form], copy)
    assert done == tried
    assert done[2] == []
    assert trees.differences(trees.snapshot(source), trees.snapshot(copy)) == []
    assert applied(saved[form], copy)[0] == Outcome(right=len(before | trees.snapshot(source)))


@ROOT
def test_mtree_brings_all_back_that_it_knows(saved: dict[str, Path], source: Path, tmp_path: Path) -> None:
    copy = stripped(source, tmp_path / "copy")
    tried = applied(saved["mtree"], copy, dry_run=True)
    assert applied(saved["mtree"], copy) == tried
    want, found = (trees.snapshot(root, nlink=False, xattrs=False) for root in (source, copy))
    assert trees.differences(want, found) == []


def test_an_inner_folders_structure_serves_that_folder(tree: Path, tmp_path: Path) -> None:
    build(str(tree), str(tmp_path / "a.xtar"), Options())
    subprocess.run(["tar", "xf", tmp_path / "a.xtar", "-C", tmp_path, "sub.xtar"], check=True)
    subprocess.run(["tar", "xf", tmp_path / "sub.xtar", "-C", tmp_path, "structure.jsonl.gz"], check=True)
    os.chmod(tree / "sub", 0o700)
    os.chmod(tree / "sub" / "empty", 0o700)
    done = xtar("struct", "apply", tmp_path / "structure.jsonl.gz", tree / "sub")
    assert done.returncode == 0
    assert (
        done.stdout
        == f"empty: mode 0700 -> 0755\n/: mode 0700 -> 0755\n{tree / 'sub'}: 2 changed, 2 were right, 0 with problems\n"
    )
    done = xtar("struct", "apply", tmp_path / "structure.jsonl.gz", tree)
    assert done.returncode == 2
    assert "describes the folder sub alone" in done.stderr


def test_missing_files_are_told_and_exit_1(tree: Path, structure: Path) -> None:
    (tree / "sub" / "run").unlink()
    (tree / "sub" / "again").unlink()
    os.chmod(tree / "file", 0o600)
    dry = xtar("struct", "apply", structure, tree, "--dry-run")
    assert not (tree / "sub" / "again").exists()
    done = xtar("struct", "apply", structure, tree)
    assert dry.returncode == done.returncode == 1
    assert dry.stderr == done.stderr == "xtar: sub/run: is missing; its content must be restored first\n"
    assert "sub/again: linked to file\n" in done.stdout
    assert "file: mode 0600 -> 0640\n" in done.stdout
    assert (tree / "sub" / "again").samefile(tree / "file")


def test_a_changed_file_keeps_its_time_and_content(tree: Path, structure: Path) -> None:
    (tree / "sub" / "run").write_bytes(b"longer than it was")
    now = (tree / "sub" / "run").stat().st_mtime_ns
    _, _, wrong = applied(structure, tree)
    assert wrong == [(b"sub/run", "has 18 bytes, not 10, and keeps its time")]
    assert (tree / "sub" / "run").stat().st_mtime_ns == now
    assert (tree / "sub" / "run").read_bytes() == b"longer than it was"


def test_equal_copies_become_one_file_again_and_others_do_not(tree: Path, structure: Path) -> None:
    (tree / "sub" / "again").unlink()
    (tree / "sub" / "again").write_bytes(b"CONTENT")
    _, _, wrong = applied(structure, tree)
    assert wrong == [(b"sub/again", "was another name of file and differs from it; it was left alone")]
    assert (tree / "sub" / "again").read_bytes() == b"CONTENT"
    (tree / "sub" / "again").write_bytes(b"content")
    _, changed, wrong = applied(structure, tree)
    assert (b"sub/again", "linked to file") in changed
    assert wrong == []
    assert (tree / "sub" / "again").samefile(tree / "file")


@pytest.mark.parametrize("what", ["folder", "file", "deeper"])
def test_no_symlink_is_followed_out_of_the_tree(tree: Path, structure: Path, tmp_path: Path, what: str) -> None:
    outside = small_tree(tmp_path / "outside")
    os.chmod(outside / "file", 0o600)
    os.chmod(outside / "sub", 0o700)
    (outside / "sub" / "empty").rmdir()
    before = trees.snapshot(outside)
    if what == "folder":
        shutil.rmtree(tree / "sub")
        (tree / "sub").symlink_to(outside / "sub")
    elif what == "file":
        (tree / "file").unlink()
        (tree / "file").symlink_to(outside / "file")
    else:
        (tree / "sub" / "empty").rmdir()
        (tree / "sub" / "empty").symlink_to(outside / "sub")
    _, _, wrong = applied(structure, tree)
    assert wrong
    assert trees.snapshot(outside) == before


def test_what_is_something_else_is_left_alone(tree: Path, structure: Path) -> None:
    for name in ("file", "link"):
        (tree / name).unlink()
    (tree / "file").mkdir()
    (tree / "link").symlink_to("elsewhere")
    shutil.rmtree(tree / "sub")
    (tree / "sub").write_text("a file")
    _, _, wrong = applied(structure, tree)
    assert dict(wrong) == {
        b"sub": "cannot be entered: exists and is not a directory; nothing below it was touched",
        b"file": "is a dir, not a file; it was left alone",
        b"link": "leads to elsewhere, not to file; it was left alone",
    }
    assert (tree / "sub").read_text() == "a file"


# Loads everything before it becomes nobody, who may not be able to read the project's folder or Python's.
AS_NOBODY = """
import os, sys
from builder.commands.cli import main
main(["struct", "apply", sys.argv[1], sys.argv[2], "--dry-run"])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(main(["struct", "apply", sys.argv[1], sys.argv[2]]))
"""


def apply_as_nobody(structure: Path, tree: Path) -> subprocess.CompletedProcess[str]:
    for folder in tree.parents:
        if not folder.stat().st_mode & 1:
            os.chmod(folder, 0o711)
    os.chmod(structure, 0o644)
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, structure, tree], capture_output=True, text=True, timeout=60,
        env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


@ROOT
@pytest.mark.parametrize("closed", [False, True])
def test_an_ordinary_user_gets_a_tree_of_his_own_back(tree: Path, tmp_path: Path, closed: bool) -> None:
    for path in (tree, *trees.paths_below(tree)):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    os.chmod(tree / "sub", 0o550)
    trees.set_times(tree)
    want = trees.snapshot(tree)
    save(str(tree), str(tmp_path / "s"))
    os.chmod(tree / "sub", 0o700)
    (tree / "sub" / "empty").rmdir()
    (tree / "sub" / "again").unlink()
    (tree / "link").unlink()
    os.chmod(tree / "file", 0o600)
    if closed:
        trees.set_times(tree)
        os.chmod(tree / "sub", 0)
    done = apply_as_nobody(tmp_path / "s", tree)
    assert done.returncode == 0
    assert ("sub: mode 0000 -> 0550\n" in done.stdout) == closed
    assert trees.differences(want, trees.snapshot(tree)) == []


@ROOT
def test_what_only_root_may_set_is_told_and_exit_1(tree: Path, structure: Path) -> None:
    os.chmod(tree / "sub" / "run", 0o700)
    os.chown(tree / "file", 65534, 65534)
    os.utime(tree / "file", ns=(0, 0))
    done = apply_as_nobody(structure, tree)
    assert done.returncode == 1
    assert "xtar: sub/run: could not be set: mode 0700 -> 0755\n" in done.stderr
    assert "xtar: file: could not be set: owner 65534:65534 -> 0:0\n" in done.stderr
    assert (tree / "file").stat().st_mtime_ns != 0
    assert "Traceback" not in done.stderr


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["missing", "empty", "text", "folder", "noise", "archive", "fifo", "json", "gzip"])
def test_no_structure_file_is_one_line_and_2(tree: Path, archive: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    content = {
        "empty": b"", "text": b"hello\n" * 1000, "noise": trees.noise(10_000), "json": b'{"name": "x"}\n',
        "gzip": gzip.compress(b"hello\n"),
    }  # fmt: skip
    if what in content:
        path.write_bytes(content[what])
    elif what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "archive":
        path = archive
    before = trees.snapshot(tree)
    done = xtar("struct", "apply", path, tree)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"xtar: {path}: ")
    assert done.stderr.count("\n") == 1
    assert "internal error" not in done.stderr
    assert trees.snapshot(tree) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["save", "NO", "out"], ["save", "FILE", "out"], ["save", "TREE", "NO/out"], ["save", "TREE", "TREE"],
        ["save", "TREE", "out", "--format", "zip"], ["save", "TREE"], [], ["apply", "SAVED", "NO"],
        ["apply", "SAVED", "FILE"], ["apply", "SAVED"],
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_2(tree: Path, structure: Path, tmp_path: Path, arguments: list[str]) -> None:
    places = {"NO": tmp_path / "no", "FILE": tree / "file", "TREE": tree, "SAVED": structure, "out": tmp_path / "out"}
    places["NO/out"] = tmp_path / "no" / "out"
    before = trees.snapshot(tree)
    done = xtar("struct", *(places.get(word, word) for word in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("xtar: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert trees.snapshot(tree) == before


def read(path: Path) -> list[Entry]:
    with StructureFile(str(path)) as opened:
        assert not opened.root, "only a part"
        return list(opened.entries())


def test_no_cut_goes_unseen(structure: Path, tmp_path: Path) -> None:
    whole = structure.read_bytes()
    text = gzip.decompress(whole)
    for data, step in ((whole, 1), (text, 7)):
        (tmp_path / "cut").write_bytes(data)
        assert len(read(tmp_path / "cut")) == 7
        for size in range(0, len(data), step):
            (tmp_path / "cut").write_bytes(data[:size])
            with pytest.raises((FormatError, AssertionError)):
                read(tmp_path / "cut")


def test_no_flipped_bit_goes_unseen(structure: Path, tmp_path: Path) -> None:
    whole = structure.read_bytes()
    entries = read(structure)
    refused = 0
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        (tmp_path / "flipped").write_bytes(data)
        try:
            assert read(tmp_path / "flipped") == entries
        except FormatError:
            refused += 1
    assert refused > 0.9 * len(whole)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"name":"run"', b'"name":"../run"'), (b'"name":"run"', b'"name":".."'), (b'"mode":"0640"', b'"mode":"x"'),
        (b'"path":"sub"', b'"path":"../sub"'), (b'"path":"sub"', b'"path":"/sub"'), (b'"uid":', b'"uid":-1'),
        (b'"link":"file"', b'"link":"../../file"'), (b'"type":"symlink"', b'"type":"door"'),
        (b'"uid":', b'"uid":99999999999'), (b'"xtar":"1-draft"', b'"xtar":"9"'), (b'"children":3', b'"children":9'),
        (b'"mtime":"1650', b'"mtime":"soon'),
    ],
)  # fmt: skip
def test_hostile_text_is_refused_before_anything_is_done(
    tree: Path, structure: Path, tmp_path: Path, old: bytes, new: bytes
) -> None:
    text = gzip.decompress(structure.read_bytes())
    assert old in text
    (tmp_path / "hostile").write_bytes(text.replace(old, new))
    os.chmod(tree / "sub" / "run", 0o600)
    before = trees.snapshot(tree)
    with pytest.raises(FormatError):
        applied(tmp_path / "hostile", tree)
    assert trees.snapshot(tree) == before


def test_help_names_both_actions() -> None:
    done = subprocess.run([*XTAR, "struct", "--help"], capture_output=True, text=True, env=environment(), check=True)
    assert "save" in done.stdout
    assert "apply" in done.stdout

"""The interface of 2003: what its text prints runs as it stands, and brings everything back."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import xtarfs
from builder.launched import expand
from builder.pybackup import finddirs
from xtarfs.errors import UsageError, XtarError

from . import trees

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# Section 2.1 of the text, the last lines of pybackup.py; the chain has got the parentheses that Python asks for, and
# the folder to be emptied the name that it has in the test.
COMMENTED = """
os.system("rm -Rf e/*")
finddirs().compressdir("test/")
finddirs(). printcontent("test/.xtar", "e" )
finddirs().launch("test/.xtar", "e" )

finddirs().expandzipfiles("e")
finddirs(). storeDirStruct("test", "estructdir" )
"""
SOPHISTICATED = """
(finddirs().makeAlternateDir("/tmp/").
    setExcludeddirs("tmpant"). compressdir("test/"))
finddirs().launch("test/.xtar", "e" )
finddirs().expandzipfiles("e")
finddirs().expandDirStruct("e", "estructdir")
"""


@pytest.fixture
def test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `test` of the text, in the current directory; `e` is there and empty."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "test"
    for folder in ("a/b/empty", "tmp", "z"):
        (root / folder).mkdir(parents=True)
    for path in ("same", "a/same", "a/b/same", "z/same"):
        trees.write(root / path, path.encode(), 0o640)
    trees.write(root / "a" / "run", trees.words(100_000), 0o750)
    trees.write(root / "z" / "nothing", b"")
    os.link(root / "same", root / "z" / "again")
    os.symlink("../same", root / "a" / "link")
    os.chmod(root / "a" / "b" / "empty", 0o2711)
    os.chmod(root / "tmp", 0o1777)
    trees.set_times(root)
    (tmp_path / "e").mkdir()
    return root


def run(text: str) -> None:
    exec(text, {"finddirs": finddirs, "os": os})


def look(root: Path) -> dict[bytes, str]:
    """All that find says of a tree, the archive at its top left out."""
    what = "%P\\0%y %m %U %G %n %T@ %l\\0"
    found = subprocess.run(
        ["find", root, "-path", root / ".xtar", "-o", "-type", "d", "-printf", what, "-o", "-printf", f"%s {what}"],
        capture_output=True, check=True,
    ).stdout.split(b"\0")  # fmt: skip
    return dict(zip(found[::2], (facts.decode() for facts in found[1::2]), strict=False))


def same(one: Path, other: Path) -> None:
    done = subprocess.run(["diff", "-r", "--no-dereference", "-x", ".xtar", one, other], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert look(one) == look(other)


# -- the walk-through --------------------------------------------------------------------------------------------


def test_the_texts_lines_as_they_stand(test: Path, capfd: pytest.CaptureFixture[str]) -> None:
    e = test.parent / "e"
    (e / "old").touch()
    run(COMMENTED)
    printed, complaints = capfd.readouterr()
    assert complaints == ""
    assert {"e/a", "e/a/b/empty", "e/a/run", "e/z/same", "e/a/link"} <= set(printed.splitlines())
    assert sorted(os.listdir(e)) == ["a", "same", "z"]
    assert (e / "a" / "b" / "same").read_bytes() == b"a/b/same"
    assert not (e / "a" / "b" / "empty").exists()  # as the text says: folders without files, and permissions, are lost
    run('finddirs().expandDirStruct("e", "estructdir")')
    assert capfd.readouterr().err == ""
    same(test, e)


def test_the_sophisticated_lines(test: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run('finddirs().storeDirStruct("test", "estructdir")')
    for folder in ("tmpant", "a/tmpant"):
        (test / folder / "deep").mkdir(parents=True)
        trees.write(test / folder / "deep" / "file", b"left out")
    trees.write(test / "z" / "tmpant", b"a file of that name is none of its folders")
    run(SOPHISTICATED)
    assert capfd.readouterr().err == ""
    e = test.parent / "e"
    assert not (e / "tmpant").exists()
    assert not (e / "a" / "tmpant").exists()
    assert (e / "z" / "tmpant").read_bytes() == b"a file of that name is none of its folders"
    (e / "z" / "tmpant").unlink()
    (test / "z" / "tmpant").unlink()
    for folder in ("tmpant", "a/tmpant"):
        shutil.rmtree(test / folder)
    trees.set_times(test)
    run('finddirs().expandDirStruct("e", "estructdir")')
    same(test, e)


@ROOT
def test_a_tree_of_everything_comes_back(menagerie: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["cp", "-a", menagerie, "test"], check=True)
    finddirs().compressdir("test").launch("test/.xtar", "e").expandzipfiles("e").storeDirStruct("test", "s")
    assert finddirs().expandDirStruct("e", "s").problems == []
    os.unlink("test/.xtar")
    trees.set_times(Path("test"))
    assert trees.differences(trees.snapshot(Path("test")), trees.snapshot(Path("e"))) == []


# -- compressdir -------------------------------------------------------------------------------------------------


def names_in(archive: Path) -> set[bytes]:
    with xtarfs.open(str(archive)) as opened:
        return {node.path for node in opened.walk()}


def test_the_archive_is_not_in_itself_but_others_are(test: Path) -> None:
    trees.write(test / "mine.xtar", b"any file")
    finddirs().compressdir("test/a")
    before = trees.snapshot(test)
    for _ in range(2):
        finddirs().compressdir("test/")
        names = names_in(test / ".xtar")
        assert b".xtar" not in names
        assert {b"mine.xtar", b"a/.xtar"} <= names
        after = trees.snapshot(test)
        del after[b".xtar"]
        assert after == before  # the folder's time too


def test_the_archive_is_one_of_ours_to_any_tool(test: Path) -> None:
    finddirs().compressdir("test/")
    listed = subprocess.run(["tar", "tf", test / ".xtar"], capture_output=True, text=True, check=True).stdout.split()
    assert {"same.zip", "a.xtar", "z.xtar", "structure.jsonl.gz"} <= set(listed)


@pytest.mark.parametrize("what", ["text", "folder", "dangling"])
def test_what_is_no_archive_is_not_replaced(test: Path, what: str) -> None:
    place = test / ".xtar"
    if what == "text":
        place.write_text("mine")
    elif what == "folder":
        place.mkdir()
    else:
        place.symlink_to("nowhere")
    before = trees.snapshot(test)
    with pytest.raises(UsageError, match=r"test/\.xtar: exists and is not an archive"):
        finddirs().compressdir("test")
    assert trees.snapshot(test) == before


def test_a_failed_compression_leaves_all_as_it_was(test: Path, tmp_path: Path) -> None:
    before = trees.snapshot(test)
    with pytest.raises(UsageError, match="no-such-folder"):
        finddirs().makeAlternateDir(str(tmp_path / "no-such-folder")).compressdir("test")
    assert trees.snapshot(test) == before


def test_excluded_names_are_names_and_no_patterns(test: Path) -> None:
    for name in ("*", "[ab]", "!x", "#x", "x ", "a"):
        (test / name / "in").mkdir(parents=True, exist_ok=True)
    finddirs().setExcludeddirs("*", "[ab]").setExcludeddirs("!x", "#x", "x ").compressdir("test")
    names = names_in(test / ".xtar")
    assert b"a/in" in names
    assert names.isdisjoint({b"*", b"[ab]", b"!x", b"#x", b"x "})
    for wrong in ("", "..", "a/b"):
        with pytest.raises(UsageError, match="is not the name of a folder"):
            finddirs().setExcludeddirs(wrong)


# -- launch and expandzipfiles -----------------------------------------------------------------------------------


def test_launched_zips_lie_flat_and_know_their_paths(test: Path) -> None:
    finddirs().compressdir("test").launch("test/.xtar", "e")
    zips = [name for name in os.listdir("e") if not name.startswith(".")]
    assert all(os.path.isfile(f"e/{name}") and name.endswith(".zip") for name in zips)
    inside = [zipfile.ZipFile(f"e/{name}").namelist() for name in zips]
    assert sorted(inside) == [["a/b/same"], ["a/run"], ["a/same"], ["same"], ["z/nothing"], ["z/same"]]
    for name in zips:
        subprocess.run(["unzip", "-q", "-d", "by-hand", f"e/{name}"], check=True)
    finddirs().expandzipfiles("e")
    subprocess.run(["diff", "-r", "by-hand", "e"], check=True)


def test_zips_that_are_content_stay_zips(test: Path) -> None:
    """Also one that an earlier launch has made, and one that has the name that a launched zip would take."""
    finddirs().compressdir("test").launch("test/.xtar", "e")
    shutil.copy("e/same.zip", test / "same.zip")
    shutil.copy("e/same.zip", test / "a" / "kept.zip")
    finddirs().expandzipfiles("e")
    shutil.rmtree("e")
    finddirs().compressdir("test").launch("test/.xtar", "e")
    shutil.copy("e/run.zip", "e/of-mine.zip")
    assert finddirs().expandzipfiles("e").problems == []
    for name in ("same.zip", "a/kept.zip"):
        assert Path("e", name).read_bytes() == (test / name).read_bytes()
    assert sorted(os.listdir("e")) == ["a", "of-mine.zip", "same", "same.zip", "z"]
    with pytest.raises(UsageError, match="nothing was launched"):
        finddirs().expandzipfiles("e")
    assert sorted(os.listdir("e")) == ["a", "of-mine.zip", "same", "same.zip", "z"]


def test_two_archives_in_one_folder_replace_nothing(test: Path, capfd: pytest.CaptureFixture[str]) -> None:
    finddirs().compressdir("test")
    before = (test / ".xtar").read_bytes()
    for _ in range(2):
        finddirs().launch("test/.xtar", "e")
    assert len(os.listdir("e")) == 1 + 2 * 6
    done = finddirs().expandzipfiles("e")
    assert [path for path, _ in done.problems] == [b"a/b/same", b"a/run", b"a/same", b"same", b"z/nothing", b"z/same"]
    assert all("exists" in reason for _, reason in done.problems)
    assert capfd.readouterr().err.count("\n") == 6
    assert len([name for name in os.listdir("e") if name.endswith(".zip")]) == 6
    assert (test / ".xtar").read_bytes() == before
    for name in ("a/run", "a/same", "a/b/same", "same", "z/same", "z/nothing"):
        os.unlink(f"e/{name}")
    assert finddirs().expandzipfiles("e").problems == []
    assert sorted(os.listdir("e")) == ["a", "same", "z"]


def test_an_interrupted_expansion_goes_on(test: Path) -> None:
    finddirs().compressdir("test").launch("test/.xtar", "e")
    os.unlink("e/run.zip")
    assert finddirs().expandzipfiles("e").problems == []
    assert not Path("e/a/run").exists()
    assert Path("e/a/b/same").read_bytes() == b"a/b/same"


def test_names_too_long_for_a_suffix(test: Path) -> None:
    for folder in ("a", "z"):
        trees.write(test / folder / ("n" * 255), folder.encode())
        trees.write(test / folder / ("n" * 250), folder.encode())
    finddirs().compressdir("test").launch("test/.xtar", "e")
    assert max(map(len, os.listdir("e"))) <= 255
    assert finddirs().expandzipfiles("e").problems == []
    for path in (f"{folder}/{'n' * length}" for folder in "az" for length in (250, 255)):
        assert Path("e", path).read_text() == path[0]


def test_a_damaged_zip_stays_and_is_named(test: Path, capfd: pytest.CaptureFixture[str]) -> None:
    finddirs().compressdir("test").launch("test/.xtar", "e")
    data = bytearray(Path("e/run.zip").read_bytes())
    data[len(data) // 2] ^= 1
    Path("e/run.zip").write_bytes(data)
    Path("e/nothing.zip").write_bytes(b"cut")
    done = finddirs().expandzipfiles("e")
    assert [path for path, _ in done.problems] == [b"a/run", b"z/nothing"]
    errors = capfd.readouterr().err.splitlines()
    assert errors[0].startswith("xtar: a/run: was not unpacked: ")
    assert errors[0].endswith("its zip stays: run.zip")
    assert not Path("e/a/run").exists()
    assert Path("e/run.zip").read_bytes() == data
    assert Path("e/same").exists()


def test_no_flipped_bit_brings_a_wrong_byte(tmp_path: Path) -> None:
    content = trees.words(300)
    (tmp_path / "test").mkdir()
    trees.write(tmp_path / "test" / "x", content)
    e = tmp_path / "e"
    finddirs().compressdir(str(tmp_path / "test")).launch(str(tmp_path / "test" / ".xtar"), str(e))
    whole, listed = (e / "x.zip").read_bytes(), (e / ".launched-by-xtar").read_bytes()
    refused = 0
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        (e / "x.zip").write_bytes(data)
        (e / ".launched-by-xtar").write_bytes(listed)
        (e / "x").unlink(missing_ok=True)
        if expand(str(e)):
            assert not (e / "x").exists()
            assert (e / "x.zip").read_bytes() == data
            refused += 1
        else:
            assert (e / "x").read_bytes() == content
            assert os.listdir(e) == ["x"]
    assert refused > 200


def test_expansion_follows_no_symlink(test: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    os.symlink(tmp_path / "outside", "e/a")
    finddirs().compressdir("test").launch("test/.xtar", "e")
    done = finddirs().expandzipfiles("e")
    assert {path for path, _ in done.problems} == {b"a/run", b"a/same", b"a/b/same"}
    assert os.listdir(tmp_path / "outside") == []


def test_a_tar_made_by_hand_is_told_of(test: Path) -> None:
    subprocess.run(["zip", "-q", "same.zip", "same"], cwd=test, check=True)
    subprocess.run(["tar", "cf", "hand.xtar", "-C", test, "same.zip"], check=True)
    done = finddirs().launch("hand.xtar", "e")
    assert done.problems == [(b"same", "has no zip of its own in this archive; use 'xtar extract'")]


def test_what_damage_has_hit_is_named_and_all_else_launched(test: Path) -> None:
    finddirs().compressdir("test")
    with xtarfs.open("test/.xtar") as opened:
        node = opened.lookup("a/run")
        at = node.base + node.record.at
    data = bytearray((test / ".xtar").read_bytes())
    data[at : at + 512] = trees.noise(512)
    (test / ".xtar").write_bytes(data)
    done = finddirs().launch("test/.xtar", "e")
    assert [path for path, _ in done.problems] == [b"a/run"]
    finddirs().expandzipfiles("e")
    assert {path for path in ("a/run", "a/same", "z/nothing") if Path("e", path).exists()} == {"a/same", "z/nothing"}


def test_an_archive_with_a_list_of_its_own_is_refused(test: Path) -> None:
    (test / ".launched-by-xtar").touch()
    finddirs().compressdir("test")
    with pytest.raises(UsageError, match="xtar extract"):
        finddirs().launch("test/.xtar", "e")
    assert os.listdir("e") == []


# -- structure files, and what is not there ----------------------------------------------------------------------


def test_a_structure_file_is_replaced_and_nothing_else(test: Path) -> None:
    for _ in range(2):
        finddirs().storeDirStruct("test", "estructdir")
    Path("mine").write_text("mine")
    with pytest.raises(UsageError, match="mine: exists and is not a structure file"):
        finddirs().storeDirStruct("test", "mine")
    assert Path("mine").read_text() == "mine"


def test_missing_files_are_problems_of_their_own(test: Path, capfd: pytest.CaptureFixture[str]) -> None:
    finddirs().storeDirStruct("test", "estructdir")
    done = finddirs().expandDirStruct("e", "estructdir")
    assert (b"a/run", "is missing; its content must be restored first") in done.problems
    assert "xtar: a/run: is missing" in capfd.readouterr().err
    assert Path("e/a/b/empty").stat().st_mode & 0o7777 == 0o2711


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f.compressdir("no"), lambda f: f.compressdir("file"), lambda f: f.printcontent("no", "e"),
        lambda f: f.printcontent("file", "e"), lambda f: f.launch("no", "out"), lambda f: f.launch("file", "out"),
        lambda f: f.launch("test/.xtar", "file"), lambda f: f.expandzipfiles("no"), lambda f: f.expandzipfiles("file"),
        lambda f: f.expandzipfiles("e"), lambda f: f.storeDirStruct("no", "out"),
        lambda f: f.expandDirStruct("e", "no"), lambda f: f.expandDirStruct("e", "file"),
        lambda f: f.expandDirStruct("no", "saved"), lambda f: f.expandDirStruct("file", "saved"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_error_and_changes_nothing(test: Path, call: Callable[[finddirs], finddirs]) -> None:
    finddirs().compressdir("test").storeDirStruct("test", "saved")
    Path("file").write_text("a file")
    before = trees.snapshot(test.parent)
    with pytest.raises(XtarError) as caught:
        call(finddirs())
    assert "\n" not in str(caught.value)
    assert trees.snapshot(test.parent) == before


def test_every_function_says_what_it_did_in_2003() -> None:
    public = [value for name, value in vars(finddirs).items() if not name.startswith("_")]
    assert len(public) == 8
    assert all("2003" in (function.__doc__ or "") for function in public)

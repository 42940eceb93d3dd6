"""The command line as scripts see it: names, exit codes, one-line errors, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import trees
from .mounting import XTAR, xtar


@pytest.fixture
def flipped(archive: Path, tmp_path: Path) -> Path:
    """The archive with one byte of `sizes/noise-163857` flipped, in its second chunk of 32 KiB."""
    data = bytearray(archive.read_bytes())
    at = data.index(trees.noise(5 * trees.CHUNK + 17, 5 * trees.CHUNK + 17)[:64])
    data[at + trees.CHUNK + 5] ^= 1
    path = tmp_path / "flipped.xtar"
    path.write_bytes(data)
    return path


def one_line(stderr: str) -> str:
    assert stderr.startswith("xtar: ")
    assert stderr.count("\n") == 1
    assert "Traceback" not in stderr
    return stderr


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["list"], ["info"], ["verify"], ["cat"], ["extract"], ["diff"], ["mount"]])
@pytest.mark.parametrize("what", ["missing", "empty", "text", "folder", "zeros", "noise"])
def test_not_an_archive(tmp_path: Path, command: list[str], what: str) -> None:
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what != "missing":
        content = {"empty": b"", "text": b"hello\n" * 1000, "zeros": bytes(10_000), "noise": trees.noise(10_000)}
        path.write_bytes(content[what])
    point = tmp_path / "point"
    point.mkdir()
    needs: dict[str, list[str | Path]] = {"cat": ["x"], "extract": ["-C", point], "diff": [point], "mount": [point]}
    more = needs.get(command[0], [])
    done = xtar(*command, path, *more)
    assert done.returncode == 2
    assert str(path) in one_line(done.stderr)
    assert done.stdout == ""
    assert list(point.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["frobnicate"], ["build"], ["build", "x"], ["list"], ["extract", "a.xtar"], ["list", "--what"],
        ["build", "/etc", "-o", "/tmp/never.xtar", "--level", "10"],
        ["build", "/etc", "-o", "/tmp/never.xtar", "--level", "high"],
        ["build", "/etc", "-o", "/tmp/never.xtar", "--chunk-size", "5000"],
        ["build", "/etc", "-o", "/tmp/never.xtar", "--chunk-size", "lots"],
        ["build", "/etc", "-o", "/tmp/never.xtar", "--jobs", "-1"],
        ["build", "/etc", "-o", "/tmp/never.xtar", "--work-dir", "/no/such"],
        ["build", "/etc", "-o", "/tmp/never.xtar", "--exclude-from", "/no/such"],
        ["build", "/etc", "-o", "-"],
        ["mount", "/etc/passwd", "/mnt", "--cache-size", "big"],
    ],
)  # fmt: skip
def test_usage_errors_are_one_line_and_2(arguments: list[str]) -> None:
    done = xtar(*arguments)
    assert done.returncode == 2
    one_line(done.stderr)
    assert not Path("/tmp/never.xtar").exists()


@pytest.mark.parametrize("command", ["list", "cat", "extract"])
def test_missing_path_inside(archive: Path, tmp_path: Path, command: str) -> None:
    more: list[str | Path] = ["-C", tmp_path / "out"] if command == "extract" else []
    for path in ("no/such", "top/below-a-file"):
        done = xtar(command, archive, path, *more)
        assert done.returncode == 2
        assert path.split("/")[0] in one_line(done.stderr)
    assert not (tmp_path / "out").exists()


def test_cat_of_what_has_no_bytes(archive: Path) -> None:
    for path in ("sizes", "kinds/fifo", "kinds/dangling"):
        done = xtar("cat", archive, path)
        assert (done.returncode, done.stdout) == (2, "")
        one_line(done.stderr)


def test_truncated_archive_lists_what_is_there(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.xtar"
    path.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    done = xtar("list", "-R", path)
    assert done.returncode == 1
    assert "xtar: warning" in done.stderr
    assert "kinds/setuid" in done.stdout.splitlines()


# -- what commands print -----------------------------------------------------------------------------------------


def test_version_and_help() -> None:
    assert xtar("--version").stdout.startswith("xtar 0.")
    for command in ("build", "list", "cat", "extract", "verify", "info", "diff", "mount", "umount"):
        done = xtar(command, "--help")
        assert done.returncode == 0
        assert command in done.stdout


def test_list_is_sorted_and_escaped(archive: Path) -> None:
    lines = xtar("list", archive, "names").stdout.splitlines()
    assert "names/new\\nline" in lines
    assert "names/ctrl\\001\\033[31m" in lines
    assert "names/latin\\351" in lines
    assert "names/back\\\\slash" in lines
    assert "names/café" in lines
    assert "names/ lead" in lines
    assert xtar("list", archive).stdout.splitlines() == ["deep", "kinds", "names", "sizes", "top"]
    assert xtar("list", archive, "top").stdout == "top\n"


def test_names_are_utf8_in_any_locale(archive: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*XTAR, "list", "--json", archive, "names"], capture_output=True, env=environment, check=True)
    assert "names/café" in {entry["path"] for entry in json.loads(done.stdout)["entries"]}


def test_closed_output_is_no_traceback(archive: Path) -> None:
    script = '"$0" -c "from builder.entry import xtar; xtar()" list "$1" >&-'
    done = subprocess.run(["sh", "-c", script, sys.executable, archive], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_list_null_gives_the_same_names_as_find(archive: Path, menagerie: Path) -> None:
    listed = subprocess.run([*XTAR, "list", "-R", "-0", archive], capture_output=True, check=True).stdout
    found = subprocess.run(["find", menagerie, "-mindepth", "1", "-printf", "%P\\0"], capture_output=True, check=True)
    assert sorted(listed.split(b"\0")) == sorted(found.stdout.split(b"\0"))


def test_list_json(archive: Path, menagerie: Path) -> None:
    entries = json.loads(xtar("list", "-R", "--json", archive).stdout)["entries"]
    assert len(entries) == sum(len(folders) + len(files) for _, folders, files in os.walk(os.fsencode(menagerie)))
    by_path = {entry["path"]: entry for entry in entries}
    assert by_path["kinds/setuid"]["mode"] == "4755"
    assert by_path["kinds/exact"]["mtime"] == "1700000000.000000001"
    assert by_path["names/latin\\351"]["path_b64"] == "bmFtZXMvbGF0aW7p"
    assert by_path["kinds/dangling"]["target"] == "/no/such/target"
    assert by_path["kinds/linked-2"]["link"] == "kinds/linked-1"


def test_cat_gives_the_bytes(archive: Path, menagerie: Path) -> None:
    for path in ("top", "sizes/text-1048577", "sizes/noise-0"):
        done = subprocess.run([*XTAR, "cat", archive, path], capture_output=True, check=True)
        assert done.stdout == (menagerie / path).read_bytes()


def test_info_agrees_with_verify_and_build(menagerie: Path, tmp_path: Path) -> None:
    built = xtar("build", menagerie, "-o", tmp_path / "o.xtar")
    facts = json.loads(xtar("info", "--json", tmp_path / "o.xtar").stdout)
    checked = json.loads(xtar("verify", "--json", tmp_path / "o.xtar", "--id", facts["id"]).stdout)
    assert facts["id"] in built.stdout
    assert checked["id"] == facts["id"]
    assert checked["id_matches"] is True
    assert (checked["files"], checked["bytes"]) == (facts["files"], facts["bytes"])
    assert checked["damaged"] == []
    wrong = xtar("verify", tmp_path / "o.xtar", "--id", "0" * 64)
    assert wrong.returncode == 1


def test_damage_is_said_by_every_command(flipped: Path, menagerie: Path, tmp_path: Path) -> None:
    name, lost = "sizes/noise-163857", [trees.CHUNK, 2 * trees.CHUNK]
    done = xtar("verify", "--json", flipped)
    assert done.returncode == 1
    (damage,) = json.loads(done.stdout)["damaged"]
    assert damage["path"] == name
    ((start, end),) = damage["ranges"]
    assert lost[0] <= start < end <= lost[1]
    assert start <= trees.CHUNK + 5 < end
    cat = subprocess.run([*XTAR, "cat", flipped, name], capture_output=True)
    assert cat.returncode == 1
    assert cat.stdout == (menagerie / name).read_bytes()[: trees.CHUNK]
    one_line(cat.stderr.decode())
    done = xtar("extract", flipped, "-C", tmp_path / "out")
    assert done.returncode == 1
    assert name in done.stderr
    assert not (tmp_path / "out" / name).exists()
    assert (tmp_path / "out" / "top").read_bytes() == (menagerie / "top").read_bytes()


def test_extract_takes_paths_before_and_after_options(archive: Path, tmp_path: Path) -> None:
    for number, arguments in enumerate((["top", "kinds/exact", "-C"], ["-C"])):
        out = tmp_path / str(number)
        done = xtar("extract", archive, *arguments, out, *([] if number == 0 else ["top", "kinds/exact"]))
        assert done.returncode == 0, done.stderr
        assert {path.name for path in out.iterdir()} == {"top", "kinds"}


def test_diff_exit_codes_and_json(archive: Path, menagerie: Path, tmp_path: Path) -> None:
    assert xtar("diff", archive, menagerie).returncode == 0
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", menagerie, copy], check=True)
    (copy / "top").write_bytes(b"changed")
    os.unlink(copy / "kinds" / "old")
    done = xtar("diff", "--json", archive, copy)
    assert done.returncode == 1
    differences = {row["path"]: row for row in json.loads(done.stdout)["differences"]}
    assert differences["kinds/old"]["kind"] == "removed"
    assert {"size", "content"} <= set(differences["top"]["what"])


def test_build_dry_run_writes_nothing(menagerie: Path, tmp_path: Path) -> None:
    done = xtar("build", menagerie, "-o", tmp_path / "o.xtar", "--dry-run", "--exclude", "names")
    assert done.returncode == 0
    assert "would store" in done.stdout
    assert "1 excluded" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_excludes_and_lists_from_files(menagerie: Path, tmp_path: Path) -> None:
    (tmp_path / "patterns").write_text("# what we leave out\nnames\ndeep/\n")
    (tmp_path / "paths").write_bytes(b"kinds/exact\0names/new\nline\0")
    xtar("build", menagerie, "-o", tmp_path / "a.xtar", "--exclude-from", tmp_path / "patterns")
    assert xtar("list", tmp_path / "a.xtar").stdout.split() == ["kinds", "sizes", "top"]
    with open(tmp_path / "paths", "rb") as paths:
        done = xtar("build", menagerie, "-o", tmp_path / "b.xtar", "--files-from", "-", stdin=paths)
    assert done.returncode == 0, done.stderr
    listed = xtar("list", "-R", tmp_path / "b.xtar").stdout.splitlines()
    assert listed == ["kinds", "kinds/exact", "names", "names/new\\nline"]


def test_a_closed_pipe_is_no_traceback(archive: Path) -> None:
    with subprocess.Popen([*XTAR, "list", "-R", archive], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"deep\n"
        process.stdout.close()
        stderr = process.stderr.read()
    assert stderr == b""

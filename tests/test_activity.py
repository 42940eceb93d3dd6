"""`xtar activity`: which files it sees, when they changed, and how they are sorted into groups."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.activity import folder_changes as walk
from builder.activity.archive_changes import archive_changes
from builder.activity.changes import Changes
from builder.activity.folder_changes import folder_changes
from builder.activity.groups import HOUR, Activity, Group, main_folders
from builder.building.build import Options, build
from builder.commands.cli import main
from builder.scanning.scan import Item, Scanner, Selection
from xtarfs.reading.reader import Archive

from . import mounting, trees

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root takes another user's rights")
NOW = 1_700_000_000
SECOND = 10**9
Rows = Counter[tuple[int, int, bytes]]


def rows(changes: Changes) -> Rows:
    return Counter((changes.times[row], changes.sizes[row], changes.path(row)) for row in range(len(changes)))


def group_changes(changes: Iterable[tuple[int, int, bytes]], radius: int = HOUR) -> list[Group]:
    """Groups, the newest first, of (nanoseconds since 1970, bytes, path)."""
    columns = Changes()
    for time, size, path in changes:
        folder, _, name = path.rpartition(b"/")
        columns.add(folder, [os.fsdecode(name)], [time], [size])
    return list(Activity(columns, radius).groups())


def find(root: Path, time: str) -> Rows:
    """What find says of all regular files; time: `%T@` for mtime, `%C@` for ctime."""
    command = ["find", str(root), "-type", "f", "-printf", rf"{time} %s %P\0"]
    found: Rows = Counter()
    for line in subprocess.run(command, capture_output=True, check=True).stdout.split(b"\0")[:-1]:
        stamp, size, path = line.split(b" ", 2)
        seconds, _, fraction = stamp.partition(
            b"."
        )  # find prints -2.5 for -1.5: the seconds, rounded down, and the rest
        found[int(seconds) * SECOND + int(fraction[:9]), int(size), path] += 1
    return found


@pytest.fixture(params=["one process", "several processes"])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk as a small tree and as a large one has it."""
    if request.param == "several processes":
        monkeypatch.setattr(walk, "_SMALL", 0)
        monkeypatch.setattr(walk, "_LOTS", 3)
        monkeypatch.setattr(walk, "_PORTION", 2)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})


# -- which files, and when ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(("by", "letter"), [("mtime", "%T@"), ("ctime", "%C@")])
def test_a_folders_changes_are_what_find_says(menagerie: Path, by: str, letter: str) -> None:
    told: list[int] = []
    changes = folder_changes(str(menagerie), by, Selection(), told.append)
    assert rows(changes) == find(menagerie, letter)
    assert changes.problems == []
    assert 0 < sum(told) <= len(changes)


@pytest.mark.parametrize(("by", "letter"), [("mtime", "%T@"), ("ctime", "%C@")])
def test_an_archives_changes_are_its_sources(menagerie: Path, archive: Path, by: str, letter: str) -> None:
    with Archive.open(str(archive)) as opened:
        changes = archive_changes(opened, by, Selection())
    assert rows(changes) == find(menagerie, letter)
    assert changes.undated == 0


def test_births_are_what_stat_says(tmp_path: Path) -> None:
    for name in ("a", "b"):
        trees.write(tmp_path / name, b"x", mtime_ns=NOW * SECOND)
    born = subprocess.run(["stat", "-c", "%W", tmp_path / "a", tmp_path / "b"], capture_output=True, check=True)
    changes = folder_changes(str(tmp_path), "btime", Selection())
    if b"-" in born.stdout or b"0" in born.stdout.split():
        assert (len(changes), changes.undated) == (0, 2)
    else:
        assert sorted(time // SECOND for time in changes.times) == sorted(map(int, born.stdout.split()))
        assert all(time > NOW * SECOND for time in changes.times)


def test_an_archive_keeps_no_births(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["activity", str(archive), "--by", "btime"]) == 2
    assert one_line(capsys).endswith("an archive keeps no btime; use --by mtime, or give the folder")


def test_an_archive_without_its_end_keeps_no_ctimes(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.xtar"
    cut.write_bytes(archive.read_bytes()[:-10_000])
    assert main(["activity", str(cut), "--by", "ctime"]) == 2
    assert "use --by mtime" in one_line(capsys)
    assert activity(capsys, cut)["files"] == activity(capsys, archive)["files"] > 50


def test_times_beyond_nanoseconds_count_as_the_last() -> None:
    groups = group_changes([(1 << 70, 1, b"far"), (-(1 << 70), 2, b"past"), (5, 3, b"x/now")])
    assert [(group.begin, group.size) for group in groups] == [((1 << 63) - 1, 1), (5, 3), (-(1 << 63), 2)]


# -- what is left out ----------------------------------------------------------------------------------------------


@pytest.fixture
def cluttered(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    for folder in ("keep/build", "keep/deep/build/more", "cache", "fake"):
        (tree / folder).mkdir(parents=True)
    for path in ("a.o", "a.c", "keep/a.o", "keep/build/x", "keep/deep/build/more/x", "cache/x", "fake/x", "keep/b.c"):
        trees.write(tree / path, path.encode(), mtime_ns=NOW * SECOND)
    trees.write(tree / "cache" / "CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n")
    trees.write(tree / "fake" / "CACHEDIR.TAG", b"no signature")
    os.mkfifo(tree / "fifo")
    os.symlink("keep", tree / "link")
    return tree


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(exclude=["*.o"]),
        Selection(exclude=["build/", "/a.c"]),
        Selection(exclude=["*.c", "!b.c", "keep/deep/**"]),
        Selection(exclude_caches=True),
        Selection(exclude_caches=True, exclude=["CACHEDIR.TAG"]),
        Selection(exclude=["*"]),
    ],
    ids=repr,
)
def test_excludes_are_those_of_build(cluttered: Path, selection: Selection) -> None:
    def fail(path: bytes, reason: str) -> None:
        raise AssertionError(path, reason)

    steps = Scanner(str(cluttered), selection, fail, fail, set()).steps()
    wanted = {step.path for step in steps if isinstance(step, Item) and step.path not in (b"fifo", b"link")}
    assert {path for _, _, path in rows(folder_changes(str(cluttered), "mtime", selection))} == wanted
    whole = cluttered.with_name("whole.xtar")
    build(str(cluttered), str(whole), Options())
    with Archive.open(str(whole)) as opened:
        assert {path for _, _, path in rows(archive_changes(opened, "mtime", selection))} == wanted


def test_other_file_systems_are_entered_or_not(cluttered: Path, archive: Path) -> None:
    with mounting.live(archive, cluttered / "mounted"):
        everything = folder_changes(str(cluttered), "mtime", Selection())
        here = folder_changes(str(cluttered), "mtime", Selection(one_file_system=True))
    assert len(here) == 10
    assert len(everything) > 100


@ROOT
@pytest.mark.usefixtures("processes")
def test_what_cannot_be_read_is_named_and_the_rest_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for folder in ("open", "closed", "shut"):
            (root / folder).mkdir()
            trees.write(root / folder / "file", b"x")
        (root / "closed").chmod(0)
        (root / "shut").chmod(0)
        os.seteuid(65534)
        try:
            code = main(["activity", name, "--json"])
        finally:
            os.seteuid(0)
    out, err = capsys.readouterr()
    assert code == 1
    assert [group["files"] for group in json.loads(out)["groups"]] == [1]
    assert sorted(err.splitlines()) == [
        "xtar: closed: cannot be opened: Permission denied",
        "xtar: shut: cannot be opened: Permission denied",
    ]


def test_a_tree_deeper_than_a_path_may_be_long(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    changes = folder_changes(str(tmp_path), "mtime", Selection())
    assert [len(path) for _, _, path in rows(changes)] == [30 * 201 + 4]


# -- groups --------------------------------------------------------------------------------------------------------

names = st.lists(st.sampled_from([b"a", b"b", b"c", b"x.py", b"y.PY", b"z.txt"]), min_size=1, max_size=4).map(b"/".join)
some_changes = st.dictionaries(names, st.tuples(st.integers(-50, 50), st.integers(0, 9)), min_size=1, max_size=30)


@settings(max_examples=50, deadline=None)
@given(some_changes, st.integers(0, 12))
def test_groups_by_the_definition(files: dict[bytes, tuple[int, int]], radius: int) -> None:
    """A file is in a group while the gap to the next change is within the radius."""
    expected: list[list[bytes]] = []
    last = None
    for path in sorted(files, key=lambda path: files[path][0]):
        if last is None or files[path][0] - last > radius:
            expected.append([])
        expected[-1].append(path)
        last = files[path][0]
    groups = group_changes(((time, size, path) for path, (time, size) in files.items()), radius)
    assert len(groups) == len(expected)
    for group, paths in zip(reversed(groups), expected, strict=True):
        times = [files[path][0] for path in paths]
        assert (group.begin, group.end, group.files) == (min(times), max(times), len(paths))
        assert group.size == sum(files[path][1] for path in paths)
        check_folders(group, paths)
        kinds = Counter(
            "py" if path.lower().endswith(b".py") else "txt" if path.endswith(b".txt") else "" for path in paths
        )
        assert dict(group.kinds) == kinds


def is_below(path: bytes, folder: bytes) -> bool:
    return not folder or path == folder or path.startswith(folder + b"/")


def check_folders(group: Group, paths: list[bytes]) -> None:
    """Each file counts for the deepest folder that is listed above it."""
    listed = [folder for folder, _ in group.folders]
    assert len(listed) <= 5
    counted: Counter[bytes] = Counter()
    for path in paths:
        above = [folder for folder in listed if not folder or path.startswith(folder + b"/")]
        counted[max(above, key=len)] += 1
    assert dict(group.folders) == counted
    assert group.folders == sorted(group.folders, key=lambda folder: (-folder[1], folder[0]))


def test_main_folders_are_the_heavy_ones() -> None:
    weights = {b"src/app": 50, b"src/app/deep": 10, b"src": 1, b"docs/a": 20, b"docs/b": 1, b"x/y/z": 18}
    assert main_folders(weights, 3, 0.05) == [(b"src/app", 60), (b"", 20), (b"docs/a", 20)]
    assert main_folders({b"a/b": 3, b"a/c": 4}, 5, 0.05) == [(b"a/c", 4), (b"a/b", 3)]
    assert main_folders({b"only/here": 3}, 5, 0.05) == [(b"only/here", 3)]
    assert sum(weight for _, weight in main_folders(weights, 3, 0.05)) == sum(weights.values())


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(names, st.integers(1, 9), min_size=1), st.integers(1, 4), st.sampled_from([0, 0.05, 0.3]))
def test_main_folders_share_out_everything(weights: dict[bytes, int], most: int, share: float) -> None:
    listed = main_folders(weights, most, share)
    assert 1 <= len(listed) <= most
    assert all(weight > 0 for _, weight in listed)
    counted: Counter[bytes] = Counter()
    for path, weight in weights.items():
        counted[max((folder for folder, _ in listed if is_below(path, folder)), key=len)] += weight
    assert dict(listed) == counted


def test_a_window_of_time_includes_both_ends() -> None:
    changes = Changes()
    changes.add(b"", ["a", "b", "c", "d"], [1, 2, 3, 4], [1, 1, 1, 1])
    assert Activity(changes, 0, since=2, until=3).files == 2
    assert Activity(changes, 10, since=2).files == 3
    assert Activity(changes, 10, until=1).files == 1
    assert len(Activity(changes, 10, since=5)) == 0
    assert list(Activity(Changes()).groups()) == []


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Three days of work, an hour and a half apart at least, and a file from before 1970."""
    tree = tmp_path / "history"
    for folder in ("code", "photos/summer"):
        (tree / folder).mkdir(parents=True)
    day = 86400
    for path, size, moment in (
        ("code/a.py", 10, NOW), ("code/b.py", 30, NOW + 3600), ("code/c.txt", 20, NOW + 7200),
        ("photos/summer/1.jpg", 5000, NOW + day), ("photos/summer/2.JPG", 6000, NOW + day + 60),
        ("photos/index", 1, NOW + 3 * day), ("old", 7, -5 * day),
    ):  # fmt: skip
        trees.write(tree / path, bytes(size), mtime_ns=moment * SECOND)
    return tree


def activity(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    assert main(["activity", *map(str, arguments), "--json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("xtar: ") and err.count("\n") == 1, err
    return err.strip()


def test_json_of_a_folder_and_of_its_archive(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = activity(capsys, history)
    groups = document.pop("groups")
    assert document == {"source": str(history), "by": "mtime", "radius": 3600, "files": 7, "bytes": 11068}
    assert [(group["begin"], group["end"], group["files"], group["bytes"]) for group in groups] == [
        (NOW + 3 * 86400, NOW + 3 * 86400, 1, 1),
        (NOW + 86400, NOW + 86400 + 60, 2, 11000),
        (NOW, NOW + 7200, 3, 60),
        (-5 * 86400, -5 * 86400, 1, 7),
    ]
    assert groups[1]["folders"] == [{"path": "photos/summer", "files": 2}]
    assert groups[1]["kinds"] == [{"kind": "jpg", "files": 2}]
    assert groups[2]["kinds"] == [{"kind": "py", "files": 2}, {"kind": "txt", "files": 1}]
    assert groups[2]["top"][0] == {"path": "code/b.py", "bytes": 30, "time": NOW + 3600}
    assert [file["path"] for file in groups[2]["top"]] == ["code/b.py", "code/c.txt", "code/a.py"]
    archive = history.with_suffix(".xtar")
    build(str(history), str(archive), Options())
    assert activity(capsys, archive)["groups"] == groups


@pytest.mark.parametrize("by", ["mtime", "ctime"])
def test_an_incremental_copy_tells_of_the_whole_tree(
    history: Path, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    first, second = history.with_name("first.xtar"), history.with_name("second.xtar")
    assert main(["build", str(history), "-o", str(first)]) == 0
    trees.write(history / "code" / "new.py", b"new", mtime_ns=(NOW + 10) * SECOND)
    os.rename(history / "old", history / "photos" / "old")
    assert main(["build", str(history), "--base", str(first), "-o", str(second)]) == 0
    first.unlink()
    capsys.readouterr()
    document = activity(capsys, second, "--by", by)
    assert document["files"] == 8
    assert document["groups"] == activity(capsys, history, "--by", by)["groups"]


def test_the_gap_may_be_as_long_as_the_radius(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [g["files"] for g in activity(capsys, history, "--radius", "3599s")["groups"]] == [1, 2, 1, 1, 1, 1]
    assert [g["files"] for g in activity(capsys, history, "--radius", "2d")["groups"]] == [6, 1]
    assert len(activity(capsys, history, "--radius", "0")["groups"]) == 7


@pytest.mark.parametrize(
    ("sort", "files"),
    [
        ("time", [1, 2, 3, 1]),
        ("oldest", [1, 3, 2, 1]),
        ("files", [3, 2, 1, 1]),
        ("bytes", [2, 3, 1, 1]),
        ("length", [3, 2, 1, 1]),
    ],
)
def test_sort(history: Path, capsys: pytest.CaptureFixture[str], sort: str, files: list[int]) -> None:
    assert [group["files"] for group in activity(capsys, history, "--sort", sort)["groups"]] == files


@pytest.mark.parametrize(
    ("options", "files"),
    [
        (["--since", f"@{NOW}"], 6),
        (["--since", f"@{NOW + 1}"], 5),
        (["--until", f"@{NOW}"], 2),
        (["--since", "1969", "--until", "1969"], 1),
        (["--since", f"@{NOW}", "--until", f"@{NOW + 3600}"], 2),
        (["--since", "1s"], 0),
        (["--exclude", "code", "--exclude", "*.JPG"], 3),
    ],
)
def test_windows_and_excludes(
    history: Path, capsys: pytest.CaptureFixture[str], options: list[str], files: int
) -> None:
    assert activity(capsys, history, *options)["files"] == files


def test_top_files_on_demand(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [len(g["top"]) for g in activity(capsys, history, "--files", "1")["groups"]] == [1, 1, 1, 1]
    assert [len(g["top"]) for g in activity(capsys, history, "--files", "0")["groups"]] == [0, 0, 0, 0]
    assert main(["activity", str(history)]) == 0
    assert "code/b.py" not in capsys.readouterr().out
    assert main(["activity", str(history), "--files", "2"]) == 0
    out = capsys.readouterr().out
    assert "code/b.py" in out and "code/c.txt" in out and "code/a.py" not in out
    assert "photos/summer (2)" in out and "jpg (2)" in out and "2 files, 11.0 kB" in out


def test_names_of_any_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = os.fsencode(tmp_path / "tree")
    os.makedirs(tree + b"/[red]\xff\n")
    trees.write(tree + b"/[red]\xff\n/[bold]\x1b.\xe9", b"x")
    path = activity(capsys, os.fsdecode(tree))["groups"][0]["top"][0]
    assert path["path"] == r"[red]\377\n/[bold]\033.\351"
    assert main(["activity", os.fsdecode(tree), "--files", "1"]) == 0
    out = capsys.readouterr().out
    assert r"[red]\377\n/[bold]\033.\351" in out and "\x1b" not in out


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert activity(capsys, tmp_path)["groups"] == []
    assert main(["activity", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no files\n"


def test_a_damaged_archive_tells_what_it_can(sample_with_damage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["activity", str(sample_with_damage), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["files"] == 7
    assert "structure is damaged in both copies" in err


@pytest.fixture
def sample_with_damage(history: Path) -> Path:
    """An archive of which a folder has lost both copies of its structure."""
    path = history.with_suffix(".xtar")
    build(str(history), str(path), Options())
    data = bytearray(path.read_bytes())
    with Archive.open(str(path)) as archive:
        node = archive.lookup(b"photos/summer")
        place, catalogue = node.record.structure, archive.tree.catalogue
        assert place and catalogue
        for at in (node.base + node.record.data + place.at, catalogue + place.catalogue):
            data[at + 30] ^= 0xFF
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: No such file or directory"),
        (["history/old"], "is not an archive"),
        (["history", "--radius", "soon"], "--radius soon: is not a length of time"),
        (["history", "--radius", "-1h"], "--radius"),
        (["history", "--radius", ""], "is not a length of time"),
        (["history", "--since", "2024", "--until", "2023"], "--since 2024: is after --until 2023"),
        (["history", "--since", "tomorrow"], "--since tomorrow: is not a time"),
        (["history", "--until", "2024-02-30"], "--until 2024-02-30: is not a time"),
        (["history", "--files", "-1"], "must not be negative"),
        (["history", "--plot", "out.gif"], "out.gif: must end in .html, .png or .svg"),
        (["history", "--plot", "nowhere/out.svg"], "nowhere/out.svg: cannot be written"),
        (["history", "--plot", "taken.svg"], "taken.svg: exists already; --force replaces it"),
        (["history", "--plot", "folder.svg"], "folder.svg: is a directory"),
        (["nowhere", "--plot", "out.svg"], "nowhere"),
        (["history", "--exclude-from", "nowhere"], "nowhere: No such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    history: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(history.parent)
    Path("taken.svg").write_text("mine")
    Path("folder.svg").mkdir()
    before = trees.snapshot(history.parent)
    try:
        code = main(["activity", *arguments])
    except SystemExit as stop:  # argparse itself
        code = int(str(stop.code))
    assert code == 2
    assert message in one_line(capsys)
    assert trees.snapshot(history.parent) == before

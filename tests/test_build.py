"""The builder against sources that misbehave, selections, and interruptions."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import xtarfs
from builder.building.build import Options, build, survey
from builder.building.write import Result
from builder.scanning.scan import Selection
from builder.writing.compress import SEGMENT, Settings
from xtarfs.errors import BuildError, UsageError

from . import trees


def run(source: Path, out: Path, selection: Selection | None = None, **options: object) -> Result:
    return build(str(source), str(out), Options(selection=selection or Selection(), **options))  # type: ignore[arg-type]


def paths(archive: Path) -> set[str]:
    with xtarfs.open(str(archive)) as opened:
        return {node.path.decode() for node in opened.walk()}


def content(archive: Path, path: str) -> bytes:
    with xtarfs.open(str(archive)) as opened:
        return bytes(opened.read(opened.lookup(path), 0, 1 << 30))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    root = tmp_path / "small"
    for folder in ("a/tmpant", "a/keep", "b/c/tmpant"):
        (root / folder).mkdir(parents=True)
        trees.write(root / folder / "file.txt", b"x")
        trees.write(root / folder / "file.o", b"x")
    trees.write(root / "tmpant.txt", b"x")
    return root


def test_summary_counts_what_is_there(small: Path, tmp_path: Path) -> None:
    result = run(small, tmp_path / "o.xtar")
    assert (result.files, result.directories, result.others, result.content) == (7, 7, 0, 7)
    assert result.size == (tmp_path / "o.xtar").stat().st_size


# -- selections --------------------------------------------------------------------------------------------------


def test_bare_name_excludes_at_any_depth_as_in_2003(small: Path, tmp_path: Path) -> None:
    result = run(small, tmp_path / "o.xtar", Selection(exclude=["tmpant"]))
    assert paths(tmp_path / "o.xtar") == {
        "a", "a/keep", "a/keep/file.txt", "a/keep/file.o", "b", "b/c", "tmpant.txt",
    }  # fmt: skip
    assert result.excluded == 2


@pytest.mark.parametrize(
    ("patterns", "gone"),
    [
        (["*.o"], {"a/tmpant/file.o", "a/keep/file.o", "b/c/tmpant/file.o"}),
        (["/a/keep"], {"a/keep", "a/keep/file.txt", "a/keep/file.o"}),
        (["b/**/file.txt"], {"b/c/tmpant/file.txt"}),
        (["*.o", "!/a/keep/*.o"], {"a/tmpant/file.o", "b/c/tmpant/file.o"}),
        (["tmpant.txt/"], set()),
        (["# a comment", ""], set()),
    ],
)
def test_gitignore_patterns(small: Path, tmp_path: Path, patterns: list[str], gone: set[str]) -> None:
    run(small, tmp_path / "all.xtar")
    run(small, tmp_path / "o.xtar", Selection(exclude=patterns))
    assert paths(tmp_path / "all.xtar") - paths(tmp_path / "o.xtar") == gone


def test_cache_directories_keep_only_their_tag(small: Path, tmp_path: Path) -> None:
    trees.write(small / "a" / "CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n# by a test")
    trees.write(small / "b" / "CACHEDIR.TAG", b"not the signature")
    run(small, tmp_path / "o.xtar", Selection(exclude_caches=True))
    found = paths(tmp_path / "o.xtar")
    assert {path for path in found if path.startswith("a")} == {"a", "a/CACHEDIR.TAG"}
    assert "b/c/tmpant/file.o" in found


def test_only_listed_paths(small: Path, tmp_path: Path) -> None:
    listed = [b"./a/keep", b"b/c/tmpant/file.o", b"no/such"]
    result = run(small, tmp_path / "o.xtar", Selection(only=listed))
    assert paths(tmp_path / "o.xtar") == {
        "a", "a/keep", "a/keep/file.txt", "a/keep/file.o", "b", "b/c", "b/c/tmpant", "b/c/tmpant/file.o",
    }  # fmt: skip
    assert [path for path, _ in result.problems] == [b"no/such"]


def test_listed_path_must_lie_inside(small: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="leads out"):
        run(small, tmp_path / "o.xtar", Selection(only=[b"../secret"]))


def test_one_file_system(small: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", small / "a"], check=True)
    try:
        trees.write(small / "a" / "on-tmpfs", b"x")
        run(small, tmp_path / "o.xtar", Selection(one_file_system=True))
        assert {path for path in paths(tmp_path / "o.xtar") if path.startswith("a")} == {"a"}
        run(small, tmp_path / "p.xtar")
        assert "a/on-tmpfs" in paths(tmp_path / "p.xtar")
    finally:
        subprocess.run(["umount", small / "a"], check=True)


def test_survey_writes_nothing_and_counts_the_same(small: Path, tmp_path: Path) -> None:
    census, result = survey(str(small), Options(selection=Selection(exclude=["tmpant"])))
    assert (census.files, census.directories, result.excluded) == (3, 5, 2)
    assert list(tmp_path.iterdir()) == [small]


# -- sources that misbehave --------------------------------------------------------------------------------------


def test_sockets_are_skipped_with_a_notice(small: Path, tmp_path: Path) -> None:
    trees.add_socket(small)
    result = run(small, tmp_path / "o.xtar")
    assert [path for path, _ in result.notices] == [b"socket"]
    assert result.problems == []
    assert "socket" not in paths(tmp_path / "o.xtar")


def test_unreadable_files_and_folders_are_named_and_the_rest_is_stored(small: Path, tmp_path: Path) -> None:
    trees.write(small / "secret", b"s", 0o000)
    os.chmod(small / "b" / "c", 0o000)
    for path in (small, tmp_path, *small.rglob("*")):
        if path.name not in ("secret", "c"):
            os.chmod(path, 0o755)
    (tmp_path / "out").mkdir(mode=0o777)
    os.chmod(tmp_path / "out", 0o777)
    script = (
        "import os, sys; from builder.commands.cli import main\n"
        "import builder.building.build, xtarfs.text\n"
        "main(['build', '/no/such', '-o', '/no/such/o'])  # loads the rest, which nobody may not be able to read\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(main(['build', sys.argv[1], '-o', sys.argv[2]]))"
    )
    open_way(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", script, small, tmp_path / "out" / "o.xtar"], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "secret cannot be read: Permission denied" in done.stderr
    assert "b/c cannot be opened: Permission denied" in done.stderr
    found = paths(tmp_path / "out" / "o.xtar")
    assert "a/keep/file.txt" in found
    assert "secret" not in found


def open_way(path: Path) -> None:
    """Lets another user reach a temporary folder of pytest's."""
    for parent in path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            os.chmod(parent, parent.stat().st_mode | 0o711)


def interfere(monkeypatch: pytest.MonkeyPatch, name: str, action: Callable[[], None], call: int = 1) -> None:
    """Runs `action` right before the builder reads from the file called `name` for the call-th time."""
    real_pread, calls = os.pread, []

    def pread(fd: int, size: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/" + name):
            calls.append(offset)
            if len(calls) == call:
                action()
        return real_pread(fd, size, offset)

    monkeypatch.setattr("builder.writing.compress.os.pread", pread)
    monkeypatch.setattr("builder.writing.packer._core", None)  # it reads without Python


@pytest.mark.parametrize("size", [5000, 2 * SEGMENT + 99])
def test_a_file_that_grows_while_read_is_noted_and_stored_as_read(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    trees.write(small / "log", trees.words(size))

    def grow() -> None:
        with open(small / "log", "ab") as file:
            file.write(b"more")

    interfere(monkeypatch, "log", grow)
    result = run(small, tmp_path / "o.xtar")
    assert [path for path, _ in result.problems] == [b"log"]
    stored = content(tmp_path / "o.xtar", "log")
    assert (small / "log").read_bytes().startswith(stored)
    assert len(stored) >= size
    zip_is_sound(tmp_path / "o.xtar", "log.zip")


@pytest.mark.parametrize("deflate", [True, False])
@pytest.mark.parametrize("left", [0, 1000, SEGMENT + 7, 2 * SEGMENT])
def test_a_file_that_shrinks_while_read(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int, deflate: bool
) -> None:
    make = trees.words if deflate else trees.noise
    trees.write(small / "log", make(3 * SEGMENT))
    interfere(monkeypatch, "log", lambda: os.truncate(small / "log", left), call=19)
    result = run(small, tmp_path / "o.xtar", jobs=1)
    monkeypatch.undo()
    assert [path for path, _ in result.problems] == [b"log"]
    assert content(tmp_path / "o.xtar", "log") == make(3 * SEGMENT)[:left]
    zip_is_sound(tmp_path / "o.xtar", "log.zip")


def zip_is_sound(archive: Path, member: str) -> None:
    subprocess.run(["tar", "xf", archive, "-C", archive.parent, member], check=True)
    done = subprocess.run(["unzip", "-t", archive.parent / member], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_file_that_vanishes(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write(small / "goes", b"x")
    os.link(small / "goes", small / "goes-too")
    trees.write(small / "zz-stays", b"x")
    interfere(monkeypatch, "file.txt", lambda: os.unlink(small / "goes"))
    result = run(small, tmp_path / "o.xtar", jobs=1)
    assert [path for path, _ in result.problems] == [b"goes"]
    assert "zz-stays" in paths(tmp_path / "o.xtar")
    assert content(tmp_path / "o.xtar", "goes-too") == b"x"


def test_a_read_error_is_named(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write(small / "bad", trees.words(3 * SEGMENT))

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    interfere(monkeypatch, "bad", fail, call=18)
    result = run(small, tmp_path / "o.xtar")
    assert result.problems == [(b"bad", "cannot be read: Input/output error")]
    assert paths(tmp_path / "o.xtar") == {p for p in paths(tmp_path / "o.xtar") if p != "bad"}
    subprocess.run(["tar", "tf", tmp_path / "o.xtar"], check=True, capture_output=True)


def test_source_is_only_read(menagerie: Path, tmp_path: Path) -> None:
    before = trees.snapshot(menagerie)
    run(menagerie, tmp_path / "o.xtar")
    assert trees.differences(before, trees.snapshot(menagerie)) == []


def test_read_only_source(tmp_path: Path, small: Path) -> None:
    subprocess.run(["mount", "--bind", small, small], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", small], check=True)
        assert run(small, tmp_path / "o.xtar").problems == []
    finally:
        subprocess.run(["umount", small], check=True)


# -- the output --------------------------------------------------------------------------------------------------


def test_an_existing_archive_is_kept_without_force(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.xtar"
    out.write_bytes(b"precious")
    with pytest.raises(UsageError, match="--force"):
        run(small, out)
    assert out.read_bytes() == b"precious"
    run(small, out, force=True)
    assert "tmpant.txt" in paths(out)


def test_output_inside_the_source_does_not_store_itself(small: Path) -> None:
    out = small / "o.xtar"
    assert run(small, out).problems == []
    assert "o.xtar" not in paths(out)
    result = run(small, out, force=True)
    assert [path for path, _ in result.notices] == [b"o.xtar"]
    assert "o.xtar" not in paths(out)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    source, disk = tmp_path / "source", tmp_path / "disk"
    source.mkdir()
    disk.mkdir()
    trees.write(source / "noise", trees.noise(8 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=True)
    try:
        with pytest.raises(BuildError, match="No space left on device"):
            run(source, disk / "o.xtar")
        assert list(disk.iterdir()) == []
        (disk / "kept.xtar").write_bytes(b"precious")
        with pytest.raises(BuildError):
            run(source, disk / "kept.xtar", force=True)
        assert (disk / "kept.xtar").read_bytes() == b"precious"
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_kill_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    trees.sparse(source / "large", 8 << 30, {})
    script = "from builder.entry import xtar; xtar()"
    command: list[str | Path] = [sys.executable, "-c", script, "build", source, "-o", out / "o.xtar", "--work-dir", out]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    time.sleep(1.0)
    assert process.poll() is None, "the build ended before it could be killed"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"Traceback" not in stderr
    assert list(out.iterdir()) == []


def test_what_is_no_regular_file_is_never_replaced(small: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="not a regular file"):
        run(small, tmp_path / "fifo", force=True)
    assert (tmp_path / "fifo").is_fifo()


def test_files_that_claim_to_be_empty(tmp_path: Path) -> None:
    result = run(Path("/proc/sys/kernel/random"), tmp_path / "o.xtar")
    assert b"boot_id" in {path for path, _ in result.problems}
    assert content(tmp_path / "o.xtar", "boot_id") == Path("/proc/sys/kernel/random/boot_id").read_bytes()


def test_a_broken_pattern(small: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="pattern"):
        run(small, tmp_path / "o.xtar", Selection(exclude=["[z-a]"]))


def test_missing_source_and_odd_destinations(tmp_path: Path, small: Path) -> None:
    with pytest.raises(BuildError, match="No such file"):
        run(tmp_path / "missing", tmp_path / "o.xtar")
    with pytest.raises(BuildError, match="Not a directory"):
        run(small / "tmpant.txt", tmp_path / "o.xtar")
    with pytest.raises(UsageError, match="is a directory"):
        run(small, tmp_path)
    with pytest.raises(BuildError, match="No such file"):
        run(small, tmp_path / "no" / "such" / "o.xtar")
    assert not (tmp_path / "o.xtar").exists()


# -- sizes -------------------------------------------------------------------------------------------------------


def test_over_four_gigabytes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    size = (4 << 30) + 70_000
    trees.sparse(source / "large", size, {0: b"begin", 4 << 30: trees.words(70_000)})
    run(source, tmp_path / "o.xtar")
    with xtarfs.open(str(tmp_path / "o.xtar")) as archive:
        node = archive.lookup("large")
        assert node.record.size == size
        assert node.record.holes
        assert archive.read(node, (4 << 30) - 5, 100_000) == bytes(5) + trees.words(70_000)
    zip_is_sound(tmp_path / "o.xtar", "large.zip")


def test_memory_does_not_grow_with_the_tree(tmp_path: Path) -> None:
    script = (
        "import sys; from builder.building.build import *\n"
        "build(sys.argv[1], sys.argv[2], Options(jobs=2))\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    peaks = []
    for count, size in ((200, 1 << 20), (4000, 64 << 20)):
        source = tmp_path / f"source-{count}"
        for folder in range(10):
            (source / str(folder)).mkdir(parents=True)
            for number in range(count // 10):
                trees.write(source / str(folder) / str(number), b"%d" % number)
        trees.write(source / "large", trees.noise(1 << 20) * (size >> 20))
        done = subprocess.run(
            [sys.executable, "-c", script, source, tmp_path / f"{count}.xtar"], capture_output=True, check=True
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 16, f"{peaks} MiB"


def test_level_trades_time_for_size(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in Path(__file__).parent.parent.glob("*/*.py"):
        shutil.copy(path, source / f"{path.parent.name}-{path.name}")
    sizes = [run(source, tmp_path / f"{n}.xtar", settings=Settings(level=n)).size for n in (1, 6, 9)]
    assert sizes[0] > sizes[1] > sizes[2]

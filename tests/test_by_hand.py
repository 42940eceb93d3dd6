"""Restoring with tar and unzip alone, by the text that every archive begins with; and what standard tools say of it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.building.build import Options, build

from . import trees

FURTHER_NAMES = {b"kinds/linked-2", b"kinds/sub/linked-3"}
DEVICES = {b"kinds/char", b"kinds/block"}
ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "Asia/Kolkata"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="sets owners, or becomes another user")


def run(*command: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, check=check, env=ENVIRONMENT, timeout=300, **options)


def head_of(archive: Path) -> bytes:
    return run("head", "-c", "4000", archive).stdout


def text_of(archive: Path) -> str:
    """The text at the archive's head, without the tar headers around it."""
    return head_of(archive)[512:].partition(b"\0")[0].decode("ascii")


def take_script(archive: Path, folder: Path) -> str:
    """The script that the text's first command takes out of the archive."""
    command = next(line for line in text_of(archive).splitlines() if line.startswith("  sed "))
    run("sh", "-c", command.replace("ARCHIVE", shlex.quote(str(archive))), cwd=folder)
    return (folder / "restore.sh").read_text()


def restore(
    archive: Path, folder: Path, change: Callable[[str], str] = str, shell: str = "sh", **options: Any
) -> bytes:
    """Follows the text in `folder`, into `folder`/dest, with a script that may be changed; gives its complaints."""
    script = folder / "restore.sh"
    script.write_text(change(take_script(archive, folder)))
    done = run(*shlex.split(shell), script, archive, folder / "staging", folder / "dest", cwd=folder, **options)
    assert done.stdout == b""
    assert os.listdir(folder / "staging") == []
    return done.stderr


def facts(root: Path, owners: bool = True) -> dict[bytes, Any]:
    """What tar and unzip can restore."""
    found = trees.snapshot(root, nlink=False, xattrs=False)
    for entry in found.values():
        entry["mtime"] //= 10**9
        if not owners:
            del entry["owner"]
    return found


def without(found: dict[bytes, Any], paths: set[bytes]) -> dict[bytes, Any]:
    assert paths <= found.keys()
    return {path: entry for path, entry in found.items() if path not in paths}


def told(stderr: bytes) -> list[bytes]:
    """What a restore complained of, but for GNU tar's remarks on the old and future times that the menagerie has."""
    return [line for line in stderr.splitlines() if b"time stamp" not in line]


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that another user can reach, other than tmp_path."""
    path = Path(tempfile.mkdtemp(prefix="by hand "))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names, of files of all types, that shells and patterns stumble over; modes that lock their owner out."""
    root = tmp_path_factory.mktemp("strange") / "tree"
    (root / "folders").mkdir(parents=True)
    raw = os.fsencode(root)
    every_byte = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    for name in (
        every_byte, every_byte[::-1], b"\x81\x82\\\x88*", b"x\n", b"\n", b"..x", b"...", b". .", b"-", b"--", b"\xe4",
        b"\xc3\xa9" * 60, b"[a-z]\\", b"a.zip\n", b"a.xtar\n", b"\x81", b"'", b"$(x)", b"%", b".zip.zip", b"\\n",
    ):  # fmt: skip
        trees.write(raw + b"/" + name, name)
        os.makedirs(raw + b"/folders/" + name + b"/empty")
        os.mkfifo(raw + b"/folders/" + name + b"/" + name)
        os.symlink(name, raw + b"/folders/" + name + b"/to" + name[:200])
    for mode in (0o000, 0o100, 0o300, 0o500, 0o1777, 0o2755):
        closed = root / f"mode-{mode:o}"
        closed.mkdir()
        trees.write(closed / "inside", b"inside")
        closed.chmod(mode)
    os.symlink("nowhere", root / "HOW-TO-RESTORE.txt")
    return root


@pytest.fixture(scope="module")
def strange_archive(strange: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(strange, tmp_path_factory.mktemp("archive"))


def pack(source: Path, folder: Path) -> Path:
    path = folder / "made.xtar"
    assert build(str(source), str(path), Options()).problems == []
    return path


def test_text_is_plain(archive: Path) -> None:
    text = text_of(archive)
    assert len(head_of(archive).rstrip(b"\0")) < 4000
    assert max(map(len, text.splitlines())) <= 80
    assert "xtar extract ARCHIVE -C DESTINATION" in text
    assert "  sh restore.sh /.../ARCHIVE /.../STAGING /.../DESTINATION" in text.splitlines()
    assert run("tar", "-xOf", archive, "HOW-TO-RESTORE.txt").stdout.decode() == text


@pytest.mark.parametrize("shell", ["dash", "bash --posix"])
def test_restores_everything(menagerie: Path, archive: Path, folder: Path, shell: str) -> None:
    assert told(restore(archive, folder, shell=shell)) == []
    assert trees.differences(without(facts(menagerie), FURTHER_NAMES), facts(folder / "dest")) == []


@pytest.mark.parametrize("shell", ["dash", "bash --posix"])
def test_restores_strange_names(strange: Path, strange_archive: Path, folder: Path, shell: str) -> None:
    assert restore(strange_archive, folder, shell=shell) == b""
    assert trees.differences(facts(strange), facts(folder / "dest")) == []


def test_wants_whole_paths(archive: Path, folder: Path) -> None:
    take_script(archive, folder)
    done = run("sh", "restore.sh", archive, "staging", folder / "dest", cwd=folder, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, b"", 1)
    assert os.listdir(folder) == ["restore.sh"]


@as_root
def test_restores_as_an_ordinary_user(menagerie: Path, archive: Path, folder: Path) -> None:
    shutil.copy(archive, folder)
    shutil.chown(folder, "nobody", "nogroup")
    complaints = told(
        restore(folder / archive.name, folder, user="nobody", group="nogroup", extra_groups=[], umask=0o77)
    )
    assert all(b"mknod" in line or b"previous errors" in line for line in complaints)
    expected = without(facts(menagerie, owners=False), FURTHER_NAMES | DEVICES)
    assert trees.differences(expected, facts(folder / "dest", owners=False)) == []


@as_root
def test_restores_strange_names_as_an_ordinary_user(strange: Path, strange_archive: Path, folder: Path) -> None:
    shutil.copy(strange_archive, folder)
    shutil.chown(folder, "nobody", "nogroup")
    name = strange_archive.name
    assert restore(folder / name, folder, user="nobody", group="nogroup", extra_groups=[], umask=0o77) == b""
    assert trees.differences(facts(strange, owners=False), facts(folder / "dest", owners=False)) == []


def with_bsdtar(folder: Path) -> Callable[[str], str]:
    (folder / "tar").symlink_to(shutil.which("bsdtar") or "bsdtar")
    return lambda script: f"PATH={shlex.quote(str(folder))}:$PATH\n{script}"


def test_restores_with_bsdtar(menagerie: Path, archive: Path, folder: Path) -> None:
    assert restore(archive, folder, with_bsdtar(folder)) == b""
    assert trees.differences(without(facts(menagerie), FURTHER_NAMES), facts(folder / "dest")) == []


def test_restores_strange_names_with_bsdtar(strange: Path, strange_archive: Path, folder: Path) -> None:
    """But for names that begin with a backslash, which bsdtar drops, and the text says so."""
    complaints = restore(strange_archive, folder, with_bsdtar(folder)).splitlines()
    assert set(complaints) == {b"tar: Removing leading '\\' from member names"}
    expected = without(facts(strange), {b"folders/\\n", b"folders/\\n/empty", b"folders/\\n/\\n", b"folders/\\n/to\\n"})
    found = facts(folder / "dest")
    assert trees.differences(expected, found, lambda path: path.startswith(b"folders/n")) == []


def test_staging_holds_two_archives_at_most(folder: Path) -> None:
    """However deep the data lies."""
    source = folder / "source"
    (source / "/".join("abcdefgh")).mkdir(parents=True)
    trees.write(source / "a/b/c/d/e/f/g/h/noise", trees.noise(4 << 20))
    archive = pack(source, folder)
    measure = 'du -sk "$2" >>usage\n  [ "$4" = . ] ||'
    restore(archive, folder, lambda script: script.replace('[ "$4" = . ] ||', measure))
    usage = [int(line.split()[0]) for line in (folder / "usage").read_text().splitlines()]
    assert len(usage) == 9
    assert trees.differences(facts(source), facts(folder / "dest")) == []


# -- what the text says that it cannot do ---------------------------------------------------------------------


def test_limit_hard_links_xattrs_holes_and_fractions(menagerie: Path, archive: Path, folder: Path) -> None:
    restore(archive, folder)
    kinds = folder / "dest" / "kinds"
    assert (kinds / "linked-1").read_bytes() == (menagerie / "kinds/linked-1").read_bytes()
    assert (kinds / "linked-1").stat().st_nlink == 1
    assert not (kinds / "linked-2").exists()
    assert b'"link":"kinds/linked-1"' in nested_lines(archive, folder / "lines", "kinds.xtar")
    assert os.listxattr(kinds / "xattrs") == [] and os.listxattr(kinds / "sub") == []
    sparse = (menagerie / "kinds/sparse").stat(), (kinds / "sparse").stat()
    assert sparse[0].st_blocks < sparse[1].st_blocks >= (10 << 20) // 512
    assert (kinds / "exact").stat().st_mtime_ns == 1_700_000_000_000_000_000


def nested_lines(archive: Path, folder: Path, *names: str) -> bytes:
    """`zcat` of the structure file of a nested tar."""
    folder.mkdir()
    for name in names:
        run("tar", "-xf", archive, "-C", folder, name)
        archive = folder / name
    run("tar", "-xf", archive, "-C", folder, "structure.jsonl.gz")
    return run("zcat", folder / "structure.jsonl.gz").stdout


def test_limit_paths_over_4095_bytes(folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    here = os.open(source, os.O_RDONLY)
    for level in range(20):
        with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here), "wb") as file:
            file.write(b"level %d" % level)
        os.mkdir(chr(97 + level) * 250, dir_fd=here)
        below = os.open(chr(97 + level) * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert b"too long" in restore(pack(source, folder), folder)
    path = folder / "dest"
    for level in range(15):
        assert (path / "file").read_bytes() == b"level %d" % level
        path /= chr(97 + level) * 250
    run("rm", "-rf", source, folder / "dest")


def test_limit_control_bytes_and_setuid_without_the_flags(folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    trees.write(os.fsencode(source) + b"/ctrl\x01\x1b[31m", b"c")
    trees.write(source / "setuid", b"s", 0o4755)
    archive = pack(source, folder)
    restore(archive, folder, lambda script: script.replace("-oqK^$x", "-oq$x"))
    assert sorted(os.listdir(folder / "dest")) == ["ctrl[31m", "setuid"]
    assert (folder / "dest/setuid").stat().st_mode & 0o7777 == 0o755


def test_limit_brackets_in_the_name_of_a_zip(archive: Path, folder: Path) -> None:
    run("tar", "-xf", archive, "-C", folder, "names.xtar")
    run("tar", "-xf", folder / "names.xtar", "-C", folder, "br[a]cket.zip", "plain/.zip")
    (folder / "plain/.zip").rename(folder / "bracket.zip")
    assert run("unzip", "-Z1", "br[a]cket.zip", cwd=folder).stdout == b"names/plain\n"
    (folder / "br[a]cket.zip").rename(folder / "neutral.zip")
    assert run("unzip", "-Z1", "neutral.zip", cwd=folder).stdout == b"names/br[a]cket\n"


# -- what standard tools say ----------------------------------------------------------------------------------


def all_tars(archive: Path, folder: Path) -> Iterator[Path]:
    """The archive and every tar nested in it, extracted with tar; of the 200 that hold one another, some."""
    staging = folder / str(len(os.listdir(folder)))
    staging.mkdir()
    yield archive
    run("tar", "-xf", archive, "-C", staging)
    staging.chmod(0o700)
    for found in sorted(path for path in trees.paths_below(staging) if path.name.endswith(".xtar")):
        depth = found.stem[1:] if found.name.startswith("d") else ""
        if found.is_symlink() or (depth.isdigit() and int(depth) > 12):
            continue
        yield from all_tars(found, folder)


def test_every_tar_is_accepted_without_a_word(archive: Path, strange_archive: Path, folder: Path) -> None:
    count = 0
    for number, path in enumerate((archive, strange_archive)):
        (folder / str(number)).mkdir()
        for found in all_tars(path, folder / str(number)):
            count += 1
            listed = run("tar", "-tf", found, "--quoting-style=literal").stdout
            for command in (("tar", "-tvf", found), ("bsdtar", "-tvf", found)):
                assert run(*command).stderr == b""
            with tarfile.open(found, errors="surrogateescape", errorlevel=2) as opened:
                names = [os.fsencode(member.name) for member in opened]
                assert len(names) == run("tar", "-tf", found).stdout.count(b"\n")
                assert all(name.rstrip(b"/") in listed for name in names)
            seven = run("7z", "t", "-ttar", found)
            assert seven.stderr == b"" and b"Everything is Ok" in seven.stdout
            if b"SCHILY.xattr" not in found.read_bytes():  # 7z dislikes NUL bytes in a pax record
                assert b"arning" not in seven.stdout
    assert count > 50


def test_gnu_tar_restores_the_xattrs_of_folders(menagerie: Path, archive: Path, folder: Path) -> None:
    run("tar", "-xf", archive, "-C", folder, "kinds.xtar")
    run("tar", "-xf", folder / "kinds.xtar", "-C", folder, "sub.xtar")
    (folder / "sub").mkdir()
    run("tar", "--xattrs", "--xattrs-include=*", "-xpf", folder / "sub.xtar", "-C", folder / "sub", "./")
    for name in os.listxattr(menagerie / "kinds/sub"):
        assert os.getxattr(folder / "sub", name) == os.getxattr(menagerie / "kinds/sub", name)
    assert os.getxattr(folder / "sub", "user.on-dir") == b"d" * 2000


def test_carved_zip_knows_its_path(archive: Path, menagerie: Path, folder: Path) -> None:
    """A zip cut out of the archive by its signatures alone."""
    data = archive.read_bytes()
    name = b"deep/d0/d1/" + b"/".join(b"d%d" % level for level in range(2, 51)) + b"/file"
    start = data.index(name) - 30
    end = data.index(b"PK\x05\x06", start) + 22
    (folder / "carved.zip").write_bytes(data[start:end])
    run("unzip", "-oqX", "carved.zip", "-d", "dest", cwd=folder)
    assert (folder / "dest" / os.fsdecode(name)).read_bytes() == (menagerie / os.fsdecode(name)).read_bytes()
    assert b"OK" in run("zip", "-T", "carved.zip", cwd=folder).stdout
    with zipfile.ZipFile(folder / "carved.zip") as carved:
        assert carved.namelist() == [name.decode()]

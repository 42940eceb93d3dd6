"""What users do with a mount, on real mounts of real archives with both bindings. Fails where FUSE is missing."""

from __future__ import annotations

import errno
import mmap
import os
import random
import sqlite3
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder.building.build import Options, build
from xtarfs.reading.reader import Archive

from . import trees
from .mounting import failure, live

SPECIAL = ("fifo", "char", "block")  # diff has no way to compare these
FIND = r"%P %y %m %U %G %u %g %n %T@ %l %s\0"
GIT = ("git", "-c", "safe.directory=*", "-c", "user.name=t", "-c", "user.email=t@example.org")


@pytest.fixture(scope="module")
def shown(archive: Path, binding: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The menagerie, mounted."""
    with live(archive, tmp_path_factory.mktemp("mount") / "m") as point:
        yield point


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with what programs work in: a repository and its clone, a database, a package, a big file."""
    root = tmp_path_factory.mktemp("workplace") / "tree"
    root.mkdir()
    repository = root / "repository"
    repository.mkdir()
    subprocess.run([*GIT, "init", "-q"], cwd=repository, check=True)
    for number in range(12):
        trees.write(repository / f"file {number}", trees.words(20_000, number))
        subprocess.run([*GIT, "add", "."], cwd=repository, check=True)
        subprocess.run([*GIT, "commit", "-qm", f"number {number}"], cwd=repository, check=True)
        if number == 8:
            subprocess.run([*GIT, "gc", "-q"], cwd=repository, check=True)
    subprocess.run(["git", "clone", "-q", "--no-local", repository, root / "clone"], check=True)
    with sqlite3.connect(root / "data.db") as database:
        database.execute("create table t (number integer primary key, text text)")
        rows = ((number, f"{number:x}" * 50) for number in range(20_000))
        database.executemany("insert into t values (?, ?)", rows)
    database.close()
    (root / "package" / "inner").mkdir(parents=True)
    (root / "package" / "__init__.py").write_text("from .inner.deep import value\n")
    (root / "package" / "inner" / "deep.py").write_text("value = 'imported from ' + __file__\n")
    (root / "package" / "inner" / "data.txt").write_text("resource")
    rng = random.Random(7)
    stretches = {rng.randrange(10**9): trees.words(1 << 20, seed) for seed in range(12)}
    trees.sparse(root / "big", 10**9 + 77, stretches | {5 * 10**8: trees.noise(5 << 20)})
    return root


@pytest.fixture(scope="module")
def worked(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "workplace.xtar"
    assert build(str(workplace), str(path), Options()).problems == []
    return path


@pytest.fixture(scope="module")
def place(worked: Path, binding: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The workplace, mounted."""
    with live(worked, tmp_path_factory.mktemp("mount") / "m") as point:
        yield point


def output(*command: str | Path, cwd: Path | None = None) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


# --- the same as the source ---


def test_snapshot(menagerie: Path, shown: Path) -> None:
    assert trees.differences(trees.snapshot(menagerie), trees.snapshot(shown)) == []


def test_diff(menagerie: Path, shown: Path) -> None:
    left_out = [word for name in SPECIAL for word in ("-x", name)]
    assert output("diff", "-r", "--no-dereference", *left_out, menagerie, shown) == b""


def test_rsync(menagerie: Path, shown: Path) -> None:
    flags = ("-aHAXn", "--checksum", "--delete", "--itemize-changes")
    assert output("rsync", *flags, f"{menagerie}/", f"{shown}/") == b""
    assert output("rsync", *flags, f"{shown}/", f"{menagerie}/") == b""


def test_find_printf(menagerie: Path, shown: Path) -> None:
    def found(root: Path) -> set[bytes]:
        files = output("find", root, "!", "-type", "d", "-printf", FIND).split(b"\0")
        # A folder's size is the file system's own affair.
        folders = output("find", root, "-type", "d", "-printf", FIND.replace("%s", "")).split(b"\0")
        return {*files, *folders}

    assert found(menagerie) == found(shown)


def test_getfattr(menagerie: Path, shown: Path) -> None:
    def attributes(root: Path) -> list[bytes]:
        return sorted(output("getfattr", "-R", "-h", "-d", "-m", "-", "-e", "hex", ".", cwd=root).split(b"\n\n"))

    found = attributes(shown)
    assert found == attributes(menagerie)
    assert any(b"system.posix_acl_access" in record for record in found)
    assert not any(b"user.xtar" in record for record in found)


def test_stat(menagerie: Path, shown: Path) -> None:
    form = "%A %F %a %h %U %G %u %g %s %t %T %.Y"
    for name in ("setuid", "setgid", "big-ids", "linked-1", "sparse", "old", "new", "dangling", *SPECIAL):
        path = Path("kinds") / name
        assert output("stat", "-c", form, shown / path) == output("stat", "-c", form, menagerie / path)


def test_hard_links_share_an_inode(shown: Path) -> None:
    first, *others = (os.lstat(shown / "kinds" / name) for name in ("linked-1", "linked-2", "sub/linked-3"))
    assert first.st_nlink == 3
    assert {(other.st_ino, other.st_nlink) for other in others} == {(first.st_ino, 3)}


def test_inode_numbers_are_unique_and_stay(archive: Path, shown: Path, binding: str, tmp_path: Path) -> None:
    form = r"%i %P\0"
    seen = output("find", shown, "-printf", form)
    inodes = [line.split(b" ")[0] for line in seen.split(b"\0")[:-1] if b"linked-" not in line]
    assert len(inodes) == len(set(inodes)) > 100
    with live(archive, tmp_path / "again") as again:
        assert output("find", again, "-printf", form) == seen
        listed = {entry.name: entry.inode() for entry in os.scandir(again / "names")}
    assert listed == {name: os.lstat(shown / "names" / name).st_ino for name in listed}


def test_holes_are_seen(menagerie: Path, shown: Path) -> None:
    for name in ("sparse", "all-hole"):
        assert os.stat(shown / "kinds" / name).st_blocks <= os.stat(menagerie / "kinds" / name).st_blocks
    assert os.stat(shown / "sizes" / "noise-32769").st_blocks * 512 >= 32769


def test_df(archive: Path, menagerie: Path, shown: Path) -> None:
    paths = [Path(folder) / name for folder, folders, files in os.walk(menagerie) for name in folders + files]
    paths.append(menagerie)
    fields = output("df", "--output=source,fstype,itotal,iused,iavail,avail,pcent", shown).splitlines()[1].split()
    assert fields[:2] == [os.fsencode(archive), b"fuse.xtarfs"]
    inodes = {os.lstat(path).st_ino for path in paths}
    assert len(inodes) <= int(fields[2]) <= len(paths)
    assert (fields[3], fields[4], fields[5], fields[6]) == (fields[2], b"0", b"0", b"100%")
    files = [path for path in paths if stat.S_ISREG(os.lstat(path).st_mode)]
    content = {os.lstat(path).st_ino: os.lstat(path).st_size for path in files}
    total = os.statvfs(shown).f_blocks * os.statvfs(shown).f_frsize
    assert sum(content.values()) <= total <= sum(os.lstat(path).st_size for path in files) + 4096


def test_tar_of_the_mount(menagerie: Path, shown: Path, tmp_path: Path) -> None:
    flags = ("--sort=name", "--format=posix", "--pax-option=delete=atime,delete=ctime", "--xattrs", "--acls")
    for name, root in (("source", menagerie), ("mount", shown)):
        output("tar", *flags, "-cf", tmp_path / name, "-C", root, ".")
    with tarfile.open(tmp_path / "source") as source, tarfile.open(tmp_path / "mount") as mount:
        for a, b in zip(source, mount, strict=True):
            assert a.get_info() == b.get_info()
            assert (a.pax_headers, a.linkname) == (b.pax_headers, b.linkname)
            if a.isreg():
                one, other = source.extractfile(a), mount.extractfile(b)
                assert one
                assert other
                assert one.read() == other.read()


# --- programs at work in it ---


def test_git(workplace: Path, place: Path) -> None:
    for name in ("repository", "clone"):
        fsck = output(*GIT, "fsck", "--full", "--strict", "--no-progress", cwd=place / name)
        assert fsck == b""
        assert output(*GIT, "status", "--porcelain", cwd=place / name) == b""
        assert output(*GIT, "log", "-p", cwd=place / name) == output(*GIT, "log", "-p", cwd=workplace / name)


def test_git_clones_from_the_mount(place: Path, tmp_path: Path) -> None:
    subprocess.run([*GIT, "clone", "-q", place / "repository", tmp_path / "clone"], check=True)
    assert (tmp_path / "clone" / "file 11").read_bytes() == trees.words(20_000, 11)


@pytest.mark.parametrize("name", ["data.db", "file:data.db?mode=ro", "file:data.db?immutable=1"])
def test_sqlite(workplace: Path, place: Path, name: str) -> None:
    query = "select count(*), sum(length(text)), sum(number) from t where number % 7; pragma integrity_check"
    answer = output("sqlite3", name, query, cwd=place)
    assert answer == output("sqlite3", name, query, cwd=workplace)
    assert answer.endswith(b"ok\n")


def test_python_imports_from_it(place: Path) -> None:
    code = "import package, importlib.resources as r; print(package.value, r.read_text('package.inner', 'data.txt'))"
    printed = output(sys.executable, "-W", "ignore", "-c", code, cwd=place).decode()
    assert printed == f"imported from {place}/package/inner/deep.py resource\n"


def test_dd_at_random_offsets_of_a_big_file(workplace: Path, place: Path) -> None:
    rng = random.Random(3)
    with open(workplace / "big", "rb") as source:
        stretches = [os.lseek(source.fileno(), rng.randrange(5 * 10**8), os.SEEK_DATA) for _ in range(10)]
        offsets = [start + rng.randrange(1 << 20) for start in stretches] + [rng.randrange(10**9) for _ in range(10)]
        for offset in (*offsets, 10**9, 10**9 + 76, 0):
            count = rng.choice((1, 4096, 100_000, 3_000_000))
            flags = "iflag=skip_bytes,count_bytes,fullblock"
            command = ("dd", f"if={place}/big", "bs=64K", f"skip={offset}", f"count={count}", flags, "status=none")
            assert output(*command) == os.pread(source.fileno(), count, offset)


def test_mmap(menagerie: Path, shown: Path) -> None:
    for name in ("noise-3145733", "half", "text-32769"):
        with (
            open(shown / "sizes" / name, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            wanted = (menagerie / "sizes" / name).read_bytes()
            assert mapped[-5:] == wanted[-5:]  # backwards first, so that no readahead helps
            assert mapped[:] == wanted


def test_a_file_managers_pattern(menagerie: Path, shown: Path) -> None:
    """All names, then the attributes of each, then its beginning for a preview and its attributes by name."""
    for folder in ("names", "kinds", "sizes"):
        entries = sorted(os.scandir(shown / folder), key=lambda entry: entry.name)
        assert [entry.name for entry in entries] == sorted(os.listdir(menagerie / folder))
        for entry in entries:
            source = menagerie / folder / entry.name
            assert entry.stat(follow_symlinks=False).st_size == os.lstat(source).st_size or entry.is_dir()
            if entry.is_file(follow_symlinks=False):
                with open(entry.path, "rb") as file, open(source, "rb") as wanted:
                    assert file.read(4096) == wanted.read(4096)
                assert failure(os.getxattr, entry.path, "user.xdg.origin.url") == errno.ENODATA
        assert not os.path.exists(shown / folder / ".hidden-list")
        assert not os.path.exists(shown / folder / ".directory")


def test_eight_readers_at_once(workplace: Path, place: Path) -> None:
    paths = [path.relative_to(workplace) for path in workplace.rglob("*") if path.is_file() and path.name != "big"]

    def read(seed: int) -> list[Path]:
        rng = random.Random(seed)
        wrong = [path for path in rng.sample(paths, len(paths)) if not same(path)]
        with open(workplace / "big", "rb") as source, open(place / "big", "rb") as file:
            for _ in range(30):
                # All eight meet in the noise, so that the same chunks are wanted at once.
                offset = 5 * 10**8 + random.Random(rng.randrange(20)).randrange(5 << 20)
                size = rng.choice((1, 5000, 300_000))
                if os.pread(file.fileno(), size, offset) != os.pread(source.fileno(), size, offset):
                    wrong.append(Path(f"big at {offset}"))
        return wrong

    def same(path: Path) -> bool:
        return (place / path).read_bytes() == (workplace / path).read_bytes()

    for path in (*paths, Path("big")):
        with open(place / path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == [[]] * 8


# --- what only a mount has ---


def test_writes_are_refused(shown: Path) -> None:
    attempts = (
        lambda: (shown / "top").write_bytes(b"x"),
        lambda: os.open(shown / "new", os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir(shown / "new"),
        lambda: os.unlink(shown / "top"),
        lambda: os.rmdir(shown / "kinds" / "empty"),
        lambda: os.rename(shown / "top", shown / "new"),
        lambda: os.chmod(shown / "top", 0o600),
        lambda: os.utime(shown / "top"),
        lambda: os.truncate(shown / "top", 0),
        lambda: os.setxattr(shown / "top", "user.a", b"b"),
        lambda: os.symlink("x", shown / "new"),
        lambda: os.link(shown / "top", shown / "new"),
    )
    assert [failure(attempt) for attempt in attempts] == [errno.EROFS] * len(attempts)


def test_own_attributes(archive: Path, menagerie: Path, shown: Path) -> None:
    with Archive.open(str(archive)) as opened:
        record = opened.lookup("sizes/text-1048577").record
        identifier = opened.tree.locator.id if opened.tree.locator else ""
    path = shown / "sizes" / "text-1048577"
    wanted = {
        "status": "ok",
        "sha256": output("sha256sum", menagerie / "sizes" / "text-1048577").split()[0].decode(),
        "crc32": record.crc32,
        "packed_size": str(record.packed),
        "method": "deflate",
        "chunk_size": "32768",
    }
    assert {name: os.getxattr(path, f"user.xtar.{name}").decode() for name in wanted} == wanted
    assert os.listxattr(path) == []
    assert os.getxattr(shown, "user.xtar.id").decode() == identifier
    link = shown / "kinds" / "sub" / "linked-3"
    assert os.getxattr(link, "user.xtar.sha256") == os.getxattr(shown / "kinds" / "linked-1", "user.xtar.sha256")
    for absent in (shown / "kinds", shown / "kinds" / "fifo"):
        assert failure(os.getxattr, absent, "user.xtar.status") == errno.ENODATA
    assert failure(os.getxattr, path, "user.xtar.absent") == errno.ENODATA


def test_paths_that_are_not_there(shown: Path) -> None:
    assert failure(os.stat, shown / "absent") == errno.ENOENT
    assert failure(os.stat, shown / "absent" / "below") == errno.ENOENT
    assert failure(os.stat, shown / "top" / "below") == errno.ENOTDIR
    assert failure(os.stat, shown / "names" / ("n" * 256)) == errno.ENAMETOOLONG
    assert failure(os.stat, os.fsencode(shown) + b"/names/latin\xe8") == errno.ENOENT
    assert failure(os.listdir, shown / "top") == errno.ENOTDIR

"""Source trees for the tests, and snapshots that two trees can be compared by."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHUNK = 32 << 10


def paths_below(root: Path) -> Iterator[Path]:
    """Everything below `root`. Path.rglob of Python 3.11.2 stumbles over a symlink with a long target."""
    for folder, folders, files in os.walk(root):
        yield from (Path(folder, name) for name in (*folders, *files))


def words(size: int, seed: int = 1) -> bytes:
    """`size` bytes that pack about as well as text does, the same for the same seed."""
    rng = random.Random(seed)
    vocabulary = [bytes(rng.choices(range(97, 123), k=rng.randint(2, 9))) for _ in range(500)]
    out = bytearray()
    while len(out) < size:
        out += b" ".join(rng.choices(vocabulary, k=200)) + b"\n"
    return bytes(out[:size])


def noise(size: int, seed: int = 1) -> bytes:
    """`size` bytes that do not pack at all."""
    return random.Random(seed).randbytes(size)


def write(path: Path | bytes, data: bytes = b"", mode: int = 0o644, mtime_ns: int | None = None) -> None:
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)
    if mtime_ns is not None:
        os.utime(path, ns=(mtime_ns, mtime_ns))


def sizes(root: Path) -> None:
    """Files around every boundary of the chunking, packable and not."""
    for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 17, (1 << 20) + 1, (3 << 20) + 5):
        write(root / f"text-{size}", words(size, size))
        write(root / f"noise-{size}", noise(size, size))
    write(root / "zeros", bytes(2_000_000))
    write(root / "half", words(1 << 20) + noise(1 << 20))


def names(root: Path) -> None:
    """Names that break tools: any bytes but slash and NUL, our own suffixes and member names, long ones."""
    raw = os.fsencode(root)
    for name in (
        b"plain", b"plain.zip", b"plain.zip.zip", b"x.xtar", b"-rf", b"--help", b" lead", b"trail ", b"new\nline",
        b"tab\there", b"ctrl\x01\x1b[31m", b"quote'\"", b"back\\slash", b"star*", b"quest?", b"br[a]cket", b"$HOME",
        b"`id`", b"caf\xc3\xa9", b"latin\xe9", b"\xff\xfe", b"structure.jsonl.gz", b"HOW-TO-RESTORE.txt",
        b"catalogue.jsonl.gz", b"locator.json.gz", b"a" * 251, b"b" * 252, b"c" * 255, "ü".encode() * 127,
        b"\xe9" * 253,
        b".hidden", b".zip", b".xtar", b"...", b"~tilde", b"#hash", b"semi;colon", b"%s%n", b"UPPER", b"upper",
    ):  # fmt: skip
        write(raw + b"/" + name, b"content of " + name)
    for name in (b"dir", b"dir.xtar", b"d" * 252, b"e" * 255, b"f.zip", b"\xe9dir", b"new\nline dir", b"plain-dir.zip"):
        os.mkdir(raw + b"/" + name)
        write(raw + b"/" + name + b"/inside", b"inside " + name)
    os.symlink(b"plain", raw + b"/link-to.zip")
    write(raw + b"/link-to", b"a file beside a symlink called link-to.zip")
    os.symlink(b"dir", raw + b"/dir2.xtar")
    os.mkdir(raw + b"/dir2")
    write(raw + b"/dir2/inside", b"a directory beside a symlink called dir2.xtar")
    os.mkdir(raw + b"/own")
    os.symlink(b"nowhere", raw + b"/own/structure.jsonl.gz")
    os.symlink(b"nowhere", raw + b"/own/structure-1.jsonl.gz")
    os.symlink(b"nowhere", raw + b"/origin.jsonl.gz")


def kinds(root: Path) -> None:
    """Every type of file, with modes, owners, times, links and attributes of every sort."""
    write(root / "setuid", b"s", 0o4755)
    write(root / "setgid", b"s", 0o2755)
    write(root / "none", b"secret", 0o000)
    write(root / "old", b"old", mtime_ns=-1_500_000_001)
    write(root / "new", b"new", mtime_ns=4_102_444_800_123_456_789)
    write(root / "epoch", b"0", mtime_ns=0)
    write(root / "exact", b"ns", mtime_ns=1_700_000_000_000_000_001)
    os.mkdir(root / "sticky", 0o777)
    os.chmod(root / "sticky", 0o1777)
    os.mkdir(root / "empty")
    os.mkdir(root / "closed")
    write(root / "closed" / "inside", b"inside a closed directory")
    os.chmod(root / "closed", 0o500)
    os.symlink("setuid", root / "relative")
    os.symlink("/no/such/target", root / "dangling")
    os.symlink("x" * 4000, root / "long-target")
    os.symlink(b"\xff\xfe", os.fsencode(root / "raw-target"))
    os.mkfifo(root / "fifo", 0o640)
    write(root / "linked-1", words(100_000))
    os.link(root / "linked-1", root / "linked-2")
    os.mkdir(root / "sub")
    os.link(root / "linked-1", root / "sub" / "linked-3")
    write(root / "xattrs", b"x")
    os.setxattr(root / "xattrs", "user.comment", b"hello\0world")
    os.setxattr(root / "xattrs", "user.empty", b"")
    os.setxattr(root / "sub", "user.on-dir", b"d" * 2000)
    sparse(root / "sparse", 10 << 20, {0: words(5000), 4 << 20: noise(5000), (10 << 20) - 3: b"end"})
    sparse(root / "all-hole", 3 << 20, {})
    if os.geteuid() == 0:
        os.mknod(root / "char", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(root / "block", 0o600 | stat.S_IFBLK, os.makedev(7, 300))
        write(root / "owned", b"o")
        os.chown(root / "owned", 1, 2)
        write(root / "big-ids", b"b")
        os.chown(root / "big-ids", 3_000_000, 4_000_000_000)
        os.chmod(root / "setuid", 0o4755)
        subprocess.run(["setfacl", "-m", "u:daemon:rw,g:bin:r", root / "xattrs"], check=True)
        subprocess.run(["setfacl", "-d", "-m", "u:daemon:rwx", root / "sub"], check=True)


def add_socket(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))


def sparse(path: Path, size: int, data: dict[int, bytes]) -> None:
    """A file of `size` bytes that has only the given stretches, by offset; the rest are holes."""
    with open(path, "wb") as file:
        file.truncate(size)
        for at, content in data.items():
            file.seek(at)
            file.write(content)


def deep(root: Path, levels: int = 200) -> None:
    path = root
    for level in range(levels):
        path = path / f"d{level}"
        path.mkdir()
        if level % 50 == 0:
            write(path / "file", b"level %d" % level)


def set_times(root: Path, mtime_ns: int = 1_650_000_000_123_456_789) -> None:
    """Fixed times for directories, deepest first, as filling them has changed them."""
    for folder, _, _ in os.walk(os.fsencode(root), topdown=False):
        os.utime(folder, ns=(mtime_ns, mtime_ns))


def make_tree(root: Path) -> Path:
    """The whole menagerie below `root`, which is created."""
    root.mkdir()
    for part in (sizes, names, kinds, deep):
        (root / part.__name__).mkdir()
        part(root / part.__name__)
    write(root / "top", words(1000))
    set_times(root)
    return root


def snapshot(root: Path | bytes, *, nlink: bool = True, holes: bool = False, xattrs: bool = True) -> dict[bytes, Any]:
    """Everything that a restored tree must have in common with its source, by path; `b""` is the root."""
    top = os.fsencode(root)
    inodes: dict[int, bytes] = {}
    found: dict[bytes, Any] = {}

    def visit(path: bytes) -> None:
        full = top + b"/" + path if path else top
        st = os.lstat(full)
        facts: dict[str, Any] = {
            "mode": oct(st.st_mode),
            "owner": (st.st_uid, st.st_gid),
            "mtime": st.st_mtime_ns,
        }
        if xattrs:
            facts["xattrs"] = {
                n: os.getxattr(full, n, follow_symlinks=False) for n in os.listxattr(full, follow_symlinks=False)
            }
        if stat.S_ISDIR(st.st_mode):
            found[path] = facts
            for name in sorted(os.listdir(full)):
                visit(path + b"/" + name if path else name)
            return
        if stat.S_ISLNK(st.st_mode):
            facts["target"] = os.readlink(full)
        elif stat.S_ISREG(st.st_mode):
            with open(full, "rb") as file:
                facts["content"] = hashlib.file_digest(file, "sha256").hexdigest()
            facts["size"] = st.st_size
            if nlink:
                facts["links"] = st.st_nlink
                facts["first name"] = inodes.setdefault(st.st_ino, path)
            if holes:
                facts["sparse"] = st.st_blocks * 512 < st.st_size
        else:
            facts["device"] = st.st_rdev
        found[path] = facts

    visit(b"")
    return found


def differences(
    a: dict[bytes, Any], b: dict[bytes, Any], ignore: Callable[[bytes], bool] = lambda _: False
) -> list[str]:
    """What two snapshots do not share, one line each; empty when they are the same."""
    lines = []
    for path in sorted(a.keys() | b.keys()):
        if ignore(path):
            continue
        if path not in a or path not in b:
            lines.append(f"{path!r}: only in the {'first' if path in a else 'second'}")
        elif a[path] != b[path]:
            keys = [key for key in a[path].keys() | b[path].keys() if a[path].get(key) != b[path].get(key)]
            lines += [f"{path!r}: {key}: {a[path].get(key)!r} != {b[path].get(key)!r}" for key in sorted(keys)]
    return lines

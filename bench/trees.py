"""The trees that are packed and mounted, and the lists of paths that the work goes by."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lab.tree

from . import stop
from .measure import surroundings
from .samples import Facts

NAMES = SMALL, MIXED, LARGE, CLONE = "small files", "mixed", "large files", "git clone"
BIG = "big.bin"
_SEED = 2003
_SOME = 500
_READERS = 8
_LARGE_ROOTS = ("/usr/lib", "/usr/bin", "/usr/share")
_DIRECTORY = 1000  # files in each directory of a tree that grows


@dataclass(frozen=True, slots=True)
class Tree:
    name: str
    path: Path

    def facts(self) -> Facts:
        sizes = [os.lstat(self.path / name).st_size for name in self.files()]
        return Facts(len(sizes), sum(sizes), max(sizes, default=0))

    def files(self) -> list[str]:
        """Paths of its regular files."""
        return [name for name in self.entries() if stat.S_ISREG(os.lstat(self.path / name).st_mode)]

    def entries(self) -> list[str]:
        """All paths below it, in order."""
        found = (os.path.join(top, name) for top, dirs, names in os.walk(self.path) for name in dirs + names)
        return sorted(os.path.relpath(path, self.path) for path in found)


@dataclass(frozen=True, slots=True)
class Lists:
    """Files of NUL-ended paths that begin with `./`, for xargs. each: how many of `shuffled` one of 8 readers takes."""

    everything: Path
    files: Path
    some: Path
    shuffled: Path
    each: int


def write_lists(tree: Tree, folder: Path, inside: Callable[[str], str] | None) -> Lists:
    """`inside` says where a file of the tree stands in a mount that shows it elsewhere."""
    files = tree.files()
    entries = files if inside else tree.entries()
    shuffled = random.Random(_SEED).sample(files, len(files))
    folder.mkdir(parents=True)

    def write(name: str, paths: Iterable[str]) -> Path:
        target = folder / name
        target.write_bytes(b"".join(b"./" + os.fsencode(inside(p) if inside else p) + b"\0" for p in paths))
        return target

    return Lists(
        write("everything", entries),
        write("files", files),
        write("some", shuffled[:_SOME]),
        write("shuffled", shuffled),
        -(-len(files) // _READERS),
    )


def make(name: str, folder: Path, size: int) -> Tree:
    """One of the four trees, of about `size` bytes at most."""
    path = folder / name.replace(" ", "-")
    if name == SMALL:
        lab.tree.make(path, size, ("/usr/include",))
    elif name == MIXED:
        lab.tree.make(path, size, ("/usr/lib/python3", "/usr/share/doc"))
    elif name == LARGE:
        _make_large(path, size)
    else:
        _make_clone(path, size)
    return Tree(name, path)


def _make_large(path: Path, size: int) -> None:
    """One file of `size` and three of a tenth, of whatever programs and data are installed here."""
    path.mkdir(parents=True)
    blocks = _installed()
    for name, length in ((BIG, size), *((f"{number}.bin", size // 10) for number in range(3))):
        with open(path / name, "wb") as file:
            while file.tell() < length:
                file.write(next(blocks)[: length - file.tell()])


def _installed() -> Iterator[bytes]:
    while True:
        for root in _LARGE_ROOTS:
            for top, dirs, names in os.walk(root):
                dirs.sort()
                for name in sorted(names):
                    source = Path(top, name)
                    if source.is_file() and not source.is_symlink():
                        yield source.read_bytes()


def _make_clone(path: Path, size: int) -> None:
    origin = path.with_name("origin")
    lab.tree.make(origin, size, ("/usr/include",))
    who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for command in (
        ("git", "-C", str(origin), "init", "--quiet"),
        ("git", "-C", str(origin), "add", "--all"),
        ("git", "-C", str(origin), *who, "commit", "--quiet", "--message", "all"),
        ("git", "clone", "--quiet", "--no-local", str(origin), str(path)),
    ):
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=surroundings())


def growing(limit: int) -> list[tuple[str, int, int]]:
    """Of the trees that growth is measured with: name, number of files up to `limit`, files in a directory."""
    powers = [power for power in range(3, 7) if 10**power <= limit]
    trees = [(f"10^{power} files", 10**power, _DIRECTORY) for power in powers]
    flat = min(5, powers[-1])
    return [*trees, (f"10^{flat} in one directory", 10**flat, 10**flat)]


def make_growing(folder: Path, name: str, files: int, directory: int) -> Tree:
    path = folder / name.replace(" ", "-")
    for start in range(0, files, directory):
        stop.check()
        place = path / f"directory-{start // directory:04}"
        place.mkdir(parents=True)
        for number in range(start, start + directory):
            with open(place / f"file-{number:07}.txt", "w", encoding="ascii") as file:
                file.write(f"This is file number {number}.\n" * 8)
    return Tree(name, path)

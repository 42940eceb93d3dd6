"""What is done in a mount."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .measure import READS, RUN, Usage, measure
from .packers import Command
from .peers import Peer
from .trees import BIG, CLONE, LARGE, Lists

READY_COLD, READY_WARM = "ready, cold", "ready, warm"
FIND_COLD, FIND_WARM = "find -ls, cold", "find -ls, warm"
STAT = "stat of everything, cold"
READ_COLD, READ_WARM = "read every file, cold", "read every file, warm"
SOME = "500 random files, cold"
READERS_8 = "8 readers at once, cold"
RSYNC = "rsync -n --checksum, cold"
SEQUENTIAL = "large file in sequence, cold"
RANDOM = "2000 random 4 KiB reads, cold"
GIT_STATUS = "git status, cold"
_RANDOM_READS = 2000


@dataclass(frozen=True, slots=True)
class Work:
    """command(lists, tree) runs in the mount's root.

    own_paths: needs the files under the paths that they have on disk. brief: left out with peers that take minutes.
    """

    name: str
    command: Callable[[Lists, Path], Command]
    mode: str = RUN
    own_paths: bool = False
    brief: bool = False

    @property
    def cold(self) -> bool:
        return self.name.endswith("cold")

    def possible(self, peer: Peer) -> bool:
        return not (self.own_paths and peer.inside) and not (self.brief and peer.once)

    def measure(self, lists: Lists, tree: Path, point: Path, limit: float) -> Usage:
        return measure(self.command(lists, tree), limit, cwd=point, mode=self.mode)


def _find(lists: Lists, tree: Path) -> Command:
    return ("find", ".", "-ls")


def _stat(lists: Lists, tree: Path) -> Command:
    return ("xargs", "-0", "-a", lists.everything, "stat", "-c", "%s", "--")


def _read(lists: Lists, tree: Path) -> Command:
    return ("xargs", "-0", "-a", lists.files, "cat", "--")


def _read_some(lists: Lists, tree: Path) -> Command:
    return ("xargs", "-0", "-a", lists.some, "cat", "--")


def _read_together(lists: Lists, tree: Path) -> Command:
    return ("xargs", "-0", "-P", "8", "-n", str(lists.each), "-s", "2000000", "-a", lists.shuffled, "cat", "--")


def _compare(lists: Lists, tree: Path) -> Command:
    return ("rsync", "-rn", "--checksum", "./", f"{tree}/")


def _git_status(lists: Lists, tree: Path) -> Command:
    return ("git", "--no-optional-locks", "status", "--porcelain")


FIND = Work(FIND_COLD, _find)
READ = Work(READ_COLD, _read)
READ_SOME = Work(SOME, _read_some)
_MANY = (
    FIND,
    Work(FIND_WARM, _find, brief=True),
    Work(STAT, _stat, brief=True),
    READ,
    Work(READ_WARM, _read),
    READ_SOME,
    Work(READERS_8, _read_together, brief=True),
    Work(RSYNC, _compare, own_paths=True),
)
_LARGE = (
    Work(SEQUENTIAL, lambda lists, tree: ("cat", BIG), own_paths=True),
    READ,
    Work(RANDOM, lambda lists, tree: (BIG, str(_RANDOM_READS)), READS, own_paths=True),
)
_CLONE = (Work(GIT_STATUS, _git_status, own_paths=True),)


def of(tree: str) -> tuple[Work, ...]:
    """The works of a tree, in the order in which they are done."""
    return {LARGE: _LARGE, CLONE: _CLONE}.get(tree, _MANY)

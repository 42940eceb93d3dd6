"""Small sets of volumes, and what tests ask of them."""

from __future__ import annotations

import os
from pathlib import Path

from builder.building.build import Options
from builder.commands.cli import main
from builder.volumes.spread import build_volumes
from builder.writing.compress import Settings

from . import trees

CHUNK = 4096
LIMIT = 60_000


def varied_tree(root: Path) -> Path:
    """Files to cut among names that sort around those of their parts, and one of everything that is not a file."""
    root.mkdir()
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "none").mkdir()
    (root / "last").mkdir()
    for number in range(12):
        trees.write(root / "d" / f"text-{number}", trees.words(9000 + number, number))
    for name in ("big.b", "big.part-0001", "big.part-x", "big.zip", "bigger", "structure.jsonl.gz"):
        trees.write(root / name, b"content of " + name.encode(), mtime_ns=1_600_000_000_000_000_000)
    trees.write(root / "big", trees.noise(3 * LIMIT), 0o640)
    trees.write(root / "d" / "e" / "packed", trees.words(12 * LIMIT, 3))
    trees.write(root / "d" / "e" / ("n" * 254), trees.noise(2 * LIMIT, 5))
    trees.write(root / "d" / "empty")
    trees.write(root / "last" / "one", b"1")
    os.link(root / "big", root / "last" / "link to what is cut")
    os.link(root / "big.b", root / "last" / "fourth")
    os.link(root / "last" / "one", root / "last" / "second")
    os.link(root / "d" / "text-3", root / "last" / "third")
    os.symlink("big", root / "last" / "symlink")
    os.mkfifo(root / "d" / "fifo")
    os.setxattr(root / "big", "user.comment", b"kept in each part")
    trees.sparse(root / "last" / "holes", 500_000, {250_000: trees.noise(100)})
    trees.set_times(root)
    return root


def build_set(source: Path, out: Path, limit: int = LIMIT, spares: int = 0, force: bool = False) -> list[Path]:
    """The volumes of a set, with chunks of 4 KiB."""
    options = Options(settings=Settings(chunk_size=CHUNK), force=force)
    result, paths = build_volumes(str(source), str(out), options, limit, spares)
    assert result.problems == []
    return [Path(path) for path in paths]


def run(*arguments: str | Path) -> int:
    """The exit code of the command, in this process."""
    return main([str(argument) for argument in arguments])

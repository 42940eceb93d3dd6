"""Packs once with each tool, then damages a copy and recovers, over and over."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .damage import Damage
from .score import Score, score
from .tools import Tool
from .tree import Content


@dataclass(frozen=True, slots=True)
class Packed:
    """An archive of one tool, whole. size: bytes; seconds: to write it."""

    tool: Tool
    folder: Path
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One recovery; `damage` is None for the undamaged archive. seconds: of the recovery's commands."""

    tool: str
    damage: Damage | None
    seed: int
    score: Score
    seconds: float


def missing(tool: Tool) -> list[str]:
    """The commands that it lacks."""
    return [name for name in tool.needs if not shutil.which(name)]


def pack(tool: Tool, tree: Path, work: Path) -> Packed:
    folder = work / tool.name.replace(" ", "-").replace("%", "")
    folder.mkdir(parents=True)
    start = time.monotonic()
    tool.pack(tree, folder)
    seconds = time.monotonic() - start
    return Packed(tool, folder, sum(path.stat().st_size for path in tool.files(folder)), seconds)


def trial(packed: Packed, damage: Damage | None, seed: int, content: Content, work: Path) -> Trial:
    """Recovers a damaged copy of the archive and scores it; the copy and what came back are gone afterwards."""
    with tempfile.TemporaryDirectory(dir=work) as place:
        copy, out = Path(place) / "a", Path(place) / "out"
        shutil.copytree(packed.folder, copy)
        if damage:
            damage.apply(packed.tool.files(copy), seed)
        start = time.monotonic()
        attempts = packed.tool.recover(copy, out)
        seconds = time.monotonic() - start
        return Trial(packed.tool.name, damage, seed, score(content, attempts), seconds)


def series(
    archives: Iterable[Packed],
    damages: Iterable[Damage | None],
    seeds: int,
    content: Content,
    work: Path,
    jobs: int,
    finished: Callable[[Trial], None],
) -> list[Trial]:
    """Every archive with every damage and seed, in that order; damage that no seed changes is done once."""
    plan = [
        (packed, damage, seed)
        for packed in archives
        for damage in damages
        for seed in range(1, (seeds if damage and damage.seeded else 1) + 1)
    ]

    def run(step: tuple[Packed, Damage | None, int]) -> Trial:
        done = trial(*step, content, work)
        finished(done)
        return done

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(run, plan))

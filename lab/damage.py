"""What is done to an archive: seeded, and at the same relative places whatever its size."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECTOR = 4096
_ENDS = 16  # sectors: 64 KiB


@dataclass(frozen=True, slots=True)
class Damage:
    """sectors(total, rng) gives the numbers of the sectors that become zeros; without it one byte is changed.

    share: of all sectors, for the figure's axis; 0 where it is not one. seeded: whether another seed hits elsewhere.
    """

    name: str
    sectors: Callable[[int, random.Random], range | list[int]] | None
    share: float = 0
    seeded: bool = True

    def apply(self, files: list[Path], seed: int) -> None:
        """Damages the concatenation of `files`, each of which starts on a sector of its own, as on a disc."""
        rng = random.Random(f"{self.name} {seed}")
        if not self.sectors:
            _flip(files, rng)
            return
        places = [(path, number) for path in files for number in range(-(-path.stat().st_size // SECTOR))]
        for index in self.sectors(len(places), rng):
            path, number = places[index]
            with open(path, "r+b") as file:
                file.seek(0, 2)
                size = min(SECTOR, file.tell() - number * SECTOR)
                file.seek(number * SECTOR)
                file.write(bytes(size))


def _flip(files: list[Path], rng: random.Random) -> None:
    """Changes all bits of one byte."""
    at = int(rng.random() * sum(path.stat().st_size for path in files))
    for path in files:
        size = path.stat().st_size
        if at < size:
            with open(path, "r+b") as file:
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 0xFF]))
            return
        at -= size


def scattered(percent: float) -> Damage:
    def sectors(total: int, rng: random.Random) -> list[int]:
        return rng.sample(range(total), round(total * percent / 100))

    return Damage(f"{percent:g}% of sectors", sectors, percent)


def burst(percent: float) -> Damage:
    def sectors(total: int, rng: random.Random) -> range:
        count = max(1, round(total * percent / 100))
        start = int(rng.random() * (total - count + 1))
        return range(start, start + count)

    return Damage(f"burst of {percent:g}%", sectors, percent)


FLIP = Damage("one byte", None)
SECTOR_LOST = Damage("one sector", lambda total, rng: [int(rng.random() * total)])
HEAD = Damage("first 64 KiB", lambda total, rng: range(min(total, _ENDS)), seeded=False)
TAIL = Damage("last 64 KiB", lambda total, rng: range(max(0, total - _ENDS), total), seeded=False)
SCATTERED = tuple(scattered(percent) for percent in (0.1, 0.3, 1, 3))
BURSTS = tuple(burst(percent) for percent in (0.1, 0.3, 1, 3))

"""The tables of `docs/durability.md`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from statistics import mean

from .bench import Packed, Trial
from .damage import BURSTS, FLIP, HEAD, SCATTERED, SECTOR_LOST, TAIL, Damage

USUAL = SCATTERED[2]
COLUMNS: tuple[Damage, ...] = (SECTOR_LOST, FLIP, *SCATTERED, BURSTS[2], HEAD, TAIL)
_BEGIN, _END = "<!-- made by python -m {}: {} -->\n", "<!-- end -->"


def of(trials: list[Trial], tool: str, damage: Damage | None) -> list[Trial]:
    return [trial for trial in trials if trial.tool == tool and trial.damage == damage]


def lost(trials: list[Trial]) -> float:
    """The share of bytes that did not come back right, in percent, on average."""
    return mean(100 - 100 * trial.score.bytes / trial.score.total_bytes for trial in trials)


def tables(archives: list[Packed], trials: list[Trial]) -> str:
    """What each tool gave back, by kind of damage."""
    return "\n".join(
        (
            "**Bytes right, in the right file and place, % of all**\n",
            _by_damage(archives, trials, lambda some: _percent(100 - lost(some))),
            "**Files whole, % of all**\n",
            _by_damage(
                archives, trials, lambda some: _percent(mean(100 * t.score.files / t.score.total_files for t in some))
            ),
            "**Silent corruption: kB handed out wrong without a word (number of files)**\n",
            _by_damage(archives, trials, _silent),
        )
    )


def _percent(value: float) -> str:
    """Two decimals, and never 100 for less than all."""
    return "100" if value == 100 else f"{min(value, 99.99):.2f}" if value >= 99 else f"{value:.1f}"


def _silent(trials: list[Trial]) -> str:
    size, files = (mean(getattr(t.score, name) for t in trials) for name in ("silent", "silent_files"))
    return f"{size / 1000:.1f} ({files:.1f})" if files else "0"


def _by_damage(archives: list[Packed], trials: list[Trial], cell: Callable[[list[Trial]], str]) -> str:
    rows = [
        [packed.tool.name, *(cell(of(trials, packed.tool.name, damage)) for damage in COLUMNS)] for packed in archives
    ]
    return table(["", *(damage.name for damage in COLUMNS)], rows)


def costs(archives: list[Packed], timed: list[Trial]) -> str:
    """Space and time, from trials that ran one at a time."""
    rows = []
    for packed in archives:
        sound, hurt = of(timed, packed.tool.name, None)[0], of(timed, packed.tool.name, USUAL)[0]
        share = 100 * packed.size / sound.score.total_bytes
        times = (packed.seconds, sound.seconds, hurt.seconds)
        rows.append([packed.tool.name, f"{packed.size / 1e6:.1f}", f"{share:.1f}", *(f"{time:.1f}" for time in times)])
    head = ["", "MB", "% of content", "pack, s", "recover undamaged, s", f"recover {USUAL.name}, s"]
    return "**Cost**\n\n" + table(head, rows)


def chunk_table(archives: list[Packed], trials: list[Trial]) -> str:
    """What the chunk size costs and saves."""
    smallest = min(packed.size for packed in archives)
    rows = [
        [
            packed.tool.name.removeprefix("xtar, "),
            f"{packed.size / 1e6:.1f}",
            f"+{100 * packed.size / smallest - 100:.1f}%",
            *(f"{lost(of(trials, packed.tool.name, damage)):.2f}" for damage in (*SCATTERED, BURSTS[2], FLIP)),
        ]
        for packed in archives
    ]
    head = ["chunk size", "MB", "against the smallest", *(f"lost, {d.name}, %" for d in (*SCATTERED, BURSTS[2], FLIP))]
    return table(head, rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def put(page: Path, name: str, text: str, maker: str = "lab") -> None:
    """Replaces the part of that name in a page, or appends it, with its marks, where the page has none."""
    begin = _BEGIN.format(maker, name)
    old = page.read_text() if page.exists() else ""
    part = f"{begin}\n{text}\n{_END}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(_END), re.DOTALL)
    new = pattern.sub(lambda _: part, old) if pattern.search(old) else f"{old}{part}\n"
    page.write_text(new)

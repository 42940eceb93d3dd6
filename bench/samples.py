"""What was measured, saved at once: a line of JSON for each figure, so that a run cut off loses nothing."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

MOUNTS, BUILDS, EXTRACTS, GROWTH, PARTS = "mounts", "builds", "extracts", "growth", "parts"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. seconds: wall time, None where there is only a note that says why not.

    cpu: seconds, and peak: bytes, both of the serving process for a mount's work, else of the command; size: bytes
    that the tool wrote.
    """

    group: str
    tree: str
    tool: str
    work: str
    seconds: float | None = None
    cpu: float | None = None
    peak: int | None = None
    size: int | None = None
    note: str = ""

    @property
    def part(self) -> tuple[str, str]:
        """What is taken from one run only, so that a ratio is always one of figures of the same run."""
        return (self.group, "" if self.group == GROWTH else self.tree)


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a tree; size and largest: bytes."""

    files: int
    size: int
    largest: int


@dataclass(slots=True)
class Run:
    """machine: lines that describe where and when it was made, and with what settings.

    joined: the runs that this one was put together from; what it has not may be in one of them.
    """

    machine: list[str] = field(default_factory=list)
    trees: dict[str, Facts] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    joined: list[Run] = field(default_factory=list)

    def pick(self, group: str, tree: str, tool: str, work: str) -> list[Sample]:
        wanted = (group, tree, tool, work)
        return [s for s in self.samples if (s.group, s.tree, s.tool, s.work) == wanted]

    def values(self, group: str, tree: str, tool: str, work: str, figure: str = "seconds") -> list[float]:
        """All rounds of one figure: seconds, cpu, peak or size."""
        found = (getattr(sample, figure) for sample in self.pick(group, tree, tool, work))
        return [value for value in found if value is not None]

    def median(self, group: str, tree: str, tool: str, work: str, figure: str = "seconds") -> float | None:
        values = self.values(group, tree, tool, work, figure)
        return median(values) if values else None


class Log:
    """Appends to a file of its own what a run finds."""

    def __init__(self, path: Path, machine: list[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._line({"machine": machine})

    def tree(self, name: str, facts: Facts) -> None:
        self._line({"tree": name, **asdict(facts)})

    def sample(self, sample: Sample) -> None:
        self._line({key: value for key, value in asdict(sample).items() if value not in (None, "")})

    def _line(self, content: object) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")


def load(path: Path) -> Run:
    """A run as far as it came; a last line cut off is left out."""
    run = Run()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if "machine" in content:
            run.machine = content["machine"]
        elif "group" in content:
            run.samples.append(Sample(**content))
        else:
            name = content.pop("tree")
            run.trees[name] = Facts(**content)
    return run


def merge(runs: Iterable[Run]) -> Run:
    """Each part from the first run that measured it."""
    every = list(runs)
    merged = Run(joined=every)
    source: dict[tuple[str, str], Run] = {}
    for run in every:
        for sample in run.samples:
            if sample.seconds is not None or sample.size is not None:
                source.setdefault(sample.part, run)
    for run in every:
        taken = [sample for sample in run.samples if source.get(sample.part, run) is run]
        if taken:
            merged.samples += taken
            merged.machine += [line for line in run.machine if line not in merged.machine]
            merged.trees = run.trees | merged.trees
    return merged


def describe(settings: str) -> list[str]:
    """This machine, the time and the settings."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = next((line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return [
        f"{os.cpu_count()} x {model or platform.machine()}, {memory / 1e9:.0f} GB, {system}, "
        f"Linux {platform.release()}, Python {platform.python_version()}",
        f"{time.strftime('%Y-%m-%d', time.gmtime())}: {settings}",
    ]

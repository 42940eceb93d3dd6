"""The main works as bars, one panel each."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from lab.figure import plotter

from . import trees, works
from .packers import BUILD
from .samples import BUILDS, MOUNTS, Run

_PANELS = (
    (MOUNTS, trees.SMALL, works.FIND_COLD),
    (MOUNTS, trees.SMALL, works.READ_COLD),
    (MOUNTS, trees.SMALL, works.READ_WARM),
    (MOUNTS, trees.SMALL, works.SOME),
    (MOUNTS, trees.LARGE, works.SEQUENTIAL),
    (BUILDS, trees.SMALL, BUILD),
)
_OURS, _OTHERS = "#c1121f", "#8d99ae"


def draw(run: Run, target: Path) -> None:
    """Writes the figure as SVG; the panels that nothing was measured for are empty."""
    plt = plotter()
    figure, panels = plt.subplots(2, 3, figsize=(15, 8.5))
    for panel, (group, tree, work) in zip(panels.flat, _PANELS, strict=True):
        _bars(panel, run, group, tree, work)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def _bars(panel: Any, run: Run, group: str, tree: str, work: str) -> None:
    """Seconds on a logarithmic axis, the fastest on top, with the range of all rounds."""
    tools = dict.fromkeys(sample.tool for sample in run.samples if (sample.group, sample.tree) == (group, tree))
    measured = [(tool, values) for tool in tools if (values := run.values(group, tree, tool, work))]
    measured.sort(key=lambda row: median(row[1]), reverse=True)
    panel.set(title=f"{work}: {tree}", xlabel="seconds")
    if not measured:
        return
    medians = [median(values) for _, values in measured]
    below = [middle - min(values) for middle, (_, values) in zip(medians, measured, strict=True)]
    above = [max(values) - middle for middle, (_, values) in zip(medians, measured, strict=True)]
    names = [tool for tool, _ in measured]
    colours = [_OURS if name.startswith("xtar") else _OTHERS for name in names]
    panel.barh(names, medians, color=colours, xerr=(below, above), error_kw={"elinewidth": 1, "ecolor": "#222222"})
    panel.set(xscale="log", xlim=(min(medians) / 2, max(medians) * 3))
    for row, middle in enumerate(medians):
        panel.text(middle * 1.08, row + 0.12, f"{middle:.2g}", fontsize=8)
    panel.grid(axis="x", alpha=0.25)

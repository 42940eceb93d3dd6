"""Loss against damage, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .bench import Packed, Trial
from .damage import BURSTS, SCATTERED, Damage
from .report import lost, of

_FLOOR = 0.005  # percent: where "nothing" is drawn on the logarithmic axis
_OURS = {"xtar": "#c1121f", "xtar, 5% parity": "#0a7d35"}
_OTHERS = ("#1f77b4", "#ff9f1c", "#6a4c93", "#8c564b", "#17becf", "#7f7f7f", "#e377c2", "#222222", "#c9a800")


def plotter() -> Any:
    """matplotlib, set up for figures whose bytes depend on their content alone."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "xtar"
    import matplotlib.pyplot

    return matplotlib.pyplot


def draw(archives: list[Packed], trials: list[Trial], target: Path) -> None:
    """Writes the figure: one panel for scattered sectors, one for a burst."""
    plt = plotter()
    figure, panels = plt.subplots(1, 2, figsize=(13, 6.2), sharey=True)
    titles = ("4 KiB sectors zeroed at random", "one burst of zeroed sectors")
    for panel, damages, title in zip(panels, (SCATTERED, BURSTS), titles, strict=True):
        _panel(panel, damages, title, archives, trials)
    panels[0].set_ylabel("bytes that did not come back right, % of all")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center right", frameon=False)
    figure.tight_layout(rect=(0, 0, 0.83, 1))
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def _panel(panel: Any, damages: Sequence[Damage], title: str, archives: list[Packed], trials: list[Trial]) -> None:
    shares = [damage.share for damage in damages]
    markers, colours = iter("osDv^<>PX*h"), iter(_OTHERS)
    for packed in archives:
        name = packed.tool.name
        values = [max(_FLOOR, lost(of(trials, name, damage))) for damage in damages]
        ours = name in _OURS
        panel.plot(
            shares,
            values,
            marker=next(markers),
            color=_OURS[name] if ours else next(colours),
            linewidth=3 if ours else 1.2,
            zorder=3 if ours else 4,  # the thin lines stay visible on the thick ones
            label=name,
        )
    panel.plot(shares, shares, color="black", linestyle=":", linewidth=1, label="as much lost as was hit")
    panel.set(xscale="log", yscale="log", title=title, xlabel="sectors zeroed, % of all", ylim=(_FLOOR * 0.8, 130))
    panel.set_xticks(shares, [f"{share:g}" for share in shares], minor=False)
    panel.minorticks_off()
    panel.set_yticks([_FLOOR, 0.01, 0.1, 1, 10, 100], ["nothing", "0.01", "0.1", "1", "10", "100"])
    panel.grid(alpha=0.25)

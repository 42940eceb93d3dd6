"""The tables of `docs/performance.md`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median

from lab.report import put, table

from .packers import BUILD, BY_DEFAULT, ZIP
from .samples import BUILDS, EXTRACTS, GROWTH, MOUNTS, PARTS, Run, Sample
from .targets import APART, Verdict, default_engine, verdicts

FIGURE = "performance.svg"  # beside the page
_MAKER = "bench"
_NOTHING = "–"


def write(page: Path, run: Run) -> None:
    """Writes the parts that `run` has something for; what stands around them, and the other parts, stay."""
    page.parent.mkdir(parents=True, exist_ok=True)
    groups = {sample.group for sample in run.samples}
    put(page, "machine", _machine(run), _MAKER)
    put(page, "targets", f"![Seconds for the main works]({FIGURE})\n\n{targets(run)}", _MAKER)
    for group, part in ((MOUNTS, mounts), (BUILDS, builds), (EXTRACTS, extracts), (GROWTH, growth)):
        if group in groups:
            put(page, group, part(run), _MAKER)


def _machine(run: Run) -> str:
    rows = [
        [name, str(facts.files), f"{facts.size / 1e6:.1f}", f"{facts.largest / 1e6:.1f}"]
        for name, facts in run.trees.items()
    ]
    lines = "".join(f"- {line}\n" for line in run.machine)
    return f"{lines}\n{table(['tree', 'files', 'MB', 'largest file, MB'], rows)}"


# --- targets ---


def targets(run: Run) -> str:
    rows = [_verdict(verdict) for verdict in verdicts(run)]
    done = [verdict.met for verdict in verdicts(run) if verdict.met is not None]
    head = ["work", "against", "at most", "measured", ""]
    engine = default_engine(run)
    mounts = f" Mounts are those of xtar on {engine} where the table names no other." if engine else ""
    return f"{table(head, rows)}\n{sum(done)} of {len(done)} measured targets met.{mounts}\n"


def _verdict(verdict: Verdict) -> list[str]:
    target, found = verdict.target, verdict.found
    work = f"{target.work}, on {verdict.engine}" if len(target.engines) in (1, 2) else target.work
    unit = f" {target.unit}" if target.unit else ""
    limit = f"{target.limit:g}{unit}"
    if found is None:
        return [work, target.against, limit, _NOTHING, "not measured"]
    digits = 0 if target.unit else 3 if target.limit < 0.1 else 2
    where = f" ({found[1]})" if found[1] else ""
    met = "met" if verdict.met else "**not met**"
    return [work, target.against, limit, f"{found[0]:.{digits}f}{unit}{where}", met]


# --- groups ---


def mounts(run: Run) -> str:
    """One table a tree; the server's peak is that of all work, its CPU the sum of the medians."""
    parts = []
    for tree in _distinct(s.tree for s in run.samples if s.group == MOUNTS):
        done = [s for s in run.samples if (s.group, s.tree) == (MOUNTS, tree)]
        works = _distinct(s.work for s in done if s.seconds is not None)
        rows = _mount_rows(run, tree, works)
        tools = {row[0] for row in rows}
        apart = [row for other in run.joined for row in _mount_rows(other, tree, works) if row[0] not in tools]
        rows += [[f"{tool} ({APART})", *cells] for tool, *cells in apart]
        head = ["", *works, "server's CPU", "server's peak, MB"]
        parts.append(f"**Mounts, {tree}**: seconds\n\n{table(head, rows)}{_notes(done)}")
    return "\n".join(parts)


def _mount_rows(run: Run, tree: str, works: list[str]) -> list[list[str]]:
    done = [s for s in run.samples if (s.group, s.tree) == (MOUNTS, tree)]
    rows = []
    for tool in _distinct(s.tool for s in done if s.seconds is not None):
        cells = [_spread(run.values(MOUNTS, tree, tool, work)) for work in works]
        cpu = [value for work in works if (value := run.median(MOUNTS, tree, tool, work, "cpu")) is not None]
        rows.append([tool, *cells, f"{sum(cpu):.2f}" if cpu else _NOTHING, _peak(done, tool)])
    return rows


def builds(run: Run) -> str:
    parts = []
    for tree in _distinct(s.tree for s in run.samples if s.group == BUILDS):
        done = [s for s in run.samples if (s.group, s.tree) == (BUILDS, tree)]
        rows = _build_rows(run, BUILDS, tree)
        parts.append(f"**Builds, {tree}**\n\n{table(['', *_BUILD_HEAD], rows)}{_notes(done)}")
    return "\n".join([*parts, _parts(run)])


_BUILD_HEAD = ("seconds", "CPU, s", "peak, MB", "MB", f"of the size of {ZIP.name}")


def _build_rows(run: Run, group: str, tree: str) -> list[list[str]]:
    zip_size = run.median(group, tree, ZIP.name, BUILD, "size")
    rows = []
    for tool in _distinct(s.tool for s in run.samples if (s.group, s.tree, s.work) == (group, tree, BUILD) and s.size):
        seconds, cpu, _, size = (run.values(group, tree, tool, BUILD, f) for f in ("seconds", "cpu", "peak", "size"))
        built = [s for s in run.samples if (s.group, s.tree, s.work) == (group, tree, BUILD)]
        share = f"{median(size) / zip_size:.2f}" if zip_size else _NOTHING
        rows.append([tool, _spread(seconds), _spread(cpu), _peak(built, tool), f"{median(size) / 1e6:.2f}", share])
    return rows


def _parts(run: Run) -> str:
    """Where the bytes of our archives go, as a share of what zip needs for the same tree."""
    found = [sample for sample in run.samples if sample.group == PARTS]
    trees = _distinct(sample.tree for sample in found)
    rows = []
    for part in _distinct(sample.work for sample in found):
        cells = []
        for tree in trees:
            size = sum(run.values(PARTS, tree, BY_DEFAULT.name, part, "size"))
            whole = run.median(BUILDS, tree, ZIP.name, BUILD, "size")
            cells.append(f"{size / 1e6:.2f}" + (f" ({size / whole:.3f})" if whole else ""))
        rows.append([part, *cells])
    head = ["", *trees]
    return f"**What {BY_DEFAULT.name} writes**: MB (of the size of {ZIP.name})\n\n{table(head, rows)}" if rows else ""


def extracts(run: Run) -> str:
    parts = []
    for tree in _distinct(s.tree for s in run.samples if s.group == EXTRACTS):
        done = [s for s in run.samples if (s.group, s.tree) == (EXTRACTS, tree)]
        works = _distinct(s.work for s in done)
        rows = []
        for tool in _distinct(s.tool for s in done if s.seconds is not None):
            cells = [_spread(run.values(EXTRACTS, tree, tool, work)) for work in works]
            cpus = [_spread(run.values(EXTRACTS, tree, tool, work, "cpu")) for work in works]
            rows.append([tool, *cells, *cpus, _peak(done, tool)])
        head = ["", *works, *(f"{work}, CPU" for work in works), "peak, MB"]
        parts.append(f"**Extracts, {tree}**: seconds\n\n{table(head, rows)}{_notes(done)}")
    return "\n".join(parts)


def growth(run: Run) -> str:
    done = [sample for sample in run.samples if sample.group == GROWTH]
    trees = _distinct(sample.tree for sample in done)
    built = [[tree, *row] for tree in trees for row in _build_rows(run, GROWTH, tree)]
    works = _distinct(s.work for s in done if s.work != BUILD and s.seconds is not None)
    mounted = []
    for tree in trees:
        here = [sample for sample in done if sample.tree == tree]
        for tool in _distinct(s.tool for s in here if s.work in works and s.seconds is not None):
            cells = [_spread(run.values(GROWTH, tree, tool, work)) for work in works]
            mounted.append([tree, tool, *cells, _peak(here, tool)])
    head = ["", "", *works, "server's peak, MB"]
    return (
        f"**Builds**\n\n{table(['', '', *_BUILD_HEAD], built)}\n"
        f"**Mounts**: seconds\n\n{table(head, mounted)}{_notes(done)}"
    )


# --- cells ---


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _spread(values: list[float]) -> str:
    """The median, and the least and the most where they differ from it."""
    if not values:
        return _NOTHING
    middle, low, high = (_short(value) for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}-{high})"


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _peak(samples: list[Sample], tool: str) -> str:
    peaks = [sample.peak for sample in samples if sample.tool == tool and sample.peak]
    return f"{max(peaks) / 1e6:.0f}" if peaks else _NOTHING


def _notes(samples: list[Sample]) -> str:
    lines = _distinct(f"- {s.tool}, {s.work}: {s.note}\n" for s in samples if s.note)
    return f"\nNot measured:\n\n{''.join(lines)}" if lines else ""

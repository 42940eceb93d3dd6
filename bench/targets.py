"""The targets, as ratios of medians in one run: below 1 means that xtar is faster or smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import trees, works
from .packers import BUILD, BY_DEFAULT, EXTRACT, SQUASHFS, VERIFY, ZIP
from .peers import ENGINES, FUSE_ZIP, KERNEL_SQUASHFS, NESTED, RATARMOUNT, SOURCE, SQUASHFUSE_LL, engine_name
from .samples import BUILDS, EXTRACTS, GROWTH, MOUNTS, Run

MB = 1_000_000
_FIRST_LIMIT, _EACH_NAME, _BUILD_LIMIT = 130 * MB, 200, 250 * MB
_FEW, _MANY = 10**5, 10**6
_PACKED_MEAN = 5000  # bytes, above which the target of mixed trees applies

APART = "in a run of its own"
Found = tuple[float, str]  # the figure, and where it was found when there were several to choose from
Figure = Callable[[Run, str], Found | None]  # of the mount called so; builds and the like do not depend on it


@dataclass(frozen=True, slots=True)
class Target:
    """figure(run, mount) is to be at most `limit`. engines: whose mounts it is for, none where nothing is mounted."""

    work: str
    against: str
    limit: float
    figure: Figure
    engines: tuple[str, ...] = ENGINES
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    target: Target
    engine: str
    found: Found | None

    @property
    def met(self) -> bool | None:
        """None where it was not measured."""
        return self.found[0] <= self.target.limit if self.found else None


def default_engine(run: Run) -> str | None:
    """The one that a user gets: the first that was measured."""
    measured = {sample.tool for sample in run.samples if sample.seconds is not None}
    return next((engine for engine in ENGINES if engine_name(engine) in measured), None)


def verdicts(run: Run) -> list[Verdict]:
    """Each target with the default engine; with the first measured of its own engines if it is not for all."""
    usual = default_engine(run) or ENGINES[0]
    found = []
    for target in TARGETS:
        engine = usual if usual in target.engines or not target.engines else target.engines[0]
        found.append(Verdict(target, engine, _find(target, run, engine_name(engine))))
    return found


def _find(target: Target, run: Run, mount: str) -> Found | None:
    """The figure of a whole run, or of the first of those that it was joined from that has one."""
    if found := target.figure(run, mount):
        return found
    for joined in run.joined:
        if found := target.figure(joined, mount):
            return found[0], APART
    return None


def _ratio(ours: float | None, theirs: float | None) -> Found | None:
    return (ours / theirs, "") if ours is not None and theirs else None


def _worst(found: Iterable[Found | None]) -> Found | None:
    return max((each for each in found if each), default=None)


def _mount(tree: str, work: str, peer: str) -> Figure:
    return lambda run, mount: _ratio(run.median(MOUNTS, tree, mount, work), run.median(MOUNTS, tree, peer, work))


def _everything(peers: Iterable[str]) -> Figure:
    def figure(run: Run, mount: str) -> Found | None:
        return _worst(
            (found[0], f"{peer.partition(', ')[2]}, {tree}: {work}")
            for peer in peers
            for tree, work in dict.fromkeys((s.tree, s.work) for s in run.samples if s.group == MOUNTS)
            if (found := _mount(tree, work, peer)(run, mount))
        )

    return figure


def _read_twice(run: Run, mount: str) -> Found | None:
    return _worst(
        (found[0], work)
        for work in (works.READ_COLD, works.READ_WARM)
        if (found := _mount(trees.SMALL, work, FUSE_ZIP)(run, mount))
    )


def _mount_and_read(run: Run, mount: str) -> Found | None:
    def total(peer: str) -> float | None:
        parts = [run.median(MOUNTS, trees.SMALL, peer, work) for work in (works.READY_COLD, works.READ_COLD)]
        return None if None in parts else sum(part for part in parts if part is not None)

    return _ratio(total(mount), total(NESTED))


def _ready_growth(run: Run, mount: str) -> Found | None:
    large, small = (run.median(GROWTH, f"10^{power} files", mount, works.READY_WARM) for power in (6, 3))
    return _ratio(large, small)


def _build(tree: str, against: str, figure: str = "seconds") -> Figure:
    def found(run: Run, mount: str) -> Found | None:
        ours = run.median(BUILDS, tree, BY_DEFAULT.name, BUILD, figure)
        return _ratio(ours, run.median(BUILDS, tree, against, BUILD, figure))

    return found


def _mixed_size(run: Run, mount: str) -> Found | None:
    """Only where the mean packed size is what the target asks for."""
    packed = run.median(BUILDS, trees.MIXED, ZIP.name, BUILD, "size")
    facts = run.trees.get(trees.MIXED)
    if not packed or not facts or packed / facts.files <= _PACKED_MEAN:
        return None
    return _build(trees.MIXED, ZIP.name, "size")(run, mount)


def _extract(tree: str, work: str) -> Figure:
    return lambda run, mount: _ratio(
        run.median(EXTRACTS, tree, "xtar", work), run.median(EXTRACTS, tree, "unzip", work)
    )


def _peak(files: int, mounting: bool) -> Figure:
    """Megabytes: the most of any work, in any tree of that many files."""

    def figure(run: Run, mount: str) -> Found | None:
        tool = mount if mounting else BY_DEFAULT.name
        power = f"10^{len(str(files)) - 1} "
        return _worst(
            (sample.peak / MB, sample.tree)
            for sample in run.samples
            if sample.group == GROWTH and sample.tool == tool and sample.tree.startswith(power) and sample.peak
        )

    return figure


_NONE: tuple[str, ...] = ()
_PACKED = (trees.SMALL, trees.MIXED, trees.LARGE)
TARGETS = (
    Target("ready after mount, 10^6 files", "10^3 files", 1.1, _ready_growth),
    Target(works.FIND_COLD, SQUASHFUSE_LL, 0.9, _mount(trees.SMALL, works.FIND_COLD, SQUASHFUSE_LL), ("fusepy",)),
    Target(
        works.FIND_COLD, SQUASHFUSE_LL, 0.4, _mount(trees.SMALL, works.FIND_COLD, SQUASHFUSE_LL), ("mfusepy", "native")
    ),
    Target(
        f"{works.READ_COLD}, small", SQUASHFUSE_LL, 0.6, _mount(trees.SMALL, works.READ_COLD, SQUASHFUSE_LL)
    ),
    Target("the same", KERNEL_SQUASHFS, 1.0, _mount(trees.SMALL, works.READ_COLD, KERNEL_SQUASHFS)),
    Target(works.READ_WARM, SOURCE, 1.5, _mount(trees.SMALL, works.READ_WARM, SOURCE)),
    Target(works.SOME, KERNEL_SQUASHFS, 0.5, _mount(trees.SMALL, works.SOME, KERNEL_SQUASHFS)),
    Target(works.SEQUENTIAL, KERNEL_SQUASHFS, 0.7, _mount(trees.LARGE, works.SEQUENTIAL, KERNEL_SQUASHFS)),
    Target(works.RANDOM, KERNEL_SQUASHFS, 1.0, _mount(trees.LARGE, works.RANDOM, KERNEL_SQUASHFS)),
    Target("everything, the worst", "ratarmount", 0.4, _everything(RATARMOUNT)),
    Target("read every file, the worst", FUSE_ZIP, 0.5, _read_twice),
    Target("mount and read everything", NESTED, 0.05, _mount_and_read),
    *(Target(f"build, {tree}", ZIP.name, 0.4, _build(tree, ZIP.name), _NONE) for tree in _PACKED),
    Target(f"size, {trees.SMALL}", ZIP.name, 1.55, _build(trees.SMALL, ZIP.name, "size"), _NONE),
    Target(f"size, {trees.MIXED} (mean packed size above 5 KB)", ZIP.name, 1.25, _mixed_size, _NONE),
    Target(f"size, {trees.LARGE}", ZIP.name, 1.05, _build(trees.LARGE, ZIP.name, "size"), _NONE),
    *(Target(f"build, {tree}", SQUASHFS.name, 0.6, _build(tree, SQUASHFS.name), _NONE) for tree in _PACKED),
    *(Target(f"extract everything, {tree}", "unzip", 0.6, _extract(tree, EXTRACT), _NONE) for tree in _PACKED),
    *(Target(f"verify, {tree}", "unzip -t", 0.4, _extract(tree, VERIFY), _NONE) for tree in _PACKED),
    Target("peak memory, mount, 10^5 files", "", _FIRST_LIMIT / MB, _peak(_FEW, True), unit="MB"),
    Target(
        "peak memory, mount, 10^6 files",
        "",
        (_FIRST_LIMIT + _EACH_NAME * (_MANY - _FEW)) / MB,
        _peak(_MANY, True),
        unit="MB",
    ),
    *(
        Target(f"peak memory, build, 10^{power} files", "", _BUILD_LIMIT / MB, _peak(10**power, False), _NONE, "MB")
        for power in (4, 5, 6)
    ),
)  # fmt: skip

"""What all groups of measurements share: the work folder, the settings, and the trees and archives that were made."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import trees
from .measure import NotMeasured, measure, surroundings
from .packers import Packer
from .samples import Log, Sample
from .trees import Tree


@dataclass(slots=True)
class Bench:
    """size: bytes of a tree; files: of the largest that grows; limit: seconds that a command or a mount may take.

    without: tools are left out whose names contain one of these words.
    """

    work: Path
    log: Log
    rounds: int
    size: int
    files: int
    limit: float
    floor: Path | None = None
    only_trees: Sequence[str] = trees.NAMES
    without: Sequence[str] = ()
    _failed: set[tuple[str, str, str, str]] = field(default_factory=set)
    _trees: dict[str, Tree] = field(default_factory=dict)
    _archives: dict[tuple[str, str], Path] = field(default_factory=dict)

    def record(self, sample: Sample) -> None:
        self.log.sample(sample)
        figure = f"{sample.seconds:.3f} s" if sample.seconds is not None else sample.note or f"{sample.size} bytes"
        print(f"{sample.tree}: {sample.tool}: {sample.work}: {figure}", file=sys.stderr, flush=True)

    def tree(self, name: str) -> Tree:
        if name not in self._trees:
            self._trees[name] = tree = trees.make(name, self.work, self.size)
            self.log.tree(name, tree.facts())
        return self._trees[name]

    def trees(self, *names: str) -> Iterator[Tree]:
        """Those of the trees that are wanted."""
        return (self.tree(name) for name in names if name in self.only_trees)

    def wants(self, tool: str) -> bool:
        return not any(word in tool for word in self.without)

    def archive(self, packer: Packer, tree: Tree) -> Path:
        """The tree packed, not measured, and kept. Raises NotMeasured."""
        key = (packer.name, tree.name)
        if key not in self._archives:
            require(packer.needs)
            folder = Path(tempfile.mkdtemp(dir=self.work))
            measure(packer.command(tree.path, folder / packer.file), self.limit, cwd=tree.path)
            self._archives[key] = folder / packer.file
        return self._archives[key]

    def forget(self, tree: Tree) -> None:
        """Removes a tree and its archives."""
        for key in [key for key in self._archives if key[1] == tree.name]:
            shutil.rmtree(self._archives.pop(key).parent)
        shutil.rmtree(tree.path)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for one measurement."""
        with tempfile.TemporaryDirectory(dir=self.work) as place:
            yield Path(place)

    def attempt(self, group: str, tree: Tree, tool: str, work: str, take: Callable[[], Sample]) -> None:
        """Records what `take` measured, or why it did not. What failed once is not tried again."""
        if (group, tree.name, tool, work) in self._failed:
            return
        try:
            self.record(take())
        except NotMeasured as reason:
            self.fail(group, tree, tool, work, str(reason))

    def fail(self, group: str, tree: Tree, tool: str, work: str, reason: str) -> None:
        self._failed.add((group, tree.name, tool, work))
        self.record(Sample(group, tree.name, tool, work, note=reason))

    def failed(self, group: str, tree: Tree, tool: str, work: str) -> bool:
        return (group, tree.name, tool, work) in self._failed


def require(needs: Sequence[str]) -> None:
    """Raises NotMeasured where one of these commands is missing."""
    missing = [name for name in needs if not shutil.which(name, path=surroundings()["PATH"])]
    if missing:
        raise NotMeasured(f"{', '.join(missing)} is not installed")

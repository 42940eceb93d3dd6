"""The groups of measurements, interleaved: in every round every tool has its turn, so that all see the same machine."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from . import trees, works
from .bench import Bench, require
from .breakdown import breakdown
from .measure import measure
from .packers import BUILD, BUILDERS, BY_DEFAULT, EXTRACT, LIST, READERS, SQUASHFS, VERIFY, ZIP, Packer, Reader
from .peers import SQUASHFUSE, XTARS, all_peers
from .samples import BUILDS, EXTRACTS, GROWTH, MOUNTS, PARTS, Sample
from .trees import Tree
from .turns import mount_in_turn

_LONG = 10**6  # files of a tree whose builds take minutes: they are done once


def mounts(bench: Bench) -> None:
    peers = [peer for peer in all_peers(bench.floor) if bench.wants(peer.name)]
    for tree in bench.trees(*trees.NAMES):
        mount_in_turn(bench, MOUNTS, tree, peers, works.of(tree.name))


# --- builds, extracts: warm, as the processor's work is what tells them apart ---


def builds(bench: Bench) -> None:
    for tree in bench.trees(trees.SMALL, trees.MIXED, trees.LARGE):
        _build_in_turn(bench, BUILDS, tree, BUILDERS, bench.rounds)
        if bench.failed(BUILDS, tree, BY_DEFAULT.name, BUILD):
            continue
        for part, size in breakdown(bench.archive(BY_DEFAULT, tree)).items():
            bench.record(Sample(PARTS, tree.name, BY_DEFAULT.name, part, size=size))


def _build_in_turn(bench: Bench, group: str, tree: Tree, tools: Sequence[Packer], rounds: int) -> None:
    _warm(tree.path / name for name in tree.files())
    for _ in range(rounds):
        for packer in tools:
            bench.attempt(group, tree, packer.name, BUILD, partial(_build, bench, group, tree, packer))


def _build(bench: Bench, group: str, tree: Tree, packer: Packer) -> Sample:
    require(packer.needs)
    with bench.folder() as place:
        target = place / packer.file
        if packer.first:
            measure(packer.first(target), bench.limit)
        os.sync()
        used = measure(packer.command(tree.path, target), bench.limit, cwd=tree.path)
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return Sample(group, tree.name, packer.name, BUILD, used.seconds, used.cpu, used.peak, size)


def extracts(bench: Bench) -> None:
    """No file is removed before all is measured.

    An ext4 without journal hands out no inode that was freed in the last minute, and looks through all of these for
    each new file: extraction took five times as long after others' output had been removed.
    """
    with bench.folder() as outputs:
        for tree in bench.trees(trees.SMALL, trees.MIXED, trees.LARGE):
            for _ in range(bench.rounds):
                for work in (EXTRACT, LIST, VERIFY):
                    for reader in READERS:
                        if work in reader.works:
                            take = partial(_read, bench, tree, reader, work, outputs)
                            bench.attempt(EXTRACTS, tree, reader.name, work, take)


def _read(bench: Bench, tree: Tree, reader: Reader, work: str, outputs: Path) -> Sample:
    require(reader.needs)
    archive = bench.archive(reader.packer, tree)
    _warm([archive])
    place = Path(tempfile.mkdtemp(dir=outputs))
    os.sync()
    used = measure(reader.command(work, archive, place), bench.limit)
    _empty_files(place)
    return Sample(EXTRACTS, tree.name, reader.name, work, used.seconds, used.cpu, used.peak)


def _empty_files(folder: Path) -> None:
    """Gives the space back that files take."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with contextlib.suppress(PermissionError):
                os.truncate(path, 0)


def _warm(paths: Iterable[Path]) -> None:
    """Reads files into the kernel's cache."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


# --- growth ---


def growth(bench: Bench) -> None:
    peers = (*XTARS, SQUASHFUSE)
    for name, files, directory in trees.growing(bench.files):
        tree = trees.make_growing(bench.work, name, files, directory)
        bench.log.tree(name, tree.facts())
        _build_in_turn(bench, GROWTH, tree, (BY_DEFAULT, ZIP, SQUASHFS), 1 if files >= _LONG else bench.rounds)
        mount_in_turn(bench, GROWTH, tree, peers, (works.FIND, works.READ_SOME))
        bench.forget(tree)


GROUPS = {MOUNTS: mounts, BUILDS: builds, EXTRACTS: extracts, GROWTH: growth}

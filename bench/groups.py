"""The groups of measurements, interleaved: in every round every tool has its turn, so that all see the same machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from . import trees, works
from .bench import Bench, require
from .breakdown import breakdown
from .measure import NotMeasured, TookTooLong, drop_caches, measure
from .packers import BUILD, BUILDERS, EXTRACT, LIST, READERS, SQUASHFS, VERIFY, XTAR_6, ZIP, Packer, Reader
from .peers import SQUASHFUSE, XTARS, Peer, all_peers
from .samples import BUILDS, EXTRACTS, GROWTH, MOUNTS, PARTS, Sample
from .servers import Mount, mounted
from .trees import Lists, Tree, write_lists

_LONG = 10**6  # files of a tree whose builds take minutes: they are done once


def mounts(bench: Bench) -> None:
    for name in (trees.SMALL, trees.MIXED, trees.LARGE, trees.CLONE):
        _mount_in_turn(bench, MOUNTS, bench.tree(name), all_peers(bench.floor), works.of(name))


def _mount_in_turn(bench: Bench, group: str, tree: Tree, peers: Sequence[Peer], todo: Sequence[works.Work]) -> None:
    with bench.folder() as place:
        shapes = {peer.inside for peer in peers}
        lists = {inside: write_lists(tree, place / str(number), inside) for number, inside in enumerate(shapes)}
        for number in range(bench.rounds):
            for peer in peers:
                if bench.failed(group, tree, peer.name, works.READY) or (peer.once and number):
                    continue
                try:
                    _mount(bench, group, tree, peer, lists[peer.inside], todo)
                except NotMeasured as reason:
                    bench.fail(group, tree, peer.name, works.READY, str(reason))


def _mount(bench: Bench, group: str, tree: Tree, peer: Peer, lists: Lists, todo: Sequence[works.Work]) -> None:
    """One turn of a peer. Raises NotMeasured where it has no mount, or not any more."""
    require(peer.needs)
    archive = bench.archive(peer.packer, tree) if peer.packer else tree.path
    with bench.folder() as place, mounted(peer, archive, place / "mount", bench.limit) as mount:
        if mount.ready is not None:
            bench.record(Sample(group, tree.name, peer.name, works.READY, mount.ready, mount.cpu(), mount.peak()))
        for work in todo:
            if work.own_paths and peer.inside:
                continue
            try:
                bench.record(_work(bench, group, tree, peer, lists, work, mount))
            except TookTooLong:
                raise
            except NotMeasured as reason:
                bench.record(Sample(group, tree.name, peer.name, work.name, note=str(reason)))


def _work(bench: Bench, group: str, tree: Tree, peer: Peer, lists: Lists, work: works.Work, mount: Mount) -> Sample:
    if work.cold:
        drop_caches()
    before = mount.cpu()
    used = work.measure(lists, tree.path, mount.point, bench.limit)
    cpu = mount.cpu()
    spent = cpu - before if cpu is not None and before is not None else None
    return Sample(group, tree.name, peer.name, work.name, used.seconds, spent, mount.peak())


# --- builds, extracts: warm, as the processor's work is what tells them apart ---


def builds(bench: Bench) -> None:
    for name in (trees.SMALL, trees.MIXED, trees.LARGE):
        tree = bench.tree(name)
        _build_in_turn(bench, BUILDS, tree, BUILDERS, bench.rounds)
        for part, size in breakdown(bench.archive(XTAR_6, tree)).items():
            bench.record(Sample(PARTS, tree.name, XTAR_6.name, part, size=size))


def _build_in_turn(bench: Bench, group: str, tree: Tree, tools: Sequence[Packer], rounds: int) -> None:
    _warm(tree)
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
    for name in (trees.SMALL, trees.MIXED, trees.LARGE):
        tree = bench.tree(name)
        for _ in range(bench.rounds):
            for work in (EXTRACT, LIST, VERIFY):
                for reader in READERS:
                    if work in reader.works:
                        take = partial(_read, bench, tree, reader, work)
                        bench.attempt(EXTRACTS, tree, reader.name, work, take)


def _read(bench: Bench, tree: Tree, reader: Reader, work: str) -> Sample:
    require(reader.needs)
    archive = bench.archive(reader.packer, tree)
    with bench.folder() as place:
        os.sync()
        used = measure(reader.command(work, archive, place), bench.limit)
    return Sample(EXTRACTS, tree.name, reader.name, work, used.seconds, used.cpu, used.peak)


def _warm(tree: Tree) -> None:
    for name in tree.files():
        (tree.path / name).read_bytes()


# --- growth ---


def growth(bench: Bench) -> None:
    peers = (*XTARS, SQUASHFUSE)
    for name, files, directory in trees.growing(bench.files):
        tree = trees.make_growing(bench.work, name, files, directory)
        bench.log.tree(name, tree.facts())
        _build_in_turn(bench, GROWTH, tree, (XTAR_6, ZIP, SQUASHFS), 1 if files >= _LONG else bench.rounds)
        _mount_in_turn(bench, GROWTH, tree, peers, (works.FIND, works.SOME_FILES))
        bench.forget(tree)


GROUPS = {MOUNTS: mounts, BUILDS: builds, EXTRACTS: extracts, GROWTH: growth}

"""Peers that mount the same tree in turn, and do the same work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import works
from .bench import Bench, require
from .measure import NotMeasured, TookTooLong, drop_caches
from .peers import Peer
from .samples import Sample
from .servers import Mount, mounted
from .trees import Lists, Tree, write_lists

_WARM_MOUNTS = 3  # in a turn: a tenth of a second is soon told wrong


def mount_in_turn(bench: Bench, group: str, tree: Tree, peers: Sequence[Peer], todo: Sequence[works.Work]) -> None:
    with bench.folder() as place:
        shapes = {peer.inside for peer in peers}
        lists = {inside: write_lists(tree, place / str(number), inside) for number, inside in enumerate(shapes)}
        for number in range(bench.rounds):
            for peer in peers:
                possible = [work for work in todo if work.possible(peer)]
                failed = bench.failed(group, tree, peer.name, works.READY_COLD)
                if failed or not possible or (peer.once and number):
                    continue
                try:
                    _Turn(bench, group, tree, peer, lists[peer.inside], possible).take()
                except NotMeasured as reason:
                    bench.fail(group, tree, peer.name, works.READY_COLD, str(reason))


@dataclass(frozen=True, slots=True)
class _Turn:
    bench: Bench
    group: str
    tree: Tree
    peer: Peer
    lists: Lists
    todo: Sequence[works.Work]

    def take(self) -> None:
        """Mounts, and does the work. Raises NotMeasured where there is no mount, or none any more."""
        peer, bench = self.peer, self.bench
        require(peer.needs)
        archive = bench.archive(peer.packer, self.tree) if peer.packer else self.tree.path
        with bench.folder() as place:
            drop_caches()
            self._mount(archive, place, works.READY_COLD, work=peer.once)
            for left in reversed(range(0 if peer.once else _WARM_MOUNTS)):
                self._mount(archive, place, works.READY_WARM, work=not left)

    def _mount(self, archive: Path, place: Path, ready: str, *, work: bool) -> None:
        with mounted(self.peer, archive, place / "mount", self.bench.limit) as mount:
            self._record(ready, mount.ready, mount.cpu(), mount)
            if work:
                self._work_in(mount)

    def _work_in(self, mount: Mount) -> None:
        for work in self.todo:
            try:
                self._measure(work, mount)
            except TookTooLong:
                raise
            except NotMeasured as reason:
                self.bench.record(Sample(self.group, self.tree.name, self.peer.name, work.name, note=str(reason)))

    def _measure(self, work: works.Work, mount: Mount) -> None:
        if work.cold:
            drop_caches()
        before = mount.cpu()
        used = work.measure(self.lists, self.tree.path, mount.point, self.bench.limit)
        after = mount.cpu()
        cpu = after - before if after is not None and before is not None else None
        self._record(work.name, used.seconds, cpu, mount)

    def _record(self, work: str, seconds: float | None, cpu: float | None, mount: Mount) -> None:
        if seconds is not None:  # what is not mounted was not waited for
            sample = Sample(self.group, self.tree.name, self.peer.name, work, seconds, cpu, mount.peak())
            self.bench.record(sample)

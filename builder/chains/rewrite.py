"""A copy of a chain is written anew, so that archives which it needs can go: it takes their data over."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from msgspec import Struct

from xtarfs.checking.verify import verify
from xtarfs.errors import BuildError
from xtarfs.format.locator import Base
from xtarfs.format.parity import SUFFIX, plan
from xtarfs.format.records import Record, holders_of
from xtarfs.parity.protect import write_parity
from xtarfs.reading.copies import Copy, read_copy
from xtarfs.reading.holders import find_again, led_as, located
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import Node, Tree
from xtarfs.text import show

from ..writing.output import Output
from .merge import write_copy


class Order(Struct, frozen=True):
    """What is to be done to a copy. lost: identifiers that it must no longer lead to; replaces: those in whose place
    it then stands; redundancy: per cent of parity, 0 for none.
    """

    copy: Copy
    lost: frozenset[str]
    replaces: list[str]
    redundancy: float


def rewrite(
    order: Order, takers: Sequence[Copy], known: Mapping[str, Copy], work_dir: str, progress: Callable[[int], None]
) -> Copy:
    """Writes a copy anew, under its own name and with its own data; gives what it then says of itself.

    takers: copies that were rewritten before; what they have taken over is referred to, not copied once more. known:
    copies by identifier. progress(bytes of content more) is called as files are done. Raises XtarError, the copy then
    being as it was.
    """
    path = order.copy.path
    with ExitStack() as stack:
        archive = stack.enter_context(Archive.open(path))
        trees = [stack.enter_context(Archive.open(taker.path)).tree for taker in reversed(takers)]
        leads = _Leads(archive, order.lost, trees)
        names = {base.id: base.name for base in order.copy.facts.base}

        def base() -> list[Base]:
            by_age = sorted((known[one].origin.created if one in known else 0, one) for one in leads.used)
            names.update((one, os.path.basename(known[one].path)) for one in leads.used if one in known)
            return [Base(one, names.get(one, "")) for _, one in by_age]

        with Output(path, force=True) as out:
            write_copy(archive, out, work_dir, progress, replaces=order.replaces, keep=leads.keep, base=base)
            _require_sound(out, path)
            if order.redundancy:
                _protect(out, path, order.redundancy)
            out.commit(like=os.stat(path))
    return read_copy(path)


class _Leads:
    """Where the data of a copy's files lies when the `lost` are gone. used: identifiers that records lead to."""

    def __init__(self, archive: Archive, lost: frozenset[str], trees: Sequence[Tree]) -> None:
        self._archive = archive
        self._lost = lost
        self._trees = trees
        self.used: set[str] = set()

    def keep(self, node: Node) -> Record | None:
        """The record of a file whose data stays elsewhere, None if it must be copied."""
        if not holders_of(node.record):
            return None
        now = self._archive.leading(node)
        record = now if holders_of(now).isdisjoint(self._lost) else self._found_again(node)
        if record:
            self.used |= holders_of(record)
        return record

    def _found_again(self, node: Node) -> Record | None:
        for tree in self._trees:
            found = find_again(tree, node)
            if found and holders_of(there := located(tree, found)).isdisjoint(self._lost):
                return led_as(node, there, found.path)
        return None


def _require_sound(out: Output, path: str) -> None:
    """Reads back what was written. Raises BuildError if any of it is not as it must be."""
    with Archive.open(out.proof()) as archive:
        damaged = verify(archive, alone=True).damaged
    if damaged:
        raise BuildError(
            f"{path}: what was written in its place is damaged at {show(damaged[0].path)}: {damaged[0].reason}; "
            "it was left as it is"
        )


def _protect(out: Output, path: str, redundancy: float) -> None:
    """Parity comes first: should nothing come after it, the copy is still to be rewritten, and so is its parity."""

    def shape(size: int) -> tuple[int, int]:
        return plan(size, redundancy)

    write_parity(out.proof(), path + SUFFIX, shape, lambda size, total=0: None, force=True)

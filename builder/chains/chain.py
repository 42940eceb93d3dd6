"""Which archive of a chain has the tree that is wanted."""

from __future__ import annotations

from collections.abc import Sequence

from xtarfs.errors import UsageError
from xtarfs.reading.copies import Copy, below, links


def newest(copies: Sequence[Copy]) -> Copy:
    """The one copy of a chain that no other one builds on. Raises UsageError where they are no chain."""
    known = links(copies)
    based = set().union(*known.values())
    heads = [copy for copy in copies if copy not in based]
    if not heads:
        raise UsageError(f"{copies[0].path}: the archives lead in a circle, each building on another")
    reached = below(heads[0], known)
    stray = next((copy for copy in copies if copy not in reached), None)
    if stray is None:
        return heads[0]
    if below(stray, known) & reached:
        raise UsageError(f"{heads[0].path} and {stray.path}: are two ends of a chain; name the archives of one of them")
    raise UsageError(f"{heads[0].path} and {stray.path}: do not belong to one chain")

"""Which archives belong together, and which of them has the tree that is wanted."""

from __future__ import annotations

from collections.abc import Sequence

from xtarfs.copies import Copy
from xtarfs.errors import UsageError


def newest(copies: Sequence[Copy]) -> Copy:
    """The one copy of a chain that no other one builds on. Raises UsageError where they are no chain."""
    heads = [copy for copy in copies if not any(other.builds_on(copy) for other in copies if other is not copy)]
    if not heads:
        raise UsageError(f"{copies[0].path}: the archives lead in a circle, each building on another")
    reached = _below(heads[0], copies)
    stray = next((copy for copy in copies if copy not in reached), None)
    if stray is None:
        return heads[0]
    if any(other in reached for other in _below(stray, copies)):
        raise UsageError(f"{heads[0].path} and {stray.path}: are two ends of a chain; name the archives of one of them")
    raise UsageError(f"{heads[0].path} and {stray.path}: do not belong to one chain")


def _below(top: Copy, copies: Sequence[Copy]) -> set[Copy]:
    """The copy itself and all that it builds on, however indirectly."""
    found, waiting = {top}, [top]
    while waiting:
        copy = waiting.pop()
        more = {other for other in copies if other not in found and copy.builds_on(other)}
        found |= more
        waiting += more
    return found

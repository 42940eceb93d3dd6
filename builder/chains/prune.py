"""`xtar prune`: removes the copies that no rule keeps and no kept copy needs.

The order makes it safe to be interrupted anywhere: copies that need data of what goes are rewritten first, each
replaced by one rename after it was read back, its former self staying under another name; only when all of them are
durable is anything removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from xtarfs.errors import BuildError, UsageError, XtarError
from xtarfs.format.parity import SUFFIX as PARITY_SUFFIX
from xtarfs.parity.parity_file import open_parity
from xtarfs.reading.copies import Copy, read_copies, read_copy
from xtarfs.reading.shelf import SUFFIX
from xtarfs.reading.volume_names import spares_beside, stem_of

from .prune_plan import LEFTOVER, REMOVE, Fate, Plan, absorbed_by, make_plan
from .retention import Policy
from .rewrite import Order, rewrite


def prune(
    folder: str,
    policy: Policy,
    *,
    may_rewrite: bool = True,
    dry_run: bool = False,
    work_dir: str = "",
    progress: Callable[[int, int], None] = lambda size, total: None,
) -> Plan:
    """Does what the rules ask for with the archives in `folder`, and says what that was; a dry run only says so.

    progress(bytes of content more, bytes in all) is called as copies are rewritten. Raises XtarError; nothing that a
    kept copy needs was removed then.
    """
    with _locked(folder):
        plan = make_plan(folder, policy, rewrite=may_rewrite)
        if not dry_run:
            total = sum(fate.copy.facts.bytes for fate in plan.rewrites)
            _Prune(folder, plan, work_dir, lambda size: progress(size, total)).run()
    return plan


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """One prune at a time in a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{folder}: is no folder that can be pruned: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(f"{folder}: another prune is at work there; wait until it is done") from None
    finally:
        os.close(descriptor)


class _Prune:
    def __init__(self, folder: str, plan: Plan, work_dir: str, progress: Callable[[int], None]) -> None:
        self._folder = folder
        self._plan = plan
        self._work_dir = work_dir
        self._progress = progress
        self._known = {identifier: fate.copy for fate in plan.fates for identifier in fate.copy.ids}
        self._takers: list[Copy] = []

    def run(self) -> None:
        formers = [self._rewrite(fate) for fate in self._plan.rewrites]
        self._refuse_newcomers()
        for path in dict.fromkeys(formers):
            os.unlink(path)
        for fate in self._removed():
            _remove(fate.copy)
        _sync(self._folder)

    def _rewrite(self, fate: Fate) -> str:
        """Gives the path under which the copy still is what it was."""
        order = Order(fate.copy, fate.lost, absorbed_by(fate, self._plan.fates), self._redundancy(fate))
        former = self._keep_former(fate.copy)
        try:
            new = rewrite(order, self._takers, self._known, self._work_dir, self._progress)
        except BaseException:
            with suppress(XtarError):
                if read_copy(fate.copy.path).id == fate.copy.id:
                    os.unlink(former)
            raise
        self._takers.append(new)
        self._known[new.id] = new
        return former

    def _removed(self) -> Iterable[Fate]:
        return [fate for fate in self._plan.fates if fate.action == REMOVE]

    def _redundancy(self, fate: Fate) -> float:
        """Per cent of parity that a rewritten copy gets: what it had; 0 if it had none.

        Small archives get more than was asked for, so the least counts of those that become one.
        """
        own = _percent(fate.copy.path)
        others = [_percent(o.copy.path) for o in self._plan.fates if o.copy.ids & fate.lost] if own else []
        return min([own, *filter(None, others)])

    def _keep_former(self, copy: Copy) -> str:
        """Gives the copy as it is a second name, under which the copies that build on it find it until all is done."""
        path = os.path.join(self._folder, f".{copy.id[:16]}{SUFFIX}{LEFTOVER}")
        try:
            if os.path.lexists(path):  # of an earlier attempt, and of the same identifier
                os.unlink(path)
            try:
                os.link(copy.path, path)
            except OSError:  # there are file systems without links
                shutil.copyfile(copy.path, path)
                _sync(path)
            _sync(self._folder)
        except OSError as error:
            raise BuildError(f"{path}: cannot be written: {error.strerror}") from None
        return path

    def _refuse_newcomers(self) -> None:
        """Archives that were made meanwhile may build on what is to go. Raises UsageError."""
        gone = {one for fate in (*self._removed(), *self._plan.rewrites) for one in fate.copy.ids}
        known = {path for fate in self._plan.fates for path in fate.copy.paths}.union(self._plan.left_alone)
        paths = {os.path.join(self._folder, name) for name in os.listdir(self._folder) if name.endswith(SUFFIX)}
        for copy in read_copies(sorted(paths - known))[0]:
            if copy.needs & gone:
                raise UsageError(f"{copy.path}: was made meanwhile and builds on what was to go; prune again")


def _remove(copy: Copy) -> None:
    """Removes a copy's files, their parity first; a file that has become another archive stays."""
    for spare in spares_beside(stem_of(copy.path)) if copy.facts.set else ():
        os.unlink(spare)
    for path in copy.paths:
        try:
            if not os.path.lexists(path) or read_copy(path).facts.id not in copy.ids:
                continue
            with suppress(FileNotFoundError):
                os.unlink(path + PARITY_SUFFIX)
            os.unlink(path)
        except OSError as error:
            raise BuildError(f"{path}: cannot be removed: {error.strerror}") from None


def _percent(path: str) -> float:
    """How much of an archive its parity file makes up for; 0 if it has none."""
    try:
        parity = open_parity(path)
    except XtarError:
        return 0
    if parity is None:
        return 0
    parity.close()
    return max(1.0, min(100 * parity.layout.parity / parity.layout.data, 100.0))


def _sync(path: str) -> None:
    """Makes a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Which copies are kept: the newest ones, and the newest of each day, week and month, in local time.

As borg and restic do it, each rule counts for itself: a copy that one rule keeps also counts for the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from xtarfs.reading.copies import Copy, in_order, links


class Policy(Struct, frozen=True):
    """How many copies each rule keeps; None: the rule is not asked for."""

    last: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None


Period = Callable[[time.struct_time], tuple[int, ...]]
_PERIODS: dict[str, Period] = {
    "daily": lambda day: (day.tm_year, day.tm_yday),
    "weekly": lambda day: _iso_week(day),
    "monthly": lambda day: (day.tm_year, day.tm_mon),
}


def _iso_week(day: time.struct_time) -> tuple[int, ...]:
    import datetime

    return datetime.date(day.tm_year, day.tm_mon, day.tm_mday).isocalendar()[:2]


def reasons(created: Sequence[int], policy: Policy) -> list[list[str]]:
    """The rules that keep each of the copies made at these times, newest first; none: it goes."""
    found: list[list[str]] = [["last"] if number < (policy.last or 0) else [] for number in range(len(created))]
    for rule, period in _PERIODS.items():
        left, before = getattr(policy, rule) or 0, None
        for number, seconds in enumerate(created):
            now = period(time.localtime(seconds))
            if left and now != before:
                found[number].append(rule)
                left -= 1
            before = now
    return found


def series(copies: Sequence[Copy]) -> list[list[Copy]]:
    """Copies of one source together, newest first: of one host and folder, or building on one another."""
    groups: dict[Copy, list[Copy]] = {copy: [copy] for copy in copies}

    def join(one: Copy, other: Copy) -> None:
        if groups[one] is not groups[other]:
            groups[one] += groups[other]
            for copy in groups[other]:
                groups[copy] = groups[one]

    places: dict[tuple[str, str], Copy] = {}
    for copy, others in links(copies).items():
        join(places.setdefault((copy.origin.host, copy.origin.source), copy), copy)
        for other in others:
            join(other, copy)
    return [in_order(group) for group in {id(group): group for group in groups.values()}.values()]

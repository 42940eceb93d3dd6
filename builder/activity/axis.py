"""Round places on an axis, and what to write there."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime, timedelta

from .when import SECOND, local

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_SHORT = (
    1, 2, 5, 10, 15, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE,
    _HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 2 * _DAY, 5 * _DAY, 10 * _DAY,
)  # fmt: skip
_MONTHS = (1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1200, 2400)
_MONTH_DAYS = 31


def time_ticks(begin: int, end: int, most: int) -> list[tuple[int, str]]:
    """At most `most` round moments within [begin, end] nanoseconds, local time, with their labels of one length."""
    room = max(end - begin, 1) / SECOND / max(most, 1)
    if room <= _SHORT[-1]:
        step = _SHORT[bisect_left(_SHORT, room)]
        form = "%Y-%m-%d" if step >= _DAY else "%m-%d %H:%M" if step >= _MINUTE else "%H:%M:%S"
        found = _short_steps(local(begin), step)
    else:
        months = next((months for months in _MONTHS if months * _MONTH_DAYS * _DAY >= room), _MONTHS[-1])
        form = "%Y" if months >= 12 else "%Y-%m"
        found = _months(local(begin), months)
    ticks: list[tuple[int, str]] = []
    for moment in found:
        at = round(moment.timestamp()) * SECOND
        if at > end:
            break
        if at >= begin and (not ticks or at > ticks[-1][0]):  # an hour that summer time leaves out
            ticks.append((at, moment.strftime(form)))
    return ticks


def _short_steps(start: datetime, step: int) -> Iterator[datetime]:
    """Multiples of a step from midnight on, or of days from the first of the month on."""
    midnight = start.replace(hour=0, minute=0, second=0)
    if step < _DAY:
        moment = midnight + (start - midnight) // timedelta(seconds=step) * timedelta(seconds=step)
        while True:
            yield moment
            moment += timedelta(seconds=step)
    days = step // _DAY
    month = midnight.replace(day=1)
    while True:
        following = _add_months(month, 1)
        moment = month
        while moment < following and (following - moment).days * 2 > days:
            yield moment
            moment += timedelta(days=days)
        month = following


def _months(start: datetime, step: int) -> Iterator[datetime]:
    count = start.year * 12 + start.month - 1
    moment = datetime(1, 1, 1) if count < step else _at_month(count - count % step)
    while True:
        yield moment
        moment = _add_months(moment, step)


def _add_months(moment: datetime, months: int) -> datetime:
    return _at_month(moment.year * 12 + moment.month - 1 + months)


def _at_month(count: int) -> datetime:
    return datetime(count // 12, count % 12 + 1, 1)


def count_ticks(most: int) -> list[int]:
    """Round numbers from 1 to at least `most`, for a logarithmic axis."""
    factors = (1, 2, 5) if most <= 50 else (1,)
    ticks = [factor * 10**power for power in range(len(str(most)) + 1) for factor in factors]
    return ticks[: bisect_left(ticks, most) + 1]

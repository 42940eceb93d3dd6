"""Times and durations as people write them."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta

from xtarfs.errors import UsageError

SECOND = 10**9
_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d|w|y)", re.ASCII)
_EPOCH = re.compile(r"(?:@(?=-?\d)|(?=\d{5}))(-?\d+)(?:\.(\d{1,9}))?", re.ASCII)
_FORMS = (
    ("%Y", None),
    ("%Y-%m", None),
    ("%Y-%m-%d", timedelta(days=1)),
    ("%Y-%m-%dT%H:%M", timedelta(minutes=1)),
    ("%Y-%m-%dT%H:%M:%S", timedelta(seconds=1)),
    ("%Y-%m-%dT%H:%M%z", timedelta(minutes=1)),
    ("%Y-%m-%dT%H:%M:%S%z", timedelta(seconds=1)),
)


def parse_duration(text: str) -> int | None:
    """Nanoseconds in `90s`, `1h`, `2d`, `1h30m`, or a number of seconds; None if it is not a duration."""
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        text += "s"
    if not re.fullmatch(f"({_AMOUNT.pattern})+", text, re.ASCII):
        return None
    return sum(round(float(amount) * _UNITS[unit] * SECOND) for amount, unit in _AMOUNT.findall(text))


def parse_radius(text: str) -> int:
    """Nanoseconds. Raises UsageError."""
    duration = parse_duration(text)
    if duration is None:
        raise UsageError(f"--radius {text}: is not a length of time; write 90s, 30m, 1h, 2d or 1h30m")
    return duration


def parse_moment(option: str, text: str, now: float | None = None) -> tuple[int, int]:
    """The first and the last nanosecond, since 1970, of what `text` names; local time unless it has an offset.

    A year, month, day, minute or second; `@N`, or a number of five digits or more, for seconds since 1970; `today`,
    `yesterday`, `now`; or a duration, which is so long ago. Raises UsageError, which names the option.
    """
    seconds = time.time() if now is None else now
    ago = 0 if text == "now" else parse_duration(text) if text[-1:].isalpha() else None
    if ago is not None:
        moment = round(seconds * SECOND) - ago
        return moment, moment
    if match := _EPOCH.fullmatch(text):
        fraction = int((match[2] or "").ljust(9, "0"))
        start = int(match[1]) * SECOND + (-fraction if match[1].startswith("-") else fraction)
        return start, start if match[2] else start + SECOND - 1
    today = datetime.fromtimestamp(seconds).replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("today", "yesterday"):
        day = today - timedelta(days=text == "yesterday")
        return _span(day, day + timedelta(days=1))
    for form, length in _FORMS:
        try:
            start_day = datetime.strptime(text.strip().replace(" ", "T", 1), form)
            return _span(start_day, start_day + length if length else _next(start_day, form))
        except (ValueError, OverflowError):
            continue
    raise UsageError(f"{option} {text}: is not a time; write 2024-12-31, '2024-12-31 18:00', 2024, @1700000000 or 7d")


def _next(start: datetime, form: str) -> datetime:
    """The beginning of the year or month that follows."""
    if form == "%Y" or start.month == 12:
        return start.replace(year=start.year + 1, month=1)
    return start.replace(month=start.month + 1)


def _span(start: datetime, end: datetime) -> tuple[int, int]:
    return round(start.timestamp()) * SECOND, round(end.timestamp()) * SECOND - 1


def local(nanoseconds: int) -> datetime:
    """Local time, whole seconds."""
    return datetime.fromtimestamp(nanoseconds // SECOND)


def show_moment(nanoseconds: int) -> str:
    return local(nanoseconds).strftime("%Y-%m-%d %H:%M:%S")


def show_length(nanoseconds: int) -> str:
    """Two units at most: `2 d 3 h`, `45 s`."""
    rest = nanoseconds // SECOND
    parts = []
    for unit in ("y", "d", "h", "min", "s"):
        amount, rest = divmod(rest, _UNITS[unit])
        if amount:
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2]) or "0 s"

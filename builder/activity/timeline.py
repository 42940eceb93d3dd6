"""A scene as a timeline for the terminal: a line for each folder of the legend, columns of time, bars of bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .axis import time_ticks
from .scene import Scene
from .when import SECOND

if TYPE_CHECKING:
    from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
_LONGEST_LABEL = 28
_LABEL_WIDTH = 14  # a time label and the space around it
_LEAST_COLUMNS = 20
_MARGIN_TIME = 1800 * SECOND  # on both sides of a scene that lasts no time


def timeline(scene: Scene, width: int) -> list[Text]:
    """The lines, none wider than `width` characters unless that is absurdly few."""
    from rich.cells import cell_len
    from rich.text import Text

    if not scene.marks:
        return []
    labels = [_shorten(lane.label) for lane in scene.lanes]
    left = max(map(cell_len, labels)) + 2
    columns = max(width - left, _LEAST_COLUMNS)
    begin, end = scene.begin, scene.end
    if begin == end:
        begin, end = begin - _MARGIN_TIME, end + _MARGIN_TIME
    amounts = _amounts(scene, begin, end, columns)
    most = max(map(max, amounts))
    lines = []
    for lane, label, amount in zip(scene.lanes, labels, amounts, strict=True):
        line = Text(label + " " * (left - cell_len(label)), style=lane.colour, no_wrap=True)
        line.append("".join(_bar(value, most) for value in amount))
        lines.append(line)
    return [*lines, *(Text(" " * left + row, style="dim", no_wrap=True) for row in _axis(begin, end, columns))]


def _amounts(scene: Scene, begin: int, end: int, columns: int) -> list[list[float]]:
    """Bytes by lane and column, one more for each file so that empty ones show. A group's are spread over its time."""
    amounts = [[0.0] * columns for _ in scene.lanes]
    for mark in scene.marks:
        first = _column(mark.group.begin, begin, end, columns)
        last = _column(mark.group.end, begin, end, columns)
        share = (mark.group.size + mark.group.files) / (last - first + 1)
        for column in range(first, last + 1):
            amounts[mark.lane][column] += share
    return amounts


def _column(moment: int, begin: int, end: int, columns: int) -> int:
    return min((moment - begin) * columns // (end - begin), columns - 1)


def _bar(value: float, most: float) -> str:
    """The square root of the share as a height: small groups beside large ones are seen."""
    return _BARS[min(math.ceil(math.sqrt(value / most) * len(_BARS)), len(_BARS)) - 1] if value else " "


def _axis(begin: int, end: int, columns: int) -> tuple[str, str]:
    """Marks at round moments, and the labels that begin below them; a label with no room is left out."""
    marks, labels = ["─"] * columns, ""
    for moment, label in time_ticks(begin, end, columns // _LABEL_WIDTH):
        column = _column(moment, begin, end, columns)
        if column + len(label) <= columns and (not labels or len(labels) < column):
            marks[column] = "┬"
            labels = labels.ljust(column) + label
    return "".join(marks), labels


def _shorten(label: str) -> str:
    """Its end, where it is too long."""
    from rich.cells import cell_len

    if cell_len(label) <= _LONGEST_LABEL:
        return label
    while cell_len(label) >= _LONGEST_LABEL:
        label = label[1:]
    return "…" + label

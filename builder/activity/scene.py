"""What every picture of an activity shows: its groups as marks, coloured by the folder where most of each happened."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from msgspec import Struct

from xtarfs.console import human_size
from xtarfs.text import escape

from .groups import Activity, Group, main_folders
from .when import show_moment

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b61c9", "#8c6d31")
_ELSEWHERE = "#8a8a8a"
_LEAST_SHARE = 0.002  # of all bytes and of all files together, for a folder to have a colour


class Lane(Struct, frozen=True):
    """A folder of the legend. path: None for what lies in none of the others."""

    path: bytes | None
    colour: str

    @property
    def label(self) -> str:
        return "elsewhere or several" if self.path is None else escape(self.path) or "the folder itself"


class Mark(Struct, frozen=True):
    """A group, and the number of its lane."""

    group: Group
    lane: int


class Scene(Struct, frozen=True):
    """A picture before it is drawn. marks: what lies elsewhere first, then the group with the most bytes."""

    title: str
    subtitle: str
    lanes: list[Lane]
    marks: list[Mark]

    @property
    def begin(self) -> int:
        return min((mark.group.begin for mark in self.marks), default=0)

    @property
    def end(self) -> int:
        return max((mark.group.end for mark in self.marks), default=0)


def make_scene(title: str, activity: Activity, most: int, top: int = 0) -> Scene:
    """The `most` groups with the most bytes, each with its `top` largest files."""
    groups = list(islice(activity.groups("bytes", top), most))
    weights: Counter[bytes] = Counter()
    for group in groups:
        weights[group.main_folder] += group.size * activity.files + group.files * max(activity.size, 1)
    found = [path for path, _ in main_folders(weights, len(_COLOURS) + 1, _LEAST_SHARE)] if weights else []
    named = [path for path in found if path or len(found) == 1]
    lanes = [Lane(path, colour) for path, colour in zip(named, _COLOURS, strict=False)]
    if len(lanes) < len(found):
        lanes.append(Lane(None, _ELSEWHERE))
    numbers = {lane.path: number for number, lane in enumerate(lanes)}
    marks = [Mark(group, _lane_of(group.main_folder, numbers)) for group in groups]
    marks.sort(key=lambda mark: lanes[mark.lane].path is not None)
    return Scene(title, _subtitle(activity, len(groups)), lanes, marks)


def _lane_of(path: bytes, numbers: dict[bytes | None, int]) -> int:
    """The lane of the deepest folder that holds `path`, or the last."""
    while path not in numbers and path:
        path = path.rpartition(b"/")[0]
    return numbers.get(path, len(numbers) - 1)


def _subtitle(activity: Activity, shown: int) -> str:
    if not len(activity):
        return "no files"
    groups, files = counted(len(activity), "group"), counted(activity.files, "file")
    counts = f"{groups}, {files}, {human_size(activity.size)}"
    if shown < len(activity):
        counts += f" (the {shown:,} groups with the most bytes are drawn)"
    return f"{show_moment(activity.begin(0))} to {show_moment(activity.end(len(activity) - 1))}: {counts}"


def counted(number: int, what: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{number:,} {what}" + "s" * (number != 1)

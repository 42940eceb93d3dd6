"""A scene as a picture: one layout, written as SVG by hand and as PNG by Pillow.

Across: time. Up: files of a group, logarithmic. A disc's area: the group's bytes; the line through it: its duration.
"""

from __future__ import annotations

import math
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from msgspec import Struct

from xtarfs.console import human_size

from .axis import count_ticks, time_ticks
from .scene import Scene, counted
from .when import SECOND, show_length, show_moment

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

WIDTH, HEIGHT = 1200, 720
_LEFT, _RIGHT, _TOP = 84, 28, 76
_AXIS = 52  # from the plot's lower edge to the first line of the legend
_LINE = 24  # height of a line of the legend
_LARGEST, _SMALLEST = 38.0, 2.0  # radii of discs
_COVER = 0.25  # of the plot by discs; where there are many, all are smaller
_TEXT, _TITLE = 13, 20
_LABEL_WIDTH = 120  # a time label and the space around it
_CHARACTER = 0.64  # width of a character of DejaVu Sans, in font sizes, on average and rather more than less
_LONGEST_LABEL = 44
_INK, _FAINT, _GRID, _PAPER = "#222222", "#666666", "#e4e4e4", "#ffffff"
_OPACITY = 0.6
_SCALE = 2  # a PNG has so many dots for each unit of the layout
_MARGIN_TIME = 1800 * SECOND  # on both sides of a scene that lasts no time


class Disc(Struct, frozen=True):
    x: float
    y: float
    radius: float
    colour: str
    hint: str = ""


class Line(Struct, frozen=True):
    x1: float
    y1: float
    x2: float
    y2: float
    colour: str
    width: float = 1


class Text(Struct, frozen=True):
    """anchor: `start`, `middle` or `end` of the text is at x; y is its baseline."""

    x: float
    y: float
    text: str
    size: int = _TEXT
    colour: str = _INK
    anchor: str = "start"


Shape = Disc | Line | Text


def lay_out(scene: Scene) -> list[Shape]:
    """Everything that is drawn, what lies below first."""
    legend, lines = _legend(scene)
    bottom = HEIGHT - _AXIS - lines * _LINE
    shapes: list[Shape] = [
        Text(24, 34, _shorten(scene.title, 90), _TITLE),
        Text(24, 56, scene.subtitle, colour=_FAINT),
    ]
    if not scene.marks:
        return [*shapes, Text(WIDTH / 2, HEIGHT / 2, "no files in this time", _TITLE, _FAINT, "middle")]
    return [*shapes, *_plot(scene, bottom), *legend]


def _plot(scene: Scene, bottom: float) -> list[Shape]:
    begin, end = scene.begin, scene.end
    margin = (end - begin) // 40 or _MARGIN_TIME
    begin, end = begin - margin, end + margin
    most_bytes = max(mark.group.size for mark in scene.marks) or 1
    counts = count_ticks(max(mark.group.files for mark in scene.marks))
    all_bytes = sum(mark.group.size for mark in scene.marks)
    space = _COVER * (WIDTH - _LEFT - _RIGHT) * (bottom - _TOP)
    largest = min(_LARGEST, math.sqrt(space / math.pi * most_bytes / max(all_bytes, 1)))
    low, high = bottom - _LARGEST - 4, _TOP + _LARGEST + 4

    def across(moment: int) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * ((moment - begin) / (end - begin))

    def up(files: int) -> float:
        return low - (low - high) * (math.log(files) / math.log(counts[-1]) if len(counts) > 1 else 0.5)

    shapes: list[Shape] = []
    for count in counts:
        shapes.append(Line(_LEFT, up(count), WIDTH - _RIGHT, up(count), _GRID))
        shapes.append(Text(_LEFT - 8, up(count) + 4, f"{count:,}", colour=_FAINT, anchor="end"))
    caption = f"files; the area of a disc is its bytes, {human_size(most_bytes)} at most"
    shapes.append(Text(24, _TOP + 8, caption, colour=_FAINT))
    for moment, label in time_ticks(begin, end, (WIDTH - _LEFT - _RIGHT) // _LABEL_WIDTH):
        shapes.append(Line(across(moment), _TOP + 16, across(moment), bottom, _GRID))
        x = min(across(moment), WIDTH - _width(label) / 2 - 4)
        shapes.append(Text(x, bottom + 18, label, colour=_FAINT, anchor="middle"))
    shapes.append(Line(_LEFT, bottom, WIDTH - _RIGHT, bottom, _FAINT))
    for mark in scene.marks:
        group, colour = mark.group, scene.lanes[mark.lane].colour
        y = up(group.files)
        x1, x2 = across(group.begin), across(group.end)
        radius = max(largest * math.sqrt(group.size / most_bytes), _SMALLEST)
        if x2 - x1 > 2 * radius:
            shapes.append(Line(x1, y, x2, y, colour, 2))
        hint = (
            f"{show_moment(group.begin)}, {show_length(group.end - group.begin)}: {counted(group.files, 'file')}, "
            f"{human_size(group.size)}, mostly in {scene.lanes[mark.lane].label}"
        )
        shapes.append(Disc((x1 + x2) / 2, y, radius, colour, hint))
    return shapes


def _legend(scene: Scene) -> tuple[list[Shape], int]:
    """The lanes' colours in as few lines as they need at the foot, and how many lines that are."""
    rows: list[list[tuple[float, str, str]]] = [[]]
    x = float(_LEFT)
    for lane in scene.lanes:
        label = _shorten(lane.label, _LONGEST_LABEL)
        width = 22 + _width(label) + 18
        if x + width > WIDTH - _RIGHT and rows[-1]:
            rows.append([])
            x = float(_LEFT)
        rows[-1].append((x, label, lane.colour))
        x += width
    shapes: list[Shape] = []
    for number, row in enumerate(rows):
        y = HEIGHT - (len(rows) - number) * _LINE + 6
        for x, label, colour in row:
            shapes += [Disc(x + 6, y - 5, 6, colour), Text(x + 18, y, label)]
    return shapes, len(rows)


def _shorten(text: str, most: int) -> str:
    """Without its middle, where it is too long."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"


def _width(text: str, size: int = _TEXT) -> float:
    """About; wide characters (CJK) count twice."""
    return sum(1.0 if ord(char) >= 0x1100 else _CHARACTER for char in text) * size


def to_svg(scene: Scene) -> bytes:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="DejaVu Sans, Verdana, sans-serif">',
        f"<title>{_xml(scene.title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{_PAPER}"/>',
        *map(_svg_element, lay_out(scene)),
        "</svg>",
    ]
    return "\n".join([*lines, ""]).encode()


def _svg_element(shape: Shape) -> str:
    if isinstance(shape, Disc):
        hint = f"<title>{_xml(shape.hint)}</title>" if shape.hint else ""
        paint = f'fill="{shape.colour}" fill-opacity="{_OPACITY}" stroke="{shape.colour}"'
        return f'<circle cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.radius:.1f}" {paint}>{hint}</circle>'
    if isinstance(shape, Line):
        ends = f'x1="{shape.x1:.1f}" y1="{shape.y1:.1f}" x2="{shape.x2:.1f}" y2="{shape.y2:.1f}"'
        return f'<line {ends} stroke="{shape.colour}" stroke-width="{shape.width}"/>'
    place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size}" text-anchor="{shape.anchor}"'
    return f'<text {place} fill="{shape.colour}">{_xml(shape.text)}</text>'


def _xml(text: str) -> str:
    """Characters that XML 1.0 cannot hold are left out."""
    return escape("".join(char for char in text if char.isprintable()))


def to_png(scene: Scene) -> bytes:
    from PIL import Image, ImageColor, ImageDraw

    image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE), _PAPER)
    draw = ImageDraw.Draw(image, "RGBA")
    fonts = {size: _font(size * _SCALE) for size in (_TEXT, _TITLE)}
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for shape in lay_out(scene):
        if isinstance(shape, Disc):
            x, y, radius = shape.x * _SCALE, shape.y * _SCALE, shape.radius * _SCALE
            red, green, blue = ImageColor.getrgb(shape.colour)[:3]
            fill = (red, green, blue, round(255 * _OPACITY))
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill, shape.colour, _SCALE)
        elif isinstance(shape, Line):
            ends = [value * _SCALE for value in (shape.x1, shape.y1, shape.x2, shape.y2)]
            draw.line(ends, shape.colour, round(shape.width * _SCALE))
        else:
            place = shape.x * _SCALE, shape.y * _SCALE
            draw.text(place, shape.text, shape.colour, fonts[shape.size], anchors[shape.anchor])
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _font(size: int) -> FreeTypeFont | ImageFont:
    """DejaVu Sans where it is installed, for its many scripts; else what comes with Pillow."""
    from PIL import ImageFont

    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)

"""What `xtar activity` draws: nothing runs into anything else, at any size of tree and any span of time."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont
from rich.cells import cell_len

from builder.activity import drawing
from builder.activity.axis import count_ticks, time_ticks
from builder.activity.changes import Changes
from builder.activity.drawing import Disc, Text, lay_out, to_png, to_svg
from builder.activity.groups import Activity
from builder.activity.plot_page import to_html
from builder.activity.scene import Scene, make_scene
from builder.activity.timeline import timeline
from builder.activity.when import parse_moment, parse_radius, show_length
from builder.commands.cli import main
from xtarfs.errors import UsageError

from . import trees

SECOND = 10**9
SVG = "{http://www.w3.org/2000/svg}"
FIRST, LAST = -(1 << 63), (1 << 63) - 1


def scene_of(files: list[tuple[int, int, bytes]], title: str = "tree", most: int = 5000) -> Scene:
    changes = Changes()
    for moment, size, path in files:
        folder, _, name = path.rpartition(b"/")
        changes.add(folder, [name.decode("utf-8", "surrogateescape")], [moment], [size])
    return make_scene(title, Activity(changes), most, top=2)


def spread(count: int, start: int, end: int) -> list[tuple[int, int, bytes]]:
    """Files of many sizes in folders with short, long and wide names, over a span of seconds."""
    folders = [
        b"a",
        b"long-" * 30,
        "写真の写真の写真の写真".encode(),
        b"b/c/d",
        b"with spaces",
        *(b"n%d" % n for n in range(9)),
    ]
    step = (end - start) / max(count - 1, 1)
    return [
        (round(start + number * step) * SECOND, number**3 % 10_007, b"%s/f%d" % (folders[number % 14], number))
        for number in range(count)
    ]


YEAR = 365 * 86400
SCENES = {
    "empty": scene_of([]),
    "one": scene_of([(1_700_000_000 * SECOND, 5, b"f")]),
    "one empty file": scene_of([(0, 0, b"f")]),
    "at once": scene_of([(1_700_000_000 * SECOND, 5, b"d%d/f" % n) for n in range(30)]),
    "a minute": scene_of(spread(40, 1_700_000_000, 1_700_000_060)),
    "a day": scene_of(spread(100, 1_700_000_000, 1_700_086_400)),
    "a month": scene_of(spread(400, 1_700_000_000, 1_702_600_000)),
    "twenty years": scene_of(spread(800, 1_100_000_000, 1_100_000_000 + 20 * YEAR), "t" * 300),
    "before 1970": scene_of(spread(50, -60 * YEAR, -YEAR)),
    "the future": scene_of(spread(50, 4_000_000_000, 4_000_000_000 + YEAR)),
    "all that counts": scene_of([(FIRST, 1, b"a/x"), (0, 1 << 50, b"b/y"), (LAST, 1, b"c/z")]),
    "no bytes": scene_of([(n * 86400 * SECOND, 0, b"d%d/f" % (n % 3)) for n in range(20)]),
}
every_scene = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())


def boxes(scene: Scene) -> Iterator[tuple[str, float, float, float, float]]:
    """The texts of a picture, and the place that each takes: left, top, right, bottom."""
    for shape in lay_out(scene):
        if isinstance(shape, Text):
            width = ImageFont.load_default(shape.size).getlength(shape.text)
            left = shape.x - width * {"start": 0, "middle": 0.5, "end": 1}[shape.anchor]
            yield shape.text, left, shape.y - shape.size * 0.8, left + width, shape.y + shape.size * 0.2


@every_scene
def test_no_text_runs_into_another_or_out_of_the_picture(scene: Scene) -> None:
    found = list(boxes(scene))
    for text, left, top, right, bottom in found:
        assert left >= 0 and top >= 0 and right <= drawing.WIDTH and bottom <= drawing.HEIGHT, text
    for (one, *a), (other, *b) in combinations(found, 2):
        apart = a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
        assert apart, (one, other)


@every_scene
def test_svg_is_xml_that_holds_every_group(scene: Scene) -> None:
    root = ElementTree.fromstring(to_svg(scene))
    hints = [disc for disc in root.iter(f"{SVG}circle") if disc.find(f"{SVG}title") is not None]
    assert len(hints) == len(scene.marks)
    for disc in hints:
        x, y, radius = (float(disc.attrib[key]) for key in ("cx", "cy", "r"))
        assert radius < x < drawing.WIDTH and radius < y < drawing.HEIGHT - radius
    assert b"http" not in to_svg(scene).replace(b"http://www.w3.org/2000/svg", b"")


@every_scene
def test_a_discs_area_is_its_bytes(scene: Scene) -> None:
    discs = [shape for shape in lay_out(scene) if isinstance(shape, Disc) and shape.hint]
    for disc, mark in zip(discs, scene.marks, strict=True):
        assert disc.colour == scene.lanes[mark.lane].colour
        largest = max(discs, key=lambda disc: disc.radius)
        most = max(mark.group.size for mark in scene.marks)
        if disc.radius > 2:
            assert disc.radius / largest.radius == pytest.approx((mark.group.size / most) ** 0.5)


@pytest.mark.parametrize("name", ["empty", "at once", "twenty years"])
def test_png_shows_the_same_colours(name: str) -> None:
    scene = SCENES[name]
    with Image.open(BytesIO(to_png(scene))) as image:
        assert image.format == "PNG"
        assert image.size == (2 * drawing.WIDTH, 2 * drawing.HEIGHT)
        data = image.tobytes()
    dots = {data[at : at + 3] for at in range(0, len(data), 3)}
    assert {bytes.fromhex(lane.colour[1:]) for lane in scene.lanes} <= dots


class _Scripts(HTMLParser):
    """The scripts of a page, and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.loads: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")
        self.loads += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data


@every_scene
def test_html_is_one_file_that_holds_every_group(scene: Scene) -> None:
    page = _Scripts()
    page.feed(to_html(scene).decode())
    assert page.loads == [] and len(page.scripts) == 2
    data = json.loads(page.scripts[0])
    assert [mark["files"] for mark in data["marks"]] == [mark.group.files for mark in scene.marks]
    assert "http" not in page.scripts[1] and "fetch(" not in page.scripts[1]


def test_names_cannot_break_out_of_a_picture() -> None:
    evil = b"</script><script>alert(1)//]]>&\x01\xff"
    scene = scene_of([(0, 1, evil + b"/" + evil)], evil.decode("latin-1"))
    page = _Scripts()
    page.feed(to_html(scene).decode())
    assert len(page.scripts) == 2
    assert json.loads(page.scripts[0])["title"] == evil.decode("latin-1")
    assert len(list(ElementTree.fromstring(to_svg(scene)).iter(f"{SVG}script"))) == 0
    to_png(scene)


def test_a_folder_of_many_small_files_has_a_colour_beside_one_of_large_files() -> None:
    small = [(SECOND * number, 1, b"code/%d" % number) for number in range(20)]
    drawn = scene_of([*small, (10**7 * SECOND, 10**9, b"film/one")])
    assert {lane.path for lane in drawn.lanes} == {b"code", b"film"}


def test_only_the_largest_groups_are_drawn_and_the_picture_says_so() -> None:
    scene = scene_of(spread(400, 0, 20 * YEAR), most=50)
    assert len(scene.marks) == 50
    assert "400 groups, 400 files" in scene.subtitle and "the 50 groups with the most bytes are drawn" in scene.subtitle


@pytest.mark.parametrize("width", [40, 79, 200])
@every_scene
def test_the_timeline_fits(scene: Scene, width: int) -> None:
    lines = timeline(scene, width)
    assert len(lines) == (len(scene.lanes) + 2 if scene.marks else 0)
    assert all(cell_len(line.plain) <= max(width, 52) for line in lines)
    for line in lines[: len(scene.lanes)]:
        assert any(bar in line.plain for bar in "▁▂▃▄▅▆▇█")


# -- axes and times ------------------------------------------------------------------------------------------------

moments = st.integers(FIRST, LAST)


@settings(max_examples=50, deadline=None)
@given(moments, st.integers(0, LAST), st.integers(1, 12))
def test_ticks_of_time_are_few_within_and_differ(begin: int, length: int, most: int) -> None:
    end = min(begin + length, LAST)
    ticks = time_ticks(begin, end, most)
    assert len(ticks) <= most + 1
    assert all(begin <= moment <= end for moment, _ in ticks)
    assert all(a[0] < b[0] and a[1] != b[1] for a, b in pairwise(ticks))


@given(st.integers(1, 10**9))
@settings(max_examples=50, deadline=None)
def test_ticks_of_counts_reach_the_largest(most: int) -> None:
    ticks = count_ticks(most)
    assert ticks[0] == 1 and ticks[-1] >= most and ticks == sorted(set(ticks)) and len(ticks) <= 10
    assert len(ticks) == 1 or ticks[-2] < most


@pytest.mark.parametrize(
    "text", ["2024-02-29", "2024-02-29 18:30", "2024-02-29T18:30:15", "2024-02-29T18:30:15+02:00", "@1700000000", "@-5"]
)
def test_moments_are_those_of_date(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        printed = subprocess.run(["date", "-d", text, "+%s"], capture_output=True, check=True, text=True).stdout
        assert parse_moment("--since", text)[0] == int(printed) * SECOND
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_moment_is_all_that_it_names() -> None:
    def length(text: str) -> int:
        first, last = parse_moment("--since", text, now=1_700_000_000.0)
        return (last - first + 1) // SECOND

    assert [length(text) for text in ("2024-02-29 18:30:15", "2024-02-29 18:30", "@17")] == [1, 60, 1]
    assert length("2023-02") in (28 * 86400, 28 * 86400 - 3600, 28 * 86400 + 3600)
    assert 365 * 86400 <= length("2024") <= 367 * 86400
    assert parse_moment("--since", "7d", now=1_700_000_000.0) == ((1_700_000_000 - 7 * 86400) * SECOND,) * 2
    assert parse_moment("--since", "now", now=1.5) == (1_500_000_000,) * 2
    assert parse_moment("--since", "@-1.25")[0] == parse_moment("--since", "@-1.25")[1] == -1_250_000_000
    assert parse_moment("--since", "1700000000") == parse_moment("--since", "@1700000000")
    yesterday, today = (parse_moment("--since", day, now=1_700_000_000.0) for day in ("yesterday", "today"))
    assert yesterday[1] + 1 == today[0] < 1_700_000_000 * SECOND < today[1]


@pytest.mark.parametrize("text", ["", "x", "2024-13", "2024-02-30", "-5", "@", "9999", "12:30", "1h ago", "٣٤٥٦٧"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_moment("--since", text)


def test_radius() -> None:
    texts = ("90", "90s", "1.5m", "2min", "1h", "1h30m", "2d", "1w", "0")
    assert [parse_radius(text) // SECOND for text in texts] == [90, 90, 90, 120, 3600, 5400, 172800, 604800, 0]
    for text in ("", "h", "-1h", "1x", "1 h", "1h-3m", "nan", "inf", "1e3"):
        with pytest.raises(UsageError, match="is not a length of time"):
            parse_radius(text)


def test_lengths_in_words() -> None:
    seconds = (0, 59, 61, 3600, 90_061, 400 * 86400)
    assert [show_length(s * SECOND) for s in seconds] == ["0 s", "59 s", "1 min 1 s", "1 h", "1 d 1 h", "1 y 35 d"]


# -- the command ---------------------------------------------------------------------------------------------------


def test_plot_writes_each_kind_of_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tree").mkdir()
    trees.write(tmp_path / "tree" / "file", b"content")
    for name, start in (("out.html", b"<!DOCTYPE html>"), ("out.PNG", b"\x89PNG"), ("out.svg", b"<svg")):
        picture = tmp_path / name
        assert main(["activity", str(tmp_path / "tree"), "--plot", str(picture)]) == 0
        assert capsys.readouterr().out.startswith(f"{picture}: ")
        assert picture.read_bytes().startswith(start)
        before = picture.read_bytes()
        assert main(["activity", str(tmp_path), "--plot", str(picture)]) == 2
        assert "exists already; --force replaces it" in capsys.readouterr().err
        assert picture.read_bytes() == before
        assert main(["activity", str(tmp_path), "--plot", str(picture), "--force", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["files"] >= 2
        assert picture.read_bytes() != before

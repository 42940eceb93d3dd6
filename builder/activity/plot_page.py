"""A scene as one HTML file that needs nothing else: `plot.html` with the marks put in."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from xtarfs.console import human_size
from xtarfs.text import escape

from .scene import Mark, Scene, counted
from .when import SECOND, show_length, show_moment


def to_html(scene: Scene) -> bytes:
    page = resources.files(__package__).joinpath("plot.html").read_text("utf-8")
    data = {
        "title": scene.title,
        "subtitle": scene.subtitle,
        "lanes": [{"label": lane.label, "colour": lane.colour} for lane in scene.lanes],
        "marks": list(map(_mark, scene.marks)),
    }
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # or a name could end the script
    return page.replace("{{data}}", text, 1).encode("utf-8", "replace")


def _mark(mark: Mark) -> dict[str, Any]:
    group = mark.group
    return {
        "begin": group.begin / SECOND,
        "end": group.end / SECOND,
        "files": group.files,
        "bytes": group.size,
        "lane": mark.lane,
        "when": f"{show_moment(group.begin)}, {show_length(group.end - group.begin)}",
        "what": f"{counted(group.files, 'file')}, {human_size(group.size)}",
        "folders": [f"{escape(path) or '.'}  {files:,}" for path, files in group.folders],
        "kinds": ", ".join(f"{kind or 'none'} {files:,}" for kind, files in group.kinds),
        "top": [f"{escape(file.path)}  {human_size(file.size)}" for file in group.top],
    }

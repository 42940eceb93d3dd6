"""What the files of a set of volumes are called: NAME.001.xtar, NAME.002.xtar, ..., NAME.spare1.rec."""

from __future__ import annotations

import os
import re

from ..format.parity import SUFFIX

MOST_VOLUMES = 9999
MOST_WITH_SPARES = 255
_ARCHIVE = ".xtar"
_VOLUME = re.compile(r"(.+)\.(\d{3,4})\.xtar", re.DOTALL)
_PARITY = re.compile(r"(.+)\.(\d{3,4})\.xtar\.rec", re.DOTALL)
_SPARE = re.compile(r"(.+)\.spare(\d{1,3})\.rec", re.DOTALL)


def stem_of(path: str) -> str:
    """NAME, with its folder, of an archive to be written, of a volume or of a spare."""
    match = _VOLUME.fullmatch(path) or _SPARE.fullmatch(path)
    return match[1] if match else path.removesuffix(_ARCHIVE)


def number_of(path: str) -> int | None:
    """The number of a volume by its name; None if it is not called like one."""
    match = _VOLUME.fullmatch(path)
    return int(match[2]) if match else None


def volume_path(stem: str, number: int, count: int) -> str:
    """The path of volume `number` of `count`."""
    return f"{stem}.{number:0{max(3, len(str(count)))}d}{_ARCHIVE}"


def spare_path(stem: str, number: int) -> str:
    """The path of spare `number`, from 1."""
    return f"{stem}.spare{number}{SUFFIX}"


def volumes_beside(stem: str) -> list[str]:
    """Paths of the files that are called like volumes of a set of that name."""
    return _beside(stem, _VOLUME)


def parity_beside(stem: str) -> list[str]:
    """Paths of the files that are called like the parity of such volumes."""
    return _beside(stem, _PARITY)


def spares_beside(stem: str) -> list[str]:
    """Paths of the files that are called like spares of a set of that name, in order."""
    return sorted(_beside(stem, _SPARE), key=lambda path: int(_SPARE.fullmatch(path)[2]))  # type: ignore[index]


def _beside(stem: str, pattern: re.Pattern[str]) -> list[str]:
    folder, name = os.path.split(stem)
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError:
        return []
    named = [os.path.join(folder, each) for each in names if (match := pattern.fullmatch(each)) and match[1] == name]
    return [path for path in named if os.path.isfile(path)]

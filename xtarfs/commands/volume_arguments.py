"""Volumes on the command line: `ARCHIVE` may be any volume of a set, or several of them one behind the other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..format.locator import VolumeSet


def take_volumes(archive: str, words: list[str]) -> list[str]:
    """Takes from the begin of `words` the further volumes of the set that `archive` is a volume of.

    Raises UsageError for a volume of another set, and for one that is given twice.
    """
    from ..errors import UsageError

    taken: list[str] = []
    seen: dict[int, str] = {}
    known: VolumeSet | None = None
    for place, path in enumerate([archive, *words]):
        facts = volume_set(path)
        if place:
            if facts is None and not _are_alike(path, archive):
                break
            taken.append(path)
        if facts is None:
            continue
        known = known or facts
        if facts.id != known.id:
            raise UsageError(f"{path}: is a volume of another set than {archive}")
        if facts.number in seen:
            raise UsageError(f"{path}: is volume {facts.number}, and so is {seen[facts.number]}; give each once")
        seen[facts.number] = path
    del words[: len(taken)]
    return taken


def volume_set(path: str) -> VolumeSet | None:
    """What a file says of the set that it is a volume of; None if it is none."""
    from ..errors import XtarError
    from ..reading.tree import find_locator
    from ..source import FileSource

    if not os.path.isfile(path):
        return None
    try:
        source = FileSource(path)
    except XtarError:
        return None
    try:
        facts = find_locator(source)
        return facts.set if facts else None
    except XtarError:
        return None
    finally:
        source.close()


def _are_alike(path: str, archive: str) -> bool:
    """Whether both are called like volumes of one set: damage may have taken what they say themselves."""
    from ..reading.volume_names import stem_of

    stem = stem_of(path)
    return os.path.isfile(path) and stem == stem_of(archive) and stem != path.removesuffix(".xtar")

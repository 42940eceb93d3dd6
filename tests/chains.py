"""Chains of incremental copies for the tests: a source that changes from day to day, and a copy of each day."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.building.build import Options, build
from xtarfs.reading.reader import Archive
from xtarfs.restoring.extract import ExtractOptions, extract

from . import trees

FIRST_DAY = 1_704_110_400  # Monday, 2024-01-01, noon UTC
DAY = 86_400
Change = Callable[[Path], None]


@dataclass(frozen=True)
class Chain:
    """archives: the oldest first; states: what `trees.snapshot` said of the source each time."""

    folder: Path
    archives: list[Path]
    states: list[dict[bytes, Any]]

    def copied_to(self, folder: Path) -> Chain:
        """The same archives where a test may harm them."""
        shutil.copytree(self.folder, folder)
        return Chain(folder, [folder / archive.name for archive in self.archives], list(self.states))


def make_chain(folder: Path, changes: Sequence[Change], days: Sequence[float] = ()) -> Chain:
    """Copies `day0.xtar`, `day1.xtar`, ... in `folder`, each but the first on top of the one before.

    days: when each was made, in days after the first; default 0, 1, 2, ...
    """
    folder.mkdir()
    source = folder.with_name(folder.name + " source")
    source.mkdir()
    chain = Chain(folder, [], [])
    for number, change in enumerate(changes):
        change(source)
        created = FIRST_DAY + int(DAY * (days[number] if days else number))
        add_copy(chain, source, created, base=chain.archives[-1] if chain.archives else None)
    return chain


def add_copy(chain: Chain, source: Path, created: int, base: Path | None) -> Path:
    archive = chain.folder / f"day{len(chain.archives)}.xtar"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(created))
        assert build(str(source), str(archive), Options(base=str(base or ""))).problems == []
    chain.archives.append(archive)
    chain.states.append(trees.snapshot(source))
    return archive


def restored(archive: Path, destination: Path, *others: Path) -> dict[bytes, Any]:
    """What `trees.snapshot` says of the archive when it is extracted, all of it."""
    with Archive.open(str(archive), others=[str(other) for other in others]) as opened:
        assert extract(opened, str(destination), [], ExtractOptions()).complete
    return trees.snapshot(destination)


def begin(source: Path) -> None:
    """Files of every sort that a member can be: of one chunk and many, deflated and stored, linked, empty, sparse."""
    (source / "docs" / "deep").mkdir(parents=True)
    trees.write(source / "docs" / "letter", b"Dear reader\n")
    trees.write(source / "docs" / "deep" / "book", trees.words(300_000))
    trees.write(source / "photo", trees.noise(150_000))
    trees.write(source / "large", trees.words(1_300_000, 2))
    trees.write(source / "empty")
    trees.write(source / "goes", b"will be gone")
    trees.write(source / "linked", trees.words(50_000, 3))
    os.link(source / "linked", source / "docs" / "second name")
    os.symlink("photo", source / "photo.zip")  # takes the member name that `photo` would have
    trees.sparse(source / "sparse", 1 << 20, {300_000: trees.words(5000)})
    trees.write(source / "turns", b"into a folder")
    os.mkdir(source / "hollow", 0o700)


def edit(source: Path) -> None:
    trees.write(source / "docs" / "letter", b"Dear reader, once more\n")
    trees.write(source / "new", trees.noise(70_000, 5))
    os.remove(source / "goes")


def rename(source: Path) -> None:
    os.rename(source / "large", source / "docs" / "larger")
    os.rename(source / "docs" / "deep", source / "deep")
    os.chmod(source / "photo", 0o600)
    os.remove(source / "turns")
    (source / "turns").mkdir()
    trees.write(source / "turns" / "inside", b"a file in what was a file")


def touch(source: Path) -> None:
    trees.write(source / "today", b"of the last day")


CHANGES: Sequence[Change] = (begin, edit, rename, touch)

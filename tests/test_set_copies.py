"""Sets of volumes among other copies: each is merged, pruned and shown as one copy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.building.build import Options, build
from builder.chains.merge import merge
from builder.chains.prune import prune
from builder.chains.retention import Policy
from builder.volumes.spread import build_volumes
from xtarfs.errors import XtarError
from xtarfs.filesystem.history import History
from xtarfs.parity.protect import protect
from xtarfs.reading.copies import read_copy

from . import trees
from .chains import DAY, FIRST_DAY, begin, edit, restored
from .mounting import xtar


class Backups:
    """A source and its copies in `folder`, one a day: a.xtar in volumes, then b.xtar and c.xtar on top of it."""

    def __init__(self, root: Path) -> None:
        self.source, self.folder = root / "source", root / "folder"
        self.source.mkdir()
        self.folder.mkdir()
        begin(self.source)
        self.volumes = self.build_set("a.xtar", 0, spares=1)
        self.states = {"a": trees.snapshot(self.source)}
        edit(self.source)
        self.build("b.xtar", 1, self.volumes[1])
        self.states["b"] = trees.snapshot(self.source)
        os.rename(self.source / "photo", self.source / "picture")
        self.build("c.xtar", 2, self.folder / "b.xtar")
        self.states["c"] = trees.snapshot(self.source)

    def build(self, name: str, day: int, base: Path | None = None) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SOURCE_DATE_EPOCH", str(FIRST_DAY + day * DAY))
            result = build(str(self.source), str(self.folder / name), Options(base=str(base or "")))
        assert result.problems == []
        return self.folder / name

    def build_set(self, name: str, day: int, base: Path | None = None, spares: int = 0) -> list[Path]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SOURCE_DATE_EPOCH", str(FIRST_DAY + day * DAY))
            options = Options(base=str(base or ""))
            result, paths = build_volumes(str(self.source), str(self.folder / name), options, 60_000, spares)
        assert result.problems == []
        return [Path(path) for path in paths]

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def require(self, name: str, path: Path) -> None:
        assert trees.differences(restored(path, self.folder.with_name(f"out {name}")), self.states[name]) == []


@pytest.fixture
def backups(tmp_path: Path) -> Backups:
    made = Backups(tmp_path)
    assert len(made.volumes) > 4
    return made


def test_a_set_merges_into_the_archive_that_was_not_cut(backups: Backups, tmp_path: Path) -> None:
    full = tmp_path / "full.xtar"
    merge([str(backups.volumes[2])], str(full))
    backups.require("a", full)
    direct = tmp_path / "direct.xtar"
    source = tmp_path / "out a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(FIRST_DAY))
        build(str(source), str(direct), Options())
    end = read_copy(str(full)).facts.origin.at - 512
    assert full.read_bytes()[:end] == direct.read_bytes()[:end]
    replaced = set(read_copy(str(full)).facts.replaces)
    assert replaced == {read_copy(str(volume)).facts.id for volume in backups.volumes} | {
        read_copy(str(backups.volumes[0])).id
    }


def test_copies_on_top_of_a_set_merge_with_it_and_read_on_without(backups: Backups) -> None:
    full = backups.folder / "full.xtar"
    merge([*map(str, backups.volumes), str(backups.folder / "b.xtar")], str(full))
    backups.require("b", full)
    for volume in backups.volumes:
        volume.unlink()
    backups.require("c", backups.folder / "c.xtar")


def test_volumes_that_cannot_be_merged(backups: Backups, tmp_path: Path) -> None:
    def refused(*paths: Path) -> str:
        done = xtar("merge", *paths, "-o", tmp_path / "full.xtar")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert not (tmp_path / "full.xtar").exists()
        return done.stderr

    assert "named twice" in refused(backups.volumes[0], backups.volumes[1], backups.volumes[0])
    other = backups.build_set("other.xtar", 5)
    assert "do not belong" in refused(backups.volumes[0], other[0])
    backups.volumes[1].unlink()
    assert "needs" in refused(backups.volumes[0])
    assert "needs" in refused(backups.folder / "c.xtar")


def test_prune_takes_a_set_for_one_copy(backups: Backups) -> None:
    for volume in backups.volumes:
        protect(str(volume), 10, lambda size, total=0: None)
    plan = prune(str(backups.folder), Policy(last=2))
    assert [(fate.action, len(fate.copy.paths)) for fate in plan.fates] == [
        ("keep", 1),
        ("rewrite", 1),
        ("remove", len(backups.volumes)),
    ]
    assert backups.names() == ["b.xtar", "c.xtar"]
    backups.require("b", backups.folder / "b.xtar")
    backups.require("c", backups.folder / "c.xtar")


def test_a_set_is_not_rewritten_but_keeps_what_it_needs(backups: Backups) -> None:
    trees.write(backups.source / "more", trees.noise(200_000, 9))
    last = backups.build_set("d.xtar", 3, backups.folder / "c.xtar")
    backups.states["d"] = trees.snapshot(backups.source)
    before = {name: (backups.folder / name).read_bytes() for name in backups.names()}
    plan = prune(str(backups.folder), Policy(last=1))
    actions = {os.path.basename(fate.copy.path): fate.action for fate in plan.fates}
    assert actions == {"d.001.xtar": "keep", "b.xtar": "needed", "a.001.xtar": "needed", "c.xtar": "remove"}
    assert {name: (backups.folder / name).read_bytes() for name in backups.names()} == {
        name: was for name, was in before.items() if name != "c.xtar"
    }
    backups.require("d", last[0])


def test_a_set_that_lacks_a_volume_is_left_alone(backups: Backups) -> None:
    backups.volumes[2].unlink()
    names = backups.names()
    plan = prune(str(backups.folder), Policy(last=3), dry_run=True)
    assert set(plan.left_alone) == {str(path) for path in backups.volumes if path.exists()}
    assert backups.names() == names
    with pytest.raises(XtarError):
        prune(str(backups.folder / "b.xtar"), Policy(last=1))


def test_history_shows_a_set_as_one_copy(backups: Backups) -> None:
    view = History(str(backups.folder), [], 1 << 20)
    days = [b"2024-01-0%dT12-00-00Z" % day for day in (1, 2, 3)]
    assert [name for name, _ in view.readdir(b"/")] == [*days, b"latest"]
    for day, name in zip(days, (b"photo", b"photo", b"picture"), strict=True):
        assert bytes(view.read(b"/" + day + b"/" + name, 1 << 20, 0)) == trees.noise(150_000)
    view.close()

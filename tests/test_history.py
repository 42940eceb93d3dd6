"""The history mount: every copy of a folder by its time, `latest`, and what comes and goes meanwhile."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder.chains.merge import merge
from builder.chains.prune import prune
from builder.chains.retention import Policy
from xtarfs.errors import UsageError
from xtarfs.filesystem import history
from xtarfs.filesystem.history import History

from . import trees
from .chains import DAY, FIRST_DAY, Chain, add_copy, begin, edit, make_chain, rename, touch
from .mounting import environment, failure, live, until, xtar

DAYS = [b"2024-01-0%dT12-00-00Z" % day for day in range(1, 8)]


def write_today(source: Path) -> None:
    trees.write(source / "today", os.urandom(100))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """More copies than stay open; tests must not change them."""
    changes = (begin, edit, rename, touch, write_today, write_today)
    return make_chain(tmp_path_factory.mktemp("history") / "chain", changes)


@pytest.fixture
def own(chain: Chain, tmp_path: Path) -> Chain:
    return chain.copied_to(tmp_path / "own")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_PATIENCE", 0)


def names(view: History) -> list[bytes]:
    return [name for name, _ in view.readdir(b"/")]


def read(view: History, path: bytes) -> bytes:
    return bytes(view.read(path, 1 << 20, 0))


# -- without FUSE ----------------------------------------------------------------------------------------------


def test_a_directory_for_each_copy_and_latest(chain: Chain) -> None:
    view = History(str(chain.folder), [], 1 << 20)
    assert names(view) == [*DAYS[:6], b"latest"]
    assert view.readlink(b"/latest") == DAYS[5]
    assert read(view, b"/" + DAYS[0] + b"/docs/letter") == b"Dear reader\n"
    assert read(view, b"/" + DAYS[2] + b"/docs/letter") == b"Dear reader, once more\n"
    assert [view.getattr(b"/" + day).mode for day in DAYS[:6]] == [0o040755] * 6
    with pytest.raises(FileNotFoundError):
        view.getattr(b"/" + DAYS[6])
    with pytest.raises(FileNotFoundError):
        view.getattr(b"/" + DAYS[0] + b"/no such file")
    assert view.getattr(b"/").nlink == 8
    view.close()


def test_inode_numbers_are_of_one_file_each(chain: Chain) -> None:
    view = History(str(chain.folder), [], 1 << 20)
    found = [attributes.ino for _, attributes in view.readdir(b"/")]
    for day in DAYS[:6]:
        assert dict(view.readdir(b"/"))[day].ino == view.getattr(b"/" + day).ino
        inodes = dict(view.readdir(b"/" + day))
        assert inodes[b"photo"].ino == view.getattr(b"/" + day + b"/photo").ino
        found += [attributes.ino for attributes in inodes.values()]
    found.append(view.getattr(b"/").ino)
    assert len(set(found)) == len(found)
    view.close()


def test_copies_are_closed_when_others_are_looked_into_but_not_in_use(chain: Chain) -> None:
    view = History(str(chain.folder), [], 1 << 20)
    before = len(os.listdir("/proc/self/fd"))
    listing = view.readdir(b"/" + DAYS[0])
    first = next(iter(listing))
    for _ in range(3):
        for day in DAYS[:6]:
            assert read(view, b"/" + day + b"/empty") == b""
            assert len(read(view, b"/" + day + b"/photo")) == 150_000
    assert len(view._opened) == history._OPEN
    assert [first, *listing] == list(view.readdir(b"/" + DAYS[0]))
    view.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.usefixtures("impatient")
def test_what_comes_and_goes(own: Chain) -> None:
    view = History(str(own.folder), [], 1 << 20)
    assert len(names(view)) == 7
    shutil.copy(own.archives[5], own.folder / "same again.xtar")
    assert names(view) == [*DAYS[:6], DAYS[5] + b"-2", b"latest"]
    own.archives[5].unlink()
    assert names(view) == [*DAYS[:5], DAYS[5] + b"-2", b"latest"]
    assert view.readlink(b"/latest") == DAYS[5] + b"-2"
    shutil.move(own.folder, own.folder.with_name("away"))
    assert view.getattr(b"/latest").size == len(DAYS[5]) + 2
    view.close()


@pytest.mark.usefixtures("impatient")
def test_a_copy_that_is_rewritten_keeps_its_name_and_inode_numbers(own: Chain) -> None:
    view = History(str(own.folder), [], 1 << 20)
    path = b"/" + DAYS[4] + b"/photo"
    before = view.getattr(path), read(view, path)
    prune(str(own.folder), Policy(last=2))
    assert names(view) == [DAYS[4], DAYS[5], b"latest"]
    assert (view.getattr(path), read(view, path)) == before
    merge([str(own.archives[5])], str(own.folder / "full.xtar"))
    assert names(view) == [DAYS[4], DAYS[5], DAYS[5] + b"-2", b"latest"]
    view.close()


@pytest.mark.usefixtures("impatient")
def test_an_empty_folder_that_fills(chain: Chain, tmp_path: Path) -> None:
    view = History(str(tmp_path), [], 1 << 20)
    assert names(view) == []
    for path in (b"/latest", b"/latest/x", b"/x"):
        with pytest.raises(FileNotFoundError):
            view.getattr(path)
    with pytest.raises(FileNotFoundError):
        view.readlink(b"/latest")
    shutil.copy(chain.archives[0], tmp_path)
    assert names(view) == [DAYS[0], b"latest"]
    view.close()


def test_copies_of_one_second_in_the_order_of_the_chain(tmp_path: Path) -> None:
    chain = make_chain(tmp_path / "chain", (begin, edit, touch), days=(0, 0, 0))
    chain.archives[0].rename(chain.folder / "z.xtar")
    view = History(str(chain.folder), [], 1 << 20)
    assert names(view) == [DAYS[0], DAYS[0] + b"-2", DAYS[0] + b"-3", b"latest"]
    assert view.readlink(b"/latest") == DAYS[0] + b"-3"
    assert read(view, b"/" + DAYS[0] + b"/goes") == b"will be gone"
    view.close()


def test_damaged_and_foreign_files_do_not_spoil_it(own: Chain) -> None:
    os.truncate(own.archives[1], 3000)
    trees.write(own.folder / "junk.xtar", b"junk" * 1000)
    trees.write(own.folder / "notes", b"nothing")
    (own.folder / "folder.xtar").mkdir()
    os.mkfifo(own.folder / "fifo.xtar")
    view = History(str(own.folder), [], 1 << 20)
    assert names(view) == [DAYS[0], *DAYS[2:6], b"latest"]
    report = json.loads(view.getxattr(b"/", b"user.xtar.report"))
    assert [os.path.basename(row["path"]) for row in report["left_out"]] == ["day1.xtar", "junk.xtar"]
    assert read(view, b"/" + DAYS[3] + b"/photo") == read(view, b"/" + DAYS[0] + b"/photo")
    with pytest.raises(OSError) as caught:  # it lay in what is damaged
        read(view, b"/" + DAYS[3] + b"/docs/letter")
    assert caught.value.errno == errno.EIO
    view.close()


def test_a_folder_that_is_none(chain: Chain, tmp_path: Path) -> None:
    for folder in (chain.archives[0], tmp_path / "missing"):
        with pytest.raises(UsageError):
            History(str(folder), [], 1 << 20)
        (tmp_path / "point").mkdir(exist_ok=True)
        done = xtar("mount", "--history", folder, tmp_path / "point")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


# -- mounted ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("binding")
def test_mounted(own: Chain, tmp_path: Path) -> None:
    with live(own.folder, tmp_path / "point", "--history") as point:
        assert sorted(os.listdir(point)) == [*map(os.fsdecode, DAYS[:6]), "latest"]
        for day, state in zip(DAYS[:6], own.states, strict=True):
            shown = trees.snapshot(os.fsencode(point) + b"/" + day)
            assert trees.differences(shown, state) == []
        assert os.path.samefile(point / "latest" / "photo", point / os.fsdecode(DAYS[5]) / "photo")
        assert not os.path.samefile(point / "latest" / "photo", point / os.fsdecode(DAYS[4]) / "photo")
        assert failure(os.mkdir, point / "new") == errno.EROFS
        assert failure(os.remove, point / "latest" / "photo") == errno.EROFS
        assert not os.path.exists(point / os.fsdecode(DAYS[6]))
        source = own.folder.with_name("source")
        shutil.copytree(point / "latest", source, symlinks=True)
        trees.write(source / "tomorrow", b"one more")
        archive = add_copy(own, source, FIRST_DAY + 6 * DAY, base=None)
        assert until(lambda: os.path.exists(point / os.fsdecode(DAYS[6]) / "tomorrow"))
        assert until(lambda: (point / "latest" / "tomorrow").exists())
        assert os.readlink(point / "latest") == os.fsdecode(DAYS[6])
        assert until(lambda: os.fsdecode(DAYS[6]) in os.listdir(point))
        archive.unlink()
        assert until(lambda: os.readlink(point / "latest") == os.fsdecode(DAYS[5]))
        assert until(lambda: os.fsdecode(DAYS[6]) not in os.listdir(point))


def test_with_other_folders_and_as_the_mount_helper_does_it(own: Chain, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    own.archives[0].rename(away / "first")
    latest = own.folder.with_name("point") / "latest"
    with live(own.folder, latest.parent, "--history") as point:
        assert failure((point / "latest" / "photo").read_bytes) == errno.EIO
        assert (point / "latest" / "docs" / "letter").read_bytes() == b"Dear reader, once more\n"
    helper = [sys.executable, "-c", "from xtarfs.entry import xtarfs; xtarfs()"]
    options = f"rw,history,with={away}"
    subprocess.run([*helper, own.folder, latest.parent, "-o", options], check=True, timeout=60, env=environment())
    try:
        assert len((latest / "photo").read_bytes()) == 150_000
    finally:
        subprocess.run(["umount", "-l", latest.parent], check=True)

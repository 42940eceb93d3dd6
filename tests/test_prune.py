"""Prune: what the rules keep stays whole, whatever goes, and wherever it is interrupted."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.building.build import Options, build
from builder.chains.merge import merge
from builder.chains.prune import prune
from builder.chains.prune_plan import Plan
from builder.chains.retention import Policy, reasons
from xtarfs.errors import XtarError
from xtarfs.format.records import holders_of
from xtarfs.parity.protect import protect
from xtarfs.reading.copies import read_copy
from xtarfs.reading.opening import with_parity
from xtarfs.reading.reader import Archive
from xtarfs.source import FileSource

from . import trees
from .chains import DAY, FIRST_DAY, Chain, Change, add_copy, begin, edit, make_chain, rename, restored, touch
from .mounting import xtar


def again(source: Path) -> None:
    trees.write(source / "today", b"of another day")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Five copies, of five days; tests must not change them."""
    return make_chain(tmp_path_factory.mktemp("prune") / "chain", (begin, edit, rename, touch, again))


@pytest.fixture
def own(chain: Chain, tmp_path: Path) -> Chain:
    return chain.copied_to(tmp_path / "own")


def fates(plan: Plan) -> dict[str, str]:
    return {os.path.basename(fate.copy.path): fate.action for fate in plan.fates}


def names(chain: Chain) -> list[str]:
    return sorted(os.listdir(chain.folder))


def require_whole(chain: Chain, *numbers: int) -> None:
    for number in numbers:
        out = chain.folder.with_name(f"out {number}")
        assert trees.differences(restored(chain.archives[number], out), chain.states[number]) == []
        shutil.rmtree(out)


# -- the rules -------------------------------------------------------------------------------------------------


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Policy(last=2), {0: ["last"], 1: ["last"]}),
        (Policy(daily=2), {0: ["daily"], 2: ["daily"]}),
        (Policy(daily=9), {0: ["daily"], 2: ["daily"], 3: ["daily"], 4: ["daily"]}),
        (Policy(weekly=2), {0: ["weekly"], 2: ["weekly"]}),
        (Policy(monthly=2), {0: ["monthly"], 2: ["monthly"]}),
        (Policy(last=1, daily=1, monthly=1), {0: ["last", "daily", "monthly"]}),
        (Policy(last=1, weekly=3), {0: ["last", "weekly"], 2: ["weekly"], 4: ["weekly"]}),
    ],
)
def test_rules(policy: Policy, kept: dict[int, list[str]]) -> None:
    days = (31.9, 31.1, 27.5, 22, 9)  # after the first Monday of 2024: February 1st twice, January 28th, 23rd, 10th
    start = FIRST_DAY - DAY // 2
    found = reasons([start + int(DAY * day) for day in days], policy)
    assert {number: why for number, why in enumerate(found) if why} == kept


def test_each_source_by_itself(own: Chain, tmp_path: Path) -> None:
    other = make_chain(tmp_path / "other", (begin, edit))
    for number, archive in enumerate(other.archives):
        archive.rename(own.folder / f"other{number}.xtar")
    plan = prune(str(own.folder), Policy(last=1), dry_run=True)
    kept = {name for name, action in fates(plan).items() if action != "remove"}
    assert kept == {"day4.xtar", "other1.xtar"}


def test_full_copies_of_one_source_are_one_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    folder.mkdir()
    begin(source)
    for day in range(3):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST_DAY + day * DAY))
        trees.write(source / "day", b"%d" % day)
        build(str(source), str(folder / f"{day}.xtar"), Options())
    plan = prune(str(folder), Policy(last=2))
    assert fates(plan) == {"2.xtar": "keep", "1.xtar": "keep", "0.xtar": "remove"}
    assert sorted(os.listdir(folder)) == ["1.xtar", "2.xtar"]


def test_full_copies_of_one_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    folder.mkdir()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST_DAY))
    for number, name in enumerate(("b.xtar", "c.xtar", "a.xtar")):
        trees.write(source / "number", b"%d" % number)
        build(str(source), str(folder / name), Options())
        os.utime(folder / name, (FIRST_DAY + number, FIRST_DAY + number))
    assert fates(prune(str(folder), Policy(last=1))) == {"a.xtar": "keep", "c.xtar": "remove", "b.xtar": "remove"}


def test_copies_of_one_second_are_told_apart_by_the_chain(tmp_path: Path) -> None:
    chain = make_chain(tmp_path / "chain", (begin, edit, touch), days=(0, 0, 0))
    plan = prune(str(chain.folder), Policy(last=1))
    assert fates(plan) == {"day2.xtar": "rewrite", "day1.xtar": "remove", "day0.xtar": "remove"}
    require_whole(chain, 2)


# -- what is done ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_what_is_kept_stays_whole(own: Chain, last: int) -> None:
    kept = range(5 - last, 5)
    prune(str(own.folder), Policy(last=last))
    assert names(own) == [f"day{number}.xtar" for number in kept]
    require_whole(own, *kept)
    before = [archive.read_bytes() for archive in own.archives[-last:]]
    assert set(fates(prune(str(own.folder), Policy(last=last))).values()) == {"keep"}
    assert [archive.read_bytes() for archive in own.archives[-last:]] == before


def test_only_the_oldest_kept_copy_is_written_anew(own: Chain) -> None:
    before = {archive: archive.read_bytes() for archive in own.archives}
    plan = prune(str(own.folder), Policy(last=3))
    assert fates(plan) == {
        "day4.xtar": "keep",
        "day3.xtar": "keep",
        "day2.xtar": "rewrite",
        "day1.xtar": "remove",
        "day0.xtar": "remove",
    }
    assert [fate.why for fate in plan.rewrites] == [["last", "takes data from day0.xtar and day1.xtar"]]
    assert [archive for archive in own.archives[2:] if archive.read_bytes() != before[archive]] == own.archives[2:3]


def test_a_copy_that_would_not_find_its_files_again_is_written_anew_too(tmp_path: Path) -> None:
    """A file came, and others were renamed, with a copy between the kept ones that is not kept."""
    chain = make_chain(tmp_path / "chain", (begin, edit, rename, touch, again), days=(0, 1, 2, 2.2, 3))
    plan = prune(str(chain.folder), Policy(daily=3))
    assert fates(plan) == {
        "day4.xtar": "keep",
        "day3.xtar": "rewrite",
        "day2.xtar": "remove",
        "day1.xtar": "rewrite",
        "day0.xtar": "remove",
    }
    require_whole(chain, 1, 3, 4)
    with Archive.open(str(chain.archives[3])) as archive:
        files = [node for node in archive.walk() if node.record.type == "file" and not node.record.link]
        taken = {node.path for node in files if not holders_of(node.record)}
        led = set().union(*(holders_of(node.record) for node in files))
    assert taken == {b"today", b"turns/inside"}
    assert led == {read_copy(str(chain.archives[1])).facts.id}


def test_files_that_were_renamed_again_and_again(tmp_path: Path) -> None:
    def move(old: str, new: str) -> Change:
        return lambda source: os.rename(source / old, source / new)

    moves = [move(f"large{n}", f"large{n + 1}") for n in range(1, 5)]
    chain = make_chain(tmp_path / "chain", (begin, move("large", "large1"), *moves), days=(0, 1, 1.1, 1.2, 2, 2.1))
    prune(str(chain.folder), Policy(daily=3))
    assert names(chain) == ["day0.xtar", "day3.xtar", "day5.xtar"]
    require_whole(chain, 0, 3, 5)
    prune(str(chain.folder), Policy(last=2))
    assert names(chain) == ["day3.xtar", "day5.xtar"]
    require_whole(chain, 3, 5)


def test_no_rewrite_keeps_what_is_needed(own: Chain) -> None:
    before = {archive.name: archive.read_bytes() for archive in own.archives}
    by_id = {read_copy(str(archive)).facts.id: archive.name for archive in own.archives}
    wanted = {by_id[identifier] for identifier in read_copy(str(own.archives[4])).needs}
    actions = fates(prune(str(own.folder), Policy(last=1), may_rewrite=False))
    assert {name for name, action in actions.items() if action == "needed"} == wanted
    assert names(own) == sorted(wanted | {"day4.xtar"})
    assert all((own.folder / name).read_bytes() == before[name] for name in names(own))
    require_whole(own, 4)


def test_a_dry_run_tells_the_same_and_does_nothing(own: Chain) -> None:
    before = {archive: archive.read_bytes() for archive in own.archives}
    told = prune(str(own.folder), Policy(last=2), dry_run=True)
    assert {archive: archive.read_bytes() for archive in own.archives} == before
    assert names(own) == [f"day{number}.xtar" for number in range(5)]
    done = prune(str(own.folder), Policy(last=2))
    assert (fates(told), [fate.why for fate in told.fates]) == (fates(done), [fate.why for fate in done.fates])


def test_a_merged_copy_takes_the_place_of_the_incremental_one(own: Chain) -> None:
    merge([str(archive) for archive in own.archives], str(own.folder / "full.xtar"))
    plan = prune(str(own.folder), Policy(last=1))
    assert fates(plan)["full.xtar"] == "keep"
    assert names(own) == ["full.xtar"]
    assert trees.differences(restored(own.folder / "full.xtar", own.folder / "out"), own.states[4]) == []


def test_a_rewritten_copy_is_a_base_as_it_was_before(chain: Chain, own: Chain) -> None:
    source = chain.folder.with_name("chain source")
    prune(str(own.folder), Policy(last=1))
    assert trees.snapshot(source) == chain.states[4]
    archive = add_copy(own, source, FIRST_DAY + 5 * DAY, base=own.archives[4])
    with Archive.open(str(archive)) as opened:
        files = [node for node in opened.walk() if node.record.type == "file" and not node.record.link]
        assert all(holders_of(node.record) == {read_copy(str(own.archives[4])).facts.id} for node in files)
    require_whole(own, 4, 5)


@pytest.mark.parametrize("seed", range(5))
def test_copies_and_prunes_of_many_days(tmp_path: Path, seed: int) -> None:
    """A tree in which everything moves about, pruned now and then by one rule or another."""
    rng = random.Random(seed)
    (tmp_path / "chain").mkdir()
    source = tmp_path / "chain source"
    source.mkdir()
    own = Chain(tmp_path / "chain", [], [])
    kept: dict[Path, dict[bytes, Any]] = {}
    for day in range(14):
        for _ in range(rng.randint(1, 4)):
            stir(source, rng)
        base = rng.choice([*kept][-3:]) if kept else None
        archive = add_copy(own, source, FIRST_DAY + DAY * day // 2, base)
        kept[archive] = contents(archive)
        if rng.random() < 0.5:
            policy = rng.choice([Policy(last=rng.randint(1, 4)), Policy(daily=3), Policy(last=2, daily=4)])
            plan = prune(str(own.folder), policy, may_rewrite=rng.random() < 0.8)
            left = {Path(fate.copy.path) for fate in plan.fates if fate.action in ("keep", "rewrite")}
            assert archive in left
            kept = {path: was for path, was in kept.items() if path in left}
            assert {path: contents(path) for path in kept} == kept
    assert trees.differences(restored(own.archives[-1], tmp_path / "out"), own.states[-1]) == []


def stir(source: Path, rng: random.Random) -> None:
    """One change somewhere in the tree."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    folders = [source, *sorted(path for path in source.rglob("*") if path.is_dir())]
    what = rng.choice(["write", "write", "write", "move", "move", "delete", "mode", "make folder", "move folder"])
    place = rng.choice(folders) / f"n{rng.randint(0, 9)}"
    if what == "write" and not place.is_dir():
        trees.write(place, trees.words(rng.choice([9, 3000, 50_000]), rng.randint(0, 50)))
    elif what == "make folder" and not place.is_file():
        place.mkdir(exist_ok=True)
    elif what == "move folder" and not place.exists():
        moved = rng.choice(folders)
        if not place.is_relative_to(moved):
            moved.rename(place)
    elif files and what == "move" and not place.is_dir():
        os.replace(rng.choice(files), place)
    elif files and what == "delete":
        rng.choice(files).unlink()
    elif files and what == "mode":
        rng.choice(files).chmod(rng.choice([0o600, 0o644, 0o755]))


def test_other_files_stay(own: Chain) -> None:
    trees.write(own.folder / "notes.txt", b"not an archive")
    (own.folder / "folder.xtar").mkdir()
    os.symlink("day0.xtar", own.folder / "link.xtar")
    shutil.copy(own.archives[0], own.folder / "an archive by another name")
    prune(str(own.folder), Policy(last=1))
    assert names(own) == ["an archive by another name", "day4.xtar", "folder.xtar", "link.xtar", "notes.txt"]


def test_parity_goes_and_is_made_anew(own: Chain) -> None:
    for archive in own.archives:
        protect(str(archive), 7, lambda size, total=0: None)
    prune(str(own.folder), Policy(last=2))
    assert names(own) == ["day3.xtar", "day3.xtar.rec", "day4.xtar", "day4.xtar.rec"]
    for archive in own.archives[3:]:
        assert parity_problem(archive) == ""
    assert os.path.getsize(f"{own.archives[3]}.rec") < 0.2 * os.path.getsize(own.archives[3])


# -- what is damaged -------------------------------------------------------------------------------------------


def test_damaged_archives_are_left_alone_and_told(own: Chain) -> None:
    with open(own.archives[1], "r+b") as file:
        file.truncate(os.path.getsize(own.archives[1]) - 5000)
    trees.write(own.folder / "junk.xtar", b"junk" * 1000)
    done = xtar("prune", own.folder, "--keep-last", "2")
    assert done.returncode == 1
    assert [line.split(": left alone: ")[0] for line in done.stderr.splitlines()] == [
        f"xtar: {own.folder}/day1.xtar",
        f"xtar: {own.folder}/junk.xtar",
    ]
    assert {"day1.xtar", "junk.xtar", "day3.xtar", "day4.xtar"} <= set(names(own))
    assert "day2.xtar" not in names(own)


def test_what_is_missing_is_not_said_to_be_replaced(own: Chain) -> None:
    """The last copy has data in each of those before; what is in one that is away can be read when it is back."""
    away = own.archives[1].rename(own.folder.with_name("away"))
    prune(str(own.folder), Policy(last=1))
    with Archive.open(str(own.archives[4])) as archive:
        facts = archive.tree.locator
        assert facts and [(base.name, base.id) for base in facts.base] == [("day1.xtar", read_copy(str(away)).id)]
        assert facts.base[0].id not in facts.replaces
        assert [there for _, _, there in archive.holders()] == [False]
    done = xtar("verify", own.archives[4])
    assert done.returncode == 1 and "lies in day1.xtar" in done.stderr
    away.rename(own.archives[1])
    require_whole(own, 4)


def test_nothing_goes_if_data_that_must_be_taken_over_is_damaged(own: Chain) -> None:
    with Archive.open(str(own.archives[0])) as archive:
        node = archive.lookup(b"linked")
        node = archive.data_node(node)
        at = node.base + node.record.data + 100
    with open(own.archives[0], "r+b") as file:
        file.seek(at)
        file.write(b"\xff\xfe\xfd\xfc")
    before = {archive: archive.read_bytes() for archive in own.archives}
    with pytest.raises(XtarError, match=r"day0\.xtar.*damaged"):
        prune(str(own.folder), Policy(last=2))
    assert {archive: archive.read_bytes() for archive in own.archives} == before
    assert names(own) == [f"day{number}.xtar" for number in range(5)]


# -- interruptions ---------------------------------------------------------------------------------------------


def contents(archive: Path) -> dict[bytes, Any]:
    """Everything that reading the archive gives; raises where anything cannot be had."""
    found = {}
    with Archive.open(str(archive)) as opened:
        for node in opened.walk():
            record = node.record
            digest = hashlib.sha256()
            if record.type == "file":
                for piece in opened.pieces(node):
                    if piece.error:
                        raise piece.error
                    digest.update(piece.data)
            found[node.path] = (record.st_mode, record.mtime, record.target, record.link, digest.hexdigest())
    return found


def interrupted(folder: Path, policy: Policy, at: int) -> bool:
    """Runs a prune that is killed before its at-th change of the folder; whether it came to that."""
    child = os.fork()
    if child == 0:
        left = at

        def counted(function: Any) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                if not left:
                    os._exit(9)
                left -= 1
                return function(*arguments, **named)

            return call

        for name in ("link", "unlink", "rename", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            prune(str(folder), policy)
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def test_killed_between_any_two_changes(tmp_path: Path) -> None:
    """Copies are kept that must be written anew for each other's sake, with parity."""
    small = (begin_small, edit, rename_small, touch, again)
    chain = make_chain(tmp_path / "chain", small, days=(0, 1, 2, 2.2, 3))
    for archive in chain.archives:
        protect(str(archive), 20, lambda size, total=0: None)
    policy, kept = Policy(daily=3), (1, 3, 4)
    wanted = {number: contents(chain.archives[number]) for number in kept}
    for at in range(200):
        own = chain.copied_to(tmp_path / f"killed {at}")
        came_to_it = interrupted(own.folder, policy, at)
        assert {number: contents(own.archives[number]) for number in kept} == wanted
        prune(str(own.folder), policy)
        assert {number: contents(own.archives[number]) for number in kept} == wanted
        found = [name for name in names(own) if not name.endswith((".rec", ".xtar-partial"))]
        assert found == ["day1.xtar", "day3.xtar", "day4.xtar"]
        assert [parity_problem(own.archives[number]) for number in kept] == [""] * 3
        shutil.rmtree(own.folder)
        if not came_to_it:
            break
    assert 20 < at < 200


def parity_problem(archive: Path) -> str:
    source, problem = with_parity(FileSource(str(archive)))
    assert source.heal(0, 1) == b"H"
    source.close()
    return problem


def begin_small(source: Path) -> None:
    trees.write(source / "goes", b"will be gone")
    trees.write(source / "large", trees.words(40_000))
    (source / "docs").mkdir()


def rename_small(source: Path) -> None:
    os.rename(source / "large", source / "docs" / "larger")
    trees.write(source / "between", b"in no kept copy but the next")


def test_a_failure_leaves_no_trace(own: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("builder.chains.rewrite._require_sound", fail)
    before = {archive: archive.read_bytes() for archive in own.archives}
    with pytest.raises(KeyboardInterrupt):
        prune(str(own.folder), Policy(last=1))
    assert names(own) == [f"day{number}.xtar" for number in range(5)]
    assert {archive: archive.read_bytes() for archive in own.archives} == before


def no_links(*arguments: Any, **named: Any) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_file_systems_without_links_and_modes(own: Chain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_nameless_files(path: str, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return opened(path, flags, *rest, **named)

    opened = os.open
    monkeypatch.setattr(os, "open", no_nameless_files)
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "fchmod", no_links)
    prune(str(own.folder), Policy(last=2))
    assert names(own) == ["day3.xtar", "day4.xtar"]
    full = tmp_path / "full.xtar"
    merge([str(own.archives[4])], str(full))
    with pytest.raises(XtarError, match="exists already"):
        merge([str(own.archives[4])], str(full))
    monkeypatch.undo()
    require_whole(own, 3, 4)
    assert trees.differences(restored(full, tmp_path / "out"), own.states[4]) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full.xtar", "out", "own"]


def test_an_archive_that_was_made_meanwhile_and_needs_what_goes(own: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    from builder.chains import rewrite

    require_sound = rewrite._require_sound

    def build_meanwhile(*arguments: Any) -> None:
        require_sound(*arguments)
        shutil.copy(own.archives[4], own.folder / "meanwhile.xtar")

    monkeypatch.setattr(rewrite, "_require_sound", build_meanwhile)
    with pytest.raises(XtarError, match=r"meanwhile\.xtar.*prune again"):
        prune(str(own.folder), Policy(last=1))
    assert {archive.name for archive in own.archives} <= set(names(own))
    monkeypatch.undo()
    prune(str(own.folder), Policy(last=1))
    require_whole(own, 4)


# -- the command -----------------------------------------------------------------------------------------------


def test_one_at_a_time(own: Chain) -> None:
    folder = os.open(own.folder, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        done = xtar("prune", own.folder, "--keep-last", "1")
    finally:
        os.close(folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "another prune" in done.stderr


@pytest.mark.parametrize("flags", [[], ["--keep-last", "0"], ["--keep-daily", "-1"], ["--keep-last", "many"]])
def test_rules_that_make_no_sense(own: Chain, flags: list[str]) -> None:
    done = xtar("prune", own.folder, *flags)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert names(own) == [f"day{number}.xtar" for number in range(5)]


def test_a_folder_that_is_none(own: Chain) -> None:
    for folder in (own.archives[0], own.folder / "missing"):
        done = xtar("prune", folder, "--keep-last", "1")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_what_it_says(own: Chain) -> None:
    done = xtar("prune", own.folder, "--keep-last", "2", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines[:-1]] == ["keep", "rewrite", "remove", "remove", "remove"]
    assert lines[-1][1:] == ["would", "remove", "3", "of", "5", "copies,", "rewrite", "1"]
    assert xtar("prune", own.folder, "--keep-last", "2").stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1]

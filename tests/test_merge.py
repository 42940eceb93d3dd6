"""Merge: one full archive of a chain, without the source, and nothing of it written if it would not be whole."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.building.build import Options, build
from builder.chains.merge import merge, write_copy
from builder.writing.output import Output
from xtarfs.checking.verify import verify
from xtarfs.errors import XtarError
from xtarfs.format.locator import Base
from xtarfs.format.records import holders_of
from xtarfs.parity.protect import protect
from xtarfs.reading.copies import read_copy
from xtarfs.reading.reader import Archive

from . import trees
from .chains import CHANGES, DAY, FIRST_DAY, Chain, add_copy, make_chain, restored
from .mounting import xtar


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Four copies and their source, which is as the last one has it; tests must not change them."""
    return make_chain(tmp_path_factory.mktemp("merge") / "chain", CHANGES)


def source_of(chain: Chain) -> Path:
    return chain.folder.with_name(chain.folder.name + " source")


def merged(chain: Chain, destination: Path, *numbers: int) -> Path:
    merge([str(chain.archives[number]) for number in numbers], str(destination))
    return destination


def test_the_tree_is_that_of_the_newest(chain: Chain, tmp_path: Path) -> None:
    full = merged(chain, tmp_path / "full.xtar", 0, 1, 2, 3)
    assert trees.differences(restored(full, tmp_path / "out"), chain.states[3]) == []
    with Archive.open(str(full)) as archive:
        assert verify(archive).damaged == []
        assert not any(holders_of(node.record) for node in archive.walk())


def test_the_bytes_are_those_of_a_full_build(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = merged(chain, tmp_path / "full.xtar", 3, 0, 2, 1)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST_DAY + 3 * DAY))
    direct = tmp_path / "direct.xtar"
    assert build(str(source_of(chain)), str(direct), Options()).problems == []
    end = read_copy(str(full)).facts.origin.at - 512
    assert full.read_bytes()[:end] == direct.read_bytes()[:end]
    assert read_copy(str(full)).facts.id == read_copy(str(direct)).facts.id


def test_tar_and_unzip_read_it(chain: Chain, tmp_path: Path) -> None:
    full = merged(chain, tmp_path / "full.xtar", 0, 1, 2, 3)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "xf", full, "-C", out], check=True)
    subprocess.run(["tar", "xf", "docs.xtar", "--one-top-level=docs"], cwd=out, check=True)
    with zipfile.ZipFile(out / "docs" / "larger.zip") as larger:
        assert larger.testzip() is None
        assert larger.read("docs/larger") == trees.words(1_300_000, 2)
    assert zipfile.ZipFile(out / "photo" / ".zip").getinfo("photo").external_attr >> 16 == 0o100600


def test_what_it_says_of_itself(chain: Chain, tmp_path: Path) -> None:
    full = merged(chain, tmp_path / "full.xtar", 0, 1, 2, 3)
    facts, newest = read_copy(str(full)), read_copy(str(chain.archives[3]))
    assert (facts.facts.base, facts.facts.previous) == ([], "")
    assert set(facts.facts.replaces) == {read_copy(str(archive)).facts.id for archive in chain.archives}
    assert facts.origin == newest.origin
    again = merged(chain, tmp_path / "again.xtar", 3, 2, 1, 0)
    assert again.read_bytes() == full.read_bytes()


def test_bases_are_found_beside(chain: Chain, tmp_path: Path) -> None:
    full = merged(chain, tmp_path / "full.xtar", 2)
    assert trees.differences(restored(full, tmp_path / "out"), chain.states[2]) == []


def test_bases_that_are_named_may_lie_anywhere(chain: Chain, tmp_path: Path) -> None:
    moved = chain.copied_to(tmp_path / "moved")
    places = [tmp_path / name / "archive" for name in "abcd"]
    for place, archive in zip(places, moved.archives, strict=True):
        place.parent.mkdir()
        archive.rename(place)
    merge([str(place) for place in places], str(tmp_path / "full.xtar"))
    assert trees.differences(restored(tmp_path / "full.xtar", tmp_path / "out"), chain.states[3]) == []


def test_a_full_archive_is_copied(chain: Chain, tmp_path: Path) -> None:
    full = merged(chain, tmp_path / "full.xtar", 0)
    assert full.read_bytes() == chain.archives[0].read_bytes()


def test_later_copies_read_on_with_the_merged_one_in_the_place_of_the_chain(chain: Chain, tmp_path: Path) -> None:
    moved = chain.copied_to(tmp_path / "moved")
    merged(moved, tmp_path / "moved" / "full.xtar", 0, 1, 2)
    for archive in moved.archives[:3]:
        archive.unlink()
    assert trees.differences(restored(moved.archives[3], tmp_path / "out"), chain.states[3]) == []
    again = merged(moved, tmp_path / "again.xtar", 3)
    assert trees.differences(restored(again, tmp_path / "out again"), chain.states[3]) == []


def test_the_merged_one_is_a_base_for_further_copies(chain: Chain, tmp_path: Path) -> None:
    other = make_chain(tmp_path / "other", CHANGES[:2])
    source = source_of(other)
    full = tmp_path / "other" / "full.xtar"
    merge([str(path) for path in other.archives], str(full))
    trees.write(source / "later", b"one file more")
    archive = add_copy(other, source, FIRST_DAY + 9 * DAY, base=full)
    with Archive.open(str(archive)) as opened:
        files = [node for node in opened.walk() if node.record.type == "file" and not node.record.link]
        assert [node.path for node in files if not holders_of(node.record)] == [b"later"]


# -- what cannot be merged -------------------------------------------------------------------------------------


def refused(*arguments: str | Path) -> str:
    """The one line that `xtar merge` ends with."""
    done = xtar("merge", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""
    return done.stderr


def test_bad_input_is_one_line_and_writes_nothing(chain: Chain, tmp_path: Path) -> None:
    out, archives = tmp_path / "full.xtar", chain.archives
    (tmp_path / "other").mkdir()
    trees.write(tmp_path / "other" / "file", b"of another source")
    build(str(tmp_path / "other"), str(tmp_path / "stranger.xtar"), Options())
    trees.write(tmp_path / "cut.xtar", archives[0].read_bytes()[:100_000])
    assert "do not belong to one chain" in refused(archives[3], tmp_path / "stranger.xtar", "-o", out)
    assert "is named twice" in refused(archives[3], archives[3], "-o", out)
    assert "are the same archive" in refused(archives[0], twin(archives[0], tmp_path), "-o", out)
    assert "is not a whole archive" in refused(archives[3], tmp_path / "cut.xtar", "-o", out)
    assert "is not a whole archive" in refused(archives[3], tmp_path / "other" / "file", "-o", out)
    assert "No such file" in refused(archives[3], tmp_path / "missing", "-o", out)
    alone = tmp_path / "alone" / "day3.xtar"
    alone.parent.mkdir()
    alone.write_bytes(archives[3].read_bytes())
    assert "day0.xtar" in refused(alone, "-o", out)
    assert not out.exists()
    out.write_bytes(b"something else")
    assert "--force" in refused(archives[3], "-o", out)
    assert out.read_bytes() == b"something else"


def twin(archive: Path, folder: Path) -> Path:
    path = folder / "twin.xtar"
    path.write_bytes(archive.read_bytes())
    return path


def test_two_ends_of_a_chain(tmp_path: Path) -> None:
    chain = make_chain(tmp_path / "fork", CHANGES[:2])
    trees.write(source_of(chain) / "aside", b"another way on from the first day")
    add_copy(chain, source_of(chain), FIRST_DAY + DAY, base=chain.archives[0])
    assert "two ends" in refused(*chain.archives, "-o", tmp_path / "full.xtar")


def leading_to(archive: Path, destination: Path, *bases: Path, replaces: Sequence[Path] = ()) -> Path:
    """A copy of the archive that says that it needs, and replaces, others."""

    def identifiers(paths: Sequence[Path]) -> list[str]:
        return [read_copy(str(path)).facts.id for path in paths]

    with Archive.open(str(archive)) as opened, Output(str(destination), force=False) as out:
        needs = [Base(identifier, "") for identifier in identifiers(bases)]
        write_copy(opened, out, "", lambda size: None, replaces=identifiers(replaces), base=lambda: needs)
        out.commit()
    return destination


def test_a_chain_with_a_cycle(chain: Chain, tmp_path: Path) -> None:
    other = make_chain(tmp_path / "other", CHANGES[:1]).archives[0]
    folder = tmp_path / "circle"
    folder.mkdir()
    a = leading_to(chain.archives[0], folder / "a.xtar", other, replaces=[other])
    b = leading_to(other, folder / "b.xtar", chain.archives[0], replaces=[chain.archives[0]])
    assert "in a circle" in refused(a, b, "-o", tmp_path / "full.xtar")
    assert not (tmp_path / "full.xtar").exists()
    done = xtar("prune", folder, "--keep-last", "1")
    assert done.returncode in (0, 2)
    assert len(done.stderr.splitlines()) <= 1


def flip(archive: Path, path: bytes) -> None:
    """One bit of a file's packed data."""
    with Archive.open(str(archive)) as opened:
        node = opened.lookup(path)
        at = node.base + node.record.data + node.record.packed // 2
    with open(archive, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("path", [b"photo", b"docs/deep/book", b"docs/letter", b"sparse"])
def test_damage_is_refused_unless_parity_heals_it(chain: Chain, tmp_path: Path, path: bytes) -> None:
    moved = chain.copied_to(tmp_path / "moved")
    base = moved.archives[0]
    protect(str(base), 10, lambda size, total=0: None)
    flip(base, path)
    full = merged(moved, tmp_path / "full.xtar", 0)
    assert trees.differences(restored(full, tmp_path / "out"), chain.states[0]) == []
    os.remove(f"{base}.rec")
    with pytest.raises(XtarError, match="damaged"):
        merged(moved, tmp_path / "again.xtar", 0)
    assert not (tmp_path / "again.xtar").exists()


def test_damage_to_a_file_that_the_newest_no_longer_has_does_not_matter(chain: Chain, tmp_path: Path) -> None:
    moved = chain.copied_to(tmp_path / "moved")
    flip(moved.archives[0], b"docs/letter")
    full = merged(moved, tmp_path / "full.xtar", 3)
    assert trees.differences(restored(full, tmp_path / "out"), chain.states[3]) == []


def test_a_damaged_chunk_table_is_taken_from_its_copy(chain: Chain, tmp_path: Path) -> None:
    moved = chain.copied_to(tmp_path / "moved")
    with Archive.open(str(moved.archives[0])) as opened:
        node = opened.lookup(b"docs/deep/book")
        at = node.base + node.record.index + 40
    with open(moved.archives[0], "r+b") as file:
        file.seek(at)
        file.write(b"\xff\xff\xff")
    full = merged(moved, tmp_path / "full.xtar", 3)
    assert full.read_bytes() == merged(chain, tmp_path / "sound.xtar", 3).read_bytes()

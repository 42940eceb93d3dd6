"""Building sets of volumes: none too long, each an archive by itself, nothing lost between them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from zipfile import ZipFile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.building.build import Options, build
from builder.volumes import spread
from builder.volumes.spread import build_volumes
from builder.writing.compress import Settings
from xtarfs.checking.verify import verify
from xtarfs.checking.verify_set import verify_set
from xtarfs.draft import Draft
from xtarfs.errors import BuildError, UsageError
from xtarfs.format.records import FILE
from xtarfs.reading.reader import Archive
from xtarfs.reading.sets import SetTree
from xtarfs.restoring.extract import ExtractOptions, extract

from . import trees
from .second_reader import Reader
from .second_set_reader import SetReader
from .volume_sets import CHUNK, LIMIT, build_set, run, varied_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return varied_tree(tmp_path_factory.mktemp("source") / "tree")


@pytest.fixture(scope="module")
def volumes(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The tree as a set; tests must not change it."""
    return build_set(tree, tmp_path_factory.mktemp("set") / "name.xtar")


def restore_by_hand(archive: Path, staging: Path, destination: Path) -> None:
    """With the commands that the archive begins with: sh, tar and unzip."""
    script = staging.parent / "restore.sh"
    text = archive.read_bytes()[:8192]
    script.write_bytes(text[text.index(b"\n#BEGIN") : text.index(b"\n#END")])
    subprocess.run(["sh", script, archive, staging, destination], check=True, capture_output=True)


# -- what is written ---------------------------------------------------------------------------------------------


def test_names_and_sizes(volumes: list[Path]) -> None:
    assert [path.name for path in volumes] == [f"name.{number:03d}.xtar" for number in range(1, len(volumes) + 1)]
    assert sorted(os.listdir(volumes[0].parent)) == [path.name for path in volumes]
    assert len(volumes) > 5
    assert all(path.stat().st_size <= LIMIT for path in volumes)
    # Only files that fit into a volume are kept together, and those are short here.
    assert all(path.stat().st_size > LIMIT * 0.5 for path in volumes[:-1])


def test_each_volume_is_an_archive_by_itself(tree: Path, volumes: list[Path]) -> None:
    names: list[bytes] = []
    for path in volumes:
        with Archive.open(str(path), alone=True) as volume:
            assert verify(volume, jobs=1).damaged == []
            names += [node.path for node in volume.walk() if not node.record.is_dir]
            assert all(volume.data_node(node).record.size == node.record.size for node in volume.walk())
            for node in volume.walk():
                if node.record.type == FILE and b".part-0" not in node.path:
                    content = b"".join(bytes(piece.data) for piece in volume.pieces(node))
                    assert content == (tree / os.fsdecode(node.path)).read_bytes()
    assert len(set(names)) == len(names)


def test_the_second_reader_agrees(tree: Path, volumes: list[Path]) -> None:
    """Each volume by itself, and the set, read from docs/format.md alone."""
    for path in volumes:
        reader = Reader(path)
        for _, record, start in reader.walk():
            if record["type"] == "file" and "link" not in record:
                digest = hashlib.sha256(b"".join(reader.content(record, start))).hexdigest()
                assert digest == record["sha256"]
    whole, seen = SetReader([*volumes]), set()
    for name, record in whole.walk():
        seen.add(name)
        if record["type"] == "file" and "link" not in record:
            assert b"".join(whole.content(record)) == (tree / os.fsdecode(name)).read_bytes()
    assert seen == trees.snapshot(tree).keys() - {b""}


def test_plain_tools_restore_everything(tree: Path, volumes: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for path in volumes:
        restore_by_hand(path, tmp_path / "staging", out)
    added = sorted(path for path in trees.paths_below(out) if not os.path.lexists(tree / path.relative_to(out)))
    for begin, name in {"big~": "big", "d/e/packed.": "d/e/packed", "d/e/nnn": "d/e/" + "n" * 254}.items():
        parts = [path for path in added if str(path.relative_to(out)).startswith(begin)]
        assert len(parts) > 1
        joined = subprocess.run(["cat", *parts], check=True, capture_output=True).stdout
        assert joined == (tree / name).read_bytes()
        facts = (tree / name).stat()
        for part in parts:
            assert (part.stat().st_mode, int(part.stat().st_mtime)) == (facts.st_mode, int(facts.st_mtime))
            part.unlink()
        trees.write(out / name, joined, facts.st_mode & 0o7777, facts.st_mtime_ns)
    # Further names of hard links, and xattrs, are what plain tools do not restore.
    missing = {b"last/link to what is cut", b"last/second", b"last/third", b"last/fourth"}
    expected = trees.snapshot(tree, nlink=False, xattrs=False)
    found = trees.snapshot(out, nlink=False, xattrs=False)
    for each in (*expected.values(), *found.values()):
        del each["mtime"]  # of folders, which the parts were taken out of
    assert trees.differences(expected, found, lambda path: path in missing) == []


def test_parts_are_zips_that_overwrite_nothing(tree: Path, volumes: list[Path]) -> None:
    names: list[str] = []
    for path in volumes:
        listed = subprocess.run(["tar", "tf", path], check=True, capture_output=True, text=True).stdout.split("\n")
        for member in (name for name in listed if name.startswith("big~")):
            data = subprocess.run(["tar", "xOf", path, member], check=True, capture_output=True).stdout
            zip_path = path.parent.parent / "one.zip"
            zip_path.write_bytes(data)
            subprocess.run(["unzip", "-tq", zip_path], check=True, capture_output=True)
            with ZipFile(zip_path) as archive:
                (entry,) = archive.infolist()
                names.append(entry.filename)
            zip_path.unlink()
    assert names == [f"{names[0][:-4]}{number:04d}" for number in range(1, len(names) + 1)]
    assert len(names) > 2
    assert not any((tree / name).exists() for name in names)


def test_the_same_bytes_each_time(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    found = []
    for jobs in (1, 3):
        folder = tmp_path / str(jobs)
        folder.mkdir()
        options = Options(jobs=jobs)
        _, paths = build_volumes(str(tree), str(folder / "name.xtar"), options, 150_000)
        found.append([Path(path).read_bytes() for path in paths])
    assert found[0] == found[1]
    assert len(found[0]) > 2


def test_a_size_that_is_too_small_says_which_would_do(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the least is") as caught:
        build_set(tree, tmp_path / "name.xtar", 5000)
    assert list(tmp_path.iterdir()) == []
    enough = int(str(caught.value).rpartition(" ")[2])
    paths = build_set(tree, tmp_path / "name.xtar", enough)
    assert all(path.stat().st_size <= enough for path in paths)
    with Archive.open(str(paths[0])) as archive:
        assert isinstance(archive.tree, SetTree)


def test_a_tree_without_files(tmp_path: Path) -> None:
    (tmp_path / "source" / "folder").mkdir(parents=True)
    (path,) = build_set(tmp_path / "source", tmp_path / "name.xtar")
    with Archive.open(str(path)) as archive:
        assert [node.path for node in archive.walk()] == [b"folder"]
        assert verify_set(archive, jobs=1).damaged == []


def test_a_catalogue_too_long_for_each_volume_is_in_the_last(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(400):
        trees.write(source / f"file-{number:05d}", trees.noise(200, number))
    paths = build_set(source, tmp_path / "name.xtar", 100_000)
    assert sum(1 for _ in SetReader([*paths]).walk()) == 400
    wholes = []
    for path in paths:
        assert path.stat().st_size <= 100_000
        with Archive.open(str(path), alone=True) as volume:
            assert verify(volume, jobs=1).damaged == []
            facts = volume.tree.locator
            assert facts and facts.set
            wholes.append(facts.set.catalogue.size > facts.set.head)
        with Archive.open(str(path)) as archive:
            assert sum(1 for _ in archive.walk()) == 400
            node = archive.lookup("file-00399")
            assert bytes(archive.read(node, 0, 1000)) == trees.noise(200, 399)
    assert wholes == [False] * (len(paths) - 1) + [True]
    paths[-1].rename(tmp_path / "elsewhere")
    os.mkdir(tmp_path / "away")
    (tmp_path / "elsewhere").rename(tmp_path / "away" / "renamed")
    with Archive.open(str(paths[0])) as archive:
        count = len(paths)
        assert any(f"volume {count} of {count} of name" in what for _, what in archive.tree.damage)
        assert 0 < sum(1 for _ in archive.walk()) < 400
    assert run("extract", paths[0], "-C", tmp_path / "extracted") == 1
    assert run("extract", paths[0], "--alone", "-C", tmp_path / "alone") == 0
    assert run("recover", paths[0], "-C", tmp_path / "recovered") == 1
    assert trees.snapshot(tmp_path / "recovered") == trees.snapshot(tmp_path / "alone")
    with Archive.open(str(paths[0]), others=[str(tmp_path / "away")]) as archive:
        assert sum(1 for _ in archive.walk()) == 400


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.sampled_from([0, 1, 300, CHUNK, 3 * CHUNK, 9 * CHUNK, 40 * CHUNK]), max_size=12),
    folders=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    packs=st.booleans(),
    limit=st.integers(45_000, 110_000),
)
def test_any_tree_in_volumes_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], folders: list[int], packs: bool, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = folder / "source"
    content: dict[bytes, bytes] = {}
    for number, (size, depth) in enumerate(zip(sizes, folders, strict=False)):
        path = "/".join([*(f"folder-{i}" for i in range(depth)), f"file-{number}"])
        content[path.encode()] = (trees.words if packs else trees.noise)(size, number)
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content[path.encode()])
    source.mkdir(exist_ok=True)
    paths = build_set(source, folder / "name.xtar", limit)
    assert all(path.stat().st_size <= limit for path in paths)
    with Archive.open(str(paths[-1])) as archive:
        found = {
            node.path: b"".join(bytes(piece.data) for piece in archive.pieces(node))
            for node in archive.walk()
            if node.record.type == FILE
        }
    assert found == content


# -- replacing ---------------------------------------------------------------------------------------------------


def test_a_set_is_replaced_wholly_or_not_at_all(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "name.xtar"
    first = build_set(tree, out, spares=2)
    stranger = tmp_path / "name.777.xtar"
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="--force replaces the set"):
        build_set(tree, out)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    stranger.write_bytes(b"called like a volume, and none")
    Path(f"{first[-1]}.rec").write_bytes(b"parity of what is removed")
    second = build_set(tree, out, 10 * LIMIT, spares=1, force=True)
    assert len(second) < len(first)
    assert sorted(tmp_path.iterdir()) == sorted([*second, stranger, tmp_path / "name.spare1.rec"])


def test_a_failure_leaves_nothing(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, done = Draft.commit, 0

    def failing(self: Draft, like: os.stat_result | None = None) -> None:
        nonlocal done
        done += 1
        if done == 3:
            raise BuildError("the disc is gone")
        commit(self, like)

    monkeypatch.setattr(Draft, "commit", failing)
    with pytest.raises(BuildError, match="the disc is gone"):
        build_set(tree, tmp_path / "name.xtar")
    assert list(tmp_path.iterdir()) == []


def test_the_set_in_the_source_is_not_backed_up_into_itself(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    trees.write(source / "file", b"content")
    trees.write(source / "other.xtar", b"is the user's")
    build_set(source, source / "name.xtar")
    (path,) = build_set(source, source / "name.xtar", force=True)
    with Archive.open(str(path)) as archive:
        assert [node.path for node in archive.walk()] == [b"file", b"other.xtar"]


# -- the command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--volume-size", "10"], "the least is"),
        (["--volume-size", "0"], "must be more than nothing"),
        (["--volume-size", "much"], "is not a size"),
        (["--volume-size", "-5"], "-5"),
        (["--spare-volumes", "1"], "give --volume-size as well"),
        (["--volume-size", "60k", "--spare-volumes", "-1"], "must be between 1 and 254"),
        (["--volume-size", "60k", "--spare-volumes", "255"], "must be between 1 and 254"),
        (["--volume-size", "60k", "--chunk-size", "4KiB", "--spare-volumes", "254"], "255 together are the most"),
    ],
)
def test_bad_input_is_one_line(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        code = run("build", tree, "-o", tmp_path / "name.xtar", *arguments)
    except SystemExit as left:
        code = int(str(left.code))
    assert code == 2
    stdout, stderr = capsys.readouterr()
    assert message in stderr
    assert (stdout, stderr.count("\n"), stderr[:6]) == ("", 1, "xtar: ")
    assert list(tmp_path.iterdir()) == []


def test_too_many_volumes(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "MOST_VOLUMES", 3)
    with pytest.raises(UsageError, match="3 is the most"):
        build_set(tree, tmp_path / "name.xtar")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--volume-size", "500k", "--spare-volumes", "1", "--redundancy", "5"]
    assert run("build", tree, "-o", tmp_path / "name.xtar", *options, "--dry-run") == 0
    assert list(tmp_path.iterdir()) == []
    assert run("build", tree, "-o", tmp_path / "name.xtar", *options) == 0
    assert "2 volumes, name.001.xtar to name.002.xtar, and 1 to spare" in capsys.readouterr().out
    expected = ["name.001.xtar", "name.001.xtar.rec", "name.002.xtar", "name.002.xtar.rec", "name.spare1.rec"]
    assert sorted(os.listdir(tmp_path)) == expected


def test_parity_that_is_there_is_not_replaced(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "name.007.xtar.rec").write_bytes(b"somebody's")
    assert run("build", tree, "-o", tmp_path / "name.xtar", "--volume-size", "500k", "--redundancy", "5") == 2
    assert "name.007.xtar.rec: exists already" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_work_dir_holds_what_is_temporary(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "out").mkdir()
    options = ["--volume-size", "500k", "--work-dir", str(tmp_path / "work")]
    assert run("build", tree, "-o", tmp_path / "out" / "name.xtar", *options) == 0
    assert list((tmp_path / "work").iterdir()) == []
    assert len(list((tmp_path / "out").iterdir())) == 2


# -- with copies of before ---------------------------------------------------------------------------------------


def test_an_incremental_copy_on_a_set_and_a_set_of_an_incremental_copy(tmp_path: Path) -> None:
    source = varied_tree(tmp_path / "source")
    first = build_set(source, tmp_path / "first.xtar", 120_000)
    trees.write(source / "new", b"content of a new file")
    options = Options(settings=Settings(chunk_size=CHUNK), base=str(first[2]))
    build(str(source), str(tmp_path / "second.xtar"), options)
    assert (tmp_path / "second.xtar").stat().st_size < 60_000
    trees.write(source / "newer", trees.noise(300_000))
    options.base = str(tmp_path / "second.xtar")
    _, paths = build_volumes(str(source), str(tmp_path / "third.xtar"), options, 120_000)
    assert 2 < len(paths) < len(first)
    for number, path in enumerate((tmp_path / "second.xtar", paths[-1])):
        with Archive.open(str(path)) as archive:
            assert (verify_set if isinstance(archive.tree, SetTree) else verify)(archive, jobs=1).damaged == []
            assert extract(archive, str(tmp_path / f"out {number}"), [], ExtractOptions(jobs=1)).complete
    found = trees.snapshot(tmp_path / "out 1")
    assert trees.differences(trees.snapshot(source), found) == []
    del found[b"newer"]
    assert found.keys() == trees.snapshot(tmp_path / "out 0").keys()
    first[1].unlink()
    with Archive.open(str(paths[0])) as archive:
        missing = [name for _, name, there in archive.holders() if not there]
        assert missing == ["first.002.xtar"]
        assert archive.damaged_ranges(archive.lookup("newer")) == []


def test_a_set_whose_last_volume_has_the_catalogue_is_a_base(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(400):
        trees.write(source / f"file-{number:05d}", trees.noise(200, number), mtime_ns=1_600_000_000_000_000_000)
    (tmp_path / "set").mkdir()
    paths = build_set(source, tmp_path / "set" / "first.xtar", 100_000)
    trees.write(source / "new", b"content of a new file")
    build(str(source), str(tmp_path / "set" / "second.xtar"), Options(base=str(paths[0])))
    with Archive.open(str(tmp_path / "set" / "second.xtar")) as archive:
        assert sum(node.record.elsewhere is not None for node in archive.walk()) == 400
        assert verify(archive, jobs=1).damaged == []
    paths[-1].rename(tmp_path / "the last one")
    with pytest.raises(UsageError, match=r"first\.001\.xtar.*give the last volume"):
        build(str(source), str(tmp_path / "set" / "third.xtar"), Options(base=str(paths[0])))
    assert not (tmp_path / "set" / "third.xtar").exists()


@pytest.mark.parametrize("output", ["set.xtar", "set.002.xtar"])
def test_volumes_that_hold_the_base_are_not_replaced(tmp_path: Path, output: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    trees.write(source / "file", trees.noise(200_000))
    paths = build_set(source, tmp_path / "set.xtar", 100_000)
    before = [path.read_bytes() for path in paths]
    options = Options(base=str(paths[0]), force=True)
    with pytest.raises(UsageError, match="holds data of the base"):
        if output == "set.xtar":
            build_volumes(str(source), str(tmp_path / output), options, 100_000)
        else:
            build(str(source), str(tmp_path / output), options)
    assert [path.read_bytes() for path in paths] == before

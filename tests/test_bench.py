"""The benchmark: that it measures, ends whatever hangs, loses nothing, and counts right."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import breakdown, measure, report, samples, servers, targets, trees, turns, works
from bench.bench import Bench
from bench.measure import NotMeasured, TookTooLong
from bench.packers import BUILD, BY_DEFAULT, ZIP
from bench.peers import FUSE_ZIP, KERNEL_SQUASHFS, NESTED, SOURCE, SQUASHFUSE_LL, XTARS, Peer, all_peers, engine_name
from bench.samples import BUILDS, GROWTH, MOUNTS, Facts, Log, Run, Sample
from bench.trees import Tree

from .mounting import ROOT, gone, until

MFUSEPY, FUSEPY = (engine_name(engine) for engine in ("mfusepy", "fusepy"))
PYTHON_PEER = next(peer for peer in XTARS if peer.name == MFUSEPY)


@pytest.fixture(autouse=True)
def _keep_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "drop_caches", lambda: None)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "work").mkdir()
    return Bench(tmp_path / "work", Log(tmp_path / "log.jsonl", ["here"]), 2, 0, 0, 60)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return trees.make_growing(tmp_path, "tree", 30, 10)


def server(*command: str) -> Peer:
    return Peer("a server", (), None, lambda archive, point: command)


def sleeper(mark: Path) -> tuple[str, ...]:
    return (sys.executable, "-c", "import time; time.sleep(600)", str(mark))


def is_running(mark: Path) -> bool:
    """Whether a process has `mark` among the words of its command."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if os.fsencode(mark) in command.read_bytes().split(b"\0"):
                return True
    return False


# --- measuring ---


def test_a_command_is_measured() -> None:
    used = measure.measure(("sh", "-c", "head -c 50000000 /dev/zero | tail -c 40000000 | wc -c"), 60)
    assert used.cpu is not None and used.peak is not None
    assert used.cpu > 0 and used.seconds > 0
    assert 40_000_000 < used.peak < 80_000_000  # tail keeps what it may have to print


def test_reads_are_measured_and_a_file_too_short_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    assert measure.measure(("file", "500"), 60, cwd=tmp_path, mode=measure.READS).seconds > 0
    (tmp_path / "file").write_bytes(b"short")
    with pytest.raises(NotMeasured, match="exit code"):
        measure.measure(("file", "500"), 60, cwd=tmp_path, mode=measure.READS)


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(NotMeasured, match=r"^exit code 3: the reason$"):
        measure.measure(("sh", "-c", "echo the reason >&2; exit 3"), 60)


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(TookTooLong):
        measure.measure(sleeper(tmp_path), 1)
    assert until(lambda: not is_running(tmp_path))


# --- mounts ---


def test_a_mount_is_used_by_each_peer_in_turn_and_the_figures_are_saved(
    bench: Bench, tree: Tree, tmp_path: Path
) -> None:
    absent = Peer("absent", ("no-such-command",), None, lambda archive, point: ("no-such-command",))
    source = next(peer for peer in all_peers(None) if peer.name == SOURCE)
    refused = Peer("refused", (), BY_DEFAULT, PYTHON_PEER.command, environment={"XTARFS_FUSE": "no-such-engine"})
    turns.mount_in_turn(bench, MOUNTS, tree, (PYTHON_PEER, source, absent, refused), (works.FIND, works.READ))
    run = samples.load(tmp_path / "log.jsonl")
    whole = (works.READY_COLD, *[works.READY_WARM] * 3, works.FIND_COLD, works.READ_COLD)
    assert [(s.tool, s.work) for s in run.samples] == [
        *((MFUSEPY, work) for work in whole),
        *((SOURCE, work) for work in (works.FIND_COLD, works.READ_COLD)),
        ("absent", works.READY_COLD),
        ("refused", works.READY_COLD),
        *((MFUSEPY, work) for work in whole),
        *((SOURCE, work) for work in (works.FIND_COLD, works.READ_COLD)),
    ]  # fmt: skip
    ours = [sample for sample in run.samples if sample.tool == MFUSEPY]
    assert all(s.seconds and s.cpu is not None and s.peak and s.peak > 10_000_000 for s in ours)
    notes = {sample.tool: sample.note for sample in run.samples if sample.note}
    assert notes["absent"] == "no-such-command is not installed"
    assert "no-such-engine" in notes["refused"]
    assert servers.mount_points(tmp_path) == []


def test_who_takes_too_long_once_is_not_asked_again(bench: Bench, tree: Tree, tmp_path: Path) -> None:
    bench.limit = 1
    slow = works.Work("slow", lambda lists, folder: ("sleep", "600"))
    source = next(peer for peer in all_peers(None) if peer.name == SOURCE)
    turns.mount_in_turn(bench, MOUNTS, tree, (source,), (slow, works.FIND))
    said = [(s.tool, s.seconds, s.note) for s in samples.load(tmp_path / "log.jsonl").samples]
    assert said == [(SOURCE, None, "took more than 1 s")]


def test_every_work_succeeds_on_the_source(bench: Bench, tree: Tree, tmp_path: Path) -> None:
    lists = trees.write_lists(tree, tmp_path / "lists", None)
    (tree.path / trees.BIG).write_bytes(os.urandom(50_000))
    subprocess.run(["git", "init", "--quiet", tree.path], check=True)
    todo = {work.name: work for name in (trees.SMALL, trees.LARGE, trees.CLONE) for work in works.of(name)}
    assert len(todo) == 11
    for work in todo.values():
        assert work.measure(lists, tree.path, tree.path, 60).seconds > 0


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(NotMeasured, match=r"^exit code 5: no luck$"),
        servers.mounted(server("sh", "-c", "echo no luck >&2; exit 5"), tmp_path, tmp_path / "point", 60),
    ):
        pass


def test_a_server_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    with (
        pytest.raises(NotMeasured, match="not ready"),
        servers.mounted(server(*sleeper(tmp_path)), tmp_path, tmp_path / "point", 1),
    ):
        pass
    assert until(lambda: not is_running(tmp_path))


def test_a_server_that_hangs_hangs_nobody(archive: Path, tmp_path: Path) -> None:
    with servers.mounted(PYTHON_PEER, archive, tmp_path / "point", 60) as mount:
        assert mount.pid
        os.kill(mount.pid, signal.SIGSTOP)
        with pytest.raises(TookTooLong):
            measure.measure(("find", ".", "-ls"), 2, cwd=mount.point)
    assert servers.mount_points(tmp_path) == []
    assert gone(mount.pid)


# --- trees and archives ---


def test_the_archive_opened_by_other_tools_is_as_the_bench_counts_and_names_it(archive: Path, menagerie: Path) -> None:
    """The parts are the whole, packed content is what zipfile says; and files stand where ratarmount -r is sent to."""
    found = dict(unpacked(archive.read_bytes()))
    parts = breakdown.breakdown(archive)
    assert sum(parts.values()) == archive.stat().st_size
    assert parts[breakdown.DATA] == sum(size for size, _ in found.values())
    assert min(parts[name] for name in (breakdown.TAR, breakdown.PADDING, breakdown.ENDS, breakdown.ZIP)) > 0
    nested = next(peer.inside for peer in all_peers(None) if peer.name == NESTED)
    assert nested
    plain = [name for name in Tree("menagerie", menagerie).files() if name.isascii() and nested(name) in found]
    assert len(plain) > 10
    for name in plain:
        assert found[nested(name)][1] == (menagerie / name).read_bytes()


def unpacked(data: bytes, above: str = "") -> Iterator[tuple[str, tuple[int, bytes]]]:
    """Packed size and content of every file, by its path through the nested tars and zips."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file and member.name.endswith(".xtar"):
                yield from unpacked(file.read(), f"{above}{member.name}/")
            elif file and member.name.endswith(".zip"):
                with zipfile.ZipFile(file) as packed:
                    for entry in packed.infolist():
                        path = f"{above}{member.name}/{entry.filename}"
                        yield path, (entry.compress_size, packed.read(entry))


def test_growing_trees_have_the_files_that_they_are_named_for(tmp_path: Path) -> None:
    assert [name for name, _, _ in trees.growing(10**6)] == [
        "10^3 files", "10^4 files", "10^5 files", "10^6 files", "10^5 in one directory",
    ]  # fmt: skip
    for name, files, directory in trees.growing(1000):
        tree = trees.make_growing(tmp_path, name, files, directory)
        assert tree.facts().files == files == 1000
        assert len([path for path in tree.path.iterdir() if path.is_dir()]) == 1


def test_lists_name_every_file_once(tree: Tree, tmp_path: Path) -> None:
    lists = trees.write_lists(tree, tmp_path / "lists", None)
    expected = {b"./" + os.fsencode(path.relative_to(tree.path)) for path in tree.path.rglob("*")}
    assert set(lists.everything.read_bytes().split(b"\0")[:-1]) == expected
    for path in (lists.files, lists.shuffled, lists.some):
        names = path.read_bytes().split(b"\0")[:-1]
        assert len(names) == 30 and set(names) == {name for name in expected if name.endswith(b".txt")}
    assert lists.each * 8 >= 30


# --- what was saved ---


def test_a_line_cut_off_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    log = Log(path, ["a machine"])
    log.tree("tree", Facts(3, 100, 50))
    kept = [Sample(MOUNTS, "tree", "tool", "work", 0.5, 0.1, 2000), Sample(MOUNTS, "tree", "tool", "other", note="no")]
    for sample in [*kept, Sample(BUILDS, "tree", "tool", BUILD, 1, 1, 1, 1)]:
        log.sample(sample)
    path.write_bytes(path.read_bytes()[:-5])
    assert samples.load(path) == Run(["a machine"], {"tree": Facts(3, 100, 50)}, kept)


def test_later_runs_fill_only_what_is_missing() -> None:
    def run(name: str, *parts: tuple[str, str], note: str = "") -> Run:
        taken = [Sample(group, tree, name, "work", None if note else 1, note=note) for group, tree in parts]
        return Run([name, "the same"], {}, taken)

    first = run("first", (MOUNTS, "small"), (GROWTH, "10^3 files"))
    second = run("second", (MOUNTS, "small"), (MOUNTS, "large"), (GROWTH, "10^4 files"))
    failed = run("failed", (MOUNTS, "large"), note="no")
    merged = samples.merge([failed, first, second])
    assert [(s.tool, s.group, s.tree) for s in merged.samples] == [
        ("first", MOUNTS, "small"), ("first", GROWTH, "10^3 files"), ("second", MOUNTS, "large"),
    ]  # fmt: skip
    assert merged.machine == ["first", "the same", "second"]


# --- targets and tables ---


def mount_run(**seconds: float) -> Run:
    """A run with one tree of small files; the keys are first letters of peer and work."""
    tools = {
        "m": MFUSEPY,
        "f": FUSEPY,
        "l": SQUASHFUSE_LL,
        "k": KERNEL_SQUASHFS,
        "s": SOURCE,
        "z": FUSE_ZIP,
        "n": NESTED,
    }
    done = {"f": works.FIND_COLD, "r": works.READ_COLD, "w": works.READ_WARM, "m": works.READY_COLD}
    return Run(
        samples=[Sample(MOUNTS, trees.SMALL, tools[key[0]], done[key[1]], value) for key, value in seconds.items()]
    )


def measured(run: Run) -> dict[tuple[str, str, str], float]:
    return {
        (verdict.target.work, verdict.target.against, verdict.engine): verdict.found[0]
        for verdict in targets.verdicts(run)
        if verdict.found
    }


def test_ratios_are_those_of_medians_on_the_engine_that_is_meant() -> None:
    run = mount_run(
        mf=0.2, ff=0.8, lf=1.0, mr=0.5, lr=1.0, kr=0.25, sw=1.0, mw=1.2, zr=2.0, zw=4.0, mm=0.1, nr=5.9, nm=0.1
    )
    run.samples += [Sample(MOUNTS, trees.SMALL, SQUASHFUSE_LL, works.FIND_COLD, value) for value in (2.0, 100.0)]
    assert measured(run) == pytest.approx(
        {
            (works.FIND_COLD, SQUASHFUSE_LL, "fusepy"): 0.4,
            (works.FIND_COLD, SQUASHFUSE_LL, "mfusepy"): 0.1,
            (f"{works.READ_COLD}, small", SQUASHFUSE_LL, "mfusepy"): 0.5,
            ("the same", KERNEL_SQUASHFS, "mfusepy"): 2.0,
            (works.READ_WARM, SOURCE, "mfusepy"): 1.2,
            ("read every file, the worst", FUSE_ZIP, "mfusepy"): 0.3,
            ("mount and read everything", NESTED, "mfusepy"): 0.1,
        }
    )


def test_what_was_measured_in_a_run_of_its_own_is_never_held_against_another_run() -> None:
    usual, apart = mount_run(mr=0.5, mm=0.1, lr=1.0), mount_run(mr=2.0, mm=1.0, nr=20.0, nm=10.0)
    merged = samples.merge([usual, apart])
    found = {v.target.against: v.found for v in targets.verdicts(merged) if v.found}
    assert found[NESTED] == (0.1, targets.APART)
    assert found[SQUASHFUSE_LL] == (0.5, "")
    rows = report.mounts(merged)
    assert f"{NESTED} ({targets.APART})" in rows
    assert rows.count(MFUSEPY) == 1


def test_with_ratarmount_the_worst_work_counts() -> None:
    run = Run()
    for tool, find, stat in ((MFUSEPY, 1.0, 3.0), ("ratarmount, zip", 10.0, 4.0), ("ratarmount, tar.gz", 2.0, 30.0)):
        run.samples.append(Sample(MOUNTS, trees.MIXED, tool, works.FIND_COLD, find))
        run.samples.append(Sample(MOUNTS, trees.MIXED, tool, works.STAT, stat))
    found = next(v for v in targets.verdicts(run) if v.target.against == "ratarmount").found
    assert found == (0.75, f"zip, {trees.MIXED}: {works.STAT}")


def test_size_on_mixed_trees_is_judged_only_where_files_are_large_enough() -> None:
    built = [
        Sample(BUILDS, trees.MIXED, tool, BUILD, 1, size=size)
        for tool, size in ((BY_DEFAULT.name, 66_000), (ZIP.name, 60_000))
    ]
    few, many = ({trees.MIXED: Facts(files, 1, 1)} for files in (10, 20))
    assert [value for key, value in measured(Run([], few, built)).items() if "mean packed" in key[0]] == [1.1]
    assert [value for key, value in measured(Run([], many, built)).items() if "mean packed" in key[0]] == []


def test_memory_is_that_of_the_worst_tree_of_a_size() -> None:
    run = Run()
    for tree, mount, build in (("10^5 files", 90, 200), ("10^5 in one directory", 135, 260), ("10^6 files", 300, 240)):
        run.samples += [
            Sample(GROWTH, tree, MFUSEPY, works.READY_WARM, 1, peak=mount * 10**6),
            Sample(GROWTH, tree, BY_DEFAULT.name, BUILD, 1, peak=build * 10**6, size=1),
        ]
    found = {v.target.work: (v.found[0], v.met) for v in targets.verdicts(run) if v.found}
    assert found == {
        "peak memory, mount, 10^5 files": (135, False),
        "peak memory, mount, 10^6 files": (300, True),
        "peak memory, build, 10^5 files": (260, False),
        "peak memory, build, 10^6 files": (240, True),
    }


def test_the_page_says_what_was_met_and_keeps_what_stands_around(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# Written by hand\n")
    run = mount_run(mr=0.5, lr=1.0, kr=0.25)
    run.samples.append(Sample(MOUNTS, trees.SMALL, "tar | x", works.READ_COLD, 2.0))
    run.samples.append(Sample(MOUNTS, trees.SMALL, MFUSEPY, works.READ_COLD, 0.7, 0.25, 30_000_000))
    run.samples.append(Sample(MOUNTS, trees.SMALL, "absent", works.READY_COLD, note="is not installed"))
    for _ in range(2):
        report.write(page, run)
    lines = page.read_text().splitlines()
    assert lines[0] == "# Written by hand"
    assert lines.count(f"| {works.READ_COLD}, small | {SQUASHFUSE_LL} | 0.6 | 0.60 | met |") == 1
    assert f"| the same | {KERNEL_SQUASHFS} | 1 | 2.40 | **not met** |" in lines
    assert f"| {works.READ_WARM} | {SOURCE} | 1.5 | – | not measured |" in lines
    assert f"| {MFUSEPY} | 0.600 (0.500-0.700) | 0.25 | 30 |" in lines
    assert r"| tar \| x | 2.00 | – | – |" in lines
    assert f"- absent, {works.READY_COLD}: is not installed" in lines
    assert not any("Builds" in line for line in lines)


# --- the command ---


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "bench", *map(str, arguments)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rounds", "0"), "a number from 1"),
        (("--files", "10"), "a number from 1000"),
        (("--only", "nothing"), "invalid choice"),
        (("--report", "no-such-file"), "no-such-file: cannot be read"),
        (("--json", "pyproject.toml"), "pyproject.toml: exists already"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        command(*arguments, "--out", tmp_path / "out"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_ended_leaves_no_mount_and_loses_no_figure(tmp_path: Path) -> None:
    log, work = tmp_path / "log.jsonl", tmp_path / "work"
    work.mkdir()
    options = ("--only", "growth", "--files", "1000", "--rounds", "1", "--json", log, "--work-dir", work)
    said = tmp_path / "said"
    with open(said, "wb") as output:
        run = subprocess.Popen(command(*options, "--out", tmp_path / "out"), cwd=ROOT, stdout=output, stderr=output)
    try:
        assert until(lambda: bool(servers.mount_points(work)), 120)
        run.send_signal(signal.SIGTERM)
        assert run.wait(120) == 128 + signal.SIGTERM, said.read_text()
    finally:
        run.kill()
    assert servers.mount_points(work) == [] and list(work.iterdir()) == []
    assert (GROWTH, BY_DEFAULT.name, BUILD) in {(s.group, s.tool, s.work) for s in samples.load(log).samples}
    done = subprocess.run(
        command("--report", log, "--out", tmp_path / "out"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert f"| 10^3 files | {BY_DEFAULT.name} |" in (tmp_path / "out" / "performance.md").read_text()

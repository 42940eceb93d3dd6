"""Imports point one way, and the builder is not needed to get data back."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What lies at the top of each folder, packages and modules. It may import its own line and the lines below it.
ORDER = {
    "xtarfs": (
        "entry",
        "commands",
        "recovery",
        "checking",
        "restoring",
        "mounting",
        "native",
        "filesystem",
        "reading",
        "parity",
        "source draft console fork pool",
        "format text _unpacker",
        "errors",
    ),
    "builder": (
        "entry pybackup launched",
        "commands",
        "volumes",
        "chains",
        "building",
        "writing",
        "activity",
        "scanning",
        "_packer",
    ),
}
RANK = {top: {name: rank for rank, line in enumerate(lines) for name in line.split()} for top, lines in ORDER.items()}
LATE = ("xtarfs.reading.tree", "xtarfs.reading.unstructured")  # the fallback, loaded only when it is needed

MODULES = sorted(path for top in ORDER for path in (ROOT / top).rglob("*.py"))
MODULES_OF_XTARFS = [path for path in MODULES if path.is_relative_to(ROOT / "xtarfs")]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {dotted(path) for path in MODULES}


def imported(path: Path) -> set[str]:
    """Modules that a file imports when it runs, lazily or not; for type checking alone does not count."""
    tree = ast.parse(path.read_text())
    skipped = {
        node
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and isinstance(guard.test, ast.Name) and guard.test.id == "TYPE_CHECKING"
        for node in ast.walk(guard)
    }
    inside = path.relative_to(ROOT).parts
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def place(name: str) -> tuple[str, str]:
    """The folder of a module, and what of that folder it lies in."""
    top, _, rest = name.partition(".")
    return top, rest.partition(".")[0]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES_OF_XTARFS, ids=short)
def test_xtarfs_never_imports_builder(path: Path) -> None:
    assert not any(place(name)[0] == "builder" for name in imported(path))


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_imports_point_one_way(path: Path) -> None:
    top, own = place(dotted(path))
    if not own:  # the front door of `xtarfs` leads to the reader
        return
    for name in imported(path):
        folder, other = place(name)
        if folder == top and other in RANK[top]:
            assert RANK[top][other] >= RANK[top][own], f"{own} imports {name}"


def test_every_module_has_a_place() -> None:
    for top, ranks in RANK.items():
        there = {place(dotted(path))[1] for path in MODULES if path.is_relative_to(ROOT / top)} - {""}
        compiled = {path.stem for path in (ROOT / top).glob("*.pyi")}
        assert there | compiled == ranks.keys()


def test_no_modules_import_each_other() -> None:
    graph = {}
    for path in MODULES:
        name = dotted(path)
        reached = {other if other in NAMES else other.rpartition(".")[0] for other in imported(path)} & NAMES
        graph[name] = {other for other in reached if "." in other and (name, other) != LATE}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_packages_hold_a_docstring_only() -> None:
    for path in MODULES:
        if path.name == "__init__.py" and path.parent != ROOT / "xtarfs":
            (docstring,) = ast.parse(path.read_text()).body
            assert isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant), short(path)


def test_reading_works_without_the_builder(archive: Path) -> None:
    script = (
        "import sys; sys.modules['builder'] = None\n"
        "import xtarfs\n"
        "with xtarfs.open(sys.argv[1]) as archive: print(sum(1 for _ in archive.walk()))"
    )
    done = subprocess.run([sys.executable, "-c", script, archive], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100


def test_start_up_loads_nothing_heavy() -> None:
    script = "import sys, builder.commands.cli; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {
        "PIL",
        "deflate",
        "fuse",
        "hashlib",
        "lru",
        "mfusepy",
        "msgspec",
        "pathspec",
        "rich",
        "sqlite3",
        "tqdm",
    }
    assert heavy.isdisjoint(done.stdout.split())

"""Imports point one way, and the builder is not needed to get data back."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A module may import those of its own line and of the lines below it.
ORDER = (
    ("entry",),
    ("cli", "volume_arguments"),
    ("parity_commands",),
    ("verify_set", "salvage_set"),
    ("recover", "mount", "extract", "verify", "diff", "listing", "repair", "repair_set", "apply"),
    ("engine",),
    ("native",),
    ("relink",),
    ("bulk",),
    ("salvage", "check", "restore", "selection", "protect"),
    ("remains",),
    ("carve", "attributes", "results", "crew", "fork", "mount_options"),
    ("fuse_adapter", "console"),
    ("history",),
    ("vfs",),
    ("reader",),
    ("holders", "sets"),
    ("content",),
    ("unstructured", "stream", "copies"),
    ("tree", "foreign"),
    ("opening",),
    ("heal",),
    ("align",),
    ("spare",),
    ("parity",),
    ("source", "cache", "draft", "shards", "shelf", "structure_file", "volume_names"),
    ("format", "text", "guard"),
    ("errors",),
)
RANK = {name: rank for rank, line in enumerate(ORDER) for name in line}


def imported(path: Path, package: str) -> set[str]:
    """Modules of `package` that a file imports when it runs, lazily or not; for type checking alone does not count."""
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
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith(package + ".")} | (
        {""} if package in found else set()
    )


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", modules("xtarfs"), ids=lambda path: str(path.relative_to(ROOT)))
def test_xtarfs_never_imports_builder(path: Path) -> None:
    assert imported(path, "builder") == set()


@pytest.mark.parametrize("path", modules("xtarfs"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    name = path.relative_to(ROOT / "xtarfs").parts[0].removesuffix(".py")
    if name == "__init__":  # the package's front door leads to the reader
        return
    for other in imported(path, "xtarfs") & RANK.keys():
        if (name, other) == ("tree", "unstructured"):  # the fallback, loaded only when it is needed
            continue
        assert RANK[other] >= RANK[name], f"{name} imports {other}"


def test_every_module_has_a_place() -> None:
    names = {path.relative_to(ROOT / "xtarfs").parts[0].removesuffix(".py") for path in modules("xtarfs")}
    assert names - {"__init__"} <= RANK.keys()


def test_reading_works_without_the_builder(archive: Path) -> None:
    script = (
        "import sys; sys.modules['builder'] = None\n"
        "import xtarfs\n"
        "with xtarfs.open(sys.argv[1]) as archive: print(sum(1 for _ in archive.walk()))"
    )
    done = subprocess.run([sys.executable, "-c", script, archive], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100


def test_start_up_loads_nothing_heavy() -> None:
    script = "import sys, builder.cli; print('\\n'.join(sys.modules))"
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

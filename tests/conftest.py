"""Fixtures that more than one module of tests needs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.building.build import Options, build

from . import trees

# What runs in the background may be made to ignore these, and what the tests start would ignore them too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def menagerie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of `trees.make_tree`; tests must not change it."""
    return trees.make_tree(tmp_path_factory.mktemp("source") / "tree")


@pytest.fixture(scope="session")
def archive(menagerie: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The menagerie as an archive; tests must not change it."""
    path = tmp_path_factory.mktemp("archive") / "tree.xtar"
    result = build(str(menagerie), str(path), Options())
    assert result.problems == []
    return path


@pytest.fixture(scope="module", params=["native", "mfusepy", "fusepy"])
def binding(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each way to the kernel in turn, chosen for this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XTARFS_FUSE", request.param)
        yield str(request.param)

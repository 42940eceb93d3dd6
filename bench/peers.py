"""What shows a tree as a folder: each peer's command, and the archive that it mounts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .measure import XTAR
from .packers import BY_DEFAULT, EROFS, SQUASHFS, TAR_GZ, ZIP, Command, Packer

ENGINES = ("native", "mfusepy", "fusepy")  # the values of XTARFS_FUSE, the one taken by default first
SOURCE = "source on disk"
SQUASHFUSE_LL = "squashfuse_ll"
KERNEL_SQUASHFS = "kernel squashfs, gzip"
FUSE_ZIP = "fuse-zip"
RATARMOUNT = ("ratarmount, tar.gz", "ratarmount, zip")
NESTED = "ratarmount -r, the same .xtar"


@dataclass(frozen=True, slots=True)
class Peer:
    """command(archive, point) serves in the foreground; with `kernel` it only mounts; without it there is no mount.

    packer: of the archive; without it the command gets the tree itself. inside: where a file of the tree stands in the
    mount, if not under its own path. once: one round is enough, as it takes minutes.
    """

    name: str
    needs: tuple[str, ...]
    packer: Packer | None
    command: Callable[[Path, Path], Command] | None
    kernel: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    inside: Callable[[str], str] | None = None
    once: bool = False


def engine_name(engine: str) -> str:
    return f"xtar, {engine}"


def _nested(path: str) -> str:
    """Every directory is a tar, and every file a zip that holds the file under its whole path."""
    directory, name = os.path.split(path)
    return os.path.join(*(f"{part}.xtar" for part in directory.split("/") if part), f"{name}.zip", path)


def _in_foreground(*program: str) -> Callable[[Path, Path], Command]:
    return lambda archive, point: (*program, archive, point)


def _loop(kind: str) -> Callable[[Path, Path], Command]:
    return lambda archive, point: ("mount", "-t", kind, "-o", "ro,loop", archive, point)


XTARS = tuple(
    Peer(engine_name(engine), (), BY_DEFAULT, _in_foreground(*XTAR, "mount", "-f"), environment={"XTARFS_FUSE": engine})
    for engine in ENGINES
)
SQUASHFUSE = Peer(SQUASHFUSE_LL, ("squashfuse_ll",), SQUASHFS, _in_foreground("squashfuse_ll", "-f"))
_RATARMOUNT = ("ratarmount", "-f", "-c")  # with a new index, as when an archive is mounted for the first time


def all_peers(floor: Path | None) -> tuple[Peer, ...]:
    """`floor` is the in-memory server in C, if there is one."""
    return (
        *XTARS,
        Peer(SOURCE, (), None, None),
        Peer("squashfuse", ("squashfuse",), SQUASHFS, _in_foreground("squashfuse", "-f")),
        SQUASHFUSE,
        Peer(KERNEL_SQUASHFS, ("mount",), SQUASHFS, _loop("squashfs"), kernel=True),
        Peer("kernel erofs, lz4hc", ("mount",), EROFS, _loop("erofs"), kernel=True),
        Peer(FUSE_ZIP, ("fuse-zip",), ZIP, _in_foreground("fuse-zip", "-f", "-r")),
        Peer(RATARMOUNT[0], ("ratarmount",), TAR_GZ, _in_foreground(*_RATARMOUNT)),
        Peer(RATARMOUNT[1], ("ratarmount",), ZIP, _in_foreground(*_RATARMOUNT)),
        Peer(
            NESTED,
            ("ratarmount",),
            BY_DEFAULT,
            _in_foreground(*_RATARMOUNT, "-r", "--recursive-extensions=.xtar,.zip"),
            inside=_nested,
            once=True,
        ),
        *([_floor(floor)] if floor else []),
    )


def _floor(program: Path) -> Peer:
    deflate, no_open, threads = "1", "1", "1"
    return Peer("floor: C, in memory", (), None, lambda tree, point: (program, tree, point, deflate, no_open, threads))

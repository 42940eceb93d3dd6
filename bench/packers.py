"""What packs a tree, and what extracts, lists and verifies the result. Archives lie in a folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .measure import XTAR

Command = tuple[str | Path, ...]


@dataclass(frozen=True, slots=True)
class Packer:
    """command(tree, archive) runs in `tree`; `first(archive)` goes before it and is not measured."""

    name: str
    needs: tuple[str, ...]
    file: str
    command: Callable[[Path, Path], Command]
    first: Callable[[Path], Command] | None = None


def _xtar(name: str, *options: str) -> Packer:
    return Packer(name, (), "a.xtar", lambda tree, out: (*XTAR, "build", tree, "-o", out, *options))


def _piped(name: str, compressor: str) -> Packer:
    script = f'tar -cf - . | {compressor} >"$1"'
    return Packer(f"tar | {name}", (name,), f"a.tar.{name}", lambda tree, out: ("sh", "-c", script, "sh", out))


BY_DEFAULT = _xtar("xtar")
ZIP = Packer("zip -r -6", ("zip",), "a.zip", lambda tree, out: ("zip", "-qr6", out, "."))
TAR_GZ = _piped("gzip", "gzip")
SQUASHFS = Packer(
    "mksquashfs -comp gzip",
    ("mksquashfs",),
    "a.squashfs",
    lambda tree, out: ("mksquashfs", tree, out, "-comp", "gzip", "-quiet", "-no-progress"),
)
EROFS = Packer(
    "mkfs.erofs", ("mkfs.erofs",), "a.erofs", lambda tree, out: ("mkfs.erofs", "--quiet", "-zlz4hc", out, tree)
)
BUILDERS = (
    _xtar("xtar -1", "--level", "1"),
    BY_DEFAULT,
    _xtar("xtar -9", "--level", "9"),
    ZIP,
    TAR_GZ,
    _piped("zstd", "zstd -q"),
    SQUASHFS,
    Packer(
        "dar -z", ("dar",), "a", lambda tree, out: ("dar", "-c", out, "-R", tree, "-zgzip:6", "-Q", "-q")
    ),
    Packer(
        "borg create",
        ("borg",),
        "a",
        lambda tree, out: ("borg", "create", "-C", "zlib,6", f"{out}::a", "."),
        lambda out: ("borg", "init", "-e", "none", out),
    ),
    Packer(
        "restic backup",
        ("restic",),
        "a",
        lambda tree, out: ("restic", "backup", "--quiet", "--no-cache", "-r", out, "."),
        lambda out: ("restic", "init", "-r", out),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reader:
    """A command for each work, with {archive} and {folder} for where it reads and where it extracts."""

    name: str
    needs: tuple[str, ...]
    packer: Packer
    works: dict[str, Command]

    def command(self, work: str, archive: Path, folder: Path) -> Command:
        return tuple(str(word).format(archive=archive, folder=folder) for word in self.works[work])


BUILD, EXTRACT, LIST, VERIFY = "build", "extract", "list", "verify"
READERS = (
    Reader(
        "xtar",
        (),
        BY_DEFAULT,
        {
            EXTRACT: (*XTAR, "extract", "{archive}", "-C", "{folder}"),
            LIST: (*XTAR, "list", "-lR", "{archive}"),
            VERIFY: (*XTAR, "verify", "{archive}"),
        },
    ),
    Reader(
        "unzip",
        ("unzip",),
        ZIP,
        {
            EXTRACT: ("unzip", "-q", "{archive}", "-d", "{folder}"),
            LIST: ("unzip", "-l", "{archive}"),
            VERIFY: ("unzip", "-tq", "{archive}"),
        },
    ),
    Reader(
        "bsdtar on zip",
        ("bsdtar",),
        ZIP,
        {
            EXTRACT: ("bsdtar", "-xf", "{archive}", "-C", "{folder}"),
            LIST: ("bsdtar", "-tvf", "{archive}"),
        },
    ),
    Reader(
        "tar on tar.gz",
        ("gzip",),
        TAR_GZ,
        {
            EXTRACT: ("tar", "-xzf", "{archive}", "-C", "{folder}"),
            LIST: ("tar", "-tvzf", "{archive}"),
            VERIFY: ("gzip", "-t", "{archive}"),
        },
    ),
    Reader(
        "unsquashfs",
        ("unsquashfs",),
        SQUASHFS,
        {
            EXTRACT: ("unsquashfs", "-q", "-n", "-f", "-d", "{folder}", "{archive}"),
            LIST: ("unsquashfs", "-ll", "{archive}"),
        },
    ),
)

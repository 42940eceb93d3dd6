"""The tools: how each packs a tree, and the best that its own commands get back from a wreck.

Every tool works in a folder of its own. `pack` leaves the archive there, one file or many; `recover` finds the same
folder damaged and gives its attempts, most trustworthy first.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from pathlib import Path

from .command import XTAR, must, output, run, shell
from .score import Attempt


class Tool(ABC):
    """name: in tables. needs: the commands without which it cannot run."""

    name: str
    needs: tuple[str, ...] = ()

    @abstractmethod
    def pack(self, tree: Path, work: Path) -> None: ...

    @abstractmethod
    def recover(self, work: Path, out: Path) -> list[Attempt]: ...

    def files(self, work: Path) -> list[Path]:
        """What is damaged, in this order: all files that the tool wrote."""
        return sorted(path for path in work.rglob("*") if path.is_file())


class Xtar(Tool):
    def __init__(self, chunk_size: str = "", redundancy: int = 0) -> None:
        self.name = (
            "xtar" + (f", {redundancy}% parity" if redundancy else "") + (f", {chunk_size}" if chunk_size else "")
        )
        self.options = (("--chunk-size", chunk_size) if chunk_size else ()) + (
            ("--redundancy", str(redundancy)) if redundancy else ()
        )

    def pack(self, tree: Path, work: Path) -> None:
        must(*XTAR, "build", tree, "-o", work / "a.xtar", *self.options)

    def recover(self, work: Path, out: Path) -> list[Attempt]:
        archive, repaired = work / "a.xtar", out / "repaired.xtar"
        if "--redundancy" in self.options:
            out.mkdir(parents=True)
            run(*XTAR, "repair", archive, "-o", repaired)
            archive = repaired if repaired.exists() else archive
        document, log = output(*XTAR, "recover", archive, "-C", out / "1", "--json")
        told = json.loads(document) if document else {"partial": [], "incomplete": []}
        ranges = {entry["path"]: [(start, end) for start, end in entry["ranges"]] for entry in told["partial"]}
        return [Attempt(out / "1", log, ranges)]


class TarGz(Tool):
    name = "tar.gz"
    needs: tuple[str, ...] = ("gzrecover",)

    def pack(self, tree: Path, work: Path) -> None:
        must("tar", "-C", tree, "-czf", work / "a.tar.gz", ".")

    def recover(self, work: Path, out: Path) -> list[Attempt]:
        archive = work / "a.tar.gz"
        plain, salvaged = out / "1", out / "2"
        plain.mkdir(parents=True)
        salvaged.mkdir()
        said = shell('gzip -dc "$1" | tar -xf - -C "$2"', archive, plain)
        if not said:
            return [Attempt(plain)]
        run("gzrecover", "-o", out / "a.tar", archive)
        log = run("tar", "--ignore-zeros", "-xf", out / "a.tar", "-C", salvaged)
        return [Attempt(plain, said), Attempt(salvaged, log)]


class TarZst(Tool):
    name = "tar.zst"
    needs = ("zstd",)

    def pack(self, tree: Path, work: Path) -> None:
        must("tar", "-C", tree, "-I", "zstd", "-cf", work / "a.tar.zst", ".")

    def recover(self, work: Path, out: Path) -> list[Attempt]:
        (out / "1").mkdir(parents=True)
        return [Attempt(out / "1", shell('zstd -qdc "$1" | tar -xf - -C "$2"', work / "a.tar.zst", out / "1"))]


class Zip(Tool):
    name = "zip"
    needs = ("zip", "unzip", "7z")

    def pack(self, tree: Path, work: Path) -> None:
        must("zip", "-qrX", work / "a.zip", ".", cwd=tree)

    def recover(self, work: Path, out: Path) -> list[Attempt]:
        archive, fixed = work / "a.zip", out / "fixed.zip"
        (out / "3").mkdir(parents=True)
        attempts = [Attempt(out / "1", run("unzip", "-qo", archive, "-d", out / "1"))]
        if not attempts[0].log:
            return attempts
        attempts.append(Attempt(out / "2", run("7z", "x", "-y", "-bso0", "-bsp0", f"-o{out / '2'}", archive)))
        run("zip", "-FF", archive, "--out", fixed, answers="y\n")
        attempts.append(Attempt(out / "3", run("unzip", "-qo", fixed, "-d", out / "3")))
        return attempts


class Squashfs(Tool):
    name = "squashfs"
    needs = ("mksquashfs", "unsquashfs")

    def pack(self, tree: Path, work: Path) -> None:
        must("mksquashfs", tree, work / "a.squashfs", "-comp", "zstd", "-quiet", "-no-progress")

    def recover(self, work: Path, out: Path) -> list[Attempt]:
        out.mkdir(parents=True)
        log = run("unsquashfs", "-d", out / "1", "-quiet", "-no-progress", "-ignore-errors", work / "a.squashfs")
        return [Attempt(out / "1", log)]


class Dar(Tool):
    name = "dar"
    needs = ("dar",)

    def pack(self, tree: Path, work: Path) -> None:
        must("dar", "-c", work / "a", "-R", tree, "-zgzip:6", "-Q", "-q")

    def recover(self, work: Path, out: Path) -> list[Attempt]:
        attempts: list[Attempt] = []  # without its catalogue the last gives some files wrong names: only in need
        for name, options in (("1", ()), ("2", ("-al",)), ("3", ("-al", "--sequential-read"))):
            folder = out / name
            folder.mkdir(parents=True)
            log = run("dar", "-x", work / "a", "-R", folder, "-O", "-w", "-Q", "-q", *options)
            attempts.append(Attempt(folder, log))
            if any(folder.iterdir()) and "INTERNAL ERROR" not in log and "FATAL" not in log:
                break
        return attempts


class Borg(Tool):
    name = "borg"
    needs = ("borg",)

    def pack(self, tree: Path, work: Path) -> None:
        must("borg", "init", "-e", "none", work / "repository")
        must("borg", "create", "-C", "zlib,6", f"{work / 'repository'}::a", ".", cwd=tree)

    def recover(self, work: Path, out: Path) -> list[Attempt]:
        repository = work / "repository"
        first, second = out / "1", out / "2"
        first.mkdir(parents=True)
        second.mkdir()
        log = run("borg", "extract", f"{repository}::a", cwd=first)
        if not log:
            return [Attempt(first)]
        if b"[repository]" not in (repository / "config").read_bytes():  # another one's does as well
            must("borg", "init", "-e", "none", out / "new")
            shutil.copy(out / "new" / "config", repository)
        log += run("borg", "check", "--repair", "--verify-data", repository)
        log += run("borg", "extract", f"{repository}::a", cwd=second)
        return [Attempt(second, log), Attempt(first, log)]


class Restic(Tool):
    name = "restic"
    needs = ("restic",)

    def pack(self, tree: Path, work: Path) -> None:
        must("restic", "init", "-r", work / "repository")
        must("restic", "backup", "--no-cache", "-r", work / "repository", ".", cwd=tree)

    def recover(self, work: Path, out: Path) -> list[Attempt]:
        common = ("--no-cache", "-r", work / "repository")
        log = run("restic", "check", *common, "--read-data")
        if "no errors were found" not in log:
            log += run("restic", "rebuild-index", *common, "--read-all-packs")
        log = run("restic", "restore", *common, "latest", "--target", out / "1")
        return [Attempt(out / "1", log)]


class Tarlz(Tool):
    name = "tarlz --no-solid"
    needs = ("tarlz", "lziprecover")

    def pack(self, tree: Path, work: Path) -> None:
        must("tarlz", "--no-solid", "-cf", work / "a.tar.lz", ".", cwd=tree)

    def recover(self, work: Path, out: Path) -> list[Attempt]:
        archive = work / "a.tar.lz"
        plain, damaged, salvaged = (out / name for name in "123")
        for folder in (plain, damaged, salvaged):
            folder.mkdir(parents=True)
        log = run("tarlz", "-n0", "-xf", archive, cwd=plain)
        if not log and any(plain.iterdir()):
            return [Attempt(plain)]
        run("tarlz", "-n0", "--keep-damaged", "-xf", archive, cwd=damaged)
        attempts = [Attempt(plain, log), Attempt(damaged, suspect=True)]
        if not any(plain.iterdir()):  # it does not find its first header
            said = shell('lziprecover -dic "$1" | tar --ignore-zeros -xf - -C "$2"', archive, salvaged)
            attempts.append(Attempt(salvaged, said))
        return attempts


class TarGzPar2(TarGz):
    name = "tar.gz + par2 5%"
    needs = ("gzrecover", "par2")

    def pack(self, tree: Path, work: Path) -> None:
        super().pack(tree, work)
        must("par2", "create", "-q", "-q", "-s4096", "-r5", "-n1", work / "a.tar.gz")

    def recover(self, work: Path, out: Path) -> list[Attempt]:
        for parity in sorted(work.glob("*.par2")):
            if "epair" in run("par2", "repair", "-q", parity, *sorted(work.glob("*"))):
                break
        return super().recover(work, out)


ALL: tuple[Tool, ...] = (
    Xtar(),
    Xtar(redundancy=5),
    TarGz(),
    TarZst(),
    Zip(),
    Squashfs(),
    Dar(),
    Borg(),
    Restic(),
    Tarlz(),
    TarGzPar2(),
)
CHUNKED = tuple(Xtar(chunk_size=size) for size in ("16KiB", "32KiB", "64KiB", "128KiB"))

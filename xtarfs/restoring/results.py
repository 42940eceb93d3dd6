"""What an extraction is asked for, and what it tells in the end."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

_MAX_LISTED = 1000

RawPath = bytes
Ranges = tuple[tuple[int, int], ...]


class ExtractOptions(Struct, frozen=True):
    """How to extract. jobs: processes, 0 for one per processor.

    on_damage: `skip` leaves a damaged file out, `hole` writes it with holes for what is lost, `stop` ends there.
    """

    force: bool = False
    numeric_owner: bool = False
    no_owner: bool = False
    dry_run: bool = False
    on_damage: Literal["stop", "skip", "hole"] = "skip"
    jobs: int = 0


class ExtractResult(Struct):
    """What was done. Paths are below the archive's root; `kept` and `unset` list the first thousand, and count all.

    bytes: content written. damaged: with the ranges of content that are lost, none where it is not a file's.
    kept: exists, and was not replaced. missing: the data lies in another archive. failed, unset: with the reason,
    or what could not be set.
    """

    files: int = 0
    bytes: int = 0
    directories: int = 0
    others: int = 0
    damaged: list[tuple[RawPath, Ranges]] = field(default_factory=list)
    missing: list[RawPath] = field(default_factory=list)
    failed: list[tuple[RawPath, str]] = field(default_factory=list)
    kept: list[RawPath] = field(default_factory=list)
    kept_count: int = 0
    unset: list[tuple[RawPath, str]] = field(default_factory=list)
    unset_count: int = 0

    @property
    def complete(self) -> bool:
        """Whether everything is there as it was stored."""
        return not (self.damaged or self.missing or self.failed or self.kept_count or self.unset_count)

    def add(self, other: ExtractResult) -> None:
        self.files += other.files
        self.bytes += other.bytes
        self.directories += other.directories
        self.others += other.others
        self.damaged += other.damaged
        self.missing += other.missing
        self.failed += other.failed
        self.kept_count += other.kept_count
        self.unset_count += other.unset_count
        self.kept += other.kept[: _MAX_LISTED - len(self.kept)]
        self.unset += other.unset[: _MAX_LISTED - len(self.unset)]

    def keep(self, path: RawPath) -> None:
        self.kept_count += 1
        if len(self.kept) < _MAX_LISTED:
            self.kept.append(path)

    def note_unset(self, path: RawPath, what: list[str]) -> None:
        if what:
            self.unset_count += 1
            if len(self.unset) < _MAX_LISTED:
                self.unset.append((path, ", ".join(what)))

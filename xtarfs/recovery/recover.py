"""`xtar recover`: sorts what was carved out of a wreck into archives, and restores each.

An archive that lies in another one's file is that file's content, and no archive by itself.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

from msgspec import Struct, field

from ..errors import NotAnArchive, XtarError
from ..format import tar
from ..format.locator import Locator
from ..reading.reader import Archive
from ..restoring.extract import ExtractOptions, ExtractResult, extract
from ..restoring.results import Ranges
from ..source import Source
from ..text import path_fields
from .carve import Block, Finds, Patient, Tagged, carve
from .remains import Remains, Run
from .salvage import Salvaged

_SAMPLES = 8  # finds of an archive by which it is told whether it is content of another's file


class Recovered(Struct):
    """What became of one archive. folder: where it was restored to; prefix: the same, within the destination.

    partial: files of which something is lost, with the ranges; lost: paths of which there is no content at all.
    elsewhere: of those lost, what to call the archive or volume that would have had it.
    content: bytes restored. incomplete: directories that may have held more than is known. volume: of a set that is not
    restored as one.
    """

    tag: str
    prefix: bytes
    result: ExtractResult
    files: int = 0
    content: int = 0
    partial: list[tuple[bytes, Ranges]] = field(default_factory=list)
    lost: list[bytes] = field(default_factory=list)
    elsewhere: dict[bytes, str] = field(default_factory=dict)
    incomplete: list[bytes] = field(default_factory=list)
    guessed: list[bytes] = field(default_factory=list)
    volume: bool = False

    @property
    def complete(self) -> bool:
        return self.result.complete and not (self.incomplete or self.guessed)


class RecoverResult(Struct):
    """unclaimed: zips that bear a tag, and belong to nothing that was restored. unreadable: bytes of the medium."""

    archives: list[Recovered] = field(default_factory=list)
    unclaimed: int = 0
    unreadable: int = 0

    @property
    def complete(self) -> bool:
        return not self.unclaimed and all(archive.complete for archive in self.archives)

    def as_json(self) -> dict[str, Any]:
        """The document that `docs/json.md` describes; paths are below the destination."""

        def paths(name: str) -> list[dict[str, str]]:
            return [path_fields(each.prefix + path) for each in self.archives for path in getattr(each, name)]

        return {
            "archives": [each.tag for each in self.archives],
            "recovered": sum(each.files for each in self.archives),
            "recovered_bytes": sum(each.content for each in self.archives),
            "partial": [
                {**path_fields(each.prefix + path), "ranges": ranges}
                for each in self.archives
                for path, ranges in each.partial
            ],
            "lost": [
                path_fields(each.prefix + path) | ({"lies_in": where} if (where := each.elsewhere.get(path)) else {})
                for each in self.archives
                for path in each.lost
            ],
            "incomplete": paths("incomplete"),
            "guessed": paths("guessed"),
            "unclaimed": self.unclaimed,
            "unreadable": self.unreadable,
        }


def recover(
    source: Source,
    destination: str,
    *,
    partial: Literal["keep", "drop"] = "keep",
    numeric_owner: bool = False,
    no_owner: bool = False,
    scanned: Callable[[int], None] = lambda size: None,
    restored: Callable[[int], None] = lambda size: None,
) -> RecoverResult:
    """Restores what is left below `destination`; of several archives, each into a folder named by its tag.

    scanned(bytes of the source more), restored(bytes of content more) are called as it goes on. Raises NotAnArchive,
    nothing being written, if nothing is recognised.
    """
    patient = Patient(source)
    archives, unclaimed = salvage(patient, scanned)
    result = RecoverResult(unclaimed=unclaimed)
    options = ExtractOptions(
        numeric_owner=numeric_owner, no_owner=no_owner, on_damage="hole" if partial == "keep" else "skip"
    )
    names: dict[str, int] = {}
    for archive in archives:
        tag = archive.remains.tag.hex()
        names[tag] = names.get(tag, 0) + 1
        folder = "" if len(archives) == 1 else tag if names[tag] == 1 else f"{tag}-{names[tag]}"
        done = extract(archive, os.path.join(destination, folder), [], options, restored)
        account = account_of(archive, tag, folder, done, options)
        account.incomplete, account.guessed = archive.remains.incomplete, sorted(archive.remains.guessed)
        account.volume = any(facts.set for _, facts in archive.remains.locators)
        result.archives.append(account)
    result.unreadable = patient.unreadable
    return result


def joined(results: list[RecoverResult]) -> RecoverResult:
    """Of several sources, restored into one folder, as one."""
    whole = RecoverResult()
    for result in results:
        whole.archives += result.archives
        whole.unclaimed += result.unclaimed
        whole.unreadable += result.unreadable
    return whole


def account_of(archive: Archive, tag: str, folder: str, done: ExtractResult, options: ExtractOptions) -> Recovered:
    """What was restored of an archive, and what was not."""
    account = Recovered(tag, folder.encode() + b"/" if folder else b"", done, done.files, done.bytes)
    for path, ranges in done.damaged:
        size = archive.lookup(path).record.size
        if ranges in ((), ((0, size),)):
            account.lost.append(path)
            continue
        account.partial.append((path, ranges))
        if options.on_damage == "hole":
            account.files -= 1
            account.content -= sum(end - start for start, end in ranges)
    account.lost = sorted([*account.lost, *done.missing])
    account.elsewhere = {path: where for path in account.lost if (where := _lacking(archive, path))}
    return account


def _lacking(archive: Archive, path: bytes) -> str:
    try:
        return archive.lacking(archive.data_node(archive.lookup(path)))
    except XtarError:  # the first name of a hard link is lost
        return ""


# -- sorting finds into archives -------------------------------------------------------------------------------


class _Part(Struct, dict=True):
    """What was found of one archive, and between which places."""

    tag: bytes
    found: Tagged
    runs: list[Run]
    locators: list[tuple[int, Locator]]

    @property
    def tells(self) -> bool:
        """Whether there is anything in it to restore."""
        found = self.found
        natives = any(m.role == tar.ROLE_NATIVE for m in found.members)
        return bool(self.runs or found.locals or found.centrals or natives)

    @cached_property
    def places(self) -> list[int]:
        """Where each find lies, ascending."""
        found = self.found
        return sorted(find.at for finds in (found.members, found.locals, found.centrals, self.runs) for find in finds)


def salvage(source: Patient, progress: Callable[[int], None] = lambda size: None) -> tuple[list[Salvaged], int]:
    """The archives in `source` in the order in which they lie, and how many zips belong to none of them.

    Raises NotAnArchive if there is none.
    """
    finds = carve(source, progress)
    runs, strays, locators = _runs(finds)
    parts = _parts(finds, runs, locators)
    if not parts:
        raise NotAnArchive(f"{source.name}: nothing in it is recognised as an archive or a part of one")
    claimed = {entry.data: (part.tag, entry.path, entry.crc) for part in parts for entry in part.found.locals}
    archives: list[tuple[_Part, Salvaged]] = []
    for part in parts:
        remains = Remains(source, part.tag, part.found, part.runs, part.locators, claimed)
        remains.finish(strays)
        archives.append((part, Salvaged(remains)))
    main = [archive for part, archive in archives if len(parts) == 1 or not _is_inside(part, archives)]
    return main, sum(archive.remains.unplaced for archive in main)


def _runs(finds: Finds) -> tuple[list[Run], list[list[Block]], list[tuple[int, Locator]]]:
    """Structure files as far as they lie together; blocks whose header is lost, by neighbourhood; locators."""
    runs: list[Run] = []
    strays: list[list[Block]] = []
    locators: list[tuple[int, Locator]] = []
    blocks: list[Block] | None = None
    end = -1
    for block in finds.blocks:
        text = finds.texts[block.text]
        if block.at != end:
            blocks = None
        end = block.at + block.length
        if text.header:
            runs.append(Run(block.at, block.text, text.header, [block] if text.first is not None else []))
            blocks = runs[-1].blocks if text.first is None and text.header.children else None
        elif text.first is not None:
            if blocks is None:
                blocks = []
                strays.append(blocks)
            blocks.append(block)
        else:
            blocks = None
            if text.locator:
                locators.append((block.at - tar.BLOCK, text.locator))
    return runs, strays, locators


def _parts(finds: Finds, runs: list[Run], locators: list[tuple[int, Locator]]) -> list[_Part]:
    """One for each archive, in the order in which they lie: what bears the same tag and does not contradict itself.

    Copies of one archive are one: each can make up for what the others have lost.
    """
    parts = []
    of: dict[bytes, list[Run]] = {tag: [] for tag in finds.tagged}
    for run in runs:
        of.setdefault(bytes.fromhex(run.header.tag), []).append(run)
    for tag, own in of.items():
        found = finds.tagged.get(tag, Tagged())
        # The catalogue of a volume's set tells of files that are not in the volume.
        of_sets = [(m.data, m.data + m.size) for m in found.members if m.role == tar.ROLE_SET]
        own = [run for run in own if not any(start <= run.at < end for start, end in of_sets)]
        facts = [(at, locator) for at, locator in locators if locator.tag == tag.hex()]
        cuts = [0, *(_cuts(found) if _contradict(own, facts, finds) else ()), 1 << 63]
        for start, end in pairwise(cuts):
            share = Tagged(
                [m for m in found.members if start <= m.at < end],
                [e for e in found.locals if start <= e.at < end],
                [e for e in found.centrals if start <= e.at < end],
            )
            part = _Part(
                tag,
                share,
                [run for run in own if start <= run.at < end],
                [fact for fact in facts if start <= fact[0] < end],
            )
            if part.tells:
                parts.append(part)
    return sorted(parts, key=lambda part: part.places[0])


def _contradict(runs: list[Run], facts: list[tuple[int, Locator]], finds: Finds) -> bool:
    """Whether this is of several archives: of a tree whose content changed without its times and sizes."""
    if len({locator.id for _, locator in facts}) > 1:
        return True
    seen: dict[tuple[bytes, bytes | None], int] = {}
    for run in runs:
        texts = {(run.header.raw_path, finds.texts[block.text].first): block.text for block in run.blocks}
        texts[run.header.raw_path, None] = run.text
        if any(seen.setdefault(key, text) != text for key, text in texts.items()):
            return True
    return False


def _cuts(found: Tagged) -> list[int]:
    """Where one archive ends and the next begins, if their numbers start anew."""
    selves = [m for m in found.members if m.role == tar.ROLE_SELF]
    cuts = {m.at for m in found.members if m.role == tar.ROLE_INTRO}
    cuts |= {m.at + tar.BLOCK for m in found.members if m.role == tar.ROLE_LOCATOR}
    cuts |= {after.at for before, after in pairwise(selves) if after.ino <= before.ino}
    return sorted(cuts - {0})


# -- archives within archives ----------------------------------------------------------------------------------


def _is_inside(part: _Part, archives: list[tuple[_Part, Salvaged]]) -> bool:
    return any(other is not part and _holds(other, archive, part) for other, archive in archives)


def _holds(outer: _Part, archive: Salvaged, inner: _Part) -> bool:
    """Whether the finds of `inner` are content of a file in `outer`: by where they lie, unless the content tells."""
    number = bisect_left(outer.places, inner.places[0])
    if bisect_right(outer.places, inner.places[-1]) != number:
        return False
    inside, refuted = 0 < number < len(outer.places), False
    for at in inner.places[:: max(len(inner.places) // _SAMPLES, 1)]:
        node = archive.file_at(at)
        answer = archive.vouches(node, at) if node else None
        if answer:
            return True
        inside = inside or node is not None
        refuted = refuted or answer is False
    return inside and not refuted

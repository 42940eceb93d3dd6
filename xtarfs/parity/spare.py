"""Spares of a set of volumes: parity over all of them, so that lost volumes can be rebuilt from the others.

The volumes, each filled up with zeros to whole blocks of the longest, are taken for one file, of which each is one
member of every group. So spare `q` is the shard `q` of an ordinary parity file, with the checksums before and behind
it; its pages bear the numbers that they would have there. `docs/parity.md` section 8 specifies it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from msgspec.structs import replace

from ..draft import Draft
from ..errors import DamagedError, FormatError, SourceError
from ..format.parity import BLOCK, HEAD_SIZE, PAGE, SHEET, Layout, Page, pack_page, pack_sheet, parse_page
from ..source import FileSource, Readable
from .parity_file import Parity, read_padded
from .shards import Encoder

_MEMORY = 64 << 20
_PROBES = 64
_FIRST, _SECOND = 0, 2  # of the three copies of the checksums that a parity file has, those that a spare has


class Joined:
    """Volumes as one file, each filled up with zeros to `blocks` blocks. None: a volume that is lost."""

    def __init__(self, name: str, volumes: Sequence[Readable | None], blocks: int) -> None:
        self.name = name
        self.size = len(volumes) * blocks * BLOCK
        self._volumes = volumes
        self._length = blocks * BLOCK

    def read_at(self, offset: int, size: int) -> bytes:
        """What cannot be read is zeros."""
        parts = []
        end = min(offset + size, self.size)
        while offset < end:
            number, start = divmod(offset, self._length)
            wanted = min(self._length - start, end - offset)
            volume = self._volumes[number]
            parts.append(read_padded(volume, start, wanted) if volume else bytes(wanted))
            offset += wanted
        return b"".join(parts)

    def close(self) -> None:
        for volume in self._volumes:
            if volume:
                volume.close()


def spare_size(layout: Layout) -> int:
    """Bytes of a spare."""
    return (layout.groups + 2 * layout.sheets) * PAGE


def write_spares(volumes: Sequence[Readable], paths: Sequence[str], stack: ExitStack, *, force: bool) -> list[Draft]:
    """Drafts of the spares, complete but without names yet; `stack` closes them."""
    blocks = max(-(-volume.size // BLOCK) for volume in volumes)
    joined = Joined("the volumes", volumes, blocks)
    layout = Layout(bytes(32), joined.size, len(volumes), len(paths))
    drafts = [stack.enter_context(Draft(path, spare_size(layout), force=force)) for path in paths]
    layout = replace(layout, sha256=_write_sheets(joined, drafts[0], layout))
    for sheet in range(layout.sheets):
        payload = drafts[0].read_at(sheet * PAGE + HEAD_SIZE, BLOCK)
        for copy, first in ((_FIRST, 0), (_SECOND, layout.sheets + layout.groups)):
            page = pack_page(layout, layout.sheet_page(sheet, copy), payload)
            for draft in drafts:
                draft.write_at((first + sheet) * PAGE, page)
    _write_shards(joined, drafts, layout)
    return drafts


def _write_sheets(joined: Joined, draft: Draft, layout: Layout) -> bytes:
    """Each sheet in its place, still without a head; gives the SHA-256 of all volumes."""
    digest = hashlib.sha256()
    for sheet in range(layout.sheets):
        data = joined.read_at(sheet * SHEET * BLOCK, layout.sheet_blocks(sheet) * BLOCK)
        digest.update(data)
        draft.write_at(sheet * PAGE + HEAD_SIZE, pack_sheet(memoryview(data)))
    return digest.digest()


def _write_shards(joined: Joined, drafts: Sequence[Draft], layout: Layout) -> None:
    encoder = Encoder(layout.data, layout.parity)
    for first, count in spans(layout):
        runs = [
            joined.read_at((member * layout.groups + first) * BLOCK, count * BLOCK) for member in range(layout.data)
        ]
        for shard, blocks in enumerate(encoder.encode(runs)):
            view, number = memoryview(blocks), layout.parity_page(shard, first)
            pages = [pack_page(layout, number + i, view[i * BLOCK : (i + 1) * BLOCK]) for i in range(count)]
            drafts[shard].write_at((layout.sheets + first) * PAGE, b"".join(pages))


def spans(layout: Layout) -> Iterator[tuple[int, int]]:
    """All groups in runs that memory has room for: the first, and how many."""
    step = max(1, _MEMORY // ((layout.data + layout.parity) * BLOCK))
    return ((first, min(step, layout.groups - first)) for first in range(0, layout.groups, step))


class Spares(Parity):
    """The spares that are left. files: by shard."""

    def __init__(self, layout: Layout, files: dict[int, FileSource]) -> None:
        self._files = files
        super().__init__(next(iter(files.values())), layout, [(0, 0)])

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def is_sound(self) -> bool:
        """Reads all of them; one that is missing is damage too."""
        layout = self.layout
        if len(self._files) < layout.parity:
            return False
        shards = (self._page(layout.parity_page(q, g)) for q in range(layout.parity) for g in range(layout.groups))
        sheets = (
            self._in_file(file, layout.sheet_page(sheet, copy))
            for file in self._files.values()
            for copy in (_FIRST, _SECOND)
            for sheet in range(layout.sheets)
        )
        return all(page is not None for page in shards) and all(page is not None for page in sheets)

    def _pages(self, first: int, count: int) -> list[bytes | None]:
        return [self._page(number) for number in range(first, first + count)]

    def _page(self, number: int) -> bytes | None:
        found = (self._in_file(file, number) for file in self._files.values())
        return next((payload for payload in found if payload is not None), None)

    def _in_file(self, file: FileSource, number: int) -> bytes | None:
        at = _place(self.layout, number)
        return None if at is None else self._payload(number, memoryview(read_padded(file, at, PAGE)))


def _place(layout: Layout, number: int) -> int | None:
    """Where a page of a parity file lies in a spare; None if in none."""
    for copy, first in ((_FIRST, 0), (_SECOND, layout.sheets + layout.groups)):
        if 0 <= number - layout.sheet_page(0, copy) < layout.sheets:
            return (first + number - layout.sheet_page(0, copy)) * PAGE
    for shard in range(layout.parity):
        if 0 <= number - layout.parity_page(shard, 0) < layout.groups:
            return (layout.sheets + number - layout.parity_page(shard, 0)) * PAGE
    return None


def open_spares(paths: Sequence[str]) -> Spares:
    """Raises DamagedError if nothing is left of any, or they are of different sets."""
    files: dict[int, FileSource] = {}
    layouts: set[Layout] = set()
    for path in paths:
        try:
            source = FileSource(path)
        except SourceError:
            continue
        pages = list(_probe(source))
        layouts |= {page.layout for page in pages}
        shards = [shard for page in pages if (shard := _shard_of(page)) is not None]
        if shards:
            files[shards[0]] = source
        else:
            source.close()
    if len(layouts) != 1 or not files:
        for source in files.values():
            source.close()
        problem = "are of different sets" if len(layouts) > 1 else "are damaged beyond use"
        raise DamagedError(f"{', '.join(paths)}: {problem}")
    return Spares(layouts.pop(), files)


def _probe(source: Readable) -> Iterator[Page]:
    """Some of the sound pages of a spare."""
    whole = source.size // PAGE
    for number in sorted({whole * i // _PROBES for i in range(_PROBES)} | {whole - 1}) if whole else ():
        try:
            yield parse_page(read_padded(source, number * PAGE, PAGE))
        except FormatError:
            continue


def _shard_of(page: Page) -> int | None:
    layout = page.layout
    for shard in range(layout.parity):
        if 0 <= page.number - layout.parity_page(shard, 0) < layout.groups:
            return shard
    return None

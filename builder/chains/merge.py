"""`xtar merge`: one archive that needs no other, from a chain of copies and without the source."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import IO

import msgspec

from xtarfs.errors import BuildError, DamagedError, ElsewhereError, SourceError, UsageError
from xtarfs.format import codec
from xtarfs.format.locator import ROOM_FOR_LISTS, Base, Locator, Place
from xtarfs.reading.copies import Copy, in_order, read_copies
from xtarfs.reading.reader import Archive
from xtarfs.reading.tree import StructuredDirectory
from xtarfs.text import escape

from ..writing.layout import Layout
from ..writing.output import Output
from .chain import newest
from .transfer import Keep, copy_tree

_PIECE = 1 << 20
_IDENTIFIER = 67  # bytes that one takes in a list


def merge(
    paths: Sequence[str],
    destination: str,
    *,
    force: bool = False,
    work_dir: str = "",
    progress: Callable[[int, int], None] = lambda size, total: None,
) -> Locator:
    """Writes the tree of the newest of the archives, whole, as `destination`; gives what that says of itself.

    Archives of the chain that are not named are found beside the others. progress(bytes more, bytes in all) is called
    as files are copied. Raises UsageError and other XtarErrors, nothing being left under `destination` then.
    """
    copies, troubles = read_copies(paths)
    for error in troubles.values():
        raise error
    _refuse_doubles(copies)
    top = newest(copies)
    folders = sorted({os.path.dirname(path) or "." for path in paths})
    with Archive.open(top.path, others=[*paths, *folders]) as archive:
        _require_bases(archive)
        replaces = replaced(copies, archive)
        with Output(destination, force=force) as out:
            facts = write_copy(
                archive, out, work_dir, lambda size: progress(size, archive.tree.content_size), replaces=replaces
            )
            out.commit()
    return facts


def write_copy(
    archive: Archive,
    out: Output,
    work_dir: str,
    progress: Callable[[int], None],
    *,
    replaces: list[str],
    keep: Keep = lambda node: None,
    base: Callable[[], list[Base]] = list,
) -> Locator:
    """Writes the archive's tree, with the same origin, to `out`; what `keep` gives a record for stays where it is.

    replaces: the most important first; the last are left out if a locator cannot hold them. base() is asked for the
    archives that then hold data, when all records are written. Raises XtarError.
    """
    directory = archive.tree.directory(archive.root)
    facts = archive.tree.locator
    if facts is None or not isinstance(directory, StructuredDirectory):
        raise DamagedError(
            f"{archive.source.name}: has lost its locator or its root's structure; 'xtar repair' it first"
        )
    work_dir = work_dir or tempfile.gettempdir()
    try:
        layout = Layout(out, bytes.fromhex(directory.header().tag), work_dir)
        copy_tree(archive, layout, progress, keep)
        origin = _copied_origin(archive, tempfile.TemporaryFile(dir=work_dir))  # noqa: SIM115
    except OSError as error:
        raise BuildError(f"{out.path}: not written: {error.strerror or error}") from None
    others = [identifier for identifier in replaces if identifier != layout.identifier]
    bases = base()
    room = ROOM_FOR_LISTS - len(msgspec.json.encode(bases))
    return layout.finish(origin, base=bases, replaces=others[: max(room, 0) // _IDENTIFIER])


def _copied_origin(archive: Archive, spool: IO[bytes]) -> IO[bytes]:
    """The origin member's data in `spool`: this is the same copy, made when and where it was made."""
    source, place = archive.tree.origin or (archive.source, Place(0, 0, ""))
    for read in (source.read_at, lambda at, size: source.heal(at, size) or b""):
        crc = 0
        spool.seek(0)
        for offset in range(0, place.size, _PIECE):
            try:
                data = read(place.at + offset, min(_PIECE, place.size - offset))
            except SourceError:
                break
            spool.write(data)
            crc = codec.crc32(data, crc)
        if f"{crc:08x}" == place.crc32 and spool.tell() == place.size:
            return spool
    raise DamagedError(f"{archive.source.name}: its origin is damaged; 'xtar repair' it first")


def replaced(copies: Iterable[Copy], archive: Archive) -> list[str]:
    """Identifiers of the archives in whose place a merged one stands: its sources', and those that they replaced."""
    direct: list[str] = []
    inherited: list[str] = []
    for copy in in_order(list(copies)):
        direct += [copy.id, *sorted(copy.ids - {copy.id})]
        inherited += copy.facts.replaces
    direct += [identifier for identifier, _, _ in archive.holders()]
    return list(dict.fromkeys(direct + inherited))


def _refuse_doubles(copies: Sequence[Copy]) -> None:
    seen: dict[str, str] = {}
    for copy in copies:
        if len(copy.paths) > len(copy.ids - {copy.facts.set.id if copy.facts.set else ""}):
            what = "a volume of its set" if copy.facts.set else "the archive"
            raise UsageError(f"{copy.path}: {what} is named twice")
        if copy.id in seen:
            raise UsageError(f"{seen[copy.id]} and {copy.path}: are the same archive; name it once")
        seen[copy.id] = copy.path


def _require_bases(archive: Archive) -> None:
    """Raises ElsewhereError if any archive or volume that has data of the tree, or the tree itself, is missing."""
    facts = archive.tree.locator
    if facts and facts.set and archive.tree.identifier != facts.set.id:
        raise ElsewhereError(f"{archive.source.name}: needs the volume that has its set's catalogue; name it too")
    for identifier, name, there in archive.holders():
        if not there:
            raise ElsewhereError(
                f"{archive.source.name}: needs {escape(os.fsencode(name))} ({identifier[:12]}), which is not at hand; "
                "name it too"
            )

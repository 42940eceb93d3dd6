"""The Python interface of pybackup (Manuel Gutierrez Algaba, 2003), over the builder and the reader of today.

What was written for it runs as it stands:

    from builder.pybackup import finddirs

    finddirs().compressdir("test/")                  # test/.xtar
    finddirs().launch("test/.xtar", "e")             # its zips, flat in e
    finddirs().expandzipfiles("e")                   # the files, in their folders
    finddirs().storeDirStruct("test", "estructdir")
    finddirs().expandDirStruct("e", "estructdir")    # empty folders, modes, owners, times, links

Paths count from the current directory. Every method does what it can and gives the object back, so that calls chain;
what went wrong for single files is printed on stderr, a line each, and kept in `problems`. What cannot be done at all
raises an XtarError.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Self

import xtarfs
from xtarfs.console import complain
from xtarfs.errors import NotAnArchive, SourceError, UsageError
from xtarfs.format.records import FILE
from xtarfs.restoring.apply import apply
from xtarfs.restoring.structure_file import StructureFile, require_replaceable
from xtarfs.text import escape, show

from . import launched
from .building.build import Options, build
from .building.save import save
from .scanning.scan import Selection

ARCHIVE = ".xtar"


class finddirs:
    """What 2003 called its one class; each call then made a new one. problems: path and reason, of all calls so far."""

    def __init__(self) -> None:
        self.problems: list[tuple[bytes, str]] = []
        self._work_dir = ""
        self._excluded: list[str] = []

    def makeAlternateDir(self, path: str) -> Self:
        """Sets the folder for temporary data. In 2003 what lay in write-protected folders was packed there."""
        self._work_dir = path
        return self

    def setExcludeddirs(self, *names: str) -> Self:
        """Leaves out every folder of this name, at any depth, as in 2003; several names may be given today."""
        for name in names:
            if name in ("", ".", "..") or "/" in name or "\n" in name:
                raise UsageError(f"setExcludeddirs: {name!r} is not the name of a folder")
            self._excluded.append(re.sub(r"([\\*?\[\]!# ])", r"\\\1", name) + "/")
        return self

    def compressdir(self, directory: str) -> Self:
        """Backs a folder up as the `.xtar` in it, which replaces one of before and does not contain itself.

        In 2003 every subfolder got an `.xtar` of its own on the way, and permissions were lost. Today nothing else is
        written into the source, and its own time stays as it was.
        """
        destination = os.path.join(directory, ARCHIVE)
        _require_archive_or_nothing(destination)
        options = Options(selection=Selection(exclude=self._excluded), work_dir=self._work_dir, force=True)
        try:
            before = os.stat(directory)
        except OSError as error:
            raise SourceError(f"{directory}: {error.strerror}; give a directory to back up") from None
        try:
            result = build(directory, destination, options)
        finally:
            with contextlib.suppress(PermissionError):  # the owner alone may set times
                os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
        for path, reason in result.problems:
            self._fail(path, reason)
        return self

    def printcontent(self, archive: str, directory: str = "") -> Self:
        """Prints the path of everything in an archive, a line each, as it will lie below `directory`, as in 2003."""
        with xtarfs.open(archive) as opened:
            for node in opened.walk():
                print(escape(os.path.join(os.fsencode(directory), node.path)))
        return self

    def launch(self, archive: str, directory: str) -> Self:
        """Puts the zips of an archive and of all archives nested in it, flat, into `directory`: see `expandzipfiles`.

        In 2003, zips of one name from different folders overwrote each other; today the later ones get a number. What
        is no regular file has no zip: `expandDirStruct` makes folders, symlinks and further names of hard links.
        """
        with xtarfs.open(archive) as opened, launched.Launch(opened, directory) as flight:
            for node in opened.walk():
                if node.record.type == FILE and not node.record.link:
                    self._note(node.path, flight.put(node))
        return self

    def expandzipfiles(self, directory: str) -> Self:
        """Unpacks the zips that `launch` has put into `directory`, into their folders, and removes each one.

        In 2003 every zip there was expanded; today one that is a file of yours stays a zip, and so does one that is
        damaged or whose file exists already. Files get mode, owner and time back, folders with `expandDirStruct`.
        """
        for path, reason in launched.expand(directory):
            self._fail(path, reason)
        return self

    def storeDirStruct(self, directory: str, file: str) -> Self:
        """Writes the structure of a folder, its `.xtar` left out, as a file: `xtar struct save`.

        In 2003 it held the folders' names. Today all modes, owners, times and links as well.
        """
        require_replaceable(file)
        result = save(directory, file, force=True, besides=os.path.join(directory, ARCHIVE))
        for path, reason in result.problems:
            self._fail(path, reason)
        return self

    def expandDirStruct(self, directory: str, file: str) -> Self:
        """Makes the folders that `storeDirStruct` has seen, and sets what it noted of all: `xtar struct apply`.

        In 2003 it made the folders.
        """
        with StructureFile(file) as structure:
            apply(structure, directory, lambda path, what: None, self._fail)
        return self

    def _note(self, path: bytes, reason: str) -> None:
        if reason:
            self._fail(path, reason)

    def _fail(self, path: bytes, reason: str) -> None:
        self.problems.append((path, reason))
        complain(f"{show(path)}: {reason}")


def _require_archive_or_nothing(path: str) -> None:
    """Raises UsageError if there is something that no `compressdir` has made."""
    if os.path.lexists(path):
        try:
            xtarfs.open(path).close()
        except (NotAnArchive, SourceError):
            raise UsageError(f"{path}: exists and is not an archive; it is not replaced") from None

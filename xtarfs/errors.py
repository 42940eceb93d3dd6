"""The error tree. Every failure that a user can meet is one of these; the command line prints it as one line.

Only the mount code knows `errno`; nothing here does.
"""

from __future__ import annotations


class XtarError(Exception):
    """Base of all errors of this package. The message says what, where and what to do, in one line."""


class UsageError(XtarError):
    """The request makes no sense as given (bad size, bad option, refused overwrite)."""


class SourceError(XtarError):
    """The bytes could not be had: missing file, no permission, the medium failed."""


class FormatError(XtarError):
    """Bytes that are not what the format says they must be."""


class NotAnArchive(FormatError):
    """The file holds nothing that can be read as an archive."""


class DamagedError(FormatError):
    """Bytes of an archive that fail their checksum, or are missing.

    `ranges` are the half-open byte ranges of the file's content that cannot be had, where that is known.
    """

    def __init__(self, message: str, ranges: tuple[tuple[int, int], ...] = ()) -> None:
        super().__init__(message)
        self.ranges = ranges


class ElsewhereError(XtarError):
    """The data lies in another archive or volume that is not at hand."""


class NotFound(XtarError):
    """No such path inside the archive."""


class NotADirectory(XtarError):
    """A path inside the archive leads through something that is not a directory."""


class BuildError(XtarError):
    """An archive could not be written."""


class MountError(XtarError):
    """The mount could not be made, or not be ended."""

"""What a walk leaves out: gitignore-style patterns, folders that say they are caches, other file systems."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from xtarfs.errors import BuildError

CACHE_TAG, CACHE_SIGNATURE = b"CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55"


def add_exclude_options(options: argparse._ArgumentGroup) -> None:
    options.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        default=[],
        help="leave out what a gitignore-style pattern matches; a bare name matches at any depth",
    )
    options.add_argument("--exclude-from", metavar="FILE", action="append", default=[], help="patterns, one a line")
    options.add_argument("--exclude-caches", action="store_true", help="leave out folders with a CACHEDIR.TAG")
    options.add_argument("--one-file-system", action="store_true", help="do not enter other file systems")


def exclude_patterns(arguments: argparse.Namespace) -> list[str]:
    """The patterns of --exclude, then those of --exclude-from."""
    patterns = list(arguments.exclude)
    for path in arguments.exclude_from:
        patterns += os.fsdecode(read_list(path)).splitlines()
    return patterns


def read_list(path: str) -> bytes:
    """The content of a list that the user names; `-` is standard input."""
    if path == "-":
        return sys.stdin.buffer.read() if sys.stdin else b""
    with open(path, "rb") as file:
        return file.read()


def matcher(patterns: list[str]) -> Callable[[bytes, bool], bool] | None:
    """Whether a path, that of a directory or not, is left out; None where nothing is. Raises BuildError."""
    if not patterns:
        return None
    import re

    import pathspec

    try:
        spec = pathspec.GitIgnoreSpec.from_lines(patterns)
    except (ValueError, re.error) as error:
        raise BuildError(f"exclude pattern: {error}") from None
    return lambda path, is_directory: spec.match_file(os.fsdecode(path) + ("/" if is_directory else ""))


def is_cache(folder: int) -> bool:
    """Whether the open directory has a CACHEDIR.TAG with the signature of https://bford.info/cachedir/."""
    try:
        fd = os.open(CACHE_TAG, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return False
    try:
        return os.read(fd, len(CACHE_SIGNATURE)) == CACHE_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(fd)

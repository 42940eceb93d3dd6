"""The tree that every tool packs: whole folders of real files, copied until there are enough of them."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

ROOTS = ("/usr/include", "/usr/lib/python3", "/usr/share/doc")
_SEED = 2003

Content = dict[str, bytes]


def make(tree: Path, size: int, roots: tuple[str, ...] = ROOTS) -> Content:
    """Copies some `size` bytes of regular files to `tree` and gives their content by path.

    Folders are taken whole and in random order, as a folder's files resemble each other. Names are kept to printable
    ASCII, so that every tool's messages show them as they are.
    """
    content: Content = {}
    folders = [found for root in roots for found in os.walk(root)]
    folders.sort()
    random.Random(_SEED).shuffle(folders)
    for folder, _, names in folders:
        for name in sorted(names):
            source = os.path.join(folder, name)
            path = source.lstrip("/")
            if os.path.islink(source) or not os.path.isfile(source) or not (path.isascii() and path.isprintable()):
                continue
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
            content[path] = target.read_bytes()
            size -= len(content[path])
            if size <= 0:
                return content
    return content

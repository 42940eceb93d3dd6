"""Types of unpacker.c."""

from .format.tar import Mark
from .reading.tree import Node

def split(lines: bytes, path: bytes, longest: int, largest: int) -> list[tuple[bytes, int, int, int, int]]: ...

Run = tuple[bytes, int, bytes, Mark, int]

def check(runs: list[Run], raw: bytes, start: int) -> list[tuple[int, int]]: ...

Job = tuple[Node, int, bytes, int, int]

def restore(jobs: list[Job], raw: bytes, start: int, prefix: bytes) -> list[int]: ...

"""Types of unpacker.c."""

from .checking.check import Item
from .reading.tree import Node

def check(items: list[Item], raw: bytes, start: int) -> list[int]: ...

Job = tuple[Node, int, bytes, int, int]

def restore(jobs: list[Job], raw: bytes, start: int, prefix: bytes) -> list[int]: ...

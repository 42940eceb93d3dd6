"""Types of unpacker.c."""

from .check import Item

def check(items: list[Item], raw: bytes, start: int) -> list[Item]: ...

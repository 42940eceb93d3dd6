from typing import Any

from .adapter import Answers

class Session:
    def __init__(
        self,
        device: int,
        ended: int,
        answers: Answers,
        *,
        archive: int,
        size: int,
        root: tuple[int, int, int, int, int] | None,
        catalogue: int,
        cache: int,
        timeout: int,
        changes: bool,
        uid: int,
        gid: int,
        umask: int,
        owner: int,
    ) -> None: ...
    def start(self) -> None: ...
    def end(self, seconds: int, /) -> bool: ...
    @property
    def last_request(self) -> float: ...

def load_engine(library: str, /) -> bool: ...
def decode_block(block: bytes, header: bool, start: int, length: int, /) -> list[tuple[Any, ...]] | None: ...

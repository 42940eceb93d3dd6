"""Types of packer.c."""

Job = tuple[int, bytes, bytes, bytes, int, int, int, bytes, bytes, int, int, int]
Outcome = tuple[bytes, int, int, int, int, bytes, bytes, bytes, bytes]

def pack(jobs: list[Job], tag: bytes, level: int, chunk_size: int) -> list[Outcome | None]: ...
def pack_segment(data: bytes, level: int, chunk_size: int, final: bool) -> tuple[bytes, bytes, bytes] | None: ...

"""The structure of one directory as it grows, child by child."""

from __future__ import annotations

from msgspec import Struct, field

from xtarfs.format import codec
from xtarfs.format.records import FILE, Header, Record, to_line, to_text
from xtarfs.format.structure import FORMAT, Writer


class Section(Struct):
    """A directory's record, which counts what is below it, and the records of its children. path: below the root."""

    record: Record
    path: bytes
    lines: Writer = field(default_factory=Writer)
    children: int = 0
    subdirectories: int = 0

    def add(self, record: Record) -> None:
        """One more child, in ascending order of the bytes of their names."""
        files, content = (record.files, record.total) if record.is_dir else (0, 0)
        if record.type == FILE:
            files, content = 1, record.size
        self.subdirectories += record.is_dir
        self.add_line(record.raw_name, to_line(record), files, content)

    def add_line(self, name: bytes, line: bytes, files: int, content: int) -> None:
        """One more child, whose record is `line`, with so many files and bytes of content."""
        self.lines.add(name, line)
        self.children += 1
        self.record.files += files
        self.record.total += content

    def finish(self, tag: bytes) -> tuple[bytes, int]:
        """The structure file, whose digest the record gets; and the length of the index that ends it, 0 without."""
        self.record.nlink = 2 + self.subdirectories
        path, encoded = to_text(self.path)
        header = Header(
            xtar=FORMAT, tag=tag.hex(), path=path, path_b64=encoded, children=self.children, directory=self.record
        )
        data, index = self.lines.finish(header)
        self.record.sha256 = codec.sha256(data).hex()
        return data, index

"""A member as the compiled core finishes it: all of its record but its places is written already."""

from __future__ import annotations

from typing import NamedTuple


class Finished(NamedTuple):
    """A file's member, its record and its line in the origin.

    size: of the content. data, table: where in the member the packed data and the chunk table begin, which may be
    empty. attributes, packing, sums: the record's line, places being left out between them.
    """

    blob: bytes
    size: int
    data: int
    table: int
    table_length: int
    attributes: bytes
    packing: bytes
    sums: bytes
    origin: bytes

    @property
    def chunk_table(self) -> bytes:
        return self.blob[self.table : self.table + self.table_length]

    def line(self, at: int, table_copy: int) -> bytes:
        """The record's line, the member lying at `at` of its tar. table_copy: where the copy of its chunk table is."""
        text = b'%s,"at":%d,"data":%d%s' % (self.attributes, at, at + self.data, self.packing)
        if not self.table_length:
            return text + self.sums
        copy = b',"table_copy":%d' % table_copy if table_copy else b""
        return b'%s,"index":%d%s%s' % (text, at + self.table, copy, self.sums)

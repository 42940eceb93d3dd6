"""A second reader of sets of volumes, written from section 9 of docs/format.md on top of the second reader."""

import json
from collections.abc import Iterator
from copy import copy
from typing import Any

from .second_reader import Reader, Record, need, raw


class SetReader:
    """A set of volumes, all of them at hand: section 9.4."""

    def __init__(self, paths: list[Any]) -> None:
        self.readers = [Reader(path) for path in paths]
        self.by_id = {reader.locator["id"]: reader for reader in self.readers}
        self.source = copy(next(r for r in self.readers if self.facts(r)["catalogue"]["size"] > self.facts(r)["head"]))
        self.source.locator = {**self.source.locator, "catalogue": self.facts(self.source)["catalogue"]}
        for reader in self.readers:
            facts, start = self.facts(reader), reader.locator["set"]["catalogue"]["at"]
            need(facts["id"] == self.facts(self.source)["id"], "a volume of another set")
            volumes = json.loads(reader.block(start, facts["head"])[0])
            need(volumes[facts["number"] - 1] == reader.locator["id"] and len(volumes) == facts["count"], "the volumes")
        need(volumes == list(dict.fromkeys(volumes)) and set(volumes) == set(self.by_id), "not all of the set")

    @staticmethod
    def facts(reader: Reader) -> Record:
        return dict(reader.locator["set"])

    def walk(self) -> Iterator[tuple[bytes, Record]]:
        """(path, record) of everything, a directory before its children: V1, V2."""
        facts = self.facts(self.source)
        yield from self._walk(b"", facts["root"], facts["id"], facts["head"])

    def _walk(self, above: bytes, place: Record, digest: str, first: int) -> Iterator[tuple[bytes, Record]]:
        start = self.facts(self.source)["catalogue"]["at"]
        header, records, found = self.source.directory(start, {**place, "at": place["catalogue"]})
        need(raw(header, "path") == above.rstrip(b"/") and found == digest, "a structure of another directory")
        for record in records:
            path = above + raw(record, "name")
            yield path, record
            if record["type"] == "dir":
                below = record["structure"]
                end = below["catalogue"] + below["size"]
                need(first <= below["catalogue"] < end <= place["catalogue"], "a directory outside the one it is in")
                yield from self._walk(path + b"/", below, record["sha256"], first)
                first = end

    def content(self, record: Record) -> Iterator[bytes]:
        """9.1, 9.3."""
        if "elsewhere" in record:
            yield from self.by_id[record["elsewhere"]["archive"]].content(record, 0)
        for part in record.get("parts", ()):
            whole = {**record, "index": 0, **part}
            yield from self.by_id[part["archive"]].content(whole if whole["index"] else {**whole, "chunk": 0}, 0)

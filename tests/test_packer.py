"""The compiled packer against the Python that it stands in for: the same bytes, whatever the files."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import zlib
from itertools import accumulate, count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder import _packer
from builder.building.build import Options, build
from builder.writing import compress
from builder.writing.compress import Settings

from . import trees


@pytest.fixture(autouse=True)
def _fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def both(source: Path, tmp_path: Path, settings: Settings) -> tuple[bytes, bytes]:
    """The archive of a tree as the compiled core and as Python writes it."""
    archives = []
    for core in (_packer, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("builder.writing.packer._core", core)
            patch.setattr("builder.writing.compress._core", core)
            path = tmp_path / f"{core is None}.xtar"
            assert build(str(source), str(path), Options(settings, force=True)).problems == []
            archives.append(path.read_bytes())
    return archives[0], archives[1]


@pytest.mark.parametrize("settings", [Settings(), Settings(1, 4096), Settings(9, 1 << 20)], ids=str)
def test_bytes_do_not_depend_on_the_core(menagerie: Path, tmp_path: Path, settings: Settings) -> None:
    compiled, interpreted = both(menagerie, tmp_path, settings)
    assert compiled == interpreted


@pytest.mark.parametrize("level", [1, 4, 5, 6, 9])
def test_mixed_content(tmp_path: Path, level: int) -> None:
    """What hardly shrinks makes an engine change its mind in the midst of a chunk."""
    source = tmp_path / "source"
    source.mkdir()
    rng = random.Random(level)
    for number in range(24):
        text = trees.words(rng.randrange(1 << 18), number)
        packed = zlib.compress(trees.words(rng.randrange(1 << 20), number))
        trees.write(source / f"{number}", packed + text[: rng.randrange(1 << 15)] + packed[::-1])
    for size in (0, 1, 2, (1 << 20) - 1, 1 << 20, (5 << 19) + 1):
        trees.write(source / f"size-{size}", trees.words(size))
    compiled, interpreted = both(source, tmp_path, Settings(level))
    assert compiled == interpreted


_ALPHABETS = (b"\0", b"ab", b"etaoin shrdlu\n", bytes(range(256)))


@given(
    st.lists(st.tuples(st.sampled_from(_ALPHABETS), st.integers(0, 20_000), st.integers()), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(4096, 1 << 16),
    st.booleans(),
)
@settings(deadline=None)
def test_segments_do_not_depend_on_the_core(
    stretches: list[tuple[bytes, int, int]], level: int, chunk_size: int, final: bool
) -> None:
    """Content that changes its nature: blocks of all kinds, ends at every bit."""
    data = b"".join(bytes(random.Random(seed).choices(letters, k=size)) for letters, size, seed in stretches) or b"x"
    compiled = compress.pack_segment(data, chunk_size, level, final=final, deflate=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builder.writing.compress._core", None)
        assert compress.pack_segment(data, chunk_size, level, final=final, deflate=True) == compiled
    assert zlib.decompressobj(-15).decompress(compiled.data) == data
    ends = list(accumulate(compiled.sizes))
    for start, end, at in zip([0, *ends], ends, count(0, chunk_size), strict=False):
        assert zlib.decompressobj(-15).decompress(compiled.data[start:end]) == data[at : at + chunk_size]


def test_times_and_owners(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rng = random.Random(3)
    seconds = [-1, 0, 1, 315532799, 315532800, 951782399, 951868799, 4107542399, 2**31 - 1, 2**31, 2**33]
    for number, second in enumerate(seconds + [rng.randrange(2**31) for _ in range(60)]):
        path = source / f"{number}"
        trees.write(path, b"x", 0o644 | rng.randrange(8) << 9, second * 10**9 + rng.randrange(10**9))
        if os.geteuid() == 0:
            os.chown(path, rng.choice((0, 1, 12345, 2**21, 2**31)), rng.choice((0, 4, 2**21 - 1)))
    compiled, interpreted = both(source, tmp_path, Settings())
    assert compiled == interpreted


_NAMES = st.binary(min_size=1, max_size=100) | st.text(min_size=1, max_size=30).map(
    lambda text: text.encode("utf-8", "replace")
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    folder=_NAMES,
    files=st.dictionaries(_NAMES, st.tuples(st.integers(0, 10**19), st.integers(0, 3)), min_size=1, max_size=8),
)
def test_names_and_further_names(tmp_path: Path, folder: bytes, files: dict[bytes, tuple[int, int]]) -> None:
    """What JSON escapes, and what is no UTF-8, in names and in the paths above them."""
    source = Path(tempfile.mkdtemp(dir=tmp_path))
    below = os.fsencode(source) + b"/" + _possible(folder)
    os.mkdir(below)
    for name, (time, further) in files.items():
        path = below + b"/" + _possible(name)
        with open(path, "wb") as file:
            file.write(name * 3)
        for number in range(further):
            with contextlib.suppress(FileExistsError):
                os.link(path, below + b"/+%d-" % number + _possible(name)[:90])
        os.utime(path, ns=(0, time))
    compiled, interpreted = both(source, tmp_path, Settings())
    assert compiled == interpreted


def _possible(name: bytes) -> bytes:
    return name.translate(None, b"/\0").strip(b".") or b"empty"


def test_plain_files_need_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        trees.write(source / f"\N{SNOWMAN}{number}", trees.words(number * 1000))

    def refuse(*_: object) -> None:
        raise AssertionError("a plain file was left to Python")

    monkeypatch.setattr("builder.writing.packer.store_small", refuse)
    assert build(str(source), str(tmp_path / "out.xtar"), Options()).files == 40


@pytest.mark.parametrize("settings", [(0, 32768), (13, 32768), (6, 4095)])
def test_core_refuses_impossible_settings(settings: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        _packer.pack([], b"sixsix", *settings)
    with pytest.raises(ValueError):
        _packer.pack_segment(b"x", *settings, True)
    with pytest.raises(ValueError):
        _packer.pack([], b"five5", 6, 32768)


def test_core_refuses_what_is_no_job() -> None:
    for nothing in (None, ()):
        with pytest.raises(TypeError):
            _packer.pack([nothing], b"sixsix", 6, 32768)  # type: ignore[list-item]

"""The terminal: one-line errors, exit codes, progress, JSON documents."""

from __future__ import annotations

import argparse
import io
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any, NoReturn, Protocol

from .errors import XtarError

DONE, PARTLY, NOT_DONE = 0, 1, 2
_INTERRUPTED = 130


class _Help(argparse.HelpFormatter):
    """As wide as the terminal. argparse asks shutil how wide that is, and loads it even where no help is wanted."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width() - 2)


@cache
def _width() -> int:
    """Columns, as COLUMNS says or the terminal."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size().columns or 80
    except OSError:
        return 80


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": _Help} | options)

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; see '{self.prog} --help'")
        sys.exit(NOT_DONE)


class Commands(Protocol):
    """What argparse gives to add subcommands to."""

    def add_parser(self, name: str, *, help: str) -> Parser: ...


def complain(message: str) -> None:
    """One line on stderr, whatever a name in it may contain."""
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)
    print(f"xtar: {text.encode('utf-8', 'replace').decode()}", file=sys.stderr)


def run(command: Callable[[], int]) -> int:
    """The exit code of a command; its errors become one line."""
    _prepare_output()
    signal.signal(signal.SIGTERM, _terminate)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a tree is walked with a descriptor per level open
    try:
        code = command()
        sys.stdout.flush()
        return code
    except XtarError as error:
        complain(str(error))
        return NOT_DONE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return NOT_DONE
    except KeyboardInterrupt:
        complain("interrupted")
        return _INTERRUPTED
    except OSError as error:
        complain(f"{error.filename or 'input or output'}: {error.strerror or error}")
        return NOT_DONE
    except Exception as error:
        if os.environ.get("XTAR_TRACEBACK"):
            raise
        complain(f"internal error: {type(error).__name__}: {error}; please report what XTAR_TRACEBACK=1 shows")
        return NOT_DONE


def _prepare_output() -> None:
    """Names and JSON are UTF-8 whatever the locale says; a closed output is not an error of ours."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


class Advance(Protocol):
    """Tells a progress bar of bytes, or other units, done, and of a total learned meanwhile."""

    def __call__(self, size: int, total: int = 0) -> None: ...


@contextmanager
def progress(what: str, total: int = 0, unit: str = "B") -> Iterator[Advance]:
    """A bar with rate and time left on a terminal, nothing elsewhere. Yields advance(units[, new total])."""
    if not sys.stderr.isatty():
        yield lambda size, total=0: None
        return
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # its thread would keep extract and verify from forking
    with tqdm(desc=what, total=total or None, unit=unit, unit_scale=True, leave=False, file=sys.stderr) as bar:

        def advance(size: int, total: int = 0) -> None:
            bar.total = total or bar.total
            bar.update(size)

        yield advance


def print_json(document: Any) -> None:
    import json  # here and below: most commands print none

    print(json.dumps(document, ensure_ascii=False))


def print_json_list(key: str, rows: Iterable[Any], facts: Mapping[str, Any] | None = None) -> None:
    """`{FACTS, "key": [...]}` written row by row, so that a long list takes no memory."""
    import json

    write = sys.stdout.write
    write("{" + "".join(f"{json.dumps(fact)}: {json.dumps(value)}, " for fact, value in (facts or {}).items()))
    write(f'"{key}": [')
    for number, row in enumerate(rows):
        write(",\n" if number else "\n")
        write(json.dumps(row, ensure_ascii=False))
    write("\n]}\n")


def human_size(size: float) -> str:
    """Decimal units, three digits: `115 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError

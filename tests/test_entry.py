"""How a command begins and ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = "import os, signal, sys; from xtarfs.entry import enter\n"


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BEGIN + script], capture_output=True, text=True, check=False)


def test_ctrl_c_while_modules_are_imported_gives_one_line() -> None:
    done = run("enter(lambda: signal.raise_signal(signal.SIGINT))")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "xtar: interrupted\n")


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_was_printed_arrives_and_the_exit_code_is_that_of_main(code: int) -> None:
    done = run(f"def main():\n    print('x' * 100000)\n    return {code}\nenter(lambda: main)")
    assert (done.returncode, done.stdout, done.stderr) == (code, "x" * 100000 + "\n", "")


def test_a_closed_output_is_no_trouble() -> None:
    done = run("enter(lambda: lambda: print('x') or os.close(1) or 2)")
    assert (done.returncode, done.stderr) == (2, "")


def test_nothing_that_takes_time_is_imported_where_ctrl_c_is_not_caught() -> None:
    script = (
        "import sys, builder.entry; print(*{'argparse', 'json', 'msgspec', 'builder.commands.cli'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

"""Where the command `xtar` starts."""

from __future__ import annotations

from xtarfs.entry import TYPE_CHECKING, enter

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


def xtar() -> NoReturn:
    """The command `xtar`."""

    def load() -> Callable[[], int]:
        from .commands.cli import main

        return main

    enter(load)

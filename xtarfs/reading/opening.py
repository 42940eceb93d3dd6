"""From a path to a source: the file, healing as it is read if its parity lies beside it."""

from __future__ import annotations

import os

from ..errors import XtarError
from ..source import FileSource, Source


def with_parity(source: FileSource) -> tuple[Source, str]:
    """The source, healing if a parity file lies beside it; and what is wrong with that, if anything."""
    if not os.path.exists(source.name + ".rec"):
        return source, ""
    from ..parity.align import is_stale
    from ..parity.heal import HealingSource
    from ..parity.parity_file import open_parity

    try:
        parity = open_parity(source.name)
        if parity is None:
            return source, ""
        if is_stale(source, parity):
            parity.close()
            return source, "parity is not used: it is of another archive; 'xtar protect --force' makes it anew"
        return HealingSource(source, parity), ""
    except XtarError as error:
        return source, f"parity is not used: {error}"

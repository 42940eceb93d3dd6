"""The options of `xtar build` that spread an archive over volumes."""

from __future__ import annotations

import argparse
import os


def add_volume_options(parser: argparse.ArgumentParser) -> None:
    volumes = parser.add_argument_group("volumes")
    volumes.add_argument(
        "--volume-size", metavar="SIZE", help="write OUT.001.xtar, OUT.002.xtar, ..., none longer than SIZE: 650M, 4.7G"
    )
    volumes.add_argument(
        "--spare-volumes",
        metavar="N",
        type=int,
        default=0,
        help="also write OUT.spare1.rec, ..., each longer than a volume: they bring back any N volumes that are lost",
    )


def check_volumes(arguments: argparse.Namespace) -> int:
    """The most bytes of a volume; 0 if there are to be none. Raises UsageError."""
    from xtarfs.errors import UsageError
    from xtarfs.format.numbers import parse_size
    from xtarfs.reading.volume_names import MOST_WITH_SPARES, parity_beside, stem_of

    spares = arguments.spare_volumes
    if not 0 <= spares < MOST_WITH_SPARES:
        raise UsageError(f"--spare-volumes {spares}: must be between 1 and {MOST_WITH_SPARES - 1}")
    if arguments.volume_size is None:
        if spares:
            raise UsageError("--spare-volumes: says how many volumes may be lost; give --volume-size as well")
        return 0
    size = parse_size(arguments.volume_size)
    if not size:
        raise UsageError(f"--volume-size {arguments.volume_size}: must be more than nothing")
    parity = parity_beside(stem_of(arguments.output))
    if parity and arguments.redundancy is not None and not arguments.force:
        raise UsageError(f"{parity[0]}: exists already; --force replaces it")
    return size


def tell_volumes(paths: list[str], spares: int) -> None:
    names = os.path.basename(paths[0]) + (f" to {os.path.basename(paths[-1])}" if len(paths) > 1 else "")
    print(f"{len(paths)} volume{'s' * (len(paths) > 1)}, {names}" + (f", and {spares} to spare" if spares else ""))

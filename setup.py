"""The compiled parts. Each is optional: without a compiler the Python that it stands in for does the same, slower."""

import sys
from glob import glob

from setuptools import Extension, setup

_HEADERS = ["builder/blocks.h", "xtarfs/engines.h", "xtarfs/layout.h", "xtarfs/facts.h"]
_CORES = (
    Extension("builder._packer", ["builder/packer.c"], depends=_HEADERS, optional=True),
    Extension("xtarfs._unpacker", ["xtarfs/unpacker.c"], depends=_HEADERS, optional=True),
)
_LOOP = Extension(
    "xtarfs.native.loop",
    sorted(glob("xtarfs/native/*.c")),
    depends=glob("xtarfs/native/*.h"),
    extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra"],
    optional=True,
)

setup(ext_modules=[*_CORES, _LOOP] if sys.platform == "linux" else list(_CORES))

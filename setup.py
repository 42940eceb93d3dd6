"""The compiled parts. Each is optional: without a compiler the Python that it stands in for does the same, slower."""

import sys
from glob import glob

from setuptools import Extension, setup

_HEADERS = [*glob("builder/*.h"), *glob("xtarfs/*.h"), *glob("xtarfs/native/*.h")]
_LINES = ["xtarfs/native/fields.c", "xtarfs/native/json.c"]
_CORES = (
    Extension("builder._packer", ["builder/packer.c"], depends=_HEADERS, optional=True),
    Extension("xtarfs._unpacker", ["xtarfs/unpacker.c", *_LINES], depends=_HEADERS, optional=True),
)
_LOOP = Extension(
    "xtarfs.native.loop",
    sorted(glob("xtarfs/native/*.c")),
    depends=_HEADERS,
    extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra"],
    optional=True,
)

setup(ext_modules=[*_CORES, _LOOP] if sys.platform == "linux" else list(_CORES))

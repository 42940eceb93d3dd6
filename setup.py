"""The compiled parts. All of them are optional: without a compiler the package installs, and works in pure Python."""

import sys
from glob import glob

from setuptools import Extension, setup

NATIVE = Extension(
    "xtarfs.native.loop",
    sorted(glob("xtarfs/native/*.c")),
    depends=glob("xtarfs/native/*.h"),
    extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra"],
    optional=True,
)
EXTENSIONS = (NATIVE,) if sys.platform == "linux" else ()

setup(ext_modules=list(EXTENSIONS))

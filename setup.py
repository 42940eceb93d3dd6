"""The compiled cores. Each is optional: without a compiler the Python that it stands in for does the same, slower."""

from setuptools import Extension, setup

CORES = (("builder._packer", ["builder/packer.c"], ["xtarfs/engines.h", "xtarfs/layout.h"]),)

setup(
    ext_modules=[
        Extension(name, sources, depends=headers, optional=True, extra_compile_args=["-O2"])
        for name, sources, headers in CORES
    ]
)

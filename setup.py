"""The compiled cores. Each is optional: without a compiler the Python that it stands in for does the same, slower."""

from setuptools import Extension, setup

HEADERS = ["xtarfs/engines.h", "xtarfs/layout.h", "xtarfs/facts.h"]
CORES = (
    Extension("builder._packer", ["builder/packer.c"], depends=HEADERS, optional=True),
    Extension("xtarfs._unpacker", ["xtarfs/unpacker.c"], depends=HEADERS, optional=True),
)

setup(ext_modules=list(CORES))

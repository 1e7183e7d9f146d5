# The kernels of level.pxi, compiled for the CPU level this file is named after (flags: setup.py).
include "level.pxi"

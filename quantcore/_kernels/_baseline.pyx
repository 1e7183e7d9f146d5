# The kernels of kernels.pxi, compiled for the CPU level this file is named after (flags: setup.py).
include "kernels.pxi"

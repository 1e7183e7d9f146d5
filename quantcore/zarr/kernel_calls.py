"""How every kernel is called for a chunk."""

from typing import Any

import numpy as np

ONE_THREAD = 1
"""zarr and Dask run several chunks at the same time."""


def decoded_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What the kernels decode to for an array of a dtype: values of codes are float32, so float64 comes from those."""
    native = dtype.newbyteorder("=")
    return native if native.itemsize <= 4 else np.dtype(np.float32)

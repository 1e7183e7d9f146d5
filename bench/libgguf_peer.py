"""libgguf as a peer: ggml's block formats from Python, by scalar code, in one thread."""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

UNKNOWN_THERE = ("Q2_0",)


def is_installed() -> bool:
    """Whether it is there."""
    return find_spec("libgguf") is not None


def quantize(
    values: NDArray[np.float32], type_id: int, out: NDArray[np.uint8], weights: NDArray[np.float32] | None
) -> Callable[[], object]:
    """Its function that writes to memory which is there."""
    import libgguf

    return lambda: libgguf.quantize_rows_into_raw(type_id, values, out, *values.shape, weights)


def dequantize(data: NDArray[np.uint8], type_id: int, out: NDArray[np.float32]) -> Callable[[], object]:
    """Its function that writes to memory which is there."""
    import libgguf

    return lambda: libgguf.dequantize_rows_into_raw(type_id, data, out, *out.shape)

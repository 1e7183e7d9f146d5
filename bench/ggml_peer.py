"""Genuine ggml as a peer: its reference kernels on our arrays, rows shared out to threads as llama-quantize does."""

import ctypes
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.roofline import in_threads
from tests.support import ggml

ROW = 4096


def quantize(
    values: NDArray[np.float32],
    type_id: int,
    out: NDArray[np.uint8],
    n_threads: int,
    weights: NDArray[np.float32] | None = None,
) -> Callable[[], None]:
    """`ggml_quantize_chunk` over all rows, with weights of columns if given."""
    chunk = ggml.library().ggml_quantize_chunk
    ggml.library().ggml_quantize_init(type_id)
    rows = values.size // ROW

    def part(i: int) -> None:
        first, last = rows * i // n_threads, rows * (i + 1) // n_threads
        importance = None if weights is None else weights.ctypes.data
        chunk(type_id, values.ctypes.data, out.ctypes.data, first * ROW, last - first, ROW, importance)

    return lambda: in_threads(part, n_threads)


def dequantize(data: NDArray[np.uint8], type_id: int, out: NDArray[np.float32], n_threads: int) -> Callable[[], None]:
    """The type's `to_float` over all rows."""
    to_float = ggml.traits(type_id).to_float
    rows = out.size // ROW
    row_bytes = data.size // rows

    def part(i: int) -> None:
        first, last = rows * i // n_threads, rows * (i + 1) // n_threads
        to_float(
            ctypes.c_void_p(data.ctypes.data + first * row_bytes),
            ctypes.c_void_p(out.ctypes.data + first * ROW * 4),
            ctypes.c_int64((last - first) * ROW),
        )

    return lambda: in_threads(part, n_threads)

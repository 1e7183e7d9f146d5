"""Types of the compiled kernels; one stub serves every CPU level."""

import numpy as np
from numpy.typing import NDArray

HISTOGRAM_BINS: int
LEVEL: str
SUPPORTED_LEVELS: tuple[str, ...]

class Chunks:
    def __init__(self, total: int, size: int, goes_on: bool = False) -> None: ...
    def cancel(self) -> None: ...
    @property
    def first_bad(self) -> int: ...
    @property
    def is_done(self) -> bool: ...

def block_sizes() -> dict[int, tuple[int, int]]: ...
def quantize_blocks(
    type_id: int, values: NDArray[np.uint8], dtype: int, out: NDArray[np.uint8], chunks: Chunks, most: int
) -> None: ...
def dequantize_blocks(
    type_id: int, data: NDArray[np.uint8], out: NDArray[np.uint8], dtype: int, chunks: Chunks, most: int
) -> None: ...
def walk_strings(buffer: bytes | bytearray, offset: int, n_strings: int) -> tuple[int, int]: ...
def quantize_nibbles(
    values: NDArray[np.uint8],
    dtype: int,
    block_size: int,
    quant_type: int,
    tree: NDArray[np.float32],
    scales: NDArray[np.float32],
    out: NDArray[np.uint8],
    chunks: Chunks,
    most: int,
) -> None: ...
def quantize_nibbles_linear(
    values: NDArray[np.uint8],
    dtype: int,
    block_size: int,
    quant_type: int,
    tree: NDArray[np.float32],
    super_block_size: int,
    scales: NDArray[np.uint8],
    super_scales: NDArray[np.float32],
    out: NDArray[np.uint8],
    chunks: Chunks,
    most: int,
) -> None: ...
def dequantize_nibbles(
    data: NDArray[np.uint8],
    block_size: int,
    scales: NDArray[np.float32],
    table: NDArray[np.float32],
    out: NDArray[np.uint8],
    dtype: int,
    chunks: Chunks,
    most: int,
) -> None: ...
def nearest_codes(
    x: NDArray[np.float32], inverse: float, tree: NDArray[np.float32], out: NDArray[np.uint8]
) -> None: ...

_Layout = tuple[int, int, int, int]

def extremes_of_groups(
    values: NDArray[np.uint8],
    dtype: int,
    layout: _Layout,
    lowest: NDArray[np.int32],
    highest: NDArray[np.int32],
    chunks: Chunks,
    most: int,
) -> None: ...
def extremes_of_columns(
    values: NDArray[np.uint8],
    dtype: int,
    width: int,
    lowest: NDArray[np.int32],
    highest: NDArray[np.int32],
    chunks: Chunks,
    most: int,
) -> None: ...
def quantize_groups(
    values: NDArray[np.uint8],
    dtype: int,
    layout: _Layout,
    parameters: NDArray[np.float32],
    out: NDArray[np.uint8],
    chunks: Chunks,
    most: int,
) -> None: ...
def quantize_columns(
    values: NDArray[np.uint8],
    dtype: int,
    parameters: NDArray[np.float32],
    out: NDArray[np.uint8],
    chunks: Chunks,
    most: int,
) -> None: ...
def dequantize_groups(
    codes: NDArray[np.uint8],
    is_signed: bool,
    layout: _Layout,
    parameters: NDArray[np.float32],
    out: NDArray[np.uint8],
    dtype: int,
    chunks: Chunks,
    most: int,
) -> None: ...
def dequantize_columns(
    codes: NDArray[np.uint8],
    is_signed: bool,
    parameters: NDArray[np.float32],
    out: NDArray[np.uint8],
    dtype: int,
    chunks: Chunks,
    most: int,
) -> None: ...
def clear_histograms(grids: NDArray[np.int32]) -> None: ...
def merge_histograms(
    grids: NDArray[np.int32],
    counts: NDArray[np.uint32] | NDArray[np.uint64],
    other_grids: NDArray[np.int32],
    other_counts: NDArray[np.uint32] | NDArray[np.uint64],
) -> None: ...
def count_values(
    values: NDArray[np.uint8],
    dtype: int,
    grids: NDArray[np.int32],
    counts: NDArray[np.uint64],
    chunks: Chunks,
    most: int,
) -> None: ...
def count_channels(
    values: NDArray[np.uint8],
    dtype: int,
    outer: int,
    inner: int,
    grids: NDArray[np.int32],
    counts: NDArray[np.uint32] | NDArray[np.uint64],
    chunks: Chunks,
    most: int,
) -> None: ...
def count_halves(
    values: NDArray[np.uint8],
    dtype: int,
    uppers: NDArray[np.uint32],
    counts: NDArray[np.uint32],
    chunks: Chunks,
    most: int,
) -> bool: ...

_Buffer = tuple[NDArray[np.uint8] | None, int]

def fake_quantize_groups(
    work: int,
    values: _Buffer,
    grads: _Buffer,
    out: _Buffer,
    parameters: NDArray[np.float32],
    sums: NDArray[np.float64] | None,
    layout: _Layout,
    chunks: Chunks,
    most: int,
) -> None: ...
def fake_quantize_columns(
    work: int,
    values: _Buffer,
    grads: _Buffer,
    out: _Buffer,
    parameters: NDArray[np.float32],
    sums: NDArray[np.float64] | None,
    chunks: Chunks,
    most: int,
) -> None: ...
def error_chunk() -> int: ...
def errors_of_pairs(
    x: NDArray[np.uint8],
    x_dtype: int,
    y: NDArray[np.uint8],
    y_dtype: int,
    threshold: float,
    sums: NDArray[np.float64],
    chunks: Chunks,
    most: int,
) -> None: ...
def errors_of_affine(
    values: NDArray[np.uint8],
    dtype: int,
    layout: _Layout,
    is_in_columns: bool,
    parameters: NDArray[np.float32],
    threshold: float,
    sums: NDArray[np.float64],
    chunks: Chunks,
    most: int,
) -> None: ...

"""Types of the compiled kernels; one stub serves every CPU level."""

import numpy as np
from numpy.typing import NDArray

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

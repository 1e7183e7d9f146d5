"""Types of the compiled kernels; one stub serves every CPU level."""

import numpy as np
from numpy.typing import NDArray

LEVEL: str
SUPPORTED_LEVELS: tuple[str, ...]

class Chunks:
    def __init__(self, total: int, size: int) -> None: ...
    def cancel(self) -> None: ...
    @property
    def first_bad(self) -> int: ...

def block_sizes() -> dict[int, tuple[int, int]]: ...
def quantize_blocks(
    type_id: int, values: NDArray[np.uint8], dtype: int, out: NDArray[np.uint8], chunks: Chunks
) -> None: ...
def dequantize_blocks(
    type_id: int, data: NDArray[np.uint8], out: NDArray[np.uint8], dtype: int, chunks: Chunks
) -> None: ...

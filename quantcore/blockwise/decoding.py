"""4-bit codes to floats, and the unit in which blocks are handed out to threads."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base import arrays, parallel
from quantcore.blockwise.codebooks import CODEBOOKS


def decode_into(
    data: NDArray[np.uint8],
    scales: NDArray[np.float32],
    block_size: int,
    quant_type: str,
    out: NDArray[Any],
    element_type: int,
    n_threads: int | None,
) -> None:
    """Decode a flat run of elements that begins with a block into the bytes of `out`."""
    table = CODEBOOKS[quant_type].table
    itemsize = arrays.ITEMSIZES[element_type]
    parallel.run(
        _kernels.DequantizeNibbles(data, block_size, scales, table, out, element_type),
        out.nbytes // itemsize,
        itemsize,
        n_threads,
        unit=unit_of(block_size),
    )


def unit_of(block_size: int) -> int:
    """The unit in which elements are handed out to threads: whole blocks of at least 4096 elements together."""
    return max(block_size, 4096)

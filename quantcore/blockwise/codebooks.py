"""The code tables: NF4 and FP4 of bitsandbytes, int4, and the signed 8-bit dynamic map of bitsandbytes' scales.

NF4's values are quantiles of the normal distribution (Dettmers et al., QLoRA, 2023); the dynamic map is the 8-bit
dynamic data type of Dettmers, 8-Bit Approximations for Parallelism in Deep Learning (2015).
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays

__all__ = [
    "BITSANDBYTES_CODES",
    "CODEBOOKS",
    "Codebook",
    "check_block_size",
    "check_scale_code",
    "codebook_of",
    "dynamic_cells",
    "dynamic_map",
]


@dataclass(frozen=True, eq=False)
class Codebook:
    """A 4-bit code: `id` is its number in the kernels, `table` has its 16 values in units of the block's scale."""

    name: str
    id: int
    table: NDArray[np.float32]
    is_in_bitsandbytes: bool = True

    @cached_property
    def midpoints(self) -> NDArray[np.float32]:
        """The midpoints between neighbouring values of the table, ascending."""
        return arrays.seal(_midpoints(np.sort(self.table)))


def _midpoints(ascending: NDArray[np.float32]) -> NDArray[np.float32]:
    middles: NDArray[np.float32] = (ascending[:-1] + ascending[1:]) / np.float32(2)
    return middles


@cache
def dynamic_map() -> NDArray[np.float32]:
    """The 256 values of the signed 8-bit dynamic map, sorted: decades of growing resolution from 1e-6 to 1."""
    positive = []
    for decade in range(7):
        n_steps = 2**decade
        start = np.float64(np.float32(0.1))
        step = np.float64(np.float32(np.float32(1) - np.float32(0.1)) / np.float32(n_steps))
        index = np.arange(n_steps + 1)
        # Computed from both ends, each value rounded once to float32, as torch.linspace computes the boundaries.
        boundaries = np.where(index < (n_steps + 1) // 2, start + step * index, 1.0 - step * (n_steps - index)).astype(
            np.float32
        )
        means = (boundaries[:-1] + boundaries[1:]) / np.float32(2)
        positive.append(np.float32(10.0 ** (decade - 6)) * means)
    magnitudes = np.concatenate(positive)
    values = np.sort(np.concatenate([-magnitudes, np.zeros(1, np.float32), magnitudes, np.ones(1, np.float32)]))
    return arrays.seal(values)


@cache
def dynamic_cells() -> NDArray[np.int32]:
    """A table that gives the nearest value of the dynamic map in one look-up (see `_kernels/passes/blockwise.pxd`).

    The floats from -1 to 1, except magnitudes below 2**-22, are numbered in order; 2**17 consecutive ones form a cell.
    """
    lowest, highest, cell = 0x34800000, 0x3F800000, 1 << 17
    bits = _midpoints(dynamic_map()).view(np.int32)
    midpoints = ((bits & 0x7FFFFFFF) - lowest) ^ (bits >> 31)
    n_cells = (highest - lowest) // cell + 1  # of each sign
    first_places = np.arange(-n_cells, n_cells) * cell
    codes = np.searchsorted(midpoints, first_places)
    next_places = np.append(midpoints, highest)[codes] - first_places
    cells = codes * cell + np.where(next_places < cell, cell - 1 - next_places, 0)
    return arrays.seal(cells.astype(np.int32))


def codebook_of(quant_type: Any) -> Codebook:
    """A code by its name in any case."""
    return CODEBOOKS[arguments.choice(quant_type, "quant_type", CODEBOOKS)]


def check_scale_code(scale_code: Any) -> str:
    """The name of a code of scales, given in any case."""
    return arguments.choice(scale_code, "scale_code", ("linear", "dynamic"))


def check_block_size(value: Any, name: str) -> int:
    """Check a block size, of elements or of scales: a power of two from 32 to 4096."""
    return arguments.power_of_two(value, name, 32, 4096)


def _table(*values: float) -> NDArray[np.float32]:
    return arrays.seal(np.array(values, np.float32))


CODEBOOKS: dict[str, Codebook] = {
    "int4": Codebook("int4", 0, _table(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1), False),
    "nf4": Codebook(
        "nf4",
        2,
        _table(
            -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
            -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
            0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
        ),
    ),
    "fp4": Codebook(
        "fp4",
        1,
        _table(
            0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25,
            0.0, -0.0052083334885537624, -0.6666666865348816, -1.0, -0.3333333432674408, -0.5, -0.1666666716337204,
            -0.25,
        ),
    ),
}  # fmt: skip
"""The 4-bit codes by name."""

BITSANDBYTES_CODES = tuple(code.name for code in CODEBOOKS.values() if code.is_in_bitsandbytes)
"""The names of those that bitsandbytes has too, and that its checkpoints are stored in."""

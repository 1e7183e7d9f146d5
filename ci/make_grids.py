"""Write `quantcore/_kernels/tables/grids.h`: the grids of ggml's IQ1, IQ2 and IQ3 types, as gguf-py knows them.

A grid is a set of points, each 8 digits (0 to 2) or 4 digits (0 to 7). The digits, the first one lowest, are the
point's number; points are in ascending order of their numbers, and a point's index is its place in that order. So one
bit for every number says all there is to say, 820 or 512 bytes a grid.

Usage: python -m ci.make_grids
"""

from pathlib import Path

import numpy as np
from gguf import quants

TARGET = Path(__file__).parents[1] / "quantcore/_kernels/tables/grids.h"
GRIDS = {
    "IQ2_XXS": quants.IQ2_XXS,
    "IQ2_XS": quants.IQ2_XS,
    "IQ2_S": quants.IQ2_S,
    "IQ1": quants.IQ1_S,
    "IQ3_XXS": quants.IQ3_XXS,
    "IQ3_S": quants.IQ3_S,
}
WORDS_PER_LINE = 5
HEAD = """\
/* grids.h: the grids of the IQ1, IQ2 and IQ3 types, one bit for each number that a point can have: bit i % 64 of word
 * i / 64. Written by ci/make_grids.py; only _core includes it. */
#ifndef QUANTCORE_GRIDS_H
#define QUANTCORE_GRIDS_H
#include <stdint.h>
"""


def numbers_of(source: type[quants.IQ2_XXS]) -> tuple[np.ndarray, int]:
    """The numbers of a grid's points in their order, and how many numbers there are."""
    source.init_grid()
    base = len(source.grid_map)
    digits = np.searchsorted(source.grid_map, np.reshape(source.grid, source.grid_shape))
    numbers = digits @ base ** np.arange(digits.shape[1])
    if not (np.diff(numbers) > 0).all():
        raise ValueError(f"the points of {source.__name__} are not in ascending order")
    return numbers, base ** digits.shape[1]


def words_of(numbers: np.ndarray, size: int) -> np.ndarray:
    bits = np.zeros((size + 63) // 64 * 64, np.uint8)
    bits[numbers] = 1
    return np.packbits(bits, bitorder="little").view("<u8")


def main() -> None:
    lines = [HEAD]
    for name, source in GRIDS.items():
        words = [f"0x{word:016x}" for word in words_of(*numbers_of(source))]
        lines.append(f"static const uint64_t QUANTCORE_{name}_POINTS[{len(words)}] = {{")
        for start in range(0, len(words), WORDS_PER_LINE):
            lines.append(f"    {', '.join(words[start : start + WORDS_PER_LINE])},")
        lines.append("};")
    lines.append("#endif\n")
    TARGET.write_text("\n".join(lines))


if __name__ == "__main__":
    main()

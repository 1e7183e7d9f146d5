"""The distributions in the report: errors, block scales, and weights with the levels they are rounded to."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from quantcore.report.samples import Floats32, Sample

__all__ = ["BlockLevels", "block_levels", "log_scales", "relative_errors"]


class BlockLevels(NamedTuple):
    """Weights divided by the largest magnitude in their block, before and after quantization.

    Attributes
    ----------
    type : str
    block_size : int
    before, after : ndarray of float32
        From -1 to 1.
    """

    type: str
    block_size: int
    before: Floats32
    after: Floats32


def relative_errors(samples: Iterable[Sample]) -> dict[str, Floats32]:
    """Errors divided by the root mean square of their tensor's sample, by type; exact tensors are left out."""
    errors: dict[str, list[Floats32]] = {}
    for s in samples:
        rms = float(np.sqrt(np.mean(np.square(s.original, dtype=np.float64))))
        difference = s.quantized.astype(np.float64) - s.original
        if rms and difference.any():
            errors.setdefault(s.type, []).append((difference / rms).astype(np.float32))
    return {name: np.concatenate(parts) for name, parts in errors.items()}


def log_scales(samples: Iterable[Sample]) -> dict[str, Floats32]:
    """Binary logarithms of the largest magnitude in each block of the original, by type; zero blocks are left out.

    In every format, the scale of a block is roughly proportional to this magnitude.
    """
    scales: dict[str, list[Floats32]] = {}
    for s in samples:
        if s.block_size > 1:
            largest = np.abs(_blocks(s.original, s.block_size)).max(axis=1, initial=0)
            scales.setdefault(s.type, []).append(np.log2(largest[largest > 0]))
    return {name: values for name, parts in scales.items() if (values := np.concatenate(parts)).size}


def block_levels(samples: Iterable[Sample]) -> BlockLevels | None:
    """The levels of the block type with the largest part of the sample; None if there is no block type."""
    of_blocks = [s for s in samples if s.block_size > 1]
    sizes: Counter[tuple[str, int]] = Counter()
    for s in of_blocks:
        sizes[s.type, s.block_size] += s.original.size
    if not sizes:
        return None
    name, block_size = max(sizes, key=lambda kind: (sizes[kind], kind))
    chosen = [s for s in of_blocks if (s.type, s.block_size) == (name, block_size)]
    before = np.concatenate([_over_largest(s.original, block_size) for s in chosen])
    after = np.concatenate([_over_largest(s.quantized, block_size) for s in chosen])
    return BlockLevels(name, block_size, before, after) if before.size and after.size else None


def _blocks(values: Floats32, block_size: int) -> Floats32:
    return values[: values.size // block_size * block_size].reshape(-1, block_size)


def _over_largest(values: Floats32, block_size: int) -> Floats32:
    blocks = _blocks(values, block_size)
    largest = np.abs(blocks).max(axis=1, keepdims=True, initial=0)
    is_fine = largest[:, 0] > 0
    shares: Floats32 = (blocks[is_fine] / largest[is_fine]).reshape(-1)
    return shares

"""Arrays for the tests of zarr, the chunks they fall into, and what quantcore makes of a chunk."""

import numpy as np

import quantcore as qc
from quantcore import QuantGranularity

GRANULARITIES = (
    QuantGranularity.per_tensor(),
    QuantGranularity.per_channel(0),
    QuantGranularity.per_channel(-1),
    QuantGranularity.per_group(3),
)


def weather(*shape: int, seed: int = 0) -> np.ndarray:
    """Values far from zero, whose ranges a zero would widen."""
    return (np.random.default_rng(seed).standard_normal(shape) * 3 + 280).astype(np.float32)


def blocks(shape: tuple[int, ...], chunks: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """The regions of the chunks."""
    starts = np.ndindex(*(-(-n // c) for n, c in zip(shape, chunks, strict=True)))
    return [
        tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(place, chunks, shape, strict=True))
        for place in starts
    ]


def expect_own(values: np.ndarray, granularity: QuantGranularity, mode: str, bits: int) -> np.ndarray:
    """The values of a chunk that has its own parameters."""
    return qc.quantize_tensor(values, granularity, mode, bits).dequantize()

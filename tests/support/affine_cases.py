"""Shapes, granularities and parameters on which affine codes are tried, and the comparison with the definition."""

import ml_dtypes
import numpy as np
import pytest

from quantcore import (
    QuantGranularity,
    QuantMode,
    QuantParams,
)
from tests.support import reference_affine
from tests.support.reference_affine import parts_of

F32 = np.float32
BF16 = np.dtype(ml_dtypes.bfloat16)
INPUT_DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16, np.dtype(np.float64)]
SYMMETRIC, ASYMMETRIC = QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC
TENSOR = QuantGranularity.per_tensor()
CHANNEL, GROUP = QuantGranularity.per_channel, QuantGranularity.per_group
every_mode = pytest.mark.parametrize("mode", [SYMMETRIC, ASYMMETRIC])  # offsets: test_offsets.py
every_bits = pytest.mark.parametrize("bits", range(2, 9))
# torch says so once, of its quantized tensors
ignores_deprecation = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, .* are deprecated:UserWarning")

# Runs of less than 32 elements that share a scale go another way than longer ones, runs beyond 65536 in pieces; narrow
# rows are repeated to 512 columns, and columns beyond 1024 go in pieces too.
SHAPES = [
    (1,),
    (70,),
    (2000,),
    (200_003,),
    (1, 1),
    (1, 70),
    (70, 1),
    (1027, 3),  # the last row is one more than what is repeated
    (3, 1000),
    (3, 70_001),
    (7, 3, 5),
    (3, 1100, 3),
    (1, 600, 1),
    (64, 1, 31),
    (4, 3, 32),
    (2, 3, 65_537),
    (2, 3, 4, 5),
    (9, 2, 8, 33),
    (1, 1, 1, 1),
    (600, 1, 2, 1),
]
# Large enough for several threads at every dtype (more than 2 MiB of codes).
THREADED: dict[str, tuple[tuple[int, ...], QuantGranularity]] = {
    "tensor": ((2_200_003,), TENSOR),
    "long runs": ((2, 3, 400_001), CHANNEL(1)),
    "rows": ((2300, 1000), CHANNEL(0)),
    "columns": ((36_000, 65), CHANNEL(1)),
    "narrow columns": ((300_001, 2, 4), CHANNEL(1)),
    "wide columns": ((1200, 2000), CHANNEL(-1)),
    "groups": ((1000, 2310), GROUP(48)),
    "large groups": ((3, 800_001), GROUP(100_000)),
}
every_threaded = pytest.mark.parametrize(("shape", "granularity"), THREADED.values(), ids=THREADED)


def parts(shape: tuple[int, ...], granularity: QuantGranularity) -> list[np.ndarray]:
    axis = None if granularity.axis is None else granularity.axis % len(shape)
    return parts_of(shape, axis, granularity.group_size)


def any_params(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    granularity: QuantGranularity,
    mode: QuantMode = ASYMMETRIC,
    bits: int = 8,
    exponents: tuple[float, float] = (-9, -3),
) -> QuantParams:
    """Parameters that no calibration found: log-uniform scales, zero points anywhere."""
    n = granularity.sharing(shape).n_scales
    quant_min, quant_max = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if mode is SYMMETRIC else (0, 2**bits - 1)
    scales = np.exp2(rng.uniform(*exponents, n)).astype(F32)
    zero_points = rng.integers(quant_min, quant_max + 1, n, dtype=np.int32) * (mode is ASYMMETRIC)
    return QuantParams(scales, zero_points, granularity, mode, bits, quant_min, quant_max)


def of(params: QuantParams) -> reference_affine.Affine:
    return reference_affine.Affine(list(params.scales), params.zero_points.tolist(), params.quant_min, params.quant_max)


def granularities(shape: tuple[int, ...]) -> list[QuantGranularity]:
    """All that fit a shape, with groups that divide its rows, that do not, and that are longer."""
    sizes = {1, 5, 32, 64, shape[-1], shape[-1] + 1} if np.prod(shape) < 10_000 else {shape[-1] // 2 + 1, 4096, 66_000}
    return [TENSOR, *(CHANNEL(axis) for axis in range(-1, len(shape))), *(GROUP(size) for size in sorted(sizes))]

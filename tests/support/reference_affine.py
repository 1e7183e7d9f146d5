"""Affine quantization once more, as naively as its definition reads: the oracle that needs no other package.

One scale after the other, each with the list of the elements that share it; nothing here is shared with quantcore.
Values are float32 arrays of any shape; codes and results have the same shape.
"""

import itertools
from typing import NamedTuple

import numpy as np

F32 = np.float32
SMALLEST_NORMAL = 2.0**-126
OVERFLOWS = 2.0**128 - 2.0**103  # the smallest number that is rounded to an infinite float32


class Affine(NamedTuple):
    """What calibration finds: a scale and a zero point for each part, and the range of the codes."""

    scales: list[np.float32]
    zero_points: list[int]
    quant_min: int
    quant_max: int


def parts_of(shape: tuple[int, ...], axis: int | None = None, group_size: int | None = None) -> list[np.ndarray]:
    """The flat indices of the elements that share a scale, in the order of the scales."""
    flat = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    if group_size is not None:
        starts = range(0, shape[-1], group_size)
        rows = itertools.product(*(range(extent) for extent in shape[:-1]))
        return [flat[row][start : start + group_size] for row in rows for start in starts]
    if axis is not None:
        return [flat.take(channel, axis).reshape(-1) for channel in range(shape[axis])]
    return [flat.reshape(-1)]


def calibrate(
    values: np.ndarray, parts: list[np.ndarray], bits: int, *, symmetric: bool, narrow: bool = True
) -> Affine:
    """Scales from the extremes; a range or a scale that is not a normal float32 gives scale 1 and zero point 0."""
    assert values.dtype == F32
    largest_code = 2 ** (bits - 1) - 1
    quant_min = (-largest_code if narrow else -largest_code - 1) if symmetric else 0
    quant_max = largest_code if symmetric else 2**bits - 1
    scales, zero_points = [], []
    for part in parts:
        elements = [0.0, *values.reshape(-1)[part].tolist()]  # doubles, and the range always contains 0
        low, high = min(elements), max(elements)
        spread = max(-low, high) if symmetric else high - low
        steps = (quant_max - quant_min) / 2 if symmetric else quant_max
        # The range is rounded to float32 first, unless it is none.
        scale = F32(spread) / F32(steps) if spread < OVERFLOWS else F32(spread / steps)
        if spread < SMALLEST_NORMAL or scale < SMALLEST_NORMAL:
            scale, zero_point = F32(1), 0
        else:
            zero_point = 0 if symmetric else round(float(F32(low) / scale)) * -1
        scales.append(scale)
        zero_points.append(min(max(zero_point, quant_min), quant_max))
    return Affine(scales, zero_points, quant_min, quant_max)


def quantize(values: np.ndarray, parts: list[np.ndarray], affine: Affine) -> np.ndarray:
    """`clip(rint(x * (1 / scale)) + zero_point, quant_min, quant_max)`, the product in float32; the codes as int64."""
    assert values.dtype == F32
    codes = np.empty(values.size, np.int64)
    for part, scale, zero_point in zip(parts, affine.scales, affine.zero_points, strict=True):
        with np.errstate(over="ignore"):  # a product that overflows is clipped like any other
            steps = np.rint(values.reshape(-1)[part] * (F32(1) / scale)).astype(np.float64)
        codes[part] = np.clip(steps + zero_point, affine.quant_min, affine.quant_max)
    return codes.reshape(values.shape)


def dequantize(codes: np.ndarray, parts: list[np.ndarray], affine: Affine) -> np.ndarray:
    """`(q - zero_point) * scale` in float32."""
    values = np.empty(codes.size, F32)
    for part, scale, zero_point in zip(parts, affine.scales, affine.zero_points, strict=True):
        values[part] = (codes.reshape(-1)[part].astype(int) - zero_point).astype(F32) * scale
    return values.reshape(codes.shape)

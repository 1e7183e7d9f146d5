"""NumPy as a peer: the expressions that one would write, with all their temporary arrays."""

import numpy as np

from bench.work import Call
from quantcore import QuantParams


def min_max(values: np.ndarray, axis: int | None) -> Call:
    """The extremes of the whole array, or of each channel."""
    axes = None if axis is None else tuple(i for i in range(values.ndim) if i != axis)
    return lambda: (values.min(axis=axes), values.max(axis=axes))


def histogram(values: np.ndarray, bins: int) -> Call:
    """Equal bins between the extremes."""
    return lambda: np.histogram(values, bins)


def quantize(values: np.ndarray, params: QuantParams) -> Call:
    """Codes by the formula that quantcore documents."""
    scales, zero_points = _columns(params)
    inverses, low, high = 1 / scales, params.quant_min, params.quant_max
    dtype = np.int8 if low < 0 else np.uint8
    return lambda: np.clip(np.rint(values * inverses) + zero_points, low, high).astype(dtype)


def dequantize(codes: np.ndarray, params: QuantParams) -> Call:
    """Values from codes."""
    scales, zero_points = _columns(params)
    return lambda: (codes - zero_points) * scales


def fake_quantize(values: np.ndarray, params: QuantParams) -> Call:
    """Codes and back, all in floats."""
    scales, zero_points = _columns(params)
    inverses, low, high = 1 / scales, params.quant_min, params.quant_max
    return lambda: (np.clip(np.rint(values * inverses) + zero_points, low, high) - zero_points) * scales


def _columns(params: QuantParams) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points of a tensor, or of the channels of a matrix, in shapes that broadcast; all float32."""
    shape = (-1, 1) if params.granularity.axis == 0 else (-1,)
    return params.scales.reshape(shape), params.zero_points.astype(np.float32).reshape(shape)

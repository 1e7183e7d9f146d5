"""Fake quantization and its gradients once more, as naively as their definitions read; see `reference_affine`."""

import numpy as np

from tests.support import reference_affine
from tests.support.reference_affine import F32, Affine


def forward(values: np.ndarray, parts: list[np.ndarray], affine: Affine) -> np.ndarray:
    """The values of the codes of the values."""
    with np.errstate(over="ignore"):  # of codes times large scales
        return reference_affine.dequantize(reference_affine.quantize(values, parts, affine), parts, affine)


def backward(grad: np.ndarray, values: np.ndarray, parts: list[np.ndarray], affine: Affine) -> np.ndarray:
    """`grad` times one where the unclipped code is in range, or else zero, in float32."""
    assert (grad.dtype, values.dtype) == (F32, F32)
    dx = np.empty(values.size, F32)
    for part, scale, zero_point in zip(parts, affine.scales, affine.zero_points, strict=True):
        with np.errstate(over="ignore"):
            codes = np.rint(values.reshape(-1)[part] * (F32(1) / scale)).astype(np.float64) + zero_point
        in_range = (affine.quant_min <= codes) & (codes <= affine.quant_max)
        dx[part] = grad.reshape(-1)[part] * in_range.astype(F32)
    return dx.reshape(values.shape)


def lsq_terms(
    grad: np.ndarray, values: np.ndarray, parts: list[np.ndarray], affine: Affine
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """The gradient of the values, and for each scale what each element adds to its gradient and its zero point's.

    Codes are rounded as torch does going backward; terms are doubles, not yet times the factor.
    """
    assert (grad.dtype, values.dtype) == (F32, F32)
    dx, of_scales, of_zero_points = np.empty(values.size, F32), [], []
    for part, scale, zero_point in zip(parts, affine.scales, affine.zero_points, strict=True):
        x, g = values.reshape(-1)[part], grad.reshape(-1)[part]
        with np.errstate(over="ignore"):
            codes = np.rint(F32(zero_point) + x * (F32(1) / scale)).astype(np.float64)
        low, high = codes < affine.quant_min, codes > affine.quant_max
        y = (np.clip(codes, affine.quant_min, affine.quant_max) - zero_point) * float(scale)
        slopes = (y - x) / float(scale)
        slopes[low] = affine.quant_min - zero_point
        slopes[high] = affine.quant_max - zero_point
        dx[part] = g * ~(low | high)
        of_scales.append(slopes * g)
        of_zero_points.append(-float(scale) * g.astype(np.float64) * (low | high))
    return dx.reshape(values.shape), of_scales, of_zero_points

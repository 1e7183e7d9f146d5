"""Vectors to codes and back, by a scheme and the ranges of its dimensions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arrays
from quantcore._base.arrays import Floats
from quantcore.affine import QuantGranularity, QuantMode, QuantParams, passes
from quantcore.affine.sharing import sharing_of
from quantcore.embeddings.packing import pack_rows
from quantcore.embeddings.schemes import Rounding, Scheme
from quantcore.errors import InvalidValueError

PER_DIMENSION, PER_VECTOR = QuantGranularity.per_channel(1), QuantGranularity.per_channel(0)
_SIGN_BIT = np.uint8(128)
_ROWS_TOGETHER = 1 << 12
Ranges = NDArray[np.float32]
"""The lower and the upper end of each dimension, shape (2, d)."""


def widths_of(ranges: Ranges) -> NDArray[np.float32]:
    """How far apart the ends are; refused where float32 does not hold that."""
    with np.errstate(over="ignore"):
        widths: NDArray[np.float32] = ranges[1] - ranges[0]
    wide = np.flatnonzero(~np.isfinite(widths))
    if wide.size:
        low, high = ranges[:, wide[0]]
        raise InvalidValueError(f"values: the range from {low} to {high} of dimension {wide[0]} is beyond float32")
    return widths


def floor_params(scheme: Scheme, ranges: Ranges) -> QuantParams:
    """What codes that are rounded down stand for: the middle of what they hold, or the one value of a constant."""
    widths = widths_of(ranges)
    scales = widths / np.float32(scheme.levels)
    offsets = ranges[0] + scales * np.float32(0.5)
    tiny = np.finfo(np.float32).smallest_subnormal
    scales = np.where(widths == 0, np.float32(1), np.maximum(scales, tiny))
    zero_points = np.zeros(scales.size, np.int32)
    return QuantParams(scales, zero_points, PER_DIMENSION, QuantMode.OFFSET, scheme.bits, 0, scheme.levels, offsets)


def floor_codes(source: Floats, scheme: Scheme, ranges: Ranges, out: NDArray[np.uint8], n_threads: int | None) -> None:
    """Codes that are rounded down, one a byte, into `out` of the shape of the values."""
    widths = widths_of(ranges)
    most, factor = 1.0, float(scheme.levels)
    if scheme.rounding is Rounding.FLOOR_OF_STEP:
        widths = widths / np.float32(scheme.levels)
        widths = np.where(widths == 0, np.float32(1), widths)
        most, factor = factor, 1.0
    else:
        widths = np.where(widths == 0, np.float32(np.inf), widths)
    # faiss multiplies by a float64 where there are fewer than 8 bits.
    is_wide = scheme.rounding is Rounding.FLOOR_OF_RANGE and scheme.bits < 8
    rows = np.stack([ranges[0], widths])
    passes.floor_codes(source, sharing_of(source.shape, 1), rows, most, factor, is_wide, out, "values", n_threads)


def sign_codes(source: Floats, out: NDArray[np.uint8], n_threads: int | None) -> None:
    """One bit a value, whether it is above 0, into `out`."""
    n_rows, width = source.shape
    passes.refuse_not_finite(source, "values", n_threads)
    for start in range(0, n_rows, _ROWS_TOGETHER):
        stop = min(start + _ROWS_TOGETHER, n_rows)
        block = source.values(start * width, stop * width).reshape(stop - start, width)
        out[start:stop] = np.packbits(block > 0, axis=-1)


def encode(
    source: Floats,
    scheme: Scheme,
    ranges: Ranges | None,
    params: QuantParams | None,
    out: NDArray[Any] | None,
    n_threads: int | None,
) -> NDArray[Any]:
    """The bytes of a batch of vectors, shape (n, `row_bytes`)."""
    n_rows, width = source.shape
    dtype = np.dtype(np.int8 if scheme.is_signed else np.uint8)
    result = arrays.output(out, (n_rows, scheme.row_bytes(width)), dtype, source.origin)
    if not source.size:
        return result
    bytes_out = result.view(np.uint8)
    codes = bytes_out if scheme.bits in (1, 8) else np.empty((n_rows, width), np.uint8)
    if scheme.rounding is Rounding.SIGN:
        sign_codes(source, codes, n_threads)
    elif scheme.rounding is Rounding.NEAREST:
        assert params is not None
        sharing = params.sharing(source.shape, "values")
        passes.quantize(source, sharing, params.rows_for(sharing), codes, "values", n_threads)
    else:
        assert ranges is not None
        floor_codes(source, scheme, ranges, codes, n_threads)
    if codes is not bytes_out:
        bytes_out[:] = pack_rows(codes, scheme.bits)
    if scheme.is_signed and scheme.rounding is not Rounding.NEAREST:
        bytes_out ^= _SIGN_BIT
    return result

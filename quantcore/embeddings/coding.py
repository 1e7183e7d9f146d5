"""Vectors to codes and back, by a scheme and the ranges of its dimensions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arrays
from quantcore._base.arrays import Floats
from quantcore.affine import (
    QuantGranularity,
    QuantizedTensor,
    QuantMode,
    QuantParams,
    dequantize_with_params,
    passes,
)
from quantcore.affine.sharing import sharing_of
from quantcore.embeddings.packing import pack_rows, unpack_rows
from quantcore.embeddings.schemes import Rounding, Scheme
from quantcore.errors import InvalidTypeError, InvalidValueError

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
    result = arrays.output(out, (n_rows, scheme.row_bytes(width)), scheme.dtype, source.origin)
    if source.size:
        _encode(source, scheme, ranges, params, result, n_threads)
    return result if out is None else out


def _encode(
    source: Floats,
    scheme: Scheme,
    ranges: Ranges | None,
    params: QuantParams | None,
    result: NDArray[Any],
    n_threads: int | None,
) -> None:
    bytes_out = result.view(np.uint8)
    codes = bytes_out if scheme.bits in (1, 8) else np.empty(source.shape, np.uint8)
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


def decode(
    codes: Any,
    scheme: Scheme,
    n_dimensions: int | None,
    params: QuantParams | None,
    out: NDArray[np.float32] | None,
    n_threads: int | None,
) -> NDArray[np.float32]:
    """The vectors of a batch of codes, shape (n, d); `params` unless the codes are signs.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        The codes have another dtype or shape than those of `encode`; `out` does not fit.
    """
    array = arrays.as_array(codes, "codes")
    if array.dtype != scheme.dtype:
        raise InvalidTypeError(f"codes: expected {scheme.dtype} ({scheme.text}), got dtype {array.dtype}")
    if array.ndim != 2:
        raise InvalidValueError(f"codes: expected a matrix, a vector in each row, got shape {array.shape}")
    if n_dimensions is None:
        n_dimensions = array.shape[1] * 8 // scheme.bits
    n_bytes = scheme.row_bytes(n_dimensions)
    if array.shape[1] != n_bytes:
        raise InvalidValueError(
            f"codes: vectors of {n_dimensions} values take {n_bytes} bytes each, got {array.shape[1]}"
        )
    result: NDArray[np.float32] = arrays.output(out, (len(array), n_dimensions), np.dtype(np.float32), array)
    plain = np.ascontiguousarray(array)
    if scheme.is_signed and scheme.rounding is not Rounding.NEAREST:
        plain = plain.view(np.uint8) ^ _SIGN_BIT
    if params is None:
        np.multiply(np.unpackbits(plain, axis=-1, count=n_dimensions), np.float32(2), out=result)
        result -= np.float32(1)
    else:
        dequantize_with_params(unpack_rows(plain, scheme.bits, n_dimensions), params, n_threads=n_threads, out=result)
    return result if out is None else out


def check_tensor(codes: Any, scheme: Scheme, n_dimensions: int | None) -> QuantizedTensor:
    """Codes per vector, with the scales beside them, if they are of this scheme.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        They are no QuantizedTensor, no matrix with a scale for each row, or have another mode, other bits or another
        number of columns.
    """
    if not isinstance(codes, QuantizedTensor):
        raise InvalidTypeError(f"codes: expected a QuantizedTensor, got {type(codes).__name__}")
    params, shape = codes.params, codes.shape
    if len(shape) != 2:
        raise InvalidValueError(f"codes: expected a matrix, a vector in each row, got shape {shape}")
    granularity = params.granularity.from_front(2)
    if (granularity, params.mode, params.bits) != (PER_VECTOR, scheme.mode, scheme.bits):
        raise InvalidValueError(
            f"codes: expected {scheme.bits} bits {scheme.mode.value} {PER_VECTOR} ({scheme.text} per vector), got "
            f"{params.bits} bits {params.mode.value} {granularity}"
        )
    if n_dimensions is not None and shape[1] != n_dimensions:
        raise InvalidValueError(f"codes: expected vectors of {n_dimensions} values, got {shape[1]}")
    return codes

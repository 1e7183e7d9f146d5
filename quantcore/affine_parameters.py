"""Affine quantization parameters from the extremes of an array: per tensor, per channel and per group."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, _kernels, affine
from quantcore._records import made
from quantcore.errors import InvalidValueError
from quantcore.granularity import (
    QuantGranularity,
    QuantMode,
    QuantParams,
    check_bits,
    check_mode,
    code_range,
)

__all__ = ["calibrate_per_channel", "calibrate_per_group", "calibrate_per_tensor"]


def calibrate_per_tensor(
    values: Any,
    bits: int = 8,
    mode: QuantMode = QuantMode.SYMMETRIC,
    *,
    narrow_range: bool = True,
    n_threads: int | None = None,
) -> QuantParams:
    """Parameters from the extremes of a whole array.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    bits : int, default 8
        2 to 8.
    mode : QuantMode, default SYMMETRIC
        SYMMETRIC: int8 codes, scale from the largest magnitude. ASYMMETRIC: uint8 codes, scale and zero point from the
        range, which is first widened to contain 0.
    narrow_range : bool, default True
        Symmetric codes from -qmax to qmax, `qmax = 2**(bits-1) - 1`. False: from -qmax-1, as torch's observers.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.

    Returns
    -------
    QuantParams

    Raises
    ------
    ValueError
        `values` is empty or holds NaN or inf; `bits` is out of range.
    TypeError
        `values` is not a float array; `bits` is not an integer; `mode` is not a QuantMode.

    Notes
    -----
    Symmetric: `scale = absmax / qmax`, or `absmax / ((qmax - qmin) / 2)` without `narrow_range`. Asymmetric:
    `scale = (max - min) / (2**bits - 1)`, `zero_point = clip(qmin - rint(min / scale), qmin, qmax)`. All in float32, as
    torch's MinMaxObserver, but for its smallest scale (eps): here a range or a scale below the smallest normal float
    gives scale 1 and zero point 0.
    """
    return calibrated(values, QuantGranularity.per_tensor(), bits, mode, narrow_range, n_threads)


def calibrate_per_channel(
    values: Any,
    bits: int = 8,
    mode: QuantMode = QuantMode.SYMMETRIC,
    *,
    axis: int = 0,
    narrow_range: bool = True,
    n_threads: int | None = None,
) -> QuantParams:
    """Parameters from the extremes of each index of an axis; see `calibrate_per_tensor`.

    Parameters
    ----------
    values, bits, mode, narrow_range, n_threads
        As for `calibrate_per_tensor`.
    axis : int, default 0
        The axis of the channels; counted from the end if negative.

    Returns
    -------
    QuantParams

    Raises
    ------
    ValueError, TypeError
        As `calibrate_per_tensor`; `axis` is out of range.
    """
    return calibrated(values, QuantGranularity.per_channel(axis), bits, mode, narrow_range, n_threads)


def calibrate_per_group(
    values: Any,
    group_size: int,
    bits: int = 8,
    mode: QuantMode = QuantMode.SYMMETRIC,
    *,
    narrow_range: bool = True,
    n_threads: int | None = None,
) -> QuantParams:
    """Parameters from the extremes of each group along the last axis; see `calibrate_per_tensor`.

    Parameters
    ----------
    values, bits, mode, narrow_range, n_threads
        As for `calibrate_per_tensor`.
    group_size : int
        At least 1. The last group of a row may be shorter; no group crosses rows.

    Returns
    -------
    QuantParams
        Row by row.

    Raises
    ------
    ValueError, TypeError
        As `calibrate_per_tensor`; `group_size` is below 1.
    """
    granularity = QuantGranularity.per_group(_arrays.integer(group_size, "group_size", 1))
    return calibrated(values, granularity, bits, mode, narrow_range, n_threads)


def calibrated(
    values: Any, granularity: QuantGranularity, bits: int, mode: QuantMode, narrow_range: bool, n_threads: int | None
) -> QuantParams:
    """Parameters from the extremes of each part that shares a scale."""
    bits, mode = check_bits(bits), check_mode(mode)
    source = _arrays.floats(values, "values")
    if not source.size:
        raise InvalidValueError(f"values: must not be empty, got shape {source.shape}")
    limits = code_range(bits, mode, narrow_range=_arrays.flag(narrow_range, "narrow_range"))
    bounds = affine.extremes(source, granularity.sharing(source.shape), "values", n_threads)
    return params_within(bounds, granularity, bits, mode, limits)


def params_within(
    bounds: NDArray[np.float32], granularity: QuantGranularity, bits: int, mode: QuantMode, limits: tuple[int, int]
) -> QuantParams:
    """Parameters from the smallest and the largest value of each part (`bounds`, shape (2, n)) and of the codes."""
    n = bounds.shape[1]
    scales, zero_points = np.empty(n, np.float32), np.empty(n, np.int32)
    is_symmetric = mode is QuantMode.SYMMETRIC
    are_finite = _kernels.parameters_between(bounds, is_symmetric, *limits, scales, zero_points)
    _arrays.given_away(scales, zero_points)
    fields: dict[str, Any] = {
        "scales": scales,
        "zero_points": zero_points,
        "granularity": granularity,
        "mode": mode,
        "bits": bits,
        "quant_min": limits[0],
        "quant_max": limits[1],
    }
    return made(QuantParams, **fields) if are_finite else QuantParams(**fields)

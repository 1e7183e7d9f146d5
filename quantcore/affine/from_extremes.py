"""Affine quantization parameters from the extremes of an array: per tensor, per channel and per group."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base import arguments, arrays, parallel
from quantcore._base.records import build
from quantcore.affine import passes
from quantcore.affine.granularity import QuantGranularity
from quantcore.affine.modes import QuantMode, check_bits, check_mode, code_range
from quantcore.affine.params import QuantParams
from quantcore.errors import InvalidValueError

_FEW = 1 << 12

__all__ = ["calibrate_per_channel", "calibrate_per_group", "calibrate_per_tensor"]


def calibrate_per_tensor(
    values: Any,
    bits: int = 8,
    mode: QuantMode | str = QuantMode.SYMMETRIC,
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
    mode : QuantMode or its name, default SYMMETRIC
        SYMMETRIC: int8 codes, scale from the largest magnitude. ASYMMETRIC: uint8 codes, scale and zero point from the
        range, which is first widened to contain 0. OFFSET: uint8 codes, scale and offset from the range as it is.
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
        `values` is not a float array; `bits` is not an integer; `mode` is neither a QuantMode nor a string.

    Notes
    -----
    Symmetric: `scale = absmax / qmax`, or `absmax / ((qmax - qmin) / 2)` without `narrow_range`. Asymmetric:
    `scale = (max - min) / (2**bits - 1)`, `zero_point = clip(qmin - rint(min / scale), qmin, qmax)`. All in float32, as
    torch's MinMaxObserver, but for its smallest scale (eps): here a range or a scale below the smallest normal float
    gives scale 1 and zero point 0. Offset: `scale = (max - min) / (2**bits - 1)`, `offset = min`.
    """
    return calibrate(values, QuantGranularity.per_tensor(), bits, mode, narrow_range, n_threads)


def calibrate_per_channel(
    values: Any,
    bits: int = 8,
    mode: QuantMode | str = QuantMode.SYMMETRIC,
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
    return calibrate(values, QuantGranularity.per_channel(axis), bits, mode, narrow_range, n_threads)


def calibrate_per_group(
    values: Any,
    group_size: int,
    bits: int = 8,
    mode: QuantMode | str = QuantMode.SYMMETRIC,
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
        The scales of all groups, row by row.

    Raises
    ------
    ValueError, TypeError
        As `calibrate_per_tensor`; `group_size` is below 1.
    """
    granularity = QuantGranularity.per_group(arguments.integer(group_size, "group_size", 1))
    return calibrate(values, granularity, bits, mode, narrow_range, n_threads)


def calibrate(
    values: Any,
    granularity: QuantGranularity,
    bits: int,
    mode: QuantMode | str,
    narrow_range: bool,
    n_threads: int | None,
    name: str = "values",
) -> QuantParams:
    """Parameters from the extremes of each part that shares a scale; `name` is the array's in messages."""
    bits, mode = check_bits(bits), check_mode(mode)
    source = arrays.take_floats(values, name)
    return calibrate_floats(source, granularity, bits, mode, narrow_range, n_threads, name=name)


def calibrate_floats(
    source: arrays.Floats,
    granularity: QuantGranularity,
    bits: int,
    mode: QuantMode,
    narrow_range: bool,
    n_threads: int | None,
    *,
    name: str = "values",
    may_need_none: bool = False,
) -> QuantParams:
    """`calibrate` of an array that passed the boundary.

    `may_need_none`: an empty array that has no part that shares a scale, such as a batch of no vectors with a scale
    each, has parameters without scales.
    """
    bits, mode = check_bits(bits), check_mode(mode)
    limits = code_range(bits, mode, narrow_range=arguments.flag(narrow_range, "narrow_range"))
    parallel.check_threads(n_threads)
    sharing = granularity.sharing(source.shape)
    if may_need_none and not sharing.n_scales:
        return QuantParams.without_scales(granularity, mode, bits, *limits)
    if not source.size:
        raise InvalidValueError(f"{name}: must not be empty, got shape {source.shape}")
    return params_within(passes.extremes(source, sharing, name, n_threads), granularity, bits, mode, limits, name)


def params_within(
    bounds: NDArray[np.float32],
    granularity: QuantGranularity,
    bits: int,
    mode: QuantMode,
    limits: tuple[int, int],
    name: str = "values",
) -> QuantParams:
    """Parameters from the smallest and the largest value of each part (`bounds`, shape (2, n)) and of the codes.

    `name` is the values' in messages.
    """
    rows, zero_points = empty_parameters(bounds.shape[1], mode)
    bad = _kernels.parameters_between(bounds, mode is QuantMode.SYMMETRIC, *limits, rows, zero_points)
    if bad >= 0 and mode is QuantMode.OFFSET:
        low, high = bounds[:, bad]
        raise InvalidValueError(f"{name}: the range from {low} to {high} is too wide for the mode offset")
    params = params_of_rows(rows, zero_points, granularity, bits, mode, limits)
    if bad >= 0:
        params._check()
    return params


def empty_parameters(n: int, mode: QuantMode) -> tuple[NDArray[np.float32], NDArray[np.int32] | None]:
    """Room for what `_kernels.parameters_between` finds for n channels: `coding_rows`, and zero points if there are."""
    rows = np.empty((6 if mode is QuantMode.OFFSET else 5, n), np.float32)
    return rows, np.empty(n, np.int32) if mode is QuantMode.ASYMMETRIC else None


def params_of_rows(
    rows: NDArray[np.float32],
    zero_points: NDArray[np.int32] | None,
    granularity: QuantGranularity,
    bits: int,
    mode: QuantMode,
    limits: tuple[int, int],
) -> QuantParams:
    """Parameters that a kernel has found, over the kernel's own arrays."""
    rows = arrays.seal(rows)
    return build(
        QuantParams,
        scales=rows[0],
        zero_points=_zeros(rows.shape[1]) if zero_points is None else arrays.seal(zero_points),
        granularity=granularity,
        mode=mode,
        bits=bits,
        quant_min=limits[0],
        quant_max=limits[1],
        offsets=rows[5] if mode is QuantMode.OFFSET else None,
        coding_rows=rows,
    )


def _zeros(n: int) -> NDArray[np.int32]:
    """Zero points of modes that have none; of a few channels always the same array, which takes time to make."""
    return _few_zeros(n) if n <= _FEW else arrays.seal(np.zeros(n, np.int32))


@lru_cache(maxsize=16)
def _few_zeros(n: int) -> NDArray[np.int32]:
    return arrays.seal(np.zeros(n, np.int32))

"""Calibration of one array in one call: by its extremes, or by exact percentiles."""

from typing import Any

import numpy as np

from quantcore._base import arguments, arrays
from quantcore.affine.granularity import QuantGranularity
from quantcore.affine.modes import QuantMode, check_bits
from quantcore.affine.sharing import Sharing
from quantcore.calibration import percentiles
from quantcore.calibration.calibrator import Calibrator
from quantcore.calibration.modes import mode_of
from quantcore.calibration.results import CalibrationMethod, CalibrationResult, result_of
from quantcore.errors import InvalidValueError

__all__ = ["calibrate_min_max", "calibrate_percentile"]


def calibrate_min_max(
    data: Any,
    bits: int = 8,
    symmetric: bool = True,
    *,
    mode: QuantMode | str | None = None,
    n_threads: int | None = None,
) -> CalibrationResult:
    """Scale and zero point from the extremes of one array.

    Parameters
    ----------
    data : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    bits, symmetric, mode
        As for `Calibrator.min_max`.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.

    Returns
    -------
    CalibrationResult

    Raises
    ------
    ValueError
        `data` is empty or holds NaN or inf; its range is too wide for the mode OFFSET; `bits` is not from 2 to 8.
    TypeError
        `data` is not a float array, `bits` not an integer.
    """
    calibrator = Calibrator.min_max(bits, symmetric, mode=mode)
    calibrator.observe_shared(*_whole(data), "data", n_threads)
    return calibrator.compute_named("data")


def calibrate_percentile(
    data: Any,
    bits: int = 8,
    symmetric: bool = True,
    lower: float = 0.01,
    upper: float = 99.99,
    *,
    mode: QuantMode | str | None = None,
    n_threads: int | None = None,
) -> CalibrationResult:
    """Scale and zero point from two exact percentiles of one array, without sorting or copying it.

    Parameters
    ----------
    data : array_like
        float32, float16, bfloat16 or float64 (rounded to float32), finite, not empty.
    bits, symmetric, mode
        As for `Calibrator.min_max`.
    lower, upper : float
        In percent; `clip_min` and `clip_max` are `np.percentile(data, [lower, upper], method="linear")`.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.

    Returns
    -------
    CalibrationResult

    Raises
    ------
    ValueError
        `data` is empty or holds NaN or inf; its range is too wide for the mode OFFSET; `bits` is not from 2 to 8; not
        0 <= lower < upper <= 100.
    TypeError
        `data` is not a float array, `bits` not an integer, a percentile not a number.
    """
    method = CalibrationMethod(
        "percentile", lower=arguments.number(lower, "lower"), upper=arguments.number(upper, "upper")
    )
    bits, mode = check_bits(bits), mode_of(symmetric, mode, method)
    source, _ = _whole(data)
    found = percentiles.percentiles(source, (0.0, float(lower), float(upper), 100.0), "data", n_threads)
    low, clip_low, clip_high, high = (np.array([value], np.float32) for value in found)
    granularity = QuantGranularity.per_tensor()
    return result_of((low, high), (clip_low, clip_high), granularity, bits, mode, True, method, "data")


def _whole(data: Any) -> tuple[arrays.Floats, Sharing]:
    source = arrays.take_floats(data, "data")
    if not source.size:
        raise InvalidValueError(f"data: must not be empty, got shape {source.shape}")
    return source, QuantGranularity.per_tensor().sharing(source.shape)

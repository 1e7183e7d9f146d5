"""How far a reconstruction is from its original, and how far theory says it may be."""

import math
from typing import Any

import numpy as np

from quantcore._base import arguments
from quantcore.affine.params import QuantParams, check_params
from quantcore.analysis.stats import QuantErrorStats
from quantcore.analysis.sums import ErrorSums
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = [
    "analyze_error",
    "error_stats",
    "error_within_bounds",
    "sqnr_db",
    "theoretical_max_error",
    "theoretical_sqnr",
]

_MOST_BITS = 64
_ROUNDING_OF_FLOAT32 = 2.0**-21


def error_stats(
    original: Any, reconstructed: Any, *, outlier_threshold: float | None = None, n_threads: int | None = None
) -> QuantErrorStats:
    """Statistics of the difference between an array and its reconstruction.

    Parameters
    ----------
    original, reconstructed : array_like of the same shape
        float32, float16, bfloat16 or float64, finite, not empty, not necessarily of the same dtype.
    outlier_threshold : float, optional
        Count the elements whose error is above this; None: `outlier_rate` is None.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The figures do not depend on it.

    Returns
    -------
    QuantErrorStats

    Raises
    ------
    ValueError
        The shapes differ, there is nothing to compare, a value is NaN or inf, the threshold is negative.
    TypeError
        One of them is not a float array.

    Notes
    -----
    Differences, products and sums are in float64. For arrays larger than memory see `ErrorSums`.

    Examples
    --------
    >>> stats = error_stats([1.0, -2.0, 4.0], [1.0, -2.0, 3.0], outlier_threshold=0.5)
    >>> stats.max_error, round(stats.sqnr_db, 2), round(stats.outlier_rate, 2)
    (1.0, 13.22, 0.33)
    """
    sums = ErrorSums(outlier_threshold)
    sums.add(original, reconstructed, n_threads=n_threads)
    return sums.stats()


def analyze_error(
    original: Any, params: QuantParams, outlier_threshold: float | None = None, *, n_threads: int | None = None
) -> QuantErrorStats:
    """Statistics of the error that affine quantization makes, in one pass and without storing the codes.

    Parameters
    ----------
    original : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    params : QuantParams
        With as many scales as its granularity asks for on the shape of `original`.
    outlier_threshold, n_threads
        As for `error_stats`.

    Returns
    -------
    QuantErrorStats
        Exactly that of `error_stats(original, dequantize_with_params(quantize_with_params(original, params), params))`.

    Raises
    ------
    ValueError
        `original` is empty, holds NaN, inf or a value beyond float32; `params` does not fit its shape; the threshold
        is negative.
    TypeError
        `original` is not a float array, `params` not a QuantParams.
    """
    sums = ErrorSums(outlier_threshold)
    sums.add_affine(original, params, n_threads=n_threads)
    return sums.stats()


def sqnr_db(original: Any, reconstructed: Any) -> float:
    """Signal to quantization-noise ratio, `10 log10(sum(x**2) / sum((x - y)**2))`, in dB.

    Parameters
    ----------
    original, reconstructed : array_like of the same shape
        As for `error_stats`.

    Returns
    -------
    float
        inf for a perfect reconstruction (an all-zero one of zeros included), -inf if only the original is all zeros.

    Raises
    ------
    ValueError, TypeError
        As `error_stats`.

    Examples
    --------
    >>> round(sqnr_db([1.0, -1.0], [1.1, -1.0]), 2)
    23.01
    """
    return error_stats(original, reconstructed).sqnr_db


def theoretical_max_error(params: QuantParams) -> float:
    """The largest error that a value inside the calibrated range can have, over all scales.

    Parameters
    ----------
    params : QuantParams
        As the `calibrate_*` functions make them.

    Returns
    -------
    float
        `scale * (1/2 + 2**-21 * steps)`, the largest over all scales; `steps` is the largest distance of a code
        from the zero point.

    Notes
    -----
    Rounding to a code costs half a step. A rounded zero point shifts the range of the codes by up to half a step
    against that of the values, so that the extremes saturate: they are off by no more than that shift, which is again
    half a step, and not half a step more. The second term counts what float32 rounds in the scale, its inverse and the
    two products. Values outside the calibrated range have no bound. An offset adds the rounding of the sum with it,
    which is all that remains where the range is narrow beside the offset.
    """
    params = check_params(params)
    zero_points = params.zero_points.astype(np.float64)
    steps = np.maximum(params.quant_max - zero_points, zero_points - params.quant_min)
    scales = params.scales.astype(np.float64)
    errors = scales * (0.5 + _ROUNDING_OF_FLOAT32 * steps)
    if params.offsets is not None:
        offsets = params.offsets.astype(np.float64)
        errors += 2.0**-24 * np.maximum(np.abs(offsets), np.abs(offsets + params.quant_max * scales))
    return float(np.max(errors))


def theoretical_sqnr(bits: int, signal: str = "sine") -> float:
    """The SQNR in dB of a uniform quantizer whose range is exactly that of the signal.

    Parameters
    ----------
    bits : int
        1 to 64.
    signal : {"sine", "uniform"}, default "sine"
        "sine": a sine of full amplitude, `20 log10(2) bits + 10 log10(1.5)`, known as 6.02 bits + 1.76.
        "uniform": values uniformly distributed over the range, `20 log10(2) bits`.

    Raises
    ------
    ValueError
        `bits` or `signal` is something else.
    TypeError
        `bits` is not an integer.

    Notes
    -----
    Signal power `A**2 / 2` (sine) or `A**2 / 3` (uniform) over the power `step**2 / 12` of a uniform
    rounding error, with `step = 2 A / 2**bits`; see W. R. Bennett, "Spectra of quantized signals" (1948). Codes here
    reach from one end of the range to the other, in `2**bits - 2` steps if symmetric and `2**bits - 1` if not, so their
    SQNR is lower by `20 log10(2**bits / steps)`.

    Examples
    --------
    >>> round(theoretical_sqnr(8), 2), round(theoretical_sqnr(8, "uniform"), 2)
    (49.93, 48.16)
    """
    bits = arguments.integer(bits, "bits", 1, _MOST_BITS)
    offsets = {"sine": 10 * math.log10(1.5), "uniform": 0.0}
    return 20 * math.log10(2) * bits + offsets[arguments.choice(signal, "signal", offsets)]


def error_within_bounds(stats: QuantErrorStats, params: QuantParams, tolerance: float = 0.0) -> bool:
    """Whether the largest error is at most `theoretical_max_error(params) * (1 + tolerance)`.

    Parameters
    ----------
    stats : QuantErrorStats
    params : QuantParams
    tolerance : float, default 0.0
        Share of the bound by which it may be exceeded; not negative.

    Raises
    ------
    ValueError
        `tolerance` is negative, NaN or inf.
    TypeError
        An argument has another type.
    """
    if not isinstance(stats, QuantErrorStats):
        raise InvalidTypeError(f"stats: expected a QuantErrorStats, got {type(stats).__name__}")
    tolerance = arguments.number(tolerance, "tolerance")
    if tolerance < 0:
        raise InvalidValueError(f"tolerance: expected at least 0, got {tolerance}")
    return stats.max_error <= theoretical_max_error(params) * (1 + tolerance)

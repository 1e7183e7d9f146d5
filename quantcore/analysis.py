"""How far a reconstruction is from its original: measured, bounded by theory, and as a function of scale and width."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from quantcore import _arrays
from quantcore.error_sums import ErrorSums, QuantErrorStats
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.granularity import (
    QuantGranularity,
    QuantMode,
    QuantParams,
    calibrate_per_tensor,
    check_params,
    params_from_extremes,
)
from quantcore.tables import brief

__all__ = [
    "BitWidthComparison",
    "OutlierImpact",
    "ScaleSensitivity",
    "analyze_error",
    "analyze_outlier_impact",
    "compare_bit_widths",
    "error_stats",
    "error_within_bounds",
    "scale_sensitivity",
    "sqnr_db",
    "theoretical_max_error",
    "theoretical_sqnr",
]

_MOST_BITS = 64
_ROUNDING_OF_FLOAT32 = 2.0**-21


class ScaleSensitivity(NamedTuple):
    """What a change of all scales does to the mean squared error.

    Attributes
    ----------
    original_mse, perturbed_mse : float
        With the scales as they are, and with the changed ones.
    sensitivity : float
        `(perturbed_mse - original_mse) / original_mse / |perturbation|`: by how many per cent the error grows for a
        change of one per cent. 0 if both are 0, inf if only the first is.
    """

    original_mse: float
    perturbed_mse: float
    sensitivity: float


class BitWidthComparison(NamedTuple):
    """The mean squared errors of symmetric per-tensor quantization to 4 and to 8 bits.

    Attributes
    ----------
    mse_4bit, mse_8bit : float
    improvement : float
        `mse_4bit / mse_8bit`; 1 if both are 0, inf if only the second is.
    """

    mse_4bit: float
    mse_8bit: float
    improvement: float


class OutlierImpact(NamedTuple):
    """What the largest magnitudes cost all other values.

    Attributes
    ----------
    original_mse : float
        With the scale from the largest magnitude.
    clipped_mse : float
        With the scale from a percentile of the magnitudes; what lies above saturates, and its error counts in full.
    outlier_impact : float
        `original_mse / clipped_mse`: above 1 where clipping pays. 1 if both are 0, inf if only the second is.
    """

    original_mse: float
    clipped_mse: float
    outlier_impact: float


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
    """Statistics of the error that affine quantization makes, in one pass and without the codes being stored.

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
        `scale * (1/2 + 2**-21 * steps)` of the scale for which it is largest; `steps` is the largest distance of a code
        from the zero point.

    Notes
    -----
    Rounding to a code costs half a step. A rounded zero point shifts the range of the codes by up to half a step
    against that of the values, so that the extremes saturate: they are off by no more than that shift, which is again
    half a step, and not half a step more. The second term counts what float32 rounds in the scale, its inverse and the
    two products. Values outside the calibrated range have no bound.
    """
    params = check_params(params)
    zero_points = params.zero_points.astype(np.float64)
    steps = np.maximum(params.quant_max - zero_points, zero_points - params.quant_min)
    return float(np.max(params.scales.astype(np.float64) * (0.5 + _ROUNDING_OF_FLOAT32 * steps)))


def theoretical_sqnr(bits: int, signal: str = "sine") -> float:
    """The SQNR in dB of a uniform quantizer whose range is just that of the signal.

    Parameters
    ----------
    bits : int
        1 to 64.
    signal : {"sine", "uniform"}, default "sine"
        "sine": a sine of full amplitude, `20 log10(2) bits + 10 log10(1.5)`, known as 6.02 bits + 1.76.
        "uniform": values spread evenly over the range, `20 log10(2) bits`.

    Raises
    ------
    ValueError
        `bits` or `signal` is something else.
    TypeError
        `bits` is not an integer.

    Notes
    -----
    Signal power `A**2 / 2` (sine) or `A**2 / 3` (uniform) over the power `step**2 / 12` of an even rounding error, with
    `step = 2 A / 2**bits`; see W. R. Bennett, "Spectra of quantized signals" (1948). The codes here
    reach from one end of the range to the other, `2**bits - 2` steps if symmetric and `2**bits - 1` if not, which is
    as many dB less as `20 log10` of the share.

    Examples
    --------
    >>> round(theoretical_sqnr(8), 2), round(theoretical_sqnr(8, "uniform"), 2)
    (49.93, 48.16)
    """
    bits = _arrays.integer(bits, "bits", 1, _MOST_BITS)
    offsets = {"sine": 10 * math.log10(1.5), "uniform": 0.0}
    if not isinstance(signal, str) or signal not in offsets:
        raise InvalidValueError(f"signal: expected 'sine' or 'uniform', got {brief(signal)}")
    return 20 * math.log10(2) * bits + offsets[signal]


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
    tolerance = _arrays.number(tolerance, "tolerance")
    if tolerance < 0:
        raise InvalidValueError(f"tolerance: expected at least 0, got {tolerance}")
    return stats.max_error <= theoretical_max_error(params) * (1 + tolerance)


def scale_sensitivity(
    values: Any, params: QuantParams, perturbation: float, *, n_threads: int | None = None
) -> ScaleSensitivity:
    """What the mean squared error becomes if every scale is multiplied by `1 + perturbation`.

    Parameters
    ----------
    values, params, n_threads
        As for `analyze_error`.
    perturbation : float
        Above -1 and not 0; 0.01 is one per cent more.

    Returns
    -------
    ScaleSensitivity
        (original_mse, perturbed_mse, sensitivity).

    Raises
    ------
    ValueError
        As `analyze_error`; `perturbation` is out of its range, or so large or small that a scale leaves float32.
    TypeError
        As `analyze_error`; `perturbation` is not a number.
    """
    perturbation = _arrays.number(perturbation, "perturbation")
    if not perturbation or perturbation <= -1:
        raise InvalidValueError(f"perturbation: expected a number above -1 and not 0, got {perturbation}")
    params = check_params(params)
    original = _mse(values, params, n_threads)
    with np.errstate(over="ignore", under="ignore"):
        scales = (params.scales.astype(np.float64) * (1 + perturbation)).astype(np.float32)
    perturbed = _mse(values, replace(params, scales=scales), n_threads)
    return ScaleSensitivity(original, perturbed, (_ratio(perturbed, original) - 1) / abs(perturbation))


def compare_bit_widths(values: Any, *, n_threads: int | None = None) -> BitWidthComparison:
    """The mean squared errors of symmetric per-tensor quantization to 4 and to 8 bits.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.

    Returns
    -------
    BitWidthComparison
        (mse_4bit, mse_8bit, improvement).

    Raises
    ------
    ValueError, TypeError
        As `analyze_error`.
    """
    mse_4bit, mse_8bit = (
        _mse(values, calibrate_per_tensor(values, bits, n_threads=n_threads), n_threads) for bits in (4, 8)
    )
    return BitWidthComparison(mse_4bit, mse_8bit, _ratio(mse_4bit, mse_8bit))


def analyze_outlier_impact(
    values: Any, percentile: float = 99.9, *, bits: int = 8, n_threads: int | None = None
) -> OutlierImpact:
    """Whether the scale should ignore the largest magnitudes: symmetric per-tensor quantization with and without them.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    percentile : float, default 99.9
        Above 0 and at most 100: the clipped scale is that of this percentile of the magnitudes (linear interpolation).
    bits : int, default 8
        2 to 8.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.

    Returns
    -------
    OutlierImpact
        (original_mse, clipped_mse, outlier_impact), both errors against `values` as they are.

    Raises
    ------
    ValueError
        As `analyze_error`; `percentile` or `bits` is out of its range.
    TypeError
        As `analyze_error`; `percentile` is not a number, `bits` not an integer.
    """
    percentile = _arrays.number(percentile, "percentile")
    if not 0 < percentile <= 100:
        raise InvalidValueError(f"percentile: expected a number above 0 and at most 100, got {percentile}")
    params = calibrate_per_tensor(values, bits, n_threads=n_threads)
    original = _mse(values, params, n_threads)
    source = _arrays.floats(values, "values")
    limit = np.asarray([np.percentile(np.abs(source.values(0, source.size)), percentile)], np.float32)
    clipped_params = params_from_extremes(-limit, limit, QuantGranularity.per_tensor(), bits, QuantMode.SYMMETRIC)
    clipped = _mse(values, clipped_params, n_threads)
    return OutlierImpact(original, clipped, _ratio(original, clipped))


def _mse(values: Any, params: QuantParams, n_threads: int | None) -> float:
    sums = ErrorSums()
    sums.add_affine(values, params, n_threads=n_threads, name="values")
    return sums.stats().mse


def _ratio(above: float, below: float) -> float:
    """above / below, 0 / 0 being 1."""
    if not below:
        return math.inf if above else 1.0
    return above / below

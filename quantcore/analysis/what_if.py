"""How the error changes with the scale, the number of bits, the granularity, and without outliers."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from quantcore._base import arguments, arrays
from quantcore._base.records import shown
from quantcore.affine.from_extremes import calibrate_per_channel, calibrate_per_tensor, params_within
from quantcore.affine.granularity import QuantGranularity
from quantcore.affine.modes import QuantMode, check_mode, code_range
from quantcore.affine.params import QuantParams, check_params
from quantcore.analysis.benchmarks import run_benchmark
from quantcore.analysis.sums import ErrorSums
from quantcore.errors import InvalidValueError

__all__ = [
    "BitWidthComparison",
    "BitWidthDegradation",
    "OutlierImpact",
    "ScaleSensitivity",
    "accuracy_retention",
    "analyze_outlier_impact",
    "compare_bit_width_degradation",
    "compare_bit_widths",
    "compare_granularities",
    "quantization_mse",
    "scale_sensitivity",
]


@shown()
class ScaleSensitivity(NamedTuple):
    """The mean squared error before and after a change of all scales.

    Attributes
    ----------
    original_mse, perturbed_mse : float
        With the scales as they are, and with the changed ones.
    sensitivity : float
        `(perturbed_mse - original_mse) / original_mse / |perturbation|`: by how many per cent the error grows when
        the scales change by one per cent. 0 if both errors are 0, inf if only the first is.
    """

    original_mse: float
    perturbed_mse: float
    sensitivity: float


@shown()
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


@shown()
class OutlierImpact(NamedTuple):
    """The mean squared error with and without the largest magnitudes in the range.

    Attributes
    ----------
    original_mse : float
        With the scale from the largest magnitude.
    clipped_mse : float
        With the scale from a percentile of the magnitudes; larger values saturate, and their error counts in full.
    outlier_impact : float
        `original_mse / clipped_mse`: above 1 where clipping pays off. 1 if both are 0, inf if only the second is.
    """

    original_mse: float
    clipped_mse: float
    outlier_impact: float


@shown()
class BitWidthDegradation(NamedTuple):
    """The error at a number of bits.

    Attributes
    ----------
    bits : int
    mse, max_error, sqnr_db : float
        As `QuantErrorStats` defines them.
    sqnr_loss_db : float
        By how much the SQNR is below that of 8 bits; 0 if both are exact.
    """

    bits: int
    mse: float
    max_error: float
    sqnr_db: float
    sqnr_loss_db: float


def scale_sensitivity(
    values: Any, params: QuantParams, perturbation: float, *, n_threads: int | None = None
) -> ScaleSensitivity:
    """The mean squared error when every scale is multiplied by `1 + perturbation`.

    Parameters
    ----------
    values, params, n_threads
        As for `analyze_error`.
    perturbation : float
        Above -1 and not 0; 0.01 makes scales one per cent larger.

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
    perturbation = arguments.number(perturbation, "perturbation")
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
    percentile = arguments.number(percentile, "percentile")
    if not 0 < percentile <= 100:
        raise InvalidValueError(f"percentile: expected a number above 0 and at most 100, got {percentile}")
    params = calibrate_per_tensor(values, bits, n_threads=n_threads)
    original = _mse(values, params, n_threads)
    source = arrays.take_floats(values, "values")
    limit = np.percentile(np.abs(source.values(0, source.size)), percentile)
    bounds = np.array([[-limit], [limit]], np.float32)
    limits = code_range(bits, QuantMode.SYMMETRIC)
    clipped_params = params_within(bounds, QuantGranularity.per_tensor(), bits, QuantMode.SYMMETRIC, limits)
    clipped = _mse(values, clipped_params, n_threads)
    return OutlierImpact(original, clipped, _ratio(original, clipped))


def quantization_mse(original: Any, dequantized: Any, *, n_threads: int | None = None) -> float:
    """The mean squared error, summed in float64.

    Parameters
    ----------
    original, dequantized : array_like of the same shape
        float32, float16, bfloat16 or float64, finite, not empty.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The figure does not depend on it.

    Raises
    ------
    ValueError
        The shapes differ, there is nothing to compare, or a value is NaN or inf.
    TypeError
        One of them is not a float array.
    """
    sums = ErrorSums()
    sums.add(original, dequantized, n_threads=n_threads, name="dequantized")
    return sums.stats().mse


def compare_granularities(
    values: Any, bits: int = 8, axis: int = 0, *, n_threads: int | None = None
) -> tuple[float, float]:
    """The mean squared errors of symmetric quantization: (per_tensor_mse, per_channel_mse).

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    bits : int, default 8
        2 to 8.
    axis : int, default 0
        The axis of the channels.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The figures do not depend on it.

    Raises
    ------
    ValueError, TypeError
        As `calibrate_per_channel`.
    """
    per_tensor = ErrorSums()
    per_tensor.add_affine(values, calibrate_per_tensor(values, bits, n_threads=n_threads), n_threads=n_threads)
    per_channel = ErrorSums()
    params = calibrate_per_channel(values, bits, axis=axis, n_threads=n_threads)
    per_channel.add_affine(values, params, n_threads=n_threads)
    return per_tensor.stats().mse, per_channel.stats().mse


def compare_bit_width_degradation(
    values: Any,
    *,
    granularity: QuantGranularity | str | None = None,
    mode: QuantMode | str = QuantMode.SYMMETRIC,
    n_threads: int | None = None,
) -> tuple[BitWidthDegradation, ...]:
    """The error at 8, 7, … 2 bits.

    Parameters
    ----------
    values, granularity, mode, n_threads
        As for `run_benchmark`.

    Returns
    -------
    tuple of BitWidthDegradation
        One per number of bits, from 8 down to 2.

    Raises
    ------
    ValueError, TypeError
        As `run_benchmark`.
    """
    mode = check_mode(mode)
    results = [run_benchmark("", values, bits, granularity, mode, n_threads=n_threads) for bits in range(8, 1, -1)]
    best = results[0].sqnr_db
    return tuple(
        BitWidthDegradation(r.bits, r.mse, r.max_error, r.sqnr_db, best - r.sqnr_db if r.sqnr_db < best else 0.0)
        for r in results
    )


def accuracy_retention(original: float, quantized: float) -> float:
    """How much of a metric is kept, in per cent: `100 * quantized / original`.

    Parameters
    ----------
    original : float
        The metric of the original model, such as its top-1 accuracy; above 0, and higher is better.
    quantized : float
        The metric of the quantized model.

    Returns
    -------
    float
        100 if they are equal; above 100 if the quantized model is better.

    Raises
    ------
    ValueError
        `original` is not above 0; one of them is NaN or inf.
    TypeError
        One of them is not a number.

    Examples
    --------
    >>> accuracy_retention(0.80, 0.76)
    95.0
    """
    original, quantized = arguments.number(original, "original"), arguments.number(quantized, "quantized")
    if original <= 0:
        raise InvalidValueError(f"original: expected a metric above 0, got {original}")
    return 100 * (quantized / original)


def _mse(values: Any, params: QuantParams, n_threads: int | None) -> float:
    sums = ErrorSums()
    sums.add_affine(values, params, n_threads=n_threads, name="values")
    return sums.stats().mse


def _ratio(above: float, below: float) -> float:
    """above / below, with 0 / 0 taken as 1."""
    if not below:
        return math.inf if above else 1.0
    return above / below

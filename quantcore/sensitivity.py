"""The error of affine quantization as a function of its scale, of the number of bits, and of outliers."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from quantcore import _arrays
from quantcore.affine_parameters import calibrate_per_tensor, params_within
from quantcore.error_sums import ErrorSums
from quantcore.errors import InvalidValueError
from quantcore.granularity import QuantGranularity, QuantMode, QuantParams, check_params, code_range

__all__ = [
    "BitWidthComparison",
    "OutlierImpact",
    "ScaleSensitivity",
    "analyze_outlier_impact",
    "compare_bit_widths",
    "scale_sensitivity",
]


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
    limit = np.percentile(np.abs(source.values(0, source.size)), percentile)
    bounds = np.array([[-limit], [limit]], np.float32)
    limits = code_range(bits, QuantMode.SYMMETRIC)
    clipped_params = params_within(bounds, QuantGranularity.per_tensor(), bits, QuantMode.SYMMETRIC, limits)
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

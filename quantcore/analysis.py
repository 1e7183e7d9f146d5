"""How far a reconstruction is from its original."""

import math
from typing import Any

import numpy as np

from quantcore.errors import InvalidValueError

__all__ = ["sqnr_db"]


def sqnr_db(original: Any, reconstructed: Any) -> float:
    """Signal to quantization-noise ratio, `10 log10(sum(x**2) / sum((x - y)**2))`, in dB.

    Parameters
    ----------
    original, reconstructed : array_like of the same shape
        Sums are taken in float64.

    Returns
    -------
    float
        inf for a perfect reconstruction (an all-zero one of zeros included), -inf if only the original is all zeros.

    Raises
    ------
    ValueError
        The shapes differ, or there is nothing to compare.

    Examples
    --------
    >>> round(sqnr_db([1.0, -1.0], [1.1, -1.0]), 2)
    23.01
    """
    x = np.asarray(original, np.float64)
    y = np.asarray(reconstructed, np.float64)
    if x.shape != y.shape:
        raise InvalidValueError(f"reconstructed: expected the shape of original {x.shape}, got {y.shape}")
    if x.size == 0:
        raise InvalidValueError("original: must not be empty")
    signal, noise = float(np.sum(x * x)), float(np.sum((x - y) ** 2))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf

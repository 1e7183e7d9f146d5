"""What is said about an error, and how it follows from sums."""

import math
from dataclasses import dataclass

__all__ = ["QuantErrorStats"]


@dataclass(frozen=True, slots=True)
class QuantErrorStats:
    """How far a reconstruction y is from its original x.

    Attributes
    ----------
    mse : float
        Mean of `(x - y)**2`.
    mae : float
        Mean of `|x - y|`.
    max_error : float
        Largest `|x - y|`.
    sqnr_db : float
        `10 log10(sum(x**2) / sum((x - y)**2))`; inf if nothing differs (zeros kept as zeros included), -inf if only x
        is all zeros. Never NaN.
    outlier_rate : float or None
        Share of the elements whose `|x - y|` is above the threshold; None if no threshold was given.
    num_samples : int
        Elements.
    cosine_similarity : float
        `sum(x * y) / sqrt(sum(x**2) * sum(y**2))`, from -1 to 1; 1 if both are all zeros, 0 if one of them is.
    """

    mse: float
    mae: float
    max_error: float
    sqnr_db: float
    outlier_rate: float | None
    num_samples: int
    cosine_similarity: float

    @property
    def rmse(self) -> float:
        """Square root of `mse`."""
        return math.sqrt(self.mse)


def decibels(signal: float, noise: float) -> float:
    """The SQNR of sums of squares, taken so that no quotient overflows."""
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal else -math.inf


def cosine(signal: float, reconstructed: float, product: float) -> float:
    """The cosine similarity of two sums of squares and that of the products."""
    if not signal or not reconstructed:
        return 1.0 if signal == reconstructed else 0.0
    return min(1.0, max(-1.0, product / (math.sqrt(signal) * math.sqrt(reconstructed))))

"""The statistics of an error, and how they follow from sums."""

import math
from dataclasses import dataclass

from quantcore._base import arguments
from quantcore._base.records import shown
from quantcore.errors import InvalidValueError

__all__ = ["QuantErrorStats"]


@shown("rmse")
@dataclass(frozen=True, slots=True, repr=False)
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
        `10 log10(sum(x**2) / sum((x - y)**2))`; inf if nothing differs (also if both are all zeros), -inf if only x
        is all zeros. Never NaN.
    outlier_rate : float or None
        Share of the elements whose `|x - y|` is above the threshold; None if no threshold was given.
    num_samples : int
        The number of elements.
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

    def __post_init__(self) -> None:
        for name in ("mse", "mae", "max_error"):
            if arguments.figure(getattr(self, name), name) < 0:
                raise InvalidValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        for name in ("sqnr_db", "cosine_similarity"):
            arguments.figure(getattr(self, name), name)
        if self.outlier_rate is not None:
            arguments.number(self.outlier_rate, "outlier_rate")
        arguments.integer(self.num_samples, "num_samples", 0)

    @property
    def rmse(self) -> float:
        """Square root of `mse`."""
        return math.sqrt(self.mse)


def decibels(signal: float, noise: float) -> float:
    """The SQNR from two sums of squares, computed so that no quotient overflows."""
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal else -math.inf


def cosine(signal: float, reconstructed: float, product: float) -> float:
    """The cosine similarity from two sums of squares and the sum of the products."""
    if not signal or not reconstructed:
        return 1.0 if signal == reconstructed else 0.0
    return min(1.0, max(-1.0, product / (math.sqrt(signal) * math.sqrt(reconstructed))))

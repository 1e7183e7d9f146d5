"""What fewer bits lose: of the signal, and of a model's metric."""

from typing import Any, NamedTuple

from quantcore import _arrays
from quantcore.benchmarks import run_benchmark
from quantcore.errors import InvalidValueError
from quantcore.granularity import QuantGranularity, QuantMode, check_mode

__all__ = ["BitWidthDegradation", "accuracy_retention", "compare_bit_width_degradation"]


class BitWidthDegradation(NamedTuple):
    """What a number of bits loses.

    Attributes
    ----------
    bits : int
    mse, max_error, sqnr_db : float
        As `QuantErrorStats` defines them.
    sqnr_loss_db : float
        By how much the SQNR is below that of 8 bits; 0 if neither loses anything.
    """

    bits: int
    mse: float
    max_error: float
    sqnr_db: float
    sqnr_loss_db: float


def compare_bit_width_degradation(
    values: Any,
    *,
    granularity: QuantGranularity | None = None,
    mode: QuantMode = QuantMode.SYMMETRIC,
    n_threads: int | None = None,
) -> tuple[BitWidthDegradation, ...]:
    """What 8, 7, … 2 bits lose.

    Parameters
    ----------
    values, granularity, mode, n_threads
        As for `run_benchmark`.

    Returns
    -------
    tuple of BitWidthDegradation
        That of 8 bits first.

    Raises
    ------
    ValueError, TypeError
        As `run_benchmark`.
    """
    check_mode(mode)
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
        The metric of the original model, such as its top-1 accuracy; above 0, and more is better.
    quantized : float
        That of the quantized model.

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
    original, quantized = _arrays.number(original, "original"), _arrays.number(quantized, "quantized")
    if original <= 0:
        raise InvalidValueError(f"original: expected a metric above 0, got {original}")
    return 100 * (quantized / original)

"""Random weights of known distributions, on which formats are compared."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore._base.text import brief
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = [
    "generate_gaussian_weights",
    "generate_multi_channel_weights",
    "generate_uniform_weights",
    "generate_weights_with_outliers",
]

_LOWEST_EXPONENT, _HIGHEST_EXPONENT = -2.0, 0.0


def generate_gaussian_weights(
    n: int, mean: float = 0.0, std: float = 1.0, *, rng: np.random.Generator | int
) -> NDArray[np.float32]:
    """Normally distributed weights.

    Parameters
    ----------
    n : int
        The number of weights.
    mean, std : float, default 0.0 and 1.0
        The mean and the standard deviation of the distribution; `std` is not negative.
    rng : numpy.random.Generator or int
        Where the random numbers come from, or a seed.

    Returns
    -------
    ndarray of float32, shape (n,)

    Raises
    ------
    ValueError
        A number is out of its range, or the weights leave the range of float32.
    TypeError
        `rng` is neither a Generator nor a seed; another argument is not a number.
    """
    n, generator = arguments.count(n, "n"), generator_of(rng)
    mean, std = arguments.number(mean, "mean"), _not_negative(std, "std")
    return _narrow(generator.standard_normal(n), std, mean)


def generate_uniform_weights(
    n: int, low: float = -1.0, high: float = 1.0, *, rng: np.random.Generator | int
) -> NDArray[np.float32]:
    """Weights spread evenly between two bounds.

    Parameters
    ----------
    n : int
        The number of weights.
    low, high : float, default -1.0 and 1.0
        `low < high`; a weight may be rounded to either.
    rng : numpy.random.Generator or int
        Where the random numbers come from, or a seed.

    Returns
    -------
    ndarray of float32, shape (n,)

    Raises
    ------
    ValueError, TypeError
        As `generate_gaussian_weights`; `low` is not below `high`.
    """
    n, generator = arguments.count(n, "n"), generator_of(rng)
    low, high = arguments.number(low, "low"), arguments.number(high, "high")
    if not low < high:
        raise InvalidValueError(f"low, high: expected low < high, got {low} and {high}")
    return _narrow(generator.random(n), high - low, low)


def generate_weights_with_outliers(
    n: int,
    outlier_ratio: float = 0.01,
    outlier_scale: float = 10.0,
    std: float = 1.0,
    *,
    rng: np.random.Generator | int,
) -> NDArray[np.float32]:
    """Normally distributed weights with outliers of either sign at random places.

    Parameters
    ----------
    n : int
        The number of weights.
    outlier_ratio : float, default 0.01
        The share of outliers, from 0 to 1; their number is `rint(n * outlier_ratio)`.
    outlier_scale : float, default 10.0
        An outlier's magnitude is from 1 to 1.5 times `outlier_scale * std`; not negative.
    std : float, default 1.0
        The standard deviation of the other weights.
    rng : numpy.random.Generator or int
        Where the random numbers come from, or a seed.

    Returns
    -------
    ndarray of float32, shape (n,)

    Raises
    ------
    ValueError, TypeError
        As `generate_gaussian_weights`; `outlier_ratio` is not from 0 to 1.
    """
    n, generator = arguments.count(n, "n"), generator_of(rng)
    ratio, scale = arguments.number(outlier_ratio, "outlier_ratio"), _not_negative(outlier_scale, "outlier_scale")
    std = _not_negative(std, "std")
    if not 0 <= ratio <= 1:
        raise InvalidValueError(f"outlier_ratio: expected 0 to 1, got {ratio}")
    weights = generator.standard_normal(n)
    places = generator.choice(n, size=round(n * ratio), replace=False) if n else np.empty(0, np.intp)
    signs = generator.choice((-1.0, 1.0), size=places.size)
    weights[places] = signs * scale * generator.uniform(1, 1.5, places.size)
    return _narrow(weights, std, 0.0)


def generate_multi_channel_weights(
    channels: int, per_channel: int, *, rng: np.random.Generator | int
) -> NDArray[np.float32]:
    """Normally distributed weights whose rows differ in scale, as the channels of a layer do.

    Parameters
    ----------
    channels, per_channel : int
        The shape of the result.
    rng : numpy.random.Generator or int
        Where the random numbers come from, or a seed.

    Returns
    -------
    ndarray of float32, shape (channels, per_channel)
        Standard deviations are log-uniform from 0.01 to 1.

    Raises
    ------
    ValueError
        A number is negative.
    TypeError
        `rng` is neither a Generator nor a seed, or a number is not an integer.
    """
    shape = (arguments.count(channels, "channels"), arguments.count(per_channel, "per_channel"))
    arguments.shape(shape, "channels, per_channel")
    generator = generator_of(rng)
    std = 10 ** generator.uniform(_LOWEST_EXPONENT, _HIGHEST_EXPONENT, (shape[0], 1))
    return (std * generator.standard_normal(shape)).astype(np.float32)


def generator_of(rng: Any) -> np.random.Generator:
    """The generator itself, or a new one from a seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        return np.random.default_rng(arguments.integer(rng, "rng", 0))
    except InvalidTypeError:
        raise InvalidTypeError(f"rng: expected a numpy.random.Generator or an integer seed, got {brief(rng)}") from None


def _narrow(values: NDArray[np.float64], scale: float, offset: float) -> NDArray[np.float32]:
    values *= scale
    values += offset
    if not arrays.are_finite(values).all():
        raise InvalidValueError(f"weights up to {np.abs(values).max():.3g} are beyond the range of float32")
    return values.astype(np.float32)


def _not_negative(value: Any, name: str) -> float:
    number = arguments.number(value, name)
    if number < 0:
        raise InvalidValueError(f"{name}: expected at least 0, got {number}")
    return number

"""Random weights of known distributions, on which formats are compared."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.tables import brief

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
        How many.
    mean, std : float, default 0.0 and 1.0
        Of the distribution; `std` is not negative.
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
    n, generator = _arrays.integer(n, "n", 0), generator_of(rng)
    mean, std = _arrays.number(mean, "mean"), _not_negative(std, "std")
    return _narrowed(generator.standard_normal(n), std, mean)


def generate_uniform_weights(
    n: int, low: float = -1.0, high: float = 1.0, *, rng: np.random.Generator | int
) -> NDArray[np.float32]:
    """Weights spread evenly between two bounds.

    Parameters
    ----------
    n : int
        How many.
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
    n, generator = _arrays.integer(n, "n", 0), generator_of(rng)
    low, high = _arrays.number(low, "low"), _arrays.number(high, "high")
    if not low < high:
        raise InvalidValueError(f"low, high: expected low < high, got {low} and {high}")
    return _narrowed(generator.random(n), high - low, low)


def generate_weights_with_outliers(
    n: int,
    outlier_ratio: float = 0.01,
    outlier_scale: float = 10.0,
    std: float = 1.0,
    *,
    rng: np.random.Generator | int,
) -> NDArray[np.float32]:
    """Normally distributed weights, some of which are far larger: of either sign, at random places.

    Parameters
    ----------
    n : int
        How many.
    outlier_ratio : float, default 0.01
        Share of the outliers, from 0 to 1; their number is `rint(n * outlier_ratio)`.
    outlier_scale : float, default 10.0
        An outlier's magnitude is from 1 to 1.5 times `outlier_scale * std`; not negative.
    std : float, default 1.0
        Of the other weights.
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
    n, generator = _arrays.integer(n, "n", 0), generator_of(rng)
    ratio, scale = _arrays.number(outlier_ratio, "outlier_ratio"), _not_negative(outlier_scale, "outlier_scale")
    std = _not_negative(std, "std")
    if not 0 <= ratio <= 1:
        raise InvalidValueError(f"outlier_ratio: expected 0 to 1, got {ratio}")
    weights = generator.standard_normal(n)
    places = generator.choice(n, size=round(n * ratio), replace=False) if n else np.empty(0, np.intp)
    signs = generator.choice((-1.0, 1.0), size=places.size)
    weights[places] = signs * scale * generator.uniform(1, 1.5, places.size)
    return _narrowed(weights, std, 0.0)


def generate_multi_channel_weights(
    channels: int, per_channel: int, *, rng: np.random.Generator | int
) -> NDArray[np.float32]:
    """Normally distributed weights of which each row has a scale of its own, as the channels of a layer do.

    Parameters
    ----------
    channels, per_channel : int
        The shape.
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
    shape = (_arrays.integer(channels, "channels", 0), _arrays.integer(per_channel, "per_channel", 0))
    generator = generator_of(rng)
    std = 10 ** generator.uniform(_LOWEST_EXPONENT, _HIGHEST_EXPONENT, (shape[0], 1))
    return (std * generator.standard_normal(shape)).astype(np.float32)


def generator_of(rng: Any) -> np.random.Generator:
    """The generator itself, or a new one of a seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, (bool, np.bool_)) or not isinstance(rng, (int, np.integer)):
        raise InvalidTypeError(f"rng: expected a numpy.random.Generator or an integer seed, got {brief(rng)}")
    return np.random.default_rng(_arrays.integer(rng, "rng", 0))


def _narrowed(values: NDArray[np.float64], scale: float, offset: float) -> NDArray[np.float32]:
    values *= scale
    values += offset
    if not np.all(np.abs(values) <= _arrays.F32_MAX):
        raise InvalidValueError(f"weights up to {np.abs(values).max():.3g} are beyond the range of float32")
    return values.astype(np.float32)


def _not_negative(value: Any, name: str) -> float:
    number = _arrays.number(value, name)
    if number < 0:
        raise InvalidValueError(f"{name}: expected at least 0, got {number}")
    return number

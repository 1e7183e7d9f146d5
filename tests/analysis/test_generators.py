"""Random weights: their distributions, and that a seed repeats them."""

import math

import numpy as np
import pytest

from quantcore import (
    generate_gaussian_weights,
    generate_multi_channel_weights,
    generate_uniform_weights,
    generate_weights_with_outliers,
)
from quantcore.errors import InvalidTypeError, InvalidValueError

N = 100_000
CALLS = {
    "gaussian": lambda n, rng: generate_gaussian_weights(n, rng=rng),
    "uniform": lambda n, rng: generate_uniform_weights(n, rng=rng),
    "outliers": lambda n, rng: generate_weights_with_outliers(n, rng=rng),
    "multi-channel": lambda n, rng: generate_multi_channel_weights(n, 3, rng=rng),
}


def test_gaussian(rng):
    weights = generate_gaussian_weights(N, 3.0, 0.5, rng=rng)
    assert weights.dtype == np.float32 and weights.shape == (N,)
    assert weights.mean() == pytest.approx(3.0, abs=0.02) and weights.std() == pytest.approx(0.5, rel=0.02)
    kurtosis = np.mean(((weights - weights.mean()) / weights.std()) ** 4)
    assert kurtosis == pytest.approx(3, abs=0.2)
    assert np.array_equal(generate_gaussian_weights(5, 2.0, 0, rng=rng), np.full(5, 2, np.float32))


def test_uniform(rng):
    weights = generate_uniform_weights(N, -2.0, 6.0, rng=rng)
    assert weights.dtype == np.float32 and weights.shape == (N,)
    assert -2 <= weights.min() < -1.99 and 5.99 < weights.max() <= 6
    counts, _ = np.histogram(weights, 10, (-2, 6))
    assert np.abs(counts - N / 10).max() < 6 * math.sqrt(N / 10)


def test_outliers(rng):
    weights = generate_weights_with_outliers(N, 0.01, 50.0, 0.1, rng=rng)
    assert weights.dtype == np.float32 and weights.shape == (N,)
    outliers = np.flatnonzero(np.abs(weights) > 2)
    assert outliers.size == N // 100
    magnitudes = np.abs(weights[outliers])
    assert magnitudes.min() >= np.float32(5) and magnitudes.max() <= np.float32(7.5)
    assert 0.4 < np.mean(weights[outliers] > 0) < 0.6, "of both signs"
    assert 0.4 < np.mean(outliers < N / 2) < 0.6, "anywhere"
    others = np.delete(weights, outliers)
    assert others.std() == pytest.approx(0.1, rel=0.02) and abs(others.mean()) < 0.002


@pytest.mark.parametrize(
    ("n", "ratio", "count"), [(10, 0.0, 0), (10, 1.0, 10), (10, 0.26, 3), (0, 0.5, 0), (3, 0.01, 0)]
)
def test_number_of_outliers(n, ratio, count):
    weights = generate_weights_with_outliers(n, ratio, 1000.0, rng=1)
    assert np.count_nonzero(np.abs(weights) >= 1000) == count


def test_multi_channel(rng):
    weights = generate_multi_channel_weights(200, 1000, rng=rng)
    assert weights.dtype == np.float32 and weights.shape == (200, 1000)
    std = weights.std(axis=1)
    assert 0.009 < std.min() < 0.02 and 0.5 < std.max() < 1.1
    assert 0.3 < np.mean(std < 0.1) < 0.7, "log-uniform"
    normalised = weights / std[:, None]
    assert np.mean(normalised**4) == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("name", CALLS)
def test_seeds_repeat_and_generators_go_on(name):
    call = CALLS[name]
    first = call(50, 7)
    assert np.array_equal(first, call(50, 7)) and np.array_equal(first, call(50, np.int64(7)))
    assert not np.array_equal(first, call(50, 8))
    generator = np.random.default_rng(7)
    assert np.array_equal(first, call(50, generator))
    assert not np.array_equal(first, call(50, generator))
    assert call(0, 7).size == 0


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("wrong", [None, 1.0, True, "1", np.random.RandomState(1)])
def test_what_is_no_source_of_random_numbers_is_refused(name, wrong):
    with pytest.raises(InvalidTypeError, match=r"^rng: expected a numpy\.random\.Generator or an integer seed, got"):
        CALLS[name](5, wrong)
    with pytest.raises(InvalidValueError, match=r"^rng: expected an integer >= 0, got -1$"):
        CALLS[name](5, -1)


@pytest.mark.parametrize("name", CALLS)
def test_numbers_that_are_none_are_refused(name):
    for wrong in (-1, 2.0, True, "3"):
        with pytest.raises((InvalidTypeError, InvalidValueError), match=r"^(n|channels): expected an integer >= 0"):
            CALLS[name](wrong, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate_gaussian_weights(5, 0, -1, rng=1), r"^std: expected at least 0, got -1\.0$"),
        (lambda: generate_gaussian_weights(5, math.nan, rng=1), r"^mean: expected a finite number, got nan$"),
        (lambda: generate_gaussian_weights(5, 1e39, rng=1), r"^weights up to 1e\+39 are beyond the range of float32$"),
        (lambda: generate_uniform_weights(5, 1, 1, rng=1), r"^low, high: expected low < high, got 1\.0 and 1\.0$"),
        (lambda: generate_uniform_weights(5, -1e308, 1e308, rng=1), r"^weights up to .* beyond the range of float32$"),
        (lambda: generate_weights_with_outliers(5, 1.01, rng=1), r"^outlier_ratio: expected 0 to 1, got 1\.01$"),
        (lambda: generate_weights_with_outliers(5, -0.1, rng=1), r"^outlier_ratio: expected 0 to 1, got -0\.1$"),
        (lambda: generate_weights_with_outliers(5, 0.1, -1, rng=1), r"^outlier_scale: expected at least 0, got -1\.0$"),
        (lambda: generate_multi_channel_weights(5, -1, rng=1), r"^per_channel: expected an integer >= 0, got -1$"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(InvalidValueError, match=message):
        call()

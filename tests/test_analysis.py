"""`sqnr_db` against figures that can be worked out by hand, and against the definition written out."""

import math

import ml_dtypes
import numpy as np
import pytest

from quantcore.analysis import sqnr_db
from quantcore.errors import InvalidValueError, QuantcoreError


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("decibels", [0, 10, 20, 60])
def test_a_factor_of_ten_in_the_error_is_20_db(decibels):
    x = normal(100)
    assert sqnr_db(x, x * (1 + 10 ** (-decibels / 20))) == pytest.approx(decibels, abs=1e-9)


def test_known_figures():
    assert sqnr_db([3.0, 4.0], [3.0, 5.0]) == pytest.approx(10 * math.log10(25))
    assert sqnr_db([1.0], [0.0]) == 0
    assert sqnr_db([1.0], [-1.0]) == pytest.approx(-6.0206, abs=1e-4)


def test_definition():
    x = normal(1000).astype(np.float32)
    y = (x + 0.01 * normal(1000, seed=1)).astype(np.float32)
    signal = math.fsum(float(v) ** 2 for v in x)
    noise = math.fsum((float(v) - float(w)) ** 2 for v, w in zip(x, y, strict=True))
    assert sqnr_db(x, y) == pytest.approx(10 * math.log10(signal / noise), rel=1e-12)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-20, 2.0**20, 2.0**60])
def test_scale_does_not_count(scale):
    x = normal(1000).astype(np.float32)
    y = x + np.float32(2**-8) * normal(1000, seed=1).astype(np.float32)
    assert sqnr_db(x * np.float32(scale), y * np.float32(scale)) == pytest.approx(sqnr_db(x, y), abs=1e-9)


def test_sums_do_not_lose_small_errors_in_float32():
    x = np.full(1 << 20, 1.0, np.float32)
    y = x + np.float32(2**-23)
    assert sqnr_db(x, y) == pytest.approx(20 * math.log10(2**23), abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_dtypes(dtype):
    x = normal(64).astype(dtype)
    y = (x * dtype(1.25)).astype(dtype)
    expected = sqnr_db(x.astype(np.float64), y.astype(np.float64))
    assert sqnr_db(x, y) == expected and 11 < expected < 13


def test_perfect_reconstruction():
    x = normal(10)
    assert sqnr_db(x, x.copy()) == math.inf
    assert sqnr_db(x * 1e-30, x * 1e-30) == math.inf


def test_signal_of_zeros():
    zeros = np.zeros((2, 3), np.float32)
    assert sqnr_db(zeros, zeros) == math.inf
    assert sqnr_db(zeros, -zeros) == math.inf
    assert sqnr_db(zeros, zeros + 1) == -math.inf


def test_zeros_for_a_signal_are_0_db():
    assert sqnr_db(normal(10), np.zeros(10)) == 0


def test_tiny_weights_are_not_perfect():
    x = normal(100).astype(np.float32) * np.float32(1e-15)
    assert sqnr_db(x, x * np.float32(1.1)) == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (3, 2, 1)])
def test_shapes_that_differ_are_refused(shape):
    with pytest.raises(InvalidValueError, match=r"reconstructed: .*\(3, 2\)") as caught:
        sqnr_db(np.zeros((3, 2)), np.zeros(shape))
    assert str(shape) in str(caught.value)
    assert isinstance(caught.value, QuantcoreError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_nothing_to_compare_is_refused(shape):
    with pytest.raises(InvalidValueError, match="original: must not be empty"):
        sqnr_db(np.zeros(shape), np.zeros(shape))

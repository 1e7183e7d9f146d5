"""Numbers of a user: one check for every parameter, and one line that names it."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from quantcore._base import arguments
from quantcore.errors import InvalidTypeError, InvalidValueError

NUMBERS = [
    0,
    -3,
    2.5,
    Fraction(1, 4),
    np.float32(0.1),
    np.float16(2),
    np.float64(1e-300),
    np.int8(-7),
    np.uint64(2**60),
]
NOT_NUMBERS = [True, np.True_, None, "1", [1], 1j, Decimal(1), np.array([1.0])]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_numbers(value):
    assert arguments.is_number(value)
    assert arguments.number(value, "x") == float(value)
    assert arguments.float32(value, "x") == float(np.float32(value))


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
@pytest.mark.parametrize("check", [arguments.number, arguments.float32])
def test_what_is_no_number(check, value):
    assert not arguments.is_number(value)
    with pytest.raises(InvalidTypeError, match=r"^x: expected a number, got "):
        check(value, "x")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400, -(10**400), np.float32("nan")], ids=str)
@pytest.mark.parametrize("check", [arguments.number, arguments.float32])
def test_what_is_not_finite(check, value):
    with pytest.raises(InvalidValueError, match=r"^x: (expected a finite number|must be finite in float32), got "):
        check(value, "x")


def test_what_float32_cannot_hold():
    assert arguments.number(1e39, "x") == 1e39
    assert arguments.float32(-3.4028234663852886e38, "x") == -3.4028234663852886e38
    for value in (1e39, -1e39, 2**128, 3.4028235e38 * 1.01):
        with pytest.raises(InvalidValueError, match=r"^x: must be finite in float32, got "):
            arguments.float32(value, "x")

"""Scales along the last axes: rows with one scale per column, cut if they are wide and repeated if they are narrow."""

import tracemalloc

import numpy as np
import pytest

from quantcore import QuantGranularity, QuantMode, QuantParams, calibrate_per_channel, quantize_with_params
from quantcore._base.arrays import take_floats
from quantcore.affine.passes import extremes
from quantcore.affine.sharing import sharing_of
from tests.support import reference_affine

F32 = np.float32
WIDTHS = [2, 31, 511, 513, 1023, 1024, 1025, 1088, 2047, 2048, 2049, 5000]
SIGNS = {
    "both": lambda x: x,
    "positive": np.abs,
    "negative": lambda x: -np.abs(x),
    "zeros": lambda x: np.copysign(F32(0), x),
}


@pytest.mark.parametrize("n_rows", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("sign", SIGNS)
def test_extremes_of_columns(rng, sign, width, n_rows):
    values = SIGNS[sign](rng.standard_normal((n_rows, width)).astype(F32))
    lowest, highest = extremes(take_floats(values, "values"), sharing_of(values.shape, 1), "values", None)
    # As keys they are ordered down to the sign of zero, which NumPy's minimum leaves open.
    order = np.argsort(values, axis=0, kind="stable")
    assert np.array_equal(lowest, np.take_along_axis(values, order[:1], 0)[0])
    assert np.array_equal(highest, np.take_along_axis(values, order[-1:], 0)[0])
    assert np.array_equal(np.signbit(lowest), np.signbit(values).any(axis=0))
    assert np.array_equal(np.signbit(highest), np.signbit(values).all(axis=0))


def test_parameters_are_right_for_each_of_several_shapes(rng):
    scales = np.exp2(rng.uniform(-6, -3, 7)).astype(F32)
    params = QuantParams(
        scales, np.arange(7, dtype=np.int32), QuantGranularity(axis=1), QuantMode.ASYMMETRIC, 8, 0, 255
    )
    affine = reference_affine.Affine(list(scales), list(range(7)), 0, 255)
    for shape in [(200, 7), (1, 7), (3, 7, 5), (200, 7), (200, 7, 5), (2, 7, 40), (3, 7, 5)]:
        values = rng.standard_normal(shape).astype(F32)
        expected = reference_affine.quantize(values, reference_affine.parts_of(shape, 1), affine)
        np.testing.assert_array_equal(quantize_with_params(values, params), expected)


def test_parameters_keep_less_than_the_array():
    """Widened for channels of 16 elements each, they are five times as large as the values."""
    values = np.ones((1 << 16, 16), F32)
    params = calibrate_per_channel(values)
    tracemalloc.start()
    try:
        quantize_with_params(values, params)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < values.nbytes

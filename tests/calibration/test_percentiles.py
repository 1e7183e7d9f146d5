"""Percentiles: exact ones equal NumPy's, those of histograms are off by at most one bin and equal the definition."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import Calibrator, InvalidValueError, calibrate_percentile
from tests.support import reference_calibration as reference

F32 = np.float32
LARGEST = float(np.finfo(F32).max)
PAIRS = ((0.01, 99.99), (0, 100), (1, 99), (25, 75), (49.999, 50), (0, 1e-9), (99.9999999, 100), (33.3, 66.6))
SHAPES = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy": lambda rng, n: rng.standard_t(1, n),
    "ties": lambda rng, n: np.rint(rng.standard_normal(n)),
    "sorted": lambda rng, n: np.sort(rng.standard_normal(n)),
    "descending": lambda rng, n: -np.sort(rng.uniform(0, 1, n)),
    "constant": lambda rng, n: np.full(n, -0.1),
    "zeros": lambda rng, n: rng.choice([0.0, -0.0], n),
    "mostly zero": lambda rng, n: np.maximum(rng.standard_normal(n) - 2, 0),
    "shifted": lambda rng, n: rng.uniform(5, 6, n),
    "tiny": lambda rng, n: rng.standard_normal(n) * 1e-30,
    "subnormal": lambda rng, n: rng.standard_normal(n) * 1e-41,
    "huge": lambda rng, n: rng.standard_normal(n) * 1e30,
    "the largest": lambda rng, n: rng.choice([LARGEST, -LARGEST, 0], n),
    "many scales": lambda rng, n: rng.standard_normal(n) * 10.0 ** rng.uniform(-37, 37, n),
}


def ends(values: np.ndarray, lower: float, upper: float, **options: object) -> tuple[float, float]:
    result = calibrate_percentile(values, 8, False, lower, upper, **options)
    return result.clip_min, result.clip_max


def numpys(values: np.ndarray, lower: float, upper: float) -> tuple[float, float]:
    low, high = np.percentile(values.astype(np.float64), [lower, upper], method="linear")
    return float(F32(low)), float(F32(high))


def are_close(found: tuple[float, float], wanted: tuple[float, float]) -> bool:
    """Equal to float32: the interpolation in float64 may be rounded the other way."""
    return all(abs(a - b) <= abs(b) * 2.0**-23 + 2.0**-149 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1001])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_percentiles_are_numpys(shape, n, rng):
    values = SHAPES[shape](rng, n).astype(F32)
    for lower, upper in PAIRS:
        result = calibrate_percentile(values, 8, False, lower, upper)
        assert are_close((result.clip_min, result.clip_max), numpys(values, lower, upper)), (lower, upper)
        assert (result.observed_min, result.observed_max) == (values.min(), values.max())


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 2000),
    n_distinct=st.integers(1, 50),
    percents=st.lists(st.floats(0, 100), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_any_percentiles_of_any_ties(seed, n, n_distinct, percents):
    rng = np.random.default_rng(seed)
    values = rng.choice((rng.standard_normal(n_distinct) * 10.0 ** rng.uniform(-30, 30)).astype(F32), n)
    assert are_close(ends(values, *percents), numpys(values, *percents))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_dtypes_and_layouts(dtype, rng):
    values = rng.standard_normal((70, 90)).astype(dtype)
    wanted = numpys(values.astype(F32), 0.3, 97)
    for other in (
        values,
        values.T,
        values[::-1],
        np.asfortranarray(values),
        values.astype(values.dtype.newbyteorder()),
    ):
        assert are_close(ends(other, 0.3, 97), wanted)
    assert are_close(ends(values[::3, 1::2], 0.3, 97), numpys(values[::3, 1::2].astype(F32), 0.3, 97))


def test_threads_give_the_same_and_large_arrays_are_exact(rng):
    values = rng.standard_t(2, 2_000_003).astype(F32)
    wanted = ends(values, 0.01, 99.99, n_threads=1)
    assert are_close(wanted, numpys(values, 0.01, 99.99))
    for n_threads in (2, 3, 7):
        assert ends(values, 0.01, 99.99, n_threads=n_threads) == wanted


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_what_is_not_finite_is_found(bad, dtype, rng):
    values = rng.standard_normal(3001).astype(dtype)
    values[2222] = bad
    with pytest.raises(InvalidValueError, match=rf"data: must be finite, got {bad} at flat index 2222"):
        calibrate_percentile(values)
    with pytest.raises(InvalidValueError, match=r"data: .*1e\+39 at flat index 1 is beyond"):
        calibrate_percentile(np.array([0, 1e39]))


# From histograms


@pytest.mark.parametrize("n", [1, 2, 3, 1001])
@pytest.mark.parametrize("shape", SHAPES)
def test_percentiles_of_histograms(shape, n, rng):
    """Equal to the definition, and within one bin of NumPy's; the range has at least 2048 bins."""
    values = SHAPES[shape](rng, n).astype(F32)
    state = reference.histogram(values.tolist())
    spread = float(values.max()) - float(values.min())
    for lower, upper in PAIRS:
        calibrator = Calibrator.percentile(8, False, lower, upper)
        for part in np.array_split(values, 3):
            calibrator.observe(part)
        result = calibrator.compute()
        found = (result.clip_min, result.clip_max)
        defined = tuple(float(F32(reference.percentile(state, percent))) for percent in (lower, upper))
        assert are_close(found, defined)
        for one, other in zip(found, numpys(values, lower, upper), strict=True):
            assert abs(one - other) <= max(spread / 2048, 2.0**-126) * (1 + 1e-6)
            assert values.min() <= one <= values.max()


def test_percentile_per_channel(rng):
    values = rng.standard_t(2, (5, 3000)).astype(F32) * np.array([[1e-6], [1], [1e6], [0], [3]], F32)
    calibrator = Calibrator.percentile(8, True, 1, 99, axis=0)
    calibrator.observe(values)
    result = calibrator.compute()
    for row, low, high in zip(values, result.clip_min, result.clip_max, strict=True):
        width = (float(row.max()) - float(row.min())) / 2048
        wanted = numpys(row, 1, 99)
        assert abs(low - wanted[0]) <= width
        assert abs(high - wanted[1]) <= width

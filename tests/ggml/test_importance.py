"""`imatrix=`: ggml's bytes with weights of columns, per expert too, and the weights that are refused."""

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from quantcore import InvalidTypeError, InvalidValueError, quantize
from quantcore.ggml import ImatrixUse
from tests.support import ggml
from tests.support.contract import (
    DISTRIBUTIONS,
    F32,
    FORMATS,
    INPUT_DTYPES,
    assert_same_bytes,
    beside_ggml,
    every_format,
)

WEIGHTED = [f for f in FORMATS if f.imatrix is not ImatrixUse.IGNORED]
every_weighted_format = pytest.mark.parametrize("fmt", WEIGHTED, ids=str)
WEIGHTS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "random": lambda rng, n: rng.random(n, F32) + F32(1e-3),
    "of activations": lambda rng, n: np.square(rng.standard_normal(n, F32) * np.exp(rng.standard_normal(n, F32) * 2)),
    "constant": lambda rng, n: np.full(n, 0.75, F32),
    "with zeros": lambda rng, n: rng.random(n, F32) * (rng.random(n) < 0.5),
    "zeros": lambda rng, n: np.zeros(n, F32),
    "one": lambda rng, n: np.eye(1, n, int(rng.integers(n)), dtype=F32)[0],
}


@beside_ggml(WEIGHTED)
@pytest.mark.parametrize("n_elements", [100_000, pytest.param(None, id="full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("weigh", WEIGHTS.values(), ids=WEIGHTS)
def test_equals_ggml_with_an_importance_matrix(fmt, n_elements, weigh, rng):
    n_rows = max(1, (n_elements or fmt.n_in_full // len(WEIGHTS)) // 1024 // len(DISTRIBUTIONS) + 1)
    for kind in DISTRIBUTIONS:
        values = fmt.in_range(fmt.draw(kind, rng, n_rows * 1024 // fmt.row), 0.1).reshape(n_rows, 1024)
        rows = values.reshape(-1, fmt.row)
        rows[~fmt.is_defined(rows)] = 0
        weights = weigh(rng, 1024)
        data = quantize(values, fmt.id, imatrix=weights, n_threads=int(rng.integers(1, 9)))
        assert_same_bytes(data, ggml.quantize(values, fmt.id, weights), fmt, rows)


@beside_ggml(WEIGHTED)
def test_rows_that_ggml_finds_hard(fmt, rng):
    """Zeros, one outlier, values that are all equal, ties of the extremes, tiny values; with weights and without."""
    with np.errstate(over="ignore"):
        rows = np.stack([
            np.zeros(fmt.row, F32),
            np.where(np.arange(fmt.row) == 7, F32(1e4), F32(0)),
            np.where(np.arange(fmt.row) == 7, F32(-1e4), fmt.draw("gaussian", rng, 1)[0]),
            np.full(fmt.row, 0.37, F32),
            np.full(fmt.row, -0.37, F32),
            np.resize(np.array([1, -1], F32), fmt.row),
            np.resize(np.array([-3, 3, 0.5], F32), fmt.row),
            fmt.draw("gaussian", rng, 1)[0] * F32(1e-7),
            fmt.draw("gaussian", rng, 1)[0] * F32(1e-20),
            np.arange(fmt.row, dtype=F32) / fmt.row,
        ])  # fmt: skip
    rows = fmt.in_range(rows)
    rows[~fmt.is_defined(rows)] = 0
    for weights in (np.ones(fmt.row, F32), rng.random(fmt.row, F32)):
        assert_same_bytes(quantize(rows, fmt.id, imatrix=weights), ggml.quantize(rows, fmt.id, weights), fmt, rows)
    assert_same_bytes(fmt.quantize(rows), fmt.quantize_by_ggml(rows), fmt, rows)


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.imatrix is ImatrixUse.IGNORED], ids=str)
def test_an_importance_matrix_has_no_effect_where_ggml_does_not_weigh(fmt, rng):
    values = fmt.draw("gaussian", rng, 8)
    weights = rng.random(fmt.row, F32)
    np.testing.assert_array_equal(quantize(values, fmt.id, imatrix=weights), quantize(values, fmt.id))


@every_weighted_format
@pytest.mark.parametrize("dtype", INPUT_DTYPES, ids=str)
def test_experts_have_weights_of_their_own(fmt, dtype, rng):
    """Rows of experts, in any number of threads; weights of any float dtype."""
    cols = 3 * fmt.row
    values = fmt.in_range(DISTRIBUTIONS["gaussian"](rng, 5 * 7 * cols)).reshape(5, 7, cols).astype(dtype)
    weights = rng.random((5, cols), F32)
    for n_threads in (1, 3):
        data = quantize(values, fmt.id, imatrix=weights, n_threads=n_threads)
        for expert in range(5):
            np.testing.assert_array_equal(data[expert], quantize(values[expert], fmt.id, imatrix=weights[expert]))
    shared = quantize(values, fmt.id, imatrix=weights[0].astype(np.float64))
    np.testing.assert_array_equal(shared[3], quantize(values[3], fmt.id, imatrix=weights[0]))


BAD_WEIGHTS = {
    "short": (np.ones(255, F32), r"expected shape \(256,\) for values of shape \(4, 256\), got \(255,\)"),
    "of experts": (np.ones((4, 256), F32), r"expected shape \(256,\)"),
    **{
        f"{value} in {dtype}": (
            np.where(np.arange(256) == 7, value, 1).astype(dtype),
            rf"finite and not negative, got {value} at flat index 7$",
        )
        for dtype in INPUT_DTYPES
        for value in (math.inf, -math.inf, math.nan)
    },
    "negative": (np.linspace(1, -1, 256, dtype=F32), r"finite and not negative, got -0\.\d+ at flat index 128"),
    "beyond float32": (np.full(256, 1e300), r"finite and not negative, got 1e\+300 at flat index 0"),
}


@every_format
@pytest.mark.parametrize(("weights", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_refused_even_where_they_have_no_effect(fmt, weights, message):
    with pytest.raises(InvalidValueError, match=f"^imatrix: .*{message}"):
        quantize(np.ones((4, 256), F32), fmt.id, imatrix=weights)


@every_weighted_format
@pytest.mark.parametrize("dtype", INPUT_DTYPES, ids=str)
@pytest.mark.filterwarnings("error")
def test_weights_of_every_dtype_are_taken_without_warnings(fmt, dtype, rng):
    """float16 has no room for the largest float32, which weights are compared with."""
    values, weights = fmt.draw("gaussian", rng, 4), rng.random(fmt.row, F32).astype(dtype)
    weights[3] = min(float(ml_dtypes.finfo(dtype).max), 1e9)
    expected = quantize(values, fmt.id, imatrix=weights.astype(F32))
    np.testing.assert_array_equal(quantize(values, fmt.id, imatrix=weights), expected)


@every_format
@pytest.mark.parametrize("weights", [np.ones(256, int), "imatrix", [True] * 256, {}])
def test_weights_that_are_no_floats_are_refused(fmt, weights):
    with pytest.raises(InvalidTypeError, match=r"^imatrix: "):
        quantize(np.ones((4, 256), F32), fmt.id, imatrix=weights)


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.imatrix is ImatrixUse.REQUIRED], ids=str)
def test_types_that_need_weights_are_refused_without(fmt):
    with pytest.raises(InvalidValueError, match=f"^imatrix: {fmt.name} needs an importance matrix"):
        quantize(np.ones(256, F32), fmt.id)

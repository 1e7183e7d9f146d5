"""Affine codes: what is refused (of values, by fake quantization too), and empty arrays."""

import re

import numpy as np
import pytest

from quantcore import (
    InvalidTypeError,
    InvalidValueError,
    QuantGranularity,
    QuantizedTensor,
    QuantParams,
    calibrate_per_tensor,
    dequantize_tensor,
    dequantize_with_params,
    fake_quantize_backward,
    fake_quantize_with_params,
    quantize_tensor,
    quantize_with_params,
)
from tests.support.affine_cases import (
    CHANNEL,
    F32,
    GROUP,
    INPUT_DTYPES,
    SYMMETRIC,
    TENSOR,
    any_params,
    every_mode,
    every_threaded,
)

# What is refused

every_call = pytest.mark.parametrize(
    "call",
    [
        quantize_with_params,
        fake_quantize_with_params,
        lambda values, params, **options: fake_quantize_backward(np.ones_like(values), values, params, **options),
    ],
    ids=["quantize", "fake_quantize", "fake_quantize_backward"],
)


@every_call
@every_threaded
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_value_that_is_not_finite_is_named(shape, granularity, bad, call, rng):
    values = np.ones(shape, F32)
    params = any_params(rng, shape, granularity)
    flat = values.reshape(-1)
    first = int(rng.integers(0, flat.size))
    flat[first] = bad
    flat[rng.integers(first, flat.size, 5)] = bad
    for n_threads in (1, 2, 8):
        with pytest.raises(
            InvalidValueError, match=rf"^values: must be finite, got {bad} at flat index {first}( .*)?$"
        ):
            call(values, params, n_threads=n_threads)


@every_call
@pytest.mark.parametrize("dtype", INPUT_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(70,), (35, 2), (2, 35)], ids=str)
def test_every_place_is_looked_at(shape, dtype, call, rng):
    for granularity in (TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(7)):
        params = any_params(rng, shape, granularity)
        for where in range(int(np.prod(shape))):
            values = np.ones(shape, dtype)
            values.reshape(-1)[where] = rng.choice([np.nan, -np.nan, np.inf, -np.inf])
            with pytest.raises(InvalidValueError, match=rf"^values: must be finite, .* at flat index {where}( .*)?$"):
                call(values, params)


def test_float64_beyond_float32_is_named(rng):
    values = np.zeros((5, 7))
    values[3, 2], values[4, 0] = 1e39, np.nan
    for granularity in (TENSOR, CHANNEL(1), GROUP(3)):
        with pytest.raises(InvalidValueError, match=r"^values: 1e\+39 at flat index 23 is beyond the range of float32"):
            quantize_with_params(values, any_params(rng, values.shape, granularity))


@pytest.mark.parametrize(
    ("granularity", "shape", "other", "needs"),
    [
        (CHANNEL(0), (2, 4), (3, 4), 3),
        (CHANNEL(-1), (2, 4), (2, 5), 5),
        (GROUP(4), (2, 4), (2, 5), 4),
        (GROUP(4), (2, 4), (3, 4), 3),
    ],
    ids=repr,
)
def test_wrong_number_of_scales_is_refused(granularity, shape, other, needs, rng):
    params = any_params(rng, shape, granularity)
    quantize_with_params(np.ones(shape, F32), params)

    def message(name: str) -> str:
        what = f"{params.num_groups} scales {granularity.name}, but {name} of shape {other} needs {needs}"
        return f"^params: {re.escape(what)}$"

    with pytest.raises(InvalidValueError, match=message("values")):
        quantize_with_params(np.ones(other, F32), params)
    with pytest.raises(InvalidValueError, match=message("codes")):
        dequantize_with_params(np.ones(other, np.uint8), params)
    with pytest.raises(InvalidValueError, match=message("data")):
        QuantizedTensor(np.ones(other, np.uint8), params, other)


def test_more_scales_than_one_per_tensor_are_refused():
    params = QuantParams(np.ones(2, F32), np.zeros(2, np.int32), TENSOR, SYMMETRIC, 8, -127, 127)
    with pytest.raises(InvalidValueError, match=r"^params: 2 scales per_tensor, but values of shape \(2,\) needs 1$"):
        quantize_with_params(np.ones(2, F32), params)


def test_axis_that_the_array_does_not_have_is_refused(rng):
    params = any_params(rng, (2, 3, 4), CHANNEL(2))
    with pytest.raises(InvalidValueError, match=r"^axis: 2 is out of range for shape \(3, 4\)$"):
        quantize_with_params(np.ones((3, 4), F32), params)
    with pytest.raises(InvalidValueError, match=r"^axis: 2 is out of range for shape \(3, 4\)$"):
        dequantize_with_params(np.ones((3, 4), np.uint8), params)


def test_other_types_are_refused(rng):
    values = rng.standard_normal(8).astype(F32)
    params = calibrate_per_tensor(values)
    for wrong in (None, 0.5, "params", (1.0, 0)):
        with pytest.raises(InvalidTypeError, match=r"^params: expected a QuantParams, got "):
            quantize_with_params(values, wrong)
        with pytest.raises(InvalidTypeError, match=r"^params: expected a QuantParams, got "):
            dequantize_with_params(np.zeros(8, np.int8), wrong)
        with pytest.raises(InvalidTypeError, match=r"^params: expected a QuantParams, got "):
            QuantizedTensor(np.zeros(8, np.int8), wrong, (8,))
    for wrong in (np.arange(8), np.ones(8, bool), np.ones(8, complex)):
        with pytest.raises(InvalidTypeError, match=r"^values: expected float32, "):
            quantize_with_params(wrong, params)
    for codes in (np.zeros(8, np.uint8), np.zeros(8, np.int32), np.zeros(8, F32), np.ma.zeros(8, np.int8)):
        with pytest.raises(InvalidTypeError, match=r"^codes: expected dtype int8 \(symmetric\), got "):
            dequantize_with_params(codes, params)
    for dtype in (np.float64, np.int8, "nonsense"):
        with pytest.raises(InvalidTypeError, match=r"^dtype: "):
            dequantize_with_params(np.zeros(8, np.int8), params, dtype=dtype)
    with pytest.raises(InvalidValueError, match=r"^codes: must have at least one dimension"):
        dequantize_with_params(np.int8(1), params)
    with pytest.raises(InvalidValueError, match=r"^values: must have at least one dimension"):
        quantize_with_params(F32(1), params)
    with pytest.raises(InvalidTypeError, match=r"^q: expected a QuantizedTensor, got ndarray"):
        dequantize_tensor(values)
    for wrong in (True, 0, QuantGranularity):
        with pytest.raises(InvalidTypeError, match=r"^granularity: expected a QuantGranularity such as .*, got "):
            quantize_tensor(values, wrong)
    with pytest.raises(InvalidValueError, match=r"^n_threads: "):
        quantize_with_params(values, params, n_threads=0)


@every_mode
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)], ids=str)
def test_nothing_gives_nothing(shape, mode):
    params = calibrate_per_tensor(np.ones(3, F32), 8, mode)
    codes = quantize_with_params(np.zeros(shape, F32), params)
    assert (codes.dtype, codes.shape) == (params.code_dtype, shape)
    decoded = dequantize_with_params(codes, params, dtype=np.float16)
    assert (decoded.dtype, decoded.shape) == (np.float16, shape)
    q = QuantizedTensor(codes, params, shape)
    assert (len(q), q.compression_ratio, q.dequantize().shape) == (0, 1.0, shape)
    out = np.empty(shape, params.code_dtype)
    assert quantize_with_params(np.zeros(shape, F32), params, out=out) is out
    with pytest.raises(InvalidValueError, match=r"^values: must not be empty"):
        quantize_tensor(np.zeros(shape, F32))

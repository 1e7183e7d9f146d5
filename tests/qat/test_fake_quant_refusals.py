"""What fake quantization refuses: by name, and wherever it is."""

import re

import numpy as np
import pytest

from quantcore import (
    InvalidTypeError,
    InvalidValueError,
    calibrate_per_tensor,
    fake_quantize_backward,
    fake_quantize_with_params,
    ste_backward,
)
from tests.support.affine_cases import CHANNEL, GROUP, SYMMETRIC, TENSOR, any_params
from tests.support.fake_quant_cases import F32


def test_float64_beyond_float32_is_named(rng):
    values = np.zeros((5, 7))
    values[3, 2], values[4, 0] = 1e39, np.nan
    for granularity in (TENSOR, CHANNEL(1), GROUP(3)):
        with pytest.raises(InvalidValueError, match=r"^values: 1e\+39 at flat index 23 is beyond the range of float32"):
            fake_quantize_with_params(values, any_params(rng, values.shape, granularity))


def test_what_does_not_fit_is_refused(rng):
    values = rng.standard_normal((3, 4)).astype(F32)
    params = any_params(rng, values.shape, CHANNEL(0), SYMMETRIC)
    for shape, needs in [((4, 3), 4), ((2, 3, 4), 2)]:
        message = rf"^params: 3 scales per_channel, but values of shape {re.escape(str(shape))} needs {needs}$"
        with pytest.raises(InvalidValueError, match=message):
            fake_quantize_with_params(np.ones(shape, F32), params)
        with pytest.raises(InvalidValueError, match=message):
            fake_quantize_backward(np.ones(shape, F32), np.ones(shape, F32), params)
    for grad in (np.ones((4, 3), F32), np.ones(12, F32), np.ones((1, 3, 4), F32)):
        message = rf"^grad: expected the shape of values \(3, 4\), got {re.escape(str(grad.shape))}$"
        with pytest.raises(InvalidValueError, match=message):
            fake_quantize_backward(grad, values, params)


def test_other_types_are_refused(rng):
    values = rng.standard_normal(8).astype(F32)
    params = calibrate_per_tensor(values)
    for wrong in (None, 0.5, (1.0, 0)):
        with pytest.raises(InvalidTypeError, match=r"^params: expected a QuantParams, got "):
            fake_quantize_with_params(values, wrong)
        with pytest.raises(InvalidTypeError, match=r"^params: expected a QuantParams, got "):
            fake_quantize_backward(values, values, wrong)
    for wrong in (np.arange(8), np.ones(8, bool), np.ones(8, complex), np.ma.ones(8)):
        with pytest.raises(InvalidTypeError, match=r"^values: "):
            fake_quantize_with_params(wrong, params)
        with pytest.raises(InvalidTypeError, match=r"^grad: "):
            fake_quantize_backward(wrong, values, params)
        with pytest.raises(InvalidTypeError, match=r"^grad: "):
            ste_backward(wrong)
    for call in (lambda x: fake_quantize_with_params(x, params), ste_backward):
        with pytest.raises(InvalidValueError, match=r": must have at least one dimension"):
            call(F32.type(1))
    with pytest.raises(InvalidValueError, match=r"^n_threads: "):
        fake_quantize_with_params(values, params, n_threads=0)

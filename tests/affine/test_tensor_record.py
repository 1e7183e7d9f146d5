"""The record of affine codes as a Python object, and the errors of granularities compared."""

import copy
import pickle

import numpy as np
import pytest

from quantcore import (
    InvalidTypeError,
    InvalidValueError,
    QuantizedTensor,
    calibrate_per_channel,
    calibrate_per_group,
    calibrate_per_tensor,
    compare_granularities,
    quantization_mse,
    quantize_tensor,
)
from tests.support.affine_cases import ASYMMETRIC, BF16, CHANNEL, F32, GROUP, SYMMETRIC, TENSOR

# The record


@pytest.mark.parametrize(
    ("granularity", "mode", "bits", "expected"),
    [
        (TENSOR, SYMMETRIC, 8, 21 + 4),
        (TENSOR, ASYMMETRIC, 8, 21 + 8),
        (TENSOR, SYMMETRIC, 5, 21 + 4),
        (TENSOR, SYMMETRIC, 4, 11 + 4),
        (TENSOR, ASYMMETRIC, 2, 11 + 8),
        (CHANNEL(0), SYMMETRIC, 8, 21 + 3 * 4),
        (CHANNEL(1), ASYMMETRIC, 4, 11 + 7 * 8),
        (GROUP(4), SYMMETRIC, 4, 11 + 6 * 4),
        (GROUP(4), ASYMMETRIC, 8, 21 + 6 * 8),
    ],
    ids=repr,
)
def test_packed_bytes_count_codes_scales_and_zero_points(granularity, mode, bits, expected, rng):
    q = quantize_tensor(rng.standard_normal((3, 7)), granularity, mode, bits)
    assert (q.packed_bytes, len(q), q.shape) == (expected, 21, (3, 7))
    assert q.compression_ratio == pytest.approx(21 * 4 / expected)
    assert q.memory_bytes == 21 + 8 * q.params.num_groups
    assert q.memory_bytes == q.data.nbytes + q.params.scales.nbytes + q.params.zero_points.nbytes


def test_tensor_is_symmetric_per_tensor_of_8_bits_by_default(rng):
    values = rng.standard_normal((4, 5)).astype(F32)
    assert quantize_tensor(values).params == calibrate_per_tensor(values)
    assert quantize_tensor(values, CHANNEL()).params == calibrate_per_channel(values)
    assert quantize_tensor(values, GROUP(3)).params == calibrate_per_group(values, 3)


def test_repr_says_what_it_is(rng):
    q = quantize_tensor(rng.standard_normal((4, 64)), GROUP(32), ASYMMETRIC, 4)
    assert repr(q) == ("QuantizedTensor(shape=(4, 64), bits=4, asymmetric, per_group, num_groups=8, memory_bytes=320)")


def test_tensors_are_equal_if_codes_and_parameters_are(rng):
    values = rng.standard_normal((4, 6)).astype(F32)
    q = quantize_tensor(values, CHANNEL(0))
    assert q == quantize_tensor(values, CHANNEL(0)) == pickle.loads(pickle.dumps(q)) == copy.deepcopy(q)
    changed = q.data.copy()
    changed[0, 0] ^= 1
    assert q != QuantizedTensor(changed, q.params, q.shape)
    assert q != quantize_tensor(values, CHANNEL(1))
    assert q != quantize_tensor(values, CHANNEL(0), bits=7)
    flat = quantize_tensor(values)
    assert flat != QuantizedTensor(flat.data.reshape(6, 4), flat.params, (6, 4))
    assert q != 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(q)


def test_record_keeps_the_codes_it_was_given_and_they_cannot_be_changed(rng):
    q = quantize_tensor(rng.standard_normal((4, 6)))
    with pytest.raises(ValueError, match="read-only"):
        q.data[0, 0] = 1
    with pytest.raises(AttributeError):
        q.shape = (24,)
    same = QuantizedTensor(q.data, q.params, [4, 6])
    assert same.shape == (4, 6) and np.shares_memory(same.data, q.data)


def test_pickles_go_through_the_checks(rng):
    q = quantize_tensor(rng.standard_normal((4, 6)))
    restore, (version, *fields) = q.__reduce__()
    assert restore(version, *fields) == q
    with pytest.raises(InvalidValueError, match=r"^pickle of QuantizedTensor: version 99 is unknown"):
        restore(99, *fields)
    with pytest.raises(InvalidValueError, match=r"^data: expected shape \(24,\), got \(4, 6\)$"):
        restore(version, *fields[:-1], (24,))


def test_record_of_contradictions_is_refused():
    params = calibrate_per_tensor(np.ones(3, F32))
    with pytest.raises(InvalidTypeError, match=r"^data: expected dtype int8, got uint8$"):
        QuantizedTensor(np.zeros(3, np.uint8), params, (3,))
    with pytest.raises(InvalidValueError, match=r"^data: expected shape \(4,\), got \(3,\)$"):
        QuantizedTensor(np.zeros(3, np.int8), params, (4,))
    with pytest.raises(InvalidValueError, match=r"^shape: must have at least one dimension"):
        QuantizedTensor(np.zeros((), np.int8), params, ())
    with pytest.raises(InvalidTypeError, match=r"^shape: expected a tuple of integers, got 3$"):
        QuantizedTensor(np.zeros(3, np.int8), params, 3)


# Errors of granularities


def test_mse_is_the_mean_of_squares(rng):
    x, y = rng.standard_normal((2, 30, 40))
    assert quantization_mse(x, y) == pytest.approx(np.square(x - y).sum() / 1200, rel=1e-12)
    assert quantization_mse(x, x) == 0.0
    assert quantization_mse([1.0, 2.0], [1.0, 5.0]) == 4.5
    large = np.full(3, 1e30, F32)
    assert quantization_mse(large, -large) == pytest.approx(4e60)
    assert isinstance(quantization_mse(x, y), float)
    for dtype in (np.float16, BF16):
        assert quantization_mse(x.astype(dtype), x.astype(dtype).astype(F32)) == 0.0


def test_mse_of_what_cannot_be_compared_is_refused():
    with pytest.raises(InvalidValueError, match=r"^dequantized: .*\(2, 3\), got \(3, 2\)$"):
        quantization_mse(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(InvalidValueError, match=r"^dequantized: .*\(3,\), got \(1,\)$"):
        quantization_mse(np.ones(3), np.ones(1))
    with pytest.raises(InvalidValueError, match=r"^original: must not be empty"):
        quantization_mse(np.ones(0), np.ones(0))
    for wrong in (np.ones(2, int), np.ones(2, complex), np.array(["a", "b"]), np.ma.ones(2)):
        with pytest.raises(InvalidTypeError, match=r"^original: "):
            quantization_mse(wrong, np.ones(2))
        with pytest.raises(InvalidTypeError, match=r"^dequantized: "):
            quantization_mse(np.ones(2), wrong)


def test_granularities_are_compared_on_the_same_values(rng):
    values = (rng.standard_normal((16, 300)) * 10.0 ** rng.uniform(-4, 0, (16, 1))).astype(F32)
    for bits in (4, 8):
        for array, axis in [(values, 0), (values.T, 1), (values.T, -1)]:
            per_tensor, per_channel = compare_granularities(array, bits, axis)
            assert per_tensor == quantization_mse(array, quantize_tensor(array, bits=bits).dequantize())
            assert per_channel == quantization_mse(array, quantize_tensor(array, CHANNEL(axis), bits=bits).dequantize())
            assert per_channel < per_tensor
    assert compare_granularities(values) == compare_granularities(values, 8, 0)
    assert compare_granularities(values, 8, 0) != compare_granularities(values, 8, 1)
    assert compare_granularities(np.zeros((2, 3), F32)) == (0.0, 0.0)


def test_granularities_of_a_bfloat16_tensor_are_compared(torch):
    tensor = torch.linspace(-1, 3, 60).reshape(3, 20).bfloat16()
    assert compare_granularities(tensor) == compare_granularities(tensor.float().numpy())

"""The object that QAT calls: configurations, calibration, and that it does what the functions do."""

import copy
import dataclasses
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quantcore import (
    FakeQuantConfig,
    FakeQuantize,
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    QuantcoreError,
    QuantGranularity,
    QuantMode,
    calibrate_per_channel,
    calibrate_per_group,
    calibrate_per_tensor,
    fake_quantize,
    fake_quantize_backward,
    fake_quantize_with_params,
)
from tests.support.contract import assert_same_floats

F32 = np.float32
TENSOR, CHANNEL, GROUP = QuantGranularity.per_tensor(), QuantGranularity.per_channel, QuantGranularity.per_group
GRANULARITIES = [TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(16)]
every_granularity = pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
every_bits = pytest.mark.parametrize("bits", range(2, 9))


def calibrate(values: np.ndarray, granularity: QuantGranularity, bits: int, mode: QuantMode) -> Any:
    """The parameters that the functions `calibrate_per_*` compute."""
    if granularity.group_size is not None:
        return calibrate_per_group(values, granularity.group_size, bits, mode)
    if granularity.axis is not None:
        return calibrate_per_channel(values, bits, mode, axis=granularity.axis)
    return calibrate_per_tensor(values, bits, mode)


# Configurations


@every_bits
def test_codes_of_configurations(bits):
    top = 2 ** (bits - 1) - 1
    symmetric, asymmetric = FakeQuantConfig.symmetric(bits), FakeQuantConfig.asymmetric(bits)
    assert symmetric == FakeQuantConfig(bits, True, -top, top)
    assert asymmetric == FakeQuantConfig(bits, False, 0, 2**bits - 1)
    assert (symmetric.mode, asymmetric.mode) == (QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC)
    assert (symmetric.num_levels, asymmetric.num_levels) == (2**bits - 1, 2**bits)
    assert FakeQuantConfig(bits, True, -top - 1, top).num_levels == 2**bits


def test_symmetric_is_a_constructor_of_the_class_and_a_field_of_a_record():
    for config in (FakeQuantConfig.symmetric(4), FakeQuantConfig.asymmetric(4)):
        assert config.symmetric is (config.mode is QuantMode.SYMMETRIC)
        assert config == FakeQuantConfig(bits=4, symmetric=config.symmetric, qmin=config.qmin, qmax=config.qmax)
        assert pickle.loads(pickle.dumps(config)) == dataclasses.replace(config) == config
        assert hash(config) == hash(dataclasses.replace(config))
        assert repr(config).startswith(f"FakeQuantConfig(bits=4, symmetric={config.symmetric}, ")
    with pytest.raises(dataclasses.FrozenInstanceError):
        FakeQuantConfig.symmetric(4).symmetric = False
    assert FakeQuantConfig.symmetric(4).symmetric is True


def test_named_configurations():
    assert FakeQuantConfig.q4_symmetric() == FakeQuantConfig(4, True, -7, 7) == FakeQuantConfig.symmetric(4)
    assert FakeQuantConfig.q8_symmetric() == FakeQuantConfig(8, True, -127, 127) == FakeQuantConfig.symmetric()
    assert FakeQuantConfig.asymmetric(4) == FakeQuantConfig(4, False, 0, 15)
    assert FakeQuantize.q4().config == FakeQuantConfig.q4_symmetric()
    assert FakeQuantize.q8(CHANNEL(1)).config == FakeQuantConfig.q8_symmetric()
    assert FakeQuantize.q8(CHANNEL(1)).granularity == CHANNEL(1)
    assert (FakeQuantize.q4().num_levels, FakeQuantize.q8().num_levels) == (15, 255)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ((9, True, -7, 7), InvalidValueError, "bits: expected an integer from 2 to 8, got 9"),
        ((4.0, True, -7, 7), InvalidTypeError, "bits: expected an integer from 2 to 8, got 4.0"),
        ((4, 1, -7, 7), InvalidTypeError, "symmetric: expected a bool, got 1"),
        (
            (4, True, -9, 7),
            InvalidValueError,
            "qmin, qmax: expected -8 <= qmin < qmax <= 7 for 4 bits symmetric",
        ),
        ((4, False, -1, 15), InvalidValueError, "qmin, qmax: expected 0 <= qmin < qmax <= 15 for 4 bits asymmetric"),
        ((4, True, 3, 3), InvalidValueError, "qmin, qmax: expected"),
        ((4, True, -7.0, 7), InvalidTypeError, "qmin: expected an integer"),
        ((4, True, -7, True), InvalidTypeError, "qmax: expected an integer"),
    ],
)
def test_configurations_of_contradictions_are_refused(fields, error, message):
    with pytest.raises(error, match=f"^{message}"):
        FakeQuantConfig(*fields)


def test_constructors_check_their_bits():
    for make in (FakeQuantConfig.symmetric, FakeQuantConfig.asymmetric):
        for bits in (1, 9, -(2**70)):
            with pytest.raises(InvalidValueError, match=r"^bits: "):
                make(bits)
        for bits in (None, True, "8"):
            with pytest.raises(InvalidTypeError, match=r"^bits: "):
                make(bits)


# Calibration


@every_bits
@every_granularity
@pytest.mark.parametrize("mode", [QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC])
def test_calibrates_as_the_functions_do(granularity, mode, bits, rng):
    values = (rng.standard_normal((30, 40)) + 0.3).astype(F32)
    symmetric = mode is QuantMode.SYMMETRIC
    fq = FakeQuantize((FakeQuantConfig.symmetric if symmetric else FakeQuantConfig.asymmetric)(bits), granularity)
    assert fq.calibrate(values) == calibrate(values, granularity, bits, mode) == fq.params
    assert_same_floats(fake_quantize(values, bits, symmetric, granularity=granularity), fq.forward(values))
    # Other codes: the same, except for their ends.
    top = 2 ** (bits - 1) - 1
    wide = FakeQuantize(FakeQuantConfig(bits, True, -top - 1, top), granularity).calibrate(values)
    if granularity == TENSOR:
        assert wide == calibrate_per_tensor(values, bits, narrow_range=False)
    lopsided = FakeQuantize(FakeQuantConfig(bits, False, 1, 2**bits - 2 + (bits == 2)), granularity)
    y = lopsided.forward_with_calibration(values)
    assert lopsided.params.zero_points.min() >= 1
    assert len(np.unique(y - y.min())) > 1


def test_calibrates_once_unless_told(rng):
    first, second = rng.standard_normal((2, 50)).astype(F32)
    fq = FakeQuantize.q8()
    assert not fq.is_initialized
    assert_same_floats(fq.forward_with_calibration(first), fake_quantize(first))
    params = fq.params
    assert fq.is_initialized
    assert_same_floats(fq.forward_with_calibration(second * 100), fake_quantize_with_params(second * 100, params))
    assert fq.params is params
    assert fq.calibrate(second) == calibrate_per_tensor(second) == fq.params


def test_scale_and_zero_point(rng):
    values = rng.standard_normal((3, 40)).astype(F32)
    fq = FakeQuantize(FakeQuantConfig.asymmetric(8))
    params = fq.calibrate(values)
    assert (fq.scale, fq.zero_point) == (float(params.scales[0]), int(params.zero_points[0]))
    assert (type(fq.scale), type(fq.zero_point)) == (float, int)
    fq = FakeQuantize(FakeQuantConfig.asymmetric(8), CHANNEL(0))
    params = fq.calibrate(values)
    np.testing.assert_array_equal(fq.scale, params.scales)
    np.testing.assert_array_equal(fq.zero_point, params.zero_points)
    one = FakeQuantize(FakeQuantConfig.asymmetric(8), CHANNEL(0))
    one.calibrate(values[:1])
    assert one.scale.shape == one.zero_point.shape == (1,)


def test_nothing_works_before_calibration():
    x = np.ones(3, F32)
    fq = FakeQuantize.q4()
    for call in (
        lambda: fq.forward(x),
        lambda: fq.backward_clamped(x, x),
        lambda: fq.scale,
        lambda: fq.zero_point,
        lambda: fq.params,
    ):
        with pytest.raises(RuntimeError, match=r"^FakeQuantize: has no parameters yet; call calibrate or ") as caught:
            call()
        assert isinstance(caught.value, InvalidStateError) and isinstance(caught.value, QuantcoreError)
    assert fq.backward(x).tolist() == [1, 1, 1]  # needs none


def test_failed_calibration_changes_nothing():
    fq = FakeQuantize.q8()
    for wrong, message in [
        (np.zeros(0, F32), r"data: must not be empty, got shape \(0,\)"),
        (np.array([1, np.nan]), "data: must be finite"),
        (F32(1), "data: must have at least one dimension"),
    ]:
        with pytest.raises(InvalidValueError, match=f"^{message}"):
            fq.calibrate(wrong)
        with pytest.raises(InvalidValueError, match=f"^{message.replace('data', 'x')}"):
            fq.forward_with_calibration(wrong)
        with pytest.raises(InvalidValueError, match=f"^{message.replace('data', 'values')}"):
            fake_quantize(wrong)
        assert not fq.is_initialized
    params = fq.calibrate(np.ones(3, F32))
    with pytest.raises(InvalidTypeError, match=r"^data: expected float32, "):
        fq.calibrate(np.ones(3, int))
    assert fq.params is params


# Forward and backward


@every_granularity
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name)
def test_methods_do_what_the_functions_do(granularity, dtype, rng):
    x, grad = rng.standard_normal((2, 20, 40)).astype(dtype)
    fq = FakeQuantize(FakeQuantConfig.asymmetric(4), granularity)
    params = fq.calibrate(x / 2)
    out = np.zeros_like(x)
    assert_same_floats(fq.forward(x), fake_quantize_with_params(x, params))
    assert fq.forward(x, out=out) is out
    assert_same_floats(out, fake_quantize_with_params(x, params))
    expected = fake_quantize_backward(grad, x, params)
    assert 0 < np.count_nonzero(expected) < x.size
    assert_same_floats(fq.backward_clamped(grad, x), expected)
    assert fq.backward_clamped(grad, x, out=out, n_threads=1) is out
    assert_same_floats(out, expected)
    assert_same_floats(fq.backward(grad), grad)
    assert fq.backward(grad, out=out) is out
    assert_same_floats(out, grad)
    assert fq.forward_with_calibration(x, out=out) is out
    assert_same_floats(out, fq.forward(x))
    assert fake_quantize(x, 4, symmetric=False, out=out) is out
    assert_same_floats(out, FakeQuantize(fq.config).forward_with_calibration(x))


def test_errors_name_the_parameter(rng):
    fq = FakeQuantize.q8()
    fq.calibrate(np.ones(3, F32))
    with pytest.raises(InvalidTypeError, match=r"^x: expected float32, "):
        fq.forward([1, 2])
    with pytest.raises(InvalidValueError, match=r"^x: must be finite, got inf at flat index 1$"):
        fq.forward(np.array([1, np.inf], F32))
    with pytest.raises(InvalidValueError, match=r"^x: must be finite, got inf at flat index 1$"):
        fq.backward_clamped(np.ones(2, F32), np.array([1, np.inf], F32))
    with pytest.raises(InvalidValueError, match=r"^grad: expected the shape of x \(2,\), got \(3,\)$"):
        fq.backward_clamped(np.ones(3, F32), np.ones(2, F32))
    channels = FakeQuantize.q8(CHANNEL(1))
    channels.calibrate(np.ones((2, 3), F32))
    with pytest.raises(InvalidValueError, match=r"^params: 3 scales per_channel, but x of shape \(3, 2\) needs 2$"):
        channels.forward(np.ones((3, 2), F32))
    for wrong in (1, 0, None, "yes"):
        with pytest.raises(InvalidTypeError, match=r"^symmetric: expected a bool, got "):
            fake_quantize(np.ones(3, F32), 8, wrong)
    with pytest.raises(InvalidTypeError, match=r"^config: expected a FakeQuantConfig, got 8"):
        FakeQuantize(8)
    with pytest.raises(InvalidTypeError, match=r"^granularity: expected a QuantGranularity .*, got 64"):
        FakeQuantize(FakeQuantConfig.q8_symmetric(), 64)


def test_parameters_may_be_given(rng):
    values = rng.standard_normal((4, 50)).astype(F32)
    params = calibrate_per_channel(values, 4)
    fq = FakeQuantize(FakeQuantConfig.q4_symmetric(), CHANNEL(0), params)
    assert fq.is_initialized and fq.params is params
    for config, granularity in [
        (FakeQuantConfig.q8_symmetric(), CHANNEL(0)),
        (FakeQuantConfig.asymmetric(4), CHANNEL(0)),
        (FakeQuantConfig(4, True, -8, 7), CHANNEL(0)),
        (FakeQuantConfig.q4_symmetric(), CHANNEL(1)),
        (FakeQuantConfig.q4_symmetric(), None),
    ]:
        with pytest.raises(InvalidValueError, match=r"^params: .* contradict "):
            FakeQuantize(config, granularity, params)
    with pytest.raises(InvalidValueError, match=r"^params: .* contradict .*; .* count both from the same end$"):
        FakeQuantize(FakeQuantConfig.q4_symmetric(), CHANNEL(-2), params)
    with pytest.raises(InvalidTypeError, match=r"^params: expected a QuantParams, got float"):
        FakeQuantize(FakeQuantConfig.q4_symmetric(), None, 0.5)


def test_copies_and_pickles(rng):
    x = rng.standard_normal((4, 50)).astype(F32)
    fq = FakeQuantize(FakeQuantConfig.asymmetric(5), GROUP(20))
    for again in (copy.copy(fq), copy.deepcopy(fq), pickle.loads(pickle.dumps(fq))):
        assert (again.config, again.granularity, again.is_initialized) == (fq.config, fq.granularity, False)
    fq.calibrate(x)
    for again in (copy.copy(fq), copy.deepcopy(fq), pickle.loads(pickle.dumps(fq))):
        assert again.params == fq.params
        again.calibrate(x * 2)
        assert again.params != fq.params
    restore, (version, *fields) = fq.__reduce__()
    assert restore(version, *fields).params == fq.params
    with pytest.raises(InvalidValueError, match=r"^pickle of FakeQuantize: version 99 is unknown"):
        restore(99, *fields)


def test_repr_says_what_it_is():
    fq = FakeQuantize.q4(CHANNEL(0))
    config = "FakeQuantConfig(bits=4, symmetric=True, qmin=-7, qmax=7)"
    assert repr(fq) == f"FakeQuantize({config}, per_channel, not calibrated)"
    fq.calibrate(np.ones((3, 2), F32))
    assert repr(fq) == f"FakeQuantize({config}, per_channel, num_groups=3)"


def test_a_refused_forward_does_not_calibrate():
    fq = FakeQuantize.q8()
    with pytest.raises(InvalidValueError, match="out: expected shape"):
        fq.forward_with_calibration(np.ones(3, np.float32), out=np.ones(4, np.float32))
    assert not fq.is_initialized


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_range_too_wide_for_two_codes_is_refused(symmetric):
    config = FakeQuantConfig(2, symmetric, 0, 1)
    values = np.array([-3.4e38, 3.4e38], np.float32)
    with pytest.raises(InvalidValueError, match=r"^scales: must be positive and finite, got inf at index 0$"):
        FakeQuantize(config).calibrate(values)
    assert FakeQuantize(config).calibrate(values / 4).scales[0] > 1e38

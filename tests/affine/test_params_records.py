"""Granularities and parameters as records, and what their constructors refuse."""

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quantcore import (
    InvalidTypeError,
    InvalidValueError,
    QuantGranularity,
    QuantMode,
    QuantParams,
    calibrate_per_channel,
    calibrate_per_group,
    calibrate_per_tensor,
    quantize_with_params,
)
from tests.support.affine_cases import ASYMMETRIC, BF16, F32, SYMMETRIC


def params(**changes: Any) -> QuantParams:
    fields: dict[str, Any] = {
        "scales": np.array([0.5, 0.25], F32),
        "zero_points": np.array([3, 0], np.int32),
        "granularity": QuantGranularity.per_channel(),
        "mode": ASYMMETRIC,
        "bits": 8,
        "quant_min": 0,
        "quant_max": 255,
    }
    return QuantParams(**fields | changes)


# What is refused


CALIBRATIONS: list[Callable[..., QuantParams]] = [
    calibrate_per_tensor,
    calibrate_per_channel,
    lambda values, *args, **kwargs: calibrate_per_channel(values, *args, axis=-1, **kwargs),
    lambda values, *args, **kwargs: calibrate_per_group(values, 7, *args, **kwargs),
]
every_calibration = pytest.mark.parametrize("calibrate", CALIBRATIONS, ids=["tensor", "first", "last", "group"])


@every_calibration
@pytest.mark.parametrize("bits", [-8, 0, 1, 9, 16, 2**70])
def test_bits_out_of_range_are_refused(calibrate, bits):
    with pytest.raises(InvalidValueError, match=r"^bits: expected an integer from 2 to 8, got "):
        calibrate(np.ones((2, 3), F32), bits)


@every_calibration
@pytest.mark.parametrize("bits", [8.0, "8", None, True])
def test_bits_of_another_type_are_refused(calibrate, bits):
    with pytest.raises(InvalidTypeError, match=r"^bits: expected an integer from 2 to 8, got "):
        calibrate(np.ones((2, 3), F32), bits)


@every_calibration
@pytest.mark.parametrize("mode", [0, None, True, QuantMode])
def test_modes_of_another_type_are_refused(calibrate, mode):
    with pytest.raises(InvalidTypeError, match=r"^mode: expected a QuantMode or one of symmetric, .*, got "):
        calibrate(np.ones((2, 3), F32), 8, mode)


@every_calibration
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)], ids=str)
def test_nothing_has_no_extremes(calibrate, shape):
    with pytest.raises(InvalidValueError, match=rf"^values: must not be empty, got shape {re.escape(str(shape))}$"):
        calibrate(np.ones(shape, F32))


@every_calibration
@pytest.mark.parametrize("values", [[1, 2], [True], ["a"], [1j]], ids=str)
def test_what_are_no_floats_are_refused(calibrate, values):
    with pytest.raises(InvalidTypeError, match=r"^values: expected float32, "):
        calibrate(np.array(values))
    with pytest.raises(InvalidValueError, match=r"^values: must have at least one dimension"):
        calibrate(F32(1))


@every_calibration
@pytest.mark.parametrize("dtype", [np.float32, np.float16, BF16, np.float64], ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(calibrate, dtype, bad):
    values = np.ones((20, 50), dtype)
    values.reshape(-1)[[333, 777, 999]] = bad, np.nan, np.inf
    with pytest.raises(InvalidValueError, match=rf"^values: must be finite, got {abs(bad) if bad != bad else bad} at"):
        calibrate(values)
    for n_threads in (1, 2, 8):
        with pytest.raises(InvalidValueError, match=r" at flat index 333( .*)?$"):
            calibrate(values, n_threads=n_threads)


@every_calibration
def test_float64_beyond_float32_is_named(calibrate):
    values = np.zeros((20, 50))
    values[3, 7] = -1e39
    with pytest.raises(InvalidValueError, match=r"^values: -1e\+39 at flat index 157 is beyond the range of float32"):
        calibrate(values)


@pytest.mark.parametrize("axis", [2, -3, 100])
def test_axis_out_of_range_is_refused(axis):
    with pytest.raises(InvalidValueError, match=rf"^axis: {axis} is out of range for shape \(2, 3\)$"):
        calibrate_per_channel(np.ones((2, 3), F32), axis=axis)


@pytest.mark.parametrize("axis", [None, 0.0, "0", True])
def test_axis_of_another_type_is_refused(axis):
    with pytest.raises(InvalidTypeError, match=r"^axis: expected an integer "):
        calibrate_per_channel(np.ones((2, 3), F32), axis=axis)
    with pytest.raises(InvalidTypeError, match=r"^axis: expected an integer "):
        QuantGranularity.per_channel(axis)


@pytest.mark.parametrize(
    ("size", "error"),
    [(0, InvalidValueError), (-1, InvalidValueError), (True, InvalidTypeError), (2.0, InvalidTypeError)],
)
def test_group_size_that_is_none_is_refused(size, error):
    with pytest.raises(error, match=r"^group_size: expected an integer >= 1, got "):
        calibrate_per_group(np.ones((2, 3), F32), size)
    with pytest.raises(error, match=r"^size: expected an integer >= 1, got "):
        QuantGranularity.per_group(size)


# Records


def test_granularity_says_what_it_is():
    tensor, channel, group = (
        QuantGranularity.per_tensor(),
        QuantGranularity.per_channel(),
        QuantGranularity.per_group(8),
    )
    assert [g.name for g in (tensor, channel, group)] == ["per_tensor", "per_channel", "per_group"]
    assert (channel.axis, QuantGranularity.per_channel(-2).axis, group.group_size) == (0, -2, 8)
    assert (tensor.axis, tensor.group_size, channel.group_size, group.axis) == (None,) * 4
    assert len({tensor, channel, group, QuantGranularity.per_group(8), QuantGranularity.per_tensor()}) == 3
    for granularity in (tensor, channel, group):
        assert pickle.loads(pickle.dumps(granularity)) == copy.deepcopy(granularity) == granularity
    assert QuantMode("symmetric") is SYMMETRIC and QuantMode("asymmetric") is ASYMMETRIC


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"axis": 0, "group_size": 4}, InvalidValueError),
        ({"group_size": 0}, InvalidValueError),
        ({"group_size": 2.0}, InvalidTypeError),
        ({"axis": True}, InvalidTypeError),
        ({"axis": "0"}, InvalidTypeError),
    ],
)
def test_granularity_that_is_none_is_refused(fields, error):
    with pytest.raises(error, match=r"^(axis|group_size)"):
        QuantGranularity(**fields)


def test_params_say_what_they_are():
    made = params()
    assert (made.num_groups, made.is_asymmetric, made.code_dtype) == (2, True, np.uint8)
    made = params(mode=SYMMETRIC, zero_points=np.zeros(2, np.int32), quant_min=-127, quant_max=127)
    assert (made.num_groups, made.is_asymmetric, made.code_dtype) == (2, False, np.int8)


def test_params_cannot_be_changed():
    made = calibrate_per_channel(np.ones((4, 5), F32))
    for array in (made.scales, made.zero_points):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError):
        made.bits = 4
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)


def test_params_are_equal_if_every_field_is():
    made = params()
    assert made == params() == pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == copy.copy(made)
    for changes in (
        {"scales": np.array([0.5, 0.5], F32)},
        {"zero_points": np.array([3, 1], np.int32)},
        {"granularity": QuantGranularity.per_group(4)},
        {"bits": 7, "quant_max": 127},
        {"quant_min": 0, "quant_max": 254},
    ):
        assert made != params(**changes)
    assert made != 1
    symmetric = {"mode": SYMMETRIC, "zero_points": np.zeros(2, np.int32), "quant_max": 127}
    assert params(**symmetric | {"quant_min": -128}) != params(**symmetric | {"quant_min": -127})


def test_params_of_another_version_are_refused():
    restore, (version, *fields) = params().__reduce__()
    assert restore(version, *fields) == params()
    with pytest.raises(InvalidValueError, match=r"^pickle of QuantParams: version 99 is unknown"):
        restore(99, *fields)
    fields[1] = fields[1] * 0
    with pytest.raises(InvalidValueError, match=r"^scales: "):
        restore(version, *fields)


def test_params_repr_names_every_field():
    for name in ("scales", "zero_points", "granularity", "mode", "bits", "quant_min", "quant_max"):
        assert f"{name}=" in repr(params())


def f32(*values: float) -> np.ndarray:
    return np.array(values, F32)


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": f32(1, 0)}, r"scales: must be positive and finite, got 0\.0 at index 1"),
        ({"scales": f32(-1, 1)}, r"scales: must be positive and finite, got -1\.0 at index 0"),
        ({"scales": f32(1, np.nan)}, r"scales: must be positive and finite, got nan at index 1"),
        ({"scales": f32(np.inf, 1)}, r"scales: must be positive and finite, got inf at index 0"),
        ({"scales": f32(1)}, r"scales, zero_points: expected as many of each, got 1 and 2"),
        ({"zero_points": i32(1)}, r"scales, zero_points: expected as many of each, got 2 and 1"),
        ({"scales": f32(), "zero_points": i32()}, r"scales, zero_points: "),
        ({"zero_points": i32(0, 256)}, r"zero_points: expected 0 to 255, got 256 at index 1"),
        ({"zero_points": i32(-1, 0)}, r"zero_points: expected 0 to 255, got -1 at index 0"),
        ({"mode": SYMMETRIC, "quant_min": -127, "quant_max": 127}, r"zero_points: expected 0, got 3 at index 0"),
        ({"bits": 1}, r"bits: expected an integer from 2 to 16, got 1"),
        ({"bits": 17}, r"bits: expected an integer from 2 to 16, got 17"),
        ({"bits": 7}, r"quant_min, quant_max: expected 0 <= .* <= 127 for 7 bits asymmetric, got 0 and 255"),
        ({"quant_min": -1}, r"quant_min, quant_max: .* got -1 and 255"),
        ({"quant_max": 256}, r"quant_min, quant_max: .* got 0 and 256"),
        ({"quant_min": 9, "quant_max": 9}, r"quant_min, quant_max: .* got 9 and 9"),
        ({"mode": SYMMETRIC, "quant_min": -129, "quant_max": 127}, r"quant_min, quant_max: expected -128 <= .* -129"),
        ({"mode": SYMMETRIC, "quant_min": -128, "quant_max": 128}, r"quant_min, quant_max: .*<= 127 .* and 128"),
    ],
)
def test_params_that_contradict_are_refused(changes, message):
    with pytest.raises(InvalidValueError, match=f"^{message}"):
        params(**changes)


@pytest.mark.parametrize("scale", [0.0, -0.0, -1e-45])
def test_scale_that_is_not_positive_is_refused_where_the_cpu_takes_subnormal_numbers_for_zero(scale):
    torch = pytest.importorskip("torch")
    scales = f32(1, scale)
    assert torch.set_flush_denormal(True)
    try:
        with pytest.raises(InvalidValueError, match=r"^scales: must be positive and finite, got -?0\.0 at index 1"):
            params(scales=scales)
    finally:
        torch.set_flush_denormal(False)


def test_params_cannot_be_changed_in_what_kernels_take_of_them():
    p = params()
    expected = quantize_with_params(f32(1, 2), p)
    with pytest.raises(ValueError, match="read-only"):
        p.coding_rows[:] = 0
    np.testing.assert_array_equal(quantize_with_params(f32(1, 2), p), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": np.ones(2)}, "scales: expected dtype float32, got float64"),
        ({"scales": [1.0, 2.0]}, "scales: expected dtype float32, got float64"),
        ({"zero_points": np.zeros(2, np.int64)}, "zero_points: expected dtype int32, got int64"),
        ({"granularity": "per_tensor"}, "granularity: expected a QuantGranularity, got 'per_tensor'"),
        ({"granularity": None}, "granularity: expected a QuantGranularity, got None"),
        ({"mode": None}, "mode: expected a QuantMode or one of symmetric, asymmetric, offset, got None"),
        ({"bits": 8.0}, "bits: expected an integer from 2 to 16, got 8.0"),
        ({"quant_min": 0.0}, "quant_min: expected an integer"),
        ({"quant_max": True}, "quant_max: expected an integer"),
    ],
)
def test_params_of_other_types_are_refused(changes, message):
    with pytest.raises(InvalidTypeError, match=f"^{re.escape(message)}"):
        params(**changes)


def test_parameters_are_no_view_of_the_callers_arrays():
    scales = np.ones(1, np.float32)
    params = QuantParams(scales, np.zeros(1, np.int32), QuantGranularity(), QuantMode.SYMMETRIC, 8, -127, 127)
    scales[0] = np.nan
    assert params.scales[0] == 1

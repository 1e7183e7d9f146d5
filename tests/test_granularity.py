"""Affine parameters: which elements share a scale, and scales and zero points equal to the definition's and torch's."""

import copy
import pickle
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from tests import reference_affine
from tests.contract import DISTRIBUTIONS
from tests.reference_affine import parts_of

F32 = np.float32
BF16 = np.dtype(ml_dtypes.bfloat16)
SYMMETRIC, ASYMMETRIC = QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC
BITS = range(2, 9)
# (mode, narrow_range); narrow_range changes nothing for ASYMMETRIC
CODES = [(SYMMETRIC, True), (SYMMETRIC, False), (ASYMMETRIC, True), (ASYMMETRIC, False)]
every_code = pytest.mark.parametrize(("mode", "narrow"), CODES)
every_mode = pytest.mark.parametrize("mode", QuantMode)
every_bits = pytest.mark.parametrize("bits", BITS)

F32_MAX = np.finfo(F32).max
EDGES = {
    "zeros": [0.0, -0.0, 0.0],
    "all above zero": [3.0, 4.0, 5.5],
    "all below zero": [-3.0, -4.0, -5.5],
    "constant": [2.75] * 5,
    "constant below zero": [-2.75] * 5,
    "one value": [1e-3],
    "1e-30": [-1e-30, 3e-30],
    "1e30": [-1e30, 2e30],
    "3e38": [-3e38, 3e38],
    "largest": [-F32_MAX, F32_MAX],
    "largest, one side": [0.0, F32_MAX],
    "smallest normal": [0.0, 2.0**-126],
    "scale at the edge of normal": [-127 * 2.0**-126, 0.0],
    "scale below normal": [-1e-37, 1e-37],
    "subnormal": [-1e-40, 2e-40],
    "smallest subnormal": [2.0**-149, 0.0],
    "range of subnormals that is normal": [-(2.0**-127), 2.0**-127],
}


@pytest.fixture(scope="module")
def observers() -> ModuleType:
    pytest.importorskip("torch")
    return pytest.importorskip("torch.ao.quantization.observer")


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


def assert_equals_reference(found: QuantParams, values: np.ndarray, parts: list[np.ndarray], narrow: bool) -> None:
    symmetric = found.mode is SYMMETRIC
    expected = reference_affine.calibrate(values.astype(F32), parts, found.bits, symmetric=symmetric, narrow=narrow)
    assert (found.scales.dtype, found.zero_points.dtype) == (F32, np.int32)
    assert (found.quant_min, found.quant_max) == (expected.quant_min, expected.quant_max)
    np.testing.assert_array_equal(found.scales, expected.scales)
    np.testing.assert_array_equal(found.zero_points, expected.zero_points)
    assert found.num_groups == len(parts)


# Equal to the definition


@every_code
@pytest.mark.parametrize("edge", EDGES)
def test_edges_per_tensor_equal_reference(edge, mode, narrow):
    values = np.array(EDGES[edge], F32)
    for bits in BITS:
        found = calibrate_per_tensor(values, bits, mode, narrow_range=narrow)
        assert_equals_reference(found, values, parts_of(values.shape), narrow)
        assert found.granularity == QuantGranularity.per_tensor()
        assert (found.mode, found.bits) == (mode, bits)


@every_code
@pytest.mark.parametrize("shape", [(7,), (5, 3), (3, 40), (4, 1, 33), (2, 3, 4, 5), (1, 1), (65, 2)], ids=str)
def test_every_axis_equals_reference(shape, mode, narrow, rng):
    values = (rng.standard_normal(shape) + rng.uniform(-3, 3)).astype(F32)
    for axis in range(-len(shape), len(shape)):
        found = calibrate_per_channel(values, 6, mode, axis=axis, narrow_range=narrow)
        assert_equals_reference(found, values, parts_of(shape, axis % len(shape)), narrow)
        assert found.granularity == QuantGranularity.per_channel(axis)
        assert found.num_groups == shape[axis]


@every_code
@pytest.mark.parametrize("shape", [(1,), (130,), (3, 64), (5, 7), (2, 3, 33)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 7, 32, 33, 64, 1000, 2**40])
def test_groups_end_with_their_row(shape, size, mode, narrow, rng):
    values = (rng.standard_normal(shape) + rng.uniform(-3, 3)).astype(F32)
    found = calibrate_per_group(values, size, 5, mode, narrow_range=narrow)
    assert_equals_reference(found, values, parts_of(shape, group_size=size), narrow)
    assert found.num_groups == values[..., 0].size * -(-shape[-1] // size)
    assert found.granularity == QuantGranularity.per_group(size)


@every_mode
@pytest.mark.parametrize("shape", [(70,), (1027, 3), (3, 70), (5, 3, 7), (3, 2, 40)], ids=str)
def test_extremes_are_found_wherever_they_are(shape, mode, rng):
    """At the ends of the array and at places between."""
    size = int(np.prod(shape))
    for where in {0, size - 1, size - shape[-1], *rng.integers(0, size, 10).tolist()}:
        for value in (-5.0, 5.0):
            values = np.ones(shape, F32)
            values.reshape(-1)[where] = value
            for found, parts in [
                (calibrate_per_tensor(values, 8, mode), parts_of(shape)),
                (calibrate_per_channel(values, 8, mode, axis=-1), parts_of(shape, len(shape) - 1)),
                (calibrate_per_channel(values, 8, mode, axis=0), parts_of(shape, 0)),
                (calibrate_per_group(values, 32, 8, mode), parts_of(shape, group_size=32)),
            ]:
                assert_equals_reference(found, values, parts, narrow=True)


@pytest.mark.parametrize("size", [2**63 - 1, 2**63, 2**70])
def test_group_sizes_beyond_any_row_are_whole_rows(size, rng):
    values = rng.standard_normal((3, 50)).astype(F32)
    np.testing.assert_array_equal(calibrate_per_group(values, size).scales, calibrate_per_group(values, 50).scales)


@given(
    kind=st.sampled_from(list(DISTRIBUTIONS)),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-140, 30),
    shape=st.sampled_from([(200,), (6, 32), (9, 7), (3, 5, 11)]),
    sharing=st.sampled_from(["tensor", "first", "last", "group"]),
    bits=st.integers(2, 8),
    code=st.sampled_from(CODES),
)
def test_equals_reference(kind, seed, exponent, shape, sharing, bits, code):
    mode, narrow = code
    values = DISTRIBUTIONS[kind](np.random.default_rng(seed), int(np.prod(shape)))
    with np.errstate(over="ignore"):
        values = np.ldexp(values, exponent).reshape(shape)
    values[~np.isfinite(values)] = 0
    if sharing == "tensor":
        found, parts = calibrate_per_tensor(values, bits, mode, narrow_range=narrow), parts_of(shape)
    elif sharing == "group":
        found = calibrate_per_group(values, 16, bits, mode, narrow_range=narrow)
        parts = parts_of(shape, group_size=16)
    else:
        axis = 0 if sharing == "first" else len(shape) - 1
        found = calibrate_per_channel(values, bits, mode, axis=axis, narrow_range=narrow)
        parts = parts_of(shape, axis)
    assert_equals_reference(found, values, parts, narrow)


@every_mode
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BF16, np.dtype(np.float64)], ids=str)
def test_other_dtypes_are_calibrated_as_float32(dtype, mode, rng):
    values = rng.standard_normal((40, 70)).astype(dtype)
    as_float32 = values.astype(F32)
    assert calibrate_per_tensor(values, 8, mode) == calibrate_per_tensor(as_float32, 8, mode)
    for axis in (0, 1):
        by_channel = calibrate_per_channel(as_float32, 8, mode, axis=axis)
        assert calibrate_per_channel(values, 8, mode, axis=axis) == by_channel
    assert calibrate_per_group(values, 32, 8, mode) == calibrate_per_group(as_float32, 32, 8, mode)


def test_bits_are_eight_and_symmetric_by_default():
    values = np.array([[1, -2], [3, 4]], F32)
    for found in (calibrate_per_tensor(values), calibrate_per_channel(values), calibrate_per_group(values, 2)):
        assert (found.bits, found.mode, found.quant_min, found.quant_max) == (8, SYMMETRIC, -127, 127)
    assert calibrate_per_channel(values).granularity == QuantGranularity.per_channel(0)


@every_bits
def test_range_of_codes(bits):
    values = np.array([-1, 3], F32)
    top = 2 ** (bits - 1) - 1
    for mode, narrow, expected in [
        (SYMMETRIC, True, (-top, top)),
        (SYMMETRIC, False, (-top - 1, top)),
        (ASYMMETRIC, True, (0, 2**bits - 1)),
        (ASYMMETRIC, False, (0, 2**bits - 1)),
    ]:
        found = calibrate_per_tensor(values, bits, mode, narrow_range=narrow)
        assert (found.quant_min, found.quant_max) == expected


def test_strided_and_foreign_arrays_are_calibrated_as_their_values(rng):
    base = rng.standard_normal((30, 40)).astype(F32)
    expected = calibrate_per_channel(np.ascontiguousarray(base[::2, ::-3]), axis=1)
    assert calibrate_per_channel(base[::2, ::-3], axis=1) == expected
    assert calibrate_per_channel(base.astype(">f4")[::2, ::-3], axis=1) == expected
    assert calibrate_per_channel(np.asfortranarray(base), axis=1) == calibrate_per_channel(base, axis=1)


# Equal to torch's observers


def observed(observers: ModuleType, values: np.ndarray, bits: int, mode: QuantMode, narrow: bool, **kwargs: Any) -> Any:
    """What torch's observer finds: scales and zero points. `ch_axis` in kwargs: per channel."""
    import torch

    kind = "channel" if "ch_axis" in kwargs else "tensor"
    scheme = f"per_{kind}_symmetric" if mode is SYMMETRIC else f"per_{kind}_affine"
    top = 2 ** (bits - 1) - 1
    limits = (-top if narrow else -top - 1, top) if mode is SYMMETRIC else (0, 2**bits - 1)
    observer_type = observers.PerChannelMinMaxObserver if "ch_axis" in kwargs else observers.MinMaxObserver
    observer = observer_type(
        dtype=torch.qint8 if mode is SYMMETRIC else torch.quint8,
        qscheme=getattr(torch, scheme),
        quant_min=limits[0],
        quant_max=limits[1],
        **kwargs,
    )
    observer(torch.tensor(values))
    scales, zero_points = observer.calculate_qparams()
    return scales.numpy(), zero_points.numpy()


def assert_as_observed(found: QuantParams, expected: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(found.scales, expected[0])
    np.testing.assert_array_equal(found.zero_points, expected[1])


@every_bits
@every_code
def test_equals_torchs_observers(observers, mode, narrow, bits, rng):
    for low, high in [(-1, 1), (-0.1, 5), (2, 3), (-1e30, -1e25)]:
        values = rng.uniform(low, high, (6, 5, 40)).astype(F32)
        found = calibrate_per_tensor(values, bits, mode, narrow_range=narrow)
        assert_as_observed(found, observed(observers, values, bits, mode, narrow))
        for axis in range(3):
            found = calibrate_per_channel(values, bits, mode, axis=axis, narrow_range=narrow)
            assert_as_observed(found, observed(observers, values, bits, mode, narrow, ch_axis=axis))


@every_code
def test_equals_torchs_observer_on_edges(observers, mode, narrow):
    """With the smallest of eps. torch's range overflows where that of float32 values is no float32."""
    for name, edge in EDGES.items():
        values = np.array(edge, F32)
        found = calibrate_per_tensor(values, 8, mode, narrow_range=narrow)
        if mode is ASYMMETRIC and np.ptp(values.astype(float)) > F32_MAX:
            continue
        expected = observed(observers, values, 8, mode, narrow, eps=2.0**-149)
        if expected[0][0] >= reference_affine.SMALLEST_NORMAL:
            assert_as_observed(found, expected)
        else:
            assert (found.scales[0], found.zero_points[0]) == (1, 0), name


@every_mode
def test_torchs_smallest_scale_is_not_ours(observers, mode):
    """torch's scales end at its eps, 2**-23 by default, and small weights become zeros. Ours do not."""
    values = np.array([-1e-9, 1e-9], F32)
    scales, _ = observed(observers, values, 8, mode, narrow=True)
    assert scales == [2.0**-23]
    assert calibrate_per_tensor(values, 8, mode).scales == pytest.approx(1e-9 / (127 if mode is SYMMETRIC else 127.5))
    for nothing in ([0.0, 0.0], [-1e-39, 2e-39]):
        found = calibrate_per_tensor(np.array(nothing, F32), 8, mode)
        assert (found.scales.tolist(), found.zero_points.tolist()) == ([1.0], [0])


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
@pytest.mark.parametrize("mode", ["symmetric", None, True, QuantMode])
def test_modes_of_another_type_are_refused(calibrate, mode):
    with pytest.raises(InvalidTypeError, match=r"^mode: expected a QuantMode, got "):
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
        with pytest.raises(InvalidValueError, match=r" at flat index 333$"):
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
        ({"bits": 1}, r"bits: expected an integer from 2 to 8, got 1"),
        ({"bits": 9}, r"bits: expected an integer from 2 to 8, got 9"),
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
        ({"mode": "asymmetric"}, "mode: expected a QuantMode, got 'asymmetric'"),
        ({"bits": 8.0}, "bits: expected an integer from 2 to 8, got 8.0"),
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

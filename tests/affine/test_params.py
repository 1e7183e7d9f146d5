"""Affine parameters: which elements share a scale, and scales and zero points equal to the definition's and torch's."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    QuantGranularity,
    QuantMode,
    QuantParams,
    calibrate_per_channel,
    calibrate_per_group,
    calibrate_per_tensor,
)
from tests.support import reference_affine
from tests.support.affine_cases import ASYMMETRIC, BF16, F32, SYMMETRIC
from tests.support.contract import DISTRIBUTIONS
from tests.support.reference_affine import parts_of

BITS = range(2, 9)
# (mode, narrow_range); narrow_range changes nothing for ASYMMETRIC
CODES = [(SYMMETRIC, True), (SYMMETRIC, False), (ASYMMETRIC, True), (ASYMMETRIC, False)]
every_code = pytest.mark.parametrize(("mode", "narrow"), CODES)
every_mode = pytest.mark.parametrize("mode", [SYMMETRIC, ASYMMETRIC])  # offsets: test_offsets.py
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

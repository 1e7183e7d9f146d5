"""Codes with an offset, `x = offset + q * scale`: equal to the definition, in every granularity, with small errors."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    Calibrator,
    QuantGranularity,
    QuantMode,
    QuantParams,
    analyze_error,
    calibrate_min_max,
    calibrate_per_channel,
    calibrate_per_tensor,
    calibrate_percentile,
    dequantize_with_params,
    error_stats,
    quantize_tensor,
    quantize_with_params,
    theoretical_max_error,
)
from quantcore.errors import InvalidValueError
from quantcore.qat import fake_quantize_with_params
from tests.support.affine_cases import F32, INPUT_DTYPES, SHAPES, TENSOR, THREADED, granularities, parts

OFFSET = QuantMode.OFFSET


def naive(values: np.ndarray, shares: list[np.ndarray], bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scales, offsets and codes, one part after the other, in float32."""
    flat, codes = values.reshape(-1), np.empty(values.size, np.uint8)
    scales, offsets = [], []
    steps = 2**bits - 1
    for share in shares:
        part = flat[share]
        low, spread = part.min(), part.max() - part.min()
        scale = spread / F32(steps)
        if min(spread, scale) < 2.0**-126:
            scale = F32(1)
        codes[share] = np.clip(np.rint((part - low) * (F32(1) / scale)), 0, steps)
        scales.append(scale)
        offsets.append(low)
    return np.array(scales, F32), np.array(offsets, F32), codes.reshape(values.shape)


def decoded(codes: np.ndarray, params: QuantParams, shares: list[np.ndarray]) -> np.ndarray:
    values = np.empty(codes.size, F32)
    assert params.offsets is not None
    for share, scale, offset in zip(shares, params.scales, params.offsets, strict=True):
        values[share] = codes.reshape(-1)[share].astype(F32) * scale + offset
    return values.reshape(codes.shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_granularity_equals_the_definition(shape, rng):
    values = (rng.standard_normal(shape) * 10 + 290).astype(F32)
    for granularity in granularities(shape) if values.size < 1000 else [TENSOR]:
        shares = parts(shape, granularity)
        made = quantize_tensor(values, granularity, OFFSET, bits=7)
        scales, offsets, codes = naive(values, shares, 7)
        np.testing.assert_array_equal(made.params.scales, scales)
        np.testing.assert_array_equal(made.params.offsets, offsets)
        assert made.data.dtype == np.uint8 and not made.params.zero_points.any()
        np.testing.assert_array_equal(made.data, codes)
        np.testing.assert_array_equal(made.dequantize(), decoded(codes, made.params, shares))


@pytest.mark.parametrize("dtype", INPUT_DTYPES, ids=str)
def test_other_dtypes_are_coded_as_float32(dtype, rng):
    values = (rng.standard_normal((60, 70)) + 20).astype(dtype)
    for granularity in (QuantGranularity.per_channel(0), QuantGranularity.per_channel(1)):
        expected = quantize_tensor(values.astype(F32), granularity, OFFSET)
        assert quantize_tensor(values, granularity, OFFSET) == expected


@pytest.mark.parametrize(("shape", "granularity"), THREADED.values(), ids=THREADED)
def test_threads_change_nothing(shape, granularity, rng):
    values = rng.standard_normal(shape, F32) + F32(3)
    one = quantize_tensor(values, granularity, OFFSET, n_threads=1)
    assert quantize_tensor(values, granularity, OFFSET, n_threads=4) == one
    shares = parts(shape, granularity) if granularity.group_size is None and len(one.params.scales) < 70 else []
    if shares:
        np.testing.assert_array_equal(one.data, naive(values, shares, 8)[2])
    assert (one.dequantize(n_threads=4) == one.dequantize(n_threads=1)).all()


@given(
    low=st.floats(-(2.0**99), 2.0**99, width=32),
    spread=st.floats(0, 2.0**99, width=32),
    bits=st.integers(2, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_errors_are_below_the_bound(low, spread, bits, seed):
    values = (np.random.default_rng(seed).random((9, 40)) * spread + low).astype(F32)
    for params in (calibrate_per_tensor(values, bits, OFFSET), calibrate_per_channel(values, bits, OFFSET, axis=1)):
        stats = analyze_error(values, params)
        assert stats == error_stats(values, dequantize_with_params(quantize_with_params(values, params), params))
        assert stats.max_error <= theoretical_max_error(params) * (1 + 1e-9)


def test_all_codes_are_used_where_the_range_lacks_zero():
    temperatures = np.linspace(280, 300, 1001, dtype=F32)
    errors = {
        mode: np.abs(quantize_tensor(temperatures, mode=mode).dequantize() - temperatures).max() for mode in QuantMode
    }
    assert errors[OFFSET] < 0.0393 < errors[QuantMode.ASYMMETRIC]
    assert np.unique(quantize_tensor(temperatures, mode=OFFSET).data).size == 256
    assert np.unique(quantize_tensor(temperatures, mode=QuantMode.ASYMMETRIC).data).size == 18


def test_a_constant_comes_back_as_it_is():
    values = np.full((3, 50), 1234.567, F32)
    for granularity in (None, QuantGranularity.per_channel(0), QuantGranularity.per_channel(1)):
        assert (quantize_tensor(values, granularity, OFFSET).dequantize() == values).all()


def test_values_beyond_the_range_are_clipped():
    params = calibrate_per_tensor(np.array([10, 20], F32), mode=OFFSET)
    codes = quantize_with_params(np.array([-3e38, 9, 10, 15, 20, 21, 3e38], F32), params)
    assert codes.tolist() == [0, 0, 0, 128, 255, 255, 255]
    far = calibrate_per_tensor(np.array([-3e38, -2.9e38], F32), mode=OFFSET)
    assert quantize_with_params(np.array([3e38], F32), far).tolist() == [255]  # the difference overflows


def test_ranges_wider_than_float32_are_refused():
    values = np.array([[0, 1], [-3e38, 3e38]], F32)
    with pytest.raises(
        InvalidValueError, match=r"values: the range from -3\S*e\+38 to 3\S*e\+38 is too wide for the mode"
    ):
        quantize_tensor(values, mode=OFFSET)
    with pytest.raises(InvalidValueError, match=r"^compute: the range from -3\S*e\+38"):
        Calibrator.min_max(mode=OFFSET).partial_fit(values).compute()
    for calibrate in (calibrate_min_max, lambda data, mode: calibrate_percentile(data, lower=0, upper=100, mode=mode)):
        with pytest.raises(InvalidValueError, match=r"^data: the range from -3\S*e\+38"):
            calibrate(values, mode=OFFSET)


# Calibration


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_calibrators_find_the_range_as_it_is(axis, rng):
    batches = [(rng.standard_normal((30, 20)) + 50).astype(F32) for _ in range(3)]
    whole = np.concatenate(batches, axis=1 if axis == 0 else 0)
    granularity = QuantGranularity(axis=axis)
    calibrators = [Calibrator.min_max(mode=OFFSET, axis=axis) for _ in batches]
    for calibrator, batch in zip(calibrators, batches, strict=True):
        calibrator.observe(batch)
    merged = calibrators[0].merge(calibrators[1]).merge(calibrators[2])
    assert merged.compute().params == quantize_tensor(whole, granularity, OFFSET).params
    again = Calibrator.from_dict(json.loads(json.dumps(merged.to_dict())))
    assert again.mode is OFFSET and again.compute() == merged.compute()
    offset = merged.compute().offset
    assert np.array_equal(offset, merged.compute().observed_min)
    assert merged.compute().to_dict()["offset"] == np.asarray(offset).tolist()


def test_percentiles_and_moving_averages_take_offsets(rng):
    values = (rng.standard_normal(5000) + 50).astype(F32)
    result = calibrate_percentile(values, lower=1, upper=99, mode=OFFSET)
    assert result.offset == result.clip_min == F32(np.percentile(values, 1))
    found = Calibrator.percentile(mode=OFFSET, lower=1, upper=99).partial_fit(values).compute()
    assert abs(found.offset - result.offset) < 0.01
    assert Calibrator.moving_average(mode=OFFSET).partial_fit(values).compute().offset == values.min()
    assert calibrate_min_max(values, mode=OFFSET).offset == values.min()
    assert calibrate_min_max(values).offset is None


def test_the_search_around_zero_refuses_offsets():
    with pytest.raises(InvalidValueError, match=r"^mode: offset goes with every method but entropy"):
        Calibrator.entropy(mode=OFFSET)


def squared_error(values: np.ndarray, low: float, high: float, steps: int) -> float:
    """In float64, of values that lie in the middle of bins."""
    scale = (high - low) / steps
    codes = np.clip(np.rint((values - low) / scale), 0, steps)
    return float(((values - (low + codes * scale)) ** 2).sum())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("place", [0, 1, -40, 1000])
def test_mse_finds_the_range_of_least_error(bits, place, rng):
    """No pair of a fine grid of both ends is better by more than a little, wherever zero is."""
    values = (rng.standard_t(4, 3000) + place).astype(F32)
    calibrator = Calibrator.mse(bits, mode=OFFSET).partial_fit(values)
    found, steps = calibrator.compute(), 2**bits - 1
    low, high = found.clip_min, found.clip_max
    assert values.min() <= low < high <= values.max() and found.offset == low
    (channel,) = calibrator.to_dict()["state"]["channels"]
    centres = np.repeat(np.arange(len(channel["counts"])) + channel["first"] + 0.5, channel["counts"])
    centres = centres * 2.0 ** channel["exponent"]
    error = squared_error(centres, float(low), float(high), steps)
    assert error <= squared_error(centres, float(values.min()), float(values.max()), steps) * (1 + 1e-9)
    mean = centres.mean()
    for below in np.linspace(values.min(), mean, 25)[:-1]:
        for above in np.linspace(mean, values.max(), 25)[1:]:
            assert error <= squared_error(centres, below, above, steps) * 1.03


def test_mse_of_channels_and_of_constants(rng):
    values = (rng.standard_t(3, (2000, 5)) * [1, 10, 0.01, 1, 1] + [0, 50, 1000, -7, 3]).astype(F32)
    values[:, 3] = -7
    found = Calibrator.mse(mode=OFFSET, axis=1).partial_fit(values).compute()
    for j, low in enumerate(found.clip_min):
        alone = Calibrator.mse(mode=OFFSET).partial_fit(values[:, j]).compute()
        assert (alone.clip_min, alone.clip_max) == (low, found.clip_max[j])
    assert found.clip_min[3] == found.clip_max[3] == -7
    extremes = Calibrator.min_max(mode=OFFSET, axis=1).partial_fit(values).compute()
    assert analyze_error(values, found.params).mse < analyze_error(values, extremes.params).mse


def test_modes_do_not_merge():
    ours = Calibrator.min_max(mode=OFFSET)
    with pytest.raises(InvalidValueError, match=r"8 bits offset per tensor, got .* 8 bits asymmetric"):
        ours.merge(Calibrator.min_max(symmetric=False))


# Parameters as a record


def params_of(mode: QuantMode, granularity: QuantGranularity) -> QuantParams:
    values = np.random.default_rng(0).standard_normal((5, 8)).astype(F32) + F32(2)
    return quantize_tensor(values, granularity, mode).params


@pytest.mark.parametrize("mode", QuantMode)
@pytest.mark.parametrize("granularity", granularities((5, 8)), ids=str)
def test_dictionaries_and_pickles_restore_equal_parameters(mode, granularity):
    params = params_of(mode, granularity)
    assert QuantParams.from_dict(json.loads(json.dumps(params.to_dict()))) == params
    assert pickle.loads(pickle.dumps(params)) == params
    none = quantize_tensor(np.empty((0, 8), F32), QuantGranularity.per_channel(0), mode).params
    assert QuantParams.from_dict(none.to_dict()) == none


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format: expected 'quantcore.params', got 'other'"),
        ({"version": 2}, "version: 2 is unknown; known: 1"),
        ({"version": True}, "version: True is unknown"),
        ({"mode": "middle"}, "mode: expected one of symmetric, asymmetric, offset, got 'middle'"),
        ({"mode": ["offset"]}, "mode: expected one of"),
        ({"scales": [0.1, "a"]}, "scales: expected a list of numbers"),
        ({"scales": [0.1] * 8}, "scales: expected float32"),
        ({"scales": [1e300] * 8}, "scales: expected float32"),
        ({"scales": [0.0] * 8}, "scales: must be positive and finite"),
        ({"zero_points": [2**40] * 8}, "zero_points: expected int32"),
        ({"zero_points": [10**30] * 8}, "zero_points: expected int32"),
        ({"zero_points": [1] * 8}, "zero_points: expected 0, got 1"),
        ({"offsets": None}, "offsets: go with the mode offset"),
        ({"offsets": [1.0]}, "offsets: expected as many as scales, 8, got 1"),
        ({"offsets": [float("nan")] * 8}, "offsets: must be finite, got nan at index 0"),
        ({"mode": "symmetric"}, "quant_min, quant_max: expected -128"),
        ({"axis": 1, "group_size": 3}, "axis, group_size: one of them at most"),
        ({"colour": "red"}, "'colour': is not a field of the parameters"),
        ({"format": np.arange(2)}, "format: expected 'quantcore"),
        ({"mode": np.arange(2)}, "mode: expected one of"),
        ({"scales": np.arange(0)}, "scales: "),
    ],
)
def test_dictionaries_that_are_not_parameters_are_refused(change, message):
    state = params_of(OFFSET, QuantGranularity.per_channel(1)).to_dict()
    with pytest.raises(InvalidValueError, match=message):
        QuantParams.from_dict(state | change)
    with pytest.raises(InvalidValueError, match="bits: is missing"):
        QuantParams.from_dict({key: value for key, value in state.items() if key != "bits"})


def test_offsets_are_part_of_equality():
    first, second = (calibrate_per_tensor(np.array([low, low + 1], F32), mode=OFFSET) for low in (1.0, 2.0))
    assert first.scales == second.scales and first != second
    assert first == calibrate_per_tensor(np.array([1, 2], F32), mode=OFFSET)
    assert first.offsets is not None and not first.offsets.flags.writeable
    assert "offsets=[1.0]" in repr(first)


def test_fake_quantization_refuses_offsets():
    params = calibrate_per_tensor(np.array([1, 2], F32), mode=OFFSET)
    with pytest.raises(InvalidValueError, match="params: offsets are for data"):
        fake_quantize_with_params(np.array([1.5], F32), params)


# Errors say where


def test_errors_name_row_and_column():
    values = np.ones((1000, 40), F32)
    values[123, 7] = np.nan
    with pytest.raises(InvalidValueError, match=r"must be finite, got nan at flat index 4927 \(row 123, column 7\)"):
        quantize_tensor(values, QuantGranularity.per_channel(1), OFFSET)
    with pytest.raises(InvalidValueError, match=r"batch: .* \(row 123, column 7\)"):
        Calibrator.min_max(axis=1).observe(values)
    with pytest.raises(InvalidValueError, match=r"flat index 4927 \(index 3, 3, 0, 7\)"):
        quantize_tensor(values.reshape(25, 40, 1, 40))
    with pytest.raises(InvalidValueError, match=r"got nan at flat index 7$"):
        quantize_tensor(values[123])

"""What each method of calibration finds: equal to naive twins, per tensor and per channel."""

import math
from collections import Counter
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from quantcore import (
    Calibrator,
    QuantMode,
    calibrate_min_max,
    calibrate_per_channel,
    calibrate_per_tensor,
    dequantize_with_params,
    quantization_mse,
    quantize_with_params,
)
from tests.support import nvidia_entropy, reference_affine
from tests.support import reference_calibration as reference
from tests.support.calibrators import F32, METHODS, heavy_tailed, make, observed, state_of
from tests.support.marks import slow_but_first

DATA: dict[str, list[float]] = {
    "both signs": [-1.5, 0.25, 2.5],
    "zero": [0.0, 0.0],
    "negative zero": [-0.0],
    "one value": [3.7],
    "without zero": [5.0, 5.5, 6.0],
    "a constant": [0.1] * 5,
    "all negative": [-7.0, -6.0, -3.0],
    "tiny": [1e-30, -2e-30],
    "huge": [1e30, -3e30],
    "the largest": [-3.4028234663852886e38, 3.4028234663852886e38],
    "subnormal": [1e-40, -2e-42],
}


# Results


@pytest.mark.parametrize("case", DATA)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("symmetric", "narrow"), [(True, True), (True, False), (False, True)])
def test_min_max(case, bits, symmetric, narrow):
    values = np.array(DATA[case], F32)
    result = observed("min_max", values, bits=bits, symmetric=symmetric, narrow_range=narrow).compute()
    wanted = reference_affine.calibrate(values, [np.arange(values.size)], bits, symmetric=symmetric, narrow=narrow)
    assert (result.scale, result.zero_point) == (float(wanted.scales[0]), wanted.zero_points[0])
    assert (result.observed_min, result.observed_max) == (values.min(), values.max())
    assert (result.clip_min, result.clip_max) == (values.min(), values.max())
    params = result.params
    assert (params.quant_min, params.quant_max) == (wanted.quant_min, wanted.quant_max)
    assert (params.bits, params.mode) == (bits, QuantMode.SYMMETRIC if symmetric else QuantMode.ASYMMETRIC)
    assert params.scales.tolist() == [result.scale]
    assert params.zero_points.tolist() == [result.zero_point]
    assert type(result.scale) is float
    assert type(result.zero_point) is int
    if narrow:
        one = calibrate_min_max(values, bits, symmetric)
        assert one.to_dict() == result.to_dict()


@pytest.mark.parametrize("case", DATA)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_are_those_of_the_clipped_range(case, method, symmetric):
    values = np.array(DATA[case], F32)
    result = observed(method, values, symmetric=symmetric).compute()
    ends = np.array([result.clip_min, result.clip_max], F32)
    wanted = reference_affine.calibrate(ends, [np.arange(2)], 8, symmetric=symmetric)
    assert (result.scale, result.zero_point) == (float(wanted.scales[0]), wanted.zero_points[0])
    assert values.min() <= result.clip_min <= result.clip_max <= values.max()
    assert (result.observed_min, result.observed_max) == (values.min(), values.max())
    assert result.method == make(method).method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_per_channel_is_each_channel_alone(method, symmetric, axis, rng):
    shape = (3, 2, 40) if axis in (0, 1, -3) else (40, 2, 3)
    values = heavy_tailed(rng, *shape) * np.geomspace(1e-3, 1e3, shape[0], dtype=F32)[:, None, None]
    batches = [values, values * F32(1.5)]
    result = observed(method, *batches, axis=axis, symmetric=symmetric).compute()
    n_channels = values.shape[axis]
    for name in ("scale", "zero_point", "observed_min", "observed_max", "clip_min", "clip_max"):
        array = getattr(result, name)
        assert array.shape == (n_channels,)
        assert array.dtype == (np.int32 if name == "zero_point" else F32)
        assert not array.flags.writeable
    for channel in range(n_channels):
        alone = observed(method, *(batch.take(channel, axis) for batch in batches), symmetric=symmetric).compute()
        for name in ("scale", "zero_point", "observed_min", "observed_max", "clip_min", "clip_max"):
            assert getattr(result, name)[channel] == getattr(alone, name), name
    assert result.params.granularity.axis == axis
    assert result.params.scales.tolist() == result.scale.tolist()


def test_equals_the_calibration_of_one_array(rng):
    values = heavy_tailed(rng, 6, 300)
    for mode in (QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC):
        symmetric = mode is QuantMode.SYMMETRIC
        assert calibrate_min_max(values, 4, symmetric).params == calibrate_per_tensor(values, 4, mode)
        per_channel = observed("min_max", *np.split(values, 3, axis=1), bits=4, symmetric=symmetric, axis=0)
        assert per_channel.compute().params == calibrate_per_channel(values, 4, mode)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_dtypes(dtype, method, rng):
    values = rng.standard_normal((4, 200)).astype(dtype)
    for axis in (None, 0):
        found = observed(method, values, axis=axis).compute()
        assert found.to_dict() == observed(method, values.astype(F32), axis=axis).compute().to_dict()


def test_moving_average_follows_its_formula(rng):
    batches = [heavy_tailed(rng, 3, 50) for _ in range(6)]
    for constant in (0.01, 0.5, 1.0):
        low, high = batches[0].min(axis=1), batches[0].max(axis=1)
        for batch in batches[1:]:
            low = low + F32(constant) * (batch.min(axis=1) - low)
            high = high + F32(constant) * (batch.max(axis=1) - high)
        result = observed("moving_average", *batches, axis=0, averaging_constant=constant).compute()
        assert np.array_equal(result.observed_min, low)
        assert np.array_equal(result.observed_max, high)
    np.testing.assert_allclose(high, batches[-1].max(axis=1), rtol=1e-6)  # m + 1 * (new - m), rounded twice


SHAPES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": lambda rng: rng.standard_normal(2000),
    "heavy": lambda rng: rng.standard_t(2, 2000),
    "uniform": lambda rng: rng.uniform(-1, 1, 2000),
    "one-sided": lambda rng: np.maximum(rng.standard_normal(2000), 0),
    "shifted": lambda rng: rng.uniform(5, 6, 2000),
    "negative": lambda rng: -np.abs(rng.standard_t(3, 2000)),
    "a constant": lambda rng: np.full(20, 0.1),
    "two values": lambda rng: rng.choice([0.5, -1.0], 100),
    "spike": lambda rng: np.r_[rng.standard_normal(2000) * 1e-2, 1.0],
    # whole numbers of the narrowest bins there are, so that all thresholds can be compared
    "few bins": lambda rng: np.rint(60 * rng.standard_t(3, 2000)).clip(-500, 500) * 2.0**-126,
}


@pytest.mark.parametrize("symmetric", slow_but_first([True, False]))
@pytest.mark.parametrize("bits", slow_but_first([8, 2, 3]))
@pytest.mark.parametrize("shape", SHAPES)
def test_entropy_is_tensorrts_search(bits, shape, symmetric, rng):
    values = SHAPES[shape](rng).astype(F32)
    low, high = float(values.min()), float(values.max())
    largest = max(-low, high)
    is_one_sided = low >= 0 or high <= 0
    levels = 2**bits if is_one_sided and not symmetric else 2 ** (bits - 1)
    counts, width, numbers = reference.searched(state_of(values), levels)
    result = observed("entropy", values, bits=bits, symmetric=symmetric).compute()
    threshold = max(-result.clip_min, result.clip_max)
    assert (result.clip_min, result.clip_max) == (
        min(max(low, -threshold), threshold), max(min(high, threshold), -threshold)
    )  # fmt: skip
    found = len(counts) if threshold == largest else round(threshold / width + 0.5)
    assert threshold == min(F32((found - 0.5) * width), largest)
    least = reference.divergence(counts, found, levels)
    others = numbers if shape == "few bins" else {*rng.choice(numbers, 20).tolist(), *numbers[:2], *numbers[-2:]}
    for i in others:
        assert least <= reference.divergence(counts, i, levels) + 1e-9, (i, found)


ACTIVATIONS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "gaussian": lambda rng, n: rng.standard_normal(n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "relu": lambda rng, n: np.maximum(rng.standard_normal(n), 0),
    "gelu": lambda rng, n: np.array([x * 0.5 * math.erfc(-x / math.sqrt(2)) for x in rng.standard_normal(n)]),
    "bimodal": lambda rng, n: rng.normal(np.where(rng.random(n) < 0.5, -3, 3), 0.3),
    "sparse": lambda rng, n: rng.standard_normal(n) * (rng.random(n) < 0.05),
}


@pytest.mark.parametrize("unsigned", slow_but_first([False, True]))
@pytest.mark.parametrize("bits", slow_but_first([8, 4]))
@pytest.mark.parametrize("shape", slow_but_first(["relu", *(name for name in ACTIVATIONS if name != "relu")]))
def test_entropy_keeps_the_bins_that_nvidias_toolkit_keeps(shape, bits, unsigned, rng):
    values = ACTIVATIONS[shape](rng, 20000).astype(F32)
    if unsigned:
        values = np.abs(values)
    result = observed("entropy", values, bits=bits, symmetric=not unsigned).compute()
    state = state_of(values)
    folded = Counter(dict.fromkeys(range(2), 0))
    shift = 0
    while max(-1 - state.first, state.first + len(state.counts) - 1) >> shift >= 2048:
        shift += 1
    for i, count in enumerate(state.counts, state.first):
        folded[(i if i >= 0 else -1 - i) >> shift] += count
    counts = np.array([folded[i] for i in range(max(folded) + 1)])
    _, divergences = nvidia_entropy.bins_kept(counts, bits, unsigned=unsigned)
    first = nvidia_entropy.START_BIN
    for i in range(first, len(counts)):
        if np.count_nonzero(counts[:i]) < 2:  # a single bin agrees with itself, although all the rest is clipped
            divergences[i - first] = math.inf
    kept = first + len(divergences) - 1 - int(np.argmin(divergences[::-1]))
    width = state.width * 2**shift
    threshold = max(-result.clip_min, result.clip_max)
    ours = len(counts) if threshold == np.abs(values).max() else round(threshold / width + 0.5)
    # Sums are rounded, so that a tie may go either way.
    assert divergences[ours - first] == pytest.approx(divergences[kept - first], rel=1e-9, abs=1e-12)
    assert abs(ours - kept) <= 1


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("n", [20000, pytest.param(1000000, marks=pytest.mark.slow)])
def test_zeros_do_not_dominate_entropy(n, symmetric, rng):
    values = np.maximum(rng.standard_normal(n), 0).astype(F32)
    result = observed("entropy", values, symmetric=symmetric).compute()
    assert result.clip_max > 0.5 * values.max()
    decoded = dequantize_with_params(quantize_with_params(values, result.params), result.params)
    assert quantization_mse(values, decoded) < 1e-3 * float(np.square(values).mean())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("symmetric", "narrow"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("shape", ["normal", "heavy", "shifted", "negative", "a constant", "spike"])
def test_mse_is_no_worse_than_min_max(bits, symmetric, narrow, shape, rng):
    values = SHAPES[shape](rng).astype(F32)
    state = state_of(values)

    def error(low: float, high: float) -> float:
        return reference.expected_error(
            state.counts, state.first, state.width, low, high, bits, symmetric=symmetric, narrow=narrow
        )

    result = observed("mse", values, bits=bits, symmetric=symmetric, narrow_range=narrow).compute()
    found, plain = error(result.clip_min, result.clip_max), error(state.minimum, state.maximum)
    assert found <= plain * (1 + 1e-6)
    if symmetric:
        largest = max(-state.minimum, state.maximum)
        for t in rng.uniform(0, largest, 12):
            assert found <= error(max(state.minimum, -t), min(state.maximum, t)) * 1.01
    if shape == "normal" and bits == 2:
        assert found < plain * 0.7


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_asymmetric_mse_is_no_local_minimum(bits):
    values = np.random.default_rng(1).laplace(size=4000).astype(np.float32)
    calibrator = Calibrator.mse(bits, symmetric=False)
    calibrator.observe(values)

    def error(params):
        return quantization_mse(values, dequantize_with_params(quantize_with_params(values, params), params))

    lows, highs = np.meshgrid(np.linspace(values.min(), -0.1, 24), np.linspace(0.1, values.max(), 24))
    ends = np.stack([lows.ravel(), highs.ravel()], axis=1)
    of_grid = min(error(calibrate_per_tensor(pair.astype(np.float32), bits, QuantMode.ASYMMETRIC)) for pair in ends)
    assert error(calibrator.compute().params) <= 1.002 * of_grid

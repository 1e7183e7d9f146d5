"""Error statistics, bounds and comparisons against figures worked out by hand, the definition, and the theory."""

import dataclasses
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    QuantMode,
    analyze_error,
    analyze_outlier_impact,
    calibrate_per_channel,
    calibrate_per_group,
    calibrate_per_tensor,
    compare_bit_widths,
    dequantize,
    dequantize_4bit,
    dequantize_with_params,
    error_stats,
    error_within_bounds,
    quantization_mse,
    quantize,
    quantize_4bit,
    quantize_with_params,
    scale_sensitivity,
    sqnr_db,
    theoretical_max_error,
    theoretical_sqnr,
)
from quantcore.errors import InvalidTypeError, InvalidValueError, QuantcoreError
from tests.support import reference_errors


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("decibels", [0, 10, 20, 60])
def test_a_factor_of_ten_in_the_error_is_20_db(decibels):
    x = normal(100)
    assert sqnr_db(x, x * (1 + 10 ** (-decibels / 20))) == pytest.approx(decibels, abs=1e-9)


def test_known_figures():
    assert sqnr_db([3.0, 4.0], [3.0, 5.0]) == pytest.approx(10 * math.log10(25))
    assert sqnr_db([1.0], [0.0]) == 0
    assert sqnr_db([1.0], [-1.0]) == pytest.approx(-6.0206, abs=1e-4)


def test_definition():
    x = normal(1000).astype(np.float32)
    y = (x + 0.01 * normal(1000, seed=1)).astype(np.float32)
    signal = math.fsum(float(v) ** 2 for v in x)
    noise = math.fsum((float(v) - float(w)) ** 2 for v, w in zip(x, y, strict=True))
    assert sqnr_db(x, y) == pytest.approx(10 * math.log10(signal / noise), rel=1e-12)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-20, 2.0**20, 2.0**60])
def test_scale_does_not_count(scale):
    x = normal(1000).astype(np.float32)
    y = x + np.float32(2**-8) * normal(1000, seed=1).astype(np.float32)
    assert sqnr_db(x * np.float32(scale), y * np.float32(scale)) == pytest.approx(sqnr_db(x, y), abs=1e-9)


def test_sums_do_not_lose_small_errors_in_float32():
    x = np.full(1 << 20, 1.0, np.float32)
    y = x + np.float32(2**-23)
    assert sqnr_db(x, y) == pytest.approx(20 * math.log10(2**23), abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_dtypes(dtype):
    x = normal(64).astype(dtype)
    y = (x * dtype(1.25)).astype(dtype)
    expected = sqnr_db(x.astype(np.float64), y.astype(np.float64))
    assert sqnr_db(x, y) == expected and 11 < expected < 13


def test_perfect_reconstruction():
    x = normal(10)
    assert sqnr_db(x, x.copy()) == math.inf
    assert sqnr_db(x * 1e-30, x * 1e-30) == math.inf


def test_signal_of_zeros():
    zeros = np.zeros((2, 3), np.float32)
    assert sqnr_db(zeros, zeros) == math.inf
    assert sqnr_db(zeros, -zeros) == math.inf
    assert sqnr_db(zeros, zeros + 1) == -math.inf


def test_zeros_for_a_signal_are_0_db():
    assert sqnr_db(normal(10), np.zeros(10)) == 0


def test_tiny_weights_are_not_perfect():
    x = normal(100).astype(np.float32) * np.float32(1e-15)
    assert sqnr_db(x, x * np.float32(1.1)) == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (3, 2, 1)])
def test_shapes_that_differ_are_refused(shape):
    with pytest.raises(InvalidValueError, match=r"reconstructed: .*\(3, 2\)") as caught:
        sqnr_db(np.zeros((3, 2)), np.zeros(shape))
    assert str(shape) in str(caught.value)
    assert isinstance(caught.value, QuantcoreError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_nothing_to_compare_is_refused(shape):
    with pytest.raises(InvalidValueError, match="original: must not be empty"):
        sqnr_db(np.zeros(shape), np.zeros(shape))


# Statistics


@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([(7,), (3, 50), (2, 3, 400)]), exponent=st.floats(-6, 3))
def test_statistics_are_those_of_the_definition(seed, shape, exponent):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * 10**exponent).astype(np.float32)
    params = calibrate_per_tensor(x, 4, QuantMode.ASYMMETRIC)
    y = dequantize_with_params(quantize_with_params(x, params), params)
    threshold = float(params.scales[0]) / 4
    expected = reference_errors.stats(x, y, threshold)
    stats = error_stats(x, y, outlier_threshold=threshold)
    assert stats == analyze_error(x, params, threshold)
    assert (stats.num_samples, stats.outlier_rate) == (x.size, expected["outlier_rate"])
    assert stats.max_error == expected["max_error"]
    for name in ("mse", "mae", "sqnr_db", "cosine_similarity"):
        assert getattr(stats, name) == pytest.approx(expected[name], rel=1e-11), name
    assert stats.rmse == math.sqrt(stats.mse)
    assert error_stats(x, y).outlier_rate is None


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
def test_threads_are_asked_for_and_do_not_count(n_threads):
    x = normal(400_000)
    assert error_stats(x, x * 1.01, n_threads=n_threads) == error_stats(x, x * 1.01)
    params = calibrate_per_tensor(x)
    assert analyze_error(x, params, n_threads=n_threads) == analyze_error(x, params)
    with pytest.raises(InvalidValueError, match="n_threads"):
        error_stats(x, x, n_threads=0)


def test_analysis_of_nothing_is_refused():
    params = calibrate_per_tensor([1.0])
    for call in (
        lambda x: analyze_error(x, params),
        lambda x: error_stats(x, x),
        lambda x: scale_sensitivity(x, params, 0.1),
        compare_bit_widths,
        analyze_outlier_impact,
    ):
        with pytest.raises(InvalidValueError, match="must not be empty"):
            call(np.zeros(0, np.float32))


def test_figures_are_those_of_torch():
    torch = pytest.importorskip("torch")
    x = torch.linspace(-3, 2, 10_007, dtype=torch.float64)
    y = torch.round(x * 4) / 4
    stats = error_stats(x, y)
    assert stats.mse == pytest.approx(torch.nn.functional.mse_loss(y, x).item(), rel=1e-11)
    assert stats.mae == pytest.approx(torch.nn.functional.l1_loss(y, x).item(), rel=1e-11)
    assert stats.cosine_similarity == pytest.approx(torch.cosine_similarity(x, y, dim=0).item(), rel=1e-11)


# Known figures


GAUSSIAN = np.random.default_rng(1).standard_normal(1 << 20, dtype=np.float32)
UNIFORM = np.random.default_rng(2).uniform(-1, 1, 1 << 20).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "fmt", "decibels"),
    [(GAUSSIAN, "Q4_0", 21.3), (GAUSSIAN, "Q8_0", 45.4), (UNIFORM, "Q4_0", 23.7), (UNIFORM, "Q8_0", 48.5)],
    ids=["gaussian Q4_0", "gaussian Q8_0", "uniform Q4_0", "uniform Q8_0"],
)
def test_known_sqnr_of_block_formats(values, fmt, decibels):
    assert sqnr_db(values, dequantize(quantize(values, fmt), fmt)) == pytest.approx(decibels, abs=0.1)


def test_known_sqnr_of_nf4():
    restored = dequantize_4bit(quantize_4bit(GAUSSIAN, quant_type="nf4", block_size=64))
    assert sqnr_db(GAUSSIAN, restored) == pytest.approx(20.7, abs=0.1)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("mode", QuantMode)
def test_measured_sqnr_is_the_theoretical_one(bits, mode):
    """Of signals that fill the range: from the first code to the last there are fewer than 2**bits steps."""
    params = calibrate_per_tensor(UNIFORM, bits, mode)
    fewer = 20 * math.log10(2**bits / (params.quant_max - params.quant_min))
    assert analyze_error(UNIFORM, params).sqnr_db == pytest.approx(theoretical_sqnr(bits, "uniform") - fewer, abs=0.02)
    sine = np.sin(np.arange(100_000) * 0.1).astype(np.float32)
    measured = analyze_error(sine, calibrate_per_tensor(sine, bits, mode)).sqnr_db
    assert measured == pytest.approx(theoretical_sqnr(bits) - fewer, abs=2.5 * 2 ** (-bits / 2))


def test_theoretical_sqnr_is_the_textbooks():
    for bits in range(1, 65):
        assert theoretical_sqnr(bits) == pytest.approx(6.02 * bits + 1.76, abs=0.05)
        assert theoretical_sqnr(bits, "uniform") == pytest.approx(10 * math.log10(4**bits), rel=1e-12)
    assert theoretical_sqnr(8) - theoretical_sqnr(8, signal="uniform") == pytest.approx(10 * math.log10(1.5))


@pytest.mark.parametrize(
    ("bits", "signal"), [(0, "sine"), (65, "sine"), (8, "square"), (8, None), (8.0, "sine"), (True, "sine")]
)
def test_theoretical_sqnr_of_something_else_is_refused(bits, signal):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=r"^(bits|signal): expected"):
        theoretical_sqnr(bits, signal)


# Bounds


@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(2, 8),
    mode=st.sampled_from(QuantMode),
    offset=st.floats(-20, 20),
    exponent=st.floats(-30, 30),
)
def test_no_error_is_above_the_theoretical_one(seed, bits, mode, offset, exponent):
    rng = np.random.default_rng(seed)
    x = ((rng.standard_normal((8, 40)) + offset) * 10**exponent).astype(np.float32)
    for params in (
        calibrate_per_tensor(x, bits, mode),
        calibrate_per_channel(x, bits, mode),
        calibrate_per_group(x, 16, bits, mode),
    ):
        stats = analyze_error(x, params)
        bound = theoretical_max_error(params)
        assert stats.max_error <= bound <= float(params.scales.max()) * 0.501
        assert error_within_bounds(stats, params) and error_within_bounds(stats, params, 0.1)


def test_the_bound_is_reached():
    x = np.linspace(-1, 1, 100_001, dtype=np.float32)
    for mode in (QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC):
        params = calibrate_per_tensor(x, 4, mode)
        assert analyze_error(x, params).max_error > 0.999 * theoretical_max_error(params)


def test_values_outside_the_range_are_out_of_bounds():
    params = calibrate_per_tensor([1.0, -1.0], 4)
    stats = analyze_error([1.0, -1.1], params)
    assert stats.max_error == pytest.approx(0.1)
    bound = theoretical_max_error(params)
    assert not error_within_bounds(stats, params)
    assert not error_within_bounds(stats, params, 0.1 / bound - 1 - 1e-3)
    assert error_within_bounds(stats, params, 0.1 / bound - 1 + 1e-3)


def test_bounds_of_something_else_are_refused():
    params = calibrate_per_tensor([1.0])
    stats = analyze_error([1.0], params)
    with pytest.raises(InvalidTypeError, match=r"^params: expected a QuantParams, got float$"):
        theoretical_max_error(1.0)
    with pytest.raises(InvalidTypeError, match=r"^stats: expected a QuantErrorStats, got QuantParams$"):
        error_within_bounds(params, params)
    for tolerance in (-0.1, math.nan, math.inf, "1", True):
        with pytest.raises((InvalidValueError, InvalidTypeError), match=r"^tolerance: expected"):
            error_within_bounds(stats, params, tolerance)


# Scales, widths, outliers


def test_a_changed_scale_is_more_error():
    x = normal(10_000).astype(np.float32)
    params = calibrate_per_tensor(x, 8)
    for perturbation in (0.05, -0.05, 1.0):
        result = scale_sensitivity(x, params, perturbation)
        original, perturbed, sensitivity = result
        changed = dataclasses.replace(params, scales=params.scales * np.float32(1 + perturbation))
        restored = dequantize_with_params(quantize_with_params(x, changed), changed)
        assert original == result.original_mse == analyze_error(x, params).mse
        assert perturbed == result.perturbed_mse == pytest.approx(quantization_mse(x, restored), rel=1e-5)
        assert sensitivity == result.sensitivity == pytest.approx((perturbed / original - 1) / abs(perturbation))
        assert (sensitivity > 0) == (perturbation > 0), "a normal distribution has fewer values at the ends"
    assert scale_sensitivity(np.zeros(3, np.float32), params, 0.1) == (0, 0, 0)
    assert scale_sensitivity([127.0], calibrate_per_tensor([127.0]), 0.001).sensitivity == math.inf


@pytest.mark.parametrize("perturbation", [0, -1, -2.0, math.nan, math.inf, 1e42, "1", None, True])
def test_perturbations_that_are_none_are_refused(perturbation):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=r"^(perturbation|scales): "):
        scale_sensitivity([1.0], calibrate_per_tensor([1.0]), perturbation)


def test_more_bits_are_less_error():
    x = normal(10_000).astype(np.float32)
    result = compare_bit_widths(x)
    mse_4bit, mse_8bit, improvement = result
    assert mse_4bit == result.mse_4bit == analyze_error(x, calibrate_per_tensor(x, 4)).mse
    assert mse_8bit == result.mse_8bit == analyze_error(x, calibrate_per_tensor(x, 8)).mse
    assert improvement == result.improvement == mse_4bit / mse_8bit
    assert improvement == pytest.approx((127 / 7) ** 2, rel=0.05)
    assert compare_bit_widths(np.zeros(3, np.float32)) == (0, 0, 1)


def test_outliers_cost_the_others():
    x = normal(10_000).astype(np.float32)
    x[7] = -1000
    result = analyze_outlier_impact(x, 99.9)
    original, clipped, impact = result
    assert original == result.original_mse == analyze_error(x, calibrate_per_tensor(x)).mse
    limit = np.percentile(np.abs(x), 99.9)
    params = calibrate_per_tensor(np.array([limit], np.float32))
    assert clipped == result.clipped_mse == analyze_error(x, params).mse
    assert clipped > (1000 - limit) ** 2 / x.size, "the outlier's own error counts in full"
    assert impact == result.outlier_impact == original / clipped < 1
    x[7] = -10  # at 2 bits it pays to give it up
    assert analyze_outlier_impact(x, 99, bits=2).outlier_impact > 1.5
    assert analyze_outlier_impact(x, 100) == (analyze_error(x, calibrate_per_tensor(x)).mse,) * 2 + (1,)


@pytest.mark.parametrize("percentile", [0, -1, 100.1, math.nan, math.inf, "99", None, True])
def test_percentiles_that_are_none_are_refused(percentile):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=r"^percentile: expected"):
        analyze_outlier_impact([1.0], percentile)


def test_messages_name_the_parameter():
    params = calibrate_per_tensor([1.0])
    for call in (
        lambda x: scale_sensitivity(x, params, 0.1),
        compare_bit_widths,
        analyze_outlier_impact,
    ):
        with pytest.raises(InvalidValueError, match=r"^values: must be finite, got nan at flat index 1$"):
            call(np.array([1.0, np.nan], np.float32))
    with pytest.raises(InvalidValueError, match=r"^original: must be finite, got nan at flat index 1$"):
        analyze_error(np.array([1.0, np.nan], np.float32), params)

"""`ErrorSums`: the oracle's figures, bit for bit the same for any threads, slabs and way of reconstruction."""

import dataclasses
import itertools
import math
import pickle

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    ErrorSums,
    QuantGranularity,
    QuantMode,
    calibrate_per_channel,
    calibrate_per_group,
    calibrate_per_tensor,
    dequantize_with_params,
    quantize_with_params,
)
from quantcore.analysis.stats import QuantErrorStats
from quantcore.analysis.sums import CHUNK_ELEMENTS
from quantcore.errors import InvalidTypeError, InvalidValueError
from tests.conftest import SEED
from tests.support import reference_errors
from tests.support.contract import DISTRIBUTIONS
from tests.support.levels import at_level, differences, every_other_level

F32 = np.float32
DTYPES = {"float32": F32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}
THREADED = 9 * CHUNK_ELEMENTS + 1234  # elements: more than what runs inline at every dtype, and a short last chunk
GRANULARITIES = ("tensor", "channel 0", "channel 1", "channel 2", "group 1", "group 7", "group 32")


def sums_of(original, reconstructed, *, threshold=None, n_threads=None) -> ErrorSums:
    sums = ErrorSums(threshold)
    sums.add(original, reconstructed, n_threads=n_threads)
    return sums


def affine_sums_of(original, params, *, threshold=None, n_threads=None) -> ErrorSums:
    sums = ErrorSums(threshold)
    sums.add_affine(original, params, n_threads=n_threads)
    return sums


def assert_near(stats: QuantErrorStats, expected: dict, rel: float = 1e-11) -> None:
    for name, figure in dataclasses.asdict(stats).items():
        if name == "sqnr_db":
            assert figure == pytest.approx(expected[name], abs=1e-9)
        elif name in ("num_samples", "outlier_rate", "max_error"):
            assert figure == expected[name], name
        else:
            assert figure == pytest.approx(expected[name], rel=rel, abs=1e-13 if name == "cosine_similarity" else 0)


def params_for(values: np.ndarray, granularity: str, bits: int, mode: QuantMode):
    kind, _, number = granularity.partition(" ")
    if kind == "tensor":
        return calibrate_per_tensor(values, bits, mode)
    if kind == "channel":
        return calibrate_per_channel(values, bits, mode, axis=int(number))
    return calibrate_per_group(values, int(number), bits, mode)


# Pairs


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 5000) | st.integers(CHUNK_ELEMENTS - 130, CHUNK_ELEMENTS + 130),
    dtypes=st.tuples(st.sampled_from(list(DTYPES)), st.sampled_from(list(DTYPES))),
    exponent=st.floats(-6, 3),
    error=st.sampled_from([0.0, 1e-7, 1e-3, 1.0, 1e3]),
    threshold=st.none() | st.sampled_from([0.0, 1e-4, 1.0]),
)
def test_figures_are_those_of_the_definition(seed, n, dtypes, exponent, error, threshold):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(n) * 10**exponent).astype(DTYPES[dtypes[0]])
    noise = rng.standard_normal(n) * error * 10**exponent
    y = np.clip(x.astype(np.float64) + noise, -6e4, 6e4).astype(DTYPES[dtypes[1]])
    assert_near(sums_of(x, y, threshold=threshold).stats(), reference_errors.stats(x, y, threshold))


@pytest.mark.parametrize("n", [1, 31, 32, 33, 127, 128, 129, 2047, 2048, 2049, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1])
def test_every_element_is_counted_once(n):
    ones, zeros = np.ones(n, F32), np.zeros(n, F32)
    sums = sums_of(ones, zeros, threshold=0.5)
    assert (sums.num_samples, sums.signal, sums.noise, sums.magnitude, sums.outliers) == (n, n, n, n, n)
    assert (sums.reconstructed, sums.product, sums.max_error) == (0, 0, 1)


def test_the_threshold_itself_is_no_outlier():
    x = np.array([0.0, 0.5, 0.75, -0.5, -0.75], F32)
    assert sums_of(x, np.zeros(5, F32), threshold=0.5).outliers == 2
    assert sums_of(x, np.zeros(5, F32), threshold=0).outliers == 4
    assert sums_of(x, x, threshold=0).outliers == 0


def test_the_largest_error_is_found_wherever_it_is(rng):
    x = rng.standard_normal(3000).astype(F32)
    for place in [0, 1, 31, 32, 127, 128, 2047, 2048, 2999, *rng.integers(0, 3000, 20)]:
        y = x.copy()
        y[place] -= F32(100)
        assert sums_of(x, y).max_error == float(x[place]) - float(y[place])


def test_differences_are_taken_in_float64():
    x = np.array([1 + 2**-23, 1e8], F32)
    y = np.array([2.0**-30, 1.0], F32)
    sums = sums_of(x, y)
    assert sums.max_error == 1e8 - 1 and sums.magnitude == (1 + 2**-23 - 2**-30) + (1e8 - 1)
    wide = np.array([1.0, 2.0])
    assert sums_of(wide, wide + 2.0**-50).max_error == 2.0**-50


def test_small_errors_are_not_lost_beside_large_values():
    n = 1 << 20
    x = np.full(n, 1.0, F32)
    y = x + np.float32(2**-23)
    stats = sums_of(x, y).stats()
    assert stats.mse == 2.0**-46 and stats.mae == 2.0**-23 and stats.sqnr_db == pytest.approx(460 * math.log10(2))


# Threads and slabs


@pytest.mark.slow
def test_threads_do_not_change_a_bit(rng):
    x = rng.standard_normal(THREADED).astype(F32)
    params = calibrate_per_tensor(x, 4, QuantMode.ASYMMETRIC)
    columns = calibrate_per_channel(x[: THREADED // 4 * 4].reshape(-1, 4), 4, axis=1)
    for dtype in DTYPES.values():
        y = (x * F32(1.01)).astype(dtype)
        pairs = [sums_of(x, y, threshold=0.01, n_threads=n) for n in range(1, 9)]
        assert all(sums == pairs[0] for sums in pairs)
        values = x.astype(dtype)
        affine = [affine_sums_of(values, params, threshold=0.1, n_threads=n) for n in range(1, 9)]
        assert all(sums == affine[0] for sums in affine)
        rows = values[: THREADED // 4 * 4].reshape(-1, 4)
        affine = [affine_sums_of(rows, columns, n_threads=n) for n in (1, 2, 5)]
        assert all(sums == affine[0] for sums in affine)
        assert_near(pairs[0].stats(), reference_errors.stats(x, y, 0.01))


def figures(seed: int) -> dict[str, list[float]]:
    """Every sum that a level might compute differently, by name."""
    rng = np.random.default_rng(seed)
    results = {}
    x = DISTRIBUTIONS["gaussian"](rng, 2 * CHUNK_ELEMENTS + 99)
    y = x + DISTRIBUTIONS["cauchy"](rng, x.size).reshape(x.shape) * F32(1e-3)
    for names in itertools.product(DTYPES, DTYPES):
        pair = [np.clip(a, -6e4, 6e4).astype(DTYPES[name]) for a, name in zip((x, y), names, strict=True)]
        results[" and ".join(names)] = list(dataclasses.astuple(sums_of(*pair, threshold=1e-3)))
    for kind in ("gaussian", "half integers", "log-uniform scales", "subnormal scales"):
        values = DISTRIBUTIONS[kind](rng, 70_000).reshape(70, 50, 20)
        for granularity, mode in itertools.product(GRANULARITIES, QuantMode):
            sums = affine_sums_of(values, params_for(values, granularity, 4, mode), threshold=0.1)
            results[f"{kind} {granularity} {mode}"] = list(dataclasses.astuple(sums))
    return results


@pytest.mark.slow
@every_other_level
def test_levels_do_not_change_a_bit(level):
    assert differences(at_level(level, figures, SEED), figures(SEED)) == set(), f"QUANTCORE_TEST_SEED={SEED}"


@pytest.mark.parametrize("slabs", [(1,), (4, 5), (1, 1, 1, 1, 1, 1, 1, 1, 1), (8, 1)])
def test_slabs_of_whole_chunks_are_exactly_the_whole(rng, slabs):
    x = rng.standard_normal(THREADED).astype(F32)
    y = (x + rng.standard_normal(THREADED).astype(F32) * F32(0.01)).astype(np.float16)
    streamed = ErrorSums(0.01)
    stops = [*np.cumsum(slabs) * CHUNK_ELEMENTS, THREADED]
    for start, stop in zip([0, *stops], stops, strict=False):
        streamed.add(x[start:stop], y[start:stop])
    assert streamed == sums_of(x, y, threshold=0.01)


def test_slabs_of_any_size_agree_to_rounding(rng):
    x = rng.standard_normal(100_000).astype(F32)
    y = x + rng.standard_normal(100_000).astype(F32) * F32(0.01)
    streamed = ErrorSums(0.01)
    for start in range(0, 100_000, 777):
        streamed.add(x[start : start + 777], y[start : start + 777])
    assert_near(streamed.stats(), dataclasses.asdict(sums_of(x, y, threshold=0.01).stats()))


def test_records_are_merged(rng):
    x = rng.standard_normal((2, CHUNK_ELEMENTS)).astype(F32)
    y = x + rng.standard_normal(x.shape).astype(F32) * F32(0.01)
    total = sums_of(x[0], y[0], threshold=0.02)
    total.merge(sums_of(x[1], y[1], threshold=0.02))
    assert total == sums_of(x, y, threshold=0.02)
    total.merge(ErrorSums(0.02))
    assert total == sums_of(x, y, threshold=0.02)
    with pytest.raises(InvalidValueError, match=r"^other: expected the outlier_threshold 0\.02, got None$"):
        total.merge(ErrorSums())
    with pytest.raises(InvalidTypeError, match=r"^other: expected an ErrorSums, got float$"):
        total.merge(1.0)


def test_empty_slabs_add_nothing():
    sums = sums_of(np.ones(3, F32), np.zeros(3, F32))
    before = dataclasses.replace(sums)
    sums.add(np.ones((0, 3), F32), np.ones((0, 3)))
    sums.add_affine(np.ones((2, 0), F32), calibrate_per_tensor(np.ones(1, F32)))
    assert sums == sums_of(np.ones(3, F32), np.zeros(3, F32)) and sums.num_samples == 3
    assert before.num_samples == 0, "a copy by replace begins anew"


# Values that their affine codes give back


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("shape", [(3, 5, 7), (40, 50, 60), (2, 3, 30_000), (3000, 17, 2)])
def test_affine_is_exactly_quantize_then_dequantize(rng, granularity, shape):
    scales = 10.0 ** rng.uniform(-3, 3, (shape[0], 1, 1))
    for dtype in DTYPES.values():
        values = np.clip(rng.standard_normal(shape) * scales + 0.1, -6e4, 6e4).astype(dtype)
        for bits, mode in [(2, QuantMode.ASYMMETRIC), (4, QuantMode.SYMMETRIC), (8, QuantMode.ASYMMETRIC)]:
            params = params_for(values, granularity, bits, mode)
            restored = dequantize_with_params(quantize_with_params(values, params), params)
            sums = affine_sums_of(values, params, threshold=0.01)
            assert sums == sums_of(values, restored, threshold=0.01)
            assert sums.noise > 0 or granularity == "group 1"


def test_affine_with_values_that_saturate(rng):
    values = rng.standard_normal(5000).astype(F32)
    for mode in (QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC):
        params = calibrate_per_tensor(values / 3, 5, mode)
        restored = dequantize_with_params(quantize_with_params(values, params), params)
        assert affine_sums_of(values, params) == sums_of(values, restored)
        assert affine_sums_of(values, params).max_error > 10 * params.scales[0]


def test_affine_of_float64_is_compared_with_the_float64_values():
    values = np.array([1.0, 1.0 + 2.0**-40])
    params = calibrate_per_tensor(np.array([127.0], F32))
    assert affine_sums_of(values, params).max_error == 2.0**-40


def test_codes_that_overflow_are_refused():
    largest = np.finfo(F32).max
    params = calibrate_per_tensor(np.array([largest], F32), 3)
    params = dataclasses.replace(params, scales=params.scales * F32(1.001))
    with pytest.raises(InvalidValueError, match=r"^params: a scale of 1\.13\d*e\+38 takes codes beyond"):
        affine_sums_of(np.array([1.0, largest], F32), params)
    assert affine_sums_of(np.array([1.0, largest / 3], F32), params).num_samples == 2


@pytest.mark.parametrize("shape", [(4,), (2, 3), (3, 1)])
def test_params_of_another_shape_are_refused(shape):
    params = calibrate_per_channel(np.ones((5, 2), F32))
    with pytest.raises(InvalidValueError, match=r"^params: 5 scales per_channel, but original of shape"):
        affine_sums_of(np.ones(shape, F32), params)


# Refusals


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_what_is_not_finite_is_named_and_nothing_added(bad, dtype):
    good = np.ones(CHUNK_ELEMENTS * 2, dtype)
    broken = good.copy()
    broken[CHUNK_ELEMENTS + 5 :: 100] = bad
    sums = sums_of(good, good)
    named = [("original", broken, good), ("reconstructed", good, broken), ("original", broken, broken)]
    for name, x, y in named:
        message = rf"^{name}: must be finite, got {bad} at flat index {3 * CHUNK_ELEMENTS + 5}$"
        with pytest.raises(InvalidValueError, match=message):
            sums.add(x, y)
    message = rf"^w: must be finite, got {bad} at flat index {CHUNK_ELEMENTS + 5}$"
    with pytest.raises(InvalidValueError, match=message):
        sums.add_affine(broken, calibrate_per_tensor(np.ones(1, F32)), name="w")
    assert sums == sums_of(good, good)


def test_float64_that_cannot_be_squared_is_refused():
    ones = np.ones(3)
    with pytest.raises(InvalidValueError, match=r"^original, y: squares overflow float64 from flat index 0 on$"):
        ErrorSums().add(ones * 1e200, ones, name="y")
    with pytest.raises(InvalidValueError, match=r"^original: differences up to 1e-200 have no squares in float64$"):
        sums_of(ones * 1e-200, ones * 0).stats()
    with pytest.raises(InvalidValueError, match=r"^original: 1e\+40 at flat index 1 is beyond the range of float32"):
        affine_sums_of(np.array([1.0, 1e40]), calibrate_per_tensor(np.ones(1, F32)))
    assert sums_of(ones * 1e100, ones * 0).stats().mse == pytest.approx(1e200)


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((3,), (3, 1)), ((2, 3), (3, 2)), ((2,), ())])
def test_shapes_that_differ_are_refused(shapes):
    with pytest.raises(InvalidValueError, match=r"^w: "):
        ErrorSums().add(np.ones(shapes[0]), np.ones(shapes[1]), name="w")


@pytest.mark.parametrize("wrong", [np.ones(2, int), np.ones(2, complex), np.array(["a", "b"]), np.ma.ones(2), None])
def test_what_is_no_float_array_is_refused(wrong):
    with pytest.raises(InvalidTypeError, match=r"^original: "):
        ErrorSums().add(wrong, np.ones(2))
    with pytest.raises(InvalidTypeError, match=r"^reconstructed: "):
        ErrorSums().add(np.ones(2), wrong)
    with pytest.raises(InvalidTypeError, match=r"^original: "):
        ErrorSums().add_affine(wrong, calibrate_per_tensor(np.ones(1, F32)))


def test_params_that_are_none_are_refused():
    for wrong in (None, 1.0, QuantGranularity()):
        with pytest.raises(InvalidTypeError, match=r"^params: expected a QuantParams, got"):
            ErrorSums().add_affine(np.ones(2), wrong)


@pytest.mark.parametrize("threshold", [-1e-9, math.nan, math.inf, "1", True])
def test_thresholds_that_are_none_are_refused(threshold):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=r"^outlier_threshold: expected"):
        ErrorSums(threshold)


def test_statistics_of_nothing_are_refused():
    with pytest.raises(InvalidValueError, match=r"^original: must not be empty$"):
        ErrorSums().stats()


# The records


def test_signal_of_zeros():
    zeros, ones = np.zeros(3, F32), np.ones(3, F32)
    assert dataclasses.astuple(sums_of(zeros, zeros).stats()) == (0, 0, 0, math.inf, None, 3, 1)
    assert dataclasses.astuple(sums_of(zeros, ones).stats()) == (1, 1, 1, -math.inf, None, 3, 0)
    assert dataclasses.astuple(sums_of(ones, zeros).stats()) == (1, 1, 1, 0, None, 3, 0)
    assert dataclasses.astuple(sums_of(ones, -ones).stats())[3:] == (pytest.approx(-6.0206, abs=1e-4), None, 3, -1)


def test_cosine_never_leaves_its_range(rng):
    for n in range(1, 200):
        x = rng.standard_normal(n)
        assert sums_of(x, x * 3).stats().cosine_similarity <= 1
        assert sums_of(x, x * -3).stats().cosine_similarity >= -1


def test_records_are_frozen_and_can_be_pickled():
    sums = sums_of([1.0, 2.0], [1.0, 2.5], threshold=0.1)
    stats = sums.stats()
    assert pickle.loads(pickle.dumps(sums)) == sums and pickle.loads(pickle.dumps(stats)) == stats
    assert stats.rmse == math.sqrt(0.125) and stats.outlier_rate == 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.mse = 0.0


def test_torch_tensors_are_taken(torch):
    x = torch.linspace(-1, 1, 1000).bfloat16()
    y = x.float() + 0.25
    assert sums_of(x, y).stats().mse == 0.0625
    assert sums_of(x.float().numpy(), y.numpy()) == sums_of(x, y)

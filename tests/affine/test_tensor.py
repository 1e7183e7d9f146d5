"""Affine codes: equal to the definition's and torch's for any sharing of scales, on any CPU level and threads."""

import zlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    InvalidTypeError,
    InvalidValueError,
    QuantGranularity,
    QuantizedTensor,
    QuantMode,
    QuantParams,
    _kernels,
    calibrate_per_channel,
    calibrate_per_tensor,
    dequantize_tensor,
    dequantize_with_params,
    quantize_tensor,
    quantize_with_params,
)
from tests.conftest import SEED
from tests.support import reference_affine
from tests.support.affine_cases import (
    ASYMMETRIC,
    CHANNEL,
    F32,
    GROUP,
    INPUT_DTYPES,
    SHAPES,
    SYMMETRIC,
    TENSOR,
    THREADED,
    any_params,
    every_bits,
    every_mode,
    every_threaded,
    granularities,
    ignores_deprecation,
    of,
    parts,
)
from tests.support.contract import DISTRIBUTIONS, assert_same_floats
from tests.support.levels import at_level, differences, every_other_level
from tests.support.marks import slow_but_first

OUTPUT_DTYPES = INPUT_DTYPES[:3]


def assert_equals_reference(values: np.ndarray, params: QuantParams, **kwargs: Any) -> None:
    """Codes, and the values of those codes."""
    sharing = parts(values.shape, params.granularity)
    codes = quantize_with_params(values, params, **kwargs)
    assert (codes.dtype, codes.shape) == (params.code_dtype, values.shape)
    np.testing.assert_array_equal(codes, reference_affine.quantize(values.astype(F32), sharing, of(params)))
    decoded = dequantize_with_params(codes, params, **kwargs)
    assert decoded.shape == values.shape
    with np.errstate(over="ignore"):
        assert_same_floats(decoded, reference_affine.dequantize(codes, sharing, of(params)))


# Equal to the definition


@every_mode
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_granularity_of_any_shape_equals_reference(shape, mode, rng):
    values = rng.standard_normal(shape, dtype=F32)
    for granularity in granularities(shape):
        if granularity.sharing(shape).n_scales > 1500:
            continue  # the reference takes one after the other
        assert_equals_reference(values, any_params(rng, shape, granularity, mode))


@every_bits
@every_mode
@pytest.mark.parametrize("granularity", [TENSOR, CHANNEL(0), CHANNEL(1), GROUP(20)], ids=repr)
def test_calibrated_codes_equal_reference(granularity, mode, bits, rng):
    values = (rng.standard_normal((30, 70)) * 10.0 ** rng.uniform(-30, 30, (30, 1))).astype(F32)
    q = quantize_tensor(values, granularity, mode, bits)
    assert (q.params.granularity, q.params.mode, q.params.bits) == (granularity, mode, bits)
    assert_equals_reference(values, q.params)
    np.testing.assert_array_equal(q.data, quantize_with_params(values, q.params))
    np.testing.assert_array_equal(q.dequantize(), dequantize_with_params(q.data, q.params))
    np.testing.assert_array_equal(dequantize_tensor(q), q.dequantize())


@given(
    kind=st.sampled_from(list(DISTRIBUTIONS)),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-140, 120),
    shape=st.sampled_from([(130,), (5, 64), (65, 4), (3, 5, 11)]),
    granularity=st.sampled_from([TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(16), GROUP(64)]),
    mode=st.sampled_from([QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC]),
    bits=st.integers(2, 8),
)
def test_equals_reference(kind, seed, exponent, shape, granularity, mode, bits):
    """With any scale, values beyond the codes are clipped, even if the product overflows float32."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        values = np.ldexp(DISTRIBUTIONS[kind](rng, int(np.prod(shape))), exponent).reshape(shape)
    values[~np.isfinite(values)] = 0
    exponents = (max(exponent - 6, -125), max(exponent + 4, -120))
    assert_equals_reference(values, any_params(rng, shape, granularity, mode, bits, exponents))
    assert_equals_reference(values, any_params(rng, shape, granularity, mode, bits, (-125, 125)))


@pytest.mark.parametrize("edge", [2.0**-149, 1e-40, 2.0**-126, 1e-30, 1e30, 3e38, float(np.finfo(F32).max)])
@every_mode
def test_edges_equal_reference(mode, edge):
    values = np.array([[0.0, -0.0, edge], [edge, edge, edge], [-edge, edge / 2, edge / 3]], F32)
    for granularity in granularities(values.shape):
        for bits in (2, 4, 8):
            params = quantize_tensor(values, granularity, mode, bits).params
            assert_equals_reference(values, params)


@every_mode
def test_halves_go_to_the_even_code(mode):
    values = np.array([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5], F32)
    zero_point = 101 if mode is ASYMMETRIC else 0
    limits = (0, 255) if mode is ASYMMETRIC else (-128, 127)
    params = QuantParams(np.ones(1, F32), np.array([zero_point], np.int32), TENSOR, mode, 8, *limits)
    codes = quantize_with_params(values, params).astype(int) - zero_point  # even before the zero point is added
    assert codes.tolist() == [-4, -2, -2, 0, 0, 2, 2, 4]


@every_mode
def test_codes_end_where_the_parameters_say(mode):
    values = np.array([-1e30, -10, -3, 0, 3, 5, 6, 1e30], F32)
    zero_point, low, high = (2, 1, 7) if mode is ASYMMETRIC else (0, -3, 5)
    params = QuantParams(np.ones(1, F32), np.array([zero_point], np.int32), TENSOR, mode, 8, low, high)
    steps = quantize_with_params(values, params).astype(int) - zero_point
    assert steps.tolist() == ([-1, -1, -1, 0, 3, 5, 5, 5] if mode is ASYMMETRIC else [-3, -3, -3, 0, 3, 5, 5, 5])


@pytest.mark.parametrize("shape", [(5,), (64,), (40, 3)])
def test_zero_is_the_zero_point_even_if_the_inverse_scale_overflows(shape, rng):
    for granularity in (TENSOR, CHANNEL(-1)):
        params = any_params(rng, shape, granularity, exponents=(-149, -130))
        codes = quantize_with_params(np.zeros(shape, F32), params)
        np.testing.assert_array_equal(codes, np.broadcast_to(params.zero_points.astype(np.uint8), shape))


@every_bits
@every_mode
@pytest.mark.parametrize("granularity", [TENSOR, CHANNEL(0), CHANNEL(1), GROUP(32), GROUP(33)], ids=repr)
def test_calibrated_values_come_back_within_half_a_step(granularity, mode, bits, rng):
    """The zero point is rounded too, but the end of the codes that it moves is at most half a step away."""
    for values in (
        rng.standard_normal((40, 90)),
        rng.uniform(3, 4, (40, 90)),
        rng.uniform(-9, 1, (40, 90)),
        np.full((40, 90), -2.7),
        rng.standard_normal((40, 90)) * 1e30,
        rng.standard_normal((40, 90)) * 1e-30,
        rng.standard_normal((40, 90)) * 1e-42,
    ):
        values = values.astype(F32)
        q = quantize_tensor(values, granularity, mode, bits)
        error = np.abs(values.astype(float) - q.dequantize())
        for part, scale in zip(parts(values.shape, granularity), q.params.scales.astype(float), strict=True):
            assert error.reshape(-1)[part].max() <= scale * (0.5 + 255 * 2.0**-22)


# Dtypes, memory layouts, out


@every_mode
@pytest.mark.parametrize("dtype", INPUT_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(130,), (7, 3000), (3000, 7), (3, 70_000)], ids=str)
def test_other_dtypes_give_the_codes_of_float32(shape, dtype, mode, rng):
    values = rng.standard_normal(shape).astype(dtype)
    for granularity in (TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(100), GROUP(1500)):
        params = any_params(rng, shape, granularity, mode)
        codes = quantize_with_params(values.astype(F32), params)
        np.testing.assert_array_equal(quantize_with_params(values, params), codes)


@every_mode
@pytest.mark.parametrize("dtype", OUTPUT_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(130,), (7, 3000), (3000, 7), (3, 70_000)], ids=str)
def test_values_are_rounded_to_other_dtypes(shape, dtype, mode, rng):
    for granularity in (TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(100)):
        params = any_params(rng, shape, granularity, mode, exponents=(-20, 10))
        codes = rng.integers(0, 256, shape, dtype=np.uint8).view(params.code_dtype)
        exact = dequantize_with_params(codes, params)
        with np.errstate(over="ignore"):
            expected = exact.astype(dtype)
        assert_same_floats(dequantize_with_params(codes, params, dtype=dtype), expected)
        out = np.full(shape, 7, dtype)
        q = QuantizedTensor(codes, params, shape)
        assert q.dequantize(dtype=dtype, out=out) is out
        assert_same_floats(out, expected)
        out[...] = 7
        assert dequantize_tensor(q, dtype=dtype, out=out) is out
        assert_same_floats(out, expected)


def test_strided_and_foreign_arrays_are_taken_as_their_values(torch, rng):
    base = rng.standard_normal((30, 40)).astype(F32)
    for view in (base[::2, ::-3], base.T, base[:, 5:6], base.astype(">f4"), np.asfortranarray(base)):
        params = calibrate_per_channel(view, axis=1)
        codes = quantize_with_params(np.ascontiguousarray(view, F32), params)
        np.testing.assert_array_equal(quantize_with_params(view, params), codes)
        foreign = np.asfortranarray(codes)
        np.testing.assert_array_equal(dequantize_with_params(foreign, params), dequantize_with_params(codes, params))
    tensor = torch.tensor(base).bfloat16()
    as_float32 = tensor.float().numpy()
    params = calibrate_per_channel(tensor)
    assert params == calibrate_per_channel(as_float32)
    codes = quantize_with_params(tensor, params)
    np.testing.assert_array_equal(codes, quantize_with_params(as_float32, params))
    decoded = dequantize_with_params(torch.tensor(codes), params)
    np.testing.assert_array_equal(decoded, dequantize_with_params(codes, params))


@every_mode
def test_codes_into_out(mode, rng):
    values = rng.standard_normal((6, 50)).astype(F32)
    params = calibrate_per_channel(values, 8, mode)
    out = np.full(values.shape, 77, params.code_dtype)
    assert quantize_with_params(values, params, out=out) is out
    np.testing.assert_array_equal(out, quantize_with_params(values, params))


def test_out_that_does_not_fit_is_refused(rng):
    values = rng.standard_normal(64).astype(F32)
    params = calibrate_per_tensor(values)
    codes = quantize_with_params(values, params)
    read_only = np.zeros(64, np.int8)
    read_only.setflags(write=False)
    for out, message in [
        (np.zeros(64, np.uint8), "expected dtype int8, got uint8"),
        (np.zeros(63, np.int8), r"expected shape \(64,\), got \(63,\)"),
        (np.zeros((1, 64), np.int8), r"expected shape \(64,\), got \(1, 64\)"),
        (read_only, "is read-only"),
        (np.zeros(128, np.int8)[::2], "must be C-contiguous"),
        (values.view(np.int8)[100:164], "shares memory with the input"),
    ]:
        with pytest.raises(InvalidValueError, match=f"^out: {message}"):
            quantize_with_params(values, params, out=out)
    shared = np.zeros(256, np.int8)
    for codes_, out, message in [
        (codes, np.zeros(64, np.float64), "expected dtype float32, got float64"),
        (codes, np.zeros(65, F32), r"expected shape \(64,\), got \(65,\)"),
        (codes, np.zeros(128, F32)[::2], "must be C-contiguous"),
        (shared[:64], shared.view(F32), "shares memory with the input"),
    ]:
        with pytest.raises(InvalidValueError, match=f"^out: {message}"):
            dequantize_with_params(codes_, params, out=out)
    with pytest.raises(InvalidTypeError, match=r"^out: expected a numpy.ndarray, got list"):
        quantize_with_params(values, params, out=[0] * 64)


# Threads and CPU levels


@every_threaded
def test_threads_change_nothing(shape, granularity, rng):
    values = rng.standard_normal(shape, dtype=F32)
    params = any_params(rng, shape, granularity)
    codes = quantize_with_params(values, params, n_threads=1)
    decoded = dequantize_with_params(codes, params, n_threads=1)
    found = quantize_tensor(values, granularity, ASYMMETRIC, n_threads=1)
    for n_threads in range(2, 9):
        np.testing.assert_array_equal(quantize_with_params(values, params, n_threads=n_threads), codes)
        assert_same_floats(dequantize_with_params(codes, params, n_threads=n_threads), decoded)
    for n_threads in (2, 3, 8):
        assert quantize_tensor(values, granularity, ASYMMETRIC, n_threads=n_threads) == found


@pytest.mark.parametrize("name", slow_but_first(["long runs", "columns", "narrow columns", "large groups"]))
def test_large_arrays_equal_reference(name, rng):
    shape, granularity = THREADED[name]
    values = rng.standard_normal(shape, dtype=F32)
    assert_equals_reference(values, any_params(rng, shape, granularity), n_threads=2)
    found = quantize_tensor(values, granularity, ASYMMETRIC, n_threads=2).params
    expected = reference_affine.calibrate(values, parts(shape, granularity), 8, symmetric=False)
    np.testing.assert_array_equal(found.scales, expected.scales)
    np.testing.assert_array_equal(found.zero_points, expected.zero_points)


def digests(seed: int) -> dict[str, int]:
    """A checksum of every result that a level might compute differently, by name."""
    rng = np.random.default_rng(seed)
    results: dict[str, int] = {}
    for shape in ((20_003,), (40, 1003), (1003, 40), (3000, 3, 4), (2, 3, 1000)):
        for kind in ("gaussian", "half integers", "random bits", "zeros of both signs"):
            values = DISTRIBUTIONS[kind](rng, int(np.prod(shape))).reshape(shape)
            for granularity in (TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(48)):
                for mode in (QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC):
                    q = quantize_tensor(values, granularity, mode, 8 if kind == "gaussian" else 4)
                    name = f"{kind} {shape} {granularity} {mode}"
                    results[name + " codes"] = zlib.crc32(q.data)
                    results[name + " scales"] = zlib.crc32(q.params.scales)
                    results[name + " zero points"] = zlib.crc32(q.params.zero_points)
                    if kind == "gaussian":
                        for dtype in INPUT_DTYPES:
                            codes = quantize_with_params(values.astype(dtype), q.params)
                            results[f"{name} from {dtype}"] = zlib.crc32(codes)
                        for dtype in OUTPUT_DTYPES:
                            results[f"{name} to {dtype}"] = zlib.crc32(q.dequantize(dtype=dtype).view(np.uint8))
    return results


@pytest.mark.slow
@every_other_level
def test_every_level_gives_the_same(level, expected_digests):
    assert differences(at_level(level, digests, SEED), expected_digests) == set(), f"QUANTCORE_TEST_SEED={SEED}"


# Equal to torch


@every_bits
@every_mode
def test_round_trip_is_torchs_fake_quantize(torch, mode, bits, rng):
    """Bit for bit, with calibrated parameters and with others that clip much."""
    for shape in ((7, 500), (500, 7), (3, 5, 40)):
        values = rng.standard_normal(shape, dtype=F32)
        tensor = torch.tensor(values)
        for params in (calibrate_per_tensor(values, bits, mode), any_params(rng, shape, TENSOR, mode, bits)):
            ours = dequantize_with_params(quantize_with_params(values, params), params)
            limits = (params.quant_min, params.quant_max)
            scale, zero_point = float(params.scales[0]), int(params.zero_points[0])
            theirs = torch.fake_quantize_per_tensor_affine(tensor, scale, zero_point, *limits)
            np.testing.assert_array_equal(ours, theirs.numpy())
        for axis in range(len(shape)):
            calibrated = calibrate_per_channel(values, bits, mode, axis=axis)
            for params in (calibrated, any_params(rng, shape, CHANNEL(axis), mode, bits)):
                ours = dequantize_with_params(quantize_with_params(values, params), params)
                limits = (params.quant_min, params.quant_max)
                scales, zero_points = torch.tensor(params.scales), torch.tensor(params.zero_points)
                theirs = torch.fake_quantize_per_channel_affine(tensor, scales, zero_points, axis, *limits)
                np.testing.assert_array_equal(ours, theirs.numpy())


def torchs_codes(torch: ModuleType, values: np.ndarray, params: QuantParams) -> np.ndarray:
    """Equal to torch's quantized tensors, which only have 8 bits."""
    tensor, dtype = torch.tensor(values), torch.quint8 if params.is_asymmetric else torch.qint8
    if params.granularity.axis is None:
        scale, zero_point = float(params.scales[0]), int(params.zero_points[0])
        return torch.quantize_per_tensor(tensor, scale, zero_point, dtype).int_repr().numpy()
    scales, zero_points = torch.tensor(params.scales), torch.tensor(params.zero_points)
    return torch.quantize_per_channel(tensor, scales, zero_points, params.granularity.axis, dtype).int_repr().numpy()


@pytest.mark.parametrize("granularity", [TENSOR, CHANNEL(0), CHANNEL(1), CHANNEL(2)], ids=repr)
@every_bits
@ignores_deprecation
def test_symmetric_codes_are_torchs(torch, granularity, bits, rng):
    values = rng.standard_normal((20, 30, 40), dtype=F32)
    params = quantize_tensor(values, granularity, SYMMETRIC, bits).params
    np.testing.assert_array_equal(quantize_with_params(values, params), torchs_codes(torch, values, params))


@pytest.mark.parametrize("granularity", [TENSOR, CHANNEL(0), CHANNEL(1), CHANNEL(2)], ids=repr)
@ignores_deprecation
def test_asymmetric_codes_are_torchs_but_near_ties(torch, granularity, rng):
    """On x86 torch adds the zero point before it rounds, which costs bits of the fraction and turns ties."""
    values = rng.uniform(-1, 2, (40, 50, 60)).astype(F32)
    params = quantize_tensor(values, granularity, ASYMMETRIC).params
    ours, theirs = quantize_with_params(values, params).astype(int), torchs_codes(torch, values, params).astype(int)
    differs = ours != theirs
    assert np.abs(ours - theirs).max() <= 1
    assert np.count_nonzero(differs) <= values.size // 1000
    inverses = np.empty(values.size, F32)
    for part, scale in zip(parts(values.shape, granularity), params.scales, strict=True):
        inverses[part] = F32(1) / scale
    steps = (values.astype(float) * inverses.reshape(values.shape))[differs]
    assert np.all(np.abs(np.abs(steps - np.floor(steps)) - 0.5) < 2.0**-14)


@pytest.mark.parametrize("mode", QuantMode)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_small_arrays_are_coded_as_large_ones(mode, dtype, rng, monkeypatch):
    """One call of a kernel for arrays that one thread codes gives what three calls give."""
    cases = [((384,), None), ((9, 40), QuantGranularity.per_channel(0)), ((3, 70), QuantGranularity.per_group(32))]
    for shape, granularity in cases:
        values = (rng.standard_normal(shape) * 3 - 1).astype(dtype)
        values.flat[:2] = -0.0, 0
        small = quantize_tensor(values, granularity, mode, 7)
        with monkeypatch.context() as patch:
            patch.setattr(_kernels, "quantize_small", lambda *_: False)
            large = quantize_tensor(values, granularity, mode, 7)
        assert small == large and np.array_equal(small.params.coding_rows, large.params.coding_rows)
        assert repr(small.params) == repr(large.params)
    for bad in (np.nan, np.inf, -np.inf):
        values = np.zeros(40, dtype)
        values[7] = bad
        with pytest.raises(InvalidValueError, match=rf"^values: must be finite, got {bad} at flat index 7"):
            quantize_tensor(values, None, mode)
    with pytest.raises(InvalidValueError, match=r"^n_threads: expected an integer >= 1, got 0$"):
        quantize_tensor(np.ones(4, dtype), n_threads=0)

"""Affine codes: equal to the definition's and torch's for any sharing of scales, on any CPU level and threads."""

import copy
import pickle
import re
import zlib
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
    QuantizedTensor,
    QuantMode,
    QuantParams,
    calibrate_per_channel,
    calibrate_per_group,
    calibrate_per_tensor,
    compare_granularities,
    dequantize_tensor,
    dequantize_with_params,
    pack_nibbles,
    quantization_mse,
    quantize_tensor,
    quantize_with_params,
    unpack_nibbles,
)
from tests import reference_affine
from tests.conftest import SEED
from tests.contract import DISTRIBUTIONS, assert_same_floats
from tests.levels import at_level, differences, every_other_level
from tests.reference_affine import parts_of

F32 = np.float32
BF16 = np.dtype(ml_dtypes.bfloat16)
INPUT_DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16, np.dtype(np.float64)]
OUTPUT_DTYPES = INPUT_DTYPES[:3]
SYMMETRIC, ASYMMETRIC = QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC
TENSOR = QuantGranularity.per_tensor()
CHANNEL, GROUP = QuantGranularity.per_channel, QuantGranularity.per_group
every_mode = pytest.mark.parametrize("mode", QuantMode)
every_bits = pytest.mark.parametrize("bits", range(2, 9))
# torch says so once, of its quantized tensors
ignores_deprecation = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, .* are deprecated:UserWarning")
every_order = pytest.mark.parametrize("order", ["high_first", "low_first"])

# Runs of less than 32 elements that share a scale go another way than longer ones, runs beyond 65536 in pieces; narrow
# rows are repeated to 512 columns, and columns beyond 1024 go in pieces too.
SHAPES = [
    (1,),
    (70,),
    (2000,),
    (200_003,),
    (1, 1),
    (1, 70),
    (70, 1),
    (1027, 3),  # the last row is one more than what is repeated
    (3, 1000),
    (3, 70_001),
    (7, 3, 5),
    (3, 1100, 3),
    (1, 600, 1),
    (64, 1, 31),
    (4, 3, 32),
    (2, 3, 65_537),
    (2, 3, 4, 5),
    (9, 2, 8, 33),
    (1, 1, 1, 1),
    (600, 1, 2, 1),
]
# Large enough for several threads at every dtype (more than 2 MiB of codes).
THREADED: dict[str, tuple[tuple[int, ...], QuantGranularity]] = {
    "tensor": ((2_200_003,), TENSOR),
    "long runs": ((2, 3, 400_001), CHANNEL(1)),
    "rows": ((2300, 1000), CHANNEL(0)),
    "columns": ((36_000, 65), CHANNEL(1)),
    "narrow columns": ((300_001, 2, 4), CHANNEL(1)),
    "wide columns": ((1200, 2000), CHANNEL(-1)),
    "groups": ((1000, 2310), GROUP(48)),
    "large groups": ((3, 800_001), GROUP(100_000)),
}
every_threaded = pytest.mark.parametrize(("shape", "granularity"), THREADED.values(), ids=THREADED)


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return pytest.importorskip("torch")


def parts(shape: tuple[int, ...], granularity: QuantGranularity) -> list[np.ndarray]:
    axis = None if granularity.axis is None else granularity.axis % len(shape)
    return parts_of(shape, axis, granularity.group_size)


def any_params(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    granularity: QuantGranularity,
    mode: QuantMode = ASYMMETRIC,
    bits: int = 8,
    exponents: tuple[float, float] = (-9, -3),
) -> QuantParams:
    """Parameters that no calibration found: log-uniform scales, zero points anywhere."""
    n = granularity.sharing(shape).n_scales
    quant_min, quant_max = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if mode is SYMMETRIC else (0, 2**bits - 1)
    scales = np.exp2(rng.uniform(*exponents, n)).astype(F32)
    zero_points = rng.integers(quant_min, quant_max + 1, n, dtype=np.int32) * (mode is ASYMMETRIC)
    return QuantParams(scales, zero_points, granularity, mode, bits, quant_min, quant_max)


def of(params: QuantParams) -> reference_affine.Affine:
    return reference_affine.Affine(list(params.scales), params.zero_points.tolist(), params.quant_min, params.quant_max)


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


def granularities(shape: tuple[int, ...]) -> list[QuantGranularity]:
    """All that fit a shape, with groups that divide its rows, that do not, and that are longer."""
    sizes = {1, 5, 32, 64, shape[-1], shape[-1] + 1} if np.prod(shape) < 10_000 else {shape[-1] // 2 + 1, 4096, 66_000}
    return [TENSOR, *(CHANNEL(axis) for axis in range(-1, len(shape))), *(GROUP(size) for size in sorted(sizes))]


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
    mode=st.sampled_from(QuantMode),
    bits=st.integers(2, 8),
)
def test_equals_reference(kind, seed, exponent, shape, granularity, mode, bits):
    """Of any scale: what does not fit the codes is clipped, even if the product is beyond float32."""
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
    """The zero point is rounded too, but then the end of the codes that it moves away is half a step away at most."""
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


@pytest.mark.parametrize("name", ["long runs", "columns", "narrow columns", "large groups"])
def test_large_arrays_equal_reference(name, rng):
    shape, granularity = THREADED[name]
    values = rng.standard_normal(shape, dtype=F32)
    assert_equals_reference(values, any_params(rng, shape, granularity), n_threads=2)
    found = quantize_tensor(values, granularity, ASYMMETRIC, n_threads=2).params
    expected = reference_affine.calibrate(values, parts(shape, granularity), 8, symmetric=False)
    np.testing.assert_array_equal(found.scales, expected.scales)
    np.testing.assert_array_equal(found.zero_points, expected.zero_points)


def digests(seed: int) -> dict[str, int]:
    """A checksum of every result that a level might compute differently, by what it is."""
    rng = np.random.default_rng(seed)
    results: dict[str, int] = {}
    for shape in ((20_003,), (40, 1003), (1003, 40), (3000, 3, 4), (2, 3, 1000)):
        for kind in ("gaussian", "half integers", "random bits", "zeros of both signs"):
            values = DISTRIBUTIONS[kind](rng, int(np.prod(shape))).reshape(shape)
            for granularity in (TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(48)):
                for mode in QuantMode:
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


@pytest.fixture(scope="module")
def expected_digests() -> dict[str, int]:
    return digests(SEED)


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
    """Those of torch's quantized tensors, which know 8 bits only."""
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


# What is refused


@every_threaded
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_value_that_is_not_finite_is_named(shape, granularity, bad, rng):
    values = np.ones(shape, F32)
    params = any_params(rng, shape, granularity)
    flat = values.reshape(-1)
    first = int(rng.integers(0, flat.size))
    flat[first] = bad
    flat[rng.integers(first, flat.size, 5)] = bad
    for n_threads in (1, 2, 8):
        with pytest.raises(InvalidValueError, match=rf"^values: must be finite, got {bad} at flat index {first}$"):
            quantize_with_params(values, params, n_threads=n_threads)


@pytest.mark.parametrize("dtype", INPUT_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(70,), (35, 2), (2, 35)], ids=str)
def test_every_place_is_looked_at(shape, dtype, rng):
    for granularity in (TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(7)):
        params = any_params(rng, shape, granularity)
        for where in range(int(np.prod(shape))):
            values = np.ones(shape, dtype)
            values.reshape(-1)[where] = rng.choice([np.nan, -np.nan, np.inf, -np.inf])
            with pytest.raises(InvalidValueError, match=rf"^values: must be finite, .* at flat index {where}$"):
                quantize_with_params(values, params)


def test_float64_beyond_float32_is_named(rng):
    values = np.zeros((5, 7))
    values[3, 2], values[4, 0] = 1e39, np.nan
    for granularity in (TENSOR, CHANNEL(1), GROUP(3)):
        with pytest.raises(InvalidValueError, match=r"^values: 1e\+39 at flat index 23 is beyond the range of float32"):
            quantize_with_params(values, any_params(rng, values.shape, granularity))


@pytest.mark.parametrize(
    ("granularity", "shape", "other", "needs"),
    [
        (CHANNEL(0), (2, 4), (3, 4), 3),
        (CHANNEL(-1), (2, 4), (2, 5), 5),
        (GROUP(4), (2, 4), (2, 5), 4),
        (GROUP(4), (2, 4), (3, 4), 3),
    ],
    ids=repr,
)
def test_wrong_number_of_scales_is_refused(granularity, shape, other, needs, rng):
    params = any_params(rng, shape, granularity)
    quantize_with_params(np.ones(shape, F32), params)

    def message(name: str) -> str:
        what = f"{params.num_groups} scales {granularity.name}, but {name} of shape {other} needs {needs}"
        return f"^params: {re.escape(what)}$"

    with pytest.raises(InvalidValueError, match=message("values")):
        quantize_with_params(np.ones(other, F32), params)
    with pytest.raises(InvalidValueError, match=message("codes")):
        dequantize_with_params(np.ones(other, np.uint8), params)
    with pytest.raises(InvalidValueError, match=message("data")):
        QuantizedTensor(np.ones(other, np.uint8), params, other)


def test_more_scales_than_one_per_tensor_are_refused():
    params = QuantParams(np.ones(2, F32), np.zeros(2, np.int32), TENSOR, SYMMETRIC, 8, -127, 127)
    with pytest.raises(InvalidValueError, match=r"^params: 2 scales per_tensor, but values of shape \(2,\) needs 1$"):
        quantize_with_params(np.ones(2, F32), params)


def test_axis_that_the_array_does_not_have_is_refused(rng):
    params = any_params(rng, (2, 3, 4), CHANNEL(2))
    with pytest.raises(InvalidValueError, match=r"^axis: 2 is out of range for shape \(3, 4\)$"):
        quantize_with_params(np.ones((3, 4), F32), params)
    with pytest.raises(InvalidValueError, match=r"^axis: 2 is out of range for shape \(3, 4\)$"):
        dequantize_with_params(np.ones((3, 4), np.uint8), params)


def test_other_types_are_refused(rng):
    values = rng.standard_normal(8).astype(F32)
    params = calibrate_per_tensor(values)
    for wrong in (None, 0.5, "params", (1.0, 0)):
        with pytest.raises(InvalidTypeError, match=r"^params: expected a QuantParams, got "):
            quantize_with_params(values, wrong)
        with pytest.raises(InvalidTypeError, match=r"^params: expected a QuantParams, got "):
            dequantize_with_params(np.zeros(8, np.int8), wrong)
        with pytest.raises(InvalidTypeError, match=r"^params: expected a QuantParams, got "):
            QuantizedTensor(np.zeros(8, np.int8), wrong, (8,))
    for wrong in (np.arange(8), np.ones(8, bool), np.ones(8, complex)):
        with pytest.raises(InvalidTypeError, match=r"^values: expected float32, "):
            quantize_with_params(wrong, params)
    for codes in (np.zeros(8, np.uint8), np.zeros(8, np.int32), np.zeros(8, F32), np.ma.zeros(8, np.int8)):
        with pytest.raises(InvalidTypeError, match=r"^codes: expected dtype int8 \(symmetric\), got "):
            dequantize_with_params(codes, params)
    for dtype in (np.float64, np.int8, "nonsense"):
        with pytest.raises(InvalidTypeError, match=r"^dtype: "):
            dequantize_with_params(np.zeros(8, np.int8), params, dtype=dtype)
    with pytest.raises(InvalidValueError, match=r"^codes: must have at least one dimension"):
        dequantize_with_params(np.int8(1), params)
    with pytest.raises(InvalidValueError, match=r"^values: must have at least one dimension"):
        quantize_with_params(F32(1), params)
    with pytest.raises(InvalidTypeError, match=r"^q: expected a QuantizedTensor, got ndarray"):
        dequantize_tensor(values)
    for wrong in ("per_tensor", 0, QuantGranularity):
        with pytest.raises(InvalidTypeError, match=r"^granularity: expected a QuantGranularity, got "):
            quantize_tensor(values, wrong)
    with pytest.raises(InvalidValueError, match=r"^n_threads: "):
        quantize_with_params(values, params, n_threads=0)


@every_mode
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)], ids=str)
def test_nothing_gives_nothing(shape, mode):
    params = calibrate_per_tensor(np.ones(3, F32), 8, mode)
    codes = quantize_with_params(np.zeros(shape, F32), params)
    assert (codes.dtype, codes.shape) == (params.code_dtype, shape)
    decoded = dequantize_with_params(codes, params, dtype=np.float16)
    assert (decoded.dtype, decoded.shape) == (np.float16, shape)
    q = QuantizedTensor(codes, params, shape)
    assert (len(q), q.compression_ratio, q.dequantize().shape) == (0, 1.0, shape)
    out = np.empty(shape, params.code_dtype)
    assert quantize_with_params(np.zeros(shape, F32), params, out=out) is out
    with pytest.raises(InvalidValueError, match=r"^values: must not be empty"):
        quantize_tensor(np.zeros(shape, F32))


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
def test_memory_counts_codes_scales_and_zero_points(granularity, mode, bits, expected, rng):
    q = quantize_tensor(rng.standard_normal((3, 7)), granularity, mode, bits)
    assert (q.memory_bytes, len(q), q.shape) == (expected, 21, (3, 7))
    assert q.compression_ratio == pytest.approx(21 * 4 / expected)


def test_tensor_is_symmetric_per_tensor_of_8_bits_by_default(rng):
    values = rng.standard_normal((4, 5)).astype(F32)
    assert quantize_tensor(values).params == calibrate_per_tensor(values)
    assert quantize_tensor(values, CHANNEL()).params == calibrate_per_channel(values)
    assert quantize_tensor(values, GROUP(3)).params == calibrate_per_group(values, 3)


def test_repr_says_what_it_is(rng):
    q = quantize_tensor(rng.standard_normal((4, 64)), GROUP(32), ASYMMETRIC, 4)
    assert repr(q) == ("QuantizedTensor(shape=(4, 64), bits=4, asymmetric, per_group, num_groups=8, memory_bytes=192)")


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


# Nibbles


@pytest.mark.parametrize(
    ("codes", "order", "expected"),
    [
        (np.array([1, 2, 3, 4], np.uint8), "high_first", "1234"),
        (np.array([1, 2, 3, 4], np.uint8), "low_first", "2143"),
        (np.array([15, 0, 7], np.uint8), "high_first", "f070"),
        (np.array([15, 0, 7], np.uint8), "low_first", "0f07"),
        (np.array([-1, -8, 7, 0], np.int8), "high_first", "f870"),
        (np.array([-1, -8, 7, 0], np.int8), "low_first", "8f07"),
        (np.array([], np.int8), "low_first", ""),
        (np.array([[1, 2], [3, 4]], np.int8), "high_first", "1234"),
        (np.array([[1, 2], [3, 4]], np.int8).T, "high_first", "1324"),
        (np.array([1, 9, 2, 9, 3], np.uint8)[::2], "high_first", "1230"),
    ],
)
def test_nibbles_are_packed_in_the_order_named(codes, order, expected):
    packed = pack_nibbles(codes, order)
    assert (packed.dtype, packed.tobytes().hex()) == (np.uint8, expected)
    unpacked = unpack_nibbles(packed, codes.size, order, signed=codes.dtype == np.int8)
    assert unpacked.dtype == codes.dtype
    np.testing.assert_array_equal(unpacked, codes.reshape(-1))


@every_order
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, 100))
def test_nibbles_come_back(order, dtype, seed, size):
    low = -8 if dtype == np.int8 else 0
    codes = np.random.default_rng(seed).integers(low, low + 16, size, dtype=dtype)
    packed = pack_nibbles(codes, order)
    assert packed.shape == ((size + 1) // 2,)
    for data in (packed, packed.tobytes(), memoryview(packed)):
        unpacked = unpack_nibbles(data, size, order, signed=dtype == np.int8)
        assert unpacked.dtype == dtype
        np.testing.assert_array_equal(unpacked, codes)


@every_mode
@every_order
def test_tensors_of_4_bits_are_packed_into_the_memory_they_count(order, mode, rng):
    q = quantize_tensor(rng.standard_normal((5, 7)), TENSOR, mode, 4)
    packed = pack_nibbles(q.data, order)
    assert packed.nbytes == q.memory_bytes - (4 if mode is SYMMETRIC else 8)
    codes = unpack_nibbles(packed, len(q), order, signed=mode is SYMMETRIC).reshape(q.shape)
    assert QuantizedTensor(codes, q.params, q.shape) == q


@every_order
def test_nibbles_are_signed_by_default(order):
    assert unpack_nibbles(b"\xf8", 2, order).dtype == np.int8
    assert sorted(unpack_nibbles(b"\xf8", 2, order)) == [-8, -1]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.array([0, 8], np.int8), "-8 to 7, got 8 at flat index 1"),
        (np.array([[0, 1], [-9, 8]], np.int8), "-8 to 7, got -9 at flat index 2"),
        (np.array([16, 0], np.uint8), "0 to 15, got 16 at flat index 0"),
    ],
)
def test_codes_of_more_than_4_bits_are_not_packed(codes, message):
    with pytest.raises(InvalidValueError, match=f"^codes: expected {message}$"):
        pack_nibbles(codes, "high_first")


def test_what_cannot_be_packed_or_unpacked_is_refused():
    for wrong in (np.zeros(2, np.int32), np.zeros(2, F32), [1, 2], np.zeros(2, bool)):
        with pytest.raises(InvalidTypeError, match=r"^codes: expected int8 or uint8, got dtype "):
            pack_nibbles(wrong, "high_first")
    for order in ("high", "", None, 1, "HIGH_FIRST"):
        with pytest.raises(InvalidValueError, match=r"^order: expected 'high_first' or 'low_first', got "):
            pack_nibbles(np.zeros(2, np.int8), order)
        with pytest.raises(InvalidValueError, match=r"^order: expected 'high_first' or 'low_first', got "):
            unpack_nibbles(np.zeros(1, np.uint8), 2, order)
    for size, needed in [(0, 0), (1, 1), (2, 1), (5, 3), (2**70, 2**69)]:
        with pytest.raises(InvalidValueError, match=rf"^data: {size} codes take {needed} bytes, got 2$"):
            unpack_nibbles(np.zeros(2, np.uint8), size, "high_first")
    with pytest.raises(InvalidValueError, match=r"^size: expected an integer >= 0, got -1$"):
        unpack_nibbles(np.zeros(2, np.uint8), -1, "high_first")
    with pytest.raises(InvalidTypeError, match=r"^size: expected an integer >= 0, got 4\.0$"):
        unpack_nibbles(np.zeros(2, np.uint8), 4.0, "high_first")
    with pytest.raises(InvalidTypeError, match=r"^data: expected uint8, got dtype int8$"):
        unpack_nibbles(np.zeros(2, np.int8), 4, "high_first")

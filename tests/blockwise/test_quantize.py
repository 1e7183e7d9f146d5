"""4-bit block-wise quantization: equal to the definitions for every size, dtype and shape, with bounded errors."""

import dataclasses
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    DoubleQuantized4Bit,
    Quantized4Bit,
    dequantize_4bit,
    dequantize_4bit_double,
    quantize_4bit,
    quantize_4bit_double,
)
from tests.support import reference_blockwise as reference
from tests.support.blockwise_cases import (
    BLOCK_SIZES,
    CODES,
    DTYPES,
    F32,
    F32_MAX,
    SCALE_CODES,
    both,
    every_code,
    every_dtype,
    every_scale_code,
    gaussian,
)
from tests.support.contract import DISTRIBUTIONS, assert_same_floats
from tests.support.marks import slow_but_first


def as_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values in a dtype, zero where they do not fit; as float64 between the float32 numbers."""
    if dtype == np.float64:
        return np.clip(values * (1 + np.sin(np.arange(values.size)) * 2.0**-25), -F32_MAX, F32_MAX)
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    return np.where(np.isfinite(cast), cast, np.zeros_like(cast))


def assert_is_the_definition(q: Quantized4Bit, values: np.ndarray) -> None:
    scales, data = reference.quantize(values, q.block_size, q.quant_type)
    assert_same_floats(q.scales, scales)
    np.testing.assert_array_equal(q.data, data)
    decoded = reference.dequantize(data, scales, values.size, q.block_size, q.quant_type)
    assert_same_floats(dequantize_4bit(q), decoded)
    assert (q.shape, q.num_blocks, len(q)) == (values.shape, scales.size, values.size)


def assert_is_the_double_definition(q: DoubleQuantized4Bit, values: np.ndarray) -> None:
    scales, data = reference.quantize(values, q.block_size, q.quant_type)
    if q.scale_code == "linear":
        scale_codes, super_scales = reference.linear_scales(scales, q.super_block_size)
        decoded, offset = reference.linear_decoded(scale_codes, super_scales, q.super_block_size), 0.0
        data = reference.encode(values, decoded, q.block_size, q.quant_type)
    else:
        scale_codes, super_scales, offset = reference.dynamic_scales(scales)
        decoded = reference.dynamic_decoded(scale_codes, super_scales, offset)
    assert q.offset == offset
    np.testing.assert_array_equal(q.quantized_scales, scale_codes)
    assert_same_floats(q.super_scales, super_scales)
    assert_same_floats(q.decoded_scales(), decoded)
    np.testing.assert_array_equal(q.data, data)
    restored = reference.dequantize(data, decoded, values.size, q.block_size, q.quant_type)
    assert_same_floats(dequantize_4bit_double(q), restored)


# The definitions


def test_nf4_is_made_of_normal_quantiles():
    """Eight equal steps of probability above zero, seven below, up to 0.9677083; the largest becomes 1."""
    end = 0.9677083
    above = [NormalDist().inv_cdf(0.5 + (end - 0.5) * i / 8) for i in range(1, 9)]
    below = [-NormalDist().inv_cdf(0.5 + (end - 0.5) * i / 7) for i in range(1, 8)]
    values = np.array(sorted([*below, 0.0, *above])) / above[-1]
    np.testing.assert_allclose(reference.NF4, values, atol=2e-7)


@every_dtype
@every_code
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_equals_the_definition(block_size, quant_type, dtype, rng):
    for distribution in DISTRIBUTIONS.values():
        values = as_dtype(distribution(rng, int(rng.integers(block_size, 4 * block_size))), dtype)
        assert_is_the_definition(quantize_4bit(values, block_size=block_size, quant_type=quant_type), values)


@every_scale_code
@every_code
@pytest.mark.parametrize("block_size", [32, 64, 1024])
def test_double_equals_the_definition(block_size, quant_type, scale_code, rng):
    for i, distribution in enumerate(DISTRIBUTIONS.values()):
        super_block_size = 32 if scale_code == "linear" else 256
        n_blocks = int(rng.integers(1, 3 * super_block_size)) if block_size == 32 else 10
        values = as_dtype(distribution(rng, n_blocks * block_size - int(rng.integers(block_size))), DTYPES[i % 4])
        options = {"block_size": block_size, "quant_type": quant_type, "super_block_size": super_block_size}
        q = quantize_4bit_double(values, scale_code=scale_code, **options)
        assert_is_the_double_definition(q, values)


@pytest.mark.parametrize("super_block_size", slow_but_first(BLOCK_SIZES, n_fast=4))
def test_every_size_of_super_blocks(super_block_size):
    n_blocks = 2 * super_block_size + 5
    values = gaussian(32 * n_blocks - 7)
    q = quantize_4bit_double(values, block_size=32, quant_type="nf4", super_block_size=super_block_size)
    assert (q.num_blocks, q.super_scales.size) == (n_blocks, 3)
    assert_is_the_double_definition(q, values)


@every_code
def test_every_length_of_a_short_last_block(quant_type):
    values = gaussian(200)
    for n in range(1, 200):
        q = quantize_4bit(values[:n], quant_type=quant_type)
        assert (q.data.size, q.scales.size) == ((n + 1) // 2, -(-n // 64))
        assert_is_the_definition(q, values[:n])
        assert_is_the_double_definition(quantize_4bit_double(values[:n], quant_type=quant_type), values[:n])


@given(
    kind=st.sampled_from(list(DISTRIBUTIONS)),
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 9000),
    exponent=st.integers(-150, 20),
    block_size=st.sampled_from(BLOCK_SIZES),
    quant_type=st.sampled_from(CODES),
    dtype=st.sampled_from(DTYPES),
)
def test_equals_the_definition_at_any_scale(kind, seed, n, exponent, block_size, quant_type, dtype):
    with np.errstate(over="ignore"):
        values = np.ldexp(DISTRIBUTIONS[kind](np.random.default_rng(seed), n), exponent)
    values = as_dtype(np.where(np.isfinite(values), values, F32(0)), dtype)
    assert_is_the_definition(quantize_4bit(values, block_size=block_size, quant_type=quant_type), values)
    q = quantize_4bit_double(values, block_size=block_size, quant_type=quant_type, super_block_size=32)
    assert_is_the_double_definition(q, values)


@both
@every_code
@pytest.mark.parametrize("shape", [(7, 33), (3, 64), (2, 3, 5, 7), (1, 1, 1), (500, 1)])
def test_blocks_run_over_the_flattened_array(shape, quant_type, quantize):
    values = gaussian(*shape)
    q, flat = quantize(values, quant_type=quant_type), quantize(values.reshape(-1), quant_type=quant_type)
    assert q.shape == shape and q.data.tobytes() == flat.data.tobytes()
    decode = dequantize_4bit if quantize is quantize_4bit else dequantize_4bit_double
    np.testing.assert_array_equal(decode(q), decode(flat).reshape(shape))
    np.testing.assert_array_equal(quantize(np.asfortranarray(values), quant_type=quant_type).data, q.data)


@every_dtype
@every_code
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 64, 2)])
def test_empty(shape, quant_type, dtype):
    q = quantize_4bit(np.empty(shape, dtype), quant_type=quant_type)
    assert (q.shape, len(q), q.num_blocks, q.memory_bytes, q.compression_ratio) == (shape, 0, 0, 0, 1.0)
    assert dequantize_4bit(q).shape == shape
    for scale_code in SCALE_CODES:
        double = quantize_4bit_double(np.empty(shape, dtype), quant_type=quant_type, scale_code=scale_code)
        assert (double.memory_bytes, double.double_quant_savings, double.offset) == (0, 0, 0.0)
        assert dequantize_4bit_double(double).shape == shape


# Edges


@every_code
def test_zeros(quant_type):
    zero = {"int4": 0x00, "nf4": 0x77, "fp4": 0x00}[quant_type]
    for value in (0.0, -0.0):
        values = np.full(200, value, F32)
        values[64:128] = gaussian(64)
        q = quantize_4bit(values, quant_type=quant_type)
        assert q.scales[[0, 2, 3]].tolist() == [0.0, 0.0, 0.0] and q.scales[1] > 0
        assert set(q.data[:32].tolist() + q.data[64:].tolist()) == {zero}
        assert not dequantize_4bit(q)[:64].any() and not dequantize_4bit(q)[128:].any()
        double = quantize_4bit_double(values, quant_type=quant_type)
        assert double.quantized_scales.tolist() == [0, 255, 0, 0]


@every_code
def test_subnormal_values(quant_type):
    for exponent in range(-149, -120):
        values = np.ldexp(gaussian(100), exponent)
        assert_is_the_definition(quantize_4bit(values, quant_type=quant_type), values)
        assert_is_the_double_definition(quantize_4bit_double(values, quant_type=quant_type), values)


@every_code
def test_huge_values_stay_finite(quant_type):
    values = np.concatenate([gaussian(64), np.full(64, F32_MAX), np.full(32, -F32_MAX), np.full(96, F32_MAX / 3)])
    values = values.astype(F32)
    assert_is_the_definition(quantize_4bit(values, quant_type=quant_type), values)
    for scale_code in SCALE_CODES:
        q = quantize_4bit_double(values, quant_type=quant_type, scale_code=scale_code)
        restored = dequantize_4bit_double(q)
        assert np.isfinite(restored).all()
        np.testing.assert_allclose(restored[64:128], F32_MAX, rtol=0.01)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("exponent", [-100, -3, 0, 1, 100])
def test_a_midpoint_belongs_to_the_lower_value(quant_type, exponent):
    """With an absmax that is a power of two nothing is rounded before it is compared."""
    ascending = np.sort(reference.TABLES[quant_type])
    cuts = np.array(reference.midpoints(ascending), F32)
    for values, expected in ((cuts, ascending[:-1]), (np.nextafter(cuts, F32(2)), ascending[1:])):
        block = np.ldexp(np.append(values, F32(-1)), exponent)
        restored = np.ldexp(dequantize_4bit(quantize_4bit(block, quant_type=quant_type)), -exponent)
        np.testing.assert_array_equal(restored, np.append(expected, F32(-1)))


@pytest.mark.parametrize("exponent", [-126, 0, 100])
def test_int4_rounds_half_to_even(exponent):
    halves = np.arange(-6.5, 7, dtype=F32)
    block = np.ldexp(np.append(halves, F32(7)), exponent)
    q = quantize_4bit(block)
    assert q.scales.tolist() == [2.0**exponent]
    restored = np.ldexp(dequantize_4bit(q), -exponent)
    assert restored.tolist() == [-6, -6, -4, -4, -2, -2, 0, 0, 2, 2, 4, 4, 6, 6, 7]


def test_scales_halfway_between_dynamic_values_get_the_lower_one():
    """With a mean and a super-scale of 1, 1 plus a negative cut is exact."""
    ascending = reference.dynamic_map()
    lower, cuts = ascending[:30], np.array(reference.midpoints(ascending), F32)[:30]
    scales = np.concatenate([1 + cuts, 1 - cuts, [0, 2]], dtype=F32)
    q = quantize_4bit_double(scales.repeat(32), block_size=32, quant_type="nf4", scale_code="dynamic")
    assert (q.offset, q.super_scales.tolist()) == (1.0, [1.0])
    np.testing.assert_array_equal(scales[:30] - 1, cuts)
    np.testing.assert_array_equal(ascending[q.quantized_scales[:30]], lower)


def test_codes_and_their_places():
    """The first value of a pair is in the high nibble; negative int4 codes are two's complement, and -8 is read."""
    values = np.array([7, -7, 1, -1, 0, 3, -2], F32)
    q = quantize_4bit(values)
    assert q.data.tobytes().hex() == "791f03e0" and q.scales.tolist() == [1.0]
    every_code_once = np.arange(0, 256, 17, dtype=np.uint8)
    for quant_type, table in reference.TABLES.items():
        read = dequantize_4bit(Quantized4Bit(np.full(1, 2, F32), every_code_once, (32,), 64, quant_type))
        np.testing.assert_array_equal(read, 2 * table.repeat(2))


@given(st.floats(2.0**-120, float(F32_MAX), width=32), st.integers(0, 2**32 - 1))
def test_the_largest_value_comes_back(absmax, seed):
    block = np.random.default_rng(seed).uniform(-absmax, absmax, 64).astype(F32)
    block[:2] = absmax, -absmax
    for quant_type in ("nf4", "fp4"):
        restored = dequantize_4bit(quantize_4bit(block, quant_type=quant_type))
        assert restored[:2].tolist() == [absmax, -absmax]
    q = quantize_4bit(block)
    assert q.data[0] == 0x79
    np.testing.assert_allclose(dequantize_4bit(q)[:2], block[:2], rtol=2.0**-22)


@given(
    kind=st.sampled_from(["gaussian", "uniform", "half integers", "cauchy", "sparse", "log-uniform scales"]),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-90, 90),
    block_size=st.sampled_from(BLOCK_SIZES),
)
def test_int4_is_off_by_half_a_step_at_most(kind, seed, exponent, block_size):
    """And by what float32 rounds off x / scale and code * scale: half an ulp of 7 steps each."""
    values = np.ldexp(DISTRIBUTIONS[kind](np.random.default_rng(seed), 6000), exponent)
    q = quantize_4bit(values, block_size=block_size)
    scales = q.scales.repeat(block_size)[: values.size].astype(np.float64)
    is_normal = scales >= np.finfo(F32).tiny
    error = np.abs(values.astype(np.float64) - dequantize_4bit(q))[is_normal]
    assert (error <= scales[is_normal] * (0.5 + 7 * 2.0**-23)).all()


@given(st.sampled_from(CODES), st.integers(0, 2**32 - 1))
def test_a_block_depends_on_its_own_values_only(quant_type, seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(640, dtype=F32)
    k = int(rng.integers(10))
    changed = values.copy()
    changed[64 * k : 64 * (k + 1)] *= F32(-3)
    before, after = quantize_4bit(values, quant_type=quant_type), quantize_4bit(changed, quant_type=quant_type)
    assert np.flatnonzero(before.scales != after.scales).tolist() == [k]
    rows = (before.data != after.data).reshape(10, 32).any(axis=1)
    assert np.flatnonzero(rows).tolist() == [k]


# How good it is


def sqnr(values: np.ndarray, restored: np.ndarray) -> float:
    return 10 * np.log10(np.square(values, dtype=float).sum() / mse(values, restored) / values.size)


def mse(values: np.ndarray, restored: np.ndarray) -> float:
    return float(np.square(values.astype(np.float64) - restored).mean())


@pytest.mark.parametrize(
    ("quant_type", "expected"),
    [
        ("nf4", 20.728),
        pytest.param("int4", 19.364, marks=pytest.mark.slow),
        pytest.param("fp4", 18.279, marks=pytest.mark.slow),
    ],
)
def test_sqnr_on_gaussian_values(quant_type, expected, rng):
    values = rng.standard_normal(1 << 22, dtype=F32)
    single = dequantize_4bit(quantize_4bit(values, quant_type=quant_type))
    assert sqnr(values, single) == pytest.approx(expected, abs=0.03)  # six deviations
    for scale_code in SCALE_CODES:
        double = dequantize_4bit_double(quantize_4bit_double(values, quant_type=quant_type, scale_code=scale_code))
        rmse_ratio = np.sqrt(mse(values, double) / mse(values, single))
        assert rmse_ratio == pytest.approx(1, abs=0.01)


@given(
    kind=st.sampled_from(["gaussian", "uniform", "cauchy", "sparse", "log-uniform scales", "three values"]),
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 20_000),
    quant_type=st.sampled_from(CODES),
    super_block_size=st.sampled_from([32, 256]),
)
def test_fitted_codes_are_no_worse_than_scales_coded_afterwards(kind, seed, n, quant_type, super_block_size):
    values = DISTRIBUTIONS[kind](np.random.default_rng(seed), n)
    fitted = quantize_4bit_double(values, quant_type=quant_type, super_block_size=super_block_size)
    afterwards = dataclasses.replace(fitted, data=quantize_4bit(values, quant_type=quant_type).data)
    ours = mse(values, dequantize_4bit_double(fitted))
    assert ours <= mse(values, dequantize_4bit_double(afterwards)) * (1 + 1e-6)


@every_code
def test_fitted_codes_are_better(quant_type):
    values = gaussian(1 << 16) * np.exp(gaussian(1 << 16))
    fitted = quantize_4bit_double(values, quant_type=quant_type)
    afterwards = dataclasses.replace(fitted, data=quantize_4bit(values, quant_type=quant_type).data)
    assert mse(values, dequantize_4bit_double(fitted)) < mse(values, dequantize_4bit_double(afterwards))


@every_code
def test_no_block_is_erased(quant_type):
    """However small beside its neighbours, a block that is not zeros keeps a scale that is not zero."""
    values = gaussian(100, 64) * np.exp2(np.linspace(-100, 100, 100)).astype(F32)[:, None]
    values[::7] = 0
    q = quantize_4bit_double(values, quant_type=quant_type)
    np.testing.assert_array_equal(q.quantized_scales > 0, values.any(axis=1))
    np.testing.assert_array_equal(q.decoded_scales() > 0, values.any(axis=1))

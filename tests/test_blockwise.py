"""4-bit block-wise quantization: what the definitions say, for every block size, dtype, shape, thread and CPU level."""

import copy
import dataclasses
import pickle
import zlib
from statistics import NormalDist

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quantcore
from quantcore import (
    DoubleQuantized4Bit,
    InvalidTypeError,
    InvalidValueError,
    QuantcoreError,
    Quantized4Bit,
    dequantize_4bit,
    dequantize_4bit_double,
    quantize_4bit,
    quantize_4bit_double,
)
from tests import reference_blockwise as reference
from tests.conftest import SEED
from tests.contract import DISTRIBUTIONS, assert_same_floats
from tests.levels import at_level, differences, every_other_level
from tests.test_arrays import MEGABYTE, memory_below

F32 = np.float32
F32_MAX = np.finfo(F32).max
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(F32), np.dtype(np.float16), BF16, np.dtype(np.float64)]
BLOCK_SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]
CODES = ["int4", "nf4", "fp4"]
SCALE_CODES = ["linear", "dynamic"]
every_code = pytest.mark.parametrize("quant_type", CODES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_scale_code = pytest.mark.parametrize("scale_code", SCALE_CODES)
both = pytest.mark.parametrize("quantize", [quantize_4bit, quantize_4bit_double])


def gaussian(*shape: int) -> np.ndarray:
    return np.random.default_rng(11).standard_normal(shape, dtype=F32)


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


@pytest.mark.parametrize("super_block_size", BLOCK_SIZES)
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


@pytest.mark.parametrize(("quant_type", "expected"), [("nf4", 20.728), ("int4", 19.364), ("fp4", 18.279)])
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


# Sizes


@every_code
@pytest.mark.parametrize(("n", "block_size"), [(64, 64), (65, 64), (1, 32), (10_000, 4096), (1 << 20, 64)])
def test_sizes(n, block_size, quant_type):
    q = quantize_4bit(np.ones(n, F32), block_size=block_size, quant_type=quant_type)
    n_blocks = -(-n // block_size)
    assert q.memory_bytes == (n + 1) // 2 + 4 * n_blocks == q.data.nbytes + q.scales.nbytes
    assert q.compression_ratio == 4 * n / q.memory_bytes
    for super_block_size in (32, 256):
        options = {"quant_type": quant_type, "super_block_size": super_block_size}
        double = quantize_4bit_double(np.ones(n, F32), block_size=block_size, **options)
        n_super = -(-n_blocks // super_block_size)
        assert double.memory_bytes == (n + 1) // 2 + n_blocks + 4 * n_super
        assert double.compression_ratio == 4 * n / double.memory_bytes
        assert double.double_quant_savings == 3 * n_blocks - 4 * n_super == q.memory_bytes - double.memory_bytes


@every_scale_code
def test_double_quantization_saves_a_third_of_a_bit_and_more(scale_code):
    q = quantize_4bit_double(np.ones(1 << 20, F32), scale_code=scale_code)
    assert 8 * q.double_quant_savings / len(q) == pytest.approx(0.373, abs=0.0005)


@pytest.mark.parametrize("quantize", [quantize_4bit, quantize_4bit_double])
@every_dtype
def test_no_copy_is_made(dtype, quantize):
    values = np.ones(1 << 21, dtype)
    with memory_below(quantize(values).memory_bytes + MEGABYTE // 4):
        quantize(values)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_decoding_makes_nothing_but_its_result(dtype):
    single, double = quantize_4bit(np.ones(1 << 21, F32)), quantize_4bit_double(np.ones(1 << 21, F32))
    result = (1 << 21) * dtype.itemsize
    with memory_below(result + MEGABYTE // 4):
        dequantize_4bit(single, dtype=dtype)
    with memory_below(result + 3 * single.scales.nbytes + MEGABYTE // 4):
        dequantize_4bit_double(double, dtype=dtype)


# Threads and CPU levels


def digests(seed: int) -> dict[str, int]:
    """A checksum of every result that a level or a number of threads might compute differently, by what it is."""
    rng = np.random.default_rng(seed)
    large = rng.standard_normal((1 << 20) + 4001, dtype=F32)  # of every dtype enough to start threads
    results: dict[str, int] = {}

    def add(name: str, *arrays: np.ndarray) -> None:
        results[name] = zlib.crc32(b"".join(array.tobytes() for array in arrays))

    for quant_type in CODES:
        for kind, distribution in DISTRIBUTIONS.items():
            q = quantize_4bit(distribution(rng, 5001), block_size=32, quant_type=quant_type)
            add(f"{quant_type} {kind}", q.scales, q.data, dequantize_4bit(q))
        for n_threads in range(1, 9):
            where = f"{quant_type}, {n_threads} threads"
            for dtype in DTYPES if n_threads < 4 else DTYPES[:1]:
                q = quantize_4bit(large.astype(dtype), quant_type=quant_type, n_threads=n_threads)
                add(f"from {dtype} {where}", q.scales, q.data)
            for dtype in DTYPES[:3]:
                add(f"to {dtype} {where}", dequantize_4bit(q, dtype=dtype, n_threads=n_threads))
            for scale_code in SCALE_CODES:
                options = {"quant_type": quant_type, "block_size": 32, "scale_code": scale_code}
                double = quantize_4bit_double(large, n_threads=n_threads, **options)
                add(f"{scale_code} {where}", double.quantized_scales, double.super_scales, double.data)
                add(f"from {scale_code} {where}", dequantize_4bit_double(double, n_threads=n_threads))
    return results


@pytest.fixture(scope="module")
def expected() -> dict[str, int]:
    """What the level of this process computes: the tests above compare that with the definitions."""
    return digests(SEED)


@every_other_level
def test_every_level_gives_the_same(level, expected):
    assert differences(at_level(level, digests, SEED), expected) == set(), f"QUANTCORE_TEST_SEED={SEED}"


def test_any_number_of_threads_gives_the_same(expected):
    by_threads: dict[str, set[int]] = {}
    for name, digest in expected.items():
        if name.endswith(" threads"):
            by_threads.setdefault(name.rsplit(", ", 1)[0], set()).add(digest)
    assert len(by_threads) == len(CODES) * (len(DTYPES) + 3 + 2 * len(SCALE_CODES))
    assert {name for name, values in by_threads.items() if len(values) > 1} == set()


@every_dtype
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_large_arrays_are_their_parts(block_size, dtype):
    """A large array is handed out to threads in chunks; parts of it that are whole super-blocks are done at once."""
    part = 32 * 4096
    values = gaussian(9 * part + 77).astype(dtype)
    parts = [values[start : start + part] for start in range(0, values.size, part)]
    whole = quantize_4bit(values, block_size=block_size, n_threads=2)
    single = [quantize_4bit(x, block_size=block_size) for x in parts]
    assert whole.data.tobytes() == b"".join(q.data.tobytes() for q in single)
    assert whole.scales.tobytes() == b"".join(q.scales.tobytes() for q in single)
    restored = dequantize_4bit(whole, n_threads=2)
    np.testing.assert_array_equal(restored, np.concatenate([dequantize_4bit(q) for q in single]))
    options = {"block_size": block_size, "super_block_size": 32}
    double = quantize_4bit_double(values, n_threads=2, **options)
    doubles = [quantize_4bit_double(x, **options) for x in parts]
    for name in ("data", "quantized_scales", "super_scales"):
        assert getattr(double, name).tobytes() == b"".join(getattr(q, name).tobytes() for q in doubles)


# Results


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("shape", [(1000,), (3, 5, 7)])
@both
def test_dequantize_into_out(quantize, shape, dtype):
    q = quantize(gaussian(*shape), quant_type="nf4")
    decode = dequantize_4bit if quantize is quantize_4bit else dequantize_4bit_double
    assert decode(q).dtype == np.float32
    values = decode(q, dtype=dtype, n_threads=2)
    assert (values.dtype, values.shape) == (dtype, shape)
    assert_same_floats(values, decode(q).astype(dtype))
    assert_same_floats(decode(q, dtype=dtype.name), values)
    out = np.full(shape, 7, dtype)
    assert decode(q, dtype=dtype, out=out) is out
    assert_same_floats(out, values)
    unfit = [np.zeros((*shape, 1), dtype), np.zeros(shape, np.float64), np.zeros((*shape, 2), dtype)[..., 0]]
    unfit += [np.frombuffer(bytes(out.nbytes), dtype).reshape(shape)]  # read-only
    for array in unfit:
        with pytest.raises(InvalidValueError, match=r"^out: "):
            decode(q, dtype=dtype, out=array)
    with pytest.raises(InvalidTypeError, match=r"^out: "):
        decode(q, dtype=dtype, out=values.tolist())
    for other in (np.float64, np.int8, "nonsense", None.__class__):
        with pytest.raises(InvalidTypeError, match=r"^dtype: "):
            decode(q, dtype=other)


@pytest.mark.parametrize("part", ["data", "scales"])
def test_a_record_keeps_its_own_arrays(part):
    """Whoever made it may go on using theirs, even as the output of the decoding."""
    memory = np.zeros(128, F32)
    own = {"data": np.zeros(64, np.uint8), "scales": np.ones(2, F32)}
    own[part] = memory.view(np.uint8)[:64] if part == "data" else memory[:2]
    q = Quantized4Bit(own["scales"], own["data"], (128,), 64, "nf4")
    expected = dequantize_4bit(q)
    np.testing.assert_array_equal(dequantize_4bit(q, out=memory), expected)
    memory[:] = 7
    np.testing.assert_array_equal(dequantize_4bit(q), expected)


def test_decoding_takes_its_own_record():
    single, double = quantize_4bit(gaussian(64)), quantize_4bit_double(gaussian(64))
    for wrong in (double, None, single.data, {}):
        with pytest.raises(InvalidTypeError, match=r"^q: expected a Quantized4Bit, got "):
            dequantize_4bit(wrong)
    for wrong in (single, None):
        with pytest.raises(InvalidTypeError, match=r"^q: expected a DoubleQuantized4Bit, got "):
            dequantize_4bit_double(wrong)


# What is refused


@both
@every_code
@every_dtype
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("n", "where"), [(100, 99), (100, 50), (33, 32), (1, 0), (3_000_001, 2_999_999)])
def test_the_first_bad_value_is_named(n, where, bad, dtype, quant_type, quantize):
    if n > 100 and (dtype != np.float32 or quant_type == "fp4"):
        where, n = 4097, 5000
    values = np.zeros(n, dtype)
    values[where:] = bad
    with pytest.raises(InvalidValueError, match=rf"^values: must be finite, got {bad} at flat index {where}$"):
        quantize(values.reshape(1, -1), quant_type=quant_type)


@both
def test_doubles_beyond_float32_are_refused(quantize):
    values = np.zeros(100)
    values[70] = 1e39
    with pytest.raises(InvalidValueError, match=r"^values: 1e\+39 at flat index 70 is beyond the range of float32"):
        quantize(values)


@both
def test_other_arrays_are_refused(quantize):
    masked = np.ma.array(np.zeros(64, F32))
    for values in (np.zeros(64, np.int8), np.zeros(64, bool), np.zeros(64, np.complex64), masked, [1, 2], None, "x"):
        with pytest.raises(InvalidTypeError, match=r"^values: "):
            quantize(values)
    with pytest.raises(InvalidValueError, match=r"^values: .*shape \(\)"):
        quantize(np.float32(1))
    for n_threads in (0, True, 1.5):
        with pytest.raises(QuantcoreError, match=r"^n_threads: "):
            quantize(np.zeros(64, F32), n_threads=n_threads)


@pytest.mark.parametrize(
    ("quantize", "name"),
    [(quantize_4bit, "block_size"), (quantize_4bit_double, "block_size"), (quantize_4bit_double, "super_block_size")],
)
def test_block_sizes_are_checked(quantize, name):
    for size in (31, 33, 96, 16, 1, 0, -64, 8192, 4097, 10**30):
        with pytest.raises(InvalidValueError, match=rf"^{name}: expected .* from 32 to 4096, got {size}$"):
            quantize(gaussian(64), **{name: size})
    for size in (True, 64.0, "64", None, np.True_, [64]):
        with pytest.raises(InvalidTypeError, match=rf"^{name}: expected an integer from 32 to 4096, got "):
            quantize(gaussian(64), **{name: size})
    assert quantize(gaussian(64), **{name: np.int64(32)}) == quantize(gaussian(64), **{name: 32})


@both
@pytest.mark.parametrize("quant_type", ["NF4", "int8", "", None, 4, ["nf4"], np.zeros(2)])
def test_unknown_codes_are_refused(quant_type, quantize):
    with pytest.raises(InvalidValueError, match=r"^quant_type: expected one of .*nf4.*, got "):
        quantize(gaussian(64), quant_type=quant_type)


def test_unknown_codes_of_scales_are_refused():
    for scale_code in ("Linear", "", None, 8, ["linear"], np.zeros(2)):
        with pytest.raises(InvalidValueError, match=r"^scale_code: expected 'linear' or 'dynamic', got "):
            quantize_4bit_double(gaussian(64), scale_code=scale_code)
    with pytest.raises(InvalidValueError, match=r"^super_block_size: must be 256 for 'dynamic' scales, got 128$"):
        quantize_4bit_double(gaussian(64), scale_code="dynamic", super_block_size=128)


# Records made by hand

SINGLE = quantize_4bit(gaussian(3, 50), quant_type="nf4")
DOUBLE = quantize_4bit_double(gaussian(3, 50), quant_type="nf4")
DYNAMIC = quantize_4bit_double(gaussian(3, 50), quant_type="nf4", scale_code="dynamic")
every_record = pytest.mark.parametrize("record", [SINGLE, DOUBLE, DYNAMIC], ids=["single", "linear", "dynamic"])
BAD_FIELDS = [
    ("data", np.zeros(74, np.uint8)),
    ("data", np.zeros(76, np.uint8)),
    ("data", b"\0" * 74),
    ("data", np.zeros(75, np.int8)),
    ("data", np.zeros(75, F32)),
    ("data", np.uint8(0)),
    ("data", np.ma.array(np.zeros(75, np.uint8))),
    ("data", None),
    ("shape", ()),
    ("shape", (3, -50)),
    ("shape", (3.0, 50)),
    ("shape", (True, 150)),
    ("shape", None),
    ("shape", 150),
    ("shape", (2**40, 2**40)),
    ("shape", (0, 2**80)),
    ("shape", (0, 2**62)),
    ("shape", (1,) * 63 + (3, 50)),
    ("block_size", 63),
    ("block_size", 0),
    ("block_size", 64.0),
    ("block_size", True),
    ("quant_type", "int8"),
    ("quant_type", None),
    ("quant_type", ["nf4"]),
]
BAD_SINGLE_FIELDS = [
    ("scales", np.ones(2, F32)),
    ("scales", np.ones(4, F32)),
    ("scales", np.ones(3, np.float64)),
    ("scales", np.ones(3, np.float16)),
    ("scales", np.ones(3, ">f4")),
    ("scales", np.array([1, np.nan, 1], F32)),
    ("scales", np.array([1, np.inf, 1], F32)),
    ("scales", np.array([1, -1, 1], F32)),
    ("scales", None),
    ("shape", (2, 50)),
    ("block_size", 32),
]
BAD_DOUBLE_FIELDS = [
    ("quantized_scales", np.ones(2, np.uint8)),
    ("quantized_scales", np.ones(3, np.int8)),
    ("quantized_scales", np.ones(3, F32)),
    ("super_scales", np.ones(2, F32)),
    ("super_scales", np.ones(1, np.float64)),
    ("super_scales", np.array([np.nan], F32)),
    ("super_scales", np.array([-1], F32)),
    ("offset", np.nan),
    ("offset", np.inf),
    ("offset", 1e39),
    ("offset", 10**400),
    ("offset", None),
    ("offset", "0"),
    ("offset", 1j),
    ("offset", True),
    ("offset", np.zeros(2)),
    ("super_block_size", 100),
    ("super_block_size", 16),
    ("super_block_size", True),
    ("scale_code", "Linear"),
    ("scale_code", None),
    ("scale_code", np.array(["linear", "dynamic"])),
]
ALLOWED_TO_BLAME = {"shape": "data", "block_size": "scales"}  # which of two that contradict is wrong, nobody knows


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [(r, *bad) for r in (SINGLE, DOUBLE, DYNAMIC) for bad in BAD_FIELDS]
    + [(SINGLE, *bad) for bad in BAD_SINGLE_FIELDS]
    + [(r, *bad) for r in (DOUBLE, DYNAMIC) for bad in BAD_DOUBLE_FIELDS]
    + [(DOUBLE, "offset", 0.5)],
)
def test_contradicting_fields_are_refused_by_name(record, field, value):
    with pytest.raises(QuantcoreError) as error:
        dataclasses.replace(record, **{field: value})
    assert isinstance(error.value, (ValueError, TypeError))
    assert str(error.value).startswith((f"{field}: ", f"{ALLOWED_TO_BLAME.get(field, field)}: "))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@every_record
def test_fields_are_taken_in_other_forms(record):
    given = {"data": record.data.tobytes(), "shape": list(record.shape), "block_size": np.int64(record.block_size)}
    assert dataclasses.replace(record, **given) == record
    scales = "scales" if record is SINGLE else "super_scales"
    array = getattr(record, scales)
    assert dataclasses.replace(record, **{scales: np.repeat(array, 2)[::2]}) == record


def test_a_scale_of_any_size_decodes_without_warning():
    largest = np.full(1, F32_MAX)
    q = dataclasses.replace(DOUBLE, super_scales=largest, quantized_scales=np.full(3, 255, np.uint8))
    assert np.isfinite(dequantize_4bit_double(q)).all()
    assert not np.isnan(dequantize_4bit_double(q, dtype=np.float16)).any()


# As Python objects


@every_record
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(record, protocol):
    again = pickle.loads(pickle.dumps(record, protocol))
    assert type(again) is type(record) and again == record
    assert not again.data.flags.writeable
    assert copy.deepcopy(record) == copy.copy(record) == record


@every_record
def test_pickle_that_was_tampered_with_is_refused(record):
    pickled = pickle.dumps(record, 0)
    assert pickled.count(b"I50\n") == 1
    with pytest.raises(InvalidValueError, match=r"^data: "):
        pickle.loads(pickled.replace(b"I50\n", b"I500\n"))


@every_record
def test_pickle_of_another_version_is_refused(record):
    function, (version, *fields) = record.__reduce__()
    assert function(version, *fields) == record
    with pytest.raises(InvalidValueError, match=rf"version {version + 1} is unknown"):
        function(version + 1, *fields)


@every_record
def test_immutable(record):
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.shape = (150,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del record.data
    for name in ("data", "scales", "quantized_scales", "super_scales"):
        if hasattr(record, name):
            with pytest.raises(ValueError, match="read-only"):
                getattr(record, name)[0] = 1


def test_equality():
    values = gaussian(3, 50)
    assert quantize_4bit(values, quant_type="nf4") == SINGLE
    assert quantize_4bit_double(values, quant_type="nf4") == DOUBLE != DYNAMIC
    assert SINGLE != DOUBLE and SINGLE is not None and SINGLE.data.tolist() != SINGLE
    for other in (
        quantize_4bit(-values, quant_type="nf4"),
        quantize_4bit(values.reshape(-1), quant_type="nf4"),
        quantize_4bit(values, quant_type="fp4"),
        quantize_4bit(values, quant_type="nf4", block_size=32),
        dataclasses.replace(SINGLE, scales=SINGLE.scales * F32(2)),
    ):
        assert other != SINGLE
    for field, value in (("super_block_size", 128), ("super_scales", DOUBLE.super_scales * F32(2))):
        assert dataclasses.replace(DOUBLE, **{field: value}) != DOUBLE
    assert dataclasses.replace(DYNAMIC, offset=DYNAMIC.offset + 1) != DYNAMIC
    with pytest.raises(TypeError, match="unhashable"):
        hash(SINGLE)


@every_record
def test_repr_is_short(record):
    what = "shape=(3, 50), quant_type='nf4', block_size=64, num_blocks=3"
    assert repr(record) == f"{type(record).__name__}({what}, memory_bytes={record.memory_bytes})"
    assert len(record) == 150


def test_constants():
    assert (quantcore.BLOCK_SIZE, quantcore.DOUBLE_QUANT_BLOCK_SIZE) == (64, 256)
    assert (SINGLE.block_size, DOUBLE.super_block_size, DOUBLE.scale_code) == (64, 256, "linear")
    assert quantize_4bit(gaussian(64)).quant_type == quantize_4bit_double(gaussian(64)).quant_type == "int4"

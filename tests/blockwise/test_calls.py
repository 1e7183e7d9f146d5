"""4-bit block-wise quantization: sizes, memory, threads and CPU levels, results into given arrays, refusals."""

import zlib

import numpy as np
import pytest

from quantcore import (
    InvalidTypeError,
    InvalidValueError,
    QuantcoreError,
    Quantized4Bit,
    dequantize_4bit,
    dequantize_4bit_double,
    quantize_4bit,
    quantize_4bit_double,
)
from tests.conftest import SEED
from tests.support.blockwise_cases import (
    BLOCK_SIZES,
    CODES,
    DTYPES,
    F32,
    SCALE_CODES,
    both,
    every_code,
    every_dtype,
    every_scale_code,
    gaussian,
)
from tests.support.contract import DISTRIBUTIONS, assert_same_floats
from tests.support.levels import at_level, differences, every_other_level
from tests.support.memory import MEGABYTE, memory_below

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
    """A checksum of every result that a level or a number of threads might compute differently, by name."""
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


@pytest.mark.slow
@every_other_level
def test_every_level_gives_the_same(level, expected_digests):
    assert differences(at_level(level, digests, SEED), expected_digests) == set(), f"QUANTCORE_TEST_SEED={SEED}"


def test_any_number_of_threads_gives_the_same(expected_digests):
    by_threads: dict[str, set[int]] = {}
    for name, digest in expected_digests.items():
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
    """Whoever made a record may go on using their arrays, even as the output of decoding."""
    memory = np.zeros(128, F32)
    own = {"data": np.zeros(64, np.uint8), "scales": np.ones(2, F32)}
    own[part] = memory.view(np.uint8)[:64] if part == "data" else memory[:2]
    q = Quantized4Bit(own["scales"], own["data"], (128,), 64, "nf4")
    expected = dequantize_4bit(q)
    np.testing.assert_array_equal(dequantize_4bit(q, out=memory), expected)
    memory[:] = 7
    np.testing.assert_array_equal(dequantize_4bit(q), expected)


@pytest.mark.parametrize("bad", [{"dtype": np.float64}, {"out": np.empty(64, np.int8)}])
def test_where_the_result_goes_is_looked_at_before_scales_are_decoded(bad):
    q = quantize_4bit_double(np.ones(64, F32))
    with pytest.raises(QuantcoreError, match=f"^{next(iter(bad))}: "):
        dequantize_4bit_double(q, n_threads=0, **bad)


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
    with pytest.raises(InvalidValueError, match=rf"^values: must be finite, got {bad} at flat index {where}( .*)?$"):
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
@pytest.mark.parametrize("quant_type", ["NF-4", "int8", "", None, 4, ["nf4"], np.zeros(2)])
def test_unknown_codes_are_refused(quant_type, quantize):
    with pytest.raises(InvalidValueError, match=r"^quant_type: expected one of .*nf4.*, got "):
        quantize(gaussian(64), quant_type=quant_type)


def test_unknown_codes_of_scales_are_refused():
    for scale_code in ("lines", "", None, 8, ["linear"], np.zeros(2)):
        with pytest.raises(InvalidValueError, match=r"^scale_code: expected one of linear, dynamic, got "):
            quantize_4bit_double(gaussian(64), scale_code=scale_code)
    with pytest.raises(InvalidValueError, match=r"^super_block_size: must be 256 for 'dynamic' scales, got 128$"):
        quantize_4bit_double(gaussian(64), scale_code="dynamic", super_block_size=128)

"""Every format holds the contract: shapes, ggml's bytes and values, any dtype, any number of threads, clear errors."""

import re
import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import GGUFQuantType, InvalidTypeError, InvalidValueError, dequantize, quantize
from quantcore.formats import SUPPORTED_TYPES
from tests import ggml, reference
from tests.contract import (
    BLOCK,
    DISTRIBUTIONS,
    F32,
    FORMATS,
    Format,
    Sample,
    assert_same_bytes,
    assert_same_floats,
    every_block_format,
    every_format,
    samples,
)

BF16 = np.dtype(ml_dtypes.bfloat16)
INPUT_DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16, np.dtype(np.float64)]
THREADED = 40_000  # blocks of 32: more than one chunk of work at every dtype, so that threads do start


def every_half() -> np.ndarray:
    """All 65536 patterns of 16 bits, as two bytes each."""
    return np.arange(65536, dtype="<u2").view(np.uint8).reshape(-1, 2)


def any_blocks(fmt: Format, rng: np.random.Generator) -> np.ndarray:
    """Random blocks, shape (65536, bytes), with every fp16 scale there is, or every value of a 16-bit type."""
    blocks = rng.integers(0, 256, (65536, fmt.bytes_per_block), dtype=np.uint8)
    blocks[:, -2 if fmt.block_size == 1 else 0 :][:, :2] = every_half()
    return blocks


# The facts


def test_every_supported_type_has_a_contract():
    assert {fmt.id for fmt in FORMATS} == set(SUPPORTED_TYPES)


@every_format
def test_layout_is_ggmls(fmt):
    qtype = GGUFQuantType[fmt.name]
    assert (qtype, qtype.block_size, qtype.bytes_per_block) == (fmt.id, fmt.block_size, fmt.bytes_per_block)
    assert ggml.type_sizes(fmt.id) == (fmt.name.lower(), fmt.block_size, fmt.bytes_per_block)


@pytest.mark.parametrize("qtype", GGUFQuantType, ids=lambda qtype: qtype.name)
def test_every_named_type_is_ggmls(qtype):
    assert ggml.type_sizes(qtype) == (qtype.name.lower(), qtype.block_size, qtype.bytes_per_block)
    assert qtype.bits_per_weight == 8 * qtype.bytes_per_block / qtype.block_size
    assert qtype.theoretical_compression == pytest.approx(32 / qtype.bits_per_weight)
    assert 0 <= qtype.bits_per_weight - qtype.bits < 1.1


@every_format
def test_type_is_named_by_member_name_or_id(fmt):
    values = DISTRIBUTIONS["gaussian"](np.random.default_rng(0), BLOCK)
    expected = quantize(values, fmt.id)
    for qtype in (GGUFQuantType[fmt.name], fmt.name, fmt.name.lower(), fmt.name.title()):
        np.testing.assert_array_equal(quantize(values, qtype), expected)
        assert_same_floats(dequantize(expected, qtype), dequantize(expected, fmt.id))


@pytest.mark.parametrize("qtype", ["", "Q4_9", "q4-0", " q4_0", "Q4_K", 4, -1, 12, 2**70, GGUFQuantType.Q6_K])
@pytest.mark.parametrize("function", [quantize, dequantize])
def test_unknown_type_is_refused(function, qtype):
    with pytest.raises(InvalidValueError, match=r"^qtype: .*Q4_0"):
        function(np.zeros(0, F32 if function is quantize else np.uint8), qtype)


@pytest.mark.parametrize("qtype", [None, 2.0, True, b"Q4_0", [], np.float32])
def test_what_is_no_type_is_refused(qtype):
    with pytest.raises(InvalidTypeError, match=r"^qtype: expected a GGUFQuantType, its name or its id, got "):
        quantize(np.zeros(0, F32), qtype)


# Shapes


@every_format
@pytest.mark.parametrize("shape", [(0,), (32,), (1, 96), (2, 3, 64), (4, 0), (0, 32), (2, 0, 32), (1,) * 8 + (32,)])
def test_shape_rule_is_gguf_pys(fmt, shape):
    gguf = pytest.importorskip("gguf")
    data = quantize(np.ones(shape, F32), fmt.id)
    expected = gguf.quants.quant_shape_to_byte_shape(shape, gguf.GGMLQuantizationType(fmt.id))
    assert (data.dtype, data.shape) == (np.uint8, expected)
    values = dequantize(data, fmt.id)
    assert (values.dtype, values.shape) == (F32, shape)
    assert data.flags.c_contiguous and values.flags.c_contiguous


@every_block_format
@pytest.mark.parametrize("shape", [(1,), (31,), (33,), (2, 16), (32, 31), (0, 5)])
def test_last_axis_must_be_whole_blocks(fmt, shape):
    with pytest.raises(InvalidValueError, match=rf"^values: .*{re.escape(str(shape))}.*{fmt.name}.* 32$"):
        quantize(np.ones(shape, F32), fmt.id)


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt.bytes_per_block > 1], ids=str)
def test_last_axis_must_be_whole_blocks_of_bytes(fmt):
    for shape in ((1,), (fmt.bytes_per_block + 1,), (fmt.bytes_per_block, fmt.bytes_per_block - 1)):
        with pytest.raises(InvalidValueError, match=rf"^data: .*{re.escape(str(shape))}.* {fmt.bytes_per_block} bytes"):
            dequantize(np.zeros(shape, np.uint8), fmt.id)


# The same bytes and values as others


@every_format
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_equals_reference(fmt, kind, rng):
    values = fmt.in_range(DISTRIBUTIONS[kind](rng, 150 * BLOCK))
    data = quantize(values, fmt.id)
    assert_same_bytes(data, reference.quantize(values, fmt.name), fmt, values.reshape(-1, BLOCK))
    assert_same_floats(dequantize(data, fmt.id), reference.dequantize(data, fmt.name))


@every_format
def test_equals_ggml_on_a_million_blocks(fmt, rng):
    """Types without blocks make do with a tenth."""
    n_rows, n_blocks = 2750 if fmt.block_size > 1 else 275, 0
    for kind, distribution in DISTRIBUTIONS.items():
        values = fmt.in_range(distribution(rng, n_rows * 1024)).reshape(n_rows, 1024)
        blocks = values.reshape(-1, BLOCK)
        blocks[~fmt.is_defined(blocks)] = 0
        data = quantize(values, fmt.id, n_threads=int(rng.integers(1, 9)))
        assert_same_bytes(data, ggml.quantize(values, fmt.id), fmt, blocks)
        assert_same_floats(dequantize(data, fmt.id), ggml.dequantize(data, fmt.id))
        n_blocks += np.count_nonzero(blocks.any(axis=1)) if kind != "zeros of both signs" else len(blocks)
    assert n_blocks >= (1_000_000 if fmt.block_size > 1 else 100_000)


@every_format
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_equals_gguf_py(fmt, kind, rng):
    """But for zeros: gguf-py takes the sign of a block of zeros from its first one, ggml takes none."""
    gguf = pytest.importorskip("gguf")
    blocks = fmt.in_range(DISTRIBUTIONS[kind](rng, 2000 * BLOCK)).reshape(-1, BLOCK)
    blocks = blocks[fmt.is_defined(blocks)]
    if fmt.block_size > 1:
        blocks += F32(0)  # no -0.0
    qtype = gguf.GGMLQuantizationType(fmt.id)
    theirs = np.ascontiguousarray(gguf.quants.quantize(blocks, qtype)).view(np.uint8)
    ours = quantize(blocks, fmt.id)
    assert_same_bytes(ours, theirs.tobytes(), fmt, blocks)
    assert_same_floats(dequantize(ours, fmt.id), gguf.quants.dequantize(ours, qtype))


@every_format
def test_any_bytes_decode_as_ggml_decodes_them(fmt, rng):
    blocks = any_blocks(fmt, rng)
    values = dequantize(blocks, fmt.id, strict=False)
    assert_same_floats(values, ggml.dequantize(blocks, fmt.id))
    some = rng.integers(0, len(blocks), 2000)
    assert_same_floats(values[some], reference.dequantize(blocks[some], fmt.name))


# Dtypes and threads


@every_format
@pytest.mark.parametrize("dtype", INPUT_DTYPES, ids=str)
def test_input_dtype_equals_converting_first(fmt, dtype, rng):
    for distribution in DISTRIBUTIONS.values():
        values = distribution(rng, 100 * BLOCK).astype(np.float64) * (1 + rng.uniform(-1e-7, 1e-7, 100 * BLOCK))
        with np.errstate(over="ignore"):
            values = values.astype(dtype)
            values[~(np.abs(values.astype(F32)) < F32(fmt.limit))] = 0
        np.testing.assert_array_equal(quantize(values, fmt.id), quantize(values.astype(F32), fmt.id))


@every_format
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BF16], ids=str)
def test_every_half_is_read_right(fmt, dtype):
    values = every_half().view(dtype).reshape(-1)
    values = values[np.abs(values.astype(F32)) < F32(fmt.limit)]  # drops NaN too
    values = values[: values.size // BLOCK * BLOCK]
    np.testing.assert_array_equal(quantize(values, fmt.id), quantize(values.astype(F32), fmt.id))


@every_format
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BF16], ids=str)
def test_output_dtype_equals_converting_afterwards(fmt, dtype, rng):
    """Values beyond the dtype become inf, and NaN stays NaN."""
    blocks = any_blocks(fmt, rng)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        expected = dequantize(blocks, fmt.id, strict=False).astype(dtype)
    ours = dequantize(blocks, fmt.id, dtype=dtype, strict=False)
    assert (ours.dtype, ours.shape) == (dtype, expected.shape)
    assert_same_floats(ours, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.uint8, complex, None, object, "V4", "f4,f4"])
def test_other_output_dtypes_are_refused(dtype):
    with pytest.raises(InvalidTypeError, match=r"^dtype: expected float32, float16 or bfloat16, got "):
        dequantize(b"", "Q8_0", dtype=dtype)


@pytest.mark.parametrize("dtype", ["", "float33", 32, [()], "f4,(", {"names": ["a"], "formats": []}])
def test_what_is_no_dtype_is_refused(dtype):
    with pytest.raises(InvalidTypeError, match=r"^dtype: "):
        dequantize(b"", "Q8_0", dtype=dtype)


@every_format
def test_number_of_threads_does_not_change_anything(fmt, rng):
    values = fmt.in_range(DISTRIBUTIONS["log-uniform scales"](rng, THREADED * BLOCK)).reshape(-1, BLOCK)
    blocks = np.tile(any_blocks(fmt, rng), (32 // fmt.block_size, 1))
    data = quantize(values, fmt.id, n_threads=1)
    decoded = dequantize(blocks, fmt.id, strict=False, n_threads=1)
    for n_threads in range(2, 9):
        assert quantize(values, fmt.id, n_threads=n_threads).tobytes() == data.tobytes()
        assert_same_floats(dequantize(blocks, fmt.id, strict=False, n_threads=n_threads), decoded)


# Properties


@every_format
@given(sample=samples)
def test_values_are_a_fixed_point(fmt, sample: Sample):
    values = dequantize(quantize(sample.blocks(fmt), fmt.id), fmt.id)
    again = dequantize(quantize(values, fmt.id), fmt.id)
    np.testing.assert_array_equal(again, values)


@every_format
@given(sample=samples)
def test_sign_symmetry(fmt, sample: Sample):
    blocks = sample.blocks(fmt)
    values = dequantize(quantize(blocks, fmt.id), fmt.id)
    np.testing.assert_array_equal(dequantize(quantize(-blocks, fmt.id), fmt.id), -values)


@every_format
@given(sample=samples, where=st.floats(0, 1, exclude_max=True))
def test_a_block_changes_only_its_own_bytes(fmt, sample: Sample, where: float):
    values = sample.blocks(fmt).reshape(-1, fmt.block_size)
    changed = int(where * len(values))
    before = quantize(values, fmt.id)
    values[changed] = fmt.in_range(values[changed] * F32(0.75) + F32(1))
    after = quantize(values, fmt.id)
    np.testing.assert_array_equal(np.delete(after, changed, axis=0), np.delete(before, changed, axis=0))
    np.testing.assert_array_equal(after[changed], quantize(values[changed], fmt.id))


@every_block_format
@given(sample=samples)
def test_error_is_bounded(fmt, sample: Sample):
    blocks = sample.blocks(fmt)
    data = quantize(blocks, fmt.id)
    error = np.abs(blocks.astype(np.float64) - dequantize(data, fmt.id))
    scales = np.ascontiguousarray(data[:, :2]).view(np.float16)[:, 0]
    assert (error <= fmt.error_bound(blocks, scales)).all()


@every_block_format
@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_sqnr(fmt, kind, rng):
    values = DISTRIBUTIONS[kind](rng, 1 << 20)
    error = values - dequantize(quantize(values, fmt.id), fmt.id)
    sqnr = 10 * np.log10(np.square(values, dtype=np.float64).sum() / np.square(error, dtype=np.float64).sum())
    assert sqnr == pytest.approx(fmt.sqnr_gaussian if kind == "gaussian" else fmt.sqnr_uniform, abs=0.1)


# Edges, worked out by hand


def block_of(*values: float) -> np.ndarray:
    """A block of 32 that begins with the values and ends with zeros."""
    return np.array([*values, *[0.0] * (BLOCK - len(values))], F32)


@pytest.mark.parametrize(
    ("name", "values", "d", "codes"),
    [
        ("Q4_0", [0.0, -0.0], -0.0, [8, 8]),
        ("Q4_0", [-0.0, 0.0], -0.0, [8, 8]),
        ("Q4_0", [-8, 8, 7, 7.5, 6.5, -6.5, 0.5, -0.5], 1, [0, 15, 15, 15, 15, 2, 9, 8]),
        ("Q4_0", [8, -8, 7, 7.5, 6.5, -6.5, 0.5, -0.5], -1, [0, 15, 1, 1, 2, 15, 8, 9]),
        ("Q4_0", [2.0**-30, -(2.0**-30)], -0.0, [0, 15]),  # the scale underflows: decodes to zeros
        ("Q4_0", [1e-39, -1e-39], -0.0, [8, 8]),  # the inverse would be infinite
        ("Q4_0", [-(2.0**-21), 2.0**-21], 2.0**-24, [0, 15]),  # a subnormal scale
        ("Q8_0", [0.0, -0.0], 0, [0, 0]),
        ("Q8_0", [-127, 127, 126.5, 0.5, -0.5, 1.5, -1.5, 0.49999997], 1, [-127, 127, 127, 1, -1, 2, -2, 0]),
        ("Q8_0", [127 * 2.0**-30, -(2.0**-30)], 0, [127, -1]),
        ("Q8_0", [1e-39, -1e-39], 0, [0, 0]),
        ("Q8_0", [-127 * 2.0**-24, 2.0**-24], 2.0**-24, [-127, 1]),
        ("Q8_0", [127 * 2.0**-25, 0], 0, [127, 0]),  # half of the smallest fp16: to even
    ],
)
def test_codes_worked_out_by_hand(name, values, d, codes):
    data = quantize(block_of(*values), name)
    scale, qs = data[:2].view(np.float16)[0], data[2:]
    assert (scale, np.signbit(scale)) == (d, np.signbit(d))
    ours = (qs & 15 if name == "Q4_0" else qs.view(np.int8))[: len(codes)]
    assert ours.tolist() == codes


def test_q4_0_nibbles_are_in_ggmls_order():
    data = quantize(np.arange(-16, 16, dtype=F32) / 2, "Q4_0")
    assert data[2:].tolist() == [(j // 2 + 8 + j % 2 << 4 if j < 15 else 15 << 4) | (j + 1) // 2 for j in range(16)]


@pytest.mark.parametrize(
    ("name", "value", "bits"),
    [
        ("F16", 1 + 2.0**-11, 0x3C00),  # ties go to even
        ("F16", 1 + 3 * 2.0**-11, 0x3C02),
        ("F16", 2.0**-25, 0x0000),
        ("F16", -3 * 2.0**-25, 0x8002),
        ("F16", 65519.996, 0x7BFF),
        ("F16", 2.0**-14 - 2.0**-26, 0x0400),  # rounds up to the smallest normal
        ("F16", 1e-45, 0x0000),
        ("BF16", 1 + 2.0**-8, 0x3F80),
        ("BF16", 1 + 3 * 2.0**-8, 0x3F82),
        ("BF16", -0.0, 0x8000),
        ("BF16", 2.0**-133, 0x0001),  # subnormals are kept
        ("BF16", 2.0**-134, 0x0000),
        ("BF16", 1e-45, 0x0000),
        ("F32", 1e-45, 0x00000001),
        ("F32", -0.0, 0x80000000),
    ],
)
def test_rounding_worked_out_by_hand(name, value, bits):
    assert int.from_bytes(quantize(np.array([value], F32), name).tobytes(), "little") == bits


# What is refused


def last_below(limit: float) -> np.float32:
    """The largest float32 below a limit."""
    return np.nextafter(F32(limit), F32(0))


@every_format
@pytest.mark.parametrize("sign", [1, -1])
def test_values_up_to_the_limit(fmt, sign):
    value = sign * last_below(fmt.limit)
    decoded = dequantize(quantize(block_of(1, value), fmt.id), fmt.id)
    assert np.isfinite(decoded).all()
    assert decoded[1] == pytest.approx(float(value), rel=2.0**-8)


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        (f, t)
        for f in FORMATS
        for t in INPUT_DTYPES
        if f.limit <= float(ml_dtypes.finfo(t).max) and np.isfinite(f.limit)
    ],
    ids=str,
)
@pytest.mark.parametrize("sign", [1, -1])
def test_overflow_names_the_block_and_the_value(fmt, dtype, sign):
    values = np.zeros((7, 96), dtype)
    values[4, 37] = values[5, 1] = sign * fmt.limit
    block = r" \(block 13\)" if fmt.block_size > 1 else ""
    pattern = rf"^values: (\S+) at flat index 421{block} is too large for {fmt}$"
    with pytest.raises(InvalidValueError, match=pattern) as error:
        quantize(values, fmt.id)
    assert float(re.match(pattern, str(error.value))[1]) == pytest.approx(float(values[4, 37]), rel=1e-7)


@every_format
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", INPUT_DTYPES, ids=str)
def test_what_is_not_finite_is_named(fmt, value, dtype):
    values = np.zeros(THREADED * BLOCK, dtype)
    for where in (values.size - 1, values.size // 2 + 5, 4096, 31, 0):
        values[where] = value
        with pytest.raises(InvalidValueError, match=rf"^values: must be finite, got {value} at flat index {where}$"):
            quantize(values, fmt.id)


@every_format
def test_first_of_several_is_named_whatever_the_threads(fmt, rng):
    values = np.zeros((500, 40_000), F32)
    flat = values.reshape(-1)
    for n_threads in range(1, 9):
        where = np.sort(rng.integers(0, flat.size, 9))
        flat[where] = np.nan
        with pytest.raises(InvalidValueError, match=rf" nan at flat index {where[0]}$"):
            quantize(values, fmt.id, n_threads=n_threads)
        flat[where] = 0


@every_format
@pytest.mark.parametrize("value", [1e39, -1e300, 3.4028235677973366e38])
def test_float64_beyond_float32(fmt, value):
    """The last of the values is the smallest that rounds to an infinite float32."""
    values = np.zeros((3, 64))
    values[1, 40] = value
    message = rf"^values: {re.escape(str(value))} at flat index 104 is beyond the range of float32"
    with pytest.raises(InvalidValueError, match=message):
        quantize(values, fmt.id)
    if fmt.name == "F32":
        values[1, 40] = np.nextafter(3.4028235677973366e38, 0)
        np.testing.assert_array_equal(dequantize(quantize(values, "F32"), "F32"), values.astype(F32))


@every_format
@pytest.mark.parametrize("where", [0, 1, 65536, 99_999])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_scales_that_are_not_finite(fmt, where, n_threads):
    """Refused by the first such block; let through on request, and all other blocks are decoded all the same."""
    exponent_all_ones = {"F32": b"\0\0\x80\xff", "BF16": b"\x81\xff"}.get(fmt.name, b"\x00\xfc")
    good = quantize(np.ones(fmt.block_size, F32), fmt.id)
    data = np.tile(good, (100_000, 1))
    data[where:, : len(exponent_all_ones)] = np.frombuffer(exponent_all_ones, np.uint8)
    with pytest.raises(InvalidValueError, match=rf"^data: block {where} of {fmt} "):
        dequantize(data, fmt.id, n_threads=n_threads)
    data[where + 1 :] = good
    values = dequantize(data, fmt.id, strict=False, n_threads=n_threads)
    assert not np.isfinite(values[where]).all()
    assert (np.delete(values, where, axis=0) == dequantize(good, fmt.id)).all()


# out=


@every_format
def test_out_is_filled_and_returned(fmt, rng):
    values = fmt.in_range(DISTRIBUTIONS["gaussian"](rng, 8 * BLOCK)).reshape(2, -1)
    data = quantize(values, fmt.id)
    out = np.full(data.shape, 0xAA, np.uint8)
    assert quantize(values, fmt.id, out=out) is out
    np.testing.assert_array_equal(out, data)
    for dtype in (np.dtype(F32), np.dtype(np.float16), BF16):
        decoded = np.full(values.shape, 7, dtype)
        assert dequantize(data, fmt.id, dtype=dtype, out=decoded) is decoded
        assert_same_floats(decoded, dequantize(data, fmt.id, dtype=dtype))


def unfit_outs(shape: tuple[int, ...], dtype: np.dtype) -> dict[str, np.ndarray]:
    """Arrays that are no `out=` for the shape and dtype, by the word that the error must say."""
    read_only = np.zeros(shape, dtype)
    read_only.flags.writeable = False
    swapped_or_wide = dtype.newbyteorder() if dtype.itemsize > 1 else np.dtype(np.int8)
    return {
        "read-only": read_only,
        "dtype": np.zeros(shape, swapped_or_wide),
        "dtype float64": np.zeros(shape, np.float64),
        "shape": np.zeros((*shape[:-1], shape[-1] + 1), dtype),
        "shape of one axis": np.zeros(np.prod(shape), dtype),
        "C-contiguous": np.zeros((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2],
        "C-contiguous (reversed)": np.zeros(shape, dtype)[::-1],
        "C-contiguous (Fortran)": np.zeros(shape, dtype, order="F"),
    }


@every_format
def test_unfit_out_is_refused(fmt):
    values = np.ones((3, 64), F32)
    data = quantize(values, fmt.id)
    for word, out in unfit_outs(data.shape, data.dtype).items():
        with pytest.raises(InvalidValueError, match=f"^out: .*{word.split()[0]}"):
            quantize(values, fmt.id, out=out)
    for word, out in unfit_outs(values.shape, values.dtype).items():
        with pytest.raises(InvalidValueError, match=f"^out: .*{word.split()[0]}"):
            dequantize(data, fmt.id, out=out)


def test_misaligned_out_is_refused():
    data = quantize(np.ones((3, 64), F32), "Q8_0")
    out = np.zeros(3 * 64 * 4 + 1, np.uint8)[1:].view(F32).reshape(3, 64)
    with pytest.raises(InvalidValueError, match=r"^out: must be aligned"):
        dequantize(data, "Q8_0", out=out)


@pytest.mark.parametrize("out", [[0] * 34, bytearray(34), memoryview(bytearray(34)), "out"])
def test_out_that_is_no_array_is_refused(out):
    with pytest.raises(InvalidTypeError, match=r"^out: expected a numpy.ndarray, got "):
        quantize(np.ones(32, F32), "Q8_0", out=out)


VIEWS = {
    "whole": lambda array: array,
    "rows reversed": lambda array: array[::-1],
    "columns reversed": lambda array: array[:, ::-1],
    "transposed": lambda array: array.T,
}


@every_format
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_out_that_shares_memory_with_values_is_refused(fmt, view):
    """Also where the input is copied first: the caller's values would be overwritten."""
    memory = np.ones((64, 64), F32)
    out = memory.view(np.uint8).reshape(-1)[-fmt.nbytes(memory.size) :].reshape(64, -1)
    with pytest.raises(InvalidValueError, match=r"^out: shares memory with the input$"):
        quantize(view(memory), fmt.id, out=out)
    assert (memory == 1).all()


@every_format
@pytest.mark.parametrize("view", [VIEWS["whole"], VIEWS["rows reversed"]], ids=["whole", "rows reversed"])
def test_out_that_shares_memory_with_data_is_refused(fmt, view):
    memory = np.zeros((64, 64), F32)
    data = memory.view(np.uint8).reshape(-1)[: fmt.nbytes(memory.size)].reshape(64, -1)
    with pytest.raises(InvalidValueError, match=r"^out: shares memory with the input$"):
        dequantize(view(data), fmt.id, out=memory)


@every_format
def test_out_may_be_a_neighbour_of_the_input(fmt):
    """In the same memory, right behind the values, or between their rows."""
    memory = np.ones((2, 128, 64), F32)
    expected = quantize(memory[0, :64], fmt.id)
    behind = memory[1].view(np.uint8).reshape(-1)[: expected.size].reshape(expected.shape)
    np.testing.assert_array_equal(quantize(memory[0, :64], fmt.id, out=behind), expected)
    between = memory[0, 1].view(np.uint8)[None, : expected.shape[1]]
    np.testing.assert_array_equal(quantize(memory[0, 0:4:3], fmt.id)[:1], quantize(memory[0, :1], fmt.id, out=between))

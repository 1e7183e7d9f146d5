"""Every format holds the contract: shapes, ggml's bytes and values, any dtype, any number of threads, clear errors."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import GGUFQuantType, InvalidTypeError, InvalidValueError, dequantize, quantize
from quantcore.formats import SUPPORTED_TYPES
from tests import ggml, reference
from tests.contract import (
    BF16,
    BLOCK,
    DISTRIBUTIONS,
    F32,
    FORMATS,
    INPUT_DTYPES,
    THREADED,
    Format,
    Sample,
    assert_same_bytes,
    assert_same_floats,
    every_block_format,
    every_format,
    samples,
)


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

"""Every format holds the contract: shapes, ggml's bytes and values, any dtype, any number of threads, clear errors."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import GGUFQuantType, InvalidTypeError, InvalidValueError, dequantize, quantize
from quantcore.ggml import GGML_TYPES, SUPPORTED_TYPES
from tests.support import ggml, reference
from tests.support.contract import (
    BF16,
    DISTRIBUTIONS,
    F32,
    FORMATS,
    INPUT_DTYPES,
    Format,
    Sample,
    assert_same_bytes,
    assert_same_floats,
    beside_ggml,
    every_block_format,
    every_format,
    formats,
    samples,
)


def every_half() -> np.ndarray:
    """All 65536 patterns of 16 bits, as two bytes each."""
    return np.arange(65536, dtype="<u2").view(np.uint8).reshape(-1, 2)


def gguf_py_type(fmt: Format):
    """gguf-py's name of a format."""
    return pytest.importorskip("gguf").GGMLQuantizationType(fmt.id)


every_format_of_gguf_py = pytest.mark.parametrize("fmt", [f for f in FORMATS if f.name != "Q2_0"], ids=str)
QUANTIZED_BY_GGUF_PY = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")


def any_blocks(fmt: Format, rng: np.random.Generator) -> np.ndarray:
    """Random blocks, shape (65536, bytes), with every fp16 scale there is, or every value of a 16-bit type."""
    blocks = rng.integers(0, 256, (65536, fmt.bytes_per_block), dtype=np.uint8)
    for offset in fmt.scales:
        blocks[:, offset : offset + 2] = rng.permutation(every_half())
    return blocks


# The facts


def test_every_supported_type_has_a_contract():
    assert {fmt.id for fmt in FORMATS} == set(SUPPORTED_TYPES)


@every_format
def test_layout_is_ggmls(fmt):
    qtype = GGUFQuantType[fmt.name]
    assert (qtype, qtype.block_size, qtype.bytes_per_block) == (fmt.id, fmt.block_size, fmt.bytes_per_block)
    assert ggml.type_sizes(fmt.id) == (fmt.name.lower(), fmt.block_size, fmt.bytes_per_block)
    assert (GGML_TYPES[fmt.id].limit, GGML_TYPES[fmt.id].name) == (fmt.limit, fmt.name)


@pytest.mark.parametrize("qtype", GGUFQuantType, ids=lambda qtype: qtype.name)
def test_every_named_type_is_ggmls(qtype):
    assert ggml.type_sizes(qtype) == (qtype.name.lower(), qtype.block_size, qtype.bytes_per_block)
    assert qtype.bits_per_weight == 8 * qtype.bytes_per_block / qtype.block_size
    assert qtype.theoretical_compression == pytest.approx(32 / qtype.bits_per_weight)
    assert 0 <= qtype.bits_per_weight - qtype.bits < 1.1


@every_format
def test_type_is_named_by_member_name_or_id(fmt):
    values = fmt.draw("gaussian", np.random.default_rng(0), 1)
    expected = fmt.quantize(values)
    for qtype in (GGUFQuantType[fmt.name], fmt.name, fmt.name.lower(), fmt.name.title()):
        np.testing.assert_array_equal(quantize(values, qtype, imatrix=fmt.needed_weights(fmt.row)), expected)
        assert_same_floats(dequantize(expected, qtype), dequantize(expected, fmt.id))


WITHOUT_KERNELS = sorted(set(GGUFQuantType) - set(SUPPORTED_TYPES))


@pytest.mark.parametrize("qtype", ["", "Q4_9", "q4-0", " q4_0", "Q8_K", "I8", 4, 9, 24, -1, 2**70, *WITHOUT_KERNELS])
@pytest.mark.parametrize("function", [quantize, dequantize])
def test_unknown_type_is_refused(function, qtype):
    with pytest.raises(InvalidValueError, match=r"^qtype: .*Q4_0"):
        function(np.zeros(0, F32 if function is quantize else np.uint8), qtype)


@pytest.mark.parametrize("qtype", [None, 2.0, True, b"Q4_0", [], np.float32])
def test_what_is_no_type_is_refused(qtype):
    with pytest.raises(InvalidTypeError, match=r"^qtype: expected a GGUFQuantType, its name or its id, got "):
        quantize(np.zeros(0, F32), qtype)


# Shapes


@every_format_of_gguf_py
@pytest.mark.parametrize("rows", [(0,), (1,), (1, 3), (2, 3, 2), (4, 0), (0, 1), (2, 0, 1), (1,) * 8 + (1,)])
def test_shape_rule_is_gguf_pys(fmt, rows):
    gguf = pytest.importorskip("gguf")
    shape = (*rows[:-1], rows[-1] * fmt.row)
    data = fmt.quantize(np.ones(shape, F32))
    expected = gguf.quants.quant_shape_to_byte_shape(shape, gguf_py_type(fmt))
    assert (data.dtype, data.shape) == (np.uint8, expected)
    values = dequantize(data, fmt.id)
    assert (values.dtype, values.shape) == (F32, shape)
    assert data.flags.c_contiguous and values.flags.c_contiguous


@every_block_format
@pytest.mark.parametrize("shape", [(1,), (31,), (33,), (2, 16), (32, 31), (0, 5), (257,)])
def test_last_axis_must_be_whole_blocks(fmt, shape):
    with pytest.raises(InvalidValueError, match=rf"^values: .*{re.escape(str(shape))}.*{fmt.name}.* {fmt.block_size}$"):
        fmt.quantize(np.ones(shape, F32))


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt.bytes_per_block > 1], ids=str)
def test_last_axis_must_be_whole_blocks_of_bytes(fmt):
    for shape in ((1,), (fmt.bytes_per_block + 1,), (fmt.bytes_per_block, fmt.bytes_per_block - 1)):
        with pytest.raises(InvalidValueError, match=rf"^data: .*{re.escape(str(shape))}.* {fmt.bytes_per_block} bytes"):
            dequantize(np.zeros(shape, np.uint8), fmt.id)


# The same bytes and values as others


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt.name in reference.FORMATS], ids=str)
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_equals_reference(fmt, kind, rng):
    values = fmt.draw(kind, rng, 150).reshape(-1)
    data = fmt.quantize(values)
    assert_same_bytes(data, reference.quantize(values, fmt.name), fmt, values.reshape(-1, fmt.row))
    assert_same_floats(dequantize(data, fmt.id), reference.dequantize(data, fmt.name))


@beside_ggml(FORMATS)
@pytest.mark.parametrize("n_elements", [200_000, pytest.param(None, id="full", marks=pytest.mark.slow)])
def test_equals_ggml(fmt, n_elements, rng):
    """On rows of 1024, by any number of threads, and what ggml decodes of it."""
    n_rows = max(1, (n_elements or fmt.n_in_full) // 1024 // len(DISTRIBUTIONS) + 1)
    for kind in DISTRIBUTIONS:
        values = fmt.draw(kind, rng, n_rows * 1024 // fmt.row).reshape(n_rows, 1024)
        rows = values.reshape(-1, fmt.row)
        rows[~fmt.is_defined(rows)] = 0
        data = fmt.quantize(values, n_threads=int(rng.integers(1, 9)))
        assert_same_bytes(data, fmt.quantize_by_ggml(values), fmt, rows)
        assert_same_floats(dequantize(data, fmt.id), ggml.dequantize(data, fmt.id))


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.name in QUANTIZED_BY_GGUF_PY], ids=str)
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_equals_gguf_py(fmt, kind, rng):
    """Except for zeros: gguf-py takes the sign of a block of zeros from its first element, ggml does not."""
    gguf = pytest.importorskip("gguf")
    rows = fmt.draw(kind, rng, 2000)
    rows = rows[fmt.is_defined(rows)]
    if fmt.block_size > 1:
        rows += F32(0)  # no -0.0
    qtype = gguf_py_type(fmt)
    with np.errstate(all="ignore"):
        theirs = np.ascontiguousarray(gguf.quants.quantize(rows, qtype)).view(np.uint8)
    ours = fmt.quantize(rows)
    assert_same_bytes(ours, theirs.tobytes(), fmt, rows)
    assert_same_floats(dequantize(ours, fmt.id), gguf.quants.dequantize(ours, qtype))


@every_format
def test_any_bytes_decode_as_ggml_decodes_them(fmt, rng):
    blocks = any_blocks(fmt, rng)
    values = dequantize(blocks, fmt.id, strict=False)
    assert_same_floats(values, ggml.dequantize(blocks, fmt.id))
    if fmt.name in reference.FORMATS:
        some = rng.integers(0, len(blocks), 2000)
        assert_same_floats(values[some], reference.dequantize(blocks[some], fmt.name))


# Dtypes and threads


@every_format
@pytest.mark.parametrize("dtype", INPUT_DTYPES, ids=str)
def test_input_dtype_equals_converting_first(fmt, dtype, rng):
    n = 100 * fmt.row
    for distribution in DISTRIBUTIONS.values():
        values = distribution(rng, n).astype(np.float64) * (1 + rng.uniform(-1e-7, 1e-7, n))
        with np.errstate(over="ignore"):
            values = values.astype(dtype)
            values[~(np.abs(values.astype(F32)) < F32(fmt.limit))] = 0
        np.testing.assert_array_equal(fmt.quantize(values), fmt.quantize(values.astype(F32)))


@every_format
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BF16], ids=str)
def test_every_half_is_read_right(fmt, dtype):
    values = every_half().view(dtype).reshape(-1)
    values = values[np.abs(values.astype(F32)) < F32(fmt.limit)]  # drops NaN too
    values = values[: values.size // fmt.row * fmt.row]
    np.testing.assert_array_equal(fmt.quantize(values), fmt.quantize(values.astype(F32)))


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
    values = fmt.draw("log-uniform scales", rng, fmt.n_threaded // fmt.row)
    blocks = np.tile(any_blocks(fmt, rng), (max(1, 32 // fmt.block_size), 1))
    data = fmt.quantize(values, n_threads=1)
    decoded = dequantize(blocks, fmt.id, strict=False, n_threads=1)
    for n_threads in range(2, 9):
        assert fmt.quantize(values, n_threads=n_threads).tobytes() == data.tobytes()
        assert_same_floats(dequantize(blocks, fmt.id, strict=False, n_threads=n_threads), decoded)


# Properties


@formats(is_fixed_point=True)
@given(sample=samples)
def test_values_are_a_fixed_point(fmt, sample: Sample):
    values = dequantize(fmt.quantize(sample.rows(fmt)), fmt.id)
    again = dequantize(fmt.quantize(values), fmt.id)
    np.testing.assert_array_equal(again, values)


@formats(is_odd=True)
@given(sample=samples)
def test_sign_symmetry(fmt, sample: Sample):
    rows = sample.rows(fmt)
    values = dequantize(fmt.quantize(rows), fmt.id)
    np.testing.assert_array_equal(dequantize(fmt.quantize(-rows), fmt.id), -values)


@every_format
@given(sample=samples, where=st.floats(0, 1, exclude_max=True))
def test_a_block_changes_only_its_own_bytes(fmt, sample: Sample, where: float):
    values = sample.rows(fmt).reshape(-1, fmt.block_size)
    changed = int(where * len(values))
    before = fmt.quantize(values)
    values[changed] = fmt.in_range(values[changed] * F32(0.75) + F32(1))
    after = fmt.quantize(values)
    np.testing.assert_array_equal(np.delete(after, changed, axis=0), np.delete(before, changed, axis=0))
    np.testing.assert_array_equal(after[changed], fmt.quantize(values[changed]))


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt.name in ("Q4_0", "Q8_0")], ids=str)
@given(sample=samples)
def test_error_is_bounded(fmt, sample: Sample):
    blocks = sample.rows(fmt)
    data = fmt.quantize(blocks)
    error = np.abs(blocks.astype(np.float64) - dequantize(data, fmt.id))
    scales = np.ascontiguousarray(data[:, :2]).view(np.float16)[:, 0]
    assert (error <= fmt.error_bound(blocks, scales)).all()


@every_block_format
@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_sqnr(fmt, kind, rng):
    values = DISTRIBUTIONS[kind](rng, 1 << 20)
    error = values - dequantize(fmt.quantize(values), fmt.id)
    sqnr = 10 * np.log10(np.square(values, dtype=np.float64).sum() / np.square(error, dtype=np.float64).sum())
    assert sqnr == pytest.approx(fmt.sqnr_gaussian if kind == "gaussian" else fmt.sqnr_uniform, abs=0.1)

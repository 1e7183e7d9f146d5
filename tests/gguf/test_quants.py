"""`quantcore.gguf.quants` beside `gguf.quants`: calls, shapes, dtypes, errors, lazy tensors, and in its place."""

import re
import sys

import ml_dtypes
import numpy as np
import pytest

from quantcore import GGUFQuantType, QuantcoreError
from quantcore.ggml import GGML_TYPES, SUPPORTED_TYPES, ImatrixUse
from quantcore.gguf import quants
from tests.support import ggml
from tests.support.contract import FORMATS, Format, assert_same_floats, beside_ggml, every_format

gguf = pytest.importorskip("gguf")
theirs = gguf.quants
THEIR_TYPES = {int(t): t for t in gguf.GGMLQuantizationType}
BLOCK_TYPES = [t for t in SUPPORTED_TYPES if t not in (GGUFQuantType.F32, GGUFQuantType.F16)]
every_block_type = pytest.mark.parametrize("qtype", BLOCK_TYPES, ids=lambda t: t.name)


def named(fmt: Format):
    """gguf-py's member where it knows the type, else ours."""
    return THEIR_TYPES.get(fmt.id, GGUFQuantType(fmt.id))


def outcome(function, *arguments):
    """What a function returns, or the built-in kind of its error."""
    try:
        return function(*arguments)
    except (ValueError, KeyError, NotImplementedError) as error:
        return next(kind for kind in (NotImplementedError, KeyError, ValueError) if isinstance(error, kind))


# As gguf-py's own test of its module has it: both ways beside the C code, with a row of zeros, and any bytes decoded.


def like_bytes(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values).view(np.uint8).tobytes()


@beside_ggml(FORMATS)
@pytest.mark.parametrize("rows", [(2, 16), pytest.param((8, 1024), id="full", marks=pytest.mark.slow)])
def test_equals_ggml_both_ways(fmt, rows, rng):
    values = rng.standard_normal((*rows, 1024)).astype(np.float32)
    values[0, 0] = 0
    qtype, weights = named(fmt), None
    if fmt.imatrix is ImatrixUse.REQUIRED:
        weights = np.square(values).sum(axis=(0, 1))
        with pytest.raises(NotImplementedError, match=r"needs an importance matrix: quantcore\.quantize"):
            quants.quantize(values, qtype)
    if fmt.block_size == 256 and GGUFQuantType(fmt.id).layout.work >= 64:
        values = values[:1, :200]  # the reference takes minutes for more
    packed = ggml.quantize(values.reshape(-1, 1024), fmt.id, weights)
    if weights is None:
        assert like_bytes(quants.quantize(values, qtype)) == packed
    raw = np.frombuffer(packed, np.uint8).reshape(*values.shape[:-1], -1)
    decoded = quants.dequantize(raw, qtype)
    assert (decoded.dtype, decoded.shape) == (np.float32, values.shape)
    assert_same_floats(decoded, ggml.dequantize(raw, fmt.id))


@every_format
@pytest.mark.parametrize("rows", [(2, 16), pytest.param((8, 1024), id="full", marks=pytest.mark.slow)])
def test_random_halves_decode_as_ggml_decodes_them(fmt, rows, rng):
    shape = quants.quant_shape_to_byte_shape((*rows, 512), named(fmt))
    raw = rng.random(shape).astype(np.float16).view(np.uint8)
    assert_same_floats(quants.dequantize(raw, named(fmt)), ggml.dequantize(raw, fmt.id))


@every_format
def test_any_bytes_decode_without_a_warning_or_refusal(fmt, rng):
    raw = rng.integers(0, 256, (500, fmt.nbytes(fmt.row)), dtype=np.uint8)
    assert_same_floats(quants.dequantize(raw, named(fmt)), ggml.dequantize(raw, fmt.id))


# Beside gguf-py


def test_public_names_are_gguf_pys():
    ours = {name for name in vars(theirs) if name[0] != "_" and isinstance(getattr(theirs, name), type)}
    classes = {name for name in ours if getattr(theirs, name).__module__ == theirs.__name__}
    assert "Q4_K" in classes and "QuantError" in classes
    assert classes | {"quantize", "dequantize"} <= set(quants.__all__)
    assert set(theirs._type_traits) <= set(quants._type_traits) <= set(gguf.GGML_QUANT_SIZES)
    with pytest.raises(AttributeError, match=r"'quantcore\.gguf\.quants' has no attribute 'Q9_9'"):
        _ = quants.Q9_9


@pytest.mark.parametrize("qtype", [t for t in gguf.GGMLQuantizationType if t.name != "Q8_1"], ids=lambda t: t.name)
@pytest.mark.parametrize("function", ["quant_shape_to_byte_shape", "quant_shape_from_byte_shape"])
def test_shapes_equal_gguf_pys(function, qtype):
    """But those of Q8_1, for which gguf-py has the 40 bytes that it took once; ggml says 36."""
    for last in {0, 1, 32, 33, 256, 512, 2 * 3 * 5 * 7, *gguf.GGML_QUANT_SIZES[qtype]}:
        for rows in ((), (3,), [2, 0]):
            shape = (*rows, last)
            expected = outcome(getattr(theirs, function), shape, qtype)
            assert outcome(getattr(quants, function), shape, qtype) == expected
            if expected is ValueError:
                with pytest.raises(ValueError) as our_error:
                    getattr(quants, function)(shape, qtype)
                with pytest.raises(ValueError) as their_error:
                    getattr(theirs, function)(shape, qtype)
                assert str(our_error.value) == str(their_error.value)


@pytest.mark.parametrize("function", ["quant_shape_to_byte_shape", "quant_shape_from_byte_shape"])
def test_sizes_of_unknown_types(function):
    with pytest.raises(KeyError) as error:
        getattr(quants, function)((32,), 5)
    assert isinstance(error.value, QuantcoreError) and str(error.value) == "quant_type: unknown type 5"
    with pytest.raises(TypeError, match=r"^qtype: expected a GGMLQuantizationType or its value, got 'Q4_0'$"):
        getattr(quants, function)((32,), "Q4_0")


@pytest.mark.parametrize("qtype", gguf.GGMLQuantizationType, ids=lambda t: t.name)
def test_types_that_gguf_py_refuses_too(qtype):
    """Whatever gguf-py can do is done here; what neither can do has the same kind of error."""
    block, size = gguf.GGML_QUANT_SIZES[qtype]
    for function, array in (("quantize", np.zeros(block, np.float32)), ("dequantize", np.zeros(size, np.uint8))):
        expected = outcome(getattr(theirs, function), array, qtype)
        found = outcome(getattr(quants, function), array, qtype)
        if isinstance(expected, np.ndarray):
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        else:
            needs_weights = function == "quantize" and GGML_TYPES[qtype].imatrix is ImatrixUse.REQUIRED
            assert expected is NotImplementedError
            assert isinstance(found, np.ndarray) == (qtype in SUPPORTED_TYPES and not needs_weights)
            assert isinstance(found, np.ndarray) or found is NotImplementedError


def test_unknown_types_are_not_implemented():
    with pytest.raises(NotImplementedError, match=r"^Quantization for I8 is not yet implemented$"):
        quants.quantize(np.zeros(32, np.float32), gguf.GGMLQuantizationType.I8)
    with pytest.raises(NotImplementedError, match=r"^Dequantization for 77 is not yet implemented$") as error:
        quants.dequantize(np.zeros(32, np.uint8), 77)
    assert isinstance(error.value, QuantcoreError)


@pytest.mark.parametrize("name", [t.name for t in theirs._type_traits])
def test_classes_equal_gguf_pys(name, rng):
    ours, other = getattr(quants, name), getattr(theirs, name)
    assert (ours.qtype, ours.block_size, ours.type_size) == (other.qtype, other.block_size, other.type_size)
    assert ours.can_quantize(np.zeros((2, ours.block_size))) and ours.__doc__.startswith(f"{name}: ")
    raw = rng.integers(0, 256, (64, ours.type_size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = other.dequantize(raw)
    for function in (ours.dequantize, ours.dequantize_blocks, ours.dequantize_rows):
        assert_same_floats(function(raw), expected)
    values = rng.standard_normal((4, 3, ours.block_size)).astype(np.float32)
    expected = outcome(other.quantize, values)
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(ours.quantize(values), expected)
        np.testing.assert_array_equal(ours.quantize_rows(values), expected)
        np.testing.assert_array_equal(ours.quantize_blocks(values[0]), expected[0])


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float64, np.int32, np.uint8, bool, ">f4", ml_dtypes.bfloat16], ids=str
)
def test_every_dtype_is_taken_as_gguf_py_takes_it(dtype, rng):
    values = (8 * rng.standard_normal((3, 256))).clip(0, 100).astype(dtype)
    for qtype in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
        found, expected = quants.quantize(values, qtype), theirs.quantize(values, qtype)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_plain_types_are_views_where_gguf_pys_are():
    values = np.arange(8, dtype=np.float32)
    assert quants.quantize(values, gguf.GGMLQuantizationType.F32) is values
    raw = values.view(np.uint8)
    assert np.shares_memory(quants.dequantize(raw, gguf.GGMLQuantizationType.F32), values)
    halves = quants.dequantize(values.astype(np.float16).view(np.uint8), gguf.GGMLQuantizationType.F16)
    np.testing.assert_array_equal(halves, values)


@every_block_type
def test_strided_signed_and_mapped_input(qtype, rng, tmp_path):
    raw = rng.integers(0, 256, (6, 3 * qtype.bytes_per_block), dtype=np.uint8)
    expected = quants.dequantize(raw, qtype)
    np.testing.assert_array_equal(quants.dequantize(raw.view(np.int8), qtype), expected)
    np.testing.assert_array_equal(quants.dequantize(np.asfortranarray(raw), qtype), expected)
    raw.tofile(tmp_path / "raw")
    mapped = np.memmap(tmp_path / "raw", np.uint8, "r", shape=raw.shape)
    np.testing.assert_array_equal(quants.dequantize(mapped, qtype), expected)


# Errors


@every_block_type
def test_rows_that_are_no_whole_blocks(qtype):
    if qtype.block_size > 1:
        for shape in ((qtype.block_size + 1,), (2, qtype.block_size - 1), ()):
            message = f"^Can't quantize tensor with shape {re.escape(str(shape))} to {qtype.name}$"
            for kind in (quants.QuantError, gguf.QuantError, ValueError, QuantcoreError):
                with pytest.raises(kind, match=message):
                    quants.quantize(np.zeros(shape, np.float32), qtype)
    with pytest.raises(ValueError, match=rf"^Quantized tensor bytes per row .* is not a multiple of {qtype.name} type"):
        quants.dequantize(np.zeros((2, qtype.bytes_per_block + 1), np.uint8), qtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_values_that_do_not_fit_are_quant_errors(value):
    """So that gguf-py's converters store the tensor as F16, saying so, rather than a block that decodes to nothing."""
    with pytest.raises(gguf.QuantError, match=r"^Can't quantize to Q4_0: values: "):
        quants.quantize(np.full((2, 32), value, np.float32), gguf.GGMLQuantizationType.Q4_0)


def test_quant_error_without_gguf_py(monkeypatch):
    monkeypatch.delitem(sys.modules, "gguf")
    with pytest.raises(quants.QuantError) as error:
        quants.quantize(np.zeros(3, np.float32), GGUFQuantType.Q4_0)
    assert type(error.value) is quants.QuantError
    assert set(quants._type_traits) == set(BLOCK_TYPES)


# Lazy tensors


@pytest.mark.parametrize("qtype", SUPPORTED_TYPES, ids=lambda t: t.name)
def test_lazy_tensors_stay_lazy(qtype, rng):
    values = rng.standard_normal((4, 2, 256)).astype(np.float32)
    calls = []
    source = gguf.LazyNumpyTensor(
        meta=gguf.LazyNumpyTensor.eager_to_meta(values), args=(values,), func=lambda a: calls.append(1) or a
    )
    their_type = THEIR_TYPES.get(int(qtype), qtype)
    lazy = quants.quantize(source, their_type)
    assert type(lazy) is gguf.LazyNumpyTensor
    if qtype.layout.imatrix is ImatrixUse.REQUIRED:
        assert calls == []
        with pytest.raises(NotImplementedError, match="needs an importance matrix"):
            gguf.LazyNumpyTensor.to_eager(lazy)
        return
    expected = quants.quantize(values, qtype)
    assert (lazy.dtype, lazy.shape, calls) == (expected.dtype, expected.shape, [])
    if qtype in BLOCK_TYPES:  # the others are views, which gguf-py's lazy tensors do not have
        restored = quants.dequantize(lazy, their_type)
        assert type(restored) is gguf.LazyNumpyTensor
        assert (restored.dtype, restored.shape, calls) == (np.float32, values.shape, [])
        decoded = gguf.LazyNumpyTensor.to_eager(restored)
        assert_same_floats(decoded, quants.dequantize(expected, qtype))
    np.testing.assert_array_equal(gguf.LazyNumpyTensor.to_eager(lazy), expected)
    assert calls == [1]


def test_lazy_rows_that_are_no_whole_blocks():
    lazy = gguf.LazyNumpyTensor.from_eager(np.zeros((2, 33), np.float32))
    with pytest.raises(gguf.QuantError, match=r"^Can't quantize tensor with shape \(2, 33\) to Q8_0$"):
        quants.quantize(lazy, gguf.GGMLQuantizationType.Q8_0)


# In the place of gguf.quants


def convert(path, tensors, qtype):
    """As converters with gguf-py do it: lazy tensors quantized by the package's names, F16 where one does not fit."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, values in tensors.items():
        data, stored = gguf.LazyNumpyTensor.from_eager(values), qtype
        try:
            data = gguf.quants.quantize(data, stored)
        except gguf.QuantError:
            stored = gguf.GGMLQuantizationType.F16
            data = gguf.quants.quantize(data, stored)
        writer.add_tensor(name, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_conversion_with_gguf_py(monkeypatch, tmp_path, rng):
    tensors = {f"blk.{i}.w": rng.standard_normal((4, 256 + 8 * i)).astype(np.float32) for i in range(3)}
    qtype = gguf.GGMLQuantizationType.Q8_0
    convert(tmp_path / "theirs.gguf", tensors, qtype)
    monkeypatch.setattr(gguf, "quants", quants)
    convert(tmp_path / "ours.gguf", tensors, qtype)
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()
    convert(tmp_path / "k.gguf", tensors, gguf.GGMLQuantizationType.Q4_K)  # which gguf-py cannot quantize
    read = gguf.GGUFReader(tmp_path / "k.gguf").tensors
    assert [t.tensor_type.name for t in read] == ["Q4_K", "F16", "F16"]
    np.testing.assert_array_equal(read[0].data, quants.quantize(tensors["blk.0.w"], gguf.GGMLQuantizationType.Q4_K))


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.id in THEIR_TYPES], ids=str)
def test_what_gguf_pys_own_test_asks_of_the_module(fmt, monkeypatch):
    """It lists the types by `_type_traits`, and finds out by zeros what the module can do."""
    monkeypatch.setattr(gguf, "quants", quants)
    types = (gguf.GGMLQuantizationType.F16, *gguf.quants._type_traits.keys())
    assert fmt.name == "F32" or fmt.id in types
    for qtype in types:
        if qtype == fmt.id:
            block, size = gguf.GGML_QUANT_SIZES[qtype]
            assert gguf.quants.dequantize(np.zeros(size, np.uint8), qtype).shape == (block,)
            found = outcome(gguf.quants.quantize, np.zeros(block, np.float32), qtype)
            assert isinstance(found, np.ndarray) or fmt.imatrix is ImatrixUse.REQUIRED

"""Whole models: `quantize_model` does to every tensor what `quantize` does, by the rules, slab by slab, or nothing.

What is written is read back with gguf-py, and what is read was written with it or with the safetensors library.
"""

import itertools
import string
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import Q4_0, Q8_0, dequantize, quantize
from quantcore.conversion import dequantize_model, gguf_pipeline, quantize_model
from quantcore.files.disk import OutputFile
from quantcore.ggml.types import GGML_TYPES
from quantcore.gguf import GGUFReader, GGUFWriter
from quantcore.gguf.layout import SCALAR_CODES, ValueType
from tests.support import models
from tests.support.marks import slow_but_first
from tests.support.model_files import DTYPES, MATRICES, SLAB, contents, fields, normal, write_model
from tests.support.models import Tensor, gguf, write_gguf

# Bytes


@pytest.mark.parametrize("target", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("origin", DTYPES)
@pytest.mark.usefixtures("small_slabs")
def test_each_tensor_is_what_quantize_gives(origin, target, tmp_path, out):
    tensors = {
        "long.weight": normal(7, 320, dtype=DTYPES[origin]),  # 4 slabs and a part of one; slabs end inside rows
        "slab.weight": normal(2, SLAB // 2, dtype=DTYPES[origin]),
        "blk.0.experts.weight": normal(3, 2, 96, dtype=DTYPES[origin]),
        "small.weight": normal(2, 32, dtype=DTYPES[origin]),
    }
    kept = {
        "long.bias": normal(5 * SLAB + 3, dtype=DTYPES[origin]),
        "blk.0.attn_norm.weight": normal(3, 1, dtype=DTYPES[origin]),
    }
    path = write_model(tmp_path / "in.gguf", *(tensors | kept).items())
    report = quantize_model(path, out, target, pure=True)
    assert contents(out) == {
        name: (target, values.shape, quantize(values, target).tobytes()) for name, values in tensors.items()
    } | {name: (origin, values.shape, values.tobytes()) for name, values in kept.items()}
    assert [(t.name, t.source_type, t.target_type, t.source_bytes, t.target_bytes) for t in report.tensors] == [
        (name, origin, type_name, (tensors | kept)[name].nbytes, len(data))
        for name, (type_name, _, data) in contents(out).items()
    ]
    assert report.notices == ()


@pytest.mark.parametrize("target", slow_but_first(["Q4_0", "F16"]))
def test_file_does_not_depend_on_slabs_threads_or_the_day(target, tmp_path, monkeypatch, out):
    path = write_model(
        tmp_path / "in.gguf",
        ("big.weight", normal(1100, 1024)),
        ("half.weight", normal(33, 96, dtype=np.float16)),
        ("norm", normal(999)),
    )
    quantize_model(path, out, target, n_threads=1)
    expected = out.read_bytes()
    assert contents(out)["big.weight"][2] == quantize(normal(1100, 1024), target).tobytes()
    for n_threads in (None, 2, 3, 4):
        quantize_model(path, out, target, n_threads=n_threads, force=True)
        assert out.read_bytes() == expected
    for n_elements in (256, 1 << 13, 1 << 20):
        monkeypatch.setattr(gguf_pipeline, "SLAB_ELEMENTS", n_elements)
        quantize_model(path, out, target, force=True)
        assert out.read_bytes() == expected


@pytest.mark.usefixtures("small_slabs")
def test_tensors_of_types_without_kernels_are_copied(tmp_path, out):
    rng = np.random.default_rng(0)
    integers = {np.dtype(t).name: rng.integers(-100, 100, 1500).astype(t) for t in ("i1", "i2", "i4", "i8")}
    blocks = {name: rng.integers(0, 256, (2, n_bytes), np.uint8) for name, n_bytes in (("Q6_K", 2100), ("MXFP4", 680))}
    path = write_model(
        tmp_path / "in.gguf",
        *integers.items(),
        *((f"{name}_norm.weight", data, name) for name, data in blocks.items()),
        ("table.weight", rng.integers(-9, 9, (4, 400)).astype(np.int32)),
        ("a.weight", normal(2, 64)),
    )
    before = contents(path)
    report = quantize_model(path, out, "Q8_0")
    after = contents(out)
    assert {n: t for n, t in after.items() if n != "a.weight"} == {n: t for n, t in before.items() if n != "a.weight"}
    assert after["a.weight"][0] == "Q8_0"
    assert report.notices == ("table.weight: I32 is not a float type: kept",)


def test_metadata_are_kept_raw_and_in_order(tmp_path, out):
    integers = {"UINT8": 200, "INT8": -8, "UINT16": 1 << 15, "INT16": -300, "UINT32": 1 << 31, "INT32": -(1 << 31)}
    scalars = integers | {"UINT64": 1 << 63, "INT64": -(1 << 63), "FLOAT32": float("nan"), "FLOAT64": -0.0}
    scalars |= {"BOOL": True, "STRING": "\u2581\U0001f600\0"}
    key_values = [models.KeyValue(f"z.{name}", value, name) for name, value in scalars.items()]
    key_values += [models.KeyValue(f"a.{name}", [value] * 3, "ARRAY", name) for name, value in scalars.items()]
    key_values += [models.KeyValue("tokens", [b"\xff\xfe", "", "\u00e9"], "ARRAY", "STRING")]
    path = tmp_path / "in.gguf"
    write_gguf(path, [Tensor("a.weight", normal(2, 64))], key_values=key_values)
    quantize_model(path, out, "Q8_0")
    appended = {"general.quantization_version": 2, "general.file_type": 7}
    assert list(fields(out).items()) == [
        *fields(path).items(),
        *((key, (ValueType.UINT32, struct.pack("<I", value))) for key, value in appended.items()),
    ]


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment_of_the_input_is_kept(alignment, tmp_path, out):
    path = tmp_path / "in.gguf"
    write_gguf(
        path, [Tensor("a.weight", normal(2, 32)), Tensor("b", normal(5)), Tensor("c", normal(3))], alignment=alignment
    )
    quantize_model(path, out, "Q4_0")
    reader = gguf.GGUFReader(out)
    assert reader.alignment == alignment
    assert [t.data_offset % alignment for t in reader.tensors] == [0, 0, 0]
    assert contents(out) == contents(path) | {"a.weight": ("Q4_0", (2, 32), quantize(normal(2, 32), "Q4_0").tobytes())}


def test_tensors_are_ordered_by_layer_then_name(tmp_path, out):
    names = ["output.weight", "blk.10.b.weight", "blk.2.a.weight", "blk.2.Z.weight", "\u00e9.weight", "a.weight"]
    path = write_model(tmp_path / "in.gguf", *((name, normal(1, 32)) for name in names))
    quantize_model(path, out, "Q8_0")
    ordered = ["a.weight", "output.weight", "\u00e9.weight", "blk.2.Z.weight", "blk.2.a.weight", "blk.10.b.weight"]
    assert list(contents(out)) == ordered


def test_model_without_tensors(tmp_path, out):
    quantize_model(write_model(tmp_path / "in.gguf"), out, "Q4_0", progress=lambda *_: pytest.fail("nothing to do"))
    assert contents(out) == {}


# Back again


@pytest.mark.parametrize("target", ["F32", "F16", "BF16"])
@pytest.mark.usefixtures("small_slabs")
def test_dequantized_model_is_what_dequantize_gives(target, source, out, tmp_path):
    quantize_model(source, tmp_path / "q.gguf", "Q4_0", tensor_types=[("ffn", "F16")])
    report = dequantize_model(tmp_path / "q.gguf", out, target)
    quantized = contents(tmp_path / "q.gguf")
    assert contents(out) == {
        name: (
            (target, shape, dequantize(data, type_name, dtype=DTYPES[target]).tobytes())
            if type_name.startswith("Q")
            else (type_name, shape, data)
        )
        for name, (type_name, shape, data) in quantized.items()
    }
    assert list(fields(out)) == list(fields(tmp_path / "q.gguf"))
    file_types = {"F32": 0, "F16": 1, "BF16": 32}
    assert gguf.GGUFReader(out).fields["general.file_type"].contents() == file_types[target]
    assert {t.name for t in report.tensors if t.source_type != t.target_type} == set(MATRICES) - {"blk.0.ffn_up.weight"}


@pytest.mark.parametrize("record", [Q4_0, Q8_0])
def test_a_model_quantized_twice_is_the_same_model(record, source, out, tmp_path):
    name = record.qtype.name
    quantize_model(source, tmp_path / "once.gguf", name, pure=True)
    dequantize_model(tmp_path / "once.gguf", tmp_path / "floats.gguf")
    quantize_model(tmp_path / "floats.gguf", out, name, pure=True)
    decoded = {n: dequantize(np.frombuffer(d, np.uint8), t) for n, (t, _, d) in contents(out).items()}
    once = {n: dequantize(np.frombuffer(d, np.uint8), t) for n, (t, _, d) in contents(tmp_path / "once.gguf").items()}
    assert all(np.array_equal(decoded[name], once[name]) for name in once) and decoded.keys() == once.keys()


# Reader and writer against gguf-py, on random models

SIMPLE = {"F32": "f4", "F16": "f2", "F64": "f8", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.text(string.ascii_letters + "._é▁", min_size=1, max_size=20)
SCALARS = {
    ValueType.UINT8: st.integers(0, 2**8 - 1),
    ValueType.INT8: st.integers(-(2**7), 2**7 - 1),
    ValueType.UINT16: st.integers(0, 2**16 - 1),
    ValueType.INT16: st.integers(-(2**15), 2**15 - 1),
    ValueType.UINT32: st.integers(0, 2**32 - 1),
    ValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    ValueType.FLOAT32: st.floats(width=32),
    ValueType.BOOL: st.booleans(),
    ValueType.STRING: TEXT,
    ValueType.UINT64: st.integers(0, 2**64 - 1),
    ValueType.INT64: st.integers(-(2**63), 2**63 - 1),
    ValueType.FLOAT64: st.floats(),
}
VALUES = st.sampled_from(list(SCALARS)).flatmap(
    lambda kind: (
        st.tuples(st.just(kind), st.none(), SCALARS[kind])
        | st.tuples(st.just(ValueType.ARRAY), st.just(kind), st.lists(SCALARS[kind], min_size=1, max_size=5))
    )
)
# gguf-py still has the old layout of Q8_1, and does not know every type.
TYPES = [t for t in GGML_TYPES.values() if gguf.GGML_QUANT_SIZES.get(t.id) == (t.block_size, t.bytes_per_block)]
TENSORS = st.tuples(
    st.sampled_from(TYPES),
    st.lists(st.integers(1, 4), max_size=3),
    st.integers(0, 2**32 - 1),
)


def encode(kind: ValueType, item_kind: ValueType | None, value: Any) -> bytes:
    """A metadata value as it stands in a file, by the format's description."""
    if kind == ValueType.ARRAY:
        items = b"".join(encode(item_kind, None, item) for item in value)
        return struct.pack("<IQ", item_kind, len(value)) + items
    if kind == ValueType.STRING:
        return struct.pack("<Q", len(value.encode())) + value.encode()
    return struct.pack("<" + SCALAR_CODES[kind], value)


def random_bytes(type_: Any, rows: list[int], seed: int) -> tuple[tuple[int, ...], np.ndarray]:
    """A shape and the bytes of a tensor of that shape, anything at all, as `(*rows, bytes per row)`."""
    n_blocks = seed % 3 + 1
    data = np.random.default_rng(seed).integers(0, 256, (*rows, n_blocks * type_.bytes_per_block), np.uint8)
    return (*rows, n_blocks * type_.block_size), data


@pytest.mark.slow
@given(
    key_values=st.dictionaries(NAMES, VALUES, max_size=8),
    tensors=st.dictionaries(NAMES, TENSORS, max_size=6),
    alignment=st.sampled_from([None, 8, 32, 64, 256]),
)
def test_random_models_are_read_and_written_as_by_gguf_py(tmp_path_factory, key_values, tensors, alignment):
    folder = tmp_path_factory.getbasetemp()
    theirs, ours = folder / "theirs.gguf", folder / "ours.gguf"
    writer = gguf.GGUFWriter(theirs, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for key, (kind, item_kind, value) in key_values.items():
        item_type = None if item_kind is None else gguf.GGUFValueType(item_kind)
        writer.add_key_value("k." + key, value, gguf.GGUFValueType(kind), item_type)
    expected = {}
    for name, (type_, rows, seed) in tensors.items():
        shape, data = random_bytes(type_, rows, seed)
        expected[name] = (type_.name, shape, data.tobytes())
        values = data.view(SIMPLE[type_.name]) if type_.name in SIMPLE else data
        writer.add_tensor(
            name, values, raw_dtype=None if type_.name in SIMPLE else gguf.GGMLQuantizationType[type_.name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with GGUFReader(theirs) as reader:
        assert reader.alignment == (alignment or 32)
        raw = {kv.key: (kv.type_id, kv.raw) for kv in reader.kvs}
        assert list(raw.items()) == list(fields(theirs).items())
        for key, (kind, item_kind, value) in key_values.items():
            assert raw["k." + key] == (kind, encode(kind, item_kind, value))
            decoded = reader.value("k." + key)
            assert decoded == value or encode(kind, item_kind, decoded) == raw["k." + key][1]  # NaN
        found = {}
        for tensor in reader.tensors:
            buffer = bytearray(tensor.nbytes)
            reader.read_into(tensor, 0, buffer)
            found[tensor.name] = (tensor.type.name, tensor.shape, bytes(buffer))
        assert list(found.items()) == list(expected.items())

        with OutputFile(ours, force=True) as file:
            copy = GGUFWriter(file, reader.kvs, ((t.name, t.shape, t.type) for t in reader.tensors))
            for _, _, data in found.values():
                copy.write(data)
                copy.end_tensor()
    assert list(fields(ours).items()) == list(fields(theirs).items())
    assert [(n, t, d) for n, (t, _, d) in contents(ours).items()] == [(n, t, d) for n, (t, _, d) in expected.items()]
    shapes = {n: shape for n, (_, shape, _) in contents(ours).items()}
    assert shapes == {n: without_leading_ones(shape) for n, (_, shape, _) in expected.items()}
    if all(shape == without_leading_ones(shape) for _, shape, _ in expected.values()):
        assert ours.read_bytes() == theirs.read_bytes()


def without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as ggml writes it."""
    return tuple(itertools.dropwhile(lambda extent: extent == 1, shape[:-1])) + shape[-1:]

"""Whole models: `quantize_model` does to every tensor what `quantize` does, by the rules, slab by slab, or nothing.

What is written is read back with gguf-py, and what is read was written with it or with the safetensors library.
"""

import errno
import itertools
import json
import os
import resource
import string
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from quantcore import Q4_0, Q8_0, GGUFQuantType, dequantize, quantize
from quantcore._files import OutputFile
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError, OutputFileError, QuantcoreError
from quantcore.ggml_types import GGML_TYPES
from quantcore.gguf import GGUFReader, GGUFWriter, KeyValue, dequantize_model, pipeline, quantize_model
from quantcore.gguf.layout import SCALAR_CODES, ValueType
from tests import models
from tests.models import Tensor, gguf, write_gguf

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}
BITS = {np.dtype(ml_dtypes.bfloat16): np.uint16}
SLAB = 512
OLD = b"precious"


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def stored(name: str, values: np.ndarray, type_name: str | None = None) -> Tensor:
    """A tensor for `write_model`; bfloat16 as the bits that gguf-py takes for it."""
    return Tensor(name, values.view(np.uint8), "BF16") if values.dtype in BITS else Tensor(name, values, type_name)


def write_model(path: Path, *tensors: tuple[Any, ...], **key_values: Any) -> Path:
    """A GGUF file by gguf-py: float arrays, and quantized bytes if a type is named."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in key_values.items():
        writer.add_key_value(key.replace("__", "."), *value)
    for tensor in itertools.starmap(stored, tensors):
        raw_type = None if tensor.type_name is None else gguf.GGMLQuantizationType[tensor.type_name]
        writer.add_tensor(tensor.name, tensor.values, raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def contents(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of each tensor, in the file's order, by gguf-py."""
    reader = gguf.GGUFReader(path)
    return {t.name: (t.tensor_type.name, tuple(t.shape[::-1].tolist()), t.data.tobytes()) for t in reader.tensors}


def types(path: Path) -> dict[str, str]:
    return {name: type_name for name, (type_name, _, _) in contents(path).items()}


def fields(path: Path) -> dict[str, tuple[int, bytes]]:
    """Type and raw value of each metadata entry, in the file's order, by gguf-py."""
    return {
        name: (int(field.types[0]), b"".join(part.tobytes() for part in field.parts[3:]))
        for name, field in gguf.GGUFReader(path).fields.items()
        if not name.startswith("GGUF.")
    }


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SLAB_ELEMENTS", SLAB)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.gguf"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small model with everything that the rules look at."""
    return write_model(
        tmp_path / "in.gguf",
        ("token_embd.weight", normal(10, 64)),
        ("output.weight", normal(10, 64, seed=1)),
        ("output_norm.weight", normal(64)),
        ("blk.0.attn_q.weight", normal(64, 64)),
        ("blk.0.ffn_up.weight", normal(96, 64)),
        ("blk.1.attn_q.weight", normal(64, 64, seed=1)),
    )


MATRICES = ("token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight", "blk.1.attn_q.weight")


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


@pytest.mark.parametrize("target", ["F16", "Q4_0"])
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
        monkeypatch.setattr(pipeline, "SLAB_ELEMENTS", n_elements)
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


# Which tensor gets which type

MIXED = dict.fromkeys(MATRICES, "Q4_0") | {"output_norm.weight": "F32", "output.weight": "Q8_0"}
PURE = MIXED | {"output.weight": "Q4_0"}
RULES = {
    "mixed": ({}, MIXED, True),
    "pure": ({"pure": True}, PURE, False),
    "leave output": ({"leave_output_tensor": True}, PURE | {"output.weight": "F32"}, False),
    "output type": ({"output_tensor_type": "F16"}, PURE | {"output.weight": "F16"}, False),
    "output type, pure": ({"output_tensor_type": 0, "pure": True}, PURE | {"output.weight": "F32"}, False),
    "embedding type": ({"token_embedding_type": "bf16"}, MIXED | {"token_embd.weight": "BF16"}, True),
    "one override": ({"tensor_types": [("attn", "q8_0")]}, MIXED | dict.fromkeys(MATRICES[2::2], "Q8_0"), True),
    "first override counts": (
        {"tensor_types": [(r"^blk\.1", "F16"), ("attn_q", GGUFQuantType.Q8_0), ("attn", 30), ("output", "BF16")]},
        MIXED | {"blk.0.attn_q.weight": "Q8_0", "blk.1.attn_q.weight": "F16", "output.weight": "BF16"},
        False,
    ),
    "override of all": ({"tensor_types": iter([("", 8)])}, PURE | dict.fromkeys(MATRICES, "Q8_0"), False),
    "own options before overrides": (
        {"tensor_types": [("", "F16")], "output_tensor_type": "Q4_0", "token_embedding_type": "Q8_0"},
        PURE | dict.fromkeys(MATRICES, "F16") | {"output.weight": "Q4_0", "token_embd.weight": "Q8_0"},
        False,
    ),
}


@pytest.mark.parametrize(("options", "expected", "is_mixed"), RULES.values(), ids=RULES)
def test_rules_decide_the_type(options, expected, is_mixed, source, out):
    before = contents(source)
    report = quantize_model(source, out, "Q4_0", **options)
    assert types(out) == expected
    assert {t.name: t.target_type for t in report.tensors} == expected
    for name, (type_name, shape, data) in contents(out).items():
        values = np.frombuffer(before[name][2], np.float32).reshape(shape)
        assert data == (values if type_name == "F32" else quantize(values, type_name)).tobytes()
    notice = "output.weight: stored as Q8_0 (llama-quantize mixes in Q6_K here; --pure: Q4_0 throughout)"
    assert report.notices == ((notice,) if is_mixed else ())


def test_mixture_takes_the_token_embeddings_for_a_missing_output_matrix(tmp_path, out):
    path = write_model(tmp_path / "in.gguf", ("token_embd.weight", normal(4, 32)), ("a.weight", normal(4, 32)))
    report = quantize_model(path, out, "Q4_0")
    assert types(out) == {"token_embd.weight": "Q8_0", "a.weight": "Q4_0"}
    assert len(report.notices) == 1 and report.notices[0].startswith("token_embd.weight: stored as Q8_0")


def test_mixture_is_for_q4_0_only(source, out):
    report = quantize_model(source, out, "Q8_0")
    assert set(types(out).values()) == {"Q8_0", "F32"} and report.notices == ()


IDLE = {
    "pattern": ("Q4_0", {"tensor_types": [("atn", "Q8_0"), ("up", "Q8_0")]}, "tensor type 'atn' fits no tensor"),
    "float type": ("F16", {"tensor_types": [("up", "Q8_0")]}, "tensor types have no effect when the type is F16"),
    "output type": ("Q8_0", {"output_tensor_type": "F16"}, "the model has no output.weight"),
    "leave output": ("Q8_0", {"leave_output_tensor": True}, "the model has no output.weight"),
    "embedding type": ("Q8_0", {"token_embedding_type": "F16"}, "the model has no token_embd.weight"),
}


@pytest.mark.parametrize(("qtype", "options", "notice"), IDLE.values(), ids=IDLE)
def test_option_that_changes_nothing_is_named(qtype, options, notice, tmp_path, out):
    path = write_model(tmp_path / "in.gguf", ("blk.0.ffn_up.weight", normal(2, 32)))
    assert quantize_model(path, out, qtype, **options).notices == (notice,)


def test_odd_columns_fall_back_to_f16_and_say_so(tmp_path, out):
    odd, whole = normal(3, 33), normal(3, 64)
    path = write_model(tmp_path / "in.gguf", ("odd.weight", odd), ("whole.weight", whole))
    report = quantize_model(path, out, "Q8_0", tensor_types=[("odd", "Q4_0")])
    assert report.notices == ("odd.weight: Q4_0 needs rows of whole 32s, got 33: stored as F16",)
    assert contents(out)["odd.weight"] == ("F16", (3, 33), odd.astype(np.float16).tobytes())
    assert types(out)["whole.weight"] == "Q8_0"


def test_quantized_input_is_refused_unless_allowed(tmp_path, out):
    values = normal(40, 64)
    path = write_model(tmp_path / "in.gguf", ("a.weight", quantize(values, "Q8_0"), "Q8_0"))
    with pytest.raises(InvalidValueError, match=r"tensor 'a\.weight' is Q8_0 already; --allow-requantize"):
        quantize_model(path, out, "Q4_0")
    assert not out.exists()
    quantize_model(path, out, "Q4_0", allow_requantize=True)
    expected = quantize(dequantize(quantize(values, "Q8_0"), "Q8_0"), "Q4_0")
    assert contents(out) == {"a.weight": ("Q4_0", (40, 64), expected.tobytes())}


@pytest.mark.parametrize("qtype", ["Q8_0", "Q4_0"])
@pytest.mark.usefixtures("small_slabs")
def test_blocks_of_the_target_type_are_copied(qtype, tmp_path, out):
    data = quantize(normal(40, 64), qtype)
    path = write_model(tmp_path / "in.gguf", ("a.weight", data, qtype))
    quantize_model(path, out, qtype)
    assert contents(out) == contents(path)


@pytest.mark.parametrize("allow", [False, True])
def test_quantized_type_without_kernels_is_refused(allow, tmp_path, out):
    path = write_model(tmp_path / "in.gguf", ("a.weight", np.zeros((2, 210), np.uint8), "Q6_K"))
    with pytest.raises(InvalidValueError, match=r"tensor 'a\.weight': no kernels to decode Q6_K"):
        quantize_model(path, out, "Q4_0", allow_requantize=allow)
    with pytest.raises(InvalidValueError, match=r"tensor 'a\.weight': no kernels to decode Q6_K"):
        dequantize_model(path, out)
    assert not out.exists()


# Values that cannot be stored

THIRD = 2 * SLAB + 77
BAD_VALUES = {
    "nan": ("a.weight", "F32", np.nan, "Q4_0", "must be finite, got nan"),
    "inf in F16": ("a.weight", "F16", np.inf, "Q8_0", "must be finite, got inf"),
    "-inf in BF16": ("a.weight", "BF16", -np.inf, "F16", "must be finite, got -inf"),
    "-inf, F32 to F32": ("a.weight", "F32", -np.inf, "F32", "must be finite, got -inf"),
    "nan, F32 kept": ("a.bias", "F32", np.nan, "Q4_0", "must be finite, got nan"),
    "inf, F16 kept": ("a.bias", "F16", np.inf, "Q4_0", "must be finite, got inf"),
    "nan, BF16 kept": ("a.bias", "BF16", np.nan, "F32", "must be finite, got nan"),
    "nan, F64 kept": ("a.bias", "F64", np.nan, "F32", "must be finite, got nan"),
    "too large for Q4_0": ("a.weight", "F32", -6e5, "Q4_0", r"-600000\.0 .* too large for Q4_0"),
    "too large for Q8_0": ("a.weight", "BF16", 1e7, "Q8_0", r" .* too large for Q8_0"),
    "too large for F16": ("a.weight", "F32", 1e5, "F16", r"100000\.0 .* too large for F16"),
    "too large for float32": ("a.weight", "F64", 1e300, "Q4_0", r"1e\+300 .* beyond the range of float32"),
}


@pytest.mark.parametrize(("name", "origin", "value", "target", "problem"), BAD_VALUES.values(), ids=BAD_VALUES)
@pytest.mark.usefixtures("small_slabs")
def test_value_that_cannot_be_stored_is_named_with_its_place(name, origin, value, target, problem, tmp_path, out):
    values = normal(*((2560,) if name == "a.bias" else (40, 64)), dtype=DTYPES[origin])
    values.flat[[THIRD, THIRD + SLAB]] = value
    path = write_model(tmp_path / "in.gguf", (name, values))
    out.write_bytes(OLD)
    with pytest.raises(InvalidValueError, match=problem) as caught:
        quantize_model(path, out, target, force=True)
    assert str(caught.value).startswith(f"tensor {name!r}: ")
    assert f"at flat index {THIRD}" in str(caught.value)
    assert out.read_bytes() == OLD and sorted(os.listdir(tmp_path)) == ["in.gguf", "out.gguf"]


@pytest.mark.parametrize("origin", ["Q4_0", "Q8_0"])
@pytest.mark.usefixtures("small_slabs")
def test_block_with_an_infinite_scale_is_named(origin, tmp_path, out):
    data = quantize(normal(40, 64), origin)
    n_bytes = GGUFQuantType[origin].bytes_per_block
    data.reshape(-1, n_bytes)[THIRD // 32 :: 16, :2].view(np.float16)[:] = np.inf
    path = write_model(tmp_path / "in.gguf", ("a.weight", data, origin))
    block = rf"tensor 'a\.weight': block {THIRD // 32} of {origin} .* inf or NaN"
    for attempt in (
        lambda: dequantize_model(path, out),
        lambda: quantize_model(path, out, "F16", allow_requantize=True),
        lambda: quantize_model(path, out, origin),
    ):
        with pytest.raises(InvalidValueError, match=block):
            attempt()
        assert not out.exists()


@pytest.mark.usefixtures("small_slabs")
def test_decoded_value_beyond_f16_is_named(tmp_path, out):
    values = normal(40, 64)
    values.flat[THIRD] = 1e6
    path = write_model(tmp_path / "in.gguf", ("a.weight", quantize(values, "Q8_0"), "Q8_0"))
    with pytest.raises(InvalidValueError, match=rf"tensor 'a\.weight': .* at flat index {THIRD} is too large for F16"):
        dequantize_model(path, out, "F16")
    assert not out.exists()


# What is refused as a whole


@pytest.mark.parametrize(("count", "is_taken"), [(0, True), (1, True), (2, False), (65535, False)])
def test_part_of_a_split_model_is_refused(count, is_taken, tmp_path, out):
    split = {"split__no": (0, gguf.GGUFValueType.UINT16), "split__count": (count, gguf.GGUFValueType.UINT16)}
    path = write_model(tmp_path / "in.gguf", ("a.weight", normal(1, 32)), **split)
    if is_taken:
        quantize_model(path, out, "Q8_0")
        assert not {key for key in fields(out) if key.startswith("split.")}
    else:
        with pytest.raises(FileFormatError, match=r"in\.gguf: split\.count: one part of a split model"):
            quantize_model(path, out, "Q8_0")
        assert not out.exists()


BAD_ARGUMENTS = {
    "qtype unknown": ({"qtype": "Q9"}, InvalidValueError, "qtype: "),
    "qtype without kernels": ({"qtype": "Q4_K"}, InvalidValueError, "qtype: Q4_K"),
    "qtype None": ({"qtype": None}, InvalidTypeError, "qtype: "),
    "qtype bool": ({"qtype": True}, InvalidTypeError, "qtype: "),
    "output_tensor_type": ({"output_tensor_type": "x"}, InvalidValueError, "output_tensor_type: "),
    "token_embedding_type": ({"token_embedding_type": 2.0}, InvalidTypeError, "token_embedding_type: "),
    "tensor_types, no regex": ({"tensor_types": [("(", "Q8_0")]}, InvalidValueError, "tensor_types: "),
    "tensor_types, type": ({"tensor_types": [("a", "x")]}, InvalidValueError, "tensor_types: "),
    "tensor_types, number": ({"tensor_types": [(1, "Q8_0")]}, InvalidTypeError, "tensor_types: "),
    "tensor_types, bytes": ({"tensor_types": [(b"a", "Q8_0")]}, InvalidTypeError, "tensor_types: "),
    "tensor_types, no pairs": ({"tensor_types": [("a",)]}, QuantcoreError, "tensor_types: "),
    "tensor_types, text": ({"tensor_types": "a=Q8_0"}, QuantcoreError, "tensor_types: "),
    "tensor_types None": ({"tensor_types": None}, QuantcoreError, "tensor_types: "),
    "arch empty": ({"arch": ""}, InvalidValueError, "arch: "),
    "arch control": ({"arch": "a\nb"}, InvalidValueError, "arch: "),
    "arch surrogate": ({"arch": "\ud800"}, InvalidValueError, "arch: "),
    "arch type": ({"arch": 1}, InvalidTypeError, "arch: "),
    "n_threads 0": ({"n_threads": 0}, InvalidValueError, "n_threads: "),
    "n_threads -1, dry run": ({"n_threads": -1, "dry_run": True}, InvalidValueError, "n_threads: "),
    "n_threads float": ({"n_threads": 2.0}, InvalidTypeError, "n_threads: "),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_argument_is_named(options, error, message, source, out):
    with pytest.raises(error, match=rf"^{message}"):
        quantize_model(source, out, **({"qtype": "Q8_0"} | options))
    assert os.listdir(out.parent) == ["in.gguf"]


@pytest.mark.parametrize("qtype", ["Q8_0", 2, "Q6_K", "nonsense", None])
def test_models_are_decoded_to_float_types_only(qtype, source, out):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=r"^qtype: "):
        dequantize_model(source, out, qtype)
    assert not out.exists()


@pytest.mark.parametrize("call", [quantize_model, dequantize_model])
def test_input_is_never_the_output(call, source, tmp_path):
    before = source.read_bytes()
    (tmp_path / "link").symlink_to("in.gguf")
    for output in (source, tmp_path / "link"):
        with pytest.raises(OutputFileError, match="same file as the input"):
            call(source, output, "F16", force=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize("call", [quantize_model, dequantize_model])
def test_existing_output_is_replaced_by_force_only(call, source, out):
    out.write_bytes(OLD)
    with pytest.raises(OutputFileError, match="exists already"):
        call(source, out, "F16")
    assert out.read_bytes() == OLD
    call(source, out, "F16", force=True)
    assert contents(out).keys() == contents(source).keys()


# While it runs


@pytest.mark.usefixtures("small_slabs")
def test_progress_rises_to_the_total(source, out):
    calls = []
    report = quantize_model(source, out, "Q4_0", progress=lambda *state: calls.append(state))
    done, totals = zip(*calls, strict=True)
    assert set(totals) == {report.source_bytes} == {sum(len(data) for _, _, data in contents(source).values())}
    assert list(done) == sorted(set(done)) and done[0] > 0 and done[-1] == report.source_bytes
    assert len(calls) == sum(-(-t.source_bytes // 4 // SLAB) for t in report.tensors)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("call", [1, 2, 20])
@pytest.mark.usefixtures("small_slabs")
def test_nothing_is_left_of_an_interrupted_model(call, error, source, out):
    out.write_bytes(OLD)
    countdown = itertools.count(call, -1)

    def interrupt(done: int, total: int) -> None:
        if next(countdown) == 1:
            raise error

    with pytest.raises(error):
        quantize_model(source, out, "Q4_0", force=True, progress=interrupt)
    assert out.read_bytes() == OLD and sorted(os.listdir(out.parent)) == ["in.gguf", "out.gguf"]


@pytest.mark.usefixtures("small_slabs")
def test_input_that_shrinks_meanwhile_is_reported(source, out):
    size = source.stat().st_size
    with pytest.raises(FileFormatError, match=rf"in\.gguf: ends at offset {size // 2} .* had {size} bytes"):
        quantize_model(source, out, "Q4_0", progress=lambda *_: os.truncate(source, size // 2))
    assert os.listdir(out.parent) == ["in.gguf"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 1.0])
@pytest.mark.usefixtures("small_slabs")
def test_write_that_fails_is_reported_wherever_it_is(share, source, out):
    """Also that of the very last slab, which is written while nothing else is left to do."""
    quantize_model(source, out, "Q8_0")
    n_bytes = out.stat().st_size
    out.write_bytes(OLD)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * (n_bytes - 1)), hard))
    try:
        with pytest.raises(OSError) as caught:
            quantize_model(source, out, "Q8_0", force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert out.read_bytes() == OLD and sorted(os.listdir(out.parent)) == ["in.gguf", "out.gguf"]


def test_dry_run_refuses_what_the_run_would_refuse(source, out, tmp_path):
    out.write_bytes(OLD)
    with pytest.raises(OutputFileError, match="exists already"):
        quantize_model(source, out, "Q8_0", dry_run=True)
    with pytest.raises(OutputFileError, match="same file as the input"):
        quantize_model(source, source, "Q8_0", dry_run=True, force=True)
    path = write_model(tmp_path / "quantized.gguf", ("a.weight", quantize(normal(2, 64), "Q8_0"), "Q8_0"))
    with pytest.raises(InvalidValueError, match="allow_requantize"):
        quantize_model(path, out, "Q4_0", dry_run=True, force=True)
    save_file({"a" * 64: normal(3)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidValueError, match="1 to 63 bytes"):
        quantize_model(tmp_path / "model.safetensors", out, "Q4_0", dry_run=True, force=True)
    assert out.read_bytes() == OLD


def test_dry_run_reports_and_writes_nothing(source, out):
    options = {"tensor_types": [("ffn", "F16")], "progress": lambda *_: pytest.fail("something is done")}
    planned = quantize_model(source, out, "Q4_0", dry_run=True, **options)
    assert os.listdir(out.parent) == ["in.gguf"]
    del options["progress"]
    assert quantize_model(source, out, "Q4_0", **options) == planned
    assert json.loads(json.dumps(planned.to_dict())) == planned.to_dict()
    assert planned.to_dict()["target_bytes"] == sum(len(data) for _, _, data in contents(out).values())


# safetensors


def checkpoint_tensors() -> dict[str, np.ndarray]:
    return {
        "model.embed.weight": normal(7, 64, dtype=ml_dtypes.bfloat16),
        "model.layers.0.q.weight": normal(32, 64, dtype=np.float16),
        "model.layers.1.q.weight": normal(32, 64),
        "model.layers.1.norm.bias": normal(64, dtype=np.float64),
        "position_embeddings.weight": normal(3, 64),
        "scale": np.array(2.5, np.float32),
        "ids": np.arange(9, dtype=np.int64).reshape(3, 3),
    }


def write_shards(folder: Path, tensors: dict[str, np.ndarray], n_shards: int, **metadata: str) -> Path:
    folder.mkdir()
    weight_map = {}
    for i in range(n_shards):
        shard = dict(list(tensors.items())[i::n_shards])
        file = f"model-{i + 1:05}-of-{n_shards:05}.safetensors"
        save_file(shard, folder / file, metadata=metadata or None)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.usefixtures("small_slabs")
def test_safetensors_of_one_file_and_of_shards_give_the_same_model(tmp_path, out):
    tensors = checkpoint_tensors()
    save_file(tensors, tmp_path / "model.safetensors")
    shards = write_shards(tmp_path / "shards", tensors, 3, format="pt")
    quantize_model(tmp_path / "model.safetensors", out, "Q4_0", arch="bert")
    names = ["ids", "model.embed.weight", "model.layers.0.q.weight", "model.layers.1.norm.bias"]
    names += ["model.layers.1.q.weight", "position_embeddings.weight", "scale"]
    bits = {"I64": np.int64} | DTYPES
    kinds = {"ids": "I64", "model.layers.1.norm.bias": "F64", "position_embeddings.weight": "F32", "scale": "F32"}
    assert list(contents(out).items()) == [
        (
            name,
            (kinds[name], tensors[name].shape or (1,), tensors[name].astype(bits[kinds[name]]).tobytes())
            if name in kinds
            else ("Q4_0", tensors[name].shape, quantize(tensors[name], "Q4_0").tobytes()),
        )
        for name in names
    ]
    for source in (tmp_path, shards, shards / "model.safetensors.index.json"):
        quantize_model(source, out.with_name("again.gguf"), "Q4_0", arch="bert", force=True)
        assert out.with_name("again.gguf").read_bytes() == out.read_bytes()


@pytest.mark.parametrize("which", [0, 1, "index"])
def test_no_file_of_a_checkpoint_is_ever_the_output(which, tmp_path):
    shards = write_shards(tmp_path / "shards", checkpoint_tensors(), 2)
    output = sorted(shards.iterdir())[-1 if which == "index" else which]
    before = output.read_bytes()
    with pytest.raises(OutputFileError, match="same file as the input"):
        quantize_model(shards, output, "Q8_0", force=True)
    assert output.read_bytes() == before


ARCHITECTURES = {
    "config.json": ({"model_type": "bert"}, None, "bert"),
    "arch before config.json": ({"model_type": "bert"}, "llama", "llama"),
    "arch": (None, "llama", "llama"),
    "no config.json": (None, None, None),
    "no model_type": ({"hidden_size": 3}, None, None),
    "model_type is a number": ({"model_type": 3}, None, None),
    "model_type is empty": ({"model_type": ""}, None, None),
    "model_type with a line break": ({"model_type": "a\nb"}, None, None),
    "model_type with a lone surrogate": ({"model_type": "\ud800"}, None, None),
    "config.json is a list": ([1], None, None),
}


@pytest.mark.parametrize(("config", "arch", "expected"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_architecture_of_a_checkpoint(config, arch, expected, tmp_path, out):
    save_file({"a.weight": normal(1, 32)}, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    report = quantize_model(tmp_path, out, "Q8_0", arch=arch)
    reader = gguf.GGUFReader(out)
    assert reader.fields["general.architecture"].contents() == (expected or "unknown")
    if expected:
        assert report.notices == ()
    else:
        (notice,) = report.notices
        assert "general.architecture" in notice and "unknown" in notice and "--arch" in notice


def test_architecture_of_a_gguf_file(source, tmp_path, out):
    before = list(fields(source))
    quantize_model(source, out, "Q8_0", arch="bert")
    assert gguf.GGUFReader(out).fields["general.architecture"].contents() == "bert"
    assert list(fields(out))[: len(before)] == before
    with OutputFile(tmp_path / "none.gguf") as file:
        GGUFWriter(file, [KeyValue.uint32("a", 1)], [])
    quantize_model(tmp_path / "none.gguf", out, "Q8_0", arch="bert", force=True)
    assert gguf.GGUFReader(out).fields["general.architecture"].contents() == "bert"


NO_PLACE = {
    "dtype": ({"a.weight": np.zeros((1, 32), np.uint8)}, FileFormatError, "GGUF has no type for U8"),
    "name of 64 bytes": ({"a" * 64: normal(3)}, InvalidValueError, "1 to 63 bytes"),
    "five dimensions": ({"a": normal(1, 1, 1, 1, 2)}, InvalidValueError, "1 to 4 dimensions"),
    "no elements": ({"a": normal(2, 0)}, InvalidValueError, "dimensions of at least 1"),
}


@pytest.mark.parametrize(("tensors", "error", "problem"), NO_PLACE.values(), ids=NO_PLACE)
def test_tensor_that_has_no_place_in_gguf_is_named(tensors, error, problem, tmp_path, out):
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(error, match=problem) as caught:
        quantize_model(tmp_path, out, "Q8_0", arch="llama")
    assert next(iter(tensors)) in str(caught.value)
    assert os.listdir(tmp_path) == ["model.safetensors"]


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


def encoded(kind: ValueType, item_kind: ValueType | None, value: Any) -> bytes:
    """A metadata value as it stands in a file, by the format's description."""
    if kind == ValueType.ARRAY:
        items = b"".join(encoded(item_kind, None, item) for item in value)
        return struct.pack("<IQ", item_kind, len(value)) + items
    if kind == ValueType.STRING:
        return struct.pack("<Q", len(value.encode())) + value.encode()
    return struct.pack("<" + SCALAR_CODES[kind], value)


def random_bytes(type_: Any, rows: list[int], seed: int) -> tuple[tuple[int, ...], np.ndarray]:
    """A shape and the bytes of a tensor of that shape, anything at all, as `(*rows, bytes per row)`."""
    n_blocks = seed % 3 + 1
    data = np.random.default_rng(seed).integers(0, 256, (*rows, n_blocks * type_.bytes_per_block), np.uint8)
    return (*rows, n_blocks * type_.block_size), data


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
            assert raw["k." + key] == (kind, encoded(kind, item_kind, value))
            decoded = reader.value("k." + key)
            assert decoded == value or encoded(kind, item_kind, decoded) == raw["k." + key][1]  # NaN
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

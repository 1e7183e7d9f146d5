"""Which tensor of a model gets which type, from GGUF files and from safetensors checkpoints."""

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore import GGUFQuantType, dequantize, quantize
from quantcore.conversion import dequantize_model, quantize_model
from quantcore.errors import InvalidValueError, OutputFileError
from quantcore.files.disk import OutputFile
from quantcore.gguf import GGUFWriter, KeyValue
from tests.support.model_files import DTYPES, MATRICES, contents, fields, normal, write_model
from tests.support.models import gguf


def types(path: Path) -> dict[str, str]:
    return {name: type_name for name, (type_name, _, _) in contents(path).items()}


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
    notice = "output.weight: Q6_K needs rows of whole 256s, got 64: stored as Q8_0"
    assert report.notices == ((notice,) if is_mixed else ())


def test_mixture_takes_the_token_embeddings_for_a_missing_output_matrix(tmp_path, out):
    path = write_model(tmp_path / "in.gguf", ("token_embd.weight", normal(4, 32)), ("a.weight", normal(4, 32)))
    report = quantize_model(path, out, "Q4_0")
    assert types(out) == {"token_embd.weight": "Q8_0", "a.weight": "Q4_0"}
    assert len(report.notices) == 1 and report.notices[0].startswith("token_embd.weight: Q6_K needs rows of whole 256s")


def test_mixture_is_for_q4_0_only(source, out):
    report = quantize_model(source, out, "Q8_0")
    assert set(types(out).values()) == {"Q8_0", "F32"} and report.notices == ()


IDLE = {
    "float type": ("F16", {"tensor_types": [("up", "Q8_0")]}, "tensor types have no effect when the type is F16"),
    "output type": ("Q8_0", {"output_tensor_type": "F16"}, "the model has no output.weight"),
    "leave output": ("Q8_0", {"leave_output_tensor": True}, "the model has no output.weight"),
    "embedding type": ("Q8_0", {"token_embedding_type": "F16"}, "the model has no token_embd.weight"),
}


@pytest.mark.parametrize(("qtype", "options", "notice"), IDLE.values(), ids=IDLE)
def test_option_that_changes_nothing_is_named(qtype, options, notice, tmp_path, out):
    path = write_model(tmp_path / "in.gguf", ("blk.0.ffn_up.weight", normal(2, 32)))
    assert quantize_model(path, out, qtype, **options).notices == (notice,)


def test_pattern_that_fits_no_tensor_is_refused(source, out):
    with pytest.raises(InvalidValueError, match=r"^tensor_types: 'atn' fits no tensor of the model$"):
        quantize_model(source, out, "Q4_0", tensor_types=[("atn", "Q8_0"), ("up", "Q8_0")])
    assert not out.exists()


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
    path = write_model(tmp_path / "in.gguf", ("a.weight", np.zeros((2, 292), np.uint8), "Q8_K"))
    with pytest.raises(InvalidValueError, match=r"tensor 'a\.weight': no kernels to decode Q8_K"):
        quantize_model(path, out, "Q4_0", allow_requantize=allow)
    with pytest.raises(InvalidValueError, match=r"tensor 'a\.weight': no kernels to decode Q8_K"):
        dequantize_model(path, out)
    assert not out.exists()


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
    "infinity in config.json": ({"model_type": "mamba", "time_step_limit": [0.0, float("inf")]}, None, "mamba"),
}


@pytest.mark.parametrize(("config", "arch", "expected"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_architecture_of_a_checkpoint(config, arch, expected, tmp_path, out):
    save_file({"a.weight": normal(1, 32)}, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    report = quantize_model(tmp_path, out, "Q8_0", arch=arch, keep_names=True)
    reader = gguf.GGUFReader(out)
    assert reader.fields["general.architecture"].contents() == (expected or "unknown")
    *notices, kept = report.notices
    assert "llama.cpp does not run" in kept
    if expected:
        assert notices == []
    else:
        (notice,) = notices
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
    "name of 64 bytes": ({"a" * 64: normal(3)}, InvalidValueError, "1 to 63 bytes"),
    "five dimensions": ({"a": normal(1, 1, 1, 1, 2)}, InvalidValueError, "1 to 4 dimensions"),
}


@pytest.mark.parametrize(("tensors", "error", "problem"), NO_PLACE.values(), ids=NO_PLACE)
def test_tensor_that_has_no_place_in_gguf_is_named(tensors, error, problem, tmp_path, out):
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(error, match=problem) as caught:
        quantize_model(tmp_path, out, "Q8_0", arch="llama")
    assert next(iter(tensors)) in str(caught.value)
    assert os.listdir(tmp_path) == ["model.safetensors"]

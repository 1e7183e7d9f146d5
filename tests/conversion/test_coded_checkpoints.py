"""Checkpoints of FP8, INT8, MXFP4 and NVFP4 codes as sources of every conversion: the values of a float64 oracle."""

import json
import os
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantcore.conversion import (
    compare_models,
    dequantize_checkpoint,
    dequantize_model,
    quantize_checkpoint,
    quantize_model,
    tensor_jobs,
)
from quantcore.conversion.checkpoint_rules import decisions
from quantcore.conversion.tensor_jobs import KeptTensor
from quantcore.errors import FileFormatError
from quantcore.models import decoders, open_model
from quantcore.models.checkpoint_config import read_config
from quantcore.models.decoded_checkpoint import decode_checkpoint
from quantcore.safetensors.reader import SafetensorsInfo, open_checkpoint
from tests.support.coded_checkpoints import BF16, CHECKPOINTS, E4M3, NAME, ONE, OTHER, Coded, in_blocks, quantized
from tests.support.reference_codes import DECODED, rounded

SAFETENSORS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


@pytest.fixture(params=CHECKPOINTS)
def coded(request: pytest.FixtureRequest) -> Coded:
    return CHECKPOINTS[request.param]()


@pytest.fixture(autouse=True)
def without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of its own for each conversion, which takes seconds."""
    monkeypatch.setattr(decisions, "ask_module_tree", lambda folder, shapes: "")


def decoded_tensors(folder: Path) -> tuple[SafetensorsInfo, ...]:
    with open_checkpoint(folder) as checkpoint:
        return decode_checkpoint(checkpoint, read_config(folder)).tensors


def bits_of(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint16) if values.dtype == BF16 else values


@pytest.mark.parametrize("dtype", [None, *DECODED])
def test_values_are_those_of_the_definition(coded, dtype, tmp_path):
    folder = coded.write(tmp_path / "in")
    report = dequantize_checkpoint(folder, tmp_path / "out", dtype)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == coded.weights.keys() | coded.kept.keys()
    for name, weight in coded.weights.items():
        assert (found[name].shape, found[name].dtype) == (weight.shape, SAFETENSORS[dtype or "BF16"])
        assert np.array_equal(bits_of(found[name]), rounded(weight, dtype or "BF16"))
    for name, values in coded.kept.items():
        assert found[name].tobytes() == values.tobytes()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"model_type": "nobody-has-this", "dtype": "bfloat16"}
    assert len(report.notices) == bool(coded.left_out)
    sizes = sum(array.nbytes for array in (coded.tensors | coded.kept).values())
    assert report.source_bytes == sizes


def test_nf4_is_that_of_the_decoded_checkpoint(coded, tmp_path):
    folder = coded.write(tmp_path / "in")
    dequantize_checkpoint(folder, tmp_path / "floats")
    report = quantize_checkpoint(folder, tmp_path / "out", "nf4")
    quantize_checkpoint(tmp_path / "floats", tmp_path / "expected", "nf4")
    for name in os.listdir(tmp_path / "expected"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    n_matrices = sum(name.endswith(".weight") and ".experts." not in name for name in coded.weights)
    assert sum(t.target_type == "NF4" for t in report.tensors) == n_matrices
    assert not any(t.source_type == "BF16" for t in report.tensors if t.target_type == "NF4")


@pytest.mark.parametrize("qtype", ["F32", "Q4_K_M", "COPY"])
def test_gguf_is_that_of_the_decoded_checkpoint(coded, qtype, tmp_path):
    folder = coded.write(tmp_path / "in")
    dequantize_checkpoint(folder, tmp_path / "floats", "F32")
    options = {"keep_names": True, "pure": True}
    quantize_model(folder, tmp_path / "out.gguf", qtype, **options)
    if any(t.stored_type == "MXFP4" for t in decoded_tensors(folder)):
        return  # it is kept as blocks of ggml, which another test compares
    quantize_model(tmp_path / "floats", tmp_path / "expected.gguf", qtype, **options)
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()


@pytest.mark.parametrize("name", ["gpt-oss", "MXFP4 of compressed-tensors", "DeepSeek V4"])
def test_mxfp4_becomes_mxfp4_without_loss(name, tmp_path):
    coded = CHECKPOINTS[name]()
    folder = coded.write(tmp_path / "in")
    for qtype in ("MXFP4", "COPY"):
        report = quantize_model(folder, tmp_path / f"{qtype}.gguf", qtype, keep_names=True)
        types = {t.name: (t.source_type, t.target_type) for t in report.tensors}
        packed = {weight for weight in coded.weights if types[weight][0] == "MXFP4"}
        assert packed and all(types[weight][1] == "MXFP4" for weight in packed)
        dequantize_model(tmp_path / f"{qtype}.gguf", tmp_path / "back.gguf", "F32", force=True)
        with open_model(tmp_path / "back.gguf") as model:
            for weight in packed:
                values = coded.weights[weight].swapaxes(-1, -2) if name == "gpt-oss" else coded.weights[weight]
                assert model.tensors[weight].shape == values.shape
                assert np.array_equal(model.tensors[weight].values(), rounded(values.reshape(-1), "F32"))


def test_slabs_of_any_size_give_the_same(coded, tmp_path, monkeypatch):
    folder = coded.write(tmp_path / "in")
    dequantize_checkpoint(folder, tmp_path / "whole.safetensors")
    monkeypatch.setattr(KeptTensor, "slab_bytes", 2 * 37)
    monkeypatch.setattr(tensor_jobs, "SLAB_ELEMENTS", 64)
    dequantize_checkpoint(folder, tmp_path / "parts.safetensors", n_threads=3)
    assert (tmp_path / "parts.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_models_are_compared_by_their_values(coded, tmp_path):
    folder = coded.write(tmp_path / "in")
    dequantize_checkpoint(folder, tmp_path / "floats", "F32")
    result = compare_models(tmp_path / "floats", folder)
    assert (result.missing, result.extra) == ((), ())
    assert result.total.sqnr_db == float("inf")
    with open_model(folder) as model:
        for name, weight in coded.weights.items():
            values = model.tensors[name].values(0, 32)
            assert np.array_equal(values, rounded(weight.reshape(-1)[:32], "F32"))


def test_shards_may_part_codes_and_scales(tmp_path):
    coded = in_blocks()
    (tmp_path / "in").mkdir()
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    parts = [{}, {}]
    for name, array in (coded.tensors | coded.kept).items():
        parts["scale" in name][name] = array
    for file, tensors in zip(files, parts, strict=True):
        save_file(tensors, tmp_path / "in" / file)
    (tmp_path / "in" / "config.json").write_text(json.dumps(coded.config))
    dequantize_checkpoint(tmp_path / "in", tmp_path / "out", "F32")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == dict.fromkeys(sorted(coded.weights.keys() | coded.kept.keys()), files[0])
    found = load_file(tmp_path / "out" / files[0])
    assert all(np.array_equal(found[name], rounded(weight, "F32")) for name, weight in coded.weights.items())
    assert load_file(tmp_path / "out" / files[1]) == {}


def test_the_type_of_the_weights_is_that_of_the_others_without_a_config(tmp_path):
    coded = in_blocks()
    for dtype, name in ((np.float16, "F16"), (np.float32, "F32")):
        kept = {"a.norm.weight": np.ones(64, dtype), "b.bias": np.ones(3, BF16)}
        save_file(coded.tensors | kept, tmp_path / "in.safetensors")
        dequantize_checkpoint(tmp_path / "in.safetensors", tmp_path / "out.safetensors", force=True)
        found = load_file(tmp_path / "out.safetensors")[f"{NAME}.weight"]
        assert np.array_equal(found, rounded(coded.weights[f"{NAME}.weight"], name))


def test_codes_that_are_no_numbers_are_decoded_but_not_quantized(tmp_path):
    coded = in_blocks((64, 128))
    codes = coded.tensors[f"{NAME}.weight"].view(np.uint8)
    codes[3, 5] = 0x7F
    folder = coded.write(tmp_path / "in")
    dequantize_checkpoint(folder, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")[f"{NAME}.weight"].astype(np.float32)
    assert np.argwhere(np.isnan(found)).tolist() == [[3, 5]]
    for target, call in (("nf4", quantize_checkpoint), ("Q8_0", quantize_model)):
        with pytest.raises(ValueError, match=rf"tensor '{re.escape(NAME)}\.weight': .*nan"):
            call(
                folder,
                tmp_path / ("x" if target == "nf4" else "x.gguf"),
                target,
                **({} if target == "nf4" else {"keep_names": True}),
            )


def without(*names: str, **changes: np.ndarray):
    def change(tensors):
        kept = {name: array for name, array in tensors.items() if name not in names}
        return kept | {name.replace("__", "."): array for name, array in changes.items()}

    return change


def put(name: str, array: np.ndarray):
    return lambda tensors: tensors | {name: array}


def spoiled(name: str, index: int, value: float):
    def change(tensors):
        array = tensors[name].copy()
        array.reshape(-1)[index] = value
        return tensors | {name: array}

    return change


INV, SCALE, W = f"{NAME}.weight_scale_inv", f"{NAME}.weight_scale", f"{NAME}.weight"
GATE = "model.layers.0.mlp.experts.gate_up_proj"
F8 = np.ones((4, 64), E4M3)
HOSTILE = {
    "no scale": ("DeepSeek", without(INV), W, "F8_E4M3 without a scale"),
    "no codes": ("DeepSeek", without(W), INV, "lacks the codes"),
    "codes that are floats": ("DeepSeek", put(W, np.ones((200, 320), BF16)), INV, "lacks the codes"),
    "a scale too few": ("DeepSeek", put(INV, np.ones((2, 2), np.float32)), INV, r"shape \(2, 2\), which does not fit"),
    "scales of rows, where the config says blocks": (
        "DeepSeek", put(INV, np.ones((200, 1), np.float32)), INV, "does not fit"
    ),
    "one scale, where the config says blocks": ("DeepSeek", put(INV, np.ones(1, np.float32)), INV, "does not fit"),
    "scales transposed": ("DeepSeek", put(INV, np.ones((3, 2), np.float32)), INV, "does not fit"),
    "scales without an extent": ("DeepSeek", put(INV, np.ones((0, 3), np.float32)), INV, "does not fit"),
    "integer scales": ("DeepSeek", put(INV, np.ones((2, 3), np.int32)), INV, "dtype I32"),
    "a scale of NaN": ("DeepSeek", spoiled(INV, 4, np.nan), INV, "scale 4 is nan"),
    "a scale of inf": ("DeepSeek", spoiled(INV, 0, np.inf), INV, "scale 0 is inf"),
    "an E8M0 scale of NaN": ("DeepSeek, E8M0 scales", spoiled(INV, 1, np.nan), INV, "scale 1 is nan"),
    "channels that are not the rows": (
        "compressed-tensors, channel", put(SCALE, np.ones((64, 1), np.float32)), SCALE, "does not fit"
    ),
    "a zero point": (
        "compressed-tensors, INT8", put(f"{NAME}.weight_zero_point", np.ones((96, 1), np.int8)), "compressed-tensors",
        "weight_zero_point",
    ),
    "INT8 without a scale": (
        "compressed-tensors, INT8", put(f"{OTHER}.weight", np.ones((4, 64), np.int8)), OTHER, "I8"
    ),
    "another FP8 without a scale": ("ComfyUI", put(f"{OTHER}.weight", F8), f"{OTHER}.weight", "without a scale"),
    "the mark of ComfyUI and no scale": ("cast to E4M3", put("scaled_fp8", np.zeros(0, E4M3)), W, "without a scale"),
    "a format of ComfyUI": (
        "ComfyUI, with formats", put(f"{NAME}.comfy_quant", np.frombuffer(b'{"format": "nvfp4"}', np.uint8)),
        "comfy_quant", "'nvfp4'",
    ),
    "no JSON": (
        "ComfyUI, with formats", put(f"{NAME}.comfy_quant", np.frombuffer(b"[", np.uint8)), "comfy_quant", "JSON"
    ),
    "FP4 scales of NaN": (
        "DeepSeek V4", spoiled("model.layers.1.mlp.experts.0.down_proj.scale", 3, np.nan), "0.down_proj.scale", "nan"
    ),
    "a second scale of experts": (
        "DeepSeek V4", put("a.w13_weight_outer_scale_denominator", ONE), "FP4 with two scales", "outer_scale"
    ),
    "blocks without scales": ("gpt-oss", without(f"{GATE}_scales"), f"{GATE}_blocks", "lacks"),
    "scales without blocks": ("gpt-oss", without(f"{GATE}_blocks"), f"{GATE}_scales", "lacks"),
    "blocks of 8 bytes": ("gpt-oss", put(f"{GATE}_blocks", np.ones((3, 10, 4, 8), np.uint8)), GATE, "16 bytes"),
    "scales of other blocks": ("gpt-oss", put(f"{GATE}_scales", np.ones((3, 10, 1), np.uint8)), GATE, "does not fit"),
    "an MXFP4 scale of NaN": ("gpt-oss", spoiled(f"{GATE}_scales", 7, 255), f"{GATE}_scales", "scale 7 is nan"),
    "NVFP4 without its second scale": ("NVFP4 of ModelOpt", without(f"{NAME}.weight_scale_2"), NAME, "weight_scale"),
    "a second scale of 0": (
        "NVFP4 of compressed-tensors", put(f"{NAME}.weight_global_scale", 0 * ONE), "weight_global_scale", "positive"
    ),
    "a second scale of NaN": (
        "NVFP4 of ModelOpt", put(f"{NAME}.weight_scale_2", np.nan * ONE), "weight_scale_2", "positive"
    ),
    "two second scales": (
        "NVFP4 of ModelOpt", put(f"{NAME}.weight_scale_2", np.ones(2, np.float32)), "weight_scale_2", "expected one F32"
    ),
    "an NVFP4 scale of NaN": ("NVFP4 of ModelOpt", spoiled(SCALE, 9, np.nan), SCALE, "scale 9 is nan"),
    "a weight twice": ("NVFP4 of compressed-tensors", put(W, np.ones((4, 4), BF16)), W, "is there twice"),
    "scales of inputs that belong to weights": (
        "NVFP4 of ModelOpt", put(f"{NAME}.pre_quant_scale", np.ones(192, BF16)), "AWQ", "pre_quant_scale"
    ),
    "E8M0 that is no scale": (
        "cast to E4M3", put(f"{OTHER}.weight", np.ones((2, 64), ml_dtypes.float8_e8m0fnu)), OTHER, "F8_E8M0"
    ),
}  # fmt: skip
TARGETS = ["dequantize", "nf4", "gguf"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_fit_together_is_refused(name, target, tmp_path):
    base, change, tensor, problem = HOSTILE[name]
    coded = CHECKPOINTS[base]()
    coded.tensors = change(coded.tensors)
    folder = coded.write(tmp_path / "in")
    with pytest.raises(FileFormatError) as caught:
        if target == "dequantize":
            dequantize_checkpoint(folder, tmp_path / "out")
        elif target == "nf4":
            quantize_checkpoint(folder, tmp_path / "out", "nf4")
        else:
            quantize_model(folder, tmp_path / "out.gguf", "Q8_0", keep_names=True)
    assert re.fullmatch(rf"{re.escape(str(folder))}[^\n]*", str(caught.value))
    assert tensor in str(caught.value) and re.search(problem, str(caught.value))
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {"quant_method": "compressed-tensors", "format": "marlin-24"},
        {"quant_method": "compressed-tensors", "format": "float-quantized", "sparsity_config": {"format": "sparse-24"}},
        {"quant_method": "compressed-tensors", "format": "float-quantized", "transform_config": {"config_groups": {}}},
        {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"},
        {"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"},
    ],
)
def test_kinds_of_a_method_that_are_not_decoded_are_refused(settings, tmp_path):
    coded = CHECKPOINTS["compressed-tensors, channel"]()
    coded.config = quantized(**settings)
    folder = coded.write(tmp_path / "in")
    with pytest.raises(FileFormatError, match=rf"is quantized by '{settings['quant_method']}'"):
        dequantize_checkpoint(folder, tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]


def test_a_value_too_large_for_the_type_is_refused(tmp_path):
    coded = in_blocks((64, 128))
    coded.tensors[INV][:] = 300
    folder = coded.write(tmp_path / "in")
    dequantize_checkpoint(folder, tmp_path / "out", "BF16")
    with pytest.raises(FileFormatError, match=rf"'{re.escape(W)}': value \d+ times its scale is too large for F16"):
        dequantize_checkpoint(folder, tmp_path / "out2", "F16")
    with open_model(folder) as model:
        assert model.tensors[W].values().max() > 1e5


def test_matrices_are_decoded_once_by_one_thread(tmp_path, monkeypatch):
    made = []
    real = decoders._decode_matrix
    monkeypatch.setattr(KeptTensor, "slab_bytes", 64)
    monkeypatch.setattr(decoders, "_decode_matrix", lambda decoder, i: made.append((decoder, i)) or real(decoder, i))
    dequantize_checkpoint(CHECKPOINTS["gpt-oss"]().write(tmp_path / "in"), tmp_path / "out", n_threads=3)
    assert len(made) == len(set(made)) == 6

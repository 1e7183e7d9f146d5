"""Checkpoints that are quantized by a method that is not decoded: refused by its name, and nothing is written."""

import json
import os
import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

F32 = {"model.layers.0.q_proj.weight": np.ones((2, 64), np.float32)}
FP8 = {"model.layers.0.q_proj.weight": np.ones((2, 64), ml_dtypes.float8_e4m3fn)}
MODULE = "model.layers.0.q_proj"


def beside(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    return F32 | {name: array}


I32, I8, SCALE = np.ones((8, 8), np.int32), np.ones((2, 8), np.int8), np.ones((2, 1), np.float32)
QUANTIZED = {
    **{
        f"quant_method {method}": (F32, {"quantization_config": {"quant_method": method, "bits": 4}}, method)
        for method in (
            "gptq",
            "awq",
            "fp8",
            "fbgemm_fp8",
            "compressed-tensors",
            "aqlm",
            "hqq",
            "torchao",
            "quanto",
            "eetq",
            "higgs",
            "vptq",
            "spqr",
            "bitnet",
            "mxfp4",
            "modelopt",
            "some-new-method",
        )
    },
    "8 bits of bitsandbytes": (
        F32,
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}},
        "bitsandbytes",
    ),
    "8 bits without a method": (F32, {"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
    "a method that is no text": (F32, {"quantization_config": {"quant_method": 8}}, "8"),
    "no method": (F32, {"quantization_config": {"bits": 4}}, "a method without a name"),
    "in text_config": (F32, {"text_config": {"quantization_config": {"quant_method": "gptq"}}}, "gptq"),
    "compression_config": (F32, {"compression_config": {"quant_method": "sparseml"}}, "sparseml"),
    "MLX": (F32, {"quantization": {"group_size": 64, "bits": 4}}, "a method without a name"),
    "FP8 without a scale": (FP8, {"quantization_config": {"quant_method": "fp8"}}, "F8_E4M3 without a scale"),
    "E8M0": ({"a.weight": np.ones((2, 64), ml_dtypes.float8_e8m0fnu)}, {}, "F8_E8M0"),
    "DeepSeek, no codes": (beside(f"{MODULE}.weight_scale_inv", SCALE), {}, "weight_scale_inv"),
    "compressed-tensors, no codes": (beside(f"{MODULE}.weight_scale", SCALE), {}, "weight_scale"),
    "ComfyUI, no codes": (beside(f"{MODULE}.scale_weight", SCALE), {}, "scale_weight"),
    "ComfyUI's mark": (FP8 | {"scaled_fp8": np.zeros(0, np.float32)}, {}, "F8_E4M3 without a scale"),
    "NVFP4, no codes": (beside(f"{MODULE}.weight_scale_2", SCALE), {}, "weight_scale_2"),
    "compressed-tensors, 4-bit integers": (beside(f"{MODULE}.weight_packed", I32), {}, "compressed-tensors"),
    "GPTQ without config": (beside(f"{MODULE}.qweight", I32) | {f"{MODULE}.g_idx": I32}, {}, "gptq"),
    "AWQ without config": (beside(f"{MODULE}.qzeros", I32), {}, "awq"),
    "8 bits without config": (beside(f"{MODULE}.SCB", SCALE), {}, "bitsandbytes"),
    "HQQ without config": (beside(f"{MODULE}.W_q", I32), {}, "hqq"),
    "quanto without config": (beside(f"{MODULE}.weight._scale", SCALE), {}, "quanto"),
    "EETQ without config": ({"a.weight": I8, "a.weight_scales": SCALE}, {}, "eetq"),
    "SmoothQuant": ({"a.weight": I8, "a.dequant_scale": SCALE}, {}, "smoothquant"),
    "EXL2 without config": (beside(f"{MODULE}.q_scale_max", SCALE), {}, "exl2"),
    "EXL3 without config": (beside(f"{MODULE}.trellis", np.ones((4, 4, 48), np.int16)), {}, "exl3"),
    "VPTQ without config": (beside(f"{MODULE}.centroids.weight", SCALE) | {f"{MODULE}.indices": I32}, {}, "vptq"),
    "HIGGS without config": (beside(f"{MODULE}.tables2", SCALE) | {f"{MODULE}.scales": SCALE}, {}, "higgs"),
    "SpQR without config": (beside(f"{MODULE}.dense_weights", np.ones(9, np.int64)), {}, "spqr"),
    "torchao without config": (beside(f"{MODULE}._weight_qdata", I8), {}, "torchao"),
    "MLX without config": ({"a.weight": np.ones((2, 8), np.uint32), "a.scales": SCALE}, {}, "mlx"),
}
COMMANDS = {
    "nf4": ["quantize", "IN", "out", "nf4"],
    "nf4, one file": ["quantize", "IN", "out.safetensors", "nf4"],
    "nf4, all excluded": ["quantize", "IN", "out", "nf4", "--exclude", "."],
    "Q8_0": ["quantize", "IN", "out.gguf", "Q8_0"],
    "dequantize": ["dequantize", "IN", "out"],
}


def check_refused(call, folder, tmp_path, command, method):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    arguments = [
        folder if word == "IN" else word if not word.startswith("out") else tmp_path / word for word in command
    ]
    status, text, err = call(*arguments)
    assert (status, text) == (1, "")
    assert re.fullmatch(rf"quantcore: error: {re.escape(str(folder))}[^\n]*{re.escape(method)}[^\n]*\n", err)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(("tensors", "config", "method"), QUANTIZED.values(), ids=QUANTIZED)
def test_what_is_not_decoded_is_refused(tensors, config, method, command, call, tmp_path):
    (tmp_path / "in").mkdir()
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    check_refused(call, tmp_path / "in", tmp_path, command, method)


OTHER_FILES = {
    "quantize_config.json": ({"bits": 4, "group_size": 128}, "gptq"),
    "quant_config.json": ({"w_bit": 4, "zero_point": True}, "awq"),
    "quanto_qmap.json": ({"model.layers.0.q_proj": {"weights": "qint8"}}, "quanto"),
    "hf_quant_config.json": ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}, "modelopt"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("name", OTHER_FILES)
def test_files_of_older_tools_name_it_too(name, command, call, tmp_path):
    settings, method = OTHER_FILES[name]
    (tmp_path / "in").mkdir()
    save_file(F32, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / name).write_text(json.dumps(settings))
    check_refused(call, tmp_path / "in", tmp_path, command, method)


@pytest.mark.parametrize(
    "config", [{}, {"quantization_config": None}, {"quantization_config": {}}, {"quantization": "no"}]
)
def test_plain_checkpoints_are_not_refused(config, call, tmp_path):
    (tmp_path / "in").mkdir()
    tensors = F32 | {"weight_scale_embed": SCALE, "a.logit_scale": SCALE, "b_blocks": np.ones(4, np.uint8)}
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    assert call("quantize", tmp_path / "in", tmp_path / "out", "nf4").status == 0
    assert call("dequantize", tmp_path / "out", tmp_path / "back").status == 0
    assert call("quantize", tmp_path / "back", tmp_path / "out.gguf", "Q8_0").status == 0

"""Checkpoints of codes beside the libraries that write them: transformers and compressed-tensors decode the same."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantcore.conversion import dequantize_checkpoint, quantize_checkpoint
from tests.conversion.test_transformers_parity import distance, load, logits, quiet
from tests.support.tiny_models import LLAMA, MODELS, TinyModel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
MAJOR = int(transformers.__version__.split(".")[0])
pytestmark = [pytest.mark.slow, pytest.mark.may_skip, pytest.mark.filterwarnings("ignore")]
__all__ = ["quiet"]  # a fixture

DENSE = TinyModel("decoder", "LlamaForCausalLM", "LlamaConfig", LLAMA)
GPT_OSS = TinyModel(
    "mixture of experts", "GptOssForCausalLM", "GptOssConfig",
    LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "layer_types": ["full_attention"] * 2},
)  # fmt: skip


def to_fp8(folder: Path, block: int) -> None:
    """Linear layers as E4M3 in blocks, as DeepSeek's checkpoints have them."""
    tensors, coded = load_file(folder / "model.safetensors"), {}
    for name, values in tensors.items():
        if values.ndim != 2 or "embed" in name or "lm_head" in name or name.endswith("mlp.gate.weight"):
            coded[name] = values
            continue
        rows, columns = (-(-n // block) for n in values.shape)
        padded = np.zeros((rows * block, columns * block), np.float32)
        padded[: values.shape[0], : values.shape[1]] = values
        tiles = padded.reshape(rows, block, columns, block)
        scales = np.abs(tiles).max(axis=(1, 3)) / 448
        codes = (tiles / scales[:, None, :, None]).reshape(padded.shape)[: values.shape[0], : values.shape[1]]
        coded[name] = codes.astype(ml_dtypes.float8_e4m3fn)
        coded[f"{name}_scale_inv"] = scales
    save_file(coded, folder / "model.safetensors", {"format": "pt"})
    settings = {"quant_method": "fp8", "weight_block_size": [block, block], "activation_scheme": "dynamic"}
    enter(folder, settings)


def to_mxfp4(folder: Path) -> None:
    """Experts as gpt-oss has them: transposed, in blocks of 32."""
    tensors, coded = load_file(folder / "model.safetensors"), {}
    levels = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    for name, values in tensors.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            coded[name] = values
            continue
        tiles = np.ascontiguousarray(values.astype(np.float32).swapaxes(-1, -2))
        tiles = tiles.reshape(*tiles.shape[:-1], -1, 32)
        exponents = np.floor(np.log2(np.abs(tiles).max(axis=-1))).astype(int) - 2
        codes = np.abs(np.ldexp(tiles, -exponents[..., None])[..., None] - levels).argmin(axis=-1).astype(np.uint8)
        coded[f"{name}_blocks"] = codes[..., ::2] | codes[..., 1::2] << 4
        coded[f"{name}_scales"] = (exponents + 127).astype(np.uint8)
    save_file(coded, folder / "model.safetensors", {"format": "pt"})
    enter(folder, {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]})


def enter(folder: Path, settings: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))


def same_weights(ours: Any, own: Any) -> None:
    expected = own.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, values in ours.state_dict().items():
        torch.testing.assert_close(values.float(), expected[name].float(), rtol=2**-7, atol=0, msg=name)


@pytest.mark.skipif(MAJOR < 5, reason="transformers 4 wants a GPU for FP8")
@pytest.mark.parametrize(
    ("case", "block"), [(DENSE, 64), (DENSE, 128), (MODELS["DeepSeek-V3"], 128)], ids=["64", "128", "DeepSeek"]
)
def test_fp8_of_transformers(case, block, tmp_path):
    case.make(transformers, torch).bfloat16().save_pretrained(tmp_path / "in")
    to_fp8(tmp_path / "in", block)
    dequantize_checkpoint(tmp_path / "in", tmp_path / "out")
    own = load(case, tmp_path / "in", torch, "bfloat16")
    ours = load(case, tmp_path / "out", torch, "bfloat16")
    same_weights(ours, own)
    assert distance(logits(case, ours, torch), logits(case, own, torch)) < 0.02
    quantize_checkpoint(tmp_path / "in", tmp_path / "nf4", "nf4", compute_dtype="float32")
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    expected = load(case, tmp_path / "out", torch, "bfloat16", quantization_config=config)
    quantized = load(case, tmp_path / "nf4", torch, "bfloat16")
    assert distance(logits(case, quantized, torch), logits(case, expected, torch)) < 1e-3


def test_mxfp4_of_transformers(tmp_path):
    GPT_OSS.make(transformers, torch).bfloat16().save_pretrained(tmp_path / "in")
    to_mxfp4(tmp_path / "in")
    dequantize_checkpoint(tmp_path / "in", tmp_path / "out")
    config = transformers.Mxfp4Config(dequantize=True)
    own = load(GPT_OSS, tmp_path / "in", torch, "bfloat16", quantization_config=config)
    ours = load(GPT_OSS, tmp_path / "out", torch, "bfloat16")
    for name, values in ours.state_dict().items():
        assert torch.equal(values, own.state_dict()[name]), name
    assert torch.equal(logits(GPT_OSS, ours, torch), logits(GPT_OSS, own, torch))
    report = quantize_checkpoint(tmp_path / "in", tmp_path / "nf4", "nf4")
    assert sum(t.target_type == "NF4" for t in report.tensors) == 4 * 2
    assert any("gate_up_proj" in notice and "kept" in notice for notice in report.notices)
    quantized = load(GPT_OSS, tmp_path / "nf4", torch, "bfloat16")
    assert distance(logits(GPT_OSS, quantized, torch), logits(GPT_OSS, ours, torch)) < 0.5


WEIGHTS = {
    "FP8, tensor": {"num_bits": 8, "type": "float", "strategy": "tensor"},
    "FP8, channel": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "FP8, blocks": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
    "INT8, channel": {"num_bits": 8, "type": "int", "strategy": "channel"},
    "INT8, group": {"num_bits": 8, "type": "int", "strategy": "group", "group_size": 64},
    "NVFP4": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
    "MXFP4": {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
    "MXFP8": {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32},
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_compressed_tensors(name, tmp_path):
    """A layer that the library compresses, as it decompresses it itself, in float32."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    settings = dict(WEIGHTS[name])
    if name == "MXFP8":
        settings["scale_dtype"] = torch.uint8
    arguments = QuantizationArgs(symmetric=True, **settings)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    torch.manual_seed(0)
    weight = torch.randn(256, 384) / 50
    size = settings.get("group_size")
    if "block_structure" in settings:
        tiles = weight.reshape(2, 128, 3, 128).permute(0, 2, 1, 3).reshape(2, 3, -1)
    elif settings["strategy"] == "tensor":
        tiles = weight.reshape(1, -1)
    else:
        tiles = weight.reshape(256, -1, size or 384)
    state = {"weight": weight}
    low, high = tiles.amin(-1), tiles.amax(-1)
    if name == "NVFP4":
        state["weight_global_scale"] = generate_gparam(weight.min(), weight.max())
    scale, _ = calculate_qparams(low, high, arguments, global_scale=state.get("weight_global_scale"))
    state["weight_scale"] = scale
    kind = "int-quantized" if "INT8" in name else infer_module_format(torch.nn.Linear, scheme).value
    compressor = BaseCompressor.get_value_from_registry(kind)
    packed = compressor.compress(state, scheme)
    assert "weight" not in packed or packed["weight"].element_size() == 1
    from safetensors.torch import save_file as save_torch

    (tmp_path / "in").mkdir()
    save_torch({f"a.{key}": value.contiguous() for key, value in packed.items()}, tmp_path / "in" / "model.safetensors")
    group = {"targets": ["Linear"], "weights": {k: v for k, v in settings.items() if k != "scale_dtype"}}
    config = {"quant_method": "compressed-tensors", "format": kind, "config_groups": {"group_0": group}}
    (tmp_path / "in" / "config.json").write_text("{}")
    enter(tmp_path / "in", config)
    dequantize_checkpoint(tmp_path / "in", tmp_path / "out", "F32")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert ours.keys() == {"a.weight"}
    own = compressor.decompress(packed, scheme)["weight"].float().numpy()
    assert own.shape == ours["a.weight"].shape
    np.testing.assert_allclose(ours["a.weight"], own, rtol=2**-7 if "4" in name else 3e-7)  # FP4 by way of bfloat16

"""Small checkpoints in every layout of codes with scales that is decoded, and what their weights are in float64."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.support.reference_codes import spread, unpacked, values_of

E4M3, E5M2, E8M0, BF16 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu, ml_dtypes.bfloat16
NAME = "model.layers.0.self_attn.q_proj"
OTHER = "model.layers.1.mlp.down_proj"
Arrays = dict[str, np.ndarray]


@dataclass
class Coded:
    """A checkpoint: its tensors, config.json, the weights in float64, and what is left out."""

    tensors: Arrays
    config: dict[str, Any]
    weights: Arrays
    kept: Arrays = field(default_factory=lambda: {"model.norm.weight": np.linspace(1, 2, 64).astype(BF16)})
    left_out: Arrays = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        folder.mkdir()
        save_file(self.kept | self.left_out | self.tensors, folder / "model.safetensors")
        config = {"model_type": "nobody-has-this", "dtype": "bfloat16"} | self.config
        (folder / "config.json").write_text(json.dumps(config))
        return folder


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))


def codes(shape: tuple[int, ...], dtype: Any = E4M3, seed: str = "") -> np.ndarray:
    """All codes but those that are no numbers."""
    found = generator(seed).integers(0, 256, shape, dtype=np.uint8).view(dtype)
    return np.where(np.isfinite(found.astype(np.float32)), found, dtype(1)) if dtype is not np.int8 else found


def scales(shape: tuple[int, ...], dtype: Any = np.float32, seed: str = "") -> np.ndarray:
    return generator(seed + "scales").lognormal(-6, 1, shape).astype(dtype)


def quantized(**settings: Any) -> dict[str, Any]:
    return {"quantization_config": settings}


def in_blocks(shape: tuple[int, int] = (200, 320), size: int = 128, dtype: Any = np.float32, code: Any = E4M3) -> Coded:
    """DeepSeek: rectangles."""
    tensors, weights = {}, {}
    for name in (NAME, OTHER):
        counts = tuple(-(-n // size) for n in shape)
        tensors[f"{name}.weight"] = codes(shape, code, name)
        tensors[f"{name}.weight_scale_inv"] = scales(counts, dtype, name)
        factor = spread(tensors[f"{name}.weight_scale_inv"].astype(np.float64), shape, (size, size))
        weights[f"{name}.weight"] = tensors[f"{name}.weight"].astype(np.float64) * factor
    config = quantized(quant_method="fp8", weight_block_size=[size, size], activation_scheme="dynamic")
    return Coded(tensors, config, weights)


def per_tensor(
    scale: str, config: dict[str, Any], left_out: Arrays | None = None, shape: tuple[int, ...] = (), code: Any = E4M3
) -> Coded:
    """One scale for the tensor, or for each row."""
    made = codes((96, 64), code, scale)
    factor = scales(shape, np.float32, scale)
    by_row = factor.reshape(-1, 1).astype(np.float64)
    return Coded(
        {f"{NAME}.weight": made, f"{NAME}.{scale}": factor},
        config,
        {f"{NAME}.weight": made.astype(np.float64) * by_row},
        left_out=left_out or {},
    )


def deepseek_v4() -> Coded:
    """Dense layers in FP8, an expert in packed FP4 under int8, both with `.scale`."""
    made = codes((200, 320), E4M3, "v4")
    exponents = generator("v4").integers(100, 120, (2, 3), dtype=np.uint8)
    expert = "model.layers.1.mlp.experts.0.down_proj"
    packed = generator("expert").integers(0, 256, (40, 32), dtype=np.uint8)
    runs = generator("runs").integers(100, 120, (40, 2), dtype=np.uint8)
    weights = {
        f"{NAME}.weight": made.astype(np.float64) * spread(values_of(exponents, "F8_E8M0"), (200, 320), (128, 128)),
        f"{expert}.weight": values_of(unpacked(packed), "E2M1") * spread(values_of(runs, "U8"), (40, 64), (1, 32)),
    }
    tensors = {
        f"{NAME}.weight": made, f"{NAME}.scale": exponents.view(E8M0),
        f"{expert}.weight": packed.view(np.int8), f"{expert}.scale": runs.view(E8M0),
    }  # fmt: skip
    settings = {"weight_block_size": [128, 128], "scale_fmt": "ue8m0", "expert_dtype": "fp4"}
    return Coded(tensors, quantized(quant_method="fp8", **settings), weights)


def four_bits(block: int, scale_dtype: Any, names: tuple[str, str], second: str, divides: bool, config: Any) -> Coded:
    """Packed codes with a scale for each run, and perhaps a second one for the tensor."""
    rows, columns = 48, 192
    packed = generator(names[0]).integers(0, 256, (rows, columns // 2), dtype=np.uint8)
    run_scales = generator(names[1]).integers(90, 120, (rows, columns // block), dtype=np.uint8)
    values = values_of(unpacked(packed), "E2M1")
    kind = "F8_E4M3" if scale_dtype is E4M3 else "F8_E8M0"
    factor = spread(values_of(run_scales, kind), (rows, columns), (1, block))
    tensors = {f"{NAME}.{names[0]}": packed, f"{NAME}.{names[1]}": run_scales.view(scale_dtype)}
    if second:
        whole = np.array([0.001234 if not divides else 567.8], np.float32)
        tensors[f"{NAME}.{second}"] = whole
        factor = factor / np.float64(whole[0]) if divides else factor * np.float64(whole[0])
    return Coded(tensors, config, {f"{NAME}.weight": values * factor})


def gpt_oss(experts: int = 3, rows: int = 10, columns: int = 64) -> Coded:
    """Blocks of 16 bytes on an axis of their own; the model has the matrices transposed."""
    tensors, weights = {}, {}
    for part, shape in (("gate_up_proj", (experts, rows, columns)), ("down_proj", (experts, columns, 32))):
        name = f"model.layers.0.mlp.experts.{part}"
        blocks = generator(part).integers(0, 256, (*shape[:-1], shape[-1] // 32, 16), dtype=np.uint8)
        exponents = generator(part + "e").integers(110, 125, (*shape[:-1], shape[-1] // 32), dtype=np.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": exponents}
        values = values_of(unpacked(blocks), "E2M1") * values_of(exponents, "U8")[..., None]
        weights[name] = np.ascontiguousarray(values.reshape(shape).swapaxes(-1, -2))
    config = quantized(quant_method="mxfp4", modules_to_not_convert=["lm_head"])
    return Coded(tensors, config, weights)


def stacked_blocks() -> Coded:
    """Fused experts of transformers 5 in FP8."""
    name, shape = "model.layers.0.mlp.experts.gate_up_proj", (3, 150, 130)
    made, factor = codes(shape, E4M3, name), scales((3, 2, 2), BF16, name)
    weights = {name: made.astype(np.float64) * spread(factor.astype(np.float64), shape, (128, 128))}
    config = quantized(quant_method="fp8", weight_block_size=[128, 128])
    return Coded({name: made, f"{name}_scale_inv": factor}, config, weights)


def plain(code: Any) -> Coded:
    """FP8 without scales: a cast."""
    made = codes((7, 64), code, "plain")
    return Coded({f"{NAME}.weight": made}, {}, {f"{NAME}.weight": made.astype(np.float64)})


def groups(strategy: str, **settings: Any) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": "float", "strategy": strategy, "symmetric": True, **settings}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {"config_groups": {"group_0": group}, "ignore": ["lm_head"], "quantization_status": "compressed"}


def compressed(kind: str, strategy: str = "channel", **settings: Any) -> dict[str, Any]:
    return quantized(quant_method="compressed-tensors", format=kind, **groups(strategy, **settings))


def by_group() -> Coded:
    """A scale for 32 neighbours of a row, as floats."""
    made, factor = codes((6, 96), E4M3, "group"), scales((6, 3), BF16, "group")
    weight = made.astype(np.float64) * spread(factor.astype(np.float64), (6, 96), (1, 32))
    tensors = {f"{NAME}.weight": made, f"{NAME}.weight_scale": factor}
    return Coded(tensors, compressed("float-quantized", "group", group_size=32), {f"{NAME}.weight": weight})


def in_runs(scale: str, config: dict[str, Any]) -> Coded:
    """A power of two for 32 neighbours of a row."""
    made = codes((6, 96), E4M3, "mxfp8")
    exponents = generator("mxfp8").integers(100, 120, (6, 3), dtype=np.uint8)
    weight = made.astype(np.float64) * spread(values_of(exponents, "U8"), (6, 96), (1, 32))
    return Coded({f"{NAME}.weight": made, f"{NAME}.{scale}": exponents}, config, {f"{NAME}.weight": weight})


ONE = np.array([0.5], np.float32)
INPUT_SCALE, CACHE = {f"{NAME}.input_scale": ONE}, {"model.layers.0.self_attn.k_scale": ONE[:1].copy()}
MODELOPT = quantized(quant_method="modelopt", quant_algo="NVFP4")
COMFY = {f"{NAME}.scale_input": ONE, "scaled_fp8": np.zeros(0, E4M3)}
FORMAT = {f"{NAME}.comfy_quant": np.frombuffer(b'{"format": "float8_e4m3fn"}', np.uint8)}

CHECKPOINTS: dict[str, Callable[[], Coded]] = {
    "DeepSeek": in_blocks,
    "DeepSeek, bfloat16 scales": lambda: in_blocks(dtype=BF16),
    "DeepSeek, E8M0 scales": lambda: in_blocks(dtype=E8M0),
    "DeepSeek, blocks of 64": lambda: in_blocks(size=64),
    "DeepSeek, E5M2": lambda: in_blocks(code=E5M2),
    "DeepSeek, less than a block": lambda: in_blocks((96, 64)),
    "DeepSeek V4": deepseek_v4,
    "FP8 in runs of 32": lambda: in_runs("weight_scale_inv", quantized(quant_method="fp8", weight_block_size=[1, 32])),
    "Mistral": lambda: per_tensor(
        "weight_scale_inv", quantized(quant_method="fp8", weight_block_size=None), {f"{NAME}.activation_scale": ONE}
    ),
    "Mistral, consolidated": lambda: per_tensor("qscale_weight", {}, {f"{NAME}.qscale_act": ONE}),
    "AutoFP8": lambda: per_tensor("weight_scale", quantized(quant_method="fp8"), INPUT_SCALE | CACHE, (1,)),
    "fbgemm": lambda: per_tensor("weight_scale", quantized(quant_method="fbgemm_fp8"), {}, (96, 1)),
    "compressed-tensors, tensor": lambda: per_tensor(
        "weight_scale", compressed("float-quantized", "tensor"), INPUT_SCALE, (1,)
    ),
    "compressed-tensors, channel": lambda: per_tensor("weight_scale", compressed("float-quantized"), None, (96, 1)),
    "compressed-tensors, channel without an axis": lambda: per_tensor(
        "weight_scale", compressed("naive-quantized"), None, (96,)
    ),
    "compressed-tensors, group": by_group,
    "compressed-tensors, INT8": lambda: per_tensor(
        "weight_scale", compressed("int-quantized", type="int"), None, (96, 1), np.int8
    ),
    "compressed-tensors, MXFP8": lambda: in_runs("weight_scale", compressed("mxfp8-quantized", "group")),
    "ModelOpt, FP8": lambda: per_tensor(
        "weight_scale", quantized(quant_method="modelopt", quant_algo="FP8"), INPUT_SCALE
    ),
    "ComfyUI": lambda: per_tensor("scale_weight", {}, COMFY),
    "ComfyUI, E5M2": lambda: per_tensor("scale_weight", {}, COMFY, code=E5M2),
    "ComfyUI, with formats": lambda: per_tensor("weight_scale", {}, FORMAT),
    "cast to E4M3": lambda: plain(E4M3),
    "cast to E5M2": lambda: plain(E5M2),
    "fused experts": stacked_blocks,
    "gpt-oss": gpt_oss,
    "NVFP4 of compressed-tensors": lambda: four_bits(
        16, E4M3, ("weight_packed", "weight_scale"), "weight_global_scale", True, compressed("nvfp4-pack-quantized")
    ),
    "NVFP4 of ModelOpt": lambda: four_bits(16, E4M3, ("weight", "weight_scale"), "weight_scale_2", False, MODELOPT),
    "MXFP4 of compressed-tensors": lambda: four_bits(
        32, np.uint8, ("weight_packed", "weight_scale"), "", False, compressed("mxfp4-pack-quantized")
    ),
}
"""A maker for each layout."""

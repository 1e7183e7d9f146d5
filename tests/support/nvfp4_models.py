"""The tiny models of `hf_models` with their matrices in NVFP4, as ModelOpt or compressed-tensors store it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from tests.support.hf_models import make_model, write_json

MODELOPT, COMPRESSED = "ModelOpt", "compressed-tensors"
LAYOUTS = (MODELOPT, COMPRESSED)
MODELS = ("llama", "llama 3", "mixtral", "qwen3", "qwen3moe", "gemma2", "gemma3")
"""Those whose architecture llama.cpp runs in NVFP4."""
DECODED = ("qwen2", "phi3", "gpt2")
"""Some where it does not apply the scales that go with it, or has matrices the other way round."""
CONVERTED = tuple(name for name in MODELS if name != "mixtral")
"""Those that its converter takes."""
_MATRICES = ("proj.weight", "w1.weight", "w2.weight", "w3.weight", "c_attn.weight", "c_fc.weight")
_CONFIGS = {
    MODELOPT: {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    COMPRESSED: {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": {"group_0": {"format": "nvfp4-pack-quantized", "weights": {"num_bits": 4, "group_size": 16}}},
    },
}


def make_nvfp4_model(
    name: str,
    folder: Path,
    layout: str,
    change: Callable[[dict[str, np.ndarray]], object] | None = None,
    *,
    others: tuple[str, ...] = (),
) -> Path:
    """A folder with random codes and scales; equal for equal arguments.

    Experts are made twice as wide, so that their rows are whole blocks; other matrices whose rows are none stay floats.
    Every third matrix has a scale of exactly 1 for its activations. `change` may do something to the tensors. `others`:
    endings of the names of matrices that are coded, too.
    """
    floats = folder.parent / f"{folder.name}-floats"
    make_model(name, floats, "BF16")
    shutil.copytree(floats, folder)
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for i, (key, values) in enumerate(sorted(load_file(floats / "model.safetensors").items())):
        if ".experts." in key:
            values = np.concatenate([values, values], axis=1 if "down" in key or "w2" in key else 0)
        if not key.endswith((*_MATRICES, *others)) or values.shape[1] % 64:
            made[key] = values
        else:
            made |= _coded(key, values.shape, layout, rng, has_unit_input=i % 3 == 0)
    if change is not None:
        change(made)
    save_file(made, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": _CONFIGS[layout]}
    if any(".experts." in key for key in made):
        config["moe_intermediate_size" if "moe_intermediate_size" in config else "intermediate_size"] *= 2
    write_json(folder / "config.json", config)
    return folder


def _coded(
    key: str, shape: tuple[int, ...], layout: str, rng: np.random.Generator, *, has_unit_input: bool
) -> dict[str, np.ndarray]:
    rows, columns = shape
    codes = rng.integers(0, 256, (rows, columns // 2), np.uint8)
    scales = rng.uniform(0, 448, (rows, columns // 16)).astype(ml_dtypes.float8_e4m3fn)
    whole, inputs = (np.float32(rng.uniform(*ends)) for ends in ((1e-5, 1e-4), (1e-3, 1e-1)))
    inputs = np.float32(1) if has_unit_input else inputs
    module = key.removesuffix("weight")
    if layout == MODELOPT:
        beside = {f"{key}_scale_2": np.array(whole), f"{module}input_scale": np.array(inputs)}
        return {key: codes, f"{key}_scale": scales, **beside}
    one = np.float32(1)
    beside = {f"{key}_global_scale": np.array([one / whole]), f"{module}input_global_scale": np.array([one / inputs])}
    return {f"{key}_packed": codes, f"{key}_scale": scales, **beside}

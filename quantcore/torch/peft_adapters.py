"""The adapters of `Linear4bit` layers in the files of PEFT, which puts them onto the original model.

Source: the layout of PEFT's LoRA, `adapter_config.json` and `adapter_model.safetensors`.
"""

import contextlib
import os
from collections import Counter
from typing import Any

import torch
from torch import nn

from quantcore._base.arguments import flag
from quantcore._base.arrays import BFLOAT16, FLOAT16, FLOAT32
from quantcore._base.text import brief, quote
from quantcore.conversion.checkpoint_files import METADATA, create_folder, json_text
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.files.disk import OutputFiles, check_output, local_path
from quantcore.safetensors.writer import SafetensorsWriter, TensorSpec
from quantcore.torch import _tensors
from quantcore.torch.linear4bit import Linear4bit

__all__ = ["save_peft_adapter"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_DTYPES = {FLOAT32: "F32", FLOAT16: "F16", BFLOAT16: "BF16"}


def save_peft_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    base_model: str | None = None,
    task_type: str | None = None,
    force: bool = False,
) -> None:
    """Write the adapters of all `Linear4bit` layers of a model for `peft.PeftModel.from_pretrained`.

    Parameters
    ----------
    model : torch.nn.Module
        Its modules have the names that they have in the original model. Layers without adapters are left out.
    folder : path
        Created if necessary.
    base_model : str, optional
        The original model (`base_model_name_or_path`): a folder, or a name on the Hugging Face hub.
    task_type : str, optional
        PEFT's name for what the model does, such as "CAUSAL_LM".
    force : bool, default False
        Replace existing files.

    Raises
    ------
    TypeError, ValueError
        The model has no layer with adapters, or is one itself; its layers differ in their dropout, of which PEFT has
        one; an adapter is not a float tensor on the CPU.
    OSError
        A file cannot be written, or exists (OutputFileError).

    Notes
    -----
    Codes and scales are not among the files: PEFT adds the adapters to whatever weights the original model is loaded
    with. They were trained for the decoded ones, so load it in 4 bits of the same kind, or `dequantize` its folder.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for name, value in (("base_model", base_model), ("task_type", task_type)):
        if value is not None and not isinstance(value, str):
            raise InvalidTypeError(f"{name}: expected None or a string, got {brief(value)}")
    flag(force, "force")
    layers = {name: m for name, m in model.named_modules() if isinstance(m, Linear4bit) and m.rank}
    if "" in layers:
        raise InvalidValueError(
            "model: expected a module that holds Linear4bit layers, each under the name that it has in the original "
            "model, got such a layer itself; its to_peft() gives its adapters"
        )
    if not layers:
        raise InvalidValueError("model: expected a module that holds Linear4bit layers with adapters (rank > 0)")
    tensors = {
        f"{_PREFIX}{name}.{entry}": tensor
        for name, layer in layers.items()
        for entry, tensor in layer.to_peft().items()
    }
    config = _config(layers) | {"base_model_name_or_path": base_model, "task_type": task_type}
    target = local_path(folder)
    for file in (_WEIGHTS, _CONFIG):
        check_output(target / file, force=force, makes_folder=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(create_folder(target))
        files = stack.enter_context(OutputFiles(force=force))
        specs = [TensorSpec(name, _dtype(tensor, name), tuple(tensor.shape)) for name, tensor in tensors.items()]
        writer = SafetensorsWriter(files.open(target / _WEIGHTS), specs, METADATA)
        for name, tensor in tensors.items():
            writer.write(name, 0, _tensors.writable_bytes(tensor))
        files.open(target / _CONFIG).write(json_text(config))


def _config(layers: dict[str, Linear4bit]) -> dict[str, Any]:
    """What PEFT wants to know; layers with another rank or alpha than most are listed."""
    dropouts = {layer.dropout: name for name, layer in layers.items()}
    if len(dropouts) > 1:
        names = " and ".join(f"{quote(name)} has {dropout:g}" for dropout, name in list(dropouts.items())[:2])
        raise InvalidValueError(f"model: PEFT has one dropout for all layers, but {names}")
    rank = Counter(layer.rank for layer in layers.values()).most_common(1)[0][0]
    alpha = Counter(layer.alpha for layer in layers.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _number(alpha),
        "lora_dropout": next(iter(dropouts)),
        "target_modules": sorted(layers),
        "rank_pattern": {name: layer.rank for name, layer in layers.items() if layer.rank != rank},
        "alpha_pattern": {name: _number(layer.alpha) for name, layer in layers.items() if layer.alpha != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _dtype(tensor: torch.Tensor, name: str) -> str:
    element_type = _tensors.ELEMENT_TYPES.get(_tensors.take_floats(tensor, name).dtype)
    if element_type is None:
        raise InvalidTypeError(f"{name}: expected float32, float16 or bfloat16, got {tensor.dtype}")
    return _DTYPES[element_type]

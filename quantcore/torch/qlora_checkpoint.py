"""A model filled with a checkpoint whose layers are packed in 4 bits, as `quantcore quantize FOLDER OUT nf4` writes."""

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from quantcore._base.text import quote
from quantcore.errors import FileFormatError, InvalidValueError
from quantcore.models.bitsandbytes_decoder import load_record, packed_weights
from quantcore.safetensors.reader import Checkpoint, SafetensorsInfo, open_checkpoint
from quantcore.torch import _tensors
from quantcore.torch.layer_table import four_bit_types, output_axis
from quantcore.torch.linear_rules import find_obstacles
from quantcore.torch.qlora_layers import check_adapters, find_adapted, find_left, hand_on, put_in_place
from quantcore.torch.replacing import check_model

__all__ = ["load_qlora"]

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def load_qlora(
    model: nn.Module,
    checkpoint: str | os.PathLike[str],
    *,
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    adapters: Iterable[str] | None = None,
) -> nn.Module:
    """Fill a model with a checkpoint in bitsandbytes' 4-bit layout: packed layers become `Linear4bit` with adapters.

    Parameters
    ----------
    model : torch.nn.Module
        A model of floats whose parameters have the names of the checkpoint's tensors, on the CPU or with parameters on
        the meta device, which take no memory; changed in place. All parameters but the adapters are frozen.
    checkpoint : path
        A folder that `quantcore quantize FOLDER OUT nf4` or transformers wrote, in one file or in shards, or a
        safetensors file.
    rank, alpha, dropout, adapters
        As for `prepare_qlora`.

    Returns
    -------
    torch.nn.Module
        `model`, with an attribute `skipped` as that of `prepare_qlora`. What is not packed is loaded in the dtype that
        the parameter has in `model`.

    Raises
    ------
    ValueError
        A file is malformed or has no packed weight (FileFormatError); a tensor is no parameter or buffer of the model,
        or of another shape; a packed weight is not that of a linear layer; a parameter or buffer gets no values; an
        argument is not allowed. The message names the tensor or the argument, and the model is unchanged.
    TypeError
        An argument has another type.
    OSError
        A file cannot be opened or read.

    Notes
    -----
    Codes and scales are those of the files: nothing is quantized again.
    """
    check_model(model)
    adaptation: dict[str, Any] = {"rank": rank, "alpha": alpha, "dropout": dropout}
    check_adapters(adapters, **adaptation)
    with open_checkpoint(checkpoint) as opened:
        tensors = {tensor.name: tensor for tensor in opened.tensors}
        packed = packed_weights(opened)
        if not packed:
            raise FileFormatError(f"{opened.path}: no weight is packed in bitsandbytes' 4-bit layout")
        layers = _find_layers(model, opened, packed)
        targets = {name: value for name, value in model.state_dict(keep_vars=True).items() if name not in packed}
        parts = packed.keys() | set().union(*packed.values())
        others = {name: tensor for name, tensor in tensors.items() if name not in parts}
        _check_others(opened, others, targets)
        _check_rest(opened, model, {id(targets[name]) for name in others} | {id(m.weight) for m in layers.values()})
        chosen = set(layers.values())
        adapted = chosen if adapters is None else find_adapted(model, adapters, chosen)
        values = {name: _read(opened, tensor).to(targets[name].dtype) for name, tensor in others.items()}
        made: dict[nn.Module, nn.Module] = {}
        for name, module in layers.items():
            record = load_record(opened, tensors, name, packed[name])
            _check_shape(opened, name, record.shape, module)
            bias = values.get(f"{name.removesuffix('weight')}bias")
            options = adaptation if module in adapted else {}
            made[module] = hand_on(module, four_bit_types()[type(module)].from_quantized(record, bias, **options))
    _fill(model, {id(targets[name]): value for name, value in values.items()})
    return put_in_place(model, made, find_left(model, made, {}, "not packed in the checkpoint").values())


def _find_layers(model: nn.Module, opened: Checkpoint, packed: Iterable[str]) -> dict[str, nn.Module]:
    """The layer of each packed weight."""
    modules, obstacles = dict(model.named_modules(remove_duplicate=False)), find_obstacles(model)
    layers = {}
    for weight in packed:
        name, _, leaf = weight.rpartition(".")
        if leaf != "weight" or name not in modules:
            raise InvalidValueError(f"{opened.path}: tensor {quote(weight)}: the model has no such layer")
        if reason := obstacles.get(modules[name]):
            kind = type(modules[name]).__name__
            raise InvalidValueError(
                f"{opened.path}: tensor {quote(weight)}: is packed, but the model has a {kind} there: {reason}"
            )
        layers[weight] = modules[name]
    return layers


def _check_shape(opened: Checkpoint, weight: str, shape: tuple[int, ...], module: nn.Module) -> None:
    own: Any = module._parameters["weight"]
    expected = tuple(own.shape)[::-1] if output_axis(module) else tuple(own.shape)
    if shape != expected:
        raise InvalidValueError(f"{opened.path}: tensor {quote(weight)}: has shape {shape}, the model's {expected}")


def _check_others(opened: Checkpoint, others: dict[str, SafetensorsInfo], targets: dict[str, Any]) -> None:
    """Refuse tensors that fit nothing in the model."""
    for name, tensor in others.items():
        where = f"{opened.path}: tensor {quote(name)}"
        if name not in targets:
            raise InvalidValueError(f"{where}: the model has no such parameter or buffer")
        if tensor.dtype not in _DTYPES:
            raise FileFormatError(f"{where}: is {tensor.dtype}, which is not loaded here")
        if tensor.shape != tuple(targets[name].shape):
            raise InvalidValueError(f"{where}: has shape {tensor.shape}, the model's {tuple(targets[name].shape)}")


def _check_rest(opened: Checkpoint, model: nn.Module, filled: set[int]) -> None:
    """Refuse parameters that get no values, and buffers that have none."""
    for name, parameter in model.named_parameters():
        if id(parameter) not in filled:
            raise InvalidValueError(f"{opened.path}: has no tensor for the parameter {quote(name)} of the model")
    for name, buffer in model.named_buffers():
        if id(buffer) not in filled and buffer.is_meta:
            raise InvalidValueError(f"model: the buffer {quote(name)} is on the meta device, and no tensor is for it")


def _read(opened: Checkpoint, tensor: SafetensorsInfo) -> torch.Tensor:
    values = torch.empty(tensor.shape, dtype=_DTYPES[tensor.dtype])
    opened.read_into(tensor, 0, _tensors.writable_bytes(values))
    return values


@torch.no_grad()
def _fill(model: nn.Module, values: dict[int, torch.Tensor]) -> None:
    """Give parameters and buffers, by their ids, their values; those on the meta device are replaced."""
    placed: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for members in (module._parameters, module._buffers):
            for name, tensor in members.items():
                if tensor is None or id(tensor) not in values:
                    continue
                value = values[id(tensor)]
                if not tensor.is_meta:
                    tensor.copy_(value)
                elif id(tensor) not in placed:
                    placed[id(tensor)] = nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value
                members[name] = placed.get(id(tensor), tensor)  # type: ignore[assignment]

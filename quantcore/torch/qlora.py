"""Whole models for QLoRA: linear layers become 4 bits with adapters, and floats again."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from quantcore._base.text import brief
from quantcore.blockwise.quantize import BLOCK_SIZE
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.torch.layer_table import four_bit_types
from quantcore.torch.linear4bit import Linear4bit
from quantcore.torch.linear_rules import find_customs, find_obstacles
from quantcore.torch.qlora_layers import check_adapters, find_adapted, find_holders, find_left, hand_on, put_in_place
from quantcore.torch.replacing import check_model, read_modules, replace_modules, warn_of_skipped

__all__ = ["merge_qlora", "prepare_qlora"]


def prepare_qlora(
    model: nn.Module,
    *,
    quant_type: str = "nf4",
    block_size: int = BLOCK_SIZE,
    scale_code: str | None = None,
    modules: Iterable[type[nn.Module] | str] | None = None,
    exclude: Iterable[str] = (),
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    adapters: Iterable[str] | None = None,
) -> nn.Module:
    """Replace the linear layers of a model by `Linear4bit`, with adapters that alone can be trained.

    Names of modules, in all parameters, are qualified ones, or else what those end in from a dot on: "q_proj" stands
    for the layers of that name in all blocks, as in PEFT's `target_modules`.

    Parameters
    ----------
    model : torch.nn.Module
        On the CPU; changed in place. Its layers keep their names and their hooks. All parameters but the adapters
        are frozen (`requires_grad=False`).
    quant_type : {"nf4", "fp4", "int4"}
    block_size : int, default 64
        Weights that share a scale (see `quantcore.quantize_4bit`).
    scale_code : {"linear", "dynamic"}, optional
        Double quantization (see `quantcore.quantize_4bit_double`); None: one float32 scale per block.
    modules : iterable of types or of names, optional
        Which layers: Linear, transformers' Conv1D, or names. None: both types. Of the layers of a type, those stay as
        they are that `quantcore quantize` keeps: in a model of transformers the output layer and whatever else
        transformers does not make 4-bit layers; elsewhere layers named like outputs (lm_head, classifier, score, ...),
        embeddings, norms, routers or adapters. A layer that is named here is replaced nonetheless.
    exclude : iterable of names
        Modules that stay as they are with all that is in them, even if `modules` has them.
    rank : int, default 8
        The rank of the adapters; 0: no adapters.
    alpha : float, optional
        The adapters are scaled by `alpha / rank`; None: `rank`, so that they are added unscaled.
    dropout : float, default 0.0
        The dropout probability of the adapters' input in training.
    adapters : iterable of names, optional
        The layers that get adapters, or modules that hold them; None: all that are replaced.

    Returns
    -------
    torch.nn.Module
        `model`; or if it is a linear layer itself, its replacement. Its attribute `skipped` lists the modules that have
        matrices and were left as they are (`Skipped`: name, kind, reason).

    Warns
    -----
    UserWarning
        A linear layer cannot be replaced though `modules` is None, or nothing was.

    Raises
    ------
    ValueError
        A parameter is not allowed, or names no module of the model; a weight holds NaN or inf. The message names the
        parameter or the weight, and the model is unchanged.
    TypeError
        A requested layer cannot be replaced; a weight is not a float tensor on the CPU; an argument has another type.

    Notes
    -----
    Codes and scales are those of `bitsandbytes.functional.quantize_4bit`. A weight that another module uses as well, as
    a tied output layer does, is never replaced, nor are subclasses of Linear, whose owners may read the weight. A layer
    that two modules share has one replacement, which they share. Layers that are `Linear4bit` already stay as they are,
    their adapters trainable. `save_peft_adapter` writes the adapters, `merge_qlora` makes floats of the whole again.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 64))
    >>> prepare_qlora(model, scale_code="dynamic", rank=4, adapters=["0"])[2]
    Linear4bit(in_features=64, out_features=64, bias=True, quant_type='nf4', block_size=64, scale_code='dynamic')
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['0.lora_a', '0.lora_b']
    """
    check_model(model)
    quantization: dict[str, Any] = {"quant_type": quant_type, "block_size": block_size, "scale_code": scale_code}
    adaptation: dict[str, Any] = {"rank": rank, "alpha": alpha, "dropout": dropout}
    check_adapters(adapters, **quantization, **adaptation)
    obstacles = find_obstacles(model)
    types, named = read_modules(model, modules, four_bit_types(), lambda module: obstacles.get(module, ""))
    excluded = {module for found in find_holders(model, exclude, "exclude") for module in found[1]}
    customs = find_customs(model)
    reasons = customs | obstacles | dict.fromkeys(excluded, "excluded")
    chosen = {m for m in model.modules() if type(m) in types and m not in reasons} | (named - excluded)
    adapted = chosen if adapters is None else find_adapted(model, adapters, chosen)

    made: dict[nn.Module, nn.Module] = {}
    for name, module in model.named_modules():
        if module in chosen:
            options = quantization | (adaptation if module in adapted else {})
            made[module] = hand_on(module, _quantize(module, f"{name}.weight".lstrip("."), options))
    left = find_left(model, made, reasons, "not among the modules asked for")
    linear = tuple(four_bit_types())
    unusual = [left[m] for m in left if isinstance(m, linear) and m not in customs and m not in excluded]
    if modules is None and unusual:
        warn_of_skipped("prepare_qlora", unusual)
    elif not any(isinstance(module, Linear4bit) for module in (*made.values(), *model.modules())):
        warnings.warn("prepare_qlora: no layer becomes 4 bits; see the model's `skipped`", stacklevel=2)
    return put_in_place(model, made, left.values())


def merge_qlora(model: nn.Module, *, dtype: torch.dtype | None = None) -> nn.Module:
    """Replace the `Linear4bit` layers of a model by float layers, the adapters added to the decoded weights.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    dtype : torch.dtype, optional
        Of the float layers; None: that of the first other float parameter of the model, or float32 if it has none.

    Returns
    -------
    torch.nn.Module
        `model`; or if it is such a layer itself, its replacement. Every layer is of the type that it had before
        `prepare_qlora`, with the same names in the `state_dict`; all parameters are frozen.

    Warns
    -----
    UserWarning
        The model has no such layer.

    Raises
    ------
    TypeError
        `model` is no module, `dtype` no float dtype.
    """
    check_model(model)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InvalidTypeError(f"dtype: expected a float torch.dtype, got {brief(dtype)}")
    if not any(isinstance(module, Linear4bit) for module in model.modules()):
        warnings.warn("merge_qlora: the model has no Linear4bit: nothing was merged", stacklevel=2)
    target = dtype or _find_dtype(model)

    def merge_module(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, Linear4bit):
            return None
        return hand_on(module, module.merge().to(target).requires_grad_(False))

    return replace_modules(model, merge_module)


def _quantize(module: nn.Module, name: str, options: dict[str, Any]) -> Linear4bit:
    kind: Any = four_bit_types()[type(module)]
    try:
        layer: Linear4bit = kind.from_linear(module, **options)
    except (InvalidTypeError, InvalidValueError) as error:  # about the weight: the options were checked
        raise type(error)(f"{name}: {str(error).removeprefix('linear.weight: ').removeprefix('values: ')}") from None
    return layer


def _find_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the first float parameter that no layer of 4 bits has."""
    for module in model.modules():
        for parameter in () if isinstance(module, Linear4bit) else module._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                return parameter.dtype
    return torch.float32

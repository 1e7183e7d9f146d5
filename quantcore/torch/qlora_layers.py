"""Layers of 4 bits in the place of others: which get adapters, what they keep, and what can be trained afterwards."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from quantcore._base.text import quote
from quantcore.errors import InvalidValueError
from quantcore.torch.coverage import Skipped, modules_with_matrices
from quantcore.torch.linear4bit import Linear4bit
from quantcore.torch.replacing import find_named, replace_modules

__all__ = ["check_adapters", "find_adapted", "find_holders", "find_left", "hand_on", "put_in_place"]

_CARRIED = (
    "training", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook",
)  # fmt: skip
"""What a layer hands on to the one that takes its place."""


def check_adapters(adapters: Iterable[str] | None, **options: Any) -> None:
    """Refuse options of `Linear4bit` that are not allowed, and adapters without a rank."""
    with torch.device("meta"):  # draws no random numbers
        Linear4bit(1, 1, **options)
    if adapters is not None and not options["rank"]:
        raise InvalidValueError("rank: expected an integer >= 1 for layers with adapters, got 0")


def find_holders(model: nn.Module, names: Iterable[str], parameter: str) -> list[tuple[str, set[nn.Module]]]:
    """For each name, the modules that it stands for with all that is in them."""
    found = find_named(model, names, parameter)
    return [(name, {m for holder in named.values() for m in holder.modules()}) for name, named in found.items()]


def find_adapted(model: nn.Module, adapters: Iterable[str], chosen: set[nn.Module]) -> set[nn.Module]:
    """The chosen layers that get adapters; each name has to stand for some."""
    adapted: set[nn.Module] = set()
    for name, modules in find_holders(model, adapters, "adapters"):
        if not modules & chosen:
            raise InvalidValueError(f"adapters: {quote(name)} is no layer that becomes 4 bits, and holds none")
        adapted |= modules & chosen
    return adapted


def find_left(
    model: nn.Module, replaced: Mapping[nn.Module, nn.Module], reasons: Mapping[nn.Module, str], other: str
) -> dict[nn.Module, Skipped]:
    """The modules with matrices that stay as they are, each with its reason; `other` is that of those without one."""
    return {
        module: Skipped(name, type(module).__name__, reasons.get(module, other))
        for name, module in modules_with_matrices(model)
        if module not in replaced and not isinstance(module, Linear4bit)
    }


def hand_on(module: nn.Module, twin: nn.Module) -> nn.Module:
    """The module that takes the place of another, in its mode and with its hooks."""
    for name in _CARRIED:
        value = vars(module)[name]
        twin.__dict__[name] = value.copy() if isinstance(value, dict) else value
    return twin


def put_in_place(model: nn.Module, made: dict[nn.Module, nn.Module], left: Iterable[Skipped]) -> nn.Module:
    """Replace the modules, freeze all parameters but the adapters, and list what was left in `skipped`."""
    model = replace_modules(model, made.get)
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            for parameter in (module.lora_a, module.lora_b):
                if parameter is not None:
                    parameter.requires_grad_(True)
    model.__dict__["skipped"] = tuple(left)  # a plain attribute, of no interest to torch
    return model

"""Weights that a hook computes before each forward pass: torch's older weight_norm and spectral_norm, and its pruning.

The layer keeps its class and its parameters; a second hook fake-quantizes what the first one has computed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from quantcore.torch.fake_quantizer import FakeQuantize

__all__ = ["add_fake_quant", "compute_weight", "fake_quant_of", "remove_hook", "weight_hook"]

_COMPUTE: dict[type[Any], Callable[[Any, nn.Module], torch.Tensor]] = {
    WeightNorm: lambda hook, module: hook.compute_weight(module),
    SpectralNorm: lambda hook, module: hook.compute_weight(module, do_power_iteration=False),
    prune.BasePruningMethod: lambda hook, module: hook.apply_mask(module),
}
_PARTS = ("weight_g", "weight_v", "weight_orig", "weight_u", "weight_mask")
_NAME = "weight_fake_quant"


def weight_hook(module: nn.Module) -> Any:
    """The hook that computes `weight`; None if there is none, or several."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, tuple(_COMPUTE))]
    names = [getattr(hook, "name", getattr(hook, "_tensor_name", None)) for hook in hooks]
    return hooks[0] if names == ["weight"] else None


def compute_weight(module: nn.Module) -> torch.Tensor:
    """The weight as the hook of the module makes it, without a gradient."""
    hook = weight_hook(module)
    with torch.no_grad():
        return next(compute(hook, module) for kind, compute in _COMPUTE.items() if isinstance(hook, kind))


def add_fake_quant(module: nn.Module, fake_quant: FakeQuantize) -> None:
    """Fake-quantize the weight whenever the hook has computed it."""
    module.add_module(_NAME, fake_quant)
    module.register_forward_pre_hook(_fake_quantize)


def fake_quant_of(module: nn.Module) -> FakeQuantize | None:
    """What `add_fake_quant` added."""
    found = module._modules.get(_NAME)
    return found if isinstance(found, FakeQuantize) and weight_hook(module) is not None else None


def remove_hook(module: nn.Module) -> None:
    """Take the hooks, what they compute from, and the computed weight from a module."""
    hook = weight_hook(module)
    for hooks in (module._forward_pre_hooks, module._state_dict_hooks, module._load_state_dict_pre_hooks):
        for key, other in list(hooks.items()):
            inner = getattr(other, "hook", other)
            if inner is _fake_quantize or inner is hook or getattr(inner, "fn", None) is hook:
                del hooks[key]
    for members in (module._parameters, module._buffers):
        for name in _PARTS:
            members.pop(name, None)
    del module._modules[_NAME]
    module.__dict__.pop("weight", None)


def _fake_quantize(module: nn.Module, args: Any) -> None:
    module.weight = module._modules[_NAME](module.weight)  # type: ignore[misc]

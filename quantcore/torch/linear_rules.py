"""Which linear layers of a model become 4 bits, and why the others stay in floats.

The rules are those by which `quantcore quantize FOLDER OUT nf4` decides: within a model of transformers, what it makes
4-bit layers of with bitsandbytes; elsewhere, the names that output layers, embeddings, routers and adapters have.
"""

import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from quantcore.conversion.checkpoint_rules import module_tree
from quantcore.conversion.checkpoint_rules.names import KEPT_NAMES, keep_by_name
from quantcore.torch.layer_table import four_bit_types

__all__ = ["find_customs", "find_obstacles"]

_COMPUTED = {"parametrizations", "weight_g", "weight_v", "weight_orig"}


def find_obstacles(model: nn.Module) -> dict[nn.Module, str]:
    """For each module that cannot be replaced by a layer of 4 bits, why."""
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            users.setdefault(id(parameter), []).append(name)
    obstacles = {module: _find_obstacle(module, name, users) for name, module in model.named_modules()}
    return {module: reason for module, reason in obstacles.items() if reason}


def _find_obstacle(module: nn.Module, name: str, users: dict[int, list[str]]) -> str:
    if _COMPUTED & {*module._modules, *module._parameters}:
        return "its weight is computed from other parameters"
    if type(module) not in four_bit_types():
        return f"only {' and '.join(kind.__name__ for kind in four_bit_types())} themselves become 4 bits"
    weight = module._parameters.get("weight")
    if type(weight) is not nn.Parameter:
        return f"its weight is a {type(getattr(module, 'weight', None)).__name__}, not a torch.nn.Parameter"
    if not weight.numel():
        return "its weight is empty"
    if others := [other for other in users[id(weight)] if other != name]:
        return f"its weight is also that of {others[0] or 'the model'}"
    return "its forward is not that of its class" if "forward" in vars(module) else ""


def find_customs(model: nn.Module) -> dict[nn.Module, str]:
    """For each linear layer that could be replaced, but by the rules is not unless a user asks for it, why."""
    known = tuple(four_bit_types())
    customs: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, known) and name and (reason := keep_by_name(f"{name}.weight")):
            customs[module] = reason
    for part in _models_of_transformers(model):
        linear = module_tree.find_linear(part, _find_skipped(part))
        for name, module in part.named_modules():
            if isinstance(module, known) and name not in linear:
                customs[module] = module_tree.KEPT
            elif not KEPT_NAMES["an adapter"].search(name):
                customs.pop(module, None)
    return customs


def _models_of_transformers(model: nn.Module) -> Iterator[Any]:
    """The models of transformers within a model, which may be one itself, without those that are parts of others."""
    modeling = sys.modules.get("transformers.modeling_utils")
    if modeling is None:
        return
    within: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, modeling.PreTrainedModel) and module not in within:
            within.update(module.modules())
            yield module


def _find_skipped(model: Any) -> set[str]:
    """What transformers keeps. Version 4 copies a model to find that out, so it gets one without values."""
    if not hasattr(model, "all_tied_weights_keys"):
        tensors = [*model.parameters(), *model.buffers()]
        without_values = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
        for tensor in model.parameters():
            without_values[id(tensor)] = nn.Parameter(without_values[id(tensor)], requires_grad=tensor.requires_grad)
        model = copy.deepcopy(model, without_values)
    return module_tree.find_skipped(model)

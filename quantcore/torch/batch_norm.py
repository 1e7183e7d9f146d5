"""Batch normalization folded into the layer before it."""

from collections import Counter
from itertools import pairwise

import torch
from torch import fx, nn

from quantcore.errors import InvalidTypeError
from quantcore.torch.layer_table import output_axis, prepared_types

__all__ = ["fold_batch_norms"]

_NORMS = {
    nn.Linear: nn.BatchNorm1d, nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose1d: nn.BatchNorm1d, nn.ConvTranspose2d: nn.BatchNorm2d, nn.ConvTranspose3d: nn.BatchNorm3d,
}  # fmt: skip


def fold_batch_norms(model: nn.Module) -> tuple[str, ...]:
    """Fold each batch normalization into the convolution or linear layer whose output it normalizes, in place.

    Parameters
    ----------
    model : torch.nn.Module
        Plain layers, or layers that `prepare_qat` made. Parameters stay the same objects with new values; a layer
        without a bias gets one. Running statistics are folded, as in `eval()`; each BatchNorm becomes an Identity.

    Returns
    -------
    tuple of str
        The names of the layers into which something was folded. Pairs are found with torch.fx; in a model that it
        cannot trace, only neighbours in a Sequential are.

    Raises
    ------
    TypeError
        `model` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    uses = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    folded = []
    for name, norm_name in _pairs(model):
        layer, norm = model.get_submodule(name), model.get_submodule(norm_name)
        kind = next((plain for plain in _NORMS if type(layer) in (plain, prepared_types()[plain])), None)
        if kind is None or type(norm) is not _NORMS[kind] or norm.running_mean is None:
            continue
        weight = layer._parameters.get("weight")  # a hook may compute it instead
        if weight is not None and uses[id(weight)] == 1:
            _fold(layer, norm)
            parent, _, child = norm_name.rpartition(".")
            model.get_submodule(parent)._modules[child] = nn.Identity()
            folded.append(name)
    return tuple(folded)


@torch.no_grad()
def _fold(layer: nn.Module, norm: nn.Module) -> None:
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    assert weight is not None
    mean, variance, epsilon = (getattr(norm, name) for name in ("running_mean", "running_var", "eps"))
    gamma, beta = norm._parameters["weight"], norm._parameters["bias"]
    factors = (variance + epsilon).rsqrt()
    if gamma is not None:
        factors = factors * gamma
    shift = -mean * factors + (0 if beta is None else beta)
    if output_axis(layer) == 0:
        weight.mul_(factors.reshape(-1, *[1] * (weight.ndim - 1)))
    else:  # (inputs, outputs of a group, ...), the inputs of a group one after the other
        groups: int = layer.groups  # type: ignore[assignment]
        by_group = weight.reshape(groups, -1, *weight.shape[1:])
        weight.copy_((by_group * factors.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape))
    if bias is None:
        layer._parameters["bias"] = nn.Parameter(shift.to(weight.dtype))
    else:
        bias.mul_(factors).add_(shift)
    fake_quant = getattr(layer, "weight_fake_quant", None)
    if fake_quant is not None and fake_quant.is_calibrated:  # its scales are those of the old weight
        if fake_quant.observer is not None:
            fake_quant.observer.reset()
        fake_quant.calibrate(weight)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether calls of the module are recorded, and not what it does."""
        return super().is_leaf_module(m, module_qualified_name) or isinstance(m, tuple(prepared_types().values()))


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of layers, and of what alone takes their output."""
    try:
        nodes = list(_Tracer().trace(model).nodes)
    except Exception:  # whatever the model's own code raises with proxies
        return _pairs_in_sequentials(model)
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    found = []
    for node in nodes:
        before = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            names = str(before.target), str(node.target)
            if all(calls[name] == 1 for name in names):
                found.append(names)
    return found


def _pairs_in_sequentials(model: nn.Module) -> list[tuple[str, str]]:
    found = []
    uses = Counter(id(m) for parent in model.modules() for m in parent.children())
    for name, module in model.named_modules():
        if type(module) is nn.Sequential:
            for (a, first), (b, second) in pairwise(module.named_children()):
                if uses[id(first)] == uses[id(second)] == 1:
                    found.append((f"{name}.{a}".lstrip("."), f"{name}.{b}".lstrip(".")))
    return found

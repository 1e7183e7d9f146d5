"""Which modules of a model can be prepared, and which have weights that stay as they are, by name and reason."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn
from torch.nn.utils import parametrize

from quantcore._base.records import shown
from quantcore.torch.fake_quantizer import FakeQuantize
from quantcore.torch.hooked_weights import fake_quant_of, weight_hook
from quantcore.torch.layer_table import prepared_types

__all__ = ["Skipped", "is_supported", "modules_with_matrices", "skipped_modules", "supported_text"]

_REASONS = (
    ("max_norm", "its forward pass changes the weight (max_norm)"),
    ("sparse", "its gradient is sparse (sparse=True)"),
)


@shown()
class Skipped(NamedTuple):
    """A module with weights that `prepare_qat` or `prepare_qlora` left as they are.

    Attributes
    ----------
    name : str
        Its qualified name.
    kind : str
        Its class.
    reason : str
    """

    name: str
    kind: str
    reason: str


def is_supported(module: nn.Module) -> bool:
    """Whether its forward pass uses `weight` unchanged, with a dense gradient; the weight is a parameter or is computed
    by `torch.nn.utils.parametrize` or by a hook.
    """
    has_weight = isinstance(module._parameters.get("weight"), nn.Parameter) or is_parametrized(module)
    has_weight = has_weight or weight_hook(module) is not None
    is_known = parametrize.type_before_parametrizations(module) in prepared_types()
    return is_known and has_weight and not any(getattr(module, name, None) for name, _ in _REASONS)


def is_parametrized(module: nn.Module) -> bool:
    """Whether its weight is computed by `torch.nn.utils.parametrize`, as in weight_norm, and nothing else is."""
    found = module._modules.get("parametrizations")
    return isinstance(found, nn.ModuleDict) and list(found) == ["weight"]


def is_prepared(module: nn.Module) -> bool:
    """Whether `prepare_qat` has been there."""
    if is_parametrized(module):
        return isinstance(module.parametrizations["weight"][-1], FakeQuantize)  # type: ignore[index]
    return isinstance(module, tuple(prepared_types().values())) or fake_quant_of(module) is not None


def modules_with_matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that have a matrix of their own, or one that is computed, by their first qualified names."""
    for name, module in model.named_modules():
        has_matrix = any(p is not None and p.ndim > 1 for p in module._parameters.values())
        if (has_matrix or _is_computed(module)) and ".parametrizations" not in f".{name}":
            yield name, module


def skipped_modules(model: nn.Module) -> tuple[Skipped, ...]:
    """The modules that have a matrix of their own and cannot be prepared."""
    return tuple(
        Skipped(name, type(module).__name__, _reason_for(module))
        for name, module in modules_with_matrices(model)
        if not is_prepared(module) and not is_supported(module)
    )


def supported_text() -> str:
    """The types that can be prepared."""
    return ", ".join(kind.__name__ for kind in prepared_types())


def _is_computed(module: nn.Module) -> bool:
    return "parametrizations" in module._modules


def _reason_for(module: nn.Module) -> str:
    if _is_computed(module) or {"weight_g", "weight_orig"} & module._parameters.keys():
        return "its weight is computed from other parameters, though not by parametrizations or by one hook alone"
    for name, reason in _REASONS:
        if type(module) in prepared_types() and getattr(module, name, None):
            return reason
    return f"only {supported_text()} themselves are prepared"

"""Whole models: layers replaced by twins for quantization-aware training, and these by quantized ones afterwards."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import nn

from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.granularity import QuantGranularity, QuantParams
from quantcore.quantized_tensor import QuantizedTensor, quantize_with_params
from quantcore.tables import brief
from quantcore.torch import _tensors
from quantcore.torch.fake_quantizer import FakeQuantize
from quantcore.torch.layers import CONVERTED, PREPARED, QuantizedWeight

__all__ = ["convert", "prepare_qat"]


def prepare_qat(
    model: nn.Module,
    *,
    weight: FakeQuantize | None = None,
    activation: FakeQuantize | None = None,
    modules: Iterable[type[nn.Module] | str] | None = None,
) -> nn.Module:
    """Fake-quantize the weights of a model's layers, and their inputs if asked for, from now on.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place. Its parameters stay the same objects under the same names: optimizers, tied weights and
        checkpoints keep working.
    weight : FakeQuantize, optional
        What every weight gets a copy of; layers that share a weight share the copy. None: 8 bits, symmetric, a scale
        for each output channel (row of an embedding), found anew at every step.
    activation : FakeQuantize, optional
        What the input of every layer but embeddings gets a copy of. None: inputs stay as they are.
    modules : iterable of types or of names, optional
        Which layers: types among Linear, Conv1d, Conv2d, Conv3d and Embedding, or qualified names. None: all of these
        types. Subclasses of them are left alone, as are embeddings with `max_norm`.

    Returns
    -------
    torch.nn.Module
        `model`; or if it is such a layer itself, its twin.

    Raises
    ------
    ValueError
        There is no module of a name that was asked for.
    TypeError
        A layer or type that was asked for is not supported; an argument has another type.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for name, prototype in (("weight", weight), ("activation", activation)):
        if prototype is not None and not isinstance(prototype, FakeQuantize):
            raise InvalidTypeError(f"{name}: expected a quantcore.torch.FakeQuantize, got {brief(prototype)}")
    if weight is None:
        weight = FakeQuantize(granularity=QuantGranularity.per_channel(), observer="current")
    chosen = _chosen(model, modules)
    of_parameters: dict[int, FakeQuantize] = {}

    def prepared(module: nn.Module) -> nn.Module | None:
        if module not in chosen:
            return None
        parameter = module._parameters["weight"]
        assert parameter is not None
        if id(parameter) not in of_parameters:
            of_parameters[id(parameter)] = copy.deepcopy(weight)
            if weight.learn_scale:
                of_parameters[id(parameter)].calibrate(parameter)
        twin = _twin(module, PREPARED[type(module)])
        twin.weight_fake_quant = of_parameters[id(parameter)]
        if activation is not None and not isinstance(module, nn.Embedding):
            twin.input_fake_quant = copy.deepcopy(activation)
            twin.register_forward_pre_hook(_fake_quantize_input, with_kwargs=True)
        return twin

    return _replaced(model, prepared)


def convert(model: nn.Module) -> nn.Module:
    """Replace the fake-quantized weights of a model by codes and scales.

    Parameters
    ----------
    model : torch.nn.Module
        What `prepare_qat` returned; changed in place. Its weights as they are now are quantized, whether its layers are
        enabled or not; one that was never used is calibrated first.

    Returns
    -------
    torch.nn.Module
        `model`; or if it is such a layer itself, what that became. Its outputs are exactly those that `model` had, with
        observers disabled. Weights are no parameters any more: codes and scales are in the `state_dict`.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    weights: dict[tuple[int, int], QuantizedWeight] = {}

    def converted(module: nn.Module) -> nn.Module | None:
        if type(module) not in CONVERTED:
            return None
        parameter, fake_quant = module._parameters["weight"], module.weight_fake_quant
        assert isinstance(parameter, nn.Parameter)
        assert isinstance(fake_quant, FakeQuantize)
        key = id(parameter), id(fake_quant)
        if key not in weights:
            weights[key] = _quantized(parameter, fake_quant)
        twin = _twin(module, CONVERTED[type(module)])
        del twin._parameters["weight"], twin._modules["weight_fake_quant"]
        twin.weight_quantized = weights[key]
        return twin

    model = _replaced(model, converted)
    for module in model.modules():
        if isinstance(module, FakeQuantize):
            module.disable_observer()
    return model


def _quantized(parameter: nn.Parameter, fake_quant: FakeQuantize) -> QuantizedWeight:
    params = _params(parameter, fake_quant)
    codes = quantize_with_params(_tensors.floats(parameter, "weight"), params)
    return QuantizedWeight(QuantizedTensor(codes, params, codes.shape), parameter.dtype)


def _params(parameter: nn.Parameter, fake_quant: FakeQuantize) -> QuantParams:
    if not parameter.numel():  # any scale will do, if there are as many as rows that may be looked up
        n = max(1, fake_quant.granularity.sharing(tuple(parameter.shape)).n_scales)
        limits = fake_quant.quant_min, fake_quant.quant_max
        scales, zero_points = np.ones(n, np.float32), np.zeros(n, np.int32)
        return QuantParams(scales, zero_points, fake_quant.granularity, fake_quant.mode, fake_quant.bits, *limits)
    # Parameters of the current weight alone are those of the weight as it is now, not at the last step.
    is_current = fake_quant.observer is None and fake_quant.is_observer_enabled and not fake_quant.learn_scale
    if is_current or not fake_quant.is_calibrated:
        fake_quant.calibrate(parameter)
    return fake_quant.params


def _chosen(model: nn.Module, modules: Iterable[type[nn.Module] | str] | None) -> set[nn.Module]:
    """The layers to be replaced; of those that were asked for by name, each is one."""
    types, names = set(PREPARED), set()
    if modules is not None:
        if isinstance(modules, str | type):
            raise InvalidTypeError(f"modules: expected types or names in a list or tuple, got {brief(modules)}")
        modules = list(modules)
        types = {wanted for wanted in modules if isinstance(wanted, type)}
        names = {wanted for wanted in modules if isinstance(wanted, str)}
        unsupported = [wanted for wanted in modules if not isinstance(wanted, str) and wanted not in PREPARED]
        if unsupported:
            raise InvalidTypeError(f"modules: expected {_supported_text()} or names, got {brief(unsupported[0])}")
    chosen = set()
    found = dict(model.named_modules(remove_duplicate=False))
    for name in sorted(names):
        if name not in found:
            raise InvalidValueError(f"modules: the model has no module {name!r}")
        if not _is_supported(found[name]):
            kind = type(found[name]).__name__
            raise InvalidTypeError(
                f"modules: {name!r} is a {kind} that cannot be replaced; supported: {_supported_text()}"
            )
        chosen.add(found[name])
    return chosen | {module for module in found.values() if type(module) in types and _is_supported(module)}


def _supported_text() -> str:
    return ", ".join(kind.__name__ for kind in PREPARED)


def _is_supported(module: nn.Module) -> bool:
    """Whether its forward uses the parameter `weight` and nothing else of it."""
    return (
        type(module) in PREPARED
        and isinstance(module._parameters.get("weight"), nn.Parameter)
        and getattr(module, "max_norm", None) is None
    )


def _twin(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A module of another class with the same parameters, buffers, children, hooks and attributes."""
    twin = object.__new__(kind)
    for name, value in vars(module).items():
        twin.__dict__[name] = value.copy() if isinstance(value, dict) else value
    return twin


def _replaced(model: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Replace modules by what `replacement` returns unless that is None; one that occurs twice by the same."""
    made: dict[nn.Module, nn.Module] = {}
    for module in list(model.modules()):
        twin = replacement(module)
        if twin is not None:
            made[module] = twin
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in made:
                parent._modules[name] = made[child]
    return made.get(model, model)


def _fake_quantize_input(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    fake_quant = module.input_fake_quant
    assert isinstance(fake_quant, FakeQuantize)
    if args:
        return (fake_quant(args[0]), *args[1:]), kwargs
    if "input" in kwargs:
        return args, kwargs | {"input": fake_quant(kwargs["input"])}
    return args, kwargs  # for the layer's own complaint

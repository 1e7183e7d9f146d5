"""Whole models: replace layers for quantization-aware training, and by quantized layers afterwards."""

import copy
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.affine.granularity import QuantGranularity
from quantcore.affine.params import QuantParams
from quantcore.affine.tensor import QuantizedTensor, quantize_with_params
from quantcore.errors import InvalidTypeError
from quantcore.torch import _tensors
from quantcore.torch.batch_norm import fold_batch_norms
from quantcore.torch.coverage import is_parametrized, is_prepared, is_supported, skipped_modules, supported_text
from quantcore.torch.fake_quantizer import FakeQuantize
from quantcore.torch.hooked_weights import add_fake_quant, compute_weight, fake_quant_of, remove_hook, weight_hook
from quantcore.torch.layer_table import converted_types, output_axis, prepared_types
from quantcore.torch.layers import QuantizedWeight
from quantcore.torch.replacing import check_model, read_modules, replace_modules, warn_of_skipped

__all__ = ["convert", "prepare_qat"]


def prepare_qat(
    model: nn.Module,
    *,
    weight: FakeQuantize | None = None,
    activation: FakeQuantize | None = None,
    modules: Iterable[type[nn.Module] | str] | None = None,
    fold_batch_norm: bool = False,
) -> nn.Module:
    """Make a model's layers fake-quantize their weights, and optionally their inputs.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place. Its parameters stay the same objects under the same names: optimizers, tied weights and
        checkpoints keep working.
    weight : FakeQuantize, optional
        The prototype that is copied for every weight; layers that share a weight share the copy. None: 8 bits,
        symmetric, one scale per output channel (row of an embedding), computed again at every step. Per channel of
        axis 0 means output channels: those of ConvTranspose (within a group) and Conv1D are axis 1.
    activation : FakeQuantize, optional
        The prototype that is copied for the input of every layer except embeddings. None: inputs are not quantized.
    modules : iterable of types or of names, optional
        Which layers: types among Linear, Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d, Embedding, EmbeddingBag
        and transformers' Conv1D, or names: qualified ones, or what they end in from a dot on ("fc1" for all layers of
        that name). None: all of these types. Subclasses of them are left alone, as
        are embeddings with `max_norm` or sparse gradients. Weights that `torch.nn.utils.parametrizations` compute, as
        weight_norm does, are fake-quantized as they come out, and so are those that one hook of the older
        `torch.nn.utils.weight_norm`, `spectral_norm` or `prune` computes.
    fold_batch_norm : bool, default False
        First fold each batch normalization into the layer before it (see `fold_batch_norms`).

    Returns
    -------
    torch.nn.Module
        `model`; or if it is such a layer itself, its replacement. Its attribute `skipped` lists the modules that have
        weights and were left as they are (`Skipped`: name, kind, reason).

    Warns
    -----
    UserWarning
        Something was skipped though `modules` is None, or there is nothing to prepare.

    Raises
    ------
    ValueError
        There is no module of a requested name.
    TypeError
        A requested layer or type is not supported; an argument has another type.
    """
    check_model(model)
    for name, prototype in (("weight", weight), ("activation", activation)):
        if prototype is not None and not isinstance(prototype, FakeQuantize):
            raise InvalidTypeError(f"{name}: expected a quantcore.torch.FakeQuantize, got {brief(prototype)}")
    if weight is None:
        weight = FakeQuantize(granularity=QuantGranularity.per_channel(), observer="current")
    if arguments.flag(fold_batch_norm, "fold_batch_norm"):
        fold_batch_norms(model)
    chosen = _choose_modules(model, modules)
    skipped = skipped_modules(model)
    if modules is None and skipped:
        warn_of_skipped("prepare_qat", skipped)
    elif not chosen and not any(is_prepared(module) for module in model.modules()):
        warnings.warn(f"prepare_qat: the model has no {supported_text()}: nothing was prepared", stacklevel=2)
    names = {module: name for name, module in model.named_modules()}
    of_parameters: dict[tuple[int, int], FakeQuantize] = {}

    def make_fake_quant(module: nn.Module, value: torch.Tensor) -> FakeQuantize:
        axis = output_axis(module)
        is_moved = axis != 0 and weight.granularity == QuantGranularity.per_channel()
        made = weight.along(axis) if is_moved else copy.deepcopy(weight)
        made.label = f"{names[module]}.weight".lstrip(".")
        made.allocate(tuple(value.shape))
        if weight.learn_scale:
            made.calibrate(value)
        return made

    def prepare_module(module: nn.Module) -> nn.Module | None:
        if module not in chosen:
            return None
        twin = module
        if weight_hook(module) is not None:
            add_fake_quant(module, make_fake_quant(module, compute_weight(module)))
        elif is_parametrized(module):
            value: Any = module.weight
            parametrize.register_parametrization(module, "weight", make_fake_quant(module, value.detach()), unsafe=True)
        else:
            parameter = module._parameters["weight"]
            assert parameter is not None
            key = id(parameter), output_axis(module)
            if key not in of_parameters:
                of_parameters[key] = make_fake_quant(module, parameter)
            twin = _build_twin(module, prepared_types()[type(module)])
            twin.weight_fake_quant = of_parameters[key]
        if activation is not None and not isinstance(module, nn.Embedding | nn.EmbeddingBag):
            twin.input_fake_quant = copy.deepcopy(activation)
            twin.input_fake_quant.label = f"{names[module]}.input".lstrip(".")
            twin.register_forward_pre_hook(_fake_quantize_input, with_kwargs=True)
        return twin

    model = replace_modules(model, prepare_module)
    model.__dict__["skipped"] = skipped  # a plain attribute, of no interest to torch
    return model


def convert(model: nn.Module, *, fold_batch_norm: bool = False) -> nn.Module:
    """Replace the fake-quantized weights of a model by codes and scales.

    Parameters
    ----------
    model : torch.nn.Module
        What `prepare_qat` returned; changed in place. The current weights are quantized, whether fake quantization
        is enabled or not; a layer that was never used is calibrated first.
    fold_batch_norm : bool, default False
        First fold each batch normalization into the layer before it, whose scales are then found anew.

    Returns
    -------
    torch.nn.Module
        `model`; or if it is such a layer itself, its replacement. The outputs are exactly those of `model` with
        observers disabled. Weights are no longer parameters: codes and scales are in the `state_dict`.

    Warns
    -----
    UserWarning
        No layer was prepared, so that all weights stay floats.
    """
    check_model(model)
    if arguments.flag(fold_batch_norm, "fold_batch_norm"):
        fold_batch_norms(model)
    known = tuple(converted_types().values())
    if not any(is_prepared(module) or isinstance(module, known) for module in model.modules()):
        warnings.warn("convert: the model has no layer that prepare_qat prepared: nothing was converted", stacklevel=2)
    weights: dict[tuple[int, int], QuantizedWeight] = {}

    def convert_module(module: nn.Module) -> nn.Module | None:
        if is_parametrized(module) and is_prepared(module):
            return _convert_parametrized(module)
        if (hooked := fake_quant_of(module)) is not None:
            return _convert_hooked(module, hooked)
        if type(module) not in converted_types():
            return None
        parameter, fake_quant = module._parameters["weight"], module.weight_fake_quant
        assert isinstance(parameter, nn.Parameter)
        assert isinstance(fake_quant, FakeQuantize)
        key = id(parameter), id(fake_quant)
        if key not in weights:
            weights[key] = _quantize(parameter, fake_quant)
        twin = _build_twin(module, converted_types()[type(module)])
        del twin._parameters["weight"], twin._modules["weight_fake_quant"]
        twin.weight_quantized = weights[key]
        return twin

    model = replace_modules(model, convert_module)
    for module in model.modules():
        if isinstance(module, FakeQuantize):
            module.disable_observer()
    return model


@torch.no_grad()
def _convert_parametrized(module: nn.Module) -> nn.Module:
    """The layer with a quantized weight instead of the parametrizations, the last of which fake-quantizes it."""
    parametrizations: Any = module.parametrizations["weight"]  # type: ignore[index]
    *others, fake_quant = parametrizations
    originals = [parametrizations._parameters[name] for name in sorted(parametrizations._parameters)]
    value = others[0](*originals)
    for other in others[1:]:
        value = other(value)
    quantized = _quantize(nn.Parameter(value), fake_quant)
    # Not `remove_parametrizations`, which changes a class that copies of the module share.
    twin = _build_twin(module, converted_types()[prepared_types()[parametrize.type_before_parametrizations(module)]])
    del twin._modules["parametrizations"]
    twin.weight_quantized = quantized
    return twin


def _convert_hooked(module: nn.Module, fake_quant: FakeQuantize) -> nn.Module:
    """The layer with a quantized weight instead of the hook that computes it."""
    quantized = _quantize(nn.Parameter(compute_weight(module)), fake_quant)
    twin = _build_twin(module, converted_types()[prepared_types()[type(module)]])
    remove_hook(twin)
    twin.weight_quantized = quantized
    return twin


def _quantize(parameter: nn.Parameter, fake_quant: FakeQuantize) -> QuantizedWeight:
    params = _params(parameter, fake_quant)
    codes = quantize_with_params(_tensors.take_floats(parameter, "weight"), params)
    return QuantizedWeight(QuantizedTensor(codes, params, codes.shape), parameter.dtype)


def _params(parameter: nn.Parameter, fake_quant: FakeQuantize) -> QuantParams:
    if not parameter.numel():  # any scale will do, as long as there is one per row that may be looked up
        n = max(1, fake_quant.granularity.sharing(tuple(parameter.shape)).n_scales)
        limits = fake_quant.quant_min, fake_quant.quant_max
        scales, zero_points = np.ones(n, np.float32), np.zeros(n, np.int32)
        return QuantParams(scales, zero_points, fake_quant.granularity, fake_quant.mode, fake_quant.bits, *limits)
    # With "current", parameters come from the weight as it is now, not as it was at the last step.
    is_current = fake_quant.observer is None and fake_quant.is_observer_enabled and not fake_quant.learn_scale
    if is_current or not fake_quant.is_calibrated:
        fake_quant.calibrate(parameter)
    return fake_quant.params


def _choose_modules(model: nn.Module, modules: Iterable[type[nn.Module] | str] | None) -> set[nn.Module]:
    """The layers to replace; every name that was requested must be one of them."""
    types, named = read_modules(
        model,
        modules,
        prepared_types(),
        lambda module: "" if is_supported(module) else f"supported: {supported_text()}",
    )
    of_types = {
        module
        for module in model.modules()
        if parametrize.type_before_parametrizations(module) in types and is_supported(module)
    }
    return {module for module in named | of_types if not is_prepared(module)}


def _build_twin(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A module of another class with the same parameters, buffers, children, hooks and attributes."""
    twin = object.__new__(kind)
    for name, value in vars(module).items():
        twin.__dict__[name] = value.copy() if isinstance(value, dict) else value
    return twin


def _fake_quantize_input(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    fake_quant = module.input_fake_quant
    assert isinstance(fake_quant, FakeQuantize)
    if args:
        return (fake_quant(args[0]), *args[1:]), kwargs
    for name in ("input", "x"):
        if name in kwargs:
            return args, kwargs | {name: fake_quant(kwargs[name])}
    return args, kwargs  # so that the layer itself raises its error

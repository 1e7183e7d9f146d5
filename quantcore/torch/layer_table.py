"""Which layer takes the place of which: in training, afterwards with a quantized weight, and with 4 bits for QLoRA."""

import sys
from collections.abc import Mapping
from importlib import import_module

from torch import nn

from quantcore.torch import layers, layers_transposed
from quantcore.torch.linear4bit import Linear4bit

__all__ = ["converted_types", "four_bit_types", "output_axis", "prepared_types"]

_PREPARED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: layers.QatLinear,
    nn.Conv1d: layers.QatConv1d,
    nn.Conv2d: layers.QatConv2d,
    nn.Conv3d: layers.QatConv3d,
    nn.ConvTranspose1d: layers_transposed.QatConvTranspose1d,
    nn.ConvTranspose2d: layers_transposed.QatConvTranspose2d,
    nn.ConvTranspose3d: layers_transposed.QatConvTranspose3d,
    nn.Embedding: layers.QatEmbedding,
    nn.EmbeddingBag: layers.QatEmbeddingBag,
}
_CONVERTED: dict[type[nn.Module], type[nn.Module]] = {
    layers.QatLinear: layers.QuantizedLinear,
    layers.QatConv1d: layers.QuantizedConv1d,
    layers.QatConv2d: layers.QuantizedConv2d,
    layers.QatConv3d: layers.QuantizedConv3d,
    layers_transposed.QatConvTranspose1d: layers_transposed.QuantizedConvTranspose1d,
    layers_transposed.QatConvTranspose2d: layers_transposed.QuantizedConvTranspose2d,
    layers_transposed.QatConvTranspose3d: layers_transposed.QuantizedConvTranspose3d,
    layers.QatEmbedding: layers.QuantizedEmbedding,
    layers.QatEmbeddingBag: layers.QuantizedEmbeddingBag,
}
_FOUR_BIT: dict[type[nn.Module], type[Linear4bit]] = {nn.Linear: Linear4bit}
_TRANSPOSED: list[type[nn.Module]] = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]


def prepared_types() -> Mapping[type[nn.Module], type[nn.Module]]:
    """For each layer, the layer for training."""
    _add_transformers()
    return _PREPARED


def converted_types() -> Mapping[type[nn.Module], type[nn.Module]]:
    """For each layer for training, the layer with a quantized weight."""
    _add_transformers()
    return _CONVERTED


def four_bit_types() -> Mapping[type[nn.Module], type[Linear4bit]]:
    """For each linear layer, the layer of 4 bits with adapters."""
    _add_transformers()
    return _FOUR_BIT


def output_axis(module: nn.Module) -> int:
    """The axis of the weight that counts output channels, or the rows of an embedding."""
    return int(isinstance(module, tuple(_TRANSPOSED)))


def _add_transformers() -> None:
    """Complete the tables once transformers is there: no model can have its layers before."""
    if "transformers.pytorch_utils" in sys.modules and len(_TRANSPOSED) == 3:
        more = import_module("quantcore.torch.layers_of_transformers")  # optional: nothing may need it
        _TRANSPOSED.append(more.Conv1D)
        _PREPARED[more.Conv1D] = more.QatConv1D
        _CONVERTED[more.QatConv1D] = more.QuantizedConv1D
        _FOUR_BIT[more.Conv1D] = more.Conv1D4bit

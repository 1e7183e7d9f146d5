"""Transposed convolutions, whose output channels are the second axis of the weight."""

from typing import Any, cast

import torch
from torch import nn

from quantcore.torch.layers import Qat, Quantized

__all__ = [
    "QatConvTranspose1d",
    "QatConvTranspose2d",
    "QatConvTranspose3d",
    "QuantizedConvTranspose1d",
    "QuantizedConvTranspose2d",
    "QuantizedConvTranspose3d",
]

_FUNCTIONS = {
    3: nn.functional.conv_transpose1d, 4: nn.functional.conv_transpose2d, 5: nn.functional.conv_transpose3d
}  # fmt: skip


class _QatConvTranspose(Qat):
    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """As torch's own layer."""
        weight, own = self._observe_weight(), cast(Any, self)
        padding = own._output_padding(
            input, output_size, own.stride, own.padding, own.kernel_size, weight.ndim - 2, own.dilation
        )
        function: Any = _FUNCTIONS[weight.ndim]
        y: torch.Tensor = function(input, weight, own.bias, own.stride, own.padding, padding, own.groups, own.dilation)
        return y


class QatConvTranspose1d(_QatConvTranspose, nn.ConvTranspose1d):
    """A transposed convolution in quantization-aware training."""


class QatConvTranspose2d(_QatConvTranspose, nn.ConvTranspose2d):
    """A transposed convolution in quantization-aware training."""


class QatConvTranspose3d(_QatConvTranspose, nn.ConvTranspose3d):
    """A transposed convolution in quantization-aware training."""


class QuantizedConvTranspose1d(Quantized, nn.ConvTranspose1d):
    """A transposed convolution with a quantized weight."""


class QuantizedConvTranspose2d(Quantized, nn.ConvTranspose2d):
    """A transposed convolution with a quantized weight."""


class QuantizedConvTranspose3d(Quantized, nn.ConvTranspose3d):
    """A transposed convolution with a quantized weight."""

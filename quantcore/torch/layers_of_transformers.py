"""The linear layer of GPT-2 in transformers, whose weight is (inputs, outputs). Imported only where transformers is."""

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from quantcore.errors import InvalidTypeError
from quantcore.torch import _tensors
from quantcore.torch.layers import Qat, Quantized
from quantcore.torch.linear4bit import Linear4bit

__all__ = ["Conv1D", "Conv1D4bit", "QatConv1D", "QuantizedConv1D"]


class QatConv1D(Qat, Conv1D):  # type: ignore[misc,unused-ignore]
    """GPT-2's linear layer in quantization-aware training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As transformers' own layer."""
        rows = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self._observe_weight())
        return rows.view(*x.shape[:-1], self.nf)


class QuantizedConv1D(Quantized, Conv1D):  # type: ignore[misc,unused-ignore]
    """GPT-2's linear layer with a quantized weight."""


class Conv1D4bit(Linear4bit):
    """GPT-2's linear layer with a 4-bit weight, packed as (out_features, in_features), as bitsandbytes does."""

    @classmethod
    def _take_weight(cls, linear: Any) -> torch.Tensor:
        if not isinstance(linear, Conv1D):
            raise InvalidTypeError(f"linear: expected a transformers Conv1D, got {type(linear).__name__}")
        return _tensors.take_floats(linear.weight, "linear.weight").t()

    def merge(self) -> Any:
        """A float32 Conv1D with the decoded weight plus the adapters."""
        linear = super().merge()
        with torch.device("meta"):
            layer = Conv1D(self.out_features, self.in_features)
        layer.weight, layer.bias = nn.Parameter(linear.weight.detach().t().contiguous()), linear.bias
        return layer

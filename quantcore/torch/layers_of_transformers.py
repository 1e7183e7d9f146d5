"""The linear layer of GPT-2 in transformers, whose weight is (inputs, outputs). Imported only where transformers is."""

import torch
from transformers.pytorch_utils import Conv1D

from quantcore.torch.layers import Qat, Quantized

__all__ = ["Conv1D", "QatConv1D", "QuantizedConv1D"]


class QatConv1D(Qat, Conv1D):  # type: ignore[misc,unused-ignore]
    """GPT-2's linear layer in quantization-aware training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As transformers' own layer."""
        rows = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self._observe_weight())
        return rows.view(*x.shape[:-1], self.nf)


class QuantizedConv1D(Quantized, Conv1D):  # type: ignore[misc,unused-ignore]
    """GPT-2's linear layer with a quantized weight."""

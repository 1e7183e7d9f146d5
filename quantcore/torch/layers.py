"""Layers whose weight is fake-quantized (while they are trained) or held as codes (afterwards), beside torch's own.

Each is a subclass of the torch layer in which `weight` is a property: what torch's own forward multiplies with, and
what other modules see that use the weight too. In training, the parameter itself stays where it was, under its name.
"""

from typing import Any

import torch
from torch import nn

from quantcore.granularity import QuantMode, QuantParams
from quantcore.quantized_tensor import QuantizedTensor, dequantize_with_params
from quantcore.torch import _tensors
from quantcore.torch.fake_quantizer import FakeQuantize

__all__ = [
    "CONVERTED",
    "PREPARED",
    "QatConv1d",
    "QatConv2d",
    "QatConv3d",
    "QatEmbedding",
    "QatLinear",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConv3d",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedWeight",
]

_STATE_VERSION = 1


class QuantizedWeight(_tensors.ChecksState, _tensors.KeepsDtypes, nn.Module):
    """A weight as codes and scales, decoded at every use; what several layers share, they share as one module.

    Parameters
    ----------
    q : QuantizedTensor
        Copied.
    dtype : torch.dtype
        What it is decoded to; `.half()` and the like change this, and never the scales.

    Attributes
    ----------
    codes : torch.Tensor, int8 or uint8, of the shape of the weight
    scale : torch.Tensor, float32, shape (num_groups,)
    zero_point : torch.Tensor, int32, shape (num_groups,)
    record : QuantizedTensor
        The same, in the memory of the buffers.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor
    like: torch.Tensor

    _exact = ("scale",)

    def __init__(self, q: QuantizedTensor, dtype: torch.dtype) -> None:
        super().__init__()
        params = q.params
        self.granularity, self.mode, self.bits = params.granularity, params.mode, params.bits
        self.limits = params.quant_min, params.quant_max
        self.register_buffer("codes", _tensors.tensor_of(q.data))
        self.register_buffer("scale", _tensors.tensor_of(params.scales))
        self.register_buffer("zero_point", _tensors.tensor_of(params.zero_points))
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)

    @property
    def record(self) -> QuantizedTensor:
        """Codes and parameters, checked anew."""
        codes = _tensors.array(self.codes, "codes")
        scales, zero_points = _tensors.array(self.scale, "scale"), _tensors.array(self.zero_point, "zero_point")
        return QuantizedTensor(codes, self._params(scales, zero_points), codes.shape)

    @_tensors.eager
    def forward(self) -> torch.Tensor:
        """The decoded weight."""
        return self._decoded(self.record)

    @_tensors.eager
    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """The decoded rows of a matrix, of shape `(*indices.shape, columns)`; no other row is decoded."""
        params = self.record.params
        chosen = indices.reshape(-1)
        codes = self.codes.index_select(0, chosen).numpy()
        scales, zero_points = params.scales, params.zero_points
        if len(chosen) and (per_row := self._scales_per_row()):
            of_rows = chosen.numpy()
            scales, zero_points = (a.reshape(-1, per_row)[of_rows].reshape(-1) for a in (scales, zero_points))
        q = QuantizedTensor(codes, self._params(scales, zero_points), codes.shape)
        return self._decoded(q).view(*indices.shape, codes.shape[1])

    def get_extra_state(self) -> torch.Tensor:
        """How the codes are to be read, for `state_dict`."""
        return _tensors.packed_state(_STATE_VERSION, self._layout())

    def _checked_state(self, state: Any) -> Any:
        return _tensors.unpacked_state(state, _STATE_VERSION, self._layout(), "QuantizedWeight")

    def extra_repr(self) -> str:
        """What stands in the parentheses of `repr`."""
        return (
            f"{tuple(self.codes.shape)}, {', '.join(f'{k}={v!r}' for k, v in self._layout().items() if v is not None)}"
        )

    def _layout(self) -> dict[str, Any]:
        return {
            "bits": self.bits,
            "symmetric": self.mode is QuantMode.SYMMETRIC,
            "axis": self.granularity.axis,
            "group_size": self.granularity.group_size,
            "quant_min": self.limits[0],
            "quant_max": self.limits[1],
        }

    def _scales_per_row(self) -> int:
        """How many scales belong to each row of a matrix alone; 0 if rows share theirs."""
        if self.granularity.group_size is not None:
            return -(-self.codes.shape[1] // self.granularity.group_size)
        return int(self.granularity.axis in (0, -2))

    def _params(self, scales: Any, zero_points: Any) -> QuantParams:
        return QuantParams(scales, zero_points, self.granularity, self.mode, self.bits, *self.limits)

    def _decoded(self, q: QuantizedTensor) -> torch.Tensor:
        dtype = self.like.dtype
        weight = torch.empty(q.shape, dtype=dtype if dtype in _tensors.ELEMENT_TYPES else torch.float32)
        out = _tensors.output(weight)
        dequantize_with_params(q.data, q.params, dtype=out.dtype, out=out)
        return weight.to(dtype)


class _Qat:
    """A layer in training: `weight` is the fake-quantized parameter, which itself is where it was (`raw_weight`)."""

    weight_fake_quant: FakeQuantize
    input_fake_quant: FakeQuantize | None

    @property
    def raw_weight(self) -> nn.Parameter:
        """The parameter that is trained."""
        parameter: nn.Parameter = self._parameters["weight"]  # type: ignore[attr-defined]
        return parameter

    @property
    def weight(self) -> torch.Tensor:
        """The fake-quantized parameter, as the next forward pass would use it; to read it observes nothing."""
        return self.weight_fake_quant.preview(self.raw_weight)

    def _observed_weight(self) -> torch.Tensor:
        """The fake-quantized parameter for a forward pass."""
        quantized: torch.Tensor = self.weight_fake_quant(self.raw_weight)
        return quantized


class _QatConv(_Qat):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As torch's."""
        y: torch.Tensor = self._conv_forward(input, self._observed_weight(), self.bias)  # type: ignore[attr-defined]
        return y


class _Quantized:
    """A layer after training: `weight` is decoded from codes."""

    weight_quantized: QuantizedWeight
    input_fake_quant: FakeQuantize | None

    @property
    def weight(self) -> torch.Tensor:
        """The decoded weight."""
        decoded: torch.Tensor = self.weight_quantized()
        return decoded


class QatLinear(_Qat, nn.Linear):
    """A linear layer in quantization-aware training."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As torch's."""
        return nn.functional.linear(input, self._observed_weight(), self.bias)


class QatConv1d(_QatConv, nn.Conv1d):
    """A convolution in quantization-aware training."""


class QatConv2d(_QatConv, nn.Conv2d):
    """A convolution in quantization-aware training."""


class QatConv3d(_QatConv, nn.Conv3d):
    """A convolution in quantization-aware training."""


class QatEmbedding(_Qat, nn.Embedding):
    """An embedding in quantization-aware training."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As torch's."""
        weight, options = self._observed_weight(), (self.norm_type, self.scale_grad_by_freq, self.sparse)
        return nn.functional.embedding(input, weight, self.padding_idx, None, *options)


class QuantizedLinear(_Quantized, nn.Linear):
    """A linear layer with a quantized weight."""


class QuantizedConv1d(_Quantized, nn.Conv1d):
    """A convolution with a quantized weight."""


class QuantizedConv2d(_Quantized, nn.Conv2d):
    """A convolution with a quantized weight."""


class QuantizedConv3d(_Quantized, nn.Conv3d):
    """A convolution with a quantized weight."""


class QuantizedEmbedding(_Quantized, nn.Embedding):
    """An embedding with a quantized weight, of which it decodes the rows that are looked up."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The rows of the indices."""
        return self.weight_quantized.rows(input)


PREPARED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: QatLinear,
    nn.Conv1d: QatConv1d,
    nn.Conv2d: QatConv2d,
    nn.Conv3d: QatConv3d,
    nn.Embedding: QatEmbedding,
}
"""The twin in training of each layer."""

CONVERTED: dict[type[nn.Module], type[nn.Module]] = {
    QatLinear: QuantizedLinear,
    QatConv1d: QuantizedConv1d,
    QatConv2d: QuantizedConv2d,
    QatConv3d: QuantizedConv3d,
    QatEmbedding: QuantizedEmbedding,
}
"""What each twin becomes after training."""

"""Layers whose weight is fake-quantized (in training) or stored as codes (afterwards), as subclasses of torch's.

`layers_transposed` and `layers_of_transformers` have more of them, `layer_table` lists them all.

In each subclass, `weight` is a property: the value that torch's own forward uses, and that other modules see which use
the weight too. In training, the parameter itself stays registered under its name.
"""

from typing import Any

import torch
from torch import nn

from quantcore._base import arrays
from quantcore._base.records import borrow
from quantcore.affine import passes
from quantcore.affine.from_extremes import params_within
from quantcore.affine.modes import QuantMode
from quantcore.affine.params import QuantParams
from quantcore.affine.tensor import QuantizedTensor, dequantize_with_params, quantize_with_params
from quantcore.torch import _tensors, traced
from quantcore.torch.fake_quantizer import FakeQuantize

__all__ = [
    "Qat",
    "QatConv1d",
    "QatConv2d",
    "QatConv3d",
    "QatEmbedding",
    "QatEmbeddingBag",
    "QatLinear",
    "Quantized",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConv3d",
    "QuantizedEmbedding",
    "QuantizedEmbeddingBag",
    "QuantizedLinear",
    "QuantizedWeight",
]

_STATE_VERSION = 1


class QuantizedWeight(_tensors.ChecksState, _tensors.KeepsDtypes, nn.Module):
    """A weight as codes and scales, decoded at every use; layers that share a weight share this module.

    Parameters
    ----------
    q : QuantizedTensor
        The quantized weight, which is copied.
    dtype : torch.dtype
        The dtype of the decoded weight; `.half()` and the like change it, but never the scales.

    Attributes
    ----------
    codes : torch.Tensor, int8 or uint8, of the shape of the weight
    scale : torch.Tensor, float32, shape (num_groups,)
    zero_point : torch.Tensor, int32, shape (num_groups,)
    record : QuantizedTensor
        The codes and parameters as a record in the memory of the buffers.
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
        """Codes and parameters as a record, checked again at every access."""
        codes = _tensors.array(self.codes, "codes")
        scales, zero_points = _tensors.array(self.scale, "scale"), _tensors.array(self.zero_point, "zero_point")
        return borrow(QuantizedTensor, data=codes, params=self._params(scales, zero_points), shape=codes.shape)

    def forward(self) -> torch.Tensor:
        """The decoded weight."""
        if traced.is_tracing():
            made = traced.dequantize(self.codes, self.scale, self.zero_point, self.granularity, self.bits)
            return made.to(self.like.dtype)
        return self._whole()

    @_tensors.eager
    def _whole(self) -> torch.Tensor:
        return self._decode(self.record)

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """The decoded rows of a matrix, of shape `(*indices.shape, columns)`; no other row is decoded."""
        return nn.functional.embedding(indices, self()) if traced.is_tracing() else self._some(indices)

    @_tensors.eager
    def _some(self, indices: torch.Tensor) -> torch.Tensor:
        params = self.record.params
        chosen = indices.reshape(-1)
        codes = self.codes.index_select(0, chosen).numpy()
        scales, zero_points = params.scales, params.zero_points
        if len(chosen) and (per_row := self._scales_per_row()):
            of_rows = chosen.numpy()
            scales, zero_points = (a.reshape(-1, per_row)[of_rows].reshape(-1) for a in (scales, zero_points))
        q = borrow(QuantizedTensor, data=codes, params=self._params(scales, zero_points), shape=codes.shape)
        return self._decode(q).view(*indices.shape, codes.shape[1])

    def __prepare_scriptable__(self) -> Any:
        return traced.refuse_script(self)

    def get_extra_state(self) -> torch.Tensor:
        """How to decode the codes, for `state_dict`."""
        return _tensors.pack_state(_STATE_VERSION, self._layout())

    def _checked_state(self, state: Any) -> Any:
        return _tensors.unpack_state(state, _STATE_VERSION, self._layout(), "QuantizedWeight")

    def extra_repr(self) -> str:
        """The text in the parentheses of `repr`."""
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

    def requantized(self, weight: torch.Tensor) -> "QuantizedWeight":
        """Another weight of the same shape with the same kind of codes."""
        record = self.record
        params, dtype = record.params, self.like.dtype
        if self.granularity.axis == 0 and self.mode is QuantMode.SYMMETRIC and self.limits[0] == -self.limits[1]:
            old, new = (a.float().reshape(len(a), -1) for a in (self(), weight))
            factors = (old * new).sum(1) / (old * old).sum(1).clamp(min=torch.finfo(torch.float32).tiny)
            scales = params.scales * factors.abs().numpy()
            if torch.allclose(old * factors[:, None], new, rtol=1e-4, atol=1e-7) and (scales > 0).all():
                signs = factors.sign().to(torch.int8).reshape(-1, *[1] * (self.codes.ndim - 1))
                params = self._params(scales, params.zero_points)
                return QuantizedWeight(QuantizedTensor((self.codes * signs).numpy(), params, weight.shape), dtype)
        source = arrays.take_floats(_tensors.take_floats(weight, "weight"), "weight")
        bounds = passes.extremes(source, self.granularity.sharing(source.shape), "weight", None)
        params = params_within(bounds, self.granularity, self.bits, self.mode, self.limits)
        return QuantizedWeight(QuantizedTensor(quantize_with_params(weight, params), params, weight.shape), dtype)

    def _scales_per_row(self) -> int:
        """The number of scales per row of a matrix; 0 if rows share scales."""
        if self.granularity.group_size is not None:
            return -(-self.codes.shape[1] // self.granularity.group_size)
        return int(self.granularity.axis in (0, -2))

    def _params(self, scales: Any, zero_points: Any) -> QuantParams:
        return QuantParams(scales, zero_points, self.granularity, self.mode, self.bits, *self.limits)

    def _decode(self, q: QuantizedTensor) -> torch.Tensor:
        dtype = self.like.dtype
        weight = torch.empty(q.shape, dtype=dtype if dtype in _tensors.ELEMENT_TYPES else torch.float32)
        out = _tensors.output(weight)
        dequantize_with_params(q.data, q.params, dtype=out.dtype, out=out)
        return weight.to(dtype)


class Qat:
    """A layer in training: `weight` is the fake-quantized parameter, `raw_weight` the parameter itself."""

    weight_fake_quant: FakeQuantize
    input_fake_quant: FakeQuantize | None

    @property
    def raw_weight(self) -> nn.Parameter:
        """The parameter that is trained."""
        parameter: nn.Parameter = self._parameters["weight"]  # type: ignore[attr-defined]
        return parameter

    @property
    def weight(self) -> torch.Tensor:
        """The fake-quantized parameter, as the next forward pass would use it; reading it observes nothing."""
        return self.weight_fake_quant.preview(self.raw_weight)

    def _observe_weight(self) -> torch.Tensor:
        """The fake-quantized parameter for a forward pass."""
        quantized: torch.Tensor = self.weight_fake_quant(self.raw_weight)
        return quantized


class _QatConv(Qat):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As torch's own layer."""
        y: torch.Tensor = self._conv_forward(input, self._observe_weight(), self.bias)  # type: ignore[attr-defined]
        return y


class Quantized:
    """A layer after training: `weight` is decoded from codes."""

    weight_quantized: QuantizedWeight
    input_fake_quant: FakeQuantize | None

    @property
    def weight(self) -> torch.Tensor:
        """The decoded weight. Assigned to, as by `fuse_conv_bn_eval`, it is quantized again; rows that were only
        multiplied keep their codes."""
        decoded: torch.Tensor = self.weight_quantized()
        return decoded

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and isinstance(value, torch.Tensor):
            self.weight_quantized = self.weight_quantized.requantized(value.detach())
        else:
            super().__setattr__(name, value)


class QatLinear(Qat, nn.Linear):
    """A linear layer in quantization-aware training."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As torch's own layer."""
        return nn.functional.linear(input, self._observe_weight(), self.bias)


class QatConv1d(_QatConv, nn.Conv1d):
    """A convolution in quantization-aware training."""


class QatConv2d(_QatConv, nn.Conv2d):
    """A convolution in quantization-aware training."""


class QatConv3d(_QatConv, nn.Conv3d):
    """A convolution in quantization-aware training."""


class QatEmbedding(Qat, nn.Embedding):
    """An embedding in quantization-aware training."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As torch's own layer."""
        weight, options = self._observe_weight(), (self.norm_type, self.scale_grad_by_freq, self.sparse)
        return nn.functional.embedding(input, weight, self.padding_idx, None, *options)


class QatEmbeddingBag(Qat, nn.EmbeddingBag):
    """An embedding of bags of indices in quantization-aware training."""

    def forward(
        self, input: torch.Tensor, offsets: torch.Tensor | None = None, per_sample_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As torch's own layer."""
        return nn.functional.embedding_bag(
            input, self._observe_weight(), offsets, None, self.norm_type, self.scale_grad_by_freq, self.mode, False,
            per_sample_weights, self.include_last_offset, self.padding_idx,
        )  # fmt: skip


class QuantizedLinear(Quantized, nn.Linear):
    """A linear layer with a quantized weight."""


class QuantizedConv1d(Quantized, nn.Conv1d):
    """A convolution with a quantized weight."""


class QuantizedConv2d(Quantized, nn.Conv2d):
    """A convolution with a quantized weight."""


class QuantizedConv3d(Quantized, nn.Conv3d):
    """A convolution with a quantized weight."""


class QuantizedEmbedding(Quantized, nn.Embedding):
    """An embedding with a quantized weight; only the rows that are looked up are decoded."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The decoded rows of the indices."""
        return self.weight_quantized.rows(input)


class QuantizedEmbeddingBag(Quantized, nn.EmbeddingBag):
    """An embedding of bags with a quantized weight; only the rows that are looked up are decoded."""

    def forward(
        self, input: torch.Tensor, offsets: torch.Tensor | None = None, per_sample_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As torch's own layer."""
        if traced.is_tracing():
            return super().forward(input, offsets, per_sample_weights)
        used, places = input.unique(return_inverse=True)
        found = None if self.padding_idx is None else (used == self.padding_idx).nonzero().reshape(-1).tolist()
        return nn.functional.embedding_bag(
            places.to(input.dtype), self.weight_quantized.rows(used), offsets, None, self.norm_type,
            self.scale_grad_by_freq, self.mode, False, per_sample_weights, self.include_last_offset,
            found[0] if found else None,
        )  # fmt: skip

"""What replaces the kernels where torch records operations instead of running them: `torch.export`, `torch.onnx.export`
and `torch.jit.trace`. In ONNX it is QuantizeLinear and DequantizeLinear, elsewhere torch's own operators.
"""

from typing import Any

import torch

from quantcore.affine.granularity import QuantGranularity
from quantcore.errors import InvalidStateError, InvalidValueError

_INT4, _UINT4, _INT16, _UINT16 = 22, 21, 5, 4  # of onnx.TensorProto
_OPSET = 21  # the first one with 4 and 16 bits


def is_tracing() -> bool:
    """Whether torch records what is computed."""
    return is_jit_tracing() or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def is_jit_tracing() -> bool:
    """Whether it is `torch.jit.trace`, also within the older ONNX exporter."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined]


def refuse_script(module: Any) -> Any:
    """For `torch.jit.script`, which would compile the source of a forward pass that calls kernels."""
    name = type(module).__name__
    raise InvalidStateError(f"torch.jit.script: {name} cannot be scripted; use torch.export or torch.jit.trace")


def fake_quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    granularity: QuantGranularity,
    limits: tuple[int, int],
    bits: int,
) -> torch.Tensor:
    """`x` quantized and dequantized, in operations that can be recorded."""
    values, scale, zero_point = x.float(), scale.detach().float(), zero_point.detach()
    if zero_point.is_floating_point():
        zero_point = zero_point.round().clamp(*limits).to(torch.int32)
    axis = granularity.axis
    if granularity.group_size is not None:
        scales, zeros = (_of_groups(a, x, granularity.group_size) for a in (scale, zero_point))
        codes = (torch.round(values * (1 / scales)) + zeros).clamp(*limits)
        return ((codes - zeros) * scales).to(x.dtype)
    if torch.onnx.is_in_onnx_export():
        if axis is None:  # ONNX Runtime cannot load QuantizeLinear to 4 bits behind a Relu or Clip
            bits = max(bits, 8)
        scales, zeros = _along(scale, axis, x.ndim), _along(zero_point, axis, x.ndim)
        if limits != _limits_stored(bits, limits[0] < 0):
            ends = [(limit - zeros).float() * scales for limit in limits]
            values = torch.minimum(torch.maximum(values, ends[0]), ends[1])
        if not is_jit_tracing():
            codes = _quantize_linear(values, scale, zero_point, axis, bits, limits[0] < 0)
            return _dequantize_linear(codes, scale, zero_point, axis, bits, limits[0] < 0, x.shape).to(x.dtype)
        if bits > 8:
            raise InvalidValueError(f"torch.onnx.export: {bits} bits need dynamo=True, which knows opset {_OPSET}")
        limits = (-128, 127) if limits[0] < 0 else (0, 255)
    if axis is None:
        made = torch.fake_quantize_per_tensor_affine(values, scale.reshape(()), zero_point.reshape(()), *limits)
    else:
        made = torch.fake_quantize_per_channel_affine(values, scale, zero_point, axis % x.ndim, *limits)
    return made.to(x.dtype)


def dequantize(
    codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, granularity: QuantGranularity, bits: int
) -> torch.Tensor:
    """The values of codes, float32."""
    axis = granularity.axis
    if granularity.group_size is not None:
        scales, zeros = (_of_groups(a, codes, granularity.group_size) for a in (scale, zero_point))
        return (codes.float() - zeros) * scales
    if torch.onnx.is_in_onnx_export() and not is_jit_tracing():
        is_signed = codes.dtype == torch.int8
        stored = _cast(codes, bits, is_signed)
        return _dequantize_linear(stored, scale, zero_point, axis, bits, is_signed, codes.shape)
    return (codes.float() - _along(zero_point, axis, codes.ndim)) * _along(scale, axis, codes.ndim)


def _quantize_linear(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int | None, bits: int, is_signed: bool
) -> torch.Tensor:
    inputs = (x, *_parameters(scale, zero_point, axis, bits, is_signed))
    made: torch.Tensor = torch.onnx.ops.symbolic(
        "QuantizeLinear", inputs, _attributes(axis, x.ndim), dtype=_stored_type(bits, is_signed), shape=x.shape,
        version=_version(bits),
    )  # fmt: skip
    return made


def _dequantize_linear(
    codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int | None, bits: int, is_signed: bool,
    shape: Any,
) -> torch.Tensor:  # fmt: skip
    inputs = (codes, *_parameters(scale, zero_point, axis, bits, is_signed))
    made: torch.Tensor = torch.onnx.ops.symbolic(
        "DequantizeLinear", inputs, _attributes(axis, len(shape)), dtype=torch.float32, shape=shape,
        version=_version(bits),
    )  # fmt: skip
    return made


def _parameters(
    scale: torch.Tensor, zero_point: torch.Tensor, axis: int | None, bits: int, is_signed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = () if axis is None else (-1,)
    stored = zero_point.to(torch.int8 if is_signed else torch.uint8) if bits <= 8 else zero_point
    return scale.reshape(shape), _cast(stored.reshape(shape), bits, is_signed)


def _cast(codes: torch.Tensor, bits: int, is_signed: bool) -> torch.Tensor:
    """Codes in the type in which ONNX stores so many bits."""
    if 4 < bits <= 8:
        return codes
    to = _onnx_type(bits, is_signed)
    made: torch.Tensor = torch.onnx.ops.symbolic(
        "Cast", (codes,), {"to": to}, dtype=to, shape=codes.shape, version=_OPSET
    )
    return made


def _onnx_type(bits: int, is_signed: bool) -> int:
    if bits <= 4:
        return _INT4 if is_signed else _UINT4
    return _INT16 if is_signed else _UINT16


def _stored_type(bits: int, is_signed: bool) -> Any:
    if 4 < bits <= 8:
        return torch.int8 if is_signed else torch.uint8
    return _onnx_type(bits, is_signed)


def _limits_stored(bits: int, is_signed: bool) -> tuple[int, int]:
    """The codes to which QuantizeLinear saturates."""
    width = 4 if bits <= 4 else 8 if bits <= 8 else 16
    return (-(1 << (width - 1)), (1 << (width - 1)) - 1) if is_signed else (0, (1 << width) - 1)


def _version(bits: int) -> int | None:
    return None if 4 < bits <= 8 else _OPSET


def _attributes(axis: int | None, n_dims: int) -> dict[str, Any]:
    return {} if axis is None else {"axis": axis % n_dims}


def _along(values: torch.Tensor, axis: int | None, n_dims: int) -> torch.Tensor:
    """One value per channel, in a shape that broadcasts."""
    if axis is None:
        return values.reshape((1,) * n_dims)
    return values.reshape([-1 if i == axis % n_dims else 1 for i in range(n_dims)])


def _of_groups(values: torch.Tensor, x: torch.Tensor, group_size: int) -> torch.Tensor:
    """One value per element."""
    per_row = -(-x.shape[-1] // group_size)
    rows = values.reshape(-1, per_row).repeat_interleave(group_size, 1)[:, : x.shape[-1]]
    return rows.reshape(x.shape)

"""Fake quantization of tensors with gradients: clipped straight-through, and learned step size (LSQ).

The kernels compute in float32. A float64 tensor is accepted and its result widened, so that models in float64
run; finite differences see the steps of float32.
"""

from typing import Any

import numpy as np
import torch

from quantcore._base import arguments
from quantcore._base.arguments import flag
from quantcore.affine.granularity import QuantGranularity, check_granularity
from quantcore.affine.modes import QuantMode, check_bits, code_range
from quantcore.affine.params import QuantParams, check_params
from quantcore.errors import InvalidValueError
from quantcore.qat import fake_quant
from quantcore.qat.lsq import lsq_backward
from quantcore.torch import _tensors

__all__ = ["fake_quantize", "fake_quantize_learned"]

SMALLEST_SCALE = float(np.finfo(np.float32).eps)
"""The smallest learned scale; smaller ones are raised to it, as in torch's learnable fake-quantize modules."""


@_tensors.eager
def fake_quantize(x: torch.Tensor, params: QuantParams) -> torch.Tensor:
    """Quantize and dequantize a tensor (see `quantcore.fake_quantize_with_params`).

    Parameters
    ----------
    x : torch.Tensor
        On the CPU; float32, float16, bfloat16 or float64, finite, with at least one dimension. Not changed.
    params : QuantParams
        With as many scales as its granularity asks for on the shape of `x`.

    Returns
    -------
    torch.Tensor, of the dtype and shape of `x`, contiguous
        Its gradient goes to `x` where the code is in range, and is zero elsewhere. Differentiable any number of times.

    Raises
    ------
    ValueError
        `x` holds NaN or inf, or `params` does not fit its shape.
    TypeError
        `x` is not a dense float tensor on the CPU; `params` is not a QuantParams.

    Notes
    -----
    float32: bit for bit as `torch.fake_quantize_per_tensor_affine` and `torch.fake_quantize_per_channel_affine`.
    """
    return fake_quantize_named(x, "x", check_params(params))


def fake_quantize_named(x: torch.Tensor, name: str, params: QuantParams) -> torch.Tensor:
    """`fake_quantize` of a tensor that messages call by this name."""
    return _FakeQuantize.apply(_tensors.take_floats(x, name), name, params)


@_tensors.eager
def fake_quantize_learned(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    *,
    bits: int = 8,
    granularity: QuantGranularity | str | None = None,
    narrow_range: bool = True,
    grad_factor: float | None = None,
) -> torch.Tensor:
    """Quantize and dequantize a tensor with scales and zero points that are learned (see `quantcore.lsq_backward`).

    Parameters
    ----------
    x : torch.Tensor
        As for `fake_quantize`.
    scale : torch.Tensor, shape (num_groups,)
        Scales below 2**-23 are raised to 2**-23; their gradient passes unchanged.
    zero_point : torch.Tensor, shape (num_groups,), optional
        Rounded to the nearest code. None: symmetric codes.
    bits : int, default 8
        2 to 8.
    granularity : QuantGranularity, "per_tensor" or "per_channel", optional
        None: per tensor.
    narrow_range : bool, default True
        Symmetric codes from -qmax; False: from -qmax - 1.
    grad_factor : float, optional
        What the gradients of `scale` and `zero_point` are multiplied by. None: `1 / sqrt(N * qmax)`.

    Returns
    -------
    torch.Tensor, of the dtype and shape of `x`, contiguous
        Differentiable once, with respect to `x`, `scale` and `zero_point`; a second time raises RuntimeError.

    Raises
    ------
    ValueError
        `x` holds NaN or inf; there are not as many scales or zero points as `granularity` asks for; a zero point is not
        finite; `bits` is out of range.
    TypeError
        A tensor is not a dense float tensor on the CPU; `narrow_range` is not a bool; `grad_factor` is not a number.
    """
    flag(narrow_range, "narrow_range")
    if grad_factor is not None:
        grad_factor = arguments.number(grad_factor, "grad_factor")
    mode = QuantMode.SYMMETRIC if zero_point is None else QuantMode.ASYMMETRIC
    params = read_learned_params(
        scale, zero_point, check_bits(bits), mode, check_granularity(granularity), narrow_range
    )
    return learned(x, "x", scale, zero_point, params, grad_factor)


def learned(
    x: torch.Tensor,
    name: str,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    params: QuantParams,
    grad_factor: float | None,
) -> torch.Tensor:
    """`fake_quantize_learned` of a tensor that messages call by this name, with parameters that were read."""
    return _Learned.apply(_tensors.take_floats(x, name), name, scale, zero_point, params, grad_factor)


def read_learned_params(
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    bits: int,
    mode: QuantMode,
    granularity: QuantGranularity,
    narrow_range: bool,
) -> QuantParams:
    """The parameters for learned scales and zero points."""
    quant_min, quant_max = code_range(bits, mode, narrow_range=narrow_range)
    scales = np.maximum(_values(scale, "scale"), np.float32(SMALLEST_SCALE))
    zero_points = np.zeros(scales.size, np.int32)
    if zero_point is not None:
        values = _values(zero_point, "zero_point")
        if not np.isfinite(values).all():
            raise InvalidValueError(f"zero_point: must be finite, got {values}")
        zero_points = np.clip(np.rint(values), quant_min, quant_max).astype(np.int32)
    return QuantParams(scales, zero_points, granularity, mode, bits, quant_min, quant_max)


def _values(tensor: Any, name: str) -> Any:
    values = _tensors.take_floats(tensor, name).detach()
    return (values if values.dtype == torch.float32 else values.float()).reshape(-1).numpy()


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, name: str, params: QuantParams) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.params = params
        return _fake_quantize(x, name, params)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return _InRange.apply(grad, x, ctx.params), None, None


class _InRange(torch.autograd.Function):
    """The gradient where the code of `x` is in range, zero elsewhere. It is linear in the gradient."""

    @staticmethod
    def forward(ctx: Any, grad: torch.Tensor, x: torch.Tensor, params: QuantParams) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.params = params
        dx = _new_like(grad)
        grads, values = _tensors.readable(grad), _tensors.readable(x)
        fake_quant.backward(grads, values, params, "x", None, _tensors.output(dx))
        return dx.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return _InRange.apply(grad, x, ctx.params), None, None


class _Learned(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        name: str,
        scale: torch.Tensor,
        zero_point: torch.Tensor | None,
        params: QuantParams,
        grad_factor: float | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.params, ctx.grad_factor = params, grad_factor
        return _fake_quantize(x, name, params)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dx, *others = _LearnedGradients.apply(grad, *ctx.saved_tensors, ctx.params, ctx.grad_factor)
        return dx, None, *others, None, None


class _LearnedGradients(torch.autograd.Function):
    """The gradients of `_Learned`, which have no defined derivative with respect to x and scale.

    `once_differentiable` does not suffice: it detaches the gradients, and the second derivative would silently lack
    their part.
    """

    @staticmethod
    def forward(
        ctx: Any,
        grad: torch.Tensor,
        x: torch.Tensor,
        scale: torch.Tensor,
        zero_point: torch.Tensor | None,
        params: QuantParams,
        grad_factor: float | None,
    ) -> tuple[torch.Tensor | None, ...]:
        dx = _new_like(grad)
        grads, values = _tensors.readable(grad), _tensors.readable(x)
        sums = lsq_backward(grads, values, params, grad_factor=grad_factor, out=_tensors.output(dx))

        def gradient(values: Any, like: torch.Tensor | None) -> torch.Tensor | None:
            return None if like is None else torch.from_numpy(values).reshape(like.shape).to(like.dtype)

        return dx.to(x.dtype), gradient(sums.dscale, scale), gradient(sums.dzero_point, zero_point)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> None:
        raise RuntimeError("fake_quantize_learned: cannot differentiate twice through a learned scale")


def _fake_quantize(x: torch.Tensor, name: str, params: QuantParams) -> torch.Tensor:
    y = _new_like(x)
    fake_quant.forward(_tensors.readable(x), params, name, None, _tensors.output(y))
    return y.to(x.dtype)


def _new_like(x: torch.Tensor) -> torch.Tensor:
    """A new contiguous tensor for a result of the kernels."""
    dtype = x.dtype if x.dtype in _tensors.ELEMENT_TYPES else torch.float32
    return torch.empty(x.shape, dtype=dtype)

"""Learned step size quantization (LSQ, Esser et al. 2020, arXiv:1902.08153): gradients of scales and zero points."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base import arguments, arrays
from quantcore._base.records import shown, size_of
from quantcore.affine.params import QuantParams, check_params
from quantcore.errors import InvalidValueError
from quantcore.qat import fake_quant

__all__ = ["LsqGradients", "lsq_backward"]


@shown()
class LsqGradients(NamedTuple):
    """The gradients that `lsq_backward` returns.

    Attributes
    ----------
    dx : ndarray
        The gradient of the values, of the dtype and shape of the gradient that was passed (float32 for float64).
    dscale, dzero_point : ndarray of float32, shape (num_groups,)
        The gradients of the scales and of the zero points.
    """

    dx: NDArray[Any]
    dscale: NDArray[np.float32]
    dzero_point: NDArray[np.float32]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and len(other) == len(self) and all(map(np.array_equal, self, other))

    def __ne__(self, other: object) -> bool:  # a tuple's own compares its items
        return not self == other

    def __sizeof__(self) -> int:
        return size_of(self, *self)


def lsq_backward(
    grad: Any,
    x: Any,
    params: QuantParams,
    *,
    grad_factor: float | None = None,
    n_threads: int | None = None,
    out: NDArray[Any] | None = None,
) -> LsqGradients:
    """Gradients of fake quantization with respect to the values, the scales and the zero points.

    Parameters
    ----------
    grad : array_like, of the shape of `x`
        The gradient of the output: float32, float16, bfloat16 or float64. NaN and inf are passed on.
    x : array_like
        What was fake-quantized: float32, float16, bfloat16 or float64, finite.
    params : QuantParams
        The parameters of that fake quantization.
    grad_factor : float, optional
        What the gradients of scales and zero points are multiplied by. None: LSQ's `1 / sqrt(N * quant_max)`, where N
        is the number of elements that share the scale.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The result does not depend on it.
    out : ndarray of dx's dtype and shape, optional
        Where to write `dx`.

    Returns
    -------
    LsqGradients
        A named tuple (dx, dscale, dzero_point).

    Raises
    ------
    ValueError
        `x` holds NaN or inf; the shapes differ; `params` or `out` does not fit; `quant_max` is not positive and there
        is no `grad_factor`.
    TypeError
        `grad` or `x` is not a float array, `params` not a QuantParams, `grad_factor` not a number.

    Notes
    -----
    With y the fake-quantized x, s the scale and zp the zero point, an element adds to the gradient of its scale
    `grad * (y - x) / s` where the code is in range, `grad * (qmin - zp)` below it and `grad * (qmax - zp)` above; to
    that of its zero point it adds `-grad * s` out of range. Terms are float32 (y - x is rounded only once); they are
    summed in float64, always in the same order.

    Equal to torch's `_fake_quantize_learnable_per_tensor_affine` and `_per_channel_affine`. As there, the code is
    `rint(x / s + zp)` in the backward pass but `rint(x / s) + zp` in the forward pass, in float32: where x / s lies
    almost exactly between two codes and zp is not 0, y may differ by one step between the two passes, and at the ends
    of the range `dx` may differ from `fake_quantize_backward`. Three differences remain: where the CPU has FMA, torch
    rounds `x / s + zp` once instead of after each step, and so may take the other code for the same rare x; torch
    rounds a negative zero point up (it truncates `zp + 0.5`), but zero points of QuantParams are never negative; and
    torch takes a code of 2**63 or more for one below the range (its integers overflow).
    """
    params = check_params(params)
    factor = None if grad_factor is None else arguments.number(grad_factor, "grad_factor")
    source, grads = fake_quant.pair(x, grad, "x")
    wanted, element_type = fake_quant.result_dtype(grads, "grad")
    dx = arrays.output(out, source.shape, wanted, source.origin, grads.origin)
    if factor is None and params.quant_max <= 0:
        raise InvalidValueError(
            f"params: quant_max must be positive for the factor 1 / sqrt(N * quant_max), got {params.quant_max}; "
            f"give grad_factor"
        )
    if not source.size:
        zeros = np.zeros(params.num_groups, np.float32)
        return LsqGradients(dx if out is None else out, zeros, zeros.copy())
    sums = fake_quant.run(fake_quant.LSQ, source, grads, params, dx, element_type, n_threads, "x")
    totals, gradients = np.zeros((2, params.num_groups)), np.empty((2, params.num_groups), np.float32)
    counts = params.sharing(source.shape, "x").counts
    factor = math.nan if factor is None else factor
    _kernels.lsq_gradients(sums, params.scales, *counts, params.quant_max, factor, totals, gradients)
    return LsqGradients(dx if out is None else out, gradients[0], gradients[1])

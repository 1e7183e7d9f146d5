"""Fake quantization: affine quantization and dequantization in one pass, and its gradients.

The gradient goes straight through the rounding (the straight-through estimator, Bengio et al. 2013, arXiv:1308.3432),
for every element or only for those whose code is not clipped. `lsq` has the gradients of the scales, `quantizer` the
class that calibrates itself.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base import arrays, parallel
from quantcore._base.arrays import Floats
from quantcore.affine import passes
from quantcore.affine.params import QuantParams, check_params
from quantcore.errors import InvalidValueError

__all__ = ["fake_quantize_backward", "fake_quantize_with_params", "ste_backward"]

FAKE_QUANTIZE, BACKWARD, LSQ = range(3)
"""The kinds of work of the kernels, numbered as in `_kernels/table.pxd`."""

_LEAST_ROWS = 16  # rows of columns per row of sums, which takes four times the memory of a row of float32


def fake_quantize_with_params(
    values: Any, params: QuantParams, *, n_threads: int | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Quantize and dequantize at once: `(clip(rint(x * (1 / scale)) + zero_point, qmin, qmax) - zero_point) * scale`.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite.
    params : QuantParams
        With as many scales as its granularity asks for on the shape of `values`.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The result does not depend on it.
    out : ndarray of the result's dtype and shape, optional
        Where to write the result.

    Returns
    -------
    ndarray of the dtype and shape of `values`, float32 for float64

    Raises
    ------
    ValueError
        `values` holds NaN or inf, `params` does not fit its shape, `out` does not fit.
    TypeError
        `values` is not a float array, `params` not a QuantParams.

    Notes
    -----
    In float32, rounded half to even, bit for bit as `torch.fake_quantize_per_tensor_affine` and
    `torch.fake_quantize_per_channel_affine`, with one exception: where x / scale is 2**63 or more, torch takes the
    lowest code per channel (its integers overflow), and this function the highest. float16 and bfloat16 are rounded to
    nearest even at the end.
    """
    return forward(values, params, "values", n_threads, out)


def fake_quantize_backward(
    grad: Any,
    values: Any,
    params: QuantParams,
    *,
    n_threads: int | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """The clipped straight-through gradient: the output's where the unclipped code is in range, zero elsewhere.

    Parameters
    ----------
    grad : array_like, of the shape of `values`
        The gradient of the output: float32, float16, bfloat16 or float64. NaN and inf are passed on, as mixed-precision
        training needs; times zero they are NaN.
    values : array_like
        What was fake-quantized: float32, float16, bfloat16 or float64, finite.
    params : QuantParams
        The parameters of that fake quantization.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The result does not depend on it.
    out : ndarray of the result's dtype and shape, optional
        Where to write the result.

    Returns
    -------
    ndarray of the dtype and shape of `grad`, float32 for float64
        `grad * (qmin <= rint(x * (1 / scale)) + zero_point <= qmax)`, equal to the gradient that torch computes.

    Raises
    ------
    ValueError
        `values` holds NaN or inf; the shapes differ; `params` or `out` does not fit.
    TypeError
        `grad` or `values` is not a float array, `params` not a QuantParams.
    """
    return backward(grad, values, params, "values", n_threads, out)


def ste_backward(grad: Any, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The plain straight-through gradient: a copy of the output's gradient, as if nothing had been rounded or clipped.

    Parameters
    ----------
    grad : array_like
        float32, float16, bfloat16 or float64. NaN and inf are passed on.
    out : ndarray of the result's dtype and shape, optional
        Where to write the result.

    Returns
    -------
    ndarray of the dtype and shape of `grad`, float32 for float64
    """
    grads = arrays.take_floats(grad, "grad")
    wanted, element_type = result_dtype(grads, "grad")
    result = arrays.output(out, grads.shape, wanted, grads.origin)
    if element_type == grads.element_type:
        arrays.bytes_of(result)[:] = arrays.bytes_of(grads.raw)
    else:
        with np.errstate(over="ignore"):
            result.reshape(-1)[:] = grads.values(0, grads.size)
    return result if out is None else out


def forward(
    values: Any, params: QuantParams, name: str, n_threads: int | None, out: NDArray[Any] | None
) -> NDArray[Any]:
    """`fake_quantize_with_params` with the name of the values in messages."""
    params = check_params(params)
    source = arrays.take_floats(values, name)
    wanted, element_type = result_dtype(source, name)
    result = arrays.output(out, source.shape, wanted, source.origin)
    if source.size:
        run(FAKE_QUANTIZE, source, None, params, result, element_type, n_threads, name)
    return result if out is None else out


def backward(
    grad: Any, values: Any, params: QuantParams, name: str, n_threads: int | None, out: NDArray[Any] | None
) -> NDArray[Any]:
    """`fake_quantize_backward` with the name of the values in messages."""
    params = check_params(params)
    source, grads = pair(values, grad, name)
    wanted, element_type = result_dtype(grads, "grad")
    result = arrays.output(out, source.shape, wanted, source.origin, grads.origin)
    if source.size:
        run(BACKWARD, source, grads, params, result, element_type, n_threads, name)
    return result if out is None else out


def result_dtype(source: Floats, name: str) -> tuple[np.dtype[Any], int]:
    """The dtype of the result for an input, and its element type."""
    is_narrow = source.element_type in (arrays.FLOAT16, arrays.BFLOAT16)
    return arrays.float_dtype(arrays.DTYPE_NAMES[source.element_type] if is_narrow else np.float32, name)


def pair(values: Any, grad: Any, name: str) -> tuple[Floats, Floats]:
    """Take the values and the gradient of the output."""
    source, grads = arrays.take_floats(values, name), arrays.take_floats(grad, "grad")
    if grads.shape != source.shape:
        raise InvalidValueError(f"grad: expected the shape of {name} {source.shape}, got {grads.shape}")
    return source, grads


def run(
    work: int,
    source: Floats,
    grads: Floats | None,
    params: QuantParams,
    result: NDArray[Any],
    result_type: int,
    n_threads: int | None,
    name: str,
) -> list[tuple[NDArray[np.float64], int, int]]:
    """Fake-quantize, or compute a gradient, into `result`.

    For LSQ, returns the sums of its terms and of the gradient where codes are out of range, as the kernels'
    `lsq_gradients` takes them. They are summed over groups, or over columns of fixed chunks, so that they do not depend
    on the number of threads.
    """
    if params.has_offsets:
        raise InvalidValueError("params: offsets are for data; fake quantization is symmetric or asymmetric")
    sharing = params.sharing(source.shape, name)
    parameters = params.rows_for(sharing)
    grads_raw, grads_type = (None, 0) if grads is None else (grads.raw, grads.element_type)
    held = source.raw, source.element_type, grads_raw, grads_type, result, result_type
    found: list[tuple[NDArray[np.float64], int, int]] = []
    for part in sharing.parts:
        kernel: _kernels.Kernel
        item_bytes, rows = part.size * source.itemsize, 1
        sums: NDArray[np.float64] | None = None
        if part.repeats:
            if work == LSQ:
                rows = _LEAST_ROWS
                n_chunks = -(-part.n_items // parallel.chunk_items(item_bytes, rows))
                sums = np.zeros((2, n_chunks * part.size))
                found.append((sums, n_chunks * part.repeats, sharing.inner))
            kernel = _kernels.FakeQuantizeColumns(work, part.first, part.size, *held, parameters, sums)
        else:
            if work == LSQ:
                sums = np.zeros((2, part.n_items))
                inner = sharing.layout[3]
                found.append((sums, part.n_items // (inner * sharing.n_scales), inner))
            kernel = _kernels.FakeQuantizeGroups(work, *held, parameters, sums, sharing.layout)
        if parallel.run(kernel, part.n_items, item_bytes, n_threads, unit=rows) >= 0:
            passes.refuse_first(source, name)
    return found

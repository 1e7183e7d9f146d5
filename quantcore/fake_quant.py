"""Fake quantization: values as they would come back from affine codes, in one pass, and the gradients of that.

The gradient goes straight through the rounding (the straight-through estimator, Bengio et al. 2013, arXiv:1308.3432),
for every element or for those alone whose code is not clipped. `lsq` has the gradients of the scales,
`fake_quantizer` the class that finds parameters by itself.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, _kernels, _parallel, affine
from quantcore._arrays import Floats
from quantcore.errors import InvalidValueError
from quantcore.granularity import QuantParams, check_params

__all__ = ["fake_quantize_backward", "fake_quantize_with_params", "ste_backward"]

FAKE_QUANTIZE, BACKWARD, LSQ = range(3)
"""Kinds of work, numbered as in `_kernels/table.pxd`."""

_LEAST_ROWS = 16  # of columns that share a row of sums, which takes four times the memory of a row of float32


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
    In float32, rounded half to even, to the last bit as `torch.fake_quantize_per_tensor_affine` and
    `torch.fake_quantize_per_channel_affine`; only that per channel torch takes the lowest code where x / scale is 2**63
    or more (its integers overflow), and this function the highest. float16 and bfloat16 are rounded to nearest even at
    the end.
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
    """The clipped straight-through gradient: that of the output where the unclipped code is in range, elsewhere zero.

    Parameters
    ----------
    grad : array_like, of the shape of `values`
        The gradient of the output: float32, float16, bfloat16 or float64. NaN and inf are passed on, as mixed-precision
        training needs; times zero they are NaN.
    values : array_like
        What was fake-quantized: float32, float16, bfloat16 or float64, finite.
    params : QuantParams
        With which it was.
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
    """The plain straight-through gradient: a copy of the output's, as if nothing had been rounded or clipped.

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
    grads = _arrays.floats(grad, "grad")
    wanted, element_type = result_dtype(grads, "grad")
    result = _arrays.output(out, grads.shape, wanted, grads.origin)
    if element_type == grads.element_type:
        _arrays.bytes_of(result)[:] = _arrays.bytes_of(grads.raw)
    else:
        with np.errstate(over="ignore"):
            result.reshape(-1)[:] = grads.values(0, grads.size)
    return result


def forward(
    values: Any, params: QuantParams, name: str, n_threads: int | None, out: NDArray[Any] | None
) -> NDArray[Any]:
    """`fake_quantize_with_params` of values that the caller knows by this name."""
    params = check_params(params)
    source = _arrays.floats(values, name)
    wanted, element_type = result_dtype(source, name)
    result = _arrays.output(out, source.shape, wanted, source.origin)
    if source.size:
        run(FAKE_QUANTIZE, source, None, params, result, element_type, n_threads, name)
    return result


def backward(
    grad: Any, values: Any, params: QuantParams, name: str, n_threads: int | None, out: NDArray[Any] | None
) -> NDArray[Any]:
    """`fake_quantize_backward` of values that the caller knows by this name."""
    params = check_params(params)
    source, grads = pair(values, grad, name)
    wanted, element_type = result_dtype(grads, "grad")
    result = _arrays.output(out, source.shape, wanted, source.origin, grads.origin)
    if source.size:
        run(BACKWARD, source, grads, params, result, element_type, n_threads, name)
    return result


def result_dtype(source: Floats, name: str) -> tuple[np.dtype[Any], int]:
    """The dtype of what is computed from an array, and its element type."""
    names = {_arrays.FLOAT16: "float16", _arrays.BFLOAT16: "bfloat16"}
    return _arrays.float_dtype(names.get(source.element_type, np.float32), name)


def pair(values: Any, grad: Any, name: str) -> tuple[Floats, Floats]:
    """Values and the gradient of what became of them."""
    source, grads = _arrays.floats(values, name), _arrays.floats(grad, "grad")
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

    Returns, for LSQ alone, sums of its terms, and of the gradient where codes are out of range, as `lsq_gradients` of
    the kernels takes them. They are over groups, or columns of fixed chunks, so that they do not depend on the number
    of threads.
    """
    sharing = params.sharing(source.shape, name)
    parameters = params.rows_for(sharing)
    grads_raw, grads_type = (None, 0) if grads is None else (grads.raw, grads.element_type)
    arrays = source.raw, source.element_type, grads_raw, grads_type, result, result_type
    found: list[tuple[NDArray[np.float64], int, int]] = []
    for part in sharing.parts:
        kernel: _kernels.Kernel
        item_bytes, rows = part.size * source.itemsize, 1
        sums: NDArray[np.float64] | None = None
        if part.repeats:
            if work == LSQ:
                rows = _LEAST_ROWS
                n_chunks = -(-part.n_items // _parallel.chunk_items(item_bytes, rows))
                sums = np.zeros((2, n_chunks * part.size))
                found.append((sums, n_chunks * part.repeats, sharing.inner))
            kernel = _kernels.FakeQuantizeColumns(work, part.first, part.size, *arrays, parameters, sums)
        else:
            if work == LSQ:
                sums = np.zeros((2, part.n_items))
                inner = sharing.layout[3]
                found.append((sums, part.n_items // (inner * sharing.n_scales), inner))
            kernel = _kernels.FakeQuantizeGroups(work, *arrays, parameters, sums, sharing.layout)
        if _parallel.run(kernel, part.n_items, item_bytes, n_threads, unit=rows) >= 0:
            affine.refuse_first(source, name)
    return found
